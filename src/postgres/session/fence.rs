//! Ties a transaction to a session lock.

use sqlx::{Postgres, Transaction};

use super::key::SessionLockKey;
use crate::error::{Error, Result};
use crate::postgres::classify;

pub(super) const DOING: &str = "fencing a transaction by a session lock";

/// `identity` is an advisory key that the session with the lock holds too: its process id may long
/// be another's.
pub(super) async fn fence(tx: &mut Transaction<'_, Postgres>, key: &SessionLockKey, identity: i64) -> Result<()> {
    let lost = |detail: &str| Err(Error::LockLost { resource: key.to_string(), detail: detail.to_owned() });
    // Not free: a new holder is about to begin.
    let shared: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock_shared($1)")
        .bind(key.fence_key())
        .fetch_one(&mut **tx)
        .await
        .map_err(|error| classify(DOING, error))?;
    if !shared {
        return lost("it is being given to another session");
    }
    // Only now, in a statement of its own; `pg_locks` shows one moment, whatever the isolation.
    let held: bool = sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT pid
            FROM pg_locks
            WHERE locktype = 'advisory'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND objsubid = 1
                AND granted
                AND mode = 'ExclusiveLock'
                AND (classid::bigint << 32) | objid::bigint IN ($1, $2)
            GROUP BY pid
            HAVING COUNT(*) = 2
        )",
    )
    .bind(key.advisory_key())
    .bind(identity)
    .fetch_one(&mut **tx)
    .await
    .map_err(|error| classify(DOING, error))?;
    if held { Ok(()) } else { lost("the session of the server that held it is gone") }
}
