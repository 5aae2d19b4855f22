//! All that a unit of work starts from, in one statement.

use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::packed::{self, Packed, packed_commits};
use super::{explain, read};
use crate::error::Result;
use crate::load_answer::{COMMIT, LoadAnswer, SNAPSHOT, STREAM};
use crate::message_store::{LoadRequest, Loaded, PAGE_COMMITS, StreamRow};
use crate::row::SnapshotColumns;

/// A row of the answer with the page of commits packed into it.
const PACKED: i32 = 4;

/// The stream and its newest snapshot, as tables.
macro_rules! found {
    () => {
        "WITH stream AS (
            SELECT
                stream_id,
                persistence_key
            FROM saga_stream
            WHERE stream_name = +?1
        ),
        snapshot AS (
            SELECT *
            FROM saga_snapshot
            WHERE stream_id = (SELECT stream_id FROM stream)
                AND ?2 IS NULL
            ORDER BY revision DESC
            LIMIT 1
        )"
    };
}

/// Both as rows of the answer, whose columns are named here.
macro_rules! stream_and_snapshot {
    () => {
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
        FROM snapshot"
    };
}

/// What handled the message, as a row of the answer after others.
macro_rules! handled {
    () => {
        "UNION ALL
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
            AND h.handled_message_id = +?4"
    };
}

pub(super) async fn load(conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
    match select(conn, request).await {
        Ok(answer) => answer.into_loaded(request.stream),
        Err(error) => Err(explain(conn, "loading an instance", error).await),
    }
}

async fn select(conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> sqlx::Result<LoadAnswer> {
    match select_packed(conn, request).await? {
        Some(answer) => Ok(answer),
        None => select_rows(conn, request).await,
    }
}

pub(super) async fn select_packed(
    conn: &mut SqliteConnection,
    request: &LoadRequest<'_>,
) -> sqlx::Result<Option<LoadAnswer>> {
    let mut rows = sqlx::query(concat!(
        found!(),
        ",
        start AS (
            SELECT COALESCE(?2, (SELECT commit_no FROM snapshot), 0) AS commit_no
        )
        ",
        stream_and_snapshot!(),
        "
        UNION ALL
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
            NULL,
            NULL,
            NULL
        FROM saga_commit AS c
        WHERE c.stream_id = (SELECT stream_id FROM stream)
            AND c.commit_no = (SELECT commit_no FROM start)
        ",
        handled!(),
        "
        UNION ALL
        SELECT
            4,
            (SELECT commit_no FROM start),
            COALESCE((SELECT MAX(commit_no) FROM saga_commit WHERE stream_id = (SELECT stream_id FROM stream)), 0),
            COUNT(*),
            octet_length('a'),
            NULL,
            NULL,
            NULL,
            NULL,
            NULL,
            ",
        packed_commits!(),
        ",
            NULL
        FROM saga_commit AS c
        WHERE c.stream_id = (SELECT stream_id FROM stream)
            AND c.commit_no > (SELECT commit_no FROM start)
            AND c.commit_no <= (SELECT commit_no FROM start) + +?3
            AND (
                SELECT SUM(octet_length(contents) + octet_length(body))
                FROM saga_commit
                WHERE stream_id = (SELECT stream_id FROM stream)
                    AND commit_no > (SELECT commit_no FROM start)
                    AND commit_no <= (SELECT commit_no FROM start) + +?3
            ) < +?5"
    ))
    .bind(request.stream.name.as_str())
    .bind(request.from.commit_no())
    .bind(PAGE_COMMITS)
    .bind(request.handled.map(|id| id.as_uuid()))
    .bind(packed::MAX_BYTES)
    .fetch(conn);
    let (mut answer, mut page) = (LoadAnswer::default(), None);
    while let Some(row) = rows.try_next().await? {
        if row.try_get::<i32, _>(0)? == PACKED {
            let [after, last, count, letter_bytes]: [i64; 4] =
                [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?];
            let packed = Packed::new(letter_bytes, row.try_get(10)?).zip(after.checked_add(1));
            page = packed.and_then(|(packed, from)| packed.commits(from, PAGE_COMMITS, last, count));
        } else {
            take(&mut answer, &row)?;
        }
    }
    Ok(page.map(|commits| {
        commits.into_iter().for_each(|commit| answer.push(commit));
        answer
    }))
}

async fn select_rows(conn: &mut SqliteConnection, request: &LoadRequest<'_>) -> sqlx::Result<LoadAnswer> {
    let mut rows = sqlx::query(concat!(
        found!(),
        " ",
        stream_and_snapshot!(),
        "
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
            LIMIT +?3
        )
        ",
        handled!()
    ))
    .bind(request.stream.name.as_str())
    .bind(request.from.commit_no())
    .bind(PAGE_COMMITS)
    .bind(request.handled.map(|id| id.as_uuid()))
    .fetch(conn);
    let mut answer = LoadAnswer::default();
    while let Some(row) = rows.try_next().await? {
        take(&mut answer, &row)?;
    }
    Ok(answer)
}

fn take(answer: &mut LoadAnswer, row: &SqliteRow) -> sqlx::Result<()> {
    match row.try_get::<i32, _>(0)? {
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
        COMMIT if answer.is_full() => answer.cut = true,
        COMMIT => answer.push(read::columns(row, 1)?),
        _ => answer.handled = Some(read::columns(row, 1)?),
    }
    Ok(())
}
