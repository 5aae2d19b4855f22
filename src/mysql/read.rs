//! Reading commits of a stream.

use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};
use uuid::Uuid;

use super::classify;
use crate::error::Result;
use crate::ids::{CommitNumber, Offset};
use crate::message_store::{CommitPage, PAGE_BYTES};
use crate::row::{self, CommitColumns};
use crate::stream_name::StreamName;

/// The columns of a commit, in the order in which every statement here selects them, from `at` on.
pub(super) fn columns(row: &MySqlRow, at: usize) -> sqlx::Result<CommitColumns> {
    Ok(CommitColumns {
        commit_no: row.try_get(at)?,
        first_offset: row.try_get(at + 1)?,
        event_count: row.try_get(at + 2)?,
        completed: row.try_get(at + 3)?,
        recorded_at: row.try_get(at + 4)?,
        order_token: 0,
        causation_id: row.try_get::<Option<Uuid>, _>(at + 5)?,
        correlation_id: row.try_get::<Option<Uuid>, _>(at + 6)?,
        checksum: row.try_get(at + 7)?,
        contents: row.try_get(at + 8)?,
        body: row.try_get(at + 9)?,
        damage: None,
    })
}

pub(super) async fn end(conn: &mut MySqlConnection, stream: &StreamName) -> Result<Option<Offset>> {
    let found = sqlx::query_scalar::<_, i64>(
        "SELECT c.first_offset + c.event_count
        FROM saga_commit AS c
        WHERE c.stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
        ORDER BY c.commit_no DESC
        LIMIT 1",
    )
    .bind(stream.as_str().as_bytes())
    .fetch_optional(conn)
    .await;
    match found {
        Ok(end) => end.map(|end| row::offset(stream, end)).transpose(),
        Err(error) => Err(classify("looking for the end of a stream", error)),
    }
}

pub(super) async fn commit_reaching(
    conn: &mut MySqlConnection,
    stream: &StreamName,
    offset: Offset,
) -> Result<Option<CommitNumber>> {
    // Bisects the commits, whose ends rise with their numbers.
    let found = sqlx::query_scalar::<_, Option<i64>>(
        "WITH RECURSIVE
        bisect (stream_id, low, high) AS (
            SELECT
                s.stream_id,
                (SELECT commit_no FROM saga_commit WHERE stream_id = s.stream_id ORDER BY commit_no LIMIT 1),
                (SELECT commit_no FROM saga_commit WHERE stream_id = s.stream_id ORDER BY commit_no DESC LIMIT 1)
            FROM saga_stream AS s
            WHERE s.stream_name = ?
            UNION ALL
            SELECT
                b.stream_id,
                CASE WHEN c.first_offset + c.event_count > ? THEN b.low ELSE c.commit_no + 1 END,
                CASE WHEN c.first_offset + c.event_count > ? THEN c.commit_no ELSE b.high END
            FROM bisect AS b
            JOIN saga_commit AS c
                ON c.stream_id = b.stream_id
                AND c.commit_no = (b.low + b.high) DIV 2
            WHERE b.low < b.high
        )
        SELECT MAX(low) FROM bisect",
    )
    .bind(stream.as_str().as_bytes())
    .bind(offset.to_i64())
    .bind(offset.to_i64())
    .fetch_one(conn)
    .await;
    match found {
        Ok(number) => number.map(|number| row::commit_number(stream, number)).transpose(),
        Err(error) => Err(classify("looking for a place in a stream", error)),
    }
}

pub(super) async fn commits(
    conn: &mut MySqlConnection,
    stream: &StreamName,
    from: CommitNumber,
    limit: u32,
) -> Result<CommitPage> {
    match select_commits(conn, stream, from, limit).await {
        Ok((rows, cut)) => row::page(stream, rows, limit, cut),
        Err(error) => Err(classify("reading a stream", error)),
    }
}

pub(super) async fn select_commits(
    conn: &mut MySqlConnection,
    stream: &StreamName,
    from: CommitNumber,
    limit: u32,
) -> sqlx::Result<(Vec<CommitColumns>, bool)> {
    let mut rows = sqlx::query(
        "SELECT
            commit_no,
            first_offset,
            event_count,
            completed,
            recorded_at,
            causation_id,
            correlation_id,
            checksum,
            contents,
            body
        FROM saga_commit
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
            AND commit_no >= ?
        ORDER BY commit_no
        LIMIT ?",
    )
    .bind(stream.as_str().as_bytes())
    .bind(from.to_i64())
    .bind(limit)
    .fetch(conn);
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let commit = columns(&row, 0)?;
        bytes += commit.size();
        found.push(commit);
        if bytes >= PAGE_BYTES {
            return Ok((found, true));
        }
    }
    Ok((found, false))
}
