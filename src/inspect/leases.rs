//! Leases, as a list shows them.

use super::tables::LeaseColumns;
use crate::error::Result;
use crate::lock::{ClientId, FencingToken, Namespace, ResourceId};
use crate::timestamp::Timestamp;

/// A resource that was leased once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseSummary {
    /// Of which resources this is one.
    pub namespace: Namespace,
    /// The resource.
    pub resource_id: ResourceId,
    /// Who held it last; `None` if it was released.
    pub client_id: Option<ClientId>,
    /// The token of the last acquisition.
    pub token: FencingToken,
    /// When it was obtained, by the database's clock.
    pub obtained_at: Timestamp,
    /// When it ends, or ended.
    pub expires_at: Timestamp,
    /// It was held when it was looked at.
    pub held: bool,
}

impl LeaseSummary {
    pub(super) fn new(columns: LeaseColumns) -> Result<Self> {
        Ok(Self {
            namespace: Namespace::new(columns.namespace)?,
            resource_id: ResourceId::new(columns.resource_id)?,
            held: columns.client_id.is_some() && columns.expires_at > columns.now,
            client_id: columns.client_id.map(ClientId::new).transpose()?,
            token: FencingToken::new(columns.token),
            obtained_at: Timestamp::from_micros(columns.obtained_at),
            expires_at: Timestamp::from_micros(columns.expires_at),
        })
    }
}
