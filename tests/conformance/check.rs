//! Checking a database finds each damage as what it is, and nothing where there is none.

use anyhow::{Context, ensure};
use sagastore::check::{Finding, FindingKind, FindingPlace, check_data};
use sagastore::{
    CommitNumber, Error, MessageStore, NewOutboxRecord, Offset, Outbox, OutboxRepository, Revision, Snapshot,
    SnapshotFrequency, SnapshotRepository,
};

use crate::harness::sample::{
    Counter, Order, OrderCommand, OrderEvent, added, event, event_of, events, instance, line, stream,
};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    thousands_of_healthy_commits_give_no_finding,
    an_empty_database_gives_no_finding: BASIC,
    damaged_commits_are_found: FUSED,
    damaged_streams_are_found: FUSED,
    damaged_snapshots_are_found: FUSED,
    damaged_messages_in_the_outbox_are_found: FUSED,
    damaged_marks_are_found: FUSED,
    a_mark_without_its_commit_is_found: POSTGRES,
    a_message_that_was_handled_twice_is_found: FUSED,
    every_place_of_a_larger_database_is_reached,
    a_finding_quotes_no_content: FUSED,
    a_missing_schema_is_an_error,
}

async fn findings<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Vec<Finding>> {
    let mut found = Vec::new();
    let checked = check_data(db.pool(), &mut |finding| found.push(finding)).await?;
    assert_eq!(checked.findings, u64::try_from(found.len())?);
    Ok(found)
}

async fn assert_healthy<DB: Subject>(db: &TestDb<DB>) -> Clause {
    assert_eq!(findings(db).await?, []);
    Ok(())
}

/// The damage is found as this one kind, and as nothing else; mended, nothing is found.
async fn find<DB: Subject>(db: &TestDb<DB>, kind: FindingKind, damage: &str, mend: &str) -> anyhow::Result<Finding> {
    let changed = db.sql(damage).await?;
    ensure!(changed > 0, "{damage} changed nothing");
    let found = findings(db).await?;
    let kinds: Vec<_> = found.iter().map(|finding| finding.kind).collect();
    ensure!(kinds == [kind], "{damage}: {found:?}");
    db.sql(mend).await?;
    assert_healthy(db).await.with_context(|| mend.to_owned())?;
    Ok(found.into_iter().next().unwrap())
}

/// The key of a stream.
fn key<DB: Subject>(name: &str) -> String {
    format!("(SELECT stream_id FROM saga_stream WHERE stream_name = {})", DB::text(name))
}

/// A counter with snapshots, a completed order, a stream of no saga, and messages in both lanes of the outbox.
async fn fill<DB: Subject>(db: &TestDb<DB>) -> Clause {
    db.will_damage();
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(2));
    for amount in 0..4 {
        db.publish_by(&persister, &Counter, "a", [added(amount)]).await?;
    }
    db.publish(&Order, "done", [line("book", 1, 5)]).await?;
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("done")).await?;
    unit.publish(OrderEvent::Shipped)?;
    unit.execute(&OrderCommand::SendMail { text: "shipped".to_owned() })?;
    let _ = db.persister().save_and_complete(&mut tx, unit).await?;
    db.commit(tx).await?;
    for at in 0..3 {
        db.append(&stream("plain"), at * 2, &events(2)).await?;
    }
    db.save_records(&[NewOutboxRecord::new("account", "1", event(1))]).await?;
    // What is left of the last commit of the order moves to the slow lane.
    let ids: Vec<_> = db.outbox().await?.iter().filter(|r| r.event_type() == "OrderShipped").map(|r| r.id).collect();
    let mut tx = db.begin().await?;
    assert_eq!(db.store().delete_in_batches(&mut tx, 10, &ids).await?, 1);
    db.commit(tx).await?;
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_outbox_message").await?, 2);
    assert_healthy(db).await
}

async fn thousands_of_healthy_commits_give_no_finding<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut tx = db.begin().await?;
    for number in 0..410 {
        let name = stream(&format!("stream {number}"));
        for at in 0..4 {
            db.store().append_messages(&mut tx, &name, Offset::of(at * 2), &events(2)).await?;
        }
    }
    db.commit(tx).await?;
    let long = stream("long");
    let mut tx = db.begin().await?;
    for at in 0..510 {
        db.store().append_messages(&mut tx, &long, Offset::of(at), &events(1)).await?;
    }
    db.commit(tx).await?;
    for amount in 0..20 {
        db.publish(&Counter, "a", [added(amount)]).await?;
    }
    let checked = check_data(db.pool(), &mut |finding| panic!("{finding}")).await?;
    assert_eq!((checked.streams, checked.commits, checked.findings), (412, 410 * 4 + 510 + 20, 0));
    assert_eq!(checked.messages, 410 * 8 + 510 + 20);
    Ok(())
}

async fn an_empty_database_gives_no_finding<DB: Subject>(db: TestDb<DB>) -> Clause {
    assert_healthy(&db).await
}

async fn damaged_commits_are_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let (plain, order) = (key::<DB>("plain"), key::<DB>("order/done"));
    let change = |stream: &str, number: u32, to: &str| {
        format!("UPDATE saga_commit SET {to} WHERE commit_no = {number} AND stream_id = {stream}")
    };
    let rows = db
        .rows(format!("SELECT contents, checksum FROM saga_commit WHERE commit_no = 2 AND stream_id = {plain}"))
        .await?;
    let (contents, checksum) = (rows[0][0].clone().unwrap(), rows[0][1].clone().unwrap());
    let body = events(2).iter().flat_map(|event| event.payload.to_vec()).collect::<Vec<_>>();
    let other = contents.replace("\"len\":", "\"len\":1");
    let fitting = crc32fast::hash(&[other.as_bytes(), &body].concat());
    let other = format!("contents = {}, checksum = {fitting}", DB::text(&other));
    let whole = format!("contents = {}, checksum = {checksum}", DB::text(&contents));
    for (kind, stream, number, damage, mend) in [
        (FindingKind::WrongChecksum, &plain, 2, "checksum = checksum + 1", "checksum = checksum - 1"),
        (FindingKind::Undecodable, &plain, 2, &*other, &*whole),
        (FindingKind::OffsetGap, &plain, 3, "first_offset = first_offset + 1", "first_offset = first_offset - 1"),
        (FindingKind::WrongCount, &plain, 2, "event_count = event_count + 1", "event_count = event_count - 1"),
        (FindingKind::WrongCount, &plain, 2, "message_count = message_count + 1", "message_count = message_count - 1"),
        (
            FindingKind::WrongTime,
            &plain,
            2,
            "recorded_at = recorded_at - 9000000",
            "recorded_at = recorded_at + 9000000",
        ),
        (FindingKind::OutOfRange, &plain, 3, "checksum = -1 - checksum", "checksum = -1 - checksum"),
    ] {
        let finding = find(&db, kind, &change(stream, number, damage), &change(stream, number, mend)).await?;
        let place = FindingPlace::Commit { stream: "plain".to_owned(), number: number.into() };
        assert_eq!(finding.place, place, "{damage}");
    }
    let renumber = |from, to: u32| change(&plain, from, &format!("commit_no = {to}"));
    find(&db, FindingKind::MissingCommit, &renumber(3, 9), &renumber(9, 3)).await?;
    let (off, on) = if db.mode().kind().name() == "postgres" { ("FALSE", "TRUE") } else { ("0", "1") };
    let complete = |value| change(&order, 2, &format!("completed = {value}"));
    find(&db, FindingKind::WrongCompletion, &complete(off), &complete(on)).await?;

    let broken: [&[u8]; 2] = [b"{", b"{\"note\":\"\xff\"}"];
    for (offset, payload) in (0..).zip(broken) {
        db.append(&stream("broken"), offset, &[event_of("application/json", payload)]).await?;
    }
    let found = findings(&db).await?;
    assert_eq!(found.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::UndecodablePayload; 2]);
    Ok(())
}

async fn damaged_streams_are_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let of = |name: &str, set: &str| format!("UPDATE saga_stream SET {set} WHERE stream_name = {}", DB::text(name));
    for (kind, damage, mend) in [
        (FindingKind::WrongName, of("order/done", "instance_id = 'gone'"), of("order/done", "instance_id = 'done'")),
        (FindingKind::WrongCompletion, of("order/done", "completed_at = NULL"), of("order/done", "completed_at = 7")),
        (FindingKind::WrongCompletion, of("counter/a", "completed_at = 7"), of("counter/a", "completed_at = NULL")),
        (
            FindingKind::EmptyStream,
            "INSERT INTO saga_stream (stream_name, created_at) VALUES ('empty', 1)".to_owned(),
            "DELETE FROM saga_stream WHERE stream_name = 'empty'".to_owned(),
        ),
    ] {
        find(&db, kind, &damage, &mend).await?;
    }
    db.append(&stream("order/done"), 2, &events(1)).await?;
    let found = findings(&db).await?;
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::EventsAfterCompletion]);
    db.sql(format!("DELETE FROM saga_commit WHERE commit_no = 3 AND stream_id = {}", key::<DB>("order/done"))).await?;
    assert_healthy(&db).await?;

    db.sql("DELETE FROM saga_stream WHERE stream_name = 'plain'").await?;
    let found = findings(&db).await?;
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::OrphanCommit], "once for all of them");
    assert!(matches!(found[0].place, FindingPlace::Key(_)));
    Ok(())
}

async fn damaged_snapshots_are_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let newest = |set: &str| format!("UPDATE saga_snapshot SET {set} WHERE revision = 4");
    let place = FindingPlace::Snapshot { stream: "counter/a".to_owned(), revision: 4 };
    for (kind, damage, mend) in [
        (FindingKind::ForeignSnapshot, "persistence_key = 'order'", "persistence_key = 'counter'"),
        (FindingKind::DamagedSnapshot, "checksum = checksum + 1", "checksum = checksum - 1"),
        (FindingKind::DamagedSnapshot, "commit_no = 3", "commit_no = 4"),
    ] {
        let finding = find(&db, kind, &newest(damage), &newest(mend)).await?;
        assert_eq!(finding.place, place);
    }
    let (away, back) = (newest("stream_id = 999999"), newest(&format!("stream_id = {}", key::<DB>("counter/a"))));
    find(&db, FindingKind::OrphanSnapshot, &away, &back).await?;
    for (revision, commit) in [(9, 9), (5, 4)] {
        let (revision, commit) = (Revision::of(revision), CommitNumber::of(commit));
        let ahead = Snapshot::new("counter", &instance("a"), revision, commit, 1, "x/y", &b"state"[..]);
        let mut tx = db.begin().await?;
        db.store().save_saga_snapshot(&mut tx, &ahead, 10).await?;
        db.commit(tx).await?;
        let found = findings(&db).await?;
        assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::MisplacedSnapshot], "{found:?}");
        db.sql(format!("DELETE FROM saga_snapshot WHERE revision = {revision}")).await?;
    }
    assert_healthy(&db).await
}

async fn damaged_messages_in_the_outbox_are_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let left = |set: &str| format!("UPDATE saga_outbox_message SET {set} WHERE stream_id > 0");
    let own = |set: &str| format!("UPDATE saga_outbox_message SET {set} WHERE stream_id = 0");
    let contents = db.rows("SELECT contents FROM saga_outbox_message WHERE stream_id = 0").await?;
    let contents = format!("contents = {}", DB::text(contents[0][0].as_ref().unwrap()));
    for (kind, damage, mend) in [
        (FindingKind::DanglingOutboxMessage, left("commit_no = 77"), left("commit_no = 2")),
        (FindingKind::DanglingOutboxMessage, left("message_index = 50"), left("message_index = 1")),
        (FindingKind::WrongPartition, left("partition_no = partition_no + 1"), left("partition_no = partition_no - 1")),
        (FindingKind::WrongPartition, own("partition_no = partition_no + 1"), own("partition_no = partition_no - 1")),
        (FindingKind::UndecodableOutboxMessage, own("contents = '{'"), own(&contents)),
    ] {
        let finding = find(&db, kind, &damage, &mend).await?;
        assert!(matches!(finding.place, FindingPlace::OutboxMessage(_)), "{finding:?}");
    }
    Ok(())
}

async fn damaged_marks_are_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let counter = key::<DB>("counter/a");
    let of = |table: &str, set: &str| format!("UPDATE {table} SET {set} WHERE commit_no = 2 AND stream_id = {counter}");
    let pairs = if db.mode().kind().name() == "postgres" {
        vec![
            (of("saga_outbox", "message_count = 7"), of("saga_outbox", "message_count = 1")),
            (of("saga_outbox", "recorded_at = recorded_at + 1"), of("saga_outbox", "recorded_at = recorded_at - 1")),
        ]
    } else {
        vec![(of("saga_commit", "undelivered = 1"), of("saga_commit", "undelivered = recorded_at"))]
    };
    for (damage, mend) in pairs {
        find(&db, FindingKind::WrongMark, &damage, &mend).await?;
    }
    Ok(())
}

async fn a_mark_without_its_commit_is_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    find(
        &db,
        FindingKind::DanglingMark,
        "INSERT INTO saga_outbox (recorded_at, stream_id, commit_no, message_count) VALUES (1, 999999, 1, 1)",
        "DELETE FROM saga_outbox WHERE stream_id = 999999",
    )
    .await?;
    Ok(())
}

async fn a_message_that_was_handled_twice_is_found<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let on = if db.mode().kind().name() == "mysql" { " ON saga_commit" } else { "" };
    db.sql(format!("DROP INDEX saga_commit_handled{on}")).await?;
    let id = match db.mode().kind().name() {
        "postgres" => "'00000000-0000-0000-0000-000000000007'".to_owned(),
        _ => DB::bytes(&[7; 16]),
    };
    let handle = |id: &str, numbers: &str| {
        let counter = key::<DB>("counter/a");
        format!(
            "UPDATE saga_commit SET handled_message_id = {id} WHERE commit_no IN ({numbers}) AND stream_id = {counter}"
        )
    };
    db.sql(handle(&id, "1")).await?;
    assert_healthy(&db).await?;
    let finding = find(&db, FindingKind::RepeatedHandling, &handle(&id, "3"), &handle("NULL", "3")).await?;
    assert_eq!(finding.place, FindingPlace::Commit { stream: "counter/a".to_owned(), number: 3 });
    Ok(())
}

async fn every_place_of_a_larger_database_is_reached<DB: Subject>(db: TestDb<DB>) -> Clause {
    const STREAMS: u32 = 421;
    db.will_damage();
    let mut tx = db.begin().await?;
    for number in 0..STREAMS {
        for at in 0..3 {
            db.store().append_messages(&mut tx, &stream(&format!("s{number}")), Offset::of(at), &events(1)).await?;
        }
    }
    db.commit(tx).await?;
    db.sql("UPDATE saga_commit SET checksum = checksum + 1 WHERE commit_no = 3").await?;
    let found = findings(&db).await?;
    assert_eq!(found.len(), usize::try_from(STREAMS)?);
    assert!(found.iter().all(|finding| finding.kind == FindingKind::WrongChecksum));
    Ok(())
}

async fn a_finding_quotes_no_content<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let contents = r#"{"at":"secret","messages":["secret"]}"#;
    for secret in [contents, "{secret", r#""secret""#] {
        let fitting = crc32fast::hash(secret.as_bytes());
        let plain = key::<DB>("plain");
        let damage = format!("contents = {}, body = {}, checksum = {fitting}", DB::text(secret), DB::bytes(b""));
        db.sql(format!("UPDATE saga_commit SET {damage} WHERE commit_no = 3 AND stream_id = {plain}")).await?;
        let found = findings(&db).await?;
        assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::Undecodable]);
        assert!(!format!("{found:?} {}", found[0]).contains("secret"), "{found:?}");
    }
    Ok(())
}

async fn a_missing_schema_is_an_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    sagastore::drop_schema(db.pool()).await?;
    assert_error!(check_data(db.pool(), &mut |_| {}).await, Error::SchemaMissing { .. });
    let _ = sagastore::migrate(db.pool()).await?;
    Ok(())
}
