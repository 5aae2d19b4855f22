//! The statements by which a database is looked into.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row};

use super::read::columns;
use super::{PostgresStore, classify};
use crate::error::Result;
use crate::inspect::tables::{
    CommitRow, CommitRows, InspectTables, LastColumns, LeaseColumns, Place, SnapshotRow, StreamChoice, StreamColumns,
    snapshot_page,
};
use crate::message_store::PAGE_BYTES;
use crate::row::SnapshotColumns;
use crate::stream_name::StreamName;

#[async_trait]
impl InspectTables<Postgres> for PostgresStore {
    fn begin_reading(&self) -> &'static str {
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
    }

    async fn stream_key(&self, conn: &mut PgConnection, stream: &StreamName) -> Result<Option<i64>> {
        match select_key(conn, stream).await {
            Ok(key) => Ok(key),
            Err(error) => Err(classify("looking for a stream", error)),
        }
    }

    async fn streams(
        &self,
        conn: &mut PgConnection,
        choice: &StreamChoice<'_>,
        limit: u32,
    ) -> Result<Vec<StreamColumns>> {
        match select_streams(conn, choice, limit).await {
            Ok(streams) => Ok(streams),
            Err(error) => Err(classify("listing streams", error)),
        }
    }

    async fn commit_rows(&self, conn: &mut PgConnection, after: Place, to: i64, limit: u32) -> Result<CommitRows> {
        match select_commits(conn, after, to, limit).await {
            Ok(commits) => Ok(commits),
            Err(error) => Err(classify("reading commits", error)),
        }
    }

    async fn snapshot_rows(
        &self,
        conn: &mut PgConnection,
        after: Place,
        to: i64,
        limit: u32,
    ) -> Result<Vec<SnapshotRow>> {
        match select_snapshots(conn, after, to, limit).await {
            Ok(snapshots) => Ok(snapshots),
            Err(error) => Err(classify("reading snapshots", error)),
        }
    }

    async fn lease_rows(
        &self,
        conn: &mut PgConnection,
        namespace: &str,
        resource: &str,
        limit: u32,
    ) -> Result<Vec<LeaseColumns>> {
        match select_leases(conn, namespace, resource, limit).await {
            Ok(leases) => Ok(leases),
            Err(error) => Err(classify("listing leases", error)),
        }
    }
}

async fn select_key(conn: &mut PgConnection, stream: &StreamName) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "SELECT stream_id
        FROM saga_stream
        WHERE stream_name = $1",
    )
    .bind(stream.as_str())
    .fetch_optional(conn)
    .await
}

async fn select_streams(
    conn: &mut PgConnection,
    choice: &StreamChoice<'_>,
    limit: u32,
) -> sqlx::Result<Vec<StreamColumns>> {
    sqlx::query(
        "SELECT
            s.stream_id,
            s.stream_name,
            s.persistence_key,
            s.instance_id,
            s.created_at,
            s.completed_at,
            last.commit_no,
            last.first_offset + last.event_count,
            last.recorded_at,
            last.completed
        FROM saga_stream AS s
        LEFT JOIN LATERAL (
            SELECT
                commit_no,
                first_offset,
                event_count,
                recorded_at,
                completed
            FROM saga_commit
            WHERE stream_id = s.stream_id
            ORDER BY commit_no DESC
            LIMIT 1
        ) AS last
            ON TRUE
        WHERE s.stream_id > $1
            AND ($2::text IS NULL OR s.persistence_key = $2)
            AND ($3::text IS NULL OR starts_with(s.instance_id, $3))
            AND ($4::boolean IS NULL OR last.completed = $4)
            AND (NOT $5 OR (s.persistence_key IS NOT NULL AND last.commit_no IS NOT NULL))
        ORDER BY s.stream_id
        LIMIT $6",
    )
    .bind(choice.after)
    .bind(choice.persistence_key)
    .bind(choice.instance_prefix)
    .bind(choice.completed)
    .bind(choice.instances_only)
    .bind(i64::from(limit))
    .try_map(stream_row)
    .fetch_all(conn)
    .await
}

fn stream_row(row: PgRow) -> sqlx::Result<StreamColumns> {
    let last = match row.try_get::<Option<i64>, _>(6)? {
        None => None,
        Some(commit_no) => Some(LastColumns {
            commit_no,
            end: row.try_get(7)?,
            recorded_at: row.try_get(8)?,
            completed: row.try_get(9)?,
        }),
    };
    Ok(StreamColumns {
        key: row.try_get(0)?,
        name: row.try_get(1)?,
        persistence_key: row.try_get(2)?,
        instance_id: row.try_get(3)?,
        created_at: row.try_get(4)?,
        completed_at: row.try_get(5)?,
        last,
    })
}

async fn select_commits(conn: &mut PgConnection, after: Place, to: i64, limit: u32) -> sqlx::Result<CommitRows> {
    let mut rows = sqlx::query(
        "SELECT
            stream_id,
            message_count,
            handled_message_id,
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
        WHERE (stream_id, commit_no) > ($1, $2)
            AND stream_id <= $3
        ORDER BY
            stream_id,
            commit_no
        LIMIT $4",
    )
    .bind(after.stream)
    .bind(after.number)
    .bind(to)
    .bind(i64::from(limit))
    .fetch(conn);
    let (mut found, mut bytes) = (CommitRows::default(), 0);
    while let Some(row) = rows.try_next().await? {
        let columns = columns(&row, 3)?;
        bytes += columns.size();
        found.rows.push(CommitRow {
            stream: row.try_get(0)?,
            message_count: row.try_get::<i32, _>(1)?.into(),
            handled: row.try_get(2)?,
            columns,
        });
        if bytes >= PAGE_BYTES {
            found.more = true;
            return Ok(found);
        }
    }
    found.more = u32::try_from(found.rows.len()).map_or(true, |rows| rows >= limit);
    Ok(found)
}

async fn select_snapshots(
    conn: &mut PgConnection,
    after: Place,
    to: i64,
    limit: u32,
) -> sqlx::Result<Vec<SnapshotRow>> {
    let rows = sqlx::query(
        "SELECT
            n.stream_id,
            n.taken_at,
            c.first_offset + c.event_count,
            n.persistence_key,
            n.revision,
            n.commit_no,
            n.data_version,
            n.content_type,
            n.checksum,
            n.body
        FROM saga_snapshot AS n
        LEFT JOIN saga_commit AS c
            ON c.stream_id = n.stream_id
            AND c.commit_no = n.commit_no
        WHERE (n.stream_id, n.revision) > ($1, $2)
            AND n.stream_id <= $3
        ORDER BY
            n.stream_id,
            n.revision
        LIMIT $4",
    )
    .bind(after.stream)
    .bind(after.number)
    .bind(to)
    .bind(i64::from(limit))
    .try_map(snapshot_row)
    .fetch(conn);
    snapshot_page(rows).await
}

fn snapshot_row(row: PgRow) -> sqlx::Result<SnapshotRow> {
    Ok(SnapshotRow {
        stream: row.try_get(0)?,
        taken_at: row.try_get(1)?,
        commit_end: row.try_get(2)?,
        columns: SnapshotColumns {
            persistence_key: row.try_get(3)?,
            revision: row.try_get(4)?,
            commit_no: row.try_get(5)?,
            data_version: row.try_get(6)?,
            content_type: row.try_get(7)?,
            checksum: row.try_get(8)?,
            body: row.try_get(9)?,
        },
    })
}

async fn select_leases(
    conn: &mut PgConnection,
    namespace: &str,
    resource: &str,
    limit: u32,
) -> sqlx::Result<Vec<LeaseColumns>> {
    sqlx::query(
        "SELECT
            namespace,
            resource_id,
            client_id,
            token,
            obtained_at,
            expires_at,
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        FROM saga_lease
        WHERE (namespace, resource_id) > ($1, $2)
        ORDER BY
            namespace,
            resource_id
        LIMIT $3",
    )
    .bind(namespace)
    .bind(resource)
    .bind(i64::from(limit))
    .try_map(|row: PgRow| {
        Ok(LeaseColumns {
            namespace: row.try_get(0)?,
            resource_id: row.try_get(1)?,
            client_id: row.try_get(2)?,
            token: row.try_get(3)?,
            obtained_at: row.try_get(4)?,
            expires_at: row.try_get(5)?,
            now: row.try_get(6)?,
        })
    })
    .fetch_all(conn)
    .await
}
