//! The statements of leases.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};

use super::{SqliteStore, explain};
use crate::error::Result;
use crate::lock::lease::{LeaseRow, LeaseStatus};
use crate::lock::tables::{Claim, Grant, LeaseTables, PurgeStep, micros};
use crate::lock::{Fence, FencingToken, Namespace, Resource, ResourceId};
use crate::timestamp::Timestamp;

#[async_trait]
impl LeaseTables<Sqlite> for SqliteStore {
    fn has_one_writer(&self) -> bool {
        true
    }

    async fn claim(&self, conn: &mut SqliteConnection, claim: &Claim<'_>) -> Result<Option<Grant>> {
        match take(conn, claim).await {
            Ok(grant) => Ok(grant),
            Err(error) => Err(explain(conn, "obtaining a lease", error).await),
        }
    }

    async fn extend(
        &self,
        conn: &mut SqliteConnection,
        resource: &Resource,
        token: FencingToken,
        length: Duration,
    ) -> Result<Option<Timestamp>> {
        match extend(conn, resource, token, length).await {
            Ok(expiry) => Ok(expiry),
            Err(error) => Err(explain(conn, "renewing a lease", error).await),
        }
    }

    async fn free(&self, conn: &mut SqliteConnection, resource: &Resource, token: FencingToken) -> Result<bool> {
        match free(conn, resource, token).await {
            Ok(freed) => Ok(freed),
            Err(error) => Err(explain(conn, "releasing a lease", error).await),
        }
    }

    async fn hold(&self, tx: &mut Transaction<'_, Sqlite>, fences: &[Fence]) -> Result<BTreeSet<usize>> {
        match hold(tx, fences).await {
            Ok(held) => Ok(held),
            Err(error) => Err(explain(tx, "fencing a transaction", error).await),
        }
    }

    async fn status(&self, conn: &mut SqliteConnection, resource: &Resource) -> Result<Option<LeaseStatus>> {
        match select_one(conn, resource).await {
            Ok(row) => row.map(|row| row.status(&resource.namespace)).transpose(),
            Err(error) => Err(explain(conn, "looking at a lease", error).await),
        }
    }

    async fn statuses(
        &self,
        conn: &mut SqliteConnection,
        namespace: &Namespace,
        after: Option<&ResourceId>,
        limit: u32,
    ) -> Result<Vec<LeaseStatus>> {
        match select_after(conn, namespace, after, limit).await {
            Ok(rows) => rows.into_iter().map(|row| row.status(namespace)).collect(),
            Err(error) => Err(explain(conn, "looking at leases", error).await),
        }
    }

    async fn purge(
        &self,
        conn: &mut SqliteConnection,
        namespace: &Namespace,
        after: Option<&ResourceId>,
        limit: u32,
        grace: Duration,
    ) -> Result<PurgeStep> {
        match purge(conn, namespace, after, limit, grace).await {
            Ok(step) => Ok(step),
            Err(error) => Err(explain(conn, "purging leases", error).await),
        }
    }
}

/// The clock is cut down to milliseconds: it may be a whole one later than it says, so a lease lasts for one (1000 us) more.
/// Its holder may trust it by a clock that is not cut down.
async fn take(conn: &mut SqliteConnection, claim: &Claim<'_>) -> sqlx::Result<Option<Grant>> {
    sqlx::query(
        "INSERT INTO saga_lease (
            namespace,
            resource_id,
            client_id,
            request_id,
            token,
            obtained_at,
            expires_at,
            lock_delay
        )
        SELECT
            ?1,
            ?2,
            ?3,
            ?4,
            now,
            now,
            now + ?5 + 1000,
            ?6
        FROM (SELECT CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) AS now)
        WHERE TRUE
        ON CONFLICT (namespace, resource_id) DO UPDATE
        SET client_id = excluded.client_id,
            request_id = excluded.request_id,
            token = CASE
                WHEN request_id = excluded.request_id THEN token
                ELSE MAX(token + 1, excluded.token)
            END,
            obtained_at = excluded.obtained_at,
            expires_at = excluded.expires_at,
            lock_delay = excluded.lock_delay
        WHERE client_id IS NULL
            OR request_id = excluded.request_id
            OR expires_at + lock_delay <= excluded.obtained_at
        RETURNING
            token,
            expires_at",
    )
    .bind(claim.resource.namespace.as_str())
    .bind(claim.resource.id.as_str())
    .bind(claim.client.as_str())
    .bind(claim.request)
    .bind(micros(claim.length))
    .bind(micros(claim.lock_delay))
    .try_map(|row: SqliteRow| {
        Ok(Grant { token: FencingToken::new(row.try_get(0)?), expiry: Timestamp::from_micros(row.try_get(1)?) })
    })
    .fetch_all(conn)
    .await
    .map(|grants| grants.into_iter().next())
}

/// One tick of the clock longer, as above.
async fn extend(
    conn: &mut SqliteConnection,
    resource: &Resource,
    token: FencingToken,
    length: Duration,
) -> sqlx::Result<Option<Timestamp>> {
    let extended = sqlx::query_scalar(
        "UPDATE saga_lease
        SET expires_at = CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER) + ?4 + 1000
        WHERE namespace = ?1
            AND resource_id = ?2
            AND token = ?3
            AND client_id IS NOT NULL
            AND expires_at > CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        RETURNING expires_at",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .bind(token.get())
    .bind(micros(length))
    .fetch_all(conn)
    .await?;
    Ok(extended.into_iter().next().map(Timestamp::from_micros))
}

async fn free(conn: &mut SqliteConnection, resource: &Resource, token: FencingToken) -> sqlx::Result<bool> {
    let freed = sqlx::query(
        "UPDATE saga_lease
        SET client_id = NULL,
            expires_at = CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        WHERE namespace = ?1
            AND resource_id = ?2
            AND token = ?3
            AND client_id IS NOT NULL
            AND expires_at > CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .bind(token.get())
    .execute(conn)
    .await?;
    Ok(freed.rows_affected() > 0)
}

/// Fences as a JSON array of arrays, so that one text serves every number of them.
fn places(fences: &[Fence]) -> String {
    let place = |fence: &Fence| {
        let Resource { namespace, id } = &fence.resource;
        json!([namespace.as_str(), id.as_str(), fence.token.get()])
    };
    fences.iter().map(place).collect::<Value>().to_string()
}

async fn hold(conn: &mut SqliteConnection, fences: &[Fence]) -> sqlx::Result<BTreeSet<usize>> {
    // It changes nothing, but makes the transaction the only one that can write until it ends.
    sqlx::query("UPDATE saga_lease SET token = token WHERE FALSE").execute(&mut *conn).await?;
    let held: Vec<i64> = sqlx::query_scalar(
        "SELECT fence.key
        FROM json_each(?1) AS fence
        CROSS JOIN saga_lease AS l
            ON l.namespace = fence.value ->> 0
            AND l.resource_id = fence.value ->> 1
            AND l.token = fence.value ->> 2
        WHERE l.client_id IS NOT NULL",
    )
    .bind(places(fences))
    .fetch_all(conn)
    .await?;
    Ok(held.into_iter().filter_map(|place| usize::try_from(place).ok()).collect())
}

async fn select_one(conn: &mut SqliteConnection, resource: &Resource) -> sqlx::Result<Option<LeaseRow>> {
    sqlx::query(
        "SELECT
            resource_id,
            client_id,
            token,
            obtained_at,
            expires_at,
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        FROM saga_lease
        WHERE namespace = ?1
            AND resource_id = ?2",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .try_map(lease_row)
    .fetch_optional(conn)
    .await
}

async fn select_after(
    conn: &mut SqliteConnection,
    namespace: &Namespace,
    after: Option<&ResourceId>,
    limit: u32,
) -> sqlx::Result<Vec<LeaseRow>> {
    sqlx::query(
        "SELECT
            resource_id,
            client_id,
            token,
            obtained_at,
            expires_at,
            CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
        FROM saga_lease
        WHERE namespace = ?1
            AND resource_id > ?2
        ORDER BY resource_id
        LIMIT +?3",
    )
    .bind(namespace.as_str())
    .bind(after.map_or("", ResourceId::as_str))
    .bind(limit)
    .try_map(lease_row)
    .fetch_all(conn)
    .await
}

fn lease_row(row: SqliteRow) -> sqlx::Result<LeaseRow> {
    Ok(LeaseRow {
        resource_id: row.try_get(0)?,
        client_id: row.try_get(1)?,
        token: row.try_get(2)?,
        obtained_at: row.try_get(3)?,
        expires_at: row.try_get(4)?,
        now: row.try_get(5)?,
    })
}

async fn purge(
    conn: &mut SqliteConnection,
    namespace: &Namespace,
    after: Option<&ResourceId>,
    limit: u32,
    grace: Duration,
) -> sqlx::Result<PurgeStep> {
    let after = after.map_or("", ResourceId::as_str);
    let last: Option<String> = sqlx::query_scalar(
        "SELECT MAX(resource_id)
        FROM (
            SELECT resource_id
            FROM saga_lease
            WHERE namespace = ?1
                AND resource_id > ?2
            ORDER BY resource_id
            LIMIT +?3
        )",
    )
    .bind(namespace.as_str())
    .bind(after)
    .bind(limit)
    .fetch_one(&mut *conn)
    .await?;
    let Some(last) = last else { return Ok(PurgeStep { purged: 0, reached: None }) };
    let purged = sqlx::query(
        "DELETE FROM saga_lease
        WHERE namespace = ?1
            AND resource_id > ?2
            AND resource_id <= ?3
            AND expires_at + lock_delay + ?4 <= CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)
            AND token < CAST(ROUND(unixepoch('subsec') * 1000000) AS INTEGER)",
    )
    .bind(namespace.as_str())
    .bind(after)
    .bind(last.as_str())
    .bind(micros(grace))
    .execute(conn)
    .await?;
    Ok(PurgeStep { purged: purged.rows_affected(), reached: ResourceId::new(last).ok() })
}
