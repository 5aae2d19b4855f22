//! A file of SQLite that another connection keeps busy.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sagastore::lock::{DatabaseLock, Lock};
use sagastore::{Error, Result};
use sqlx::Sqlite;
use sqlx::sqlite::SqlitePoolOptions;

use crate::harness::sample::{Counter, added, instance};
use crate::harness::{Clause, LONG_LEASE, TestDb, client, millis, obtain, resource, sqlite_clauses};

sqlite_clauses! {
    who_has_waited_for_a_busy_file_is_told_and_does_not_wait_again: SQLITE_FILES,
}

const BUSY_TIMEOUT: Duration = millis(200);
/// Long before a second handful of such waits would be over.
const SOON: Duration = millis(3000);

/// Each call waited 21 times, with the advised settings for three and a half minutes.
async fn who_has_waited_for_a_busy_file_is_told_and_does_not_wait_again(db: TestDb<Sqlite>) -> Clause {
    let options = db.home().options.clone().busy_timeout(BUSY_TIMEOUT);
    let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await?;
    let (lock, persister, id) =
        (DatabaseLock::new(pool.clone()).with_length(LONG_LEASE)?, db.persister(), instance("1"));
    obtain(&lock, "held", "a").await?;
    let writer = db.begin().await?;

    is_told(lock.obtain_no_wait(&resource("free"), &client("a"))).await?;
    is_told(lock.purge()).await?;
    is_told(persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1)))).await?;
    let done = persister.execute_in_transaction(&pool, &Counter, &id, None, async |mut attempt| {
        let event = attempt.unit.publish(added(1))?;
        Ok::<_, Error>(attempt.finish(event))
    });
    is_told(done).await?;

    writer.rollback().await?;
    obtain(&lock, "free", "a").await?;
    let _ = persister.execute(&pool, &Counter, &id, None, |unit| unit.publish(added(1))).await?;
    pool.close().await;
    Ok(())
}

async fn is_told<T: Debug>(call: impl Future<Output = Result<T>>) -> Clause {
    let begun = Instant::now();
    let told = call.await;
    ensure!(matches!(&told, Err(error @ Error::Contention { .. }) if error.is_transient()), "{told:?}");
    let waited = begun.elapsed();
    ensure!((BUSY_TIMEOUT..SOON).contains(&waited), "after {waited:?}");
    Ok(())
}
