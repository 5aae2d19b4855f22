//! Taking messages out of the outbox, and keeping what is left of a commit.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::outbox::{LeftOver, OutboxId};

/// The primary keys of marks, a column each.
fn keys(commits: &[OutboxId]) -> [Vec<i64>; 3] {
    let column = |part: fn(&OutboxId) -> i64| commits.iter().map(part).collect();
    [column(|id| id.recorded_at), column(|id| id.stream), column(|id| id.commit_number)]
}

pub(super) async fn lock_mark(conn: &mut PgConnection, commit: OutboxId) -> sqlx::Result<bool> {
    let locked = sqlx::query_scalar::<_, i32>(
        "SELECT message_count
        FROM saga_outbox
        WHERE recorded_at = $1
            AND stream_id = $2
            AND commit_no = $3
        FOR UPDATE",
    )
    .bind(commit.recorded_at)
    .bind(commit.stream)
    .bind(commit.commit_number)
    .fetch_optional(conn)
    .await?;
    Ok(locked.is_some())
}

pub(super) async fn marked_among(conn: &mut PgConnection, commits: &[OutboxId]) -> sqlx::Result<Vec<OutboxId>> {
    let [recorded_at, stream, commit_number] = keys(commits);
    sqlx::query(
        "SELECT
            o.recorded_at,
            o.stream_id,
            o.commit_no
        FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) AS k (recorded_at, stream_id, commit_no)
        JOIN saga_outbox AS o
            ON o.recorded_at = k.recorded_at
            AND o.stream_id = k.stream_id
            AND o.commit_no = k.commit_no",
    )
    .bind(recorded_at)
    .bind(stream)
    .bind(commit_number)
    .try_map(|row: PgRow| {
        let (recorded_at, stream, commit_number) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(OutboxId { recorded_at, stream, commit_number, index: 0, row: 0 })
    })
    .fetch_all(conn)
    .await
}

pub(super) async fn unmark(conn: &mut PgConnection, commits: &[OutboxId], messages: Option<u32>) -> sqlx::Result<u64> {
    let [recorded_at, stream, commit_number] = keys(commits);
    let unmarked = sqlx::query(
        "DELETE FROM saga_outbox AS o
        USING UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) AS k (recorded_at, stream_id, commit_no)
        WHERE o.recorded_at = k.recorded_at
            AND o.stream_id = k.stream_id
            AND o.commit_no = k.commit_no
            AND o.message_count = COALESCE($4, o.message_count)",
    )
    .bind(recorded_at)
    .bind(stream)
    .bind(commit_number)
    .bind(messages.map(i64::from))
    .execute(conn)
    .await?;
    Ok(unmarked.rows_affected())
}

pub(super) async fn insert_left_over(conn: &mut PgConnection, message: &LeftOver, contents: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO saga_outbox_message (
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
        VALUES (
            $1,
            $2,
            $3,
            $4,
            $5,
            0,
            $6,
            $7,
            $8,
            $9
        )",
    )
    .bind(message.partition)
    .bind(message.id.recorded_at)
    .bind(message.id.stream)
    .bind(message.id.commit_number)
    .bind(message.id.index)
    .bind(message.aggregate_type.as_str())
    .bind(message.aggregate_id.as_str())
    .bind(contents)
    .bind(&*message.envelope.payload)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records of their own are found by their number, what is left of commits by its place.
pub(super) async fn delete(conn: &mut PgConnection, ids: &[OutboxId]) -> sqlx::Result<u64> {
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

async fn delete_own(conn: &mut PgConnection, ids: &[&OutboxId]) -> sqlx::Result<u64> {
    let numbers: Vec<_> = ids.iter().map(|id| id.row).collect();
    let deleted = sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE message_no = ANY($1)
            AND stream_id = 0",
    )
    .bind(numbers)
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}

async fn delete_left_over(conn: &mut PgConnection, ids: &[&OutboxId]) -> sqlx::Result<u64> {
    let column = |part: fn(&OutboxId) -> i64| -> Vec<i64> { ids.iter().map(|id| part(id)).collect() };
    let deleted = sqlx::query(
        "DELETE FROM saga_outbox_message AS m
        USING UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) AS k (stream_id, commit_no, message_index)
        WHERE m.stream_id = k.stream_id
            AND m.commit_no = k.commit_no
            AND m.message_index = k.message_index
            AND m.stream_id > 0",
    )
    .bind(column(|id| id.stream))
    .bind(column(|id| id.commit_number))
    .bind(column(|id| id.index))
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
