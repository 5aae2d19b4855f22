//! Locks for the rest of a transaction on PostgreSQL.

use std::time::{Duration, Instant};

use sagastore::Error;
use sagastore::postgres::session::TransactionLocker;
use sqlx::{Connection, Postgres};

use super::session_lock::{SOON, eventually, holders, key, locker, waiters};
use crate::harness::{Clause, Subject, TestDb, assert_error, postgres_clauses};

postgres_clauses! {
    it_can_be_the_first_statement_of_a_transaction,
    it_ends_with_the_transaction,
    nested_transactions_lock_the_same_key,
    parallel_transactions_wait_for_each_other,
    a_timeout_aborts_the_transaction_up_to_its_savepoint,
    sessions_and_transactions_exclude_each_other,
}

async fn it_can_be_the_first_statement_of_a_transaction(db: TestDb<Postgres>) -> Clause {
    let key = key(&db, &["a"]);
    for _ in 0..20 {
        let mut tx = db.pool().begin().await?;
        TransactionLocker::new(&mut tx).lock(&key).await?;
        tx.commit().await?;
        let mut tx = db.pool().begin().await?;
        Postgres::rows(&mut tx, "SELECT 1".to_owned()).await?;
        assert!(TransactionLocker::new(&mut tx).try_lock(&key).await?);
        TransactionLocker::new(&mut tx).lock(&key).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn it_ends_with_the_transaction(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    for end in 0..3 {
        let mut tx = db.begin().await?;
        TransactionLocker::new(&mut tx).lock(&key).await?;
        assert!(locker.try_lock(&key).await?.is_none());
        match end {
            0 => tx.commit().await?,
            1 => tx.rollback().await?,
            _ => drop(tx),
        }
        // The pool rolls back in the background what was dropped.
        eventually("it is free", async || Ok(holders(&db, &key).await? == 0)).await?;
        locker.try_lock(&key).await?.unwrap().release().await?;
    }
    // Dropped while it waits.
    let mut lock = locker.lock(&key).await?;
    let mut tx = db.begin().await?;
    let waited = tokio::time::timeout(Duration::from_millis(100), TransactionLocker::new(&mut tx).lock(&key)).await;
    assert!(waited.is_err());
    drop(tx);
    lock.release().await?;
    eventually("it is free", async || Ok(holders(&db, &key).await? + waiters(&db, &key).await? == 0)).await?;
    locker.close().await;
    Ok(())
}

async fn nested_transactions_lock_the_same_key(db: TestDb<Postgres>) -> Clause {
    let (locker, a, b) = (locker(&db).await?, key(&db, &["a"]), key(&db, &["b"]));
    let mut outer = db.begin().await?;
    TransactionLocker::new(&mut outer).lock(&a).await?;
    let mut middle = outer.begin().await?;
    TransactionLocker::new(&mut middle).lock(&a).await?;
    let mut inner = middle.begin().await?;
    assert!(TransactionLocker::new(&mut inner).try_lock(&a).await?);
    TransactionLocker::new(&mut inner).lock(&b).await?;
    assert!(locker.try_lock(&b).await?.is_none());
    inner.rollback().await?;
    locker.try_lock(&b).await?.unwrap().release().await?;
    assert!(locker.try_lock(&a).await?.is_none());
    middle.rollback().await?;
    assert!(locker.try_lock(&a).await?.is_none());
    outer.commit().await?;
    locker.try_lock(&a).await?.unwrap().release().await?;
    locker.close().await;
    Ok(())
}

async fn parallel_transactions_wait_for_each_other(db: TestDb<Postgres>) -> Clause {
    let key = key(&db, &["a"]);
    let mut first = db.begin().await?;
    TransactionLocker::new(&mut first).lock(&key).await?;
    let (db_of_second, key_of_second) = (db.clone(), key.clone());
    let second = tokio::spawn(async move {
        let mut second = db_of_second.begin().await?;
        TransactionLocker::new(&mut second).lock(&key_of_second).await?;
        let got = Instant::now();
        second.commit().await?;
        anyhow::Ok(got)
    });
    eventually("it waits", async || Ok(waiters(&db, &key).await? == 1)).await?;
    let mut third = db.begin().await?;
    assert!(!TransactionLocker::new(&mut third).try_lock(&key).await?);
    Postgres::rows(&mut third, "SELECT 1".to_owned()).await?;
    third.commit().await?;
    let freed = Instant::now();
    first.commit().await?;
    assert!(second.await?? >= freed);
    Ok(())
}

async fn a_timeout_aborts_the_transaction_up_to_its_savepoint(db: TestDb<Postgres>) -> Clause {
    let (key, timeout) = (key(&db, &["a"]), Duration::from_millis(300));
    let mut first = db.begin().await?;
    TransactionLocker::new(&mut first).lock(&key).await?;
    let mut second = db.begin().await?;
    let begun = Instant::now();
    let waited = TransactionLocker::new(&mut second).lock_within(&key, timeout).await;
    assert!((timeout..timeout + SOON).contains(&begun.elapsed()));
    let error = waited.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.to_string().contains("now aborted"), "{error}");
    assert!(Postgres::rows(&mut second, "SELECT 1".to_owned()).await.is_err());
    second.rollback().await?;
    // With the server's own setting, and a savepoint.
    let mut third = db.begin().await?;
    Postgres::execute(&mut third, "SET LOCAL lock_timeout = '200ms'".to_owned()).await?;
    let mut savepoint = third.begin().await?;
    assert_error!(TransactionLocker::new(&mut savepoint).lock(&key).await, Error::Timeout { .. });
    savepoint.rollback().await?;
    Postgres::rows(&mut third, "SELECT 1".to_owned()).await?;
    first.commit().await?;
    TransactionLocker::new(&mut third).lock_within(&key, timeout).await?;
    let setting = Postgres::rows(&mut third, "SHOW lock_timeout".to_owned()).await?;
    assert_eq!(setting, [[Some("200ms".to_owned())]]);
    third.commit().await?;
    Ok(())
}

async fn sessions_and_transactions_exclude_each_other(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    let mut lock = locker.lock(&key).await?;
    let mut tx = db.begin().await?;
    assert!(!TransactionLocker::new(&mut tx).try_lock(&key).await?);
    // A refused try keeps nobody from fencing.
    let mut fenced = db.begin().await?;
    lock.fence(&mut fenced).await?;
    fenced.rollback().await?;
    lock.release().await?;
    assert!(TransactionLocker::new(&mut tx).try_lock(&key).await?);
    let (waits, wanted) = (locker.clone(), key.clone());
    let task = tokio::spawn(async move { waits.lock(&wanted).await });
    eventually("it waits", async || Ok(waiters(&db, &key).await? == 1)).await?;
    tx.commit().await?;
    task.await??.release().await?;
    locker.close().await;
    Ok(())
}
