//! Commits messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use fastrand::Rng;
use sagastore::{Envelope, Error, InstanceId, Outbox, Persister, Saga, message_types};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use tokio::task::JoinHandle;

use super::site::Site;

/// Most messages in a unit of work.
const UNIT: i64 = 3;

/// Numbers its messages.
pub(crate) struct Tally;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum TallyEvent {
    Added { number: i64 },
}
message_types!(TallyEvent { Added: "TallyAdded" 1 });

impl Saga for Tally {
    type Data = i64;
    type Event = TallyEvent;

    fn persistence_key(&self) -> &str {
        "tally"
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &TallyEvent, _: &Envelope) {
        let TallyEvent::Added { number } = event;
        *data = number + 1;
    }
}

/// A task that commits to so many streams in turn.
pub(crate) struct Producing {
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<HashMap<String, i64>>>,
}

impl Producing {
    pub(crate) fn start<DB: Site>(pool: Pool<DB>, streams: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(produce(pool, streams, Arc::clone(&stop)));
        Self { stop, task }
    }

    /// By itself: it failed.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Gives the number of messages of each stream.
    pub(crate) async fn finish(self) -> anyhow::Result<HashMap<String, i64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?.context("committing messages")
    }
}

async fn produce<DB: Site>(
    pool: Pool<DB>,
    streams: u32,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<HashMap<String, i64>> {
    let (persister, mut committed) = (Persister::<DB>::new(), HashMap::new());
    let mut random = Rng::with_seed(super::seed());
    while !stop.load(Ordering::Relaxed) {
        let stream = random.u32(..streams).to_string();
        let id = InstanceId::new(&stream)?;
        match count_on(&persister, &pool, &id, random.i64(1..=UNIT)).await {
            Ok(next) => _ = committed.insert(stream, next),
            // The database chose it as the victim of a deadlock: nothing of it was done.
            Err(Error::Contention { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(committed)
}

/// Publishes the next numbers of a stream, and gives the one after them.
async fn count_on<DB: Site>(
    persister: &Persister<DB>,
    pool: &Pool<DB>,
    id: &InstanceId,
    count: i64,
) -> Result<i64, Error> {
    let mut tx = persister.begin(pool).await?;
    let mut unit = persister.begin_unit_of_work(&Tally, &mut tx, Outbox, id).await?;
    let first = unit.instance().data;
    for number in first..first + count {
        unit.publish(TallyEvent::Added { number })?;
    }
    assert!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was saved");
    tx.commit().await.map_err(|error| persister.store().classify("committing messages", error))?;
    Ok(first + count)
}
