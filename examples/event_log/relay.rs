//! Relays what was stored, by several dispatchers that share the outbox while the log is fed, and checks that the events
//! of each case arrive in the order in which they were stored.
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use sagastore::dispatcher::{Dispatcher, DispatcherSettings};
use sagastore::emitter::emitter_fn;
use sagastore::{Backend, OutboxRecord, OutboxRepository, Timestamp};
use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Messages that are read at once.
const BATCH: u32 = 1_000;

/// What has arrived. Within a case, each event has a later time than the one before.
#[derive(Default)]
struct Arrived {
    cases: HashMap<String, BTreeSet<Timestamp>>,
    messages: u64,
    late: Option<String>,
}

pub(crate) struct Relay {
    arrived: Arc<Mutex<Arrived>>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Relay {
    /// Starts so many dispatchers, each as a process of its own would have it.
    pub(crate) fn start<DB: Backend>(pool: &Pool<DB>, dispatchers: u32) -> Result<Self> {
        let (arrived, (stop, stopped), mut tasks) =
            (Arc::<Mutex<Arrived>>::default(), watch::channel(false), JoinSet::new());
        for _ in 0..dispatchers {
            let settings = DispatcherSettings::default().with_batch(BATCH)?.with_dispatchers(dispatchers)?;
            let arrived = Arc::clone(&arrived);
            let emitter = emitter_fn(move |record: OutboxRecord| {
                note(&mut arrived.lock().expect("no holder panics"), &record);
                async { Ok::<_, std::io::Error>(()) }
            });
            let dispatcher = Dispatcher::new(pool.clone(), emitter).with_settings(settings);
            let mut stopped = stopped.clone();
            tasks.spawn(async move {
                let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
                let _ = dispatcher.run(stopped).await;
            });
        }
        Ok(Self { arrived, stop, tasks })
    }

    /// Waits until the outbox is empty. Gives the number of messages.
    pub(crate) async fn finish<DB: Backend>(mut self, pool: &Pool<DB>) -> Result<u64> {
        let mut conn = pool.acquire().await?;
        while DB::Store::default().stats(&mut conn).await?.pending > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let arrived = self.arrived.lock().expect("no holder panics");
        ensure!(arrived.late.is_none(), "{}", arrived.late.as_deref().unwrap_or_default());
        Ok(arrived.messages)
    }
}

/// A repeat, as after a takeover, may come at any time; an event that comes for the first time comes after all before it.
fn note(arrived: &mut Arrived, record: &OutboxRecord) {
    let Some(stored) = record.envelope.recorded_at else { return };
    let case = arrived.cases.entry(record.aggregate_id.clone()).or_default();
    let is_last = case.last().is_none_or(|last| *last < stored);
    if !case.insert(stored) {
        return;
    }
    arrived.messages += 1;
    if !is_last {
        arrived.late = Some(format!("an event of case {:?} arrived after a later one", record.aggregate_id));
    }
}
