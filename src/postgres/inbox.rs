//! The statements of inboxes.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{PostgresStore, classify};
use crate::error::Result;
use crate::ids::MessageId;
use crate::inbox::InboxTables;
use crate::lock::tables::micros;

#[async_trait]
impl InboxTables<Postgres> for PostgresStore {
    async fn note_handled(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        consumer: &str,
        message: MessageId,
    ) -> Result<bool> {
        match insert(tx, consumer, message).await {
            Ok(first) => Ok(first),
            Err(error) => Err(classify("receiving a message", error)),
        }
    }

    async fn is_handled(&self, conn: &mut PgConnection, consumer: &str, message: MessageId) -> Result<bool> {
        match exists(conn, consumer, message).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("looking for a message", error)),
        }
    }

    async fn forget_handled(
        &self,
        conn: &mut PgConnection,
        consumer: &str,
        retention: Duration,
        limit: u32,
    ) -> Result<u64> {
        match delete(conn, consumer, retention, limit).await {
            Ok(forgotten) => Ok(forgotten),
            Err(error) => Err(classify("forgetting handled messages", error)),
        }
    }
}

async fn insert(conn: &mut PgConnection, consumer: &str, message: MessageId) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO saga_inbox (
            consumer,
            message_id,
            handled_at
        )
        VALUES (
            $1,
            $2,
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(consumer)
    .bind(message.as_uuid())
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn exists(conn: &mut PgConnection, consumer: &str, message: MessageId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT 1
            FROM saga_inbox
            WHERE consumer = $1
                AND message_id = $2
        )",
    )
    .bind(consumer)
    .bind(message.as_uuid())
    .fetch_one(conn)
    .await
}

/// Passes by what another is deleting.
async fn delete(conn: &mut PgConnection, consumer: &str, retention: Duration, limit: u32) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "WITH old AS (
            SELECT message_id
            FROM saga_inbox
            WHERE consumer = $1
                AND handled_at < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint - $2
            ORDER BY handled_at
            LIMIT $3
            FOR UPDATE SKIP LOCKED
        )
        DELETE FROM saga_inbox AS i
        USING old
        WHERE i.consumer = $1
            AND i.message_id = old.message_id",
    )
    .bind(consumer)
    .bind(micros(retention))
    .bind(i64::from(limit))
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
