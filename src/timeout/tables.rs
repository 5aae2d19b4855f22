//! The statements that a database must have for timeouts.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use super::{Due, PendingTimeout, TimeoutStats};
use crate::error::Result;
use crate::lock::tables::micros;
use crate::saga::SagaStream;
use crate::stream_name::StreamName;

/// A timeout on its way to its row.
pub struct NewTimeout<'a> {
    pub stream: &'a SagaStream,
    /// Of the unit of work that schedules it, which is written already.
    pub commit_number: i64,
    pub index: i64,
    pub name: &'a str,
    pub due: Due,
    pub contents: String,
    pub body: &'a [u8],
}

impl NewTimeout<'_> {
    /// The time at which it is due as two parameters, of which one is null: a time, and how long from now. What comes
    /// after the end of the range is never due.
    pub fn due_parts(&self) -> (Option<i64>, Option<i64>) {
        match self.due {
            Due::At(at) => (Some(at.as_micros()), None),
            Due::After(after) => (None, Some(micros(after))),
        }
    }
}

/// How it stands with what is due.
#[derive(Clone, Copy, Debug)]
pub struct DueLook {
    /// Something is due in the partitions that were asked for.
    pub any: bool,
    /// In how long the next one is due in any partition; `None` if there is none.
    pub next: Option<Duration>,
}

/// Partitions are given as a bit each.
#[async_trait]
pub trait TimeoutTables<DB: Database>: Send + Sync {
    /// Stores one in place of none; false if its commit is not there.
    async fn insert_timeout(&self, tx: &mut Transaction<'_, DB>, new: &NewTimeout<'_>) -> Result<bool>;

    /// Deletes the timeouts of these names, pending ones before those in the outbox: whoever moves one meanwhile has
    /// done so when the outbox is looked at.
    async fn delete_timeouts(&self, tx: &mut Transaction<'_, DB>, stream: &StreamName, names: &[&str]) -> Result<()>;

    /// Deletes all timeouts of a stream, in the same order.
    async fn delete_all_timeouts(&self, tx: &mut Transaction<'_, DB>, stream: &StreamName) -> Result<()>;

    /// Timeouts of a stream with names after `after`, in the order of the names, at most `limit`.
    async fn timeouts_of(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        after: &str,
        limit: u32,
    ) -> Result<Vec<PendingTimeout>>;

    async fn count_timeouts(&self, conn: &mut DB::Connection) -> Result<TimeoutStats>;

    /// Looks whether something is due, at the cost of an entry of the index or two, however much is pending. What is overdue
    /// in other partitions is passed over one by one.
    async fn look_for_due(&self, conn: &mut DB::Connection, partitions: i64) -> Result<DueLook>;

    /// Moves at most `limit` of what is due to the outbox, the longest due first; says how many. Passes by what another
    /// is moving or deleting.
    async fn move_due(&self, tx: &mut Transaction<'_, DB>, partitions: i64, limit: u32) -> Result<u64>;
}
