//! Taking messages out of the outbox, and keeping what is left of a commit.

use std::collections::HashMap;

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::outbox::OutboxId;

/// The primary keys of commits as a JSON array of arrays, so that one text serves every number of them.
fn keys(commits: &[(OutboxId, u32)]) -> String {
    let keys: Vec<_> = commits.iter().map(|(id, _)| format!("[{},{}]", id.stream, id.commit_number)).collect();
    format!("[{}]", keys.join(","))
}

/// Locks the commits: of two that acknowledge one, one finds that the mark is gone.
pub(super) async fn count_marked(
    conn: &mut MySqlConnection,
    commits: &[(OutboxId, u32)],
) -> sqlx::Result<Vec<(OutboxId, u32)>> {
    sqlx::query(
        "SELECT
            c.undelivered,
            c.stream_id,
            c.commit_no,
            c.message_count
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
        let count = u32::try_from(row.try_get::<i64, _>(3)?).unwrap_or_default();
        Ok((OutboxId { recorded_at, stream, commit_number, index: 0, row: 0 }, count))
    })
    .fetch_all(conn)
    .await
}

pub(super) async fn marked_among(
    conn: &mut MySqlConnection,
    commits: &[(OutboxId, u32)],
) -> sqlx::Result<Vec<OutboxId>> {
    let marked = count_marked(conn, commits).await?;
    Ok(marked.into_iter().map(|(commit, _)| commit).collect())
}

pub(super) async fn unmark(conn: &mut MySqlConnection, commits: &[(OutboxId, u32)]) -> sqlx::Result<u64> {
    let wanted: HashMap<_, _> =
        commits.iter().map(|(id, messages)| ((id.stream, id.commit_number), *messages)).collect();
    let mut marked = count_marked(&mut *conn, commits).await?;
    marked.retain(|(id, found)| wanted.get(&(id.stream, id.commit_number)).is_some_and(|messages| found <= messages));
    if marked.is_empty() {
        return Ok(0);
    }
    sqlx::query(
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
        SET c.undelivered = NULL",
    )
    .bind(keys(&marked))
    .execute(conn)
    .await?;
    Ok(marked.into_iter().map(|(_, messages)| u64::from(messages)).sum())
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
