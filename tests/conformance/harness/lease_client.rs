//! A client that holds a lease now and then and writes under it, and what a database shows of many of them.

use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::lock::lease::Lease;
use sagastore::lock::{DatabaseLock, ExponentialBackoff, Lock};
use sagastore::{Error, Persister};
use sqlx::Pool;

use super::leases::{client, millis, resource};
use super::{Subject, TestDb};

/// How long a lease of such a client is.
pub(crate) const CLIENT_LEASE: Duration = Duration::from_millis(150);
/// What all of them are after.
const RESOURCE: &str = "contended";

/// One of many.
pub(crate) struct LeaseClient<DB: Subject> {
    pool: Pool<DB>,
    lock: DatabaseLock<DB>,
    name: String,
}

/// What the clients' rows add up to.
#[derive(Debug, Default)]
pub(crate) struct LeaseHistory {
    pub(crate) grants: usize,
    /// Grants of what was not released.
    pub(crate) takeovers: usize,
    pub(crate) writes: usize,
    pub(crate) refusals: usize,
}

impl<DB: Subject> LeaseClient<DB> {
    pub(crate) fn new(pool: Pool<DB>, name: &str) -> Self {
        let lock = DatabaseLock::new(pool.clone()).with_length(CLIENT_LEASE).unwrap();
        Self { pool, lock, name: name.to_owned() }
    }

    /// Obtains a lease, writes under it, and releases it or lets it expire. A lost race of statements is no fault.
    pub(crate) async fn round(&self) -> anyhow::Result<()> {
        match self.try_round().await {
            Err(error) if error.downcast_ref().is_some_and(Error::is_transient) => Ok(()),
            done => done,
        }
    }

    async fn try_round(&self) -> anyhow::Result<()> {
        let backoff = ExponentialBackoff::new(millis(3), 1.0, 100)?.with_jitter(1.0)?;
        let obtained = self.lock.obtain_with_backoff(&resource(RESOURCE), &client(&self.name), &backoff).await?;
        let Some(mut lease) = obtained.lease() else { return Ok(()) };
        // Whatever an older token writes from here on is a fault.
        let token = lease.sequence;
        let before = format!("SELECT COUNT(*) FROM lease_history WHERE kind = 'write' AND token < {token}");
        let before = DB::rows(&mut *self.pool.acquire().await?, before).await?;
        let before = before[0][0].as_deref().context("no count")?.parse()?;
        self.note("grant", &lease, before).await?;
        for _ in 0..fastrand::u32(0..4) {
            self.pause(4).await;
            self.write(&lease).await?;
            if fastrand::u32(0..4) == 0
                && let Some(renewed) = self.lock.renew(&lease).await?
            {
                lease = renewed;
                self.note("renewal", &lease, 0).await?;
            }
        }
        if fastrand::u32(0..4) > 0 {
            // Noted before, so that it is known also of who dies in between.
            self.note("release", &lease, 0).await?;
            self.lock.release(&lease).await?;
        }
        Ok(())
    }

    /// Mostly short, now and then longer than the lease.
    async fn pause(&self, one_in: u32) {
        let long = fastrand::u32(0..one_in * 3) == 0;
        tokio::time::sleep(if long { CLIENT_LEASE.mul_f64(1.3) } else { millis(fastrand::u64(0..6)) }).await;
    }

    /// A write that is fenced, and pauses of any length around the fence.
    async fn write(&self, lease: &Lease) -> anyhow::Result<()> {
        let mut tx = Persister::<DB>::new().begin(&self.pool).await?;
        match lease.fence(&mut tx).await {
            Ok(()) => {}
            Err(Error::Fenced { .. }) => {
                tx.rollback().await?;
                return self.note("refusal", lease, 0).await;
            }
            Err(error) => return Err(error.into()),
        }
        self.pause(6).await;
        DB::execute(&mut tx, insert("write", lease, 0)).await?;
        Ok(tx.commit().await?)
    }

    async fn note(&self, kind: &str, lease: &Lease, number: i64) -> anyhow::Result<()> {
        DB::execute(&mut *self.pool.acquire().await?, insert(kind, lease, number)).await.map(drop)
    }
}

fn insert(kind: &str, lease: &Lease, number: i64) -> String {
    let (token, expiry) = (lease.sequence, lease.expiry.as_micros());
    format!("INSERT INTO lease_history (kind, token, expiry, number) VALUES ('{kind}', {token}, {expiry}, {number})")
}

impl<DB: Subject> TestDb<DB> {
    /// Makes the table that the clients write to.
    pub(crate) async fn create_lease_history(&self) -> anyhow::Result<()> {
        let columns =
            "kind VARCHAR(10) NOT NULL, token BIGINT NOT NULL, expiry BIGINT NOT NULL, number BIGINT NOT NULL";
        self.sql(format!("CREATE TABLE lease_history ({columns})")).await.map(drop)
    }

    /// Fails unless every lease began after the one before had ended, by the database's clock, and no write came
    /// after a newer lease was granted.
    pub(crate) async fn check_lease_history(&self) -> anyhow::Result<LeaseHistory> {
        let mut history = LeaseHistory::default();
        let late = "SELECT g.token, g.number, COUNT(w.token)
            FROM lease_history AS g
            LEFT JOIN lease_history AS w ON w.kind = 'write' AND w.token < g.token
            WHERE g.kind = 'grant'
            GROUP BY g.token, g.number
            ORDER BY g.token";
        for row in self.rows(late).await? {
            ensure!(row[1] == row[2], "writes with older tokens after the grant of a token: {row:?}");
            history.grants += 1;
        }
        let rows = self.rows("SELECT kind, token, expiry FROM lease_history ORDER BY token, expiry").await?;
        let (mut ended, mut released, mut holder) = (0_i64, true, 0_i64);
        let mut grants = std::collections::HashSet::new();
        for row in rows {
            let [Some(kind), Some(token), Some(expiry)] = row.as_slice() else { anyhow::bail!("{row:?}") };
            let (token, expiry): (i64, i64) = (token.parse()?, expiry.parse()?);
            if token > holder {
                // Whose first row is not the grant died before it was noted, and wrote nothing.
                let obtained_at = expiry - i64::try_from(CLIENT_LEASE.as_micros())?;
                ensure!(released || obtained_at >= ended, "{token} was granted {} us early", ended - obtained_at);
                history.takeovers += usize::from(!released);
                (holder, ended, released) = (token, expiry, false);
            }
            ensure!(kind != "grant" || grants.insert(token), "{token} was granted twice");
            ended = ended.max(expiry);
            released |= kind == "release";
            history.writes += usize::from(kind == "write");
            history.refusals += usize::from(kind == "refusal");
        }
        Ok(history)
    }
}
