//! Streams: appending, and what a conflict is.

use std::sync::Arc;

use sagastore::{
    Envelope, Error, Inbound, MessageId, MessageKind, MessageStore, Offset, OutboxRepository, StreamName, Timestamp,
};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::sample::{Order, OrderEvent, command, event, event_of, events, instance, line, stream};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, scaled};

clauses! {
    a_new_stream_gives_back_what_was_appended: BASIC,
    several_events_of_one_call_get_their_offsets_in_call_order: BASIC,
    an_append_at_another_offset_than_the_end_is_a_conflict: BASIC,
    a_conflict_leaves_the_transaction_usable: BASIC,
    an_append_of_nothing_changes_nothing,
    appended_commands_take_no_offset,
    appended_messages_are_not_put_into_the_outbox,
    a_message_id_may_stand_once_in_an_append_and_again_in_another,
    the_last_event_and_the_next_offset_are_told,
    causes_are_kept_along_a_chain_of_messages,
    of_many_appends_at_one_offset_exactly_one_wins: SEVERAL_CONNECTIONS,
    of_many_first_appends_exactly_one_starts_the_stream: SEVERAL_CONNECTIONS,
    appends_to_different_streams_do_not_disturb_each_other: SEVERAL_CONNECTIONS,
    an_append_that_is_rolled_back_leaves_no_trace,
    a_transaction_sees_its_own_appends_and_nobody_else_does: SEVERAL_CONNECTIONS,
    a_plain_append_and_a_unit_of_work_share_one_stream,
    two_spellings_of_one_instance_are_two_streams,
}

async fn a_new_stream_gives_back_what_was_appended<DB: Subject>(db: TestDb<DB>) -> Clause {
    let before = Timestamp::now();
    let mut message = event_of("text/x-odd", b"payload".as_slice())
        .caused_by(&Inbound { message_id: MessageId::new(), correlation_id: MessageId::new() });
    message.type_version = 7;
    message.destination = Some("there".into());
    message.created_at = Timestamp::from_micros(-62_135_596_800_000_001);
    message.metadata.insert("tenant".into(), "ä\u{1F600}".into());
    let name = stream("a");
    assert_eq!(db.events(&name).await?, None);
    assert_eq!(db.append(&name, 0, std::slice::from_ref(&message)).await?, Offset::of(1));

    let found = db.events(&name).await?.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].stream, found[0].offset), (&name, Offset::ZERO));
    let recorded_at = found[0].envelope.recorded_at.unwrap();
    let minutes = (recorded_at.as_micros() - before.as_micros()).abs() / 60_000_000;
    assert!(minutes < 5, "recorded at {recorded_at}, appended at {before}");
    message.recorded_at = Some(recorded_at);
    assert_eq!(found[0].envelope, message);
    assert_eq!(db.store().next_offset(&mut *db.conn().await?, &name).await?, Some(Offset::of(1)));
    Ok(())
}

async fn several_events_of_one_call_get_their_offsets_in_call_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, messages) = (stream("a"), events(7));
    assert_eq!(db.append(&name, 0, &messages[..5]).await?, Offset::of(5));
    assert_eq!(db.append(&name, 5, &messages[5..]).await?, Offset::of(7));
    let found = db.events(&name).await?.unwrap();
    let offsets: Vec<u64> = found.iter().map(|event| event.offset.get()).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(ids(&found), messages.iter().map(|message| message.message_id).collect::<Vec<_>>());
    assert!(found[4].envelope.recorded_at < found[5].envelope.recorded_at, "time rises from commit to commit");
    Ok(())
}

fn ids(events: &[sagastore::RecordedEvent]) -> Vec<MessageId> {
    events.iter().map(|event| event.envelope.message_id).collect()
}

async fn an_append_at_another_offset_than_the_end_is_a_conflict<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (there, missing) = (stream("there"), stream("missing"));
    let messages = events(3);
    db.append(&there, 0, &messages).await?;
    for (name, wrong, end) in
        [(&there, 0, 3), (&there, 2, 3), (&there, 4, 3), (&there, 100, 3), (&missing, 1, 0), (&missing, u32::MAX, 0)]
    {
        let refused = db.append(name, wrong, &events(1)).await;
        assert!(refused.as_ref().is_err_and(Error::is_conflict));
        assert_error!(refused, Error::Conflict { stream, expected, actual } => {
            assert_eq!((&stream, expected, actual), (name, Offset::of(wrong), Offset::of(end)));
        });
    }
    assert_eq!(ids(&db.events(&there).await?.unwrap()), messages.iter().map(|m| m.message_id).collect::<Vec<_>>());
    assert_eq!(db.events(&missing).await?, None);
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_commit").await?, 1);
    assert_eq!(db.outbox().await?, []);
    Ok(())
}

async fn a_conflict_leaves_the_transaction_usable<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name, other) = (db.store(), stream("a"), stream("b"));
    db.append(&name, 0, &events(2)).await?;
    let mut tx = db.begin().await?;
    store.append_messages(&mut tx, &other, Offset::ZERO, &events(1)).await?;
    for wrong in [0, 5] {
        let refused = store.append_messages(&mut tx, &name, Offset::of(wrong), &events(1)).await;
        assert_error!(refused, Error::Conflict { .. });
    }
    assert_eq!(store.append_messages(&mut tx, &name, Offset::of(2), &events(1)).await?, Offset::of(3));
    tx.commit().await?;
    assert_eq!(db.events(&name).await?.unwrap().len(), 3);
    assert_eq!(db.events(&other).await?.unwrap().len(), 1);
    Ok(())
}

async fn an_append_of_nothing_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (there, missing) = (stream("there"), stream("missing"));
    db.append(&there, 0, &events(3)).await?;
    let rows = "SELECT (SELECT COUNT(*) FROM saga_stream) * 1000 + (SELECT COUNT(*) FROM saga_commit)";
    let before = db.count(rows).await?;
    assert_eq!(db.append(&there, 3, &[]).await?, Offset::of(3));
    assert_eq!(db.append(&missing, 0, &[]).await?, Offset::ZERO);
    assert_error!(db.append(&there, 2, &[]).await, Error::Conflict { actual, .. } => assert_eq!(actual, Offset::of(3)));
    assert_error!(db.append(&missing, 1, &[]).await, Error::Conflict { actual, .. } => assert_eq!(actual, Offset::ZERO));
    assert_eq!(db.count(rows).await?, before);
    assert_eq!(db.events(&missing).await?, None);
    assert_eq!(db.append(&there, 3, &events(1)).await?, Offset::of(4));
    Ok(())
}

async fn appended_commands_take_no_offset<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (mixed, commands) = (stream("mixed"), stream("commands"));
    let messages = [command(0), event(1), command(2), command(3), event(4)];
    assert_eq!(db.append(&mixed, 0, &messages).await?, Offset::of(2));
    assert_eq!(db.append(&mixed, 2, &[command(5)]).await?, Offset::of(2));
    assert_eq!(db.append(&mixed, 2, &[event(6)]).await?, Offset::of(3));
    let found = db.events(&mixed).await?.unwrap();
    assert_eq!(ids(&found)[..2], [messages[1].message_id, messages[4].message_id]);
    assert!(found.iter().all(|event| event.envelope.kind == MessageKind::Event) && found.len() == 3);

    // A stream of commands alone is there, and empty.
    assert_eq!(db.append(&commands, 0, &[command(7)]).await?, Offset::ZERO);
    assert_eq!(db.events(&commands).await?.map(|events| events.len()), Some(0));
    assert_eq!(db.store().next_offset(&mut *db.conn().await?, &commands).await?, Some(Offset::ZERO));
    Ok(())
}

async fn appended_messages_are_not_put_into_the_outbox<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.append(&stream("a"), 0, &[event(0), command(1)]).await?;
    assert_eq!(db.outbox().await?, []);
    assert_eq!(db.store().stats(&mut *db.conn().await?).await?.pending, 0);
    Ok(())
}

async fn a_message_id_may_stand_once_in_an_append_and_again_in_another<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, twice) = (stream("a"), event(1));
    let refused = db.append(&name, 0, &[event(0), twice.clone(), twice.clone()]).await;
    assert_error!(refused, Error::DuplicateMessage { message_id, stream } => {
        assert_eq!((message_id, stream), (twice.message_id, name.clone()));
    });
    assert_eq!(db.events(&name).await?, None);
    // Across appends ids are the caller's.
    db.append(&name, 0, std::slice::from_ref(&twice)).await?;
    db.append(&name, 1, std::slice::from_ref(&twice)).await?;
    assert_eq!(ids(&db.events(&name).await?.unwrap()), [twice.message_id; 2]);
    Ok(())
}

async fn the_last_event_and_the_next_offset_are_told<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, messages) = (db.store(), events(5));
    db.append(&stream("none"), 0, &[command(0)]).await?;
    db.append(&stream("one"), 0, &messages[..1]).await?;
    db.append(&stream("three"), 0, &messages[1..3]).await?;
    db.append(&stream("three"), 2, &messages[3..4]).await?;
    db.append(&stream("three"), 3, &[command(1)]).await?;
    let mut conn = db.conn().await?;
    for (name, next, last) in
        [("missing", None, None), ("none", Some(0), None), ("one", Some(1), Some(0)), ("three", Some(3), Some(3))]
    {
        let name = stream(name);
        assert_eq!(store.next_offset(&mut conn, &name).await?, next.map(Offset::of), "{name}");
        let found = store.last_event(&mut conn, &name).await?;
        let last: Option<usize> = last;
        assert_eq!(found.as_ref().map(|event| event.offset), last.and(next).map(|next: u32| Offset::of(next - 1)));
        let expected = last.map(|at| messages[at].message_id);
        assert_eq!(found.map(|event| event.envelope.message_id), expected, "{name}");
    }
    Ok(())
}

async fn causes_are_kept_along_a_chain_of_messages<DB: Subject>(db: TestDb<DB>) -> Clause {
    let root = event(0);
    let child = event(1).caused_by(&Inbound::from(&root));
    let grandchild = event(2).caused_by(&Inbound::from(&child));
    let stranger = event(3);
    let causes = |message: &Envelope| (message.message_id, message.causation_id, message.correlation_id);
    // Together, where their causes differ, and apart, where all of an append share one.
    let appends = [
        vec![root.clone(), child.clone(), grandchild.clone(), stranger.clone()],
        vec![root],
        vec![child],
        vec![event(4).caused_by(&Inbound::from(&grandchild)), event(5).caused_by(&Inbound::from(&grandchild))],
        vec![grandchild],
        vec![stranger],
    ];
    let (name, mut offset) = (stream("a"), 0);
    for messages in &appends {
        db.append(&name, offset, messages).await?;
        offset += u32::try_from(messages.len())?;
    }
    let found: Vec<_> = db.events(&name).await?.unwrap().iter().map(|event| causes(&event.envelope)).collect();
    assert_eq!(found, appends.iter().flatten().map(causes).collect::<Vec<_>>());
    Ok(())
}

/// Appends one event at `offset` from many tasks at once, and says how many of them won.
async fn race<DB: Subject>(db: &TestDb<DB>, name: &StreamName, offset: u32) -> anyhow::Result<u32> {
    const TASKS: usize = 16;
    let (start, mut tasks) = (Arc::new(Barrier::new(TASKS)), JoinSet::new());
    for number in 0..TASKS {
        let (db, name, start) = (db.clone(), name.clone(), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            db.append(&name, offset, &[event(u32::try_from(number).unwrap())]).await
        });
    }
    let mut winners = 0;
    while let Some(done) = tasks.join_next().await {
        match done? {
            Ok(end) => {
                assert_eq!(end, Offset::of(offset + 1));
                winners += 1;
            }
            lost => assert_error!(lost, Error::Conflict { expected, actual, .. } => {
                assert_eq!((expected, actual), (Offset::of(offset), Offset::of(offset + 1)));
            }),
        }
    }
    Ok(winners)
}

async fn of_many_appends_at_one_offset_exactly_one_wins<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = stream("a");
    db.append(&name, 0, &events(10)).await?;
    for round in 0..scaled(5, 50) {
        assert_eq!(race(&db, &name, 10 + round).await?, 1, "round {round}");
        assert_eq!(db.events(&name).await?.unwrap().len(), usize::try_from(11 + round)?);
    }
    Ok(())
}

async fn of_many_first_appends_exactly_one_starts_the_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..scaled(5, 50) {
        assert_eq!(race(&db, &stream(&format!("stream {round}")), 0).await?, 1, "round {round}");
    }
    Ok(())
}

async fn appends_to_different_streams_do_not_disturb_each_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (streams, appends) = (scaled(16, 64), scaled(10, 50));
    let mut tasks = JoinSet::new();
    for number in 0..streams {
        let db = db.clone();
        tasks.spawn(async move {
            let name = stream(&format!("stream {number}"));
            for offset in 0..appends {
                db.append(&name, offset, &[event(offset)]).await?;
            }
            Ok::<_, sagastore::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let whole = db
        .count(format!(
            "SELECT COUNT(*)
            FROM (
                SELECT stream_id
                FROM saga_commit
                GROUP BY stream_id
                HAVING COUNT(*) = {appends}
            ) AS whole"
        ))
        .await?;
    assert_eq!(whole, i64::from(streams));
    Ok(())
}

async fn an_append_that_is_rolled_back_leaves_no_trace<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name, fresh) = (db.store(), stream("a"), stream("fresh"));
    db.append(&name, 0, &events(3)).await?;
    for round in 0..2 {
        let mut tx = db.begin().await?;
        store.append_messages(&mut tx, &name, Offset::of(3), &events(2)).await?;
        store.append_messages(&mut tx, &fresh, Offset::ZERO, &events(2)).await?;
        match round {
            0 => tx.rollback().await?,
            _ => drop(tx),
        }
        assert_eq!(db.events(&fresh).await?, None);
        assert_eq!(db.events(&name).await?.unwrap().len(), 3);
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_commit").await?, 1);
    assert_eq!(db.append(&name, 3, &events(1)).await?, Offset::of(4));
    assert_eq!(db.append(&fresh, 0, &events(1)).await?, Offset::of(1));
    Ok(())
}

async fn a_transaction_sees_its_own_appends_and_nobody_else_does<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name) = (db.store(), stream("a"));
    let mut tx = db.begin().await?;
    store.append_messages(&mut tx, &name, Offset::ZERO, &events(2)).await?;
    let seen = store.read_page(&mut tx, &name, Offset::ZERO, 10).await?;
    assert_eq!(seen.map(|events| events.len()), Some(2));
    let mut own = store.open_stream(&mut tx, &name, Offset::of(1)).await?.unwrap();
    assert_eq!(own.try_next(&store, &mut tx).await?.map(|event| event.offset), Some(Offset::of(1)));
    assert_eq!(db.events(&name).await?, None);
    tx.commit().await?;
    assert_eq!(db.events(&name).await?.unwrap().len(), 2);
    Ok(())
}

async fn a_plain_append_and_a_unit_of_work_share_one_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    // What is appended plainly does not wait in the outbox.
    db.will_relay();
    let (persister, id) = (db.persister(), instance("1"));
    let name = StreamName::of_saga("order", &id)?;
    let done = persister.execute(db.pool(), &Order, &id, None, |unit| unit.publish(line("tea", 2, 150))).await?;
    assert!(matches!(done, sagastore::Executed::Done { .. }));

    let mut tx = db.begin().await?;
    let mut stale = persister.begin_unit_of_work(&Order, &mut tx, sagastore::Outbox, &id).await?;
    stale.publish(line("milk", 1, 90))?;
    let payload = serde_json::to_vec(&OrderEvent::NoteChanged { note: "appended".into() })?;
    let note = Envelope::new(MessageKind::Event, "OrderNoteChanged", 1, "application/json", payload)?;
    db.store().append_messages(&mut tx, &name, Offset::of(1), &[note]).await?;
    assert_error!(persister.save(&mut tx, stale).await, Error::Conflict { expected, actual, .. } => {
        assert_eq!((expected, actual), (Offset::of(1), Offset::of(2)));
    });
    tx.commit().await?;

    let mut conn = db.conn().await?;
    let unit = persister.load_instance(&Order, &mut conn, &id).await?.unwrap();
    assert_eq!((unit.instance().data.total_cents, &*unit.instance().data.note), (300, "appended"));
    assert_eq!(unit.instance().revision.get(), 2);
    Ok(())
}

async fn two_spellings_of_one_instance_are_two_streams<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister();
    for (id, quantity) in [("a", 1), ("A", 2), ("a ", 3), ("ä", 4), ("a\u{308}", 5), ("%61", 6), ("a/", 7), ("/a", 8)]
    {
        let done = persister
            .execute(db.pool(), &Order, &instance(id), None, |unit| unit.publish(line(id, quantity, 1)))
            .await?;
        assert!(matches!(done, sagastore::Executed::Done { .. }));
    }
    let mut conn = db.conn().await?;
    for (id, quantity) in [("a", 1), ("A", 2), ("a ", 3), ("ä", 4), ("a\u{308}", 5), ("%61", 6), ("a/", 7), ("/a", 8)]
    {
        let unit = persister.load_instance(&Order, &mut conn, &instance(id)).await?.unwrap();
        assert_eq!(unit.instance().data.lines, [(id.to_owned(), quantity)]);
    }
    Ok(())
}
