//! All that a unit of work starts from, in one statement.

use futures_util::TryStreamExt;
use sqlx::{Row, SqliteConnection};

use super::{explain, read};
use crate::error::Result;
use crate::message_store::{LoadFrom, LoadRequest, Loaded, PAGE_BYTES, PAGE_COMMITS, StreamRow};
use crate::row::{self, CommitColumns, SnapshotColumns};

/// What a row of the answer is.
const STREAM: i64 = 0;
const SNAPSHOT: i64 = 1;
const COMMIT: i64 = 2;

/// The answer, sorted by what its rows are.
#[derive(Default)]
struct Answer {
    stream: Option<StreamRow>,
    snapshot: Option<SnapshotColumns>,
    commits: Vec<CommitColumns>,
    cut: bool,
    handled: Option<CommitColumns>,
}

pub(super) async fn load(conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
    let answer = match select(conn, request).await {
        Ok(answer) => answer,
        Err(error) => return Err(explain(conn, "loading an instance", error).await),
    };
    let Answer { stream: found, snapshot, mut commits, cut, handled } = answer;
    let stream = request.stream;
    let key = found.as_ref().map(|row| row.key);
    let read = commits.len();
    // The commit at which the snapshot was taken comes without contents.
    let at_snapshot = if commits.first().is_some_and(|first| first.contents.is_none()) {
        Some(row::head(&stream.name, key, &commits.remove(0))?)
    } else {
        None
    };
    let mut page = row::page(&stream.name, commits, PAGE_COMMITS, cut)?;
    page.more |= u32::try_from(read).map_or(true, |read| read >= PAGE_COMMITS);
    Ok(Loaded {
        stream: found,
        snapshot: snapshot.map(|columns| row::snapshot(stream, columns)),
        at_snapshot,
        page,
        handled: handled.map(|columns| row::commit(&stream.name, columns)).transpose()?,
    })
}

async fn select(conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> sqlx::Result<Answer> {
    let from = match request.from {
        LoadFrom::Start => Some(0),
        LoadFrom::Snapshot => None,
        LoadFrom::Commit(number) => Some(number.to_i64()),
    };
    let mut rows = sqlx::query(
        "WITH stream AS (
            SELECT
                stream_id,
                persistence_key
            FROM saga_stream
            WHERE stream_name = ?1
        ),
        snapshot AS (
            SELECT *
            FROM saga_snapshot
            WHERE stream_id = (SELECT stream_id FROM stream)
                AND ?2 IS NULL
            ORDER BY revision DESC
            LIMIT 1
        )
        SELECT
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
        FROM stream
        UNION ALL
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
        FROM snapshot
        UNION ALL
        SELECT *
        FROM (
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
                CASE WHEN c.commit_no > COALESCE(?2, (SELECT commit_no FROM snapshot), 0) THEN c.contents END,
                CASE WHEN c.commit_no > COALESCE(?2, (SELECT commit_no FROM snapshot), 0) THEN c.body END,
                NULL
            FROM saga_commit AS c
            WHERE c.stream_id = (SELECT stream_id FROM stream)
                AND c.commit_no >= COALESCE(?2, (SELECT commit_no FROM snapshot), 0)
            ORDER BY c.commit_no
            LIMIT ?3
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
        FROM saga_commit AS h
        WHERE h.stream_id = (SELECT stream_id FROM stream)
            AND h.handled_message_id = ?4",
    )
    .bind(request.stream.name.as_str())
    .bind(from)
    .bind(PAGE_COMMITS)
    .bind(request.handled.map(|id| id.as_uuid()))
    .fetch(conn);
    let (mut answer, mut bytes) = (Answer::default(), 0);
    while let Some(row) = rows.try_next().await? {
        match row.try_get::<i64, _>(0)? {
            STREAM => answer.stream = Some(StreamRow { key: row.try_get(1)?, persistence_key: row.try_get(11)? }),
            SNAPSHOT => {
                answer.snapshot = Some(SnapshotColumns {
                    persistence_key: row.try_get(11)?,
                    revision: row.try_get(2)?,
                    commit_no: row.try_get(1)?,
                    data_version: row.try_get(3)?,
                    content_type: row.try_get(9)?,
                    checksum: row.try_get(8)?,
                    body: row.try_get(10)?,
                });
            }
            // A page that is full of bytes ends here, but the rest of the answer is still wanted.
            COMMIT if bytes >= PAGE_BYTES => answer.cut = true,
            COMMIT => {
                let commit = read::columns(&row, 1)?;
                bytes += commit.size();
                answer.commits.push(commit);
            }
            _ => answer.handled = Some(read::columns(&row, 1)?),
        }
    }
    Ok(answer)
}
