//! One unit of work as one row, one statement, one fsync.

use sqlx::PgConnection;

use super::epoch::order_number;
use super::{classify, snapshot};
use crate::error::Result;
use crate::message_store::{Head, SnapshotChange, UnitCommit};
use crate::timestamp::Timestamp;

pub(super) async fn commit(conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
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

/// It adds a commit, and changes nothing else but the row of its stream.
pub(super) fn is_one_statement(unit: &UnitCommit<'_>) -> bool {
    !unit.completes() && matches!(unit.snapshots, SnapshotChange::None)
}

async fn insert_commit(conn: &mut PgConnection, unit: &UnitCommit<'_>) -> Result<Option<Head>> {
    let number = unit.commit_number()?.to_i64();
    let inserted = match unit.head.key {
        Some(key) => insert(conn, unit, key, number).await,
        None => insert_with_stream(conn, unit, number).await,
    };
    match inserted.map_err(|error| classify("saving a unit of work", error))? {
        Some((key, recorded_at, xid)) => unit.head_after(key, Timestamp::from_micros(recorded_at), xid).map(Some),
        None => Ok(None),
    }
}

/// The stream's key, and the time and the transaction of the commit.
type Inserted = (i64, i64, i64);

/// The statement that adds a commit to a stream which is there. What it builds on is joined, and not looked for in a
/// condition: that costs the server hardly more than plain values. The number of the transaction is compared with the stored
/// one, and not with one in memory: the data may be in another cluster by now, where numbers are other ones.
macro_rules! insert_onto {
    ($xid:expr, $head:literal) => {
        concat!(
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
                    ",
            $xid,
            ",
                    $7,
                    $8,
                    $9,
                    GREATEST((EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint, $10 + 1),
                    $12,
                    $13,
                    $14
                FROM ",
            $head,
            "
                ON CONFLICT DO NOTHING
                RETURNING
                    stream_id,
                    commit_no,
                    recorded_at,
                    message_count,
                    xid
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
            SELECT
                stream_id,
                recorded_at,
                xid
            FROM written"
        )
    };
}

/// Onto the commit before it, if that is there.
const ONTO_COMMIT: &str = insert_onto!(
    order_number!("head.xid"),
    "saga_commit AS head
                WHERE head.stream_id = $1
                    AND head.commit_no = $2 - 1
                    AND head.recorded_at = $10
                    AND head.checksum = $15"
);

/// As the first of a stream whose row is there.
const ONTO_STREAM: &str = insert_onto!(
    "pg_current_xact_id()::text::bigint",
    "saga_stream AS head
                WHERE head.stream_id = $1"
);

async fn insert(
    conn: &mut PgConnection,
    unit: &UnitCommit<'_>,
    key: i64,
    number: i64,
) -> sqlx::Result<Option<Inserted>> {
    let statement = if unit.head.is_at_start() { ONTO_STREAM } else { ONTO_COMMIT };
    let written = sqlx::query_as(statement)
        .bind(key)
        .bind(number)
        .bind(unit.head.next_offset.to_i64())
        .bind(i64::from(unit.encoded.event_count))
        .bind(i64::from(unit.encoded.message_count))
        .bind(unit.completed)
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
    Ok(written.into_iter().next())
}

/// The same with the stream's row in the statement: of two first writers one finds nothing to insert into.
async fn insert_with_stream(
    conn: &mut PgConnection,
    unit: &UnitCommit<'_>,
    number: i64,
) -> sqlx::Result<Option<Inserted>> {
    let written = sqlx::query_as(
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
                message_count,
                xid
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
        SELECT
            stream_id,
            recorded_at,
            xid
        FROM written",
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
    Ok(written.into_iter().next())
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
