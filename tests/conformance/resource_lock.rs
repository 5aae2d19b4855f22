//! Locks on resources with a time to live: trying, retrying, unlocking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use sagastore::lock::lease::{Lease, LeaseState, LeaseStatus, Obtained};
use sagastore::lock::resource::{ResourceLocker, ResourceLockerSettings};
use sagastore::lock::{ClientId, DatabaseLock, ExponentialBackoff, Lock, Namespace, ResourceId};
use sagastore::{Error, Result};

use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, scaled, tick, until};

clauses! {
    a_free_resource_is_locked_and_its_row_says_by_whom_and_until_when,
    a_locked_resource_is_refused_until_it_is_unlocked,
    acquiring_gets_what_becomes_free_between_tries,
    acquiring_gives_up_after_one_try_more_than_its_retries,
    acquiring_does_not_retry_a_storage_error,
    unlocking_is_retried_after_storage_errors,
    unlocking_gives_up_with_the_last_error,
    unlocking_gives_up_once_the_lock_has_expired,
    an_unlocking_of_which_the_answer_was_lost_is_recognised,
    closing_ends_who_waits_and_who_comes_later,
    a_lock_ends_with_its_time_to_live_without_any_purge,
    unlocking_what_was_lost_tells_so_and_leaves_the_new_holder_alone,
    work_longer_than_the_time_to_live_keeps_its_lock_or_is_told,
    renewing_extends_what_is_held_and_nothing_else,
    kinds_do_not_share_their_resources,
    a_time_to_live_of_nothing_or_for_ever_is_refused,
    fifty_contenders_all_get_their_turn: SERVERS,
}

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> ResourceLockerSettings {
    ResourceLockerSettings::default()
}

fn constant(milliseconds: u64, retries: u32) -> ExponentialBackoff {
    ExponentialBackoff::new(Duration::from_millis(milliseconds), 1.0, retries).unwrap()
}

/// How often a lock may be lost because the machine is busy.
const MOST_TRIES: u32 = 5;
/// On a busy machine; it is never told if nobody notices.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

fn kind(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn locker<DB: Subject>(db: &TestDb<DB>, settings: ResourceLockerSettings) -> Result<ResourceLocker> {
    ResourceLocker::open(db.pool().clone(), &kind("order"), settings)
}

fn resource(id: &str) -> ResourceId {
    ResourceId::new(id).unwrap()
}

fn client(id: &str) -> ClientId {
    ClientId::new(id).unwrap()
}

/// A store that fails as often as it is told, before or after it did what was asked.
struct Failing {
    store: Arc<dyn Lock>,
    obtain: AtomicU32,
    release: AtomicU32,
    after_releasing: bool,
    calls: AtomicU32,
    /// How long a release takes that fails.
    slow: Duration,
}

impl Failing {
    fn of<DB: Subject>(store: &DatabaseLock<DB>, (obtain, release): (u32, u32), after_releasing: bool) -> Self {
        let (obtain, release, calls) = (AtomicU32::new(obtain), AtomicU32::new(release), AtomicU32::new(0));
        Self { store: Arc::new(store.clone()), obtain, release, after_releasing, calls, slow: Duration::ZERO }
    }

    fn locker<DB: Subject>(
        db: &TestDb<DB>,
        failures: (u32, u32),
        after_releasing: bool,
        settings: ResourceLockerSettings,
    ) -> (Arc<Self>, ResourceLocker) {
        let store = DatabaseLock::new(db.pool().clone());
        let failing = Arc::new(Self::of(&store, failures, after_releasing));
        (Arc::clone(&failing), ResourceLocker::with_parts(failing, Arc::new(store), settings))
    }

    fn fails(&self, left: &AtomicU32) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn calls(&self) -> u32 {
        self.calls.swap(0, Ordering::Relaxed)
    }
}

fn failure() -> Error {
    Error::Storage { doing: "failing", source: "on purpose".into() }
}

#[async_trait]
impl Lock for Failing {
    async fn obtain_no_wait(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained> {
        if self.fails(&self.obtain) { Err(failure()) } else { self.store.obtain_no_wait(resource, client).await }
    }

    async fn obtain(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained> {
        self.obtain_no_wait(resource, client).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Option<Lease>> {
        self.store.renew(lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        if !self.fails(&self.release) {
            return self.store.release(lease).await;
        }
        if self.after_releasing {
            self.store.release(lease).await?;
        }
        tokio::time::sleep(self.slow).await;
        Err(failure())
    }

    async fn status(&self, resource: &ResourceId) -> Result<Option<LeaseStatus>> {
        self.store.status(resource).await
    }

    async fn statuses(&self, after: Option<&ResourceId>, limit: u32) -> Result<Vec<LeaseStatus>> {
        self.store.statuses(after, limit).await
    }
}

async fn a_free_resource_is_locked_and_its_row_says_by_whom_and_until_when<DB: Subject>(db: TestDb<DB>) -> Clause {
    let locker = locker(&db, settings().with_ttl(30 * SECOND)?)?;
    let lock = locker.lock(&resource("r"), &client("a")).await?.lease().context("it is held")?;
    let rows = db.rows("SELECT resource_id, client_id, token, expires_at - obtained_at FROM saga_lease").await?;
    let length = 30 * SECOND + tick::<DB>();
    let expected = ["r".to_owned(), "a".to_owned(), lock.sequence.to_string(), length.as_micros().to_string()];
    assert_eq!(rows, [expected.map(Some).to_vec()]);
    let status = locker.status(&resource("r")).await?.context("unknown")?;
    assert_eq!((status.state, status.client_id), (LeaseState::Held, Some(client("a"))));
    ensure!(status.remaining > 25 * SECOND && status.remaining <= length);
    ensure!(locker.status(&resource("s")).await?.is_none());
    assert_eq!(locker.statuses(None, 10).await?.len(), 1);
    Ok(())
}

async fn a_locked_resource_is_refused_until_it_is_unlocked<DB: Subject>(db: TestDb<DB>) -> Clause {
    let locker = locker(&db, settings())?;
    let mut last = None;
    for _ in 0..3 {
        let lock = locker.lock(&resource("r"), &client("a")).await?.lease().context("it is held")?;
        ensure!(last < Some(lock.sequence), "a lock's id was given out before");
        last = Some(lock.sequence);
        for who in ["a", "b"] {
            ensure!(locker.lock(&resource("r"), &client(who)).await?.is_held());
        }
        ensure!(locker.unlock(&lock).await?);
        ensure!(!locker.unlock(&lock).await?, "it was unlocked twice");
    }
    Ok(())
}

async fn acquiring_gets_what_becomes_free_between_tries<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, locker) = Failing::locker(&db, (0, 0), false, settings().with_acquire_backoff(constant(100, 1_000)));
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    assert_eq!(store.calls(), 1);
    let began = Instant::now();
    let waiting = tokio::spawn({
        let locker = locker.clone();
        async move { locker.acquire(&resource("r"), &client("b")).await }
    });
    until("the first try", async || Ok(store.calls.load(Ordering::Relaxed) == 1)).await?;
    ensure!(locker.unlock(&lock).await?);
    let second = waiting.await??;
    ensure!(second.sequence > lock.sequence);
    // The first try, the unlocking, which it may overtake, and a try for each wait: as many as the unlocking takes.
    let (calls, waits) = (store.calls(), began.elapsed().as_millis() / 100);
    ensure!(calls >= 2 && u128::from(calls) <= 3 + waits, "{calls} calls, with time for {waits} waits");
    Ok(())
}

async fn acquiring_gives_up_after_one_try_more_than_its_retries<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, locker) = Failing::locker(&db, (0, 0), false, settings().with_acquire_backoff(constant(5, 10)));
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    store.calls();
    let began = Instant::now();
    assert_error!(
        locker.acquire(&resource("r"), &client("b")).await,
        Error::MaxRetries { resource, tries: 11 } if resource == "r"
    );
    assert_eq!(store.calls(), 11);
    ensure!(began.elapsed() >= Duration::from_millis(50), "it did not wait between tries");
    ensure!(locker.unlock(&lock).await?);
    Ok(())
}

async fn acquiring_does_not_retry_a_storage_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, locker) = Failing::locker(&db, (1, 0), false, settings());
    assert_error!(locker.acquire(&resource("r"), &client("a")).await, Error::Storage { .. });
    assert_eq!(store.calls(), 1);
    Ok(())
}

async fn unlocking_is_retried_after_storage_errors<DB: Subject>(db: TestDb<DB>) -> Clause {
    for failures in [0, 1, 7] {
        let (store, locker) = Failing::locker(&db, (0, failures), false, settings());
        let lock = locker.acquire(&resource("r"), &client("a")).await?;
        store.calls();
        ensure!(locker.unlock(&lock).await?);
        assert_eq!(store.calls(), failures + 1);
    }
    Ok(())
}

async fn unlocking_gives_up_with_the_last_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, locker) = Failing::locker(&db, (0, u32::MAX), false, settings());
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    store.calls();
    let failed = locker.unlock(&lock).await;
    assert_error!(failed, Error::UnlockFailed { tries: 101, source, .. } if matches!(*source, Error::Storage { .. }));
    assert_eq!(store.calls(), 101);
    // With more tries than the time to live has room for.
    let patient = settings().with_unlock_backoff(constant(5, 100_000));
    let (store, locker) = Failing::locker(&db, (0, u32::MAX), false, patient);
    let waiting = tokio::spawn({
        let (locker, lock) = (locker.clone(), lock.clone());
        async move { locker.unlock(&lock).await }
    });
    until("a try", async || Ok(store.calls.load(Ordering::Relaxed) > 0)).await?;
    locker.close().await;
    assert_error!(waiting.await?, Error::Closed { .. });
    store.calls();
    assert_error!(locker.unlock(&lock).await, Error::Closed { .. });
    assert_eq!(store.calls(), 1, "after closing, unlocking is tried once");
    Ok(())
}

/// It went on for as long as its tries took, which is minutes where each runs into a timeout.
async fn unlocking_gives_up_once_the_lock_has_expired<DB: Subject>(db: TestDb<DB>) -> Clause {
    let ttl = Duration::from_millis(200);
    let (lock, purge) = (DatabaseLock::new(db.pool().clone()).with_length(ttl)?, DatabaseLock::new(db.pool().clone()));
    let failing = Failing { slow: Duration::from_millis(100), ..Failing::of(&lock, (0, u32::MAX), false) };
    let locker = ResourceLocker::with_parts(Arc::new(failing), Arc::new(purge), settings());
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    let failed = tokio::time::timeout(SECOND, locker.unlock(&lock)).await?;
    assert_error!(failed, Error::UnlockFailed { tries: 1..=3, source, .. } if matches!(*source, Error::Storage { .. }));
    Ok(())
}

async fn an_unlocking_of_which_the_answer_was_lost_is_recognised<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (_, locker) = Failing::locker(&db, (0, 1), true, settings());
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    ensure!(locker.unlock(&lock).await?, "it was unlocked by the try that failed");
    // Purged since, or another's: not before it was released.
    for since in ["DELETE FROM saga_lease", "UPDATE saga_lease SET token = token + 1"] {
        let (_, locker) = Failing::locker(&db, (0, 1), false, settings());
        let lock = locker.acquire(&resource("r"), &client("a")).await?;
        db.sql(since).await?;
        ensure!(locker.unlock(&lock).await?, "{since}");
    }
    Ok(())
}

async fn closing_ends_who_waits_and_who_comes_later<DB: Subject>(db: TestDb<DB>) -> Clause {
    let locker = locker(&db, settings().with_acquire_backoff(constant(20_000, 10)))?;
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let locker = locker.clone();
            tokio::spawn(async move { locker.acquire(&resource("r"), &client("b")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (one, other) = (locker.clone(), locker.clone());
    tokio::join!(one.close(), other.close());
    for waiting in waiting {
        assert_error!(tokio::time::timeout(TOLD_WITHIN, waiting).await??, Error::Closed { .. });
    }
    locker.close().await;
    assert_error!(locker.lock(&resource("s"), &client("a")).await, Error::Closed { .. });
    assert_error!(locker.acquire(&resource("s"), &client("a")).await, Error::Closed { .. });
    assert_error!(locker.renew(&lock).await, Error::Closed { .. });
    ensure!(locker.unlock(&lock).await?, "what is held can be given back");
    Ok(())
}

async fn a_lock_ends_with_its_time_to_live_without_any_purge<DB: Subject>(db: TestDb<DB>) -> Clause {
    let long = locker(&db, settings())?;
    ensure!(!long.lock(&resource("other"), &client("a")).await?.is_held());
    ensure!(long.lock(&resource("other"), &client("b")).await?.is_held());
    let locker = locker(&db, settings().with_ttl(Duration::from_millis(400))?)?;
    let first = locker.lock(&resource("r"), &client("a")).await?.lease().context("it is held")?;
    tokio::time::sleep(Duration::from_millis(450)).await;
    let second = locker.lock(&resource("r"), &client("b")).await?.lease().context("it is still held")?;
    ensure!(second.sequence > first.sequence);
    Ok(())
}

async fn unlocking_what_was_lost_tells_so_and_leaves_the_new_holder_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let short = locker(&db, settings().with_ttl(Duration::from_millis(50))?)?;
    let first = short.lock(&resource("r"), &client("a")).await?.lease().context("it is held")?;
    tokio::time::sleep(Duration::from_millis(80)).await;
    let locker = locker(&db, settings())?;
    let second = locker.lock(&resource("r"), &client("b")).await?.lease().context("it is still held")?;
    ensure!(!locker.unlock(&first).await?);
    let status = locker.status(&resource("r")).await?.context("unknown")?;
    assert_eq!((status.state, status.sequence), (LeaseState::Held, second.sequence));
    Ok(())
}

async fn work_longer_than_the_time_to_live_keeps_its_lock_or_is_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    let locker = locker(&db, settings().with_ttl(Duration::from_millis(500))?)?;
    // A holder that is held up for as long as that loses its lock, rightly, and is told.
    for number in 0..MOST_TRIES {
        let (kept, left) = (resource(&format!("kept {number}")), resource(&format!("left {number}")));
        let guard = locker.keep(locker.acquire(&kept, &client("a")).await?);
        let left = locker.acquire(&left, &client("a")).await?;
        let work = async {
            for _ in 0..15 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if !locker.lock(&kept, &client("b")).await?.is_held() {
                    return anyhow::Ok(false);
                }
            }
            Ok(true)
        };
        let is_kept = match guard.run(work).await {
            Ok(worked) => worked?,
            Err(Error::LockLost { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if is_kept {
            ensure!(locker.renew(&left).await?.is_none(), "a lock that was not renewed is still there");
            db.sql("DELETE FROM saga_lease WHERE client_id IS NOT NULL").await?;
        }
        let told = tokio::time::timeout(TOLD_WITHIN, guard.run(std::future::pending::<()>())).await?;
        assert_error!(told, Error::LockLost { .. });
        if is_kept {
            return Ok(());
        }
    }
    anyhow::bail!("it was kept in none of {MOST_TRIES} tries")
}

async fn renewing_extends_what_is_held_and_nothing_else<DB: Subject>(db: TestDb<DB>) -> Clause {
    let locker = locker(&db, settings())?;
    let lock = locker.acquire(&resource("r"), &client("a")).await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let renewed = locker.renew(&lock).await?.context("it is lost")?;
    ensure!(renewed.expiry > lock.expiry && renewed.sequence == lock.sequence);
    ensure!(locker.unlock(&renewed).await?);
    ensure!(locker.renew(&renewed).await?.is_none());
    Ok(())
}

async fn kinds_do_not_share_their_resources<DB: Subject>(db: TestDb<DB>) -> Clause {
    let orders = locker(&db, settings())?;
    let mails = ResourceLocker::open(db.pool().clone(), &kind("mail"), settings())?;
    let leases = DatabaseLock::new(db.pool().clone()).with_namespace(kind("order"));
    let _order = orders.acquire(&resource("r"), &client("a")).await?;
    ensure!(!mails.lock(&resource("r"), &client("a")).await?.is_held());
    ensure!(!leases.obtain_no_wait(&resource("r"), &client("a")).await?.is_held());
    Ok(())
}

async fn a_time_to_live_of_nothing_or_for_ever_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    for ttl in [Duration::ZERO, Duration::from_secs(i64::MAX.unsigned_abs()), Duration::MAX] {
        assert_error!(settings().with_ttl(ttl).map(drop), Error::InvalidInput { .. });
    }
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    for ttl in [Duration::from_millis(1), century] {
        let locker = locker(&db, settings().with_ttl(ttl)?)?;
        let lock = locker.acquire(&resource(&format!("{ttl:?}")), &client("a")).await?;
        assert_eq!(lock.length(), ttl);
    }
    assert_error!(settings().with_purger_period(Duration::ZERO).map(drop), Error::InvalidInput { .. });
    Ok(())
}

/// 20 ms of work for each, with waits of 20 ms at most: each try hits a free moment often enough that all are
/// through long before the tries are used up.
async fn fifty_contenders_all_get_their_turn<DB: Subject>(db: TestDb<DB>) -> Clause {
    let backoff = constant(20, 3_000).with_jitter(0.9)?;
    let locker = locker(&db, settings().with_acquire_backoff(backoff))?;
    let tasks: Vec<_> = (0..scaled(50, 200))
        .map(|number| {
            let locker = locker.clone();
            tokio::spawn(async move {
                let lock = locker.acquire(&resource("r"), &client(&number.to_string())).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
                locker.unlock(&lock).await
            })
        })
        .collect();
    for task in tasks {
        ensure!(task.await??, "somebody lost the lock within 20 ms");
    }
    Ok(())
}
