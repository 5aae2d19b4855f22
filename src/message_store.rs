//! Streams of messages: appending, reading, and the two verbs by which units of work are loaded and
//! committed.

use async_trait::async_trait;
use sqlx::{Connection, Database, Transaction};

use crate::commit::{EncodedCommit, StoredCommit};
use crate::envelope::{Envelope, RecordedEvent};
use crate::error::{Error, Result};
use crate::event_stream::EventStream;
pub use crate::head::{Head, HeadTrust};
use crate::ids::{CommitNumber, MessageId, Offset};
use crate::lock::Fence;
use crate::saga::SagaStream;
use crate::snapshot::Snapshot;
use crate::stream_name::StreamName;
use crate::timeout::{PendingTimeout, TimeoutChange, TimeoutStats};
use crate::timestamp::Timestamp;

/// Most commits that one statement reads.
pub const PAGE_COMMITS: u32 = 500;
/// Payload bytes after which a page ends early: 8 MiB. A single larger commit is still read whole.
pub const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Stores streams of messages. Every write takes a transaction; reads take any connection, also that
/// of a transaction, whose own writes they then see.
///
/// The reading and appending verbs are for anyone. [`load`](Self::load), [`read_commits`](Self::read_commits)
/// and [`commit`](Self::commit) are what a [`Persister`](crate::Persister) needs; an
/// implementation that also keeps snapshots and the outbox does all in one round trip there.
#[async_trait]
pub trait MessageStore<DB: Database>: Send + Sync {
    /// Appends messages to the end of a stream, which must be at `offset`; offset zero starts a stream.
    /// Gives the offset after the last event. They are not put into the outbox. An append of
    /// nothing changes nothing, also not a stream that does not exist; it still checks the offset.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the expected and the actual end; nothing is changed then and the
    /// transaction is still usable. [`Error::TooLarge`] and [`Error::DuplicateMessage`] before any SQL.
    async fn append_messages(
        &self,
        tx: &mut Transaction<'_, DB>,
        stream: &StreamName,
        offset: Offset,
        messages: &[Envelope],
    ) -> Result<Offset>;

    /// Reads at most `limit` events from offset `from` on. `None` means that there is no such
    /// stream; an existing stream without events from `from` on gives an empty page.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming stream and offset, or the database's. A read that is cut off is
    /// an error, never a short page.
    async fn read_page(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<Option<Vec<RecordedEvent>>>;

    /// As [`read_page`](Self::read_page), but ends early once it has about [`PAGE_BYTES`], with one event at least if there is
    /// one: for who reads on anyhow. By default it does not end early.
    ///
    /// # Errors
    /// As [`read_page`](Self::read_page).
    async fn read_bounded_page(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<Option<Vec<RecordedEvent>>> {
        self.read_page(conn, stream, from, limit).await
    }

    /// The offset that the next event of a stream gets; `None` if there is no such stream.
    ///
    /// # Errors
    /// The database's.
    async fn next_offset(&self, conn: &mut DB::Connection, stream: &StreamName) -> Result<Option<Offset>>;

    /// Loads what a unit of work starts from: the stream, the newest snapshot, and the first page of
    /// commits after it.
    ///
    /// # Errors
    /// The database's.
    async fn load(&self, conn: &mut DB::Connection, request: &LoadRequest<'_>) -> Result<Loaded>;

    /// Reads the next page of commits, those after number `after`.
    ///
    /// # Errors
    /// The database's.
    async fn read_commits(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        after: CommitNumber,
    ) -> Result<CommitPage>;

    /// Writes one unit of work whole, if its stream still ends with the very commit with which it was
    /// loaded, and gives the head after it, as a load would find it. `None` means that it does not (or that the
    /// message was handled meanwhile), that nothing was written, and that the transaction is still usable. A
    /// longer stream is not the only way to lose: the unit of work may have been loaded in a transaction that
    /// wrote to the stream and was rolled back.
    ///
    /// # Errors
    /// The database's.
    async fn commit(&self, tx: &mut Transaction<'_, DB>, unit: &UnitCommit<'_>) -> Result<Option<Head>>;

    /// Makes what the transaction writes depend on a lease; see [`Lease::fence`](crate::lock::lease::Lease::fence).
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::Unsupported`] if the store keeps no leases, as by default; the database's.
    async fn fence(&self, _tx: &mut Transaction<'_, DB>, _fence: &Fence) -> Result<()> {
        let detail = "this message store keeps no leases; use one of the built-in stores";
        Err(Error::Unsupported { what: "a fenced unit of work", detail })
    }

    /// Changes the timeouts of an instance, after its unit of work was written as `commit` in the same transaction. A
    /// change takes back what an earlier one of the same name did.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the store keeps no timeouts, as by default; the database's.
    async fn change_timeouts(
        &self,
        _tx: &mut Transaction<'_, DB>,
        _stream: &SagaStream,
        _commit: CommitNumber,
        _changes: &[TimeoutChange],
    ) -> Result<()> {
        Err(keeps_no_timeouts("scheduling or cancelling a timeout"))
    }

    /// The timeouts of an instance that were neither delivered nor cancelled, in the order of their names, from the one
    /// after `after` on, at most `limit`. Those that ran out of attempts are among the
    /// [dead letters](crate::OutboxRepository::dead_letters).
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the store keeps no timeouts, as by default; [`Error::Corrupt`]; the database's.
    async fn pending_timeouts(
        &self,
        _conn: &mut DB::Connection,
        _stream: &StreamName,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Vec<PendingTimeout>> {
        Err(keeps_no_timeouts("listing timeouts"))
    }

    /// How many timeouts wait, and whether some are overdue. Counts them all: not for every second where there are many.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the store keeps no timeouts, as by default; the database's.
    async fn timeout_stats(&self, _conn: &mut DB::Connection) -> Result<TimeoutStats> {
        Err(keeps_no_timeouts("counting timeouts"))
    }

    /// Hands timeouts that are due over to this store's outbox, the longest due first, at most `limit`; says how many. A
    /// [`Dispatcher`](crate::dispatcher::Dispatcher) does so by itself: this is for those who relay by
    /// [`find_in_batches`](crate::OutboxRepository::find_in_batches). Of several who do it at once each hands over others.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the store keeps no timeouts, as by default; the database's.
    async fn release_due_timeouts(&self, _tx: &mut Transaction<'_, DB>, _limit: u32) -> Result<u64> {
        Err(keeps_no_timeouts("handing timeouts over to the outbox"))
    }

    /// As [`commit`](Self::commit), in a transaction of its own that is committed at once.
    ///
    /// # Errors
    /// The database's.
    async fn commit_alone(&self, conn: &mut DB::Connection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
        let mut tx = self.begin(conn).await?;
        let written = self.commit(&mut tx, unit).await?;
        let end = if written.is_some() { tx.commit().await } else { tx.rollback().await };
        end.map_err(|error| self.classify("ending the transaction of a unit of work", error))?;
        Ok(written)
    }

    /// As [`commit_alone`](Self::commit_alone) for many units of work, in the fewest transactions. Each is
    /// judged alone, and answered in its place: what one of them meets does nothing to the others. An answer is
    /// given after the commit. By default each is committed by itself.
    async fn commit_group(&self, conn: &mut DB::Connection, units: &[UnitCommit<'_>]) -> Vec<Result<Option<Head>>> {
        let mut written = Vec::with_capacity(units.len());
        for unit in units {
            written.push(self.commit_alone(conn, unit).await);
        }
        written
    }

    /// Begins a transaction fit for writing: at the isolation, and with the locks, that this database needs.
    ///
    /// # Errors
    /// The database's.
    async fn begin<'c>(&self, conn: &'c mut DB::Connection) -> Result<Transaction<'c, DB>> {
        conn.begin().await.map_err(|error| self.classify("beginning a transaction", error))
    }

    /// The statement that begins such a transaction, for use with a pool; `None` is the driver's own.
    fn begin_statement(&self) -> Option<&'static str> {
        None
    }

    /// False if a call, or the beginning of a transaction, that is dropped half-way can leave the
    /// connection unfit for its next user: hanging, or in a transaction of which the driver knows nothing.
    fn survives_dropped_calls(&self) -> bool {
        true
    }

    /// Turns an error of the driver into one of this crate, by the database's codes.
    fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
        Error::Storage { doing, source: error.into() }
    }

    /// The last event of a stream; `None` if there is none, or no such stream.
    ///
    /// # Errors
    /// As [`read_page`](Self::read_page).
    async fn last_event(&self, conn: &mut DB::Connection, stream: &StreamName) -> Result<Option<RecordedEvent>> {
        let next = self.next_offset(conn, stream).await?.unwrap_or_default();
        let Some(last) = next.get().checked_sub(1) else { return Ok(None) };
        let page = self.read_page(conn, stream, Offset::try_from(last)?, 1).await?;
        Ok(page.and_then(|events| events.into_iter().next()))
    }

    /// Opens a stream for reading from `from` on, also from beyond its end; `None` if there is no
    /// such stream.
    ///
    /// # Errors
    /// The database's.
    async fn open_stream(
        &self,
        conn: &mut DB::Connection,
        stream: &StreamName,
        from: Offset,
    ) -> Result<Option<EventStream>> {
        let found = self.next_offset(conn, stream).await?;
        Ok(found.map(|_| EventStream::new(stream.clone(), from)))
    }
}

fn keeps_no_timeouts(what: &'static str) -> Error {
    Error::Unsupported { what, detail: "this message store keeps no timeouts; use one of the built-in stores" }
}

/// From where an instance is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFrom {
    /// From the first commit.
    Start,
    /// From the newest snapshot, or the first commit if there is none.
    Snapshot,
    /// From a snapshot that was found elsewhere, taken at this commit.
    Commit(CommitNumber),
}

/// What [`MessageStore::load`] is asked for.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// The instance's stream.
    pub stream: &'a SagaStream,
    /// Where to begin.
    pub from: LoadFrom,
    /// Also look for the commit that handled this message.
    pub handled: Option<MessageId>,
}

/// What [`MessageStore::load`] found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The stream's row; `None` if there is none.
    pub stream: Option<StreamRow>,
    /// The newest snapshot, if asked for and there.
    pub snapshot: Option<Snapshot>,
    /// The head as of the commit at which the snapshot was taken; `None` if that commit is not there.
    pub at_snapshot: Option<Head>,
    /// The commits after it.
    pub page: CommitPage,
    /// The commit that handled the message that was asked for.
    pub handled: Option<StoredCommit>,
}

/// A stream's own row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// The store's own key of the stream.
    pub key: i64,
    /// The saga that it belongs to; `None` for one that was started by a plain append.
    pub persistence_key: Option<String>,
}

/// Some commits of a stream, in order.
#[derive(Clone, Debug, Default)]
pub struct CommitPage {
    /// The commits.
    pub commits: Vec<StoredCommit>,
    /// The page ended at a limit: there may be more.
    pub more: bool,
}

/// One unit of work, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct UnitCommit<'a> {
    /// The instance's stream.
    pub stream: &'a SagaStream,
    /// Where the stream ended when the unit of work was loaded.
    pub head: &'a Head,
    /// Whether the store has to look for the commit at that end.
    pub head_trust: HeadTrust,
    /// The encoded messages.
    pub encoded: &'a EncodedCommit,
    /// The message that was handled.
    pub handled: Option<MessageId>,
    /// The instance is completed as of this commit.
    pub completed: bool,
    /// The messages are to be relayed from this store's outbox.
    pub deliver: bool,
    /// What to do with this store's snapshots.
    pub snapshots: SnapshotChange<'a>,
}

impl UnitCommit<'_> {
    /// The number of the new commit.
    ///
    /// # Errors
    /// [`Error::TooLarge`] at the end of the range.
    pub fn commit_number(&self) -> Result<CommitNumber> {
        self.head.commit_number.checked_add(1)
    }

    /// The head after it, of a stream with this key, once it is stored with this time and order token.
    ///
    /// # Errors
    /// [`Error::TooLarge`] at the end of the range.
    pub fn head_after(&self, key: i64, recorded_at: Timestamp, order_token: i64) -> Result<Head> {
        Ok(Head {
            key: Some(key),
            commit_number: self.commit_number()?,
            next_offset: self.head.next_offset.checked_add(u64::from(self.encoded.event_count))?,
            recorded_at,
            order_token,
            checksum: self.encoded.checksum,
            completed: self.completed,
        })
    }

    /// This unit of work completes the instance.
    pub fn completes(&self) -> bool {
        self.completed && !self.head.completed
    }

    /// This unit of work has messages for this store's outbox.
    pub fn is_marked(&self) -> bool {
        self.deliver && self.encoded.message_count > 0
    }
}

/// What a unit of work does to the snapshots that the message store itself keeps.
#[derive(Clone, Copy, Debug)]
pub enum SnapshotChange<'a> {
    /// Nothing.
    None,
    /// Store one, keeping so many in all.
    Save(&'a Snapshot, u32),
    /// Delete all.
    Delete,
}
