//! The statements of correlation keys.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::{MySqlStore, classify, is_duplicate, text};
use crate::error::Result;
use crate::ids::InstanceId;
use crate::mapper::{CorrelationKey, MapperTables};

#[async_trait]
impl MapperTables<MySql> for MySqlStore {
    async fn holder(&self, conn: &mut MySqlConnection, saga: &str, key: &CorrelationKey) -> Result<Option<InstanceId>> {
        match select_holder(conn, saga, key.as_str()).await {
            Ok(found) => found.map(InstanceId::new).transpose(),
            Err(error) => Err(classify("looking for the instance with a key", error)),
        }
    }

    async fn claim(
        &self,
        tx: &mut Transaction<'_, MySql>,
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
        tx: &mut Transaction<'_, MySql>,
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
        conn: &mut MySqlConnection,
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
        conn: &mut MySqlConnection,
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

async fn select_holder(conn: &mut MySqlConnection, saga: &str, key: &str) -> sqlx::Result<Option<String>> {
    sqlx::query(
        "SELECT instance_id
        FROM saga_correlation_key
        WHERE persistence_key = ?
            AND correlation_key = ?",
    )
    .bind(saga)
    .bind(key)
    .try_map(|row: MySqlRow| text(row.try_get(0)?))
    .fetch_optional(conn)
    .await
}

/// Not with IGNORE, which would let other faults pass too.
async fn insert(conn: &mut MySqlConnection, saga: &str, key: &str, instance: &str) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO saga_correlation_key (
            persistence_key,
            correlation_key,
            instance_id
        )
        VALUES (
            ?,
            ?,
            ?
        )",
    )
    .bind(saga)
    .bind(key)
    .bind(instance)
    .execute(conn)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn delete(conn: &mut MySqlConnection, saga: &str, key: &str, instance: &str) -> sqlx::Result<()> {
    let deleted = sqlx::query(
        "DELETE FROM saga_correlation_key
        WHERE persistence_key = ?
            AND correlation_key = ?
            AND instance_id = ?",
    )
    .bind(saga)
    .bind(key)
    .bind(instance)
    .execute(conn)
    .await;
    deleted.map(drop)
}

async fn select_keys(conn: &mut MySqlConnection, saga: &str, instance: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query(
        "SELECT correlation_key
        FROM saga_correlation_key
        WHERE persistence_key = ?
            AND instance_id = ?",
    )
    .bind(saga)
    .bind(instance)
    .try_map(|row: MySqlRow| text(row.try_get(0)?))
    .fetch_all(conn)
    .await
}

async fn select_live(
    conn: &mut MySqlConnection,
    saga: &str,
    after: i64,
    limit: u32,
) -> sqlx::Result<Vec<(i64, String)>> {
    sqlx::query(
        "SELECT
            stream_id,
            instance_id
        FROM saga_stream
        WHERE stream_id > ?
            AND persistence_key = ?
            AND completed_at IS NULL
        ORDER BY stream_id
        LIMIT ?",
    )
    .bind(after)
    .bind(saga)
    .bind(limit)
    .try_map(|row: MySqlRow| Ok((row.try_get(0)?, text(row.try_get(1)?)?)))
    .fetch_all(conn)
    .await
}
