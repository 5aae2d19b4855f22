//! Emitters that misbehave.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::dispatcher::Dispatcher;
use sagastore::emitter::{Delivery, Emitter, emitter_fn};
use sagastore::{OutboxRecord, OutboxRepository};
use sqlx::pool::PoolOptions;

use crate::harness::sample::{Counter, added};
use crate::harness::{Clause, Mode, Relay, Sent, Subject, TestDb, amount, attempts, clauses, quick, until};

clauses! {
    a_panic_fails_the_message_that_it_is_about,
    a_panic_of_the_whole_call_fails_its_messages_and_the_dispatcher_goes_on,
    an_error_that_panics_when_it_is_shown_is_as_good_as_any,
    a_worker_that_panics_goes_on,
    a_message_that_is_never_reported_fails_in_time,
    a_message_that_is_dropped_fails,
    a_report_that_comes_late_changes_nothing,
    many_instant_reports_are_counted_exactly,
    no_connection_is_held_while_messages_are_published,
}

async fn a_panic_fails_the_message_that_it_is_about<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for amount in 0..10 {
        db.publish(&Counter, &amount.to_string(), [added(amount)]).await?;
    }
    let emitter = emitter_fn(async |record: OutboxRecord| {
        if amount(&record) == 5 {
            resume_unwind(Box::new("on purpose"));
        }
        Ok::<_, std::io::Error>(())
    });
    let dispatcher = db.dispatcher(emitter).with_settings(quick().with_retry(attempts(1)));
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.dead), (9, 1));
    Ok(())
}

/// What an emitter of its own does with a batch.
struct Own<F>(F);

#[async_trait::async_trait]
impl<F: Fn(Vec<Delivery>) + Send + Sync> Emitter for Own<F> {
    async fn emit(&self, batch: Vec<Delivery>) {
        (self.0)(batch);
    }
}

async fn a_panic_of_the_whole_call_fails_its_messages_and_the_dispatcher_goes_on<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    db.will_relay();
    for stream in 0..10 {
        db.publish(&Counter, &stream.to_string(), [added(1), added(2)]).await?;
    }
    let (sent, panics) = (Sent::default(), AtomicU32::new(0));
    let log = sent.clone();
    let emitter = Own(move |batch: Vec<Delivery>| {
        if panics.fetch_add(1, Ordering::Relaxed) < 3 {
            resume_unwind(Box::new("on purpose"));
        }
        for delivery in batch {
            log.push(delivery.record().clone());
            delivery.delivered();
        }
    });
    let relay = Relay::start(db.dispatcher(emitter).with_settings(quick().with_retry(attempts(10))));
    until("all messages", async || Ok(sent.len() >= 20)).await?;
    let dispatched = relay.stop().await?;
    assert_eq!(dispatched.delivered, 20);
    ensure!(dispatched.failed > 0);
    ensure!(sent.amounts().values().all(|amounts| *amounts == [1, 2]));
    Ok(())
}

/// An error that panics when it is shown; without the message of the panic hook, which would bury the results of the suite.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        resume_unwind(Box::new("on purpose"))
    }
}

impl std::error::Error for Unspeakable {}

/// It ended the worker, whose partitions stood still from then on, and the message never became a dead letter.
async fn an_error_that_panics_when_it_is_shown_is_as_good_as_any<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "bad", [added(666)]).await?;
    for stream in 0..10 {
        db.publish(&Counter, &stream.to_string(), [added(1), added(2)]).await?;
    }
    let sent = Sent::default();
    let log = sent.clone();
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let refused = amount(&record) == 666;
        if !refused {
            log.push(record);
        }
        async move { if refused { Err(Unspeakable) } else { Ok(()) } }
    });
    let settings = quick().with_workers(1)?.with_retry(attempts(3));
    let relay = Relay::start(db.dispatcher(emitter).with_settings(settings));
    let dead = "SELECT COUNT(*) FROM saga_outbox_message WHERE dead_at IS NOT NULL";
    until("all messages", async || Ok(sent.len() == 20 && db.count(dead).await? == 1)).await?;
    let dispatched = relay.stop().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (20, 2, 1));
    let letters = db.store().dead_letters(&mut *db.conn().await?, None, 10).await?;
    assert_eq!((letters.len(), letters[0].record.attempts), (1, 3));
    let text = &letters[0].last_error;
    ensure!(text.contains("the emitter reported an error") && text.contains("panicked"), "{text}");
    Ok(())
}

/// An error that panics when it is dropped, if it is to.
#[derive(Debug, thiserror::Error)]
#[error("poison")]
struct Explosive {
    is_live: bool,
}

impl Drop for Explosive {
    fn drop(&mut self) {
        if self.is_live {
            resume_unwind(Box::new("on purpose"));
        }
    }
}

/// Nobody noticed before the dispatcher was stopped, while its leases were renewed.
async fn a_worker_that_panics_goes_on<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for stream in 0..10 {
        db.publish(&Counter, &stream.to_string(), [added(1), added(2)]).await?;
    }
    let (sent, tries) = (Sent::default(), AtomicU32::new(0));
    let log = sent.clone();
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let refused = record.aggregate_id == "5" && tries.fetch_add(1, Ordering::Relaxed) < 2;
        if !refused {
            log.push(record);
        }
        async move { if refused { Err(Explosive { is_live: true }) } else { Ok(()) } }
    });
    let relay = Relay::start(db.dispatcher(emitter).with_settings(quick().with_workers(1)?));
    until("all messages", async || Ok(db.outbox().await?.is_empty())).await?;
    assert_eq!(relay.stop().await?.delivered, 20);
    assert_eq!(sent.of("5"), [1, 2], "what it panicked about was tried again");
    // What was sent with it was not acknowledged, and so came again.
    ensure!(sent.amounts().values().all(|amounts| amounts.ends_with(&[1, 2])), "{:?}", sent.amounts());
    assert_eq!(db.leases().await?, 0);
    Ok(())
}

async fn a_message_that_is_never_reported_fails_in_time<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(666), added(2)]).await?;
    db.publish(&Counter, "b", [added(3)]).await?;
    let kept = Arc::<Mutex<Vec<Delivery>>>::default();
    let keeper = Arc::clone(&kept);
    let emitter = Own(move |batch: Vec<Delivery>| {
        for delivery in batch {
            if amount(delivery.record()) == 666 {
                keeper.lock().unwrap().push(delivery);
            } else {
                delivery.delivered();
            }
        }
    });
    let settings = quick().with_retry(attempts(2)).with_emit_timeout(Duration::from_secs(1))?;
    let began = Instant::now();
    let dispatched = db.dispatcher(emitter).with_settings(settings).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (1, 1, 1));
    ensure!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    let error = db.rows("SELECT last_error FROM saga_outbox_message WHERE attempts > 0").await?;
    ensure!(error[0][0].as_deref().is_some_and(|error| error.contains("did not report in time")), "{error:?}");
    // Now that everything is decided, the reports come.
    std::mem::take(&mut *kept.lock().unwrap()).into_iter().for_each(Delivery::delivered);
    assert_eq!(db.outbox().await?.len(), 1, "the one behind the dead letter");
    Ok(())
}

async fn a_message_that_is_dropped_fails<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for stream in 0..3 {
        db.publish(&Counter, &stream.to_string(), [added(stream)]).await?;
    }
    let emitter = Own(|batch: Vec<Delivery>| {
        batch.into_iter().filter(|delivery| amount(delivery.record()) != 1).for_each(Delivery::delivered);
    });
    let began = Instant::now();
    let dispatcher = db.dispatcher(emitter).with_settings(quick().with_retry(attempts(1)));
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.dead), (2, 1));
    ensure!(began.elapsed() < Duration::from_secs(9), "it waited for the time limit");
    Ok(())
}

async fn a_report_that_comes_late_changes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "a", [added(1)]).await?;
    db.publish(&Counter, "slow", [added(2)]).await?;
    let emitter = emitter_fn(async |record: OutboxRecord| {
        let (late, all_the_while) = (Duration::from_secs(3), Duration::from_secs(4));
        // The first report comes after its time, while the batch is still under way.
        match (amount(&record), record.attempts) {
            (1, 0) => tokio::time::sleep(late).await,
            (2, 0) => tokio::time::sleep(all_the_while).await,
            _ => {}
        }
        Ok::<_, std::io::Error>(())
    });
    let settings = quick().with_retry(attempts(5)).with_emit_timeout(Duration::from_secs(1))?;
    let dispatched = db.dispatcher(emitter).with_settings(settings).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed), (2, 2));
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn many_instant_reports_are_counted_exactly<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for stream in 0..20 {
        for _ in 0..5 {
            db.publish(&Counter, &stream.to_string(), (0..10).map(added)).await?;
        }
    }
    let emitter = Own(|batch: Vec<Delivery>| {
        let reporting = batch.into_iter().map(|delivery| std::thread::spawn(move || delivery.delivered()));
        reporting.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    });
    let dispatched = db.dispatcher(emitter).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed), (1000, 0));
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn no_connection_is_held_while_messages_are_published<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for stream in 0..10 {
        db.publish(&Counter, &stream.to_string(), [added(1), added(2)]).await?;
    }
    // The only one.
    let pool = match db.mode() {
        Mode::SqliteMemory => db.pool().clone(),
        _ => PoolOptions::<DB>::new().max_connections(1).connect_with(db.home().options.clone()).await?,
    };
    let all = pool.clone();
    let emitter = emitter_fn(move |_: OutboxRecord| {
        let pool = all.clone();
        async move {
            let mut held = Vec::new();
            while held.len() < usize::try_from(pool.options().get_max_connections()).unwrap() {
                held.push(tokio::time::timeout(Duration::from_secs(10), pool.acquire()).await??);
            }
            anyhow::Ok(())
        }
    });
    let one_at_a_time = quick().with_workers(1)?.with_retry(attempts(1));
    let dispatched = Dispatcher::new(pool, emitter).with_settings(one_at_a_time).dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.dead), (20, 0));
    Ok(())
}
