//! What a dispatcher tells those who watch it: events of `tracing`, and counters and gauges of the `metrics` facade
//! (feature `metrics`). Names are stable; see the operations page.

use std::time::Duration;

use super::worker::Dispatched;
use crate::error::Error;
use crate::lock::ClientId;
use crate::outbox::{Next, OutboxRecord, PartitionLag};

pub(super) fn failed(record: &OutboxRecord, attempts: u32, error: &str, next: Next) {
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

/// Around sending and acknowledging one batch.
pub(super) fn batch(partitions: usize, messages: usize) -> tracing::Span {
    tracing::debug_span!(target: "sagastore", "outbox.batch", partitions, messages)
}

/// How many of those of a batch were left when its time was over.
pub(super) fn left(left: usize, found: usize) {
    if left < found {
        tracing::debug!(name: "outbox.emitter_slow", target: "sagastore", left, found, "a batch was not sent whole");
    } else {
        tracing::warn!(name: "outbox.emitter_stuck", target: "sagastore", left, "the emitter takes no message");
    }
}

pub(super) fn damaged(error: &Error) {
    tracing::error!(
        name: "outbox.commit_damaged", target: "sagastore", %error,
        "a commit in the outbox cannot be read; its stream waits"
    );
}

/// How often the outbox is measured for the gauges.
pub(super) const MEASURE_INTERVAL: Duration = Duration::from_secs(15);

/// Whether anybody can read the gauges.
pub(super) const MEASURES: bool = cfg!(feature = "metrics");

pub(super) fn settled(dispatched: &Dispatched) {
    let Dispatched { delivered, failed, dead, .. } = *dispatched;
    #[cfg(feature = "metrics")]
    {
        metrics::counter!("sagastore_outbox_delivered_total").increment(delivered);
        metrics::counter!("sagastore_outbox_failed_total").increment(failed);
        metrics::counter!("sagastore_outbox_dead_total").increment(dead);
    }
    tracing::debug!(name: "outbox.settled", target: "sagastore", delivered, failed, dead, "messages were acknowledged");
}

/// The partitions that have gauges.
#[derive(Debug, Default)]
pub(super) struct Gauges(#[cfg(feature = "metrics")] std::collections::BTreeSet<i64>);

#[cfg(feature = "metrics")]
fn set(partition: i64, age: Duration, pending: u64) {
    let label = partition.to_string();
    let pending = u32::try_from(pending).map_or(f64::from(u32::MAX), f64::from);
    metrics::gauge!("sagastore_outbox_partition_lag_seconds", "partition" => label.clone()).set(age.as_secs_f64());
    metrics::gauge!("sagastore_outbox_partition_pending", "partition" => label).set(pending);
}

#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "there are no gauges"))]
impl Gauges {
    /// The partitions of this dispatcher; one that is not in `lag` has nothing to do.
    pub(super) fn measured(&mut self, held: &[i64], lag: &[PartitionLag]) {
        #[cfg(feature = "metrics")]
        {
            let oldest = lag.iter().map(|lag| lag.oldest_age).max().unwrap_or_default();
            metrics::gauge!("sagastore_outbox_oldest_age_seconds").set(oldest.as_secs_f64());
            for partition in held {
                let found = lag.iter().find(|lag| lag.partition == *partition);
                let (age, pending) = found.map_or((Duration::ZERO, 0), |lag| (lag.oldest_age, lag.pending));
                set(*partition, age, pending);
                self.0.insert(*partition);
            }
        }
    }

    /// Lets nothing stand for what is not held any more.
    pub(super) fn keep(&mut self, held: &[i64]) {
        #[cfg(feature = "metrics")]
        self.0.retain(|partition| {
            let is_held = held.contains(partition);
            if !is_held {
                set(*partition, Duration::ZERO, 0);
            }
            is_held
        });
    }
}

pub(super) fn no_slot(dispatcher: &ClientId, dispatchers: u32) {
    tracing::warn!(
        name: "outbox.no_slot", target: "sagastore", %dispatcher, dispatchers,
        "as many dispatchers as may share the outbox do so already; this one waits for a slot"
    );
}

pub(super) fn lease_lost(dispatcher: &ClientId, partition: i64) {
    #[cfg(feature = "metrics")]
    metrics::counter!("sagastore_outbox_lease_losses_total").increment(1);
    tracing::warn!(
        name: "outbox.lease_lost", target: "sagastore", %dispatcher, partition,
        "a partition was taken over; what was under way of it is delivered again"
    );
}

/// A part of a dispatcher.
pub(super) fn panicked(doing: &'static str) {
    tracing::error!(
        name: "outbox.dispatcher_panicked", target: "sagastore", doing,
        "the dispatcher panicked, in code that it was given or in its own, and goes on"
    );
}

pub(super) fn failing(doing: &'static str, error: &Error) {
    tracing::warn!(name: "outbox.dispatcher_failing", target: "sagastore", doing, %error, "the dispatcher tries again");
}
