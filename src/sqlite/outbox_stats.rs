//! How much waits in the outbox.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::outbox::{OutboxStats, PartitionLag};
use crate::timestamp::Timestamp;

pub(super) async fn recorded_by(conn: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT MAX(
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER),
            COALESCE((SELECT MAX(undelivered) FROM saga_commit WHERE undelivered IS NOT NULL), 0),
            COALESCE((SELECT MAX(recorded_at) FROM saga_outbox_message), 0)
        )",
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn stats(conn: &mut SqliteConnection) -> sqlx::Result<OutboxStats> {
    let row = sqlx::query(
        "SELECT
            fast.messages + slow.messages,
            MIN(COALESCE(fast.oldest, slow.oldest), COALESCE(slow.oldest, fast.oldest)),
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER),
            (
                SELECT COUNT(*)
                FROM saga_outbox_message
                WHERE attempts > 0
                    AND dead_at IS NOT NULL
            )
        FROM (
            SELECT
                COALESCE(SUM(message_count), 0) AS messages,
                MIN(undelivered)                AS oldest
            FROM saga_commit
            WHERE undelivered IS NOT NULL
        ) AS fast
        CROSS JOIN (
            SELECT
                COUNT(*)         AS messages,
                MIN(recorded_at) AS oldest
            FROM saga_outbox_message
            WHERE dead_at IS NULL
        ) AS slow",
    )
    .fetch_one(conn)
    .await?;
    let (oldest, now): (Option<i64>, i64) = (row.try_get(1)?, row.try_get(2)?);
    Ok(OutboxStats {
        pending: row.try_get(0)?,
        oldest: oldest.map(Timestamp::from_micros),
        oldest_age: oldest.map(|oldest| Duration::from_micros(u64::try_from(now - oldest).unwrap_or_default())),
        dead_letters: u64::try_from(row.try_get::<i64, _>(3)?).unwrap_or_default(),
    })
}

pub(super) async fn lag(conn: &mut SqliteConnection) -> sqlx::Result<Vec<PartitionLag>> {
    sqlx::query(
        "SELECT
            partition_no,
            SUM(messages),
            MIN(recorded_at),
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        FROM (
            SELECT
                stream_id % 64 AS partition_no,
                message_count  AS messages,
                recorded_at
            FROM saga_commit
            WHERE undelivered IS NOT NULL
            UNION ALL
            SELECT
                partition_no,
                1,
                recorded_at
            FROM saga_outbox_message
            WHERE dead_at IS NULL
                AND available_at <= CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        ) AS due
        GROUP BY partition_no
        ORDER BY partition_no",
    )
    .try_map(|row: SqliteRow| {
        let age = row.try_get::<i64, _>(3)?.saturating_sub(row.try_get(2)?);
        Ok(PartitionLag {
            partition: row.try_get(0)?,
            pending: u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or_default(),
            oldest_age: Duration::from_micros(u64::try_from(age).unwrap_or_default()),
        })
    })
    .fetch_all(conn)
    .await
}
