//! The statements of leases.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row, Transaction};

use super::{PostgresStore, classify};
use crate::error::Result;
use crate::lock::lease::{LeaseRow, LeaseStatus};
use crate::lock::tables::{Claim, Grant, LeaseTables, PurgeStep, micros};
use crate::lock::{Fence, FencingToken, Namespace, Resource, ResourceId};
use crate::timestamp::Timestamp;

/// How often a lease is looked at again that is free, and that somebody has locked just now.
const MAX_LOCKED_LOOKS: u32 = 5;
const LOCKED_PAUSE: Duration = Duration::from_millis(2);

#[async_trait]
impl LeaseTables<Postgres> for PostgresStore {
    async fn claim(&self, conn: &mut PgConnection, claim: &Claim<'_>) -> Result<Option<Grant>> {
        match take(conn, claim).await {
            Ok(grant) => Ok(grant),
            Err(error) => Err(classify("obtaining a lease", error)),
        }
    }

    async fn extend(
        &self,
        conn: &mut PgConnection,
        resource: &Resource,
        token: FencingToken,
        length: Duration,
    ) -> Result<Option<Timestamp>> {
        match extend(conn, resource, token, length).await {
            Ok(expiry) => Ok(expiry),
            Err(error) => Err(classify("renewing a lease", error)),
        }
    }

    async fn free(&self, conn: &mut PgConnection, resource: &Resource, token: FencingToken) -> Result<bool> {
        match free(conn, resource, token).await {
            Ok(freed) => Ok(freed),
            Err(error) => Err(classify("releasing a lease", error)),
        }
    }

    async fn hold(&self, tx: &mut Transaction<'_, Postgres>, fences: &[Fence]) -> Result<BTreeSet<usize>> {
        match hold(tx, fences).await {
            Ok(held) => Ok(held),
            Err(error) => Err(classify("fencing a transaction", error)),
        }
    }

    async fn status(&self, conn: &mut PgConnection, resource: &Resource) -> Result<Option<LeaseStatus>> {
        match select_one(conn, resource).await {
            Ok(row) => row.map(|row| row.status(&resource.namespace)).transpose(),
            Err(error) => Err(classify("looking at a lease", error)),
        }
    }

    async fn statuses(
        &self,
        conn: &mut PgConnection,
        namespace: &Namespace,
        after: Option<&ResourceId>,
        limit: u32,
    ) -> Result<Vec<LeaseStatus>> {
        match select_after(conn, namespace, after, limit).await {
            Ok(rows) => rows.into_iter().map(|row| row.status(namespace)).collect(),
            Err(error) => Err(classify("looking at leases", error)),
        }
    }

    async fn purge(
        &self,
        conn: &mut PgConnection,
        namespace: &Namespace,
        after: Option<&ResourceId>,
        limit: u32,
        grace: Duration,
    ) -> Result<PurgeStep> {
        match purge(conn, namespace, after, limit, grace).await {
            Ok(step) => Ok(step),
            Err(error) => Err(classify("purging leases", error)),
        }
    }
}

/// What a try came to.
enum Taken {
    Granted(Grant),
    Held,
    /// It is free, but somebody has its row locked: a purge, another claim, or a fenced transaction.
    Locked,
}

/// What stays locked is held.
async fn take(conn: &mut PgConnection, claim: &Claim<'_>) -> sqlx::Result<Option<Grant>> {
    let mut looks = 0;
    loop {
        match try_to_take(conn, claim).await? {
            Taken::Granted(grant) => return Ok(Some(grant)),
            Taken::Locked if looks < MAX_LOCKED_LOOKS => {
                looks += 1;
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            Taken::Held | Taken::Locked => return Ok(None),
        }
    }
}

/// Waits for nobody, and passes by what is locked.
async fn try_to_take(conn: &mut PgConnection, claim: &Claim<'_>) -> sqlx::Result<Taken> {
    let found = sqlx::query(
        "WITH clock AS MATERIALIZED (
            SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS now
        ),
        free AS MATERIALIZED (
            SELECT
                l.namespace,
                l.resource_id
            FROM saga_lease AS l
            CROSS JOIN clock
            WHERE l.namespace = $1
                AND l.resource_id = $2
                AND (l.client_id IS NULL OR l.request_id = $4 OR l.expires_at + l.lock_delay <= clock.now)
            FOR UPDATE OF l SKIP LOCKED
        ),
        taken AS (
            UPDATE saga_lease AS l
            SET client_id = $3,
                request_id = $4,
                token = CASE
                    WHEN l.request_id = $4 THEN l.token
                    ELSE GREATEST(l.token + 1, clock.now)
                END,
                obtained_at = clock.now,
                expires_at = clock.now + $5,
                lock_delay = $6
            FROM
                free,
                clock
            WHERE l.namespace = free.namespace
                AND l.resource_id = free.resource_id
            RETURNING
                l.token,
                l.expires_at
        ),
        started AS (
            INSERT INTO saga_lease (
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
                $1,
                $2,
                $3,
                $4,
                now,
                now,
                now + $5,
                $6
            FROM clock
            WHERE NOT EXISTS (
                SELECT 1
                FROM saga_lease
                WHERE namespace = $1
                    AND resource_id = $2
            )
            ON CONFLICT DO NOTHING
            RETURNING
                token,
                expires_at
        )
        SELECT * FROM taken
        UNION ALL
        SELECT * FROM started
        UNION ALL
        SELECT
            NULL,
            NULL
        FROM saga_lease AS l
        CROSS JOIN clock
        WHERE l.namespace = $1
            AND l.resource_id = $2
            AND (l.client_id IS NULL OR l.expires_at + l.lock_delay <= clock.now)
            AND NOT EXISTS (SELECT 1 FROM free)",
    )
    .bind(claim.resource.namespace.as_str())
    .bind(claim.resource.id.as_str())
    .bind(claim.client.as_str())
    .bind(claim.request)
    .bind(micros(claim.length))
    .bind(micros(claim.lock_delay))
    .try_map(|row: PgRow| {
        let (Some(token), Some(expiry)) = (row.try_get::<Option<_>, _>(0)?, row.try_get::<Option<_>, _>(1)?) else {
            return Ok(Taken::Locked);
        };
        Ok(Taken::Granted(Grant { token: FencingToken::new(token), expiry: Timestamp::from_micros(expiry) }))
    })
    .fetch_optional(conn)
    .await?;
    Ok(found.unwrap_or(Taken::Held))
}

async fn extend(
    conn: &mut PgConnection,
    resource: &Resource,
    token: FencingToken,
    length: Duration,
) -> sqlx::Result<Option<Timestamp>> {
    let extended = sqlx::query_scalar(
        "UPDATE saga_lease
        SET expires_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint + $4
        WHERE namespace = $1
            AND resource_id = $2
            AND token = $3
            AND client_id IS NOT NULL
            AND expires_at > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        RETURNING expires_at",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .bind(token.get())
    .bind(micros(length))
    .fetch_optional(conn)
    .await?;
    Ok(extended.map(Timestamp::from_micros))
}

async fn free(conn: &mut PgConnection, resource: &Resource, token: FencingToken) -> sqlx::Result<bool> {
    let freed = sqlx::query(
        "UPDATE saga_lease
        SET client_id = NULL,
            expires_at = (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        WHERE namespace = $1
            AND resource_id = $2
            AND token = $3
            AND client_id IS NOT NULL
            AND expires_at > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .bind(token.get())
    .execute(conn)
    .await?;
    Ok(freed.rows_affected() > 0)
}

/// Shares the keys of which the tokens are a part: that keeps off who takes a lease over, and not who renews it.
async fn hold(conn: &mut PgConnection, fences: &[Fence]) -> sqlx::Result<BTreeSet<usize>> {
    let namespaces: Vec<_> = fences.iter().map(|fence| fence.resource.namespace.as_str()).collect();
    let ids: Vec<_> = fences.iter().map(|fence| fence.resource.id.as_str()).collect();
    let tokens: Vec<_> = fences.iter().map(|fence| fence.token.get()).collect();
    let held: Vec<i64> = sqlx::query_scalar(
        "SELECT fence.place - 1
        FROM UNNEST($1::text[], $2::text[], $3::bigint[])
            WITH ORDINALITY AS fence (namespace, resource_id, token, place)
        JOIN saga_lease AS l
            ON l.namespace = fence.namespace
            AND l.resource_id = fence.resource_id
            AND l.token = fence.token
        WHERE l.client_id IS NOT NULL
        ORDER BY fence.place
        FOR KEY SHARE OF l",
    )
    .bind(namespaces)
    .bind(ids)
    .bind(tokens)
    .fetch_all(conn)
    .await?;
    Ok(held.into_iter().filter_map(|place| usize::try_from(place).ok()).collect())
}

async fn select_one(conn: &mut PgConnection, resource: &Resource) -> sqlx::Result<Option<LeaseRow>> {
    sqlx::query(
        "SELECT
            resource_id,
            client_id,
            token,
            obtained_at,
            expires_at,
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        FROM saga_lease
        WHERE namespace = $1
            AND resource_id = $2",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .try_map(lease_row)
    .fetch_optional(conn)
    .await
}

async fn select_after(
    conn: &mut PgConnection,
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
            (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
        FROM saga_lease
        WHERE namespace = $1
            AND resource_id > $2
        ORDER BY resource_id
        LIMIT $3",
    )
    .bind(namespace.as_str())
    .bind(after.map_or("", ResourceId::as_str))
    .bind(i64::from(limit))
    .try_map(lease_row)
    .fetch_all(conn)
    .await
}

fn lease_row(row: PgRow) -> sqlx::Result<LeaseRow> {
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
    conn: &mut PgConnection,
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
            WHERE namespace = $1
                AND resource_id > $2
            ORDER BY resource_id
            LIMIT $3
        ) AS page",
    )
    .bind(namespace.as_str())
    .bind(after)
    .bind(i64::from(limit))
    .fetch_one(&mut *conn)
    .await?;
    let Some(last) = last else { return Ok(PurgeStep { purged: 0, reached: None }) };
    let purged = sqlx::query(
        "DELETE FROM saga_lease
        WHERE (namespace, resource_id) IN (
            SELECT
                namespace,
                resource_id
            FROM saga_lease
            WHERE namespace = $1
                AND resource_id > $2
                AND resource_id <= $3
                AND expires_at + lock_delay + $4 <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
                AND token < (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint
            FOR UPDATE SKIP LOCKED
        )",
    )
    .bind(namespace.as_str())
    .bind(after)
    .bind(last.as_str())
    .bind(micros(grace))
    .execute(conn)
    .await?;
    Ok(PurgeStep { purged: purged.rows_affected(), reached: ResourceId::new(last).ok() })
}
