//! The plain append, which checks the end of the stream itself.

use sqlx::{MySqlConnection, Row};

use super::{MySqlStore, classify, global_order, is_duplicate};
use crate::commit::EncodedCommit;
use crate::error::Result;
use crate::ids::Offset;
use crate::saga::SagaStream;
use crate::stream_name::StreamName;

/// Makes sure that the stream has a row; alone it means nothing. Gives its key.
pub(super) async fn ensure_stream(
    conn: &mut MySqlConnection,
    name: &StreamName,
    owner: Option<&SagaStream>,
) -> sqlx::Result<i64> {
    let ensured = sqlx::query(
        "INSERT INTO saga_stream (
            stream_name,
            persistence_key,
            instance_id,
            created_at
        )
        VALUES (
            ?,
            ?,
            ?,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        )
        ON DUPLICATE KEY UPDATE
            stream_id = LAST_INSERT_ID(stream_id)",
    )
    .bind(name.as_str().as_bytes())
    .bind(owner.map(|stream| stream.persistence_key.as_bytes()))
    .bind(owner.map(|stream| stream.instance_id.as_str().as_bytes()))
    .execute(conn)
    .await?;
    i64::try_from(ensured.last_insert_id()).map_err(|fault| sqlx::Error::Decode(fault.into()))
}

pub(super) async fn append(
    store: &MySqlStore,
    conn: &mut MySqlConnection,
    stream: &StreamName,
    offset: Offset,
    encoded: &EncodedCommit,
) -> Result<bool> {
    let doing = "appending to a stream";
    store.check_write(conn, encoded.body.len().saturating_add(encoded.contents.len())).await?;
    let last = match last(conn, stream).await {
        Ok(Some(last)) => last,
        // The first commit of a stream that has none, or none that this transaction can see.
        Ok(None) if offset == Offset::ZERO => {
            let key = ensure_stream(conn, stream, None).await.map_err(|error| classify(doing, error))?;
            Last { key, ..Last::default() }
        }
        Ok(None) => return Ok(false),
        Err(error) => return Err(classify(doing, error)),
    };
    if last.end != offset.to_i64() {
        return Ok(false);
    }
    match insert(conn, &last, encoded).await {
        Ok(()) => {}
        Err(error) if is_duplicate(&error) => return Ok(false),
        Err(error) => return Err(classify(doing, error)),
    }
    global_order::place(store, conn, last.key, last.commit_no + 1).await?;
    Ok(true)
}

/// The last commit of a stream.
#[derive(Default)]
struct Last {
    key: i64,
    commit_no: i64,
    end: i64,
    completed: bool,
    recorded_at: i64,
}

async fn last(conn: &mut MySqlConnection, stream: &StreamName) -> sqlx::Result<Option<Last>> {
    let found = sqlx::query(
        "SELECT
            stream_id,
            commit_no,
            first_offset + event_count,
            completed,
            recorded_at
        FROM saga_commit
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
        ORDER BY commit_no DESC
        LIMIT 1",
    )
    .bind(stream.as_str().as_bytes())
    .fetch_optional(conn)
    .await?;
    let Some(row) = found else { return Ok(None) };
    Ok(Some(Last {
        key: row.try_get(0)?,
        commit_no: row.try_get(1)?,
        end: row.try_get(2)?,
        completed: row.try_get(3)?,
        recorded_at: row.try_get(4)?,
    }))
}

/// Fails with a duplicate key if another writer was faster.
async fn insert(conn: &mut MySqlConnection, last: &Last, encoded: &EncodedCommit) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO saga_commit (
            stream_id,
            commit_no,
            first_offset,
            event_count,
            message_count,
            completed,
            causation_id,
            correlation_id,
            recorded_at,
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
            GREATEST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), CAST(? AS SIGNED) + 1),
            ?,
            ?,
            ?
        )",
    )
    .bind(last.key)
    .bind(last.commit_no + 1)
    .bind(last.end)
    .bind(encoded.event_count)
    .bind(encoded.message_count)
    .bind(last.completed)
    .bind(encoded.causation_id.map(|id| id.as_uuid()))
    .bind(encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(last.recorded_at)
    .bind(encoded.checksum)
    .bind(encoded.contents.as_str())
    .bind(encoded.body.as_slice())
    .execute(conn)
    .await?;
    Ok(())
}
