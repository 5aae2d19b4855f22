//! Text and bytes from outside, in what is no stream and no message: taken and kept, or refused before any SQL. For those
//! see `bad_input`.

use std::io;
use std::sync::Arc;

use anyhow::{Context, ensure};
use sagastore::dispatcher::MAX_LAST_ERROR_BYTES;
use sagastore::emitter::emitter_fn;
use sagastore::lock::{ClientId, Lock, Namespace, ResourceId};
use sagastore::{CorrelationKey, Envelope, Error, Inbox, MessageId, MessageKind, OutboxRecord, OutboxRepository};

use crate::bad_input::ODD;
use crate::harness::booking::{Booking, book, call, customer_key, number_key};
use crate::harness::sample::{Counter, added};
use crate::harness::{
    Clause, HOUR, LONG_LEASE, Subject, TestDb, assert_error, attempts, clauses, client, obtain, quick, resource,
    stream_of,
};

clauses! {
    leases_of_any_characters_are_kept_apart: BASIC,
    inboxes_of_any_characters_are_kept_apart: BASIC,
    keys_of_any_characters_are_kept_apart: BASIC,
    timeouts_of_any_characters_are_kept_apart: BASIC,
    timeouts_of_any_characters_are_delivered_or_cancelled_when_they_are_due: BASIC,
    a_reason_of_any_characters_is_kept: BASIC,
    names_that_no_database_could_keep_are_refused: BASIC,
    json_that_nests_deep_or_has_numbers_out_of_range_is_refused_and_leaves_nothing: BASIC,
}

async fn leases_of_any_characters_are_kept_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let mut leases = Vec::new();
    for name in ODD {
        leases.push(obtain(&lock, name, name).await?);
        let named = db.lock(LONG_LEASE).with_namespace(Namespace::new(*name)?);
        obtain(&named, "r", name).await?;
    }
    for (name, lease) in ODD.iter().zip(&leases) {
        let held = lock.status(&resource(name)).await?.context("it is not there")?;
        assert_eq!(held.sequence, lease.sequence, "{name:?}");
        assert_eq!(held.client_id.as_ref().map(ClientId::as_str), Some(*name));
        ensure!(lock.obtain_no_wait(&resource(name), &client("other")).await?.is_held(), "{name:?}");
    }
    for lease in &leases {
        let mut tx = db.begin().await?;
        lease.as_fence().hold(&mut tx).await?;
        db.commit(tx).await?;
    }
    // One after the other: the rest stays held.
    let (last, others) = leases.split_last().context("no leases")?;
    for lease in others {
        ensure!(lock.release(lease).await?);
    }
    ensure!(lock.status(&last.resource_id).await?.context("it is gone")?.client_id.is_some());
    assert_eq!(db.leases().await?, 1 + i64::try_from(ODD.len())?);
    Ok(())
}

async fn inboxes_of_any_characters_are_kept_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let messages: Vec<_> = ODD.iter().map(|_| MessageId::new()).collect();
    let mut tx = db.begin().await?;
    for (name, message) in ODD.iter().zip(&messages) {
        ensure!(!Inbox::new(*name)?.receive(&mut tx, *message).await?.is_repeated(), "{name:?}");
        ensure!(Inbox::new(*name)?.receive(&mut tx, *message).await?.is_repeated(), "{name:?}");
    }
    db.commit(tx).await?;
    let mut conn = db.conn().await?;
    for (at, name) in ODD.iter().enumerate() {
        let inbox = Inbox::new(*name)?;
        for (other, message) in messages.iter().enumerate() {
            assert_eq!(
                inbox.has_received::<DB>(&mut conn, *message).await?,
                at == other,
                "{name:?} and {:?}",
                ODD[other]
            );
        }
    }
    Ok(())
}

async fn keys_of_any_characters_are_kept_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let handler = db.keyed(&Booking::default());
    for name in ODD {
        ensure!(handler.handle(db.pool(), &book(name, name)).await?.is_handled(), "{name:?}");
    }
    for name in ODD {
        let found = db.holder(&number_key(name)).await?.context("nobody has the key")?;
        assert_eq!(db.holder(&customer_key(name)).await?, Some(found), "{name:?}");
        ensure!(handler.handle(db.pool(), &call(name, name)).await?.is_handled());
        assert_eq!(db.notes(name).await?, [*name]);
    }
    Ok(())
}

async fn timeouts_of_any_characters_are_kept_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Counter, "1").await?;
    for (number, name) in ODD.iter().enumerate() {
        unit.schedule(name, &added(i64::try_from(number)?), HOUR)?;
    }
    ensure!(db.save(unit).await?.is_changed());
    let mut expected: Vec<_> = ODD.iter().copied().enumerate().collect();
    expected.sort_by_key(|(_, name)| name.as_bytes());
    let found = db.timeouts("1").await?;
    for (timeout, (number, name)) in found.iter().zip(&expected) {
        assert_eq!(timeout.name, *name);
        let payload: serde_json::Value = serde_json::from_slice(&timeout.message.payload)?;
        assert_eq!(payload["Added"]["amount"], *number, "{name:?}");
    }
    assert_eq!(found.len(), ODD.len());
    // One of them goes, and no other.
    let mut unit = db.unit(&Counter, "1").await?;
    unit.cancel_timeout("%")?;
    ensure!(db.save(unit).await?.is_changed());
    assert_eq!(db.timeouts("1").await?.len(), ODD.len() - 1);
    ensure!(!db.timeout_names("1").await?.contains(&"%".to_owned()));
    // Those that are there already are replaced.
    let mut unit = db.unit(&Counter, "1").await?;
    for name in ODD {
        unit.schedule(name, &added(1_000), HOUR)?;
    }
    ensure!(db.save(unit).await?.is_changed());
    for timeout in db.timeouts("1").await? {
        let payload: serde_json::Value = serde_json::from_slice(&timeout.message.payload)?;
        assert_eq!(payload["Added"]["amount"], 1_000, "{:?}", timeout.name);
    }
    let mut unit = db.unit(&Counter, "1").await?;
    for name in ODD {
        unit.cancel_timeout(name)?;
    }
    ensure!(db.save(unit).await?.is_changed());
    assert_eq!(db.timeout_names("1").await?, [""; 0]);
    Ok(())
}

async fn timeouts_of_any_characters_are_delivered_or_cancelled_when_they_are_due<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    db.will_relay();
    for cancelled in [false, true] {
        let mut unit = db.unit(&Counter, "1").await?;
        for name in ODD {
            unit.schedule(name, &added(1), HOUR)?;
        }
        ensure!(db.save(unit).await?.is_changed());
        db.let_an_hour_pass().await?;
        assert_eq!(db.release().await?, u64::try_from(ODD.len())?);
        assert_eq!(db.count("SELECT COUNT(*) FROM saga_timeout").await?, 0);
        if cancelled {
            let mut unit = db.unit(&Counter, "1").await?;
            for name in ODD {
                unit.cancel_timeout(name)?;
            }
            ensure!(db.save(unit).await?.is_changed());
        }
        let dispatcher = db.dispatcher(emitter_fn(async |_: OutboxRecord| Ok::<_, io::Error>(())));
        let mut delivered = 0;
        loop {
            match dispatcher.dispatch_once().await?.delivered {
                0 => break,
                count => delivered += usize::try_from(count)?,
            }
        }
        assert_eq!(delivered, if cancelled { 0 } else { ODD.len() });
    }
    Ok(())
}

async fn a_reason_of_any_characters_is_kept<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let reasons = ["a\0b\u{1b}[2J\u{9b}'; DROP TABLE saga_commit; --".to_owned(), "\u{1F600}".repeat(100_000)];
    for (number, reason) in reasons.iter().enumerate() {
        db.publish(&Counter, &number.to_string(), [added(1)]).await?;
        let reason: Arc<str> = reason.as_str().into();
        let emitter = emitter_fn(move |_: OutboxRecord| {
            let reason = io::Error::other(reason.to_string());
            async { Err::<(), _>(reason) }
        });
        let dispatcher = db.dispatcher(emitter).with_settings(quick().with_retry(attempts(1)));
        assert_eq!(dispatcher.dispatch_once().await?.dead, 1);
    }
    let letters = db.store().dead_letters(&mut *db.conn().await?, None, 10).await?;
    assert_eq!(letters.len(), 2);
    ensure!(letters[0].last_error.contains("b\u{1b}[2J\u{9b}'; DROP TABLE"), "{:?}", letters[0].last_error);
    let long = &letters[1].last_error;
    ensure!(long.ends_with('\u{1F600}') && long.len() <= MAX_LAST_ERROR_BYTES, "{} bytes", long.len());
    ensure!(long.len() > MAX_LAST_ERROR_BYTES - 4, "{} bytes", long.len());
    Ok(())
}

async fn names_that_no_database_could_keep_are_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let mut unit = db.unit(&Counter, "1").await?;
    for bad in ["", "\0", "a\0b", &"x".repeat(100_000), &"\u{1F600}".repeat(10_000)] {
        assert_error!(Namespace::new(bad), Error::InvalidInput { .. });
        assert_error!(ResourceId::new(bad), Error::InvalidInput { .. });
        assert_error!(ClientId::new(bad), Error::InvalidInput { .. });
        assert_error!(Inbox::new(bad), Error::InvalidInput { .. });
        assert_error!(unit.schedule(bad, &added(1), HOUR), Error::InvalidInput { .. });
        assert_error!(unit.cancel_timeout(bad), Error::InvalidInput { .. });
        // No part of a key is empty by mistake; one that is long or has a NUL is refused.
        if !bad.is_empty() {
            assert_error!(CorrelationKey::of([bad]), Error::InvalidInput { .. });
        }
    }
    assert_eq!(unit.recorded(), []);
    assert_eq!(db.leases().await?, 0);
    Ok(())
}

/// What is no booking, and no event of a counter.
fn wrong_json() -> Vec<String> {
    let nested = |open: &str, close: &str| open.repeat(10_000) + &close.repeat(10_000);
    vec![
        nested("[", "]"),
        format!("{{\"Added\":{{\"amount\":{}}}}}", nested("[", "]")),
        format!("{{\"Book\":{{\"number\":{},\"customer\":\"a\"}}}}", nested("{\"a\":", "}").replace(":}", ":1}")),
        "{\"Added\":{\"amount\":9223372036854775808}}".to_owned(),
        "{\"Added\":{\"amount\":1e999}}".to_owned(),
        "{\"Added\":{\"amount\":-1e19}}".to_owned(),
        "{\"Added\":{\"amount\":1.5}}".to_owned(),
        "{\"Added\":{\"amount\":NaN}}".to_owned(),
        "{\"Book\":{\"number\":\"\\ud800\",\"customer\":\"a\"}}".to_owned(),
        "\u{feff}{}".to_owned(),
        String::new(),
    ]
}

async fn json_that_nests_deep_or_has_numbers_out_of_range_is_refused_and_leaves_nothing<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    // Events are put beside the units of work, without a mark in the outbox.
    db.will_relay();
    let (direct, keyed) = (db.direct(&Booking::default()), db.keyed(&Booking::default()));
    let invalid_utf8 = b"{\"Book\":{\"number\":\"\xff\xfe\",\"customer\":\"a\"}}".to_vec();
    let payloads: Vec<Vec<u8>> = wrong_json().into_iter().map(String::into_bytes).chain([invalid_utf8]).collect();
    let before = db.footprint().await?;
    for payload in &payloads {
        let tag = sagastore::MessageType::message_type(&book_message());
        let message = Envelope::new(MessageKind::Command, tag.name, tag.version, "application/json", payload.clone())?;
        for handler in [&direct, &keyed] {
            assert_error!(handler.handle(db.pool(), &message).await, Error::UndecodableMessage { .. });
        }
    }
    assert_eq!(db.footprint().await?, before);
    for (number, payload) in payloads.into_iter().enumerate() {
        let id = number.to_string();
        db.publish(&Counter, &id, [added(1)]).await?;
        let event = Envelope::new(MessageKind::Event, "CounterAdded", 1, "application/json", payload)?;
        db.append(&stream_of(&Counter, &id), 1, &[event]).await?;
        assert_error!(db.unit(&Counter, &id).await.map(drop), Error::Undecodable { .. });
    }
    db.publish(&Counter, "good", [added(1)]).await?;
    assert_eq!(db.state(&Counter, "good").await?, Some((1, 1)));
    Ok(())
}

fn book_message() -> crate::harness::booking::BookingMessage {
    crate::harness::booking::BookingMessage::Book { number: "1".to_owned(), customer: "1".to_owned() }
}
