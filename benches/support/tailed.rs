//! Instances with a snapshot and events after it, for the library and for a program without it.

use sagastore::{InstanceId, Offset, Outbox, Persister, Saga, SnapshotFrequency, StreamName};

use super::bed::Bed;
use super::fill::{TAIL, envelopes};
use super::order::{Order, OrderEvent, OrderState};

/// Events of the unit of work that takes the snapshot.
const BEFORE: u32 = 20;

pub(crate) fn instance(number: u32) -> InstanceId {
    InstanceId::new(format!("order-{number}")).expect("valid")
}

/// Writes so many instances. The plain driver's have their snapshot and the events after it only: nobody reads the
/// others.
pub(crate) async fn fill<B: Bed>(bed: &B, count: u32) {
    let persister = Persister::<B::Driver>::new().with_snapshot_frequency(SnapshotFrequency::every(1));
    let (before, after) = (OrderEvent::generate(BEFORE), OrderEvent::generate(TAIL));
    let payloads: Vec<_> = after.iter().map(|event| serde_json::to_vec(event).expect("encodes")).collect();
    let mut state = OrderState::default();
    before.iter().for_each(|event| state.apply(event));
    let mut tx = persister.begin(bed.pool()).await.expect("begins");
    for number in 0..count {
        let id = instance(number);
        let stream = StreamName::of_saga(Order.persistence_key(), &id).expect("valid");
        let mut unit = persister.begin_unit_of_work(&Order, &mut tx, Outbox, &id).await.expect("loads");
        for event in &before {
            unit.publish(event.clone()).expect("publishes");
        }
        assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
        for (offset, event) in (BEFORE..).zip(&after) {
            let message = envelopes(std::slice::from_ref(event));
            let appended = persister.store().append_messages(&mut tx, &stream, Offset::of(offset), &message).await;
            appended.expect("appends");
        }
    }
    tx.commit().await.expect("commits");
    for stream in 0..i64::from(count) {
        bed.insert_events(stream, &payloads).await;
        bed.upsert_state(stream, &state.encode()).await;
    }
}

/// Takes back what was added to the instances since.
pub(crate) async fn rewind(bed: &impl Bed) {
    bed.cut(i64::from(1 + TAIL), i64::from(TAIL)).await;
}
