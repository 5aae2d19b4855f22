//! Records what a unit of work sends.

use serde::Serialize;

use crate::codec::{self, Codecs};
use crate::envelope::{Envelope, Inbound, Metadata};
use crate::error::{Cause, Error, Result};
use crate::ids::MessageId;
use crate::limits::Limits;
use crate::message::{MessageKind, MessageType};
use crate::source::Source;
use crate::timestamp::Timestamp;

/// Where a framework wants the messages of its units of work to go.
///
/// [`Outbox`] writes them with the commit. A sender of the framework's own is handed each message
/// while the unit of work is still open: it must not let any out before the transaction has
/// committed, and must forget them if it does not.
pub trait Sender: Send {
    /// Takes one message.
    ///
    /// # Errors
    /// A refusal; the message is then neither recorded nor applied.
    fn send(&mut self, message: &Envelope) -> Result<(), Cause>;

    /// True if the messages are to be relayed from the outbox.
    fn uses_outbox(&self) -> bool {
        false
    }
}

/// The transactional outbox: messages are stored with the commit, and relayed afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbox;

impl Sender for Outbox {
    fn send(&mut self, _: &Envelope) -> Result<(), Cause> {
        Ok(())
    }

    fn uses_outbox(&self) -> bool {
        true
    }
}

/// Collects the messages, for a framework that sends them itself after its commit.
impl Sender for Vec<Envelope> {
    fn send(&mut self, message: &Envelope) -> Result<(), Cause> {
        self.push(message.clone());
        Ok(())
    }
}

impl<T: Sender + ?Sized> Sender for &mut T {
    fn send(&mut self, message: &Envelope) -> Result<(), Cause> {
        (**self).send(message)
    }

    fn uses_outbox(&self) -> bool {
        (**self).uses_outbox()
    }
}

impl<T: Sender + ?Sized> Sender for Box<T> {
    fn send(&mut self, message: &Envelope) -> Result<(), Cause> {
        (**self).send(message)
    }

    fn uses_outbox(&self) -> bool {
        (**self).uses_outbox()
    }
}

/// Records events and commands around a [`Sender`], in order. A plain value, usable without any
/// database.
///
/// ```
/// use sagastore::{Inbound, MessageId, Recorder};
/// # #[derive(serde::Serialize)] enum E { Paid }
/// # sagastore::message_types!(E { Paid: "Paid" 1 });
/// let cause = MessageId::new();
/// let mut recorder = Recorder::new(Vec::new());
/// recorder.set_inbound(cause.into())?;
/// recorder.publish(&E::Paid)?;
/// assert_eq!(recorder.recorded()[0].causation_id, cause);
/// # Ok::<(), sagastore::Error>(())
/// ```
#[derive(Clone)]
pub struct Recorder<T> {
    sender: T,
    codecs: Codecs,
    limits: Limits,
    inbound: Option<Inbound>,
    metadata: Metadata,
    recorded: Vec<Envelope>,
    source: Source,
}

impl<T: Sender> Recorder<T> {
    /// Records around `sender`, with the default codecs and limits.
    #[cfg(any(feature = "json", feature = "bincode"))]
    pub fn new(sender: T) -> Self {
        Self::with_codecs(sender, Codecs::default(), Limits::default())
    }

    /// Records around `sender`.
    pub fn with_codecs(sender: T, codecs: Codecs, limits: Limits) -> Self {
        let (metadata, recorded, source) = (Metadata::new(), Vec::new(), Source::default());
        Self { sender, codecs, limits, inbound: None, metadata, recorded, source }
    }

    /// Takes ids and times from another source than the process.
    #[cfg(feature = "testkit")]
    pub(crate) fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// Sets the message that causes all that is recorded from here on.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] once something is recorded, or if another message is set.
    pub fn set_inbound(&mut self, inbound: Inbound) -> Result<()> {
        if !self.recorded.is_empty() {
            return Err(Error::invalid("handled message", "it must be set before anything is recorded"));
        }
        if self.inbound.is_some_and(|known| known != inbound) {
            return Err(Error::invalid("handled message", "a unit of work handles one message"));
        }
        self.inbound = Some(inbound);
        Ok(())
    }

    /// Adds a text pair to all messages that are recorded from here on.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// Records an event and hands it to the sender.
    ///
    /// # Errors
    /// [`Error::InvalidInput`], [`Error::Unencodable`], [`Error::TooLarge`] or [`Error::Sender`]; nothing is
    /// recorded then.
    pub fn publish<M: MessageType + Serialize>(&mut self, event: &M) -> Result<&Envelope> {
        self.record(MessageKind::Event, event, None)
    }

    /// Records a command and hands it to the sender, which knows where it goes.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn execute<M: MessageType + Serialize>(&mut self, command: &M) -> Result<MessageId> {
        self.record(MessageKind::Command, command, None).map(|message| message.message_id)
    }

    /// Records a command for a named destination and hands it to the sender.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn execute_to<M: MessageType + Serialize>(&mut self, command: &M, destination: &str) -> Result<MessageId> {
        self.record(MessageKind::Command, command, Some(destination)).map(|message| message.message_id)
    }

    fn record<M>(&mut self, kind: MessageKind, message: &M, destination: Option<&str>) -> Result<&Envelope>
    where
        M: MessageType + Serialize,
    {
        let mut envelope = self.envelope_of(kind, message)?;
        envelope.destination = destination.map(Into::into);
        envelope.check()?;
        let message_id = envelope.message_id;
        self.sender.send(&envelope).map_err(|source| Error::Sender { message_id, source })?;
        self.recorded.push(envelope);
        Ok(self.recorded.last().expect("BUG: a message was just pushed"))
    }

    /// The message as it would be recorded.
    pub(crate) fn envelope_of<M>(&self, kind: MessageKind, message: &M) -> Result<Envelope>
    where
        M: MessageType + Serialize,
    {
        message.validate().map_err(|detail| Error::InvalidInput { what: "message", detail })?;
        let tag = message.message_type();
        let codec = self.codecs.events();
        let limit = self.limits.message_bytes;
        let payload = codec::encode(codec, tag.name, "message payload in bytes", limit, message)?;
        let mut envelope = Envelope::made_by(&self.source, kind, tag.name, tag.version, codec.content_type(), payload)?;
        envelope.metadata.clone_from(&self.metadata);
        if let Some(inbound) = &self.inbound {
            envelope = envelope.caused_by(inbound);
        }
        Ok(envelope)
    }

    /// What was recorded so far, in order.
    pub fn recorded(&self) -> &[Envelope] {
        &self.recorded
    }

    /// The message that causes what is recorded.
    pub fn inbound(&self) -> Option<Inbound> {
        self.inbound
    }

    /// The time that messages recorded now are given as [`created_at`](Envelope::created_at): the clock of this
    /// process, or that of the test kit.
    pub fn now(&self) -> Timestamp {
        self.source.now()
    }

    /// The sender.
    pub fn sender(&mut self) -> &mut T {
        &mut self.sender
    }

    pub(crate) fn uses_outbox(&self) -> bool {
        self.sender.uses_outbox()
    }

    pub(crate) fn codecs(&self) -> &Codecs {
        &self.codecs
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;

    #[derive(Serialize)]
    enum Step {
        Good,
        Invalid,
        Unencodable(std::collections::BTreeMap<Vec<u8>, u8>),
    }

    impl MessageType for Step {
        const TYPES: &'static [crate::TypeTag] = &[crate::TypeTag::new("Step", 1)];

        fn message_type(&self) -> crate::TypeTag {
            crate::TypeTag::new("Step", 1)
        }

        fn validate(&self) -> Result<(), String> {
            if matches!(self, Self::Invalid) { Err("it is invalid".to_owned()) } else { Ok(()) }
        }
    }

    struct Refusing;
    impl Sender for Refusing {
        fn send(&mut self, _: &Envelope) -> Result<(), Cause> {
            Err("no".into())
        }
    }

    #[test]
    fn events_and_commands_are_recorded_and_forwarded_in_order() {
        let mut sent = Vec::new();
        let mut recorder = Recorder::new(&mut sent);
        recorder.set_metadata("tenant", "7");
        recorder.publish(&Step::Good).expect("recorded");
        recorder.execute_to(&Step::Good, "billing").expect("recorded");
        recorder.execute(&Step::Good).expect("recorded");
        let kinds: Vec<_> = recorder.recorded().iter().map(|m| (m.kind, m.destination.as_deref())).collect();
        let command = MessageKind::Command;
        assert_eq!(kinds, [(MessageKind::Event, None), (command, Some("billing")), (command, None)]);
        assert!(recorder.recorded().iter().all(|m| m.metadata["tenant"] == "7"));
        let recorded = recorder.recorded().to_vec();
        assert_eq!(sent, recorded);
    }

    #[test]
    fn what_cannot_be_sent_is_not_recorded() {
        let bad_key = Step::Unencodable(std::collections::BTreeMap::from([(vec![1], 1)]));
        let mut recorder = Recorder::new(Outbox);
        assert!(matches!(recorder.publish(&Step::Invalid), Err(Error::InvalidInput { .. })));
        assert!(matches!(recorder.publish(&bad_key), Err(Error::Unencodable { .. })));
        assert!(recorder.recorded().is_empty());
        let mut refusing = Recorder::new(Refusing);
        assert!(matches!(refusing.publish(&Step::Good), Err(Error::Sender { .. })));
        assert!(refusing.recorded().is_empty());
    }

    #[test]
    fn the_handled_message_is_set_once_and_first() {
        let mut recorder = Recorder::new(Outbox);
        let inbound = Inbound::from(MessageId::new());
        recorder.set_inbound(inbound).expect("first");
        recorder.set_inbound(inbound).expect("the same again");
        assert!(recorder.set_inbound(MessageId::new().into()).is_err());
        recorder.publish(&Step::Good).expect("recorded");
        assert!(recorder.set_inbound(inbound).is_err());
    }
}
