//! Messages that cannot be delivered, or not yet.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::dispatcher::{AfterFailure, DeliveryRetry, MAX_LAST_ERROR_BYTES};
use sagastore::emitter::emitter_fn;
use sagastore::{NewOutboxRecord, OutboxRecord, OutboxRepository};
use tracing::Level;

use crate::harness::sample::{Counter, added, event, numbers};
use crate::harness::{Clause, Log, Sent, Subject, TestDb, amount, attempts, clauses, quick};

clauses! {
    one_that_fails_is_kept_with_its_error_and_its_stream_waits,
    what_failed_is_told_with_its_place_and_its_error,
    later_messages_may_pass_one_that_failed,
    a_message_is_the_same_at_every_attempt,
    a_wall_of_poison_does_not_starve_the_rest,
    a_record_without_a_saga_holds_up_its_aggregate_only,
    any_error_text_can_be_kept,
    a_wait_without_end_is_kept,
    without_its_table_nothing_is_lost,
}

/// After a failure, not again in this test.
fn later() -> DeliveryRetry {
    DeliveryRetry::new(5, 0, Duration::from_secs(600), Duration::from_secs(600), 0.0).unwrap()
}

async fn one_that_fails_is_kept_with_its_error_and_its_stream_waits<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for stream in 0..9 {
        db.publish(&Counter, &stream.to_string(), [added(1)]).await?;
    }
    db.publish(&Counter, "bad", [added(1), added(666), added(3)]).await?;
    db.publish(&Counter, "bad", [added(4)]).await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.refusing(|record| amount(record) == 666));
    let dispatcher = dispatcher.with_settings(quick().with_retry(later()));
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (10, 1, 0));
    assert_eq!(sent.of("bad"), [1]);
    let rows = db.rows("SELECT attempts, last_error FROM saga_outbox_message WHERE attempts > 0").await?;
    let row = rows.first().context("no failure was noted")?;
    assert_eq!((rows.len(), row[0].as_deref()), (1, Some("1")));
    ensure!(row[1].as_deref().is_some_and(|error| error.contains("poison")), "{row:?}");
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 0, "its stream does not wait");
    // What is committed later waits, too.
    db.publish(&Counter, "bad", [added(5)]).await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 0, "its stream does not wait");
    db.sql("UPDATE saga_outbox_message SET available_at = 0 WHERE attempts > 0").await?;
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 4);
    assert_eq!(sent.of("bad"), [1, 666, 3, 4, 5]);
    Ok(())
}

async fn what_failed_is_told_with_its_place_and_its_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "bad", [added(666)]).await?;
    let position = db.outbox().await?.first().context("nothing was recorded")?.id.to_string();
    let log = Log::catch(Level::WARN);
    let dispatcher = db.dispatcher(Sent::default().refusing(|_| true));
    let dispatched = dispatcher.with_settings(quick().with_retry(attempts(2))).dispatch_once().await?;
    assert_eq!((dispatched.failed, dispatched.dead), (1, 1));
    let place = ["aggregate_type=\"counter\"", "aggregate_id=\"bad\"", &format!("position={position}"), "poison"];
    for (level, attempt, what) in [("WARN", 1, "will be tried again"), ("ERROR", 2, "is a dead letter")] {
        let attempt = format!("attempts={attempt}");
        let lines = log.lines(&[level, what, &attempt]);
        assert_eq!(lines.len(), 1, "{what}");
        for text in place {
            ensure!(lines[0].contains(text), "{text} is missing: {}", lines[0]);
        }
    }
    Ok(())
}

async fn later_messages_may_pass_one_that_failed<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(666), added(3)]).await?;
    db.publish(&Counter, "a", [added(4)]).await?;
    let sent = Sent::default();
    let settings = quick().with_retry(later()).with_after_failure(AfterFailure::Skip);
    let dispatcher =
        db.dispatcher(sent.refusing(|record| amount(record) == 666 && record.attempts == 0)).with_settings(settings);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed), (3, 1));
    assert_eq!(sent.of("a"), [1, 3, 4]);
    db.sql("UPDATE saga_outbox_message SET available_at = 0").await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 1);
    assert_eq!(sent.of("a"), [1, 3, 4, 666]);
    Ok(())
}

async fn a_message_is_the_same_at_every_attempt<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(2), added(3)]).await?;
    db.save_records(&[NewOutboxRecord::new("account", "1", event(9))]).await?;
    let tries = Arc::<Mutex<Vec<OutboxRecord>>>::default();
    let seen = Arc::clone(&tries);
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let refused = record.attempts < 4;
        seen.lock().unwrap().push(record);
        async move { if refused { Err(std::io::Error::other("not yet")) } else { Ok(()) } }
    });
    let dispatcher = db.dispatcher(emitter).with_settings(quick().with_retry(attempts(5)));
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (4, 16, 0));
    let tries = tries.lock().unwrap();
    for first in tries.iter().filter(|record| record.attempts == 0) {
        let same: Vec<_> = tries.iter().filter(|record| record.id == first.id).collect();
        assert_eq!(same.iter().map(|record| record.attempts).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        for again in same {
            assert_eq!((&again.envelope, again.headers()), (&first.envelope, first.headers()));
            assert_eq!((&again.aggregate_type, &again.aggregate_id), (&first.aggregate_type, &first.aggregate_id));
        }
    }
    assert_eq!(tries.len(), 20);
    Ok(())
}

async fn a_wall_of_poison_does_not_starve_the_rest<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for stream in 0..50 {
        db.publish(&Counter, &format!("bad {stream}"), [added(666), added(1)]).await?;
        db.publish(&Counter, &format!("bad {stream}"), [added(2)]).await?;
    }
    for stream in 0..5 {
        db.publish(&Counter, &format!("good {stream}"), [added(1), added(2)]).await?;
    }
    let sent = Sent::default();
    let settings = quick().with_batch(10)?.with_workers(1)?.with_retry(later());
    let dispatcher = db.dispatcher(sent.refusing(|record| amount(record) == 666)).with_settings(settings.clone());
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed), (10, 50));
    // The same as dead letters.
    db.sql("UPDATE saga_outbox_message SET available_at = 0").await?;
    let dispatcher = db.dispatcher(sent.refusing(|record| amount(record) == 666));
    let dispatcher = dispatcher.with_settings(settings.with_retry(attempts(2)));
    db.publish(&Counter, "good 0", [added(3)]).await?;
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.dead), (1, 50));
    db.publish(&Counter, "good 0", [added(4)]).await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 1);
    assert_eq!(sent.of("good 0"), [1, 2, 3, 4]);
    Ok(())
}

async fn a_record_without_a_saga_holds_up_its_aggregate_only<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let record = |kind: &str, id: &str, number| NewOutboxRecord::new(kind, id, event(number));
    let (one, other) = (record("account", "1", 1), record("account", "2", 2));
    db.save_records(&[one, other, record("account", "1", 3), record("Account", "1", 4), record("account", "1 ", 5)])
        .await?;
    let sent = Sent::default();
    let refuse = |record: &OutboxRecord| numbers(std::slice::from_ref(record)) == [1];
    let dispatcher = db.dispatcher(sent.refusing(refuse)).with_settings(quick().with_retry(later()));
    let dispatched = dispatcher.dispatch_once().await?;
    let mut delivered = numbers(&sent.records());
    delivered.sort_unstable();
    assert_eq!((dispatched.failed, delivered), (1, vec![2, 4, 5]));
    db.sql("UPDATE saga_outbox_message SET available_at = 0").await?;
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 2);
    assert_eq!(numbers(&sent.records())[3..], [1, 3]);
    Ok(())
}

async fn any_error_text_can_be_kept<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let long = "\u{1F600}".repeat(MAX_LAST_ERROR_BYTES);
    for (stream, text) in ["a\0b", "", "'\"\\%\n", long.as_str()].into_iter().enumerate() {
        db.publish(&Counter, &stream.to_string(), [added(1)]).await?;
        let text = text.to_owned();
        let emitter = emitter_fn(move |_| {
            let text = text.clone();
            async move { Err::<(), _>(text) }
        });
        let dispatcher = db.dispatcher(emitter).with_settings(quick().with_retry(attempts(1)));
        let dispatched = dispatcher.dispatch_once().await?;
        assert_eq!(dispatched.dead, 1, "stream {stream}");
    }
    let letters = db.store().dead_letters(&mut *db.conn().await?, None, 10).await?;
    assert_eq!(letters.len(), 4);
    ensure!(letters.iter().all(|letter| letter.last_error.len() <= MAX_LAST_ERROR_BYTES));
    ensure!(letters[2].last_error.ends_with("'\"\\%\n"), "{}", letters[2].last_error);
    ensure!(letters[3].last_error.ends_with('\u{1F600}'));
    Ok(())
}

async fn a_wait_without_end_is_kept<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1)]).await?;
    let never = DeliveryRetry::new(5, 0, Duration::MAX, Duration::MAX, 0.0)?;
    let dispatcher = db.dispatcher(Sent::default().refusing(|_| true)).with_settings(quick().with_retry(never));
    assert_eq!(dispatcher.dispatch_once().await?.failed, 1);
    assert_eq!(dispatcher.dispatch_once().await?.failed, 0);
    Ok(())
}

async fn without_its_table_nothing_is_lost<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(666), added(2)]).await?;
    db.publish(&Counter, "b", [added(1)]).await?;
    let sent = Sent::default();
    let (refusing, away) = (sent.clone(), db.clone());
    // The table is put away while a batch is under way.
    let put_away = tokio::sync::Mutex::new(false);
    let put_away = Arc::new(put_away);
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let (refusing, away, put_away) = (refusing.clone(), away.clone(), Arc::clone(&put_away));
        async move {
            let mut put_away = put_away.lock().await;
            if !*put_away {
                away.sql("ALTER TABLE saga_outbox_message RENAME TO put_away_message").await?;
                *put_away = true;
            }
            if amount(&record) == 666 {
                anyhow::bail!("poison");
            }
            refusing.push(record);
            anyhow::Ok(())
        }
    });
    let dispatcher = db.dispatcher(emitter).with_settings(quick().with_retry(attempts(1)).with_workers(1)?);
    ensure!(dispatcher.dispatch_once().await.is_err(), "nobody was told");
    db.sql("ALTER TABLE put_away_message RENAME TO saga_outbox_message").await?;
    assert_eq!(db.outbox().await?.len(), 3, "all stay pending");
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 3);
    assert_eq!((sent.of("a"), sent.of("b")), (vec![666, 2], vec![1, 1]));
    Ok(())
}
