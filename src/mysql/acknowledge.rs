//! Taking messages out of the outbox, and keeping what is left of a commit.

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::outbox::OutboxId;

/// The primary keys of commits as a JSON array of arrays, so that one text serves every number of them.
fn keys(commits: &[OutboxId]) -> String {
    let keys: Vec<_> = commits.iter().map(|id| format!("[{},{}]", id.stream, id.commit_number)).collect();
    format!("[{}]", keys.join(","))
}

/// Locks the commits: of two that acknowledge one, one finds that the mark is gone.
pub(super) async fn marked_among(conn: &mut MySqlConnection, commits: &[OutboxId]) -> sqlx::Result<Vec<OutboxId>> {
    sqlx::query(
        "SELECT
            c.undelivered,
            c.stream_id,
            c.commit_no
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT PATH '$[0]',
                commit_no BIGINT PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_commit AS c
            ON c.stream_id = k.stream_id
            AND c.commit_no = k.commit_no
        WHERE c.undelivered IS NOT NULL
        FOR UPDATE",
    )
    .bind(keys(commits))
    .try_map(|row: MySqlRow| {
        let (recorded_at, stream, commit_number) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(OutboxId { recorded_at, stream, commit_number, index: 0, row: 0 })
    })
    .fetch_all(conn)
    .await
}

pub(super) async fn unmark(
    conn: &mut MySqlConnection,
    commits: &[OutboxId],
    messages: Option<u32>,
) -> sqlx::Result<u64> {
    let unmarked = sqlx::query(
        "UPDATE JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id BIGINT PATH '$[0]',
                commit_no BIGINT PATH '$[1]'
            )
        ) AS k
        STRAIGHT_JOIN saga_commit AS c
            ON c.stream_id = k.stream_id
            AND c.commit_no = k.commit_no
        SET c.undelivered = NULL
        WHERE c.undelivered IS NOT NULL
            AND c.message_count = COALESCE(?, c.message_count)",
    )
    .bind(keys(commits))
    .bind(messages)
    .execute(conn)
    .await?;
    Ok(unmarked.rows_affected())
}

/// Records of their own are found by their number, what is left of commits by its place.
pub(super) async fn delete(conn: &mut MySqlConnection, ids: &[OutboxId]) -> sqlx::Result<u64> {
    let (own, left): (Vec<_>, Vec<_>) = ids.iter().partition(|id| id.stream == 0);
    let mut gone = 0;
    if !own.is_empty() {
        gone += delete_own(conn, &own).await?;
    }
    if !left.is_empty() {
        gone += delete_left_over(conn, &left).await?;
    }
    Ok(gone)
}

async fn delete_own(conn: &mut MySqlConnection, ids: &[&OutboxId]) -> sqlx::Result<u64> {
    let numbers: Vec<_> = ids.iter().map(|id| id.row.to_string()).collect();
    let deleted = sqlx::query(
        "DELETE m
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                message_no BIGINT PATH '$'
            )
        ) AS k
        STRAIGHT_JOIN saga_outbox_message AS m
            ON m.message_no = k.message_no
        WHERE m.stream_id = 0",
    )
    .bind(format!("[{}]", numbers.join(",")))
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}

async fn delete_left_over(conn: &mut MySqlConnection, ids: &[&OutboxId]) -> sqlx::Result<u64> {
    let place = |id: &&OutboxId| format!("[{},{},{}]", id.stream, id.commit_number, id.index);
    let places: Vec<_> = ids.iter().map(place).collect();
    let deleted = sqlx::query(
        "DELETE m
        FROM JSON_TABLE(
            ?,
            '$[*]' COLUMNS (
                stream_id     BIGINT PATH '$[0]',
                commit_no     BIGINT PATH '$[1]',
                message_index BIGINT PATH '$[2]'
            )
        ) AS k
        STRAIGHT_JOIN saga_outbox_message AS m
            ON m.origin_id = k.stream_id
            AND m.commit_no = k.commit_no
            AND m.message_index = k.message_index",
    )
    .bind(format!("[{}]", places.join(",")))
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
