//! Units of work per second in transactions of the library's own on SQLite, with and without group commit.
//!
//! Each unit of work loads a short instance, publishes its events and is committed durably, in a write-ahead log with
//! `synchronous = FULL`. Beside it, on the same file: a plain INSERT of one row through sqlx, from as many tasks, and
//! the plain driver on one connection without tasks: BEGIN IMMEDIATE, an INSERT for each event and one for an outbox,
//! COMMIT, all prepared. These two load nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sagastore::{Outbox, Persister};
use sqlx::{Sqlite, SqlitePool};
use tokio::runtime::Runtime;

mod support;
use support::backlog::{Counter, CounterEvent, instance};
use support::bed::{Bed, Setup, on_sqlite};
use support::rates::{Rated, Rates};
use support::side::is_measuring;
use support::sqlite::SqliteBed;

const TASKS: [u32; 3] = [1, 8, 32];
const EVENTS: [u32; 2] = [1, 5];
const INSTANCES_OF_A_TASK: u32 = 50;
const RUN: Duration = Duration::from_millis(400);
const SETUP: Setup = Setup { connections: 8, durable: true };
/// Rows of the plain driver's outbox, in the same table.
const OUTBOX: i64 = -1;

/// How many tasks do how much.
#[derive(Clone, Copy)]
struct Load {
    tasks: u32,
    events: u32,
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

fn run_time() -> Duration {
    if is_measuring() { RUN } else { Duration::from_millis(10) }
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

/// Units of work per second of all tasks together.
async fn execute(pool: &SqlitePool, fresh: &Fresh, persister: &Persister<Sqlite>, load: Load) -> f64 {
    let first = start_instances(pool, fresh, load.tasks * INSTANCES_OF_A_TASK).await;
    let (start, mut tasks) = (Instant::now(), Vec::new());
    for task in 0..load.tasks {
        let (pool, persister) = (pool.clone(), persister.clone());
        tasks.push(tokio::spawn(async move {
            let mut done = 0_u32;
            while start.elapsed() < run_time() {
                let id = instance(first + task * INSTANCES_OF_A_TASK + done % INSTANCES_OF_A_TASK);
                let executed = persister.execute(&pool, &Counter, &id, None, |unit| {
                    (0..load.events).try_for_each(|_| unit.publish(CounterEvent::counted(done)).map(drop))
                });
                assert!(!executed.await.expect("executes").is_already_handled());
                done += 1;
            }
            done
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("ends");
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

async fn insert_rows(pool: &SqlitePool, fresh: &Arc<Fresh>, load: Load) -> f64 {
    let (start, mut tasks) = (Instant::now(), Vec::new());
    for _ in 0..load.tasks {
        let (pool, fresh, payload) = (pool.clone(), Arc::clone(fresh), CounterEvent::counted(1).payload());
        tasks.push(tokio::spawn(async move {
            let mut done = 0_u32;
            while start.elapsed() < run_time() {
                let insert = "INSERT INTO bench_event (stream_id, event_offset, payload) VALUES (?1, 0, ?2)";
                let insert = sqlx::query(insert).bind(fresh.row()).bind(payload.as_slice()).execute(&pool);
                insert.await.expect("inserts");
                done += 1;
            }
            done
        }));
    }
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("ends");
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

async fn write_raw(bed: &SqliteBed, fresh: &Fresh, load: Load) -> f64 {
    let payload = CounterEvent::counted(1).payload();
    let (start, mut done) = (Instant::now(), 0_u32);
    while start.elapsed() < run_time() {
        let row = fresh.row();
        bed.begin().await;
        for offset in 0..load.events {
            bed.write(row, offset.into(), &payload, None).await;
        }
        bed.write(OUTBOX, row, &payload, None).await;
        bed.commit().await;
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

fn main() {
    let mut rates = Rates::new(
        "Units of work per second on SQLite: median (least–most); the ratio is that to units of work committed one by one",
    );
    on_sqlite(SETUP, |_, bed| {
        let runtime = Runtime::new().expect("a runtime");
        let (fresh, pool) = (Arc::new(Fresh::default()), bed.pool());
        let alone = Persister::<Sqlite>::new();
        let grouped = alone.clone().with_group_commit(pool);
        for events in EVENTS {
            for tasks in TASKS {
                let load = Load { tasks, events };
                let mut sides = [
                    Rated::new("group commit", || runtime.block_on(execute(pool, &fresh, &grouped, load))),
                    Rated::new("one-row INSERT, sqlx", || runtime.block_on(insert_rows(pool, &fresh, load))),
                    Rated::new("plain driver", || runtime.block_on(write_raw(bed, &fresh, load))),
                    Rated::new("one by one", || runtime.block_on(execute(pool, &fresh, &alone, load))),
                ];
                rates.compare(&format!("{events} events, {tasks} tasks"), SqliteBed::NAME, &mut sides);
            }
        }
    });
    rates.print();
}
