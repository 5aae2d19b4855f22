//! Messages that start no instance and whose instance is not there.

use anyhow::ensure;
use async_trait::async_trait;
use sagastore::{Cause, Envelope, Error, Handling, InstanceId, NotFound, Outbox, Recorder};
use sqlx::Transaction;

use crate::harness::booking::{Booking, BookingCommand, book, remark};
use crate::harness::{Clause, Kind, Subject, TestDb, assert_error, clauses};

clauses! {
    messages_for_nobody_are_passed_over_or_are_an_error: BASIC,
    what_is_done_about_a_missing_instance_is_done_once_with_the_transaction: BASIC_AND_ORDERED,
    what_is_sent_about_a_missing_instance_goes_on_with_the_trace,
    who_fails_to_deal_with_a_missing_instance_leaves_nothing,
    what_was_done_in_a_transaction_that_the_database_has_given_up_is_not_told_as_done: BASIC,
}

async fn messages_for_nobody_are_passed_over_or_are_an_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    for (handler, number) in [(db.direct(&Booking::default()), "1"), (db.keyed(&Booking::default()), "2")] {
        let (message, before) = (remark(number, "a"), db.footprint().await?);
        let remembered = db.count("SELECT COUNT(*) FROM saga_inbox").await?;
        ensure!(matches!(handler.handle(db.pool(), &message).await?, Handling::NotFound));
        let mut tx = db.begin().await?;
        ensure!(matches!(handler.handle_in(&mut tx, &message).await?, Handling::NotFound));
        db.commit(tx).await?;
        let strict = handler.clone().error_if_not_found();
        let refused = strict.handle(db.pool(), &message).await;
        assert_error!(refused, Error::InstanceNotFound { type_name, .. } if type_name == "Note");
        ensure!(matches!(strict.ignore_not_found().handle(db.pool(), &message).await?, Handling::NotFound));
        assert_eq!((db.footprint().await?, db.count("SELECT COUNT(*) FROM saga_inbox").await?), (before, remembered));
        ensure!(handler.handle(db.pool(), &book(number, number)).await?.is_handled());
        ensure!(handler.handle(db.pool(), &message).await?.is_handled(), "what was passed over can come again");
    }
    Ok(())
}

/// Writes a row, sends a message, and then may fail.
struct Complaint {
    fails: bool,
}

#[async_trait]
impl<DB: Subject> NotFound<DB> for Complaint {
    async fn not_found(
        &self,
        tx: &mut Transaction<'_, DB>,
        recorder: &mut Recorder<Outbox>,
        message: &Envelope,
        instance: Option<&InstanceId>,
    ) -> Result<(), Cause> {
        DB::execute(tx, "INSERT INTO own_table (n) VALUES (1)".to_owned()).await?;
        let note = format!("{} for {}", message.type_name, instance.map_or("somebody", InstanceId::as_str));
        recorder.execute(&BookingCommand::Bill { note })?;
        if self.fails { Err("it broke".into()) } else { Ok(()) }
    }
}

async fn what_is_done_about_a_missing_instance_is_done_once_with_the_transaction<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    db.create_own_table().await?;
    let handlers = [(db.direct(&Booking::default()), "none"), (db.keyed(&Booking::default()), "somebody")];
    for (round, (handler, whom)) in handlers.into_iter().enumerate() {
        let handler = handler.on_not_found(Complaint { fails: false });
        for own_transaction in [true, false] {
            let message = remark("none", "a");
            for repeated in [false, true] {
                let handling = if own_transaction {
                    handler.handle(db.pool(), &message).await?
                } else {
                    let mut tx = db.begin().await?;
                    let handling = handler.handle_in(&mut tx, &message).await?;
                    db.commit(tx).await?;
                    handling
                };
                assert_eq!(matches!(handling, Handling::NotFound), !repeated);
                assert_eq!(handling.is_already_handled(), repeated);
            }
            assert_eq!(db.own_writes().await?, 1);
            let sent = db.outbox().await?.pop().unwrap();
            assert_eq!(sent.envelope.causation_id, message.message_id);
            ensure!(String::from_utf8_lossy(sent.payload()).contains(&format!("Note for {whom}")), "round {round}");
            db.sql("DELETE FROM own_table").await?;
        }
    }
    assert_eq!(db.outbox().await?.len(), 4, "one for each message");
    Ok(())
}

async fn what_is_sent_about_a_missing_instance_goes_on_with_the_trace<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    for handler in [db.direct(&Booking::default()), db.keyed(&Booking::default())] {
        let mut message = remark("none", "a");
        let trace = [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "vendor=1"),
            ("tenant", "7"),
        ];
        message.metadata.extend(trace.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let handler = handler.on_not_found(Complaint { fails: false });
        ensure!(matches!(handler.handle(db.pool(), &message).await?, Handling::NotFound));
        let sent = db.outbox().await?.into_iter().find(|record| record.envelope.causation_id == message.message_id);
        let metadata = sent.unwrap().envelope.metadata.clone();
        assert_eq!(metadata.get("traceparent"), message.metadata.get("traceparent"));
        assert_eq!(metadata.get("tracestate"), message.metadata.get("tracestate"));
        ensure!(!metadata.contains_key("tenant"), "what is not of the trace is the message's own");
        db.sql("DELETE FROM own_table").await?;
    }
    Ok(())
}

async fn who_fails_to_deal_with_a_missing_instance_leaves_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    for handler in [db.direct(&Booking::default()), db.keyed(&Booking::default())] {
        let (broken, message) = (handler.clone().on_not_found(Complaint { fails: true }), remark("none", "a"));
        assert_error!(broken.handle(db.pool(), &message).await, Error::Handler { .. });
        let mut tx = db.begin().await?;
        assert_error!(broken.handle_in(&mut tx, &message).await, Error::Handler { .. });
        db.commit(tx).await?;
        assert_eq!((db.own_writes().await?, db.outbox().await?.len()), (0, 0));
        let mended = handler.on_not_found(Complaint { fails: false });
        ensure!(matches!(mended.handle(db.pool(), &message).await?, Handling::NotFound));
        assert_eq!((db.own_writes().await?, db.outbox().await?.len()), (1, 1));
        db.sql("DELETE FROM own_table").await?;
        db.sql("DELETE FROM saga_outbox_message").await?;
    }
    Ok(())
}

/// Writes a row, and another that is there already, which it takes as done.
struct Repeated;

#[async_trait]
impl<DB: Subject> NotFound<DB> for Repeated {
    async fn not_found(
        &self,
        tx: &mut Transaction<'_, DB>,
        _: &mut Recorder<Outbox>,
        _: &Envelope,
        _: Option<&InstanceId>,
    ) -> Result<(), Cause> {
        DB::execute(tx, "INSERT INTO of_the_application VALUES (2)".to_owned()).await?;
        let repeated = DB::execute(tx, "INSERT INTO of_the_application VALUES (1)".to_owned()).await;
        if repeated.is_ok() { Err("the row was not there".into()) } else { Ok(()) }
    }
}

async fn what_was_done_in_a_transaction_that_the_database_has_given_up_is_not_told_as_done<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    db.sql("CREATE TABLE of_the_application (number INTEGER NOT NULL PRIMARY KEY)").await?;
    db.sql("INSERT INTO of_the_application VALUES (1)").await?;
    for handler in [db.direct(&Booking::default()), db.keyed(&Booking::default())] {
        db.sql("DELETE FROM of_the_application WHERE number = 2").await?;
        let handling = handler.on_not_found(Repeated).handle(db.pool(), &remark("none", "a")).await;
        let there = db.count("SELECT COUNT(*) FROM of_the_application WHERE number = 2").await?;
        assert_eq!(handling.is_ok(), there == 1, "{handling:?}, and {there} rows are there");
        assert_eq!(handling.is_ok(), DB::KIND != Kind::Postgres, "{handling:?}");
    }
    Ok(())
}
