//! Leases that are renewed for as long as they are needed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::database_lock::Lock;
use super::fence::Fence;
use super::lease::Lease;
use crate::error::{Error, Result};

/// A lease is renewed when this part of its length is left.
const RENEW_WHEN_LEFT: f64 = 2.0 / 3.0;
/// A renewal that failed is tried again after this part of the length.
const RETRY_AFTER: f64 = 1.0 / 20.0;

/// Renews a lease in the background until it is [released](Self::release) or dropped, and tells when it is lost.
///
/// It believes in the lease no longer than [`Lease::trusted_until`], also if the database cannot be reached. Dropped,
/// it stops renewing at once; the lease then ends by expiry. Needs a tokio runtime.
#[derive(Debug)]
pub struct LeaseGuard {
    lock: Arc<dyn Lock>,
    state: watch::Receiver<State>,
    renewal: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct State {
    lease: Lease,
    /// Why it is lost.
    lost: Option<String>,
}

impl std::fmt::Debug for dyn Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl LeaseGuard {
    /// Keeps a lease, which this lock granted.
    pub fn new(lock: Arc<dyn Lock>, lease: Lease) -> Self {
        let (sender, state) = watch::channel(State { lease, lost: None });
        let renewal = tokio::spawn(renew(Arc::clone(&lock), sender));
        Self { lock, state, renewal }
    }

    /// The lease as of its last renewal.
    pub fn lease(&self) -> Lease {
        self.state.borrow().lease.clone()
    }

    /// What writes are fenced with.
    pub fn as_fence(&self) -> Fence {
        self.state.borrow().lease.as_fence()
    }

    /// True once the lease is lost, or can no longer be trusted, as when its renewal did not get its turn.
    pub fn is_lost(&self) -> bool {
        let state = self.state.borrow();
        state.lost.is_some() || state.lease.remaining().is_zero()
    }

    /// Waits until the lease is lost, at the latest when it can no longer be trusted, and gives
    /// [`Error::LockLost`] with the reason. Waits for ever while it is renewed.
    pub fn lost(&self) -> impl Future<Output = Error> + Send + 'static {
        let mut state = self.state.clone();
        async move {
            // An error means that the guard is gone, and with it who renewed.
            let _ = state.wait_for(|state| state.lost.is_some()).await;
            let lost = state.borrow().clone();
            let detail = lost.lost.unwrap_or_else(|| "it is no longer renewed".to_owned());
            Error::LockLost { resource: lost.lease.resource().to_string(), detail }
        }
    }

    /// Runs `work` for as long as the lease is held; it is dropped when the lease is lost.
    ///
    /// # Errors
    /// [`Error::LockLost`].
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let (work, lost) = (pin!(work), pin!(self.lost()));
        match select(work, lost).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right((lost, _)) => Err(lost),
        }
    }

    /// Stops renewing and gives the lease back. Says whether it was still held.
    ///
    /// # Errors
    /// The database's. The lease is no longer renewed then.
    pub async fn release(mut self) -> Result<bool> {
        self.renewal.abort();
        // Only when the renewal has ended can nothing renew what is released. That it was aborted is no news.
        let _ = (&mut self.renewal).await;
        let lease = self.lease();
        self.lock.release(&lease).await
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Renews until the lease is lost.
async fn renew(lock: Arc<dyn Lock>, state: watch::Sender<State>) {
    let lost = loop {
        let lease = state.borrow().lease.clone();
        let length = lease.length();
        tokio::time::sleep(lease.remaining().saturating_sub(length.mul_f64(RENEW_WHEN_LEFT))).await;
        match renew_in_time(lock.as_ref(), &lease).await {
            Ok(renewed) => state.send_modify(|state| state.lease = renewed),
            Err(lost) => break lost,
        }
    };
    tracing::warn!(target: "sagastore", resource = %state.borrow().lease.resource(), reason = %lost, "a lease is lost");
    state.send_modify(|state| state.lost = Some(lost));
    // Whoever asks later is told, too.
    state.closed().await;
}

/// Tries until it is renewed or can no longer be trusted; says why it is lost.
async fn renew_in_time(lock: &dyn Lock, lease: &Lease) -> std::result::Result<Lease, String> {
    let until = tokio::time::Instant::from_std(lease.trusted_until());
    let pause = lease.length().mul_f64(RETRY_AFTER).max(Duration::from_millis(1));
    let mut last = "the database did not answer in time".to_owned();
    while Instant::now() < lease.trusted_until() {
        match tokio::time::timeout_at(until, lock.renew(lease)).await {
            Ok(Ok(Some(renewed))) => return Ok(renewed),
            Ok(Ok(None)) => return Err("it expired, was taken over or removed".to_owned()),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => break,
        }
        tokio::time::sleep(pause.min(lease.remaining())).await;
    }
    Err(format!("it could not be renewed before it expired: {last}"))
}
