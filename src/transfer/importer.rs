//! Reading an export into a database.

use std::collections::VecDeque;
use std::io::BufRead;

use sqlx::{Pool, Transaction};

use super::error::TransferError;
use super::lines::{ExportedCommit, ExportedStream};
use super::reader::{Entry, ExportReader};
use super::tables::{ImportTables, ImportedCommit};
use crate::backend::Backend;
use crate::commit::EncodedCommit;
use crate::ids::MessageId;
use crate::inspect::Inspector;
use crate::inspect::tables::{CommitRow, InspectTables, LastColumns, Place};
use crate::limits::Limits;
use crate::message_store::MessageStore;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// Most commits and streams in one transaction.
const PAGE_ENTRIES: usize = 500;
/// Bytes of lines after which a transaction ends early.
const PAGE_BYTES: u64 = 8 * 1024 * 1024;
/// Commits that are there already and are read at once to be compared.
const COMPARED: u32 = 100;

/// What an import did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Commits that were written.
    pub commits: u64,
    /// Commits that were there already, and are the same.
    pub skipped: u64,
}

/// Imports streams, each commit with the number, offsets, message ids, handled message and times that it had. What is there
/// already is compared and passed over, so an import can be stopped and started again from the file's beginning. In
/// the global order the commits come in the order of the file.
pub struct Importer<DB: Backend> {
    inspector: Inspector<DB>,
    deliver: bool,
    imported: Imported,
    open: Option<Open>,
}

/// The stream whose commits come next.
struct Open {
    stream: ExportedStream,
    key: i64,
    last: Option<LastColumns>,
    /// When the instance was completed, as it is there.
    completed_at: Option<i64>,
    /// A commit that came already completed the instance.
    completed: bool,
    /// Commits that are there, to be compared.
    there: VecDeque<CommitRow>,
}

impl<DB: Backend> Importer<DB> {
    /// An import into this database, whose schema must be there. No imported message is put into the outbox: those
    /// were delivered where they came from.
    pub fn new(pool: &Pool<DB>) -> Self {
        Self { inspector: Inspector::new(pool), deliver: false, imported: Imported::default(), open: None }
    }

    /// Puts all messages of sagas that it writes into the outbox, to be delivered from here.
    #[must_use]
    pub fn with_delivery(mut self) -> Self {
        self.deliver = true;
        self
    }

    /// What was done so far.
    pub fn imported(&self) -> Imported {
        self.imported
    }

    /// Imports some more entries in one transaction. False after the last. After an error, or when it was dropped
    /// half-way, begin again with the file and another importer.
    ///
    /// # Errors
    /// [`TransferError::Differs`] if a stream or commit is there and is another one: nothing of the page is written.
    /// The reader's, and at the end [`TransferError::Unfinished`]: what came before stays. The database's.
    pub async fn next_page<R: BufRead>(&mut self, reader: &mut ExportReader<R>) -> Result<bool, TransferError> {
        let (mut entries, start) = (Vec::new(), reader.tally().bytes);
        while entries.len() < PAGE_ENTRIES && reader.tally().bytes - start < PAGE_BYTES {
            let Some(entry) = reader.next_entry()? else { break };
            entries.push(entry);
        }
        if entries.is_empty() {
            reader.check_finished()?;
            return Ok(false);
        }
        let doing = "importing";
        let store = self.inspector.store().clone();
        let mut conn = self.inspector.connection(doing).await?;
        let mut tx = store.begin(&mut conn).await?;
        let before = self.imported;
        let done = self.entries(&store, &mut tx, entries).await;
        if done.is_err() {
            self.imported = before;
            tx.rollback().await.map_err(|error| store.classify(doing, error))?;
        } else {
            tx.commit().await.map_err(|error| store.classify(doing, error))?;
        }
        conn.release();
        done.map(|()| true)
    }

    async fn entries(
        &mut self,
        store: &DB::Store,
        tx: &mut Transaction<'_, DB>,
        entries: Vec<Entry>,
    ) -> Result<(), TransferError> {
        for entry in entries {
            match entry {
                Entry::Stream(stream) => self.open = Some(open(store, tx, stream).await?),
                Entry::Commit(commit) => self.commit(store, tx, &commit).await?,
            }
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        store: &DB::Store,
        tx: &mut Transaction<'_, DB>,
        commit: &ExportedCommit,
    ) -> Result<(), TransferError> {
        let open = self.open.as_mut().expect("BUG: the reader gave a commit before any stream");
        let name = StreamName::new(&open.stream.name)?;
        let encoded = EncodedCommit::encode(&name, &commit.messages, &unlimited())?;
        if open.last.is_some_and(|last| commit.number.to_i64() <= last.commit_no) {
            open.compare::<DB>(store, tx, commit, &encoded).await?;
            open.completed |= commit.completed;
            self.imported.skipped += 1;
            return Ok(());
        }
        let (number, end) = open.last.map_or((0, 0), |last| (last.commit_no, last.end));
        if (number.saturating_add(1), end) != (commit.number.to_i64(), commit.first_offset.to_i64()) {
            return Err(open.differs(commit, "the commit before it is not there, or ends elsewhere"));
        }
        let imported = ImportedCommit {
            stream: open.key,
            number: commit.number,
            first_offset: commit.first_offset,
            recorded_at: commit.recorded_at,
            handled: commit.handled,
            completed: commit.completed,
            encoded: &encoded,
            deliver: self.deliver && open.stream.saga.is_some() && encoded.message_count > 0,
        };
        if !store.import_commit(tx, &imported).await? {
            return Err(open.differs(commit, "somebody else writes to the stream, or its message was handled"));
        }
        if commit.completed && !std::mem::replace(&mut open.completed, commit.completed) {
            let at = open.stream.completed_at.map_or(commit.recorded_at, Timestamp::from_micros);
            store.import_completion(tx, open.key, at).await?;
        }
        open.last = Some(LastColumns {
            commit_no: commit.number.to_i64(),
            end: commit.first_offset.checked_add(commit.events())?.to_i64(),
            recorded_at: commit.recorded_at.as_micros(),
            completed: commit.completed,
        });
        self.imported.commits += 1;
        Ok(())
    }
}

impl<DB: Backend> std::fmt::Debug for Importer<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer")
            .field("imported", &self.imported)
            .field("deliver", &self.deliver)
            .finish_non_exhaustive()
    }
}

impl Open {
    fn differs(&self, commit: &ExportedCommit, detail: &str) -> TransferError {
        let (stream, number) = (self.stream.name.clone(), commit.number.get());
        TransferError::Differs { stream, number, detail: detail.to_owned() }
    }

    /// It was imported as completed at the commit's time if the file did not tell another.
    fn is_completed_as(&self, commit: &ExportedCommit) -> bool {
        let (there, file) = (self.completed_at, self.stream.completed_at);
        self.completed || file.is_none() || there == file || there == Some(commit.recorded_at.as_micros())
    }

    async fn compare<DB: Backend>(
        &mut self,
        store: &DB::Store,
        tx: &mut Transaction<'_, DB>,
        commit: &ExportedCommit,
        encoded: &EncodedCommit,
    ) -> Result<(), TransferError> {
        if self.there.is_empty() {
            let before = Place { stream: self.key, number: commit.number.to_i64().saturating_sub(1) };
            self.there = store.commit_rows(tx, before, self.key, COMPARED).await?.rows.into();
        }
        let Some(CommitRow { columns: there, handled, message_count, .. }) = self.there.pop_front() else {
            return Err(self.differs(commit, "it is not there, though later ones are"));
        };
        for (same, what) in [
            (there.commit_no == commit.number.to_i64(), "it is not there, though later ones are"),
            (there.first_offset == commit.first_offset.to_i64(), "it begins at another offset"),
            (there.event_count == i64::from(encoded.event_count), "it has another number of events"),
            (message_count == i64::from(encoded.message_count), "it has another number of messages"),
            (handled.map(MessageId::from) == commit.handled, "it handled another message"),
            (there.completed == commit.completed, "it is completed in one of them only"),
            (there.recorded_at == commit.recorded_at.as_micros(), "it was stored at another time"),
            (!commit.completed || self.is_completed_as(commit), "the instance was completed at another time"),
            (there.contents.as_ref() == Some(&encoded.contents), "it holds other messages"),
            (there.body.as_ref() == Some(&encoded.body), "it holds other payloads"),
        ] {
            if !same {
                return Err(self.differs(commit, what));
            }
        }
        Ok(())
    }
}

/// They were within the limits where they came from; the server's own limit is asked for.
fn unlimited() -> Limits {
    Limits { message_bytes: usize::MAX, snapshot_bytes: usize::MAX, unit_bytes: usize::MAX, unit_messages: usize::MAX }
}

async fn open<DB: Backend>(
    store: &DB::Store,
    tx: &mut Transaction<'_, DB>,
    stream: ExportedStream,
) -> Result<Open, TransferError> {
    let name = StreamName::new(&stream.name)?;
    store.import_stream(tx, &stream).await?;
    let differs =
        |detail: &str| TransferError::Differs { stream: stream.name.clone(), number: 0, detail: detail.to_owned() };
    let key = store.stream_key(tx, &name).await?.ok_or_else(|| differs("its row is gone again"))?;
    let found = store.stream_of_key(tx, key).await?.ok_or_else(|| differs("its row is gone again"))?;
    if (&found.persistence_key, &found.instance_id) != (&stream.saga, &stream.instance) {
        return Err(differs("it is of another saga or instance"));
    }
    if found.created_at != stream.created_at {
        return Err(differs("it was started at another time"));
    }
    let (last, completed_at) = (found.last, found.completed_at);
    Ok(Open { stream, key, last, completed_at, completed: false, there: VecDeque::new() })
}
