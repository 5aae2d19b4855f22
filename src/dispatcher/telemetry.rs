//! What a dispatcher tells those who watch it. Names are stable.

use super::worker::Dispatched;
use crate::emitter::DeliveryFailure;
use crate::error::Error;
use crate::lock::ClientId;
use crate::outbox::{Next, OutboxRecord};

pub(super) fn failed(record: &OutboxRecord, attempts: u32, error: &DeliveryFailure, next: Next) {
    let message = record.envelope.message_id;
    let (aggregate_type, aggregate_id) = (record.aggregate_type.as_str(), record.aggregate_id.as_str());
    let position = record.id;
    match next {
        Next::Retry(after) => tracing::warn!(
            name: "outbox.delivery_failed", target: "sagastore",
            %message, aggregate_type, aggregate_id, %position, attempts, ?after, %error,
            "a message was not delivered, and will be tried again"
        ),
        Next::Dead => tracing::error!(
            name: "outbox.message_dead", target: "sagastore",
            %message, aggregate_type, aggregate_id, %position, attempts, %error,
            "a message ran out of attempts and is a dead letter"
        ),
    }
}

pub(super) fn damaged(error: &Error) {
    tracing::error!(
        name: "outbox.commit_damaged", target: "sagastore", %error,
        "a commit in the outbox cannot be read; its stream waits"
    );
}

pub(super) fn settled(dispatched: &Dispatched) {
    let Dispatched { delivered, failed, dead, .. } = *dispatched;
    tracing::debug!(name: "outbox.settled", target: "sagastore", delivered, failed, dead, "messages were acknowledged");
}

pub(super) fn lease_lost(dispatcher: &ClientId, partition: i64) {
    tracing::warn!(
        name: "outbox.lease_lost", target: "sagastore", %dispatcher, partition,
        "a partition was taken over; what was under way of it is delivered again"
    );
}

pub(super) fn failing(doing: &'static str, error: &Error) {
    tracing::warn!(name: "outbox.dispatcher_failing", target: "sagastore", doing, %error, "the dispatcher tries again");
}
