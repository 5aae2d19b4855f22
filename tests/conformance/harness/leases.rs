//! Shorthands for leases.

use std::time::Duration;

use anyhow::Context;
use sagastore::lock::lease::Lease;
use sagastore::lock::{ClientId, DatabaseLock, ExponentialBackoff, Lock, ResourceId};

use super::subject::TextRow;
use super::{Kind, Subject, TestDb};

/// Long enough to be held to the end of any clause.
pub(crate) const LONG_LEASE: Duration = Duration::from_secs(600);

pub(crate) fn resource(id: &str) -> ResourceId {
    ResourceId::new(id).unwrap()
}

pub(crate) fn client(id: &str) -> ClientId {
    ClientId::new(id).unwrap()
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// By how much a lease is longer than its length: the clock of SQLite may be so much later than it says.
pub(crate) fn tick<DB: Subject>() -> Duration {
    if DB::KIND == Kind::Sqlite { millis(1) } else { Duration::ZERO }
}

/// Tries again at short and even intervals, for longer than any clause waits for a lease.
pub(crate) fn eagerly() -> ExponentialBackoff {
    ExponentialBackoff::new(millis(10), 1.0, 3000).unwrap()
}

/// A lease that must be free.
pub(crate) async fn obtain(lock: &impl Lock, id: &str, who: &str) -> anyhow::Result<Lease> {
    let obtained = lock.obtain_no_wait(&resource(id), &client(who)).await?;
    obtained.lease().with_context(|| format!("{id:?} is held"))
}

/// A lease that becomes free some time.
pub(crate) async fn wait_for_lease(lock: &impl Lock, id: &str, who: &str) -> anyhow::Result<Lease> {
    let obtained = lock.obtain_with_backoff(&resource(id), &client(who), &eagerly()).await?;
    obtained.lease().with_context(|| format!("{id:?} stays held"))
}

/// Waits until a lease is over by the database's clock.
pub(crate) async fn wait_for_expiry(lock: &impl Lock, lease: &Lease) -> anyhow::Result<()> {
    loop {
        let status = lock.status(&lease.resource_id).await?.context("the row is gone")?;
        if status.remaining.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(status.remaining + millis(2)).await;
    }
}

impl<DB: Subject> TestDb<DB> {
    /// Leases of this length.
    pub(crate) fn lock(&self, length: Duration) -> DatabaseLock<DB> {
        DatabaseLock::new(self.pool().clone()).with_length(length).unwrap()
    }

    /// All that a lease's row says, but for the id of the request; `None` if there is no row.
    pub(crate) async fn lease_row(&self, id: &str) -> anyhow::Result<Option<TextRow>> {
        let rows = self
            .rows(format!(
                "SELECT namespace, client_id, token, obtained_at, expires_at, lock_delay
                FROM saga_lease
                WHERE resource_id = {}",
                DB::text(id)
            ))
            .await?;
        anyhow::ensure!(rows.len() < 2, "{} rows of {id:?}", rows.len());
        Ok(rows.into_iter().next())
    }

    /// Takes a lease's row away.
    pub(crate) async fn delete_lease(&self, id: &str) -> anyhow::Result<()> {
        let deleted = self.sql(format!("DELETE FROM saga_lease WHERE resource_id = {}", DB::text(id))).await?;
        anyhow::ensure!(deleted == 1, "{deleted} rows of {id:?} were deleted");
        // The clock of SQLite stands still for a millisecond at a time.
        tokio::time::sleep(millis(2)).await;
        Ok(())
    }

    /// Lets a lease begin and end so much later, or earlier, than it did.
    pub(crate) async fn shift_lease(&self, id: &str, seconds: i64) -> anyhow::Result<()> {
        let micros = seconds * 1_000_000;
        let sql = format!(
            "UPDATE saga_lease
            SET obtained_at = obtained_at + {micros},
                expires_at = expires_at + {micros}
            WHERE resource_id = {}",
            DB::text(id)
        );
        anyhow::ensure!(self.sql(sql).await? == 1, "no row of {id:?}");
        Ok(())
    }
}
