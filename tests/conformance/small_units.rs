//! Many small units of work: what a reader gets of them at once is what it gets of them one by one.

use sagastore::{
    Codecs, Envelope, Inbound, MessageId, MessageStore, Offset, OutboxRecord, OutboxRepository, RecordedEvent,
};

use crate::harness::sample::{Counter, Order, OrderCommand, added, event_of, note, stream};
use crate::harness::{Clause, Subject, TestDb, clauses};

clauses! {
    a_stream_is_the_same_in_pages_of_any_size,
    pages_of_more_and_more_bytes_are_whole,
    the_outbox_is_the_same_in_batches_of_any_size,
}

/// Instances whose names could be taken for something else.
const ODD_IDS: [&str; 8] = ["a;b", "1 2", "-1", "it's \"so\"", "line\nbreak", "ü€😀", "NULL", "X'00'"];

/// Payloads of no bytes, of every byte, and of what is no text.
fn odd_events() -> Vec<Envelope> {
    let every: Vec<u8> = (0..=255).collect();
    let mut payloads = vec![vec![], every, b"\0".to_vec(), b"\xff;\xfe 1".to_vec(), vec![], "é;'1".into()];
    payloads.extend((0..30_u8).map(|number| vec![number; usize::from(number)]));
    let causes = Inbound { message_id: MessageId::new(), correlation_id: MessageId::new() };
    let odd = |(number, payload): (usize, Vec<u8>)| {
        let event = event_of("application/x-odd", payload);
        if number % 3 == 0 { event.caused_by(&causes) } else { event }
    };
    payloads.into_iter().enumerate().map(odd).collect()
}

async fn read<DB: Subject>(db: &TestDb<DB>, name: &str, limit: u32) -> anyhow::Result<Vec<RecordedEvent>> {
    let (mut conn, mut events) = (db.conn().await?, Vec::new());
    loop {
        let from = Offset::try_from(u64::try_from(events.len())?)?;
        let page = db.store().read_page(&mut conn, &stream(name), from, limit).await?.unwrap();
        if page.is_empty() {
            return Ok(events);
        }
        events.extend(page);
    }
}

async fn a_stream_is_the_same_in_pages_of_any_size<DB: Subject>(db: TestDb<DB>) -> Clause {
    let messages = odd_events();
    for (offset, message) in (0..).zip(&messages) {
        db.append(&stream("odd"), offset, std::slice::from_ref(message)).await?;
        db.append(&stream("other"), offset, &[event_of("text/plain", "other")]).await?;
    }
    let one_by_one = read(&db, "odd", 1).await?;
    assert_eq!(one_by_one.len(), messages.len());
    for (read, message) in one_by_one.iter().zip(&messages) {
        assert_eq!((&read.envelope.payload, read.envelope.message_id), (&message.payload, message.message_id));
        assert_eq!(read.envelope.correlation_id, message.correlation_id);
    }
    for limit in [15, 16, 17, 35, 36, 37, u32::MAX] {
        assert_eq!(read(&db, "odd", limit).await?, one_by_one, "pages of {limit}");
    }
    Ok(())
}

async fn pages_of_more_and_more_bytes_are_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    const KIB: usize = 1024;
    for (offset, number) in (0..).zip(0..24_u8) {
        db.append(&stream("large"), offset, &[event_of("application/x-odd", vec![number; 60 * KIB])]).await?;
    }
    // Seventeen of them are a little less than a mebibyte, eighteen more.
    for limit in [1, 16, 17, 18, 23, 24, u32::MAX] {
        let events = read(&db, "large", limit).await?;
        assert_eq!(events.len(), 24, "pages of {limit}");
        for (number, event) in (0..24_u8).zip(&events) {
            assert!(event.envelope.payload.iter().all(|byte| *byte == number), "pages of {limit}");
            assert_eq!(event.envelope.payload.len(), 60 * KIB, "pages of {limit}");
        }
    }
    Ok(())
}

async fn relay<DB: Subject>(db: &TestDb<DB>, limit: u32) -> anyhow::Result<Vec<OutboxRecord>> {
    let (mut conn, mut records) = (db.conn().await?, Vec::<OutboxRecord>::new());
    loop {
        let batch = db.store().find_batch(&mut conn, records.last().map(|record| record.id), limit).await?;
        if batch.is_empty() {
            return Ok(records);
        }
        records.extend(batch);
    }
}

async fn the_outbox_is_the_same_in_batches_of_any_size<DB: Subject>(db: TestDb<DB>) -> Clause {
    let binary = db
        .persister()
        .with_codecs(Codecs::new(std::sync::Arc::new(sagastore::Bincode), std::sync::Arc::new(sagastore::Bincode)));
    for round in 0..3 {
        for id in ODD_IDS {
            db.publish(&Counter, id, [added(round)]).await?;
            db.publish_by(&binary, &Order, id, [note("\u{0}é"), note("")]).await?;
        }
        let mut unit = db.unit(&Order, "1").await?;
        unit.execute(&OrderCommand::SendMail { text: "no event".to_owned() })?;
        assert!(db.save(unit).await?.is_changed());
    }
    let one_by_one = relay(&db, 1).await?;
    assert_eq!(one_by_one.len(), 3 * (8 * 3 + 1));
    for id in ODD_IDS {
        assert_eq!(one_by_one.iter().filter(|record| record.aggregate_id == id).count(), 3 * 3, "{id}");
    }
    for limit in [14, 15, 16, 17, 20, 50, 51, 4_096, u32::MAX] {
        assert_eq!(relay(&db, limit).await?, one_by_one, "batches of {limit}");
    }
    Ok(())
}
