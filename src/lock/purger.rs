//! Deleting what is not locked any more, every so often.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::select;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::database_lock::DatabaseLock;
use crate::backend::Backend;
use crate::error::{Error, Result};

/// How long a resource must have been free before its row is deleted. Longer than the database's clock can
/// stand still, so that the next token, which then comes from the clock alone, is higher.
pub const PURGE_GRACE: Duration = Duration::from_secs(1);
/// How many resources one step of a purge looks at.
pub const PURGE_STEP: u32 = 1000;
/// How often a [`ResourceLocker`](super::resource::ResourceLocker) purges by default.
pub const PURGER_PERIOD: Duration = Duration::from_secs(5 * 60);
/// How long one purge may take before it counts as failed: a server may never answer. What it has deleted is gone.
pub const PURGE_WITHIN: Duration = Duration::from_secs(10 * 60);
/// How long closing waits for a purge that does not yield.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Deletes what is not locked any more. Never needed for correctness: it only saves space.
#[async_trait]
pub trait Purge: Send + Sync {
    /// Purges once, and says how many locks went. Must not touch what is held. May be dropped half-way.
    ///
    /// # Errors
    /// The store's.
    async fn purge(&self) -> Result<u64>;
}

#[async_trait]
impl<DB: Backend> Purge for DatabaseLock<DB> {
    async fn purge(&self) -> Result<u64> {
        DatabaseLock::purge(self).await
    }
}

/// Is told how every purge went.
pub(super) type Observer = Arc<dyn Fn(&Result<u64>) + Send + Sync>;

/// Purges at once and then every `period`, until `closed` becomes true or its sender is gone. A purge that fails is
/// reported, and the next one comes in its time.
pub(super) fn start(
    purge: Arc<dyn Purge>,
    period: Duration,
    observer: Option<Observer>,
    mut closed: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let purging = pin!(async {
            loop {
                let purged = timeout(PURGE_WITHIN, purge.purge())
                    .await
                    .unwrap_or_else(|elapsed| Err(Error::Timeout { doing: "purging locks", source: elapsed.into() }));
                match &purged {
                    Ok(locks) => tracing::debug!(target: "sagastore", locks, "locks were purged"),
                    Err(error) => tracing::warn!(target: "sagastore", %error, "purging locks failed"),
                }
                if let Some(observer) = &observer {
                    observer(&purged);
                }
                tokio::time::sleep(period).await;
            }
        });
        let end = pin!(closed.wait_for(|closed| *closed));
        select(purging, end).await;
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// Never comes back from the first purge.
    struct HangsOnce(AtomicU32);

    #[async_trait]
    impl Purge for HangsOnce {
        async fn purge(&self) -> Result<u64> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(7)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_purge_that_never_comes_back_is_told_and_followed_by_others() {
        let ((tell, mut told), (_open, closed)) = (mpsc::unbounded_channel(), watch::channel(false));
        let observer: Observer = Arc::new(move |purged| {
            let _ = tell.send(purged.as_ref().ok().copied());
        });
        let task = start(Arc::new(HangsOnce(AtomicU32::new(0))), PURGER_PERIOD, Some(observer), closed);
        assert_eq!([told.recv().await, told.recv().await], [Some(None), Some(Some(7))]);
        task.abort();
    }
}
