//! Whole units of work in transactions of the library's own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::bail;
use sagastore::{ConflictRetry, Error, Executed, Inbound, MessageId, Saved};

use crate::harness::sample::{Counter, OrderCommand, added, instance};
use crate::harness::{Clause, Footprint, Subject, TestDb, assert_error, clauses, wait_for};

clauses! {
    executing_saves_and_returns_what_the_closure_returned: BASIC,
    executing_nothing_writes_nothing,
    a_lost_race_is_decided_again_from_a_new_load: SEVERAL_CONNECTIONS,
    retries_are_bounded: SEVERAL_CONNECTIONS,
    waits_between_retries_vary: SEVERAL_CONNECTIONS,
    a_handled_message_does_not_run_the_closure_again: BASIC,
    a_message_handled_while_the_closure_ran_takes_effect_once: SEVERAL_CONNECTIONS,
    an_error_of_the_closure_leaves_nothing: BASIC,
    a_pool_of_one_connection_is_enough,
    own_writes_share_the_fate_of_the_unit_of_work: BASIC,
    a_lost_try_is_rolled_back_whole,
    a_lost_try_does_not_hold_its_connection_while_it_waits,
    own_writes_of_a_repeated_message_are_undone,
    only_what_can_be_won_is_retried,
}

fn pay() -> OrderCommand {
    OrderCommand::TakePayment { amount_cents: 1 }
}

async fn executing_saves_and_returns_what_the_closure_returned<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    for revision in 1..=3 {
        let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
            unit.publish(added(10))?;
            unit.execute(&pay())?;
            Ok::<_, Error>(unit.instance().data)
        });
        let Executed::Done { value, saved, conflicts } = done.await? else { bail!("no message was named") };
        assert_eq!((value, saved.revision().get(), conflicts), (i64::try_from(revision)? * 10, revision, 0));
        assert!(saved.is_changed());
    }
    assert_eq!(db.state(&Counter, "1").await?, Some((30, 3)));
    assert_eq!(db.footprint().await?, Footprint { commits: 3, completed: 0, snapshots: 0, outbox: 6 });
    Ok(())
}

async fn executing_nothing_writes_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    let before = db.footprint().await?;
    let done = persister.execute(db.pool(), &Counter, &id, None, |_| Ok::<_, Error>("looked"));
    let Executed::Done { value, saved, .. } = done.await? else { bail!("no message was named") };
    assert_eq!(value, "looked");
    assert!(matches!(saved, Saved::Unchanged { revision } if revision.get() == 0));
    assert_eq!(db.footprint().await?, before);
    Ok(())
}

async fn a_lost_race_is_decided_again_from_a_new_load<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    let mut seen = Vec::new();
    let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        seen.push(unit.instance().data);
        unit.publish(added(1))?;
        if seen.len() <= 3 {
            wait_for(db.publish(&Counter, "1", [added(100)]))?;
        }
        Ok::<_, Error>(())
    });
    let Executed::Done { saved, conflicts, .. } = done.await? else { bail!("no message was named") };
    assert_eq!((saved.revision().get(), conflicts), (4, 3));
    assert_eq!(seen, [0, 100, 200, 300]);
    assert_eq!(db.state(&Counter, "1").await?, Some((301, 4)));
    assert_eq!(db.footprint().await?.outbox, 4);
    Ok(())
}

async fn retries_are_bounded<DB: Subject>(db: TestDb<DB>) -> Clause {
    for retries in [0, 1, 4] {
        let retry = ConflictRetry { retries, delay: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let persister = db.persister().with_conflict_retry(retry);
        let (name, mut tries) = (retries.to_string(), 0);
        let id = instance(&name);
        let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
            tries += 1;
            unit.publish(added(1))?;
            wait_for(db.publish(&Counter, &name, [added(100)]))?;
            Ok::<_, Error>(())
        });
        assert_error!(done.await, Error::Conflict { expected, actual, .. } => {
            assert_eq!((expected.get(), actual.get()), (u64::from(retries), u64::from(retries) + 1));
        });
        assert_eq!(tries, retries + 1);
        assert_eq!(db.state(&Counter, &name).await?, Some((i64::from(tries) * 100, u64::from(tries))));
    }
    Ok(())
}

async fn waits_between_retries_vary<DB: Subject>(db: TestDb<DB>) -> Clause {
    let id = instance("1");
    const LONGEST: Duration = Duration::from_millis(200);
    let retry = ConflictRetry { retries: 10, delay: LONGEST, cap: LONGEST };
    let persister = db.persister().with_conflict_retry(retry);
    let (mut waits, mut lost_at) = (Vec::new(), None::<Instant>);
    let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        waits.extend(lost_at.map(|at| at.elapsed()));
        unit.publish(added(1))?;
        wait_for(db.publish(&Counter, "1", [added(100)]))?;
        lost_at = Some(Instant::now());
        Ok::<_, Error>(())
    });
    assert_error!(done.await, Error::Conflict { .. });
    assert_eq!(waits.len(), 10);
    // Drawn evenly, all ten would be above 180 ms once in ten thousand million times.
    let (shortest, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*shortest < Duration::from_millis(180), "the waits are {waits:?}");
    assert!(*longest - *shortest > Duration::from_millis(20), "the waits are {waits:?}");
    Ok(())
}

async fn a_handled_message_does_not_run_the_closure_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    let message = Inbound::from(MessageId::new());
    let (mut runs, mut recorded) = (0, Vec::new());
    for round in 0..3 {
        let executed = persister.execute(db.pool(), &Counter, &id, Some(message), |unit| {
            runs += 1;
            unit.publish(added(5))?;
            unit.execute(&pay())?;
            recorded = unit.recorded().iter().map(|message| message.message_id).collect();
            Ok::<_, Error>(())
        });
        let executed = executed.await?;
        assert_eq!(executed.is_already_handled(), round > 0);
        if let Executed::AlreadyHandled(handled) = executed {
            assert_eq!((handled.message_id, handled.revision.get()), (message.message_id, 1));
            assert_eq!(handled.messages.iter().map(|message| message.message_id).collect::<Vec<_>>(), recorded);
        }
    }
    assert_eq!(runs, 1);
    assert_eq!(db.state(&Counter, "1").await?, Some((5, 1)));
    assert_eq!(db.footprint().await?.outbox, 2);
    Ok(())
}

async fn a_message_handled_while_the_closure_ran_takes_effect_once<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = Inbound::from(MessageId::new());
    let retry = ConflictRetry { retries: 0, ..ConflictRetry::default() };
    let persister = db.persister().with_conflict_retry(retry);
    let id = instance("1");
    let executed = persister.execute(db.pool(), &Counter, &id, Some(message), |unit| {
        unit.publish(added(1))?;
        let other = wait_for(persister.execute(db.pool(), &Counter, &id, Some(message), |unit| {
            unit.publish(added(100))?;
            Ok::<_, Error>(())
        }))?;
        assert!(!other.is_already_handled());
        Ok::<_, Error>(())
    });
    let Executed::AlreadyHandled(handled) = executed.await? else { bail!("it took effect twice") };
    assert_eq!((handled.revision.get(), handled.messages.len()), (1, 1));
    assert_eq!(db.state(&Counter, "1").await?, Some((100, 1)));
    Ok(())
}

async fn an_error_of_the_closure_leaves_nothing<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    let before = db.footprint().await?;
    let message = Inbound::from(MessageId::new());
    let mut runs = 0;
    let failed = persister.execute(db.pool(), &Counter, &id, Some(message), |unit| {
        runs += 1;
        unit.publish(added(1))?;
        unit.execute(&pay())?;
        bail!("no stock") as anyhow::Result<()>
    });
    assert_eq!(failed.await.unwrap_err().to_string(), "no stock");
    assert_eq!((runs, db.footprint().await?), (1, before));
    assert_eq!(db.state(&Counter, "1").await?, None);
    Ok(())
}

async fn a_pool_of_one_connection_is_enough<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (pool, persister) = (db.small_pool(1).await?, db.persister());
    let tasks = (0..8).map(|number| {
        let (pool, persister) = (pool.clone(), persister.clone());
        tokio::spawn(async move {
            let (id, one) = (instance("1"), || Some(Inbound::from(MessageId::new())));
            let done = persister.execute(&pool, &Counter, &id, one(), |unit| unit.publish(added(1)));
            assert!(!done.await?.is_already_handled(), "{number}");
            let done = persister.execute_in_transaction(&pool, &Counter, &id, one(), async |mut attempt| {
                attempt.unit.publish(added(1))?;
                Ok::<_, Error>(attempt.finish(()))
            });
            done.await
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(matches!(task.await??, Executed::Done { .. }));
    }
    assert_eq!(db.state(&Counter, "1").await?, Some((16, 16)));
    Ok(())
}

async fn own_writes_share_the_fate_of_the_unit_of_work<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (persister, id) = (db.persister(), instance("1"));
    db.create_own_table().await?;
    for (number, fails) in [(1, false), (2, true), (3, false)] {
        let done = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
            db.write_own(&mut attempt.transaction, number).await?;
            attempt.unit.publish(added(1))?;
            anyhow::ensure!(!fails, "the handler failed");
            Ok(attempt.finish(number))
        });
        match done.await {
            Ok(Executed::Done { value, .. }) => assert_eq!((value, fails), (number, false)),
            Ok(Executed::AlreadyHandled(_)) => bail!("no message was named"),
            Err(fault) => assert!(fails && fault.to_string() == "the handler failed", "{fault:?}"),
        }
    }
    assert_eq!(db.own_writes().await?, 2);
    assert_eq!(db.state(&Counter, "1").await?, Some((2, 2)));
    Ok(())
}

async fn a_lost_try_is_rolled_back_whole<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.create_own_table().await?;
    let (tries, persister, id) = (AtomicU32::new(0), db.persister(), instance("1"));
    let done = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
        let this = tries.fetch_add(1, Ordering::Relaxed);
        assert_eq!(attempt.unit.instance().revision.get(), 0);
        db.write_own(&mut attempt.transaction, this).await?;
        attempt.unit.publish(added(1))?;
        if this < 2 {
            // Another unit of work in the same transaction makes this one late.
            let tx = &mut attempt.transaction;
            let mut faster = persister.begin_unit_of_work(&Counter, tx, sagastore::Outbox, &id).await?;
            faster.publish(added(100))?;
            assert!(persister.save(tx, faster).await?.is_changed());
        }
        anyhow::Ok(attempt.finish(()))
    });
    let Executed::Done { conflicts, .. } = done.await? else { bail!("no message was named") };
    assert_eq!((conflicts, tries.into_inner()), (2, 3));
    assert_eq!(db.rows("SELECT n FROM own_table").await?, [[Some("2".to_owned())]]);
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    assert_eq!(db.footprint().await?, Footprint { commits: 1, completed: 0, snapshots: 0, outbox: 1 });
    Ok(())
}

async fn a_lost_try_does_not_hold_its_connection_while_it_waits<DB: Subject>(db: TestDb<DB>) -> Clause {
    let wait = Duration::from_secs(600);
    let (pool, id) = (db.small_pool(1).await?, instance("1"));
    let persister = db.persister().with_conflict_retry(ConflictRetry { retries: 1, delay: wait, cap: wait });
    let lost = Arc::new(tokio::sync::Notify::new());
    let task = tokio::spawn({
        let (pool, lost) = (pool.clone(), Arc::clone(&lost));
        async move {
            let done = persister.execute_in_transaction(&pool, &Counter, &id, None, async |mut attempt| {
                attempt.unit.publish(added(1))?;
                let tx = &mut attempt.transaction;
                let mut faster = persister.begin_unit_of_work(&Counter, tx, sagastore::Outbox, &id).await?;
                faster.publish(added(100))?;
                assert!(persister.save(tx, faster).await?.is_changed());
                lost.notify_one();
                Ok::<_, Error>(attempt.finish(()))
            });
            done.await.map(drop)
        }
    });
    lost.notified().await;
    // There is no other connection, so this waits for the lost try to give up its own.
    assert!(pool.acquire().await.is_ok());
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(db.state(&Counter, "1").await?, None);
    Ok(())
}

async fn own_writes_of_a_repeated_message_are_undone<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister();
    db.create_own_table().await?;
    let (id, message, runs) = (instance("1"), Inbound::from(MessageId::new()), Mutex::new(Vec::new()));
    for number in 1..=3 {
        let done = persister.execute_in_transaction(db.pool(), &Counter, &id, Some(message), async |mut attempt| {
            runs.lock().unwrap().push(number);
            db.write_own(&mut attempt.transaction, number).await?;
            attempt.unit.publish(added(1))?;
            anyhow::Ok(attempt.finish(()))
        });
        assert_eq!(done.await?.is_already_handled(), number > 1);
    }
    assert_eq!(*runs.lock().unwrap(), [1]);
    // A closure that names the message by itself is found out when it saves.
    let done = persister.execute_in_transaction(db.pool(), &Counter, &id, None, async |mut attempt| {
        db.write_own(&mut attempt.transaction, 4).await?;
        attempt.unit.handling(message)?;
        attempt.unit.publish(added(1))?;
        anyhow::Ok(attempt.finish(()))
    });
    assert!(done.await?.is_already_handled());
    assert_eq!(db.rows("SELECT n FROM own_table").await?, [[Some("1".to_owned())]]);
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    Ok(())
}

async fn only_what_can_be_won_is_retried<DB: Subject>(db: TestDb<DB>) -> Clause {
    let id = instance("1");
    let limits = sagastore::Limits { unit_messages: 1, ..Default::default() };
    let (persister, mut tries) = (db.persister().with_limits(limits), 0);
    let done = persister.execute(db.pool(), &Counter, &id, None, |unit| {
        tries += 1;
        unit.publish(added(1))?;
        unit.publish(added(2)).map(drop)
    });
    assert_error!(done.await, Error::TooLarge { .. });
    assert_eq!(tries, 1);
    assert_eq!(db.state(&Counter, "1").await?, None);
    Ok(())
}
