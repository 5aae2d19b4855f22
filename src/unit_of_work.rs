//! One unit of work on one saga instance: what it loaded, and what it will save.

use std::fmt;

use serde::Serialize;

use crate::envelope::{Envelope, Inbound};
use crate::error::{Error, Result};
use crate::ids::{MessageId, Revision};
use crate::lock::Fence;
use crate::message::{MessageKind, MessageType};
use crate::message_store::{Head, HeadTrust};
use crate::recorder::{Outbox, Recorder, Sender};
use crate::saga::{Instance, Saga, SagaStream};
use crate::timeout::{Due, MAX_TIMEOUT_CHANGES, TIMEOUT_INSTANCE, TIMEOUT_NAME, TIMEOUT_SAGA};
use crate::timeout::{TimeoutChange, check_timeout_name};
use crate::timestamp::Timestamp;

/// Changes to one saga instance that are saved together or not at all. Saved by value, so it cannot be
/// saved twice; dropped, it leaves no trace.
pub struct UnitOfWork<'s, S: Saga, T = Outbox> {
    pub(crate) saga: &'s S,
    pub(crate) stream: SagaStream,
    pub(crate) instance: Instance<S::Data>,
    pub(crate) head: Head,
    /// Of units of work that are saved on the connection on which they were loaded.
    pub(crate) head_trust: HeadTrust,
    pub(crate) recorder: Recorder<T>,
    pub(crate) completing: bool,
    pub(crate) fences: Vec<Fence>,
    pub(crate) timeouts: Vec<TimeoutChange>,
    pub(crate) report: LoadReport,
}

/// How an instance was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The instance was still in memory, and nothing was read.
    pub cached: bool,
    /// The revision of the snapshot that was used; `None` if none was. Of an instance that was in memory, the newest
    /// snapshot that was used or taken meanwhile.
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

impl<'s, S: Saga, T> UnitOfWork<'s, S, T> {
    pub(crate) fn new(
        saga: &'s S,
        stream: SagaStream,
        instance: Instance<S::Data>,
        head: Head,
        recorder: Recorder<T>,
        report: LoadReport,
    ) -> Self {
        Self {
            saga,
            stream,
            instance,
            head,
            head_trust: HeadTrust::Check,
            recorder,
            completing: false,
            fences: Vec::new(),
            timeouts: Vec::new(),
            report,
        }
    }
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
    /// [`Error::InvalidInput`] if something is recorded or another message was named.
    pub fn handling(&mut self, message: impl Into<Inbound>) -> Result<()> {
        self.recorder.set_inbound(message.into())
    }

    /// Applies an event to the instance and records it.
    ///
    /// # Errors
    /// As [`Recorder::publish`]; the event is then neither applied nor recorded. On a completed instance
    /// [`Error::Completed`].
    pub fn publish(&mut self, event: impl Into<S::Event>) -> Result<MessageId> {
        if self.head.completed {
            return Err(Error::Completed { instance: self.instance.instance_id.clone() });
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

    /// Schedules a message of the instance to itself. It is stored with this unit of work and relayed by the
    /// dispatcher once it is due, in place of one of the same `name` that is pending or a dead letter: scheduling again is
    /// rescheduling.
    /// Gives the id under which it will be delivered.
    ///
    /// It comes at least once, under this id, in its turn among the messages of its stream; see
    /// [guarantees](crate::docs::guarantees) for what that leaves open. It goes to the outbox of the message store, whatever
    /// [`Sender`] this unit of work has. With timeouts to change, a unit of work is several statements in a transaction instead
    /// of one.
    ///
    /// It carries the saga, the instance and its name in its metadata ([`TIMEOUT_SAGA`], [`TIMEOUT_INSTANCE`],
    /// [`TIMEOUT_NAME`]); a [`MessageHandler`](crate::MessageHandler) finds its instance by them.
    ///
    /// # Errors
    /// As [`Recorder::publish`]; [`Error::InvalidInput`] for a name that is empty, holds NUL or is longer than
    /// [`MAX_TIMEOUT_NAME_BYTES`](crate::MAX_TIMEOUT_NAME_BYTES); [`Error::TooLarge`] after
    /// [`MAX_TIMEOUT_CHANGES`]; [`Error::Completed`] on a completed instance.
    pub fn schedule<M>(&mut self, name: &str, message: &M, due: impl Into<Due>) -> Result<MessageId>
    where
        M: MessageType + Serialize,
    {
        if self.head.completed {
            return Err(Error::Completed { instance: self.instance.instance_id.clone() });
        }
        let name = check_timeout_name(name)?.to_owned();
        let mut message = self.recorder.envelope_of(MessageKind::Command, message)?;
        let origin = [
            (TIMEOUT_SAGA, self.stream.persistence_key.as_str()),
            (TIMEOUT_INSTANCE, self.instance.instance_id.as_str()),
            (TIMEOUT_NAME, &name),
        ];
        message.metadata.extend(origin.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let message_id = message.message_id;
        self.change_timeouts(TimeoutChange::Schedule { name, due: due.into(), message })?;
        Ok(message_id)
    }

    /// Cancels the pending timeout of this name with this unit of work; without one, nothing is done. Also one that is due and
    /// waits in the outbox, or became a dead letter there. A timeout that a dispatcher has read into its batch may still
    /// arrive: handle one that comes too late as nothing to do.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a name that no timeout can have; [`Error::TooLarge`] after [`MAX_TIMEOUT_CHANGES`].
    pub fn cancel_timeout(&mut self, name: &str) -> Result<()> {
        let name = check_timeout_name(name)?.to_owned();
        self.change_timeouts(TimeoutChange::Cancel { name })
    }

    /// Cancels all pending timeouts of the instance with this unit of work, also those that it has scheduled itself so
    /// far.
    pub fn cancel_timeouts(&mut self) {
        self.timeouts.clear();
        self.timeouts.push(TimeoutChange::CancelAll);
    }

    /// What this unit of work does to timeouts, in the order in which it was asked for.
    pub fn timeout_changes(&self) -> &[TimeoutChange] {
        &self.timeouts
    }

    fn change_timeouts(&mut self, change: TimeoutChange) -> Result<()> {
        if self.timeouts.len() >= MAX_TIMEOUT_CHANGES {
            let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            let (size, limit) = (count(self.timeouts.len()) + 1, count(MAX_TIMEOUT_CHANGES));
            return Err(Error::TooLarge { what: "changes to timeouts of one unit of work", size, limit });
        }
        self.timeouts.push(change);
        Ok(())
    }

    /// Completes the instance with this unit of work, as saving with
    /// [`save_and_complete`](crate::Persister::save_and_complete) does.
    pub fn complete(&mut self) {
        self.completing = true;
    }

    /// This unit of work completes the instance.
    pub(crate) fn completes(&self) -> bool {
        let events = self.instance.revision.next_offset() > self.head.next_offset;
        !self.head.completed && (self.completing || events && self.saga.is_complete(&self.instance.data))
    }

    /// Lets this unit of work take effect only if the fence holds, which is checked in the transaction that
    /// saves it, and kept true until that ends. Several fences must all hold. A unit of work that writes nothing
    /// checks none.
    pub fn fence(&mut self, fence: Fence) {
        self.fences.push(fence);
    }

    /// The time, by the clock of this process; in the test kit (feature `testkit`) by a clock that is moved by hand. It
    /// is not the database's clock, by which timeouts become due: schedule by a duration where that matters. Put into
    /// an event what the state is to know of it: [`apply_event`](Saga::apply_event) must not ask the time.
    pub fn now(&self) -> Timestamp {
        self.recorder.now()
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
