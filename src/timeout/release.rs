//! Handing timeouts that are due over to the outbox.

use std::time::Duration;

use sqlx::Database;

use super::tables::{DueLook, TimeoutTables};
use crate::error::Result;
use crate::lock::is_tried_again;
use crate::message_store::MessageStore;

/// What was handed over, and what comes next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Released {
    pub(crate) count: u64,
    /// In how long the next one is due; `None` if there is none.
    pub(crate) next: Option<Duration>,
}

/// Hands over what is due in these partitions, a bit each, at most `limit`.
///
/// It needs no fence: each row is moved whole by one transaction, so whoever does it too late finds nothing to move.
pub(crate) async fn release<DB: Database, T: TimeoutTables<DB> + MessageStore<DB> + ?Sized>(
    store: &T,
    conn: &mut DB::Connection,
    partitions: i64,
    limit: u32,
) -> Result<Released> {
    let DueLook { any, next } = store.look_for_due(conn, partitions).await?;
    if !any {
        return Ok(Released { count: 0, next });
    }
    let mut contentions = 0;
    loop {
        match move_once(store, conn, partitions, limit).await {
            Err(error) if is_tried_again(&error, contentions) => contentions += 1,
            moved => return moved.map(|count| Released { count, next }),
        }
    }
}

async fn move_once<DB: Database, T: TimeoutTables<DB> + MessageStore<DB> + ?Sized>(
    store: &T,
    conn: &mut DB::Connection,
    partitions: i64,
    limit: u32,
) -> Result<u64> {
    let mut tx = store.begin(conn).await?;
    let count = store.move_due(&mut tx, partitions, limit).await?;
    let committed = tx.commit().await;
    committed.map_err(|error| store.classify("handing timeouts over to the outbox", error))?;
    Ok(count)
}
