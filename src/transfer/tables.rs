//! The statements that a database must have for streams from elsewhere.

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use super::lines::ExportedStream;
use crate::commit::EncodedCommit;
use crate::error::Result;
use crate::ids::{CommitNumber, MessageId, Offset};
use crate::timestamp::Timestamp;

/// A commit that keeps the place and the time that it had elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ImportedCommit<'a> {
    /// The key of its stream.
    pub stream: i64,
    pub number: CommitNumber,
    pub first_offset: Offset,
    pub recorded_at: Timestamp,
    pub handled: Option<MessageId>,
    pub completed: bool,
    pub encoded: &'a EncodedCommit,
    /// Its messages are to be relayed from here too.
    pub deliver: bool,
}

/// The statements of a database.
#[async_trait]
pub trait ImportTables<DB: Database>: Send + Sync {
    /// Makes sure that the stream has a row.
    async fn import_stream(&self, tx: &mut Transaction<'_, DB>, stream: &ExportedStream) -> Result<()>;

    /// Writes a commit; false if there is one in its place, or if its message was handled.
    async fn import_commit(&self, tx: &mut Transaction<'_, DB>, commit: &ImportedCommit<'_>) -> Result<bool>;

    /// Notes when the instance was completed.
    async fn import_completion(&self, tx: &mut Transaction<'_, DB>, stream: i64, at: Timestamp) -> Result<()>;
}
