//! Rows of timeouts on their way to values, the same for every database.

use std::time::Duration;

use super::{PendingTimeout, TimeoutStats};
use crate::error::{Error, Result};
use crate::ids::Offset;
use crate::slow_lane;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// A timeout as its columns say.
pub(crate) struct TimeoutRow {
    pub(crate) name: String,
    pub(crate) due_at: i64,
    pub(crate) recorded_at: i64,
    pub(crate) in_outbox: bool,
    pub(crate) contents: String,
    pub(crate) body: Vec<u8>,
}

impl TimeoutRow {
    pub(crate) fn pending(self, stream: &StreamName) -> Result<PendingTimeout> {
        let Self { name, due_at, recorded_at, in_outbox, contents, body } = self;
        let message = slow_lane::message(&contents, body, recorded_at).map_err(|detail| {
            let detail = format!("the message of timeout {name:?} cannot be read: {detail}");
            Error::corrupt(stream, Offset::ZERO, detail)
        })?;
        Ok(PendingTimeout { name, due_at: Timestamp::from_micros(due_at), in_outbox, message })
    }
}

/// Numbers of timeouts as a statement gives them.
pub(crate) struct CountRow {
    pub(crate) pending: i64,
    pub(crate) overdue: i64,
    pub(crate) first_due: Option<i64>,
    pub(crate) now: i64,
}

impl CountRow {
    pub(crate) fn stats(&self) -> TimeoutStats {
        let count = |count: i64| u64::try_from(count).unwrap_or_default();
        let is_due = |due: &i64| *due <= self.now;
        TimeoutStats {
            pending: count(self.pending),
            overdue: count(self.overdue),
            first_due: self.first_due.map(Timestamp::from_micros),
            overdue_for: self.first_due.filter(is_due).map(|due| span(self.now.saturating_sub(due))),
        }
    }
}

/// A length of time in microseconds; none is negative.
pub(crate) fn span(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
