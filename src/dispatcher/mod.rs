//! Relays the outbox's messages: at least once, in order per stream, through several processes: two at a time, or
//! [as many as you say](DispatcherSettings::with_dispatchers).
//!
//! A message travels from the unit of work that recorded it, in the same transaction, to the [`Emitter`]:
//!
//! ```text
//! unit of work ──commit──▶ outbox ──find──▶ dispatcher ──emit──▶ broker
//!                            ▲                  │ fenced by the partition's lease
//!                            └──acknowledge─────┘
//! ```
//!
//! [Timeouts](crate::UnitOfWork::schedule) come to the outbox when they are due: before each look for messages a dispatcher
//! moves those of its partitions there, a batch at a time, and while it is idle it sleeps no longer than until the next one.
//!
//! The outbox is divided into [`OUTBOX_PARTITIONS`](crate::OUTBOX_PARTITIONS) partitions by stream. Each dispatcher
//! [subscribes](crate::OutboxRepository::subscribe_dispatcher), and takes an equal share of the partitions, each under
//! a [lease](crate::lock::lease). Whatever it acknowledges, postpones or declares dead it does in a transaction that is
//! [fenced](crate::lock::Fence) by these leases: one that was paused for too long can send once more what it had
//! in hand, and can mark nothing. Neither a transaction nor a connection is held while an emitter sends.

mod batch;
mod ownership;
mod restart;
mod retries;
mod retry;
mod settings;
mod stop;
mod telemetry;
mod worker;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use sqlx::Pool;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use self::ownership::Ownership;
use self::restart::unless_it_panics;
use self::retries::Retries;
use self::stop::{Stop, stopper};
use self::telemetry::Gauges;
use self::worker::{Horizon, Shared, pause};
use crate::backend::Backend;
use crate::emitter::Emitter;
use crate::error::Result;
use crate::lock::ClientId;
use crate::outbox::OutboxRepository;
use crate::waker::OutboxWaker;

pub use retry::{
    DEFAULT_DELIVERY_ATTEMPTS, DEFAULT_IMMEDIATE_RETRIES, DEFAULT_RETRY_DELAY, DEFAULT_RETRY_DELAY_CAP,
    DEFAULT_RETRY_JITTER, DeliveryRetry,
};
pub use settings::{
    AfterFailure, DEFAULT_DISPATCH_BATCH, DEFAULT_DISPATCH_WORKERS, DEFAULT_DISPATCHERS, DEFAULT_EMIT_TIMEOUT,
    DEFAULT_POLL_INTERVAL, DEFAULT_STOP_GRACE, DispatcherSettings, MAX_DISPATCH_BATCH, MAX_DISPATCH_LEASE,
    MAX_DISPATCH_WORKERS, MAX_POLL_INTERVAL, MAX_STOP_GRACE, MIN_DISPATCH_LEASE,
};
pub use worker::{Dispatched, MAX_LAST_ERROR_BYTES};

/// How long after its grace a dispatcher ends at the latest: so long a database may take for what is to be done last.
const END_WITHIN: Duration = Duration::from_secs(2);
/// The part of it that is kept for handing partitions back: a statement for each.
const HAND_BACK_WITHIN: Duration = Duration::from_secs(1);

/// Relays messages from the outbox of a database to an [`Emitter`].
pub struct Dispatcher<DB: Backend> {
    pool: Pool<DB>,
    emitter: Arc<dyn Emitter>,
    id: ClientId,
    settings: DispatcherSettings,
    waker: OutboxWaker,
}

impl<DB: Backend> fmt::Debug for Dispatcher<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("id", &self.id).field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<DB: Backend> Dispatcher<DB> {
    /// A dispatcher with all defaults, and an id of its own.
    pub fn new(pool: Pool<DB>, emitter: impl Emitter + 'static) -> Self {
        let id = ClientId::new(Uuid::now_v7().to_string()).expect("BUG: a UUID is an id");
        let (emitter, settings) = (Arc::new(emitter), DispatcherSettings::default());
        Self { pool, emitter, id, settings, waker: OutboxWaker::new() }
    }

    /// Goes by this name. It must be unique among those that run at a time; a process that is restarted under its old
    /// name gets its old slot at once.
    #[must_use]
    pub fn with_id(mut self, id: ClientId) -> Self {
        self.id = id;
        self
    }

    /// Goes about it so.
    #[must_use]
    pub fn with_settings(mut self, settings: DispatcherSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Is woken by this, such as by a [`Persister`](crate::Persister::with_waker) with the same waker.
    #[must_use]
    pub fn with_waker(mut self, waker: OutboxWaker) -> Self {
        self.waker = waker;
        self
    }

    /// Relays everything that is due in this dispatcher's share, and hands the share back: for cron jobs and tests. Does
    /// nothing if all slots are taken.
    ///
    /// What is recorded after it began is left to the next call, also what its own deliveries lead to; so it comes to an end
    /// under any load. A failed message is tried again by the same call if its retry comes at once. Once the emitter begins to
    /// send none of a batch within its time limit, the rest is left, too.
    ///
    /// # Errors
    /// The database's. What was delivered before, and not acknowledged, is delivered again.
    pub async fn dispatch_once(&self) -> Result<Dispatched> {
        let shared = self.shared();
        let (_stopper, stop) = stopper();
        let refreshed = async { shared.ownership.refresh(shared.ownership.connect().await?).await };
        let mut drained = refreshed.await.map(|_| Dispatched::default());
        if let Ok(total) = &mut drained {
            // The leases may have to be renewed before everything is relayed.
            let (drainer, is_drained) = stopper();
            let drain = async {
                let worker =
                    async |worker| shared.drain(worker, &stop, Horizon::FirstLook(None), &mut Retries::default()).await;
                let drained = try_join_all((0..self.settings.workers).map(worker)).await;
                drainer.stop(Duration::ZERO);
                drained
            };
            let ((), workers) = tokio::join!(renew(&shared, &is_drained), drain);
            match workers {
                Ok(workers) => workers.into_iter().for_each(|worker| total.add_other(worker.dispatched)),
                Err(error) => drained = Err(error),
            }
        }
        let left = shared.ownership.leave().await;
        let drained = drained?;
        left?;
        Ok(drained)
    }

    /// Relays until `shutdown` completes; then waits for what is under way, no longer than the grace, acknowledges it, and
    /// hands its partitions and its slot back. It ends two seconds after the grace at the latest, also if the database does
    /// not answer then: what is not handed back expires. A database that cannot be reached before is tried again for as
    /// long as it takes; so is what panics, as an emitter's error may or who listens to `tracing`. Dropped half-way, it sends
    /// nothing more, and its share is free after expiry.
    ///
    /// Needs a tokio runtime with time and I/O.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Dispatched {
        let shared = Arc::new(self.shared());
        let ((stopper, stop), (ender, end)) = (stopper(), stopper());
        let (mut workers, mut keeper) = (JoinSet::new(), JoinSet::new());
        for worker in 0..self.settings.workers {
            workers.spawn(work(Arc::clone(&shared), worker, self.waker.clone(), stop.clone()));
        }
        keeper.spawn(keep(Arc::clone(&shared), self.waker.clone(), stop, end));
        shutdown.await;

        let grace = self.settings.stop_grace;
        stopper.stop(grace);
        let end_of_all = Instant::now() + grace + END_WITHIN;
        let mut total = Dispatched::default();
        // What is under way ends by itself within the grace; acknowledging it may hang.
        while let Ok(Some(ended)) = timeout_at(end_of_all - HAND_BACK_WITHIN, workers.join_next()).await {
            total.add_other(ended.unwrap_or_default());
        }
        workers.abort_all();
        ender.stop(Duration::ZERO);
        let leave = async {
            // Not cut short while it asks for leases, lest it be granted one that nobody knows of.
            keeper.join_next().await;
            shared.ownership.leave().await
        };
        match timeout_at(end_of_all, leave).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => telemetry::failing("handing partitions back", &error),
            Err(_) => tracing::warn!(target: "sagastore", "partitions were not handed back in time; they expire"),
        }
        total
    }

    fn shared(&self) -> Shared<DB> {
        Shared {
            ownership: Ownership::new(self.pool.clone(), self.id.clone(), self.settings.clone()),
            store: DB::Store::default(),
            emitter: Arc::clone(&self.emitter),
            settings: self.settings.clone(),
            turn: Mutex::default(),
        }
    }
}

/// Looks after slot and leases until the end, also after a panic.
async fn keep<DB: Backend>(shared: Arc<Shared<DB>>, waker: OutboxWaker, stop: Stop, end: Stop) {
    let (doing, mut gauges) = ("looking after its partitions", Gauges::default());
    while unless_it_panics(doing, &stop, hold(&shared, &waker, &stop, &end, &mut gauges)).await.is_none() {}
    gauges.keep(&[]);
}

/// Looks after slot and leases; once a stop is requested, only keeps the leases under which messages are under way.
async fn hold<DB: Backend>(shared: &Shared<DB>, waker: &OutboxWaker, stop: &Stop, end: &Stop, gauges: &mut Gauges) {
    let mut measured = None::<Instant>;
    while !stop.is_requested() {
        let refreshed = tokio::select! {
            conn = shared.ownership.connect() => async { shared.ownership.refresh(conn?).await }.await,
            // Nothing is asked yet: a stop need not wait for a connection.
            () = stop.requested() => break,
        };
        match refreshed {
            // Messages may have waited in what was taken over.
            Ok(true) => waker.wake_for_another(),
            Ok(false) => {}
            Err(error) => telemetry::failing("looking after its partitions", &error),
        }
        gauges.keep(&shared.ownership.partitions());
        if telemetry::MEASURES && measured.is_none_or(|at| at.elapsed() >= telemetry::MEASURE_INTERVAL) {
            measured = Some(Instant::now());
            if let Err(error) = measure(shared, gauges).await {
                telemetry::failing("measuring the outbox", &error);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(shared.settings.refresh_interval()) => {}
            () = shared.ownership.given_back() => {}
            () = stop.requested() => {}
        }
    }
    renew(shared, end).await;
}

/// Renews leases until the end.
async fn renew<DB: Backend>(shared: &Shared<DB>, end: &Stop) {
    while !end.is_requested() {
        tokio::select! {
            () = tokio::time::sleep(shared.settings.refresh_interval()) => {}
            () = end.requested() => return,
        }
        if let Err(error) = shared.ownership.keep().await {
            telemetry::failing("renewing its leases", &error);
        }
    }
}

async fn measure<DB: Backend>(shared: &Shared<DB>, gauges: &mut Gauges) -> Result<()> {
    let mut conn = shared.ownership.connect().await?;
    let lag = shared.store.lag(&mut conn).await;
    conn.release();
    gauges.measured(&shared.ownership.partitions(), &lag?);
    Ok(())
}

/// Relays until a stop is requested, also after a panic. What was under way then is delivered again.
async fn work<DB: Backend>(shared: Arc<Shared<DB>>, worker: u32, waker: OutboxWaker, stop: Stop) -> Dispatched {
    let (mut total, mut retries) = (Dispatched::default(), Retries::default());
    let doing = "relaying messages";
    while unless_it_panics(doing, &stop, relay(&shared, worker, &waker, &stop, &mut retries, &mut total))
        .await
        .is_none()
    {}
    total
}

/// Relays whenever it is woken, every so often, and when a timeout or a retry is due.
async fn relay<DB: Backend>(
    shared: &Shared<DB>,
    worker: u32,
    waker: &OutboxWaker,
    stop: &Stop,
    retries: &mut Retries,
    total: &mut Dispatched,
) {
    let mut wakes = waker.subscribe();
    while !stop.is_requested() {
        wakes.mark_unchanged();
        let drained = shared.drain(worker, stop, Horizon::Open, retries).await;
        match &drained {
            Ok(drained) => total.add(drained.dispatched),
            Err(error) => telemetry::failing("relaying messages", error),
        }
        tokio::select! {
            _ = wakes.changed() => {}
            () = tokio::time::sleep(pause(drained.as_ref().ok(), retries, shared.settings.poll)) => {}
            () = stop.requested() => {}
        }
    }
}
