//! Leases and locks on resources: obtained, renewed, used for a fenced write, released, kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use sagastore::Error;
use sagastore::lock::lease::{Lease, LeaseState};
use sagastore::lock::resource::{ResourceLocker, ResourceLockerSettings};
use sagastore::lock::{
    ClientId, DEFAULT_LEASE_NAMESPACE, DatabaseLock, Fence, FencingToken, Lock, Namespace, Purge, Resource, ResourceId,
};

use super::Moment;
use crate::desk::Desk;
use crate::site::Site;

/// Longer than any run: what expires, expires because the scenario lets time pass.
const LENGTH: Duration = Duration::from_secs(1800);

/// What is locked as a resource, and where.
const THING: &str = "thing";
const THINGS: &str = "things";

/// A purge comes when it wants to; here everything is to come in the same order each time.
struct NoPurge;

#[async_trait]
impl Purge for NoPurge {
    async fn purge(&self) -> sagastore::Result<u64> {
        Ok(0)
    }
}

fn id(name: &str) -> anyhow::Result<ResourceId> {
    Ok(ResourceId::new(name)?)
}

fn note<DB: Site>(desk: &Desk<DB>, lease: &Lease) -> anyhow::Result<()> {
    Ok(desk.journal.note("token", &format!("{} {}", lease.resource_id.as_str(), lease.sequence))?)
}

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let (lock, client) = (DatabaseLock::new(desk.pool.clone()).with_length(LENGTH)?, ClientId::new("worker")?);
    for _ in 0..2 {
        let lease = lock.obtain_no_wait(&id("job")?, &client).await?.lease().context("the job is held")?;
        note(desk, &lease)?;
        let lease = lock.renew(&lease).await?.context("the lease is lost")?;
        let mut tx = desk.persister().begin(&desk.pool).await?;
        lease.fence(&mut tx).await?;
        DB::write_own(&mut tx, &format!("fenced {}", lease.sequence)).await?;
        tx.commit().await?;
        ensure!(lock.release(&lease).await?, "the lease is lost");
    }
    let kept = lock.obtain(&id("kept")?, &client).await?.lease().context("it is held")?;
    note(desk, &kept)?;

    let things = Arc::new(lock.with_namespace(Namespace::new(THINGS)?));
    let locker = ResourceLocker::with_parts(things, Arc::new(NoPurge), ResourceLockerSettings::default());
    for _ in 0..2 {
        let lease = locker.acquire(&id(THING)?, &client).await?;
        note(desk, &lease)?;
        let lease = locker.renew(&lease).await?.context("the lock is lost")?;
        ensure!(locker.unlock(&lease).await?, "the lock is lost");
    }
    locker.close().await;
    Ok(())
}

/// Whoever has an older token, as the process that was killed, writes nothing any more.
async fn is_refused<DB: Site>(desk: &Desk<DB>, resource: &str, token: i64) -> anyhow::Result<()> {
    let namespace = Namespace::new(if resource == THING { THINGS } else { DEFAULT_LEASE_NAMESPACE })?;
    let fence = Fence { resource: Resource { namespace, id: id(resource)? }, token: FencingToken::new(token) };
    let mut tx = desk.persister().begin(&desk.pool).await?;
    let held = fence.hold(&mut tx).await;
    ensure!(matches!(held, Err(Error::Fenced { .. })), "{resource}: the old token {token} fences: {held:?}");
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let (mut last, mut stale) = (HashMap::<String, i64>::new(), Vec::new());
    for line in desk.journal.noted("token")? {
        let (resource, token) = line.split_once(' ').context("a torn line")?;
        let token = token.parse()?;
        let before = last.insert(resource.to_owned(), token);
        ensure!(before.is_none_or(|before| before < token), "{resource}: token {token} after {before:?}");
        stale.extend(before.map(|before| (resource.to_owned(), before)));
    }
    for (resource, token) in stale {
        is_refused(desk, &resource, token).await?;
    }
    let lock = DatabaseLock::new(desk.pool.clone());
    for status in lock.statuses(None, 10).await? {
        let (resource, token) = (status.resource.id.clone(), status.sequence.get());
        let noted = last.get(resource.as_str());
        ensure!(noted.is_none_or(|noted| *noted <= token), "{resource:?}: token {token} after {noted:?}");
        // What a process held that is gone is its own until it expires.
        if status.state == LeaseState::Held {
            let other = lock.obtain_no_wait(&resource, &ClientId::new("another")?).await?;
            ensure!(other.is_held(), "{resource:?} was given to another before it expired");
        }
    }
    let written = desk.own().await?;
    ensure!(written.iter().is_sorted_by(|one, other| one < other), "written twice under one token: {written:?}");
    ensure!(moment == Moment::Killed || written.len() >= 2, "nothing was written under the lease: {written:?}");
    Ok(())
}
