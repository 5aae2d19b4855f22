//! Relaying messages: each one, in order per stream, once if nothing fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::dispatcher::{Dispatched, DispatcherSettings};
use sagastore::emitter::{Delivery, Emitter};
use sagastore::{NewOutboxRecord, OutboxRepository, OutboxWaker, Timestamp};

use crate::harness::sample::{Counter, added, event, instance, numbers};
use crate::harness::{Clause, Relay, Sent, Subject, TestDb, clauses, quick, until};

clauses! {
    what_is_pending_is_delivered_once_and_leaves_the_outbox,
    batches_are_no_larger_than_asked_for_and_hold_one_record_of_a_stream,
    records_of_all_kinds_are_delivered,
    a_message_is_not_delivered_before_it_is_due,
    a_commit_wakes_the_dispatcher_at_once,
    a_dispatcher_that_nobody_wakes_looks_by_itself,
    two_passes_at_once_deliver_everything_once: SEVERAL_CONNECTIONS,
    a_pass_that_takes_longer_than_its_leases_delivers_everything,
    a_pass_ends_however_much_is_recorded_meanwhile,
}

async fn what_is_pending_is_delivered_once_and_leaves_the_outbox<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for amount in 0..10 {
        db.publish(&Counter, "a", [added(amount)]).await?;
    }
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter());
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 10);
    assert_eq!(sent.of("a"), (0..10).collect::<Vec<_>>());
    assert_eq!(dispatcher.dispatch_once().await?, Dispatched::default());
    ensure!(db.outbox().await?.is_empty());
    assert_eq!(db.leases().await?, 0, "its share was handed back");
    Ok(())
}

/// Delivers everything, and notes the batches.
struct Batches(Arc<Mutex<Vec<Vec<String>>>>);

#[async_trait::async_trait]
impl Emitter for Batches {
    async fn emit(&self, batch: Vec<Delivery>) {
        let ids = batch.iter().map(|delivery| delivery.record().aggregate_id.clone()).collect();
        self.0.lock().unwrap().push(ids);
        batch.into_iter().for_each(Delivery::delivered);
    }
}

async fn batches_are_no_larger_than_asked_for_and_hold_one_record_of_a_stream<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let record = |number: u32| NewOutboxRecord::new("account", number.to_string(), event(number));
    db.save_records(&(0..101).map(record).collect::<Vec<_>>()).await?;
    let batches = Arc::<Mutex<Vec<_>>>::default();
    let settings = quick().with_batch(10)?.with_workers(1)?;
    let dispatcher = db.dispatcher(Batches(Arc::clone(&batches))).with_settings(settings);
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 101);
    let sizes: Vec<usize> = std::mem::take(&mut *batches.lock().unwrap()).iter().map(Vec::len).collect();
    assert_eq!(sizes, [vec![10; 10], vec![1]].concat());

    for amount in 0..5 {
        db.publish(&Counter, "a", [added(amount), added(amount)]).await?;
        db.publish(&Counter, "b", [added(amount)]).await?;
    }
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 15);
    for mut batch in std::mem::take(&mut *batches.lock().unwrap()) {
        let all = batch.len();
        batch.sort_unstable();
        batch.dedup();
        assert_eq!(batch.len(), all, "two records of one stream were under way");
    }
    Ok(())
}

async fn records_of_all_kinds_are_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.publish(&Counter, "left over", (0..6).map(added)).await?;
    db.publish(&Counter, "left over", [added(6)]).await?;
    let records = db.outbox().await?;
    let by_hand: Vec<_> = [0, 3].into_iter().map(|at: usize| records[at].id).collect();
    let mut tx = db.begin().await?;
    assert_eq!(db.store().delete_in_batches(&mut tx, 10, &by_hand).await?, 2);
    db.commit(tx).await?;
    for amount in 0..3 {
        db.publish(&Counter, "whole", [added(amount)]).await?;
    }
    let sent = Sent::default();
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 5 + 3);
    assert_eq!(sent.of("left over"), [1, 2, 4, 5, 6]);
    assert_eq!(sent.of("whole"), [0, 1, 2]);

    // As many aggregates as to be in all partitions.
    let record = |number: u32| NewOutboxRecord::new("account", (number % 200).to_string(), event(number));
    db.save_records(&(0..400).map(record).collect::<Vec<_>>()).await?;
    let sent = Sent::default();
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 400);
    let records = sent.records();
    for aggregate in 0..200_u32 {
        let of_it: Vec<_> =
            records.iter().filter(|record| record.aggregate_id == aggregate.to_string()).cloned().collect();
        assert_eq!(numbers(&of_it), [aggregate, aggregate + 200]);
    }
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn a_message_is_not_delivered_before_it_is_due<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let hour = 3_600_000_000;
    let due_at = Some(Timestamp::from_micros(Timestamp::now().as_micros() + hour));
    let record = |number, due_at| NewOutboxRecord { due_at, ..NewOutboxRecord::new("account", "1", event(number)) };
    db.save_records(&[record(1, due_at), record(2, None)]).await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter());
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 1);
    assert_eq!(dispatcher.dispatch_once().await?, Dispatched::default());
    assert_eq!(db.sql(format!("UPDATE saga_outbox_message SET available_at = available_at - {hour}")).await?, 1);
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 1);
    assert_eq!(numbers(&sent.records()), [2, 1]);
    Ok(())
}

async fn a_commit_wakes_the_dispatcher_at_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (sent, waker) = (Sent::default(), OutboxWaker::new());
    let settings = DispatcherSettings::default().with_poll_interval(Duration::from_secs(600))?;
    let relay = Relay::start(db.dispatcher(sent.emitter()).with_settings(settings).with_waker(waker.clone()));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let persister = db.persister().with_waker(waker);
    let unit = |unit: &mut sagastore::UnitOfWork<'_, Counter>| unit.publish(added(1)).map(drop);
    let _ = persister.execute(db.pool(), &Counter, &instance("a"), None, unit).await?;
    until("the message", async || Ok(sent.len() > 0)).await?;
    assert_eq!(relay.stop().await?.delivered, 1);
    Ok(())
}

async fn a_dispatcher_that_nobody_wakes_looks_by_itself<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let relay = Relay::start(db.dispatcher(sent.emitter()));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    db.publish(&Counter, "a", [added(1)]).await?;
    until("the message", async || Ok(sent.len() > 0)).await?;
    assert_eq!(relay.stop().await?.delivered, 1);
    Ok(())
}

async fn two_passes_at_once_deliver_everything_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for number in 0..30 {
        db.publish(&Counter, &number.to_string(), [added(1), added(2)]).await?;
    }
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter()).with_settings(quick().with_dispatchers(4)?);
    let others = db.dispatcher(sent.emitter()).with_settings(quick().with_dispatchers(4)?);
    let passes = tokio::join!(dispatcher.dispatch_once(), dispatcher.dispatch_once(), others.dispatch_once());
    let mut delivered = passes.0?.delivered + passes.1?.delivered + passes.2?.delivered;
    // Each relays its share only, and some of it may have been another's at the time.
    delivered += dispatcher.dispatch_once().await?.delivered;
    assert_eq!((delivered, sent.len()), (60, 60));
    ensure!(sent.amounts().values().all(|amounts| *amounts == [1, 2]));
    assert_eq!(db.leases().await?, 0);
    Ok(())
}

async fn a_pass_that_takes_longer_than_its_leases_delivers_everything<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    for amount in 0..8 {
        db.publish(&Counter, "a", [added(amount)]).await?;
    }
    let sent = Sent::default();
    let log = sent.clone();
    let slow = sagastore::emitter::emitter_fn(move |record: sagastore::OutboxRecord| {
        let log = log.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(600)).await;
            log.push(record);
            Ok::<_, std::io::Error>(())
        }
    });
    let settings = quick().with_lease(Duration::from_secs(3))?.with_batch(2)?;
    let dispatched = db.dispatcher(slow).with_settings(settings).dispatch_once().await?;
    assert_eq!(dispatched.delivered, 8);
    assert_eq!(sent.of("a"), (0..8).collect::<Vec<_>>());
    Ok(())
}

/// Records a message in each lane, and a timeout that is due at once.
async fn record_more<DB: Subject>(db: &TestDb<DB>, number: u32) -> anyhow::Result<()> {
    db.save_records(&[NewOutboxRecord::new("account", number.to_string(), event(number))]).await?;
    db.publish(&Counter, &number.to_string(), [added(1)]).await?;
    db.schedule(&number.to_string(), &number.to_string(), 1, Duration::ZERO).await?;
    Ok(())
}

/// A job that was to relay what is there, and to end, went on for as long as others recorded more.
async fn a_pass_ends_however_much_is_recorded_meanwhile<DB: Subject>(db: TestDb<DB>) -> Clause {
    const PENDING: u32 = 4;
    db.will_relay();
    for number in 0..PENDING {
        record_more(&db, number).await?;
    }
    // Each delivery leads to more.
    let (producer, recorded) = (db.clone(), Arc::new(tokio::sync::Mutex::new(PENDING)));
    let emitter = sagastore::emitter::emitter_fn(move |_: sagastore::OutboxRecord| {
        let (db, recorded) = (producer.clone(), Arc::clone(&recorded));
        async move {
            let mut recorded = recorded.lock().await;
            record_more(&db, *recorded).await?;
            *recorded += 1;
            anyhow::Ok(())
        }
    });
    let dispatcher =
        db.dispatcher(emitter).with_settings(quick().with_workers(1)?.with_emit_timeout(Duration::from_secs(15))?);
    let pass = tokio::time::timeout(Duration::from_secs(60), dispatcher.dispatch_once()).await;
    let dispatched = pass.context("it goes on for ever")??;
    ensure!(dispatched.delivered >= u64::from(PENDING) * 3, "{dispatched:?}: what was there is not delivered");
    assert_eq!((dispatched.failed, dispatched.dead), (0, 0));
    let rest = db.dispatcher(Sent::default().emitter()).dispatch_once().await?.delivered;
    assert_eq!(rest, dispatched.delivered * 3, "the rest is delivered by the next one");
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}
