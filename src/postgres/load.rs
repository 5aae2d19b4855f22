//! All that a unit of work starts from, in one statement.

use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use super::{classify, read};
use crate::error::Result;
use crate::load_answer::{COMMIT, LoadAnswer, SNAPSHOT, STREAM};
use crate::message_store::{LoadRequest, Loaded, PAGE_COMMITS, StreamRow};
use crate::row::SnapshotColumns;

pub(super) async fn load(conn: &mut PgConnection, request: &LoadRequest<'_>) -> Result<Loaded> {
    let answer = select(conn, request).await.map_err(|error| classify("loading an instance", error))?;
    answer.into_loaded(request.stream)
}

async fn select(conn: &mut PgConnection, request: &LoadRequest<'_>) -> sqlx::Result<LoadAnswer> {
    let mut rows = sqlx::query(
        "WITH stream AS MATERIALIZED (
            SELECT
                stream_id,
                persistence_key
            FROM saga_stream
            WHERE stream_name = $1
        ),
        snapshot AS MATERIALIZED (
            SELECT
                commit_no,
                revision,
                data_version,
                checksum,
                content_type,
                body,
                persistence_key
            FROM saga_snapshot
            WHERE stream_id = (SELECT stream_id FROM stream)
                AND $2::bigint IS NULL
            ORDER BY revision DESC
            LIMIT 1
        )
        SELECT
            0             AS part,
            stream_id     AS commit_no,
            NULL::bigint  AS first_offset,
            NULL::integer AS event_count,
            NULL::boolean AS completed,
            NULL::bigint  AS recorded_at,
            NULL::bigint  AS xid,
            NULL::uuid    AS causation_id,
            NULL::uuid    AS correlation_id,
            NULL::bigint  AS checksum,
            NULL::text    AS contents,
            NULL::bytea   AS body,
            persistence_key
        FROM stream
        UNION ALL
        SELECT
            1,
            commit_no,
            revision,
            NULL,
            NULL,
            data_version,
            NULL,
            NULL,
            NULL,
            checksum,
            content_type,
            body,
            persistence_key
        FROM snapshot
        UNION ALL
        (
            SELECT
                2,
                c.commit_no,
                c.first_offset,
                c.event_count,
                c.completed,
                c.recorded_at,
                c.xid,
                c.causation_id,
                c.correlation_id,
                c.checksum,
                CASE WHEN c.commit_no > COALESCE($2, (SELECT commit_no FROM snapshot), 0) THEN c.contents END,
                CASE WHEN c.commit_no > COALESCE($2, (SELECT commit_no FROM snapshot), 0) THEN c.body END,
                NULL
            FROM saga_commit AS c
            WHERE c.stream_id = (SELECT stream_id FROM stream)
                AND c.commit_no >= COALESCE($2, (SELECT commit_no FROM snapshot), 0)
            ORDER BY c.commit_no
            LIMIT (SELECT $3::bigint) -- hidden, or a table without statistics is sorted whole
        )
        UNION ALL
        SELECT
            3,
            h.commit_no,
            h.first_offset,
            h.event_count,
            h.completed,
            h.recorded_at,
            h.xid,
            h.causation_id,
            h.correlation_id,
            h.checksum,
            h.contents,
            h.body,
            NULL
        FROM saga_commit AS h
        WHERE h.stream_id = (SELECT stream_id FROM stream)
            AND h.handled_message_id = $4",
    )
    .bind(request.stream.name.as_str())
    .bind(request.from.commit_no())
    .bind(i64::from(PAGE_COMMITS))
    .bind(request.handled.map(|id| id.as_uuid()))
    .fetch(conn);
    let mut answer = LoadAnswer::default();
    while let Some(row) = rows.try_next().await? {
        match row.try_get::<i32, _>(0)? {
            STREAM => answer.stream = Some(StreamRow { key: row.try_get(1)?, persistence_key: row.try_get(12)? }),
            SNAPSHOT => {
                answer.snapshot = Some(SnapshotColumns {
                    persistence_key: row.try_get(12)?,
                    revision: row.try_get(2)?,
                    commit_no: row.try_get(1)?,
                    data_version: row.try_get(5)?,
                    content_type: row.try_get(10)?,
                    checksum: row.try_get(9)?,
                    body: row.try_get(11)?,
                });
            }
            COMMIT if answer.is_full() => answer.cut = true,
            COMMIT => answer.push(read::columns(&row, 1)?),
            _ => answer.handled = Some(read::columns(&row, 1)?),
        }
    }
    Ok(answer)
}
