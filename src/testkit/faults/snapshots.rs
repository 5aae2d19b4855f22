//! A snapshot repository with faults.

use std::fmt;
use std::sync::Arc;

use sqlx::Database;

use super::plan::Faults;
use crate::snapshot::SnapshotRepository;

/// A [`SnapshotRepository`] around another one, whose calls fail or stall as [`Faults`] say.
pub struct FaultySnapshots<DB: Database> {
    pub(crate) inner: Arc<dyn SnapshotRepository<DB>>,
    pub(crate) faults: Faults,
}

impl<DB: Database> FaultySnapshots<DB> {
    /// Wraps a repository.
    pub fn new(inner: Arc<dyn SnapshotRepository<DB>>, faults: &Faults) -> Self {
        Self { inner, faults: faults.clone() }
    }
}

/// Implements the trait for one database. An implementation for all would overlap, for all that the compiler knows, with
/// that of the built-in stores.
macro_rules! faulty_snapshots {
    ($db:ty) => {
        const _: () = {
            use async_trait::async_trait;
            use sqlx::{Database, Transaction};
            use $crate::error::Result;
            use $crate::ids::InstanceId;
            use $crate::snapshot::{Snapshot, SnapshotRepository};
            use $crate::testkit::FaultySnapshots;
            use $crate::testkit::Verb;

            #[async_trait]
            impl SnapshotRepository<$db> for FaultySnapshots<$db> {
                async fn load_saga_snapshot(
                    &self,
                    conn: &mut <$db as Database>::Connection,
                    persistence_key: &str,
                    instance_id: &InstanceId,
                ) -> Result<Option<Snapshot>> {
                    let call = self.inner.load_saga_snapshot(conn, persistence_key, instance_id);
                    self.faults.around(Verb::LoadSagaSnapshot, call).await
                }

                async fn save_saga_snapshot(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    snapshot: &Snapshot,
                    keep: u32,
                ) -> Result<()> {
                    self.faults.around(Verb::SaveSagaSnapshot, self.inner.save_saga_snapshot(tx, snapshot, keep)).await
                }

                async fn delete_saga_snapshots(
                    &self,
                    tx: &mut Transaction<'_, $db>,
                    persistence_key: &str,
                    instance_id: &InstanceId,
                ) -> Result<u64> {
                    let call = self.inner.delete_saga_snapshots(tx, persistence_key, instance_id);
                    self.faults.around(Verb::DeleteSagaSnapshots, call).await
                }
            }
        };
    };
}
pub(crate) use faulty_snapshots;

impl<DB: Database> fmt::Debug for FaultySnapshots<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultySnapshots").field("faults", &self.faults).finish_non_exhaustive()
    }
}
