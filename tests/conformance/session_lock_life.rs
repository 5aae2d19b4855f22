//! Session locks on PostgreSQL: from the start of a locker to its end.

use std::time::{Duration, Instant};

use sagastore::Error;
use sagastore::postgres::session::{SessionLocker, SessionLockerConfig};
use sqlx::Postgres;

use super::session_lock::{config, eventually, holders, key, locker, sessions, started, waiters, waiting};
use crate::harness::{Clause, TestDb, assert_error, postgres_clauses, scaled};

postgres_clauses! {
    a_locker_is_started_once_and_closed_once,
    a_start_that_fails_can_be_tried_again,
    closing_frees_all_and_leaves_nobody_waiting,
    a_locker_without_handles_ends,
    a_releaser_keeps_its_lock_when_the_handles_are_dropped,
    starting_and_closing_leaves_no_session,
    the_loss_of_a_locker_is_no_loss_of_its_end,
    idle_connections_stay_alive,
}

async fn a_locker_is_started_once_and_closed_once(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (SessionLocker::new(config(&db)), key(&db, &["a"]));
    assert_error!(locker.lock(&key).await, Error::NeverStarted { .. });
    assert_error!(locker.try_lock(&key).await, Error::NeverStarted { .. });
    assert!(matches!(locker.lost().await, Error::NeverStarted { .. }));
    assert_error!(locker.lock_with_scopes::<&str>(&[]).await, Error::InvalidInput { .. });
    assert_error!(locker.try_lock_with_scopes(&["a", ""]).await, Error::InvalidInput { .. });
    // Twice, and at once.
    let (first, second) = tokio::join!(locker.start(), locker.start());
    first?;
    second?;
    let mut lock = locker.lock(&key).await?;
    locker.start().await?;
    assert_eq!(holders(&db, &key).await?, 1);
    locker.close().await;
    assert_eq!(holders(&db, &key).await?, 0);
    locker.close().await;
    assert_error!(lock.release().await, Error::Closed { .. });
    assert_error!(locker.lock(&key).await, Error::Closed { .. });
    assert_error!(locker.try_lock(&key).await, Error::Closed { .. });
    assert_error!(locker.start().await, Error::Closed { .. });
    assert!(matches!(locker.lost().await, Error::Closed { .. }));
    // Closed before it was started.
    let locker = SessionLocker::new(config(&db));
    locker.close().await;
    assert_error!(locker.start().await, Error::Closed { .. });
    assert_error!(locker.lock(&key).await, Error::Closed { .. });
    Ok(())
}

async fn a_start_that_fails_can_be_tried_again(db: TestDb<Postgres>) -> Clause {
    let nobody = db.home().options.clone().username("nobody of this name").password("wrong");
    let locker = SessionLocker::new(SessionLockerConfig::new(nobody));
    for _ in 0..2 {
        assert!(locker.start().await.is_err());
        assert_error!(locker.lock(&key(&db, &["a"])).await, Error::NeverStarted { .. });
    }
    locker.close().await;
    Ok(())
}

async fn closing_frees_all_and_leaves_nobody_waiting(db: TestDb<Postgres>) -> Clause {
    let (one, two) = (locker(&db).await?, started(config(&db).with_application_name("closing")?).await?);
    let (a, b, c) = (key(&db, &["a"]), key(&db, &["b"]), key(&db, &["c"]));
    let mut held = one.lock(&a).await?;
    // Locks on the locker's own connection and on one that waited, and a wait.
    let mut lock = one.lock(&b).await?;
    let task = waiting(&db, &two, &b).await?;
    lock.release().await?;
    let (mut waited, mut own) = (task.await??, two.lock(&c).await?);
    let waits = waiting(&db, &two, &a).await?;
    let (waited_lost, own_lost, locker_lost) = (waited.lost(), own.lost(), two.lost());
    let begun = Instant::now();
    tokio::join!(two.close(), two.close());
    assert!(begun.elapsed() < Duration::from_secs(8), "closing took {:?}", begun.elapsed());
    assert_eq!((holders(&db, &b).await?, holders(&db, &c).await?, waiters(&db, &a).await?), (0, 0, 0));
    assert_error!(waits.await?, Error::Closed { .. });
    for lost in [waited_lost.await, own_lost.await, locker_lost.await] {
        assert!(matches!(lost, Error::Closed { .. }), "{lost:?}");
    }
    for lock in [&mut waited, &mut own] {
        assert_error!(lock.fence(&mut db.begin().await?).await, Error::Closed { .. });
        assert_error!(lock.release().await, Error::Closed { .. });
    }
    eventually("its sessions are gone", async || Ok(sessions(&db, "closing").await? == 0)).await?;
    held.release().await?;
    one.close().await;
    Ok(())
}

async fn a_locker_without_handles_ends(db: TestDb<Postgres>) -> Clause {
    let other = locker(&db).await?;
    let dropped = started(config(&db).with_application_name("dropped")?).await?;
    let (a, b) = (key(&db, &["a"]), key(&db, &["b"]));
    let mut held = other.lock(&a).await?;
    let (lock, lost) = (dropped.lock(&b).await?, dropped.lost());
    let task = waiting(&db, &dropped, &a).await?;
    assert_eq!(sessions(&db, "dropped").await?, 2);
    task.abort();
    let _ = task.await;
    drop((lock, dropped));
    assert!(matches!(lost.await, Error::Closed { .. }));
    eventually("its sessions are gone", async || Ok(sessions(&db, "dropped").await? == 0)).await?;
    held.release().await?;
    other.close().await;
    Ok(())
}

async fn a_releaser_keeps_its_lock_when_the_handles_are_dropped(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (started(config(&db).with_application_name("kept")?).await?, key(&db, &["a"]));
    let mut lock = locker.lock(&key).await?;
    drop(locker);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(holders(&db, &key).await?, 1);
    lock.fence(&mut db.begin().await?).await?;
    lock.release().await?;
    assert_eq!(holders(&db, &key).await?, 0);
    eventually("its sessions are gone", async || Ok(sessions(&db, "kept").await? == 0)).await
}

async fn starting_and_closing_leaves_no_session(db: TestDb<Postgres>) -> Clause {
    let key = key(&db, &["a"]);
    for _ in 0..scaled(100, 1000) {
        let locker = started(config(&db).with_application_name("cycles")?).await?;
        let _lock = locker.lock(&key).await?;
        locker.close().await;
        assert_eq!(holders(&db, &key).await?, 0);
    }
    eventually("all sessions are gone", async || Ok(sessions(&db, "cycles").await? == 0)).await?;
    // The pool has tasks too, which end soon.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let locker = locker(&db).await?;
    eventually("it has its two tasks", async || Ok(tasks() >= before + 2)).await?;
    locker.close().await;
    eventually("no task is left", async || Ok(tasks() <= before)).await
}

async fn the_loss_of_a_locker_is_no_loss_of_its_end(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    let lock = locker.lock(&key).await?;
    let lost = tokio::spawn(locker.lost());
    super::session_lock::terminate(&db, &key, true).await?;
    assert!(matches!(lost.await?, Error::LockLost { .. }));
    assert_error!(locker.start().await, Error::LockLost { .. });
    drop(lock);
    locker.close().await;
    assert_error!(locker.lock(&key).await, Error::Closed { .. });
    Ok(())
}

async fn idle_connections_stay_alive(db: TestDb<Postgres>) -> Clause {
    let options = db.home().options.clone().options([
        ("statement_timeout", "1200"),
        ("lock_timeout", "1200"),
        ("idle_session_timeout", "1200"),
    ]);
    let config = SessionLockerConfig::new(options).with_heartbeat(Duration::from_secs(1))?;
    let (one, two, key) = (locker(&db).await?, started(config).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let task = waiting(&db, &two, &key).await?;
    // Longer than what the role, or the database, sets for ordinary statements.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!task.is_finished());
    lock.release().await?;
    let mut lock = task.await??;
    tokio::time::sleep(Duration::from_secs(2)).await;
    lock.release().await?;
    two.lock(&key).await?.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}
