//! Transaction numbers after a restore into another cluster.
//!
//! The global order sorts by the number of the writing transaction, and numbers start again in
//! another cluster: restored commits would seem to come from the future, and new ones to lie before
//! them. That is detected by a stored number that this cluster has not given out yet. Rebasing
//! shifts the restored numbers to zero and below, which no transaction ever has, and remembers by
//! how much, so that the positions of readers can be shifted alike.

use sqlx::{Connection, PgConnection, Row};

use super::classify;
use crate::error::{Error, Result};

/// The number of a new commit in the global order: that of the transaction, or of the commit before it in the stream, if a later
/// transaction wrote that. What another cluster counted is not carried on: rebasing would take the new commit for a restored one.
macro_rules! order_number {
    ($before:literal) => {
        concat!(
            "CASE
                    WHEN ",
            $before,
            " > pg_current_xact_id()::text::bigint
                        AND ",
            $before,
            " < pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                    THEN ",
            $before,
            "
                    ELSE pg_current_xact_id()::text::bigint
                    END"
        )
    };
}
pub(super) use order_number;

/// The epoch now, and how far numbers were shifted since a reader's epoch.
pub(super) struct Epoch {
    pub(super) number: i64,
    pub(super) shift: i64,
}

/// Fails if the data was restored and not yet rebased.
pub(super) async fn current(conn: &mut PgConnection, since: i64) -> Result<Epoch> {
    let row = sqlx::query(
        "SELECT
            COALESCE(MAX(epoch), 0),
            COALESCE(SUM(shift) FILTER (WHERE epoch > $1), 0)::bigint,
            (SELECT MAX(xid) FROM saga_commit) >= GREATEST(
                pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                -- What this transaction wrote itself.
                pg_current_xact_id_if_assigned()::text::bigint + 1
            )
        FROM saga_global_epoch",
    )
    .bind(since)
    .fetch_one(conn)
    .await
    .map_err(|error| classify("reading the epoch of the global order", error))?;
    let get = || -> sqlx::Result<_> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get::<Option<bool>, _>(2)?)) };
    let (number, shift, restored) = get().map_err(|error| classify("reading the epoch of the global order", error))?;
    if restored == Some(true) { Err(Error::GlobalOrderRestored) } else { Ok(Epoch { number, shift }) }
}

pub(super) async fn rebase_if_restored(conn: &mut PgConnection) -> Result<()> {
    let doing = "rebasing the global order";
    let mut tx = conn.begin().await.map_err(|error| classify(doing, error))?;
    match current(&mut tx, 0).await {
        Err(Error::GlobalOrderRestored) => {}
        other => return other.map(drop),
    }
    rebase(&mut tx).await.map_err(|error| classify(doing, error))?;
    tx.commit().await.map_err(|error| classify(doing, error))
}

async fn rebase(conn: &mut PgConnection) -> sqlx::Result<()> {
    // One process at a time, and no commit in between.
    sqlx::query("LOCK TABLE saga_global_epoch, saga_commit IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;
    // Commits that this cluster wrote before the rebase lie behind all restored ones and keep their
    // numbers. Another process may have rebased meanwhile: then nothing is in the future any more.
    sqlx::query(
        "WITH restored AS (
            SELECT
                MAX(xid)      AS shift,
                MAX(position) AS last_position
            FROM saga_commit
            WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
        ),
        shifted AS (
            UPDATE saga_commit AS c
            SET xid = c.xid - r.shift
            FROM restored AS r
            WHERE r.shift IS NOT NULL
                AND (
                    c.position <= r.last_position
                    OR c.xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                )
        )
        INSERT INTO saga_global_epoch (
            epoch,
            shift
        )
        SELECT
            COALESCE((SELECT MAX(epoch) FROM saga_global_epoch), 0) + 1,
            r.shift
        FROM restored AS r
        WHERE r.shift IS NOT NULL",
    )
    .execute(conn)
    .await?;
    tracing::warn!(target: "sagastore", "the data came from another database cluster; its global order was rebased");
    Ok(())
}
