//! What the dispatcher delivered: of each instance every event, in order.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sagastore::{OutboxRecord, OutboxRepository};
use sqlx::Pool;

use super::ask::Ask;
use super::load::{INSTANCES, ParcelEvent};

/// How long the dispatcher may go on after the load.
const DELIVERED_WITHIN: Duration = Duration::from_secs(600);

pub(crate) struct Deliveries {
    /// The newest delivered event of each instance, by the instance's number; the first event is 1.
    newest: Box<[AtomicU32]>,
    delivered: AtomicU64,
    repeated: AtomicU64,
}

impl Deliveries {
    pub(crate) fn new() -> Self {
        let newest = (0..INSTANCES).map(|_| AtomicU32::new(0)).collect();
        Self { newest, delivered: AtomicU64::new(0), repeated: AtomicU64::new(0) }
    }

    /// Fails, and so is never told as delivered, if an earlier event of the instance is missing.
    pub(crate) fn take(&self, record: &OutboxRecord) -> anyhow::Result<()> {
        let ParcelEvent::Moved { number, .. } = serde_json::from_slice(record.payload())?;
        let instance: usize = record.aggregate_id.parse()?;
        let newest = self.newest.get(instance).context("no such instance")?;
        let before = newest.load(Ordering::Relaxed);
        ensure!(number <= before + 1, "instance {instance}: event {number} after {before}");
        if number <= before {
            self.repeated.fetch_add(1, Ordering::Relaxed);
        } else {
            newest.store(number, Ordering::Relaxed);
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until all that was recorded is delivered, and has left the outbox. Gives the number of deliveries that were repeated.
    pub(crate) async fn until_all<DB: Ask>(&self, pool: &Pool<DB>) -> anyhow::Result<u64> {
        let messages: u64 = DB::number(pool, "SELECT COUNT(*) FROM saga_commit").await?.try_into()?;
        let (store, began) = (DB::Store::default(), Instant::now());
        while store.stats(&mut *pool.acquire().await?).await?.pending > 0 {
            ensure!(began.elapsed() < DELIVERED_WITHIN, "{:?} of {messages} messages are delivered", self.delivered);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let delivered = self.delivered.load(Ordering::Relaxed);
        ensure!(delivered == messages, "{delivered} of {messages} messages were delivered");
        Ok(self.repeated.load(Ordering::Relaxed))
    }
}
