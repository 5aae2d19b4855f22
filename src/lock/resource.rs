//! Exclusive locks on resources, each for a time to live, with bounded retries and a purger.
//!
//! A [`ResourceLocker`] is for one kind of resources. Underneath is a [lease](super::lease): a lock has a fencing token,
//! expires by the database's clock, and can be [fenced](Lease::fence). What this adds is a policy: how often and how
//! long to try, what to do when unlocking fails, the purger, and an orderly end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use sqlx::Pool;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::backoff::{Backoff, ExponentialBackoff};
use super::database_lock::{DatabaseLock, Lock};
use super::guard::LeaseGuard;
use super::ids::{ClientId, Namespace, ResourceId};
use super::lease::{Lease, LeaseState, LeaseStatus, Obtained, check_length};
use super::purger::{self, Observer, PURGER_PERIOD, Purge};
use crate::backend::Backend;
use crate::error::{Error, Result};

/// For how long a resource is locked by default.
pub const TTL: Duration = Duration::from_secs(30);
/// How often [`ResourceLocker::acquire`] tries again after the first try, by default.
pub const ACQUIRE_MAX_RETRIES: u32 = 10;
/// How long it waits between tries, by default.
pub const ACQUIRE_PERIOD: Duration = Duration::from_millis(250);
/// How often [`ResourceLocker::unlock`] tries again after an error, by default.
pub const UNLOCK_MAX_RETRIES: u32 = 100;
/// How long it waits between tries, by default.
pub const UNLOCK_PERIOD: Duration = Duration::from_millis(5);

/// Precedes the kind in the namespace, so that no other lease is in the way.
const NAMESPACE_PREFIX: &str = "resource/";
const CLOSED: &str = "locking a resource";

/// How a [`ResourceLocker`] goes about it.
#[derive(Clone)]
pub struct ResourceLockerSettings {
    ttl: Duration,
    acquire: Arc<dyn Backoff>,
    unlock: Arc<dyn Backoff>,
    purger_period: Duration,
    observer: Option<Observer>,
}

impl Default for ResourceLockerSettings {
    fn default() -> Self {
        let constant = |period, retries| {
            let backoff = ExponentialBackoff::new(period, 1.0, retries);
            Arc::new(backoff.expect("BUG: a constant wait does not shrink"))
        };
        Self {
            ttl: TTL,
            acquire: constant(ACQUIRE_PERIOD, ACQUIRE_MAX_RETRIES),
            unlock: constant(UNLOCK_PERIOD, UNLOCK_MAX_RETRIES),
            purger_period: PURGER_PERIOD,
            observer: None,
        }
    }
}

impl ResourceLockerSettings {
    /// Locks last so long; default [`TTL`]. There is no lock without an end.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between [`MIN_LEASE`](super::lease::MIN_LEASE) and
    /// [`MAX_LEASE`](super::lease::MAX_LEASE).
    pub fn with_ttl(mut self, ttl: Duration) -> Result<Self> {
        self.ttl = check_length("time to live of a lock", ttl)?;
        Ok(self)
    }

    /// [`acquire`](ResourceLocker::acquire) waits so between tries; default [`ACQUIRE_MAX_RETRIES`] times
    /// [`ACQUIRE_PERIOD`]. With many contenders use one with jitter.
    #[must_use]
    pub fn with_acquire_backoff(mut self, backoff: impl Backoff + 'static) -> Self {
        self.acquire = Arc::new(backoff);
        self
    }

    /// [`unlock`](ResourceLocker::unlock) waits so between tries that failed; default [`UNLOCK_MAX_RETRIES`] times
    /// [`UNLOCK_PERIOD`].
    #[must_use]
    pub fn with_unlock_backoff(mut self, backoff: impl Backoff + 'static) -> Self {
        self.unlock = Arc::new(backoff);
        self
    }

    /// Purges so often; default [`PURGER_PERIOD`].
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between [`MIN_LEASE`](super::lease::MIN_LEASE) and
    /// [`MAX_LEASE`](super::lease::MAX_LEASE).
    pub fn with_purger_period(mut self, period: Duration) -> Result<Self> {
        self.purger_period = check_length("period of the purger", period)?;
        Ok(self)
    }

    /// Tells `observer` how every purge went: how many locks it deleted, or why it failed.
    #[must_use]
    pub fn with_purge_observer(mut self, observer: impl Fn(&Result<u64>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
}

/// Locks resources of one kind. Cheap to clone; all clones are closed together.
///
/// Its purger runs until it is [closed](Self::close), or the last clone is dropped. Needs a tokio runtime.
#[derive(Clone)]
pub struct ResourceLocker(Arc<Inner>);

struct Inner {
    lock: Arc<dyn Lock>,
    settings: ResourceLockerSettings,
    closed: watch::Sender<bool>,
    purger: Mutex<Option<JoinHandle<()>>>,
}

impl ResourceLocker {
    /// Locks resources of this kind in a database.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the kind is too long.
    pub fn open<DB: Backend>(pool: Pool<DB>, kind: &Namespace, settings: ResourceLockerSettings) -> Result<Self> {
        let namespace = Namespace::new(format!("{NAMESPACE_PREFIX}{kind}"))?;
        let lock = DatabaseLock::new(pool).with_namespace(namespace).with_length(settings.ttl)?;
        Ok(Self::with_parts(Arc::new(lock.clone()), Arc::new(lock), settings))
    }

    /// Locks resources in another store. The time to live is then the store's own.
    pub fn with_parts(lock: Arc<dyn Lock>, purge: Arc<dyn Purge>, settings: ResourceLockerSettings) -> Self {
        let (closed, receiver) = watch::channel(false);
        let purger = purger::start(purge, settings.purger_period, settings.observer.clone(), receiver);
        Self(Arc::new(Inner { lock, settings, closed, purger: Mutex::new(Some(purger)) }))
    }

    /// Tries once to lock a resource for a client.
    ///
    /// # Errors
    /// [`Error::Closed`]; the store's.
    pub async fn lock(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained> {
        self.check_open()?;
        self.0.lock.obtain_no_wait(resource, client).await
    }

    /// Locks a resource, and tries again while others hold it, for a bounded number of times. Dropped while it waits,
    /// it holds nothing.
    ///
    /// # Errors
    /// [`Error::MaxRetries`] if others held it through all tries; [`Error::Closed`] if the locker was closed, also while
    /// this waits; the store's at once.
    pub async fn acquire(&self, resource: &ResourceId, client: &ClientId) -> Result<Lease> {
        let mut run = self.0.settings.acquire.start();
        loop {
            if let Obtained::Lease(lease) = self.lock(resource, client).await? {
                return Ok(lease);
            }
            let tries = run.attempts().saturating_add(1);
            let Some(wait) = run.next() else {
                return Err(Error::MaxRetries { resource: resource.to_string(), tries });
            };
            self.wait(wait).await?;
        }
    }

    /// Unlocks, so that the next who asks gets the resource at once. False means that the lock was not the caller's any
    /// more: it had expired, and others may have held it meanwhile; nothing was changed then. After an error it is
    /// tried again, for a bounded number of times and until the lock has expired by itself. Works also after the locker was
    /// closed, then with one try.
    ///
    /// # Errors
    /// [`Error::UnlockFailed`] with the last error after all tries, or once the lock has expired; [`Error::Closed`] if the
    /// locker was closed between tries. The lock then ends by expiry.
    pub async fn unlock(&self, lock: &Lease) -> Result<bool> {
        let mut run = self.0.settings.unlock.start();
        loop {
            let failure = match self.0.lock.release(lock).await {
                Ok(true) => return Ok(true),
                Ok(false) if run.attempts() == 0 => return Ok(false),
                Ok(false) => match self.was_unlocked(lock).await {
                    Ok(unlocked) => return Ok(unlocked),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let tries = run.attempts().saturating_add(1);
            let wait = if lock.remaining().is_zero() { None } else { run.next() };
            let Some(wait) = wait else {
                let (resource, source) = (lock.resource().to_string(), Box::new(failure));
                return Err(Error::UnlockFailed { resource, tries, source });
            };
            self.wait(wait).await?;
        }
    }

    /// Lets a lock last for its time to live from now; `None` if it is lost.
    ///
    /// # Errors
    /// [`Error::Closed`]; the store's.
    pub async fn renew(&self, lock: &Lease) -> Result<Option<Lease>> {
        self.check_open()?;
        self.0.lock.renew(lock).await
    }

    /// Renews a lock in the background, for work that may take longer than the time to live.
    pub fn keep(&self, lock: Lease) -> LeaseGuard {
        LeaseGuard::new(Arc::clone(&self.0.lock), lock)
    }

    /// How it stands with a resource; `None` if it was never locked, or was purged.
    ///
    /// # Errors
    /// The store's.
    pub async fn status(&self, resource: &ResourceId) -> Result<Option<LeaseStatus>> {
        self.0.lock.status(resource).await
    }

    /// How it stands with the resources after `after`, in the order of their ids; at most `limit`.
    ///
    /// # Errors
    /// The store's.
    pub async fn statuses(&self, after: Option<&ResourceId>, limit: u32) -> Result<Vec<LeaseStatus>> {
        self.0.lock.statuses(after, limit).await
    }

    /// Stops the purger and waits for it, and ends all waiting with [`Error::Closed`]. Locks that are held stay
    /// held. Doing it twice is harmless; who comes second waits, too.
    pub async fn close(&self) {
        self.0.closed.send_replace(true);
        let mut purger = self.0.purger.lock().await;
        let Some(mut task) = purger.take() else { return };
        if tokio::time::timeout(purger::STOP_WITHIN, &mut task).await.is_err() {
            tracing::warn!(target: "sagastore", "a purge did not stop in time and was abandoned");
            task.abort();
        }
    }

    fn check_open(&self) -> Result<()> {
        if *self.0.closed.borrow() { Err(Error::Closed { doing: CLOSED }) } else { Ok(()) }
    }

    /// Waits unless the locker is closed meanwhile.
    async fn wait(&self, wait: Duration) -> Result<()> {
        let mut closed = self.0.closed.subscribe();
        let (sleep, end) = (pin!(tokio::time::sleep(wait)), pin!(closed.wait_for(|closed| *closed)));
        match select(end, sleep).await {
            Either::Left(_) => Err(Error::Closed { doing: CLOSED }),
            Either::Right(_) => Ok(()),
        }
    }

    /// Whether a try of which the answer was lost did it.
    async fn was_unlocked(&self, lock: &Lease) -> Result<bool> {
        let status = self.0.lock.status(&lock.resource_id).await?;
        let as_it_was = status.filter(|status| status.sequence == lock.sequence);
        // As long as it has not expired nobody else gets it, nor is it purged, before it is released.
        Ok(as_it_was.map_or(!lock.remaining().is_zero(), |status| status.state == LeaseState::Released))
    }
}
