//! Units of work at every isolation level that a server has.

use std::time::Duration;

use anyhow::ensure;
use sagastore::dispatcher::Dispatcher;
use sagastore::lock::{DatabaseLock, Lock};
use sagastore::{ConflictRetry, Error, Executed, Inbound, MessageId, MessageStore, Offset, Outbox, OutboxRepository};
use sqlx::Pool;

use crate::harness::sample::{Counter, added, events, instance, stream};
use crate::harness::{Clause, Kind, Sent, Subject, TestDb, assert_error, clauses, client, quick, resource};

clauses! {
    a_race_never_has_two_winners_at_any_isolation: SERVERS,
    every_message_takes_effect_once_at_any_isolation: SERVERS,
    sessions_that_read_what_is_not_committed_are_refused: MYSQL,
    sessions_that_do_not_commit_by_themselves_are_refused: MYSQL,
}

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// A pool whose transactions begin at `level`.
pub(crate) async fn pool_at<DB: Subject>(db: &TestDb<DB>, level: &str, connections: u32) -> anyhow::Result<Pool<DB>> {
    let statement = match DB::KIND {
        Kind::Mysql => format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}"),
        _ => format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}"),
    };
    pool_after(db, &statement, connections).await
}

/// A pool in each session of which this was run.
async fn pool_after<DB: Subject>(db: &TestDb<DB>, statement: &str, connections: u32) -> anyhow::Result<Pool<DB>> {
    let pool = db.second_pool(connections).await?;
    let mut all = Vec::new();
    for _ in 0..connections {
        let mut conn = pool.acquire().await?;
        DB::execute(&mut conn, statement.to_owned()).await?;
        all.push(conn);
    }
    Ok(pool)
}

async fn a_race_never_has_two_winners_at_any_isolation<DB: Subject>(db: TestDb<DB>) -> Clause {
    let persister = db.persister();
    for level in LEVELS {
        // There, a load takes locks, and neither of two that loaded could save.
        if (DB::KIND, level) == (Kind::Mysql, "SERIALIZABLE") {
            continue;
        }
        let pool = pool_at(&db, level, 2).await?;
        let old = format!("old at {level}");
        db.publish(&Counter, &old, [added(100)]).await?;
        for id in [old, format!("new at {level}")] {
            let before = db.state(&Counter, &id).await?.unwrap_or_default();
            let (mut fast_tx, mut slow_tx) = (pool.begin().await?, pool.begin().await?);
            let mut fast = persister.begin_unit_of_work(&Counter, &mut fast_tx, Outbox, &instance(&id)).await?;
            let mut slow = persister.begin_unit_of_work(&Counter, &mut slow_tx, Outbox, &instance(&id)).await?;
            fast.publish(added(1))?;
            slow.publish(added(10))?;
            ensure!(persister.save(&mut fast_tx, fast).await?.is_changed());
            db.commit(fast_tx).await?;
            let lost = persister.save(&mut slow_tx, slow).await.unwrap_err();
            let _ = slow_tx.commit().await;
            if DB::KIND == Kind::Postgres && level != "READ COMMITTED" {
                assert!(matches!(&lost, Error::Contention { .. }) && lost.is_transient(), "{level}: {lost:?}");
            } else {
                assert!(lost.is_conflict(), "{level}: {lost:?}");
            }
            assert_eq!(db.state(&Counter, &id).await?, Some((before.0 + 1, before.1 + 1)), "{level}");
        }
    }
    Ok(())
}

async fn every_message_takes_effect_once_at_any_isolation<DB: Subject>(db: TestDb<DB>) -> Clause {
    const WORKERS: i64 = 8;
    const MESSAGES: i64 = 10;
    let patient = ConflictRetry { retries: 1000, delay: Duration::from_millis(1), cap: Duration::from_millis(20) };
    for level in LEVELS {
        let pool = pool_at(&db, level, 4).await?;
        let workers = (0..WORKERS).map(|worker| {
            let (pool, persister) = (pool.clone(), db.persister().with_conflict_retry(patient));
            let id = instance(level);
            tokio::spawn(async move {
                for number in 0..MESSAGES {
                    let message = Some(Inbound::from(MessageId::new()));
                    let done = if number % 2 == 0 {
                        persister.execute(&pool, &Counter, &id, message, |unit| unit.publish(added(1))).await
                    } else {
                        let done =
                            persister.execute_in_transaction(&pool, &Counter, &id, message, async |mut attempt| {
                                let event = attempt.unit.publish(added(1))?;
                                Ok::<_, Error>(attempt.finish(event))
                            });
                        done.await
                    };
                    ensure!(matches!(done?, Executed::Done { .. }), "{worker} repeated message {number}");
                }
                Ok(())
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await??;
        }
        let all = WORKERS * MESSAGES;
        assert_eq!(db.state(&Counter, level).await?, Some((all, u64::try_from(all)?)), "{level}");
    }
    Ok(())
}

/// A unit of work was built on what was rolled back afterwards, and a dispatcher sent what was never recorded.
async fn sessions_that_read_what_is_not_committed_are_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (pool, id, sent) = (pool_at(&db, "READ UNCOMMITTED", 4).await?, instance("1"), Sent::default());
    db.publish(&Counter, "1", [added(1)]).await?;
    let mut open = db.begin().await?;
    let mut unit = db.persister().begin_unit_of_work(&Counter, &mut open, Outbox, &id).await?;
    unit.publish(added(10))?;
    ensure!(db.persister().save(&mut open, unit).await?.is_changed());

    let persister = db.persister();
    let executed = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(100)).map(drop)).await;
    assert_error!(executed, Error::Unsupported { .. });
    let mut tx = pool.begin().await?;
    let appended = db.store().append_messages(&mut tx, &stream("a"), Offset::ZERO, &events(1)).await;
    assert_error!(appended, Error::Unsupported { .. });
    tx.rollback().await?;
    let store = db.store();
    let read = store.find_batch(&mut *pool.acquire().await?, None, 10).await;
    assert_error!(read, Error::Unsupported { .. });
    let dispatcher = Dispatcher::new(pool.clone(), sent.emitter()).with_settings(quick());
    assert_error!(dispatcher.dispatch_once().await, Error::Unsupported { .. });
    db.roll_back(open).await?;

    assert_eq!((sent.len(), db.state(&Counter, "1").await?), (0, Some((1, 1))));
    // It goes on where the level is another one.
    assert_eq!(store.find_batch(&mut *db.conn().await?, None, 10).await?.len(), 1);
    drop(dispatcher);
    pool.close().await;
    Ok(())
}

/// A unit of work was answered as saved, and a lease as granted, and both were rolled back with their connection's return.
async fn sessions_that_do_not_commit_by_themselves_are_refused<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (pool, id, store) = (pool_after(&db, "SET SESSION autocommit = 0", 4).await?, instance("1"), db.store());
    db.publish(&Counter, "1", [added(1)]).await?;
    let persister = db.persister();
    let executed = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(100)).map(drop)).await;
    assert_error!(executed, Error::Unsupported { .. });
    let mut tx = pool.begin().await?;
    let appended = store.append_messages(&mut tx, &stream("a"), Offset::ZERO, &events(1)).await;
    assert_error!(appended, Error::Unsupported { .. });
    tx.rollback().await?;
    assert_error!(store.find_batch(&mut *pool.acquire().await?, None, 10).await, Error::Unsupported { .. });
    let obtained = DatabaseLock::new(pool.clone()).obtain_no_wait(&resource("r"), &client("a")).await;
    assert_error!(obtained, Error::Unsupported { .. });
    assert_eq!(db.state(&Counter, "1").await?, Some((1, 1)));
    // It goes on where each statement is committed, also inside a transaction.
    let mut tx = db.pool().begin().await?;
    store.append_messages(&mut tx, &stream("a"), Offset::ZERO, &events(1)).await?;
    tx.rollback().await?;
    pool.close().await;
    Ok(())
}
