//! The lock for those who relay the outbox one at a time.

use std::time::Duration;

use sagastore::lock::ClientId;
use sagastore::{LockRelease, OutboxRepository};
use tokio::task::JoinSet;

use crate::harness::{Clause, Subject, TestDb, clauses, tick};

clauses! {
    one_dispatcher_at_a_time_holds_the_lock,
    the_lock_is_free_once_it_has_expired,
    of_those_who_race_for_the_lock_one_gets_it: SEVERAL_CONNECTIONS,
}

async fn acquire<DB: Subject>(db: &TestDb<DB>, name: &str) -> anyhow::Result<bool> {
    Ok(db.store().acquire_lock(&mut *db.conn().await?, &ClientId::new(name)?).await?)
}

async fn release<DB: Subject>(db: &TestDb<DB>, name: &str) -> anyhow::Result<LockRelease> {
    Ok(db.store().release_lock(&mut *db.conn().await?, &ClientId::new(name)?).await?)
}

async fn one_dispatcher_at_a_time_holds_the_lock<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(release(&db, "a").await?, LockRelease::NotHeld, "nobody ever held it");
    assert!(acquire(&db, "a").await?);
    assert!(!acquire(&db, "b").await?);
    assert!(acquire(&db, "a").await?, "its owner acquires it again");
    assert_eq!(release(&db, "b").await?, LockRelease::HeldByAnother);
    assert!(!acquire(&db, "b").await?, "a stranger released it");
    assert_eq!(release(&db, "a").await?, LockRelease::Released);
    assert_eq!(release(&db, "a").await?, LockRelease::NotHeld);
    assert!(acquire(&db, "b").await?);
    assert!(!acquire(&db, "a").await?);
    Ok(())
}

async fn the_lock_is_free_once_it_has_expired<DB: Subject>(db: TestDb<DB>) -> Clause {
    let left = "SELECT expires_at - obtained_at FROM saga_lease WHERE namespace = 'outbox'";
    assert!(acquire(&db, "a").await?);
    let length = Duration::from_secs(15) + tick::<DB>();
    assert_eq!(db.count(left).await?, i64::try_from(length.as_micros())?, "in microseconds");
    db.expire_leases("namespace = 'outbox'").await?;
    assert_eq!(release(&db, "a").await?, LockRelease::NotHeld);
    assert!(acquire(&db, "b").await?);
    assert!(!acquire(&db, "a").await?);
    assert_eq!(release(&db, "a").await?, LockRelease::HeldByAnother);
    db.expire_leases("namespace = 'outbox'").await?;
    assert!(acquire(&db, "b").await?, "nobody took it meanwhile");
    Ok(())
}

async fn of_those_who_race_for_the_lock_one_gets_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..10 {
        let mut racing = JoinSet::new();
        for number in 0..6 {
            let db = db.clone();
            racing.spawn(async move { acquire(&db, &format!("{round}/{number}")).await });
        }
        let got = racing.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        assert_eq!(got.iter().filter(|got| **got).count(), 1, "round {round}");
        db.expire_leases("namespace = 'outbox'").await?;
    }
    Ok(())
}
