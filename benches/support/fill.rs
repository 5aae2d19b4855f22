//! Streams to replay.

use sagastore::{Envelope, Inbound, InstanceId, JSON_CONTENT_TYPE, MessageId, MessageKind, MessageType};
use sagastore::{MAX_UNIT_MESSAGES, Offset, Outbox, Persister, Saga, SnapshotFrequency, StreamName};

use super::bed::Bed;
use super::order::{Order, OrderEvent};
use super::stock::{Stock, StockEvent};

/// Events after the snapshot.
pub(crate) const TAIL: u32 = 20;

/// Events after the snapshot of a stream; none if it is too short to have one.
pub(crate) fn tail_after_snapshot(events: u32) -> Option<u32> {
    (events > 2 * TAIL).then_some(TAIL)
}

/// Writes an instance with so many events, so many in each unit of work, and the same events one per
/// row for the plain driver. Gives the number of its stream.
pub(crate) async fn fill<B: Bed>(bed: &B, id: &InstanceId, events: u32, per_unit: u32) -> i64 {
    let stream = StreamName::of_saga(Order.persistence_key(), id).expect("a name");
    let persister = Persister::<B::Driver>::new();
    let snapshot_at = tail_after_snapshot(events).map(|tail| events - tail);
    let mut left = OrderEvent::generate(events).into_iter();
    let mut payloads = Vec::new();
    let mut tx = persister.begin(bed.pool()).await.expect("begins");
    for start in (0..events).step_by(usize::try_from(per_unit).expect("small")) {
        let unit: Vec<OrderEvent> = left.by_ref().take(usize::try_from(per_unit).expect("small")).collect();
        payloads.extend(unit.iter().map(|event| serde_json::to_vec(event).expect("encodes")));
        let takes_snapshot = snapshot_at == Some(start + per_unit);
        if start > 0 && !takes_snapshot {
            let messages = envelopes(&unit);
            let appended = persister.store().append_messages(&mut tx, &stream, Offset::of(start), &messages);
            appended.await.expect("appends");
            continue;
        }
        let frequency = if takes_snapshot { SnapshotFrequency::every(1) } else { SnapshotFrequency::Never };
        let persister = persister.clone().with_snapshot_frequency(frequency);
        let begun = persister.begin_unit_of_work(&Order, &mut tx, Outbox, id);
        let mut work = begun.await.expect("loads");
        work.handling(MessageId::new()).expect("nothing is recorded yet");
        for event in unit {
            work.publish(event).expect("publishes");
        }
        let saved = persister.save(&mut tx, work).await.expect("saves");
        assert!(saved.is_changed());
    }
    tx.commit().await.expect("commits");
    let number = bed.stream_id(&stream).await;
    bed.insert_events(number, &payloads).await;
    number
}

/// Writes an instance up to a revision, with as few units of work as the limits allow, the last [`TAIL`] events one by
/// one after a snapshot.
pub(crate) async fn fill_in_large_units<B: Bed>(bed: &B, id: &InstanceId, revision: u32) {
    let largest = u32::try_from(MAX_UNIT_MESSAGES).expect("small");
    let (mut done, snapshot_at) = (0, revision - TAIL);
    let mut tx = Persister::<B::Driver>::new().begin(bed.pool()).await.expect("begins");
    while done < revision {
        let (frequency, count) = match done {
            done if done < snapshot_at => (SnapshotFrequency::every(1), largest.min(snapshot_at - done)),
            _ => (SnapshotFrequency::Never, 1),
        };
        let persister = Persister::<B::Driver>::new().with_snapshot_frequency(frequency);
        let mut unit = persister.begin_unit_of_work(&Stock, &mut tx, Outbox, id).await.expect("loads");
        for number in done..done + count {
            let filled = StockEvent::Filled { articles: 20 };
            let event = if number == 0 { filled } else { StockEvent::Sold { article: number } };
            unit.publish(event).expect("publishes");
        }
        assert!(persister.save(&mut tx, unit).await.expect("saves").is_changed());
        done += count;
    }
    tx.commit().await.expect("commits");
}

/// As a unit of work would have recorded them while it handled a message.
pub(crate) fn envelopes(events: &[OrderEvent]) -> Vec<Envelope> {
    let cause = Inbound::from(MessageId::new());
    let envelope = |event: &OrderEvent| {
        let (tag, payload) = (event.message_type(), serde_json::to_vec(event).expect("encodes"));
        Envelope::new(MessageKind::Event, tag.name, tag.version, JSON_CONTENT_TYPE, payload)
            .expect("valid")
            .caused_by(&cause)
    };
    events.iter().map(envelope).collect()
}
