//! The statements of parked messages.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain};
use crate::error::Result;
use crate::handler::{NewParked, ParkedFilter, ParkedId, ParkedRow, ParkingTables};
use crate::ids::InstanceId;
use crate::slow_lane;

#[async_trait]
impl ParkingTables<Sqlite> for SqliteStore {
    async fn is_parked(&self, conn: &mut SqliteConnection, saga: &str, instance: &InstanceId) -> Result<bool> {
        match exists(conn, saga, instance.as_str()).await {
            Ok(found) => Ok(found),
            Err(error) => Err(explain(conn, "looking for parked messages", error).await),
        }
    }

    async fn hold_parked(&self, tx: &mut Transaction<'_, Sqlite>, saga: &str, instance: &InstanceId) -> Result<bool> {
        // A writing transaction of SQLite is the only one: there is nothing to lock.
        self.is_parked(tx, saga, instance).await
    }

    async fn park(&self, tx: &mut Transaction<'_, Sqlite>, parked: NewParked<'_>) -> Result<()> {
        let contents = slow_lane::contents(parked.message)?;
        match insert(tx, parked, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "parking a message", error).await),
        }
    }

    async fn first_parked(
        &self,
        conn: &mut SqliteConnection,
        saga: &str,
        instance: &InstanceId,
    ) -> Result<Option<ParkedRow>> {
        match select_first(conn, saga, instance.as_str()).await {
            Ok(row) => Ok(row),
            Err(error) => Err(explain(conn, "looking for parked messages", error).await),
        }
    }

    async fn parked(
        &self,
        conn: &mut SqliteConnection,
        filter: ParkedFilter<'_>,
        limit: u32,
    ) -> Result<Vec<ParkedRow>> {
        match select(conn, filter, limit).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(explain(conn, "listing parked messages", error).await),
        }
    }

    async fn note_try(&self, tx: &mut Transaction<'_, Sqlite>, id: ParkedId, error: &str) -> Result<()> {
        match update(tx, id, error).await {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(tx, "noting the failure of a parked message", error).await),
        }
    }

    async fn unpark(&self, tx: &mut Transaction<'_, Sqlite>, id: ParkedId) -> Result<bool> {
        match delete(tx, id).await {
            Ok(deleted) => Ok(deleted),
            Err(error) => Err(explain(tx, "taking a message from those that are parked", error).await),
        }
    }
}

async fn exists(conn: &mut SqliteConnection, saga: &str, instance: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT 1
            FROM saga_parked_message
            WHERE persistence_key = ?1
                AND instance_id = ?2
        )",
    )
    .bind(saga)
    .bind(instance)
    .fetch_one(conn)
    .await
}

async fn insert(conn: &mut SqliteConnection, parked: NewParked<'_>, contents: &str) -> sqlx::Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO saga_parked_message (
            persistence_key,
            instance_id,
            message_id,
            parked_at,
            tries,
            last_error,
            contents,
            body
        )
        VALUES (
            ?1,
            ?2,
            ?3,
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER),
            ?4,
            ?5,
            ?6,
            ?7
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(parked.saga)
    .bind(parked.instance.as_str())
    .bind(parked.message.message_id.as_uuid())
    .bind(parked.tries)
    .bind(parked.error)
    .bind(contents)
    .bind(&*parked.message.payload)
    .execute(conn)
    .await;
    inserted.map(drop)
}

async fn select(conn: &mut SqliteConnection, filter: ParkedFilter<'_>, limit: u32) -> sqlx::Result<Vec<ParkedRow>> {
    sqlx::query(
        "SELECT
            parked_no,
            persistence_key,
            instance_id,
            parked_at,
            tries,
            last_error,
            contents,
            body
        FROM saga_parked_message
        WHERE parked_no > ?1
            AND (?2 IS NULL OR persistence_key = ?2)
            AND (?3 IS NULL OR instance_id = ?3)
        ORDER BY parked_no
        LIMIT +?4",
    )
    .bind(filter.after.map_or(i64::MIN, ParkedId::get))
    .bind(filter.persistence_key)
    .bind(filter.instance_id.map(InstanceId::as_str))
    .bind(limit)
    .try_map(read)
    .fetch_all(conn)
    .await
}

/// As both statements select it.
fn read(row: SqliteRow) -> sqlx::Result<ParkedRow> {
    Ok(ParkedRow {
        id: row.try_get(0)?,
        persistence_key: row.try_get(1)?,
        instance_id: row.try_get(2)?,
        parked_at: row.try_get(3)?,
        tries: row.try_get(4)?,
        last_error: row.try_get(5)?,
        contents: row.try_get(6)?,
        body: row.try_get(7)?,
    })
}

async fn select_first(conn: &mut SqliteConnection, saga: &str, instance: &str) -> sqlx::Result<Option<ParkedRow>> {
    sqlx::query(
        "SELECT
            parked_no,
            persistence_key,
            instance_id,
            parked_at,
            tries,
            last_error,
            contents,
            body
        FROM saga_parked_message
        WHERE persistence_key = ?1
            AND instance_id = ?2
        ORDER BY parked_no
        LIMIT 1",
    )
    .bind(saga)
    .bind(instance)
    .try_map(read)
    .fetch_optional(conn)
    .await
}

async fn update(conn: &mut SqliteConnection, id: ParkedId, error: &str) -> sqlx::Result<()> {
    let updated = sqlx::query(
        "UPDATE saga_parked_message
        SET tries = tries + 1,
            last_error = ?1
        WHERE parked_no = ?2",
    )
    .bind(error)
    .bind(id.get())
    .execute(conn)
    .await;
    updated.map(drop)
}

async fn delete(conn: &mut SqliteConnection, id: ParkedId) -> sqlx::Result<bool> {
    let deleted = sqlx::query(
        "DELETE FROM saga_parked_message
        WHERE parked_no = ?1",
    )
    .bind(id.get())
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected() == 1)
}
