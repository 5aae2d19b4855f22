//! The statements of inboxes.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain};
use crate::error::Result;
use crate::ids::MessageId;
use crate::inbox::InboxTables;
use crate::lock::tables::micros;

#[async_trait]
impl InboxTables<Sqlite> for SqliteStore {
    async fn note_handled(&self, tx: &mut Transaction<'_, Sqlite>, consumer: &str, message: MessageId) -> Result<bool> {
        match insert(tx, consumer, message).await {
            Ok(first) => Ok(first),
            Err(error) => Err(explain(tx, "receiving a message", error).await),
        }
    }

    async fn is_handled(&self, conn: &mut SqliteConnection, consumer: &str, message: MessageId) -> Result<bool> {
        match exists(conn, consumer, message).await {
            Ok(found) => Ok(found),
            Err(error) => Err(explain(conn, "looking for a message", error).await),
        }
    }

    async fn forget_handled(
        &self,
        conn: &mut SqliteConnection,
        consumer: &str,
        retention: Duration,
        limit: u32,
    ) -> Result<u64> {
        match delete(conn, consumer, retention, limit).await {
            Ok(forgotten) => Ok(forgotten),
            Err(error) => Err(explain(conn, "forgetting handled messages", error).await),
        }
    }
}

async fn insert(conn: &mut SqliteConnection, consumer: &str, message: MessageId) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO saga_inbox (
            consumer,
            message_id,
            handled_at
        )
        VALUES (
            ?1,
            ?2,
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(consumer)
    .bind(message.as_uuid())
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn exists(conn: &mut SqliteConnection, consumer: &str, message: MessageId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT 1
            FROM saga_inbox
            WHERE consumer = ?1
                AND message_id = ?2
        )",
    )
    .bind(consumer)
    .bind(message.as_uuid())
    .fetch_one(conn)
    .await
}

async fn delete(conn: &mut SqliteConnection, consumer: &str, retention: Duration, limit: u32) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM saga_inbox
        WHERE consumer = ?1
            AND message_id IN (
                SELECT message_id
                FROM saga_inbox
                WHERE consumer = ?1
                    AND handled_at < CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) - ?2
                ORDER BY handled_at
                LIMIT +?3
            )",
    )
    .bind(consumer)
    .bind(micros(retention))
    .bind(limit)
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
