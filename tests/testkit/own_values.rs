//! What parts of one's own give back can be made outside of the crate.

use std::time::Duration;

use sagastore::emitter::deliveries;
use sagastore::lock::lease::{LeaseState, LeaseStatus};
use sagastore::lock::{ClientId, FencingToken, Namespace, Resource, ResourceId};
use sagastore::{
    DeadLetter, Envelope, GlobalEvent, GlobalPosition, MessageKind, Offset, OutboxRecord, PartitionLag, RecordedEvent,
    StreamName, Subscription, Timestamp,
};

fn message() -> Envelope {
    Envelope::new(MessageKind::Command, "Ship", 1, "text/plain", "now").unwrap()
}

#[test]
fn an_outbox_of_ones_own_makes_records_that_an_emitter_takes() {
    let record = OutboxRecord::new("7:1:2:0:0".parse().unwrap(), "order", "42", message());
    assert_eq!((record.attempts, record.event_type(), record.payload()), (0, "Ship", &b"now"[..]));
    let letter = DeadLetter::new(record.clone(), "no route", Timestamp::from_micros(9));
    assert_eq!((&letter.record, letter.last_error.as_str(), letter.dead_at.as_micros()), (&record, "no route", 9));
    let (deliveries, _reports) = deliveries([record.clone()]);
    assert_eq!(deliveries[0].record(), &record);
    let lag = PartitionLag::new(3, 2, Duration::from_secs(1));
    assert_eq!((lag.partition, lag.pending, lag.oldest_age), (3, 2, Duration::from_secs(1)));
    let slot = Subscription::new(ClientId::new("relay").unwrap(), 1, FencingToken::new(5));
    assert_eq!((slot.slot, slot.token().get()), (1, 5));
}

#[test]
fn a_lock_of_ones_own_makes_statuses() {
    let resource = Resource { namespace: Namespace::new("n").unwrap(), id: ResourceId::new("r").unwrap() };
    let (token, at) = (FencingToken::new(5), Timestamp::from_micros(1));
    let status = LeaseStatus::new(resource.clone(), LeaseState::Released, None, token, at, at, Duration::ZERO);
    assert_eq!((status.resource, status.sequence, status.client_id), (resource, token, None));
}

#[test]
fn a_store_of_ones_own_makes_events() {
    let event = RecordedEvent::new(StreamName::new("order/42").unwrap(), Offset::ZERO, message());
    let found = GlobalEvent::new(GlobalPosition::START, event.clone());
    assert_eq!((found.position, found.event), (GlobalPosition::START, event));
}
