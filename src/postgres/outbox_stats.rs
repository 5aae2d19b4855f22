//! How much waits in the outbox.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::outbox::{OutboxStats, PartitionLag};
use crate::timestamp::Timestamp;

pub(super) async fn recorded_by(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT GREATEST(
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint,
            (SELECT MAX(recorded_at) FROM saga_outbox),
            (SELECT MAX(recorded_at) FROM saga_outbox_message)
        )",
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn stats(conn: &mut PgConnection) -> sqlx::Result<OutboxStats> {
    let row = sqlx::query(
        "SELECT
            (fast.messages + slow.messages)::bigint,
            LEAST(fast.oldest, slow.oldest),
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint,
            (
                SELECT COUNT(*)
                FROM saga_outbox_message
                WHERE attempts > 0
                    AND dead_at IS NOT NULL
            )
        FROM (
            SELECT
                COALESCE(SUM(message_count), 0) AS messages,
                MIN(recorded_at)                AS oldest
            FROM saga_outbox
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
        pending: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default(),
        oldest: oldest.map(Timestamp::from_micros),
        oldest_age: oldest.map(|oldest| Duration::from_micros(u64::try_from(now - oldest).unwrap_or_default())),
        dead_letters: u64::try_from(row.try_get::<i64, _>(3)?).unwrap_or_default(),
    })
}

pub(super) async fn lag(conn: &mut PgConnection) -> sqlx::Result<Vec<PartitionLag>> {
    sqlx::query(
        "SELECT
            partition_no,
            SUM(messages)::bigint,
            MIN(recorded_at),
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        FROM (
            SELECT
                stream_id % 64 AS partition_no,
                message_count  AS messages,
                recorded_at
            FROM saga_outbox
            UNION ALL
            SELECT
                partition_no,
                1,
                recorded_at
            FROM saga_outbox_message
            WHERE dead_at IS NULL
                AND available_at <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        ) AS due
        GROUP BY partition_no
        ORDER BY partition_no",
    )
    .try_map(|row: PgRow| {
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
