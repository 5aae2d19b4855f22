//! Streams from elsewhere.

use async_trait::async_trait;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain};
use crate::error::Result;
use crate::timestamp::Timestamp;
use crate::transfer::ExportedStream;
use crate::transfer::tables::{ImportTables, ImportedCommit};

#[async_trait]
impl ImportTables<Sqlite> for SqliteStore {
    async fn import_stream(&self, tx: &mut Transaction<'_, Sqlite>, stream: &ExportedStream) -> Result<()> {
        match insert_stream(tx, stream).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "importing a stream", error).await),
        }
    }

    async fn import_commit(&self, tx: &mut Transaction<'_, Sqlite>, commit: &ImportedCommit<'_>) -> Result<bool> {
        match insert_commit(tx, commit).await {
            Ok(inserted) => Ok(inserted),
            Err(error) => Err(explain(tx, "importing a commit", error).await),
        }
    }

    async fn import_completion(&self, tx: &mut Transaction<'_, Sqlite>, stream: i64, at: Timestamp) -> Result<()> {
        match update_completion(tx, stream, at).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "completing an imported instance", error).await),
        }
    }
}

async fn insert_stream(conn: &mut SqliteConnection, stream: &ExportedStream) -> sqlx::Result<()> {
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
            ?4
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

async fn insert_commit(conn: &mut SqliteConnection, commit: &ImportedCommit<'_>) -> sqlx::Result<bool> {
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
            ?1,
            ?2,
            ?3,
            ?4,
            ?5,
            ?6,
            ?7,
            ?8,
            ?9,
            ?10,
            CASE WHEN ?11 THEN ?10 END,
            ?12,
            ?13,
            ?14
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(commit.stream)
    .bind(commit.number.to_i64())
    .bind(commit.first_offset.to_i64())
    .bind(commit.encoded.event_count)
    .bind(commit.encoded.message_count)
    .bind(commit.completed)
    .bind(commit.handled.map(|id| id.as_uuid()))
    .bind(commit.encoded.causation_id.map(|id| id.as_uuid()))
    .bind(commit.encoded.correlation_id.map(|id| id.as_uuid()))
    .bind(commit.recorded_at.as_micros())
    .bind(commit.deliver)
    .bind(commit.encoded.checksum)
    .bind(commit.encoded.contents.as_str())
    .bind(commit.encoded.body.as_slice())
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn update_completion(conn: &mut SqliteConnection, stream: i64, at: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE saga_stream
        SET completed_at = ?1
        WHERE stream_id = ?2",
    )
    .bind(at.as_micros())
    .bind(stream)
    .execute(conn)
    .await?;
    Ok(())
}
