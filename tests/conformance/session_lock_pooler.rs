//! Session locks on PostgreSQL behind PgBouncer.

use std::time::Duration;

use sagastore::Error;
use sagastore::postgres::session::{SessionLocker, SessionLockerConfig};
use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;

use super::session_lock::{holders, key, waiting};
use crate::harness::{Clause, Mode, Suite, TestDb, assert_error};

const TRANSACTION_URL: &str = "SAGASTORE_TEST_PGBOUNCER_TRANSACTION_URL";
const SESSION_URL: &str = "SAGASTORE_TEST_PGBOUNCER_SESSION_URL";

/// These need a pooler beside the database.
pub(crate) fn clauses(suite: &mut Suite) {
    let name = "session_lock_pooler::a_pooler_of_transactions_is_refused_at_the_start";
    suite.add_in_front(TRANSACTION_URL, name, Mode::Postgres, a_pooler_of_transactions_is_refused_at_the_start);
    let name = "session_lock_pooler::a_pooler_of_sessions_is_as_good_as_none";
    suite.add_in_front(SESSION_URL, name, Mode::Postgres, a_pooler_of_sessions_is_as_good_as_none);
}

fn locker(variable: &str) -> anyhow::Result<SessionLocker> {
    let options: PgConnectOptions = std::env::var(variable)?.parse()?;
    let config = SessionLockerConfig::new(options).with_heartbeat(Duration::from_millis(200))?;
    Ok(SessionLocker::new(config))
}

async fn a_pooler_of_transactions_is_refused_at_the_start(_: TestDb<Postgres>) -> Clause {
    for _ in 0..10 {
        let locker = locker(TRANSACTION_URL)?;
        assert_error!(locker.start().await, Error::Unsupported { .. });
        locker.close().await;
    }
    Ok(())
}

async fn a_pooler_of_sessions_is_as_good_as_none(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(SESSION_URL)?, locker(SESSION_URL)?, key(&db, &["a"]));
    one.start().await?;
    two.start().await?;
    let mut lock = one.lock(&key).await?;
    lock.fence(&mut db.begin().await?).await?;
    assert!(two.try_lock(&key).await?.is_none());
    let task = waiting(&db, &two, &key).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    lock.release().await?;
    let mut lock = task.await??;
    assert!(one.try_lock(&key).await?.is_none());
    lock.release().await?;
    let _held = one.lock(&key).await?;
    one.close().await;
    two.close().await;
    assert_eq!(holders(&db, &key).await?, 0);
    Ok(())
}
