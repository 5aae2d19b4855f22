//! Timeouts: messages that an instance sends to itself for later.
//!
//! Pending ones have a table of their own, so that any number of them costs the outbox's readers nothing. A
//! [`Dispatcher`](crate::dispatcher::Dispatcher) hands what is due over to the outbox, where it waits its turn with the
//! other messages of its stream.

use std::fmt;
use std::time::Duration;

use crate::envelope::Envelope;
use crate::error::Result;
use crate::ids::check_name;
use crate::timestamp::Timestamp;

mod change;
mod pending;
mod release;
mod row;
mod tables;

pub(crate) use change::change;
pub use pending::{PendingTimeout, TimeoutStats};
pub(crate) use release::{Released, release};
pub(crate) use row::{CountRow, TimeoutRow, span};
pub(crate) use tables::{DueLook, NewTimeout, TimeoutTables};

/// Longest name of a timeout, in bytes of UTF-8.
pub const MAX_TIMEOUT_NAME_BYTES: usize = 160;
/// Most changes to timeouts in one unit of work.
pub const MAX_TIMEOUT_CHANGES: usize = 1_000;
/// Metadata of a timeout's message: the persistence key of the saga that scheduled it.
pub const TIMEOUT_SAGA: &str = "sagastore-timeout-saga";
/// Metadata of a timeout's message: the id of the instance that scheduled it.
pub const TIMEOUT_INSTANCE: &str = "sagastore-timeout-instance";
/// Metadata of a timeout's message: its name.
pub const TIMEOUT_NAME: &str = "sagastore-timeout-name";

/// Timeouts are numbered among the messages of their commit from here on, beyond all numbers of messages: so a timeout
/// is never taken for a message of its commit.
pub(crate) const TIMEOUT_INDEX_BASE: i64 = 1 << 32;

/// When a timeout is to be delivered, by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// So long after the unit of work that scheduled it was saved. Kept to the microsecond.
    After(Duration),
    /// At this time; at once if it is past.
    At(Timestamp),
}

impl From<Duration> for Due {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

impl From<Timestamp> for Due {
    fn from(at: Timestamp) -> Self {
        Self::At(at)
    }
}

/// What a unit of work does to the timeouts of its instance, in the order in which it was asked for.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeoutChange {
    /// Schedules one, in place of a pending one of the same name.
    Schedule {
        /// Tells the instance's timeouts apart.
        name: String,
        /// When it is to be delivered.
        due: Due,
        /// What is to be delivered.
        message: Envelope,
    },
    /// Cancels the one of this name, if it is pending.
    Cancel {
        /// Its name.
        name: String,
    },
    /// Cancels all.
    CancelAll,
}

impl fmt::Debug for TimeoutChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schedule { name, due, message } => {
                write!(f, "Schedule {name:?} {due:?}: {} v{}", message.type_name, message.type_version)
            }
            Self::Cancel { name } => write!(f, "Cancel {name:?}"),
            Self::CancelAll => f.write_str("CancelAll"),
        }
    }
}

pub(crate) fn check_timeout_name(name: &str) -> Result<&str> {
    check_name("name of a timeout", name, MAX_TIMEOUT_NAME_BYTES)
}
