//! Locks of each kind.

use std::time::Duration;

use anyhow::ensure;
use sagastore::lock::resource::{ResourceLocker, ResourceLockerSettings};
use sagastore::lock::{ClientId, DatabaseLock, Namespace, ResourceId};
use sagastore::{Inbox, MessageId, Receipt};
use sqlx::Pool;

use crate::site::Site;

/// Leases, locks on resources, purging, and an inbox.
pub(crate) async fn obtain_and_release<DB: Site>(pool: &Pool<DB>) -> anyhow::Result<()> {
    let (client, resource) = (ClientId::new("worker-1")?, ResourceId::new("nightly")?);
    let locker = ResourceLocker::open(pool.clone(), &Namespace::new("jobs")?, ResourceLockerSettings::default())?;
    let lease = locker.acquire(&resource, &client).await?;
    let lease = locker.renew(&lease).await?.ok_or_else(|| anyhow::anyhow!("the lock is lost"))?;
    ensure!(locker.lock(&resource, &ClientId::new("worker-2")?).await?.is_held());
    ensure!(locker.unlock(&lease).await?, "the lock was not held");
    locker.close().await;
    DatabaseLock::new(pool.clone()).purge().await?;

    let (inbox, message) = (Inbox::new("mailer")?, MessageId::new());
    for expected in [false, true] {
        let mut tx = pool.begin().await?;
        let receipt: Receipt = inbox.receive(&mut tx, message).await?;
        ensure!(receipt.is_repeated() == expected, "{receipt:?}");
        tx.commit().await?;
    }
    inbox.forget(pool, Duration::ZERO).await?;
    Ok(())
}
