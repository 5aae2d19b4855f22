//! Reading commits of a stream.

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::explain;
use super::packed::{self, Packed, packed_commits};
use crate::error::Result;
use crate::ids::{CommitNumber, Offset};
use crate::message_store::{CommitPage, PAGE_BYTES};
use crate::row::{self, CommitColumns};
use crate::stream_name::StreamName;

/// The columns of a commit, in the order in which every statement here selects them, from `at` on.
/// Any bytes can stand where texts and ids should: an error of the driver would hide all rows after this one.
pub(super) fn columns(row: &SqliteRow, at: usize) -> sqlx::Result<CommitColumns> {
    let mut damage = None;
    let mut id = |bytes: Option<&[u8]>| {
        let id = bytes.map(Uuid::from_slice).transpose();
        id.unwrap_or_else(|_| {
            damage = Some("an id in it is none");
            None
        })
    };
    let (causation_id, correlation_id) = (id(row.try_get(at + 5)?), id(row.try_get(at + 6)?));
    let contents = row.try_get::<Option<Vec<u8>>, _>(at + 8)?.map(|bytes| {
        String::from_utf8(bytes).unwrap_or_else(|_| {
            damage = Some("its contents are no text");
            String::new()
        })
    });
    Ok(CommitColumns {
        commit_no: row.try_get(at)?,
        first_offset: row.try_get(at + 1)?,
        event_count: row.try_get(at + 2)?,
        completed: row.try_get(at + 3)?,
        recorded_at: row.try_get(at + 4)?,
        order_token: 0,
        causation_id,
        correlation_id,
        checksum: row.try_get(at + 7)?,
        contents,
        body: row.try_get(at + 9)?,
        damage,
    })
}

pub(super) async fn end(conn: &mut SqliteConnection, stream: &StreamName) -> Result<Option<Offset>> {
    let found = sqlx::query_scalar::<_, i64>(
        "SELECT c.first_offset + c.event_count
        FROM saga_commit AS c
        WHERE c.stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)
        ORDER BY c.commit_no DESC
        LIMIT 1",
    )
    .bind(stream.as_str())
    .fetch_optional(&mut *conn)
    .await;
    match found {
        Ok(end) => end.map(|end| row::offset(stream, end)).transpose(),
        Err(error) => Err(explain(conn, "looking for the end of a stream", error).await),
    }
}

pub(super) async fn commit_reaching(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    offset: Offset,
) -> Result<Option<CommitNumber>> {
    // Bisects the commits, whose ends rise with their numbers.
    let found = sqlx::query_scalar::<_, Option<i64>>(
        "WITH RECURSIVE
        stream AS (
            SELECT stream_id FROM saga_stream WHERE stream_name = ?1
        ),
        bisect (low, high) AS (
            SELECT
                (SELECT MIN(commit_no) FROM saga_commit WHERE stream_id = (SELECT stream_id FROM stream)),
                (SELECT MAX(commit_no) FROM saga_commit WHERE stream_id = (SELECT stream_id FROM stream))
            UNION ALL
            SELECT
                CASE WHEN c.first_offset + c.event_count > ?2 THEN b.low ELSE c.commit_no + 1 END,
                CASE WHEN c.first_offset + c.event_count > ?2 THEN c.commit_no ELSE b.high END
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
    .fetch_one(&mut *conn)
    .await;
    match found {
        Ok(number) => number.map(|number| row::commit_number(stream, number)).transpose(),
        Err(error) => Err(explain(conn, "looking for a place in a stream", error).await),
    }
}

pub(super) async fn commits(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    from: CommitNumber,
    limit: u32,
) -> Result<CommitPage> {
    match select_commits(conn, stream, from, limit).await {
        Ok((rows, cut)) => row::page(stream, rows, limit, cut),
        Err(error) => Err(explain(conn, "reading a stream", error).await),
    }
}

async fn select_commits(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    from: CommitNumber,
    limit: u32,
) -> sqlx::Result<(Vec<CommitColumns>, bool)> {
    if (packed::MIN_COMMITS..=packed::MAX_COMMITS).contains(&limit)
        && let Some(found) = select_packed(conn, stream, from, limit).await?
    {
        return Ok((found, false));
    }
    select_rows(conn, stream, from, limit).await
}

pub(super) async fn select_packed(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    from: CommitNumber,
    limit: u32,
) -> sqlx::Result<Option<Vec<CommitColumns>>> {
    let from = from.to_i64();
    let row = sqlx::query(concat!(
        "WITH stream AS (
            SELECT stream_id FROM saga_stream WHERE stream_name = +?1
        )
        SELECT
            octet_length('a'),
            COALESCE((SELECT MAX(commit_no) FROM saga_commit WHERE stream_id = (SELECT stream_id FROM stream)), 0),
            COUNT(*),
            ",
        packed_commits!(),
        "
        FROM saga_commit AS c
        WHERE c.stream_id = (SELECT stream_id FROM stream)
            AND c.commit_no BETWEEN +?2 AND +?3
            AND (
                SELECT SUM(octet_length(contents) + octet_length(body))
                FROM saga_commit
                WHERE stream_id = (SELECT stream_id FROM stream)
                    AND commit_no BETWEEN +?2 AND +?3
            ) < +?4"
    ))
    .bind(stream.as_str())
    .bind(from)
    .bind(from.saturating_add(i64::from(limit) - 1))
    .bind(packed::MAX_BYTES)
    .fetch_one(conn)
    .await?;
    let (last, count) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Packed::new(row.try_get(0)?, row.try_get(3)?).and_then(|page| page.commits(from, limit, last, count)))
}

async fn select_rows(
    conn: &mut SqliteConnection,
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
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = +?1)
            AND commit_no >= +?2
        ORDER BY commit_no
        LIMIT +?3",
    )
    .bind(stream.as_str())
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
