//! Dispatchers under observation.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sagastore::OutboxRecord;
use sagastore::dispatcher::{DeliveryRetry, Dispatched, Dispatcher, DispatcherSettings};
use sagastore::emitter::{Emitter, emitter_fn};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Subject, TestDb};

/// What was delivered, in order.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<Vec<OutboxRecord>>>);

impl Sent {
    /// Notes every record.
    pub(crate) fn emitter(&self) -> impl Emitter + 'static {
        self.refusing(|_| false)
    }

    /// Notes the records that are not refused.
    pub(crate) fn refusing(
        &self,
        refuse: impl Fn(&OutboxRecord) -> bool + Send + Sync + 'static,
    ) -> impl Emitter + 'static {
        let sent = self.clone();
        emitter_fn(move |record: OutboxRecord| {
            let refused = refuse(&record);
            if !refused {
                sent.0.lock().unwrap().push(record);
            }
            async move { if refused { Err(io::Error::other("poison")) } else { Ok(()) } }
        })
    }

    pub(crate) fn push(&self, record: OutboxRecord) {
        self.0.lock().unwrap().push(record);
    }

    pub(crate) fn records(&self) -> Vec<OutboxRecord> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The amounts of counters that were delivered, by instance.
    pub(crate) fn amounts(&self) -> HashMap<String, Vec<i64>> {
        let mut amounts: HashMap<_, Vec<_>> = HashMap::new();
        for record in self.0.lock().unwrap().iter() {
            amounts.entry(record.aggregate_id.clone()).or_default().push(amount(record));
        }
        amounts
    }

    /// Those of one instance.
    pub(crate) fn of(&self, id: &str) -> Vec<i64> {
        self.amounts().remove(id).unwrap_or_default()
    }
}

/// What was added to a counter.
pub(crate) fn amount(record: &OutboxRecord) -> i64 {
    let payload: serde_json::Value = serde_json::from_slice(record.payload()).unwrap();
    payload["Added"]["amount"].as_i64().unwrap()
}

/// So many attempts, one right after the other.
pub(crate) fn attempts(attempts: u32) -> DeliveryRetry {
    DeliveryRetry::new(attempts, attempts, Duration::ZERO, Duration::ZERO, 0.0).unwrap()
}

/// As by default, with short waits.
pub(crate) fn quick() -> DispatcherSettings {
    DispatcherSettings::default().with_poll_interval(Duration::from_millis(50)).unwrap()
}

/// A dispatcher that runs.
pub(crate) struct Relay {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Dispatched>,
}

impl Relay {
    pub(crate) fn start<DB: Subject>(dispatcher: Dispatcher<DB>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move { dispatcher.run(async move { drop(stopped.await) }).await });
        Self { stop, task }
    }

    pub(crate) async fn stop(self) -> anyhow::Result<Dispatched> {
        drop(self.stop);
        Ok(self.task.await?)
    }
}

impl<DB: Subject> TestDb<DB> {
    pub(crate) fn dispatcher(&self, emitter: impl Emitter + 'static) -> Dispatcher<DB> {
        Dispatcher::new(self.pool().clone(), emitter).with_settings(quick())
    }

    /// As if all leases of a namespace, `'outbox/slot'` or the like, had expired.
    pub(crate) async fn expire_leases(&self, which: &str) -> anyhow::Result<u64> {
        self.sql(format!("UPDATE saga_lease SET expires_at = 0 WHERE {which} AND client_id IS NOT NULL")).await
    }

    /// How many leases are held.
    pub(crate) async fn leases(&self) -> anyhow::Result<i64> {
        self.count("SELECT COUNT(*) FROM saga_lease WHERE client_id IS NOT NULL").await
    }
}
