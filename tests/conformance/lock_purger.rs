//! The purger of locks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use sagastore::lock::lease::LeaseState;
use sagastore::lock::resource::{ResourceLocker, ResourceLockerSettings};
use sagastore::lock::{ClientId, DatabaseLock, Namespace, PURGE_GRACE, Purge, ResourceId};
use sagastore::{Error, Result};

use crate::harness::{Clause, Subject, TestDb, clauses, until};

clauses! {
    a_purge_deletes_what_expired_and_leaves_what_is_held,
    the_purger_runs_until_it_is_closed,
    the_purger_ends_with_the_last_clone_of_its_locker,
    the_purger_goes_on_after_errors_and_reports_them,
    closing_does_not_wait_for_a_purge_that_hangs,
}

const PERIOD: Duration = Duration::from_millis(20);

fn id(id: &str) -> ResourceId {
    ResourceId::new(id).unwrap()
}

fn owner() -> ClientId {
    ClientId::new("a").unwrap()
}

/// Purges as it is told, and counts.
#[derive(Default)]
struct Counted {
    purges: AtomicU32,
    failing: AtomicU32,
    hanging: bool,
}

#[async_trait]
impl Purge for Counted {
    async fn purge(&self) -> Result<u64> {
        self.purges.fetch_add(1, Ordering::Relaxed);
        if self.hanging {
            std::future::pending::<()>().await;
        }
        let fails = self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Error::Storage { doing: "purging", source: "on purpose".into() }) } else { Ok(0) }
    }
}

fn counted<DB: Subject>(db: &TestDb<DB>, purge: Counted) -> Result<(Arc<Counted>, ResourceLocker)> {
    let (lock, purge) = (Arc::new(DatabaseLock::new(db.pool().clone())), Arc::new(purge));
    let settings = ResourceLockerSettings::default().with_purger_period(PERIOD)?;
    Ok((Arc::clone(&purge), ResourceLocker::with_parts(lock, purge, settings)))
}

async fn a_purge_deletes_what_expired_and_leaves_what_is_held<DB: Subject>(db: TestDb<DB>) -> Clause {
    let seen = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&seen);
    let kind = Namespace::new("order").unwrap();
    let settings = ResourceLockerSettings::default().with_purger_period(PERIOD)?;
    let settings = settings.with_purge_observer(move |purged| *counter.lock().unwrap() += *purged.as_ref().unwrap());
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    for (name, ttl) in [("for ever", century), ("gone 1", PERIOD), ("gone 2", PERIOD), ("held", 60 * PURGE_GRACE)] {
        let locker = ResourceLocker::open(db.pool().clone(), &kind, settings.clone().with_ttl(ttl)?)?;
        ensure!(!locker.lock(&id(name), &owner()).await?.is_held());
        locker.close().await;
    }
    let locker = ResourceLocker::open(db.pool().clone(), &kind, settings)?;
    until("two purged locks", async || Ok(*seen.lock().unwrap() >= 2)).await?;
    tokio::time::sleep(5 * PERIOD).await;
    assert_eq!(*seen.lock().unwrap(), 2);
    let left = locker.statuses(None, 10).await?;
    let left: Vec<_> = left.iter().map(|status| (status.resource.id.as_str(), status.state)).collect();
    assert_eq!(left, [("for ever", LeaseState::Held), ("held", LeaseState::Held)]);
    locker.close().await;
    Ok(())
}

async fn the_purger_runs_until_it_is_closed<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (purge, locker) = counted(&db, Counted::default())?;
    until("three purges", async || Ok(purge.purges.load(Ordering::Relaxed) >= 3)).await?;
    locker.close().await;
    let purges = purge.purges.load(Ordering::Relaxed);
    ensure!(Arc::strong_count(&purge) == 1, "the purger is still there");
    tokio::time::sleep(5 * PERIOD).await;
    assert_eq!(purge.purges.load(Ordering::Relaxed), purges);
    let (purge, locker) = counted(&db, Counted::default())?;
    until("a purge", async || Ok(purge.purges.load(Ordering::Relaxed) >= 1)).await?;
    locker.close().await;
    Ok(())
}

async fn the_purger_ends_with_the_last_clone_of_its_locker<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (purge, locker) = counted(&db, Counted::default())?;
    let clone = locker.clone();
    drop(locker);
    let before = purge.purges.load(Ordering::Relaxed);
    until("another purge", async || Ok(purge.purges.load(Ordering::Relaxed) > before)).await?;
    drop(clone);
    until("the purger's end", async || Ok(Arc::strong_count(&purge) == 1)).await
}

async fn the_purger_goes_on_after_errors_and_reports_them<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (log, purge) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Counted::default()));
    purge.failing.store(3, Ordering::Relaxed);
    let seen = Arc::clone(&log);
    let settings = ResourceLockerSettings::default().with_purger_period(PERIOD)?;
    let settings = settings.with_purge_observer(move |purged| seen.lock().unwrap().push(purged.is_ok()));
    let lock = Arc::new(DatabaseLock::new(db.pool().clone()));
    let locker = ResourceLocker::with_parts(lock, purge, settings);
    until("five purges", async || Ok(log.lock().unwrap().len() >= 5)).await?;
    locker.close().await;
    assert_eq!(log.lock().unwrap()[..5], [false, false, false, true, true]);
    Ok(())
}

async fn closing_does_not_wait_for_a_purge_that_hangs<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (purge, locker) = counted(&db, Counted { hanging: true, ..Counted::default() })?;
    until("a purge", async || Ok(purge.purges.load(Ordering::Relaxed) == 1)).await?;
    let began = Instant::now();
    locker.close().await;
    ensure!(began.elapsed() < Duration::from_secs(4), "closing took {:?}", began.elapsed());
    Arc::into_inner(purge).context("the purger is still there")?;
    Ok(())
}
