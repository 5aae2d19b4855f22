//! What is loaded is what the events make of it, however they were saved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sagastore::{ConflictRetry, Inbound, MessageId, Outbox, Saga, SnapshotFrequency};
use uuid::Uuid;

use crate::harness::sample::{Counter, Order, OrderEvent, added, instance, line, note};
use crate::harness::{Clause, Subject, TestDb, clauses, scaled, stream_of};

clauses! {
    replay_is_the_fold_of_all_events_however_they_were_saved,
    many_workers_at_many_instances_lose_nothing_and_repeat_nothing: SEVERAL_CONNECTIONS,
}

fn random_event(random: &mut fastrand::Rng) -> OrderEvent {
    match random.u32(0..3) {
        0 => note("x".repeat(random.usize(0..200))),
        _ => line(&random.alphabetic().to_string(), random.u32(..100), random.i64(-1000..1000)),
    }
}

async fn replay_is_the_fold_of_all_events_however_they_were_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    for seed in 0..scaled(8, 200) {
        let mut random = fastrand::Rng::with_seed(seed);
        let frequency = [0, 1, 2, 7, 50, 1000][random.usize(..6)];
        let persister = db.persister().with_snapshot_frequency(SnapshotFrequency::every(frequency));
        let (id, length, largest) = (instance(&seed.to_string()), random.usize(1..=300), random.usize(1..=40));
        let (mut data, mut revision) = (Order.new_data(), 0);
        let made_up = crate::harness::sample::event(0);
        while revision < length {
            let mut tx = db.begin().await?;
            let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &id).await?;
            assert_eq!(unit.instance().data, data, "seed {seed}, revision {revision}");
            assert_eq!(unit.instance().revision.get(), u64::try_from(revision)?, "seed {seed}");
            for _ in 0..random.usize(1..=largest).min(length - revision) {
                let event = random_event(&mut random);
                Order.apply_event(&mut data, &event, &made_up);
                unit.publish(event)?;
                revision += 1;
            }
            assert!(persister.save(&mut tx, unit).await?.is_changed());
            db.commit(tx).await?;
        }
        let expected = Some((data, u64::try_from(revision)?));
        assert_eq!(db.state(&Order, id.as_str()).await?, expected, "seed {seed}");
        db.sql("DELETE FROM saga_snapshot").await?;
        assert_eq!(db.state(&Order, id.as_str()).await?, expected, "seed {seed}, without snapshots");
    }
    Ok(())
}

/// Draws instances as the world does: the n-th most busy gets 1/n of the busiest's messages.
fn zipf(instances: u32, mut random: fastrand::Rng) -> impl FnMut() -> u32 {
    let mut total = 0.0;
    let shares: Vec<f64> = (1..=instances)
        .map(|rank| {
            total += 1.0 / f64::from(rank);
            total
        })
        .collect();
    move || {
        let at = random.f64() * total;
        u32::try_from(shares.partition_point(|share| *share < at)).unwrap().min(instances - 1)
    }
}

/// What is delivered: the message's number, which is its amount too, and its instance.
type Delivery = (u32, u32);

fn message_id(number: u32) -> MessageId {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_le_bytes()).into()
}

async fn deliver<DB: Subject>(db: TestDb<DB>, queue: Arc<std::sync::Mutex<Vec<Delivery>>>) -> anyhow::Result<u32> {
    let patient = ConflictRetry { retries: 50, delay: Duration::from_millis(2), cap: Duration::from_millis(100) };
    let persister = db.persister().with_conflict_retry(patient).with_snapshot_frequency(SnapshotFrequency::every(20));
    let mut handled = 0;
    loop {
        let Some((number, at)) = queue.lock().unwrap().pop() else { return Ok(handled) };
        let message = Some(Inbound::from(message_id(number)));
        let id = instance(&at.to_string());
        let done = persister.execute(db.pool(), &Counter, &id, message, |unit| unit.publish(added(number.into())));
        match done.await {
            Ok(executed) => handled += u32::from(!executed.is_already_handled()),
            // As a broker does when nobody says that a message was handled.
            Err(error) if error.is_conflict() || error.is_transient() => queue.lock().unwrap().push((number, at)),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn many_workers_at_many_instances_lose_nothing_and_repeat_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    const TASKS: usize = 64;
    let (instances, per_instance) = (scaled(200, 10_000), 20);
    let mut random = fastrand::Rng::with_seed(20);
    let mut draw = zipf(instances, random.fork());
    let messages: Vec<Delivery> = (0..instances * per_instance).map(|number| (number, draw())).collect();
    let mut deliveries = messages.clone();
    deliveries.extend(messages.iter().step_by(10));
    random.shuffle(&mut deliveries);
    let queue = Arc::new(std::sync::Mutex::new(deliveries));

    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(deliver(db.clone(), Arc::clone(&queue)))).collect();
    let mut handled = 0;
    for task in tasks {
        handled += task.await??;
    }
    assert_eq!(handled, instances * per_instance);
    let mut expected = HashMap::<u32, Vec<u32>>::new();
    for (number, at) in messages {
        expected.entry(at).or_default().push(number);
    }
    for (at, numbers) in expected {
        let id = at.to_string();
        let sum = numbers.iter().map(|number| i64::from(*number)).sum::<i64>();
        assert_eq!(db.state(&Counter, &id).await?, Some((sum, u64::try_from(numbers.len())?)), "instance {id}");
        let events = db.events(&stream_of(&Counter, &id)).await?.unwrap();
        let mut causes: Vec<_> = events.iter().map(|event| event.envelope.causation_id).collect();
        let mut sent: Vec<_> = numbers.into_iter().map(message_id).collect();
        causes.sort();
        sent.sort();
        assert_eq!(causes, sent, "instance {id}");
    }
    Ok(())
}
