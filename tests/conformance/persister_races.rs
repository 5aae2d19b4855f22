//! Several writers at one instance: one wins, the others are told and lose nothing but time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sagastore::{Error, Executed, Inbound, MessageId, Outbox};
use tokio::sync::Barrier;

use crate::harness::sample::{Counter, Order, OrderCommand, added, instance, note};
use crate::harness::{Clause, Footprint, Subject, TestDb, assert_error, clauses, stream_of};

clauses! {
    writers_that_each_lose_once_both_take_effect: BASIC,
    a_stale_writer_may_lose_any_number_of_times,
    a_lost_race_wrote_nothing,
    units_of_work_without_events_conflict_as_well,
    after_a_conflict_the_transaction_is_still_usable: BASIC,
    of_two_open_transactions_the_slower_waits_and_loses: SERVERS,
    a_writer_that_waited_wins_if_the_other_one_rolls_back: SERVERS,
    a_deferred_transaction_that_read_first_loses_to_any_writer: SQLITE_FILES,
    workers_at_the_same_message_take_effect_once: SEVERAL_CONNECTIONS,
    two_first_messages_at_once_make_one_instance: SEVERAL_CONNECTIONS,
}

/// How long a statement that must wait for another transaction is watched.
const WATCHED: Duration = Duration::from_millis(200);

async fn writers_that_each_lose_once_both_take_effect<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (mut one, mut other) = (db.unit(&Counter, "1").await?, db.unit(&Counter, "1").await?);
    one.publish(added(1))?;
    other.publish(added(10))?;
    assert!(db.save(one).await?.is_changed());
    assert_error!(db.save(other).await, Error::Conflict { stream, expected, actual } => {
        assert_eq!((stream, expected.get(), actual.get()), (stream_of(&Counter, "1"), 0, 1));
    });
    let (mut one, mut other) = (db.unit(&Counter, "1").await?, db.unit(&Counter, "1").await?);
    one.publish(added(100))?;
    other.publish(added(10))?;
    assert!(db.save(other).await?.is_changed());
    assert_error!(db.save(one).await, Error::Conflict { expected, actual, .. } => {
        assert_eq!((expected.get(), actual.get()), (1, 2));
    });
    assert_eq!(db.publish(&Counter, "1", [added(100)]).await?, 3);
    assert_eq!(db.state(&Counter, "1").await?, Some((111, 3)));
    Ok(())
}

async fn a_stale_writer_may_lose_any_number_of_times<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..10 {
        let mut stale = db.unit(&Counter, "1").await?;
        assert_eq!(stale.instance().revision.get(), round);
        stale.publish(added(1000))?;
        db.publish(&Counter, "1", [added(1)]).await?;
        assert_error!(db.save(stale).await, Error::Conflict { expected, actual, .. } => {
            assert_eq!((expected.get(), actual.get()), (round, round + 1));
        });
    }
    assert_eq!(db.publish(&Counter, "1", [added(1000)]).await?, 11);
    assert_eq!(db.state(&Counter, "1").await?, Some((1010, 11)));
    Ok(())
}

async fn a_lost_race_wrote_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let frequently = db.persister().with_snapshot_frequency(sagastore::SnapshotFrequency::every(2));
    for id in ["new", "old"] {
        if id == "old" {
            db.publish(&Order, id, [note("a")]).await?;
        }
        let mut stale = db.unit(&Order, id).await?;
        stale.handling(MessageId::new())?;
        stale.publish(note("b"))?;
        stale.publish(note("c"))?;
        stale.execute(&OrderCommand::TakePayment { amount_cents: 1 })?;
        db.publish(&Order, id, [note("faster")]).await?;
        let before = (db.footprint().await?, db.state(&Order, id).await?);
        let mut tx = db.begin().await?;
        let lost = frequently.save(&mut tx, stale).await;
        assert!(lost.as_ref().is_err_and(|error| error.is_conflict() && !error.is_transient()), "{lost:?}");
        db.commit(tx).await?;
        assert_eq!((db.footprint().await?, db.state(&Order, id).await?), before);
    }
    Ok(())
}

async fn units_of_work_without_events_conflict_as_well<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "1", [added(1)]).await?;
    let (mut one, mut other) = (db.unit(&Counter, "1").await?, db.unit(&Counter, "1").await?);
    one.execute(&OrderCommand::TakePayment { amount_cents: 1 })?;
    other.execute(&OrderCommand::TakePayment { amount_cents: 2 })?;
    assert!(db.save(one).await?.is_changed());
    assert_error!(db.save(other).await, Error::Conflict { expected, actual, .. } => {
        assert_eq!((expected.get(), actual.get()), (1, 1));
    });
    assert_eq!(db.footprint().await?, Footprint { commits: 2, completed: 0, snapshots: 0, outbox: 2 });
    Ok(())
}

async fn after_a_conflict_the_transaction_is_still_usable<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let persister = db.persister();
    for (number, id) in [(1, "new"), (10, "old")] {
        if id == "old" {
            db.publish(&Counter, id, [added(1)]).await?;
        }
        let mut stale = db.unit(&Counter, id).await?;
        stale.publish(added(1000))?;
        db.publish(&Counter, id, [added(1)]).await?;
        let (_, revision) = db.state(&Counter, id).await?.unwrap();

        let mut tx = db.begin().await?;
        db.write_own(&mut tx, number).await?;
        assert_error!(persister.save(&mut tx, stale).await, Error::Conflict { .. });
        db.write_own(&mut tx, number + 1).await?;
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &instance(id)).await?;
        unit.publish(note("something else"))?;
        assert!(persister.save(&mut tx, unit).await?.is_changed());
        let mut again = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance(id)).await?;
        assert_eq!(again.instance().revision.get(), revision);
        again.publish(added(100))?;
        assert!(persister.save(&mut tx, again).await?.is_changed());
        db.commit(tx).await?;
        assert_eq!(db.state(&Counter, id).await?, Some((100 + i64::try_from(revision)?, revision + 1)));
        assert_eq!(db.state(&Order, id).await?.unwrap().1, 1);
    }
    assert_eq!(db.own_writes().await?, 4);
    Ok(())
}

/// Two transactions load and publish; the first saves, the second tries to while the first is open.
/// Gives what the second was told after `commit` decided the first.
async fn race<DB: Subject>(db: &TestDb<DB>, id: &str, commit: bool) -> anyhow::Result<Result<u64, Error>> {
    let persister = db.persister();
    let (mut first_tx, mut second_tx) = (db.begin().await?, db.begin().await?);
    let mut first = persister.begin_unit_of_work(&Counter, &mut first_tx, Outbox, &instance(id)).await?;
    let mut second = persister.begin_unit_of_work(&Counter, &mut second_tx, Outbox, &instance(id)).await?;
    first.publish(added(1))?;
    second.publish(added(10))?;
    assert!(persister.save(&mut first_tx, first).await?.is_changed());
    let mut waiting = tokio::spawn({
        let db = db.clone();
        async move {
            let saved = persister.save(&mut second_tx, second).await;
            // Also a loser has a transaction to commit.
            db.commit(second_tx).await?;
            saved.map(|saved| saved.revision().get())
        }
    });
    assert!(tokio::time::timeout(WATCHED, &mut waiting).await.is_err(), "it must not decide before the other one has");
    if commit {
        db.commit(first_tx).await?;
    } else {
        db.roll_back(first_tx).await?;
    }
    Ok(waiting.await?)
}

async fn of_two_open_transactions_the_slower_waits_and_loses<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "old", [added(100)]).await?;
    for (id, revision, total) in [("new", 1, 1), ("old", 2, 101)] {
        assert_error!(race(&db, id, true).await?, Error::Conflict { expected, actual, .. } => {
            assert_eq!((expected.get(), actual.get()), (revision - 1, revision));
        });
        assert_eq!(db.state(&Counter, id).await?, Some((total, revision)));
    }
    Ok(())
}

async fn a_writer_that_waited_wins_if_the_other_one_rolls_back<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.publish(&Counter, "old", [added(100)]).await?;
    for (id, revision, total) in [("new", 1, 10), ("old", 2, 110)] {
        assert_eq!(race(&db, id, false).await??, revision);
        assert_eq!(db.state(&Counter, id).await?, Some((total, revision)));
    }
    Ok(())
}

async fn a_deferred_transaction_that_read_first_loses_to_any_writer<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister();
    for id in ["1", "2"] {
        db.publish(&Counter, id, [added(1)]).await?;
    }
    // Also to a writer at another instance, since the whole file has one revision.
    for other in ["1", "2"] {
        let before = db.state(&Counter, "1").await?.unwrap();
        let mut tx = db.pool().begin().await?;
        let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
        unit.publish(added(1000))?;
        db.publish(&Counter, other, [added(1)]).await?;
        assert_error!(persister.save(&mut tx, unit).await, Error::Conflict { .. });
        let _ = tx.commit().await;
        let won = u64::from(other == "1");
        assert_eq!(db.state(&Counter, "1").await?, Some((before.0 + i64::try_from(won)?, before.1 + won)));
    }
    // A new transaction sees the change, and a deferred one without a rival saves.
    let mut tx = db.pool().begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &instance("1")).await?;
    unit.publish(added(10))?;
    assert!(persister.save(&mut tx, unit).await?.is_changed());
    db.commit(tx).await?;
    assert_eq!(db.state(&Counter, "1").await?, Some((12, 3)));
    Ok(())
}

async fn workers_at_the_same_message_take_effect_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    const WORKERS: usize = 8;
    db.create_own_table().await?;
    for round in 0..10 {
        let (id, message) = (format!("instance {round}"), Inbound::from(MessageId::new()));
        let (start, runs) = (Arc::new(Barrier::new(WORKERS)), Arc::new(AtomicU32::new(round * 1000)));
        let workers = (0..WORKERS).map(|worker| {
            let (db, id, start, runs) = (db.clone(), instance(&id), Arc::clone(&start), Arc::clone(&runs));
            tokio::spawn(async move {
                let persister = db.persister();
                start.wait().await;
                if worker % 2 == 0 {
                    let done = persister.execute(db.pool(), &Counter, &id, Some(message), |unit| {
                        unit.execute(&OrderCommand::SendMail { text: "hello".to_owned() })?;
                        unit.publish(added(1))
                    });
                    return anyhow::Ok((worker, done.await?));
                }
                let done =
                    persister.execute_in_transaction(db.pool(), &Counter, &id, Some(message), async |mut attempt| {
                        db.write_own(&mut attempt.transaction, runs.fetch_add(1, Ordering::Relaxed)).await?;
                        attempt.unit.execute(&OrderCommand::SendMail { text: "hello".to_owned() })?;
                        let event = attempt.unit.publish(added(1))?;
                        anyhow::Ok(attempt.finish(event))
                    });
                Ok((worker, done.await?))
            })
        });
        let (mut winners, mut repeats, own_before) = (Vec::new(), Vec::new(), db.own_writes().await?);
        for worker in workers.collect::<Vec<_>>() {
            match worker.await?? {
                (worker, Executed::Done { value, .. }) => winners.push((worker, value)),
                (_, Executed::AlreadyHandled(first)) => repeats.push(first),
            }
        }
        assert_eq!((winners.len(), repeats.len()), (1, WORKERS - 1));
        let (winner, event) = winners[0];
        for first in repeats {
            assert_eq!((first.revision.get(), first.messages.len()), (1, 2));
            assert_eq!(first.messages[1].message_id, event);
        }
        assert_eq!(db.own_writes().await? - own_before, i64::from(winner % 2 == 1));
        assert_eq!(db.state(&Counter, &id).await?, Some((1, 1)));
    }
    assert_eq!(db.footprint().await?, Footprint { commits: 10, completed: 0, snapshots: 0, outbox: 20 });
    Ok(())
}

async fn two_first_messages_at_once_make_one_instance<DB: Subject>(db: TestDb<DB>) -> Clause {
    for round in 0..20 {
        let (name, start) = (format!("instance {round}"), Arc::new(Barrier::new(2)));
        let tasks = [1, 10].map(|amount| {
            let (db, id, start) = (db.clone(), instance(&name), Arc::clone(&start));
            tokio::spawn(async move {
                let (persister, message) = (db.persister(), Inbound::from(MessageId::new()));
                start.wait().await;
                let done =
                    persister.execute(db.pool(), &Counter, &id, Some(message), |unit| unit.publish(added(amount)));
                done.await
            })
        });
        for task in tasks {
            assert!(!task.await??.is_already_handled());
        }
        assert_eq!(db.state(&Counter, &name).await?, Some((11, 2)));
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_stream").await?, 20);
    Ok(())
}
