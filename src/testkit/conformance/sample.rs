//! Messages and units of work for clauses.

use bytes::Bytes;

use crate::commit::EncodedCommit;
use crate::envelope::Envelope;
use crate::error::{Cause, Result};
use crate::ids::{InstanceId, MessageId};
use crate::limits::Limits;
use crate::message::MessageKind;
use crate::message_store::{Head, HeadTrust, SnapshotChange, UnitCommit};
use crate::saga::SagaStream;
use crate::timestamp::Timestamp;

/// Names that a careless store confuses or breaks on.
pub(super) const HOSTILE_NAMES: [&str; 12] = [
    "name",
    "Name",
    "name ",
    " name",
    "n\u{e4}me",
    "na\u{308}me",
    "n'am\"e",
    "n\\ame",
    "n%am_e",
    "'; DROP TABLE saga_commit; --",
    "\u{1F600}\u{202E}",
    "a\tb\nc",
];

pub(super) fn event(payload: impl Into<Bytes>) -> Result<Envelope> {
    Envelope::new(MessageKind::Event, "Happened", 1, "text/plain", payload)
}

pub(super) fn command(payload: impl Into<Bytes>) -> Result<Envelope> {
    Envelope::new(MessageKind::Command, "DoIt", 1, "text/plain", payload)
}

/// So many events, each with its number.
pub(super) fn events(numbers: std::ops::Range<u32>) -> Result<Vec<Envelope>> {
    numbers.map(|number| event(number.to_string())).collect()
}

/// A message of which every field has a value of its own.
pub(super) fn peculiar(kind: MessageKind) -> Result<Envelope> {
    let mut message =
        Envelope::new(kind, "T\u{fc}p'\"\\%", u32::MAX, "application/x-own+\u{fc}; a=\"b\"", every_byte())?;
    message.causation_id = MessageId::new();
    message.correlation_id = MessageId::new();
    message.destination = Some("q'\"\\\u{96ea}".into());
    message.created_at = Timestamp::from_micros(-1_234_567_890_123);
    for (key, value) in [("", ""), ("k'\"\\", "v\u{0}\u{1F600}"), ("n", "\n\r\t ")] {
        message.metadata.insert(key.to_owned(), value.to_owned());
    }
    Ok(message)
}

pub(super) fn every_byte() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

/// What a message was before it was stored.
pub(super) fn as_sent(message: &Envelope) -> Envelope {
    Envelope { recorded_at: None, ..message.clone() }
}

/// A unit of work to be committed.
pub(super) struct Unit {
    pub(super) stream: SagaStream,
    pub(super) head: Head,
    pub(super) encoded: EncodedCommit,
    pub(super) handled: Option<MessageId>,
    pub(super) completed: bool,
}

impl Unit {
    pub(super) fn new(stream: &SagaStream, head: Head, messages: &[Envelope]) -> Result<Self> {
        let encoded = EncodedCommit::encode(&stream.name, messages, &Limits::default())?;
        Ok(Self { stream: stream.clone(), head, encoded, handled: None, completed: false })
    }

    pub(super) fn handling(mut self, message: MessageId) -> Self {
        self.handled = Some(message);
        self
    }

    pub(super) fn completing(mut self) -> Self {
        self.completed = true;
        self
    }

    pub(super) fn as_commit(&self) -> UnitCommit<'_> {
        UnitCommit {
            stream: &self.stream,
            head: &self.head,
            head_trust: HeadTrust::Check,
            encoded: &self.encoded,
            handled: self.handled,
            completed: self.completed,
            deliver: false,
            snapshots: SnapshotChange::None,
        }
    }
}

/// The stream of an instance of the saga that clauses use.
pub(super) fn saga_stream(key: &str, id: &str) -> Result<SagaStream, Cause> {
    Ok(SagaStream::new(key, &InstanceId::new(id)?)?)
}
