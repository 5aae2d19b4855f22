//! Snapshots.

use async_trait::async_trait;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::append::ensure_stream;
use super::{MySqlStore, classify, text};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::row::{self, SnapshotColumns};
use crate::saga::SagaStream;
use crate::snapshot::{Snapshot, SnapshotRepository};
use crate::stream_name::StreamName;

#[async_trait]
impl SnapshotRepository<MySql> for MySqlStore {
    async fn load_saga_snapshot(
        &self,
        conn: &mut MySqlConnection,
        persistence_key: &str,
        instance_id: &InstanceId,
    ) -> Result<Option<Snapshot>> {
        let stream = SagaStream::new(persistence_key, instance_id)?;
        let found = match newest(conn, &stream.name).await {
            Ok(found) => found,
            Err(error) => return Err(classify("loading a snapshot", error)),
        };
        let Some(columns) = found else { return Ok(None) };
        stream.check_owner(Some(&columns.persistence_key))?;
        Ok(Some(row::snapshot(&stream, columns)))
    }

    async fn save_saga_snapshot(&self, tx: &mut Transaction<'_, MySql>, snapshot: &Snapshot, keep: u32) -> Result<()> {
        let stream = SagaStream::new(&snapshot.persistence_key, &snapshot.instance_id)?;
        check_owner(tx, &stream).await?;
        if let Err(error) = ensure_stream(tx, &stream.name, Some(&stream)).await {
            return Err(classify("saving a snapshot", error));
        }
        save(self, tx, &stream.name, snapshot, keep).await
    }

    async fn delete_saga_snapshots(
        &self,
        tx: &mut Transaction<'_, MySql>,
        persistence_key: &str,
        instance_id: &InstanceId,
    ) -> Result<u64> {
        let stream = SagaStream::new(persistence_key, instance_id)?;
        check_owner(tx, &stream).await?;
        delete(tx, &stream.name).await
    }
}

/// Fails if the newest snapshot of the stream is another saga's.
async fn check_owner(conn: &mut MySqlConnection, stream: &SagaStream) -> Result<()> {
    match newest(conn, &stream.name).await {
        Ok(found) => found.map_or(Ok(()), |columns| stream.check_owner(Some(&columns.persistence_key))),
        Err(error) => Err(classify("checking whose a snapshot is", error)),
    }
}

async fn newest(conn: &mut MySqlConnection, stream: &StreamName) -> sqlx::Result<Option<SnapshotColumns>> {
    let found = sqlx::query(
        "SELECT
            persistence_key,
            revision,
            commit_no,
            data_version,
            content_type,
            checksum,
            body
        FROM saga_snapshot
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
        ORDER BY revision DESC
        LIMIT 1",
    )
    .bind(stream.as_str().as_bytes())
    .fetch_optional(conn)
    .await?;
    let Some(row) = found else { return Ok(None) };
    Ok(Some(SnapshotColumns {
        persistence_key: text(row.try_get(0)?)?,
        revision: row.try_get(1)?,
        commit_no: row.try_get(2)?,
        data_version: row.try_get(3)?,
        content_type: row.try_get(4)?,
        checksum: row.try_get(5)?,
        body: row.try_get(6)?,
    }))
}

pub(super) async fn save(
    store: &MySqlStore,
    conn: &mut MySqlConnection,
    stream: &StreamName,
    snapshot: &Snapshot,
    keep: u32,
) -> Result<()> {
    store.check_write(conn, snapshot.body.len()).await?;
    let done = match upsert(conn, stream, snapshot).await {
        Ok(()) => prune(conn, stream, snapshot, keep).await,
        Err(error) => Err(error),
    };
    done.map_err(|error| classify("saving a snapshot", error))
}

async fn upsert(conn: &mut MySqlConnection, stream: &StreamName, snapshot: &Snapshot) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO saga_snapshot (
            stream_id,
            revision,
            commit_no,
            persistence_key,
            data_version,
            content_type,
            checksum,
            taken_at,
            body
        )
        VALUES (
            (SELECT stream_id FROM saga_stream WHERE stream_name = ?),
            ?,
            ?,
            ?,
            ?,
            ?,
            ?,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            ?
        )
        ON DUPLICATE KEY UPDATE
            commit_no = VALUES(commit_no),
            persistence_key = VALUES(persistence_key),
            data_version = VALUES(data_version),
            content_type = VALUES(content_type),
            checksum = VALUES(checksum),
            taken_at = VALUES(taken_at),
            body = VALUES(body)",
    )
    .bind(stream.as_str().as_bytes())
    .bind(snapshot.revision.to_i64())
    .bind(snapshot.commit_number.to_i64())
    .bind(snapshot.persistence_key.as_bytes())
    .bind(snapshot.data_version)
    .bind(snapshot.content_type.as_str())
    .bind(snapshot.checksum)
    .bind(&*snapshot.body)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes what is newer than the stream, and all but the newest few. A table that is deleted from
/// can only be read as a derived one.
async fn prune(conn: &mut MySqlConnection, stream: &StreamName, snapshot: &Snapshot, keep: u32) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM saga_snapshot
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
            AND (
                revision > ?
                OR revision <= (
                    SELECT revision
                    FROM (
                        SELECT revision
                        FROM saga_snapshot
                        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)
                            AND revision <= ?
                        ORDER BY revision DESC
                        LIMIT 1 OFFSET ?
                    ) AS newest_to_go
                )
            )",
    )
    .bind(stream.as_str().as_bytes())
    .bind(snapshot.revision.to_i64())
    .bind(stream.as_str().as_bytes())
    .bind(snapshot.revision.to_i64())
    .bind(keep)
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn delete(conn: &mut MySqlConnection, stream: &StreamName) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM saga_snapshot
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?)",
    )
    .bind(stream.as_str().as_bytes())
    .execute(conn)
    .await;
    match deleted {
        Ok(deleted) => Ok(deleted.rows_affected()),
        Err(error) => Err(classify("deleting the snapshots of an instance", error)),
    }
}
