//! Reading commits of a stream.

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::classify;
use crate::error::Result;
use crate::ids::{CommitNumber, Offset};
use crate::message_store::{CommitPage, PAGE_BYTES};
use crate::row::{self, CommitColumns};
use crate::stream_name::StreamName;

/// The columns of a commit, in the order in which every statement here selects them, from `at` on.
pub(super) fn columns(row: &PgRow, at: usize) -> sqlx::Result<CommitColumns> {
    Ok(CommitColumns {
        commit_no: row.try_get(at)?,
        first_offset: row.try_get(at + 1)?,
        event_count: row.try_get::<i32, _>(at + 2)?.into(),
        completed: row.try_get(at + 3)?,
        recorded_at: row.try_get(at + 4)?,
        order_token: row.try_get(at + 5)?,
        causation_id: row.try_get(at + 6)?,
        correlation_id: row.try_get(at + 7)?,
        checksum: row.try_get(at + 8)?,
        contents: row.try_get(at + 9)?,
        body: row.try_get(at + 10)?,
        damage: None,
    })
}

pub(super) async fn end(conn: &mut PgConnection, stream: &StreamName) -> Result<Option<Offset>> {
    let found = sqlx::query_scalar::<_, i64>(
        "SELECT c.first_offset + c.event_count
        FROM saga_commit AS c
        WHERE c.stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = $1)
        ORDER BY c.commit_no DESC
        LIMIT 1",
    )
    .bind(stream.as_str())
    .fetch_optional(conn)
    .await
    .map_err(|error| classify("looking for the end of a stream", error))?;
    found.map(|end| row::offset(stream, end)).transpose()
}

pub(super) async fn commit_reaching(
    conn: &mut PgConnection,
    stream: &StreamName,
    offset: Offset,
) -> Result<Option<CommitNumber>> {
    // Bisects the commits, whose ends rise with their numbers.
    let found = sqlx::query_scalar::<_, Option<i64>>(
        "WITH RECURSIVE
        stream AS MATERIALIZED (
            SELECT stream_id FROM saga_stream WHERE stream_name = $1
        ),
        bisect (low, high) AS (
            SELECT
                (SELECT MIN(commit_no) FROM saga_commit WHERE stream_id = (SELECT stream_id FROM stream)),
                (SELECT MAX(commit_no) FROM saga_commit WHERE stream_id = (SELECT stream_id FROM stream))
            UNION ALL
            SELECT
                CASE WHEN c.first_offset + c.event_count > $2 THEN b.low ELSE c.commit_no + 1 END,
                CASE WHEN c.first_offset + c.event_count > $2 THEN c.commit_no ELSE b.high END
            FROM bisect AS b
            JOIN saga_commit AS c
                ON c.stream_id = (SELECT stream_id FROM stream)
                AND c.commit_no = (b.low + b.high) / 2
            WHERE b.low < b.high
        )
        SELECT MAX(low) FROM bisect",
    )
    .bind(stream.as_str())
    .bind(offset.to_i64())
    .fetch_one(conn)
    .await
    .map_err(|error| classify("looking for a place in a stream", error))?;
    found.map(|number| row::commit_number(stream, number)).transpose()
}

pub(super) async fn commits(
    conn: &mut PgConnection,
    stream: &StreamName,
    from: CommitNumber,
    limit: u32,
) -> Result<CommitPage> {
    let read = select_commits(conn, stream, from, limit).await;
    let (rows, cut) = read.map_err(|error| classify("reading a stream", error))?;
    row::page(stream, rows, limit, cut)
}

async fn select_commits(
    conn: &mut PgConnection,
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
            xid,
            causation_id,
            correlation_id,
            checksum,
            contents,
            body
        FROM saga_commit
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = $1)
            AND commit_no >= $2
        ORDER BY commit_no
        LIMIT (SELECT $3::bigint)", // hidden, or a table without statistics is sorted whole
    )
    .bind(stream.as_str())
    .bind(from.to_i64())
    .bind(i64::from(limit))
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
