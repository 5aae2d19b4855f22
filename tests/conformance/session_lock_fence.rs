//! Session locks on PostgreSQL: transactions that are fenced by a lock.

use std::time::Duration;

use sagastore::Error;
use sagastore::postgres::session::TransactionLocker;
use sqlx::{Connection, Postgres};
use tokio::sync::Notify;

use super::session_lock::{eventually, holders, key, locker, terminate, waiters, waiting};
use crate::harness::{Clause, Subject, TestDb, assert_error, postgres_clauses};

postgres_clauses! {
    the_next_holder_waits_for_the_fenced_transaction_of_a_dead_one,
    the_next_holder_waits_for_the_fenced_transaction_of_one_that_released,
    a_released_hold_fences_nothing,
    fences_hold_up_neither_each_other_nor_reentry,
    a_fence_works_at_every_isolation_and_in_savepoints,
    fenced_writes_of_a_dead_holder_never_follow_those_of_the_next,
}

async fn the_next_holder_waits_for_the_fenced_transaction_of_a_dead_one(db: TestDb<Postgres>) -> Clause {
    for commits in [true, false] {
        let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
        let lock = one.lock(&key).await?;
        let mut tx = db.begin().await?;
        lock.fence(&mut tx).await?;
        terminate(&db, &key, true).await?;
        eventually("the server freed it", async || Ok(holders(&db, &key).await? == 0)).await?;
        // Not acquired, in any of the three ways.
        assert!(two.try_lock(&key).await?.is_none());
        let mut other = db.begin().await?;
        assert!(!TransactionLocker::new(&mut other).try_lock(&key).await?);
        other.rollback().await?;
        let (waits, wanted) = (two.clone(), key.clone());
        let task = tokio::spawn(async move { waits.lock(&wanted).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!task.is_finished(), "the next holder began before the end of the transaction");
        // The dead holder fences nothing more meanwhile.
        assert_error!(lock.fence(&mut db.begin().await?).await, Error::LockLost { .. });
        if commits {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        task.await??.release().await?;
        one.close().await;
        two.close().await;
    }
    Ok(())
}

async fn the_next_holder_waits_for_the_fenced_transaction_of_one_that_released(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let mut tx = db.begin().await?;
    lock.fence(&mut tx).await?;
    let task = waiting(&db, &two, &key).await?;
    lock.release().await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!task.is_finished());
    // A wait for the transaction can be given up like any other.
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    eventually("it is free", async || Ok(holders(&db, &key).await? + waiters(&db, &key).await? == 0)).await?;
    assert!(two.try_lock(&key).await?.is_none());
    tx.commit().await?;
    two.try_lock(&key).await?.unwrap().release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_released_hold_fences_nothing(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    lock.release().await?;
    assert_error!(lock.fence(&mut db.begin().await?).await, Error::LockLost { .. });
    let mut lock = two.lock(&key).await?;
    // A refusal leaves the transaction usable.
    let mut tx = db.begin().await?;
    lock.fence(&mut tx).await?;
    Postgres::rows(&mut tx, "SELECT 1".to_owned()).await?;
    tx.commit().await?;
    lock.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn fences_hold_up_neither_each_other_nor_reentry(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    let mut lock = locker.lock(&key).await?;
    let (mut one, mut two) = (db.begin().await?, db.begin().await?);
    for tx in [&mut one, &mut two, &mut Box::pin(db.begin()).await?] {
        lock.fence(tx).await?;
        lock.fence(tx).await?;
        let mut again = locker.try_lock(&key).await?.unwrap();
        again.fence(tx).await?;
        again.release().await?;
    }
    one.commit().await?;
    two.commit().await?;
    lock.release().await?;
    locker.close().await;
    Ok(())
}

async fn a_fence_works_at_every_isolation_and_in_savepoints(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut lock = one.lock(&key).await?;
        let mut tx = db.begin().await?;
        Postgres::execute(&mut tx, format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
        // Its snapshot is older than what follows.
        Postgres::rows(&mut tx, "SELECT COUNT(*) FROM saga_commit".to_owned()).await?;
        let mut savepoint = tx.begin().await?;
        lock.fence(&mut savepoint).await?;
        savepoint.commit().await?;
        lock.release().await?;
        assert!(two.try_lock(&key).await?.is_none(), "at {level}");
        tx.commit().await?;
        // Lost while a transaction with an old snapshot is open.
        let lock = one.lock(&key).await?;
        let mut tx = db.begin().await?;
        Postgres::execute(&mut tx, format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
        Postgres::rows(&mut tx, "SELECT COUNT(*) FROM saga_commit".to_owned()).await?;
        let mut hold = lock;
        hold.release().await?;
        let mut next = two.lock(&key).await?;
        assert_error!(hold.fence(&mut tx).await, Error::LockLost { .. });
        next.fence(&mut tx).await?;
        tx.rollback().await?;
        next.release().await?;
    }
    one.close().await;
    two.close().await;
    Ok(())
}

/// Each holder is killed while it writes, and the next begins as soon as it can.
async fn fenced_writes_of_a_dead_holder_never_follow_those_of_the_next(db: TestDb<Postgres>) -> Clause {
    db.create_own_table().await?;
    let key = key(&db, &["a"]);
    let (mut written, mut lockers) = (0, Vec::new());
    for _ in 0..10 {
        lockers.push(locker(&db).await?);
    }
    let last_holder = u32::try_from(lockers.len())? - 1;
    for (holder, locker) in (0..).zip(&lockers) {
        let lock = locker.lock(&key).await?;
        // What the holder before wrote, if it did, is seen at once.
        let seen = db.own_writes().await?;
        assert_eq!(seen, written, "holder {holder} was surprised");
        let (late, killer) = (db.clone(), db.clone());
        let wrote = Notify::new();
        let (writes, kills) = tokio::join!(
            async {
                let mut tx = late.begin().await?;
                if lock.fence(&mut tx).await.is_err() {
                    return anyhow::Ok(false);
                }
                late.write_own(&mut tx, holder).await?;
                wrote.notify_one();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    tx.commit().await
                });
                Ok(true)
            },
            async {
                if holder == last_holder {
                    wrote.notified().await;
                } else {
                    tokio::time::sleep(Duration::from_micros(u64::from(holder) * 400)).await;
                }
                terminate(&killer, &key, true).await
            }
        );
        kills?;
        written += i64::from(writes?);
    }
    assert!(written > 0);
    let last = locker(&db).await?;
    last.lock(&key).await?.release().await?;
    assert_eq!(db.own_writes().await?, written);
    for locker in lockers.iter().chain([&last]) {
        locker.close().await;
    }
    Ok(())
}
