//! How much waits.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// How much waits in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// Messages that wait for delivery, also records that are due later; of timeouts only those that are due.
    pub pending: u64,
    /// When the oldest of them was recorded.
    pub oldest: Option<Timestamp>,
    /// How long ago that was, by the database's clock.
    pub oldest_age: Option<Duration>,
    /// Dead letters, damaged ones too; they are not among those that wait.
    pub dead_letters: u64,
}

/// How far the relaying of one partition is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// The partition, from 0 on.
    pub partition: i64,
    /// Messages that are due.
    pub pending: u64,
    /// How long the oldest of them has waited since it was recorded, by the database's clock.
    pub oldest_age: Duration,
}

impl PartitionLag {
    /// For outboxes of one's own.
    pub fn new(partition: i64, pending: u64, oldest_age: Duration) -> Self {
        Self { partition, pending, oldest_age }
    }
}
