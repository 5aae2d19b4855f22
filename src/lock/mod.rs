//! Locks whose holders are fenced.

mod backoff;
mod ids;

pub use backoff::{
    Backoff, DEFAULT_BACKOFF_ATTEMPTS, DEFAULT_BACKOFF_CAP, DEFAULT_BACKOFF_FIRST, DEFAULT_BACKOFF_MULTIPLIER,
    ExponentialBackoff,
};
pub use ids::{
    ClientId, FencingToken, MAX_CLIENT_ID_BYTES, MAX_NAMESPACE_BYTES, MAX_RESOURCE_ID_BYTES, Namespace, Resource,
    ResourceId,
};
