//! When snapshots are taken, and when they go.

use std::sync::Arc;

use anyhow::ensure;
use sagastore::{
    DEFAULT_KEPT_SNAPSHOTS, Envelope, Error, Limits, Outbox, Persister, Revision, Saga, Saved, Snapshot,
    SnapshotFrequency, SnapshotRepository,
};
use tracing::Level;

use crate::harness::sample::{Counter, CounterEvent, Order, OrderEvent, added, instance, line, note};
use crate::harness::{Clause, Log, Subject, TestDb, assert_error, clauses, scaled};

clauses! {
    a_snapshot_is_taken_once_the_frequency_has_passed_since_the_last_one,
    the_frequency_goes_from_every_unit_of_work_to_never,
    a_unit_of_work_over_several_boundaries_takes_one_snapshot,
    commands_alone_take_no_snapshot,
    only_the_newest_few_snapshots_are_kept,
    a_unit_of_work_that_is_rolled_back_leaves_no_snapshot,
    two_writers_that_are_both_due_a_snapshot_conflict_on_the_stream,
    many_writers_that_are_due_snapshots_all_get_through: SEVERAL_CONNECTIONS,
    completion_deletes_all_snapshots_in_its_own_transaction,
    completion_takes_no_snapshot,
    a_state_too_large_for_a_snapshot_does_not_stop_its_events,
    a_large_state_is_snapshotted_where_the_limit_allows,
    a_state_larger_than_the_server_takes_does_not_stop_its_events: MYSQL,
    a_state_that_cannot_be_read_again_takes_no_snapshot,
}

/// A persister that takes snapshots so often and keeps them all.
fn every<DB: Subject>(db: &TestDb<DB>, revisions: u64) -> Persister<DB> {
    db.persister().with_snapshot_frequency(SnapshotFrequency::every(revisions)).with_kept_snapshots(100)
}

fn many(events: usize) -> Vec<CounterEvent> {
    vec![added(1); events]
}

async fn a_snapshot_is_taken_once_the_frequency_has_passed_since_the_last_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = every(&db, 1000);
    for (events, expected) in [(999, vec![]), (1, vec![1000]), (999, vec![1000]), (1, vec![1000, 2000])] {
        db.publish_by(&persister, &Counter, "1", many(events)).await?;
        assert_eq!(db.snapshots().await?, expected, "after {events} more events");
    }
    let mut tx = db.begin().await?;
    db.store().delete_saga_snapshots(&mut tx, "counter", &instance("1")).await?;
    tx.commit().await?;
    for (events, expected) in [(997, vec![]), (5, vec![1002]), (997, vec![1002]), (3, vec![1002, 2002])] {
        db.publish_by(&persister, &Counter, "2", many(events)).await?;
        assert_eq!(db.snapshots().await?, expected, "after {events} more events");
    }
    Ok(())
}

async fn the_frequency_goes_from_every_unit_of_work_to_never<DB: Subject>(db: TestDb<DB>) -> Clause {
    let all: Vec<u64> = (1..=10).collect();
    let settings = [
        ("1", SnapshotFrequency::every(1), all),
        ("2", SnapshotFrequency::every(2), vec![2, 4, 6, 8, 10]),
        ("3", SnapshotFrequency::every(3), vec![3, 6, 9]),
        ("max", SnapshotFrequency::every(u64::MAX), vec![]),
        ("never", SnapshotFrequency::Never, vec![]),
        ("zero", SnapshotFrequency::every(0), vec![]),
        ("default", SnapshotFrequency::default(), vec![]),
    ];
    for (id, frequency, expected) in settings {
        let persister = every(&db, 1).with_snapshot_frequency(frequency);
        for _ in 0..10 {
            db.publish_by(&persister, &Counter, id, many(1)).await?;
        }
        assert_eq!(db.snapshots().await?, expected, "{frequency:?}");
        let mut tx = db.begin().await?;
        db.store().delete_saga_snapshots(&mut tx, "counter", &instance(id)).await?;
        tx.commit().await?;
    }
    // By default every 1000.
    db.publish_by(&db.persister(), &Counter, "default", many(989)).await?;
    db.publish_by(&every(&db, 0), &Counter, "zero", many(989)).await?;
    assert_eq!(db.snapshots().await?, Vec::<u64>::new());
    db.publish_by(&every(&db, 0), &Counter, "zero", many(1)).await?;
    db.publish_by(&db.persister(), &Counter, "default", many(2)).await?;
    assert_eq!(db.snapshots().await?, [1000, 1001]);
    Ok(())
}

async fn a_unit_of_work_over_several_boundaries_takes_one_snapshot<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = every(&db, 100);
    db.publish_by(&persister, &Counter, "1", many(1050)).await?;
    assert_eq!(db.snapshots().await?, [1050]);
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.load_report().replayed_events), (1050, 0));
    db.publish_by(&persister, &Counter, "1", many(99)).await?;
    assert_eq!(db.snapshots().await?, [1050]);
    db.publish_by(&persister, &Counter, "1", many(1)).await?;
    assert_eq!(db.snapshots().await?, [1050, 1150]);
    Ok(())
}

async fn commands_alone_take_no_snapshot<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish_by(&every(&db, 100), &Counter, "1", many(5)).await?;
    let (persister, mut tx) = (every(&db, 1), db.begin().await?);
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.execute(&added(1))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    tx.commit().await?;
    assert_eq!(db.snapshots().await?, Vec::<u64>::new());
    Ok(())
}

async fn only_the_newest_few_snapshots_are_kept<DB: Subject>(db: TestDb<DB>) -> Clause {
    let kept = [("1", 1, 1), ("5", 5, 5), ("none means one", 0, 1)];
    for (id, setting, expected) in kept {
        let persister = every(&db, 10).with_kept_snapshots(setting);
        let mut tx = db.begin().await?;
        for unit_number in 1..=scaled(40_u64, 2000) {
            let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance(id)).await?;
            for event in many(5) {
                unit.publish(event)?;
            }
            assert!(persister.save(&mut tx, unit).await?.is_changed());
            let count = format!(
                "SELECT revision FROM saga_snapshot
                WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE instance_id = {})
                ORDER BY revision",
                DB::text(id)
            );
            let found: Vec<_> = DB::rows(&mut *tx, count).await?.into_iter().flatten().flatten().collect();
            let newest = unit_number / 2;
            let oldest = (newest + 1).saturating_sub(expected).max(1);
            let wanted: Vec<_> = (oldest..=newest).map(|tens| (tens * 10).to_string()).collect();
            assert_eq!(found, wanted, "{id} after {unit_number} units of work");
        }
        tx.commit().await?;
    }
    let before = db.snapshots().await?.len();
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    for _ in 0..5 {
        db.publish_by(&persister, &Counter, "default", many(1)).await?;
    }
    assert_eq!(db.snapshots().await?.len() - before, usize::try_from(DEFAULT_KEPT_SNAPSHOTS)?);
    Ok(())
}

async fn a_unit_of_work_that_is_rolled_back_leaves_no_snapshot<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = every(&db, 2);
    db.publish_by(&persister, &Counter, "1", many(2)).await?;
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(5))?;
    unit.publish(added(5))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    let within = persister.load_instance(&Counter, &mut tx, &instance("1")).await?.unwrap();
    assert_eq!(within.load_report().snapshot.map(u64::from), Some(4));
    tx.rollback().await?;
    assert_eq!(db.snapshots().await?, [2]);
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.instance().revision.get()), (2, 2));
    Ok(())
}

async fn two_writers_that_are_both_due_a_snapshot_conflict_on_the_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = every(&db, 10);
    db.publish_by(&persister, &Counter, "1", many(9)).await?;
    let mut first = db.load_by(&persister, &Counter, "1").await?;
    let mut second = db.load_by(&persister, &Counter, "1").await?;
    first.publish(added(1))?;
    second.publish(added(100))?;
    let mut tx = db.begin().await?;
    assert!(persister.save(&mut tx, first).await?.is_changed());
    tx.commit().await?;
    let mut tx = db.begin().await?;
    assert_error!(persister.save(&mut tx, second).await, Error::Conflict { expected, actual, .. } => {
        assert_eq!((expected.get(), actual.get()), (9, 10));
    });
    tx.commit().await?;
    assert_eq!(db.snapshots().await?, [10]);
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.load_report().replayed_events), (10, 0));
    Ok(())
}

async fn many_writers_that_are_due_snapshots_all_get_through<DB: Subject>(db: TestDb<DB>) -> Clause {
    let retry = sagastore::ConflictRetry { retries: 1000, ..sagastore::ConflictRetry::default() };
    let persister = every(&db, 2).with_kept_snapshots(2).with_conflict_retry(retry);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (db, persister) = (db.clone(), persister.clone());
        writers.spawn(async move {
            for _ in 0..scaled(10, 100) {
                let add = |unit: &mut sagastore::UnitOfWork<'_, Counter>| unit.publish(added(1));
                let done = persister.execute(db.pool(), &Counter, &instance("1"), None, add).await?;
                assert!(!done.is_already_handled());
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let written = scaled(40, 400);
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!(unit.instance().data, written);
    // One who read an older snapshot than the commits after it, as separate parts may, takes the next one early.
    let report = unit.load_report();
    ensure!(report.replayed_events < 2, "{report:?}");
    assert_eq!(report.snapshot.unwrap().get() + report.replayed_events, unit.instance().revision.get());
    assert_eq!(db.snapshots().await?.len(), 2);
    Ok(())
}

async fn completion_deletes_all_snapshots_in_its_own_transaction<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = every(&db, 1);
    db.publish_by(&persister, &Counter, "other", many(1)).await?;
    for _ in 0..3 {
        db.publish_by(&persister, &Counter, "1", many(2)).await?;
    }
    db.publish_by(&every(&db, 100), &Counter, "none", many(1)).await?;
    for (committed, expected) in [(false, vec![1, 2, 4, 6]), (true, vec![1])] {
        let mut tx = db.begin().await?;
        for id in ["1", "none"] {
            let unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance(id)).await?;
            assert!(matches!(persister.save_and_complete(&mut tx, unit).await?, Saved::Changed { .. }));
            let snapshot = db.store().load_saga_snapshot(&mut tx, "counter", &instance(id)).await?;
            assert_eq!(snapshot, None::<Snapshot>);
        }
        if committed {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        assert_eq!(db.snapshots().await?, expected);
    }
    let unit = db.load_by(&persister, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.is_completed(), unit.load_report().replayed_events), (6, true, 6));
    Ok(())
}

async fn completion_takes_no_snapshot<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = every(&db, 1);
    db.publish_by(&persister, &Order, "1", [note("a"), OrderEvent::Shipped]).await?;
    assert!(db.load_by(&persister, &Order, "1").await?.is_completed());
    assert_eq!(db.snapshots().await?, Vec::<u64>::new());
    // Nor does what is sent after it.
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    unit.execute(&added(1))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    tx.commit().await?;
    assert_eq!(db.snapshots().await?, Vec::<u64>::new());
    Ok(())
}

/// 3 MiB, which makes a state of as much again.
fn large_line() -> OrderEvent {
    line(&"x".repeat(3 * 1024 * 1024), 1, 1)
}

async fn a_state_too_large_for_a_snapshot_does_not_stop_its_events<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, log) = (every(&db, 1), Log::catch(Level::WARN));
    for _ in 0..7 {
        db.publish_by(&persister, &Order, "1", [large_line()]).await?;
    }
    // The state fits after the first event only; six saves have warned.
    assert_eq!(db.snapshots().await?, [1]);
    assert_eq!(log.lines(&["WARN", "no snapshot is taken", "order/1"]).len(), 6);
    for persister in [persister, db.persister().without_snapshots()] {
        let unit = db.load_by(&persister, &Order, "1").await?;
        assert_eq!((unit.instance().revision.get(), unit.instance().data.total_cents), (7, 7));
        assert!(unit.instance().data.lines.iter().all(|(item, _)| item.len() == 3 * 1024 * 1024));
    }
    Ok(())
}

async fn a_large_state_is_snapshotted_where_the_limit_allows<DB: Subject>(db: TestDb<DB>) -> Clause {
    let limits = Limits { snapshot_bytes: 12 * 1024 * 1024, ..Limits::default() };
    let persister = every(&db, 3).with_limits(limits);
    db.publish_by(&persister, &Order, "1", vec![large_line(); 3]).await?;
    assert_eq!(db.snapshots().await?, [3]);
    let with = db.load_by(&persister, &Order, "1").await?;
    assert_eq!((with.load_report().snapshot.map(u64::from), with.load_report().replayed_events), (Some(3), 0));
    let without = db.load_by(&db.persister().without_snapshots(), &Order, "1").await?;
    assert!(with.instance() == without.instance(), "the states differ");
    Ok(())
}

/// Wherever the snapshots are.
async fn a_state_larger_than_the_server_takes_does_not_stop_its_events<DB: Subject>(db: TestDb<DB>) -> Clause {
    let limits = Limits { snapshot_bytes: 64 * 1024 * 1024, ..Limits::default() };
    let in_store = every(&db, 6).with_limits(limits);
    let separate = in_store.clone().with_snapshot_repository(Arc::new(db.store()));
    for (id, persister) in [("in store", in_store), ("separate", separate)] {
        for _ in 0..4 {
            db.publish_by(&persister, &Order, id, vec![large_line(); 2]).await?;
        }
        assert_eq!(db.snapshots().await?, Vec::<u64>::new(), "{id}");
        assert_eq!(db.load_by(&persister, &Order, id).await?.instance().revision, Revision::of(8), "{id}");
    }
    Ok(())
}

/// Its state is JSON, which bincode writes, and cannot read.
struct Free;

impl Saga for Free {
    type Data = serde_json::Value;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        "free"
    }

    fn new_data(&self) -> serde_json::Value {
        0.into()
    }

    fn apply_event(&self, count: &mut serde_json::Value, _: &CounterEvent, _: &Envelope) {
        *count = (count.as_u64().unwrap_or_default() + 1).into();
    }
}

/// It was written anew by each unit of work, and never read.
async fn a_state_that_cannot_be_read_again_takes_no_snapshot<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, log) = (every(&db, 3), Log::catch(Level::WARN));
    for _ in 0..5 {
        db.publish_by(&persister, &Free, "1", many(1)).await?;
    }
    assert_eq!(db.snapshots().await?, Vec::<u64>::new());
    assert_eq!(log.lines(&["no snapshot is taken", "cannot be read", "free/1"]).len(), 3);
    assert_eq!(db.load_by(&persister, &Free, "1").await?.instance().data, 5);
    Ok(())
}
