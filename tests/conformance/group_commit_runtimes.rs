//! Group commit: the connection on which it is done, and the runtimes of those who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use sagastore::{ConflictRetry, Error, Executed, Persister};
use sqlx::Sqlite;
use tokio::task::JoinSet;

use crate::group_commit::{SETTLED, execute, revision, start_orders, work};
use crate::harness::sample::{Counter, Order, added, instance, note};
use crate::harness::{Clause, TestDb, assert_error, sqlite_clauses, until};

sqlite_clauses! {
    who_has_no_connection_waits_for_one: SQLITE_FILE,
    the_only_connection_is_not_kept_from_those_who_do_not_write: SQLITE_FILE,
    a_runtime_that_is_shut_down_takes_nobody_with_it: SQLITE_FILE,
    a_runtime_that_nobody_drives_any_more_keeps_nobody_waiting: SQLITE_FILE,
    the_only_connection_is_kept_whatever_fails_on_it: SQLITE_MEMORY,
    a_pool_that_is_closed_is_told_and_closes: SQLITE_FILE,
}

async fn who_has_no_connection_waits_for_one(db: TestDb<Sqlite>) -> Clause {
    let pool = db.second_pool(1).await?;
    let persister = db.persister().with_group_commit(&pool).with_instance_cache(&pool, 64);
    let execute = |number: u32| {
        let (persister, pool) = (persister.clone(), pool.clone());
        async move {
            let id = instance(&number.to_string());
            let done = persister.execute(&pool, &Order, &id, None, |unit| {
                unit.publish(note("n"))?;
                Ok::<_, Error>(unit.load_report().cached)
            });
            done.await
        }
    };
    for number in 0..4 {
        assert!(matches!(execute(number).await?, Executed::Done { value: false, .. }));
    }
    let only = pool.acquire().await?;
    let mut calls: JoinSet<_> = (0..4).map(execute).collect();
    tokio::time::sleep(SETTLED).await;
    assert!(calls.try_join_next().is_none(), "nothing can be written without a connection");
    drop(only);
    while let Some(done) = calls.join_next().await {
        assert!(matches!(done??, Executed::Done { value: true, conflicts: 0, .. }));
    }
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_commit").await?, 8);
    Ok(())
}

/// Writers who need no connection to decide handed it on among themselves for as long as they came.
async fn the_only_connection_is_not_kept_from_those_who_do_not_write(db: TestDb<Sqlite>) -> Clause {
    // Slow enough for the others to come again meanwhile.
    db.sql("CREATE TRIGGER slow BEFORE INSERT ON saga_commit BEGIN SELECT length(hex(zeroblob(30000000))); END")
        .await?;
    let pool = db.second_pool(1).await?;
    let persister = db.persister().with_group_commit(&pool).with_instance_cache(&pool, 8);
    let writer = |number: u32| {
        let (persister, pool) = (persister.clone(), pool.clone());
        async move {
            let id = instance(&number.to_string());
            loop {
                drop(persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1))).await?);
            }
        }
    };
    let mut writers: JoinSet<Result<(), Error>> = (0..4).map(writer).collect();
    for _ in 0..5 {
        drop(tokio::time::timeout(Duration::from_secs(20), pool.acquire()).await.context("the writers keep it")??);
    }
    assert!(writers.try_join_next().is_none(), "a writer failed");
    writers.shutdown().await;
    Ok(())
}

async fn a_runtime_that_is_shut_down_takes_nobody_with_it(db: TestDb<Sqlite>) -> Clause {
    start_orders(&db, 4).await?;
    let persister = db.persister().with_group_commit(db.pool());
    let (blocker, decided) = (db.begin().await?, Arc::new(AtomicUsize::new(0)));
    let call = |id: usize| {
        let (db, persister, decided) = (db.clone(), persister.clone(), Arc::clone(&decided));
        async move { execute(&db, &persister, work(id, 1), &decided).await }
    };
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    drop(other.spawn(call(0)));
    until("the first has decided", async || Ok(decided.load(Ordering::Relaxed) == 1)).await?;
    tokio::time::sleep(SETTLED).await;
    let waiting = [1, 2, 3].map(|id| tokio::spawn(call(id)));
    until("the others have decided", async || Ok(decided.load(Ordering::Relaxed) == 4)).await?;
    other.shutdown_background();
    tokio::time::sleep(SETTLED).await;
    db.roll_back(blocker).await?;
    for waiting in waiting {
        assert_eq!(revision(&waiting.await?), 2);
    }
    Ok(())
}

/// The first caller's runtime was to write for those behind it, and was not entered again.
async fn a_runtime_that_nobody_drives_any_more_keeps_nobody_waiting(db: TestDb<Sqlite>) -> Clause {
    start_orders(&db, 2).await?;
    let persister = db.persister().with_group_commit(db.pool());
    let (blocker, decided) = (db.begin().await?, Arc::new(AtomicUsize::new(0)));
    let (first_is_done, second_is_done) = std::sync::mpsc::channel();
    let call = |id: usize| {
        let (db, persister, decided) = (db.clone(), persister.clone(), Arc::clone(&decided));
        move || {
            let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let revision = own.block_on(async { revision(&execute(&db, &persister, work(id, 1), &decided).await) });
            (own, revision)
        }
    };
    let first = call(0);
    let first = std::thread::spawn(move || {
        let (_own, revision) = first();
        // As one that waits for what the other one does.
        (revision, second_is_done.recv_timeout(Duration::from_secs(10)))
    });
    until("the first has decided", async || Ok(decided.load(Ordering::Relaxed) == 1)).await?;
    tokio::time::sleep(SETTLED).await;
    let second = call(1);
    let second = std::thread::spawn(move || {
        let (_own, revision) = second();
        first_is_done.send(()).unwrap();
        revision
    });
    until("the second has decided", async || Ok(decided.load(Ordering::Relaxed) == 2)).await?;
    tokio::time::sleep(SETTLED).await;
    db.roll_back(blocker).await?;
    let ended = tokio::task::spawn_blocking(move || (first.join().unwrap(), second.join().unwrap())).await?;
    assert_eq!(ended, ((2, Ok(())), 2), "the second is not written until the first goes on");
    Ok(())
}

/// A database in memory was gone with it.
async fn the_only_connection_is_kept_whatever_fails_on_it(_: TestDb<Sqlite>) -> Clause {
    let pool = sagastore::sqlite::pool_options().max_connections(1).connect("sqlite::memory:").await?;
    let _ = sagastore::migrate(&pool).await?;
    let persister = Persister::<Sqlite>::new().with_group_commit(&pool).with_conflict_retry(ConflictRetry::NEVER);
    let count = async |id: &str| {
        let id = instance(id);
        persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1))).await.map(drop)
    };
    count("1").await?;
    // The database ends the transaction by itself, of which the driver learns nothing.
    let ends = "CREATE TRIGGER ends BEFORE INSERT ON saga_commit BEGIN SELECT RAISE(ROLLBACK, 'it has ended'); END";
    sqlx::raw_sql(ends).execute(&pool).await?;
    assert!(count("2").await.is_err());
    sqlx::raw_sql("DROP TRIGGER ends").execute(&pool).await?;
    for id in ["1", "2"] {
        count(id).await?;
    }
    Ok(())
}

async fn a_pool_that_is_closed_is_told_and_closes(db: TestDb<Sqlite>) -> Clause {
    let pool = db.second_pool(4).await?;
    let persister = db.persister().with_group_commit(&pool);
    let mut callers = JoinSet::new();
    for caller in 0..16_usize {
        let (pool, persister) = (pool.clone(), persister.clone());
        callers.spawn(async move {
            let id = instance(&caller.to_string());
            loop {
                let done = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1)));
                if let Err(error) = done.await {
                    return error;
                }
            }
        });
    }
    tokio::time::sleep(SETTLED).await;
    tokio::time::timeout(Duration::from_secs(5), pool.close()).await?;
    while let Some(error) = callers.join_next().await {
        assert_error!(Err::<(), _>(error?), Error::Closed { .. });
    }
    Ok(())
}
