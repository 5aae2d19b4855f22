//! Timeouts that are scheduled again, cancelled, or outlive their instance.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::emitter::{ChannelEmitter, Delivery};
use sagastore::{DeadLetters, Envelope, Error, MessageStore, OutboxRepository, Saga, UnitOfWork};

use crate::harness::sample::{Counter, Order, OrderCommand, OrderData, OrderEvent, added, note};
use crate::harness::{
    Clause, FUSED, HOUR, Relay, Sent, Subject, TestDb, amount, assert_error, attempts, clauses, quick, stream_of,
};

clauses! {
    scheduling_again_replaces_what_is_pending: BASIC,
    scheduling_again_replaces_what_is_due_and_was_not_delivered,
    what_is_cancelled_is_not_delivered: BASIC,
    what_is_due_and_was_not_delivered_can_be_cancelled: FUSED,
    a_dead_letter_goes_with_its_timeout,
    all_are_cancelled_at_once,
    the_last_change_in_a_unit_of_work_counts,
    what_is_being_sent_while_it_is_cancelled_does_not_come_again,
    completion_cancels_them_if_the_saga_says_so,
    completion_leaves_them_otherwise,
    a_completed_instance_schedules_none,
}

async fn change<DB: Subject>(
    db: &TestDb<DB>,
    id: &str,
    change: impl FnOnce(&mut UnitOfWork<'_, Counter>) -> sagastore::Result<()>,
) -> Clause {
    let mut unit = db.unit(&Counter, id).await?;
    change(&mut unit)?;
    assert!(db.save(unit).await?.is_changed());
    Ok(())
}

/// Delivers all that is due.
async fn relay<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Sent> {
    let sent = Sent::default();
    db.dispatcher(sent.emitter()).dispatch_once().await?;
    Ok(sent)
}

async fn scheduling_again_replaces_what_is_pending<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.schedule("a", "t", 1, HOUR).await?;
    db.schedule("a", "other", 3, HOUR).await?;
    let again = db.schedule("a", "t", 2, 2 * HOUR).await?;
    db.let_an_hour_pass().await?;
    assert_eq!(relay(&db).await?.of("a"), [3], "it is not due any more");
    assert_eq!(db.timeouts("a").await?.iter().map(|it| it.message.message_id).collect::<Vec<_>>(), [again]);
    db.let_an_hour_pass().await?;
    let sent = relay(&db).await?;
    assert_eq!((sent.of("a"), sent.records()[0].envelope.message_id), (vec![2], again));
    ensure!(db.timeouts("a").await?.is_empty());
    Ok(())
}

async fn scheduling_again_replaces_what_is_due_and_was_not_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.schedule("a", "t", 1, Duration::ZERO).await?;
    assert_eq!(db.release().await?, 1);
    db.schedule("a", "t", 2, HOUR).await?;
    ensure!(relay(&db).await?.of("a").is_empty());
    db.let_an_hour_pass().await?;
    assert_eq!(relay(&db).await?.of("a"), [2]);
    Ok(())
}

async fn what_is_cancelled_is_not_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for (id, name) in [("a", "t"), ("a", "u"), ("b", "t")] {
        db.schedule(id, name, 1, HOUR).await?;
    }
    change(&db, "a", |unit| unit.cancel_timeout("t")).await?;
    change(&db, "a", |unit| unit.cancel_timeout("unknown")).await?;
    assert_eq!((db.timeout_names("a").await?, db.timeout_names("b").await?), (vec!["u".into()], vec!["t".into()]));
    db.let_an_hour_pass().await?;
    let sent = relay(&db).await?;
    assert_eq!((sent.of("a"), sent.of("b")), (vec![1], vec![1]));
    Ok(())
}

async fn what_is_due_and_was_not_delivered_can_be_cancelled<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    change(&db, "a", |unit| {
        unit.publish(added(7))?;
        unit.schedule("t", &added(1), Duration::ZERO)?;
        unit.schedule("u", &added(2), Duration::ZERO).map(drop)
    })
    .await?;
    db.schedule("b", "t", 3, Duration::ZERO).await?;
    assert_eq!(db.release().await?, 3);
    change(&db, "a", |unit| unit.cancel_timeout("t")).await?;
    let sent = relay(&db).await?;
    assert_eq!((sent.of("a"), sent.of("b")), (vec![7, 2], vec![3]));
    Ok(())
}

async fn a_dead_letter_goes_with_its_timeout<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.schedule("a", "t", 1, Duration::ZERO).await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.refusing(|record| amount(record) == 1));
    let dispatcher = dispatcher.with_settings(quick().with_retry(attempts(1)));
    assert_eq!(dispatcher.dispatch_once().await?.dead, 1);
    ensure!(db.timeouts("a").await?.is_empty(), "it is a dead letter");
    db.schedule("a", "t", 2, Duration::ZERO).await?;
    assert_eq!(relay(&db).await?.of("a"), [2], "the one before does not hold it up");
    let mut tx = db.begin().await?;
    assert_eq!(db.store().retry_dead_letters(&mut tx, DeadLetters::All).await?, 0);
    db.commit(tx).await?;
    Ok(())
}

async fn all_are_cancelled_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for (number, after) in [(1, Duration::ZERO), (2, HOUR), (3, HOUR)] {
        db.schedule("a", &number.to_string(), number, after).await?;
        db.schedule("b", &number.to_string(), number, after).await?;
    }
    assert_eq!(db.release().await?, 2);
    change(&db, "a", |unit| {
        unit.publish(added(7))?;
        unit.schedule("before", &added(4), HOUR)?;
        unit.cancel_timeouts();
        unit.schedule("after", &added(5), HOUR).map(drop)
    })
    .await?;
    assert_eq!((db.timeout_names("a").await?, db.timeouts("b").await?.len()), (vec!["after".into()], 3));
    db.let_an_hour_pass().await?;
    let sent = relay(&db).await?;
    let mut of_a = sent.of("a");
    if !FUSED.contains(&db.mode()) {
        // An outbox of its own promises no order between its messages and timeouts.
        of_a.sort_unstable_by(|one, other| other.cmp(one));
    }
    assert_eq!((of_a, sent.of("b").len()), (vec![7, 5], 3));
    Ok(())
}

async fn the_last_change_in_a_unit_of_work_counts<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.schedule("a", "kept", 1, HOUR).await?;
    change(&db, "a", |unit| {
        unit.schedule("twice", &added(2), HOUR)?;
        unit.schedule("taken back", &added(3), HOUR)?;
        unit.cancel_timeout("kept")?;
        unit.schedule("kept", &added(4), HOUR)?;
        unit.schedule("twice", &added(5), HOUR)?;
        unit.cancel_timeout("taken back")
    })
    .await?;
    assert_eq!(db.timeout_names("a").await?, ["kept", "twice"]);
    db.let_an_hour_pass().await?;
    assert_eq!(relay(&db).await?.of("a"), [4, 5]);
    Ok(())
}

async fn what_is_being_sent_while_it_is_cancelled_does_not_come_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let reports: [fn(Delivery); 2] = [Delivery::delivered, |delivery| delivery.failed("late")];
    for (report, id) in reports.into_iter().zip(["a", "b"]) {
        db.schedule(id, "t", 1, Duration::ZERO).await?;
        let (emitter, mut deliveries) = ChannelEmitter::new(10);
        let dispatching = Relay::start(db.dispatcher(emitter).with_settings(quick().with_retry(attempts(5))));
        let sending = deliveries.recv().await.context("nothing was sent")?;
        change(&db, id, |unit| unit.cancel_timeout("t")).await?;
        report(sending);
        tokio::time::sleep(Duration::from_millis(200)).await;
        ensure!(deliveries.try_recv().is_none(), "it came again");
        dispatching.stop().await?;
        ensure!(db.outbox().await?.is_empty());
    }
    Ok(())
}

/// An order that wants no timeouts once it is shipped.
struct TidyOrder;

impl Saga for TidyOrder {
    type Data = OrderData;
    type Event = OrderEvent;

    fn persistence_key(&self) -> &str {
        "tidy order"
    }

    fn new_data(&self) -> OrderData {
        Order.new_data()
    }

    fn apply_event(&self, data: &mut OrderData, event: &OrderEvent, envelope: &Envelope) {
        Order.apply_event(data, event, envelope);
    }

    fn is_complete(&self, data: &OrderData) -> bool {
        Order.is_complete(data)
    }

    fn completion_cancels_timeouts(&self) -> bool {
        true
    }
}

/// Completes an instance with a timeout in the outbox, one that is pending, and one of the last unit of work. Says how
/// many are left.
async fn complete<DB: Subject, S: Saga<Event = OrderEvent>>(db: &TestDb<DB>, saga: &S) -> anyhow::Result<usize> {
    for (name, after) in [("due", Duration::ZERO), ("pending", HOUR)] {
        let mut unit = db.unit(saga, "a").await?;
        unit.publish(note(name))?;
        unit.schedule(name, &OrderCommand::SendMail { text: name.to_owned() }, after)?;
        assert!(db.save(unit).await?.is_changed());
    }
    assert_eq!(db.release().await?, 1);
    let mut unit = db.unit(saga, "a").await?;
    unit.publish(OrderEvent::Shipped)?;
    unit.schedule("last", &OrderCommand::SendMail { text: "last".to_owned() }, HOUR)?;
    assert!(db.save(unit).await?.is_changed());
    Ok(db.store().pending_timeouts(&mut *db.conn().await?, &stream_of(saga, "a"), None, 10).await?.len())
}

async fn completion_cancels_them_if_the_saga_says_so<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    assert_eq!(complete(&db, &TidyOrder).await?, 0);
    // Also one that begins and ends with one unit of work, and has none.
    let mut unit = db.unit(&TidyOrder, "b").await?;
    unit.publish(OrderEvent::Shipped)?;
    unit.schedule("t", &OrderCommand::SendMail { text: String::new() }, HOUR)?;
    assert!(db.save(unit).await?.is_changed());
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_timeout").await?, 0);
    db.let_an_hour_pass().await?;
    let sent = Sent::default();
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 4, "the events");
    Ok(())
}

async fn completion_leaves_them_otherwise<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    assert_eq!(complete(&db, &Order).await?, 3);
    db.let_an_hour_pass().await?;
    let sent = Sent::default();
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 3 + 3);
    Ok(())
}

async fn a_completed_instance_schedules_none<DB: Subject>(db: TestDb<DB>) -> Clause {
    complete(&db, &Order).await?;
    db.will_relay();
    let mut unit = db.unit(&Order, "a").await?;
    let mail = OrderCommand::SendMail { text: String::new() };
    assert_error!(unit.schedule("more", &mail, HOUR), Error::Completed { .. });
    unit.cancel_timeout("last")?;
    assert!(db.save(unit).await?.is_changed());
    let left = db.store().pending_timeouts(&mut *db.conn().await?, &stream_of(&Order, "a"), None, 10).await?;
    assert_eq!(left.into_iter().map(|it| it.name).collect::<Vec<_>>(), ["due", "pending"]);
    Ok(())
}
