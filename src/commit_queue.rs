//! Units of work that are committed together: whoever comes while another one is written waits, and all that
//! wait are written next, in one transaction.
//!
//! There is no timer and no thread. Who finds nobody writing writes its own unit of work at once, on its own
//! connection, as it would without a queue. Those who come meanwhile drive that write, too: the caller who began it may be
//! one of several futures of a task that now waits for another of them. When it is done, or nobody is left to drive it,
//! that connection is handed to a task which writes what has gathered meanwhile, and hands it on to a task for the next
//! group. When nobody waits any more the connection goes back to its pool; the only connection of a pool goes back after
//! each group, since others wait for it too. Each task runs on the runtime of one who waits for it when it begins: another
//! one may not be driven any more.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Shared as Driven, WeakShared, select};
use sqlx::pool::PoolConnection;
use sqlx::{Connection, Database, Pool};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::message_store::{Head, MessageStore, UnitCommit};
use crate::owned_commit::OwnedCommit;
use crate::pool;

/// Most units of work in one group: beyond, the cost of a commit has long been shared, and the first of a
/// group only waits longer.
pub const MAX_GROUP_UNITS: usize = 64;
/// Most bytes in one group: 4 MiB. A larger unit of work is a group of its own.
pub const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Most units of work that wait or are being decided at a time; further callers wait before they load.
pub const MAX_GROUP_CALLERS: usize = 1024;

const DOING: &str = "committing a group of units of work";

/// The queue of one pool. Cheap to clone.
pub(crate) struct CommitQueue<DB: Database>(Arc<Shared<DB>>);

struct Shared<DB: Database> {
    store: Arc<dyn MessageStore<DB>>,
    pool: Pool<DB>,
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Somebody writes, and will see to those who wait.
    writing: bool,
    /// The write of who came first, as long as somebody drives it.
    first: Option<WeakShared<BoxFuture<'static, ()>>>,
}

struct Waiting {
    unit: OwnedCommit,
    runtime: Handle,
    answer: oneshot::Sender<Result<Option<Head>>>,
    /// Given back when it is answered, also if nobody listens any more.
    _place: Place,
}

/// The right to come to the queue once.
pub(crate) struct Place(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit);

impl<DB: Database> Clone for CommitQueue<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Database> CommitQueue<DB> {
    pub(crate) fn new(store: Arc<dyn MessageStore<DB>>, pool: Pool<DB>) -> Self {
        let places = Arc::new(Semaphore::new(MAX_GROUP_CALLERS));
        Self(Arc::new(Shared { store, pool, places, state: Mutex::default() }))
    }

    /// Waits for a place. Nothing may be held meanwhile that others need to give theirs back.
    pub(crate) async fn place(&self, pool: &Pool<DB>) -> Result<Place> {
        if !pool::is_same(&self.0.pool, pool) {
            return Err(Error::invalid("pool", "the persister commits its units of work in groups on another pool"));
        }
        let place = Arc::clone(&self.0.places).acquire_owned().await;
        place.map(Place).map_err(|_| Error::Closed { doing: DOING })
    }

    /// As [`MessageStore::commit_alone`], together with others. Who has no connection gets one, if it needs one.
    pub(crate) async fn commit(
        &self,
        place: Place,
        conn: Option<PoolConnection<DB>>,
        unit: OwnedCommit,
    ) -> Result<Option<Head>> {
        let Come { answer, first } = self.come(place, conn, unit);
        let answered = match first {
            Some(first) => match select(answer, first).await {
                Either::Left((answered, _)) => answered,
                Either::Right(((), answer)) => answer.await,
            },
            None => answer.await,
        };
        answered.unwrap_or_else(|_| Err(Error::Disconnected { doing: DOING, source: STOPPED.into() }))
    }

    fn come(&self, place: Place, conn: Option<PoolConnection<DB>>, unit: OwnedCommit) -> Come {
        let (sender, answer) = oneshot::channel();
        let mut state = self.0.lock();
        if state.writing {
            state.waiting.push_back(Waiting { unit, runtime: Handle::current(), answer: sender, _place: place });
            let first = state.first.as_ref().and_then(WeakShared::upgrade);
            drop(state);
            // Whoever waits holds no connection, so that others can load meanwhile.
            drop(conn);
            return Come { answer, first };
        }
        state.writing = true;
        let turn = Turn { shared: Arc::clone(&self.0), conn };
        let write = async move {
            // If it panics, the answer is dropped.
            if let Ok(written) = AssertUnwindSafe(turn.write(&unit)).catch_unwind().await {
                let _ = sender.send(written);
            }
            drop(place);
        };
        let first = write.boxed().shared();
        state.first = first.downgrade();
        Come { answer, first: Some(first) }
    }
}

/// Who came to the queue waits for its answer, and drives the write of who came first.
struct Come {
    answer: oneshot::Receiver<Result<Option<Head>>>,
    first: Option<Driven<BoxFuture<'static, ()>>>,
}

const STOPPED: &str = "the task that was writing them was stopped";

impl<DB: Database> Shared<DB> {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the connection on to a task for the next group; if nobody waits, nobody writes from now on.
    fn hand_on(self: &Arc<Self>, conn: Option<PoolConnection<DB>>) {
        let conn = conn.filter(|_| pool::has_others(&self.pool));
        let mut state = self.lock();
        let next = state.waiting.iter().find(|waiting| !waiting.answer.is_closed());
        let Some(runtime) = next.map(|waiting| waiting.runtime.clone()) else {
            state.writing = false;
            // Those who have gone give their places back without the lock.
            let gone = std::mem::take(&mut state.waiting);
            drop(state);
            return drop(gone);
        };
        drop(state);
        drop(runtime.spawn(Writer { shared: Arc::clone(self), conn, done: false, failed: None }.run()));
    }

    /// Closes a connection that is unfit, unless it is the only one.
    fn discard(&self, conn: Option<PoolConnection<DB>>) {
        if let Some(mut conn) = conn.filter(|_| pool::has_others(&self.pool)) {
            conn.close_on_drop();
        }
    }

    /// Takes the next group. It is empty if all have gone meanwhile.
    fn next_group(&self) -> Vec<Waiting> {
        let (mut group, mut size) = (Vec::new(), 0_usize);
        let mut state = self.lock();
        while group.len() < MAX_GROUP_UNITS {
            let Some(next) = state.waiting.pop_front() else { break };
            if next.answer.is_closed() {
                continue;
            }
            let larger = size.saturating_add(next.unit.size());
            if !group.is_empty() && larger > MAX_GROUP_BYTES {
                state.waiting.push_front(next);
                break;
            }
            size = larger;
            group.push(next);
        }
        group
    }

    /// Nobody writes any more, and nothing of those who wait was written.
    fn turn_away(&self, error: Error) {
        let waiting = {
            let mut state = self.lock();
            state.writing = false;
            std::mem::take(&mut state.waiting)
        };
        let errors = error.for_each_of(waiting.len());
        for (Waiting { answer, .. }, error) in waiting.into_iter().zip(errors) {
            let _ = answer.send(Err(error));
        }
    }
}

/// Who came first: writes alone, then sees to it that the others are written.
struct Turn<DB: Database> {
    shared: Arc<Shared<DB>>,
    conn: Option<PoolConnection<DB>>,
}

impl<DB: Database> Turn<DB> {
    async fn write(mut self, unit: &OwnedCommit) -> Result<Option<Head>> {
        if self.conn.is_none() {
            let conn = pool::take(&self.shared.pool).await;
            self.conn = Some(conn.map_err(|error| self.shared.store.classify(DOING, error))?);
        }
        let conn = self.conn.as_mut().expect("BUG: a turn has its connection until it ends");
        let written = self.shared.store.commit_alone(conn, &unit.as_commit()).await;
        if written.is_err() && !is_fit(conn).await {
            self.shared.discard(self.conn.take());
        }
        written
    }
}

/// False if what failed on a connection has left it unfit: lost, or with a transaction that cannot be ended.
async fn is_fit<DB: Database>(conn: &mut PoolConnection<DB>) -> bool {
    conn.ping().await.is_ok() && !conn.is_in_transaction()
}

impl<DB: Database> Drop for Turn<DB> {
    fn drop(&mut self) {
        self.shared.hand_on(self.conn.take());
    }
}

/// Writes the next group, then sees to it that the others are written. Takes a connection if it was given none.
struct Writer<DB: Database> {
    shared: Arc<Shared<DB>>,
    conn: Option<PoolConnection<DB>>,
    done: bool,
    /// Why it got no connection.
    failed: Option<Error>,
}

impl<DB: Database> Writer<DB> {
    async fn run(mut self) {
        if self.conn.is_none() {
            match pool::take(&self.shared.pool).await {
                Ok(conn) => self.conn = Some(conn),
                Err(error) => {
                    self.failed = Some(self.shared.store.classify(DOING, error));
                    return;
                }
            }
        }
        let conn = self.conn.as_mut().expect("BUG: a writer has its connection until it ends");
        let group = self.shared.next_group();
        if !group.is_empty() {
            let units: Vec<UnitCommit<'_>> = group.iter().map(|waiting| waiting.unit.as_commit()).collect();
            let written = self.shared.store.commit_group(conn, &units).await;
            drop(units);
            // Before anybody is answered: with the last of them the runtime may stop.
            if written.iter().any(Result::is_err) && !is_fit(conn).await {
                self.shared.discard(self.conn.take());
            }
            // Who got no answer learns that its fate is unknown.
            for (Waiting { answer, .. }, written) in group.into_iter().zip(written) {
                let _ = answer.send(written);
            }
        }
        self.done = true;
    }
}

impl<DB: Database> Drop for Writer<DB> {
    fn drop(&mut self) {
        if self.done {
            return self.shared.hand_on(self.conn.take());
        }
        let ended = || Error::Contention { doing: DOING, source: "the task that was to write them has ended".into() };
        self.shared.turn_away(self.failed.take().unwrap_or_else(ended));
    }
}
