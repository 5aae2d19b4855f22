//! Messages that cannot be read.

use sagastore::{NewOutboxRecord, OutboxRepository};

use crate::harness::sample::{Counter, added, event, event_of, numbers};
use crate::harness::{Clause, Sent, Subject, TestDb, amount, attempts, clauses, quick, stream_of};

clauses! {
    a_damaged_commit_holds_up_its_stream_and_no_other: FUSED,
    damage_is_counted_in_the_shares_of_all_workers: FUSED,
    a_damaged_row_holds_up_its_stream_and_no_other,
    many_large_damaged_rows_hold_up_no_other_stream,
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
