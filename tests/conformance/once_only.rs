//! A message takes effect once per instance, however often and by however many it is delivered.

use sagastore::{
    Begun, Envelope, Error, Handled, Inbound, MessageId, MessageKind, Outbox, OutboxRepository, Saga, Saved,
};

use crate::harness::sample::{Counter, Order, OrderCommand, added, instance, line, note};
use crate::harness::{Clause, Footprint, Subject, TestDb, assert_error, clauses, without_time};

clauses! {
    not_handled_is_told_from_handled_with_nothing: BASIC,
    what_the_first_run_recorded_is_given_back_whole: BASIC,
    a_message_is_handled_once_per_instance_not_once_in_all,
    a_repeat_in_the_same_transaction_adds_nothing: BASIC,
    a_repeat_in_another_transaction_adds_nothing: BASIC,
    a_repeat_is_known_however_much_happened_since,
    a_repeat_by_a_stale_unit_of_work_is_told_from_a_conflict,
    what_was_not_committed_was_not_handled: BASIC,
    acknowledged_messages_leave_the_mark_behind,
}

fn mail(text: &str) -> OrderCommand {
    OrderCommand::SendMail { text: text.to_owned() }
}

/// Whether an instance has handled a message.
async fn handled<DB: Subject, S: Saga>(
    db: &TestDb<DB>,
    saga: &S,
    id: &str,
    message: MessageId,
) -> anyhow::Result<Option<Handled>> {
    let mut tx = db.begin().await?;
    let found = match db.persister().begin_handling(saga, &mut tx, Outbox, &instance(id), message).await? {
        Begun::Unit(_) => None,
        Begun::AlreadyHandled(handled) => Some(handled),
    };
    db.roll_back(tx).await?;
    Ok(found)
}

fn ids<'a>(messages: impl IntoIterator<Item = &'a Envelope>) -> Vec<MessageId> {
    messages.into_iter().map(|message| message.message_id).collect()
}

async fn not_handled_is_told_from_handled_with_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    for (round, id) in ["new", "old"].into_iter().enumerate() {
        if id == "old" {
            db.publish(&Order, id, [note("a")]).await?;
        }
        assert_eq!(handled(&db, &Order, id, message).await?, None);
        let mut unit = db.unit(&Order, id).await?;
        unit.handling(message)?;
        let revision = unit.instance().revision;
        assert_eq!(db.save(unit).await?, Saved::Changed { revision }, "there is something to remember");
        let found = handled(&db, &Order, id, message).await?.unwrap();
        assert_eq!((found.message_id, found.revision, found.messages.len()), (message, revision, 0));
        assert_eq!(revision.get(), u64::try_from(round)?);
        assert_eq!(handled(&db, &Order, id, MessageId::new()).await?, None);
    }
    assert_eq!(db.footprint().await?, Footprint { commits: 3, completed: 0, snapshots: 0, outbox: 1 });
    Ok(())
}

async fn what_the_first_run_recorded_is_given_back_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = Inbound { message_id: MessageId::new(), correlation_id: MessageId::new() };
    let mut unit = db.unit(&Order, "1").await?;
    unit.handling(message)?;
    unit.sender().set_metadata("tenant", "naïve ✓ \u{1F600}");
    unit.execute_to(&mail("שלום"), "post office")?;
    unit.publish(line("tea", 2, 350))?;
    let recorded = unit.recorded().to_vec();
    assert!(db.save(unit).await?.is_changed());

    let found = handled(&db, &Order, "1", message.message_id).await?.unwrap();
    assert_eq!((found.message_id, found.revision.get()), (message.message_id, 1));
    assert!(found.messages.iter().all(|message| message.recorded_at.is_some()));
    assert_eq!(found.messages.iter().map(without_time).collect::<Vec<_>>(), recorded);
    let waiting: Vec<_> = db.outbox().await?.iter().map(|record| without_time(&record.envelope)).collect();
    assert_eq!(waiting, recorded);
    assert_eq!(recorded[0].kind, MessageKind::Command);
    assert_eq!(recorded[0].destination.as_deref(), Some("post office"));
    Ok(())
}

async fn a_message_is_handled_once_per_instance_not_once_in_all<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    for round in 0..2 {
        for id in ["1", "2"] {
            let mut unit = db.unit(&Counter, id).await?;
            unit.handling(message)?;
            unit.publish(added(1))?;
            assert_eq!(db.save(unit).await?.is_changed(), round == 0);
            let mut unit = db.unit(&Order, id).await?;
            unit.handling(message)?;
            unit.publish(note("a"))?;
            assert_eq!(db.save(unit).await?.is_changed(), round == 0);
        }
    }
    assert_eq!(db.footprint().await?, Footprint { commits: 4, completed: 0, snapshots: 0, outbox: 4 });
    Ok(())
}

/// Handles a message by one event, and says what saving said.
async fn handle_in<DB: Subject>(
    db: &TestDb<DB>,
    tx: &mut sqlx::Transaction<'static, DB>,
    message: MessageId,
    amount: i64,
) -> anyhow::Result<Saved> {
    // Without asking first, so that the write itself must find the repeat.
    let mut unit = db.persister().begin_unit_of_work(&Counter, tx, Outbox, &instance("1")).await?;
    unit.handling(message)?;
    unit.publish(added(amount))?;
    Ok(db.persister().save(tx, unit).await?)
}

fn assert_first_run(saved: Saved, message: MessageId, revision: u64) {
    let Saved::AlreadyHandled(first) = saved else { panic!("it took effect twice: {saved:?}") };
    assert_eq!((first.message_id, first.revision.get(), first.messages.len()), (message, revision, 1));
}

async fn a_repeat_in_the_same_transaction_adds_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    let mut tx = db.begin().await?;
    assert!(handle_in(&db, &mut tx, message, 1).await?.is_changed());
    assert_first_run(handle_in(&db, &mut tx, message, 2).await?, message, 1);
    assert!(handle_in(&db, &mut tx, MessageId::new(), 10).await?.is_changed(), "the transaction is usable");
    db.commit(tx).await?;
    assert_eq!(db.state(&Counter, "1").await?, Some((11, 2)));
    assert_eq!(db.footprint().await?.outbox, 2);
    Ok(())
}

async fn a_repeat_in_another_transaction_adds_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    for round in 0..3 {
        let mut tx = db.begin().await?;
        let saved = handle_in(&db, &mut tx, message, 1 + round).await?;
        if round == 0 {
            assert!(saved.is_changed());
        } else {
            assert_first_run(saved, message, 1);
        }
        db.commit(tx).await?;
        assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
        assert_eq!(db.footprint().await?, Footprint { commits: 1, completed: 0, snapshots: 0, outbox: 1 });
    }
    Ok(())
}

async fn a_repeat_is_known_however_much_happened_since<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    let mut tx = db.begin().await?;
    assert!(handle_in(&db, &mut tx, message, 1).await?.is_changed());
    let frequently = db.persister().with_snapshot_frequency(sagastore::SnapshotFrequency::every(100));
    for _ in 0..6 {
        let mut unit = frequently.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
        for _ in 0..101 {
            unit.publish(added(1))?;
        }
        assert!(frequently.save(&mut tx, unit).await?.is_changed());
    }
    assert_first_run(handle_in(&db, &mut tx, message, 1000).await?, message, 1);
    db.commit(tx).await?;
    assert_eq!(handled(&db, &Counter, "1", message).await?.map(|first| first.revision.get()), Some(1));
    assert_eq!(db.state(&Counter, "1").await?, Some((607, 607)));
    Ok(())
}

async fn a_repeat_by_a_stale_unit_of_work_is_told_from_a_conflict<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    for id in ["new", "old"] {
        if id == "old" {
            db.publish(&Counter, id, [added(5)]).await?;
        }
        let [mut first, mut repeat, mut other] =
            [db.unit(&Counter, id).await?, db.unit(&Counter, id).await?, db.unit(&Counter, id).await?];
        first.handling(message)?;
        first.publish(added(1))?;
        repeat.handling(message)?;
        repeat.publish(added(2))?;
        other.handling(MessageId::new())?;
        other.publish(added(3))?;
        let revision = first.instance().revision.get();
        assert!(db.save(first).await?.is_changed());
        assert_first_run(db.save(repeat).await?, message, revision);
        assert_error!(db.save(other).await, Error::Conflict { .. });
        assert_eq!(db.state(&Counter, id).await?.unwrap().1, revision);
    }
    Ok(())
}

async fn what_was_not_committed_was_not_handled<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    let mut tx = db.begin().await?;
    assert!(handle_in(&db, &mut tx, message, 1).await?.is_changed());
    drop(tx);
    assert_eq!(handled(&db, &Counter, "1", message).await?, None);
    assert_eq!(db.footprint().await?, Footprint { commits: 0, completed: 0, snapshots: 0, outbox: 0 });
    let mut tx = db.begin().await?;
    assert!(handle_in(&db, &mut tx, message, 1).await?.is_changed());
    db.commit(tx).await?;
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    Ok(())
}

async fn acknowledged_messages_leave_the_mark_behind<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let message = MessageId::new();
    let mut unit = db.unit(&Order, "1").await?;
    unit.handling(message)?;
    unit.publish(note("a"))?;
    unit.execute(&mail("b"))?;
    let recorded = ids(unit.recorded());
    assert!(db.save(unit).await?.is_changed());
    for left in [1, 0] {
        let sent = db.outbox().await?[0].id;
        let mut tx = db.begin().await?;
        assert_eq!(db.store().delete_in_batches(&mut tx, 10, &[sent]).await?, 1);
        db.commit(tx).await?;
        let waiting: Vec<_> = db.outbox().await?.iter().map(|record| record.envelope.message_id).collect();
        assert_eq!(waiting, recorded[2 - left..]);
        let found = handled(&db, &Order, "1", message).await?.unwrap();
        assert_eq!(ids(&found.messages), recorded, "what it did is not forgotten");
    }
    Ok(())
}
