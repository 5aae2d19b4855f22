//! Leases: who gets them, for how long, and with which token.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::Error;
use sagastore::lock::lease::{LeaseState, Obtained};
use sagastore::lock::{ClientId, DatabaseLock, ExponentialBackoff, Lock, ResourceId};

use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    a_free_lock_gives_a_lease_with_owner_expiry_and_token,
    a_held_lock_is_refused_to_everybody_at_once,
    an_expired_lease_is_taken_over_with_a_higher_token,
}

fn lock<DB: Subject>(db: &TestDb<DB>, length: Duration) -> sagastore::Result<DatabaseLock<DB>> {
    DatabaseLock::new(db.pool().clone()).with_length(length)
}

fn resource(id: &str) -> ResourceId {
    ResourceId::new(id).unwrap()
}

fn client(id: &str) -> ClientId {
    ClientId::new(id).unwrap()
}

async fn a_free_lock_gives_a_lease_with_owner_expiry_and_token<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = lock(&db, Duration::from_secs(30))?;
    let lease = lock.obtain_no_wait(&resource("r"), &client("a")).await?.lease().context("it is held")?;
    assert_eq!((lease.resource_id.as_str(), lease.client_id.as_str()), ("r", "a"));
    ensure!(lease.sequence.get() >= 1);
    let status = lock.status(&resource("r")).await?.context("it is not there")?;
    assert_eq!((status.state, status.sequence, status.expiry), (LeaseState::Held, lease.sequence, lease.expiry));
    ensure!(status.remaining > Duration::from_secs(25) && lease.remaining() > Duration::from_secs(25));
    ensure!(lock.renew(&lease).await?.context("lost")?.expiry >= lease.expiry);
    ensure!(lock.release(&lease).await? && !lock.release(&lease).await?);
    ensure!(lock.renew(&lease).await?.is_none());
    let mut tx = db.begin().await?;
    assert_error!(lease.fence(&mut tx).await, Error::Fenced { .. });
    Ok(())
}

async fn a_held_lock_is_refused_to_everybody_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = lock(&db, Duration::from_secs(30))?;
    let lease = lock.obtain_no_wait(&resource("r"), &client("a")).await?.lease().context("it is held")?;
    for who in ["a", "b"] {
        assert_eq!(lock.obtain_no_wait(&resource("r"), &client(who)).await?, Obtained::Held);
    }
    let mut tx = db.begin().await?;
    lease.fence(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

async fn an_expired_lease_is_taken_over_with_a_higher_token<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = lock(&db, Duration::from_millis(300))?;
    let first = lock.obtain_no_wait(&resource("r"), &client("a")).await?.lease().context("it is held")?;
    let backoff = ExponentialBackoff::new(Duration::from_millis(50), 1.0, 20)?;
    let second = lock.obtain_with_backoff(&resource("r"), &client("b"), &backoff).await?.lease().context("held")?;
    ensure!(second.sequence > first.sequence);
    ensure!(!lock.release(&first).await? && lock.renew(&first).await?.is_none());
    let mut tx = db.begin().await?;
    assert_error!(first.fence(&mut tx).await, Error::Fenced { .. });
    second.fence(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}
