//! Timeouts are stored with the unit of work that schedules them, or not at all.

use std::time::Duration;

use anyhow::ensure;
use sagastore::{
    ConflictRetry, Due, Error, Inbound, Limits, MAX_TIMEOUT_CHANGES, MAX_TIMEOUT_NAME_BYTES, MessageId, MessageKind,
    MessageStore, OutboxRepository, Result, Saved, TIMEOUT_INSTANCE, TIMEOUT_NAME, TIMEOUT_SAGA, Timestamp, UnitOfWork,
};

use crate::harness::sample::{Counter, Order, OrderEvent, added, instance, line};
use crate::harness::{Clause, HOUR, Subject, TestDb, assert_error, clauses, cut_after, scaled, stream_of};

clauses! {
    a_unit_of_work_that_only_schedules_is_saved: BASIC,
    what_is_scheduled_is_listed_as_it_will_be_delivered,
    every_way_of_saving_stores_it,
    what_is_rolled_back_schedules_nothing,
    a_lost_race_leaves_no_timeout,
    a_message_that_was_handled_before_schedules_nothing,
    calls_that_are_dropped_at_any_step_leave_unit_and_timeout_or_neither: SEVERAL_CONNECTIONS,
    the_time_counts_from_the_databases_clock_at_saving: BASIC,
    names_are_compared_byte_for_byte: BASIC,
    instances_and_sagas_have_names_of_their_own,
    listing_goes_on_after_a_name,
    what_cannot_be_stored_is_refused,
    they_are_counted,
}

async fn a_unit_of_work_that_only_schedules_is_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.schedule("a", "t", 1, HOUR).await?;
    let commits = "SELECT COUNT(*) FROM saga_commit";
    assert_eq!(db.count(commits).await?, 1);
    assert_eq!(db.state(&Counter, "a").await?, Some((0, 0)), "it has no event");
    db.schedule("a", "u", 1, HOUR).await?;
    assert_eq!(db.timeout_names("a").await?, ["t", "u"]);
    ensure!(db.outbox().await?.is_empty(), "what is not due is not in the outbox");

    let mut unit = db.unit(&Counter, "a").await?;
    unit.cancel_timeout("t")?;
    assert!(db.save(unit).await?.is_changed());
    assert_eq!((db.count(commits).await?, db.timeout_names("a").await?), (3, vec!["u".to_owned()]));
    assert!(!db.save(db.unit(&Counter, "a").await?).await?.is_changed());
    Ok(())
}

async fn what_is_scheduled_is_listed_as_it_will_be_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (cause, root) = (MessageId::new(), MessageId::new());
    let mut unit = db.unit(&Counter, "a/ü'\"").await?;
    unit.handling(Inbound { message_id: cause, correlation_id: root })?;
    unit.sender().set_metadata("tenant", "7");
    unit.publish(added(1))?;
    let id = unit.schedule("remind", &added(5), HOUR)?;
    assert!(db.save(unit).await?.is_changed());
    let listed = db.timeouts("a/ü'\"").await?;
    let [timeout] = listed.as_slice() else { panic!("not one: {listed:?}") };
    let message = &timeout.message;
    assert_eq!((timeout.name.as_str(), timeout.in_outbox), ("remind", false));
    assert_eq!((message.message_id, message.causation_id, message.correlation_id), (id, cause, root));
    assert_eq!((message.kind, &*message.type_name, message.type_version), (MessageKind::Command, "CounterAdded", 1));
    let metadata: Vec<_> = message.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let expected = [(TIMEOUT_INSTANCE, "a/ü'\""), (TIMEOUT_NAME, "remind"), (TIMEOUT_SAGA, "counter"), ("tenant", "7")];
    assert_eq!(metadata, expected);
    Ok(())
}

/// Schedules under the name that the instance has.
fn decide(unit: &mut UnitOfWork<'_, Counter>) -> Result<()> {
    unit.publish(added(1))?;
    let name = unit.instance().instance_id.to_string();
    unit.schedule(&name, &added(5), HOUR).map(drop)
}

async fn every_way_of_saving_stores_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Counter, "save").await?;
    decide(&mut unit)?;
    assert!(db.save(unit).await?.is_changed());
    let persister = db.persister();
    let id = instance("execute");
    for _ in 0..2 {
        let _ = persister.execute(db.pool(), &Counter, &id, None, decide).await?;
    }
    let id = instance("in transaction");
    let done = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
        decide(&mut attempt.unit)?;
        Ok::<_, Error>(attempt.finish(()))
    });
    let _ = done.await?;
    for id in ["save", "execute", "in transaction"] {
        assert_eq!(db.timeout_names(id).await?, [id]);
    }
    Ok(())
}

async fn what_is_rolled_back_schedules_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut tx = db.begin().await?;
    let persister = db.persister();
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &instance("a")).await?;
    decide(&mut unit)?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    let inside = db.store().pending_timeouts(&mut tx, &stream_of(&Counter, "a"), None, 10).await?;
    assert_eq!(inside.len(), 1, "the transaction sees what it wrote");
    db.roll_back(tx).await?;
    let id = instance("a");
    let failing = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        decide(unit)?;
        Err::<(), _>(Error::InvalidInput { what: "test", detail: "no".into() })
    });
    assert_error!(failing.await, Error::InvalidInput { .. });
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_timeout").await?, 0);
    Ok(())
}

async fn a_lost_race_leaves_no_timeout<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.schedule("a", "kept", 1, HOUR).await?;
    let (mut winner, mut loser) = (db.unit(&Counter, "a").await?, db.unit(&Counter, "a").await?);
    winner.schedule("winner", &added(1), HOUR)?;
    loser.schedule("loser", &added(1), HOUR)?;
    loser.cancel_timeout("kept")?;
    assert!(db.save(winner).await?.is_changed());
    let mut tx = db.begin().await?;
    assert_error!(db.persister().save(&mut tx, loser).await, Error::Conflict { .. });
    db.commit(tx).await?;
    assert_eq!(db.timeout_names("a").await?, ["kept", "winner"]);
    Ok(())
}

async fn a_message_that_was_handled_before_schedules_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    let (mut first, mut second) = (db.unit(&Counter, "a").await?, db.unit(&Counter, "a").await?);
    for (unit, name) in [(&mut first, "first"), (&mut second, "second")] {
        unit.handling(message)?;
        unit.schedule(name, &added(1), HOUR)?;
    }
    assert!(db.save(first).await?.is_changed());
    assert!(matches!(db.save(second).await?, Saved::AlreadyHandled(_)));
    assert_eq!(db.timeout_names("a").await?, ["first"]);
    Ok(())
}

async fn calls_that_are_dropped_at_any_step_leave_unit_and_timeout_or_neither<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_conflict_retry(ConflictRetry::NEVER);
    let (mut cuts, mut time) = (0, 0);
    // Whoever was cut off must connect again, which takes a while where a password is hashed.
    while time < scaled(1, 200) || cuts <= 10 {
        time += 1;
        let id = instance(&format!("instance {}", time / 3));
        let mut step = 0;
        loop {
            step += fastrand::u32(1..=3);
            let call = persister.execute(db.pool(), &Counter, &id, None, |unit| {
                unit.publish(added(1))?;
                let name = format!("{:04}", unit.instance().revision.get());
                unit.schedule(&name, &added(1), HOUR).map(drop)
            });
            match cut_after(step, call).await {
                None => cuts += 1,
                Some(Ok(_)) => break,
                // What was dropped just before may go on in the database for a while.
                Some(Err(Error::Conflict { .. } | Error::Contention { .. })) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
    let lone = "SELECT COUNT(*) FROM saga_commit AS c
        WHERE NOT EXISTS (
            SELECT 1 FROM saga_timeout AS t WHERE t.stream_id = c.stream_id AND t.commit_no = c.commit_no
        )";
    assert_eq!(db.count(lone).await?, 0, "units of work without their timeouts");
    assert_eq!(
        db.count("SELECT COUNT(*) FROM saga_timeout").await?,
        db.count("SELECT COUNT(*) FROM saga_commit").await?
    );
    Ok(())
}

async fn the_time_counts_from_the_databases_clock_at_saving<DB: Subject>(db: TestDb<DB>) -> Clause {
    let at = Timestamp::from_micros(4_102_444_800_123_456);
    let mut unit = db.unit(&Counter, "a").await?;
    for (name, due) in [
        ("after", Due::After(Duration::from_micros(86_400_000_007))),
        ("at", Due::At(at)),
        ("first", Due::At(Timestamp::from_micros(i64::MIN))),
        ("last", Due::At(Timestamp::from_micros(i64::MAX))),
        ("never", Due::After(Duration::MAX)),
        ("now", Due::After(Duration::ZERO)),
    ] {
        unit.schedule(name, &added(1), due)?;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(db.save(unit).await?.is_changed());
    let rows = db.rows("SELECT name, due_at, due_at - scheduled_at FROM saga_timeout WHERE name IN ('after', 'now')");
    for (row, after) in rows.await?.into_iter().zip([86_400_000_007_i64, 0]) {
        let late = row[2].as_deref().unwrap_or_default().parse::<i64>()? - after;
        // The clock of SQLite ticks in milliseconds; and the two rows are not written at one time.
        ensure!((0..5_000_000).contains(&late), "{row:?} is off by {late} µs");
    }
    let due: Vec<_> = db.timeouts("a").await?.iter().map(|timeout| timeout.due_at.as_micros()).collect();
    assert_eq!((due[1], due[2], due[3], due[4]), (at.as_micros(), i64::MIN, i64::MAX, i64::MAX));
    assert_eq!(db.release().await?, 2, "what is past is due at once");
    db.will_relay();
    assert_eq!(db.outbox().await?.len(), 2);
    Ok(())
}

/// Names that differ by little.
fn names() -> Vec<String> {
    let longest = "ü".repeat(MAX_TIMEOUT_NAME_BYTES / 2);
    let names = [
        "t", "T", "tt", "t ", " t", "t\t", "t\n", "tü", "tu", "tÜ", "'\"\\", "\\u0041", "A", "[1]", "%", "🙂", "\u{1}",
    ];
    names.into_iter().map(str::to_owned).chain([longest]).collect()
}

async fn names_are_compared_byte_for_byte<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let mut expected = names();
    expected.sort();
    for in_outbox in [false, true] {
        let mut unit = db.unit(&Counter, "a").await?;
        for name in names() {
            unit.schedule(&name, &added(1), HOUR)?;
        }
        assert!(db.save(unit).await?.is_changed());
        assert_eq!(db.timeout_names("a").await?, expected);
        if in_outbox {
            db.let_an_hour_pass().await?;
            assert_eq!(db.release().await?, u64::try_from(expected.len())?);
        }
        let listed = db.timeouts("a").await?;
        ensure!(listed.iter().all(|it| it.in_outbox == in_outbox && it.message.metadata[TIMEOUT_NAME] == it.name));
        let mut left = expected.clone();
        for name in names() {
            let mut unit = db.unit(&Counter, "a").await?;
            unit.cancel_timeout(&name)?;
            assert!(db.save(unit).await?.is_changed());
            left.retain(|other| *other != name);
            assert_eq!(db.timeout_names("a").await?, left, "after {name:?} was cancelled");
        }
    }
    Ok(())
}

async fn instances_and_sagas_have_names_of_their_own<DB: Subject>(db: TestDb<DB>) -> Clause {
    for id in ["a", "b"] {
        db.schedule(id, "t", 1, HOUR).await?;
    }
    let mut unit = db.unit(&Order, "a").await?;
    unit.publish(line("book", 1, 100))?;
    unit.schedule("t", &OrderEvent::Shipped, HOUR)?;
    assert!(db.save(unit).await?.is_changed());
    let mut unit = db.unit(&Counter, "a").await?;
    unit.cancel_timeouts();
    assert!(db.save(unit).await?.is_changed());
    assert_eq!(db.timeout_names("a").await?.len(), 0);
    assert_eq!(db.timeout_names("b").await?, ["t"]);
    let mut conn = db.conn().await?;
    assert_eq!(db.store().pending_timeouts(&mut conn, &stream_of(&Order, "a"), None, 10).await?.len(), 1);
    Ok(())
}

async fn listing_goes_on_after_a_name<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for number in 0..5 {
        db.schedule("a", &format!("{number}"), number, HOUR).await?;
    }
    db.sql("UPDATE saga_timeout SET due_at = 0 WHERE commit_no = 3").await?;
    assert_eq!(db.release().await?, 1);
    let (mut conn, mut after, mut pages) = (db.conn().await?, None::<String>, Vec::new());
    loop {
        let name = stream_of(&Counter, "a");
        let page = db.store().pending_timeouts(&mut conn, &name, after.as_deref(), 2).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        pages.push(page.into_iter().map(|it| (it.name, it.in_outbox)).collect::<Vec<_>>());
    }
    let entry = |number: u32, in_outbox| (number.to_string(), in_outbox);
    let expected =
        [vec![entry(0, false), entry(1, false)], vec![entry(2, true), entry(3, false)], vec![entry(4, false)]];
    assert_eq!(pages, expected);
    Ok(())
}

async fn what_cannot_be_stored_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Counter, "a").await?;
    for name in [String::new(), "a\0b".to_owned(), "x".repeat(MAX_TIMEOUT_NAME_BYTES + 1)] {
        assert_error!(unit.schedule(&name, &added(1), HOUR), Error::InvalidInput { .. });
        assert_error!(unit.cancel_timeout(&name), Error::InvalidInput { .. });
    }
    assert_eq!(unit.timeout_changes().len(), 0);
    for number in 0..MAX_TIMEOUT_CHANGES {
        unit.schedule(&number.to_string(), &added(1), HOUR)?;
    }
    assert_error!(unit.schedule("more", &added(1), HOUR), Error::TooLarge { .. });
    assert_error!(unit.cancel_timeout("more"), Error::TooLarge { .. });
    assert!(db.save(unit).await?.is_changed());
    assert_eq!(db.timeouts("a").await?.len(), MAX_TIMEOUT_CHANGES);

    let limits = Limits { unit_bytes: 1_000, ..Limits::default() };
    let (persister, mut tx) = (db.persister().with_limits(limits), db.begin().await?);
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &instance("b")).await?;
    for number in 0..20 {
        unit.schedule(&number.to_string(), &added(1), HOUR)?;
    }
    assert_error!(persister.save(&mut tx, unit).await, Error::TooLarge { .. });
    db.commit(tx).await?;
    assert_eq!(db.timeouts("b").await?.len(), 0);
    Ok(())
}

async fn they_are_counted<DB: Subject>(db: TestDb<DB>) -> Clause {
    let stats = async || anyhow::Ok(db.store().timeout_stats(&mut *db.conn().await?).await?);
    assert_eq!(stats().await?, sagastore::TimeoutStats::default());
    for number in 0..5 {
        db.schedule("a", &number.to_string(), number, HOUR).await?;
    }
    let waiting = stats().await?;
    assert_eq!((waiting.pending, waiting.overdue, waiting.overdue_for), (5, 0, None));
    assert_eq!(waiting.first_due, db.timeouts("a").await?.iter().map(|timeout| timeout.due_at).min());
    db.sql("UPDATE saga_timeout SET due_at = due_at - 3660000000 WHERE commit_no <= 2").await?;
    let late = stats().await?;
    assert_eq!((late.pending, late.overdue), (5, 2));
    ensure!(late.overdue_for.is_some_and(|age| (59..120).contains(&age.as_secs())), "{late:?}");
    assert_eq!(db.release().await?, 2);
    db.will_relay();
    assert_eq!(stats().await?.pending, 3, "the others are counted in the outbox");
    assert_eq!(db.store().stats(&mut *db.conn().await?).await?.pending, 2);
    Ok(())
}
