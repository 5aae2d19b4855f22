//! What is asked.

use sqlx::{Pool, Transaction};

use super::instance::{InstanceFilter, InstanceSummary, StreamKey};
use super::leases::LeaseSummary;
use super::life::LifeCommit;
use super::snapshots::SnapshotSummary;
use super::tables::{InspectTables, Place, StreamChoice};
use crate::backend::Backend;
use crate::error::Result;
use crate::guarded_connection::GuardedConnection;
use crate::ids::CommitNumber;
use crate::lock::{Namespace, ResourceId};
use crate::message_store::{MessageStore, PAGE_COMMITS};
use crate::stream_name::StreamName;

/// Most snapshots of one stream that are told.
const SNAPSHOTS: usize = 100;

/// Looks into one database.
#[derive(Debug)]
pub struct Inspector<DB: Backend> {
    pool: Pool<DB>,
    store: DB::Store,
}

impl<DB: Backend> Clone for Inspector<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), store: self.store.clone() }
    }
}

impl<DB: Backend> Inspector<DB> {
    /// Looks by this pool, one connection at a time.
    pub fn new(pool: &Pool<DB>) -> Self {
        Self { pool: pool.clone(), store: DB::Store::default() }
    }

    /// The instances after `after` that pass the filter, oldest first; at most `limit`. Page by page: the
    /// [`key`](InstanceSummary::key) of the last one is the next `after`.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a stream's row cannot be what was written; the database's.
    pub async fn instances(
        &self,
        filter: &InstanceFilter,
        after: Option<StreamKey>,
        limit: u32,
    ) -> Result<Vec<InstanceSummary>> {
        let choice = filter.choice(after);
        let mut conn = self.connection("listing instances").await?;
        let found = self.store.streams(&mut conn, &choice, limit).await;
        conn.release();
        found?.into_iter().filter_map(InstanceSummary::new).collect()
    }

    /// The instance of a stream; `None` if there is no such stream, or if no saga owns it.
    ///
    /// # Errors
    /// As [`instances`](Self::instances).
    pub async fn instance(&self, stream: &StreamName) -> Result<Option<InstanceSummary>> {
        let mut conn = self.connection("looking for an instance").await?;
        let Some(key) = self.store.stream_key(&mut conn, stream).await? else {
            conn.release();
            return Ok(None);
        };
        let choice = StreamChoice::all_after(key.saturating_sub(1));
        let found = self.store.streams(&mut conn, &choice, 1).await;
        conn.release();
        found?.into_iter().find(|found| found.key == key).and_then(InstanceSummary::new).transpose()
    }

    /// What happened in a stream after a commit, in order: a page of commits, empty at the end. A damaged
    /// commit is there too, with what is wrong in place of its messages.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the numbers of a row are out of range; the database's.
    pub async fn life(&self, stream: &StreamName, after: CommitNumber) -> Result<Vec<LifeCommit>> {
        let mut conn = self.connection("reading a stream").await?;
        let Some(key) = self.store.stream_key(&mut conn, stream).await? else {
            conn.release();
            return Ok(Vec::new());
        };
        let place = Place { stream: key, number: after.to_i64() };
        let found = self.store.commit_rows(&mut conn, place, key, PAGE_COMMITS).await;
        conn.release();
        found?.rows.into_iter().map(|row| LifeCommit::new(stream, row)).collect()
    }

    /// The snapshots of a stream, oldest first; at most the oldest 100.
    ///
    /// # Errors
    /// The database's.
    pub async fn snapshots(&self, stream: &StreamName) -> Result<Vec<SnapshotSummary>> {
        let mut conn = self.connection("looking for snapshots").await?;
        let Some(key) = self.store.stream_key(&mut conn, stream).await? else {
            conn.release();
            return Ok(Vec::new());
        };
        let (mut place, mut found) = (Place { stream: key, number: i64::MIN }, Vec::new());
        while found.len() < SNAPSHOTS {
            let wanted = u32::try_from(SNAPSHOTS - found.len()).unwrap_or(u32::MAX);
            let page = self.store.snapshot_rows(&mut conn, place, key, wanted).await?;
            let Some(last) = page.last() else { break };
            place = last.place();
            found.extend(page.into_iter().map(SnapshotSummary::new));
        }
        conn.release();
        Ok(found)
    }

    /// The leases after a namespace and a resource, held ones and such as are free again, in this order; at most
    /// `limit`. They tell locks, and what dispatchers hold.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if a row holds a name that cannot have been written; the
    /// database's.
    pub async fn leases(&self, after: Option<(&Namespace, &ResourceId)>, limit: u32) -> Result<Vec<LeaseSummary>> {
        let (namespace, resource) = after.map_or(("", ""), |(namespace, id)| (namespace.as_str(), id.as_str()));
        let mut conn = self.connection("listing leases").await?;
        let found = self.store.lease_rows(&mut conn, namespace, resource, limit).await;
        conn.release();
        found?.into_iter().map(LeaseSummary::new).collect()
    }

    pub(crate) fn store(&self) -> &DB::Store {
        &self.store
    }

    pub(crate) async fn connection(&self, doing: &'static str) -> Result<GuardedConnection<DB>> {
        GuardedConnection::take(&self.pool, &self.store, doing).await
    }
}

/// A transaction that sees one state of the database.
pub(crate) async fn begin_reading<'c, DB: Backend>(
    store: &DB::Store,
    conn: &'c mut DB::Connection,
    doing: &'static str,
) -> Result<Transaction<'c, DB>> {
    let begun = sqlx::Connection::begin_with(conn, store.begin_reading()).await;
    begun.map_err(|error| store.classify(doing, error))
}
