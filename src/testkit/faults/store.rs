//! A message store with faults.

use std::fmt;
use std::sync::Arc;

use sqlx::Database;

use super::plan::Faults;
use crate::message_store::MessageStore;

/// A [`MessageStore`] around another one, whose calls fail or stall as [`Faults`] say. A group is committed one by one.
pub struct FaultyStore<DB: Database> {
    pub(crate) inner: Arc<dyn MessageStore<DB>>,
    pub(crate) faults: Faults,
}

impl<DB: Database> FaultyStore<DB> {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn MessageStore<DB>>, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }
}

/// Implements the trait for one database. An implementation for all would overlap, for all that the compiler knows, with
/// that of the built-in stores.
macro_rules! faulty_store {
    ($db:ty) => {
        const _: () = {
            use async_trait::async_trait;
            use sqlx::{Database, Transaction};
            use $crate::envelope::{Envelope, RecordedEvent};
            use $crate::error::{Error, Result};
            use $crate::ids::{CommitNumber, Offset};
            use $crate::lock::Fence;
            use $crate::message_store::{CommitPage, Head, LoadRequest, Loaded, MessageStore, UnitCommit};
            use $crate::saga::SagaStream;
            use $crate::stream_name::StreamName;
            use $crate::testkit::FaultyStore;
            use $crate::testkit::Verb;
            use $crate::timeout::{PendingTimeout, TimeoutChange, TimeoutStats};

            #[async_trait]
            impl MessageStore<$db> for FaultyStore<$db> {
                async fn append_messages(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    stream: &StreamName,
                    offset: Offset,
                    messages: &[Envelope],
                ) -> Result<Offset> {
                    let call = self.inner.append_messages(tx, stream, offset, messages);
                    self.faults.around(Verb::AppendMessages, call).await
                }

                async fn read_page(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    stream: &StreamName,
                    from: Offset,
                    limit: u32,
                ) -> Result<Option<Vec<RecordedEvent>>> {
                    self.faults.around(Verb::ReadPage, self.inner.read_page(conn, stream, from, limit)).await
                }

                async fn read_bounded_page(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    stream: &StreamName,
                    from: Offset,
                    limit: u32,
                ) -> Result<Option<Vec<RecordedEvent>>> {
                    let read = self.inner.read_bounded_page(conn, stream, from, limit);
                    self.faults.around(Verb::ReadPage, read).await
                }

                async fn next_offset(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    stream: &StreamName,
                ) -> Result<Option<Offset>> {
                    self.faults.around(Verb::NextOffset, self.inner.next_offset(conn, stream)).await
                }

                async fn load(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    request: &LoadRequest<'_>,
                ) -> Result<Loaded> {
                    self.faults.around(Verb::Load, self.inner.load(conn, request)).await
                }

                async fn read_commits(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    stream: &StreamName,
                    after: CommitNumber,
                ) -> Result<CommitPage> {
                    self.faults.around(Verb::ReadCommits, self.inner.read_commits(conn, stream, after)).await
                }

                async fn commit(&self, tx: &mut Transaction<'_, $db>, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
                    self.faults.around(Verb::Commit, self.inner.commit(tx, unit)).await
                }

                async fn commit_alone(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    unit: &UnitCommit<'_>,
                ) -> Result<Option<Head>> {
                    self.faults.around(Verb::CommitAlone, self.inner.commit_alone(conn, unit)).await
                }

                async fn fence(&self, tx: &mut Transaction<'_, $db>, fence: &Fence) -> Result<()> {
                    self.faults.around(Verb::Fence, self.inner.fence(tx, fence)).await
                }

                async fn change_timeouts(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    stream: &SagaStream,
                    commit: CommitNumber,
                    changes: &[TimeoutChange],
                ) -> Result<()> {
                    let call = self.inner.change_timeouts(tx, stream, commit, changes);
                    self.faults.around(Verb::ChangeTimeouts, call).await
                }

                async fn pending_timeouts(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    stream: &StreamName,
                    after: Option<&str>,
                    limit: u32,
                ) -> Result<Vec<PendingTimeout>> {
                    let call = self.inner.pending_timeouts(conn, stream, after, limit);
                    self.faults.around(Verb::PendingTimeouts, call).await
                }

                async fn timeout_stats(&self, conn: &mut <$db as Database>::Connection) -> Result<TimeoutStats> {
                    self.faults.around(Verb::TimeoutStats, self.inner.timeout_stats(conn)).await
                }

                async fn release_due_timeouts(&self, tx: &mut Transaction<'_, $db>, limit: u32) -> Result<u64> {
                    let call = self.inner.release_due_timeouts(tx, limit);
                    self.faults.around(Verb::ReleaseDueTimeouts, call).await
                }

                async fn begin<'c>(&self, conn: &'c mut <$db as Database>::Connection) -> Result<Transaction<'c, $db>> {
                    self.faults.around(Verb::Begin, self.inner.begin(conn)).await
                }

                fn begin_statement(&self) -> Option<&'static str> {
                    self.inner.begin_statement()
                }

                fn survives_dropped_calls(&self) -> bool {
                    self.inner.survives_dropped_calls()
                }

                fn classify(&self, doing: &'static str, error: sqlx::Error) -> Error {
                    self.inner.classify(doing, error)
                }
            }
        };
    };
}
pub(crate) use faulty_store;

impl<DB: Database> fmt::Debug for FaultyStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("faults", &self.faults).finish_non_exhaustive()
    }
}
