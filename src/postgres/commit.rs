//! One unit of work as one row, one statement, one fsync.

use sqlx::PgConnection;

use super::{classify, snapshot};
use crate::error::Result;
use crate::message_store::{SnapshotChange, UnitCommit};

pub(super) async fn commit(conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<bool> {
    if !insert_commit(conn, unit).await? {
        return Ok(false);
    }
    if unit.completes() {
        mark_completed(conn, unit).await?;
    }
    match unit.snapshots {
        SnapshotChange::None => {}
        SnapshotChange::Save(taken, keep) => snapshot::save(conn, &unit.stream.name, taken, keep).await?,
        SnapshotChange::Delete => snapshot::delete(conn, &unit.stream.name).await.map(drop)?,
    }
    Ok(true)
}

pub(super) async fn commit_in_one_statement(conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<Option<bool>> {
    let one = !unit.completes() && matches!(unit.snapshots, SnapshotChange::None);
    if one { insert_commit(conn, unit).await.map(Some) } else { Ok(None) }
}

async fn insert_commit(conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<bool> {
    let number = unit.commit_number()?.to_i64();
    let inserted = match unit.head.key {
        Some(key) => insert(conn, unit, key, number).await,
        None => insert_with_stream(conn, unit, number).await,
    };
    inserted.map_err(|error| classify("saving a unit of work", error))
}

async fn insert(conn: &mut PgConnection, unit: &UnitCommit<'_>, key: i64, number: i64) -> sqlx::Result<bool> {
    let written = sqlx::query_scalar::<_, i64>(
        "WITH written AS (
            INSERT INTO saga_commit (
                stream_id,
                commit_no,
                first_offset,
                event_count,
                message_count,
                completed,
                xid,
                handled_message_id,
                causation_id,
                correlation_id,
                recorded_at,
                checksum,
                contents,
                body
            )
            SELECT
                $1,
                $2,
                $3,
                $4,
                $5,
                $6,
                GREATEST(pg_current_xact_id()::text::bigint, $7),
                $8,
                $9,
                $10,
                GREATEST((EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint, $11 + 1),
                $13,
                $14,
                $15
            WHERE CASE
                WHEN $2 = 1 THEN EXISTS (
                    SELECT 1
                    FROM saga_stream
                    WHERE stream_id = $1
                )
                ELSE EXISTS (
                    SELECT 1
                    FROM saga_commit
                    WHERE stream_id = $1
                        AND commit_no = $2 - 1
                        AND recorded_at = $11
                        AND checksum = $16
                )
            END
            ON CONFLICT DO NOTHING
            RETURNING
                stream_id,
                commit_no,
                recorded_at,
                message_count
        ),
        marked AS (
            INSERT INTO saga_outbox (
                recorded_at,
                stream_id,
                commit_no,
                message_count
            )
            SELECT
                recorded_at,
                stream_id,
                commit_no,
                message_count
            FROM written
            WHERE $12
        )
        SELECT commit_no FROM written",
    )
    .bind(key)
    .bind(number)
    .bind(unit.head.next_offset.to_i64())
    .bind(i64::from(unit.encoded.event_count))
    .bind(i64::from(unit.encoded.message_count))
    .bind(unit.completed)
    .bind(unit.head.order_token)
    .bind(unit.handled.map(|id| id.as_uuid()))
    .bind(unit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(unit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(unit.head.recorded_at.as_micros())
    .bind(unit.is_marked())
    .bind(i64::from(unit.encoded.checksum))
    .bind(unit.encoded.contents.as_str())
    .bind(unit.encoded.body.as_slice())
    .bind(i64::from(unit.head.checksum))
    .fetch_all(conn)
    .await?;
    Ok(!written.is_empty())
}

/// The same with the stream's row in the statement: of two first writers one finds nothing to insert into.
async fn insert_with_stream(conn: &mut PgConnection, unit: &UnitCommit<'_>, number: i64) -> sqlx::Result<bool> {
    let written = sqlx::query_scalar::<_, i64>(
        "WITH stream AS (
            INSERT INTO saga_stream (
                stream_name,
                persistence_key,
                instance_id,
                created_at
            )
            VALUES (
                $1,
                $2,
                $3,
                (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
            )
            ON CONFLICT DO NOTHING
            RETURNING
                stream_id,
                created_at
        ),
        written AS (
            INSERT INTO saga_commit (
                stream_id,
                commit_no,
                first_offset,
                event_count,
                message_count,
                completed,
                xid,
                handled_message_id,
                causation_id,
                correlation_id,
                recorded_at,
                checksum,
                contents,
                body
            )
            SELECT
                stream_id,
                $4,
                0,
                $5,
                $6,
                $7,
                pg_current_xact_id()::text::bigint,
                $8,
                $9,
                $10,
                created_at,
                $12,
                $13,
                $14
            FROM stream
            RETURNING
                stream_id,
                commit_no,
                recorded_at,
                message_count
        ),
        marked AS (
            INSERT INTO saga_outbox (
                recorded_at,
                stream_id,
                commit_no,
                message_count
            )
            SELECT
                recorded_at,
                stream_id,
                commit_no,
                message_count
            FROM written
            WHERE $11
        )
        SELECT commit_no FROM written",
    )
    .bind(unit.stream.name.as_str())
    .bind(unit.stream.persistence_key.as_str())
    .bind(unit.stream.instance_id.as_str())
    .bind(number)
    .bind(i64::from(unit.encoded.event_count))
    .bind(i64::from(unit.encoded.message_count))
    .bind(unit.completed)
    .bind(unit.handled.map(|id| id.as_uuid()))
    .bind(unit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(unit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(unit.is_marked())
    .bind(i64::from(unit.encoded.checksum))
    .bind(unit.encoded.contents.as_str())
    .bind(unit.encoded.body.as_slice())
    .fetch_all(conn)
    .await?;
    Ok(!written.is_empty())
}

async fn mark_completed(conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<()> {
    let updated = sqlx::query(
        "UPDATE saga_stream
        SET completed_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        WHERE stream_name = $1",
    )
    .bind(unit.stream.name.as_str())
    .execute(conn)
    .await;
    updated.map(drop).map_err(|error| classify("completing an instance", error))
}
