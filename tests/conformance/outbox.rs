//! The outbox: what is saved in it, and how it is read.

use std::sync::Arc;

use sagastore::{
    Begun, Bincode, Codecs, Error, Inbound, MessageId, MessageKind, NewOutboxRecord, Outbox, OutboxRepository,
    StreamName, Timestamp, UnitOfWork,
};

use crate::harness::sample::{
    Counter, Order, OrderCommand, added, command, event, event_of, instance, line, note, numbers,
};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, without_time};

clauses! {
    a_unit_of_work_fills_the_outbox_with_all_that_it_recorded: BASIC,
    records_of_any_transaction_come_back_whole: BASIC,
    records_of_one_aggregate_keep_the_order_in_which_they_were_saved,
    a_record_is_not_given_out_before_it_is_due,
    what_is_rolled_back_was_never_in_the_outbox,
    the_outbox_holds_what_was_committed_and_nothing_else,
    several_units_of_work_in_one_transaction_keep_their_order,
    every_byte_of_a_payload_is_kept_in_both_lanes,
    a_record_that_cannot_be_stored_is_refused_before_any_sql,
    an_outbox_that_cannot_be_written_fails_the_whole_unit_of_work,
    a_mark_that_cannot_be_written_fails_the_unit_of_work: POSTGRES,
}

async fn a_unit_of_work_fills_the_outbox_with_all_that_it_recorded<DB: Subject>(db: TestDb<DB>) -> Clause {
    let inbound = Inbound { message_id: MessageId::new(), correlation_id: MessageId::new() };
    let (persister, mut tx) = (db.persister(), db.begin().await?);
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("ü/%1")).await?;
    unit.handling(inbound)?;
    unit.execute_to(&OrderCommand::TakePayment { amount_cents: 995 }, "billing")?;
    unit.sender().set_metadata("traceparent", "00-\"'\\雪");
    unit.publish(line("book", 1, 995))?;
    unit.execute(&OrderCommand::SendMail { text: "thanks".to_owned() })?;
    let recorded = unit.recorded().to_vec();
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    tx.commit().await?;

    let records = db.outbox().await?;
    let envelopes: Vec<_> = records.iter().map(|record| without_time(&record.envelope)).collect();
    assert_eq!(envelopes, recorded);
    for record in &records {
        assert_eq!((&*record.aggregate_type, &*record.aggregate_id), ("order", "ü/%1"));
        assert!(record.envelope.recorded_at.is_some());
        assert_eq!(record.created_at(), record.envelope.created_at);
        assert_eq!(record.headers()["correlation-id"], inbound.correlation_id.to_string());
    }
    let kinds: Vec<_> = envelopes.iter().map(|message| (message.kind, message.destination.as_deref())).collect();
    let command = MessageKind::Command;
    assert_eq!(kinds, [(command, Some("billing")), (MessageKind::Event, None), (command, None)]);
    Ok(())
}

async fn records_of_any_transaction_come_back_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (long_type, long_id) = ("ü".repeat(127), "雪".repeat(170));
    let names = [
        ("account", "1"),
        ("account", "1 "),
        ("Account", "1"),
        ("a'b\"c\\d", "%/?:;--\n\t"),
        ("\u{1F600}", "شاپ"),
        (&long_type, &long_id),
    ];
    let mut saved = Vec::new();
    for (number, (kind, id)) in (0..).zip(names) {
        let mut message = command(number).caused_by(&Inbound::from(&event(0)));
        message.destination = Some("q'\\".into());
        message.type_version = u32::MAX;
        message.created_at = Timestamp::from_micros(-1_234_567_890_123);
        message.metadata.insert("k\"".to_owned(), "v\u{0}\u{1F600}".to_owned());
        saved.push(NewOutboxRecord::new(kind, id, message));
    }
    db.save_records(&saved).await?;
    let found = db.outbox().await?;
    assert_eq!(found.len(), saved.len());
    for record in &saved {
        let id = record.envelope.message_id;
        let same = found.iter().find(|found| found.envelope.message_id == id).unwrap();
        assert_eq!((&same.aggregate_type, &same.aggregate_id), (&record.aggregate_type, &record.aggregate_id));
        assert_eq!(without_time(&same.envelope), record.envelope);
        assert_eq!((same.payload(), same.event_type()), (&*record.envelope.payload, "DoIt"));
    }
    Ok(())
}

async fn records_of_one_aggregate_keep_the_order_in_which_they_were_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    let record = |number: u32| NewOutboxRecord::new("account", (number % 3).to_string(), event(number));
    db.save_records(&(0..50).map(record).collect::<Vec<_>>()).await?;
    for number in 50..60 {
        db.save_records(&[record(number)]).await?;
    }
    let mut tx = db.begin().await?;
    for number in 60..70 {
        db.store().save(&mut tx, &[record(number)]).await?;
    }
    tx.commit().await?;
    let found = db.outbox().await?;
    for aggregate in 0..3 {
        let of_it: Vec<_> =
            found.iter().filter(|record| record.aggregate_id == aggregate.to_string()).cloned().collect();
        assert_eq!(numbers(&of_it), (aggregate..70).step_by(3).collect::<Vec<_>>());
    }
    Ok(())
}

async fn a_record_is_not_given_out_before_it_is_due<DB: Subject>(db: TestDb<DB>) -> Clause {
    let hour = 3_600_000_000;
    let due_in = |micros: i64| Some(Timestamp::from_micros(Timestamp::now().as_micros() + micros));
    let record = |number, due_at| NewOutboxRecord { due_at, ..NewOutboxRecord::new("account", "1", event(number)) };
    db.save_records(&[
        record(1, due_in(hour)),
        record(2, None),
        record(3, due_in(-hour)),
        record(4, Some(Timestamp::from_micros(i64::MAX))),
        record(5, Some(Timestamp::from_micros(i64::MIN))),
    ])
    .await?;
    assert_eq!(numbers(&db.outbox().await?), [2, 3, 5]);
    assert_eq!(db.store().stats(&mut *db.conn().await?).await?.pending, 5);
    // The hour goes by: it is given out at the place where it was saved.
    let passed = format!(
        "UPDATE saga_outbox_message SET available_at = available_at - {hour} WHERE available_at BETWEEN {hour} AND {}",
        i64::MAX - 1
    );
    assert_eq!(db.sql(passed).await?, 2);
    assert_eq!(numbers(&db.outbox().await?), [1, 2, 3, 5]);
    Ok(())
}

async fn what_is_rolled_back_was_never_in_the_outbox<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, message) = (db.persister(), MessageId::new());
    let mut tx = db.begin().await?;
    let begun = persister.begin_handling(&Order, &mut tx, Outbox, &instance("1"), message).await?;
    let Begun::Unit(mut unit) = begun else { panic!("it is new") };
    unit.publish(note("a"))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.store().save(&mut tx, &[NewOutboxRecord::new("account", "1", event(1))]).await?;
    assert_eq!(db.store().find_batch(&mut tx, None, 10).await?.len(), 2);
    tx.rollback().await?;

    assert_eq!(db.outbox().await?, []);
    assert_eq!(db.store().stats(&mut *db.conn().await?).await?, sagastore::OutboxStats::default());
    let mut tx = db.begin().await?;
    let begun = persister.begin_handling(&Order, &mut tx, Outbox, &instance("1"), message).await?;
    assert!(matches!(begun, Begun::Unit(_)), "it was not handled");
    Ok(tx.rollback().await?)
}

async fn the_outbox_holds_what_was_committed_and_nothing_else<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, mut sent) = (db.persister(), Vec::new());
    for (events, commands, committed) in
        [(0, 0, true), (1, 0, false), (1, 0, true), (7, 2, true), (7, 2, false), (0, 3, false), (0, 3, true)]
    {
        let mut tx = db.begin().await?;
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
        for number in 0..events {
            unit.publish(note(number.to_string()))?;
        }
        for amount_cents in 0..commands {
            unit.execute(&OrderCommand::TakePayment { amount_cents })?;
        }
        let recorded: Vec<_> = unit.recorded().iter().map(|message| message.message_id).collect();
        assert_eq!(persister.save(&mut tx, unit).await?.is_changed(), events + commands > 0);
        if committed {
            tx.commit().await?;
            sent.extend(recorded);
        } else {
            tx.rollback().await?;
        }
        let found: Vec<_> = db.outbox().await?.iter().map(|record| record.envelope.message_id).collect();
        assert_eq!(found, sent);
    }
    assert_eq!(sent.len(), 13);
    Ok(())
}

async fn several_units_of_work_in_one_transaction_keep_their_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, mut tx) = (db.persister(), db.begin().await?);
    let mut sent = Vec::new();
    for number in 0..3 {
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
        unit.publish(note(number.to_string()))?;
        unit.execute(&OrderCommand::TakePayment { amount_cents: number })?;
        sent.extend(unit.recorded().iter().map(|message| message.message_id));
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        let mut other = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
        other.publish(added(number))?;
        assert!(persister.save(&mut tx, other).await?.is_changed());
    }
    tx.commit().await?;
    let records = db.outbox().await?;
    assert_eq!(records.len(), 9);
    let of_order = records.iter().filter(|record| record.aggregate_type == "order");
    assert_eq!(of_order.map(|record| record.envelope.message_id).collect::<Vec<_>>(), sent);
    Ok(())
}

async fn every_byte_of_a_payload_is_kept_in_both_lanes<DB: Subject>(db: TestDb<DB>) -> Clause {
    let random: Vec<u8> = (0..1024 * 1024).map(|_| fastrand::u8(..)).collect();
    let payloads = [Vec::new(), (0..=255).collect(), vec![0xc3, 0x28, 0xff, 0xfe], vec![0; 1000], random];
    let records: Vec<_> = payloads
        .iter()
        .map(|payload| NewOutboxRecord::new("blob", "1", event_of("application/octet-stream", payload.clone())))
        .collect();
    db.save_records(&records).await?;
    let found: Vec<_> = db.outbox().await?.iter().map(|record| record.payload().to_vec()).collect();
    assert!(found == payloads, "payloads of the slow lane differ");

    let persister = db.persister().with_codecs(Codecs::new(Arc::new(Bincode), Arc::new(Bincode)));
    let numbers = (0..10_000).map(|_| fastrand::i64(..)).chain([0, 1, -1, i64::MIN, i64::MAX]);
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(note("\u{0}\u{7f}ÿ雪"))?;
    for number in numbers.take(5000) {
        unit.execute(&OrderCommand::TakePayment { amount_cents: number })?;
    }
    let recorded: Vec<_> = unit.recorded().iter().map(|message| message.payload.clone()).collect();
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    tx.commit().await?;
    let found = db.outbox().await?;
    let found: Vec<_> = found.iter().skip(payloads.len()).map(|record| record.envelope.payload.clone()).collect();
    assert!(found == recorded, "payloads of the fast lane differ");
    Ok(())
}

async fn a_record_that_cannot_be_stored_is_refused_before_any_sql<DB: Subject>(db: TestDb<DB>) -> Clause {
    let good = || NewOutboxRecord::new("account", "1", event(1));
    let large = event_of("text/plain", vec![b'x'; sagastore::MAX_MESSAGE_BYTES + 1]);
    let mut nowhere = command(1);
    nowhere.destination = Some("".into());
    let mut tx = db.begin().await?;
    for record in [
        NewOutboxRecord::new("", "1", event(1)),
        NewOutboxRecord::new("account", "", event(1)),
        NewOutboxRecord::new("account", "a\0b", event(1)),
        NewOutboxRecord::new("x".repeat(256), "1", event(1)),
        NewOutboxRecord::new("account", "x".repeat(513), event(1)),
        NewOutboxRecord::new("account", "1", nowhere),
    ] {
        let saved = db.store().save(&mut tx, &[good(), record]).await;
        assert_error!(saved, Error::InvalidInput { .. });
    }
    let saved = db.store().save(&mut tx, &[good(), NewOutboxRecord::new("account", "1", large)]).await;
    assert_error!(saved, Error::TooLarge { size, .. } => assert_eq!(size, 4 * 1024 * 1024 + 1));
    db.store().save(&mut tx, &[]).await?;
    tx.commit().await?;
    assert_eq!(db.outbox().await?, []);
    Ok(())
}

async fn an_outbox_that_cannot_be_written_fails_the_whole_unit_of_work<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_outbox_repository(Arc::new(db.store()));
    db.sql("CREATE UNIQUE INDEX one_record_only ON saga_outbox_message (stream_id)").await?;
    let mut tx = db.begin().await?;
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(note("a"))?;
    unit.publish(note("b"))?;
    assert_error!(persister.save(&mut tx, unit).await, Error::Storage { source, .. } => {
        assert!(source.downcast_ref::<sqlx::Error>().unwrap().as_database_error().unwrap().is_unique_violation());
    });
    // Not even by a caller who commits all the same.
    tx.commit().await?;
    assert_eq!(db.events(&StreamName::of_saga("order", &instance("1"))?).await?, None);
    assert_eq!(db.outbox().await?, []);

    let publish_two = |unit: &mut UnitOfWork<'_, Order>| {
        unit.publish(note("a"))?;
        unit.publish(note("b"))
    };
    let executed = persister.execute(db.pool(), &Order, &instance("1"), None, publish_two).await;
    assert_error!(executed, Error::Storage { .. });
    db.sql("ALTER TABLE saga_outbox_message RENAME TO put_away").await?;
    let executed = persister.execute(db.pool(), &Order, &instance("1"), None, publish_two).await;
    assert_error!(executed, Error::SchemaMissing { .. });
    assert_error!(db.save_records(&[NewOutboxRecord::new("a", "1", event(1))]).await, Error::SchemaMissing { .. });
    db.sql("ALTER TABLE put_away RENAME TO saga_outbox_message").await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_commit").await?, 0);
    assert_eq!(db.outbox().await?, []);
    Ok(())
}

async fn a_mark_that_cannot_be_written_fails_the_unit_of_work<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.sql("ALTER TABLE saga_outbox RENAME TO put_away").await?;
    let published = db.publish_by(&db.persister(), &Order, "1", [note("a")]).await;
    assert_error!(published, Error::SchemaMissing { .. });
    db.sql("ALTER TABLE put_away RENAME TO saga_outbox").await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_commit").await?, 0);
    Ok(())
}
