//! All that a unit of work starts from, in one statement.

use futures_util::TryStreamExt;
use sqlx::{MySqlConnection, Row};

use super::{classify, read, text};
use crate::error::Result;
use crate::load_answer::{COMMIT, LoadAnswer, SNAPSHOT, STREAM};
use crate::message_store::{LoadRequest, Loaded, PAGE_COMMITS, StreamRow};
use crate::row::SnapshotColumns;

pub(super) async fn load(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
    match select_from_snapshot(conn, request).await {
        Ok(answer) => answer.into_loaded(request.stream),
        Err(error) => Err(classify("loading an instance", error)),
    }
}

/// The tail begins at the largest commit number of any snapshot. A damaged one may claim a larger number than
/// the newest has: then the tail is read again from where it should begin.
async fn select_from_snapshot(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> sqlx::Result<LoadAnswer> {
    let mut answer = select(conn, request, request.from.commit_no()).await?;
    if let Some(snapshot) = answer.snapshot.take() {
        if !answer.begins_at(snapshot.commit_no) {
            answer = select(conn, request, Some(snapshot.commit_no)).await?;
        }
        answer.snapshot = Some(snapshot);
    }
    Ok(answer)
}

async fn select(conn: &mut MySqlConnection, request: &LoadRequest<'_>, from: Option<i64>) -> sqlx::Result<LoadAnswer> {
    let name = request.stream.name.as_str().as_bytes();
    let mut rows = sqlx::query(
        "SELECT
            0                 AS part,
            s.stream_id       AS commit_no,
            NULL              AS first_offset,
            NULL              AS event_count,
            NULL              AS completed,
            NULL              AS recorded_at,
            NULL              AS causation_id,
            NULL              AS correlation_id,
            NULL              AS checksum,
            NULL              AS contents,
            NULL              AS body,
            s.persistence_key AS persistence_key
        FROM saga_stream AS s
        WHERE s.stream_name = ?
        UNION ALL
        (
            SELECT
                1,
                n.commit_no,
                n.revision,
                n.data_version,
                NULL,
                NULL,
                NULL,
                NULL,
                n.checksum,
                n.content_type,
                n.body,
                n.persistence_key
            FROM saga_stream AS s
            STRAIGHT_JOIN saga_snapshot AS n
                ON n.stream_id = s.stream_id
            WHERE s.stream_name = ?
                AND CAST(? AS SIGNED) IS NULL
            ORDER BY n.revision DESC
            LIMIT 1
        )
        UNION ALL
        (
            SELECT
                2,
                c.commit_no,
                c.first_offset,
                c.event_count,
                c.completed,
                c.recorded_at,
                c.causation_id,
                c.correlation_id,
                c.checksum,
                c.contents,
                c.body,
                NULL
            FROM saga_stream AS s
            STRAIGHT_JOIN saga_commit AS c
                ON c.stream_id = s.stream_id
            WHERE s.stream_name = ?
                AND c.commit_no >= COALESCE(
                    CAST(? AS SIGNED),
                    (
                        SELECT MAX(commit_no)
                        FROM saga_snapshot
                        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
                    ),
                    0
                )
            ORDER BY c.commit_no
            LIMIT ?
        )
        UNION ALL
        SELECT
            3,
            h.commit_no,
            h.first_offset,
            h.event_count,
            h.completed,
            h.recorded_at,
            h.causation_id,
            h.correlation_id,
            h.checksum,
            h.contents,
            h.body,
            NULL
        FROM saga_stream AS s
        STRAIGHT_JOIN saga_commit AS h
            ON h.stream_id = s.stream_id
        WHERE s.stream_name = ?
            AND h.handled_message_id = ?",
    )
    // The commit to begin at must be known before the tail is planned, or all of the stream is read: a maximum
    // that an index answers is; a row that is sorted out, or looked up for each stream, is not.
    .bind(name)
    .bind(name)
    .bind(from)
    .bind(name)
    .bind(from)
    .bind(name)
    .bind(PAGE_COMMITS)
    .bind(name)
    .bind(request.handled.map(|id| id.as_uuid()))
    .fetch(conn);
    let (mut answer, mut start) = (LoadAnswer::default(), from);
    while let Some(row) = rows.try_next().await? {
        match row.try_get::<i32, _>(0)? {
            STREAM => {
                let persistence_key = row.try_get::<Option<Vec<u8>>, _>(11)?.map(text).transpose()?;
                answer.stream = Some(StreamRow { key: row.try_get(1)?, persistence_key });
            }
            SNAPSHOT => {
                let commit_no = row.try_get(1)?;
                start = Some(commit_no);
                answer.snapshot = Some(SnapshotColumns {
                    persistence_key: text(row.try_get(11)?)?,
                    revision: row.try_get(2)?,
                    commit_no,
                    data_version: row.try_get(3)?,
                    content_type: row.try_get(9)?,
                    checksum: row.try_get(8)?,
                    body: row.try_get(10)?,
                });
            }
            COMMIT if answer.is_full() => answer.cut = true,
            COMMIT => {
                let mut commit = read::columns(&row, 1)?;
                if start == Some(commit.commit_no) {
                    // It only tells its place. To have the server leave its contents out costs more.
                    (commit.contents, commit.body) = (None, None);
                }
                answer.push(commit);
            }
            _ => answer.handled = Some(read::columns(&row, 1)?),
        }
    }
    Ok(answer)
}
