//! Finding the timeouts that are due, and handing them over to the outbox.

use serde_json::json;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::text;
use crate::timeout::{DueLook, span};

pub(super) async fn look(conn: &mut MySqlConnection, partitions: i64) -> sqlx::Result<DueLook> {
    let row = sqlx::query(
        "SELECT
            (
                SELECT due_at
                FROM saga_timeout FORCE INDEX (saga_timeout_due)
                WHERE due_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
                    AND (? >> partition_no) & 1 = 1
                ORDER BY due_at
                LIMIT 1
            ),
            (
                SELECT due_at
                FROM saga_timeout FORCE INDEX (saga_timeout_due)
                WHERE due_at > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
                ORDER BY due_at
                LIMIT 1
            ) - TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    )
    .bind(partitions)
    .fetch_one(conn)
    .await?;
    let (due, next): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(DueLook { any: due.is_some(), next: next.map(span) })
}

pub(super) async fn move_due(conn: &mut MySqlConnection, partitions: i64, limit: u32) -> sqlx::Result<u64> {
    let due = select_due(conn, partitions, limit).await?;
    let due = lock(conn, due).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let due = json!(due).to_string();
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
            t.name,
            t.partition_no,
            GREATEST(t.due_at, t.scheduled_at),
            t.stream_id,
            t.commit_no,
            t.message_index,
            0,
            t.aggregate_type,
            t.aggregate_id,
            t.contents,
            t.body
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT                             PATH '$[0]',
                name      VARCHAR(160) CHARACTER SET utf8mb4 PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t
            ON t.stream_id = k.stream_id
            AND t.name = CAST(k.name AS BINARY)",
    )
    .bind(&due)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE t
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT                             PATH '$[0]',
                name      VARCHAR(160) CHARACTER SET utf8mb4 PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t
            ON t.stream_id = k.stream_id
            AND t.name = CAST(k.name AS BINARY)",
    )
    .bind(&due)
    .execute(conn)
    .await?;
    Ok(moved.rows_affected())
}

/// Locks nothing: a locking read locks what it only passes by, too, and others would pass that by.
async fn select_due(conn: &mut MySqlConnection, partitions: i64, limit: u32) -> sqlx::Result<Vec<(i64, String)>> {
    sqlx::query(
        "SELECT
            stream_id,
            name
        FROM saga_timeout FORCE INDEX (saga_timeout_due)
        WHERE due_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
            AND (? >> partition_no) & 1 = 1
        ORDER BY
            due_at,
            partition_no,
            stream_id,
            commit_no,
            message_index
        LIMIT ?",
    )
    .bind(partitions)
    .bind(limit)
    .try_map(key)
    .fetch_all(conn)
    .await
}

/// Locks those that are still there, and are due, and that nobody else is moving or deleting. By their keys: see above.
async fn lock(conn: &mut MySqlConnection, due: Vec<(i64, String)>) -> sqlx::Result<Vec<(i64, String)>> {
    sqlx::query(
        "SELECT
            t.stream_id,
            t.name
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT                             PATH '$[0]',
                name      VARCHAR(160) CHARACTER SET utf8mb4 PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_timeout AS t FORCE INDEX (PRIMARY)
            ON t.stream_id = k.stream_id
            AND t.name = CAST(k.name AS BINARY)
        WHERE t.due_at <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        FOR UPDATE SKIP LOCKED",
    )
    .bind(json!(due).to_string())
    .try_map(key)
    .fetch_all(conn)
    .await
}

fn key(row: MySqlRow) -> sqlx::Result<(i64, String)> {
    Ok((row.try_get(0)?, text(row.try_get(1)?)?))
}
