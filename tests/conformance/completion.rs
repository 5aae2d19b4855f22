//! The end of an instance.

use sagastore::{Error, Inbound, MessageId, Outbox, Saga, Saved, SnapshotFrequency};

use crate::harness::sample::{Counter, Order, OrderCommand, OrderData, OrderEvent, added, instance, line, note};
use crate::harness::{Clause, Footprint, Subject, TestDb, assert_error, clauses, stream_of};

clauses! {
    the_event_that_ends_a_saga_completes_it: BASIC,
    an_instance_is_completed_without_any_event,
    an_instance_is_created_and_completed_by_one_unit_of_work,
    a_completed_instance_takes_no_events,
    a_completed_instance_still_sends_commands_and_handles_messages,
    completing_again_changes_nothing,
    completion_deletes_snapshots_and_keeps_history,
    completing_stale_data_is_a_conflict,
    what_was_decided_before_completion_is_a_conflict,
    a_completion_that_is_rolled_back_never_was,
    an_event_that_ends_a_saga_may_be_followed_by_others_in_its_unit_of_work,
}

/// An order that has ended, with two events.
async fn end_order<DB: Subject>(db: &TestDb<DB>, id: &str) -> anyhow::Result<OrderData> {
    assert_eq!(db.publish(&Order, id, [line("tea", 1, 100)]).await?, 1);
    assert_eq!(db.publish(&Order, id, [OrderEvent::Shipped]).await?, 2);
    Ok(db.state(&Order, id).await?.unwrap().0)
}

/// Completes with whatever the unit of work has.
async fn complete<DB: Subject, S: Saga>(db: &TestDb<DB>, saga: &S, id: &str) -> sagastore::Result<Saved> {
    let mut tx = db.begin().await?;
    let unit = db.persister().begin_unit_of_work(saga, &mut tx, Outbox, &instance(id)).await?;
    let saved = db.persister().save_and_complete(&mut tx, unit).await?;
    db.commit(tx).await?;
    Ok(saved)
}

async fn the_event_that_ends_a_saga_completes_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Order, "1", [line("tea", 1, 100)]).await?;
    assert!(!db.unit(&Order, "1").await?.is_completed());
    let mut unit = db.unit(&Order, "1").await?;
    unit.publish(OrderEvent::Shipped)?;
    assert!(!unit.is_completed(), "it is completed once it is saved");
    assert!(db.save(unit).await?.is_changed());
    let unit = db.unit(&Order, "1").await?;
    assert!(unit.is_completed());
    assert_eq!((unit.instance().revision.get(), unit.instance().data.shipped), (2, true));
    assert_eq!(db.footprint().await?, Footprint { commits: 2, completed: 1, snapshots: 0, outbox: 2 });
    Ok(())
}

async fn an_instance_is_completed_without_any_event<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(3)]).await?;
    let saved = complete(&db, &Counter, "1").await?;
    assert!(saved.is_changed());
    assert_eq!(saved.revision().get(), 1);
    assert!(db.unit(&Counter, "1").await?.is_completed());
    assert_eq!(db.state(&Counter, "1").await?, Some((3, 1)));
    // `execute` may complete as well.
    let (persister, id) = (db.persister(), instance("2"));
    let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        unit.publish(added(4))?;
        unit.complete();
        Ok::<_, Error>(())
    });
    assert!(!done.await?.is_already_handled());
    assert!(db.unit(&Counter, "2").await?.is_completed());
    assert_eq!(db.footprint().await?, Footprint { commits: 3, completed: 2, snapshots: 0, outbox: 2 });
    Ok(())
}

async fn an_instance_is_created_and_completed_by_one_unit_of_work<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_eq!(db.publish(&Order, "1", [OrderEvent::Shipped]).await?, 1);
    assert!(complete(&db, &Order, "2").await?.is_changed());
    for (id, revision) in [("1", 1), ("2", 0)] {
        let unit = db.unit(&Order, id).await?;
        assert!(unit.is_completed());
        assert_eq!(unit.instance().revision.get(), revision);
        assert_eq!(
            db.events(&stream_of(&Order, id)).await?.map(|events| events.len()),
            Some(usize::try_from(revision)?)
        );
    }
    assert_eq!(db.footprint().await?, Footprint { commits: 2, completed: 2, snapshots: 0, outbox: 1 });
    Ok(())
}

async fn a_completed_instance_takes_no_events<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (ended, before) = (end_order(&db, "1").await?, db.footprint().await?);
    let mut unit = db.unit(&Order, "1").await?;
    assert_error!(unit.publish(note("again")), Error::Completed { instance: refused } => {
        assert_eq!(refused, instance("1"));
    });
    assert_eq!((&unit.instance().data, unit.instance().revision.get()), (&ended, 2));
    assert!(unit.recorded().is_empty());
    assert!(matches!(db.save(unit).await?, Saved::Unchanged { revision } if revision.get() == 2));
    let (persister, id, message) = (db.persister(), instance("1"), Inbound::from(MessageId::new()));
    let refused = persister.execute(db.pool(), &Order, &id, Some(message), |unit| unit.publish(note("again")));
    assert_error!(refused.await, Error::Completed { .. });
    assert_eq!(db.footprint().await?, before);
    assert_eq!(db.state(&Order, "1").await?, Some((ended, 2)));
    Ok(())
}

async fn a_completed_instance_still_sends_commands_and_handles_messages<DB: Subject>(db: TestDb<DB>) -> Clause {
    let ended = end_order(&db, "1").await?;
    let message = MessageId::new();
    let mut unit = db.unit(&Order, "1").await?;
    unit.handling(message)?;
    unit.execute(&OrderCommand::SendMail { text: "it left already".to_owned() })?;
    assert!(db.save(unit).await?.is_changed());
    let mut again = db.unit(&Order, "1").await?;
    assert!(again.is_completed(), "it stays completed");
    again.handling(message)?;
    assert!(matches!(db.save(again).await?, Saved::AlreadyHandled(handled) if handled.messages.len() == 1));
    assert_eq!(db.state(&Order, "1").await?, Some((ended, 2)));
    assert_eq!(db.footprint().await?, Footprint { commits: 3, completed: 1, snapshots: 0, outbox: 3 });
    Ok(())
}

async fn completing_again_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let _ = end_order(&db, "1").await?;
    let completed_at = "SELECT completed_at FROM saga_stream";
    let (before, since) = (db.footprint().await?, db.count(completed_at).await?);
    assert!(matches!(complete(&db, &Order, "1").await?, Saved::Unchanged { .. }));
    assert_eq!((db.footprint().await?, db.count(completed_at).await?), (before, since));
    Ok(())
}

async fn completion_deletes_snapshots_and_keeps_history<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(2)).with_kept_snapshots(3);
    for (id, events) in [("1", 7), ("2", 7), ("none", 1)] {
        for number in 1..=events {
            let mut tx = db.begin().await?;
            let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance(id)).await?;
            unit.publish(line("tea", 1, number))?;
            assert!(persister.save(&mut tx, unit).await?.is_changed());
            db.commit(tx).await?;
        }
    }
    assert_eq!(db.footprint().await?.snapshots, 6);
    let before = db.state(&Order, "1").await?;
    for id in ["1", "none"] {
        assert!(complete(&db, &Order, id).await?.is_changed());
    }
    assert_eq!(db.footprint().await?.snapshots, 3, "those of the other instance are still there");
    assert_eq!(db.state(&Order, "1").await?, before);
    assert_eq!(db.events(&stream_of(&Order, "1")).await?.unwrap().len(), 7);
    // Ending with an event at which a snapshot is due takes none.
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("2")).await?;
    unit.publish(OrderEvent::Shipped)?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?.snapshots, 0);
    Ok(())
}

async fn completing_stale_data_is_a_conflict<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(1))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;

    let (mut stale, mut stale_with_event) = (db.unit(&Counter, "1").await?, db.unit(&Counter, "1").await?);
    db.publish(&Counter, "1", [added(2)]).await?;
    let before = db.footprint().await?;
    assert_eq!(before.snapshots, 1);
    stale.complete();
    assert_error!(db.save(stale).await, Error::Conflict { expected, actual, .. } => {
        assert_eq!((expected.get(), actual.get()), (1, 2));
    });
    let mut tx = db.begin().await?;
    stale_with_event.publish(added(3))?;
    assert_error!(persister.save_and_complete(&mut tx, stale_with_event).await, Error::Conflict { .. });
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?, before, "also where the caller commits after the conflict");
    assert!(!db.unit(&Counter, "1").await?.is_completed());
    assert_eq!(db.state(&Counter, "1").await?, Some((3, 2)));
    Ok(())
}

async fn what_was_decided_before_completion_is_a_conflict<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(1)]).await?;
    let mut stale = db.unit(&Counter, "1").await?;
    stale.publish(added(2))?;
    assert!(complete(&db, &Counter, "1").await?.is_changed());
    assert_error!(db.save(stale).await, Error::Conflict { expected, actual, .. } => {
        assert_eq!(expected, actual, "completion alone adds no event");
    });
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    Ok(())
}

async fn a_completion_that_is_rolled_back_never_was<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(1))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    let before = db.footprint().await?;

    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(2))?;
    assert!(persister.save_and_complete(&mut tx, unit).await?.is_changed());
    let inside = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    assert!(inside.is_completed() && inside.load_report().snapshot.is_none());
    db.roll_back(tx).await?;
    assert_eq!(db.footprint().await?, before);
    let unit = db.unit(&Counter, "1").await?;
    assert!(!unit.is_completed());
    assert_eq!(unit.load_report().snapshot.map(u64::from), Some(1));
    Ok(())
}

async fn an_event_that_ends_a_saga_may_be_followed_by_others_in_its_unit_of_work<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    assert_eq!(db.publish(&Order, "1", [OrderEvent::Shipped, note("last")]).await?, 2);
    let unit = db.unit(&Order, "1").await?;
    assert!(unit.is_completed());
    assert_eq!(&*unit.instance().data.note, "last");
    Ok(())
}
