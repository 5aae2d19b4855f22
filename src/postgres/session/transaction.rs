//! Locks for the rest of a transaction.

use std::time::Duration;

use sqlx::{Connection, Postgres, Transaction};

use super::key::SessionLockKey;
use crate::error::Result;
use crate::postgres::classify;

const DOING: &str = "waiting for a lock inside a transaction (which is now aborted, up to its last savepoint)";

/// Locks keys for the rest of a transaction: they become free when it commits or rolls back, also by
/// being dropped, and those taken after a savepoint when that is rolled back.
///
/// The keys are those of session locks: each kind excludes the other. The same key can be locked
/// again in the same transaction. It works through a pooler of transactions, too, if that
/// [keeps prepared statements apart](crate::postgres::connect_options).
///
/// A transaction is asked for, so there is no such lock without one:
/// ```compile_fail
/// # async fn f(conn: &mut sqlx::PgConnection) {
/// sagastore::postgres::session::TransactionLocker::new(conn);
/// # }
/// ```
#[derive(Debug)]
pub struct TransactionLocker<'t, 'c> {
    tx: &'t mut Transaction<'c, Postgres>,
}

impl<'t, 'c> TransactionLocker<'t, 'c> {
    /// Locks in this transaction, or savepoint.
    pub fn new(tx: &'t mut Transaction<'c, Postgres>) -> Self {
        Self { tx }
    }

    /// Waits for the key, and for the end of the fenced transactions of an earlier holder that died.
    /// It waits as long as the `lock_timeout` in force says, by default without end. A call that is dropped meanwhile goes on
    /// in the server: until the key is free, or that time is over, the transaction keeps all that it holds, and the pool's
    /// connection. So bound the wait, by [`lock_within`](Self::lock_within), rather than give it up.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout) if that was too long,
    /// [`Error::Contention`](crate::Error::Contention) on a deadlock. After these the transaction is
    /// aborted: it refuses all statements until it, or the savepoint that this was called at, is
    /// rolled back.
    pub async fn lock(&mut self, key: &SessionLockKey) -> Result<()> {
        // The second key only when the first is ours: else it would keep a holder from fencing.
        for number in [key.advisory_key(), key.fence_key()] {
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(number)
                .execute(&mut **self.tx)
                .await
                .map_err(|error| classify(DOING, error))?;
        }
        Ok(())
    }

    /// As [`lock`](Self::lock), waiting this long at most for each of the two; the transaction's
    /// `lock_timeout` is afterwards as it was. Less than a millisecond counts as one.
    ///
    /// # Errors
    /// Those of [`lock`](Self::lock).
    pub async fn lock_within(&mut self, key: &SessionLockKey, timeout: Duration) -> Result<()> {
        let before: String = sqlx::query_scalar("SELECT current_setting('lock_timeout')")
            .fetch_one(&mut **self.tx)
            .await
            .map_err(|error| classify(DOING, error))?;
        let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1);
        self.set_lock_timeout(milliseconds.to_string()).await?;
        self.lock(key).await?;
        self.set_lock_timeout(before).await
    }

    /// Locks the key if that can be had at once; `false` if not, which leaves the transaction usable.
    /// Sets a savepoint for that, so it takes four short statements.
    ///
    /// # Errors
    /// Those of the database only.
    pub async fn try_lock(&mut self, key: &SessionLockKey) -> Result<bool> {
        let doing = "trying a lock inside a transaction";
        let mut savepoint = self.tx.begin().await.map_err(|error| classify(doing, error))?;
        let mut locked = true;
        for number in [key.advisory_key(), key.fence_key()] {
            locked = locked
                && sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
                    .bind(number)
                    .fetch_one(&mut *savepoint)
                    .await
                    .map_err(|error| classify(doing, error))?;
        }
        // Rolled back, it gives the first back if the second was not to be had.
        let done = if locked { savepoint.commit().await } else { savepoint.rollback().await };
        done.map_err(|error| classify(doing, error))?;
        Ok(locked)
    }

    async fn set_lock_timeout(&mut self, value: String) -> Result<()> {
        sqlx::query("SELECT set_config('lock_timeout', $1, true)")
            .bind(value)
            .execute(&mut **self.tx)
            .await
            .map_err(|error| classify(DOING, error))?;
        Ok(())
    }
}
