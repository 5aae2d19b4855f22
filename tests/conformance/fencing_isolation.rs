//! Fences in transactions that see the past.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::Error;
use sagastore::lock::Lock;
use sqlx::Transaction;

use crate::harness::{
    Clause, Kind, LONG_LEASE, Subject, TestDb, clauses, millis, obtain, resource, wait_for_expiry, wait_for_lease,
};
use crate::isolation::pool_at;

clauses! {
    a_token_superseded_since_the_transaction_began_is_refused: SERVERS,
    a_token_obtained_since_the_transaction_began_lets_the_write_through_at_read_committed: SERVERS,
    a_token_renewed_since_the_transaction_began_lets_the_write_through: SERVERS,
    a_token_released_since_the_transaction_began_is_refused_or_keeps_others_off: SERVERS,
}

const LEVELS: [&str; 2] = ["READ COMMITTED", "REPEATABLE READ"];

/// A transaction that has read: at REPEATABLE READ it sees what is there now, and nothing later.
async fn begin_at<DB: Subject>(db: &TestDb<DB>, level: &str) -> anyhow::Result<Transaction<'static, DB>> {
    let mut tx = pool_at(db, level, 1).await?.begin().await?;
    DB::rows(&mut tx, "SELECT COUNT(*) FROM saga_lease".to_owned()).await?;
    Ok(tx)
}

/// Whether a fence was refused, as superseded or, where the server does not look any further, as a conflict.
fn is_refused<DB: Subject>(fenced: &sagastore::Result<()>, level: &str) -> bool {
    match fenced {
        Err(Error::Fenced { .. }) => true,
        Err(Error::Contention { .. }) => (DB::KIND, level) == (Kind::Postgres, LEVELS[1]),
        _ => false,
    }
}

async fn a_token_superseded_since_the_transaction_began_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (short, long) = (db.lock(millis(50)), db.lock(LONG_LEASE));
    for level in LEVELS {
        for how in ["taken", "renewed and taken", "deleted", "renewed and deleted", "renewed, deleted and taken"] {
            let id = format!("{how} at {level}");
            let lease = obtain(&short, &id, "a").await?;
            let mut tx = begin_at(&db, level).await?;
            if how.contains("renewed") {
                db.sql("UPDATE saga_lease SET expires_at = expires_at + 1000").await?;
            }
            if how.contains("deleted") {
                db.delete_lease(&id).await?;
            } else {
                wait_for_expiry(&short, &lease).await?;
            }
            if how.contains("taken") {
                obtain(&long, &id, "b").await?;
            }
            let fenced = lease.fence(&mut tx).await;
            ensure!(is_refused::<DB>(&fenced, level), "{id}: {fenced:?}");
            tx.rollback().await?;
        }
    }
    Ok(())
}

async fn a_token_obtained_since_the_transaction_began_lets_the_write_through_at_read_committed<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let released = obtain(&lock, "old", "a").await?;
    ensure!(lock.release(&released).await?);
    for level in LEVELS {
        for id in ["old", level] {
            let mut tx = begin_at(&db, level).await?;
            let lease = obtain(&lock, id, "a").await?;
            let fenced = lease.fence(&mut tx).await;
            // A transaction that sees the past cannot tell it from one that is over; it is then refused.
            ensure!(fenced.is_ok() || level == LEVELS[1] && is_refused::<DB>(&fenced, level), "{level}: {fenced:?}");
            tx.rollback().await?;
            ensure!(lock.release(&lease).await?);
        }
    }
    Ok(())
}

async fn a_token_renewed_since_the_transaction_began_lets_the_write_through<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    for level in LEVELS {
        let lease = obtain(&lock, level, "a").await?;
        let mut tx = begin_at(&db, level).await?;
        ensure!(lock.renew(&lease).await?.is_some());
        lease.fence(&mut tx).await?;
        let renewing = tokio::time::timeout(Duration::from_secs(5), lock.renew(&lease));
        ensure!(renewing.await.context("it waits")??.is_some());
        tx.commit().await?;
    }
    Ok(())
}

/// A transaction that sees the past does not see the release, and then nobody gets the lease before its end.
async fn a_token_released_since_the_transaction_began_is_refused_or_keeps_others_off<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let lock = db.lock(LONG_LEASE);
    for level in LEVELS {
        let lease = obtain(&lock, level, "a").await?;
        let mut tx = begin_at(&db, level).await?;
        ensure!(lock.release(&lease).await?);
        let fenced = lease.fence(&mut tx).await;
        if level == LEVELS[0] {
            ensure!(is_refused::<DB>(&fenced, level), "{fenced:?}");
        }
        if fenced.is_ok() {
            let taker = tokio::spawn({
                let lock = lock.clone();
                async move { wait_for_lease(&lock, level, "b").await }
            });
            tokio::time::sleep(millis(200)).await;
            ensure!(!taker.is_finished());
            tx.commit().await?;
            ensure!(taker.await??.sequence > lease.sequence);
        } else {
            tx.rollback().await?;
            ensure!(obtain(&lock, level, "b").await?.sequence > lease.sequence);
        }
    }
    ensure!(lock.status(&resource(LEVELS[0])).await?.is_some());
    Ok(())
}
