//! Instances that are kept in memory from one unit of work to the next.

use std::any::Any;
use std::sync::Arc;

use quick_cache::sync::Cache;
use sqlx::{Database, Pool};

use crate::ids::Revision;
use crate::message_store::Head;
use crate::pool;
use crate::saga::Instance;
use crate::stream_name::StreamName;

/// The cache of one pool. Cheap to clone.
pub(crate) struct InstanceCache<DB: Database> {
    pool: Pool<DB>,
    kept: Arc<Cache<StreamName, Arc<dyn Any + Send + Sync>>>,
}

/// An instance as it was after its last unit of work.
pub(crate) struct Kept<D> {
    pub(crate) instance: Instance<D>,
    pub(crate) head: Head,
    /// The newest snapshot of it that is known.
    pub(crate) snapshot: Option<Revision>,
}

impl<DB: Database> Clone for InstanceCache<DB> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), kept: Arc::clone(&self.kept) }
    }
}

impl<DB: Database> InstanceCache<DB> {
    /// Of at most so many instances.
    pub(crate) fn new(pool: Pool<DB>, capacity: usize) -> Self {
        Self { pool, kept: Arc::new(Cache::new(capacity)) }
    }

    /// It keeps what is in the database of this pool.
    pub(crate) fn serves(&self, pool: &Pool<DB>) -> bool {
        pool::is_same(&self.pool, pool)
    }

    /// Takes an instance out. Whoever comes for it meanwhile does not find it: of two units of work on the same state only
    /// one could be saved.
    pub(crate) fn take<D: Send + Sync + 'static>(&self, stream: &StreamName) -> Option<Kept<D>> {
        let (_, kept) = self.kept.remove(stream)?;
        Arc::into_inner(kept.downcast().ok()?)
    }

    pub(crate) fn put<D: Send + Sync + 'static>(&self, stream: StreamName, kept: Kept<D>) {
        self.kept.insert(stream, Arc::new(kept));
    }

    pub(crate) fn forget(&self, stream: &StreamName) {
        self.kept.remove(stream);
    }
}
