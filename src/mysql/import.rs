//! Streams from elsewhere.

use async_trait::async_trait;
use sqlx::{MySql, MySqlConnection, Transaction};

use super::{MySqlStore, classify, global_order, is_duplicate};
use crate::error::Result;
use crate::timestamp::Timestamp;
use crate::transfer::ExportedStream;
use crate::transfer::tables::{ImportTables, ImportedCommit};

#[async_trait]
impl ImportTables<MySql> for MySqlStore {
    async fn import_stream(&self, tx: &mut Transaction<'_, MySql>, stream: &ExportedStream) -> Result<()> {
        insert_stream(tx, stream).await.map_err(|error| classify("importing a stream", error))
    }

    async fn import_commit(&self, tx: &mut Transaction<'_, MySql>, commit: &ImportedCommit<'_>) -> Result<bool> {
        let doing = "importing a commit";
        self.check_import(tx, commit.encoded.body.len().saturating_add(commit.encoded.contents.len())).await?;
        let inserted = insert_commit(tx, commit).await.map_err(|error| classify(doing, error))?;
        if inserted {
            // Only where a global order is kept.
            let placed = global_order::insert_place(tx, commit.stream, commit.number.to_i64()).await;
            let _ = placed.map_err(|error| classify(doing, error))?;
        }
        Ok(inserted)
    }

    async fn import_completion(&self, tx: &mut Transaction<'_, MySql>, stream: i64, at: Timestamp) -> Result<()> {
        update_completion(tx, stream, at).await.map_err(|error| classify("completing an imported instance", error))
    }
}

async fn insert_stream(conn: &mut MySqlConnection, stream: &ExportedStream) -> sqlx::Result<()> {
    sqlx::query(
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
            ?
        )
        ON DUPLICATE KEY UPDATE
            stream_id = stream_id",
    )
    .bind(stream.name.as_bytes())
    .bind(stream.saga.as_deref().map(str::as_bytes))
    .bind(stream.instance.as_deref().map(str::as_bytes))
    .bind(stream.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_commit(conn: &mut MySqlConnection, commit: &ImportedCommit<'_>) -> sqlx::Result<bool> {
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
            ?,
            ?,
            ?,
            ?,
            ?
        )",
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
    .bind(commit.deliver.then_some(commit.recorded_at.as_micros()))
    .bind(commit.encoded.checksum)
    .bind(commit.encoded.contents.as_str())
    .bind(commit.encoded.body.as_slice())
    .execute(conn)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn update_completion(conn: &mut MySqlConnection, stream: i64, at: Timestamp) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE saga_stream
        SET completed_at = ?
        WHERE stream_id = ?",
    )
    .bind(at.as_micros())
    .bind(stream)
    .execute(conn)
    .await?;
    Ok(())
}
