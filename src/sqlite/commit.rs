//! One unit of work as one row, one statement, one fsync.

use sqlx::SqliteConnection;

use super::append::ensure_stream;
use super::{explain, is_stale_read, snapshot};
use crate::error::Result;
use crate::message_store::{Head, SnapshotChange, UnitCommit};
use crate::timestamp::Timestamp;

pub(super) async fn commit(conn: &mut SqliteConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
    let Some(head) = insert_commit(conn, unit).await? else { return Ok(None) };
    if unit.completes() {
        mark_completed(conn, unit).await?;
    }
    match unit.snapshots {
        SnapshotChange::None => {}
        SnapshotChange::Save(taken, keep) => snapshot::save(conn, &unit.stream.name, taken, keep).await?,
        SnapshotChange::Delete => snapshot::delete(conn, &unit.stream.name).await.map(drop)?,
    }
    Ok(Some(head))
}

/// It adds a commit to a stream that is there, and changes nothing else.
pub(super) fn is_one_statement(unit: &UnitCommit<'_>) -> bool {
    !unit.head.is_at_start() && !unit.completes() && matches!(unit.snapshots, SnapshotChange::None)
}

async fn insert_commit(conn: &mut SqliteConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
    let number = unit.commit_number()?.to_i64();
    match insert(conn, unit, number).await {
        Ok(Some((key, recorded_at))) => unit.head_after(key, Timestamp::from_micros(recorded_at), 0).map(Some),
        Ok(None) => Ok(None),
        Err(error) if is_stale_read(&error) => Ok(None),
        Err(error) => Err(explain(conn, "saving a unit of work", error).await),
    }
}

/// Gives the stream's key and the time of the commit.
async fn insert(conn: &mut SqliteConnection, unit: &UnitCommit<'_>, number: i64) -> sqlx::Result<Option<(i64, i64)>> {
    let head = unit.head;
    if head.is_at_start() {
        ensure_stream(conn, &unit.stream.name, Some(unit.stream)).await?;
    }
    let inserted = sqlx::query_as(
        "INSERT INTO saga_commit (
            stream_id,
            commit_no,
            first_offset,
            event_count,
            message_count,
            completed,
            handled_message_id,
            causation_id,
            correlation_id,
            recorded_at,
            undelivered,
            checksum,
            contents,
            body
        )
        SELECT
            s.stream_id,
            ?3,
            ?4,
            ?5,
            ?6,
            ?7,
            ?8,
            ?9,
            ?10,
            clock.now,
            CASE WHEN ?12 THEN clock.now END,
            ?13,
            ?14,
            ?15
        FROM (
            SELECT MAX(CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER), ?11 + 1) AS now
        ) AS clock
        JOIN saga_stream AS s
            ON s.stream_name = ?1
        WHERE ?2 IS NULL
            OR EXISTS (
                SELECT 1
                FROM saga_commit AS head
                WHERE head.stream_id = s.stream_id
                    AND head.commit_no = ?3 - 1
                    AND head.recorded_at = ?11
                    AND head.checksum = ?2
            )
        ON CONFLICT DO NOTHING
        RETURNING
            stream_id,
            recorded_at",
    )
    .bind(unit.stream.name.as_str())
    .bind((!head.is_at_start()).then_some(head.checksum))
    .bind(number)
    .bind(head.next_offset.to_i64())
    .bind(unit.encoded.event_count)
    .bind(unit.encoded.message_count)
    .bind(unit.completed)
    .bind(unit.handled.map(|id| id.as_uuid()))
    .bind(unit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(unit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(head.recorded_at.as_micros())
    .bind(unit.is_marked())
    .bind(unit.encoded.checksum)
    .bind(unit.encoded.contents.as_str())
    .bind(unit.encoded.body.as_slice())
    // Not the first row alone: a statement that is left before its end commits unseen.
    .fetch_all(conn)
    .await?;
    Ok(inserted.into_iter().next())
}

async fn mark_completed(conn: &mut SqliteConnection, unit: &UnitCommit<'_>) -> Result<()> {
    let updated = sqlx::query(
        "UPDATE saga_stream
        SET completed_at = CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        WHERE stream_name = ?1",
    )
    .bind(unit.stream.name.as_str())
    .execute(&mut *conn)
    .await;
    match updated {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(conn, "completing an instance", error).await),
    }
}
