//! Loading an instance: by all its events, and from a snapshot on.
//!
//! The yardstick is the plain driver reading the same payloads from a table with one row per event, which has nothing else
//! and is clustered by stream where the database can do that. It does nothing with them; "decoded" parses and applies
//! them too, without checks. All sides take turns, in rounds.
//!
//! "Undecoded" are the store's pages of commits as they are read, with nothing made of them. They hold all that is known of
//! an event, so the yardstick there is the plain driver reading as much: offset, ids, type, version, time and payload, a
//! column each, from a table whose rows have a number of their own and an index by stream and offset. The payloads alone,
//! as above, stand beside it.
//!
//! Last, an instance at revision 1,000,000 is loaded beside one at revision 1,000 with as many events after its snapshot.

use std::sync::Arc;

use sagastore::sqlite::SqliteStore;
use sagastore::{Backend, InstanceId, LoadFrom, LoadRequest, MessageStore, Persister, Saga, SagaStream};
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use tokio::runtime::Runtime;

mod support;
use support::bed::{Bed, Bench, MARIADB, POSTGRES, SQLITE, Setup, on_every_database, on_sqlite};
use support::cached_pages::CachedPages;
use support::fill::{TAIL, fill, fill_in_large_units, tail_after_snapshot};
use support::order::{Order, OrderState};
use support::side::{Side, is_measuring};
use support::sqlite::SqliteBed;
use support::stock::Stock;
use support::table::Table;
use support::targets::{Target, Verdicts};

/// Time against that of the plain driver, one event in a unit of work.
const ONE_IN_A_UNIT: Target =
    Target::at_most("replay undecoded, against raw event rows", &[(SQLITE, 1.5), (POSTGRES, 1.05), (MARIADB, 1.05)]);
/// The same, five events in a unit of work.
const FIVE_IN_A_UNIT: Target =
    Target::at_most("replay undecoded, against raw event rows", &[(SQLITE, 1.0), (POSTGRES, 0.35), (MARIADB, 0.35)]);
const LONG_STREAM: Target =
    Target::at_most("load, against the same with a short stream", &[(SQLITE, 1.2), (POSTGRES, 1.2), (MARIADB, 1.2)]);

const EVENTS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const EVENTS_PER_UNIT: [u32; 2] = [1, 5];
/// Streams that are also replayed undecoded have so many events at least.
const UNDECODED_FROM: u32 = 1_000;
/// How often the longest streams are repeated for the longest that are replayed undecoded.
const REPEATED: u32 = 10;
/// Rounds of what takes long.
const ROUNDS: usize = 7;
const SHORT_REVISION: u32 = 1_000;
const LONG_REVISION: u32 = 1_000_000;

struct Replay {
    table: Table,
    undecoded: Table,
    long: Table,
    verdicts: Verdicts,
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

    /// The same stream, so many times as long.
    async fn repeated(self, bed: &impl Bed, times: u32) -> Self {
        for time in 1..times {
            let commits = self.events.div_ceil(self.per_unit);
            bed.repeat(self.stream, commits.into(), self.events.into(), time.into()).await;
        }
        Self { events: self.events * times, ..self }
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

    /// The pages of its commits, by the store; nothing is decoded.
    async fn read_pages<DB: Backend>(&self, conn: &mut PoolConnection<DB>) -> usize {
        let stream = SagaStream::new(Order.persistence_key(), &self.id).expect("valid");
        let (store, request) =
            (DB::Store::default(), LoadRequest { stream: &stream, from: LoadFrom::Start, handled: None });
        let mut page = store.load(conn, &request).await.expect("loads").page;
        let (mut bytes, mut events) = (0, 0);
        loop {
            for commit in &page.commits {
                bytes += commit.body.len();
                events += commit.event_count;
            }
            let Some(last) = page.commits.last().filter(|_| page.more) else { break };
            page = store.read_commits(conn, &stream.name, last.commit_number).await.expect("reads");
        }
        assert_eq!(events, self.events);
        bytes
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
        let longest = streams.iter().map(|stream| stream.events).max().unwrap_or(0);
        for stream in streams.iter().filter(|stream| stream.events >= UNDECODED_FROM.min(longest)) {
            self.replay_undecoded(runtime, bed, stream);
        }
        for stream in streams.into_iter().filter(|stream| stream.events == longest) {
            let stream = runtime.block_on(stream.repeated(bed, REPEATED));
            runtime.block_on(bed.settle());
            self.replay_undecoded(runtime, bed, &stream);
        }
        self.load_long(runtime, bed);
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
                stream.read_snapshot(bed, |body| state = OrderState::decode(body)).await;
                stream.fold(bed, from, state).await
            }),
            Side::new("raw commit rows", runtime, async || {
                stream.read_snapshot(bed, |_| ()).await + stream.read_commits(bed, from).await
            }),
        ];
        self.compare::<B>("snapshot and tail", &stream.name(), &mut sides);
    }

    fn replay_undecoded<B: Bed>(&mut self, runtime: &Runtime, bed: &B, stream: &Filled) {
        runtime.block_on(bed.log_events(stream.stream));
        runtime.block_on(bed.settle());
        let mut conn = runtime.block_on(bed.pool().acquire()).expect("a connection");
        let mut sides = [
            Side::new("pages of the store", runtime, async || stream.read_pages::<B::Driver>(&mut conn).await),
            Side::new("payloads alone", runtime, async || stream.read_events(bed, 0).await),
            Side::new("raw event rows", runtime, async || {
                let bytes = bed.read_log(stream.stream).await;
                assert!(bytes > 0);
                bytes
            }),
        ];
        let measured = self.undecoded.compare(&format!("undecoded: {}", stream.name()), B::NAME, &mut sides);
        let target = if stream.per_unit == 1 { &ONE_IN_A_UNIT } else { &FIVE_IN_A_UNIT };
        self.verdicts.judge(target, &format!(": {}", stream.name()), B::NAME, measured.ratio(0, 2));
    }

    fn load_long<B: Bed>(&mut self, runtime: &Runtime, bed: &B) {
        let long = if is_measuring() { LONG_REVISION } else { 2 * SHORT_REVISION };
        let persister = Persister::<B::Driver>::new();
        let ids = [long, SHORT_REVISION].map(|revision| {
            let id = InstanceId::new(format!("revision {revision}")).expect("valid");
            runtime.block_on(fill_in_large_units(bed, &id, revision));
            id
        });
        runtime.block_on(bed.settle());
        let mut conns = [0, 1].map(|_| runtime.block_on(bed.pool().acquire()).expect("a connection"));
        let [long_conn, short_conn] = &mut conns;
        let mut sides = [
            Side::new("revision 1,000,000", runtime, async || {
                load_tail::<B>(&persister, long_conn, &ids[0], long).await
            }),
            Side::new("revision 1,000", runtime, async || {
                load_tail::<B>(&persister, short_conn, &ids[1], SHORT_REVISION).await
            }),
        ];
        let measured = self.long.compare("snapshot and tail", B::NAME, &mut sides);
        let detail = format!(": revision {long} and {SHORT_REVISION}, a tail of {TAIL}");
        self.verdicts.judge(&LONG_STREAM, &detail, B::NAME, measured.ratio(0, 1));
    }

    fn compare<B: Bed>(&mut self, how: &str, what: &str, sides: &mut [Side<'_>]) {
        self.table.compare(&format!("{how}: {what}"), B::NAME, sides);
    }
}

async fn load_tail<B: Bed>(
    persister: &Persister<B::Driver>,
    conn: &mut PoolConnection<B::Driver>,
    id: &InstanceId,
    revision: u32,
) {
    let loaded = persister.load_instance(&Stock, conn, id).await.expect("loads").expect("is there");
    assert_eq!(loaded.instance().revision.get(), u64::from(revision));
    assert_eq!(loaded.load_report().replayed_events, u64::from(TAIL));
}

/// What the library does itself: its store answers from memory. Beside it, parsing and applying the payloads.
fn replay_without_database(runtime: &Runtime, bed: &SqliteBed, stream: &Filled, table: &mut Table) {
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
    table.compare(&format!("replay: {}", stream.name()), "none", &mut sides);
}

fn main() {
    let mut replay = Replay {
        table: Table::new(
            "Loading an instance, in rounds; the ratio is the library's time over that of the plain driver",
        ),
        undecoded: Table::new("Reading all commits of a stream, with nothing decoded").with_rounds(ROUNDS),
        long: Table::new("Loading an instance with a long history and one with a short one"),
        verdicts: Verdicts::default(),
    };
    on_every_database(&mut replay);
    let mut in_memory = Table::new("The same without a database: rows from memory, beside parsing and applying alone");
    on_sqlite(Setup::ONE_CLIENT, |runtime, bed| {
        for stream in Filled::all(runtime, bed) {
            replay_without_database(runtime, bed, &stream, &mut in_memory);
        }
    });
    replay.table.print();
    in_memory.print();
    replay.undecoded.print();
    replay.long.print();
    replay.verdicts.print();
}
