//! What handling a message came to.

use crate::error::Error;
use crate::ids::InstanceId;
use crate::unit_of_work::{Handled, Saved};

/// What handling a message came to. All of these are ends: the message need not be delivered again.
#[derive(Debug)]
#[must_use]
pub enum Handling {
    /// The saga handled it.
    Handled {
        /// The instance.
        instance_id: InstanceId,
        /// What saving did.
        saved: Saved,
        /// How many tries were lost to other writers.
        conflicts: u32,
    },
    /// It was handled before; nothing was done. With what the first run did, where the message names its instance
    /// itself.
    AlreadyHandled(Option<Handled>),
    /// Its instance is not there, and it does not start one. What was declared for such messages was done.
    NotFound,
    /// Its instance is completed; nothing was done. A message never revives an instance.
    Completed {
        /// The instance.
        instance_id: InstanceId,
    },
    /// It was parked: its instance failed to handle it, or an earlier one that is still parked.
    Parked {
        /// The instance.
        instance_id: InstanceId,
        /// Why it failed; `None` if it waits behind another.
        error: Option<Error>,
    },
    /// It is not for this saga: its type is not among those that the saga handles, or its mapping says so, or it is a
    /// timeout of another saga.
    Ignored,
}

impl Handling {
    /// True if the saga handled it, now.
    pub fn is_handled(&self) -> bool {
        matches!(self, Self::Handled { .. })
    }

    /// True if it was handled before.
    pub fn is_already_handled(&self) -> bool {
        matches!(self, Self::AlreadyHandled(_))
    }

    /// True if it is parked now.
    pub fn is_parked(&self) -> bool {
        matches!(self, Self::Parked { .. })
    }
}
