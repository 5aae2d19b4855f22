//! The statements of parked messages.

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::{MySqlStore, classify, is_duplicate, text};
use crate::error::Result;
use crate::handler::{NewParked, ParkedFilter, ParkedId, ParkedRow, ParkingTables};
use crate::ids::InstanceId;
use crate::slow_lane;

#[async_trait]
impl ParkingTables<MySql> for MySqlStore {
    async fn is_parked(&self, conn: &mut MySqlConnection, saga: &str, instance: &InstanceId) -> Result<bool> {
        match exists(conn, saga, instance.as_str()).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("looking for parked messages", error)),
        }
    }

    async fn hold_parked(&self, tx: &mut Transaction<'_, MySql>, saga: &str, instance: &InstanceId) -> Result<bool> {
        match lock_first(tx, saga, instance.as_str()).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("looking for parked messages", error)),
        }
    }

    async fn park(&self, tx: &mut Transaction<'_, MySql>, parked: NewParked<'_>) -> Result<()> {
        let contents = slow_lane::contents(parked.message)?;
        self.check_row(tx, contents.len().saturating_add(parked.message.payload.len())).await?;
        match insert(tx, parked, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("parking a message", error)),
        }
    }

    async fn first_parked(
        &self,
        conn: &mut MySqlConnection,
        saga: &str,
        instance: &InstanceId,
    ) -> Result<Option<ParkedRow>> {
        match select_first(conn, saga, instance.as_str()).await {
            Ok(row) => Ok(row),
            Err(error) => Err(classify("looking for parked messages", error)),
        }
    }

    async fn parked(&self, conn: &mut MySqlConnection, filter: ParkedFilter<'_>, limit: u32) -> Result<Vec<ParkedRow>> {
        match select(conn, filter, limit).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(classify("listing parked messages", error)),
        }
    }

    async fn note_try(&self, tx: &mut Transaction<'_, MySql>, id: ParkedId, error: &str) -> Result<()> {
        match update(tx, id, error).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("noting the failure of a parked message", error)),
        }
    }

    async fn unpark(&self, tx: &mut Transaction<'_, MySql>, id: ParkedId) -> Result<bool> {
        match delete(tx, id).await {
            Ok(deleted) => Ok(deleted),
            Err(error) => Err(classify("taking a message from those that are parked", error)),
        }
    }
}

async fn exists(conn: &mut MySqlConnection, saga: &str, instance: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT 1
            FROM saga_parked_message
            WHERE persistence_key = ?
                AND instance_id = ?
        )",
    )
    .bind(saga)
    .bind(instance)
    .fetch_one(conn)
    .await
}

/// False if there is none, or if the first one was just taken away.
async fn lock_first(conn: &mut MySqlConnection, saga: &str, instance: &str) -> sqlx::Result<bool> {
    let first: Option<i64> = sqlx::query_scalar(
        "SELECT parked_no
        FROM saga_parked_message
        WHERE persistence_key = ?
            AND instance_id = ?
        ORDER BY parked_no
        LIMIT 1
        FOR UPDATE",
    )
    .bind(saga)
    .bind(instance)
    .fetch_optional(conn)
    .await?;
    Ok(first.is_some())
}

/// Not with IGNORE, which would let other faults pass too.
async fn insert(conn: &mut MySqlConnection, parked: NewParked<'_>, contents: &str) -> sqlx::Result<()> {
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
            ?,
            ?,
            ?,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            ?,
            ?,
            ?,
            ?
        )",
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
    match inserted {
        Err(error) if !is_duplicate(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn select(conn: &mut MySqlConnection, filter: ParkedFilter<'_>, limit: u32) -> sqlx::Result<Vec<ParkedRow>> {
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
        WHERE parked_no > ?
            AND (? IS NULL OR persistence_key = ?)
            AND (? IS NULL OR instance_id = ?)
        ORDER BY parked_no
        LIMIT ?",
    )
    .bind(filter.after.map_or(i64::MIN, ParkedId::get))
    .bind(filter.persistence_key)
    .bind(filter.persistence_key)
    .bind(filter.instance_id.map(InstanceId::as_str))
    .bind(filter.instance_id.map(InstanceId::as_str))
    .bind(limit)
    .try_map(read)
    .fetch_all(conn)
    .await
}

/// As both statements select it.
fn read(row: MySqlRow) -> sqlx::Result<ParkedRow> {
    Ok(ParkedRow {
        id: row.try_get(0)?,
        persistence_key: text(row.try_get(1)?)?,
        instance_id: text(row.try_get(2)?)?,
        parked_at: row.try_get(3)?,
        tries: i64::from(row.try_get::<i32, _>(4)?),
        last_error: row.try_get(5)?,
        contents: row.try_get(6)?,
        body: row.try_get(7)?,
    })
}

async fn select_first(conn: &mut MySqlConnection, saga: &str, instance: &str) -> sqlx::Result<Option<ParkedRow>> {
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
        WHERE persistence_key = ?
            AND instance_id = ?
        ORDER BY parked_no
        LIMIT 1",
    )
    .bind(saga)
    .bind(instance)
    .try_map(read)
    .fetch_optional(conn)
    .await
}

async fn update(conn: &mut MySqlConnection, id: ParkedId, error: &str) -> sqlx::Result<()> {
    let updated = sqlx::query(
        "UPDATE saga_parked_message
        SET tries = tries + 1,
            last_error = ?
        WHERE parked_no = ?",
    )
    .bind(error)
    .bind(id.get())
    .execute(conn)
    .await;
    updated.map(drop)
}

async fn delete(conn: &mut MySqlConnection, id: ParkedId) -> sqlx::Result<bool> {
    let deleted = sqlx::query(
        "DELETE FROM saga_parked_message
        WHERE parked_no = ?",
    )
    .bind(id.get())
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected() == 1)
}
