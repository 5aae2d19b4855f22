//! The law of replay: a snapshot at any revision, and the events after it, make what all events make, in whatever way they
//! are read.
//!
//! SAGASTORE_TEST_SEED=n takes the stream of that seed only.

use std::sync::Arc;

use anyhow::{Context, ensure};
use sagastore::{
    Bincode, Codec, Codecs, CommitNumber, Json, MessageStore, Offset, Persister, Revision, Saga, Snapshot,
    SnapshotFault, SnapshotFrequency, SnapshotRepository,
};

use crate::harness::sample::{Order, OrderData, OrderEvent, event, instance, line, note};
use crate::harness::{Clause, Subject, TestDb, clauses, scaled, stream_of};

clauses! {
    every_snapshot_and_the_events_after_it_make_the_same_in_every_way_of_reading: BASIC,
}

/// Longest stream, in events.
const MOST_EVENTS: usize = 60;
/// One of so many streams has one event in each unit of work, and in the long form more commits than a page of a load.
const THIN_ONE_IN: u64 = 4;
/// In small pages a long stream is read from so many revisions at its end, and now and then from an earlier one.
const READ_SLOWLY: usize = 60;
const READ_SLOWLY_ONE_IN: usize = 50;
/// Most events in a unit of work.
const MOST_IN_A_UNIT: usize = 7;
/// One of so many streams has events that are large: too many bytes for a packed page of SQLite, until the tail is short.
const LARGE_ONE_IN: u64 = 3;
const LARGE_BYTES: usize = 40 * 1024;
/// A page of one event; the largest that is read by rows on SQLite, and the smallest that is packed; all at once.
const PAGES: [u32; 4] = [1, 15, 16, u32::MAX];

/// A stream, and what its events make, as it is worked out here.
struct History {
    id: String,
    /// States after no, one, two … events.
    states: Vec<OrderData>,
    /// The revision after no, one, two … commits.
    ends: Vec<usize>,
}

impl History {
    fn length(&self) -> usize {
        self.states.len() - 1
    }

    /// Of the commits up to a revision, and whether the last of them ends there.
    fn commits(&self, revision: usize) -> (usize, bool) {
        let commits = self.ends.partition_point(|end| *end <= revision) - 1;
        (commits, self.ends[commits] == revision)
    }
}

fn random_event(random: &mut fastrand::Rng, large: bool) -> OrderEvent {
    match random.u32(0..3) {
        0 if large => note(random.alphanumeric().to_string().repeat(random.usize(LARGE_BYTES / 2..LARGE_BYTES))),
        0 => note("ü;".repeat(random.usize(0..100))),
        _ => line(&random.alphabetic().to_string(), random.u32(..100), random.i64(-1000..1000)),
    }
}

/// Both can read what the other wrote.
fn codecs(seed: u64) -> [Codecs; 2] {
    let (json, bincode): (Arc<dyn Codec>, Arc<dyn Codec>) = (Arc::new(Json), Arc::new(Bincode));
    let [first, second] = if seed.is_multiple_of(2) { [json, bincode] } else { [bincode, json] };
    [Codecs::new(first.clone(), second.clone()), Codecs::new(second, first)]
}

/// Saves random units of work, half of the stream by one codec and half by another, each on the instance that the one
/// before left in memory.
async fn write<DB: Subject>(db: &TestDb<DB>, seed: u64) -> anyhow::Result<History> {
    let (mut random, large) = (fastrand::Rng::with_seed(seed), seed.is_multiple_of(LARGE_ONE_IN));
    let id = format!("law {seed}");
    let (length, largest) = match seed % THIN_ONE_IN {
        1 => (scaled(MOST_EVENTS, 600), 1),
        _ => (random.usize(1..=MOST_EVENTS), MOST_IN_A_UNIT),
    };
    let large = large && length <= MOST_EVENTS;
    let writer = |codecs| {
        let persister = db.persister().with_codecs(codecs).with_snapshot_frequency(SnapshotFrequency::Never);
        persister.with_instance_cache(db.pool(), 1)
    };
    let writers = codecs(seed).map(writer);
    let mut history = History { id, states: vec![Order.new_data()], ends: vec![0] };
    let mut last_half = None;
    while history.length() < length {
        let revision = history.length();
        let half = usize::from(revision >= length / 2);
        let warm = last_half.replace(half) == Some(half);
        let count = random.usize(1..=largest).min(length - revision);
        let events: Vec<_> = (0..count).map(|_| random_event(&mut random, large)).collect();
        let mut found = None;
        let id = instance(&history.id);
        let done = writers[half].execute(db.pool(), &Order, &id, None, |unit| {
            found.get_or_insert_with(|| (unit.load_report().cached, unit.instance().clone()));
            events.iter().try_for_each(|event| unit.publish(event.clone()).map(drop))
        });
        ensure!(!done.await?.is_already_handled(), "nothing was saved");
        let (cached, found) = found.context("nothing was decided")?;
        ensure!(cached == warm, "at {revision} the instance came from memory: {cached}");
        check(&history, revision, &found.data, found.revision).with_context(|| format!("in memory: {cached}"))?;
        for published in &events {
            let mut state = history.states[history.length()].clone();
            Order.apply_event(&mut state, published, &event(0));
            history.states.push(state);
        }
        history.ends.push(history.length());
    }
    Ok(history)
}

fn check(history: &History, at: usize, data: &OrderData, revision: Revision) -> Clause {
    ensure!(revision == Revision::of(u32::try_from(at)?), "revision {revision} in place of {at}");
    ensure!(*data == history.states[at], "another state at revision {at}");
    Ok(())
}

/// Puts a snapshot in place of all others.
async fn put<DB: Subject>(db: &TestDb<DB>, history: &History, at: usize, codecs: &Codecs) -> Clause {
    let mut body = Vec::new();
    codecs.snapshots().encode(&history.states[at], &mut body).map_err(anyhow::Error::from_boxed)?;
    let revision = Revision::of(u32::try_from(at)?);
    let commit = CommitNumber::of(u32::try_from(history.commits(at).0)?);
    let (key, id, form) = (Order.persistence_key(), instance(&history.id), codecs.snapshots().content_type());
    let snapshot = Snapshot::new(key, &id, revision, commit, Order.data_version(), form, body);
    let mut tx = db.begin().await?;
    db.store().save_saga_snapshot(&mut tx, &snapshot, 1).await?;
    Ok(db.commit(tx).await?)
}

/// Loads with the snapshot at a revision, which counts if a commit ends there.
async fn load<DB: Subject>(db: &TestDb<DB>, persister: &Persister<DB>, history: &History, at: usize) -> Clause {
    let mut conn = db.conn().await?;
    let loaded = persister.load_instance(&Order, &mut conn, &instance(&history.id)).await?;
    let unit = loaded.context("there is no instance")?;
    check(history, history.length(), &unit.instance().data, unit.instance().revision)?;
    let report = unit.load_report();
    let replayed = u64::try_from(history.length() - at)?;
    match history.commits(at) {
        (1.., true) => {
            ensure!(report.snapshot == Some(Revision::of(u32::try_from(at)?)), "not from the snapshot: {report:?}");
            ensure!(report.replayed_events == replayed, "{report:?}");
        }
        (0, true) => ensure!(report.replayed_events == replayed, "{report:?}"),
        _ => ensure!(report.ignored_snapshot == Some(SnapshotFault::NotInStream), "{report:?}"),
    }
    Ok(())
}

/// Looks at an instance that was not in memory before.
async fn look_cold<DB: Subject>(db: &TestDb<DB>, persister: &Persister<DB>, history: &History) -> Clause {
    let persister = persister.clone().with_instance_cache(db.pool(), 1);
    let id = instance(&history.id);
    let done = persister.execute(db.pool(), &Order, &id, None, |unit| {
        ensure!(!unit.load_report().cached, "it was in memory");
        check(history, history.length(), &unit.instance().data, unit.instance().revision)
    });
    done.await.map(drop)
}

/// Folds the events from a revision on, read in pages, upon the state there.
async fn fold<DB: Subject>(db: &TestDb<DB>, history: &History, at: usize, page: u32, codecs: &Codecs) -> Clause {
    let (mut conn, mut revision, mut state) = (db.conn().await?, at, history.states[at].clone());
    let stream = stream_of(&Order, &history.id);
    loop {
        let from = Offset::of(u32::try_from(revision)?);
        let read = db.store().read_page(&mut conn, &stream, from, page).await?.context("there is no stream")?;
        if read.is_empty() {
            return check(history, history.length(), &state, Revision::of(u32::try_from(revision)?));
        }
        for recorded in read {
            ensure!(recorded.offset == Offset::of(u32::try_from(revision)?), "{} is next", recorded.offset);
            let envelope = &recorded.envelope;
            let decoded = codecs.decode::<OrderEvent>(&envelope.content_type, &envelope.payload);
            Order.apply_event(&mut state, &decoded.map_err(anyhow::Error::from_boxed)?, envelope);
            revision += 1;
        }
    }
}

async fn holds_at<DB: Subject>(db: &TestDb<DB>, history: &History, at: usize, codecs: &Codecs) -> Clause {
    let in_store = db.persister().with_codecs(codecs.clone());
    let separate = in_store.clone().with_snapshot_repository(Arc::new(db.store()));
    put(db, history, at, codecs).await?;
    load(db, &in_store, history, at).await.context("by the snapshot in the store")?;
    load(db, &separate, history, at).await.context("by the snapshot in a repository of its own")?;
    look_cold(db, &in_store, history).await.context("not in memory")?;
    let slowly = history.length() - at <= READ_SLOWLY || at.is_multiple_of(READ_SLOWLY_ONE_IN);
    for page in PAGES.into_iter().filter(|page| slowly || *page == u32::MAX) {
        fold(db, history, at, page, codecs).await.with_context(|| format!("in pages of {page}"))?;
    }
    Ok(())
}

async fn holds<DB: Subject>(db: &TestDb<DB>, seed: u64) -> anyhow::Result<usize> {
    let history = write(db, seed).await?;
    // Whichever the program is set to now.
    for codecs in codecs(seed) {
        let without = db.persister().with_codecs(codecs.clone()).without_snapshots();
        load(db, &without, &history, 0).await.context("without snapshots")?;
    }
    for at in 0..=history.length() {
        let codecs = &codecs(seed)[at % 2];
        holds_at(db, &history, at, codecs).await.with_context(|| format!("a snapshot at {at}"))?;
    }
    Ok(history.length() + 1)
}

async fn every_snapshot_and_the_events_after_it_make_the_same_in_every_way_of_reading<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let seeds = match std::env::var("SAGASTORE_TEST_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) => (0..scaled(4, 12)).collect(),
    };
    let (streams, first, mut revisions) = (seeds.len(), seeds[0], 0);
    for seed in seeds {
        revisions += holds(&db, seed).await.with_context(|| format!("SAGASTORE_TEST_SEED={seed}"))?;
    }
    println!("models: {}: the law of replay: {streams} streams from seed {first} on, {revisions} revisions", db.mode());
    Ok(())
}
