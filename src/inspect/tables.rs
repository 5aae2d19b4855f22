//! The statements that a database must have to be looked into, and the rows they give.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::Database;
use uuid::Uuid;

use crate::error::Result;
use crate::message_store::PAGE_BYTES;
use crate::row::{CommitColumns, SnapshotColumns};
use crate::stream_name::StreamName;

/// Which streams are wanted.
#[derive(Clone, Copy, Debug)]
pub struct StreamChoice<'a> {
    /// Those whose keys come after this one.
    pub after: i64,
    pub persistence_key: Option<&'a str>,
    pub instance_prefix: Option<&'a str>,
    pub completed: Option<bool>,
    /// Only those of sagas, and only those that have commits.
    pub instances_only: bool,
}

impl StreamChoice<'_> {
    /// All, from a key on.
    pub fn all_after(after: i64) -> Self {
        Self { after, persistence_key: None, instance_prefix: None, completed: None, instances_only: false }
    }
}

/// A stream and its last commit, as their columns say.
#[derive(Clone, Debug)]
pub struct StreamColumns {
    pub key: i64,
    pub name: String,
    pub persistence_key: Option<String>,
    pub instance_id: Option<String>,
    pub created_at: i64,
    pub completed_at: Option<i64>,
    /// `None` if there is no commit.
    pub last: Option<LastColumns>,
}

/// A stream's last commit.
#[derive(Clone, Copy, Debug)]
pub struct LastColumns {
    pub commit_no: i64,
    /// Its first offset and its number of events.
    pub end: i64,
    pub recorded_at: i64,
    pub completed: bool,
}

/// A commit or a snapshot, by its stream's key and its number or revision there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub stream: i64,
    pub number: i64,
}

impl Place {
    /// After all that a stream can have.
    pub fn end_of(stream: i64) -> Self {
        Self { stream, number: i64::MAX }
    }
}

/// A commit with its stream, and with what its messages do not need.
pub struct CommitRow {
    pub stream: i64,
    pub message_count: i64,
    pub handled: Option<Uuid>,
    pub columns: CommitColumns,
}

impl CommitRow {
    pub fn place(&self) -> Place {
        Place { stream: self.stream, number: self.columns.commit_no }
    }
}

/// Some commits in order.
#[derive(Default)]
pub struct CommitRows {
    pub rows: Vec<CommitRow>,
    /// It ended at a limit: there may be more.
    pub more: bool,
}

/// A snapshot, with what is known of its place.
pub struct SnapshotRow {
    pub stream: i64,
    pub taken_at: i64,
    pub columns: SnapshotColumns,
    /// Where the commit at which it was taken ends; `None` if that is not there.
    pub commit_end: Option<i64>,
}

impl SnapshotRow {
    pub fn place(&self) -> Place {
        Place { stream: self.stream, number: self.columns.revision }
    }
}

/// Snapshots as they come, up to a limit on their bytes; one at least.
pub(crate) async fn snapshot_page(
    mut rows: BoxStream<'_, sqlx::Result<SnapshotRow>>,
) -> sqlx::Result<Vec<SnapshotRow>> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        bytes += row.columns.body.len();
        page.push(row);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

/// A row of leases, held or not.
#[derive(Clone, Debug)]
pub struct LeaseColumns {
    pub namespace: String,
    pub resource_id: String,
    pub client_id: Option<String>,
    pub token: i64,
    pub obtained_at: i64,
    pub expires_at: i64,
    pub now: i64,
}

/// The statements of a database.
#[async_trait]
pub trait InspectTables<DB: Database>: Send + Sync {
    /// Begins a transaction that sees one state of the database, and writes nothing.
    fn begin_reading(&self) -> &'static str;

    /// The key of a stream; `None` if it has no row.
    async fn stream_key(&self, conn: &mut DB::Connection, stream: &StreamName) -> Result<Option<i64>>;

    /// Streams in the order of their keys, at most `limit`.
    async fn streams(
        &self,
        conn: &mut DB::Connection,
        choice: &StreamChoice<'_>,
        limit: u32,
    ) -> Result<Vec<StreamColumns>>;

    /// The stream with this key; `None` if it has no row.
    async fn stream_of_key(&self, conn: &mut DB::Connection, key: i64) -> Result<Option<StreamColumns>> {
        let next = self.streams(conn, &StreamChoice::all_after(key.saturating_sub(1)), 1).await?;
        Ok(next.into_iter().find(|stream| stream.key == key))
    }

    /// Commits after a place, of streams up to the key `to`, at most `limit` and about
    /// [`PAGE_BYTES`](crate::PAGE_BYTES).
    async fn commit_rows(&self, conn: &mut DB::Connection, after: Place, to: i64, limit: u32) -> Result<CommitRows>;

    /// Snapshots after a place, of streams up to the key `to`, at most `limit` and about
    /// [`PAGE_BYTES`](crate::PAGE_BYTES).
    async fn snapshot_rows(
        &self,
        conn: &mut DB::Connection,
        after: Place,
        to: i64,
        limit: u32,
    ) -> Result<Vec<SnapshotRow>>;

    /// Leases after a namespace and a resource, in this order, at most `limit`.
    async fn lease_rows(
        &self,
        conn: &mut DB::Connection,
        namespace: &str,
        resource: &str,
        limit: u32,
    ) -> Result<Vec<LeaseColumns>>;
}
