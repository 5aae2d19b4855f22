//! Writes that depend on a lease.

use sqlx::Transaction;

use super::ids::{FencingToken, Resource};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::message_store::MessageStore;

/// The token with which writes are fenced: they take effect only while it is current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// What the lease is on.
    pub resource: Resource,
    /// The token of the acquisition.
    pub token: FencingToken,
}

impl Fence {
    /// As [`Lease::fence`](super::lease::Lease::fence).
    ///
    /// # Errors
    /// As [`Lease::fence`](super::lease::Lease::fence).
    pub async fn hold<DB: Backend>(&self, tx: &mut Transaction<'_, DB>) -> Result<()> {
        DB::Store::default().fence(tx, self).await
    }

    pub(crate) fn refusal(&self) -> Error {
        Error::Fenced { resource: self.resource.to_string(), token: self.token }
    }
}
