//! The statements of a database.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use super::CorrelationKey;
use crate::error::Result;
use crate::ids::InstanceId;

/// Keeps the keys of instances.
#[async_trait]
pub trait MapperTables<DB: Database>: Send + Sync {
    /// The instance of this saga that has the key.
    async fn holder(&self, conn: &mut DB::Connection, saga: &str, key: &CorrelationKey) -> Result<Option<InstanceId>>;

    /// Gives a key to an instance; false if any has it.
    async fn claim(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &str,
        key: &CorrelationKey,
        instance: &InstanceId,
    ) -> Result<bool>;

    /// Takes a key from an instance.
    async fn release(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &str,
        key: &CorrelationKey,
        instance: &InstanceId,
    ) -> Result<()>;

    /// The keys of an instance.
    async fn keys(
        &self,
        conn: &mut DB::Connection,
        saga: &str,
        instance: &InstanceId,
    ) -> Result<BTreeSet<CorrelationKey>>;

    /// Instances of a saga that are not completed, by the keys of their streams; at most `limit`.
    async fn live_instances(
        &self,
        conn: &mut DB::Connection,
        saga: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, InstanceId)>>;
}
