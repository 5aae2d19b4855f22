//! The plain append, which checks the end of the stream itself.

use sqlx::PgConnection;

use super::classify;
use super::epoch::order_number;
use crate::commit::EncodedCommit;
use crate::error::Result;
use crate::ids::Offset;
use crate::saga::SagaStream;
use crate::stream_name::StreamName;

/// Makes sure that the stream has a row; alone it means nothing.
pub(super) async fn ensure_stream(
    conn: &mut PgConnection,
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
            $1,
            $2,
            $3,
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
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
    conn: &mut PgConnection,
    stream: &StreamName,
    offset: Offset,
    encoded: &EncodedCommit,
) -> Result<bool> {
    insert(conn, stream, offset, encoded).await.map_err(|error| classify("appending to a stream", error))
}

async fn insert(
    conn: &mut PgConnection,
    stream: &StreamName,
    offset: Offset,
    encoded: &EncodedCommit,
) -> sqlx::Result<bool> {
    if offset == Offset::ZERO {
        ensure_stream(conn, stream, None).await?;
    }
    let inserted = sqlx::query(concat!(
        "INSERT INTO saga_commit (
            stream_id,
            commit_no,
            first_offset,
            event_count,
            message_count,
            completed,
            xid,
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
            $2,
            $3,
            $4,
            COALESCE(last.completed, FALSE),
            ",
        order_number!("last.xid"),
        ",
            $5,
            $6,
            GREATEST(
                (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint,
                COALESCE(last.recorded_at, 0) + 1
            ),
            $7,
            $8,
            $9
        FROM saga_stream AS s
        LEFT JOIN LATERAL (
            SELECT *
            FROM saga_commit AS c
            WHERE c.stream_id = s.stream_id
            ORDER BY c.commit_no DESC
            LIMIT 1
        ) AS last
            ON TRUE
        WHERE s.stream_name = $1
            AND COALESCE(last.first_offset + last.event_count, 0) = $2
        ON CONFLICT DO NOTHING"
    ))
    .bind(stream.as_str())
    .bind(offset.to_i64())
    .bind(i64::from(encoded.event_count))
    .bind(i64::from(encoded.message_count))
    .bind(encoded.causation_id.map(|id| id.as_uuid()))
    .bind(encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(i64::from(encoded.checksum))
    .bind(encoded.contents.as_str())
    .bind(encoded.body.as_slice())
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}
