//! What a saga does with a message.

use serde::de::DeserializeOwned;

use crate::error::Cause;
use crate::message::MessageType;
use crate::saga::Saga;
use crate::unit_of_work::UnitOfWork;

/// A saga that handles messages: commands, events of others, and its own timeouts.
pub trait HandleMessage: Saga {
    /// The messages that it handles, by the names and versions of their [`MessageType`]. Older versions are brought up
    /// to date by [`MessageType::upcast`], as stored events are. Messages of other types are not for this saga.
    type Message: MessageType + DeserializeOwned + Send + Sync;

    /// Says whether this message may start an instance. One that may not, and whose instance is not there, was
    /// sent too early, too late or astray.
    fn is_trigger(&self, message: &Self::Message) -> bool;

    /// Decides what a message leads to: publishes events, executes commands, schedules and cancels timeouts.
    ///
    /// It may run several times for one message, when another writer was faster; so it must have no effects but those
    /// that it records in `unit`, which are stored together or not at all.
    ///
    /// # Errors
    /// Anything; nothing of this unit of work is stored then. It is returned as [`Error::Handler`](crate::Error::Handler), unless it is
    /// an error of this crate: see [`InTransaction::run`](super::InTransaction::run). A panic is an error too.
    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &Self::Message) -> Result<(), Cause>
    where
        Self: Sized;
}
