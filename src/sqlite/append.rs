//! The plain append, which checks the end of the stream itself.

use sqlx::SqliteConnection;

use super::{explain, is_stale_read};
use crate::commit::EncodedCommit;
use crate::error::Result;
use crate::ids::Offset;
use crate::saga::SagaStream;
use crate::stream_name::StreamName;

/// Makes sure that the stream has a row; alone it means nothing.
pub(super) async fn ensure_stream(
    conn: &mut SqliteConnection,
    name: &StreamName,
    owner: Option<&SagaStream>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO saga_stream (
            stream_name,
            persistence_key,
            instance_id,
            created_at
        )
        VALUES (
            ?1,
            ?2,
            ?3,
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(name.as_str())
    .bind(owner.map(|stream| stream.persistence_key.as_str()))
    .bind(owner.map(|stream| stream.instance_id.as_str()))
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn append(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    offset: Offset,
    encoded: &EncodedCommit,
) -> Result<bool> {
    match insert(conn, stream, offset, encoded).await {
        Ok(appended) => Ok(appended),
        Err(error) if is_stale_read(&error) => Ok(false),
        Err(error) => Err(explain(conn, "appending to a stream", error).await),
    }
}

async fn insert(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    offset: Offset,
    encoded: &EncodedCommit,
) -> sqlx::Result<bool> {
    if offset == Offset::ZERO {
        ensure_stream(conn, stream, None).await?;
    }
    let inserted = sqlx::query(
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
        SELECT
            s.stream_id,
            COALESCE(last.commit_no, 0) + 1,
            ?2,
            ?3,
            ?4,
            COALESCE(last.completed, 0),
            ?5,
            ?6,
            MAX(
                CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER),
                COALESCE(last.recorded_at, 0) + 1
            ),
            ?7,
            ?8,
            ?9
        FROM saga_stream AS s
        LEFT JOIN saga_commit AS last
            ON last.stream_id = s.stream_id
            AND last.commit_no = (
                SELECT MAX(commit_no)
                FROM saga_commit
                WHERE stream_id = s.stream_id
            )
        WHERE s.stream_name = ?1
            AND COALESCE(last.first_offset + last.event_count, 0) = ?2
        ON CONFLICT DO NOTHING",
    )
    .bind(stream.as_str())
    .bind(offset.to_i64())
    .bind(encoded.event_count)
    .bind(encoded.message_count)
    .bind(encoded.causation_id.map(|id| id.as_uuid()))
    .bind(encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(encoded.checksum)
    .bind(encoded.contents.as_str())
    .bind(encoded.body.as_slice())
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}
