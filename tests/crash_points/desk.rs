//! What a process works with.

use std::sync::Arc;

use sagastore::{Backend, MessageId, OutboxRecord, Persister, SnapshotFrequency};
use sqlx::Pool;
use uuid::Uuid;

use super::journal::Journal;
use super::progress;
use super::saga::Order;
use super::site::Site;

/// So that some units of work take snapshots, and others none.
pub(crate) const SNAPSHOT_EVERY: u64 = 3;

/// A database, and what is noted outside it.
pub(crate) struct Desk<DB: Site> {
    pub(crate) pool: Pool<DB>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) saga: Order,
}

impl<DB: Site> Clone for Desk<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), journal: Arc::clone(&self.journal), saga: self.saga.clone() }
    }
}

impl<DB: Site> Desk<DB> {
    pub(crate) fn new(pool: Pool<DB>, journal: Journal) -> Self {
        Self { pool, journal: Arc::new(journal), saga: Order::default() }
    }

    pub(crate) fn persister(&self) -> Persister<DB> {
        persister(DB::Store::default())
    }

    /// The program's own rows, sorted.
    pub(crate) async fn own(&self) -> anyhow::Result<Vec<String>> {
        DB::texts(&mut *self.pool.acquire().await?, "SELECT entry FROM crash_own ORDER BY entry".to_owned()).await
    }

    pub(crate) async fn count(&self, table: &str) -> anyhow::Result<u64> {
        let counted = DB::numbers(&mut *self.pool.acquire().await?, format!("SELECT COUNT(*) FROM {table}")).await?;
        Ok(u64::try_from(counted[0])?)
    }
}

pub(crate) fn persister<DB: Backend>(store: DB::Store) -> Persister<DB> {
    Persister::with_store(Arc::new(store))
        .with_snapshot_frequency(SnapshotFrequency::every(SNAPSHOT_EVERY))
        .with_kept_snapshots(1)
}

/// Delivers a message: it is noted outside the database.
pub(crate) fn publish(journal: &Journal, record: &OutboxRecord) -> std::io::Result<()> {
    progress::publish(|| journal.note("published", &record.envelope.message_id.to_string()))
}

/// The id of a message that comes from outside, however often it comes.
pub(crate) fn message_id(name: &str) -> MessageId {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).into()
}
