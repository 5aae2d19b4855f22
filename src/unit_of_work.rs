//! One unit of work on one saga instance: what it loaded, and what it will save.

use std::fmt;

use serde::Serialize;

use crate::envelope::{Envelope, Inbound};
use crate::error::Result;
use crate::ids::{MessageId, Revision};
use crate::lock::Fence;
use crate::message::MessageType;
use crate::message_store::Head;
use crate::recorder::{Outbox, Recorder, Sender};
use crate::saga::{Instance, Saga, SagaStream};

/// Changes to one saga instance that are saved together or not at all. Saved by value, so it cannot be
/// saved twice; dropped, it leaves no trace.
pub struct UnitOfWork<'s, S: Saga, T = Outbox> {
    pub(crate) saga: &'s S,
    pub(crate) stream: SagaStream,
    pub(crate) instance: Instance<S::Data>,
    pub(crate) head: Head,
    pub(crate) recorder: Recorder<T>,
    pub(crate) completing: bool,
    pub(crate) fences: Vec<Fence>,
    pub(crate) report: LoadReport,
}

/// How an instance was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The revision of the snapshot that was used; `None` if none was.
    pub snapshot: Option<Revision>,
    /// Why a snapshot that was there was not used.
    pub ignored_snapshot: Option<SnapshotFault>,
    /// How many commits were read after the snapshot.
    pub replayed_commits: u64,
    /// How many events were applied after the snapshot.
    pub replayed_events: u64,
}

/// Why a snapshot is ignored. The instance is then rebuilt from its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// Its checksum is wrong.
    Damaged,
    /// It was taken in another form of the state.
    DataVersion,
    /// Its stream does not have its revision: it is newer than the stream, or the stream was replaced.
    NotInStream,
    /// No codec reads it.
    Undecodable,
}

impl<S: Saga, T: Sender> UnitOfWork<'_, S, T> {
    /// The instance, with all events that were published in this unit of work applied.
    pub fn instance(&self) -> &Instance<S::Data> {
        &self.instance
    }

    /// True if the instance was completed before. It takes no further events then; commands may
    /// still be sent.
    pub fn is_completed(&self) -> bool {
        self.head.completed
    }

    /// How the instance was loaded.
    pub fn load_report(&self) -> &LoadReport {
        &self.report
    }

    /// Names the message that this unit of work handles. It then takes effect at most once for this
    /// instance, and all that is recorded is caused by it. Call it before anything is recorded.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if something is recorded or another message was named.
    pub fn handling(&mut self, message: impl Into<Inbound>) -> Result<()> {
        self.recorder.set_inbound(message.into())
    }

    /// Applies an event to the instance and records it.
    ///
    /// # Errors
    /// As [`Recorder::publish`]; the event is then neither applied nor recorded. On a completed instance
    /// [`Error::Completed`](crate::Error::Completed).
    pub fn publish(&mut self, event: impl Into<S::Event>) -> Result<MessageId> {
        if self.head.completed {
            return Err(crate::Error::Completed { instance: self.instance.instance_id.clone() });
        }
        let event = event.into();
        let revision = self.instance.revision.checked_add(1)?;
        let envelope = self.recorder.publish(&event)?;
        self.saga.apply_event(&mut self.instance.data, &event, envelope);
        self.instance.revision = revision;
        Ok(envelope.message_id)
    }

    /// Records a command.
    ///
    /// # Errors
    /// As [`Recorder::execute`].
    pub fn execute<C: MessageType + Serialize>(&mut self, command: &C) -> Result<MessageId> {
        self.recorder.execute(command)
    }

    /// Records a command for a named destination.
    ///
    /// # Errors
    /// As [`Recorder::execute`].
    pub fn execute_to<C: MessageType + Serialize>(&mut self, command: &C, destination: &str) -> Result<MessageId> {
        self.recorder.execute_to(command, destination)
    }

    /// Completes the instance with this unit of work, as saving with
    /// [`save_and_complete`](crate::Persister::save_and_complete) does.
    pub fn complete(&mut self) {
        self.completing = true;
    }

    /// Lets this unit of work take effect only if the fence holds, which is checked in the transaction that
    /// saves it, and kept true until that ends. Several fences must all hold. A unit of work that writes nothing
    /// checks none.
    pub fn fence(&mut self, fence: Fence) {
        self.fences.push(fence);
    }

    /// What records and forwards this unit's messages.
    pub fn sender(&mut self) -> &mut Recorder<T> {
        &mut self.recorder
    }

    /// What was recorded so far, in order.
    pub fn recorded(&self) -> &[Envelope] {
        self.recorder.recorded()
    }
}

impl<S: Saga, T> fmt::Debug for UnitOfWork<'_, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitOfWork")
            .field("stream", &self.stream.name)
            .field("revision", &self.instance.revision)
            .field("head", &self.head)
            .field("completing", &self.completing)
            .finish_non_exhaustive()
    }
}

/// What saving a unit of work did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Saved {
    /// Nothing was recorded, so nothing was written.
    Unchanged {
        /// The instance's revision, as it was.
        revision: Revision,
    },
    /// The unit of work was written. Without events (only commands, a handled message, or
    /// completion) the revision is as it was.
    Changed {
        /// The instance's revision after it.
        revision: Revision,
    },
    /// The message was handled before by another unit of work; nothing was written.
    AlreadyHandled(Handled),
}

impl Saved {
    /// The instance's revision: after this unit of work, or after that which handled the message first.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Unchanged { revision } | Self::Changed { revision } => *revision,
            Self::AlreadyHandled(handled) => handled.revision,
        }
    }

    /// True if this unit of work was written.
    pub fn is_changed(&self) -> bool {
        matches!(self, Self::Changed { .. })
    }
}

/// What the first run of a handled message did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handled {
    /// The message.
    pub message_id: MessageId,
    /// The instance's revision after it.
    pub revision: Revision,
    /// The events and commands of that run, in order; empty if it was processed with nothing.
    /// They are in the outbox already, or were relayed: nothing sends them a second time.
    pub messages: Vec<Envelope>,
}
