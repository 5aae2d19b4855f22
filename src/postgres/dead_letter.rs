//! The statements of dead letters.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{PostgresStore, classify};
use crate::envelope::Envelope;
use crate::error::Result;
use crate::lock::tables::micros;
use crate::outbox::{DeadLetterTables, DeadLetters, DeadPage, Failure, Next, OutboxId};
use crate::slow_lane::{self, DeadRow, SlowRow};

#[async_trait]
impl DeadLetterTables<Postgres> for PostgresStore {
    async fn note_failure(&self, tx: &mut Transaction<'_, Postgres>, failure: &Failure) -> Result<bool> {
        match note(tx, failure).await {
            Ok(noted) => Ok(noted),
            Err(error) => Err(classify("noting a failed delivery", error)),
        }
    }

    async fn dead(&self, conn: &mut PgConnection, after: OutboxId, limit: u32) -> Result<DeadPage> {
        match select_dead(conn, after, limit).await {
            Ok(page) => Ok(page),
            Err(error) => Err(classify("reading dead letters", error)),
        }
    }

    async fn revive(&self, tx: &mut Transaction<'_, Postgres>, which: DeadLetters<'_>) -> Result<u64> {
        match revive(tx, which).await {
            Ok(letters) => Ok(letters),
            Err(error) => Err(classify("retrying dead letters", error)),
        }
    }

    async fn bury(&self, tx: &mut Transaction<'_, Postgres>, which: DeadLetters<'_>) -> Result<u64> {
        match bury(tx, which).await {
            Ok(letters) => Ok(letters),
            Err(error) => Err(classify("discarding dead letters", error)),
        }
    }

    async fn rewrite(&self, tx: &mut Transaction<'_, Postgres>, id: OutboxId, message: &Envelope) -> Result<bool> {
        let contents = slow_lane::contents(message)?;
        match rewrite(tx, id, message, &contents).await {
            Ok(rewritten) => Ok(rewritten),
            Err(error) => Err(classify("editing a dead letter", error)),
        }
    }
}

/// Literally `stream_id > 0`, here and below: the index over the places of messages is one of those rows only.
async fn note(conn: &mut PgConnection, failure: &Failure) -> sqlx::Result<bool> {
    let (delay, dead) = match failure.next {
        Next::Retry(delay) => (micros(delay), false),
        Next::Dead => (0, true),
    };
    let noted = sqlx::query(
        "UPDATE saga_outbox_message
        SET attempts = $1,
            last_error = $2,
            available_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + $3,
            dead_at = CASE WHEN $4 THEN (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint END
        WHERE (message_no = $5 AND stream_id = 0)
            OR (stream_id > 0 AND stream_id = $6 AND commit_no = $7 AND message_index = $8)",
    )
    .bind(i32::try_from(failure.attempts).unwrap_or(i32::MAX))
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

async fn select_dead(conn: &mut PgConnection, after: OutboxId, limit: u32) -> sqlx::Result<DeadPage> {
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
        WHERE (recorded_at, stream_id, commit_no, message_index, message_no) > ($1, $2, $3, $4, $5)
            AND attempts > 0
            AND dead_at IS NOT NULL
        ORDER BY
            recorded_at,
            stream_id,
            commit_no,
            message_index,
            message_no
        LIMIT $6",
    )
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_number)
    .bind(after.index)
    .bind(slow_lane::row_after(after))
    .bind(i64::from(limit))
    .try_map(|row: PgRow| {
        let message = SlowRow::<String> {
            recorded_at: row.try_get(0)?,
            stream: row.try_get(1)?,
            commit_number: row.try_get(2)?,
            index: row.try_get(3)?,
            row: row.try_get(4)?,
            aggregate_type: row.try_get(5)?,
            aggregate_id: row.try_get(6)?,
            contents: row.try_get(7)?,
            body: row.try_get(8)?,
            attempts: i64::from(row.try_get::<i32, _>(9)?),
        };
        Ok(DeadRow { message, last_error: row.try_get(10)?, dead_at: row.try_get(11)? })
    })
    .fetch(conn);
    slow_lane::dead_page(rows).await
}

async fn revive(conn: &mut PgConnection, which: DeadLetters<'_>) -> sqlx::Result<u64> {
    let chosen = slow_lane::chosen(which);
    let revived = sqlx::query(
        "UPDATE saga_outbox_message
        SET attempts = 0,
            available_at = 0,
            dead_at = NULL
        WHERE attempts > 0
            AND dead_at IS NOT NULL
            AND (
                $1
                OR (message_no = $2 AND stream_id = 0)
                OR (stream_id > 0 AND stream_id = $3 AND commit_no = $4 AND message_index = $5)
                OR (aggregate_type = $6 AND aggregate_id = $7)
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

async fn bury(conn: &mut PgConnection, which: DeadLetters<'_>) -> sqlx::Result<u64> {
    let chosen = slow_lane::chosen(which);
    let buried = sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE attempts > 0
            AND dead_at IS NOT NULL
            AND (
                $1
                OR (message_no = $2 AND stream_id = 0)
                OR (stream_id > 0 AND stream_id = $3 AND commit_no = $4 AND message_index = $5)
                OR (aggregate_type = $6 AND aggregate_id = $7)
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

async fn rewrite(conn: &mut PgConnection, id: OutboxId, message: &Envelope, contents: &str) -> sqlx::Result<bool> {
    let rewritten = sqlx::query(
        "UPDATE saga_outbox_message
        SET contents = $1,
            body = $2
        WHERE dead_at IS NOT NULL
            AND (
                (message_no = $3 AND stream_id = 0)
                OR (stream_id > 0 AND stream_id = $4 AND commit_no = $5 AND message_index = $6)
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
