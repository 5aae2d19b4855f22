//! Loading an instance: by all its events, and from a snapshot on.
//!
//! The yardstick is the plain driver reading the same payloads from a table with one row per event.
//! It does nothing with them; "decoded" parses and applies them too, without checks. At the end
//! both are compared in rounds, taking turns, and printed as a table.

use std::sync::Arc;

use criterion::Criterion;
use sagastore::sqlite::SqliteStore;
use sagastore::{InstanceId, Persister, Saga, SagaStream};
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use tokio::runtime::Runtime;

mod support;
use support::bed::{Bed, Bench, Setup, on_every_database, on_sqlite};
use support::cached_pages::CachedPages;
use support::fill::{fill, tail_after_snapshot};
use support::order::{Order, OrderState};
use support::side::{Side, criterion, is_measuring, measure};
use support::sqlite::SqliteBed;
use support::table::Table;

const EVENTS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const EVENTS_PER_UNIT: [u32; 2] = [1, 5];

struct Replay {
    criterion: Criterion,
    table: Table,
}

/// An instance, ready to be replayed.
struct Filled {
    id: InstanceId,
    stream: i64,
    events: u32,
    per_unit: u32,
}

impl Filled {
    /// All that are measured.
    fn all(runtime: &Runtime, bed: &impl Bed) -> Vec<Self> {
        let sizes = if is_measuring() { &EVENTS[..] } else { &EVENTS[..3] };
        let mut streams = Vec::new();
        for per_unit in EVENTS_PER_UNIT {
            for events in sizes.iter().filter(|events| per_unit <= **events) {
                streams.push(runtime.block_on(Self::new(bed, *events, per_unit)));
            }
        }
        runtime.block_on(bed.settle());
        streams
    }

    async fn new(bed: &impl Bed, events: u32, per_unit: u32) -> Self {
        let id = InstanceId::new(format!("{events} by {per_unit}")).expect("valid");
        let stream = fill(bed, &id, events, per_unit).await;
        Self { id, stream, events, per_unit }
    }

    fn name(&self) -> String {
        format!("{} events, {} in a unit", self.events, self.per_unit)
    }

    /// The state, by the library; checked before it is measured.
    async fn load<B: Bed>(&self, persister: &Persister<B::Driver>, conn: &mut PoolConnection<B::Driver>) -> u64 {
        let loaded = persister.load_instance(&Order, conn, &self.id).await.expect("loads").expect("is there");
        assert_eq!(loaded.instance().revision.get(), u64::from(self.events));
        loaded.load_report().replayed_events
    }

    async fn read_events(&self, bed: &impl Bed, from: u32) -> usize {
        let mut bytes = 0;
        bed.read_events(self.stream, i64::from(from), |payload| bytes += payload.len()).await;
        assert!(bytes > 0);
        bytes
    }

    async fn read_commits(&self, bed: &impl Bed, from: u32) -> usize {
        let mut bytes = 0;
        bed.read_commits(self.stream, i64::from(from / self.per_unit), |column| bytes += column.len()).await;
        assert!(bytes > 0);
        bytes
    }

    async fn read_snapshot(&self, bed: &impl Bed, mut take: impl FnMut(&[u8])) -> usize {
        let mut bytes = 0;
        bed.read_snapshot(self.stream, |body| {
            bytes += body.len();
            take(body);
        })
        .await;
        assert!(bytes > 0);
        bytes
    }

    /// The state, by the plain driver.
    async fn fold(&self, bed: &impl Bed, from: u32, mut state: OrderState) -> OrderState {
        bed.read_events(self.stream, i64::from(from), |payload| state.apply_json(payload)).await;
        state
    }
}

impl Bench for Replay {
    fn run(&mut self, runtime: &Runtime, bed: &impl Bed) {
        let streams = Filled::all(runtime, bed);
        for stream in &streams {
            self.replay_all(runtime, bed, stream);
        }
        for stream in &streams {
            if let Some(tail) = tail_after_snapshot(stream.events) {
                self.replay_tail(runtime, bed, stream, tail);
            }
        }
    }
}

impl Replay {
    fn replay_all<B: Bed>(&mut self, runtime: &Runtime, bed: &B, stream: &Filled) {
        let persister = Persister::<B::Driver>::new().without_snapshots();
        let mut conn = runtime.block_on(bed.pool().acquire()).expect("a connection");
        let replayed = runtime.block_on(stream.load::<B>(&persister, &mut conn));
        assert_eq!(replayed, u64::from(stream.events));
        let mut sides = [
            Side::new("library", runtime, async || stream.load::<B>(&persister, &mut conn).await),
            Side::new("raw event rows", runtime, async || stream.read_events(bed, 0).await),
            Side::new("raw event rows, decoded", runtime, async || stream.fold(bed, 0, OrderState::default()).await),
            Side::new("raw commit rows", runtime, async || stream.read_commits(bed, 0).await),
        ];
        self.compare::<B>("replay", &stream.name(), &mut sides);
    }

    fn replay_tail<B: Bed>(&mut self, runtime: &Runtime, bed: &B, stream: &Filled, tail: u32) {
        let persister = Persister::<B::Driver>::new();
        let mut conn = runtime.block_on(bed.pool().acquire()).expect("a connection");
        let replayed = runtime.block_on(stream.load::<B>(&persister, &mut conn));
        assert_eq!(replayed, u64::from(tail));
        let from = stream.events - tail;
        let mut sides = [
            Side::new("library", runtime, async || stream.load::<B>(&persister, &mut conn).await),
            Side::new("raw event rows", runtime, async || {
                stream.read_snapshot(bed, |_| ()).await + stream.read_events(bed, from).await
            }),
            Side::new("raw event rows, decoded", runtime, async || {
                let mut state = OrderState::default();
                stream.read_snapshot(bed, |body| state = decode_snapshot(body)).await;
                stream.fold(bed, from, state).await
            }),
            Side::new("raw commit rows", runtime, async || {
                stream.read_snapshot(bed, |_| ()).await + stream.read_commits(bed, from).await
            }),
        ];
        self.compare::<B>("snapshot and tail", &stream.name(), &mut sides);
    }

    fn compare<B: Bed>(&mut self, how: &str, what: &str, sides: &mut [Side<'_>]) {
        measure(&mut self.criterion, &format!("replay/{}/{how}", B::NAME), what, sides);
        self.table.compare(&format!("{how}: {what}"), B::NAME, sides);
    }
}

/// What the library does itself: its store answers from memory. Beside it, parsing and applying the payloads.
fn replay_without_database(runtime: &Runtime, bed: &SqliteBed, stream: &Filled, out: (&mut Criterion, &mut Table)) {
    let mut conn = runtime.block_on(bed.pool().acquire()).expect("a connection");
    let saga_stream = SagaStream::new(Order.persistence_key(), &stream.id).expect("valid");
    let store = SqliteStore::default();
    let pages = runtime.block_on(CachedPages::read(&store, &mut conn, &saga_stream));
    let persister = Persister::<Sqlite>::with_store(Arc::new(pages)).without_snapshots();
    let mut payloads = Vec::new();
    runtime.block_on(bed.read_events(stream.stream, 0, |payload| payloads.push(payload.to_vec())));
    let mut sides = [
        Side::new("library", runtime, async || stream.load::<SqliteBed>(&persister, &mut conn).await),
        Side::new("decoded", runtime, async || {
            let mut state = OrderState::default();
            payloads.iter().for_each(|payload| state.apply_json(payload));
            state
        }),
    ];
    measure(out.0, "replay/no database", &stream.name(), &mut sides);
    out.1.compare(&format!("replay: {}", stream.name()), "none", &mut sides);
}

fn decode_snapshot(body: &[u8]) -> OrderState {
    let decoded = bincode::serde::decode_from_slice(body, bincode::config::standard());
    decoded.expect("a state").0
}

fn main() {
    let mut replay = Replay {
        criterion: criterion(),
        table: Table::new(
            "Loading an instance, in rounds; the ratio is the library's time over that of the plain driver",
        ),
    };
    on_every_database(&mut replay);
    let mut in_memory = Table::new("The same without a database: rows from memory, beside parsing and applying alone");
    on_sqlite(Setup::ONE_CLIENT, |runtime, bed| {
        for stream in Filled::all(runtime, bed) {
            replay_without_database(runtime, bed, &stream, (&mut replay.criterion, &mut in_memory));
        }
    });
    replay.criterion.final_summary();
    replay.table.print();
    in_memory.print();
}
