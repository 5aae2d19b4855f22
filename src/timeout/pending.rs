//! What is scheduled, for who looks.

use std::time::Duration;

use crate::envelope::Envelope;
use crate::timestamp::Timestamp;

/// A timeout that was neither delivered nor cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingTimeout {
    /// Tells the instance's timeouts apart.
    pub name: String,
    /// When it is to be delivered.
    pub due_at: Timestamp,
    /// It was due, and waits in the outbox with the other messages of its stream; see
    /// [`Dispatcher`](crate::dispatcher::Dispatcher).
    pub in_outbox: bool,
    /// What is to be delivered.
    pub message: Envelope,
}

/// How many timeouts wait to be due, or for a dispatcher to notice that they are. What is in the outbox is counted
/// [there](crate::OutboxStats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeoutStats {
    /// All that wait.
    pub pending: u64,
    /// Those of them that are due. It does not stay above zero for longer than a dispatcher's poll interval if
    /// dispatchers run and keep up.
    pub overdue: u64,
    /// When the first of all is or was due.
    pub first_due: Option<Timestamp>,
    /// How long that was ago, by the database's clock, if it is due.
    pub overdue_for: Option<Duration>,
}
