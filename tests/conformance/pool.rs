//! Pools as the library advises them.

use sagastore::pool::{
    ACQUIRE_TIMEOUT, IDLE_TIMEOUT, LOCK_WAIT, MAX_LIFETIME, SERVER_CONNECTIONS, STATEMENT_CACHE, TEST_AFTER_IDLE,
};
use sagastore::sqlite::FILE_CONNECTIONS;
use sagastore::{Error, Executed};
use sqlx::database::HasStatementCache;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool};

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, Kind, Mode, Subject, TestDb, clauses, scaled};

clauses! {
    each_setting_holds_in_every_session,
    the_pool_has_the_numbers_of_the_documentation,
    statements_are_kept_up_to_the_capacity,
    a_transaction_that_is_forgotten_is_ended: POSTGRES,
    a_transaction_that_nobody_ended_does_not_come_back_with_its_connection: MYSQL,
    connections_that_were_cut_while_idle_are_replaced_unseen: SERVERS,
    a_connection_that_was_cut_at_once_fails_one_call: SERVERS,
    a_transaction_that_a_full_database_ended_spoils_no_connection: SQLITE,
}

/// Of one connection where there is no more than one.
async fn connect<DB: Subject>(db: &TestDb<DB>, connections: u32) -> anyhow::Result<Pool<DB>> {
    let (options, pool) = DB::advised(db.home().options.clone());
    let connections = if db.mode() == Mode::SqliteMemory { 1 } else { connections };
    Ok(pool.max_connections(connections).connect_with(options).await?)
}

async fn value<DB: Subject>(conn: &mut DB::Connection, sql: &str) -> anyhow::Result<String> {
    let rows = DB::rows(conn, sql.to_owned()).await?;
    Ok(rows[0][0].clone().unwrap_or_default())
}

/// What a session is asked, and what it must answer.
fn settings(mode: Mode) -> Vec<(&'static str, String)> {
    let journal = if mode == Mode::SqliteMemory { "memory" } else { "wal" };
    match mode.kind() {
        Kind::Sqlite => vec![
            ("PRAGMA journal_mode", journal.to_owned()),
            ("PRAGMA synchronous", "2".to_owned()),
            ("PRAGMA busy_timeout", LOCK_WAIT.as_millis().to_string()),
            ("PRAGMA foreign_keys", "1".to_owned()),
        ],
        Kind::Postgres => vec![
            ("SHOW transaction_isolation", "read committed".to_owned()),
            ("SHOW idle_in_transaction_session_timeout", "1min".to_owned()),
        ],
        Kind::Mysql => vec![
            ("SELECT @@innodb_lock_wait_timeout", LOCK_WAIT.as_secs().to_string()),
            ("SELECT @@autocommit", "1".to_owned()),
            ("SELECT @@time_zone", "+00:00".to_owned()),
            ("SELECT @@character_set_client", "utf8mb4".to_owned()),
            ("SELECT FIND_IN_SET('STRICT_ALL_TABLES', @@sql_mode) > 0", "1".to_owned()),
            ("SELECT FIND_IN_SET('NO_ENGINE_SUBSTITUTION', @@sql_mode) > 0", "1".to_owned()),
            (
                "SELECT variable_value
                FROM information_schema.session_variables
                WHERE variable_name IN ('tx_isolation', 'transaction_isolation')",
                "READ-COMMITTED".to_owned(),
            ),
        ],
    }
}

async fn each_setting_holds_in_every_session<DB: Subject>(db: TestDb<DB>) -> Clause {
    let pool = connect(&db, 3).await?;
    let mut conns = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        conns.push(pool.acquire().await?);
    }
    for conn in &mut conns {
        for (question, answer) in settings(db.mode()) {
            assert_eq!(value::<DB>(conn, question).await?, answer, "{question}");
        }
    }
    drop(conns);
    pool.close().await;
    Ok(())
}

async fn the_pool_has_the_numbers_of_the_documentation<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (_, pool): (_, PoolOptions<DB>) = DB::advised(db.home().options.clone());
    assert_eq!(pool.get_acquire_timeout(), ACQUIRE_TIMEOUT);
    assert!(ACQUIRE_TIMEOUT > LOCK_WAIT && !pool.get_test_before_acquire());
    match DB::KIND {
        Kind::Sqlite => {
            assert_eq!(pool.get_max_connections(), FILE_CONNECTIONS);
            assert_eq!((pool.get_idle_timeout(), pool.get_max_lifetime()), (None, None));
        }
        _ => {
            assert_eq!(pool.get_max_connections(), SERVER_CONNECTIONS);
            assert_eq!((pool.get_idle_timeout(), pool.get_max_lifetime()), (Some(IDLE_TIMEOUT), Some(MAX_LIFETIME)));
        }
    }
    Ok(())
}

async fn statements_are_kept_up_to_the_capacity<DB: Subject + HasStatementCache>(db: TestDb<DB>) -> Clause {
    let pool = connect(&db, 1).await?;
    let mut conn = pool.acquire().await?;
    for number in 0..STATEMENT_CACHE + 10 {
        DB::run_prepared(&mut conn, format!("SELECT {number}")).await?;
    }
    assert_eq!(conn.cached_statements_size(), STATEMENT_CACHE);
    drop(conn);
    pool.close().await;
    Ok(())
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

async fn a_transaction_that_is_forgotten_is_ended<DB: Subject>(db: TestDb<DB>) -> Clause {
    let pool = connect(&db, 1).await?;
    let mut conn = pool.acquire().await?;
    let persister = db.persister();
    let mut tx = conn.begin().await?;
    assert!(persister.load_instance(&Counter, &mut tx, &instance("1")).await?.is_none());
    DB::execute(&mut tx, "SET idle_in_transaction_session_timeout = '200ms'".to_owned()).await?;
    tokio::time::sleep(TEST_AFTER_IDLE).await;
    let ended = persister.load_instance(&Counter, &mut tx, &instance("1")).await.map(drop);
    assert!(ended.as_ref().is_err_and(Error::is_transient), "{ended:?}");
    drop(tx);
    drop(conn);
    assert_eq!(add_one(&db, &pool).await?, 1);
    pool.close().await;
    Ok(())
}

async fn a_transaction_that_nobody_ended_does_not_come_back_with_its_connection<DB: Subject>(db: TestDb<DB>) -> Clause {
    let pool = connect(&db, 1).await?;
    DB::execute(&mut *pool.acquire().await?, "START TRANSACTION".to_owned()).await?;
    assert_eq!(value::<DB>(&mut *pool.acquire().await?, "SELECT @@in_transaction").await?, "0");
    pool.close().await;
    Ok(())
}

/// Has so many connections at rest in a pool.
async fn warm<DB: Subject>(pool: &Pool<DB>, connections: u32) -> anyhow::Result<()> {
    let mut conns = Vec::new();
    for _ in 0..connections {
        conns.push(pool.acquire().await?);
    }
    for conn in conns.drain(..) {
        let mut conn = conn;
        conn.return_to_pool().await;
    }
    assert_eq!(pool.num_idle(), usize::try_from(connections)?);
    Ok(())
}

async fn connections_that_were_cut_while_idle_are_replaced_unseen<DB: Subject>(db: TestDb<DB>) -> Clause {
    const CONNECTIONS: u32 = 4;
    let pool = connect(&db, CONNECTIONS).await?;
    warm(&pool, CONNECTIONS).await?;
    db.cut_connections().await?;
    tokio::time::sleep(TEST_AFTER_IDLE).await;
    for round in 1..=i64::from(2 * CONNECTIONS) {
        assert_eq!(add_one(&db, &pool).await?, round);
    }
    pool.close().await;
    Ok(())
}

async fn a_connection_that_was_cut_at_once_fails_one_call<DB: Subject>(db: TestDb<DB>) -> Clause {
    const CONNECTIONS: u32 = 4;
    let pool = connect(&db, CONNECTIONS).await?;
    let (mut added, mut told) = (0, 0);
    for _ in 0..scaled(3, 30) {
        warm(&pool, CONNECTIONS).await?;
        db.cut_connections().await?;
        let mut lost = 0;
        for _ in 0..2 * CONNECTIONS {
            match add_one(&db, &pool).await {
                Ok(sum) => {
                    added += 1;
                    assert_eq!(sum, added, "what was not answered was not done");
                }
                Err(Error::Disconnected { .. }) => lost += 1,
                Err(other) => panic!("expected a lost connection, found {other:?}"),
            }
        }
        assert!(lost <= CONNECTIONS, "{lost} calls failed for {CONNECTIONS} connections");
        told += lost;
    }
    assert!(told > 0, "no call was given a connection that was cut");
    pool.close().await;
    Ok(())
}

async fn a_transaction_that_a_full_database_ended_spoils_no_connection<DB: Subject>(db: TestDb<DB>) -> Clause {
    let advised = connect(&db, 2).await?;
    // In memory a connection cannot be replaced, so only the advised pool can mend it.
    let pools = if db.mode() == Mode::SqliteMemory { vec![advised] } else { vec![advised, db.second_pool(2).await?] };
    for pool in pools {
        let persister = db.persister();
        if db.mode() == Mode::SqliteMemory {
            let _ = sagastore::migrate(&pool).await?;
        }
        DB::execute(&mut *pool.acquire().await?, "CREATE TABLE IF NOT EXISTS filler (bytes BLOB)".to_owned()).await?;
        let mut tx = persister.begin(&pool).await?;
        DB::execute(&mut tx, "PRAGMA max_page_count = 1".to_owned()).await?;
        let filled = DB::execute(&mut tx, "INSERT INTO filler VALUES (zeroblob(1000000))".to_owned()).await;
        assert!(filled.is_err(), "the database is not full");
        drop(tx);
        let mut held = Vec::new();
        for _ in 0..pool.options().get_max_connections() {
            held.push(pool.acquire().await?);
        }
        for conn in &mut held {
            DB::execute(conn, "PRAGMA max_page_count = 1000000".to_owned()).await?;
        }
        drop(held);
        for _ in 0..4 {
            let mut tx = persister.begin(&pool).await?;
            DB::execute(&mut tx, "INSERT INTO filler VALUES (x'00')".to_owned()).await?;
            tx.commit().await?;
        }
        let id = instance("a");
        let one = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1)).map(drop));
        assert!(matches!(one.await?, Executed::Done { .. }), "nothing was saved");
        pool.close().await;
    }
    Ok(())
}
