//! One unit of work as one row, one statement, one fsync.

use sqlx::MySqlConnection;

use super::append::ensure_stream;
use super::{MySqlStore, classify, global_order, is_duplicate, snapshot};
use crate::error::Result;
use crate::message_store::{Head, HeadTrust, SnapshotChange, UnitCommit};
use crate::snapshot::unless_too_large;
use crate::timestamp::Timestamp;

pub(super) async fn commit(
    store: &MySqlStore,
    conn: &mut MySqlConnection,
    unit: &UnitCommit<'_>,
) -> Result<Option<Head>> {
    let Some(head) = insert_commit(store, conn, unit).await? else { return Ok(None) };
    if unit.completes() {
        mark_completed(conn, unit).await?;
    }
    match unit.snapshots {
        SnapshotChange::None => {}
        SnapshotChange::Save(taken, keep) => {
            let saved = snapshot::save(store, conn, &unit.stream.name, taken, keep).await;
            unless_too_large(&unit.stream.name, taken.revision, saved)?;
        }
        SnapshotChange::Delete => snapshot::delete(conn, &unit.stream.name).await.map(drop)?,
    }
    Ok(Some(head))
}

/// It adds a commit to a stream that is there, and changes nothing else.
pub(super) fn is_one_statement(store: &MySqlStore, unit: &UnitCommit<'_>) -> bool {
    let known = !unit.head.is_at_start() && !store.globally_ordered;
    known && !unit.completes() && matches!(unit.snapshots, SnapshotChange::None)
}

async fn insert_commit(store: &MySqlStore, conn: &mut MySqlConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
    let doing = "saving a unit of work";
    let number = unit.commit_number()?.to_i64();
    store.check_write(conn, unit.encoded.body.len().saturating_add(unit.encoded.contents.len())).await?;
    let key = match unit.head.key {
        Some(key) if !unit.head.is_at_start() => key,
        _ => {
            let ensured = ensure_stream(conn, &unit.stream.name, Some(unit.stream)).await;
            ensured.map_err(|error| classify(doing, error))?
        }
    };
    let inserted = if unit.head_trust == HeadTrust::Check && !unit.head.is_at_start() {
        insert_onto_head(conn, unit, key, number).await
    } else {
        insert_values(conn, unit, key, number).await.map(Some)
    };
    let recorded_at = match inserted {
        Ok(Some(recorded_at)) => recorded_at,
        Ok(None) => return Ok(None),
        Err(error) if is_duplicate(&error) => return Ok(None),
        Err(error) => return Err(classify(doing, error)),
    };
    global_order::place(store, conn, key, number).await?;
    unit.head_after(key, Timestamp::from_micros(recorded_at), 0).map(Some)
}

/// Where there is nothing to look at; it is half the work for the server. Gives the time of the commit, which the server answers
/// where it would the key of a numbered row. Fails with a duplicate key if another writer was faster, or the message was
/// handled meanwhile.
async fn insert_values(conn: &mut MySqlConnection, unit: &UnitCommit<'_>, key: i64, number: i64) -> sqlx::Result<i64> {
    let inserted = sqlx::query(
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
        VALUES (
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            LAST_INSERT_ID(
                GREATEST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), CAST(? AS SIGNED) + 1)
            ),
            CASE WHEN ? THEN recorded_at END, -- as it was just set
            ?,
            ?,
            ?
        )",
    )
    .bind(key)
    .bind(number)
    .bind(unit.head.next_offset.to_i64())
    .bind(unit.encoded.event_count)
    .bind(unit.encoded.message_count)
    .bind(unit.completed)
    .bind(unit.handled.map(|id| id.as_uuid()))
    .bind(unit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(unit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(unit.head.recorded_at.as_micros())
    .bind(unit.is_marked())
    .bind(unit.encoded.checksum)
    .bind(unit.encoded.contents.as_str())
    .bind(unit.encoded.body.as_slice())
    .execute(conn)
    .await?;
    as_time(inserted.last_insert_id())
}

/// The same, only if the commit is there that this one builds on. It is looked up as a derived table, or the server would
/// write the new row to a temporary one first.
async fn insert_onto_head(
    conn: &mut MySqlConnection,
    unit: &UnitCommit<'_>,
    key: i64,
    number: i64,
) -> sqlx::Result<Option<i64>> {
    let inserted = sqlx::query(
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
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            LAST_INSERT_ID(head.now),
            CASE WHEN ? THEN head.now END,
            ?,
            ?,
            ?
        FROM (
            SELECT GREATEST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), recorded_at + 1) AS now
            FROM saga_commit
            WHERE stream_id = ?
                AND commit_no = ?
                AND recorded_at = ?
                AND checksum = ?
            LIMIT 1
        ) AS head",
    )
    .bind(key)
    .bind(number)
    .bind(unit.head.next_offset.to_i64())
    .bind(unit.encoded.event_count)
    .bind(unit.encoded.message_count)
    .bind(unit.completed)
    .bind(unit.handled.map(|id| id.as_uuid()))
    .bind(unit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(unit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(unit.is_marked())
    .bind(unit.encoded.checksum)
    .bind(unit.encoded.contents.as_str())
    .bind(unit.encoded.body.as_slice())
    .bind(key)
    .bind(unit.head.commit_number.to_i64())
    .bind(unit.head.recorded_at.as_micros())
    .bind(unit.head.checksum)
    .execute(conn)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    as_time(inserted.last_insert_id()).map(Some)
}

fn as_time(answered: u64) -> sqlx::Result<i64> {
    i64::try_from(answered).map_err(|fault| sqlx::Error::Decode(fault.into()))
}

async fn mark_completed(conn: &mut MySqlConnection, unit: &UnitCommit<'_>) -> Result<()> {
    let updated = sqlx::query(
        "UPDATE saga_stream
        SET completed_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        WHERE stream_name = ?",
    )
    .bind(unit.stream.name.as_str().as_bytes())
    .execute(conn)
    .await;
    updated.map(drop).map_err(|error| classify("completing an instance", error))
}
