//! Finding the timeouts that are due, and handing them over to the outbox.

use sqlx::{PgConnection, Row};

use crate::timeout::{DueLook, span};

/// The clock is asked by a subselect: compared with it as it stands, the index would be read to its end.
pub(super) async fn look(conn: &mut PgConnection, partitions: i64) -> sqlx::Result<DueLook> {
    let row = sqlx::query(
        "WITH clock AS MATERIALIZED (
            SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS now
        )
        SELECT
            (
                SELECT due_at
                FROM saga_timeout
                WHERE due_at <= (SELECT now FROM clock)
                    -- A bare comparison is taken to be rarely true.
                    AND CASE WHEN ($1 >> partition_no::integer) & 1 = 1 THEN TRUE ELSE FALSE END
                ORDER BY due_at
                LIMIT 1
            ),
            (
                SELECT due_at
                FROM saga_timeout
                WHERE due_at > (SELECT now FROM clock)
                ORDER BY due_at
                LIMIT 1
            ) - (SELECT now FROM clock)",
    )
    .bind(partitions)
    .fetch_one(conn)
    .await?;
    let (due, next): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(DueLook { any: due.is_some(), next: next.map(span) })
}

pub(super) async fn move_due(conn: &mut PgConnection, partitions: i64, limit: u32) -> sqlx::Result<u64> {
    let moved = sqlx::query(
        "WITH due AS MATERIALIZED (
            SELECT
                stream_id,
                name
            FROM saga_timeout
            WHERE due_at <= (SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint)
                AND CASE WHEN ($1 >> partition_no::integer) & 1 = 1 THEN TRUE ELSE FALSE END -- as above
            ORDER BY
                due_at,
                partition_no,
                stream_id,
                commit_no,
                message_index
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        ),
        moved AS (
            DELETE FROM saga_timeout AS t
            USING due
            WHERE t.stream_id = due.stream_id
                AND t.name = due.name
            RETURNING
                t.name,
                t.partition_no,
                t.due_at,
                t.scheduled_at,
                t.stream_id,
                t.commit_no,
                t.message_index,
                t.aggregate_type,
                t.aggregate_id,
                t.contents,
                t.body
        )
        INSERT INTO saga_outbox_message (
            timeout_name,
            partition_no,
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            available_at,
            aggregate_type,
            aggregate_id,
            contents,
            body
        )
        SELECT
            name,
            partition_no,
            GREATEST(due_at, scheduled_at),
            stream_id,
            commit_no,
            message_index,
            0,
            aggregate_type,
            aggregate_id,
            contents,
            body
        FROM moved",
    )
    .bind(partitions)
    .bind(i64::from(limit))
    .execute(conn)
    .await?;
    Ok(moved.rows_affected())
}
