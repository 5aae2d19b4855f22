//! Emitters that are slow, and when a dispatcher looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::dispatcher::{AfterFailure, DeliveryRetry};
use sagastore::emitter::{ChannelEmitter, Delivery, DeliveryReceiver, Emitter, emitter_fn};
use sagastore::{Handlers, OutboxRecord};

use crate::harness::sample::{Counter, added};
use crate::harness::{Clause, Relay, Sent, Subject, TestDb, amount, attempts, clauses, quick, until};

clauses! {
    a_receiver_that_is_slower_than_the_dispatcher_gets_all_in_its_time,
    what_waits_in_a_full_channel_is_sent_once,
    what_handlers_pass_on_has_its_time_where_it_is_passed_on_to,
    messages_that_the_emitter_never_begins_cost_no_attempt,
    a_stream_of_slow_messages_holds_up_no_other_for_long,
    a_retry_comes_when_it_is_due_however_rarely_the_outbox_is_looked_at,
    a_round_that_failed_is_tried_again_soon,
}

const LIMIT: Duration = Duration::from_millis(200);

/// Takes 20 ms for each message that comes by this channel; `emitter` leads to it.
async fn relay_slowly<DB: Subject, E: Emitter + 'static>(
    db: &TestDb<DB>,
    emitter: E,
    mut received: DeliveryReceiver,
) -> Clause {
    db.will_relay();
    for stream in 0..100 {
        db.publish(&Counter, &stream.to_string(), [added(stream)]).await?;
    }
    let sent = Sent::default();
    let log = sent.clone();
    let receiver = tokio::spawn(async move {
        while let Some(delivery) = received.recv().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
            log.push(delivery.record().clone());
            delivery.delivered();
        }
    });
    let settings = quick().with_workers(1)?.with_retry(attempts(3)).with_emit_timeout(5 * LIMIT)?;
    let dispatched = db.dispatcher(emitter).with_settings(settings).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (100, 0, 0));
    assert_eq!(sent.len(), 100, "some were sent twice");
    ensure!(db.outbox().await?.is_empty());
    receiver.await?;
    Ok(())
}

/// Most of its backlog became dead letters: the time of all that was handed over began at once.
async fn a_receiver_that_is_slower_than_the_dispatcher_gets_all_in_its_time<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (emitter, received) = ChannelEmitter::new(1);
    relay_slowly(&db, emitter, received).await
}

async fn what_waits_in_a_full_channel_is_sent_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (emitter, received) = ChannelEmitter::new(1000);
    relay_slowly(&db, emitter, received).await
}

async fn what_handlers_pass_on_has_its_time_where_it_is_passed_on_to<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (emitter, received) = ChannelEmitter::new(1000);
    relay_slowly(&db, Handlers::new(db.pool().clone()).others_to(emitter), received).await
}

/// Keeps what it was given, and looks at none of it.
struct Idle;

#[async_trait::async_trait]
impl Emitter for Idle {
    async fn emit(&self, batch: Vec<Delivery>) {
        std::future::pending::<()>().await;
        drop(batch);
    }
}

async fn messages_that_the_emitter_never_begins_cost_no_attempt<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1), added(2)]).await?;
    let settings = quick().with_retry(attempts(1)).with_emit_timeout(LIMIT)?;
    let dispatched = db.dispatcher(Idle).with_settings(settings).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (0, 0, 0));
    let sent = Sent::default();
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 2);
    assert_eq!(sent.of("a"), [1, 2]);
    Ok(())
}

/// How many messages of one stream each take as long as they may.
const SLOW: u32 = 60;

/// Each message of the stream had the whole limit in turn, and all others of the worker waited for the last.
async fn a_stream_of_slow_messages_holds_up_no_other_for_long<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for number in 0..SLOW {
        db.publish(&Counter, "slow", [added(number.into())]).await?;
    }
    let sent = Sent::default();
    let log = sent.clone();
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let log = log.clone();
        async move {
            let is_slow = record.aggregate_id == "slow";
            log.push(record);
            if is_slow {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::io::Error>(())
        }
    });
    let never = Duration::from_secs(600);
    let settings = quick().with_workers(1)?.with_emit_timeout(LIMIT)?.with_after_failure(AfterFailure::Skip);
    let settings = settings.with_retry(DeliveryRetry::new(5, 0, never, never, 0.0)?);
    let relay = Relay::start(db.dispatcher(emitter).with_settings(settings));
    until("the first message", async || Ok(sent.len() > 0)).await?;
    let began = Instant::now();
    db.publish(&Counter, "a", [added(1)]).await?;
    until("the message of the other stream", async || Ok(sent.of("a") == [1])).await?;
    ensure!(began.elapsed() < LIMIT * SLOW / 2, "it took {:?}", began.elapsed());
    relay.stop().await?;
    Ok(())
}

/// As by default for a program that is woken.
fn rarely() -> sagastore::dispatcher::DispatcherSettings {
    quick().with_poll_interval(Duration::from_secs(600)).unwrap()
}

/// Starts to relay once the dispatcher has its share, and tells how long one message took.
async fn relay_one<DB: Subject>(
    db: &TestDb<DB>,
    emitter: impl Emitter + 'static,
    sent: &Sent,
) -> anyhow::Result<Duration> {
    let delay = Duration::from_millis(100);
    let settings = rarely().with_retry(DeliveryRetry::new(5, 0, delay, delay, 0.0)?);
    db.publish(&Counter, "a", [added(1)]).await?;
    let began = Instant::now();
    let relay = Relay::start(db.dispatcher(emitter).with_settings(settings));
    until("the message", async || Ok(sent.len() > 0)).await?;
    let took = began.elapsed();
    assert_eq!(relay.stop().await?.delivered, 1);
    Ok(took)
}

/// It waited for the next look.
async fn a_retry_comes_when_it_is_due_however_rarely_the_outbox_is_looked_at<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let took = relay_one(&db, sent.refusing(|record| record.attempts == 0), &sent).await?;
    ensure!(took < Duration::from_secs(15), "it took {took:?}");
    Ok(())
}

async fn a_round_that_failed_is_tried_again_soon<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (sent, away, rounds) = (Sent::default(), db.clone(), Arc::new(AtomicU32::new(0)));
    let log = sent.clone();
    // The failure of the first delivery finds no table to be noted in.
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let (log, away, round) = (log.clone(), away.clone(), rounds.fetch_add(1, Ordering::Relaxed));
        async move {
            if round > 0 {
                log.push(record);
                return anyhow::Ok(());
            }
            away.sql("ALTER TABLE saga_outbox_message RENAME TO put_away_message").await?;
            let back = away.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                back.sql("ALTER TABLE put_away_message RENAME TO saga_outbox_message").await
            });
            anyhow::bail!("{}", amount(&record))
        }
    });
    let took = relay_one(&db, emitter, &sent).await?;
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    Ok(())
}
