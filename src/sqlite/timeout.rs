//! The statements of timeouts.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain, timeout_due};
use crate::error::Result;
use crate::stream_name::StreamName;
use crate::timeout::{CountRow, DueLook, NewTimeout, PendingTimeout, TimeoutRow, TimeoutStats, TimeoutTables};

#[async_trait]
impl TimeoutTables<Sqlite> for SqliteStore {
    async fn insert_timeout(&self, tx: &mut Transaction<'_, Sqlite>, new: &NewTimeout<'_>) -> Result<bool> {
        match insert(tx, new).await {
            Ok(inserted) => Ok(inserted),
            Err(error) => Err(explain(tx, "scheduling a timeout", error).await),
        }
    }

    async fn delete_timeouts(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        stream: &StreamName,
        names: &[&str],
    ) -> Result<()> {
        match delete_named(tx, stream, names).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "cancelling timeouts", error).await),
        }
    }

    async fn delete_all_timeouts(&self, tx: &mut Transaction<'_, Sqlite>, stream: &StreamName) -> Result<()> {
        match delete_all(tx, stream).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "cancelling timeouts", error).await),
        }
    }

    async fn timeouts_of(
        &self,
        conn: &mut SqliteConnection,
        stream: &StreamName,
        after: &str,
        limit: u32,
    ) -> Result<Vec<PendingTimeout>> {
        match select(conn, stream, after, limit).await {
            Ok(rows) => rows.into_iter().map(|row| row.pending(stream)).collect(),
            Err(error) => Err(explain(conn, "listing timeouts", error).await),
        }
    }

    async fn count_timeouts(&self, conn: &mut SqliteConnection) -> Result<TimeoutStats> {
        match count(conn).await {
            Ok(row) => Ok(row.stats()),
            Err(error) => Err(explain(conn, "counting timeouts", error).await),
        }
    }

    async fn look_for_due(&self, conn: &mut SqliteConnection, partitions: i64) -> Result<DueLook> {
        match timeout_due::look(conn, partitions).await {
            Ok(look) => Ok(look),
            Err(error) => Err(explain(conn, "looking for timeouts that are due", error).await),
        }
    }

    async fn move_due(&self, tx: &mut Transaction<'_, Sqlite>, partitions: i64, limit: u32) -> Result<u64> {
        match timeout_due::move_due(tx, partitions, limit).await {
            Ok(moved) => Ok(moved),
            Err(error) => Err(explain(tx, "handing timeouts over to the outbox", error).await),
        }
    }
}

/// Texts as a JSON array, so that one text serves every number of them.
fn array(names: &[&str]) -> String {
    serde_json::Value::from(names).to_string()
}

async fn insert(conn: &mut SqliteConnection, new: &NewTimeout<'_>) -> sqlx::Result<bool> {
    let (at, after) = new.due_parts();
    let inserted = sqlx::query(
        "INSERT INTO saga_timeout (
            stream_id,
            name,
            partition_no,
            due_at,
            scheduled_at,
            commit_no,
            message_index,
            aggregate_type,
            aggregate_id,
            contents,
            body
        )
        SELECT
            s.stream_id,
            ?3,
            s.stream_id % 64,
            COALESCE(?4, clock.now + MIN(?5, 9223372036854775807 - clock.now)),
            c.recorded_at,
            c.commit_no,
            ?6,
            ?7,
            ?8,
            ?9,
            ?10
        FROM saga_stream AS s
        JOIN saga_commit AS c
            ON c.stream_id = s.stream_id
            AND c.commit_no = ?2
        CROSS JOIN (
            SELECT CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) AS now
        ) AS clock
        WHERE s.stream_name = ?1",
    )
    .bind(new.stream.name.as_str())
    .bind(new.commit_number)
    .bind(new.name)
    .bind(at)
    .bind(after)
    .bind(new.index)
    .bind(new.stream.persistence_key.as_str())
    .bind(new.stream.instance_id.as_str())
    .bind(new.contents.as_str())
    .bind(new.body)
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn delete_named(conn: &mut SqliteConnection, stream: &StreamName, names: &[&str]) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM saga_timeout
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)
            AND name IN (SELECT value FROM json_each(?2))",
    )
    .bind(stream.as_str())
    .bind(array(names))
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)
            AND stream_id > 0
            AND timeout_name IN (SELECT value FROM json_each(?2))",
    )
    .bind(stream.as_str())
    .bind(array(names))
    .execute(conn)
    .await?;
    Ok(())
}

async fn delete_all(conn: &mut SqliteConnection, stream: &StreamName) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM saga_timeout
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)",
    )
    .bind(stream.as_str())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "DELETE FROM saga_outbox_message
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)
            AND stream_id > 0
            AND timeout_name IS NOT NULL",
    )
    .bind(stream.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

async fn select(
    conn: &mut SqliteConnection,
    stream: &StreamName,
    after: &str,
    limit: u32,
) -> sqlx::Result<Vec<TimeoutRow>> {
    sqlx::query(
        "SELECT
            name,
            due_at,
            scheduled_at AS recorded_at,
            FALSE        AS in_outbox,
            contents,
            body
        FROM saga_timeout
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)
            AND name > +?2
        UNION ALL
        SELECT
            timeout_name,
            recorded_at,
            recorded_at,
            TRUE,
            contents,
            body
        FROM saga_outbox_message
        WHERE stream_id = (SELECT stream_id FROM saga_stream WHERE stream_name = ?1)
            AND stream_id > 0
            AND timeout_name > +?2
            AND dead_at IS NULL
        ORDER BY name
        LIMIT +?3",
    )
    .bind(stream.as_str())
    .bind(after)
    .bind(limit)
    .try_map(|row: SqliteRow| {
        Ok(TimeoutRow {
            name: row.try_get(0)?,
            due_at: row.try_get(1)?,
            recorded_at: row.try_get(2)?,
            in_outbox: row.try_get(3)?,
            contents: row.try_get(4)?,
            body: row.try_get(5)?,
        })
    })
    .fetch_all(conn)
    .await
}

async fn count(conn: &mut SqliteConnection) -> sqlx::Result<CountRow> {
    let row = sqlx::query(
        "SELECT
            (SELECT COUNT(*) FROM saga_timeout),
            (SELECT COUNT(*) FROM saga_timeout WHERE due_at <= clock.now),
            (SELECT MIN(due_at) FROM saga_timeout),
            clock.now
        FROM (
            SELECT CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) AS now
        ) AS clock",
    )
    .fetch_one(conn)
    .await?;
    Ok(CountRow {
        pending: row.try_get(0)?,
        overdue: row.try_get(1)?,
        first_due: row.try_get(2)?,
        now: row.try_get(3)?,
    })
}
