//! All that a unit of work starts from, in one statement.

use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::{classify, read, text};
use crate::error::Result;
use crate::ids::CommitNumber;
use crate::load_answer::LoadAnswer;
use crate::message_store::{LoadRequest, Loaded, PAGE_COMMITS, StreamRow};
use crate::row::SnapshotColumns;

pub(super) async fn load(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
    match select(conn, request).await {
        Ok(answer) => answer.into_loaded(request.stream),
        Err(error) => Err(classify("loading an instance", error)),
    }
}

async fn select(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> sqlx::Result<LoadAnswer> {
    let (mut answer, handled_by) = select_tail(conn, request).await?;
    if let Some(number) = handled_by.and_then(CommitNumber::from_i64) {
        // A message is rarely handled again: its commit is worth a statement of its own.
        let (found, _) = read::select_commits(conn, &request.stream.name, number, 1).await?;
        answer.handled = found.into_iter().next();
    }
    Ok(answer)
}

/// The tail, with the newest snapshot beside its first commit, and the number of the commit that handled the message.
///
/// Streams without commits are not found: they mean nothing.
async fn select_tail(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> sqlx::Result<(LoadAnswer, Option<i64>)> {
    let (name, from) = (request.stream.name.as_str().as_bytes(), request.from.commit_no());
    // Each table but the last has at most one row, known before the tail is planned, or all of the stream would be read.
    // That is why the newest snapshot is looked up by a maximum that an index answers. One statement with joins costs
    // the server less than a union of as many.
    let mut rows = sqlx::query(
        "SELECT
            c.commit_no,
            c.first_offset,
            c.event_count,
            c.completed,
            c.recorded_at,
            c.causation_id,
            c.correlation_id,
            c.checksum,
            IF(c.commit_no = a.commit_no, NULL, c.contents),
            IF(c.commit_no = a.commit_no, NULL, c.body),
            s.stream_id,
            s.persistence_key,
            h.commit_no,
            n.persistence_key,
            n.revision,
            n.commit_no,
            n.data_version,
            n.checksum,
            IF(c.commit_no = COALESCE(a.commit_no, 1), n.content_type, NULL),
            IF(c.commit_no = COALESCE(a.commit_no, 1), n.body, NULL)
        FROM saga_stream AS s
        LEFT JOIN saga_snapshot AS n
            ON n.stream_id = s.stream_id
            AND n.revision = (
                SELECT MAX(revision)
                FROM saga_snapshot
                WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
            )
            AND CAST(? AS SIGNED) IS NULL
        LEFT JOIN saga_commit AS a -- at which the snapshot was taken
            ON a.stream_id = s.stream_id
            AND a.commit_no = COALESCE(CAST(? AS SIGNED), n.commit_no)
        LEFT JOIN saga_commit AS h -- which handled the message
            ON h.stream_id = s.stream_id
            AND h.handled_message_id = ?
        STRAIGHT_JOIN saga_commit AS c
            ON c.stream_id = s.stream_id
            AND c.commit_no >= COALESCE(a.commit_no, 0)
        WHERE s.stream_name = ?
        ORDER BY c.commit_no
        LIMIT ?",
    )
    .bind(name)
    .bind(from)
    .bind(from)
    .bind(request.handled.map(|id| id.as_uuid()))
    .bind(name)
    .bind(PAGE_COMMITS)
    .fetch(conn);
    let (mut answer, mut handled_by) = (LoadAnswer::default(), None);
    while let Some(row) = rows.try_next().await? {
        if answer.stream.is_none() {
            let persistence_key = row.try_get::<Option<Vec<u8>>, _>(11)?.map(text).transpose()?;
            answer.stream = Some(StreamRow { key: row.try_get(10)?, persistence_key });
            answer.snapshot = snapshot(&row)?;
            handled_by = row.try_get(12)?;
        }
        if answer.is_full() {
            answer.cut = true;
        } else {
            answer.push(read::columns(&row, 0)?);
        }
    }
    Ok((answer, handled_by))
}

fn snapshot(row: &MySqlRow) -> sqlx::Result<Option<SnapshotColumns>> {
    let Some(body) = row.try_get(19)? else { return Ok(None) };
    Ok(Some(SnapshotColumns {
        persistence_key: text(row.try_get(13)?)?,
        revision: row.try_get(14)?,
        commit_no: row.try_get(15)?,
        data_version: row.try_get(16)?,
        checksum: row.try_get(17)?,
        content_type: row.try_get(18)?,
        body,
    }))
}
