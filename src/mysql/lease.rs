//! The statements of leases.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, Row, Transaction};

use super::fence::hold;
use super::{MySqlStore, classify, is_duplicate, text};
use crate::error::Result;
use crate::lock::lease::{LeaseRow, LeaseStatus};
use crate::lock::tables::{Claim, Grant, LeaseTables, PurgeStep, micros};
use crate::lock::{Fence, FencingToken, Namespace, Resource, ResourceId};
use crate::timestamp::Timestamp;

/// How often a released lease is looked at again that somebody has locked just now.
const MAX_LOCKED_LOOKS: u32 = 5;
const LOCKED_PAUSE: Duration = Duration::from_millis(2);

#[async_trait]
impl LeaseTables<MySql> for MySqlStore {
    async fn claim(&self, conn: &mut MySqlConnection, claim: &Claim<'_>) -> Result<Option<Grant>> {
        self.check_reads(conn).await?;
        match take(conn, claim).await {
            Ok(grant) => Ok(grant),
            Err(error) => Err(classify("obtaining a lease", error)),
        }
    }

    async fn extend(
        &self,
        conn: &mut MySqlConnection,
        resource: &Resource,
        token: FencingToken,
        length: Duration,
    ) -> Result<Option<Timestamp>> {
        match extend(conn, resource, token, length).await {
            Ok(expiry) => Ok(expiry),
            Err(error) => Err(classify("renewing a lease", error)),
        }
    }

    async fn free(&self, conn: &mut MySqlConnection, resource: &Resource, token: FencingToken) -> Result<bool> {
        match free(conn, resource, token).await {
            Ok(freed) => Ok(freed),
            Err(error) => Err(classify("releasing a lease", error)),
        }
    }

    async fn hold(&self, tx: &mut Transaction<'_, MySql>, fences: &[Fence]) -> Result<BTreeSet<usize>> {
        match hold(tx, fences).await {
            Ok(held) => Ok(held),
            Err(error) => Err(classify("fencing a transaction", error)),
        }
    }

    async fn status(&self, conn: &mut MySqlConnection, resource: &Resource) -> Result<Option<LeaseStatus>> {
        match select_one(conn, resource).await {
            Ok(row) => row.map(|row| row.status(&resource.namespace)).transpose(),
            Err(error) => Err(classify("looking at a lease", error)),
        }
    }

    async fn statuses(
        &self,
        conn: &mut MySqlConnection,
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
        conn: &mut MySqlConnection,
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

/// What was granted is read afterwards, by the request's own id: it is what this request was granted, or nothing.
async fn take(conn: &mut MySqlConnection, claim: &Claim<'_>) -> sqlx::Result<Option<Grant>> {
    let mut looks = 0;
    let taken = loop {
        if take_over(conn, claim).await? {
            break true;
        }
        match is_free(conn, claim.resource).await? {
            None => break start(conn, claim).await?,
            // A purge, or another claim, has it locked for a moment.
            Some(true) if looks < MAX_LOCKED_LOOKS => {
                looks += 1;
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            Some(_) => break false,
        }
    };
    if taken { granted(conn, claim).await } else { Ok(None) }
}

/// Whether nobody holds a resource, by its row; `None` if it has none.
async fn is_free(conn: &mut MySqlConnection, resource: &Resource) -> sqlx::Result<Option<bool>> {
    let free = sqlx::query_scalar::<_, i64>(
        "SELECT client_id IS NULL
            OR expires_at + lock_delay <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        FROM saga_lease
        WHERE namespace = ?
            AND resource_id = ?",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(free.map(|free| free != 0))
}

/// Waits for nobody: what a fenced transaction or another claim keeps locked is held. The row is locked and changed by one statement,
/// so that no fence comes in between, for which the change would wait. The limit keeps the inner statement from being merged
/// into the outer one, and the index the latter from the rows of others.
async fn take_over(conn: &mut MySqlConnection, claim: &Claim<'_>) -> sqlx::Result<bool> {
    let taken = sqlx::query(
        "UPDATE (
            SELECT
                namespace,
                resource_id,
                request_id,
                token
            FROM saga_lease FORCE INDEX (saga_lease_token)
            WHERE namespace = ?
                AND resource_id = ?
                AND (
                    client_id IS NULL
                    OR request_id = ?
                    OR expires_at + lock_delay <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
                )
            LIMIT 1
            FOR UPDATE SKIP LOCKED
        ) AS free
        STRAIGHT_JOIN saga_lease AS l FORCE INDEX (PRIMARY)
            ON l.namespace = free.namespace
            AND l.resource_id = free.resource_id
        SET l.token = CASE
                WHEN free.request_id = ? THEN free.token
                ELSE GREATEST(free.token + 1, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)))
            END,
            l.client_id = ?,
            l.request_id = ?,
            l.obtained_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            l.expires_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + ?,
            l.lock_delay = ?",
    )
    .bind(claim.resource.namespace.as_str())
    .bind(claim.resource.id.as_str())
    .bind(claim.request)
    .bind(claim.request)
    .bind(claim.client.as_str())
    .bind(claim.request)
    .bind(micros(claim.length))
    .bind(micros(claim.lock_delay))
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() > 0)
}

/// False if another was faster. The row is looked for before, because each insert that fails leaves work for the purge
/// thread.
async fn start(conn: &mut MySqlConnection, claim: &Claim<'_>) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
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
        VALUES (
            ?,
            ?,
            ?,
            ?,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)),
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + ?,
            ?
        )",
    )
    .bind(claim.resource.namespace.as_str())
    .bind(claim.resource.id.as_str())
    .bind(claim.client.as_str())
    .bind(claim.request)
    .bind(micros(claim.length))
    .bind(micros(claim.lock_delay))
    .execute(conn)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn granted(conn: &mut MySqlConnection, claim: &Claim<'_>) -> sqlx::Result<Option<Grant>> {
    sqlx::query(
        "SELECT
            token,
            expires_at
        FROM saga_lease
        WHERE namespace = ?
            AND resource_id = ?
            AND request_id = ?",
    )
    .bind(claim.resource.namespace.as_str())
    .bind(claim.resource.id.as_str())
    .bind(claim.request)
    .try_map(|row: MySqlRow| {
        Ok(Grant { token: FencingToken::new(row.try_get(0)?), expiry: Timestamp::from_micros(row.try_get(1)?) })
    })
    .fetch_optional(conn)
    .await
}

/// The new expiry comes with the answer to the statement.
async fn extend(
    conn: &mut MySqlConnection,
    resource: &Resource,
    token: FencingToken,
    length: Duration,
) -> sqlx::Result<Option<Timestamp>> {
    let extended = sqlx::query(
        "UPDATE saga_lease
        SET expires_at = LAST_INSERT_ID(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) + ?)
        WHERE namespace = ?
            AND resource_id = ?
            AND token = ?
            AND client_id IS NOT NULL
            AND expires_at > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    )
    .bind(micros(length))
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .bind(token.get())
    .execute(conn)
    .await?;
    let expiry = i64::try_from(extended.last_insert_id()).unwrap_or(i64::MAX);
    Ok((extended.rows_affected() > 0).then(|| Timestamp::from_micros(expiry)))
}

async fn free(conn: &mut MySqlConnection, resource: &Resource, token: FencingToken) -> sqlx::Result<bool> {
    let freed = sqlx::query(
        "UPDATE saga_lease
        SET client_id = NULL,
            expires_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        WHERE namespace = ?
            AND resource_id = ?
            AND token = ?
            AND client_id IS NOT NULL
            AND expires_at > TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .bind(token.get())
    .execute(conn)
    .await?;
    Ok(freed.rows_affected() > 0)
}

async fn select_one(conn: &mut MySqlConnection, resource: &Resource) -> sqlx::Result<Option<LeaseRow>> {
    sqlx::query(
        "SELECT
            resource_id,
            client_id,
            token,
            obtained_at,
            expires_at,
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        FROM saga_lease
        WHERE namespace = ?
            AND resource_id = ?",
    )
    .bind(resource.namespace.as_str())
    .bind(resource.id.as_str())
    .try_map(lease_row)
    .fetch_optional(conn)
    .await
}

async fn select_after(
    conn: &mut MySqlConnection,
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
            TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
        FROM saga_lease
        WHERE namespace = ?
            AND resource_id > ?
        ORDER BY resource_id
        LIMIT ?",
    )
    .bind(namespace.as_str())
    .bind(after.map_or("", ResourceId::as_str))
    .bind(limit)
    .try_map(lease_row)
    .fetch_all(conn)
    .await
}

fn lease_row(row: MySqlRow) -> sqlx::Result<LeaseRow> {
    Ok(LeaseRow {
        resource_id: text(row.try_get(0)?)?,
        client_id: row.try_get::<Option<Vec<u8>>, _>(1)?.map(text).transpose()?,
        token: row.try_get(2)?,
        obtained_at: row.try_get(3)?,
        expires_at: row.try_get(4)?,
        now: row.try_get(5)?,
    })
}

/// Passes by what fenced transactions keep locked: waiting for one, it would keep others from renewing meanwhile.
async fn purge(
    conn: &mut MySqlConnection,
    namespace: &Namespace,
    after: Option<&ResourceId>,
    limit: u32,
    grace: Duration,
) -> sqlx::Result<PurgeStep> {
    let after = after.map_or("", ResourceId::as_str);
    let last: Option<Vec<u8>> = sqlx::query_scalar(
        "SELECT MAX(resource_id)
        FROM (
            SELECT resource_id
            FROM saga_lease
            WHERE namespace = ?
                AND resource_id > ?
            ORDER BY resource_id
            LIMIT ?
        ) AS page",
    )
    .bind(namespace.as_str())
    .bind(after)
    .bind(limit)
    .fetch_one(&mut *conn)
    .await?;
    let Some(last) = last.map(text).transpose()? else { return Ok(PurgeStep { purged: 0, reached: None }) };
    let purged = sqlx::query(
        "DELETE l
        FROM saga_lease AS l
        JOIN (
            SELECT
                namespace,
                resource_id
            FROM saga_lease FORCE INDEX (saga_lease_token)
            WHERE namespace = ?
                AND resource_id > ?
                AND resource_id <= ?
                AND expires_at + lock_delay + ? <= TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
                AND token < TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))
            FOR UPDATE SKIP LOCKED
        ) AS free
            ON free.namespace = l.namespace
            AND free.resource_id = l.resource_id",
    )
    .bind(namespace.as_str())
    .bind(after)
    .bind(last.as_str())
    .bind(micros(grace))
    .execute(conn)
    .await?;
    Ok(PurgeStep { purged: purged.rows_affected(), reached: ResourceId::new(last).ok() })
}
