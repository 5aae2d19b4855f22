//! Loads saga instances and saves what units of work did.

use std::sync::Arc;
use std::time::Instant;

use sqlx::{Database, Pool, Transaction};

use crate::backend::Backend;
use crate::codec::Codecs;
use crate::commit_queue::CommitQueue;
use crate::envelope::Inbound;
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::instance_cache::InstanceCache;
use crate::limits::Limits;
use crate::message_store::MessageStore;
use crate::outbox::OutboxRepository;
use crate::pool;
use crate::recorder::{Recorder, Sender};
use crate::retry::ConflictRetry;
use crate::saga::{Saga, SagaStream};
use crate::snapshot::{DEFAULT_KEPT_SNAPSHOTS, SnapshotFrequency, SnapshotRepository};
use crate::unit_of_work::{Handled, UnitOfWork};
use crate::waker::OutboxWaker;

mod attempt;
mod cached;
mod execute;
mod group;
pub(crate) mod load;
mod replay;
pub(crate) mod save;
mod telemetry;

pub use attempt::{Attempt, Finished};
pub use execute::Executed;
pub(crate) use replay::Checkpoint;

/// Loads a saga instance by replaying its events, from the newest snapshot on, and saves what one
/// unit of work did: events, commands, the handled message and a snapshot, all or nothing.
///
/// Cheap to clone; holds no connection. The type parameter is sqlx's marker of the database.
pub struct Persister<DB: Database> {
    store: Arc<dyn MessageStore<DB>>,
    snapshots: Snapshots<DB>,
    outbox: Option<Arc<dyn OutboxRepository<DB>>>,
    snapshot_frequency: SnapshotFrequency,
    kept_snapshots: u32,
    codecs: Codecs,
    limits: Limits,
    retry: ConflictRetry,
    waker: Option<OutboxWaker>,
    /// Where units of work in transactions of the library's own wait for each other.
    queue: Option<CommitQueue<DB>>,
    /// Where instances are kept between units of work.
    cache: Option<InstanceCache<DB>>,
}

/// Who keeps the snapshots.
enum Snapshots<DB: Database> {
    /// The message store, in the statements that load and commit.
    InStore,
    /// A repository of its own, in statements of its own.
    Separate(Arc<dyn SnapshotRepository<DB>>),
    /// Nobody.
    Off,
}

impl<DB: Database> Clone for Persister<DB> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            snapshots: match &self.snapshots {
                Snapshots::InStore => Snapshots::InStore,
                Snapshots::Separate(repository) => Snapshots::Separate(Arc::clone(repository)),
                Snapshots::Off => Snapshots::Off,
            },
            outbox: self.outbox.clone(),
            codecs: self.codecs.clone(),
            waker: self.waker.clone(),
            queue: self.queue.clone(),
            cache: self.cache.clone(),
            ..*self
        }
    }
}

impl<DB: Backend> Persister<DB> {
    /// A persister on the built-in store of this database, with all defaults.
    #[cfg(any(feature = "json", feature = "bincode"))]
    #[expect(clippy::new_without_default, reason = "`Default` would not say for which database")]
    pub fn new() -> Self {
        Self::with_store(Arc::new(DB::Store::default()))
    }
}

impl<DB: Database> Persister<DB> {
    /// A persister on a store that also keeps the snapshots and the outbox, as the built-in ones do.
    #[cfg(any(feature = "json", feature = "bincode"))]
    pub fn with_store(store: Arc<dyn MessageStore<DB>>) -> Self {
        Self::with_store_and_codecs(store, Codecs::default())
    }

    /// As [`with_store`](Self::with_store), with codecs of the caller's choice.
    pub fn with_store_and_codecs(store: Arc<dyn MessageStore<DB>>, codecs: Codecs) -> Self {
        Self {
            store,
            snapshots: Snapshots::InStore,
            outbox: None,
            snapshot_frequency: SnapshotFrequency::default(),
            kept_snapshots: DEFAULT_KEPT_SNAPSHOTS,
            codecs,
            limits: Limits::default(),
            retry: ConflictRetry::default(),
            waker: None,
            queue: None,
            cache: None,
        }
    }

    /// Keeps snapshots in another repository, in the same transaction but in statements of its own.
    #[must_use]
    pub fn with_snapshot_repository(mut self, repository: Arc<dyn SnapshotRepository<DB>>) -> Self {
        self.snapshots = Snapshots::Separate(repository);
        self
    }

    /// Reads, writes and deletes no snapshots. The statement that loads still names their table, which has to be there.
    #[must_use]
    pub fn without_snapshots(mut self) -> Self {
        self.snapshots = Snapshots::Off;
        self
    }

    /// Records outgoing messages in another outbox, in the same transaction but in statements of its own.
    #[must_use]
    pub fn with_outbox_repository(mut self, repository: Arc<dyn OutboxRepository<DB>>) -> Self {
        self.outbox = Some(repository);
        self
    }

    /// Takes snapshots so often; default [`DEFAULT_SNAPSHOT_FREQUENCY`](crate::DEFAULT_SNAPSHOT_FREQUENCY).
    #[must_use]
    pub fn with_snapshot_frequency(mut self, frequency: SnapshotFrequency) -> Self {
        self.snapshot_frequency = frequency;
        self
    }

    /// Keeps so many snapshots of an instance, at least one; default
    /// [`DEFAULT_KEPT_SNAPSHOTS`](crate::DEFAULT_KEPT_SNAPSHOTS).
    #[must_use]
    pub fn with_kept_snapshots(mut self, snapshots: u32) -> Self {
        self.kept_snapshots = snapshots.max(1);
        self
    }

    /// Uses these codecs.
    #[must_use]
    pub fn with_codecs(mut self, codecs: Codecs) -> Self {
        self.codecs = codecs;
        self
    }

    /// Uses these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Retries conflicts so; used by [`execute`](Self::execute) and
    /// [`execute_in_transaction`](Self::execute_in_transaction) only.
    #[must_use]
    pub fn with_conflict_retry(mut self, retry: ConflictRetry) -> Self {
        self.retry = retry;
        self
    }

    /// Wakes dispatchers of this process after each unit of work that [`execute`](Self::execute) or
    /// [`execute_in_transaction`](Self::execute_in_transaction) committed. Whoever commits by itself calls
    /// [`OutboxWaker::wake`] after the commit.
    #[must_use]
    pub fn with_waker(mut self, waker: OutboxWaker) -> Self {
        self.waker = Some(waker);
        self
    }

    /// Keeps up to `capacity` instances in memory, so that a unit of work of [`execute`](Self::execute) on one of them
    /// reads nothing: it is decided on what is in memory, and saved only if the stream still ends there. This
    /// persister and its clones share what they keep, for this pool and its clones only; on another pool nothing is kept.
    ///
    /// Results are the same as without. Other processes may write meanwhile: what was decided on an instance counts
    /// only if it could be saved. Otherwise, also if nothing was to be saved or `decide` gave an error, the instance is
    /// loaded and `decide` runs once more, which counts as no lost try. Nothing is kept of completed instances, and
    /// what is saved in other ways than by `execute` takes its instance out.
    ///
    /// The memory is that of the states: choose the capacity by their size. The state in memory is the one that
    /// [`apply_event`](Saga::apply_event) made when the events were published, so an event must come
    /// back from its codec as it was published (the test kit, feature `testkit`, checks that).
    #[must_use]
    pub fn with_instance_cache(mut self, pool: &Pool<DB>, capacity: usize) -> Self {
        self.cache = Some(InstanceCache::new(pool.clone(), capacity));
        self
    }

    /// For a database that gains by it, and survives calls that are dropped half-way.
    #[cfg(feature = "sqlite")]
    pub(crate) fn with_commit_queue(mut self, pool: &Pool<DB>) -> Self {
        self.queue = Some(CommitQueue::new(Arc::clone(&self.store), pool.clone()));
        self
    }

    /// The message store underneath.
    pub fn store(&self) -> &dyn MessageStore<DB> {
        self.store.as_ref()
    }

    /// Begins a transaction fit for units of work: `BEGIN IMMEDIATE` on SQLite, READ COMMITTED on
    /// MySQL and MariaDB, the default of PostgreSQL.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin(&self, pool: &Pool<DB>) -> Result<Transaction<'static, DB>> {
        let (pool, statement) = (pool.clone(), self.store.begin_statement());
        let begin = async move {
            let Some(statement) = statement else { return pool.begin().await };
            let until = Instant::now() + pool.options().get_acquire_timeout();
            loop {
                let begun = pool.begin_with(statement).await;
                let unfit = matches!(begun, Err(sqlx::Error::InvalidSavePointStatement));
                if !unfit || !pool::has_others(&pool) || Instant::now() > until {
                    return begun;
                }
                // It may be on its way back into the pool still, and not be found at once.
                pool::weed(&pool).await?;
            }
        };
        let begun = if self.store.survives_dropped_calls() {
            begin.await
        } else {
            // On a task of its own it is carried through whatever becomes of this call.
            tokio::spawn(begin).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
        };
        begun.map_err(|error| self.store.classify("beginning a transaction", error))
    }

    /// Fails if a statement in the transaction has failed after which the database will only roll it back. PostgreSQL says
    /// so at every statement but the last: it answers COMMIT as if all were well.
    pub(crate) async fn check_usable<S: Saga>(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &S,
        id: &InstanceId,
    ) -> Result<()> {
        self.store.next_offset(tx, &stream_of(saga, id)?.name).await.map(drop)
    }

    /// Begins a unit of work inside the caller's transaction, seeing what that transaction wrote. An
    /// unknown instance begins at revision zero. Nothing is written.
    ///
    /// To handle a message once only, use [`begin_handling`](Self::begin_handling), or
    /// [`UnitOfWork::handling`] and look at what saving says.
    ///
    /// # Errors
    /// [`Error::ForeignInstance`], [`Error::Corrupt`], [`Error::UnknownType`], [`Error::Undecodable`]; the database's.
    pub async fn begin_unit_of_work<'s, S: Saga, T: Sender>(
        &self,
        saga: &'s S,
        tx: &mut Transaction<'_, DB>,
        sender: T,
        id: &InstanceId,
    ) -> Result<UnitOfWork<'s, S, T>> {
        match self.load(saga, tx, sender, id, None).await? {
            Begun::Unit(unit) => Ok(unit),
            Begun::AlreadyHandled(_) => panic!("BUG: no message was named, and yet it was handled before"),
        }
    }

    /// As [`begin_unit_of_work`](Self::begin_unit_of_work), for a message that is to take effect once only.
    ///
    /// # Errors
    /// As [`begin_unit_of_work`](Self::begin_unit_of_work).
    pub async fn begin_handling<'s, S: Saga, T: Sender>(
        &self,
        saga: &'s S,
        tx: &mut Transaction<'_, DB>,
        sender: T,
        id: &InstanceId,
        message: impl Into<Inbound> + Send,
    ) -> Result<Begun<'s, S, T>> {
        self.load(saga, tx, sender, id, Some(message.into())).await
    }

    /// Loads an instance to look at it. `None` if it does not exist.
    ///
    /// # Errors
    /// As [`begin_unit_of_work`](Self::begin_unit_of_work).
    pub async fn load_instance<'s, S: Saga>(
        &self,
        saga: &'s S,
        conn: &mut DB::Connection,
        id: &InstanceId,
    ) -> Result<Option<UnitOfWork<'s, S>>> {
        match self.load(saga, conn, crate::Outbox, id, None).await? {
            Begun::Unit(unit) if unit.head.commit_number > crate::CommitNumber::ZERO => Ok(Some(unit)),
            _ => Ok(None),
        }
    }

    pub(crate) fn recorder<T: Sender>(&self, sender: T) -> Recorder<T> {
        Recorder::with_codecs(sender, self.codecs.clone(), self.limits)
    }

    pub(crate) fn codecs(&self) -> &Codecs {
        &self.codecs
    }

    /// Something was committed: what it sent can be relayed.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    fn classify(&self, doing: &'static str) -> impl FnOnce(sqlx::Error) -> Error + '_ {
        move |error| self.store.classify(doing, error)
    }
}

fn stream_of<S: Saga>(saga: &S, id: &InstanceId) -> Result<SagaStream> {
    SagaStream::new(saga.persistence_key(), id)
}

/// What beginning to handle a message found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub enum Begun<'s, S: Saga, T> {
    /// The message is new for this instance.
    Unit(UnitOfWork<'s, S, T>),
    /// It was handled before.
    AlreadyHandled(Handled),
}
