//! The statements of parked messages.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{PostgresStore, classify};
use crate::error::Result;
use crate::handler::{NewParked, ParkedFilter, ParkedId, ParkedRow, ParkingTables};
use crate::ids::InstanceId;
use crate::slow_lane;

#[async_trait]
impl ParkingTables<Postgres> for PostgresStore {
    async fn is_parked(&self, conn: &mut PgConnection, saga: &str, instance: &InstanceId) -> Result<bool> {
        match exists(conn, saga, instance.as_str()).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("looking for parked messages", error)),
        }
    }

    async fn hold_parked(&self, tx: &mut Transaction<'_, Postgres>, saga: &str, instance: &InstanceId) -> Result<bool> {
        match lock_first(tx, saga, instance.as_str()).await {
            Ok(found) => Ok(found),
            Err(error) => Err(classify("looking for parked messages", error)),
        }
    }

    async fn park(&self, tx: &mut Transaction<'_, Postgres>, parked: NewParked<'_>) -> Result<()> {
        let contents = slow_lane::contents(parked.message)?;
        match insert(tx, parked, &contents).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("parking a message", error)),
        }
    }

    async fn first_parked(
        &self,
        conn: &mut PgConnection,
        saga: &str,
        instance: &InstanceId,
    ) -> Result<Option<ParkedRow>> {
        match select_first(conn, saga, instance.as_str()).await {
            Ok(row) => Ok(row),
            Err(error) => Err(classify("looking for parked messages", error)),
        }
    }

    async fn parked(&self, conn: &mut PgConnection, filter: ParkedFilter<'_>, limit: u32) -> Result<Vec<ParkedRow>> {
        match select(conn, filter, limit).await {
            Ok(rows) => Ok(rows),
            Err(error) => Err(classify("listing parked messages", error)),
        }
    }

    async fn note_try(&self, tx: &mut Transaction<'_, Postgres>, id: ParkedId, error: &str) -> Result<()> {
        match update(tx, id, error).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("noting the failure of a parked message", error)),
        }
    }

    async fn unpark(&self, tx: &mut Transaction<'_, Postgres>, id: ParkedId) -> Result<bool> {
        match delete(tx, id).await {
            Ok(deleted) => Ok(deleted),
            Err(error) => Err(classify("taking a message from those that are parked", error)),
        }
    }
}

async fn exists(conn: &mut PgConnection, saga: &str, instance: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (
            SELECT 1
            FROM saga_parked_message
            WHERE persistence_key = $1
                AND instance_id = $2
        )",
    )
    .bind(saga)
    .bind(instance)
    .fetch_one(conn)
    .await
}

/// False if there is none, or if the first one was just taken away.
async fn lock_first(conn: &mut PgConnection, saga: &str, instance: &str) -> sqlx::Result<bool> {
    let first: Option<i64> = sqlx::query_scalar(
        "SELECT parked_no
        FROM saga_parked_message
        WHERE persistence_key = $1
            AND instance_id = $2
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

async fn insert(conn: &mut PgConnection, parked: NewParked<'_>, contents: &str) -> sqlx::Result<()> {
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
            $1,
            $2,
            $3,
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint,
            $4,
            $5,
            $6,
            $7
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(parked.saga)
    .bind(parked.instance.as_str())
    .bind(parked.message.message_id.as_uuid())
    .bind(i32::try_from(parked.tries).unwrap_or(i32::MAX))
    .bind(parked.error)
    .bind(contents)
    .bind(&*parked.message.payload)
    .execute(conn)
    .await;
    inserted.map(drop)
}

async fn select(conn: &mut PgConnection, filter: ParkedFilter<'_>, limit: u32) -> sqlx::Result<Vec<ParkedRow>> {
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
        WHERE parked_no > $1
            AND ($2::text IS NULL OR persistence_key = $2)
            AND ($3::text IS NULL OR instance_id = $3)
        ORDER BY parked_no
        LIMIT $4",
    )
    .bind(filter.after.map_or(i64::MIN, ParkedId::get))
    .bind(filter.persistence_key)
    .bind(filter.instance_id.map(InstanceId::as_str))
    .bind(i64::from(limit))
    .try_map(read)
    .fetch_all(conn)
    .await
}

/// As both statements select it.
fn read(row: PgRow) -> sqlx::Result<ParkedRow> {
    Ok(ParkedRow {
        id: row.try_get(0)?,
        persistence_key: row.try_get(1)?,
        instance_id: row.try_get(2)?,
        parked_at: row.try_get(3)?,
        tries: i64::from(row.try_get::<i32, _>(4)?),
        last_error: row.try_get(5)?,
        contents: row.try_get(6)?,
        body: row.try_get(7)?,
    })
}

async fn select_first(conn: &mut PgConnection, saga: &str, instance: &str) -> sqlx::Result<Option<ParkedRow>> {
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
        WHERE persistence_key = $1
            AND instance_id = $2
        ORDER BY parked_no
        LIMIT 1",
    )
    .bind(saga)
    .bind(instance)
    .try_map(read)
    .fetch_optional(conn)
    .await
}

async fn update(conn: &mut PgConnection, id: ParkedId, error: &str) -> sqlx::Result<()> {
    let updated = sqlx::query(
        "UPDATE saga_parked_message
        SET tries = tries + 1,
            last_error = $1
        WHERE parked_no = $2",
    )
    .bind(error)
    .bind(id.get())
    .execute(conn)
    .await;
    updated.map(drop)
}

async fn delete(conn: &mut PgConnection, id: ParkedId) -> sqlx::Result<bool> {
    let deleted = sqlx::query(
        "DELETE FROM saga_parked_message
        WHERE parked_no = $1",
    )
    .bind(id.get())
    .execute(conn)
    .await?;
    Ok(deleted.rows_affected() == 1)
}
