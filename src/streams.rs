//! What every built-in message store does alike, above the statements of its database.

use async_trait::async_trait;
use sqlx::{Connection, Database, Transaction};
use tokio::sync::OwnedMutexGuard;

use crate::commit::EncodedCommit;
use crate::contents::Texts;
use crate::envelope::{Envelope, RecordedEvent};
use crate::error::{Error, Result};
use crate::ids::{CommitNumber, Offset};
use crate::limits::Limits;
use crate::lock::Fence;
use crate::lock::tables::LeaseTables;
use crate::message_store::{CommitPage, Head, LoadRequest, Loaded, MessageStore, PAGE_BYTES, PAGE_COMMITS, UnitCommit};
use crate::saga::SagaStream;
use crate::stream_name::StreamName;
use crate::timeout::{self, PendingTimeout, TimeoutChange, TimeoutStats, TimeoutTables};

/// Partitions are a bit each.
const ALL_PARTITIONS: i64 = -1;

/// The statements of a database. Verbs answer whether it was as expected; what that means is
/// decided here.
#[async_trait]
pub trait StreamTables<DB: Database>: LeaseTables<DB> + TimeoutTables<DB> {
    /// The limits in force.
    fn limits(&self) -> &Limits;

    /// Appends if the stream ends at `offset`.
    async fn append(
        &self,
        tx: &mut Transaction<'_, DB>,
        stream: &StreamName,
        offset: Offset,
        encoded: &EncodedCommit,
    ) -> Result<bool>;

    /// Where the stream ends; `None` if it has no commit.
    async fn end(&self, conn: &mut DB::Connection, stream: &StreamName) -> Result<Option<Offset>>;

    /// The first commit that ends after `offset`, or the last one if none does; `None` if there is none.
    async fn commit_reaching(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        offset: Offset,
    ) -> Result<Option<CommitNumber>>;

    /// Commits from number `from` on, at most `limit`.
    async fn commits(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        from: CommitNumber,
        limit: u32,
    ) -> Result<CommitPage>;

    async fn load(&self, conn: &mut DB::Connection, request: &LoadRequest<'_>) -> Result<Loaded>;

    /// Writes a unit of work: in a transaction, unless it is one statement.
    async fn commit(&self, conn: &mut DB::Connection, unit: &UnitCommit<'_>) -> Result<Option<Head>>;

    /// One statement writes the unit of work, so that it needs no transaction.
    fn is_one_statement(&self, unit: &UnitCommit<'_>) -> bool;

    /// Waits until a unit of work can be written alone. Until what it gives is dropped, others wait; `None` where they need not.
    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        None
    }

    /// Writes units of work in fewer transactions than there are units; `None` where that gains nothing, or
    /// where one of them would harm the others: nothing is written then.
    async fn commit_together(&self, _: &mut DB::Connection, _: &[UnitCommit<'_>]) -> Option<Vec<Result<Option<Head>>>> {
        None
    }

    fn begin_statement(&self) -> Option<&'static str>;

    fn survives_dropped_calls(&self) -> bool {
        true
    }

    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error;
}

#[async_trait]
impl<DB: Database, T: StreamTables<DB>> MessageStore<DB> for T {
    async fn fence(&self, tx: &mut Transaction<'_, DB>, fence: &Fence) -> Result<()> {
        let held = self.hold(tx, std::slice::from_ref(fence)).await?;
        if held.is_empty() { Err(fence.refusal()) } else { Ok(()) }
    }

    async fn append_messages(
        &self,
        tx: &mut Transaction<'_, DB>,
        stream: &StreamName,
        offset: Offset,
        messages: &[Envelope],
    ) -> Result<Offset> {
        let encoded = EncodedCommit::encode(stream, messages, self.limits())?;
        let end = offset.checked_add(u64::from(encoded.event_count))?;
        let appended = if messages.is_empty() {
            self.end(tx, stream).await?.unwrap_or_default() == offset
        } else {
            self.append(tx, stream, offset, &encoded).await?
        };
        if appended {
            return Ok(end);
        }
        let actual = self.end(tx, stream).await?.unwrap_or_default();
        Err(Error::Conflict { stream: stream.clone(), expected: offset, actual })
    }

    async fn read_page(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<Option<Vec<RecordedEvent>>> {
        read_events(self, conn, stream, from, limit, usize::MAX).await
    }

    async fn read_bounded_page(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<Option<Vec<RecordedEvent>>> {
        read_events(self, conn, stream, from, limit, PAGE_BYTES).await
    }

    async fn next_offset(&self, conn: &mut DB::Connection, stream: &StreamName) -> Result<Option<Offset>> {
        self.end(conn, stream).await
    }

    async fn load(&self, conn: &mut DB::Connection, request: &LoadRequest<'_>) -> Result<Loaded> {
        StreamTables::load(self, conn, request).await
    }

    async fn read_commits(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        after: CommitNumber,
    ) -> Result<CommitPage> {
        self.commits(conn, stream, after.checked_add(1)?, PAGE_COMMITS).await
    }

    async fn commit(&self, tx: &mut Transaction<'_, DB>, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        StreamTables::commit(self, tx, unit).await
    }

    async fn change_timeouts(
        &self,
        tx: &mut Transaction<'_, DB>,
        stream: &SagaStream,
        commit: CommitNumber,
        changes: &[TimeoutChange],
    ) -> Result<()> {
        timeout::change(self, tx, stream, commit, changes).await
    }

    async fn pending_timeouts(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<PendingTimeout>> {
        self.timeouts_of(conn, stream, after.unwrap_or_default(), limit).await
    }

    async fn timeout_stats(&self, conn: &mut DB::Connection) -> Result<TimeoutStats> {
        self.count_timeouts(conn).await
    }

    async fn release_due_timeouts(&self, tx: &mut Transaction<'_, DB>, limit: u32) -> Result<u64> {
        self.move_due(tx, ALL_PARTITIONS, limit).await
    }

    async fn commit_alone(&self, conn: &mut DB::Connection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        let _turn = self.turn().await;
        if self.is_one_statement(unit) {
            return StreamTables::commit(self, conn, unit).await;
        }
        let mut tx = MessageStore::begin(self, conn).await?;
        let written = StreamTables::commit(self, &mut tx, unit).await?;
        let end = if written.is_some() { tx.commit().await } else { tx.rollback().await };
        end.map_err(|error| StreamTables::classify(self, "ending the transaction of a unit of work", error))?;
        Ok(written)
    }

    async fn commit_group(&self, conn: &mut DB::Connection, units: &[UnitCommit<'_>]) -> Vec<Result<Option<Head>>> {
        if let Some(written) = self.commit_together(conn, units).await {
            return written;
        }
        let mut written = Vec::with_capacity(units.len());
        for unit in units {
            written.push(MessageStore::commit_alone(self, conn, unit).await);
        }
        written
    }

    async fn begin<'c>(&self, conn: &'c mut DB::Connection) -> Result<Transaction<'c, DB>> {
        let begun = match StreamTables::begin_statement(self) {
            Some(statement) => conn.begin_with(statement).await,
            None => conn.begin().await,
        };
        begun.map_err(|error| StreamTables::classify(self, "beginning a transaction", error))
    }

    fn begin_statement(&self) -> Option<&'static str> {
        StreamTables::begin_statement(self)
    }

    fn survives_dropped_calls(&self) -> bool {
        StreamTables::survives_dropped_calls(self)
    }

    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
        StreamTables::classify(self, doing, error)
    }
}

/// Events from an offset on, up to their number; or up to the bytes of their commits, by whole pages of them.
async fn read_events<DB: Database, T: StreamTables<DB>>(
    tables: &T,
    conn: &mut DB::Connection,
    stream: &StreamName,
    from: Offset,
    limit: u32,
    most_bytes: usize,
) -> Result<Option<Vec<RecordedEvent>>> {
    let Some(mut number) = tables.commit_reaching(conn, stream, from).await? else { return Ok(None) };
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let (mut events, mut bytes, mut texts, mut expected) = (Vec::new(), 0, Texts::default(), None);
    while events.len() < wanted {
        let page = tables.commits(conn, stream, number, limit.min(PAGE_COMMITS)).await?;
        for commit in &page.commits {
            // The first commit holds `from`, or is the last one before it.
            let begins = expected.map_or(commit.first_offset <= from, |end| end == commit.first_offset);
            if commit.commit_number != number || !begins {
                let detail = format!("commit {number} is missing");
                return Err(Error::corrupt(stream, expected.unwrap_or(from), detail));
            }
            commit.decode_sharing(stream, &mut texts, &mut |offset, envelope| {
                let wanted_one = offset.filter(|offset| *offset >= from && events.len() < wanted);
                events.extend(wanted_one.map(|offset| RecordedEvent::new(stream.clone(), offset, envelope)));
                Ok(())
            })?;
            bytes += commit.body.len();
            number = number.checked_add(1)?;
            expected = Some(commit.end()?);
        }
        if !page.more || (bytes >= most_bytes && !events.is_empty()) {
            break;
        }
    }
    Ok(Some(events))
}
