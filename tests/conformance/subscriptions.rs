//! The slots of dispatchers.

use sagastore::lock::ClientId;
use sagastore::{Error, MAX_DISPATCHERS, OutboxRepository, Subscribed, Subscription};
use tokio::task::JoinSet;

use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    slots_are_given_from_the_first_up_to_the_maximum,
    a_slot_that_was_silent_is_the_next_to_be_given,
    a_slot_that_was_given_up_is_free_at_once,
    one_name_has_one_slot,
    one_name_has_one_slot_also_when_asked_at_once: SEVERAL_CONNECTIONS,
    a_lowered_maximum_holds_once_the_old_slots_have_expired,
    of_those_who_race_for_the_last_slot_one_gets_it: SEVERAL_CONNECTIONS,
    a_number_of_dispatchers_out_of_bounds_is_refused,
}

const SLOTS: &str = "namespace = 'outbox/slot'";

fn named(name: impl Into<String>) -> ClientId {
    ClientId::new(name.into()).unwrap()
}

/// The slot that a dispatcher gets; `None` if all are taken.
async fn subscribe<DB: Subject>(db: &TestDb<DB>, name: &str, most: u32) -> anyhow::Result<Option<Subscription>> {
    Ok(match db.store().subscribe_dispatcher(&mut *db.conn().await?, &named(name), most).await? {
        Subscribed::Slot(subscription) => {
            assert_eq!(subscription.dispatcher, named(name));
            Some(subscription)
        }
        Subscribed::Full => None,
    })
}

async fn slot<DB: Subject>(db: &TestDb<DB>, name: &str, most: u32) -> anyhow::Result<Option<u32>> {
    Ok(subscribe(db, name, most).await?.map(|subscription| subscription.slot))
}

async fn active<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<i64> {
    db.count(format!("SELECT COUNT(*) FROM saga_lease WHERE {SLOTS} AND client_id IS NOT NULL AND expires_at > 0"))
        .await
}

async fn slots_are_given_from_the_first_up_to_the_maximum<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(slot(&db, "a", 2).await?, Some(1));
    assert_eq!(slot(&db, "b", 2).await?, Some(2));
    assert_eq!(slot(&db, "c", 2).await?, None);
    assert_eq!(slot(&db, "c", 3).await?, Some(3));
    assert_eq!(active(&db).await?, 3);
    Ok(())
}

async fn a_slot_that_was_silent_is_the_next_to_be_given<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut held = Vec::new();
    for name in ["a", "b", "c", "d"] {
        held.extend(subscribe(&db, name, 4).await?);
    }
    assert_eq!(db.expire_leases(&format!("{SLOTS} AND resource_id = '0002'")).await?, 1);
    assert_eq!(slot(&db, "e", 4).await?, Some(2));
    let (store, mut conn) = (db.store(), db.conn().await?);
    assert!(!store.update_subscription(&mut conn, &held[1]).await?, "a lost slot has a heartbeat");
    assert!(!store.unsubscribe(&mut conn, &held[1]).await?, "who lost a slot gives it up");
    for kept in [0, 2, 3] {
        assert!(store.update_subscription(&mut conn, &held[kept]).await?);
    }
    drop(conn);
    assert_eq!(slot(&db, "b", 4).await?, None);
    assert_eq!(active(&db).await?, 4);
    Ok(())
}

async fn a_slot_that_was_given_up_is_free_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let first = subscribe(&db, "a", 1).await?.unwrap();
    assert!(db.store().unsubscribe(&mut *db.conn().await?, &first).await?);
    assert!(!db.store().unsubscribe(&mut *db.conn().await?, &first).await?, "twice");
    assert!(!db.store().update_subscription(&mut *db.conn().await?, &first).await?);
    assert_eq!(slot(&db, "b", 1).await?, Some(1));
    assert_eq!(slot(&db, "a", 1).await?, None);
    Ok(())
}

async fn one_name_has_one_slot<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(slot(&db, "other", 4).await?, Some(1));
    assert_eq!(slot(&db, "a", 4).await?, Some(2));
    assert_eq!(slot(&db, "a", 4).await?, Some(2), "it asks again, as after a restart");
    // A lower slot becomes free: it stays where it is.
    db.expire_leases(&format!("{SLOTS} AND resource_id = '0001'")).await?;
    let kept = subscribe(&db, "a", 4).await?.unwrap();
    assert_eq!(kept.slot, 2);
    assert!(db.store().update_subscription(&mut *db.conn().await?, &kept).await?);
    assert_eq!(active(&db).await?, 1);
    Ok(())
}

async fn one_name_has_one_slot_also_when_asked_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..10 {
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            let db = db.clone();
            asking.spawn(async move { slot(&db, "a", 8).await });
        }
        for slot in asking.join_all().await {
            assert_eq!(slot?, Some(1), "round {round}");
        }
        assert_eq!(active(&db).await?, 1, "round {round}");
        db.expire_leases(SLOTS).await?;
    }
    Ok(())
}

async fn a_lowered_maximum_holds_once_the_old_slots_have_expired<DB: Subject>(db: TestDb<DB>) -> Clause {
    let names = ["a", "b", "c", "d"];
    for name in names {
        assert!(slot(&db, name, 4).await?.is_some());
    }
    // Restarted one at a time, with the lower maximum; who has a slot beyond it gets no other.
    let mut got = Vec::new();
    for name in ["d", "a", "c", "b"] {
        got.push(slot(&db, name, 2).await?);
    }
    assert_eq!(got, [None, Some(1), None, Some(2)]);
    db.expire_leases(&format!("{SLOTS} AND resource_id > '0002'")).await?;
    for name in names.iter().rev() {
        let _ = slot(&db, name, 2).await?;
        assert_eq!(active(&db).await?, 2, "{name}");
    }
    Ok(())
}

async fn of_those_who_race_for_the_last_slot_one_gets_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..10 {
        assert_eq!(slot(&db, "first", 2).await?, Some(1));
        let mut racing = JoinSet::new();
        for number in 0..6 {
            let db = db.clone();
            racing.spawn(async move { slot(&db, &format!("{round}/{number}"), 2).await });
        }
        let mut got = Vec::new();
        for slot in racing.join_all().await {
            got.extend(slot?);
        }
        assert_eq!(got, [2], "round {round}");
        db.expire_leases(SLOTS).await?;
    }
    Ok(())
}

async fn a_number_of_dispatchers_out_of_bounds_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    for number in [0, MAX_DISPATCHERS + 1, u32::MAX] {
        let refused = db.store().subscribe_dispatcher(&mut *db.conn().await?, &named("a"), number).await;
        assert_error!(refused, Error::InvalidInput { .. });
    }
    assert_eq!(slot(&db, "a", MAX_DISPATCHERS).await?, Some(1));
    assert_eq!(active(&db).await?, 1);
    Ok(())
}
