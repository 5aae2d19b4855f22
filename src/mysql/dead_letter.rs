//! The statements of dead letters.

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::{MySqlStore, classify};
use crate::envelope::Envelope;
use crate::error::Result;
use crate::lock::tables::micros;
use crate::outbox::{DeadLetterTables, DeadLetters, DeadPage, Failure, Next, OutboxId};
use crate::slow_lane::{self, DeadRow, SlowRow};

#[async_trait]
impl DeadLetterTables<MySql> for MySqlStore {
    async fn note_failure(&self, tx: &mut Transaction<'_, MySql>, failure: &Failure) -> Result<bool> {
        match note(tx, failure).await {
            Ok(noted) => Ok(noted),
            Err(error) => Err(classify("noting a failed delivery", error)),
        }
    }

    async fn dead(&self, conn: &mut MySqlConnection, after: OutboxId, limit: u32) -> Result<DeadPage> {
        match select_dead(conn, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(classify("reading dead letters", error)),
        }
    }

    async fn revive(&self, tx: &mut Transaction<'_, MySql>, which: DeadLetters<'_>) -> Result<u64> {
        match revive(tx, which).await {
            Ok(letters) => Ok(letters),
            Err(error) => Err(classify("retrying dead letters", error)),
        }
    }

    async fn bury(&self, tx: &mut Transaction<'_, MySql>, which: DeadLetters<'_>) -> Result<u64> {
        match bury(tx, which).await {
            Ok(letters) => Ok(letters),
            Err(error) => Err(classify("discarding dead letters", error)),
        }
    }

    async fn rewrite(&self, tx: &mut Transaction<'_, MySql>, id: OutboxId, message: &Envelope) -> Result<bool> {
        let contents = slow_lane::contents(message)?;
        match rewrite(tx, id, message, &contents).await {
            Ok(rewritten) => Ok(rewritten),
            Err(error) => Err(classify("editing a dead letter", error)),
        }
    }
}

/// The indices are named, here and below: what is only passed by is locked, too, and what others have just saved is waited
/// for. A small table would be read whole.
async fn note(conn: &mut MySqlConnection, failure: &Failure) -> sqlx::Result<bool> {
    let (delay, dead) = match failure.next {
        Next::Retry(delay) => (micros(delay), false),
        Next::Dead => (0, true),
    };
    let noted = sqlx::query(
        "UPDATE saga_outbox_message FORCE INDEX (PRIMARY, saga_outbox_message_origin)
        SET attempts = ?,
            last_error = ?,
            available_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + ?,
            dead_at = CASE WHEN ? THEN TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) END
        WHERE (message_no = ? AND stream_id = 0)
            OR (origin_id = ? AND commit_no = ? AND message_index = ?)",
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

async fn select_dead(conn: &mut MySqlConnection, after: OutboxId, limit: u32) -> sqlx::Result<DeadPage> {
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
        WHERE (recorded_at, stream_id, commit_no, message_index, message_no) > (?, ?, ?, ?, ?)
            AND has_failed = 1
            AND dead_at IS NOT NULL
        ORDER BY
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no
        LIMIT ?",
    )
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(slow_lane::row_after(after))
    .bind(limit)
    .try_map(|row: MySqlRow| {
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

async fn revive(conn: &mut MySqlConnection, which: DeadLetters<'_>) -> sqlx::Result<u64> {
    let chosen = slow_lane::chosen(which);
    let revived = sqlx::query(
        "UPDATE saga_outbox_message FORCE INDEX (saga_outbox_message_failed)
        SET attempts = 0,
            available_at = 0,
            dead_at = NULL
        WHERE has_failed = 1
            AND dead_at IS NOT NULL
            AND (
                ?
                OR (message_no = ? AND stream_id = 0)
                OR (origin_id = ? AND commit_no = ? AND message_index = ?)
                OR (aggregate_type = ? AND aggregate_id = ?)
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

async fn bury(conn: &mut MySqlConnection, which: DeadLetters<'_>) -> sqlx::Result<u64> {
    let chosen = slow_lane::chosen(which);
    let buried = sqlx::query(
        "DELETE m
        FROM saga_outbox_message AS m FORCE INDEX (saga_outbox_message_failed)
        WHERE has_failed = 1
            AND dead_at IS NOT NULL
            AND (
                ?
                OR (message_no = ? AND stream_id = 0)
                OR (origin_id = ? AND commit_no = ? AND message_index = ?)
                OR (aggregate_type = ? AND aggregate_id = ?)
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

async fn rewrite(conn: &mut MySqlConnection, id: OutboxId, message: &Envelope, contents: &str) -> sqlx::Result<bool> {
    let rewritten = sqlx::query(
        "UPDATE saga_outbox_message FORCE INDEX (PRIMARY, saga_outbox_message_origin)
        SET contents = ?,
            body = ?
        WHERE dead_at IS NOT NULL
            AND (
                (message_no = ? AND stream_id = 0)
                OR (origin_id = ? AND commit_no = ? AND message_index = ?)
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
