//! Odd, hostile and oversized input: kept byte for byte, or refused before any SQL.

use std::any::Any;

use sagastore::{
    Envelope, Error, GlobalPosition, GloballyOrderedStore, Limits, MAX_MESSAGE_BYTES, MAX_UNIT_BYTES,
    MAX_UNIT_MESSAGES, MessageKind, MessageStore, NewOutboxRecord, Offset, Outbox, OutboxRepository, Revision, Saga,
    SnapshotFrequency, StreamName,
};

use crate::harness::sample::{
    Counter, CounterEvent, Order, OrderCommand, added, event, event_of, events, instance, note, stream,
};
use crate::harness::{Clause, Footprint, Kind, Subject, TestDb, assert_error, clauses};

clauses! {
    names_of_any_characters_come_back_byte_for_byte_and_stay_apart: BASIC,
    names_that_no_database_could_keep_are_refused_before_any_sql: BASIC,
    nul_survives_in_metadata_and_payload: BASIC,
    the_longest_names_work_on_every_database: BASIC,
    payloads_of_any_bytes_up_to_the_limit_come_back: BASIC,
    what_is_over_a_limit_is_refused_and_leaves_nothing,
    limits_can_be_raised_up_to_what_the_database_takes,
}

pub(crate) const ODD: &[&str] = &[
    "'",
    "''",
    "\"",
    "`",
    ";",
    "\\",
    "\\\\",
    "\\'",
    "\\0",
    "%",
    "_",
    "%%",
    "a%",
    "a_",
    "a%b",
    "$1",
    "?",
    "?1",
    ":name",
    "{}",
    "[a]",
    "--",
    "a--b",
    "/* a */",
    "#",
    "'; DROP TABLE saga_commit; --",
    "1 OR 1=1",
    "' OR ''='",
    "a/b",
    "/",
    "a%2Fb",
    "abc",
    "ABC",
    "Abc",
    "abc ",
    "abc  ",
    " abc",
    "abc\t",
    "abc\n",
    "abc\r\n",
    "äbc",
    "a\u{308}bc",
    "ÄBC",
    "é",
    "e\u{301}",
    "e",
    "E",
    "ß",
    "ss",
    "i",
    "ı",
    "İ",
    "I",
    "ﬁ",
    "fi",
    "\u{1F600}",
    "\u{1F469}\u{200D}\u{1F467}",
    "שלום",
    "\u{202E}abc",
    "\u{200F}abc",
    "\u{FEFF}abc",
    "a\u{200B}bc",
    "\u{1}",
    "\u{1B}[31m",
    "\u{7F}",
    "\u{FFFD}",
    "\u{10FFFF}",
    "雪",
    "Å",
    "A\u{30A}",
    "\u{212B}",
];

fn at<N: TryInto<u32, Error: std::fmt::Debug>>(number: N) -> u32 {
    number.try_into().unwrap()
}

/// A message in which every name is this one.
fn named(kind: MessageKind, name: &str, payload: Vec<u8>) -> sagastore::Result<Envelope> {
    let mut message = Envelope::new(kind, name, 1, name, payload)?;
    message.destination = Some(name.into());
    message.metadata.insert(name.into(), name.into());
    Ok(message)
}

async fn names_of_any_characters_come_back_byte_for_byte_and_stay_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, mut sent) = (db.store(), Vec::new());
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(1));
    for (number, name) in ODD.iter().enumerate() {
        let message = named(MessageKind::Event, name, vec![u8::try_from(number)?])?;
        assert_eq!(db.append(&stream(name), 0, std::slice::from_ref(&message)).await?, Offset::of(1), "{name:?}");
        db.save_records(&[NewOutboxRecord::new(*name, *name, message.clone())]).await?;
        db.publish_by(&persister, &Counter, name, [added(number.try_into()?)]).await?;
        let mut tx = db.begin().await?;
        let place: GlobalPosition = format!("0:0:0:{number}").parse()?;
        assert!(store.move_consumer(&mut tx, name, GlobalPosition::START, place).await?, "consumer {name:?}");
        db.commit(tx).await?;
        sent.push((message, place));
    }
    let mut records = db.outbox().await?;
    for (number, (name, (message, place))) in ODD.iter().zip(sent).enumerate() {
        let found = db.events(&stream(name)).await?.unwrap();
        assert_eq!(found.len(), 1, "{name:?}");
        assert_eq!(found[0].stream.as_str(), *name);
        let mut stored = found[0].envelope.clone();
        stored.recorded_at = None;
        assert_eq!(stored, message);
        assert_eq!(stored.metadata, message.metadata);
        let unit = db.load_by(&persister, &Counter, name).await?;
        assert_eq!((unit.instance().data, unit.instance().instance_id.as_str()), (number.try_into()?, *name));
        assert_eq!(unit.load_report().snapshot, Some(Revision::of(1)), "{name:?}");
        assert_eq!(store.consumer_position(&mut *db.conn().await?, name).await?, place, "consumer {name:?}");
        let of = |kind: &str| records.iter().position(|r| r.aggregate_type == kind && r.aggregate_id == *name);
        let (saved, published) = (of(name).unwrap(), of("counter").unwrap());
        assert_eq!(crate::harness::without_time(&records[saved].envelope), message);
        let amount: CounterEvent = serde_json::from_slice(records[published].payload())?;
        assert_eq!(amount, added(number.try_into()?), "{name:?}");
        records.remove(saved.max(published));
        records.remove(saved.min(published));
    }
    assert_eq!(records, []);
    // As an operator sees them.
    let rows = db.rows("SELECT stream_name FROM saga_stream WHERE persistence_key IS NULL ORDER BY stream_id").await?;
    assert_eq!(rows.into_iter().map(|row| row[0].clone().unwrap()).collect::<Vec<_>>(), ODD);
    Ok(())
}

async fn names_that_no_database_could_keep_are_refused_before_any_sql<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, good) = (db.store(), stream("good"));
    let mut tx = db.begin().await?;
    for bad in ["", "\0", "a\0b", "abc\0", &"x".repeat(10_000), &"雪".repeat(10_000)] {
        assert_error!(sagastore::InstanceId::new(bad), Error::InvalidInput { .. });
        assert_error!(StreamName::new(bad), Error::InvalidInput { .. });
        assert_error!(StreamName::of_saga(bad, &instance("1")), Error::InvalidInput { .. });
        assert_error!(Envelope::new(MessageKind::Event, bad, 1, "text/plain", ""), Error::InvalidInput { .. });
        assert_error!(Envelope::new(MessageKind::Event, "Good", 1, bad, ""), Error::InvalidInput { .. });
        let set: [fn(&mut Envelope, &str); 3] = [
            |message, bad| message.type_name = bad.into(),
            |message, bad| message.content_type = bad.into(),
            |message, bad| message.destination = Some(bad.into()),
        ];
        for set in set {
            let mut message = event(1);
            set(&mut message, bad);
            let messages = [event(0), message.clone()];
            let refused = store.append_messages(&mut tx, &good, Offset::ZERO, &messages).await;
            assert_error!(refused, Error::InvalidInput { .. });
            let records = messages.map(|message| NewOutboxRecord::new("good", "good", message));
            assert_error!(store.save(&mut tx, &records).await, Error::InvalidInput { .. });
        }
        for (kind, id) in [(bad, "good"), ("good", bad)] {
            let record = NewOutboxRecord::new(kind, id, event(1));
            assert_error!(store.save(&mut tx, &[record]).await, Error::InvalidInput { .. });
        }
        assert_error!(store.consumer_position(&mut tx, bad).await, Error::InvalidInput { .. });
        let moved = store.move_consumer(&mut tx, bad, GlobalPosition::START, "0:0:0:1".parse()?).await;
        assert_error!(moved, Error::InvalidInput { .. });
        let mut unit = db.persister().begin_unit_of_work(&Order, &mut tx, Outbox, &instance("1")).await?;
        let refused = unit.execute_to(&OrderCommand::SendMail { text: String::new() }, bad);
        assert_error!(refused, Error::InvalidInput { .. });
        assert_eq!(unit.recorded(), []);
    }
    // A statement that had failed would have broken the transaction, at least on PostgreSQL.
    assert_eq!(store.append_messages(&mut tx, &good, Offset::ZERO, &events(1)).await?, Offset::of(1));
    db.commit(tx).await?;
    assert_eq!(db.footprint().await?, Footprint { commits: 1, completed: 0, snapshots: 0, outbox: 0 });
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_consumer").await?, 0);
    Ok(())
}

async fn nul_survives_in_metadata_and_payload<DB: Subject>(db: TestDb<DB>) -> Clause {
    let json = serde_json::to_vec("a\0b")?;
    let mut messages = [event_of("application/json", json.clone()), event_of("text/plain", "a\0b\0")];
    for message in &mut messages {
        message.metadata.insert("key\0".into(), "\0value\0".into());
    }
    db.append(&stream("a"), 0, &messages).await?;
    db.publish(&Order, "1", [note("\0a\0")]).await?;
    let found = db.events(&stream("a")).await?.unwrap();
    let found: Vec<_> = found.iter().map(|event| crate::harness::without_time(&event.envelope)).collect();
    assert_eq!(found, messages);
    assert_eq!(db.state(&Order, "1").await?.unwrap().0.note, "\0a\0");
    let rows = db.rows("SELECT payload FROM saga_event ORDER BY stream_name, event_offset").await?;
    let payloads: Vec<_> = rows.iter().map(|row| row[0].as_deref()).collect();
    let changed = "{\"NoteChanged\":{\"note\":\"\\u0000a\\u0000\"}}";
    assert_eq!(payloads, [Some(str::from_utf8(&json)?), None, Some(changed)]);
    Ok(())
}

/// A counter with a persistence key of one's choice.
struct Keyed(String);

impl Saga for Keyed {
    type Data = i64;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        &self.0
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &CounterEvent, envelope: &Envelope) {
        Counter.apply_event(data, event, envelope);
    }
}

async fn the_longest_names_work_on_every_database<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, label) = (db.store(), "雪".repeat(85));
    let longest = ["x".repeat(1024), "\u{1F600}".repeat(256), "x".repeat(1023) + "y", "'".repeat(1024)];
    for (number, name) in longest.iter().enumerate() {
        assert_error!(StreamName::new(format!("{name}x")), Error::InvalidInput { .. });
        let message = named(MessageKind::Event, &label, vec![u8::try_from(number)?])?;
        db.append(&stream(name), 0, &[message]).await?;
        db.append(&stream(name), 1, &events(1)).await?;
    }
    for (number, name) in longest.iter().enumerate() {
        let found = db.events(&stream(name)).await?.unwrap();
        assert_eq!((found.len(), &*found[0].envelope.payload), (2, &[u8::try_from(number)?][..]));
        assert_eq!((&*found[0].envelope.type_name, &found[0].envelope.metadata[&label]), (&*label, &label));
    }
    let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(2));
    for (key, id) in [("/", "\u{1F600}".repeat(128)), ("%", "/".repeat(512))] {
        let saga = Keyed(key.repeat(160));
        for amount in [1, 2, 4] {
            db.publish_by(&persister, &saga, &id, [added(amount)]).await?;
        }
        let unit = db.load_by(&persister, &saga, &id).await?;
        assert_eq!((unit.instance().data, unit.load_report().snapshot), (7, Some(Revision::of(2))));
        db.save_records(&[NewOutboxRecord::new(label.clone(), id.clone(), event(0))]).await?;
        let records = db.outbox().await?;
        for (kind, expected) in [(&saga.0, 3), (&label, 1)] {
            let own = records.iter().filter(|record| record.aggregate_type == *kind && record.aggregate_id == id);
            assert_eq!(own.count(), expected);
        }
    }
    let mut tx = db.begin().await?;
    let place = "0:0:0:1".parse()?;
    assert!(store.move_consumer(&mut tx, &label, GlobalPosition::START, place).await?);
    db.commit(tx).await?;
    assert_eq!(store.consumer_position(&mut *db.conn().await?, &label).await?, place);
    Ok(())
}

async fn payloads_of_any_bytes_up_to_the_limit_come_back<DB: Subject>(db: TestDb<DB>) -> Clause {
    let every_byte: Vec<u8> = (0..=255).collect();
    let largest = every_byte.repeat(MAX_MESSAGE_BYTES / 256);
    let payloads = [vec![], every_byte, b"\xff\xfe\xc3(\xed\xa0\x80".to_vec(), largest, vec![]];
    // Said to be JSON, too, which no database may believe.
    for content_type in ["application/octet-stream", "application/json"] {
        let messages = payloads.clone().map(|payload| event_of(content_type, payload));
        db.append(&stream(content_type), 0, &messages).await?;
        db.save_records(&messages.map(|message| NewOutboxRecord::new("a", content_type, message))).await?;
        let found = db.events(&stream(content_type)).await?.unwrap();
        assert!(found.iter().map(|event| &event.envelope.payload).eq(&payloads), "{content_type}");
        let records = db.outbox().await?;
        let own = records.iter().filter(|record| record.aggregate_id == content_type);
        assert!(own.map(|record| &record.envelope.payload).eq(&payloads), "{content_type} in the outbox");
    }
    Ok(())
}

async fn what_is_over_a_limit_is_refused_and_leaves_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, persister, name) = (db.store(), db.persister(), stream("a"));
    let of_bytes = |bytes: usize| event_of("text/plain", vec![b'x'; bytes]);
    let over = [
        (vec![of_bytes(MAX_MESSAGE_BYTES + 1)], MAX_MESSAGE_BYTES),
        (vec![event(0), of_bytes(64 * 1024 * 1024)], MAX_MESSAGE_BYTES),
        (vec![of_bytes(MAX_MESSAGE_BYTES); 4], MAX_UNIT_BYTES),
        // The payloads alone would fit; with their index they do not.
        (vec![of_bytes(MAX_UNIT_BYTES / 5); 5], MAX_UNIT_BYTES),
        (events(at(MAX_UNIT_MESSAGES) + 1), MAX_UNIT_MESSAGES),
    ];
    for (mut messages, allowed) in over {
        messages.iter_mut().for_each(|message| *message = message.clone().with_message_id(sagastore::MessageId::new()));
        let mut tx = db.begin().await?;
        let refused = store.append_messages(&mut tx, &name, Offset::ZERO, &messages).await;
        assert_error!(refused, Error::TooLarge { size, limit, .. } => {
            assert!(limit == u64::try_from(allowed)? && size > limit, "{size} over {limit}");
        });
        db.commit(tx).await?;
    }
    let mut unit = db.unit(&Order, "1").await?;
    assert_error!(unit.publish(note("x".repeat(MAX_MESSAGE_BYTES))), Error::TooLarge { .. });
    assert_eq!((unit.recorded().len(), unit.instance().revision), (0, Revision::ZERO));
    for _ in 0..4 {
        unit.publish(note("x".repeat(MAX_MESSAGE_BYTES - 100)))?;
    }
    assert_error!(db.save(unit).await, Error::TooLarge { .. });
    let id = instance("1");
    let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        (0..=MAX_UNIT_MESSAGES).try_for_each(|_| unit.publish(added(1)).map(drop))
    });
    assert_error!(done.await, Error::TooLarge { .. });
    let record = NewOutboxRecord::new("a", "b", of_bytes(MAX_MESSAGE_BYTES + 1));
    assert_error!(db.save_records(&[record]).await, Error::TooLarge { .. });

    assert_eq!(db.footprint().await?, Footprint { commits: 0, completed: 0, snapshots: 0, outbox: 0 });
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_outbox_message").await?, 0);
    let most = at(MAX_UNIT_MESSAGES);
    assert_eq!(db.append(&name, 0, &events(most)).await?, Offset::of(most));
    Ok(())
}

/// The built-in store with other limits.
fn store_with<DB: Subject>(limits: Limits) -> DB::Store {
    let store: Box<dyn Any> = match DB::KIND {
        Kind::Sqlite => Box::new(sagastore::sqlite::SqliteStore::with_limits(limits)),
        #[cfg(feature = "postgres")]
        Kind::Postgres => Box::new(sagastore::postgres::PostgresStore::with_limits(limits)),
        #[cfg(feature = "mysql")]
        Kind::Mysql => Box::new(sagastore::mysql::MySqlStore::with_limits(limits)),
        #[allow(unreachable_patterns, reason = "a build may have all databases, or not")]
        _ => unreachable!("this build lacks the database"),
    };
    *store.downcast().unwrap()
}

async fn limits_can_be_raised_up_to_what_the_database_takes<DB: Subject>(db: TestDb<DB>) -> Clause {
    const LARGE: usize = 20 * 1024 * 1024;
    let limits = Limits { message_bytes: 2 * LARGE, unit_bytes: 4 * LARGE, ..Limits::default() };
    let (store, name, message) = (store_with::<DB>(limits), stream("a"), event_of("text/plain", vec![b'x'; LARGE]));
    let fits = match DB::KIND {
        Kind::Mysql => db.count("SELECT CAST(@@max_allowed_packet AS SIGNED)").await? > i64::try_from(LARGE)? + 8192,
        Kind::Sqlite | Kind::Postgres => true,
    };
    let mut tx = db.begin().await?;
    let appended = store.append_messages(&mut tx, &name, Offset::ZERO, std::slice::from_ref(&message)).await;
    if fits {
        assert_eq!(appended?, Offset::of(1));
        db.commit(tx).await?;
        assert!(db.events(&name).await?.unwrap()[0].envelope.payload == message.payload);
    } else {
        assert_error!(appended, Error::TooLarge { .. });
        db.commit(tx).await?;
        assert_eq!(db.events(&name).await?, None);
    }
    // Lowered ones are kept to the byte.
    let low = store_with::<DB>(Limits { message_bytes: 4, ..limits });
    let mut tx = db.begin().await?;
    low.append_messages(&mut tx, &stream("low"), Offset::ZERO, &[event_of("text/plain", "1234")]).await?;
    let refused = low.append_messages(&mut tx, &stream("low"), Offset::of(1), &[event_of("text/plain", "12345")]).await;
    assert_error!(refused, Error::TooLarge { size: 5, limit: 4, .. });
    db.commit(tx).await?;
    assert_eq!(db.append(&stream("low"), 1, &events(1)).await?, Offset::of(2));
    Ok(())
}
