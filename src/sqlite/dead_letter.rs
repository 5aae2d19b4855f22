//! The statements of dead letters.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain};
use crate::envelope::Envelope;
use crate::error::Result;
use crate::lock::tables::micros;
use crate::outbox::{DeadLetterTables, DeadLetters, DeadPage, Failure, Next, OutboxId};
use crate::slow_lane::{self, DeadRow, SlowRow};

#[async_trait]
impl DeadLetterTables<Sqlite> for SqliteStore {
    async fn note_failure(&self, tx: &mut Transaction<'_, Sqlite>, failure: &Failure) -> Result<bool> {
        match note(tx, failure).await {
            Ok(noted) => Ok(noted),
            Err(error) => Err(explain(tx, "noting a failed delivery", error).await),
        }
    }

    async fn dead(&self, conn: &mut SqliteConnection, after: OutboxId, limit: u32) -> Result<DeadPage> {
        match select_dead(conn, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(explain(conn, "reading dead letters", error).await),
        }
    }

    async fn revive(&self, tx: &mut Transaction<'_, Sqlite>, which: DeadLetters<'_>) -> Result<u64> {
        match revive(tx, which).await {
            Ok(letters) => Ok(letters),
            Err(error) => Err(explain(tx, "retrying dead letters", error).await),
        }
    }

    async fn bury(&self, tx: &mut Transaction<'_, Sqlite>, which: DeadLetters<'_>) -> Result<u64> {
        match bury(tx, which).await {
            Ok(letters) => Ok(letters),
            Err(error) => Err(explain(tx, "discarding dead letters", error).await),
        }
    }

    async fn rewrite(&self, tx: &mut Transaction<'_, Sqlite>, id: OutboxId, message: &Envelope) -> Result<bool> {
        let contents = slow_lane::contents(message)?;
        match rewrite(tx, id, message, &contents).await {
            Ok(rewritten) => Ok(rewritten),
            Err(error) => Err(explain(tx, "editing a dead letter", error).await),
        }
    }
}

/// Literally `stream_id > 0`, here and below: the index over the places of messages is one of those rows only.
async fn note(conn: &mut SqliteConnection, failure: &Failure) -> sqlx::Result<bool> {
    let (delay, dead) = match failure.next {
        Next::Retry(delay) => (micros(delay), false),
        Next::Dead => (0, true),
    };
    let noted = sqlx::query(
        "UPDATE saga_outbox_message
        SET attempts = ?1,
            last_error = ?2,
            available_at = CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) + ?3,
            dead_at = CASE WHEN ?4 THEN CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) END
        WHERE (message_no = ?5 AND stream_id = 0)
            OR (stream_id > 0 AND stream_id = ?6 AND commit_no = ?7 AND message_index = ?8)",
    )
    .bind(failure.attempts)
    .bind(failure.error.as_str())
    .bind(delay)
    .bind(dead)
    .bind(failure.id.row)
    .bind(failure.id.stream)
    .bind(failure.id.commit_number)
    .bind(failure.id.index)
    .execute(conn)
    .await?;
    Ok(noted.rows_affected() > 0)
}

async fn select_dead(conn: &mut SqliteConnection, after: OutboxId, limit: u32) -> sqlx::Result<DeadPage> {
    let rows = sqlx::query(
        "SELECT
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no,
            aggregate_type,
            aggregate_id,
            contents,
            body,
            attempts,
            last_error,
            dead_at
        FROM saga_outbox_message
        WHERE (recorded_at, stream_id, commit_no, message_index, message_no) > (?1, ?2, ?3, ?4, ?5)
            AND attempts > 0
            AND dead_at IS NOT NULL
        ORDER BY
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no
        LIMIT +?6",
    )
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(slow_lane::row_after(after))
    .bind(limit)
    .try_map(|row: SqliteRow| {
        let message = SlowRow::<Vec<u8>> {
            recorded_at: row.try_get(0)?,
            stream: row.try_get(1)?,
            commit_number: row.try_get(2)?,
            index: row.try_get(3)?,
            row: row.try_get(4)?,
            aggregate_type: row.try_get(5)?,
            aggregate_id: row.try_get(6)?,
            contents: row.try_get(7)?,
            body: row.try_get(8)?,
            attempts: row.try_get(9)?,
        };
        Ok(DeadRow { message, last_error: row.try_get(10)?, dead_at: row.try_get(11)? })
    })
    .fetch(conn);
    slow_lane::dead_page(rows).await
}

async fn revive(conn: &mut SqliteConnection, which: DeadLetters<'_>) -> sqlx::Result<u64> {
    let chosen = slow_lane::chosen(which);
    let revived = sqlx::query(
        "UPDATE saga_outbox_message
        SET attempts = 0,
            available_at = 0,
            dead_at = NULL
        WHERE attempts > 0
            AND dead_at IS NOT NULL
            AND (
                ?1
                OR (message_no = ?2 AND stream_id = 0)
                OR (stream_id > 0 AND stream_id = ?3 AND commit_no = ?4 AND message_index = ?5)
                OR (aggregate_type = ?6 AND aggregate_id = ?7)
            )",
    )
    .bind(chosen.all)
    .bind(chosen.id.row)
    .bind(chosen.id.stream)
    .bind(chosen.id.commit_number)
    .bind(chosen.id.index)
    .bind(chosen.aggregate_type)
    .bind(chosen.aggregate_id)
    .execute(conn)
    .await?;
    Ok(revived.rows_affected())
}

async fn bury(conn: &mut SqliteConnection, which: DeadLetters<'_>) -> sqlx::Result<u64> {
    let chosen = slow_lane::chosen(which);
    let buried = sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE attempts > 0
            AND dead_at IS NOT NULL
            AND (
                ?1
                OR (message_no = ?2 AND stream_id = 0)
                OR (stream_id > 0 AND stream_id = ?3 AND commit_no = ?4 AND message_index = ?5)
                OR (aggregate_type = ?6 AND aggregate_id = ?7)
            )",
    )
    .bind(chosen.all)
    .bind(chosen.id.row)
    .bind(chosen.id.stream)
    .bind(chosen.id.commit_number)
    .bind(chosen.id.index)
    .bind(chosen.aggregate_type)
    .bind(chosen.aggregate_id)
    .execute(conn)
    .await?;
    Ok(buried.rows_affected())
}

async fn rewrite(conn: &mut SqliteConnection, id: OutboxId, message: &Envelope, contents: &str) -> sqlx::Result<bool> {
    let rewritten = sqlx::query(
        "UPDATE saga_outbox_message
        SET contents = ?1,
            body = ?2
        WHERE dead_at IS NOT NULL
            AND (
                (message_no = ?3 AND stream_id = 0)
                OR (stream_id > 0 AND stream_id = ?4 AND commit_no = ?5 AND message_index = ?6)
            )",
    )
    .bind(contents)
    .bind(&*message.payload)
    .bind(id.row)
    .bind(id.stream)
    .bind(id.commit_number)
    .bind(id.index)
    .execute(conn)
    .await?;
    Ok(rewritten.rows_affected() > 0)
}
