//! Appending units of work in transactions of the library's own.
//!
//! On every database: the append alone, with the marks of the outbox and of the handled message, of which each client
//! knows where its stream ends; beside it a plain INSERT of one row through sqlx, from as many clients and the same pool.
//!
//! On SQLite also with group commit, against the same units of work committed one by one. There each unit of work loads
//! a short instance, publishes its events and is committed. Beside it, on the same file: the same with instances that are
//! in memory, the one-row INSERT, and the plain driver on one connection without tasks: BEGIN IMMEDIATE, an INSERT for
//! each event and one for an outbox, COMMIT, all prepared. These three load nothing, so they are held against each other.
//!
//! All commit durably: SQLite has a write-ahead log with `synchronous = FULL`, the servers are as they are set up.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Instant;

use sagastore::{Outbox, Persister, UnitOfWork};
use sqlx::{Pool, Sqlite, SqlitePool};
use tokio::runtime::Runtime;

mod support;
use support::append_alone::Ends;
use support::backlog::{Counter, CounterEvent, instance};
use support::bed::{Bed, Bench, MARIADB, POSTGRES, SQLITE, Setup, on_every_database, on_sqlite};
use support::clients::{end_of_run, per_second, together};
use support::plain::Plain;
use support::rates::{Rated, Rates};
use support::side::is_measuring;
use support::sqlite::SqliteBed;
use support::targets::{Target, Verdicts};

/// One event in a unit of work.
const APPEND_ONE: Target =
    Target::at_least("append alone, against a one-row INSERT", &[(SQLITE, 0.62), (POSTGRES, 0.65), (MARIADB, 0.70)]);
/// Five.
const APPEND_FIVE: Target =
    Target::at_least("append alone, against a one-row INSERT", &[(SQLITE, 0.55), (POSTGRES, 0.60), (MARIADB, 0.52)]);
/// By events and clients.
const GROUPED: [(u32, u32, Target); 4] = [
    (1, 8, grouped(&[(SQLITE, 2.0)])),
    (1, 32, grouped(&[(SQLITE, 3.0)])),
    (5, 8, grouped(&[(SQLITE, 1.6)])),
    (5, 32, grouped(&[(SQLITE, 2.0)])),
];
/// One event, and the most clients.
const GROUP_AND_DRIVER: Target = Target::at_least(
    "group commit, instances in memory, against the plain driver's BEGIN, two INSERTs, COMMIT",
    &[(SQLITE, 2.0)],
);

const fn grouped(wanted: &'static [(&'static str, f64)]) -> Target {
    Target::at_least("group commit, against one unit per commit", wanted)
}

const CLIENTS: [u32; 3] = [1, 8, MOST_CLIENTS];
const MOST_CLIENTS: u32 = 32;
const EVENTS: [u32; 2] = [1, 5];
const ROUNDS: usize = 7;
/// More than one, so that a task does not always find the same instance in the caches.
const INSTANCES_OF_A_TASK: u32 = 50;
/// Rows of the plain driver's outbox, in the same table.
const OUTBOX: i64 = -1;

/// How many tasks do how much.
#[derive(Clone, Copy)]
struct Load {
    tasks: u32,
    events: u32,
}

impl Load {
    fn all() -> impl Iterator<Item = Self> {
        EVENTS.into_iter().flat_map(|events| CLIENTS.map(|tasks| Self { tasks, events }))
    }

    fn name(self) -> String {
        format!("{} events, {} clients", self.events, self.tasks)
    }

    /// Of all tasks.
    fn instances(self) -> u32 {
        self.tasks * instances_of_a_task()
    }
}

struct Appends {
    alone: Rates,
    grouped: Rates,
    verdicts: Verdicts,
}

impl Bench for Appends {
    const SETUP: Setup = Setup::MANY_CLIENTS;

    fn run(&mut self, runtime: &Runtime, bed: &impl Bed) {
        self.alone(runtime, bed);
    }
}

impl Appends {
    fn alone<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let mut ends = runtime.block_on(Ends::start(bed));
        let (pool, fresh) = (bed.pool(), Arc::new(Fresh::default()));
        for load in Load::all() {
            runtime.block_on(bed.settle());
            let mut sides = [
                Rated::new("append alone", || runtime.block_on(ends.append(pool, load.tasks, load.events))),
                Rated::new("one-row INSERT, sqlx", || runtime.block_on(insert_rows(pool, &fresh, load))),
            ];
            let measured = self.alone.compare_warm(&load.name(), B::NAME, &mut sides);
            let target = if load.events == 1 { &APPEND_ONE } else { &APPEND_FIVE };
            self.verdicts.judge(target, &format!(": {}", load.name()), B::NAME, measured.ratio(0, 1));
        }
    }

    fn grouped(&mut self, runtime: &Runtime, bed: &SqliteBed) {
        let (fresh, pool) = (Arc::new(Fresh::default()), bed.pool());
        let alone = Persister::<Sqlite>::new();
        let grouped = alone.clone().with_group_commit(pool);
        for load in Load::all() {
            let instances = load.instances();
            // With room to spare, since none is to be thrown out.
            let kept = grouped.clone().with_instance_cache(pool, usize::try_from(2 * instances).expect("small"));
            // The same in every round.
            let known = runtime.block_on(start_instances(pool, &fresh, instances));
            runtime.block_on(warm(pool, &kept, known..known + instances));
            let start = || runtime.block_on(start_instances(pool, &fresh, instances));
            let mut sides = [
                Rated::new("group commit", || runtime.block_on(execute(pool, &grouped, load, start(), false))),
                Rated::new("one-row INSERT, sqlx", || runtime.block_on(insert_rows(pool, &fresh, load))),
                Rated::new("plain driver", || runtime.block_on(write_raw(bed, &fresh, load))),
                Rated::new("group commit, in memory", || runtime.block_on(execute(pool, &kept, load, known, true))),
                Rated::new("one by one", || runtime.block_on(execute(pool, &alone, load, start(), false))),
            ];
            let measured = self.grouped.compare_warm(&load.name(), SQLITE, &mut sides);
            for (_, _, target) in GROUPED.iter().filter(|of| (of.0, of.1) == (load.events, load.tasks)) {
                self.verdicts.judge(target, &format!(": {}", load.name()), SQLITE, measured.ratio(0, 4));
            }
            if load.tasks == MOST_CLIENTS && load.events == 1 {
                self.verdicts.judge(&GROUP_AND_DRIVER, &format!(": {}", load.name()), SQLITE, measured.ratio(3, 2));
            }
        }
    }
}

/// Numbers that no run used before.
#[derive(Default)]
struct Fresh {
    instance: AtomicU32,
    row: AtomicI64,
}

impl Fresh {
    fn row(&self) -> i64 {
        self.row.fetch_add(1, Ordering::Relaxed)
    }
}

fn instances_of_a_task() -> u32 {
    if is_measuring() { INSTANCES_OF_A_TASK } else { 1 }
}

/// Starts as many instances as the tasks need; gives the number of the first.
async fn start_instances(pool: &SqlitePool, fresh: &Fresh, count: u32) -> u32 {
    let persister = Persister::<Sqlite>::new();
    let first = fresh.instance.fetch_add(count, Ordering::Relaxed);
    let mut tx = persister.begin(pool).await.expect("begins");
    for number in first..first + count {
        let id = instance(number);
        let unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id);
        let mut unit = unit.await.expect("loads");
        unit.publish(CounterEvent::counted(1)).expect("publishes");
        assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
    }
    tx.commit().await.expect("commits");
    sqlx::raw_sql("PRAGMA wal_checkpoint (TRUNCATE)").execute(pool).await.expect("settles");
    first
}

/// Brings instances into the persister's memory.
async fn warm(pool: &SqlitePool, persister: &Persister<Sqlite>, instances: Range<u32>) {
    for number in instances {
        let publish = |unit: &mut UnitOfWork<'_, Counter>| unit.publish(CounterEvent::counted(number)).map(drop);
        let executed = persister.execute(pool, &Counter, &instance(number), None, publish).await;
        assert!(!executed.expect("executes").is_already_handled());
    }
}

/// Units of work per second of all tasks together, on the instances from the first one on, which are in memory or not.
async fn execute(pool: &SqlitePool, persister: &Persister<Sqlite>, load: Load, first: u32, are_in_memory: bool) -> f64 {
    let until = end_of_run();
    let (done, taken) = together((0..load.tasks).map(|task| {
        let (pool, persister) = (pool.clone(), persister.clone());
        async move {
            let mut done = 0_u32;
            while Instant::now() < until {
                let id = instance(first + task * instances_of_a_task() + done % instances_of_a_task());
                let executed = persister.execute(&pool, &Counter, &id, None, |unit| {
                    assert_eq!(unit.load_report().cached, are_in_memory);
                    (0..load.events).try_for_each(|_| unit.publish(CounterEvent::counted(done)).map(drop))
                });
                assert!(!executed.await.expect("executes").is_already_handled());
                done += 1;
            }
            done
        }
    }))
    .await;
    per_second(done.iter().sum(), taken)
}

/// Rows per second of all clients together.
async fn insert_rows<DB: Plain>(pool: &Pool<DB>, fresh: &Arc<Fresh>, load: Load) -> f64 {
    let until = end_of_run();
    let (done, taken) = together((0..load.tasks).map(|_| {
        let (pool, fresh, payload) = (pool.clone(), Arc::clone(fresh), CounterEvent::counted(1).payload());
        async move {
            let mut done = 0_u32;
            while Instant::now() < until {
                DB::insert_row(&pool, fresh.row(), &payload).await;
                done += 1;
            }
            done
        }
    }))
    .await;
    per_second(done.iter().sum(), taken)
}

async fn write_raw(bed: &SqliteBed, fresh: &Fresh, load: Load) -> f64 {
    let payload = CounterEvent::counted(1).payload();
    let (start, until, mut done) = (Instant::now(), end_of_run(), 0_u32);
    while Instant::now() < until {
        let row = fresh.row();
        bed.begin().await;
        for offset in 0..load.events {
            bed.write(row, offset.into(), &payload, None).await;
        }
        bed.write(OUTBOX, row, &payload, None).await;
        bed.commit().await;
        done += 1;
    }
    per_second(done, start.elapsed())
}

fn main() {
    let mut appends = Appends {
        alone: Rates::new(
            "Appends per second: median (least–most); the ratio is that to one-row INSERTs through sqlx on the same pool",
        )
        .with_rounds(ROUNDS),
        grouped: Rates::new(
            "Units of work per second on SQLite: median (least–most); the ratio is that to units of work that are loaded and committed one by one",
        )
        .with_rounds(ROUNDS),
        verdicts: Verdicts::default(),
    };
    on_every_database(&mut appends);
    on_sqlite(Setup::MANY_CLIENTS, |runtime, bed| appends.grouped(runtime, bed));
    appends.alone.print();
    appends.grouped.print();
    appends.verdicts.print();
}
