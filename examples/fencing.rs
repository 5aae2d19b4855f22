//! Why a lock without a fence is only advice, in 60 lines: a holder that was paused for longer than its lease comes back
//! as a zombie, believes that it still holds the lock, and writes. Unfenced, its write overwrites that of the new holder;
//! fenced, the database refuses it.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sagastore::lock::lease::Lease;
use sagastore::lock::{ClientId, DatabaseLock, ExponentialBackoff, Lock, ResourceId};
use sagastore::{Error, Persister, migrate, sqlite};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Sqlite, SqlitePool};

const LEASE: Duration = Duration::from_millis(300);
const LONG_LEASE: Duration = Duration::from_secs(60);

/// Writes what the holder computed; with a lease only while that is current.
async fn write(pool: &SqlitePool, report: &str, fence: Option<&Lease>) -> Result<(), Error> {
    let persister = Persister::<Sqlite>::new();
    let mut tx = persister.begin(pool).await?;
    if let Some(lease) = fence {
        lease.fence(&mut tx).await?; // holds until the transaction ends
    }
    let written = async {
        sqlx::query("UPDATE report SET text = ?1").bind(report).execute(&mut *tx).await?;
        tx.commit().await
    };
    written.await.map_err(|error| persister.store().classify("writing the report", error))
}

async fn report(pool: &SqlitePool) -> Result<String> {
    Ok(sqlx::query_scalar("SELECT text FROM report").fetch_one(pool).await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = SqliteConnectOptions::new().filename(folder.path().join("locks.db")).create_if_missing(true);
    let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
    let _ = migrate(&pool).await?;
    sqlx::query("CREATE TABLE report (text TEXT NOT NULL) STRICT").execute(&pool).await?;
    sqlx::query("INSERT INTO report (text) VALUES ('')").execute(&pool).await?;

    let lock = DatabaseLock::new(pool.clone()).with_length(LEASE)?;
    let nightly = ResourceId::new("nightly report")?;
    let zombie = lock.obtain_no_wait(&nightly, &ClientId::new("host A")?).await?.lease().context("it is held")?;
    println!("host A holds the lease with token {}, and is paused", zombie.sequence);

    // As a stopped virtual machine, or a process without CPU: A renews nothing, and does not know it.
    let often = ExponentialBackoff::new(LEASE / 6, 1.0, 12)?;
    let host_b = ClientId::new("host B")?;
    let calm = lock.clone().with_length(LONG_LEASE)?;
    let current = calm.obtain_with_backoff(&nightly, &host_b, &often).await?.lease().context("it is held")?;
    println!("host B took it over with token {}", current.sequence);
    ensure!(current.sequence > zombie.sequence);
    write(&pool, "by B", Some(&current)).await?;

    write(&pool, "by the zombie A", None).await?;
    println!("A wakes up and writes without a fence: the report is now {:?}", report(&pool).await?);
    ensure!(report(&pool).await? == "by the zombie A");

    write(&pool, "by B", Some(&current)).await?;
    let refused = write(&pool, "by the zombie A", Some(&zombie)).await;
    ensure!(matches!(refused, Err(Error::Fenced { .. })), "the zombie's write was not refused: {refused:?}");
    println!("the same write with a fence: {}", refused.unwrap_err());
    ensure!(report(&pool).await? == "by B");
    ensure!(!lock.release(&zombie).await? && lock.release(&current).await?);
    Ok(())
}
