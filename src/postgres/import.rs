//! Streams from elsewhere.

use async_trait::async_trait;
use sqlx::{PgConnection, Postgres, Transaction};

use super::epoch::order_number;
use super::{PostgresStore, classify};
use crate::error::Result;
use crate::timestamp::Timestamp;
use crate::transfer::ExportedStream;
use crate::transfer::tables::{ImportTables, ImportedCommit};

#[async_trait]
impl ImportTables<Postgres> for PostgresStore {
    async fn import_stream(&self, tx: &mut Transaction<'_, Postgres>, stream: &ExportedStream) -> Result<()> {
        insert_stream(tx, stream).await.map_err(|error| classify("importing a stream", error))
    }

    async fn import_commit(&self, tx: &mut Transaction<'_, Postgres>, commit: &ImportedCommit<'_>) -> Result<bool> {
        insert_commit(tx, commit).await.map_err(|error| classify("importing a commit", error))
    }

    async fn import_completion(&self, tx: &mut Transaction<'_, Postgres>, stream: i64, at: Timestamp) -> Result<()> {
        update_completion(tx, stream, at).await.map_err(|error| classify("completing an imported instance", error))
    }
}

async fn insert_stream(conn: &mut PgConnection, stream: &ExportedStream) -> sqlx::Result<()> {
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
            $4
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(stream.name.as_str())
    .bind(stream.saga.as_deref())
    .bind(stream.instance.as_deref())
    .bind(stream.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Its place in the global order is after that of the one before, as that of any commit.
async fn insert_commit(conn: &mut PgConnection, commit: &ImportedCommit<'_>) -> sqlx::Result<bool> {
    let written = sqlx::query_scalar::<_, i64>(concat!(
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
        order_number!("head.xid"),
        ",
                $7,
                $8,
                $9,
                $10,
                $12,
                $13,
                $14
            FROM saga_stream AS s
            LEFT JOIN saga_commit AS head
                ON head.stream_id = $1
                AND head.commit_no = $2 - 1
            WHERE s.stream_id = $1
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
            WHERE $11
        )
        SELECT commit_no FROM written"
    ))
    .bind(commit.stream)
    .bind(commit.number.to_i64())
    .bind(commit.first_offset.to_i64())
    .bind(i64::from(commit.encoded.event_count))
    .bind(i64::from(commit.encoded.message_count))
    .bind(commit.completed)
    .bind(commit.handled.map(|id| id.as_uuid()))
    .bind(commit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(commit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(commit.recorded_at.as_micros())
    .bind(commit.deliver)
    .bind(i64::from(commit.encoded.checksum))
    .bind(commit.encoded.contents.as_str())
    .bind(commit.encoded.body.as_slice())
    .fetch_all(conn)
    .await?;
    Ok(!written.is_empty())
}

async fn update_completion(conn: &mut PgConnection, stream: i64, at: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE saga_stream
        SET completed_at = $1
        WHERE stream_id = $2",
    )
    .bind(at.as_micros())
    .bind(stream)
    .execute(conn)
    .await?;
    Ok(())
}
