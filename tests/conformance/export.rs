//! Streams go from one database to another as they are.

use std::io::BufReader;

use anyhow::ensure;
use sagastore::transfer::{EXPORT_VERSION, Entry, ExportReader, Exporter, Imported, Importer, TransferError};
use sagastore::{
    CommitNumber, Envelope, Error, MessageId, MessageKind, MessageStore, Offset, Outbox, OutboxRepository,
};
use sqlx::Pool;

use crate::harness::sample::{
    Counter, Order, OrderCommand, OrderEvent, added, event_of, events, instance, line, note, stream,
};
use crate::harness::{Clause, Subject, TestDb, clauses, stream_of};

clauses! {
    everything_comes_back_as_it_was: BASIC,
    payloads_come_back_byte_for_byte,
    an_export_goes_on_after_any_whole_line,
    an_import_goes_on_after_any_page_and_repeated_it_changes_nothing,
    what_is_imported_goes_on_living: BASIC,
    nothing_is_put_into_the_outbox_unless_asked: BASIC,
    a_database_that_holds_something_else_is_refused,
    every_damaged_line_is_refused,
    what_an_import_would_refuse_is_not_exported,
    an_unfinished_export_says_so,
    long_streams_are_exported_whole,
}

pub(crate) async fn export<DB: Subject>(pool: &Pool<DB>) -> anyhow::Result<String> {
    let (mut export, mut text) = (Exporter::new(pool), String::new());
    while let Some(lines) = export.next_lines().await? {
        ensure!(lines.is_empty() || lines.ends_with('\n'));
        text.push_str(&lines);
    }
    ensure!(export.next_lines().await?.is_none(), "it stays finished");
    let tally = ExportReader::new(text.as_bytes()).verify()?;
    assert_eq!(tally.bytes, u64::try_from(text.len())?);
    Ok(text)
}

pub(crate) async fn import<DB: Subject>(pool: &Pool<DB>, text: &str) -> Result<Imported, TransferError> {
    let (mut reader, mut import) = (ExportReader::new(text.as_bytes()), Importer::new(pool));
    while import.next_page(&mut reader).await? {}
    Ok(import.imported())
}

/// One more empty database.
pub(crate) async fn another<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<TestDb<DB>> {
    let name = format!("sagas_{}", &uuid::Uuid::now_v7().simple().to_string()[..26]);
    TestDb::<DB>::create_named(db.mode(), name).await
}

/// Sagas, one of them completed, one that handled messages, and a stream of no saga.
async fn fill<DB: Subject>(db: &TestDb<DB>) -> Clause {
    for (id, amount) in [("a", 1), ("b", 2), ("ü/%'\"\\", 3)] {
        db.publish(&Counter, id, [added(amount), added(amount)]).await?;
    }
    db.append(&stream("plain"), 0, &events(3)).await?;
    for number in 0..3_i64 {
        let handled = MessageId::new();
        let done = db
            .persister()
            .execute(db.pool(), &Order, &instance("1"), Some(handled.into()), |unit| {
                unit.publish(line("book", 1, number))?;
                unit.execute_to(&OrderCommand::TakePayment { amount_cents: number }, "billing")?;
                Ok::<_, Error>(())
            })
            .await?;
        ensure!(!done.is_already_handled());
    }
    let mut tx = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(note("done"))?;
    unit.publish(OrderEvent::Shipped)?;
    let _ = db.persister().save_and_complete(&mut tx, unit).await?;
    Ok(db.commit(tx).await?)
}

/// All that an export promises to keep, as rows.
async fn kept<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<String> {
    let handled = match db.mode().kind().name() {
        "postgres" => "CAST(c.handled_message_id AS text)",
        _ => "HEX(c.handled_message_id)",
    };
    let body = match db.mode().kind().name() {
        "postgres" => "encode(c.body, 'hex')",
        _ => "HEX(c.body)",
    };
    let rows = db
        .rows(format!(
            "SELECT s.stream_name, s.persistence_key, s.instance_id, s.created_at, s.completed_at, c.commit_no,
                c.first_offset, c.event_count, c.message_count, {handled}, c.recorded_at, c.checksum, c.contents, {body}
            FROM saga_commit AS c
            JOIN saga_stream AS s ON s.stream_id = c.stream_id
            ORDER BY s.stream_name, c.commit_no"
        ))
        .await?;
    Ok(format!("{rows:#?}"))
}

async fn everything_comes_back_as_it_was<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    ensure!(text.starts_with("{\"crc\":") && text.contains(&format!("{{\"sagastore_export\":{EXPORT_VERSION}}}")));
    let other = another(&db).await?;
    let done = import(other.pool(), &text).await?;
    assert_eq!((done.commits, done.skipped), (8, 0));
    assert_eq!(kept(&other).await?, kept(&db).await?);
    assert_eq!(export(other.pool()).await?, text, "and so from there");
    let mut found = Vec::new();
    sagastore::check::check_data(other.pool(), &mut |finding| found.push(finding)).await?;
    assert_eq!(found, []);
    other.remove().await
}

async fn payloads_come_back_byte_for_byte<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut odd: Vec<Envelope> = [
        "{}",
        " {\"a\" : 1.0}",
        "{\"a\":1}\n",
        "{\"a\":\n1}",
        "{\"a\":1,\"a\":2}",
        "1e400",
        "\"\\ud800\\u0000\"",
        "",
        "{",
        "0.10",
        "null",
    ]
    .into_iter()
    .map(|text| event_of("application/json", text))
    .collect();
    odd.push(event_of("application/json", vec![0xff, 0xfe, 0]));
    odd.push(event_of("application/octet-stream", (0..=255).collect::<Vec<u8>>()));
    odd.push(event_of("application/json", "[".repeat(3000) + &"]".repeat(3000)));
    odd[0].metadata.insert("traceparent".to_owned(), "00-\"\\\u{1}ü".to_owned());
    odd[1].destination = Some("somewhere".into());
    odd[2].kind = MessageKind::Command;
    odd[3].type_version = u32::MAX;
    odd[4].created_at = sagastore::Timestamp::from_micros(-7);
    db.append(&stream("odd"), 0, &odd).await?;
    let text = export(db.pool()).await?;
    ensure!(text.contains(r#""json":{"a":1,"a":2}"#), "readable where it is exact");
    let other = another(&db).await?;
    import(other.pool(), &text).await?;
    assert_eq!(kept(&other).await?, kept(&db).await?);
    assert_eq!(other.events(&stream("odd")).await?, db.events(&stream("odd")).await?);
    other.remove().await
}

async fn an_export_goes_on_after_any_whole_line<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    let ends: Vec<_> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    for end in ends {
        for cut in [end, text.len().min(end + 9)] {
            let mut reader = ExportReader::new(&text.as_bytes()[..cut]);
            while reader.next_entry()?.is_some() {}
            assert_eq!(reader.tally().bytes, u64::try_from(end)?, "a line that is cut off does not count");
            let (mut export, mut rest) = (Exporter::resume(db.pool(), reader.tally()).await?, String::new());
            while let Some(lines) = export.next_lines().await? {
                rest.push_str(&lines);
            }
            assert_eq!(text[..end].to_owned() + &rest, text);
        }
    }
    let other = another(&db).await?;
    let mut unfinished = ExportReader::new(&text.as_bytes()[..text.len() - 9]);
    while unfinished.next_entry()?.is_some() {}
    let resumed = Exporter::resume(other.pool(), unfinished.tally()).await;
    assert!(matches!(resumed, Err(TransferError::Differs { .. })), "it is of another database");
    other.remove().await
}

async fn an_import_goes_on_after_any_page_and_repeated_it_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    let (other, mut before) = (another(&db).await?, 0);
    for (end, _) in text.match_indices('\n') {
        // As if the process had been killed after it.
        let part = &text[..=end];
        match import(other.pool(), part).await {
            Ok(_) => assert_eq!(part.len(), text.len()),
            Err(error) => assert!(matches!(error, TransferError::Unfinished { .. }), "{error}"),
        }
        let commits = other.count("SELECT COUNT(*) FROM saga_commit").await?;
        ensure!(commits >= before);
        before = commits;
    }
    assert_eq!(kept(&other).await?, kept(&db).await?);
    let again = import(other.pool(), &text).await?;
    assert_eq!((again.commits, again.skipped), (0, 8));
    assert_eq!(kept(&other).await?, kept(&db).await?);
    other.remove().await
}

async fn what_is_imported_goes_on_living<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    let other = another(&db).await?;
    import(other.pool(), &text).await?;
    assert_eq!(other.state(&Counter, "a").await?, Some((2, 2)));
    assert_eq!(other.state(&Order, "1").await?, db.state(&Order, "1").await?);
    other.publish(&Counter, "a", [added(5)]).await?;
    assert_eq!(other.state(&Counter, "a").await?, Some((7, 3)));
    // The messages that were handled stay handled.
    let life = sagastore::inspect::Inspector::new(db.pool()).life(&stream_of(&Order, "1"), CommitNumber::ZERO).await?;
    let handled = life[0].handled.unwrap();
    let again = other
        .persister()
        .execute(other.pool(), &Order, &instance("1"), Some(handled.into()), |_| Ok::<_, Error>(()))
        .await?;
    ensure!(again.is_already_handled());
    // It is longer there than in the file, and not another.
    let repeated = import(other.pool(), &text).await?;
    assert_eq!(repeated.commits, 0);
    other.remove().await
}

async fn nothing_is_put_into_the_outbox_unless_asked<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    let other = another(&db).await?;
    import(other.pool(), &text).await?;
    assert_eq!(other.store().stats(&mut *other.conn().await?).await?.pending, 0);
    other.remove().await?;
    let other = another(&db).await?;
    let (mut reader, mut import) = (ExportReader::new(text.as_bytes()), Importer::new(other.pool()).with_delivery());
    while import.next_page(&mut reader).await? {}
    let (there, here) = (other.outbox().await?, db.outbox().await?);
    let ids = |records: &[sagastore::OutboxRecord]| {
        let mut ids: Vec<_> = records.iter().map(|record| record.envelope.message_id).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&there), ids(&here), "all that the sagas sent");
    let mut found = Vec::new();
    sagastore::check::check_data(other.pool(), &mut |finding| found.push(finding)).await?;
    assert_eq!(found, []);
    other.remove().await
}

async fn a_database_that_holds_something_else_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    for (sql, place) in [
        ("UPDATE saga_commit SET recorded_at = recorded_at + 1 WHERE commit_no = 2", 2),
        ("UPDATE saga_commit SET handled_message_id = NULL WHERE commit_no = 2", 2),
        ("UPDATE saga_stream SET instance_id = 'other' WHERE instance_id = 'b'", 0),
        ("UPDATE saga_stream SET created_at = created_at + 1 WHERE instance_id = 'b'", 0),
        ("UPDATE saga_stream SET completed_at = completed_at + 1000000 WHERE completed_at IS NOT NULL", 4),
        ("UPDATE saga_stream SET completed_at = NULL", 4),
    ] {
        let other = another(&db).await?;
        other.will_damage();
        import(other.pool(), &text).await?;
        other.sql(sql).await?;
        let refused = import(other.pool(), &text).await;
        let Err(TransferError::Differs { number, .. }) = &refused else { anyhow::bail!("{sql}: {refused:?}") };
        assert_eq!(*number, place, "{sql}");
        other.remove().await?;
    }
    let other = another(&db).await?;
    other.publish(&Counter, "a", [added(9)]).await?;
    let before = kept(&other).await?;
    assert!(matches!(import(other.pool(), &text).await, Err(TransferError::Differs { .. })));
    assert_eq!(kept(&other).await?, before, "nothing of the page was written");
    other.remove().await
}

async fn every_damaged_line_is_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    let verify = |text: &str| ExportReader::new(BufReader::new(text.as_bytes())).verify();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for at in 0..lines.len() {
        let mut missing = lines.clone();
        missing.remove(at);
        ensure!(verify(&missing.concat()).is_err(), "line {at} is missing");
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        ensure!(verify(&twice.concat()).is_err(), "line {at} stands twice");
        for (from, to) in [("0", "1"), ("e", "f"), ("{", "[")] {
            let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            let (head, tail) = changed[at].split_at(lines[at].find(":{").unwrap() + 1);
            changed[at] = head.to_owned() + &tail.replacen(from, to, 1);
            if changed[at] != lines[at] {
                ensure!(verify(&changed.concat()).is_err(), "line {at}: {}", changed[at]);
            }
        }
    }
    for rest in ["x", "\0\0", " ", "{"] {
        let longer = verify(&(text.clone() + rest));
        assert!(matches!(longer, Err(TransferError::Damaged { .. })), "{rest:?} stands after the end: {longer:?}");
    }
    let newer = text.replace("\"sagastore_export\":1", "\"sagastore_export\":2");
    let crc = crc32fast::hash(b"{\"sagastore_export\":2}");
    let newer = format!("{{\"crc\":{crc},{}", newer.split_once(',').unwrap().1);
    assert!(matches!(verify(&newer), Err(TransferError::Newer { found: 2, known: 1 })));
    Ok(())
}

async fn what_an_import_would_refuse_is_not_exported<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    db.will_damage();
    for damage in ["checksum = 0", "recorded_at = 7", "recorded_at = 253402300800000000", "first_offset = 9"] {
        let (other, text) = (another(&db).await?, export(db.pool()).await?);
        import(other.pool(), &text).await?;
        other.sql(format!("UPDATE saga_commit SET {damage} WHERE commit_no = 3")).await?;
        let mut export = Exporter::new(other.pool());
        let ended = loop {
            match export.next_lines().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        assert!(matches!(ended, Err(TransferError::Database(Error::Corrupt { .. }))), "{damage}: {ended:?}");
        other.remove().await?;
    }
    Ok(())
}

async fn an_unfinished_export_says_so<DB: Subject>(db: TestDb<DB>) -> Clause {
    fill(&db).await?;
    let text = export(db.pool()).await?;
    let whole = text[..text.len() - 1].rfind('\n').unwrap() + 1;
    let verified = ExportReader::new(&text.as_bytes()[..whole]).verify();
    assert!(matches!(verified, Err(TransferError::Unfinished { .. })));
    let other = another(&db).await?;
    assert!(matches!(import(other.pool(), &text[..whole]).await, Err(TransferError::Unfinished { .. })));
    assert_eq!(kept(&other).await?, kept(&db).await?, "what there is stays");
    other.remove().await
}

async fn long_streams_are_exported_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    const COMMITS: u32 = 620;
    let mut tx = db.begin().await?;
    for at in 0..COMMITS {
        db.store().append_messages(&mut tx, &stream("long"), Offset::of(at), &events(1)).await?;
    }
    for number in 0..210 {
        db.store().append_messages(&mut tx, &stream(&format!("s{number}")), Offset::ZERO, &events(1)).await?;
    }
    db.commit(tx).await?;
    let text = export(db.pool()).await?;
    let (mut reader, mut commits) = (ExportReader::new(text.as_bytes()), 0);
    while let Some(entry) = reader.next_entry()? {
        commits += u32::from(matches!(entry, Entry::Commit(_)));
    }
    assert_eq!((commits, reader.tally().streams), (COMMITS + 210, 211));
    let other = another(&db).await?;
    assert_eq!(import(other.pool(), &text).await?.commits, u64::from(COMMITS + 210));
    assert_eq!(import(other.pool(), &text).await?.skipped, u64::from(COMMITS + 210));
    other.remove().await
}
