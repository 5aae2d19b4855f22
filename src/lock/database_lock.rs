//! Obtaining, renewing and releasing leases.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::Pool;
use uuid::Uuid;

use super::backoff::{Backoff, ExponentialBackoff};
use super::ids::{ClientId, Namespace, Resource, ResourceId};
use super::lease::{DEFAULT_LEASE, Lease, LeaseStatus, Obtained, check_length};
use super::purger::{PURGE_GRACE, PURGE_STEP};
use super::tables::{Claim, Grant, LeaseTables, PurgeStep};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::guarded_connection::GuardedConnection;

/// The namespace of leases, unless [`DatabaseLock::with_namespace`] says otherwise.
pub const DEFAULT_LEASE_NAMESPACE: &str = "lease";
/// How often a statement that met a deadlock or the like is sent again.
pub const MAX_LOCK_CONTENTION_RETRIES: u32 = 20;
/// Longest wait before it is.
const CONTENTION_WAIT: Duration = Duration::from_millis(20);

/// Obtains, renews and releases leases.
#[async_trait]
pub trait Lock: Send + Sync {
    /// Tries once, and answers at once: on SQLite after `busy_timeout` at the latest, if another keeps the file busy.
    ///
    /// # Errors
    /// The database's. The lease may have been granted nevertheless: it then expires unused.
    async fn obtain_no_wait(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained>;

    /// As [`obtain_with_backoff`](Self::obtain_with_backoff), with this lock's own backoff.
    ///
    /// # Errors
    /// As [`obtain_no_wait`](Self::obtain_no_wait).
    async fn obtain(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained>;

    /// Tries, and tries again while it is held, as often and as long as `backoff` says. Dropped while
    /// it waits, it holds nothing; dropped while the database is asked, it may have been granted a lease that
    /// expires unused.
    ///
    /// # Errors
    /// As [`obtain_no_wait`](Self::obtain_no_wait); the first error ends it.
    async fn obtain_with_backoff(
        &self,
        resource: &ResourceId,
        client: &ClientId,
        backoff: &dyn Backoff,
    ) -> Result<Obtained> {
        let mut run = backoff.start();
        loop {
            let obtained = self.obtain_no_wait(resource, client).await?;
            let wait = if obtained.is_held() { run.next() } else { None };
            let Some(wait) = wait else { return Ok(obtained) };
            tokio::time::sleep(wait).await;
        }
    }

    /// Lets a lease last for its length from now. `None` if it is lost: released, expired, taken over or
    /// removed; nothing was changed then.
    ///
    /// # Errors
    /// The database's. It may have been renewed nevertheless.
    async fn renew(&self, lease: &Lease) -> Result<Option<Lease>>;

    /// Gives a lease back, so that the next who asks gets it at once. Says whether it was still held; if not,
    /// nothing was changed, and others may have held the resource meanwhile.
    ///
    /// # Errors
    /// The database's. It may have been released nevertheless.
    async fn release(&self, lease: &Lease) -> Result<bool>;

    /// How it stands with a resource; `None` if it was never leased, or was purged.
    ///
    /// # Errors
    /// The database's.
    async fn status(&self, resource: &ResourceId) -> Result<Option<LeaseStatus>>;

    /// How it stands with the resources after `after`, in the order of their ids; at most `limit`.
    ///
    /// # Errors
    /// The database's.
    async fn statuses(&self, after: Option<&ResourceId>, limit: u32) -> Result<Vec<LeaseStatus>>;
}

/// Leases in the database, each a row of `saga_lease`. Cheap to clone.
///
/// The database's clock alone decides what has expired; the clocks of the clients may differ.
#[derive(Debug)]
pub struct DatabaseLock<DB: Backend> {
    pool: Pool<DB>,
    store: DB::Store,
    namespace: Namespace,
    length: Duration,
    lock_delay: Duration,
    backoff: Arc<dyn Backoff>,
}

impl<DB: Backend> Clone for DatabaseLock<DB> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            store: self.store.clone(),
            namespace: self.namespace.clone(),
            backoff: Arc::clone(&self.backoff),
            ..*self
        }
    }
}

impl<DB: Backend> DatabaseLock<DB> {
    /// With all defaults: leases of [`DEFAULT_LEASE`], the default [`ExponentialBackoff`], no lock-delay.
    pub fn new(pool: Pool<DB>) -> Self {
        Self {
            pool,
            store: DB::Store::default(),
            namespace: Namespace::new(DEFAULT_LEASE_NAMESPACE).expect("BUG: the default is a namespace"),
            length: DEFAULT_LEASE,
            lock_delay: Duration::ZERO,
            backoff: Arc::new(ExponentialBackoff::default()),
        }
    }

    /// Leases resources of another kind.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Leases last so long.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between [`MIN_LEASE`](super::lease::MIN_LEASE) and
    /// [`MAX_LEASE`](super::lease::MAX_LEASE).
    pub fn with_length(mut self, length: Duration) -> Result<Self> {
        self.length = check_length("length of a lease", length)?;
        Ok(self)
    }

    /// After a lease expired, and was not released, nobody gets it for so long: time for what its holder may
    /// have set going to come to an end, where that cannot be fenced (as in Consul's sessions). Default zero.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is longer than [`MAX_LEASE`](super::lease::MAX_LEASE).
    pub fn with_lock_delay(mut self, delay: Duration) -> Result<Self> {
        if !delay.is_zero() {
            check_length("lock-delay", delay)?;
        }
        self.lock_delay = delay;
        Ok(self)
    }

    /// [`obtain`](Lock::obtain) waits so.
    #[must_use]
    pub fn with_backoff(mut self, backoff: impl Backoff + 'static) -> Self {
        self.backoff = Arc::new(backoff);
        self
    }

    /// Deletes the rows of all resources of the namespace that have been free for [`PURGE_GRACE`], and says how many.
    /// Never needed for correctness: it only saves space. Goes through them in steps of [`PURGE_STEP`], each a short
    /// transaction of its own, so what was deleted before an error, or before the call was dropped, is gone.
    ///
    /// # Errors
    /// The database's.
    pub async fn purge(&self) -> Result<u64> {
        let (mut purged, mut after, mut contentions) = (0, None, 0);
        loop {
            let begun = Instant::now();
            match self.purge_step(after.as_ref()).await {
                Ok(step) => {
                    purged += step.purged;
                    let Some(reached) = step.reached else { return Ok(purged) };
                    after = Some(reached);
                    self.store.let_others_write(begun).await;
                }
                Err(error) if is_tried_again(&error, contentions) => {
                    contentions += 1;
                    tokio::time::sleep(CONTENTION_WAIT.mul_f64(fastrand::f64())).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn purge_step(&self, after: Option<&ResourceId>) -> Result<PurgeStep> {
        let mut conn = self.connect().await?;
        let step = self.store.purge(&mut conn, &self.namespace, after, PURGE_STEP, PURGE_GRACE).await;
        conn.release();
        step
    }

    async fn connect(&self) -> Result<GuardedConnection<DB>> {
        GuardedConnection::take(&self.pool, &self.store, "taking a connection for a lock").await
    }

    fn resource(&self, id: &ResourceId) -> Resource {
        Resource { namespace: self.namespace.clone(), id: id.clone() }
    }

    async fn claim_once(&self, claim: &Claim<'_>) -> Result<Obtained> {
        let mut conn = self.connect().await?;
        let asked = Instant::now();
        let granted = self.store.claim(&mut conn, claim).await;
        conn.release();
        let lease = |grant: Grant| {
            let Grant { token, expiry } = grant;
            Obtained::Lease(Lease::granted(claim.resource, claim.client, token, expiry, asked, claim.length))
        };
        Ok(granted?.map_or(Obtained::Held, lease))
    }

    /// Claims again after a deadlock or the like, and once after the connection was lost: what the same request was
    /// granted before it gets again.
    async fn claim(&self, claim: &Claim<'_>) -> Result<Obtained> {
        let (mut contentions, mut lost) = (0, false);
        loop {
            match self.claim_once(claim).await {
                Err(error) if is_tried_again(&error, contentions) => {
                    contentions += 1;
                    tokio::time::sleep(CONTENTION_WAIT.mul_f64(fastrand::f64())).await;
                }
                Err(Error::Disconnected { .. }) if !lost => lost = true,
                claimed => return claimed,
            }
        }
    }
}

/// After a deadlock or the like; not if the database has waited in vain.
pub(crate) fn is_tried_again(error: &Error, contentions: u32) -> bool {
    matches!(error, Error::Contention { .. }) && !error.has_waited() && contentions < MAX_LOCK_CONTENTION_RETRIES
}

#[async_trait]
impl<DB: Backend> Lock for DatabaseLock<DB> {
    async fn obtain_no_wait(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained> {
        let resource = self.resource(resource);
        let (length, lock_delay) = (self.length, self.lock_delay);
        self.claim(&Claim { resource: &resource, client, request: Uuid::now_v7(), length, lock_delay }).await
    }

    async fn obtain(&self, resource: &ResourceId, client: &ClientId) -> Result<Obtained> {
        self.obtain_with_backoff(resource, client, self.backoff.as_ref()).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Option<Lease>> {
        let mut conn = self.connect().await?;
        let asked = Instant::now();
        let expiry = self.store.extend(&mut conn, &lease.resource(), lease.sequence, lease.length()).await;
        conn.release();
        Ok(expiry?.map(|expiry| lease.renewed(expiry, asked)))
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        let mut conn = self.connect().await?;
        let released = self.store.free(&mut conn, &lease.resource(), lease.sequence).await;
        conn.release();
        released
    }

    async fn status(&self, resource: &ResourceId) -> Result<Option<LeaseStatus>> {
        let mut conn = self.connect().await?;
        let status = self.store.status(&mut conn, &self.resource(resource)).await;
        conn.release();
        status
    }

    async fn statuses(&self, after: Option<&ResourceId>, limit: u32) -> Result<Vec<LeaseStatus>> {
        let mut conn = self.connect().await?;
        let statuses = self.store.statuses(&mut conn, &self.namespace, after, limit).await;
        conn.release();
        statuses
    }
}
