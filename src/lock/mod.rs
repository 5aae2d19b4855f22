//! Locks whose holders are fenced.

mod backoff;
mod database_lock;
mod fence;
mod guard;
mod ids;
mod purger;
pub(crate) mod tables;

pub mod lease;
pub mod resource;

pub use backoff::{
    Backoff, DEFAULT_BACKOFF_ATTEMPTS, DEFAULT_BACKOFF_CAP, DEFAULT_BACKOFF_FIRST, DEFAULT_BACKOFF_MULTIPLIER,
    ExponentialBackoff,
};
pub(crate) use database_lock::is_tried_again;
pub use database_lock::{DEFAULT_LEASE_NAMESPACE, DatabaseLock, Lock, MAX_LOCK_CONTENTION_RETRIES};
pub use fence::Fence;
pub use guard::LeaseGuard;
pub use ids::{
    ClientId, FencingToken, MAX_CLIENT_ID_BYTES, MAX_NAMESPACE_BYTES, MAX_RESOURCE_ID_BYTES, Namespace, Resource,
    ResourceId,
};
pub use purger::{PURGE_GRACE, PURGE_STEP, PURGE_WITHIN, PURGER_PERIOD, Purge};
