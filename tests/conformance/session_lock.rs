//! Session locks on PostgreSQL: who holds what.

use std::future::Future;
use std::time::{Duration, Instant};

use sagastore::Error;
use sagastore::postgres::session::{Releaser, SessionLockKey, SessionLocker, SessionLockerConfig};
use sqlx::Postgres;

use crate::harness::{Clause, Subject, TestDb, assert_error, postgres_clauses};

postgres_clauses! {
    a_key_is_locked_at_the_server_until_it_is_released,
    a_tried_key_is_locked_until_it_is_released,
    a_locker_gets_its_own_key_again_and_frees_it_with_the_last_release,
    a_key_held_elsewhere_is_not_acquired_at_once,
    different_keys_do_not_touch_each_other,
    a_waiting_lock_is_granted_after_the_release_and_not_before,
    several_locks_are_released_in_any_order,
    a_hold_is_released_once_and_undoes_no_other,
    a_key_is_tried_with_success_after_a_blocking_hold,
    keys_that_look_alike_are_locked_side_by_side,
    foreign_advisory_locks_are_left_alone,
    a_dropped_releaser_releases,
}

/// How long something may take that is to happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn config(db: &TestDb<Postgres>) -> SessionLockerConfig {
    SessionLockerConfig::new(db.home().options.clone()).with_heartbeat(Duration::from_millis(200)).unwrap()
}

pub(crate) async fn started(config: SessionLockerConfig) -> anyhow::Result<SessionLocker> {
    let locker = SessionLocker::new(config);
    locker.start().await?;
    Ok(locker)
}

pub(crate) async fn locker(db: &TestDb<Postgres>) -> anyhow::Result<SessionLocker> {
    started(config(db)).await
}

/// All clauses share one database, and so its advisory locks.
pub(crate) fn key(db: &TestDb<Postgres>, scopes: &[&str]) -> SessionLockKey {
    SessionLockKey::new([&[db.home().name.as_str()], scopes].concat()).unwrap()
}

async fn count_locks(db: &TestDb<Postgres>, key: &SessionLockKey, condition: &str) -> anyhow::Result<i64> {
    let number = key.advisory_key();
    db.count(format!(
        "SELECT COUNT(*)
        FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = {number}
            AND {condition}"
    ))
    .await
}

/// How many sessions hold a key, as the server sees it.
pub(crate) async fn holders(db: &TestDb<Postgres>, key: &SessionLockKey) -> anyhow::Result<i64> {
    count_locks(db, key, "granted").await
}

/// How many sessions wait for it.
pub(crate) async fn waiters(db: &TestDb<Postgres>, key: &SessionLockKey) -> anyhow::Result<i64> {
    count_locks(db, key, "NOT granted").await
}

/// Ends the session of the server that holds a key, or waits for it.
pub(crate) async fn terminate(db: &TestDb<Postgres>, key: &SessionLockKey, granted: bool) -> anyhow::Result<()> {
    let number = key.advisory_key();
    let ended = db
        .count(format!(
            "SELECT COUNT(pg_terminate_backend(pid))
            FROM pg_locks
            WHERE locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = {number} AND granted = {granted}"
        ))
        .await?;
    assert_eq!(ended, 1, "sessions to be ended");
    Ok(())
}

/// How many sessions the lockers of a clause have.
pub(crate) async fn sessions(db: &TestDb<Postgres>, application: &str) -> anyhow::Result<i64> {
    db.count(format!("SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = '{application}'")).await
}

/// Waits until it is so.
pub(crate) async fn eventually<F: Future<Output = anyhow::Result<bool>>>(
    what: &str,
    is_so: impl Fn() -> F,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so().await? {
        anyhow::ensure!(begun.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// A task that waits for a key, once the server knows that it does.
pub(crate) async fn waiting(
    db: &TestDb<Postgres>,
    locker: &SessionLocker,
    key: &SessionLockKey,
) -> anyhow::Result<tokio::task::JoinHandle<sagastore::Result<Releaser>>> {
    let before = waiters(db, key).await?;
    let (task_locker, task_key) = (locker.clone(), key.clone());
    let task = tokio::spawn(async move { task_locker.lock(&task_key).await });
    eventually("it waits", async || Ok(waiters(db, key).await? > before)).await?;
    Ok(task)
}

async fn a_key_is_locked_at_the_server_until_it_is_released(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a", "b"]));
    for _ in 0..3 {
        let mut lock = locker.lock_with_scopes(&[db.home().name.as_str(), "a", "b"]).await?;
        assert_eq!((lock.key(), holders(&db, &key).await?), (&key, 1));
        lock.release().await?;
        assert_eq!(holders(&db, &key).await?, 0);
    }
    locker.close().await;
    Ok(())
}

async fn a_tried_key_is_locked_until_it_is_released(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    let mut lock = locker.try_lock_with_scopes(&[db.home().name.as_str(), "a"]).await?.unwrap();
    assert_eq!(holders(&db, &key).await?, 1);
    lock.release().await?;
    assert_eq!(holders(&db, &key).await?, 0);
    locker.close().await;
    Ok(())
}

async fn a_locker_gets_its_own_key_again_and_frees_it_with_the_last_release(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let (mut first, mut second) = (one.lock(&key).await?, one.clone().lock(&key).await?);
    let mut third = one.try_lock(&key).await?.unwrap();
    for lock in [&mut second, &mut first] {
        lock.release().await?;
        assert!(two.try_lock(&key).await?.is_none());
    }
    third.release().await?;
    let mut other = two.try_lock(&key).await?.unwrap();
    other.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_key_held_elsewhere_is_not_acquired_at_once(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut lock = one.lock(&key).await?;
    let begun = Instant::now();
    assert!(two.try_lock(&key).await?.is_none());
    assert!(begun.elapsed() < SOON);
    lock.release().await?;
    let mut lock = two.try_lock(&key).await?.unwrap();
    lock.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn different_keys_do_not_touch_each_other(db: TestDb<Postgres>) -> Clause {
    let (one, two) = (locker(&db).await?, locker(&db).await?);
    let mut a = one.lock(&key(&db, &["a"])).await?;
    let mut b = two.lock(&key(&db, &["b"])).await?;
    a.release().await?;
    b.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_waiting_lock_is_granted_after_the_release_and_not_before(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    for _ in 0..5 {
        let mut first = one.lock(&key).await?;
        let task = waiting(&db, &two, &key).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!task.is_finished());
        first.release().await?;
        let mut second = task.await??;
        assert!(one.try_lock(&key).await?.is_none());
        second.release().await?;
    }
    one.close().await;
    two.close().await;
    Ok(())
}

async fn several_locks_are_released_in_any_order(db: TestDb<Postgres>) -> Clause {
    let locker = locker(&db).await?;
    let keys = ["1", "2", "3"].map(|name| key(&db, &[name]));
    let mut locks = Vec::new();
    for key in &keys {
        locks.push(locker.lock(key).await?);
    }
    for at in [1, 0, 2] {
        locks[at].release().await?;
        assert_eq!(holders(&db, &keys[at]).await?, 0);
    }
    locker.close().await;
    Ok(())
}

async fn a_hold_is_released_once_and_undoes_no_other(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let (mut first, mut second) = (one.lock(&key).await?, one.lock(&key).await?);
    second.release().await?;
    for _ in 0..3 {
        assert_error!(second.release().await, Error::NotReleased { .. });
    }
    drop(second);
    assert!(two.try_lock(&key).await?.is_none());
    assert_eq!(holders(&db, &key).await?, 1);
    first.release().await?;
    assert_error!(first.release().await, Error::NotReleased { .. });
    two.try_lock(&key).await?.unwrap().release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_key_is_tried_with_success_after_a_blocking_hold(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let mut first = one.lock(&key).await?;
    let task = waiting(&db, &two, &key).await?;
    first.release().await?;
    let mut blocking = task.await??;
    // Again on the connection that waited, and elsewhere after that.
    let mut again = two.try_lock(&key).await?.unwrap();
    blocking.release().await?;
    assert!(one.try_lock(&key).await?.is_none());
    again.release().await?;
    one.try_lock(&key).await?.unwrap().release().await?;
    two.try_lock(&key).await?.unwrap().release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn keys_that_look_alike_are_locked_side_by_side(db: TestDb<Postgres>) -> Clause {
    let long = "x".repeat(10_000);
    let lists: [&[&str]; 9] = [
        &["a", "bc"],
        &["ab", "c"],
        &["a:b", "c"],
        &["a", "b:c"],
        &["a:b:c"],
        &["ä", "☃"],
        &["☃", "ä"],
        &[&long],
        &["'"],
    ];
    // One locker would get its own key again.
    let mut held = Vec::new();
    for scopes in lists {
        let locker = locker(&db).await?;
        let lock = locker.try_lock(&key(&db, scopes)).await?;
        held.push((lock.unwrap_or_else(|| panic!("{scopes:?} is another's")), locker));
    }
    for (mut lock, locker) in held {
        lock.release().await?;
        locker.close().await;
    }
    Ok(())
}

async fn foreign_advisory_locks_are_left_alone(db: TestDb<Postgres>) -> Clause {
    let (locker, mut conn) = (locker(&db).await?, db.conn().await?);
    let numbers = [42, 0, i64::MAX, i64::MIN + 1];
    for number in numbers {
        Postgres::rows(&mut conn, format!("SELECT pg_advisory_lock({number})")).await?;
    }
    Postgres::rows(&mut conn, "SELECT pg_advisory_lock(42, 42)".to_owned()).await?;
    // Keys of both signs.
    let keys: Vec<_> = (0..20).map(|number| key(&db, &[&number.to_string()])).collect();
    assert!(keys.iter().any(|key| key.advisory_key() < 0) && keys.iter().any(|key| key.advisory_key() > 0));
    for key in &keys {
        let mut lock = locker.try_lock(key).await?.unwrap();
        assert_eq!(holders(&db, key).await?, 1);
        lock.fence(&mut db.begin().await?).await?;
        lock.release().await?;
    }
    locker.close().await;
    let rows = Postgres::rows(&mut conn, "SELECT pg_advisory_unlock_all()".to_owned()).await?;
    assert_eq!(rows.len(), 1);
    Ok(())
}

async fn a_dropped_releaser_releases(db: TestDb<Postgres>) -> Clause {
    let (locker, key) = (locker(&db).await?, key(&db, &["a"]));
    let (kept, dropped) = (locker.lock(&key).await?, locker.lock(&key).await?);
    drop(dropped);
    assert_eq!(holders(&db, &key).await?, 1);
    drop(kept);
    eventually("it is free", async || Ok(holders(&db, &key).await? == 0)).await?;
    // A call that is dropped while it releases.
    let mut lock = locker.lock(&key).await?;
    drop(crate::harness::cut_after(1, lock.release()).await);
    eventually("it is free again", async || Ok(holders(&db, &key).await? == 0)).await?;
    locker.close().await;
    Ok(())
}
