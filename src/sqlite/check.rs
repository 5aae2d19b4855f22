//! The statements by which a database is checked.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection};

use super::{SqliteStore, explain};
use crate::check::tables::{CheckTables, MarkRow, OutboxRow, OutboxRows};
use crate::error::Result;
use crate::message_store::PAGE_BYTES;
use crate::slow_lane::SlowRow;

#[async_trait]
impl CheckTables<Sqlite> for SqliteStore {
    async fn repeated_handlings(
        &self,
        conn: &mut SqliteConnection,
        after: i64,
        to: i64,
        limit: u32,
    ) -> Result<Vec<(i64, i64)>> {
        match select_repeated(conn, after, to, limit).await {
            Ok(repeated) => Ok(repeated),
            Err(error) => Err(explain(conn, "checking handled messages", error).await),
        }
    }

    async fn marks(&self, conn: &mut SqliteConnection, after: Option<&MarkRow>, limit: u32) -> Result<Vec<MarkRow>> {
        match select_marks(conn, after, limit).await {
            Ok(marks) => Ok(marks),
            Err(error) => Err(explain(conn, "checking the outbox", error).await),
        }
    }

    async fn outbox_rows(&self, conn: &mut SqliteConnection, after: i64, limit: u32) -> Result<OutboxRows> {
        match select_outbox(conn, after, limit).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(explain(conn, "checking the outbox", error).await),
        }
    }
}

/// Not by the index that keeps them apart: it may be the damaged one.
async fn select_repeated(
    conn: &mut SqliteConnection,
    after: i64,
    to: i64,
    limit: u32,
) -> sqlx::Result<Vec<(i64, i64)>> {
    sqlx::query_as(
        "SELECT
            stream_id,
            MAX(commit_no)
        FROM saga_commit
        WHERE stream_id > +?1
            AND stream_id <= +?2
            AND +handled_message_id IS NOT NULL
        GROUP BY
            stream_id,
            +handled_message_id
        HAVING COUNT(*) > 1
        LIMIT +?3",
    )
    .bind(after)
    .bind(to)
    .bind(limit)
    .fetch_all(conn)
    .await
}

async fn select_marks(conn: &mut SqliteConnection, after: Option<&MarkRow>, limit: u32) -> sqlx::Result<Vec<MarkRow>> {
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
            AND (undelivered, stream_id, commit_no) > (+?1, +?2, +?3)
        ORDER BY
            undelivered,
            stream_id,
            commit_no
        LIMIT +?4",
    )
    .bind(after.map_or(i64::MIN, |mark| mark.recorded_at))
    .bind(after.map_or(i64::MIN, |mark| mark.stream))
    .bind(after.map_or(i64::MIN, |mark| mark.commit_no))
    .bind(limit)
    .try_map(mark_row)
    .fetch_all(conn)
    .await
}

fn mark_row(row: SqliteRow) -> sqlx::Result<MarkRow> {
    let (recorded_at, messages): (Option<i64>, Option<i64>) = (row.try_get(4)?, row.try_get(5)?);
    Ok(MarkRow {
        recorded_at: row.try_get(0)?,
        stream: row.try_get(1)?,
        commit_no: row.try_get(2)?,
        message_count: row.try_get(3)?,
        commit: recorded_at.zip(messages),
    })
}

async fn select_outbox(conn: &mut SqliteConnection, after: i64, limit: u32) -> sqlx::Result<OutboxRows> {
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
        WHERE m.message_no > +?1
        ORDER BY m.message_no
        LIMIT +?2",
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

fn slow_row(row: &SqliteRow) -> sqlx::Result<SlowRow> {
    Ok(SlowRow {
        recorded_at: row.try_get(2)?,
        stream: row.try_get(3)?,
        commit_number: row.try_get(4)?,
        index: row.try_get(5)?,
        row: row.try_get(6)?,
        aggregate_type: row.try_get(7)?,
        aggregate_id: row.try_get(8)?,
        contents: row.try_get(9)?,
        body: row.try_get(10)?,
        attempts: row.try_get(11)?,
    })
}
