//! How much waits in the outbox.

use std::time::Duration;

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::outbox::{OutboxStats, PartitionLag};
use crate::timestamp::Timestamp;

pub(super) async fn recorded_by(conn: &mut MySqlConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT GREATEST(
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            COALESCE((SELECT MAX(undelivered) FROM saga_commit), 0),
            COALESCE((SELECT MAX(recorded_at) FROM saga_outbox_message), 0)
        )",
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn stats(conn: &mut MySqlConnection) -> sqlx::Result<OutboxStats> {
    let row = sqlx::query(
        "SELECT
            fast.messages + slow.messages,
            LEAST(COALESCE(fast.oldest, slow.oldest), COALESCE(slow.oldest, fast.oldest)),
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            (
                SELECT COUNT(*)
                FROM saga_outbox_message FORCE INDEX (saga_outbox_message_failed)
                WHERE has_failed = 1
                    AND dead_at IS NOT NULL
            )
        FROM (
            SELECT
                CAST(COALESCE(SUM(message_count), 0) AS SIGNED) AS messages,
                MIN(undelivered)                                AS oldest
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
    let (pending, oldest, now): (i64, Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(OutboxStats {
        pending: u64::try_from(pending).unwrap_or_default(),
        oldest: oldest.map(Timestamp::from_micros),
        oldest_age: oldest.map(|oldest| Duration::from_micros(u64::try_from(now - oldest).unwrap_or_default())),
        dead_letters: u64::try_from(row.try_get::<i64, _>(3)?).unwrap_or_default(),
    })
}

pub(super) async fn lag(conn: &mut MySqlConnection) -> sqlx::Result<Vec<PartitionLag>> {
    sqlx::query(
        "SELECT
            partition_no,
            CAST(SUM(messages) AS SIGNED),
            MIN(recorded_at),
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
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
                AND available_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        ) AS due
        GROUP BY partition_no
        ORDER BY partition_no",
    )
    .try_map(|row: MySqlRow| {
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
