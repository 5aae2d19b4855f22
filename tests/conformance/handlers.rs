//! Sagas send each other messages through the outbox, without a broker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use sagastore::dispatcher::DeliveryRetry;
use sagastore::{
    Cause, Envelope, HandleMessage, Handlers, InstanceId, MessageHandler, MessageKind, NewOutboxRecord, ParkAfter,
    Saga, UnitOfWork,
};

use crate::harness::booking::{Booking, BookingEvent, BookingMessage, book, fragile, panic_quietly, remark};
use crate::harness::sample::{Counter, added};
use crate::harness::{Clause, Sent, Subject, TestDb, clauses, quick};

clauses! {
    each_message_goes_to_the_sagas_that_handle_it_and_the_rest_elsewhere,
    without_another_emitter_the_rest_is_dropped,
    a_message_that_fails_is_delivered_again,
    a_parked_message_is_delivered,
    a_message_that_was_handled_before_is_delivered,
    a_saga_that_fails_keeps_no_message_from_another,
    a_saga_that_panics_keeps_no_message_from_another,
}

/// Messages in the outbox, as if sent by another saga.
async fn send<DB: Subject>(db: &TestDb<DB>, messages: &[&Envelope]) -> anyhow::Result<()> {
    let record = |message: &&Envelope| NewOutboxRecord::new("sender", "1", (*message).clone());
    Ok(db.save_records(&messages.iter().map(record).collect::<Vec<_>>()).await?)
}

async fn each_message_goes_to_the_sagas_that_handle_it_and_the_rest_elsewhere<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (sent, saga) = (Sent::default(), Booking::default());
    let other = Envelope::new(MessageKind::Command, "Other", 1, "text/plain", "x")?;
    send(&db, &[&book("1", "ann"), &other, &remark("1", "a")]).await?;
    db.publish(&Counter, "1", [added(1)]).await?;
    let handlers = Handlers::new(db.pool().clone()).with(db.direct(&saga)).others_to(sent.emitter());
    let dispatcher = db.dispatcher(Arc::new(handlers));
    while dispatcher.dispatch_once().await?.delivered > 0 {}
    assert_eq!(db.notes("1").await?, ["a"]);
    let mut elsewhere: Vec<_> = sent.records().iter().map(|record| record.event_type().to_owned()).collect();
    elsewhere.sort();
    assert_eq!(elsewhere, ["Bill", "Booked", "CounterAdded", "Noted", "Other"]);
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn without_another_emitter_the_rest_is_dropped<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "1", [added(1)]).await?;
    let dispatcher = db.dispatcher(Handlers::new(db.pool().clone()));
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 1);
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn a_message_that_fails_is_delivered_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let saga = Booking::default();
    saga.broken.store(true, Ordering::Relaxed);
    send(&db, &[&book("1", "ann"), &fragile("1", "a"), &remark("1", "b")]).await?;
    let handlers = Handlers::new(db.pool().clone()).with(db.direct(&saga));
    let later = DeliveryRetry::new(20, 1, Duration::from_secs(1), Duration::from_secs(1), 0.0)?;
    let dispatcher = db.dispatcher(handlers).with_settings(quick().with_retry(later));
    let _ = dispatcher.dispatch_once().await?;
    ensure!(db.notes("1").await?.is_empty(), "what comes later waits");
    saga.broken.store(false, Ordering::Relaxed);
    crate::harness::until("the rest to be delivered", async || {
        let _ = dispatcher.dispatch_once().await?;
        Ok(db.notes("1").await? == ["a", "b"])
    })
    .await
}

async fn a_parked_message_is_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let saga = Booking::default();
    saga.broken.store(true, Ordering::Relaxed);
    let handler = db.direct(&saga).park_after(ParkAfter { tries: 1, delay: Duration::ZERO });
    send(&db, &[&book("1", "ann"), &fragile("1", "a"), &remark("1", "b")]).await?;
    let dispatcher = db.dispatcher(Handlers::new(db.pool().clone()).with(handler.clone()));
    while dispatcher.dispatch_once().await?.delivered > 0 {}
    ensure!(db.outbox().await?.is_empty(), "no message waits for the one that fails");
    saga.broken.store(false, Ordering::Relaxed);
    assert_eq!(handler.retry_parked(db.pool(), &InstanceId::new("1")?).await?.released, 2);
    assert_eq!(db.notes("1").await?, ["a", "b"]);
    Ok(())
}

async fn a_message_that_was_handled_before_is_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (saga, start) = (Booking::default(), book("1", "ann"));
    let handlers = Handlers::new(db.pool().clone()).with(db.keyed(&saga));
    handlers.deliver(&start).await?;
    send(&db, &[&start]).await?;
    let before = db.footprint().await?.commits;
    let dispatcher = db.dispatcher(handlers);
    while dispatcher.dispatch_once().await?.delivered > 0 {}
    ensure!(db.outbox().await?.is_empty());
    assert_eq!(db.footprint().await?.commits, before);
    Ok(())
}

/// Counts what bookings are sent.
struct Auditor;

impl Saga for Auditor {
    type Data = u32;
    type Event = BookingEvent;

    fn persistence_key(&self) -> &str {
        "auditor"
    }

    fn new_data(&self) -> u32 {
        0
    }

    fn apply_event(&self, count: &mut u32, _: &BookingEvent, _: &Envelope) {
        *count += 1;
    }
}

impl HandleMessage for Auditor {
    type Message = BookingMessage;

    fn is_trigger(&self, _: &BookingMessage) -> bool {
        true
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, _: &BookingMessage) -> Result<(), Cause> {
        unit.publish(BookingEvent::Noted { note: "seen".into() })?;
        Ok(())
    }
}

async fn a_saga_that_fails_keeps_no_message_from_another<DB: Subject>(db: TestDb<DB>) -> Clause {
    let saga = Booking::default();
    let auditor = MessageHandler::direct(Auditor, db.persister(), |_: &BookingMessage| InstanceId::new("1").map(Some))?;
    let handlers = Handlers::new(db.pool().clone()).with(db.direct(&saga)).with(auditor);
    handlers.deliver(&book("1", "ann")).await?;
    saga.broken.store(true, Ordering::Relaxed);
    let message = fragile("1", "a");
    for _ in 0..2 {
        ensure!(handlers.deliver(&message).await.is_err(), "it is to be delivered again");
    }
    assert_eq!(db.state(&Auditor, "1").await?, Some((2, 2)), "once for each message");
    Ok(())
}

/// Panics when it is loaded.
struct Ruined;

impl Saga for Ruined {
    type Data = u32;
    type Event = BookingEvent;

    fn persistence_key(&self) -> &str {
        Auditor.persistence_key()
    }

    fn new_data(&self) -> u32 {
        0
    }

    fn apply_event(&self, _: &mut u32, _: &BookingEvent, _: &Envelope) {
        panic_quietly();
    }
}

impl HandleMessage for Ruined {
    type Message = BookingMessage;

    fn is_trigger(&self, _: &BookingMessage) -> bool {
        true
    }

    fn handle(&self, _: &mut UnitOfWork<'_, Self>, _: &BookingMessage) -> Result<(), Cause> {
        Ok(())
    }
}

/// The others never saw the message.
async fn a_saga_that_panics_keeps_no_message_from_another<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (saga, one) = (Booking::default(), |_: &BookingMessage| InstanceId::new("1").map(Some));
    let auditor = MessageHandler::direct(Auditor, db.persister(), one)?;
    let handlers = Handlers::new(db.pool().clone()).with(db.direct(&saga)).with(auditor.clone());
    handlers.deliver(&book("1", "ann")).await?;
    saga.panics.store(true, Ordering::Relaxed);
    ensure!(handlers.deliver(&fragile("1", "a")).await.is_err(), "it is to be delivered again");
    assert_eq!(db.state(&Auditor, "1").await?, Some((2, 2)));

    let ruined = MessageHandler::direct(Ruined, db.persister(), one)?;
    let handlers = Arc::new(Handlers::new(db.pool().clone()).with(ruined).with(auditor));
    let delivered = tokio::spawn({
        let handlers = Arc::clone(&handlers);
        async move { handlers.deliver(&remark("1", "b")).await }
    });
    ensure!(delivered.await.is_err_and(|error| error.is_panic()));
    assert_eq!(db.state(&Auditor, "1").await?, Some((3, 3)));
    Ok(())
}
