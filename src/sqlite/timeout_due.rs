//! Finding the timeouts that are due, and handing them over to the outbox.

use sqlx::{Row, SqliteConnection};

use crate::timeout::{DueLook, span};

pub(super) async fn look(conn: &mut SqliteConnection, partitions: i64) -> sqlx::Result<DueLook> {
    let row = sqlx::query(
        "SELECT
            (
                SELECT due_at
                FROM saga_timeout
                WHERE due_at <= clock.now
                    AND (?1 >> partition_no) & 1 = 1
                ORDER BY due_at
                LIMIT 1
            ),
            (
                SELECT due_at
                FROM saga_timeout
                WHERE due_at > clock.now
                ORDER BY due_at
                LIMIT 1
            ) - clock.now
        FROM (
            SELECT CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) AS now
        ) AS clock",
    )
    .bind(partitions)
    .fetch_one(conn)
    .await?;
    let (due, next): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(DueLook { any: due.is_some(), next: next.map(span) })
}

pub(super) async fn move_due(conn: &mut SqliteConnection, partitions: i64, limit: u32) -> sqlx::Result<u64> {
    let due: Vec<i64> = sqlx::query_scalar(
        "SELECT rowid
        FROM saga_timeout
        WHERE due_at <= CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
            AND (?1 >> partition_no) & 1 = 1
        ORDER BY
            due_at,
            partition_no,
            stream_id,
            commit_no,
            message_index
        LIMIT +?2",
    )
    .bind(partitions)
    .bind(limit)
    .fetch_all(&mut *conn)
    .await?;
    let due = serde_json::Value::from(due).to_string();
    let moved = sqlx::query(
        "INSERT INTO saga_outbox_message (
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
            MAX(due_at, scheduled_at),
            stream_id,
            commit_no,
            message_index,
            0,
            aggregate_type,
            aggregate_id,
            contents,
            body
        FROM saga_timeout
        WHERE rowid IN (SELECT value FROM json_each(?1))",
    )
    .bind(&due)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM saga_timeout
        WHERE rowid IN (SELECT value FROM json_each(?1))",
    )
    .bind(&due)
    .execute(conn)
    .await?;
    Ok(moved.rows_affected())
}
