//! Stored columns on their way to trusted values, the same for every database.

use uuid::Uuid;

use crate::commit::StoredCommit;
use crate::error::{Error, Result};
use crate::ids::{CommitNumber, MessageId, Offset, Revision};
use crate::message_store::{CommitPage, Head};
use crate::saga::SagaStream;
use crate::snapshot::Snapshot;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// A commit as its columns say. Without contents and body it stands for its place only.
pub struct CommitColumns {
    pub(crate) commit_no: i64,
    pub(crate) first_offset: i64,
    pub(crate) event_count: i64,
    pub(crate) completed: bool,
    pub(crate) recorded_at: i64,
    pub(crate) order_token: i64,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) checksum: i64,
    pub(crate) contents: Option<String>,
    pub(crate) body: Option<Vec<u8>>,
    /// What is wrong with a column that holds what its type here cannot.
    pub(crate) damage: Option<&'static str>,
}

impl CommitColumns {
    /// Bytes that the row holds in memory, about.
    pub(crate) fn size(&self) -> usize {
        self.contents.as_ref().map_or(0, String::len) + self.body.as_ref().map_or(0, Vec::len)
    }
}

/// A snapshot as its columns say.
pub struct SnapshotColumns {
    pub(crate) persistence_key: String,
    pub(crate) revision: i64,
    pub(crate) commit_no: i64,
    pub(crate) data_version: i64,
    pub(crate) content_type: String,
    pub(crate) checksum: i64,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn offset(stream: &StreamName, value: i64) -> Result<Offset> {
    Offset::from_i64(value).ok_or_else(|| Error::corrupt(stream, Offset::ZERO, "an offset is negative"))
}

pub(crate) fn commit_number(stream: &StreamName, value: i64) -> Result<CommitNumber> {
    CommitNumber::from_i64(value).ok_or_else(|| Error::corrupt(stream, Offset::ZERO, "a commit number is negative"))
}

pub(crate) fn commit(stream: &StreamName, columns: CommitColumns) -> Result<StoredCommit> {
    let first_offset = offset(stream, columns.first_offset)?;
    let corrupt = |detail: &str| Error::corrupt(stream, first_offset, detail);
    if let Some(damage) = columns.damage {
        return Err(corrupt(damage));
    }
    Ok(StoredCommit {
        commit_number: commit_number(stream, columns.commit_no)?,
        first_offset,
        event_count: columns.event_count.try_into().map_err(|_| corrupt("its number of events is out of range"))?,
        completed: columns.completed,
        recorded_at: Timestamp::from_micros(columns.recorded_at),
        order_token: columns.order_token,
        causation_id: columns.causation_id.map(MessageId::from),
        correlation_id: columns.correlation_id.map(MessageId::from),
        checksum: columns.checksum.try_into().map_err(|_| corrupt("its checksum is out of range"))?,
        contents: columns.contents.ok_or_else(|| corrupt("it has no contents"))?,
        body: columns.body.ok_or_else(|| corrupt("it has no body"))?.into(),
    })
}

/// The place that a commit without contents stands for.
pub(crate) fn head(stream: &StreamName, key: Option<i64>, columns: &CommitColumns) -> Result<Head> {
    let first = offset(stream, columns.first_offset)?;
    let damaged = |detail: &str| Error::corrupt(stream, first, detail);
    let events = u64::try_from(columns.event_count).map_err(|_| damaged("its number of events is negative"))?;
    Ok(Head {
        key,
        commit_number: commit_number(stream, columns.commit_no)?,
        next_offset: first.checked_add(events)?,
        recorded_at: Timestamp::from_micros(columns.recorded_at),
        order_token: columns.order_token,
        checksum: columns.checksum.try_into().map_err(|_| damaged("its checksum is out of range"))?,
        completed: columns.completed,
    })
}

pub(crate) fn page(stream: &StreamName, rows: Vec<CommitColumns>, limit: u32, cut: bool) -> Result<CommitPage> {
    let more = cut || u32::try_from(rows.len()).map_or(true, |rows| rows >= limit);
    let commits: Result<Vec<_>> = rows.into_iter().map(|columns| commit(stream, columns)).collect();
    Ok(CommitPage { commits: commits?, more })
}

/// A snapshot whose numbers are out of range cannot be intact: it becomes one that is not.
pub(crate) fn snapshot(stream: &SagaStream, columns: SnapshotColumns) -> Snapshot {
    let mut snapshot = Snapshot::new(
        &columns.persistence_key,
        &stream.instance_id,
        Revision::from_i64(columns.revision).unwrap_or_default(),
        CommitNumber::from_i64(columns.commit_no).unwrap_or_default(),
        u32::try_from(columns.data_version).unwrap_or_default(),
        &columns.content_type,
        columns.body,
    );
    snapshot.checksum = u32::try_from(columns.checksum).unwrap_or(!snapshot.checksum);
    snapshot
}
