//! Many writers at once: units of work on few instances, and readers beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sagastore::{
    ConflictRetry, Error, Executed, Inbound, InstanceId, MessageId, MessageStore, Offset, Outbox, OutboxRepository,
    Persister, Saga, SagaStream, Saved, SnapshotFrequency, UnitOfWork,
};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::sample::{Counter, Order, OrderCommand, added, instance, note};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses, scaled};

clauses! {
    of_many_saves_at_one_revision_exactly_one_wins,
    units_of_work_on_different_instances_do_not_disturb_each_other,
    every_message_takes_effect_once_however_many_workers_handle_it,
    many_first_messages_of_an_instance_all_take_effect,
    snapshots_taken_at_once_are_all_usable,
    what_was_begun_on_events_that_are_rolled_back_cannot_be_saved,
}

/// Tries often enough for any crowd of writers.
fn stubborn<DB: Subject>(db: &TestDb<DB>) -> Persister<DB> {
    let (delay, cap) = (Duration::from_millis(1), Duration::from_millis(20));
    db.persister().with_conflict_retry(ConflictRetry { retries: 500, delay, cap })
}

async fn load<DB: Subject>(db: &TestDb<DB>, id: &InstanceId) -> sagastore::Result<UnitOfWork<'static, Counter>> {
    let mut tx = db.begin().await?;
    let unit = db.persister().begin_unit_of_work(&Counter, &mut tx, Outbox, id).await?;
    drop(tx);
    Ok(unit)
}

async fn save<DB: Subject>(db: &TestDb<DB>, unit: UnitOfWork<'static, Counter>) -> sagastore::Result<Saved> {
    let mut tx = db.begin().await?;
    let saved = db.persister().save(&mut tx, unit).await;
    // After a conflict the transaction is still usable.
    tx.commit().await.map_err(|error| db.store().classify("committing a race", error))?;
    saved
}

/// Loads units of work at one revision, and saves them all at once. Says how many won.
async fn race<DB: Subject>(db: &TestDb<DB>, id: &InstanceId, with_event: bool) -> anyhow::Result<u32> {
    const TASKS: usize = 16;
    let (start, mut tasks) = (Arc::new(Barrier::new(TASKS)), JoinSet::new());
    let mut revision = Offset::ZERO;
    for _ in 0..TASKS {
        let mut unit = load(db, id).await?;
        revision = unit.instance().revision.next_offset();
        if with_event {
            unit.publish(added(1))?;
        }
        unit.execute(&OrderCommand::TakePayment { amount_cents: 1 })?;
        let (db, start) = (db.clone(), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            save(&db, unit).await
        });
    }
    let after = revision.checked_add(u64::from(with_event))?;
    let mut winners = 0;
    while let Some(done) = tasks.join_next().await {
        match done? {
            Ok(saved) => {
                assert_eq!(saved, Saved::Changed { revision: after.as_revision() });
                winners += 1;
            }
            // Without an event the winner's stream ends where the loser believed it to end.
            lost => assert_error!(lost, Error::Conflict { expected, actual, .. } => {
                assert_eq!((expected, actual), (revision, after));
            }),
        }
    }
    assert_eq!(load(db, id).await?.instance().revision, after.as_revision());
    Ok(winners)
}

async fn of_many_saves_at_one_revision_exactly_one_wins<DB: Subject>(db: TestDb<DB>) -> Clause {
    let id = instance("a");
    // The first of them starts the stream.
    for round in 0..scaled(9, 90) {
        assert_eq!(race(&db, &id, round % 3 > 0).await?, 1, "round {round}");
    }
    Ok(())
}

async fn units_of_work_on_different_instances_do_not_disturb_each_other<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (workers, rounds) = (64, scaled(6, 60));
    let mut tasks = JoinSet::new();
    for number in 0..workers {
        let db = db.clone();
        tasks.spawn(async move {
            let id = instance(&format!("instance {number}"));
            let never = db.persister().with_conflict_retry(ConflictRetry::NEVER);
            for round in 1..=rounds {
                let executed = never.execute(db.pool(), &Counter, &id, None, |unit| unit.publish(added(round))).await?;
                let Executed::Done { saved, conflicts: 0, .. } = executed else { panic!("{executed:?}") };
                assert_eq!(saved.revision().get(), u64::try_from(round)?);
            }
            anyhow::Ok(load(&db, &id).await?.instance().data)
        });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done??, (1..=rounds).sum::<i64>());
    }
    Ok(())
}

/// Handles one message by one of three ways.
async fn handle<DB: Subject>(db: &TestDb<DB>, id: &InstanceId, message: MessageId, way: usize) -> Clause {
    let persister = stubborn(db).with_snapshot_frequency(SnapshotFrequency::every(5));
    let text = message.to_string();
    let decide = |unit: &mut UnitOfWork<'_, Order>| {
        unit.publish(note(&text))?;
        unit.execute(&OrderCommand::SendMail { text: text.clone() })?;
        Ok::<_, Error>(())
    };
    match way {
        0 => {
            let _ = persister.execute(db.pool(), &Order, id, Some(message.into()), decide).await?;
        }
        1 => {
            let work = |mut attempt: sagastore::Attempt<'static, Order, DB>| {
                let decided = decide(&mut attempt.unit);
                async move { decided.map(|()| attempt.finish(())) }
            };
            let message = Some(Inbound::from(message));
            let _ = persister.execute_in_transaction(db.pool(), &Order, id, message, work).await?;
        }
        _ => loop {
            let mut tx = db.begin().await?;
            let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, id).await?;
            unit.handling(message)?;
            decide(&mut unit)?;
            match persister.save(&mut tx, unit).await {
                Ok(_) => {
                    tx.commit().await?;
                    break;
                }
                Err(Error::Conflict { .. } | Error::Contention { .. }) => tx.rollback().await?,
                Err(other) => return Err(other.into()),
            }
        },
    }
    Ok(())
}

/// Relays what is in the outbox for as long as the workers run, and counts what it sees for the first time.
async fn relay<DB: Subject>(db: TestDb<DB>, workers: Arc<()>) -> anyhow::Result<HashMap<MessageId, u32>> {
    let (store, mut relayed) = (db.store(), HashMap::new());
    loop {
        let last = Arc::strong_count(&workers) == 1;
        let batch = store.find_batch(&mut *db.conn().await?, None, 7).await?;
        let ids: Vec<_> = batch.iter().map(|record| record.id).collect();
        let mut tx = db.begin().await?;
        assert_eq!(store.delete_in_batches(&mut tx, 3, &ids).await?, u64::try_from(ids.len())?);
        tx.commit().await?;
        for record in batch {
            *relayed.entry(record.envelope.message_id).or_default() += 1;
        }
        if ids.is_empty() && last {
            return Ok(relayed);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

async fn every_message_takes_effect_once_however_many_workers_handle_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    const INSTANCES: usize = 10;
    db.will_relay();
    let messages: Vec<MessageId> = (0..scaled(120, 1200)).map(|_| MessageId::new()).collect();
    let (running, mut workers) = (Arc::new(()), JoinSet::new());
    let relay = tokio::spawn(relay(db.clone(), Arc::clone(&running)));
    for worker in 0..6 {
        // Every message is handled by two workers, in different ways and at different times.
        let mut own: Vec<_> = (0..messages.len()).filter(|at| at % 3 == worker % 3).collect();
        fastrand::shuffle(&mut own);
        let (db, messages, running) = (db.clone(), messages.clone(), Arc::clone(&running));
        workers.spawn(async move {
            for at in own {
                let id = instance(&format!("instance {}", at % INSTANCES));
                handle(&db, &id, messages[at], (at + worker) % 3).await?;
            }
            drop(running);
            anyhow::Ok(())
        });
    }
    drop(running);
    while let Some(done) = workers.join_next().await {
        done??;
    }
    let relayed = relay.await??;
    let mut sent = HashMap::new();
    for number in 0..INSTANCES {
        let name = SagaStream::new(Order.persistence_key(), &instance(&format!("instance {number}")))?.name;
        let found = db.events(&name).await?.unwrap();
        let mut causes: Vec<_> = found.iter().map(|event| event.envelope.causation_id).collect();
        let mut expected: Vec<_> = messages.iter().skip(number).step_by(INSTANCES).copied().collect();
        causes.sort();
        expected.sort();
        assert_eq!(causes, expected, "each message took effect once, in instance {number}");
        sent.extend(found.into_iter().map(|event| (event.envelope.message_id, 1)));
    }
    assert_eq!(relayed.len(), 2 * messages.len(), "an event and a command for each message");
    assert!(relayed.values().all(|times| *times == 1), "nothing was relayed twice");
    assert!(sent.keys().all(|id| relayed.contains_key(id)));
    Ok(())
}

async fn many_first_messages_of_an_instance_all_take_effect<DB: Subject>(db: TestDb<DB>) -> Clause {
    const TASKS: u32 = 16;
    for round in 0..scaled(3, 30) {
        let id = instance(&format!("instance {round}"));
        let (start, mut tasks) = (Arc::new(Barrier::new(usize::try_from(TASKS)?)), JoinSet::new());
        for number in 0..TASKS {
            let (db, id, start) = (db.clone(), id.clone(), Arc::clone(&start));
            tasks.spawn(async move {
                start.wait().await;
                let message = Some(Inbound::from(MessageId::new()));
                let decide = |unit: &mut UnitOfWork<'_, Counter>| unit.publish(added(1 << number));
                stubborn(&db).execute(db.pool(), &Counter, &id, message, decide).await
            });
        }
        let mut revisions = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let executed = done??;
            let Executed::Done { saved, .. } = executed else { panic!("{executed:?}") };
            revisions.push(saved.revision().get());
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=u64::from(TASKS)).collect::<Vec<_>>());
        assert_eq!(load(&db, &id).await?.instance().data, (1 << TASKS) - 1);
    }
    Ok(())
}

async fn snapshots_taken_at_once_are_all_usable<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (id, rounds) = (instance("a"), scaled(10, 100));
    let mut tasks = JoinSet::new();
    for number in 0..8_u32 {
        let (db, id) = (db.clone(), id.clone());
        tasks.spawn(async move {
            // All boundaries are near each other, and many are the same.
            let every = SnapshotFrequency::every(u64::from(1 + number % 3));
            let persister = stubborn(&db).with_snapshot_frequency(every).with_kept_snapshots(2);
            for _ in 0..rounds {
                let decide = |unit: &mut UnitOfWork<'_, Counter>| unit.publish(added(1));
                let _ = persister.execute(db.pool(), &Counter, &id, None, decide).await?;
                let unit = persister.load_instance(&Counter, &mut *db.conn().await?, &id).await?.unwrap();
                assert_eq!(unit.load_report().ignored_snapshot, None);
                assert_eq!(u64::try_from(unit.instance().data)?, unit.instance().revision.get());
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    for persister in [db.persister(), db.persister().without_snapshots()] {
        let unit = persister.load_instance(&Counter, &mut *db.conn().await?, &id).await?.unwrap();
        assert_eq!(unit.instance().data, 8 * rounds);
    }
    let kept = db.count("SELECT COUNT(*) FROM saga_snapshot").await?;
    assert!((1..=2).contains(&kept), "{kept} snapshots are kept");
    Ok(())
}

/// A unit of work could follow on events that never were, even in a stream of another instance.
async fn what_was_begun_on_events_that_are_rolled_back_cannot_be_saved<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (first, second, persister) = (instance("first"), instance("second"), db.persister());
    for known in [false, true] {
        let mut tx = db.begin().await?;
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &first).await?;
        unit.publish(added(100))?;
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        let mut late = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &first).await?;
        late.publish(added(1))?;
        tx.rollback().await?;

        // As many events as were rolled back, in a stream that may get the same key.
        let other = if known { &first } else { &second };
        let _ = persister.execute(db.pool(), &Counter, other, None, |unit| unit.publish(added(10))).await?;
        let (expected, actual) = if known { (2, 2) } else { (1, 0) };
        assert_error!(save(&db, late).await, Error::Conflict { expected: e, actual: a, .. } => {
            assert_eq!((e, a), (Offset::of(expected), Offset::of(actual)));
        });
        assert_eq!(load(&db, &second).await?.instance().data, 10);
        if !known {
            assert_eq!(load(&db, &first).await?.instance().data, 0);
            let _ = persister.execute(db.pool(), &Counter, &first, None, |unit| unit.publish(added(10))).await?;
        }
    }
    assert_eq!(load(&db, &first).await?.instance().data, 20);
    Ok(())
}
