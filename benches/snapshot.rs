//! Saving a unit of work that takes a snapshot, beside one that takes none; and loading from the
//! snapshot.
//!
//! The yardstick is the plain driver: for saving, one event row and the upsert of a row with the same
//! bytes, in one transaction; for loading, the select of that row. Beginning the transaction and
//! loading the instance do not count towards saving, on neither side; encoding the state and
//! committing do. All commit durably.
//!
//! Whole units of work, loading included, are also compared with each other: one that takes a snapshot, and one that
//! does not.

use std::cell::Cell;
use std::time::{Duration, Instant};

use criterion::Criterion;
use sagastore::{
    Backend, Error, Executed, InstanceId, Outbox, Persister, Saga, SnapshotFrequency, SnapshotRepository, StreamName,
};
use sqlx::pool::PoolConnection;
use tokio::runtime::Runtime;

mod support;
use support::bed::{Bed, Bench, MARIADB, POSTGRES, SQLITE, Setup, on_every_database};
use support::side::{Side, criterion, is_measuring, measure};
use support::stock::{Stock, StockEvent, StockState};
use support::table::Table;
use support::targets::{Target, Verdicts};

const STATE_BYTES: [(&str, u32); 4] =
    [("1 KiB", 1 << 10), ("10 KiB", 10 << 10), ("100 KiB", 100 << 10), ("1 MiB", 1 << 20)];

/// Time of a whole unit of work.
const SNAPSHOT_TAKEN: Target = Target::at_most(
    "unit of work that takes a snapshot, against one that takes none",
    &[(SQLITE, 2.0), (POSTGRES, 2.0), (MARIADB, 2.0)],
);
/// The size of that state.
const COMPARED_STATE: (&str, u32) = ("2 KiB", 2 << 10);

/// Units of work without a snapshot after which one is taken, so that their loads stay short.
const UNITS_BETWEEN_SNAPSHOTS: u32 = 50;

struct Snapshots {
    criterion: Criterion,
    saving: Table,
    loading: Table,
    whole: Table,
    verdicts: Verdicts,
}

/// An instance with a snapshot, and its bytes in the plain driver's table.
struct Stocked<'b, B: Bed> {
    bed: &'b B,
    id: InstanceId,
    stream: i64,
    next_offset: Cell<i64>,
    state: Vec<u8>,
}

impl<'b, B: Bed> Stocked<'b, B> {
    async fn new(bed: &'b B, name: &str, bytes: u32) -> Self {
        let id = InstanceId::new(name).expect("valid");
        let persister = taking_snapshots(true);
        let filled = StockEvent::Filled { articles: bytes.div_ceil(StockState::ARTICLE_BYTES) };
        save(bed, &persister, &id, filled).await;
        let store = <B::Driver as Backend>::Store::default();
        let mut conn = bed.pool().acquire().await.expect("a connection");
        let snapshot = store.load_saga_snapshot(&mut conn, Stock.persistence_key(), &id).await.expect("reads");
        let state = snapshot.expect("a snapshot").body.to_vec();
        let stream = bed.stream_id(&StreamName::of_saga(Stock.persistence_key(), &id).expect("valid")).await;
        let stocked = Self { bed, id, stream, state, next_offset: Cell::new(0) };
        stocked.write_raw(true).await;
        stocked
    }

    /// The part of a unit of work that counts: saving and committing.
    async fn save(&self, persister: &Persister<B::Driver>) -> Duration {
        save(self.bed, persister, &self.id, StockEvent::Sold { article: 7 }).await
    }

    /// The same by the plain driver.
    async fn write_raw(&self, with_state: bool) -> Duration {
        let event = serde_json::to_vec(&StockEvent::Sold { article: 7 }).expect("encodes");
        let offset = self.next_offset.replace(self.next_offset.get() + 1);
        self.bed.begin().await;
        let start = Instant::now();
        self.bed.write(self.stream, offset, &event, with_state.then_some(&self.state)).await;
        self.bed.commit().await;
        start.elapsed()
    }

    /// A whole unit of work, loading included.
    async fn execute(&self, persister: &Persister<B::Driver>) -> Duration {
        let start = Instant::now();
        let executed: Result<Executed<()>, Error> = persister
            .execute(self.bed.pool(), &Stock, &self.id, None, |unit| {
                unit.publish(StockEvent::Sold { article: 7 }).map(drop)
            })
            .await;
        let executed = executed.expect("executes");
        let taken = start.elapsed();
        assert!(!executed.is_already_handled());
        taken
    }

    async fn load(&self, persister: &Persister<B::Driver>, conn: &mut PoolConnection<B::Driver>) -> u64 {
        let loaded = persister.load_instance(&Stock, conn, &self.id).await.expect("loads").expect("is there");
        assert_eq!(loaded.load_report().replayed_events, 0);
        loaded.instance().revision.get()
    }

    async fn read_raw(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.bed.read_state(self.stream, |body| state = body.to_vec()).await;
        assert_eq!(state.len(), self.state.len());
        state
    }
}

fn taking_snapshots<DB: Backend>(taking: bool) -> Persister<DB> {
    let frequency = if taking { SnapshotFrequency::every(1) } else { SnapshotFrequency::Never };
    Persister::new().with_snapshot_frequency(frequency)
}

async fn save<B: Bed>(bed: &B, persister: &Persister<B::Driver>, id: &InstanceId, event: StockEvent) -> Duration {
    let mut tx = persister.begin(bed.pool()).await.expect("begins");
    let mut unit = persister.begin_unit_of_work(&Stock, &mut tx, Outbox, id).await.expect("loads");
    unit.publish(event).expect("publishes");
    let start = Instant::now();
    let saved = persister.save(&mut tx, unit).await.expect("saves");
    tx.commit().await.expect("commits");
    let taken = start.elapsed();
    assert!(saved.is_changed());
    taken
}

impl Bench for Snapshots {
    const SETUP: Setup = Setup { durable: true, untested: true, ..Setup::ONE_CLIENT };

    fn run(&mut self, runtime: &Runtime, bed: &impl Bed) {
        self.whole(runtime, bed);
        let sizes = if is_measuring() { &STATE_BYTES[..] } else { &STATE_BYTES[..2] };
        for (index, (size, bytes)) in sizes.iter().enumerate() {
            let stocked = runtime.block_on(Stocked::new(bed, size, *bytes));
            if index == 0 {
                self.save_without(runtime, &stocked);
            }
            self.save_with(runtime, &stocked, size);
            self.load(runtime, &stocked, size);
        }
    }
}

impl Snapshots {
    fn save_without<B: Bed>(&mut self, runtime: &Runtime, stocked: &Stocked<'_, B>) {
        let (with, without) = (taking_snapshots(true), taking_snapshots(false));
        let mut units = 0;
        let mut sides = [
            Side::timing_itself("library", runtime, async || {
                units += 1;
                if units % UNITS_BETWEEN_SNAPSHOTS == 0 {
                    stocked.save(&with).await;
                }
                stocked.save(&without).await
            }),
            Side::timing_itself("raw", runtime, async || stocked.write_raw(false).await),
        ];
        measure(&mut self.criterion, &format!("snapshot/{}/save", B::NAME), "none", &mut sides);
        self.saving.compare("save, no snapshot", B::NAME, &mut sides);
    }

    /// Both find a snapshot of their last revision.
    fn whole<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let (size, bytes) = COMPARED_STATE;
        let stocked = |what: &str| runtime.block_on(Stocked::new(bed, &format!("{size}, {what}"), bytes));
        let (taking, sparing) = (stocked("taking"), stocked("sparing"));
        let (with, without) = (taking_snapshots(true), taking_snapshots(false));
        let mut sides = [
            Side::timing_itself("with a snapshot", runtime, async || taking.execute(&with).await),
            Side::timing_itself("without", runtime, async || {
                let taken = sparing.execute(&without).await;
                sparing.execute(&with).await;
                taken
            }),
        ];
        let measured = self.whole.compare(&format!("execute, state of {size}"), B::NAME, &mut sides);
        self.verdicts.judge(&SNAPSHOT_TAKEN, &format!(": state of {size}"), B::NAME, measured.ratio(0, 1));
    }

    fn save_with<B: Bed>(&mut self, runtime: &Runtime, stocked: &Stocked<'_, B>, size: &str) {
        let persister = taking_snapshots(true);
        let mut sides = [
            Side::timing_itself("library", runtime, async || stocked.save(&persister).await),
            Side::timing_itself("raw", runtime, async || stocked.write_raw(true).await),
        ];
        measure(&mut self.criterion, &format!("snapshot/{}/save", B::NAME), size, &mut sides);
        self.saving.compare(&format!("save, snapshot of {size}"), B::NAME, &mut sides);
    }

    fn load<B: Bed>(&mut self, runtime: &Runtime, stocked: &Stocked<'_, B>, size: &str) {
        let persister = Persister::<B::Driver>::new();
        let mut conn = runtime.block_on(stocked.bed.pool().acquire()).expect("a connection");
        let mut sides = [
            Side::new("library", runtime, async || stocked.load(&persister, &mut conn).await),
            Side::new("raw", runtime, async || stocked.read_raw().await),
            Side::new("raw, decoded", runtime, async || {
                let decoded = bincode::serde::decode_from_slice(&stocked.read_raw().await, bincode::config::standard());
                decoded.map(|(state, _): (StockState, usize)| state).expect("a state")
            }),
        ];
        measure(&mut self.criterion, &format!("snapshot/{}/load", B::NAME), size, &mut sides);
        self.loading.compare(&format!("load, snapshot of {size}"), B::NAME, &mut sides);
    }
}

fn main() {
    let mut snapshots = Snapshots {
        criterion: criterion(),
        saving: Table::new(
            "Saving a unit of work with one event, in rounds; the ratio is the library's time over that of the plain driver",
        ),
        loading: Table::new("Loading an instance from its snapshot, in rounds"),
        whole: Table::new("Whole units of work, in rounds; the ratio is the time with a snapshot over that without"),
        verdicts: Verdicts::default(),
    };
    on_every_database(&mut snapshots);
    snapshots.criterion.final_summary();
    snapshots.saving.print();
    snapshots.loading.print();
    snapshots.whole.print();
    snapshots.verdicts.print();
}
