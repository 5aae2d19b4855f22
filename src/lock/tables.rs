//! The statements that a database must have for leases.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::{Database, Transaction};
use uuid::Uuid;

use super::fence::Fence;
use super::ids::{ClientId, FencingToken, Namespace, Resource, ResourceId};
use super::lease::LeaseStatus;
use crate::error::Result;
use crate::timestamp::Timestamp;

/// Who wants what for how long.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub resource: &'a Resource,
    pub client: &'a ClientId,
    /// Of the call: sent again after its answer was lost, it gets what it got.
    pub request: Uuid,
    pub length: Duration,
    pub lock_delay: Duration,
}

/// What the database granted.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub token: FencingToken,
    pub expiry: Timestamp,
}

/// One step of a purge.
#[derive(Clone, Debug)]
pub struct PurgeStep {
    /// How many rows went.
    pub purged: u64,
    /// The last resource that was looked at; `None` if none is left.
    pub reached: Option<ResourceId>,
}

/// Only the database's clock is asked.
#[async_trait]
pub trait LeaseTables<DB: Database>: Send + Sync {
    /// Whether of all transactions one at a time can write.
    fn has_one_writer(&self) -> bool {
        false
    }

    /// Between two of many transactions, the last of which has begun then: where only one can write, whoever waits looks now and
    /// again, and would hardly ever come in between.
    async fn let_others_write(&self, begun: Instant) {
        if self.has_one_writer() {
            tokio::time::sleep(begun.elapsed()).await;
        }
    }

    /// Takes what is free, released or expired; `None` if it is held.
    async fn claim(&self, conn: &mut DB::Connection, claim: &Claim<'_>) -> Result<Option<Grant>>;

    /// Moves the expiry of what is held, and has not expired, to `length` from now; `None` if it is not.
    async fn extend(
        &self,
        conn: &mut DB::Connection,
        resource: &Resource,
        token: FencingToken,
        length: Duration,
    ) -> Result<Option<Timestamp>>;

    /// Frees what is held; false if it had expired, or is not held with this token.
    async fn free(&self, conn: &mut DB::Connection, resource: &Resource, token: FencingToken) -> Result<bool>;

    /// Keeps others from taking these over until the transaction ends. Gives the places of those that are held
    /// with their tokens.
    async fn hold(&self, tx: &mut Transaction<'_, DB>, fences: &[Fence]) -> Result<BTreeSet<usize>>;

    /// How it stands with a resource; `None` if it was never leased, or its row is gone.
    async fn status(&self, conn: &mut DB::Connection, resource: &Resource) -> Result<Option<LeaseStatus>>;

    /// How it stands with the resources after `after`, at most `limit`, in the order of their ids.
    async fn statuses(
        &self,
        conn: &mut DB::Connection,
        namespace: &Namespace,
        after: Option<&ResourceId>,
        limit: u32,
    ) -> Result<Vec<LeaseStatus>>;

    /// Looks at `limit` resources after `after`, and deletes those which have been free for `grace`.
    async fn purge(
        &self,
        conn: &mut DB::Connection,
        namespace: &Namespace,
        after: Option<&ResourceId>,
        limit: u32,
        grace: Duration,
    ) -> Result<PurgeStep>;
}

/// A length of time as the tables hold it. What does not fit is longer than any lease.
pub(crate) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
