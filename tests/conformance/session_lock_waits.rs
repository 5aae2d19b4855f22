//! Session locks on PostgreSQL: waiting, giving up, and many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sagastore::Error;
use sagastore::postgres::session::SessionLockerConfig;
use sqlx::Postgres;
use tokio::task::JoinSet;

use super::session_lock::{SOON, config, eventually, holders, key, locker, started, waiters, waiting};
use crate::harness::{Clause, TestDb, assert_error, cut_after, postgres_clauses, scaled};

postgres_clauses! {
    a_dropped_wait_ends_at_the_server,
    waits_given_up_early_use_up_no_connections,
    a_wait_that_runs_into_the_timeout_leaves_the_locker_usable,
    waits_cut_at_any_moment_leave_no_lock_and_no_wait,
    a_free_key_asked_for_in_vain_is_given_back,
    a_wait_holds_up_no_other_call,
    waits_beyond_the_limit_are_refused,
    callers_of_one_locker_share_a_wait,
    a_wait_cut_by_the_server_is_told,
    a_wait_that_the_server_does_not_let_in_is_denied,
    those_who_wait_are_served_in_order,
    one_at_a_time_is_in_however_many_want_to,
}

async fn a_dropped_wait_ends_at_the_server(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let begun = Instant::now();
    assert!(tokio::time::timeout(Duration::from_millis(500), two.lock(&key)).await.is_err());
    assert!(begun.elapsed() < SOON);
    eventually("nobody waits", async || Ok(waiters(&db, &key).await? == 0)).await?;
    lock.release().await?;
    assert_eq!(holders(&db, &key).await?, 0);
    two.try_lock(&key).await?.unwrap().release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_wait_that_runs_into_the_timeout_leaves_the_locker_usable(db: TestDb<Postgres>) -> Clause {
    let timeout = Duration::from_millis(700);
    let (one, two) = (locker(&db).await?, started(config(&db).with_lock_timeout(timeout)?).await?);
    let (a, b) = (key(&db, &["a"]), key(&db, &["b"]));
    let mut lock = one.lock(&a).await?;
    let mut other = two.lock(&b).await?;
    for _ in 0..2 {
        let begun = Instant::now();
        assert_error!(two.lock(&a).await, Error::Timeout { .. });
        assert!((timeout..timeout + SOON).contains(&begun.elapsed()), "it took {:?}", begun.elapsed());
        eventually("nobody waits", async || Ok(waiters(&db, &a).await? == 0)).await?;
    }
    assert_eq!(holders(&db, &b).await?, 1);
    other.release().await?;
    let task = waiting(&db, &two, &a).await?;
    lock.release().await?;
    task.await??.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn waits_cut_at_any_moment_leave_no_lock_and_no_wait(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    for _ in 0..scaled(60, 2000) {
        let mut lock = one.lock(&key).await?;
        let cut = Duration::from_micros(random_up_to(12_000));
        let freed = Duration::from_micros(random_up_to(12_000));
        let (waited, released) = tokio::join!(tokio::time::timeout(cut, two.lock(&key)), async {
            tokio::time::sleep(freed).await;
            lock.release().await
        });
        released?;
        if let Ok(granted) = waited {
            let mut granted = granted?;
            assert_eq!(holders(&db, &key).await?, 1);
            granted.release().await?;
        }
        eventually("it is free", async || Ok(holders(&db, &key).await? + waiters(&db, &key).await? == 0)).await?;
    }
    one.close().await;
    two.close().await;
    Ok(())
}

async fn waits_given_up_early_use_up_no_connections(db: TestDb<Postgres>) -> Clause {
    let (one, key) = (locker(&db).await?, key(&db, &["a"]));
    let two = started(config(&db).with_max_waiters(8)?).await?;
    let mut lock = one.lock(&key).await?;
    // Given up while their connection is being opened.
    for _ in 0..40 {
        let early = Duration::from_millis(1);
        assert!(tokio::time::timeout(early, two.lock(&key)).await.is_err());
    }
    lock.release().await?;
    two.lock(&key).await?.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_free_key_asked_for_in_vain_is_given_back(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    for _ in 0..50 {
        // A busy machine may have the answer ready at the first look.
        drop(cut_after(1, locker.lock(&key)).await);
        drop(cut_after(1, locker.try_lock(&key)).await);
        let _ = tokio::time::timeout(Duration::from_micros(random_up_to(1500)), locker.lock(&key)).await;
        eventually("it is free", async || Ok(holders(&db, &key).await? == 0)).await?;
    }
    locker.lock(&key).await?.release().await?;
    locker.close().await;
    Ok(())
}

fn random_up_to(end: u64) -> u64 {
    uuid::Uuid::now_v7().as_u64_pair().1 % end
}

async fn a_wait_holds_up_no_other_call(db: TestDb<Postgres>) -> Clause {
    let (one, two) = (locker(&db).await?, locker(&db).await?);
    let (a, b) = (key(&db, &["a"]), key(&db, &["b"]));
    let mut lock = one.lock(&a).await?;
    let task = waiting(&db, &two, &a).await?;
    // Of the same key and of another, by the locker that waits.
    let begun = Instant::now();
    assert!(two.try_lock(&a).await?.is_none());
    for _ in 0..10 {
        two.lock(&b).await?.release().await?;
    }
    assert!(begun.elapsed() < SOON && !task.is_finished());
    let closing = two.clone();
    closing.close().await;
    assert_error!(task.await?, Error::Closed { .. });
    assert_eq!(waiters(&db, &a).await?, 0);
    lock.release().await?;
    assert_eq!(holders(&db, &a).await?, 0);
    one.close().await;
    Ok(())
}

async fn waits_beyond_the_limit_are_refused(db: TestDb<Postgres>) -> Clause {
    let (one, two) = (locker(&db).await?, started(config(&db).with_max_waiters(2)?).await?);
    let keys = ["a", "b", "c"].map(|name| key(&db, &[name]));
    let mut locks = Vec::new();
    for key in &keys {
        locks.push(one.lock(key).await?);
    }
    let (a, b) = (waiting(&db, &two, &keys[0]).await?, waiting(&db, &two, &keys[1]).await?);
    assert_error!(two.lock(&keys[2]).await, Error::LockerBusy { limit: 2, .. });
    for lock in &mut locks {
        lock.release().await?;
    }
    // What is free needs no connection of its own, and those are free again after their release.
    two.lock(&keys[2]).await?.release().await?;
    a.await??.release().await?;
    b.await??.release().await?;
    let mut lock = one.lock(&keys[2]).await?;
    let task = waiting(&db, &two, &keys[2]).await?;
    lock.release().await?;
    task.await??.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn callers_of_one_locker_share_a_wait(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let first = waiting(&db, &two, &key).await?;
    let others: Vec<_> = (0..5)
        .map(|_| {
            let (two, key) = (two.clone(), key.clone());
            tokio::spawn(async move { two.lock(&key).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(waiters(&db, &key).await?, 1);
    // Who began the wait leaves it; the others wait on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    lock.release().await?;
    let mut locks = Vec::new();
    for task in others {
        locks.push(task.await??);
    }
    for lock in &mut locks {
        assert!(one.try_lock(&key).await?.is_none());
        lock.release().await?;
    }
    one.try_lock(&key).await?.unwrap().release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_wait_cut_by_the_server_is_told(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let task = waiting(&db, &two, &key).await?;
    super::session_lock::terminate(&db, &key, false).await?;
    assert_error!(task.await?, Error::Disconnected { .. });
    // The locker has lost nothing by it.
    let task = waiting(&db, &two, &key).await?;
    lock.release().await?;
    task.await??.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

/// Was `Storage`: nobody was told that the role or its password is not right any more.
async fn a_wait_that_the_server_does_not_let_in_is_denied(db: TestDb<Postgres>) -> Clause {
    let pool = db.restricted_pool().await?;
    let options = pool.connect_options();
    let config = SessionLockerConfig::new((*options).clone());
    let (one, two, key) = (locker(&db).await?, started(config).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    db.sql(format!("ALTER ROLE {} NOLOGIN", options.get_username())).await?;
    assert_error!(two.lock(&key).await, Error::Denied { .. });
    lock.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn those_who_wait_are_served_in_order(db: TestDb<Postgres>) -> Clause {
    let (one, key) = (locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let (mut tasks, mut lockers) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let next = locker(&db).await?;
        tasks.push(waiting(&db, &next, &key).await?);
        lockers.push(next);
    }
    lock.release().await?;
    for at in 0..tasks.len() {
        assert!(tasks[at + 1..].iter().all(|task| !task.is_finished()));
        (&mut tasks[at]).await??.release().await?;
    }
    for locker in lockers.iter().chain([&one]) {
        locker.close().await;
    }
    Ok(())
}

async fn one_at_a_time_is_in_however_many_want_to(db: TestDb<Postgres>) -> Clause {
    const LOCKERS: usize = 8;
    const TASKS: i64 = 32;
    let (key, rounds) = (key(&db, &["a"]), scaled(6, 200));
    // Read and written apart: only the lock keeps one from overwriting another's count.
    let (counter, inside) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let (mut lockers, mut tasks) = (Vec::new(), JoinSet::new());
    for _ in 0..LOCKERS {
        lockers.push((locker(&db).await?, Arc::new(tokio::sync::Mutex::new(()))));
    }
    for task in 0..TASKS {
        // Tasks that share a locker are one owner, and must take turns by themselves.
        let (locker, turn) = lockers[usize::try_from(task)? % LOCKERS].clone();
        let (key, counter, inside) = (key.clone(), Arc::clone(&counter), Arc::clone(&inside));
        tasks.spawn(async move {
            for _ in 0..rounds {
                let _turn = turn.lock().await;
                let mut lock = locker.lock(&key).await?;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are in");
                let seen = counter.load(Ordering::SeqCst);
                tokio::task::yield_now().await;
                counter.store(seen + 1, Ordering::SeqCst);
                inside.fetch_sub(1, Ordering::SeqCst);
                lock.release().await?;
            }
            sagastore::Result::<()>::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    assert_eq!(counter.load(Ordering::SeqCst), TASKS * rounds);
    for (locker, _) in lockers {
        locker.close().await;
    }
    Ok(())
}
