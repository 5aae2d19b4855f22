//! Snapshots: what the repository keeps, and that they change nothing but the time it takes to load.

use sagastore::{CommitNumber, Outbox, Revision, Saga, Snapshot, SnapshotFrequency, SnapshotRepository};

use crate::harness::sample::{Counter, Order, OrderCommand, OrderData, OrderEvent, added, event, instance, line, note};
use crate::harness::{Clause, Log, Subject, TestDb, clauses, scaled};

clauses! {
    an_instance_without_a_snapshot_has_none,
    a_snapshot_comes_back_as_it_was_saved: BASIC,
    the_newest_of_several_snapshots_is_loaded,
    a_snapshot_at_the_same_revision_replaces_the_one_before,
    the_newest_few_are_kept_and_none_beyond_the_one_that_is_saved,
    snapshots_are_deleted_of_one_instance_only,
    a_snapshot_in_a_transaction_that_is_rolled_back_is_not_there,
    every_snapshot_with_the_events_after_it_makes_the_same_instance,
    an_instance_is_the_same_with_and_without_its_snapshots,
    nothing_before_the_snapshot_is_read,
    one_statement_fetches_the_snapshot_and_the_events_after_it: SERVERS,
}

/// A snapshot of a counter.
fn snapshot(id: &str, revision: u32, body: &'static [u8]) -> Snapshot {
    let (revision, number) = (Revision::of(revision), CommitNumber::of(revision));
    Snapshot::new("counter", &instance(id), revision, number, 1, "application/json", body)
}

async fn save<DB: Subject>(db: &TestDb<DB>, snapshot: &Snapshot, keep: u32) -> Clause {
    let mut tx = db.begin().await?;
    db.store().save_saga_snapshot(&mut tx, snapshot, keep).await?;
    Ok(tx.commit().await?)
}

async fn load<DB: Subject>(db: &TestDb<DB>, id: &str) -> anyhow::Result<Option<Snapshot>> {
    Ok(db.store().load_saga_snapshot(&mut *db.conn().await?, "counter", &instance(id)).await?)
}

async fn an_instance_without_a_snapshot_has_none<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(load(&db, "1").await?, None);
    db.publish_by(&db.persister(), &Counter, "1", [added(1)]).await?;
    assert_eq!(load(&db, "1").await?, None);
    let unit = db.load_by(&db.persister(), &Counter, "1").await?;
    assert_eq!((unit.load_report().snapshot, unit.load_report().ignored_snapshot), (None, None));
    Ok(())
}

async fn a_snapshot_comes_back_as_it_was_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    let every_byte: Vec<u8> = (0..=255).collect();
    for (id, body) in [("1", every_byte), ("empty", Vec::new()), ("O'Neill \\ 雪/%", vec![0; 100_000])] {
        let (revision, number) = (Revision::of(1000), CommitNumber::of(17));
        let saved = Snapshot::new("counter", &instance(id), revision, number, u32::MAX, "application/x-own+ü", body);
        save(&db, &saved, 2).await?;
        assert_eq!(load(&db, id).await?.as_ref(), Some(&saved));
        assert!(saved.is_intact());
    }
    Ok(())
}

async fn the_newest_of_several_snapshots_is_loaded<DB: Subject>(db: TestDb<DB>) -> Clause {
    for revision in [1000, 2000, 3000] {
        save(&db, &snapshot("1", revision, b"1"), 3).await?;
        assert_eq!(load(&db, "1").await?.map(|found| found.revision), Some(Revision::of(revision)));
    }
    assert_eq!(db.snapshots().await?, [1000, 2000, 3000]);
    Ok(())
}

async fn a_snapshot_at_the_same_revision_replaces_the_one_before<DB: Subject>(db: TestDb<DB>) -> Clause {
    save(&db, &snapshot("1", 1000, b"1"), 2).await?;
    let mut later = snapshot("1", 1000, b"2");
    save(&db, &later, 2).await?;
    assert_eq!(load(&db, "1").await?.as_ref(), Some(&later));
    later = Snapshot::new("counter", &instance("1"), Revision::of(1000), CommitNumber::of(3), 7, "text/plain", "3");
    save(&db, &later, 2).await?;
    assert_eq!(load(&db, "1").await?, Some(later));
    assert_eq!(db.snapshots().await?, [1000]);
    Ok(())
}

async fn the_newest_few_are_kept_and_none_beyond_the_one_that_is_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    save(&db, &snapshot("other", 5, b"1"), 1).await?;
    for revision in 1..=6 {
        save(&db, &snapshot("1", revision, b"1"), 4).await?;
    }
    assert_eq!(db.snapshots().await?, [5, 3, 4, 5, 6]);
    save(&db, &snapshot("1", 7, b"1"), 2).await?;
    assert_eq!(db.snapshots().await?, [5, 6, 7]);
    // One of an earlier revision means that those beyond it are of a stream that is no more.
    save(&db, &snapshot("1", 2, b"1"), 2).await?;
    assert_eq!(db.snapshots().await?, [5, 2]);
    Ok(())
}

async fn snapshots_are_deleted_of_one_instance_only<DB: Subject>(db: TestDb<DB>) -> Clause {
    for id in ["1", "1 ", "É", "e"] {
        for revision in [1, 2, 3] {
            save(&db, &snapshot(id, revision, b"1"), 3).await?;
        }
    }
    let mut tx = db.begin().await?;
    let mut deleted = Vec::new();
    for id in ["1", "1", "unknown", "E", "É"] {
        deleted.push(db.store().delete_saga_snapshots(&mut tx, "counter", &instance(id)).await?);
    }
    tx.commit().await?;
    assert_eq!(deleted, [3, 0, 0, 0, 3]);
    for (id, there) in [("1", false), ("1 ", true), ("É", false), ("e", true)] {
        assert_eq!(load(&db, id).await?.is_some(), there, "{id:?}");
    }
    Ok(())
}

async fn a_snapshot_in_a_transaction_that_is_rolled_back_is_not_there<DB: Subject>(db: TestDb<DB>) -> Clause {
    save(&db, &snapshot("1", 1, b"1"), 2).await?;
    let (store, mut tx) = (db.store(), db.begin().await?);
    store.save_saga_snapshot(&mut tx, &snapshot("1", 2, b"2"), 2).await?;
    let seen = store.load_saga_snapshot(&mut tx, "counter", &instance("1")).await?;
    assert_eq!(seen, Some(snapshot("1", 2, b"2")));
    tx.rollback().await?;
    let mut tx = db.begin().await?;
    assert_eq!(store.delete_saga_snapshots(&mut tx, "counter", &instance("1")).await?, 1);
    tx.rollback().await?;
    assert_eq!(load(&db, "1").await?, Some(snapshot("1", 1, b"1")));
    Ok(())
}

/// What the events make of a new order.
fn fold(events: &[OrderEvent]) -> OrderData {
    let (mut data, envelope) = (Order.new_data(), event(0));
    events.iter().for_each(|event| Order.apply_event(&mut data, event, &envelope));
    data
}

fn random_event(random: &mut fastrand::Rng) -> OrderEvent {
    match random.u32(0..3) {
        0 => note(format!("{} – 雪", random.u64(..))),
        _ => line(&format!("item {}", random.u32(..100)), random.u32(..1000), random.i64(-100..100_000)),
    }
}

/// A unit of work of random events, sometimes none, and sometimes with commands.
async fn random_unit<DB: Subject>(
    db: &TestDb<DB>,
    frequency: SnapshotFrequency,
    history: &mut Vec<OrderEvent>,
    random: &mut fastrand::Rng,
) -> Clause {
    let persister = db.persister().with_snapshot_frequency(frequency).with_kept_snapshots(random.u32(1..4));
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    for _ in 0..random.u32(0..9) {
        let event = random_event(random);
        history.push(event.clone());
        unit.publish(event)?;
    }
    if random.bool() || unit.recorded().is_empty() {
        unit.execute(&OrderCommand::SendMail { text: "…".to_owned() })?;
    }
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    Ok(tx.commit().await?)
}

async fn every_snapshot_with_the_events_after_it_makes_the_same_instance<DB: Subject>(db: TestDb<DB>) -> Clause {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, mut history, mut states) = (fastrand::Rng::with_seed(seed), Vec::new(), Vec::new());
    for _ in 0..20 {
        random_unit(&db, SnapshotFrequency::Never, &mut history, &mut random).await?;
        states.push((history.len(), fold(&history)));
    }
    let whole = fold(&history);
    for (commits, (revision, state)) in (1_u32..).zip(states) {
        let (revision, body) = (Revision::try_from(u64::try_from(revision)?)?, serde_json::to_vec(&state)?);
        let number = CommitNumber::of(commits);
        let taken = Snapshot::new("order", &instance("1"), revision, number, 1, "application/json", body);
        let mut tx = db.begin().await?;
        db.store().delete_saga_snapshots(&mut tx, "order", &instance("1")).await?;
        db.store().save_saga_snapshot(&mut tx, &taken, 1).await?;
        tx.commit().await?;
        let unit = db.load_by(&db.persister(), &Order, "1").await?;
        assert_eq!(unit.load_report().snapshot, Some(revision), "seed {seed}");
        assert_eq!(unit.load_report().replayed_commits, u64::from(20 - commits), "seed {seed}");
        assert_eq!(unit.instance().data, whole, "snapshot at {revision}, seed {seed}");
        assert_eq!(
            unit.instance().revision.get(),
            u64::try_from(history.len())?,
            "snapshot at {revision}, seed {seed}"
        );
    }
    Ok(())
}

async fn an_instance_is_the_same_with_and_without_its_snapshots<DB: Subject>(db: TestDb<DB>) -> Clause {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut random, mut history, mut used) = (fastrand::Rng::with_seed(seed), Vec::new(), 0);
    for _ in 0..scaled(60, 1000) {
        let frequency = SnapshotFrequency::every(random.u64(1..13));
        random_unit(&db, frequency, &mut history, &mut random).await?;
        let with = db.load_by(&db.persister(), &Order, "1").await?;
        let without = db.load_by(&db.persister().without_snapshots(), &Order, "1").await?;
        assert_eq!(with.instance(), without.instance(), "seed {seed}");
        assert_eq!(with.instance().data, fold(&history), "seed {seed}");
        assert_eq!(with.instance().revision.get(), u64::try_from(history.len())?, "seed {seed}");
        assert_eq!(with.load_report().ignored_snapshot, None, "seed {seed}");
        used += u32::from(with.load_report().snapshot.is_some());
    }
    assert!(used > 30, "only {used} loads used a snapshot, seed {seed}");
    Ok(())
}

/// A counter of 5,000 events, the last 30 of them after its snapshot, a commit each.
async fn long_history<DB: Subject>(db: &TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(497)).with_kept_snapshots(1);
    let mut tx = db.begin().await?;
    for events in [71; 70].into_iter().chain([1; 30]) {
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
        for _ in 0..events {
            unit.publish(added(1))?;
        }
        assert!(persister.save(&mut tx, unit).await?.is_changed());
    }
    tx.commit().await?;
    assert_eq!(db.snapshots().await?, [4970]);
    Ok(())
}

async fn nothing_before_the_snapshot_is_read<DB: Subject>(db: TestDb<DB>) -> Clause {
    long_history(&db).await?;
    db.will_damage();
    let damaged = db.sql(format!("UPDATE saga_commit SET body = {} WHERE commit_no < 70", DB::bytes(b"?"))).await?;
    assert_eq!(damaged, 69);
    let unit = db.load_by(&db.persister(), &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.instance().revision), (5000, Revision::of(5000)));
    assert_eq!(unit.load_report().snapshot, Some(Revision::of(4970)));
    assert_eq!((unit.load_report().replayed_commits, unit.load_report().replayed_events), (30, 30));
    assert!(db.load_by(&db.persister().without_snapshots(), &Counter, "1").await.is_err());
    Ok(())
}

async fn one_statement_fetches_the_snapshot_and_the_events_after_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    long_history(&db).await?;
    let mut conn = db.conn().await?;
    let log = Log::catch(tracing::Level::DEBUG);
    let unit = db.persister().load_instance(&Counter, &mut conn, &instance("1")).await?.unwrap();
    let statements = log.lines(&["rows_returned="]);
    assert_eq!(unit.load_report().replayed_events, 30);
    // The place at which the snapshot was taken, the thirty commits after it, and the stream and the snapshot: beside
    // the place, or as rows of their own.
    assert_eq!(statements.len(), 1, "{statements:?}");
    let rows = ["rows_returned=31 ", "rows_returned=33 "];
    assert!(rows.iter().any(|rows| statements[0].contains(rows)), "{statements:?}");
    Ok(())
}
