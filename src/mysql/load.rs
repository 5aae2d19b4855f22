//! All that a unit of work starts from, in one statement.

use futures_util::TryStreamExt;
use sqlx::{MySqlConnection, Row};

use super::{classify, read, text};
use crate::error::Result;
use crate::load_answer::{COMMIT, LoadAnswer, SNAPSHOT, STREAM};
use crate::message_store::{LoadRequest, Loaded, PAGE_COMMITS, StreamRow};
use crate::row::SnapshotColumns;

pub(super) async fn load(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
    match select(conn, request).await {
        Ok(answer) => answer.into_loaded(request.stream),
        Err(error) => Err(classify("loading an instance", error)),
    }
}

async fn select(conn: &mut MySqlConnection, request: &LoadRequest<'_>) -> sqlx::Result<LoadAnswer> {
    let from = request.from.commit_no();
    let name = request.stream.name.as_str().as_bytes();
    let mut rows = sqlx::query(
        "SELECT
            0               AS part,
            stream_id       AS commit_no,
            NULL            AS first_offset,
            NULL            AS event_count,
            NULL            AS completed,
            NULL            AS recorded_at,
            NULL            AS causation_id,
            NULL            AS correlation_id,
            NULL            AS checksum,
            NULL            AS contents,
            NULL            AS body,
            persistence_key AS persistence_key
        FROM saga_stream
        WHERE stream_name = ?
        UNION ALL
        (
            SELECT
                1,
                commit_no,
                revision,
                data_version,
                NULL,
                NULL,
                NULL,
                NULL,
                checksum,
                content_type,
                body,
                persistence_key
            FROM saga_snapshot
            WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
                AND CAST(? AS SIGNED) IS NULL
            ORDER BY revision DESC
            LIMIT 1
        )
        UNION ALL
        (
            SELECT
                2,
                commit_no,
                first_offset,
                event_count,
                completed,
                recorded_at,
                causation_id,
                correlation_id,
                checksum,
                contents,
                body,
                NULL
            FROM saga_commit
            WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
                AND commit_no >= COALESCE(
                    CAST(? AS SIGNED),
                    (
                        SELECT commit_no
                        FROM saga_snapshot
                        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
                        ORDER BY revision DESC
                        LIMIT 1
                    ),
                    0
                )
            ORDER BY commit_no
            LIMIT ?
        )
        UNION ALL
        SELECT
            3,
            commit_no,
            first_offset,
            event_count,
            completed,
            recorded_at,
            causation_id,
            correlation_id,
            checksum,
            contents,
            body,
            NULL
        FROM saga_commit
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
            AND handled_message_id = ?",
    )
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
