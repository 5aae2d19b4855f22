//! The order in which the outbox gives out records.

use std::collections::BTreeMap;

use sagastore::{MessageId, NewOutboxRecord, Outbox, OutboxRecord, OutboxRepository, SnapshotFrequency, StreamName};

use crate::harness::sample::{Counter, CounterEvent, Order, added, event, event_of, events, instance, note, numbers};
use crate::harness::{Clause, Mode, Subject, TestDb, clauses};

clauses! {
    a_stream_keeps_its_order_over_a_thousand_commits,
    a_stream_keeps_its_order_when_the_clock_of_the_database_steps_back,
    an_aggregate_keeps_its_order_when_the_clock_of_the_database_steps_back,
    large_messages_come_in_order_whatever_the_batch_size,
    large_records_come_in_order_and_few_at_a_time,
    what_is_left_of_a_unit_of_work_stays_between_its_neighbours,
}

/// The amounts in records of counters, by instance.
fn amounts(records: &[OutboxRecord]) -> BTreeMap<String, Vec<i64>> {
    let mut amounts = BTreeMap::<_, Vec<_>>::new();
    for record in records {
        let CounterEvent::Added { amount } = serde_json::from_slice(record.payload()).unwrap();
        amounts.entry(record.aggregate_id.clone()).or_default().push(amount);
    }
    amounts
}

/// All records, read in batches of this size at most.
async fn in_batches<DB: Subject>(db: &TestDb<DB>, batch_size: u32) -> anyhow::Result<Vec<OutboxRecord>> {
    let (mut conn, mut records) = (db.conn().await?, Vec::<OutboxRecord>::new());
    loop {
        let after = records.last().map(|record| record.id);
        let batch = db.store().find_batch(&mut conn, after, batch_size).await?;
        assert!(batch.len() <= usize::try_from(batch_size)?);
        if batch.is_empty() {
            return Ok(records);
        }
        records.extend(batch);
    }
}

async fn a_stream_keeps_its_order_over_a_thousand_commits<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(20));
    let mut tx = db.begin().await?;
    for number in 0..1000 {
        for id in ["a", "b", "c"].into_iter().take(1 + number % 3) {
            let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance(id)).await?;
            unit.publish(added(i64::try_from(number)?))?;
            assert!(persister.save(&mut tx, unit).await?.is_changed());
        }
    }
    tx.commit().await?;
    let every_nth = |of: [bool; 3]| (0..1000_i64).filter(move |number| of[usize::try_from(number % 3).unwrap()]);
    let expected = [("a", [true; 3]), ("b", [false, true, true]), ("c", [false, false, true])];
    let expected: BTreeMap<_, Vec<_>> =
        expected.into_iter().map(|(id, of)| (id.to_owned(), every_nth(of).collect())).collect();
    for batch_size in [7, 1000] {
        assert_eq!(amounts(&in_batches(&db, batch_size).await?), expected);
    }
    Ok(())
}

/// As if the database's clock had been an hour ahead when this commit of the only stream was written.
async fn move_ahead<DB: Subject>(db: &TestDb<DB>, commit: u32) -> Clause {
    let later = "recorded_at = recorded_at + 3600000000";
    assert_eq!(db.sql(format!("UPDATE saga_commit SET {later} WHERE commit_no = {commit}")).await?, 1);
    let moved = match db.mode() {
        Mode::SqliteParts => format!("UPDATE saga_outbox_message SET {later} WHERE message_no = {commit}"),
        Mode::Postgres | Mode::PostgresUnprepared => {
            format!("UPDATE saga_outbox SET {later} WHERE commit_no = {commit}")
        }
        Mode::SqliteFile | Mode::SqliteMemory | Mode::Mysql | Mode::MysqlOrdered => {
            format!("UPDATE saga_commit SET undelivered = recorded_at WHERE commit_no = {commit}")
        }
    };
    assert_eq!(db.sql(moved).await?, 1);
    Ok(())
}

async fn a_stream_keeps_its_order_when_the_clock_of_the_database_steps_back<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(4));
    for amount in 1..=12 {
        db.publish_by(&persister, &Counter, "1", [added(amount)]).await?;
        if matches!(amount, 3 | 8 | 9) {
            move_ahead(&db, u32::try_from(amount)?).await?;
        }
    }
    let expected: Vec<i64> = (1..=12).collect();
    assert_eq!(amounts(&in_batches(&db, 5).await?)["1"], expected);
    // What is appended later, too, is recorded later.
    let name = StreamName::of_saga("counter", &instance("1"))?;
    db.will_relay();
    db.append(&name, 12, &events(2)).await?;
    let recorded: Vec<_> = db.events(&name).await?.unwrap().iter().map(|event| event.envelope.recorded_at).collect();
    assert!(recorded[..12].windows(2).all(|pair| pair[0] < pair[1]), "{recorded:?}");
    assert!(recorded[11] < recorded[12], "{recorded:?}");
    Ok(())
}

async fn an_aggregate_keeps_its_order_when_the_clock_of_the_database_steps_back<DB: Subject>(db: TestDb<DB>) -> Clause {
    let record = |number| NewOutboxRecord::new("account", "1", event(number));
    db.save_records(&[record(1), record(2)]).await?;
    let ahead = "UPDATE saga_outbox_message SET recorded_at = recorded_at + 3600000000 WHERE message_no = 2";
    assert_eq!(db.sql(ahead).await?, 1);
    db.save_records(&[record(3)]).await?;
    db.save_records(&[record(4), record(5)]).await?;
    assert_eq!(numbers(&in_batches(&db, 2).await?), [1, 2, 3, 4, 5]);
    Ok(())
}

/// One unit of work on an order: notes of these lengths. Gives the ids of its messages.
async fn write_notes<DB: Subject>(db: &TestDb<DB>, id: &str, lengths: &[usize]) -> anyhow::Result<Vec<MessageId>> {
    let (persister, mut tx) = (db.persister(), db.begin().await?);
    let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance(id)).await?;
    for length in lengths {
        unit.publish(note("x".repeat(*length)))?;
    }
    let ids = unit.recorded().iter().map(|message| message.message_id).collect();
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    tx.commit().await?;
    Ok(ids)
}

/// The ids of the messages of one instance.
fn ids_of(records: &[OutboxRecord], id: &str) -> Vec<MessageId> {
    records.iter().filter(|record| record.aggregate_id == id).map(|record| record.envelope.message_id).collect()
}

/// Nearly as large as a message may be: two do not fit on a page of the outbox.
const LARGE: usize = 4 * 1024 * 1024 - 100;

async fn large_messages_come_in_order_whatever_the_batch_size<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut sent = BTreeMap::<_, Vec<_>>::new();
    let units: [(&str, &[usize]); 9] = [
        ("a", &[LARGE]),
        ("b", &[1]),
        ("a", &[LARGE, 1, LARGE]),
        ("b", &[LARGE]),
        ("a", &[LARGE]),
        ("b", &[2, 3]),
        ("a", &[LARGE, LARGE, LARGE]),
        ("b", &[4]),
        ("a", &[5]),
    ];
    for (id, lengths) in units {
        sent.entry(id).or_default().extend(write_notes(&db, id, lengths).await?);
    }
    for batch_size in [1, 2, 3, 5, 100] {
        let records = in_batches(&db, batch_size).await?;
        assert_eq!(records.len(), 14, "in batches of {batch_size}");
        for (id, sent) in &sent {
            assert_eq!(&ids_of(&records, id), sent, "{id} in batches of {batch_size}");
        }
    }
    Ok(())
}

/// Bytes of payload after which a page of the outbox ends early.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Such records, due at once, were all read into memory, however many.
async fn large_records_come_in_order_and_few_at_a_time<DB: Subject>(db: TestDb<DB>) -> Clause {
    const RECORDS: u32 = 9;
    let large = |number: u32| {
        let json = format!("{{\"number\":{number}}}");
        event_of("application/json", format!("{json}{}", " ".repeat(LARGE - json.len())))
    };
    for number in 0..RECORDS {
        db.save_records(&[NewOutboxRecord::new("account", "1", large(number))]).await?;
        // What is in the other lane must wait for what comes before it.
        db.publish(&Counter, "a", [added(i64::from(number))]).await?;
    }
    let (mut conn, mut records) = (db.conn().await?, Vec::<OutboxRecord>::new());
    loop {
        let batch = db.store().find_batch(&mut conn, records.last().map(|record| record.id), 10_000).await?;
        if batch.is_empty() {
            break;
        }
        let bytes: usize = batch.iter().map(|record| record.payload().len()).sum();
        assert!(bytes <= PAGE_BYTES + LARGE, "a batch of {bytes} bytes");
        records.extend(batch);
    }
    assert!(records.is_sorted_by(|a, b| a.id < b.id), "delivery order");
    let (large, small): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.aggregate_id == "1");
    assert_eq!(numbers(&large), (0..RECORDS).collect::<Vec<_>>());
    assert_eq!(amounts(&small)["a"], (0..i64::from(RECORDS)).collect::<Vec<_>>());
    Ok(())
}

async fn what_is_left_of_a_unit_of_work_stays_between_its_neighbours<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut sent = Vec::new();
    for lengths in [&[1, 2][..], &[LARGE, 3, LARGE, 4], &[5], &[LARGE, LARGE, LARGE], &[6, 7]] {
        sent.extend(write_notes(&db, "1", lengths).await?);
    }
    db.will_relay();
    for acknowledged in [3, 0, 7, 6, 7] {
        let gone = sent.remove(acknowledged);
        let record = db.outbox().await?.into_iter().find(|record| record.envelope.message_id == gone).unwrap();
        let mut tx = db.begin().await?;
        assert_eq!(db.store().delete_in_batches(&mut tx, 10, &[record.id]).await?, 1);
        tx.commit().await?;
        for batch_size in [1, 2, 100] {
            assert_eq!(ids_of(&in_batches(&db, batch_size).await?, "1"), sent, "in batches of {batch_size}");
        }
    }
    Ok(())
}
