//! Messages that wait in the outbox, and emitters that send them nowhere.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sagastore::emitter::{Delivery, Emitter};
use sagastore::{Envelope, InstanceId, Outbox, OutboxRecord, Persister, Saga, SnapshotFrequency, message_types};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::bed::Bed;

/// A saga that counts. Its messages have about 200 bytes.
pub(crate) struct Counter;

#[derive(Serialize, Deserialize)]
pub(crate) enum CounterEvent {
    Counted { number: u32, note: String },
}
message_types!(CounterEvent { Counted: "Counted" 1 });

impl Saga for Counter {
    type Data = u32;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        "bench-counter"
    }

    fn new_data(&self) -> u32 {
        0
    }

    fn apply_event(&self, last: &mut u32, event: &CounterEvent, _: &Envelope) {
        let CounterEvent::Counted { number, .. } = event;
        *last = *number;
    }
}

impl CounterEvent {
    pub(crate) fn counted(number: u32) -> Self {
        Self::Counted { number, note: "n".repeat(160) }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("encodes")
    }

    fn number_of(record: &OutboxRecord) -> u32 {
        let Self::Counted { number, .. } = serde_json::from_slice(record.payload()).expect("an event");
        number
    }
}

pub(crate) fn instance(number: u32) -> InstanceId {
    InstanceId::new(format!("counter-{number}")).expect("valid")
}

/// Records so many messages in each of so many streams, each message by a unit of work of its own. The streams take
/// turns.
pub(crate) async fn record<B: Bed>(bed: &B, streams: u32, in_each: u32) {
    let persister = Persister::<B::Driver>::new().with_snapshot_frequency(SnapshotFrequency::every(20));
    for number in 1..=in_each {
        let mut tx = persister.begin(bed.pool()).await.expect("begins");
        for stream in 0..streams {
            let id = instance(stream);
            let unit = persister.begin_unit_of_work(&Counter, &mut tx, Outbox, &id);
            let mut unit = unit.await.expect("loads");
            unit.publish(CounterEvent::counted(number)).expect("publishes");
            assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
        }
        tx.commit().await.expect("commits");
    }
}

/// Counts.
#[derive(Default)]
pub(crate) struct Nowhere {
    sent: AtomicU64,
}

impl Nowhere {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Emitter for Nowhere {
    async fn emit(&self, batch: Vec<Delivery>) {
        self.sent.fetch_add(u64::try_from(batch.len()).expect("fits"), Ordering::Relaxed);
        batch.into_iter().for_each(Delivery::delivered);
    }
}

/// Checks that each stream comes in order and without gaps.
#[derive(Default)]
pub(crate) struct InOrder {
    last: Mutex<HashMap<String, u32>>,
}

impl InOrder {
    /// Each of so many streams came up to this message.
    pub(crate) fn is_complete(&self, streams: u32, in_each: u32) -> bool {
        let last = self.last.lock().expect("is whole");
        (0..streams).all(|stream| last.get(instance(stream).as_str()) == Some(&in_each))
    }
}

#[async_trait::async_trait]
impl Emitter for InOrder {
    async fn emit(&self, batch: Vec<Delivery>) {
        let mut last = self.last.lock().expect("is whole");
        for delivery in batch {
            let number = CounterEvent::number_of(delivery.record());
            let last = last.entry(delivery.record().aggregate_id.clone()).or_default();
            assert!(number <= *last + 1, "{number} came after {last}");
            *last = number.max(*last);
            delivery.delivered();
        }
    }
}

/// Tells when each message came.
pub(crate) struct Arrivals(pub(crate) mpsc::UnboundedSender<Instant>);

#[async_trait::async_trait]
impl Emitter for Arrivals {
    async fn emit(&self, batch: Vec<Delivery>) {
        for delivery in batch {
            self.0.send(Instant::now()).expect("is received");
            delivery.delivered();
        }
    }
}
