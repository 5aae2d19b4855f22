//! Timeouts on their way from their table to the emitter.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::dispatcher::{DeliveryRetry, Dispatched, Dispatcher, DispatcherSettings};
use sagastore::{DeadLetters, Due, MessageStore, OutboxRepository, OutboxWaker, Timestamp};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{
    Clause, HOUR, Relay, Sent, Subject, TestDb, amount, attempts, clauses, cut_after, quick, scaled, until,
};

clauses! {
    it_is_delivered_when_it_is_due_and_not_before: BASIC,
    they_are_delivered_in_the_order_in_which_they_are_due,
    a_failed_message_holds_up_timeouts_that_become_due_after_it: FUSED,
    a_failed_timeout_holds_up_what_is_recorded_after_it_was_due: FUSED,
    one_that_fails_is_tried_again_and_becomes_a_dead_letter,
    its_acknowledgement_is_not_taken_for_that_of_its_commit: FUSED,
    an_idle_dispatcher_wakes_when_one_is_due,
    an_idle_dispatcher_learns_of_new_ones_by_polling,
    any_number_that_is_due_at_once_is_delivered,
    two_dispatchers_deliver_each_once: SEVERAL_CONNECTIONS,
    several_who_hand_over_at_once_hand_over_each_once: SEVERAL_CONNECTIONS,
    what_another_has_locked_holds_up_none_of_the_others: SERVERS,
    a_dispatcher_that_is_dropped_at_any_step_loses_none: SEVERAL_CONNECTIONS,
    one_that_is_cancelled_while_it_becomes_due_is_gone_or_delivered: SEVERAL_CONNECTIONS,
    a_look_costs_the_same_however_many_are_pending,
}

async fn it_is_delivered_when_it_is_due_and_not_before<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let id = db.schedule("a", "t", 5, HOUR).await?;
    let listed = db.timeouts("a").await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter());
    assert_eq!(dispatcher.dispatch_once().await?, Dispatched::default());
    db.sql("UPDATE saga_timeout SET due_at = due_at - 3540000000").await?;
    assert_eq!(dispatcher.dispatch_once().await?, Dispatched::default(), "it is not due for a minute");
    db.let_an_hour_pass().await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 1);
    assert_eq!(dispatcher.dispatch_once().await?, Dispatched::default());
    let records = sent.records();
    let message = &records[0].envelope;
    assert_eq!((message.message_id, records[0].aggregate_type.as_str(), sent.of("a")), (id, "counter", vec![5]));
    assert_eq!((&message.metadata, &message.payload), (&listed[0].message.metadata, &listed[0].message.payload));
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_timeout").await?, 0);
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn they_are_delivered_in_the_order_in_which_they_are_due<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let now = Timestamp::now().as_micros();
    let at = |minutes: i64| Due::At(Timestamp::from_micros(now + minutes * 60_000_000));
    let mut unit = db.unit(&Counter, "a").await?;
    for (name, amount, minutes) in [("c", 30, 3), ("a", 10, 1), ("later", 40, 90), ("b", 20, 2), ("b2", 21, 2)] {
        unit.schedule(name, &added(amount), at(minutes))?;
    }
    assert!(db.save(unit).await?.is_changed());
    let mut unit = db.unit(&Counter, "a").await?;
    unit.schedule("z", &added(15), at(1) /* and a later unit of work */)?;
    assert!(db.save(unit).await?.is_changed());
    db.let_an_hour_pass().await?;
    // As if what is past had become due after it was scheduled.
    db.sql("UPDATE saga_timeout SET scheduled_at = 0").await?;
    let sent = Sent::default();
    // Handed over one by one.
    let settings = quick().with_batch(1)?.with_workers(1)?;
    assert_eq!(db.dispatcher(sent.emitter()).with_settings(settings).dispatch_once().await?.delivered, 5);
    assert_eq!(sent.of("a"), [10, 15, 20, 21, 30]);
    Ok(())
}

/// After a failure, not again in this test.
fn later() -> DeliveryRetry {
    DeliveryRetry::new(5, 0, Duration::from_secs(600), Duration::from_secs(600), 0.0).unwrap()
}

/// A dispatcher to whom this amount is poison, and what it delivered.
fn poisoned<DB: Subject>(db: &TestDb<DB>, poison: i64, retry: DeliveryRetry) -> (Dispatcher<DB>, Sent) {
    let sent = Sent::default();
    let emitter = sent.refusing(move |record| amount(record) == poison);
    (db.dispatcher(emitter).with_settings(quick().with_retry(retry)), sent)
}

/// All timeouts are due now, and later than what was recorded so far.
async fn due_after_all_commits<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<()> {
    db.sql("UPDATE saga_timeout SET due_at = (SELECT MAX(recorded_at) + 1 FROM saga_commit)").await?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

async fn a_failed_message_holds_up_timeouts_that_become_due_after_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.schedule("a", "t", 1, HOUR).await?;
    db.publish(&Counter, "a", [added(666)]).await?;
    db.schedule("b", "t", 2, Duration::ZERO).await?;
    let (dispatcher, sent) = poisoned(&db, 666, later());
    assert_eq!(dispatcher.dispatch_once().await?.failed, 1);
    due_after_all_commits(&db).await?;
    dispatcher.dispatch_once().await?;
    assert_eq!((sent.of("a"), sent.of("b")), (vec![], vec![2]), "the timeout overtook its stream");
    ensure!(db.timeouts("a").await?[0].in_outbox, "it waits in the outbox");
    db.sql("UPDATE saga_outbox_message SET available_at = 0").await?;
    let sent = Sent::default();
    db.dispatcher(sent.emitter()).dispatch_once().await?;
    assert_eq!(sent.of("a"), [666, 1]);
    Ok(())
}

async fn a_failed_timeout_holds_up_what_is_recorded_after_it_was_due<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    db.schedule("a", "t", 666, Duration::ZERO).await?;
    let (dispatcher, sent) = poisoned(&db, 666, later());
    assert_eq!(dispatcher.dispatch_once().await?.failed, 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    db.publish(&Counter, "a", [added(1)]).await?;
    db.schedule("a", "u", 2, Duration::ZERO).await?;
    // As if this one, of an earlier unit of work, became due first.
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 0);
    ensure!(sent.records().is_empty());
    db.sql("UPDATE saga_outbox_message SET available_at = 0").await?;
    let sent = Sent::default();
    db.dispatcher(sent.emitter()).dispatch_once().await?;
    assert_eq!(sent.of("a"), [666, 1, 2]);

    // What was recorded before it was due is not held up, though its unit of work came later.
    db.schedule("b", "t", 666, HOUR).await?;
    let mut unit = db.unit(&Counter, "b").await?;
    unit.publish(added(1))?;
    unit.publish(added(2))?;
    assert!(db.save(unit).await?.is_changed());
    let (dispatcher, sent) = poisoned(&db, 666, later());
    due_after_all_commits(&db).await?;
    assert_eq!(db.release().await?, 1);
    db.sql("UPDATE saga_outbox_message SET attempts = 1").await?;
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 2);
    assert_eq!(sent.of("b"), [1, 2]);
    Ok(())
}

async fn one_that_fails_is_tried_again_and_becomes_a_dead_letter<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let id = db.schedule("a", "t", 666, Duration::ZERO).await?;
    let (dispatcher, sent) = poisoned(&db, 666, attempts(3));
    let dispatched = dispatcher.dispatch_once().await?;
    assert_eq!((dispatched.delivered, dispatched.failed, dispatched.dead), (0, 2, 1));
    ensure!(sent.records().is_empty());
    let letters = db.store().dead_letters(&mut *db.conn().await?, None, 10).await?;
    assert_eq!((letters.len(), letters[0].record.envelope.message_id, letters[0].record.attempts), (1, id, 3));
    let mut tx = db.begin().await?;
    let which = DeadLetters::One(letters[0].record.id);
    assert_eq!(db.store().retry_dead_letters(&mut tx, which).await?, 1);
    db.commit(tx).await?;
    let sent = Sent::default();
    assert_eq!(db.dispatcher(sent.emitter()).dispatch_once().await?.delivered, 1);
    assert_eq!(sent.records()[0].envelope.message_id, id);
    Ok(())
}

async fn its_acknowledgement_is_not_taken_for_that_of_its_commit<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let mut unit = db.unit(&Counter, "a").await?;
    unit.publish(added(1))?;
    unit.schedule("t", &added(2), Duration::ZERO)?;
    unit.schedule("u", &added(3), Duration::ZERO)?;
    assert!(db.save(unit).await?.is_changed());
    assert_eq!(db.release().await?, 2);
    let records = db.outbox().await?;
    assert_eq!(records.iter().map(amount).collect::<Vec<_>>(), [1, 2, 3]);
    for (at, left) in [(1, vec![1, 3]), (0, vec![3]), (2, vec![])] {
        let mut tx = db.begin().await?;
        assert_eq!(db.store().delete_in_batches(&mut tx, 10, &[records[at].id]).await?, 1);
        assert_eq!(db.store().delete_in_batches(&mut tx, 10, &[records[at].id]).await?, 0);
        db.commit(tx).await?;
        assert_eq!(db.outbox().await?.iter().map(amount).collect::<Vec<_>>(), left);
    }
    Ok(())
}

async fn an_idle_dispatcher_wakes_when_one_is_due<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (sent, waker) = (Sent::default(), OutboxWaker::new());
    let settings = DispatcherSettings::default().with_poll_interval(Duration::from_secs(600))?;
    let relay = Relay::start(db.dispatcher(sent.emitter()).with_settings(settings).with_waker(waker.clone()));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let persister = db.persister().with_waker(waker);
    let scheduled = Instant::now();
    for id in ["a", "b", "c"] {
        let unit = |unit: &mut sagastore::UnitOfWork<'_, Counter>| {
            unit.schedule("t", &added(1), Duration::from_millis(700)).map(drop)
        };
        let _ = persister.execute(db.pool(), &Counter, &instance(id), None, unit).await?;
    }
    until("the timeouts", async || Ok(sent.len() == 3)).await?;
    ensure!(scheduled.elapsed() >= Duration::from_millis(690), "it came after {:?}", scheduled.elapsed());
    assert_eq!(relay.stop().await?.delivered, 3);
    Ok(())
}

async fn an_idle_dispatcher_learns_of_new_ones_by_polling<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let relay = Relay::start(db.dispatcher(sent.emitter()));
    until("the leases", async || Ok(db.leases().await? == 65)).await?;
    db.schedule("a", "t", 1, Duration::from_millis(300)).await?;
    until("the timeout", async || Ok(sent.len() == 1)).await?;
    assert_eq!(relay.stop().await?.delivered, 1);
    Ok(())
}

/// Schedules so many on each of these instances.
async fn fill<DB: Subject>(db: &TestDb<DB>, instances: u32, each: i64, after: Duration) -> Clause {
    let (persister, mut tx) = (db.persister(), db.begin().await?);
    for number in 0..instances {
        let id = instance(&number.to_string());
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, sagastore::Outbox, &id).await?;
        for amount in 0..each {
            unit.schedule(&amount.to_string(), &added(amount), after)?;
        }
        assert!(persister.save(&mut tx, unit).await?.is_changed());
    }
    db.commit(tx).await?;
    Ok(())
}

/// Each amount of each instance once, and in order.
fn check(sent: &Sent, instances: usize, each: i64) -> Clause {
    let amounts = sent.amounts();
    assert_eq!(amounts.len(), instances);
    let whole: Vec<_> = (0..each).collect();
    for (id, amounts) in amounts {
        assert_eq!(amounts, whole, "instance {id}");
    }
    Ok(())
}

async fn any_number_that_is_due_at_once_is_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    fill(&db, 100, 7, Duration::ZERO).await?;
    let sent = Sent::default();
    let dispatcher = db.dispatcher(sent.emitter()).with_settings(quick().with_batch(50)?);
    assert_eq!(dispatcher.dispatch_once().await?.delivered, 700);
    check(&sent, 100, 7)
}

async fn two_dispatchers_deliver_each_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let sent = Sent::default();
    let start = async || {
        let dispatcher = Dispatcher::new(db.second_pool(4).await?, sent.emitter());
        anyhow::Ok(Relay::start(dispatcher.with_settings(quick().with_batch(10)?)))
    };
    let (one, two) = (start().await?, start().await?);
    until("their shares", async || {
        let owners = "SELECT COUNT(DISTINCT client_id) FROM saga_lease WHERE namespace = 'outbox/partition'";
        Ok(db.leases().await? == 66 && db.count(owners).await? == 2)
    })
    .await?;
    fill(&db, 100, 5, Duration::from_millis(500)).await?;
    until("all timeouts", async || Ok(sent.len() >= 500)).await?;
    let (one, two) = (one.stop().await?.delivered, two.stop().await?.delivered);
    ensure!(one > 0 && two > 0, "one of them had nothing to do");
    assert_eq!(one + two, 500);
    check(&sent, 100, 5)?;
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

async fn several_who_hand_over_at_once_hand_over_each_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    fill(&db, 50, 10, Duration::ZERO).await?;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let db = db.clone();
        tasks.push(tokio::spawn(async move {
            let (mut released, mut idle) = (0, 0);
            while idle < 3 {
                let mut tx = db.begin().await?;
                let count = match db.store().release_due_timeouts(&mut tx, 7).await {
                    Ok(count) => count,
                    Err(error) if error.is_transient() => {
                        db.roll_back(tx).await?;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                db.commit(tx).await?;
                ensure!(count <= 7, "{count} were handed over at once");
                idle += u32::from(count == 0);
                released += count;
            }
            anyhow::Ok(released)
        }));
    }
    let mut released = 0;
    for task in tasks {
        released += task.await??;
    }
    assert_eq!((released, db.outbox().await?.len()), (500, 500));
    Ok(())
}

/// On MariaDB nothing was handed over while the first that were due were locked.
async fn what_another_has_locked_holds_up_none_of_the_others<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    fill(&db, 4, 5, Duration::ZERO).await?;
    let mut open = Vec::new();
    for (limit, released) in [(6, 6), (6, 6), (1, 1), (100, 7), (100, 0)] {
        let mut tx = db.begin().await?;
        assert_eq!(db.store().release_due_timeouts(&mut tx, limit).await?, released, "of at most {limit}");
        open.push(tx);
    }
    for tx in open {
        db.commit(tx).await?;
    }
    assert_eq!(db.outbox().await?.len(), 20);
    Ok(())
}

async fn a_dispatcher_that_is_dropped_at_any_step_loses_none<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let (sent, mut cuts, mut fills, mut step) = (Sent::default(), 0, 0, 1);
    // What a dropped pass had done stays done, so the last passes find little to do: there is more until enough
    // were dropped.
    while cuts < scaled(15, 150) {
        if db.timeouts_left().await? == 0 {
            ensure!(fills < 50, "only {cuts} passes could be dropped");
            fill(&db, 30, 3, Duration::ZERO).await?;
            (fills, step) = (fills + 1, 1);
        }
        let settings = quick().with_batch(5)?.with_workers(1)?;
        let dispatcher = db.dispatcher(sent.emitter()).with_settings(settings);
        match cut_after(step, dispatcher.dispatch_once()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) if !error.is_transient() => return Err(error.into()),
            _ => cuts += 1,
        }
        step += scaled(5, 1);
        db.expire_leases("namespace LIKE 'outbox/%'").await?;
        db.check_invariants().await?;
    }
    db.expire_leases("namespace LIKE 'outbox/%'").await?;
    db.dispatcher(sent.emitter()).dispatch_once().await?;
    let ids: HashSet<_> = sent.records().iter().map(|record| record.envelope.message_id).collect();
    assert_eq!(ids.len(), 90 * fills);
    assert_eq!(db.timeouts_left().await?, 0);
    Ok(())
}

async fn one_that_is_cancelled_while_it_becomes_due_is_gone_or_delivered<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    let rounds = scaled(40, 400);
    let stop = Arc::new(AtomicBool::new(false));
    let mover = tokio::spawn({
        let (db, stop) = (db.clone(), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                match db.release().await {
                    Err(error) if !error.is_transient() => return Err(error.into()),
                    _ => tokio::task::yield_now().await,
                }
            }
            anyhow::Ok(())
        }
    });
    for _ in 0..rounds {
        let (persister, id) = (db.persister(), instance("a"));
        let schedule = |unit: &mut sagastore::UnitOfWork<'_, Counter>| unit.schedule("t", &added(1), Duration::ZERO);
        let _ = persister.execute(db.pool(), &Counter, &id, None, schedule).await?;
        let cancel = |unit: &mut sagastore::UnitOfWork<'_, Counter>| unit.cancel_timeout("t");
        let _ = persister.execute(db.pool(), &Counter, &id, None, cancel).await?;
        ensure!(db.timeouts("a").await?.is_empty(), "it was cancelled, and is there");
    }
    stop.store(true, Ordering::Relaxed);
    mover.await??;
    ensure!(db.outbox().await?.is_empty());
    Ok(())
}

/// The shortest of some tries: what else the machine does only adds to it.
async fn shortest<DB: Subject>(db: &TestDb<DB>) -> anyhow::Result<Duration> {
    let mut shortest = Duration::MAX;
    let mut tx = db.begin().await?;
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(db.store().release_due_timeouts(&mut tx, 100).await?, 0);
        assert_eq!(db.store().find_batch(&mut tx, None, 100).await?.len(), 0);
        shortest = shortest.min(began.elapsed());
    }
    db.roll_back(tx).await?;
    Ok(shortest)
}

async fn a_look_costs_the_same_however_many_are_pending<DB: Subject>(db: TestDb<DB>) -> Clause {
    const DOUBLINGS: u32 = 15;
    fill(&db, 1, 1, HOUR).await?;
    let few = shortest(&db).await?;
    let rest =
        "partition_no, due_at, scheduled_at, commit_no, message_index, aggregate_type, aggregate_id, contents, body";
    for time in 0..DOUBLINGS {
        let doubled = format!(
            "INSERT INTO saga_timeout (stream_id, name, {rest})
            SELECT stream_id, CONCAT(name, '/{time}'), {rest} FROM saga_timeout"
        );
        assert_eq!(db.sql(doubled).await?, 1 << time);
    }
    let mut many = shortest(&db).await?;
    // The machine, or the disk, may be busy for a while.
    for _ in 0..5 {
        if many >= 3 * few + Duration::from_millis(1) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            many = many.min(shortest(&db).await?);
        }
    }
    // Looking at each would take several times as long.
    ensure!(many < 3 * few + Duration::from_millis(1), "{few:?} with one, {many:?} with 2^{DOUBLINGS}");
    Ok(())
}
