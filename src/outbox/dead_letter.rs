//! Messages that could not be delivered.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use super::{OutboxId, OutboxRecord};
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::timestamp::Timestamp;

/// A message that ran out of attempts. It stays in the outbox, with its own body, until somebody retries or
/// discards it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The record.
    pub record: OutboxRecord,
    /// Why the last attempt failed.
    pub last_error: String,
    /// When it ran out of attempts, by the database's clock.
    pub dead_at: Timestamp,
}

impl DeadLetter {
    /// For outboxes of one's own.
    pub fn new(record: OutboxRecord, last_error: impl Into<String>, dead_at: Timestamp) -> Self {
        Self { record, last_error: last_error.into(), dead_at }
    }
}

/// A dead letter whose message cannot be read. It can be discarded, or edited; one that is retried as it is holds up its own
/// stream.
#[derive(Debug)]
#[non_exhaustive]
pub struct DamagedDeadLetter {
    /// Its place.
    pub id: OutboxId,
    /// The saga's persistence key, or the aggregate type that was given.
    pub aggregate_type: String,
    /// The instance id, or the aggregate id that was given.
    pub aggregate_id: String,
    /// How often its delivery was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub last_error: String,
    /// When it ran out of attempts, by the database's clock.
    pub dead_at: Timestamp,
    /// Why it cannot be read.
    pub error: Error,
}

/// Some dead letters, in delivery order.
#[derive(Debug, Default)]
pub struct DeadPage {
    pub letters: Vec<DeadLetter>,
    pub damaged: Vec<DamagedDeadLetter>,
    /// The last row that was looked at.
    pub end: Option<OutboxId>,
}

/// Which dead letters are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetters<'a> {
    /// One.
    One(OutboxId),
    /// All of one aggregate: those of a saga's instance, or of what was saved without a saga.
    Of {
        /// The saga's persistence key, or the aggregate type that was given.
        aggregate_type: &'a str,
        /// The instance id, or the aggregate id that was given.
        aggregate_id: &'a str,
    },
    /// All.
    All,
}

/// A delivery that failed, and what comes next.
#[derive(Clone, Debug)]
pub struct Failure {
    pub id: OutboxId,
    /// With this one.
    pub attempts: u32,
    pub error: String,
    pub next: Next,
}

/// What becomes of a record that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Tried again after so long.
    Retry(Duration),
    /// Kept as a dead letter.
    Dead,
}

/// The statements of a database.
#[async_trait]
pub trait DeadLetterTables<DB: Database>: Send + Sync {
    /// Notes a failure on a row of the slow lane; false if it is not there.
    async fn note_failure(&self, tx: &mut Transaction<'_, DB>, failure: &Failure) -> Result<bool>;

    /// Dead letters after `after`, in delivery order, at most `limit`; fewer if they are large.
    async fn dead(&self, conn: &mut DB::Connection, after: OutboxId, limit: u32) -> Result<DeadPage>;

    /// Makes dead letters due again as if they had never been tried; says how many.
    async fn revive(&self, tx: &mut Transaction<'_, DB>, which: DeadLetters<'_>) -> Result<u64>;

    /// Deletes dead letters; says how many.
    async fn bury(&self, tx: &mut Transaction<'_, DB>, which: DeadLetters<'_>) -> Result<u64>;

    /// Gives a dead letter another message; false if it is not there.
    async fn rewrite(&self, tx: &mut Transaction<'_, DB>, id: OutboxId, message: &Envelope) -> Result<bool>;
}

/// What is wanted of the first page on which there is any.
pub(super) async fn first_dead<DB: Database, T: DeadLetterTables<DB> + ?Sized, L>(
    tables: &T,
    conn: &mut DB::Connection,
    after: Option<OutboxId>,
    limit: u32,
    wanted: fn(DeadPage) -> Vec<L>,
) -> Result<Vec<L>> {
    let mut after = after.unwrap_or(OutboxId::START);
    loop {
        let page = tables.dead(conn, after, limit).await?;
        let end = page.end;
        let found = wanted(page);
        match end {
            Some(end) if found.is_empty() => after = end,
            _ => return Ok(found),
        }
    }
}
