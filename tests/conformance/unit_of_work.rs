//! What a unit of work loads, records and saves.

use sagastore::{
    Envelope, Error, Inbound, MessageId, MessageKind, MessageStore, Outbox, Saga, Saved, SnapshotFrequency,
};

use crate::harness::sample::{Counter, Order, OrderCommand, added, instance, line, note};
use crate::harness::{Clause, Footprint, Subject, TestDb, assert_error, clauses, stream_of, without_time};

clauses! {
    an_unknown_instance_begins_fresh_and_nothing_is_written: BASIC,
    an_event_changes_the_instance_for_good: BASIC,
    saving_nothing_writes_nothing: BASIC,
    a_unit_of_work_that_is_dropped_leaves_no_trace,
    commands_are_sent_and_are_not_history: BASIC,
    commands_alone_leave_the_revision_as_it_was,
    events_are_applied_once_when_published_and_once_when_loaded,
    an_instance_loaded_twice_is_two_values,
    a_transaction_sees_its_own_units_of_work: BASIC,
    sagas_with_the_same_instance_id_have_streams_of_their_own,
    causes_are_carried_into_stream_and_outbox: BASIC,
    a_message_without_an_inbound_one_is_its_own_cause,
    a_foreign_sender_gets_the_messages_and_the_outbox_does_not,
    a_refused_event_is_neither_applied_nor_saved,
    an_event_that_is_only_recorded_is_refused,
    a_large_unit_of_work_takes_one_snapshot_at_its_end,
    without_snapshots_none_is_read_written_or_deleted,
}

const NOTHING: Footprint = Footprint { commits: 0, completed: 0, snapshots: 0, outbox: 0 };

fn pay(amount_cents: i64) -> OrderCommand {
    OrderCommand::TakePayment { amount_cents }
}

async fn an_unknown_instance_begins_fresh_and_nothing_is_written<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut tx = db.begin().await?;
    let unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    assert_eq!((unit.instance().revision.get(), &unit.instance().data), (0, &Order.new_data()));
    assert!(!unit.is_completed());
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?, NOTHING);
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 0);
    assert_eq!(db.state(&Order, "1").await?, None);
    Ok(())
}

async fn an_event_changes_the_instance_for_good<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Order, "1").await?;
    unit.publish(line("tea", 2, 350))?;
    assert_eq!(unit.instance().revision.get(), 1);
    let data = unit.instance().data.clone();
    assert_eq!(data.total_cents, 700);
    let saved = db.save(unit).await?;
    assert!(saved.is_changed());
    assert_eq!(saved.revision().get(), 1);
    assert_eq!(db.state(&Order, "1").await?, Some((data, 1)));
    Ok(())
}

async fn saving_nothing_writes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", (1..=4).map(added)).await?;
    let before = db.footprint().await?;
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    for id in ["1", "unknown"] {
        let mut tx = db.begin().await?;
        let unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance(id)).await?;
        let revision = unit.instance().revision;
        assert_eq!(persister.save(&mut tx, unit).await?, Saved::Unchanged { revision });
        db.commit(tx).await?;
    }
    assert_eq!(db.footprint().await?, before);
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 1);
    assert_eq!(db.state(&Counter, "1").await?, Some((10, 4)));
    Ok(())
}

async fn a_unit_of_work_that_is_dropped_leaves_no_trace<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(1))?;
    unit.execute(&pay(1))?;
    drop(unit);
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?, NOTHING);
    Ok(())
}

async fn commands_are_sent_and_are_not_history<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Order, "1").await?;
    let first = unit.execute(&pay(100))?;
    let second = unit.publish(note("paid"))?;
    let third = unit.execute_to(&pay(200), "billing")?;
    let recorded = unit.recorded().to_vec();
    assert!(db.save(unit).await?.is_changed());

    let events = db.events(&stream_of(&Order, "1")).await?.unwrap();
    assert_eq!(events.iter().map(|event| event.envelope.message_id).collect::<Vec<_>>(), [second]);
    let outbox = db.outbox().await?;
    let sent: Vec<_> = outbox.iter().map(|record| without_time(&record.envelope)).collect();
    assert_eq!(sent, recorded);
    let ids: Vec<_> = sent.iter().map(|message| (message.message_id, message.kind)).collect();
    let (command, event) = (MessageKind::Command, MessageKind::Event);
    assert_eq!(ids, [(first, command), (second, event), (third, command)]);
    assert_eq!(sent[2].destination.as_deref(), Some("billing"));
    assert!(outbox.iter().all(|record| (&*record.aggregate_type, &*record.aggregate_id) == ("order", "1")));
    Ok(())
}

async fn commands_alone_leave_the_revision_as_it_was<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(1)]).await?;
    for id in ["1", "new"] {
        let mut unit = db.unit(&Counter, id).await?;
        unit.execute(&pay(5))?;
        let revision = unit.instance().revision;
        assert_eq!(db.save(unit).await?, Saved::Changed { revision });
    }
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    assert_eq!(db.state(&Counter, "new").await?, Some((0, 0)));
    assert_eq!(db.events(&stream_of(&Counter, "new")).await?, Some(Vec::new()));
    assert_eq!(db.publish(&Counter, "1", [added(1)]).await?, 2);
    assert_eq!(db.footprint().await?, Footprint { commits: 4, outbox: 4, ..NOTHING });
    Ok(())
}

async fn events_are_applied_once_when_published_and_once_when_loaded<DB: Subject>(db: TestDb<DB>) -> Clause {
    let saga = Watched::default();
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&saga, &mut tx, Outbox, &instance("1")).await?;
    for amount in 1..=3 {
        unit.publish(added(amount))?;
    }
    assert_eq!(saga.take(), [1, 2, 3]);
    assert!(db.persister().save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    db.publish(&Watched::default(), "1", [added(4)]).await?;
    assert!(saga.take().is_empty(), "saving applies nothing");
    assert_eq!(db.state(&saga, "1").await?, Some((10, 4)));
    assert_eq!(saga.take(), [1, 2, 3, 4]);
    Ok(())
}

/// A counter that remembers which events were applied.
#[derive(Default)]
struct Watched(std::sync::Mutex<Vec<i64>>);

impl Watched {
    fn take(&self) -> Vec<i64> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Saga for Watched {
    type Data = i64;
    type Event = <Counter as Saga>::Event;

    fn persistence_key(&self) -> &str {
        "watched"
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &Self::Event, envelope: &Envelope) {
        let before = *data;
        Counter.apply_event(data, event, envelope);
        self.0.lock().unwrap().push(*data - before);
    }
}

async fn an_instance_loaded_twice_is_two_values<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Order, "1", [line("tea", 1, 100)]).await?;
    let mut tx = db.begin().await?;
    let persister = db.persister();
    let mut one = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    let other = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    one.publish(line("milk", 1, 200))?;
    one.publish(note("changed"))?;
    assert_eq!((one.instance().data.lines.len(), one.instance().revision.get()), (2, 3));
    assert_eq!((other.instance().data.lines.len(), other.instance().revision.get()), (1, 1));
    assert_eq!((&*other.instance().data.note, other.recorded().len()), ("", 0));
    Ok(())
}

async fn a_transaction_sees_its_own_units_of_work<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    let mut tx = db.begin().await?;
    for revision in 0..5 {
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id).await?;
        assert_eq!(unit.instance().revision.get(), revision);
        unit.publish(added(1))?;
        assert!(persister.save(&mut tx, unit).await?.is_changed());
    }
    db.commit(tx).await?;
    assert_eq!(db.state(&Counter, "1").await?, Some((5, 5)));
    Ok(())
}

async fn sagas_with_the_same_instance_id_have_streams_of_their_own<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(7)]).await?;
    db.publish(&Order, "1", [note("a"), note("b")]).await?;
    assert_eq!(db.state(&Counter, "1").await?, Some((7, 1)));
    let (order, revision) = db.state(&Order, "1").await?.unwrap();
    assert_eq!((&*order.note, revision), ("b", 2));
    for (saga, id) in [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("A", "b/c"), ("ä", "c")] {
        let before = db.state(&Named(saga), id).await?;
        assert_eq!(before, None, "{saga} {id}");
        db.publish(&Named(saga), id, [added(1)]).await?;
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 7);
    Ok(())
}

/// A counter under any persistence key.
struct Named(&'static str);

impl Saga for Named {
    type Data = i64;
    type Event = <Counter as Saga>::Event;

    fn persistence_key(&self) -> &str {
        self.0
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &Self::Event, envelope: &Envelope) {
        Counter.apply_event(data, event, envelope);
    }
}

async fn causes_are_carried_into_stream_and_outbox<DB: Subject>(db: TestDb<DB>) -> Clause {
    let root = Inbound::from(MessageId::new());
    let parent = Inbound { message_id: MessageId::new(), correlation_id: root.message_id };
    let mut unit = db.unit(&Order, "1").await?;
    unit.handling(parent)?;
    unit.sender().set_metadata("tenant", "7");
    unit.publish(note("a"))?;
    unit.execute(&pay(1))?;
    assert!(db.save(unit).await?.is_changed());

    let first = db.events(&stream_of(&Order, "1")).await?.unwrap().remove(0).envelope;
    // The event causes a message of another saga.
    let mut unit = db.unit(&Counter, "9").await?;
    unit.handling(&first)?;
    unit.publish(added(1))?;
    assert!(db.save(unit).await?.is_changed());
    let second = db.events(&stream_of(&Counter, "9")).await?.unwrap().remove(0).envelope;

    assert_eq!((first.causation_id, first.correlation_id), (parent.message_id, root.message_id));
    assert_eq!(first.metadata["tenant"], "7");
    assert_eq!((second.causation_id, second.correlation_id), (first.message_id, root.message_id));
    let outbox = db.outbox().await?;
    assert_eq!(outbox.len(), 3);
    for record in outbox {
        let headers = record.headers();
        let ours = record.aggregate_type == "order";
        let cause = if ours { parent.message_id } else { first.message_id };
        assert_eq!(headers["causation-id"], cause.to_string());
        assert_eq!(headers["correlation-id"], root.message_id.to_string());
        assert_eq!(headers["message-id"], record.envelope.message_id.to_string());
        assert_eq!(headers.get("tenant").map(String::as_str), ours.then_some("7"));
    }
    Ok(())
}

async fn a_message_without_an_inbound_one_is_its_own_cause<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(1), added(2)]).await?;
    let messages = db.outbox().await?.into_iter().map(|record| record.envelope);
    let messages: Vec<_> =
        messages.chain(db.events(&stream_of(&Counter, "1")).await?.unwrap().into_iter().map(|e| e.envelope)).collect();
    assert_eq!(messages.len(), 4);
    for message in messages {
        assert_eq!((message.causation_id, message.correlation_id), (message.message_id, message.message_id));
    }
    Ok(())
}

async fn a_foreign_sender_gets_the_messages_and_the_outbox_does_not<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (persister, mut sent) = (db.persister(), Vec::<Envelope>::new());
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, &mut sent, &instance("1")).await?;
    unit.publish(note("a"))?;
    unit.execute_to(&pay(3), "billing")?;
    let recorded = unit.recorded().to_vec();
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    assert_eq!(sent, recorded);
    assert_eq!(sent.len(), 2);
    assert_eq!(db.footprint().await?, Footprint { commits: 1, ..NOTHING });
    assert_eq!(db.state(&Order, "1").await?.unwrap().1, 1);
    Ok(())
}

async fn a_refused_event_is_neither_applied_nor_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    let limits = sagastore::Limits { message_bytes: 100, ..Default::default() };
    let persister = db.persister().with_limits(limits);
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(note("a"))?;
    assert_error!(unit.publish(note("x".repeat(101))), Error::TooLarge { limit: 100, .. });
    assert_eq!((&*unit.instance().data.note, unit.instance().revision.get()), ("a", 1));
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    let (data, revision) = db.state(&Order, "1").await?.unwrap();
    assert_eq!((&*data.note, revision), ("a", 1));
    Ok(())
}

async fn an_event_that_is_only_recorded_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Counter, "1").await?;
    unit.publish(added(1))?;
    unit.sender().publish(&added(2))?;
    assert_eq!(unit.instance().data, 1, "the recorder does not know the instance");
    assert_error!(db.save(unit).await, Error::InvalidInput { .. });
    assert_eq!(db.footprint().await?, NOTHING);
    Ok(())
}

async fn a_large_unit_of_work_takes_one_snapshot_at_its_end<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(100));
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    for amount in 1..=1050 {
        unit.publish(added(amount))?;
    }
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?, Footprint { commits: 1, snapshots: 1, outbox: 1050, ..NOTHING });
    let mut conn = db.conn().await?;
    let unit = persister.load_instance(&Counter, &mut conn, &instance("1")).await?.unwrap();
    assert_eq!((unit.instance().data, unit.instance().revision.get()), (1050 * 1051 / 2, 1050));
    let report = unit.load_report();
    assert_eq!((report.snapshot.map(u64::from), report.replayed_events), (Some(1050), 0));
    assert_eq!(db.store().next_offset(&mut conn, &stream_of(&Counter, "1")).await?.map(u64::from), Some(1050));
    Ok(())
}

async fn without_snapshots_none_is_read_written_or_deleted<DB: Subject>(db: TestDb<DB>) -> Clause {
    let snapshotting = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    let mut tx = db.begin().await?;
    let mut unit = snapshotting.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(1))?;
    assert!(snapshotting.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    let snapshots = "SELECT revision, checksum FROM saga_snapshot";
    let before = db.rows(snapshots).await?;
    assert_eq!(before.len(), 1);

    let persister = snapshotting.without_snapshots();
    for _ in 0..10 {
        let mut tx = db.begin().await?;
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
        assert_eq!((unit.load_report().snapshot, unit.load_report().ignored_snapshot), (None, None));
        assert_eq!(unit.load_report().replayed_events, unit.instance().revision.get());
        for _ in 0..250 {
            unit.publish(added(1))?;
        }
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        db.commit(tx).await?;
    }
    let mut tx = db.begin().await?;
    let unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    assert_eq!((unit.instance().data, unit.instance().revision.get()), (2501, 2501));
    assert!(persister.save_and_complete(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    assert_eq!(db.rows(snapshots).await?, before);
    Ok(())
}
