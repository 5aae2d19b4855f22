//! What a caller is told when the database refuses, waits too long, or goes away.

use std::time::{Duration, Instant};

use anyhow::Context;
use sagastore::{Error, Executed, MessageStore, Offset, StreamName};
use sqlx::pool::PoolOptions;
use sqlx::{ConnectOptions, Pool, Transaction};

use crate::harness::sample::{Counter, added, event_of, events, instance, stream};
use crate::harness::{Clause, Kind, Subject, TestDb, assert_error, clauses, scaled, until};

clauses! {
    a_writer_that_waits_too_long_is_told_to_try_again: SEVERAL_CONNECTIONS,
    two_writers_in_each_others_way_are_contention: SERVERS,
    a_lost_race_above_read_committed_is_contention: POSTGRES,
    a_deferred_transaction_that_read_first_gets_a_conflict: SQLITE_FILE,
    a_refused_write_is_no_transient_error,
    a_pool_without_free_connections_and_a_closed_one_are_told_apart: SEVERAL_CONNECTIONS,
    a_server_with_no_connection_left_is_worth_trying_again: SERVERS,
    a_lost_connection_is_told_and_the_pool_recovers: SERVERS,
    a_read_that_is_cut_off_is_an_error_and_never_a_short_history: SERVERS,
}

async fn add_one<DB: Subject>(db: &TestDb<DB>, pool: &Pool<DB>) -> sagastore::Result<i64> {
    let (persister, id) = (db.persister(), instance("1"));
    let done = persister.execute(pool, &Counter, &id, None, |unit| {
        unit.publish(added(1))?;
        Ok::<_, Error>(unit.instance().data)
    });
    match done.await? {
        Executed::Done { value, .. } => Ok(value),
        Executed::AlreadyHandled(handled) => panic!("no message was named, and yet {handled:?}"),
    }
}

async fn append<DB: Subject>(
    db: &TestDb<DB>,
    tx: &mut Transaction<'_, DB>,
    name: &StreamName,
) -> sagastore::Result<Offset> {
    db.store().append_messages(tx, name, Offset::ZERO, &events(1)).await
}

async fn a_writer_that_waits_too_long_is_told_to_try_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, store, pool) = (stream("a"), db.store(), db.second_pool(1).await?);
    let impatient = match DB::KIND {
        Kind::Sqlite => "PRAGMA busy_timeout = 200",
        Kind::Postgres => "SET lock_timeout = '200ms'",
        Kind::Mysql => "SET innodb_lock_wait_timeout = 1",
    };
    let mut holder = db.begin().await?;
    append(&db, &mut holder, &name).await?;
    let mut conn = pool.acquire().await?;
    DB::execute(&mut conn, impatient.into()).await?;
    let begun = Instant::now();
    let refused = match store.begin(&mut conn).await {
        Ok(mut tx) => append(&db, &mut tx, &name).await,
        Err(refused) => Err(refused),
    };
    assert!(refused.as_ref().is_err_and(Error::is_transient), "{refused:?}");
    match DB::KIND {
        Kind::Sqlite => assert_error!(refused, Error::Contention { .. }),
        _ => assert_error!(refused, Error::Timeout { .. }),
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "after {:?}", begun.elapsed());
    holder.rollback().await?;
    // The connection is as good as before.
    let mut tx = store.begin(&mut conn).await?;
    append(&db, &mut tx, &name).await?;
    tx.commit().await?;
    drop(conn);
    Ok(())
}

async fn two_writers_in_each_others_way_are_contention<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (a, b) = (stream("a"), stream("b"));
    let (mut first, mut second) = (db.begin().await?, db.begin().await?);
    append(&db, &mut first, &a).await?;
    append(&db, &mut second, &b).await?;
    let waiting = tokio::spawn({
        let (db, b) = (db.clone(), b.clone());
        async move {
            let done = append(&db, &mut first, &b).await;
            first.rollback().await.map(|()| done)
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let crossed = append(&db, &mut second, &a).await;
    second.rollback().await?;
    let ends = [crossed, waiting.await??];
    let lost: Vec<_> = ends.iter().filter(|end| matches!(end, Err(Error::Contention { .. }))).collect();
    assert_eq!(lost.len(), 1, "{ends:?}");
    assert!(lost[0].as_ref().is_err_and(Error::is_transient));
    // Nothing is left of either.
    assert_eq!((db.events(&a).await?, db.events(&b).await?), (None, None));
    Ok(())
}

async fn a_lost_race_above_read_committed_is_contention<DB: Subject>(db: TestDb<DB>) -> Clause {
    let store = db.store();
    for (number, level) in ["REPEATABLE READ", "SERIALIZABLE"].iter().enumerate() {
        let name = stream(&format!("stream {number}"));
        db.append(&name, 0, &events(1)).await?;
        let mut tx = db.begin().await?;
        DB::execute(&mut tx, format!("SET TRANSACTION ISOLATION LEVEL {level}")).await?;
        assert_eq!(store.next_offset(&mut tx, &name).await?, Some(Offset::of(1)));
        db.append(&name, 1, &events(1)).await?;
        let lost = store.append_messages(&mut tx, &name, Offset::of(1), &events(1)).await;
        assert!(lost.as_ref().is_err_and(Error::is_transient));
        assert_error!(lost, Error::Contention { .. });
        tx.rollback().await?;
        assert_eq!(db.events(&name).await?.unwrap().len(), 2);
    }
    Ok(())
}

async fn a_deferred_transaction_that_read_first_gets_a_conflict<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (store, name, persister, id) = (db.store(), stream("a"), db.persister(), instance("1"));
    db.append(&name, 0, &events(1)).await?;
    let mut deferred = db.pool().begin().await?;
    let mut unit = persister.begin_unit_of_work(&Counter, &mut deferred, sagastore::Outbox, &id).await?;
    unit.publish(added(1))?;
    db.append(&name, 1, &events(1)).await?;
    let refused = store.append_messages(&mut deferred, &name, Offset::of(1), &events(1)).await;
    assert_error!(refused, Error::Conflict { .. });
    assert_error!(persister.save(&mut deferred, unit).await, Error::Conflict { .. });
    // It can still be read in, and ended.
    assert_eq!(store.next_offset(&mut deferred, &name).await?, Some(Offset::of(1)));
    deferred.commit().await?;
    assert_eq!(db.events(&name).await?.unwrap().len(), 2);
    Ok(())
}

async fn a_refused_write_is_no_transient_error<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (read_only, writable) = match DB::KIND {
        Kind::Sqlite => ("PRAGMA query_only = 1", "PRAGMA query_only = 0"),
        Kind::Postgres => ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off"),
        Kind::Mysql => ("SET SESSION TRANSACTION READ ONLY", "SET SESSION TRANSACTION READ WRITE"),
    };
    let (store, mut conn) = (db.store(), db.conn().await?);
    DB::execute(&mut conn, read_only.into()).await?;
    let refused = match store.begin(&mut conn).await {
        Ok(mut tx) => append(&db, &mut tx, &stream("a")).await,
        Err(refused) => Err(refused),
    };
    assert!(refused.as_ref().is_err_and(|error| !error.is_transient() && !error.is_conflict()), "{refused:?}");
    assert_error!(refused, Error::Storage { .. });
    DB::execute(&mut conn, writable.into()).await?;
    Ok(())
}

async fn a_pool_without_free_connections_and_a_closed_one_are_told_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let small = PoolOptions::<DB>::new().max_connections(1).acquire_timeout(Duration::from_secs(2));
    let pool = small.connect_with(db.home().options.clone()).await?;
    let (taken, persister) = (pool.acquire().await?, db.persister());
    let waited = add_one(&db, &pool).await;
    assert!(waited.as_ref().is_err_and(Error::is_transient));
    assert_error!(waited, Error::PoolTimeout { .. });
    assert_error!(persister.begin(&pool).await, Error::PoolTimeout { .. });
    drop(taken);
    assert_eq!(add_one(&db, &pool).await?, 1);
    pool.close().await;
    let closed = add_one(&db, &pool).await;
    assert!(closed.as_ref().is_err_and(|error| !error.is_transient()));
    assert_error!(closed, Error::Closed { .. });
    assert_error!(persister.begin(&pool).await, Error::Closed { .. });
    Ok(())
}

/// The role of this pool may have one connection.
async fn let_in_once<DB: Subject>(db: &TestDb<DB>, pool: &Pool<DB>) -> Clause {
    let rows = DB::rows(&mut *pool.acquire().await?, "SELECT CURRENT_USER".to_owned()).await?;
    let role = rows[0][0].clone().context("no role")?;
    let limit = match (DB::KIND, role.split_once('@')) {
        (Kind::Mysql, Some((user, host))) => format!("ALTER USER '{user}'@'{host}' WITH MAX_USER_CONNECTIONS 1"),
        _ => format!("ALTER ROLE {role} CONNECTION LIMIT 1"),
    };
    db.sql(limit).await?;
    Ok(())
}

async fn a_server_with_no_connection_left_is_worth_trying_again<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (restricted, persister) = (db.restricted_pool().await?, db.persister());
    let_in_once(&db, &restricted).await?;
    let options = restricted.connect_options();
    restricted.close().await;
    let small = PoolOptions::<DB>::new().max_connections(2).acquire_timeout(Duration::from_secs(1));
    let pool = small.connect_lazy_with((*options).clone());
    // The server may take a moment to see that the others are gone.
    let mut held = None;
    until("the only connection", async || {
        held = pool.acquire().await.ok();
        Ok(held.is_some())
    })
    .await?;
    let refused = options.connect().await.map(drop).map_err(|error| db.store().classify("connecting", error));
    assert!(refused.as_ref().is_err_and(Error::is_transient), "{refused:?}");
    assert_error!(refused, Error::Contention { .. });
    let refused = persister.begin(&pool).await.map(drop);
    assert!(refused.as_ref().is_err_and(Error::is_transient), "{refused:?}");
    match DB::KIND {
        // sqlx itself tries again for as long as the pool lets wait.
        Kind::Postgres => assert_error!(refused, Error::PoolTimeout { .. }),
        _ => assert_error!(refused, Error::Contention { .. }),
    }
    held.context("no connection")?.return_to_pool().await;
    assert_eq!(add_one(&db, &pool).await?, 1);
    pool.close().await;
    Ok(())
}

async fn a_lost_connection_is_told_and_the_pool_recovers<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, store) = (stream("a"), db.store());
    let mut tx = db.begin().await?;
    append(&db, &mut tx, &name).await?;
    db.cut_connections().await?;
    let lost = store.append_messages(&mut tx, &name, Offset::of(1), &events(1)).await;
    assert!(lost.as_ref().is_err_and(Error::is_transient), "{lost:?}");
    assert_error!(lost, Error::Disconnected { .. });
    drop(tx);
    assert_eq!(db.events(&name).await?, None);
    for round in 1..4 {
        assert_eq!(add_one(&db, db.pool()).await?, round);
        db.cut_connections().await?;
    }
    Ok(())
}

/// Fails unless the answer is whole, or an error of the connection.
fn assert_whole_or_lost<T>(answer: sagastore::Result<T>, is_whole: impl FnOnce(T) -> bool) -> u32 {
    match answer {
        Ok(found) => {
            assert!(is_whole(found), "the history is short");
            0
        }
        Err(Error::Disconnected { .. }) => 1,
        Err(other) => panic!("expected a lost connection, found {other:?}"),
    }
}

async fn a_read_that_is_cut_off_is_an_error_and_never_a_short_history<DB: Subject>(db: TestDb<DB>) -> Clause {
    const EVENTS: usize = 12;
    let (name, payload) = (stream("a"), vec![b' '; 1024 * 1024]);
    for number in 0..EVENTS {
        let message = event_of("application/octet-stream", payload.clone());
        db.append(&name, u32::try_from(number)?, &[message]).await?;
    }
    let mut cut = 0;
    for round in 0..scaled(20, 200) {
        // A connection that was cut the last time may be noticed only now.
        let mut conn = match db.pool().acquire().await {
            Ok(conn) => conn,
            Err(_) => db.pool().acquire().await?,
        };
        let reader = tokio::spawn({
            let (db, name) = (db.clone(), name.clone());
            async move { db.store().read_page(&mut conn, &name, Offset::ZERO, u32::MAX).await }
        });
        tokio::time::sleep(Duration::from_millis(round % 20)).await;
        db.cut_connections().await?;
        cut += assert_whole_or_lost(reader.await?, |found| found.is_some_and(|events| events.len() == EVENTS));
    }
    assert!(cut > 0, "no read was cut off");
    assert_eq!(db.events(&name).await?.unwrap().len(), EVENTS);
    Ok(())
}
