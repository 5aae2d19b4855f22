//! The timeouts that an instance waits for.

use crate::envelope::Envelope;
use crate::timeout::{Due, TimeoutChange};
use crate::timestamp::Timestamp;

/// A timeout that is scheduled and not yet delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) name: String,
    pub(super) due: Timestamp,
    scheduled: Timestamp,
    pub(super) message: Envelope,
}

/// All of them, in the order in which they were scheduled.
#[derive(Debug, Default)]
pub(super) struct PendingTimeouts(Vec<Pending>);

impl PendingTimeouts {
    /// Makes a change that was asked for at a time.
    pub(super) fn change(&mut self, change: &TimeoutChange, now: Timestamp) {
        match change {
            TimeoutChange::Schedule { name, due, message } => {
                self.remove(name);
                let (name, due, message) = (name.clone(), resolve(*due, now), message.clone());
                self.0.push(Pending { name, due, scheduled: now, message });
            }
            TimeoutChange::Cancel { name } => self.remove(name),
            TimeoutChange::CancelAll => self.0.clear(),
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|pending| pending.name != name);
    }

    /// Forgets one that was delivered, unless another one has its name by now.
    pub(super) fn remove_delivered(&mut self, delivered: &Pending) {
        self.0.retain(|pending| pending != delivered);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn named(&self, name: &str) -> Option<&Pending> {
        self.0.iter().find(|pending| pending.name == name)
    }

    /// The first to be delivered of those that are due by then. As in a database, one that was scheduled for a time that
    /// was past takes its place when it was scheduled; of those that have one time, the one that was scheduled first.
    pub(super) fn first_due(&self, by: Timestamp) -> Option<&Pending> {
        let place = |pending: &&Pending| pending.due.max(pending.scheduled);
        self.0.iter().filter(|pending| pending.due <= by).min_by_key(place)
    }

    /// The names, in alphabetical order.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.0.iter().map(|pending| pending.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

/// When that is.
pub(super) fn resolve(due: Due, now: Timestamp) -> Timestamp {
    match due {
        Due::After(after) => later(now, after),
        Due::At(at) => at,
    }
}

/// So long after; the end of time if that is beyond it.
pub(super) fn later(now: Timestamp, after: std::time::Duration) -> Timestamp {
    let after = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_add(after))
}
