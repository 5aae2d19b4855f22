//! Messages that cannot be read.

use std::time::Duration;

use anyhow::Context;
use sagastore::{NewOutboxRecord, OutboxRepository};

use crate::harness::sample::{Counter, Order, added, event, event_of, note, numbers};
use crate::harness::{Clause, Sent, Subject, TestDb, amount, attempts, clauses, quick, stream_of};

clauses! {
    a_damaged_commit_holds_up_its_stream_and_no_other: FUSED,
    damage_is_counted_in_the_shares_of_all_workers: FUSED,
    a_damaged_row_holds_up_its_stream_and_no_other,
    many_large_damaged_rows_hold_up_no_other_stream,
    large_commits_of_a_damaged_stream_hold_up_no_other_stream: FUSED,
    what_is_no_text_or_no_id_holds_up_its_stream_and_no_other: SQLITE_FILE,
    names_that_are_no_text_hold_up_their_streams_and_no_other: MYSQL,
    marks_without_a_commit_hold_up_no_other_stream: POSTGRES,
}

/// Spoils the checksum of one commit.
async fn spoil<DB: Subject>(db: &TestDb<DB>, id: &str, commit: u32) -> Clause {
    db.will_damage();
    let name = DB::text(stream_of(&Counter, id).as_str());
    let spoilt = db.sql(format!(
        "UPDATE saga_commit SET checksum = checksum + 1 WHERE commit_no = {commit}
        AND stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = {name})"
    ));
    assert_eq!(spoilt.await?, 1);
    Ok(())
}

async fn a_damaged_commit_holds_up_its_stream_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    // More of it than fits into a batch, and all of it older than the rest.
    for amount in 0..30 {
        db.publish(&Counter, "bad", [added(amount)]).await?;
    }
    for stream in 0..5 {
        db.publish(&Counter, &stream.to_string(), [added(1), added(2)]).await?;
    }
    spoil(&db, "bad", 3).await?;
    let sent = Sent::default();
    let settings = quick().with_batch(10)?.with_workers(1)?;
    let dispatcher = db.dispatcher(sent.emitter()).with_settings(settings);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.damaged), (2 + 10, 1));
    assert_eq!(sent.of("bad"), [0, 1]);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.damaged), (0, 1));
    db.sql("UPDATE saga_commit SET checksum = checksum - 1 WHERE commit_no = 3").await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 28);
    assert_eq!(sent.of("bad"), (0..30).collect::<Vec<_>>());
    Ok(())
}

async fn damage_is_counted_in_the_shares_of_all_workers<DB: Subject>(db: TestDb<DB>) -> Clause {
    for stream in 0..40 {
        db.publish(&Counter, &stream.to_string(), [added(1)]).await?;
    }
    for stream in 0..40 {
        spoil(&db, &stream.to_string(), 1).await?;
    }
    let sent = Sent::default();
    let dispatched = db.dispatcher(sent.emitter()).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.damaged), (0, 40));
    Ok(())
}

async fn a_damaged_row_holds_up_its_stream_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    // Its first message failed for good, and its others so became rows of their own.
    db.publish(&Counter, "a", [added(666), added(1), added(2)]).await?;
    let refuse = db.dispatcher(Sent::default().refusing(|record| amount(record) == 666));
    assert_eq!(refuse.with_settings(quick().with_retry(attempts(1))).dispatch_once().await?.dead, 1);
    let mut tx = db.begin().await?;
    assert_eq!(db.store().discard_dead_letters(&mut tx, sagastore::DeadLetters::All).await?, 1);
    db.commit(tx).await?;
    let spoilt = db.sql("UPDATE saga_outbox_message SET contents = 'x'").await?;
    assert_eq!(spoilt, 2);
    let record = |id: &str, number| NewOutboxRecord::new("account", id, event(number));
    db.save_records(&[record("1", 1), record("2", 2), record("1", 3)]).await?;
    let spoilt = db.sql(
        "UPDATE saga_outbox_message SET contents = 'x' WHERE message_no =
            (SELECT first FROM (SELECT MIN(message_no) AS first FROM saga_outbox_message WHERE aggregate_id = '1') AS f)",
    );
    assert_eq!(spoilt.await?, 1);

    let sent = Sent::default();
    let dispatched = db.dispatcher(sent.emitter()).dispatch_once().await?;
    assert_eq!(dispatched.damaged, 3);
    assert_eq!(numbers(&sent.records()), [2]);
    Ok(())
}

/// They fill more than one page of the outbox, on which there is nothing to deliver.
async fn many_large_damaged_rows_hold_up_no_other_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    const LARGE: usize = 4_000_000;
    db.will_damage();
    for number in 0..7_u32 {
        let large = event_of("application/octet-stream", vec![b' '; LARGE]);
        db.save_records(&[NewOutboxRecord::new("account", number.to_string(), large)]).await?;
    }
    assert_eq!(db.sql("UPDATE saga_outbox_message SET contents = 'x'").await?, 7);
    db.save_records(&[NewOutboxRecord::new("account", "good", event(7))]).await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter()).with_settings(quick().with_workers(1)?);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.damaged), (1, 7));
    assert_eq!(numbers(&sent.records()), [7]);
    Ok(())
}

/// Each of them ends a page of the outbox, on which there is nothing to deliver.
async fn large_commits_of_a_damaged_stream_hold_up_no_other_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    db.publish(&Order, "bad", [note("first")]).await?;
    for _ in 0..2 {
        db.publish(&Order, "bad", vec![note("x".repeat(3 * 1024 * 1024)); 3]).await?;
    }
    assert_eq!(db.sql("UPDATE saga_commit SET checksum = checksum + 1 WHERE commit_no = 1").await?, 1);
    db.publish(&Counter, "good", [added(7)]).await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter()).with_settings(quick().with_workers(1)?);
    let dispatched = tokio::time::timeout(Duration::from_secs(30), dispatcher.dispatch_once()).await;
    let dispatched = dispatched.context("it does not come to an end")??;
    assert_eq!((dispatched.delivered, dispatched.damaged), (1, 1));
    assert_eq!(sent.of("good"), [7]);
    Ok(())
}

/// The driver's error about one such row ended every look at the share of its worker.
async fn what_is_no_text_or_no_id_holds_up_its_stream_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    const NO_TEXT: &str = "CAST(x'7bff7d' AS TEXT)";
    for damage in [
        format!("UPDATE saga_commit SET contents = {NO_TEXT}"),
        "UPDATE saga_commit SET causation_id = x'01'".to_owned(),
        "UPDATE saga_commit SET correlation_id = zeroblob(17)".to_owned(),
        format!("UPDATE saga_stream SET instance_id = {NO_TEXT}"),
    ] {
        one_is_damaged(&db, &damage).await?;
    }
    db.save_records(&["bad", "good"].map(|id| NewOutboxRecord::new("account", id, event(1)))).await?;
    for column in ["contents", "aggregate_type"] {
        let spoilt = db.sql(format!("UPDATE saga_outbox_message SET {column} = {NO_TEXT} WHERE aggregate_id = 'bad'"));
        assert_eq!(spoilt.await?, 1);
        let dispatched = db.dispatcher(Sent::default().emitter()).dispatch_once().await?;
        assert_eq!((dispatched.delivered, dispatched.damaged), (u64::from(column == "contents"), 1), "{column}");
    }
    db.sql("DELETE FROM saga_outbox_message").await.map(drop)
}

/// One of two instances is damaged, and the other is delivered by a page that is read row by row, and by a packed one.
async fn one_is_damaged<DB: Subject>(db: &TestDb<DB>, damage: &str) -> Clause {
    db.will_relay();
    db.will_damage();
    for batch in [5, 100] {
        for id in ["bad", "good"] {
            db.publish(&Counter, id, [added(1)]).await?;
        }
        let name = DB::text(stream_of(&Counter, "bad").as_str());
        let key = format!("(SELECT stream_id FROM saga_stream WHERE stream_name = {name})");
        assert_eq!(db.sql(format!("{damage} WHERE stream_id = {key}")).await?, 1, "{damage}");
        let sent = Sent::default();
        let settings = quick().with_batch(batch)?.with_workers(1)?;
        let dispatched = db.dispatcher(sent.emitter()).with_settings(settings).dispatch_once().await?;
        assert_eq!((dispatched.delivered, dispatched.damaged), (1, 1), "{damage}");
        assert_eq!(sent.of("good"), [1]);
        for table in ["saga_commit", "saga_stream"] {
            db.sql(format!("DELETE FROM {table}")).await?;
        }
        if db.count("SELECT COUNT(*) FROM saga_snapshot").await? > 0 {
            db.sql("DELETE FROM saga_snapshot").await?;
        }
    }
    Ok(())
}

async fn names_that_are_no_text_hold_up_their_streams_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    one_is_damaged(&db, "UPDATE saga_stream SET instance_id = X'7bff7d'").await?;
    db.save_records(&["bad", "good"].map(|id| NewOutboxRecord::new("account", id, event(1)))).await?;
    let spoilt = db.sql("UPDATE saga_outbox_message SET aggregate_type = X'7bff7d' WHERE aggregate_id = 'bad'");
    assert_eq!(spoilt.await?, 1);
    let dispatched = db.dispatcher(Sent::default().emitter()).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.damaged), (1, 1));
    db.sql("DELETE FROM saga_outbox_message").await.map(drop)
}

/// They filled the page and gave nothing, which was taken for the end of the outbox.
async fn marks_without_a_commit_hold_up_no_other_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    db.publish(&Counter, "good", [added(1)]).await?;
    let marked = db.sql(
        "INSERT INTO saga_outbox (recorded_at, stream_id, commit_no, message_count)
        SELECT 0, 1000 + n, 1, 1 FROM generate_series(1, 4) AS n",
    );
    assert_eq!(marked.await?, 4);
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter()).with_settings(quick().with_batch(3)?.with_workers(1)?);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.damaged), (1, 4));
    assert_eq!(sent.of("good"), [1]);
    Ok(())
}
