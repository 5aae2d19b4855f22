//! The two lanes of the outbox, read as one and acknowledged as one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use super::dead_letter::{DamagedDeadLetter, DeadLetter, DeadLetterTables, DeadLetters, Failure, first_dead};
use super::find::{Found, WaitingPage, find};
use super::subscription::{self, LockRelease, SUBS_EXPIRATION_AFTER, Subscribed, Subscription};
use super::{
    BatchCallback, NewOutboxRecord, OUTBOX_PARTITIONS, OutboxId, OutboxRecord, OutboxRepository, OutboxStats,
    PartitionLag, find_recorded_by,
};
use crate::codec::check_size;
use crate::commit::StoredCommit;
use crate::contents::Texts;
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::lock::ClientId;
use crate::lock::tables::LeaseTables;
use crate::stream_name::StreamName;

/// Longer than the clock of any database stands still: SQLite's ticks in milliseconds.
const CLOCK_TICK: Duration = Duration::from_millis(2);

/// A commit whose messages wait in the fast lane.
#[derive(Debug)]
pub struct Marked {
    pub stream_key: i64,
    pub stream: StreamName,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub commit: StoredCommit,
}

impl Marked {
    pub(super) fn id(&self) -> OutboxId {
        OutboxId {
            recorded_at: self.commit.recorded_at.as_micros(),
            stream: self.stream_key,
            commit_number: self.commit.commit_number.to_i64(),
            index: 0,
            row: 0,
        }
    }

    /// Its messages. The texts are those of its neighbours, which are mostly the same.
    pub(super) fn records(&self, texts: &mut Texts) -> Result<Vec<OutboxRecord>> {
        let (mut records, mut ids) = (Vec::new(), (0_i64..).map(|index| OutboxId { index, ..self.id() }));
        self.commit.decode_sharing(&self.stream, texts, &mut |_, envelope| {
            let (aggregate_type, aggregate_id) = (self.aggregate_type.clone(), self.aggregate_id.clone());
            let record = |id| OutboxRecord { id, aggregate_type, aggregate_id, envelope, attempts: 0 };
            records.extend(ids.next().map(record));
            Ok(())
        })?;
        Ok(records)
    }
}

/// Which records are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// The partitions, a bit each.
    pub partitions: i64,
    /// Leave out what comes after a record of the same stream that failed.
    pub behind_failed: bool,
}

impl Selection {
    pub const ALL: Self = Self { partitions: -1, behind_failed: true };
}

/// Some marked commits, in delivery order.
#[derive(Debug, Default)]
pub struct MarkedPage {
    pub commits: Vec<Marked>,
    /// Commits that cannot be read, with the reasons.
    pub damaged: Vec<(OutboxId, Error)>,
    /// The page ended early at a limit on its bytes.
    pub cut: bool,
}

/// What is left of a commit of which some messages were acknowledged.
#[derive(Debug)]
pub struct LeftOver {
    pub id: OutboxId,
    pub partition: i64,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub envelope: Envelope,
}

/// The statements of a database.
#[async_trait]
pub trait OutboxTables<DB: Database>: LeaseTables<DB> + DeadLetterTables<DB> {
    /// The limits in force.
    fn outbox_limits(&self) -> &Limits;

    /// Marked commits from that of `after` on (inclusive), at most `limit`.
    async fn marked(
        &self,
        conn: &mut DB::Connection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<MarkedPage>;

    /// Due rows of the slow lane after `after`, at most `limit`; fewer if they are large.
    async fn waiting(
        &self,
        conn: &mut DB::Connection,
        selection: Selection,
        after: OutboxId,
        limit: u32,
    ) -> Result<WaitingPage>;

    /// One marked commit, locked until the transaction ends; `None` if its mark is gone.
    async fn lock_marked(&self, tx: &mut Transaction<'_, DB>, id: OutboxId) -> Result<Option<Marked>>;

    /// Takes the marks off those of these commits that have so many messages each, or however many if that is `None`; says
    /// how many commits that were.
    async fn unmark(&self, tx: &mut Transaction<'_, DB>, commits: &[OutboxId], messages: Option<u32>) -> Result<u64>;

    /// Which of these commits are still marked.
    async fn marked_among(&self, tx: &mut Transaction<'_, DB>, commits: &[OutboxId]) -> Result<Vec<OutboxId>>;

    /// Puts a record into the slow lane, after all of its partition.
    async fn insert_new(&self, tx: &mut Transaction<'_, DB>, record: &NewOutboxRecord) -> Result<()>;

    /// Puts what is left of a commit into the slow lane, at its place.
    async fn insert_left_over(&self, tx: &mut Transaction<'_, DB>, message: &LeftOver) -> Result<()>;

    /// Deletes rows of the slow lane; says how many were there.
    async fn delete(&self, tx: &mut Transaction<'_, DB>, ids: &[OutboxId]) -> Result<u64>;

    /// By when all was recorded that is in the outbox: the database's clock, or the newest record if that is ahead of it.
    async fn recorded_by(&self, conn: &mut DB::Connection) -> Result<i64>;

    async fn outbox_stats(&self, conn: &mut DB::Connection) -> Result<OutboxStats>;

    async fn outbox_lag(&self, conn: &mut DB::Connection) -> Result<Vec<PartitionLag>>;
}

#[async_trait]
impl<DB: Database, T: OutboxTables<DB>> OutboxRepository<DB> for T {
    async fn save(&self, tx: &mut Transaction<'_, DB>, records: &[NewOutboxRecord]) -> Result<()> {
        for record in records {
            record.check()?;
            let size = record.envelope.payload.len();
            check_size("message payload in bytes", size, self.outbox_limits().message_bytes)?;
        }
        for record in records {
            self.insert_new(tx, record).await?;
        }
        Ok(())
    }

    async fn find_batch(
        &self,
        conn: &mut DB::Connection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<OutboxRecord>> {
        let after = after.unwrap_or(OutboxId::START);
        let Found { mut records, damaged } = find(self, conn, Selection::ALL, after, limit).await?;
        records.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        match damaged.into_iter().next() {
            Some((_, damage)) => Err(damage),
            None => Ok(records),
        }
    }

    async fn find_in_batches(
        &self,
        conn: &mut DB::Connection,
        batch_size: u32,
        limit: Option<u64>,
        callback: &mut BatchCallback<'_>,
    ) -> Result<u64> {
        // A commit that becomes visible late may lie before what was read, and the next one of its stream, which comes after it
        // and so after the first batch, must not be given without it.
        let then = self.recorded_by(conn).await?;
        tokio::time::sleep(CLOCK_TICK).await;
        find_recorded_by(self, conn, then, (batch_size, limit), callback).await
    }

    async fn delete_in_batches(&self, tx: &mut Transaction<'_, DB>, batch_size: u32, ids: &[OutboxId]) -> Result<u64> {
        let size = usize::try_from(batch_size.max(1)).unwrap_or(usize::MAX);
        let mut gone = 0;
        for batch in ids.chunks(size) {
            gone += acknowledge(self, tx, batch).await?;
        }
        Ok(gone)
    }

    async fn acquire_lock(&self, conn: &mut DB::Connection, dispatcher: &ClientId) -> Result<bool> {
        subscription::acquire_lock(self, conn, dispatcher).await
    }

    async fn release_lock(&self, conn: &mut DB::Connection, dispatcher: &ClientId) -> Result<LockRelease> {
        subscription::release_lock(self, conn, dispatcher).await
    }

    async fn subscribe_dispatcher(
        &self,
        conn: &mut DB::Connection,
        dispatcher: &ClientId,
        max_dispatchers: u32,
    ) -> Result<Subscribed> {
        subscription::subscribe(self, conn, dispatcher, max_dispatchers, SUBS_EXPIRATION_AFTER).await
    }

    async fn update_subscription(&self, conn: &mut DB::Connection, subscription: &Subscription) -> Result<bool> {
        subscription::heartbeat(self, conn, subscription, SUBS_EXPIRATION_AFTER).await
    }

    async fn unsubscribe(&self, conn: &mut DB::Connection, subscription: &Subscription) -> Result<bool> {
        subscription::unsubscribe(self, conn, subscription).await
    }

    async fn dead_letters(
        &self,
        conn: &mut DB::Connection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>> {
        first_dead(self, conn, after, limit, |page| page.letters).await
    }

    async fn damaged_dead_letters(
        &self,
        conn: &mut DB::Connection,
        after: Option<OutboxId>,
        limit: u32,
    ) -> Result<Vec<DamagedDeadLetter>> {
        first_dead(self, conn, after, limit, |page| page.damaged).await
    }

    async fn retry_dead_letters(&self, tx: &mut Transaction<'_, DB>, which: DeadLetters<'_>) -> Result<u64> {
        self.revive(tx, which).await
    }

    async fn discard_dead_letters(&self, tx: &mut Transaction<'_, DB>, which: DeadLetters<'_>) -> Result<u64> {
        self.bury(tx, which).await
    }

    async fn edit_and_retry_dead_letter(
        &self,
        tx: &mut Transaction<'_, DB>,
        id: OutboxId,
        message: &Envelope,
    ) -> Result<bool> {
        message.check()?;
        check_size("message payload in bytes", message.payload.len(), self.outbox_limits().message_bytes)?;
        Ok(self.rewrite(tx, id, message).await? && self.revive(tx, DeadLetters::One(id)).await? > 0)
    }

    async fn stats(&self, conn: &mut DB::Connection) -> Result<OutboxStats> {
        self.outbox_stats(conn).await
    }

    async fn lag(&self, conn: &mut DB::Connection) -> Result<Vec<PartitionLag>> {
        self.outbox_lag(conn).await
    }
}

/// Takes what was delivered out of the outbox, and notes what failed.
pub(crate) async fn settle<DB: Database, T: OutboxTables<DB> + ?Sized>(
    tables: &T,
    tx: &mut Transaction<'_, DB>,
    delivered: &[OutboxId],
    failed: &[Failure],
) -> Result<()> {
    acknowledge(tables, tx, delivered).await?;
    let commits: BTreeSet<_> = failed.iter().map(|failure| failure.id).filter(OutboxId::is_of_commit).collect();
    for commit in commits {
        split(tables, tx, commit.commit(), &[]).await?;
    }
    for failure in failed {
        tables.note_failure(tx, failure).await?;
    }
    Ok(())
}

/// Acknowledges one batch. Commits that are acknowledged whole cost one mark each; of the others
/// the rest moves to the slow lane.
async fn acknowledge<DB: Database, T: OutboxTables<DB> + ?Sized>(
    tables: &T,
    tx: &mut Transaction<'_, DB>,
    ids: &[OutboxId],
) -> Result<u64> {
    let (mut of_commits, mut slow): (Vec<OutboxId>, Vec<OutboxId>) = ids.iter().partition(|id| id.is_of_commit());
    of_commits.sort_unstable();
    of_commits.dedup();
    // Few numbers, since a batch bounds their sum: most often one is all there is.
    let mut by_count: BTreeMap<usize, Vec<&[OutboxId]>> = BTreeMap::new();
    for acknowledged in of_commits.chunk_by(|one, next| one.commit() == next.commit()) {
        by_count.entry(acknowledged.len()).or_default().push(acknowledged);
    }
    let mut gone = 0;
    for (messages, alike) in by_count {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let commits: Vec<_> = alike.iter().filter_map(|ids| ids.first()).map(OutboxId::commit).collect();
        let whole = tables.unmark(tx, &commits, Some(messages)).await?;
        gone += whole * u64::from(messages);
        if whole == u64::try_from(commits.len()).unwrap_or(u64::MAX) {
            continue;
        }
        let marked: BTreeSet<_> = tables.marked_among(tx, &commits).await?.into_iter().collect();
        for (commit, acknowledged) in commits.into_iter().zip(alike) {
            if marked.contains(&commit) {
                gone += split(tables, tx, commit, acknowledged).await?;
            } else {
                // It was split before, perhaps by another transaction just now: what is left of it is in the slow lane.
                slow.extend(acknowledged);
            }
        }
    }
    if !slow.is_empty() {
        gone += tables.delete(tx, &slow).await?;
    }
    Ok(gone)
}

/// Moves what is not acknowledged of a commit to the slow lane, and takes its mark off.
async fn split<DB: Database, T: OutboxTables<DB> + ?Sized>(
    tables: &T,
    tx: &mut Transaction<'_, DB>,
    commit: OutboxId,
    acknowledged: &[OutboxId],
) -> Result<u64> {
    let Some(marked) = tables.lock_marked(tx, commit).await? else {
        return if acknowledged.is_empty() { Ok(0) } else { tables.delete(tx, acknowledged).await };
    };
    let (left, gone): (Vec<_>, Vec<_>) =
        marked.records(&mut Texts::default())?.into_iter().partition(|record| !acknowledged.contains(&record.id));
    for record in left {
        let OutboxRecord { id, aggregate_type, aggregate_id, envelope, .. } = record;
        let partition = id.stream % OUTBOX_PARTITIONS;
        let message = LeftOver { id, partition, aggregate_type, aggregate_id, envelope };
        tables.insert_left_over(tx, &message).await?;
    }
    tables.unmark(tx, &[commit], None).await?;
    u64::try_from(gone.len()).map_err(|fault| Error::invalid("number of records", fault))
}
