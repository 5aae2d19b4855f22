//! Relaying messages: each one, in order per stream, once if nothing fails.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::dispatcher::{DeliveryRetry, Dispatched, Dispatcher, DispatcherSettings};
use sagastore::emitter::{Emitter, emitter_fn};
use sagastore::{DeadLetters, OutboxRecord, OutboxRepository, OutboxWaker};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, Subject, TestDb, clauses, until};

clauses! {
    what_is_pending_is_delivered_once_and_leaves_the_outbox,
    a_message_that_fails_holds_up_its_stream_and_no_other,
    several_dispatchers_share_the_work_and_keep_the_order: SEVERAL_CONNECTIONS,
    a_commit_wakes_the_dispatcher_at_once,
}

/// What was delivered, in order.
type Log = Arc<Mutex<Vec<OutboxRecord>>>;

fn recording(log: &Log) -> impl Emitter + 'static {
    let log = Arc::clone(log);
    emitter_fn(move |record: OutboxRecord| {
        let log = Arc::clone(&log);
        async move {
            log.lock().unwrap().push(record);
            Ok::<_, std::io::Error>(())
        }
    })
}

/// The amounts that were delivered, by instance.
fn by_instance(log: &Log) -> HashMap<String, Vec<i64>> {
    let mut amounts: HashMap<_, Vec<_>> = HashMap::new();
    for record in log.lock().unwrap().iter() {
        let payload: serde_json::Value = serde_json::from_slice(record.payload()).unwrap();
        let amount = payload["Added"]["amount"].as_i64().unwrap();
        amounts.entry(record.aggregate_id.clone()).or_default().push(amount);
    }
    amounts
}

async fn what_is_pending_is_delivered_once_and_leaves_the_outbox<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for amount in 0..10 {
        db.publish(&Counter, "a", [added(amount)]).await?;
    }
    let log = Log::default();
    let dispatcher = Dispatcher::new(db.pool().clone(), recording(&log));
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 10);
    assert_eq!(by_instance(&log)["a"], (0..10).collect::<Vec<_>>());
    assert_eq!(dispatcher.dispatch_once().await?, Dispatched::default());
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn a_message_that_fails_holds_up_its_stream_and_no_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for amount in 0..5 {
        db.publish(&Counter, "bad", [added(amount), added(amount + 100)]).await?;
        db.publish(&Counter, "good", [added(amount)]).await?;
    }
    let (log, poisoned) = (Log::default(), Arc::new(Mutex::new(HashSet::from([101_i64]))));
    let (seen, poison) = (Arc::clone(&log), Arc::clone(&poisoned));
    let emitter = emitter_fn(move |record: OutboxRecord| {
        let payload: serde_json::Value = serde_json::from_slice(record.payload()).unwrap();
        let bad = poison.lock().unwrap().contains(&payload["Added"]["amount"].as_i64().unwrap());
        let bad = bad && record.aggregate_id == "bad";
        if !bad {
            seen.lock().unwrap().push(record);
        }
        async move { if bad { Err(std::io::Error::other("poison")) } else { Ok(()) } }
    });
    let retry = DeliveryRetry::new(3, 2, Duration::ZERO, Duration::ZERO, 0.0)?;
    let settings = DispatcherSettings::default().with_retry(retry);
    let dispatcher = Dispatcher::new(db.pool().clone(), emitter).with_settings(settings);
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (5 + 3, 2, 1));
    let delivered = by_instance(&log);
    assert_eq!(delivered["good"], [0, 1, 2, 3, 4]);
    assert_eq!(delivered["bad"], [0, 100, 1]);

    let store = db.store();
    let letters = store.dead_letters(&mut *db.conn().await?, None, 10).await?;
    let letter = letters.first().context("no dead letter")?;
    assert_eq!((letters.len(), letter.record.attempts), (1, 3));
    ensure!(letter.last_error.contains("poison"), "{}", letter.last_error);
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 0, "the stream does not wait behind its dead letter");

    poisoned.lock().unwrap().clear();
    let mut tx = db.begin().await?;
    assert_eq!(store.retry_dead_letters(&mut tx, DeadLetters::One(letter.record.id)).await?, 1);
    tx.commit().await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 7);
    assert_eq!(by_instance(&log)["bad"], [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]);
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn several_dispatchers_share_the_work_and_keep_the_order<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let instances = 40;
    for amount in 0..5 {
        for number in 0..instances {
            db.publish(&Counter, &number.to_string(), [added(amount)]).await?;
        }
    }
    let (log, waker) = (Log::default(), OutboxWaker::new());
    let settings = DispatcherSettings::default().with_dispatchers(4)?.with_batch(7)?;
    let settings = settings.with_poll_interval(Duration::from_millis(100))?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running: Vec<_> = (0..4)
        .map(|_| {
            let dispatcher = Dispatcher::new(db.pool().clone(), recording(&log));
            let dispatcher = dispatcher.with_settings(settings.clone()).with_waker(waker.clone());
            let mut stopped = stopped.clone();
            tokio::spawn(async move {
                dispatcher.run(async move { stopped.wait_for(|stop| *stop).await.map(drop).unwrap() }).await
            })
        })
        .collect();
    until("all messages", async || Ok(log.lock().unwrap().len() >= 5 * instances)).await?;
    stop.send_replace(true);
    let mut delivered = 0;
    for running in running {
        delivered += running.await?.delivered;
    }
    assert_eq!(usize::try_from(delivered)?, 5 * instances);
    let by_instance = by_instance(&log);
    assert_eq!(by_instance.len(), instances);
    ensure!(by_instance.values().all(|amounts| *amounts == [0, 1, 2, 3, 4]), "{by_instance:?}");
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn a_commit_wakes_the_dispatcher_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (log, waker) = (Log::default(), OutboxWaker::new());
    let settings = DispatcherSettings::default().with_poll_interval(Duration::from_secs(600))?;
    let dispatcher = Dispatcher::new(db.pool().clone(), recording(&log));
    let dispatcher = dispatcher.with_settings(settings).with_waker(waker.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { dispatcher.run(async move { drop(stopped.await) }).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let persister = db.persister().with_waker(waker);
    let unit = |unit: &mut sagastore::UnitOfWork<'_, Counter>| unit.publish(added(1)).map(drop);
    let _ = persister.execute(db.pool(), &Counter, &instance("a"), None, unit).await?;
    until("the message", async || Ok(!log.lock().unwrap().is_empty())).await?;
    drop(stop);
    assert_eq!(running.await?.delivered, 1);
    Ok(())
}
