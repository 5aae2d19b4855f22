//! Instances that are kept in memory between units of work: nothing comes out otherwise than without.

use std::sync::atomic::{AtomicU32, Ordering};

use sagastore::lock::Lock;
use sagastore::{ConflictRetry, Error, Executed, Inbound, InstanceId, MessageId, Outbox, Persister, SnapshotFrequency};
use tokio::task::JoinSet;

use crate::harness::sample::{Counter, Order, OrderEvent, added, instance, note};
use crate::harness::{Clause, LONG_LEASE, Subject, TestDb, assert_error, clauses, cut_after, obtain, scaled};

clauses! {
    a_kept_instance_is_not_loaded: BASIC,
    what_others_wrote_meanwhile_counts: BASIC,
    what_could_not_be_decided_is_decided_on_what_is_stored,
    a_repeated_message_takes_effect_once,
    snapshots_are_taken_as_often_as_without,
    a_completed_instance_takes_nothing,
    what_is_rolled_back_is_not_kept,
    a_panic_leaves_nothing_in_memory,
    no_more_are_kept_than_there_is_room_for,
    another_database_has_instances_of_its_own: SEVERAL_CONNECTIONS,
    a_fence_that_an_older_state_chose_is_chosen_again,
    many_callers_on_few_instances_lose_nothing,
    calls_that_are_dropped_at_any_step_leave_memory_and_database_alike: SEVERAL_CONNECTIONS,
}

/// Room enough.
const ROOM: usize = 64;

/// Loses no race that it could lose without a cache.
fn keeping<DB: Subject>(db: &TestDb<DB>, capacity: usize) -> Persister<DB> {
    db.persister().with_instance_cache(db.pool(), capacity).with_conflict_retry(ConflictRetry::NEVER)
}

/// What a unit of work found.
#[derive(Debug, PartialEq)]
struct Found {
    cached: bool,
    sum: i64,
}

/// Adds to a counter; says what there was before.
async fn add<DB: Subject>(
    db: &TestDb<DB>,
    persister: &Persister<DB>,
    id: &str,
    message: Option<MessageId>,
    amount: i64,
) -> Result<Executed<Found>, Error> {
    let id = instance(id);
    let executed = persister.execute(db.pool(), &Counter, &id, message.map(Inbound::from), |unit| {
        let found = Found { cached: unit.load_report().cached, sum: unit.instance().data };
        if amount != 0 {
            unit.publish(added(amount))?;
        }
        Ok(found)
    });
    executed.await
}

fn found(executed: Executed<Found>) -> Found {
    match executed {
        Executed::Done { value, conflicts: 0, .. } => value,
        other => panic!("it was not done at once: {other:?}"),
    }
}

async fn a_kept_instance_is_not_loaded<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = keeping(&db, ROOM);
    for (number, sum) in [0, 1, 3, 6, 10].into_iter().enumerate() {
        let before = found(add(&db, &persister, "a", None, i64::try_from(number)? + 1).await?);
        assert_eq!(before, Found { cached: number > 0, sum });
    }
    assert_eq!(db.state(&Counter, "a").await?, Some((15, 5)));
    // Clones share what they keep.
    assert_eq!(found(add(&db, &persister.clone(), "a", None, 1).await?), Found { cached: true, sum: 15 });
    // Another saga's instance of the same id is another one.
    let id = instance("a");
    let of_order = persister.execute(db.pool(), &Order, &id, None, |unit| {
        unit.publish(note("n"))?;
        Ok::<_, Error>(unit.load_report().cached)
    });
    assert!(matches!(of_order.await?, Executed::Done { value: false, .. }));
    Ok(())
}

async fn what_others_wrote_meanwhile_counts<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (near, far) = (keeping(&db, ROOM), keeping(&db, ROOM));
    let mut sum = 0;
    for round in 1..=4 {
        // Each comes with what it remembers, which is what there was before the other one's turn.
        for persister in [&near, &far] {
            assert_eq!(found(add(&db, persister, "a", None, round).await?), Found { cached: false, sum });
            sum += round;
            assert_eq!(found(add(&db, persister, "a", None, round).await?), Found { cached: true, sum });
            sum += round;
        }
        db.publish(&Counter, "a", [added(100)]).await?;
        sum += 100;
    }
    assert_eq!(db.state(&Counter, "a").await?, Some((sum, 20)));
    Ok(())
}

async fn what_could_not_be_decided_is_decided_on_what_is_stored<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = keeping(&db, ROOM);
    let _ = add(&db, &persister, "a", None, 1).await?;
    db.publish(&Counter, "a", [added(10)]).await?;
    // Nothing to be saved, so nobody would notice that it is old.
    assert_eq!(found(add(&db, &persister, "a", None, 0).await?), Found { cached: false, sum: 11 });
    db.publish(&Counter, "a", [added(100)]).await?;
    // Refused because of what is in memory, and not because of what is stored.
    let id = instance("a");
    let refuses = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        anyhow::ensure!(unit.instance().data > 50, "too little");
        unit.publish(added(1))?;
        Ok(())
    });
    let _ = refuses.await?;
    assert_eq!(db.state(&Counter, "a").await?, Some((112, 4)));
    // Refused on both.
    let tries = AtomicU32::new(0);
    let refuses = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        tries.fetch_add(1, Ordering::Relaxed);
        unit.publish(added(1000))?;
        anyhow::bail!("never")
    });
    let refused: anyhow::Result<Executed<()>> = refuses.await;
    assert_eq!(refused.unwrap_err().to_string(), "never");
    assert_eq!(tries.into_inner(), 2);
    assert_eq!(found(add(&db, &persister, "a", None, 1).await?), Found { cached: false, sum: 112 });
    Ok(())
}

async fn a_repeated_message_takes_effect_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, message) = (keeping(&db, ROOM), MessageId::new());
    let _ = add(&db, &persister, "a", None, 1).await?;
    assert_eq!(found(add(&db, &persister, "a", Some(message), 10).await?), Found { cached: true, sum: 1 });
    let repeated = |executed: Executed<Found>| match executed {
        Executed::AlreadyHandled(handled) => (handled.message_id, handled.revision.get(), handled.messages.len()),
        other => panic!("it took effect again: {other:?}"),
    };
    for amount in [10, 20, 0] {
        assert_eq!(repeated(add(&db, &persister, "a", Some(message), amount).await?), (message, 2, 1));
        let _ = add(&db, &persister, "b", None, 1).await?;
    }
    assert_eq!(found(add(&db, &persister, "a", None, 1).await?).sum, 11);
    assert_eq!(repeated(add(&db, &persister, "a", Some(message), 10).await?), (message, 2, 1));
    assert_eq!(db.state(&Counter, "a").await?, Some((12, 3)));
    Ok(())
}

async fn snapshots_are_taken_as_often_as_without<DB: Subject>(db: TestDb<DB>) -> Clause {
    let every = |persister: Persister<DB>| persister.with_snapshot_frequency(SnapshotFrequency::every(3));
    for (id, persister) in [("kept", every(keeping(&db, ROOM))), ("not", every(db.persister()))] {
        let mut taken = Vec::new();
        for revision in 1..=10_u64 {
            let _ = add(&db, &persister, id, None, 1).await?;
            let mut conn = db.conn().await?;
            let report = *persister.load_instance(&Counter, &mut conn, &instance(id)).await?.unwrap().load_report();
            if report.snapshot.map(sagastore::Revision::get) == Some(revision) {
                taken.push(revision);
            }
        }
        assert_eq!(taken, [3, 6, 9], "{id}");
    }
    Ok(())
}

async fn a_completed_instance_takes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = keeping(&db, ROOM);
    let publish = async |event: OrderEvent| {
        let (id, pool) = (InstanceId::new("a")?, db.pool());
        persister.execute(pool, &Order, &id, None, |unit| unit.publish(event.clone()).map(drop)).await
    };
    let _ = publish(note("1")).await?;
    let _ = publish(OrderEvent::Shipped).await?;
    assert_error!(publish(note("2")).await, Error::Completed { .. });
    // Completed by somebody else.
    let _ = add(&db, &persister, "b", None, 1).await?;
    let mut unit = db.unit(&Counter, "b").await?;
    unit.complete();
    assert!(db.save(unit).await?.is_changed());
    assert_error!(add(&db, &persister, "b", None, 1).await, Error::Completed { .. });
    Ok(())
}

async fn what_is_rolled_back_is_not_kept<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = keeping(&db, ROOM);
    let _ = add(&db, &persister, "a", None, 1).await?;
    let mut tx = persister.begin(db.pool()).await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("a")).await?;
    unit.publish(added(10))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    let unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("a")).await?;
    assert_eq!((unit.instance().data, unit.load_report().cached), (11, false), "a transaction sees what it wrote");
    db.roll_back(tx).await?;
    assert_eq!(found(add(&db, &persister, "a", None, 1).await?).sum, 1);
    assert_eq!(found(add(&db, &persister, "a", None, 1).await?), Found { cached: true, sum: 2 });
    // In a transaction of the library's own, with the closure failing at its end.
    let id = instance("a");
    let failed = persister.execute_in_transaction(db.pool(), &Counter, &id, None, |mut attempt| async move {
        attempt.unit.publish(added(1000))?;
        drop(attempt);
        anyhow::bail!("changed my mind")
    });
    let failed: anyhow::Result<Executed<()>> = failed.await;
    assert_eq!(failed.unwrap_err().to_string(), "changed my mind");
    assert_eq!(found(add(&db, &persister, "a", None, 1).await?).sum, 3);
    Ok(())
}

async fn a_panic_leaves_nothing_in_memory<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = keeping(&db, ROOM);
    let _ = add(&db, &persister, "a", None, 1).await?;
    let panics = tokio::spawn({
        let (db, persister) = (db.clone(), persister.clone());
        async move {
            let decide = |unit: &mut sagastore::UnitOfWork<'_, Counter>| -> Result<(), Error> {
                unit.publish(added(1000))?;
                std::panic::resume_unwind(Box::new("on purpose"))
            };
            persister.execute(db.pool(), &Counter, &instance("a"), None, decide).await.map(drop)
        }
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert_eq!(found(add(&db, &persister, "a", None, 1).await?), Found { cached: false, sum: 1 });
    Ok(())
}

async fn no_more_are_kept_than_there_is_room_for<DB: Subject>(db: TestDb<DB>) -> Clause {
    const INSTANCES: u32 = 60;
    for (capacity, least, most) in [(0, 0, 0), (10, 1, 10), (200, INSTANCES, INSTANCES)] {
        let persister = keeping(&db, capacity);
        let mut hits = 0;
        for time in 0..2 {
            // Backwards, so that those that came last are asked for first.
            for number in 0..INSTANCES {
                let number = if time == 0 { number } else { INSTANCES - 1 - number };
                hits += u32::from(found(add(&db, &persister, &number.to_string(), None, 1).await?).cached);
            }
        }
        assert!((least..=most).contains(&hits), "{hits} of {INSTANCES} with room for {capacity}");
    }
    assert_eq!(db.state(&Counter, "7").await?, Some((6, 6)));
    Ok(())
}

async fn another_database_has_instances_of_its_own<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = keeping(&db, ROOM);
    let other = TestDb::<DB>::create_named(db.mode(), crate::harness::unique_name()).await?;
    let done = async {
        for time in 0..3 {
            assert_eq!(found(add(&db, &persister, "a", None, 1).await?), Found { cached: time > 0, sum: time });
            let there = found(add(&other, &persister, "a", None, 10).await?);
            assert_eq!(there, Found { cached: false, sum: time * 10 });
        }
        // The same database by another way.
        let pool = db.second_pool(1).await?;
        let id = instance("a");
        let by_another_way = persister.execute(&pool, &Counter, &id, None, |unit| {
            unit.publish(added(1))?;
            Ok::<_, Error>(unit.load_report().cached)
        });
        assert!(matches!(by_another_way.await?, Executed::Done { value: false, .. }));
        assert_eq!(found(add(&db, &persister, "a", None, 1).await?).sum, 4);
        anyhow::Ok(())
    };
    let done = done.await;
    other.remove().await?;
    done
}

async fn many_callers_on_few_instances_lose_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (callers, times) = (8, scaled(12_u32, 200));
    let retry = ConflictRetry { retries: 500, ..ConflictRetry::default() };
    let processes = [0, 1].map(|_| db.persister().with_instance_cache(db.pool(), ROOM).with_conflict_retry(retry));
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (db, persister) = (db.clone(), processes[caller % 2].clone());
        tasks.spawn(async move {
            for time in 0..times {
                let id = (time % 3).to_string();
                let executed = add(&db, &persister, &id, Some(MessageId::new()), 1).await?;
                assert!(matches!(executed, Executed::Done { .. }));
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let mut sum = 0;
    for id in ["0", "1", "2"] {
        let (state, revision) = db.state(&Counter, id).await?.unwrap();
        assert_eq!(state, i64::try_from(revision)?);
        sum += state;
        assert_eq!(found(add(&db, &processes[0], id, None, 1).await?).sum, state);
    }
    assert_eq!(sum, i64::try_from(callers)? * i64::from(times));
    Ok(())
}

async fn calls_that_are_dropped_at_any_step_leave_memory_and_database_alike<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister().with_instance_cache(db.pool(), ROOM);
    let (mut answered, mut cuts, mut step) = (0, 0, 0);
    while answered < 3 || cuts < scaled(12, 300) {
        step += fastrand::u32(1..=2);
        match cut_after(step, add(&db, &persister, "a", None, 1)).await {
            None => cuts += 1,
            Some(executed) => {
                assert!(matches!(executed?, Executed::Done { .. }));
                (answered, step) = (answered + 1, 0);
                assert!(answered < 1000, "only {cuts} calls could be dropped");
            }
        }
    }
    let Executed::Done { value, .. } = add(&db, &persister, "a", None, 1).await? else {
        panic!("no message was named")
    };
    let (state, revision) = db.state(&Counter, "a").await?.unwrap();
    assert_eq!((value.sum + 1, i64::try_from(revision)?), (state, state));
    assert!((answered + 1..=answered + 1 + cuts).contains(&state), "{state} after {answered} calls and {cuts} dropped");
    Ok(())
}

/// The error told its caller to stop, although the true state would not have led there.
async fn a_fence_that_an_older_state_chose_is_chosen_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (kept, id, lock) = (keeping(&db, ROOM), instance("1"), db.lock(LONG_LEASE));
    assert_eq!(found(add(&db, &kept, "1", None, 1).await?).sum, 0);
    let lease = obtain(&lock, "a", "one").await?;
    assert!(lock.release(&lease).await?);
    obtain(&lock, "a", "two").await?;
    assert_eq!(found(add(&db, &db.persister(), "1", None, 1).await?).sum, 1);
    let executed = kept.execute(db.pool(), &Counter, &id, None, |unit| {
        if unit.instance().data == 1 {
            unit.fence(lease.as_fence());
        }
        unit.publish(added(1))
    });
    assert!(matches!(executed.await?, Executed::Done { .. }));
    assert_eq!(db.state(&Counter, "1").await?, Some((3, 3)));
    // One that the true state chooses does not hold.
    let executed = kept.execute(db.pool(), &Counter, &id, None, |unit| {
        unit.fence(lease.as_fence());
        unit.publish(added(1))
    });
    assert_error!(executed.await, Error::Fenced { .. });
    assert_eq!(db.state(&Counter, "1").await?, Some((3, 3)));
    Ok(())
}
