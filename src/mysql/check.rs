//! The statements by which a database is checked.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row};

use super::{MySqlStore, classify, text};
use crate::check::tables::{CheckTables, MarkRow, OutboxRow, OutboxRows};
use crate::error::Result;
use crate::message_store::PAGE_BYTES;
use crate::slow_lane::SlowRow;

#[async_trait]
impl CheckTables<MySql> for MySqlStore {
    async fn repeated_handlings(
        &self,
        conn: &mut MySqlConnection,
        after: i64,
        to: i64,
        limit: u32,
    ) -> Result<Vec<(i64, i64)>> {
        match select_repeated(conn, after, to, limit).await {
            Ok(repeated) => Ok(repeated),
            Err(error) => Err(classify("checking handled messages", error)),
        }
    }

    async fn marks(&self, conn: &mut MySqlConnection, after: Option<&MarkRow>, limit: u32) -> Result<Vec<MarkRow>> {
        match select_marks(conn, after, limit).await {
            Ok(marks) => Ok(marks),
            Err(error) => Err(classify("checking the outbox", error)),
        }
    }

    async fn outbox_rows(&self, conn: &mut MySqlConnection, after: i64, limit: u32) -> Result<OutboxRows> {
        match select_outbox(conn, after, limit).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(classify("checking the outbox", error)),
        }
    }
}

async fn select_repeated(conn: &mut MySqlConnection, after: i64, to: i64, limit: u32) -> sqlx::Result<Vec<(i64, i64)>> {
    sqlx::query_as(
        "SELECT
            stream_id,
            MAX(commit_no)
        FROM saga_commit
        WHERE stream_id > ?
            AND stream_id <= ?
            AND handled_message_id IS NOT NULL
        GROUP BY
            stream_id,
            handled_message_id
        HAVING COUNT(*) > 1
        LIMIT ?",
    )
    .bind(after)
    .bind(to)
    .bind(limit)
    .fetch_all(conn)
    .await
}

async fn select_marks(conn: &mut MySqlConnection, after: Option<&MarkRow>, limit: u32) -> sqlx::Result<Vec<MarkRow>> {
    let first =
        MarkRow { recorded_at: i64::MIN, stream: i64::MIN, commit_no: i64::MIN, message_count: 0, commit: None };
    let after = after.unwrap_or(&first);
    sqlx::query(
        "SELECT
            undelivered,
            stream_id,
            commit_no,
            message_count,
            recorded_at,
            message_count
        FROM saga_commit
        WHERE undelivered IS NOT NULL
            AND (
                undelivered > ?
                OR (undelivered = ? AND stream_id > ?)
                OR (undelivered = ? AND stream_id = ? AND commit_no > ?)
            )
        ORDER BY
            undelivered,
            stream_id,
            commit_no
        LIMIT ?",
    )
    .bind(after.recorded_at)
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.recorded_at)
    .bind(after.stream)
    .bind(after.commit_no)
    .bind(limit)
    .try_map(mark_row)
    .fetch_all(conn)
    .await
}

fn mark_row(row: MySqlRow) -> sqlx::Result<MarkRow> {
    let (recorded_at, messages): (Option<i64>, Option<i64>) = (row.try_get(4)?, row.try_get(5)?);
    Ok(MarkRow {
        recorded_at: row.try_get(0)?,
        stream: row.try_get(1)?,
        commit_no: row.try_get(2)?,
        message_count: row.try_get(3)?,
        commit: recorded_at.zip(messages),
    })
}

async fn select_outbox(conn: &mut MySqlConnection, after: i64, limit: u32) -> sqlx::Result<OutboxRows> {
    let mut rows = sqlx::query(
        "SELECT
            m.partition_no,
            c.message_count,
            m.recorded_at,
            m.stream_id,
            m.commit_no,
            m.message_index,
            m.message_no,
            m.aggregate_type,
            m.aggregate_id,
            m.contents,
            m.body,
            m.attempts
        FROM saga_outbox_message AS m
        LEFT JOIN saga_commit AS c
            ON c.stream_id = m.stream_id
            AND c.commit_no = m.commit_no
        WHERE m.message_no > ?
        ORDER BY m.message_no
        LIMIT ?",
    )
    .bind(after)
    .bind(limit)
    .fetch(conn);
    let (mut found, mut bytes) = (OutboxRows { rows: Vec::new(), more: false }, 0);
    while let Some(row) = rows.try_next().await? {
        let message = slow_row(&row)?;
        bytes += message.contents.len() + message.body.len();
        found.rows.push(OutboxRow { partition: row.try_get(0)?, commit_messages: row.try_get(1)?, row: message });
        if bytes >= PAGE_BYTES {
            found.more = true;
            return Ok(found);
        }
    }
    found.more = u32::try_from(found.rows.len()).map_or(true, |rows| rows >= limit);
    Ok(found)
}

fn slow_row(row: &MySqlRow) -> sqlx::Result<SlowRow> {
    Ok(SlowRow {
        recorded_at: row.try_get(2)?,
        stream: row.try_get(3)?,
        commit_number: row.try_get(4)?,
        index: row.try_get(5)?,
        row: row.try_get(6)?,
        aggregate_type: text(row.try_get(7)?)?,
        aggregate_id: text(row.try_get(8)?)?,
        contents: row.try_get(9)?,
        body: row.try_get(10)?,
        attempts: row.try_get(11)?,
    })
}
