//! Leases: locks that end by themselves unless they are renewed.

use std::time::{Duration, Instant};

use sqlx::Transaction;

use super::fence::Fence;
use super::ids::{ClientId, FencingToken, Namespace, Resource, ResourceId};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::timestamp::Timestamp;

/// Length of a lease by default.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);
/// Shortest lease.
pub const MIN_LEASE: Duration = Duration::from_millis(1);
/// Longest lease: a hundred years of 365 days.
pub const MAX_LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// One acquisition of a resource, until it expires, is released, or is taken over after its expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Of which resources this is one.
    pub namespace: Namespace,
    /// What it is on.
    pub resource_id: ResourceId,
    /// Who holds it.
    pub client_id: ClientId,
    /// When it ends, by the database's clock.
    pub expiry: Timestamp,
    /// The fencing token of this acquisition. Renewing keeps it.
    pub sequence: FencingToken,
    /// See [`trusted_until`](Self::trusted_until).
    trusted_until: Instant,
    length: Duration,
}

impl Lease {
    /// A lease that a store granted for `length` when it was asked at `asked`, for implementations of
    /// [`Lock`](super::Lock). The instant must be taken before the store is asked. A lease without end is trusted for
    /// [`MAX_LEASE`] at a time.
    pub fn granted(
        resource: &Resource,
        client: &ClientId,
        sequence: FencingToken,
        expiry: Timestamp,
        asked: Instant,
        length: Duration,
    ) -> Self {
        Self {
            namespace: resource.namespace.clone(),
            resource_id: resource.id.clone(),
            client_id: client.clone(),
            expiry,
            sequence,
            trusted_until: asked + length.min(MAX_LEASE),
            length,
        }
    }

    /// The same lease, renewed by a store that was asked at `asked`.
    #[must_use]
    pub fn renewed(&self, expiry: Timestamp, asked: Instant) -> Self {
        Self { expiry, trusted_until: asked + self.length.min(MAX_LEASE), ..self.clone() }
    }

    /// Until when the holder may believe that it holds the lease, by the clock of this process. It counts from
    /// *before* the database was asked, so the database does not think the lease over any earlier. A process
    /// that was suspended does not notice in time: only a [fence](Self::fence) protects what it writes.
    pub fn trusted_until(&self) -> Instant {
        self.trusted_until
    }

    /// How long the holder may still believe that it holds the lease; zero if no longer.
    pub fn remaining(&self) -> Duration {
        self.trusted_until.saturating_duration_since(Instant::now())
    }

    /// How long it was granted for.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// What the lease is on, with its namespace.
    pub fn resource(&self) -> Resource {
        Resource { namespace: self.namespace.clone(), id: self.resource_id.clone() }
    }

    /// What a write is fenced with, as a value, such as for a
    /// [unit of work](crate::UnitOfWork::fence).
    pub fn as_fence(&self) -> Fence {
        Fence { resource: self.resource(), token: self.sequence }
    }

    /// Makes what this transaction writes depend on the lease: fails unless the token is current, and keeps
    /// others from taking the lease over until the transaction ends. Call it before the first write.
    ///
    /// A lease that expired, and that nobody took over or [purged](super::resource), still is current: nobody
    /// would be protected by refusing it. What it costs: one statement. As long as the transaction is open nobody
    /// can take the lease over, however long ago it expired, so bound how long a transaction may be idle.
    ///
    /// A transaction that sees the past, as one at REPEATABLE READ does from its first statement on, is refused a
    /// lease that was obtained since, and may be let through with one that was released since: nobody else can
    /// get that before its end, so no newer token is ever overtaken.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the lease was released, taken over or removed: roll the transaction back. The database's.
    pub async fn fence<DB: Backend>(&self, tx: &mut Transaction<'_, DB>) -> Result<()> {
        self.as_fence().hold(tx).await
    }
}

/// What obtaining a lease came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Obtained {
    /// It is granted.
    Lease(Lease),
    /// It is held: already locked by another acquisition, also if that was the same client's.
    Held,
}

impl Obtained {
    /// The lease, if it was granted.
    pub fn lease(self) -> Option<Lease> {
        match self {
            Self::Lease(lease) => Some(lease),
            Self::Held => None,
        }
    }

    /// True if others hold it.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Held)
    }
}

/// How it stands with a resource, as one reading of the database and its clock has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStatus {
    /// The resource.
    pub resource: Resource,
    /// Held, expired, or released.
    pub state: LeaseState,
    /// Who holds it, or held it last; `None` once it is released.
    pub client_id: Option<ClientId>,
    /// The token of the last acquisition.
    pub sequence: FencingToken,
    /// When it was obtained.
    pub obtained_at: Timestamp,
    /// When it ends, ended, or was released.
    pub expiry: Timestamp,
    /// How long it is still held; zero if it is not.
    pub remaining: Duration,
}

impl LeaseStatus {
    /// For locks of one's own.
    pub fn new(
        resource: Resource,
        state: LeaseState,
        client_id: Option<ClientId>,
        sequence: FencingToken,
        obtained_at: Timestamp,
        expiry: Timestamp,
        remaining: Duration,
    ) -> Self {
        Self { resource, state, client_id, sequence, obtained_at, expiry, remaining }
    }
}

/// Whether a lease is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Somebody holds it.
    Held,
    /// It was not renewed in time. The next who asks gets it, after the lock-delay if one was set.
    Expired,
    /// Its holder gave it back. The next who asks gets it.
    Released,
}

/// A row as its columns say.
#[derive(Debug)]
pub(crate) struct LeaseRow {
    pub(crate) resource_id: String,
    pub(crate) client_id: Option<String>,
    pub(crate) token: i64,
    pub(crate) obtained_at: i64,
    pub(crate) expires_at: i64,
    /// The database's clock.
    pub(crate) now: i64,
}

impl LeaseRow {
    pub(crate) fn status(self, namespace: &Namespace) -> Result<LeaseStatus> {
        let left = u64::try_from(self.expires_at.saturating_sub(self.now)).unwrap_or_default();
        let state = match (&self.client_id, left) {
            (None, _) => LeaseState::Released,
            (Some(_), 0) => LeaseState::Expired,
            (Some(_), _) => LeaseState::Held,
        };
        Ok(LeaseStatus {
            resource: Resource { namespace: namespace.clone(), id: ResourceId::new(self.resource_id)? },
            state,
            client_id: self.client_id.map(ClientId::new).transpose()?,
            sequence: FencingToken::new(self.token),
            obtained_at: Timestamp::from_micros(self.obtained_at),
            expiry: Timestamp::from_micros(self.expires_at),
            remaining: if state == LeaseState::Held { Duration::from_micros(left) } else { Duration::ZERO },
        })
    }
}

/// Fails if a lease cannot be that long.
pub(crate) fn check_length(what: &'static str, length: Duration) -> Result<Duration> {
    if (MIN_LEASE..=MAX_LEASE).contains(&length) {
        return Ok(length);
    }
    Err(Error::invalid(what, format!("it is {length:?}; use one between {MIN_LEASE:?} and {MAX_LEASE:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_cannot_be_shorter_than_a_millisecond_or_longer_than_a_century() {
        assert!(check_length("lease", Duration::ZERO).is_err());
        assert!(check_length("lease", Duration::MAX).is_err());
        assert!(check_length("lease", Duration::from_secs(u64::MAX)).is_err());
        assert!(check_length("lease", MIN_LEASE).is_ok() && check_length("lease", MAX_LEASE).is_ok());
    }
}
