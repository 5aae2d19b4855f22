//! The statements of correlation keys.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{PostgresStore, classify};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::mapper::{CorrelationKey, MapperTables};

#[async_trait]
impl MapperTables<Postgres> for PostgresStore {
    async fn holder(&self, conn: &mut PgConnection, saga: &str, key: &CorrelationKey) -> Result<Option<InstanceId>> {
        match select_holder(conn, saga, key.as_str()).await {
            Ok(found) => found.map(InstanceId::new).transpose(),
            Err(error) => Err(classify("looking for the instance with a key", error)),
        }
    }

    async fn claim(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        saga: &str,
        key: &CorrelationKey,
        instance: &InstanceId,
    ) -> Result<bool> {
        match insert(tx, saga, key.as_str(), instance.as_str()).await {
            Ok(claimed) => Ok(claimed),
            Err(error) => Err(classify("giving an instance a key", error)),
        }
    }

    async fn release(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        saga: &str,
        key: &CorrelationKey,
        instance: &InstanceId,
    ) -> Result<()> {
        match delete(tx, saga, key.as_str(), instance.as_str()).await {
            Ok(()) => Ok(()),
            Err(error) => Err(classify("taking a key from an instance", error)),
        }
    }

    async fn keys(
        &self,
        conn: &mut PgConnection,
        saga: &str,
        instance: &InstanceId,
    ) -> Result<BTreeSet<CorrelationKey>> {
        match select_keys(conn, saga, instance.as_str()).await {
            Ok(keys) => keys.iter().map(|key| CorrelationKey::from_stored(key)).collect(),
            Err(error) => Err(classify("reading the keys of an instance", error)),
        }
    }

    async fn live_instances(
        &self,
        conn: &mut PgConnection,
        saga: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<(i64, InstanceId)>> {
        match select_live(conn, saga, after, limit).await {
            Ok(rows) => rows.into_iter().map(|(key, id)| Ok((key, InstanceId::new(id)?))).collect(),
            Err(error) => Err(classify("listing instances", error)),
        }
    }
}

async fn select_holder(conn: &mut PgConnection, saga: &str, key: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT instance_id
        FROM saga_correlation_key
        WHERE persistence_key = $1
            AND correlation_key = $2",
    )
    .bind(saga)
    .bind(key)
    .fetch_optional(conn)
    .await
}

async fn insert(conn: &mut PgConnection, saga: &str, key: &str, instance: &str) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO saga_correlation_key (
            persistence_key,
            correlation_key,
            instance_id
        )
        VALUES (
            $1,
            $2,
            $3
        )
        ON CONFLICT DO NOTHING",
    )
    .bind(saga)
    .bind(key)
    .bind(instance)
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn delete(conn: &mut PgConnection, saga: &str, key: &str, instance: &str) -> sqlx::Result<()> {
    let deleted = sqlx::query(
        "DELETE FROM saga_correlation_key
        WHERE persistence_key = $1
            AND correlation_key = $2
            AND instance_id = $3",
    )
    .bind(saga)
    .bind(key)
    .bind(instance)
    .execute(conn)
    .await;
    deleted.map(drop)
}

async fn select_keys(conn: &mut PgConnection, saga: &str, instance: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT correlation_key
        FROM saga_correlation_key
        WHERE persistence_key = $1
            AND instance_id = $2",
    )
    .bind(saga)
    .bind(instance)
    .fetch_all(conn)
    .await
}

async fn select_live(conn: &mut PgConnection, saga: &str, after: i64, limit: u32) -> sqlx::Result<Vec<(i64, String)>> {
    sqlx::query_as(
        "SELECT
            stream_id,
            instance_id
        FROM saga_stream
        WHERE stream_id > $1
            AND persistence_key = $2
            AND completed_at IS NULL
        ORDER BY stream_id
        LIMIT $3",
    )
    .bind(after)
    .bind(saga)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await
}
