//! Codecs, content types, type names and versions: what was written loads again, or the error names its place.

use std::sync::Arc;

use sagastore::{
    BINCODE_CONTENT_TYPE, Bincode, Cause, Codec, Codecs, Envelope, Error, JSON_CONTENT_TYPE, Json, MAX_MESSAGE_BYTES,
    MessageId, MessageKind, MessageStore, Offset, Persister, ReadValue, Revision, Saga, SnapshotFault,
    SnapshotFrequency, SnapshotRepository,
};

use crate::harness::sample::{Counter, Order, OrderCommand, OrderData, added, instance, line, note};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, stream_of};

clauses! {
    every_codec_gives_back_what_it_was_given: BASIC,
    a_stream_whose_codec_changed_loads_under_any_of_them,
    a_codec_of_ones_own_is_read_where_it_is_known_and_named_where_not,
    a_codec_of_ones_own_may_call_itself_json,
    a_content_type_that_no_codec_has_is_an_error_at_its_place,
    an_unknown_type_name_or_version_is_an_error_at_its_place,
    a_payload_of_another_type_than_its_tag_is_an_error_at_its_place,
    a_payload_that_does_not_decode_is_an_error_at_its_place,
    a_payload_over_the_limit_is_refused_and_one_at_the_limit_is_not,
    snapshots_of_one_codec_are_used_under_another,
}

/// A codec of one's own: JSON, back to front.
struct Reversed;

const REVERSED: &str = "application/x-reversed-json";

impl Codec for Reversed {
    fn content_type(&self) -> &'static str {
        REVERSED
    }

    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), Cause> {
        let mut json = Vec::new();
        Json.encode(value, &mut json)?;
        out.extend(json.iter().rev());
        Ok(())
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
        let json: Vec<u8> = bytes.iter().rev().copied().collect();
        Json.decode(&json, read)
    }
}

/// JSON behind a byte of its own, which it calls JSON.
struct Prefixed;

impl Codec for Prefixed {
    fn content_type(&self) -> &'static str {
        JSON_CONTENT_TYPE
    }

    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), Cause> {
        out.push(1);
        Json.encode(value, out)
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
        Json.decode(bytes.strip_prefix(&[1]).ok_or("it has no prefix")?, read)
    }
}

fn writing_with<DB: Subject>(db: &TestDb<DB>, codec: impl Codec) -> Persister<DB> {
    let codec: Arc<dyn Codec> = Arc::new(codec);
    db.persister().with_codecs(Codecs::new(Arc::clone(&codec), codec))
}

async fn content_types<DB: Subject>(db: &TestDb<DB>, saga: &impl Saga, id: &str) -> anyhow::Result<Vec<String>> {
    let events = db.events(&stream_of(saga, id)).await?.unwrap();
    Ok(events.iter().map(|event| event.envelope.content_type.to_string()).collect())
}

pub(crate) async fn load<DB: Subject, S: Saga>(
    db: &TestDb<DB>,
    persister: &Persister<DB>,
    saga: &S,
) -> sagastore::Result<()> {
    let mut conn = db.pool().acquire().await.unwrap();
    persister.load_instance(saga, &mut conn, &instance("1")).await.map(drop)
}

/// Publishes good events, then appends this one; gives its id.
pub(crate) async fn append_after<DB: Subject, S: Saga>(
    db: &TestDb<DB>,
    saga: &S,
    good: Vec<S::Event>,
    message: Envelope,
) -> anyhow::Result<MessageId> {
    db.will_relay();
    let (end, id) = (u32::try_from(good.len())?, message.message_id);
    db.publish(saga, "1", good).await?;
    load(db, &db.persister(), saga).await?;
    db.append(&stream_of(saga, "1"), end, &[message]).await?;
    Ok(id)
}

/// Loading, to look at it and to change it, fails at this place; the stored bytes can still be read.
async fn check_undecodable<DB: Subject, S: Saga>(
    db: &TestDb<DB>,
    persister: &Persister<DB>,
    saga: &S,
    place: (u32, MessageId, &str),
) -> Clause {
    let name = stream_of(saga, "1");
    let mut tx = db.begin().await?;
    let begun = persister.begin_unit_of_work(saga, &mut tx, sagastore::Outbox, &instance("1")).await.map(drop);
    db.roll_back(tx).await?;
    for result in [begun, load(db, persister, saga).await] {
        let text = result.as_ref().map_or_else(ToString::to_string, |()| String::new());
        assert_error!(result, Error::Undecodable { stream, offset, message_id, content_type, .. } => {
            assert_eq!((&stream, offset), (&name, Offset::of(place.0)));
            assert_eq!((message_id, &*content_type), (place.1, place.2));
            for part in [name.to_string(), place.1.to_string(), format!("offset {}", place.0)] {
                assert!(text.contains(&part), "{part} in {text}");
            }
        });
    }
    let found = db.store().read_page(&mut *db.conn().await?, &name, Offset::of(place.0), 1).await?.unwrap();
    assert_eq!(found.first().map(|event| event.envelope.message_id), Some(place.1));
    Ok(())
}

async fn every_codec_gives_back_what_it_was_given<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persisters = [
        (writing_with(&db, Json), JSON_CONTENT_TYPE),
        (writing_with(&db, Bincode), BINCODE_CONTENT_TYPE),
        (writing_with(&db, Reversed), REVERSED),
    ];
    let texts = ["", "plain", "\0\r\n\t\"'\\%_", "ü€😀\u{fffd}", "null"];
    for (at, (persister, content_type)) in persisters.iter().enumerate() {
        let (id, mut expected) = (at.to_string(), OrderData::default());
        let mut unit = db.unit_by(persister, &id).await?;
        for (text, quantity) in texts.into_iter().zip([0, 1, u32::MAX, 250, 251]) {
            for cents in [i64::from(i16::MIN), -1, 0, 65_536] {
                unit.publish(line(text, quantity, cents))?;
                expected.lines.push((text.to_owned(), quantity));
                expected.total_cents += i64::from(quantity) * cents;
            }
            unit.publish(note(text))?;
            unit.execute(&OrderCommand::SendMail { text: text.to_owned() })?;
        }
        texts[4].clone_into(&mut expected.note);
        assert_eq!(unit.instance().data, expected);
        let recorded = unit.recorded().to_vec();
        assert!(recorded.iter().all(|message| &*message.content_type == *content_type), "{recorded:?}");
        let mut tx = db.begin().await?;
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        db.commit(tx).await?;
        let loaded = db.load_by(persister, &Order, &id).await?;
        assert_eq!((&loaded.instance().data, loaded.instance().revision), (&expected, Revision::of(25)));
        let payloads = recorded.iter().filter(|message| message.kind == MessageKind::Event).map(|m| &m.payload);
        let stored = db.events(&stream_of(&Order, &id)).await?.unwrap();
        assert!(stored.iter().map(|event| &event.envelope.payload).eq(payloads), "byte for byte");
    }
    Ok(())
}

impl<DB: Subject> TestDb<DB> {
    async fn unit_by(&self, persister: &Persister<DB>, id: &str) -> anyhow::Result<sagastore::UnitOfWork<'_, Order>> {
        let mut tx = self.begin().await?;
        let unit = persister.begin_unit_of_work(&Order, &mut tx, sagastore::Outbox, &instance(id)).await?;
        self.roll_back(tx).await?;
        Ok(unit)
    }
}

async fn a_stream_whose_codec_changed_loads_under_any_of_them<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (json, bincode) = (writing_with(&db, Json), writing_with(&db, Bincode));
    let mut expected = OrderData::default();
    for round in 0..3 {
        for (writer, name) in [(&json, "json"), (&bincode, "bincode")] {
            db.publish_by(writer, &Order, "1", [line(name, round, 7), note(name)]).await?;
            expected.lines.push((name.to_owned(), round));
            expected.total_cents += i64::from(round) * 7;
            name.clone_into(&mut expected.note);
            for reader in [&json, &bincode, &db.persister()] {
                assert_eq!(db.load_by(reader, &Order, "1").await?.instance().data, expected);
            }
        }
    }
    let turn = [JSON_CONTENT_TYPE, JSON_CONTENT_TYPE, BINCODE_CONTENT_TYPE, BINCODE_CONTENT_TYPE];
    assert_eq!(content_types(&db, &Order, "1").await?, turn.repeat(3));
    Ok(())
}

async fn a_codec_of_ones_own_is_read_where_it_is_known_and_named_where_not<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(1), added(2)]).await?;
    db.publish_by(&writing_with(&db, Reversed), &Counter, "1", [added(40), added(500)]).await?;
    let turn = [JSON_CONTENT_TYPE, JSON_CONTENT_TYPE, REVERSED, REVERSED];
    assert_eq!(content_types(&db, &Counter, "1").await?, turn);
    let third = db.events(&stream_of(&Counter, "1")).await?.unwrap()[2].envelope.message_id;
    for ignorant in [db.persister(), writing_with(&db, Bincode)] {
        check_undecodable(&db, &ignorant, &Counter, (2, third, REVERSED)).await?;
    }
    let knowing = db.persister().with_codecs(Codecs::default().also_reading(Arc::new(Reversed)));
    assert_eq!(db.load_by(&knowing, &Counter, "1").await?.instance().data, 543);
    db.publish_by(&knowing, &Counter, "1", [added(6000)]).await?;
    assert_eq!(content_types(&db, &Counter, "1").await?.last().map(String::as_str), Some(JSON_CONTENT_TYPE));
    assert_eq!(db.load_by(&writing_with(&db, Reversed), &Counter, "1").await?.instance().data, 6543);
    Ok(())
}

async fn a_codec_of_ones_own_may_call_itself_json<DB: Subject>(db: TestDb<DB>) -> Clause {
    let own = writing_with(&db, Prefixed).with_snapshot_frequency(SnapshotFrequency::every(2));
    db.publish_by(&own, &Counter, "1", [added(1), added(20), added(300)]).await?;
    let unit = db.load_by(&own, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.load_report().ignored_snapshot), (321, None));
    let first = db.events(&stream_of(&Counter, "1")).await?.unwrap()[0].envelope.message_id;
    check_undecodable(&db, &db.persister().without_snapshots(), &Counter, (0, first, JSON_CONTENT_TYPE)).await
}

pub(crate) fn counted(name: &str, version: u32, content_type: &str, payload: impl Into<Vec<u8>>) -> Envelope {
    Envelope::new(MessageKind::Event, name, version, content_type, payload.into()).unwrap()
}

const ONE_MORE: &str = r#"{"Added":{"amount":1}}"#;

async fn a_content_type_that_no_codec_has_is_an_error_at_its_place<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let unknown = ["application/x-unknown", "application/json; charset=utf-8", "APPLICATION/JSON", "application/json "];
    for content_type in unknown.into_iter().chain(["/", "?", "ü"]) {
        db.sql("DELETE FROM saga_commit").await?;
        let message = counted("CounterAdded", 1, content_type, ONE_MORE);
        let id = append_after(&db, &Counter, vec![added(1); 3], message).await?;
        check_undecodable(&db, &db.persister(), &Counter, (3, id, content_type)).await?;
    }
    Ok(())
}

async fn an_unknown_type_name_or_version_is_an_error_at_its_place<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let unknown =
        [("Subtracted", 1), ("CounterAdded", 2), ("CounterAdded", 0), ("counteradded", 1), ("CounterAdde", 1)];
    for (name, version) in unknown {
        db.sql("DELETE FROM saga_commit").await?;
        let message = counted(name, version, JSON_CONTENT_TYPE, ONE_MORE);
        let id = append_after(&db, &Counter, vec![added(1); 4], message).await?;
        assert_error!(load(&db, &db.persister(), &Counter).await, Error::UnknownType { stream, offset, message_id, name: n, version: v } => {
            assert_eq!((stream, offset, message_id), (stream_of(&Counter, "1"), Offset::of(4), id));
            assert_eq!((&*n, v), (name, version));
        });
    }
    Ok(())
}

async fn a_payload_of_another_type_than_its_tag_is_an_error_at_its_place<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let payloads = [("OrderLineAdded", 1, r#"{"NoteChanged":{"note":"x"}}"#), ("OrderNoteChanged", 1, r#""Shipped""#)];
    for (name, version, payload) in payloads {
        db.sql("DELETE FROM saga_commit").await?;
        let message = counted(name, version, JSON_CONTENT_TYPE, payload);
        let id = append_after(&db, &Order, vec![line("a", 1, 1), note("b")], message).await?;
        check_undecodable(&db, &db.persister(), &Order, (2, id, JSON_CONTENT_TYPE)).await?;
    }
    Ok(())
}

async fn a_payload_that_does_not_decode_is_an_error_at_its_place<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_damage();
    let bad: [(&str, &[u8]); 8] = [
        (JSON_CONTENT_TYPE, b""),
        (JSON_CONTENT_TYPE, br#"{"Added":{"amount":1}"#),
        (JSON_CONTENT_TYPE, br#"{"Added":{"amount":1}}}"#),
        (JSON_CONTENT_TYPE, br#"{"Added":{"amount":"1"}}"#),
        (JSON_CONTENT_TYPE, br#"{"Taken":{"amount":1}}"#),
        (BINCODE_CONTENT_TYPE, b""),
        (BINCODE_CONTENT_TYPE, &[0, 2, 0]),
        (BINCODE_CONTENT_TYPE, ONE_MORE.as_bytes()),
    ];
    for (content_type, payload) in bad {
        db.sql("DELETE FROM saga_commit").await?;
        let message = counted("CounterAdded", 1, content_type, payload);
        let id = append_after(&db, &Counter, vec![added(1); 7], message).await?;
        db.append(&stream_of(&Counter, "1"), 8, &[counted("CounterAdded", 1, JSON_CONTENT_TYPE, ONE_MORE)]).await?;
        check_undecodable(&db, &db.persister(), &Counter, (7, id, content_type)).await?;
    }
    Ok(())
}

async fn a_payload_over_the_limit_is_refused_and_one_at_the_limit_is_not<DB: Subject>(db: TestDb<DB>) -> Clause {
    let around = r#"{"NoteChanged":{"note":""}}"#.len();
    let (mut unit, before) = (db.unit(&Order, "1").await?, db.footprint().await?);
    assert_error!(unit.publish(note("x".repeat(MAX_MESSAGE_BYTES - around + 1))), Error::TooLarge { size, limit, .. } => {
        let limit_bytes = u64::try_from(MAX_MESSAGE_BYTES)?;
        assert_eq!((size, limit), (limit_bytes + 1, limit_bytes));
    });
    assert!(unit.recorded().is_empty() && unit.instance().data == OrderData::default());
    // An append is refused before any SQL: the stream has moved on, and that is not even noticed.
    let huge = counted("Happened", 1, JSON_CONTENT_TYPE, vec![b'1'; MAX_MESSAGE_BYTES + 1]);
    let refused = db.append(&stream_of(&Order, "1"), 99, &[huge]).await;
    assert_error!(refused, Error::TooLarge { .. });
    assert_eq!(db.footprint().await?, before);
    let largest = "x".repeat(MAX_MESSAGE_BYTES - around);
    unit.publish(note(largest.as_str()))?;
    assert!(db.save(unit).await?.is_changed());
    assert!(db.state(&Order, "1").await?.unwrap().0.note == largest);
    Ok(())
}

async fn snapshots_of_one_codec_are_used_under_another<DB: Subject>(db: TestDb<DB>) -> Clause {
    let often = |persister: Persister<DB>| persister.with_snapshot_frequency(SnapshotFrequency::every(2));
    let (json, bincode) = (often(writing_with(&db, Json)), often(writing_with(&db, Bincode)));
    let writers = [(&json, JSON_CONTENT_TYPE), (&bincode, BINCODE_CONTENT_TYPE), (&json, JSON_CONTENT_TYPE)];
    for (round, (writer, content_type)) in (1_u32..).zip(writers) {
        db.publish_by(writer, &Counter, "1", [added(1), added(10)]).await?;
        let snapshot = db.store().load_saga_snapshot(&mut *db.conn().await?, "counter", &instance("1")).await?.unwrap();
        assert_eq!((&*snapshot.content_type, snapshot.revision), (content_type, Revision::of(2 * round)));
        for reader in [&json, &bincode] {
            let unit = db.load_by(reader, &Counter, "1").await?;
            assert_eq!(unit.instance().data, i64::from(11 * round));
            assert_eq!(unit.load_report().snapshot, Some(Revision::of(2 * round)));
            assert_eq!((unit.load_report().replayed_events, unit.load_report().ignored_snapshot), (0, None));
        }
    }
    // The codec of one's own for snapshots only: who does not know it rebuilds the state from its events.
    let own = often(db.persister().with_codecs(Codecs::new(Arc::new(Json), Arc::new(Reversed))));
    db.publish_by(&own, &Counter, "1", [added(1), added(10)]).await?;
    let unit = db.load_by(&json, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.load_report().ignored_snapshot), (44, Some(SnapshotFault::Undecodable)));
    let unit = db.load_by(&own, &Counter, "1").await?;
    assert_eq!((unit.instance().data, unit.load_report().snapshot), (44, Some(Revision::of(8))));
    Ok(())
}
