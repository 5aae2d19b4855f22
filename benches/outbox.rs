//! Relaying the outbox: draining a backlog, and the way of one message from its commit to the emitter.
//!
//! The yardstick of the drain is the plain driver on one connection: it reads a batch of rows by their key
//! with their payloads and deletes them by their keys, until none is left. Both commit durably: SQLite has a
//! write-ahead log with `synchronous = FULL`, the servers are as they are set up. The backlog holds one
//! message per unit of work; `SAGASTORE_BENCH_MESSAGES` says how many. The emitter sends nowhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sagastore::dispatcher::{Dispatcher, DispatcherSettings};
use sagastore::emitter::Emitter;
use sagastore::lock::ClientId;
use sagastore::{Backend, Outbox, OutboxRepository, OutboxWaker, Persister};
use sqlx::Transaction;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

mod support;
use support::backlog::{Arrivals, Counter, CounterEvent, InOrder, Nowhere, instance, record};
use support::bed::{Bed, Bench, MARIADB, POSTGRES, SQLITE, Setup, on_every_database};
use support::rates::{Rated, Rates};
use support::side::is_measuring;
use support::targets::{Target, Verdicts};

const MESSAGES: u32 = 100_000;
const STREAMS: u32 = 1_000;
const BATCHES: [u32; 2] = [100, 1_000];
/// Of one dispatcher, with the larger batches.
const DRAIN: Target = Target::at_least(
    "a backlog dispatched, against reading and deleting plain rows",
    &[(SQLITE, 0.7), (POSTGRES, 0.7), (MARIADB, 0.7)],
);
const MANY_DISPATCHERS: u32 = 4;
const POLL: Duration = Duration::from_millis(100);
/// Nobody waits so long here: the dispatcher is woken, or stands still.
const NO_POLL: Duration = Duration::from_secs(60);

struct Relay {
    drains: Rates,
    latencies: Vec<String>,
    verdicts: Verdicts,
}

/// The messages that are to be drained again and again.
struct Backlog {
    streams: u32,
    in_each: u32,
}

impl Backlog {
    fn new() -> Self {
        let given = std::env::var("SAGASTORE_BENCH_MESSAGES").ok().map(|given| given.parse().expect("a number"));
        let messages: u32 = if is_measuring() { given.unwrap_or(MESSAGES) } else { 200 };
        let streams = if is_measuring() { STREAMS } else { 20 };
        Self { streams, in_each: messages.div_ceil(streams) }
    }

    fn messages(&self) -> u32 {
        self.streams * self.in_each
    }
}

impl Bench for Relay {
    const SETUP: Setup =
        Setup { connections: 24, sqlite_connections: 24, durable: true, untested: true, ..Setup::ONE_CLIENT };

    fn run(&mut self, runtime: &Runtime, bed: &impl Bed) {
        self.relay(runtime, bed);
    }
}

/// A transaction that has written something, and stays open.
async fn begin_long_transaction<B: Bed>(bed: &B, wanted: bool) -> Option<Transaction<'static, B::Driver>> {
    if !wanted {
        return None;
    }
    let persister = Persister::<B::Driver>::new();
    let mut tx = persister.begin(bed.pool()).await.expect("begins");
    let id = instance(u32::MAX);
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id).await.expect("loads");
    unit.publish(CounterEvent::counted(1)).expect("publishes");
    assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
    Some(tx)
}

async fn roll_back<DB: Backend>(open: Option<Transaction<'static, DB>>) {
    if let Some(open) = open {
        open.rollback().await.expect("rolls back");
    }
}

impl Relay {
    fn relay<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let backlog = Backlog::new();
        runtime.block_on(record(bed, backlog.streams, backlog.in_each));
        runtime.block_on(bed.settle());
        for batch in BATCHES {
            self.drains(runtime, bed, &backlog, batch, false);
        }
        runtime.block_on(check_order(bed, &backlog, false));
        if !B::ONE_WRITER {
            self.drains(runtime, bed, &backlog, BATCHES[1], true);
            runtime.block_on(check_order(bed, &backlog, true));
        }
        self.latencies(runtime, bed);
    }

    fn drains<B: Bed>(&mut self, runtime: &Runtime, bed: &B, backlog: &Backlog, batch: u32, beside_another: bool) {
        let payload = CounterEvent::counted(1).payload();
        let rate = |start: Instant| f64::from(backlog.messages()) / start.elapsed().as_secs_f64();
        let drain = |dispatchers| {
            runtime.block_on(bed.refill_outbox());
            let open = runtime.block_on(begin_long_transaction(bed, beside_another));
            let start = Instant::now();
            runtime.block_on(drain(bed, backlog, batch, dispatchers));
            let rate = rate(start);
            runtime.block_on(roll_back(open));
            rate
        };
        let mut sides = [
            Rated::new("1 dispatcher", || drain(1)),
            Rated::new("4 dispatchers", || drain(MANY_DISPATCHERS)),
            Rated::new("raw", || {
                runtime.block_on(bed.refill_raw_outbox(backlog.messages(), &payload));
                let open = runtime.block_on(begin_long_transaction(bed, beside_another));
                let start = Instant::now();
                runtime.block_on(drain_raw(bed, batch));
                let rate = rate(start);
                runtime.block_on(roll_back(open));
                rate
            }),
        ];
        let beside = if beside_another { ", beside a long transaction" } else { "" };
        let drained = self.drains.compare(&format!("drain, batches of {batch}{beside}"), B::NAME, &mut sides);
        if batch == BATCHES[1] && !beside_another {
            let messages = format!(", {} messages, batches of {batch}", backlog.messages());
            self.verdicts.judge(&DRAIN, &messages, B::NAME, drained.ratio(0, 2));
        }
    }

    fn latencies<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        for (how, wakes, poll, samples) in [("woken", true, NO_POLL, 1_000), ("polling", false, POLL, 100)] {
            let samples = if is_measuring() { samples } else { 3 };
            let mut taken = runtime.block_on(latencies(bed, wakes, poll, samples));
            taken.sort_unstable();
            let percentile = |percent: usize| taken[(taken.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            let (median, late, last) = (percentile(50), percentile(99), percentile(100));
            self.latencies.push(format!("| {how} | {} | {samples} | {median:.2} | {late:.2} | {last:.2} |", B::NAME));
        }
    }

    fn print(&self) {
        self.drains.print();
        if is_measuring() {
            println!("From the end of a commit to the emitter, one message at a time, in ms\n");
            println!("| how | database | messages | p50 | p99 | longest |\n|---|---|--:|--:|--:|--:|");
            println!("{}\n", self.latencies.join("\n"));
        }
        self.verdicts.print();
    }
}

fn settings(dispatchers: u32, batch: u32, poll: Duration) -> DispatcherSettings {
    let settings = DispatcherSettings::default().with_dispatchers(dispatchers).and_then(|set| set.with_batch(batch));
    settings.and_then(|set| set.with_poll_interval(poll)).expect("valid")
}

fn dispatcher<B: Bed>(bed: &B, number: u32, emitter: impl Emitter + 'static) -> Dispatcher<B::Driver> {
    let id = ClientId::new(format!("dispatcher-{number}")).expect("valid");
    Dispatcher::new(bed.pool().clone(), emitter).with_id(id)
}

async fn pending<B: Bed>(bed: &B) -> u64 {
    let mut conn = bed.pool().acquire().await.expect("a connection");
    let stats = OutboxRepository::stats(&<B::Driver as Backend>::Store::default(), &mut conn).await;
    stats.expect("reads").pending
}

/// From a cold start: taking leases, and sharing them among several, counts.
async fn drain<B: Bed>(bed: &B, backlog: &Backlog, batch: u32, dispatchers: u32) {
    let emitter = Arc::new(Nowhere::default());
    if dispatchers == 1 {
        let dispatcher = dispatcher(bed, 0, Arc::clone(&emitter)).with_settings(settings(1, batch, POLL));
        dispatch_all(&dispatcher, backlog).await;
        return;
    }
    let (stop, stopped) = watch::channel(false);
    let mut running = Vec::new();
    for number in 0..dispatchers {
        let dispatcher = dispatcher(bed, number, Arc::clone(&emitter));
        let dispatcher = dispatcher.with_settings(settings(dispatchers, batch, POLL));
        let mut stopped = stopped.clone();
        let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
        running.push(tokio::spawn(async move { dispatcher.run(stopped).await }));
    }
    while emitter.sent() < u64::from(backlog.messages()) || pending(bed).await > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.send_replace(true);
    for running in running {
        assert_eq!(running.await.expect("ends").failed, 0);
    }
}

/// Once is enough, unless a dispatcher that ended before has left a lease behind, which then has to expire.
async fn dispatch_all<DB: Backend>(dispatcher: &Dispatcher<DB>, backlog: &Backlog) {
    let mut delivered = 0;
    while delivered < u64::from(backlog.messages()) {
        let dispatched = dispatcher.dispatch_once().await.expect("dispatches");
        assert_eq!((dispatched.failed, dispatched.dead, dispatched.damaged), (0, 0, 0));
        delivered += dispatched.delivered;
    }
    assert_eq!(delivered, u64::from(backlog.messages()));
}

async fn drain_raw<B: Bed>(bed: &B, batch: u32) {
    loop {
        let keys = bed.read_raw_outbox(batch).await;
        if keys.is_empty() {
            break;
        }
        bed.delete_raw_outbox(&keys).await;
    }
}

/// Drains once more, and looks at what comes.
async fn check_order<B: Bed>(bed: &B, backlog: &Backlog, beside_another: bool) {
    bed.refill_outbox().await;
    let open = begin_long_transaction(bed, beside_another).await;
    let emitter = Arc::new(InOrder::default());
    let dispatcher = dispatcher(bed, 0, Arc::clone(&emitter)).with_settings(settings(1, BATCHES[0], POLL));
    dispatch_all(&dispatcher, backlog).await;
    assert!(emitter.is_complete(backlog.streams, backlog.in_each), "some stream is not complete");
    roll_back(open).await;
}

/// Messages are committed at random times, each after the one before has arrived.
async fn latencies<B: Bed>(bed: &B, wakes: bool, poll: Duration, samples: usize) -> Vec<Duration> {
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let waker = OutboxWaker::new();
    let dispatcher = dispatcher(bed, 0, Arrivals(arrivals)).with_settings(settings(1, BATCHES[0], poll));
    let dispatcher = dispatcher.with_waker(waker.clone());
    let (stop, mut stopped) = watch::channel(false);
    let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
    let running = tokio::spawn(async move { dispatcher.run(stopped).await });
    let persister = Persister::<B::Driver>::new();
    let (mut taken, mut random) = (Vec::new(), fastrand::Rng::with_seed(99));
    // The first one only shows that the dispatcher has its leases.
    for sample in 0..=samples {
        let pause = if wakes { 2 } else { POLL.as_millis() as u64 };
        tokio::time::sleep(Duration::from_micros(random.u64(0..pause * 1_000))).await;
        let mut tx = persister.begin(bed.pool()).await.expect("begins");
        let id = instance(u32::try_from(sample % 64).expect("small"));
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id).await.expect("loads");
        unit.publish(CounterEvent::counted(1)).expect("publishes");
        assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
        tx.commit().await.expect("commits");
        let committed = Instant::now();
        if wakes {
            waker.wake();
        }
        let came = arrived.recv().await.expect("arrives");
        if sample > 0 {
            taken.push(came.saturating_duration_since(committed));
        }
    }
    stop.send_replace(true);
    running.await.expect("ends");
    taken
}

fn main() {
    let mut relay = Relay {
        drains: Rates::new(
            "Draining the outbox, in messages per second: median (least–most); the ratio is that to the plain driver",
        ),
        latencies: Vec::new(),
        verdicts: Verdicts::default(),
    };
    on_every_database(&mut relay);
    relay.print();
}
