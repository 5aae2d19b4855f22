//! A database is exported while others write to it.

use anyhow::{Context, ensure};
use sagastore::transfer::{Entry, ExportReader, Exporter};
use sagastore::{MessageStore, Offset, Outbox};

use crate::export::{another, export, import};
use crate::harness::sample::{Order, OrderEvent, events, instance, note, stream};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    a_stream_that_is_committed_between_two_pages_is_exported: SERVERS,
    a_stream_that_is_committed_when_it_was_passed_is_left_out: SERVERS,
    a_completion_that_an_older_export_did_not_see_is_no_difference,
}

const MORE_THAN_A_PAGE: u32 = 600;

/// The rest of an export, and the streams in all of it.
async fn finish<DB: Subject>(mut export: Exporter<DB>, text: &mut String) -> anyhow::Result<Vec<String>> {
    while let Some(lines) = export.next_lines().await? {
        text.push_str(&lines);
    }
    let (mut reader, mut names) = (ExportReader::new(text.as_bytes()), Vec::new());
    while let Some(entry) = reader.next_entry()? {
        if let Entry::Stream(stream) = entry {
            names.push(stream.name);
        }
    }
    ensure!(reader.tally().finished);
    Ok(names)
}

/// A stream takes its key when it is started, and is seen when that is committed.
async fn a_stream_that_is_committed_between_two_pages_is_exported<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut tx = db.begin().await?;
    for at in 0..MORE_THAN_A_PAGE {
        db.store().append_messages(&mut tx, &stream("long"), Offset::of(at), &events(1)).await?;
    }
    db.commit(tx).await?;
    let mut late = db.begin().await?;
    db.store().append_messages(&mut late, &stream("late"), Offset::ZERO, &events(2)).await?;
    db.append(&stream("last"), 0, &events(1)).await?;
    let mut export = Exporter::new(db.pool());
    let mut text = export.next_lines().await?.context("a page")?;
    db.commit(late).await?;
    assert_eq!(finish(export, &mut text).await?, ["long", "late", "last"]);
    Ok(())
}

async fn a_stream_that_is_committed_when_it_was_passed_is_left_out<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut late = db.begin().await?;
    db.store().append_messages(&mut late, &stream("late"), Offset::ZERO, &events(2)).await?;
    db.append(&stream("last"), 0, &events(1)).await?;
    let mut export = Exporter::new(db.pool());
    let mut text = export.next_lines().await?.context("a page")?;
    db.commit(late).await?;
    assert_eq!(finish(export, &mut text).await?, ["last"]);
    Ok(())
}

async fn a_completion_that_an_older_export_did_not_see_is_no_difference<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut tx = db.begin().await?;
    for number in 0..MORE_THAN_A_PAGE {
        let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
        unit.publish(note(number.to_string()))?;
        let _ = db.persister().save(&mut tx, unit).await?;
    }
    db.commit(tx).await?;
    let mut older = Exporter::new(db.pool());
    let mut text = older.next_lines().await?.context("a page")?;
    db.publish(&Order, "1", [OrderEvent::Shipped]).await?;
    assert_eq!(finish(older, &mut text).await?, ["order/1"]);
    let other = another(&db).await?;
    for text in [text, export(db.pool()).await?] {
        import(other.pool(), &text).await?;
        assert_eq!(import(other.pool(), &text).await?.commits, 0);
    }
    other.remove().await
}
