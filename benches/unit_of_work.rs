//! Whole units of work, from the load to the commit: an instance with a snapshot and a tail of events, one new event.
//!
//! Each client has instances of its own, so nobody waits for another. Beside it, by as many clients on the same pool: a
//! plain INSERT of one row, which loads nothing; and the naive way, BEGIN, SELECT the snapshot, SELECT the events after
//! it, INSERT the event, INSERT the message, COMMIT, all through sqlx, which decodes and applies the same events. Every run
//! finds the instances as they were filled. All commit durably.
//!
//! Beside the append alone, which knows where its stream ends, each unit of work also handles a message, as the append
//! does. There the library is also measured with its instances in memory.
//!
//! Then clients that share few instances: how many tries are lost to others, and what that does to the latency.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sagastore::{Backend, Error, Executed, Inbound, MessageId, Persister, SnapshotFrequency};
use sqlx::Pool;
use tokio::runtime::Runtime;

mod support;
use support::append_alone::Ends;
use support::bed::{Bed, Bench, MARIADB, POSTGRES, SQLITE, Setup, on_every_database, on_sqlite};
use support::clients::{end_of_run, per_second, share, together};
use support::contention::{Contention, Tries};
use support::fill::TAIL;
use support::order::{Order, OrderEvent};
use support::plain::{Plain, PlainUnit};
use support::rates::{Rated, Rates};
use support::side::is_measuring;
use support::tailed::{self, instance};
use support::targets::{Target, Verdicts};

/// At the most clients.
const AND_INSERT: Target =
    Target::at_least("whole unit of work, against a one-row INSERT", &[(POSTGRES, 0.38), (MARIADB, 0.33)]);
/// At the most clients.
const AND_STATEMENTS: Target =
    Target::at_least("whole unit of work, against naive separate statements", &[(SQLITE, 2.0)]);

/// At the most clients, each instance in memory.
const CACHED: Target = Target::at_least(
    "whole unit of work, the instance in memory, against the append alone",
    &[(SQLITE, 0.85), (POSTGRES, 0.85), (MARIADB, 0.85)],
);

const CLIENTS: [u32; 3] = [1, 8, MOST_CLIENTS];
const MOST_CLIENTS: u32 = 32;
const ROUNDS: usize = 7;
/// Instances, of which a run takes each at most once; more than it has time for.
const INSTANCES: u32 = 1_000;
/// Instances that the contending clients share.
const SHARED: [u32; 3] = [1, 10, INSTANCES];
/// How long clients contend.
const CONTENTION: Duration = Duration::from_millis(1_500);
/// The keys of rows by a plain INSERT begin after those of the streams.
const FIRST_ROW: i64 = 1_000_000;

struct Units {
    whole: Rates,
    grouped: Rates,
    beside_append: Rates,
    contention: Contention,
    verdicts: Verdicts,
}

/// Keys that no run used before.
struct Keys(AtomicI64);

impl Keys {
    fn take(&self, count: u32) -> i64 {
        self.0.fetch_add(count.into(), Ordering::Relaxed)
    }
}

impl Bench for Units {
    const SETUP: Setup = Setup::MANY_CLIENTS;

    fn run(&mut self, runtime: &Runtime, bed: &impl Bed) {
        fill(runtime, bed);
        whole(runtime, bed, &Persister::new(), "", (&mut self.whole, &mut self.verdicts));
        self.beside_append(runtime, bed);
        self.contended(runtime, bed);
    }
}

fn instances() -> u32 {
    if is_measuring() { INSTANCES } else { MOST_CLIENTS }
}

fn fill(runtime: &Runtime, bed: &impl Bed) {
    runtime.block_on(tailed::fill(bed, instances()));
    runtime.block_on(bed.settle());
}

/// Compares the units of work of a persister.
fn whole<B: Bed>(
    runtime: &Runtime,
    bed: &B,
    persister: &Persister<B::Driver>,
    how: &str,
    (rates, verdicts): (&mut Rates, &mut Verdicts),
) {
    let (pool, keys) = (bed.pool(), Keys(AtomicI64::new(FIRST_ROW)));
    for clients in CLIENTS {
        runtime.block_on(bed.settle());
        let mut sides = [
            Rated::new("library", || {
                runtime.block_on(tailed::rewind(bed));
                runtime.block_on(execute(pool, persister, clients, false))
            }),
            Rated::new("one-row INSERT, sqlx", || runtime.block_on(insert_rows(pool, &keys, clients))),
            Rated::new("naive statements, sqlx", || {
                runtime.block_on(tailed::rewind(bed));
                runtime.block_on(execute_plain(pool, &keys, clients))
            }),
        ];
        let detail = format!(", {clients} clients{how}");
        let measured = rates.compare_warm(&format!("1 event, a tail of {TAIL}{detail}"), B::NAME, &mut sides);
        if clients == MOST_CLIENTS {
            verdicts.judge(&AND_INSERT, &detail, B::NAME, measured.ratio(0, 1));
            verdicts.judge(&AND_STATEMENTS, &detail, B::NAME, measured.ratio(0, 2));
        }
    }
}

/// Units of work per second of all clients together, each instance once.
async fn execute<DB: Backend>(pool: &Pool<DB>, persister: &Persister<DB>, clients: u32, handles: bool) -> f64 {
    let (each, until) = (share(instances(), clients), end_of_run());
    let (done, taken) = together((0..clients).map(|client| {
        let (pool, persister, event) = (pool.clone(), persister.clone(), event());
        async move {
            let mut done = 0;
            for number in (client * each..(client + 1) * each).take_while(|_| Instant::now() < until) {
                done += 1;
                let message = handles.then(|| MessageId::new().into());
                execute_one(&pool, &persister, number, message, &event).await.expect("executes");
            }
            done
        }
    }))
    .await;
    per_second(done.iter().sum(), taken)
}

/// Executes a unit of work on each instance, so that the persister has seen their last one.
async fn warm<DB: Backend>(pool: &Pool<DB>, persister: &Persister<DB>) {
    let each = share(instances(), MOST_CLIENTS);
    together((0..MOST_CLIENTS).map(|client| {
        let (pool, persister, event) = (pool.clone(), persister.clone(), event());
        async move {
            for number in client * each..(client + 1) * each {
                execute_one(&pool, &persister, number, None, &event).await.expect("executes");
            }
        }
    }))
    .await;
}

async fn execute_one<DB: Backend>(
    pool: &Pool<DB>,
    persister: &Persister<DB>,
    number: u32,
    message: Option<Inbound>,
    event: &OrderEvent,
) -> Result<u32, Error> {
    let id = instance(number);
    let decide = |unit: &mut sagastore::UnitOfWork<'_, Order>| unit.publish(event.clone()).map(drop);
    match persister.execute(pool, &Order, &id, message, decide).await? {
        Executed::Done { conflicts, .. } => Ok(conflicts),
        Executed::AlreadyHandled(_) => unreachable!("each message is new"),
    }
}

async fn execute_plain<DB: Plain>(pool: &Pool<DB>, keys: &Keys, clients: u32) -> f64 {
    let (each, until) = (share(instances(), clients), end_of_run());
    let message = keys.take(each * clients);
    let (done, taken) = together((0..clients).map(|client| {
        let (pool, event) = (pool.clone(), event());
        async move {
            let mut done = 0;
            for number in (client * each..(client + 1) * each).take_while(|_| Instant::now() < until) {
                done += 1;
                let (stream, message) = (i64::from(number), message + i64::from(number));
                DB::execute(&pool, &PlainUnit { stream, from: 0, event: event.clone(), message }).await;
            }
            done
        }
    }))
    .await;
    per_second(done.iter().sum(), taken)
}

async fn insert_rows<DB: Plain>(pool: &Pool<DB>, keys: &Keys, clients: u32) -> f64 {
    let (each, until) = (share(instances(), clients), end_of_run());
    let first = keys.take(each * clients);
    let (done, taken) = together((0..clients).map(|client| {
        let (pool, payload) = (pool.clone(), serde_json::to_vec(&event()).expect("encodes"));
        async move {
            let mut done = 0;
            for number in (client * each..(client + 1) * each).take_while(|_| Instant::now() < until) {
                done += 1;
                DB::insert_row(&pool, first + i64::from(number), &payload).await;
            }
            done
        }
    }))
    .await;
    per_second(done.iter().sum(), taken)
}

fn event() -> OrderEvent {
    OrderEvent::generate(1).remove(0)
}

impl Units {
    fn beside_append<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let (pool, persister) = (bed.pool(), Persister::<B::Driver>::new());
        // With room to spare, since none is to be thrown out.
        let capacity = usize::try_from(2 * instances()).expect("small");
        let cached = persister.clone().with_instance_cache(pool, capacity);
        let mut ends = runtime.block_on(Ends::start(bed));
        runtime.block_on(tailed::rewind(bed));
        let mut sides = [
            Rated::new("instances in memory", || {
                runtime.block_on(warm(pool, &cached));
                runtime.block_on(execute(pool, &cached, MOST_CLIENTS, true))
            }),
            Rated::new("library", || runtime.block_on(execute(pool, &persister, MOST_CLIENTS, true))),
            Rated::new("append alone", || runtime.block_on(ends.append(pool, MOST_CLIENTS, 1))),
        ];
        let detail = format!("1 event, {MOST_CLIENTS} clients");
        let measured = self.beside_append.compare_warm(&detail, B::NAME, &mut sides);
        self.verdicts.judge(&CACHED, &format!(": {detail}"), B::NAME, measured.ratio(0, 2));
    }

    fn contended<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let persister = Persister::<B::Driver>::new().with_snapshot_frequency(SnapshotFrequency::every(TAIL.into()));
        runtime.block_on(tailed::rewind(bed));
        for shared in if is_measuring() { &SHARED[..] } else { &SHARED[..2] } {
            let (tries, taken) = runtime.block_on(contend(bed.pool(), &persister, *shared));
            self.contention.note(*shared, B::NAME, tries, taken);
        }
    }
}

/// Clients that take any of the shared instances, again and again.
async fn contend<DB: Backend>(pool: &Pool<DB>, persister: &Persister<DB>, shared: u32) -> (Tries, Duration) {
    let until = Instant::now() + if is_measuring() { CONTENTION } else { CONTENTION / 100 };
    let (tries, taken) = together((0..MOST_CLIENTS).map(|client| {
        let (pool, persister, event) = (pool.clone(), persister.clone(), event());
        let mut random = fastrand::Rng::with_seed(client.into());
        async move {
            let mut tries = Tries::default();
            while Instant::now() < until {
                let start = Instant::now();
                match execute_one(&pool, &persister, random.u32(0..shared), None, &event).await {
                    Ok(conflicts) => tries.done(start.elapsed(), conflicts),
                    Err(Error::Conflict { .. } | Error::Contention { .. }) => tries.given_up(),
                    Err(error) => panic!("{error}"),
                }
            }
            tries
        }
    }))
    .await;
    (tries.into_iter().fold(Tries::default(), Tries::and), taken)
}

fn main() {
    let mut units = Units {
        whole: Rates::new(
            "Whole units of work per second: median (least–most); the ratio is that to naive separate statements",
        )
        .with_rounds(ROUNDS),
        grouped: Rates::new("The same on SQLite with group commit").with_rounds(ROUNDS),
        beside_append: Rates::new("Whole units of work that handle a message, per second, beside the append alone")
            .with_rounds(ROUNDS),
        contention: Contention::default(),
        verdicts: Verdicts::default(),
    };
    on_every_database(&mut units);
    on_sqlite(Setup::MANY_CLIENTS, |runtime, bed| {
        fill(runtime, bed);
        let grouped = Persister::new().with_group_commit(bed.pool());
        whole(runtime, bed, &grouped, ", group commit", (&mut units.grouped, &mut units.verdicts));
    });
    units.whole.print();
    units.grouped.print();
    units.beside_append.print();
    units.contention.print();
    units.verdicts.print();
}
