//! Messages are handed to the instance that they are for, once, and what it does is stored whole.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use async_trait::async_trait;
use sagastore::{
    Cause, Envelope, Error, Handling, InTransaction, MessageHandler, MessageKind, TIMEOUT_INSTANCE, TIMEOUT_SAGA,
    UnitOfWork,
};
use sqlx::Transaction;
use sqlx::pool::PoolOptions;

use super::transactions::drop_at_every_step;
use crate::harness::booking::{Booking, BookingCommand, BookingEvent, BookingMessage, book, close, fragile, remark};
use crate::harness::{Clause, Footprint, Subject, TestDb, assert_error, clauses, scaled};

clauses! {
    a_trigger_starts_an_instance_and_others_go_on_with_it: BASIC,
    what_a_message_leads_to_is_caused_by_it_and_goes_on_with_its_trace,
    a_message_is_handled_once: BASIC,
    a_message_once_handled_in_the_callers_transaction_is_known_outside,
    a_message_never_revives_a_completed_instance: BASIC,
    a_failure_leaves_nothing_and_the_message_can_come_again: BASIC,
    in_the_callers_transaction_a_failure_undoes_the_message_alone: BASIC,
    in_the_callers_transaction_nothing_is_retried: SERVERS,
    own_writes_share_the_fate_of_the_message,
    own_writes_that_fail_take_the_message_with_them,
    old_versions_of_messages_are_brought_up_to_date,
    a_message_that_does_not_decode_is_an_error_and_one_of_another_type_is_not_for_the_saga,
    messages_that_come_at_once_for_one_instance_are_all_handled: SEVERAL_CONNECTIONS,
    one_message_given_to_many_at_once_is_handled_by_one: SEVERAL_CONNECTIONS,
    a_discarded_try_leaves_nothing: SERVERS,
    messages_that_are_dropped_at_any_step_cost_no_connection: SERVERS,
}

async fn a_trigger_starts_an_instance_and_others_go_on_with_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (handler, number) in [(db.direct(&Booking::default()), "1"), (db.keyed(&Booking::default()), "2")] {
        let started = handler.handle(db.pool(), &book(number, number)).await?;
        let Handling::Handled { instance_id, saved, conflicts } = started else { panic!("it is a trigger") };
        assert_eq!((saved.revision().get(), conflicts), (1, 0));
        let noted = handler.handle(db.pool(), &remark(number, "a")).await?;
        let Handling::Handled { instance_id: same, saved, .. } = noted else { panic!("it is there") };
        assert_eq!((&same, saved.revision().get()), (&instance_id, 2));
        let (data, revision) = db.state(&Booking::default(), instance_id.as_str()).await?.unwrap();
        assert_eq!((&*data.number, &*data.customer, data.notes, revision), (number, number, vec!["a".to_owned()], 2));
        ensure!(handler.handle(db.pool(), &close(number)).await?.is_handled());
        assert_eq!(db.state(&Booking::default(), instance_id.as_str()).await?.unwrap().1, 3);
    }
    Ok(())
}

async fn what_a_message_leads_to_is_caused_by_it_and_goes_on_with_its_trace<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (handler, number) in [(db.direct(&Booking::default()), "1"), (db.keyed(&Booking::default()), "2")] {
        ensure!(handler.handle(db.pool(), &book(number, number)).await?.is_handled());
        let mut message = remark(number, "a");
        message.metadata.insert("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        message.metadata.insert("tracestate".into(), "vendor=1".into());
        message.metadata.insert("tenant".into(), "7".into());
        ensure!(handler.handle(db.pool(), &message).await?.is_handled());
        let records: Vec<_> =
            db.outbox().await?.into_iter().filter(|r| r.envelope.causation_id == message.message_id).collect();
        assert_eq!(records.iter().map(|r| r.event_type()).collect::<Vec<_>>(), ["Noted", "Bill"]);
        for record in records {
            let headers = record.headers();
            assert_eq!(record.envelope.correlation_id, message.correlation_id);
            assert_eq!(headers["traceparent"], message.metadata["traceparent"]);
            assert_eq!(headers["tracestate"], "vendor=1");
            ensure!(!headers.contains_key("tenant"), "what is not of the trace is the message's own");
        }
    }
    Ok(())
}

fn handler_of<DB: Subject>(db: &TestDb<DB>, key: bool) -> MessageHandler<Booking, DB> {
    let saga = Booking::default();
    if key { db.keyed(&saga) } else { db.direct(&saga) }
}

async fn a_message_is_handled_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let saga = Booking::default();
    for (handler, number) in [(db.direct(&saga), "1"), (db.keyed(&saga), "2")] {
        let (start, note) = (book(number, number), remark(number, "a"));
        ensure!(handler.handle(db.pool(), &start).await?.is_handled());
        ensure!(handler.handle(db.pool(), &note).await?.is_handled());
        let before = db.footprint().await?;
        for message in [&start, &note, &note] {
            ensure!(handler.handle(db.pool(), message).await?.is_already_handled());
            let mut tx = db.begin().await?;
            ensure!(handler.handle_in(&mut tx, message).await?.is_already_handled());
            db.commit(tx).await?;
        }
        assert_eq!(db.footprint().await?, before);
        assert_eq!(db.notes(number).await?, ["a"]);
    }
    let (direct, note) = (db.direct(&saga), remark("1", "b"));
    ensure!(direct.handle(db.pool(), &note).await?.is_handled());
    let Handling::AlreadyHandled(Some(first)) = direct.handle(db.pool(), &note).await? else {
        panic!("the instance remembers");
    };
    assert_eq!((first.revision.get(), first.messages.len()), (3, 2), "what the first run did is told");
    Ok(())
}

async fn a_message_once_handled_in_the_callers_transaction_is_known_outside<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (handler, number) in [(db.direct(&Booking::default()), "1"), (db.keyed(&Booking::default()), "2")] {
        let message = book(number, number);
        let mut tx = db.begin().await?;
        ensure!(handler.handle_in(&mut tx, &message).await?.is_handled());
        ensure!(handler.handle_in(&mut tx, &message).await?.is_already_handled());
        db.roll_back(tx).await?;
        let mut tx = db.begin().await?;
        ensure!(handler.handle_in(&mut tx, &message).await?.is_handled(), "rolled back, it was never handled");
        db.commit(tx).await?;
        ensure!(handler.handle(db.pool(), &message).await?.is_already_handled());
    }
    Ok(())
}

async fn a_message_never_revives_a_completed_instance<DB: Subject>(db: TestDb<DB>) -> Clause {
    let direct = db.direct(&Booking::default());
    for message in [book("1", "ann"), close("1")] {
        ensure!(direct.handle(db.pool(), &message).await?.is_handled());
    }
    let before = db.footprint().await?;
    assert_eq!(before.completed, 1);
    for late in [book("1", "bob"), remark("1", "a")] {
        let Handling::Completed { instance_id } = direct.handle(db.pool(), &late).await? else {
            panic!("it is completed");
        };
        assert_eq!(instance_id.as_str(), "1");
        let mut tx = db.begin().await?;
        ensure!(matches!(direct.handle_in(&mut tx, &late).await?, Handling::Completed { .. }));
        db.commit(tx).await?;
    }
    assert_eq!(db.footprint().await?, before);
    Ok(())
}

async fn a_failure_leaves_nothing_and_the_message_can_come_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let saga = Booking::default();
        let handler = if key { db.keyed(&saga) } else { db.direct(&saga) };
        ensure!(handler.handle(db.pool(), &book(number, number)).await?.is_handled());
        let (before, message) = (db.footprint().await?, fragile(number, "a"));
        saga.broken.store(true, Ordering::Relaxed);
        for _ in 0..4 {
            assert_error!(
                handler.handle(db.pool(), &message).await,
                Error::Handler { instance, message_id, ref source, .. }
                    if message_id == message.message_id && source.to_string() == "it broke" && !instance.as_str().is_empty()
            );
            assert_eq!(db.footprint().await?, before);
        }
        saga.broken.store(false, Ordering::Relaxed);
        ensure!(handler.handle(db.pool(), &message).await?.is_handled());
        assert_eq!(db.notes(number).await?, ["a"], "by the last try alone");
        assert_eq!(db.footprint().await?.outbox, before.outbox + 1);
    }
    Ok(())
}

async fn in_the_callers_transaction_a_failure_undoes_the_message_alone<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    for (key, number) in [(false, 1), (true, 2)] {
        let (saga, text) = (Booking::default(), number.to_string());
        let handler = if key { db.keyed(&saga) } else { db.direct(&saga) };
        saga.broken.store(true, Ordering::Relaxed);
        let mut tx = db.begin().await?;
        db.write_own(&mut tx, number).await?;
        ensure!(handler.handle_in(&mut tx, &book(&text, &text)).await?.is_handled());
        assert_error!(handler.handle_in(&mut tx, &fragile(&text, "a")).await, Error::Handler { .. });
        ensure!(handler.handle_in(&mut tx, &remark(&text, "b")).await?.is_handled(), "it is still usable");
        db.commit(tx).await?;
        assert_eq!((db.own_writes().await?, db.notes(&text).await?), (i64::from(number), vec!["b".to_owned()]));
    }
    Ok(())
}

/// Lets another writer be faster, every time or the first time. (Not on SQLite, where a writer is alone.)
struct Overtaken<DB: Subject> {
    db: TestDb<DB>,
    once: AtomicBool,
    always: bool,
}

#[async_trait]
impl<DB: Subject> InTransaction<Booking, DB> for Overtaken<DB> {
    async fn run(
        &self,
        _: &mut Transaction<'_, DB>,
        unit: &mut UnitOfWork<'_, Booking>,
        _: &Envelope,
    ) -> Result<(), Cause> {
        if self.always || !self.once.swap(true, Ordering::Relaxed) {
            let (saga, id) = (Booking::default(), unit.instance().instance_id.clone());
            let faster = BookingEvent::Noted { note: "faster".into() };
            let persister = self.db.persister();
            let executed = persister.execute(self.db.pool(), &saga, &id, None, |other| other.publish(faster.clone()));
            let _ = executed.await?;
        }
        Ok(())
    }
}

async fn in_the_callers_transaction_nothing_is_retried<DB: Subject>(db: TestDb<DB>) -> Clause {
    let plain = db.direct(&Booking::default());
    ensure!(plain.handle(db.pool(), &book("1", "ann")).await?.is_handled());
    let overtaken = plain.in_transaction(Overtaken { db: db.clone(), once: false.into(), always: true });
    let mut tx = db.begin().await?;
    assert_error!(overtaken.handle_in(&mut tx, &remark("1", "a")).await, Error::Conflict { .. });
    db.commit(tx).await?;
    assert_eq!(db.notes("1").await?, ["faster"]);
    Ok(())
}

async fn a_discarded_try_leaves_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let saga = Booking::default();
        let plain = if key { db.keyed(&saga) } else { db.direct(&saga) };
        ensure!(plain.handle(db.pool(), &book(number, number)).await?.is_handled());
        let sent = db.outbox().await?.len();
        let overtaken = plain.in_transaction(Overtaken { db: db.clone(), once: false.into(), always: false });
        let handling = overtaken.handle(db.pool(), &remark(number, "a")).await?;
        ensure!(matches!(handling, Handling::Handled { conflicts: 1, .. }), "{handling:?}");
        assert_eq!(db.notes(number).await?, ["faster", "a"]);
        assert_eq!(db.outbox().await?.len(), sent + 3, "the faster one's event, and this one's two");
    }
    Ok(())
}

/// Counts in a table of its own what a saga handled, and then may fail.
struct Projection {
    fails: bool,
}

#[async_trait]
impl<DB: Subject> InTransaction<Booking, DB> for Projection {
    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &mut UnitOfWork<'_, Booking>,
        _: &Envelope,
    ) -> Result<(), Cause> {
        DB::execute(tx, format!("INSERT INTO own_table (n) VALUES ({})", unit.instance().revision)).await?;
        unit.execute(&BookingCommand::Bill { note: "projected".into() })?;
        if self.fails { Err("it broke".into()) } else { Ok(()) }
    }
}

async fn own_writes_share_the_fate_of_the_message<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    for (handler, number) in [(db.direct(&Booking::default()), "1"), (db.keyed(&Booking::default()), "2")] {
        let handler = handler.in_transaction(Projection { fails: false });
        let (start, note) = (book(number, number), remark(number, "a"));
        for message in [&start, &note, &note] {
            let _ = handler.handle(db.pool(), message).await?;
        }
        assert_eq!(db.own_writes().await?, 2, "once for each message");
        let mut tx = db.begin().await?;
        ensure!(handler.handle_in(&mut tx, &remark(number, "b")).await?.is_handled());
        db.roll_back(tx).await?;
        assert_eq!((db.own_writes().await?, db.notes(number).await?), (2, vec!["a".to_owned()]));
        db.sql("DELETE FROM own_table").await?;
    }
    let projected = db.outbox().await?;
    let projected = projected.iter().filter(|r| String::from_utf8_lossy(r.payload()).contains("projected"));
    assert_eq!(projected.count(), 4, "what was recorded there is sent");
    Ok(())
}

async fn own_writes_that_fail_take_the_message_with_them<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    for handler in [db.direct(&Booking::default()), db.keyed(&Booking::default())] {
        let (broken, message) = (handler.clone().in_transaction(Projection { fails: true }), book("1", "ann"));
        assert_error!(broken.handle(db.pool(), &message).await, Error::Handler { .. });
        let mut tx = db.begin().await?;
        assert_error!(broken.handle_in(&mut tx, &message).await, Error::Handler { .. });
        db.commit(tx).await?;
        assert_eq!(db.footprint().await?, Footprint { commits: 0, completed: 0, snapshots: 0, outbox: 0 });
        assert_eq!(db.own_writes().await?, 0);
        assert_eq!(db.count("SELECT COUNT(*) FROM saga_correlation_key").await?, 0);
        assert_eq!(db.count("SELECT COUNT(*) FROM saga_inbox").await?, 0);
    }
    Ok(())
}

async fn old_versions_of_messages_are_brought_up_to_date<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.direct(&Booking::default());
    ensure!(handler.handle(db.pool(), &book("1", "ann")).await?.is_handled());
    let payload = r#"{"Remark":{"number":"1","text":"old"}}"#;
    let old = Envelope::new(MessageKind::Command, "Remark", 1, "application/json", payload)?;
    ensure!(handler.handle(db.pool(), &old).await?.is_handled());
    assert_eq!(db.notes("1").await?, ["old"]);
    Ok(())
}

async fn a_message_that_does_not_decode_is_an_error_and_one_of_another_type_is_not_for_the_saga<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    let handler = db.direct(&Booking::default());
    let message = |kind: &str, version, content_type: &str, payload: &str| {
        Envelope::new(MessageKind::Command, kind, version, content_type, payload.to_owned())
    };
    let other = message("Unknown", 1, "application/json", "{}")?;
    ensure!(!handler.handles(&other));
    ensure!(matches!(handler.handle(db.pool(), &other).await?, Handling::Ignored));
    let newer = message("Book", 9, "application/json", "{}")?;
    ensure!(handler.handles(&newer), "it is for this saga, which does not know the version");
    assert_error!(handler.handle(db.pool(), &newer).await, Error::UndecodableMessage { .. });
    let mut own_timeout = message("Unknown", 1, "application/json", "{}")?;
    for (key, value) in [(TIMEOUT_SAGA, "booking"), (TIMEOUT_INSTANCE, "1")] {
        own_timeout.metadata.insert(key.into(), value.into());
    }
    assert_error!(handler.handle(db.pool(), &own_timeout).await, Error::UndecodableMessage { .. });
    own_timeout.metadata.insert(TIMEOUT_SAGA.into(), "another".into());
    ensure!(matches!(handler.handle(db.pool(), &own_timeout).await?, Handling::Ignored));
    let chatter = BookingMessage::Chatter.envelope();
    ensure!(handler.handles(&chatter));
    for handler in [&handler, &db.keyed(&Booking::default())] {
        ensure!(matches!(handler.handle(db.pool(), &chatter).await?, Handling::Ignored), "its mapping says so");
    }
    let renamed = r#"{"Close":{"number":"1"}}"#;
    for (content_type, payload) in [("application/json", "{"), ("text/plain", "{}"), ("application/json", renamed)] {
        let bad = message("Book", 1, content_type, payload)?;
        assert_error!(
            handler.handle(db.pool(), &bad).await,
            Error::UndecodableMessage { message_id, .. } if message_id == bad.message_id
        );
        let mut tx = db.begin().await?;
        assert_error!(handler.handle_in(&mut tx, &bad).await, Error::UndecodableMessage { .. });
        db.commit(tx).await?;
    }
    assert_eq!(db.footprint().await?.commits, 0);
    Ok(())
}

async fn messages_that_come_at_once_for_one_instance_are_all_handled<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let handler = handler_of(&db, key);
        // Triggers, so that the first to come starts the instance.
        let tasks = (0..16).map(|n| {
            let (handler, pool) = (handler.clone(), db.pool().clone());
            let message = book(number, &n.to_string());
            tokio::spawn(async move { handler.handle(&pool, &message).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            ensure!(task.await??.is_handled());
        }
        assert_eq!(db.notes(number).await?.len(), 15, "one started it, the others were noted");
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 2);
    Ok(())
}

async fn one_message_given_to_many_at_once_is_handled_by_one<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (key, number) in [(false, "1"), (true, "2")] {
        let (handler, start) = (handler_of(&db, key), book(number, number));
        for message in [start.clone(), remark(number, "a"), start] {
            let tasks = (0..8).map(|_| {
                let (handler, pool, message) = (handler.clone(), db.pool().clone(), message.clone());
                tokio::spawn(async move { handler.handle(&pool, &message).await })
            });
            for task in tasks.collect::<Vec<_>>() {
                let handling = task.await??;
                ensure!(handling.is_handled() || handling.is_already_handled(), "{handling:?}");
            }
        }
        assert_eq!(db.notes(number).await?, ["a"]);
    }
    Ok(())
}

async fn messages_that_are_dropped_at_any_step_cost_no_connection<DB: Subject>(db: TestDb<DB>) -> Clause {
    // Without any settings that would help.
    let pool = PoolOptions::<DB>::new().max_connections(2).connect_with(db.home().options.clone()).await?;
    let handler = db.keyed(&Booking::default());
    let answered = drop_at_every_step(scaled(4, 50), |number| {
        let (pool, handler, message) = (pool.clone(), handler.clone(), book(&number.to_string(), &number.to_string()));
        async move { handler.handle(&pool, &message).await.map(drop) }
    });
    let answered = i64::from(answered.await?);
    let closed = tokio::time::timeout(std::time::Duration::from_secs(10), pool.close()).await;
    ensure!(closed.is_ok(), "a connection does not come home");
    let found = db.count("SELECT COUNT(*) FROM saga_stream WHERE persistence_key IS NOT NULL").await?;
    ensure!(found == answered, "{answered} messages were answered, {found} bookings are there");
    Ok(())
}
