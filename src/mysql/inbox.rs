//! The statements of inboxes.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{MySql, MySqlConnection, Transaction};

use super::{MySqlStore, classify, is_duplicate};
use crate::error::Result;
use crate::ids::MessageId;
use crate::inbox::InboxTables;
use crate::lock::tables::micros;

#[async_trait]
impl InboxTables<MySql> for MySqlStore {
    async fn note_handled(&self, tx: &mut Transaction<'_, MySql>, consumer: &str, message: MessageId) -> Result<bool> {
        match insert(tx, consumer, message).await {
            Ok(first) => Ok(first),
            Err(error) => Err(classify("receiving a message", error)),
        }
    }

    async fn is_handled(&self, conn: &mut MySqlConnection, consumer: &str, message: MessageId) -> Result<bool> {
        match exists(conn, consumer, message).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("looking for a message", error)),
        }
    }

    async fn forget_handled(
        &self,
        conn: &mut MySqlConnection,
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

/// Not with IGNORE, which would let other faults pass too.
async fn insert(conn: &mut MySqlConnection, consumer: &str, message: MessageId) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO saga_inbox (
            consumer,
            message_id,
            handled_at
        )
        VALUES (
            ?,
            ?,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        )",
    )
    .bind(consumer)
    .bind(message.as_uuid())
    .execute(conn)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn exists(conn: &mut MySqlConnection, consumer: &str, message: MessageId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT 1
            FROM saga_inbox
            WHERE consumer = ?
                AND message_id = ?
        )",
    )
    .bind(consumer)
    .bind(message.as_uuid())
    .fetch_one(conn)
    .await
}

async fn delete(conn: &mut MySqlConnection, consumer: &str, retention: Duration, limit: u32) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        // Left to itself, the server reads and sorts all that the consumer has handled once much of it is old.
        "DELETE i
        FROM (
            SELECT
                consumer,
                message_id
            FROM saga_inbox FORCE INDEX (saga_inbox_age)
            WHERE consumer = ?
                AND handled_at < TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) - ?
            ORDER BY handled_at
            LIMIT ?
            FOR UPDATE
        ) AS old
        STRAIGHT_JOIN saga_inbox AS i FORCE INDEX (PRIMARY)
            ON i.consumer = old.consumer
            AND i.message_id = old.message_id",
    )
    .bind(consumer)
    .bind(micros(retention))
    .bind(limit)
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected())
}
