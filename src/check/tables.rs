//! The statements that a database must have to be checked, beside those by which it is looked into.

use async_trait::async_trait;
use sqlx::Database;

use crate::error::Result;
use crate::slow_lane::SlowRow;

/// A mark of the outbox, by its place in the order of delivery.
#[derive(Clone, Copy, Debug)]
pub struct MarkRow {
    pub recorded_at: i64,
    pub stream: i64,
    pub commit_no: i64,
    pub message_count: i64,
    /// The commit's time and number of messages; `None` if it is not there.
    pub commit: Option<(i64, i64)>,
}

/// A row of the outbox's slow lane.
pub struct OutboxRow {
    pub partition: i64,
    /// How many messages its commit has; `None` if it has none, or if that is not there.
    pub commit_messages: Option<i64>,
    pub row: SlowRow,
}

/// Some rows in order.
pub struct OutboxRows {
    pub rows: Vec<OutboxRow>,
    /// It ended at a limit: there may be more.
    pub more: bool,
}

/// The statements of a database.
#[async_trait]
pub trait CheckTables<DB: Database>: Send + Sync {
    /// Streams after the key `after`, up to the key `to`, each with the last commit that handled a message which
    /// was handled before; at most `limit`.
    async fn repeated_handlings(
        &self,
        conn: &mut DB::Connection,
        after: i64,
        to: i64,
        limit: u32,
    ) -> Result<Vec<(i64, i64)>>;

    /// Marks after this one, or from the first on; at most `limit`.
    async fn marks(&self, conn: &mut DB::Connection, after: Option<&MarkRow>, limit: u32) -> Result<Vec<MarkRow>>;

    /// Rows of the slow lane whose numbers come after `after`; at most `limit`, and about
    /// [`PAGE_BYTES`](crate::PAGE_BYTES).
    async fn outbox_rows(&self, conn: &mut DB::Connection, after: i64, limit: u32) -> Result<OutboxRows>;
}
