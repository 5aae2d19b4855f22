//! A message and all that travels with it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::{MessageId, Offset, check_name};
use crate::message::MessageKind;
use crate::source::Source;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// Longest type name, content type or destination, in bytes of UTF-8.
pub const MAX_LABEL_BYTES: usize = 255;

/// Names of the headers of a message on its way through a broker.
pub(crate) const HEADER_MESSAGE_ID: &str = "message-id";
pub(crate) const HEADER_CAUSATION_ID: &str = "causation-id";
pub(crate) const HEADER_CORRELATION_ID: &str = "correlation-id";
pub(crate) const HEADER_TYPE: &str = "type";
pub(crate) const HEADER_TYPE_VERSION: &str = "type-version";
pub(crate) const HEADER_CONTENT_TYPE: &str = "content-type";
pub(crate) const HEADER_CREATED_AT: &str = "created-at";
pub(crate) const HEADER_DESTINATION: &str = "destination";

/// Free-form text pairs that travel with a message.
pub type Metadata = BTreeMap<String, String>;

/// A message with its identity, its causes, its type and its payload.
///
/// Cloning is cheap: texts and payload are shared.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// Identity of this message.
    pub message_id: MessageId,
    /// The message that led to this one; its own id if none did.
    pub causation_id: MessageId,
    /// The first message of the chain that led to this one; its own id if none did.
    pub correlation_id: MessageId,
    /// Event or command.
    pub kind: MessageKind,
    /// Name of the message's type.
    pub type_name: Arc<str>,
    /// Version of the message's type.
    pub type_version: u32,
    /// How `payload` is encoded.
    pub content_type: Arc<str>,
    /// Where a command is to go, if the sender said so.
    pub destination: Option<Arc<str>>,
    /// When the message was made, by the clock of the process that made it.
    pub created_at: Timestamp,
    /// When it was stored, by the clock of the database; `None` until then. Within a stream it
    /// strictly rises from commit to commit. SQLite's clock ticks in milliseconds.
    pub recorded_at: Option<Timestamp>,
    /// Free-form text pairs.
    pub metadata: Metadata,
    /// The encoded message, byte for byte as it was given.
    pub payload: Bytes,
}

impl Envelope {
    /// A new root message: it is its own cause.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if the type name or the content type is
    /// empty, longer than [`MAX_LABEL_BYTES`], or holds NUL.
    pub fn new(
        kind: MessageKind,
        type_name: impl Into<Arc<str>>,
        type_version: u32,
        content_type: impl Into<Arc<str>>,
        payload: impl Into<Bytes>,
    ) -> Result<Self> {
        Self::made_by(&Source::Process, kind, type_name, type_version, content_type, payload)
    }

    /// As [`new`](Self::new), with an id and a time of this source.
    pub(crate) fn made_by(
        source: &Source,
        kind: MessageKind,
        type_name: impl Into<Arc<str>>,
        type_version: u32,
        content_type: impl Into<Arc<str>>,
        payload: impl Into<Bytes>,
    ) -> Result<Self> {
        let message_id = source.message_id();
        let envelope = Self {
            message_id,
            causation_id: message_id,
            correlation_id: message_id,
            kind,
            type_name: type_name.into(),
            type_version,
            content_type: content_type.into(),
            destination: None,
            created_at: source.now(),
            recorded_at: None,
            metadata: Metadata::new(),
            payload: payload.into(),
        };
        envelope.check()?;
        Ok(envelope)
    }

    /// The message that a broker delivered with these headers, which are those of
    /// [`OutboxRecord::headers`](crate::OutboxRecord::headers); other headers become metadata. The broker does not tell
    /// events from commands, so the caller says what it is.
    ///
    /// Without `message-id`, `causation-id`, `correlation-id` or `created-at` the message is a new root message, made now:
    /// it is then not recognised when it comes again.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if `type`, `type-version` or `content-type` is missing, or any of
    /// the headers does not parse.
    pub fn from_headers(
        kind: MessageKind,
        headers: &BTreeMap<String, String>,
        payload: impl Into<Bytes>,
    ) -> Result<Self> {
        fn parse<T: FromStr<Err: fmt::Display>>(headers: &BTreeMap<String, String>, name: &str) -> Result<Option<T>> {
            let parsed = headers.get(name).map(|value| value.parse::<T>()).transpose();
            parsed.map_err(|error| Error::invalid("header of a message", format!("{name}: {error}")))
        }
        fn needed<T: FromStr<Err: fmt::Display>>(headers: &BTreeMap<String, String>, name: &str) -> Result<T> {
            let missing = || Error::invalid("header of a message", format!("{name} is missing"));
            parse(headers, name)?.ok_or_else(missing)
        }
        let type_name: String = needed(headers, HEADER_TYPE)?;
        let content_type: String = needed(headers, HEADER_CONTENT_TYPE)?;
        let mut envelope = Self::new(kind, type_name, needed(headers, HEADER_TYPE_VERSION)?, content_type, payload)?;
        if let Some(id) = parse(headers, HEADER_MESSAGE_ID)? {
            envelope = envelope.with_message_id(id);
        }
        envelope.causation_id = parse(headers, HEADER_CAUSATION_ID)?.unwrap_or(envelope.causation_id);
        envelope.correlation_id = parse(headers, HEADER_CORRELATION_ID)?.unwrap_or(envelope.correlation_id);
        envelope.created_at = parse(headers, HEADER_CREATED_AT)?.unwrap_or(envelope.created_at);
        envelope.destination = headers.get(HEADER_DESTINATION).map(|to| to.as_str().into());
        let own = |name: &str| {
            [
                HEADER_MESSAGE_ID,
                HEADER_CAUSATION_ID,
                HEADER_CORRELATION_ID,
                HEADER_TYPE,
                HEADER_TYPE_VERSION,
                HEADER_CONTENT_TYPE,
                HEADER_CREATED_AT,
                HEADER_DESTINATION,
            ]
            .contains(&name)
        };
        let others = headers.iter().filter(|(name, _)| !own(name));
        envelope.metadata.extend(others.map(|(name, value)| (name.clone(), value.clone())));
        envelope.check()?;
        Ok(envelope)
    }

    /// The same message, caused by `parent` and in its chain.
    #[must_use]
    pub fn caused_by(mut self, parent: &Inbound) -> Self {
        self.causation_id = parent.message_id;
        self.correlation_id = parent.correlation_id;
        self
    }

    /// The same message under another id; a root message stays its own cause.
    #[must_use]
    pub fn with_message_id(mut self, id: MessageId) -> Self {
        for cause in [&mut self.causation_id, &mut self.correlation_id] {
            if *cause == self.message_id {
                *cause = id;
            }
        }
        self.message_id = id;
        self
    }

    /// Checks the texts that a caller can set.
    pub(crate) fn check(&self) -> Result<()> {
        check_name("type name", &self.type_name, MAX_LABEL_BYTES)?;
        check_name("content type", &self.content_type, MAX_LABEL_BYTES)?;
        if let Some(destination) = &self.destination {
            check_name("destination", destination, MAX_LABEL_BYTES)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Envelope {
    /// Shows everything but the payload, which may be secret, and the metadata's values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("message_id", &self.message_id)
            .field("causation_id", &self.causation_id)
            .field("correlation_id", &self.correlation_id)
            .field("kind", &self.kind)
            .field("type", &format_args!("{} v{}", self.type_name, self.type_version))
            .field("content_type", &self.content_type)
            .field("destination", &self.destination)
            .field("created_at", &format_args!("{}", self.created_at))
            .field("recorded_at", &self.recorded_at.map(|at| at.to_string()))
            .field("metadata", &self.metadata.keys().collect::<Vec<_>>())
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish()
    }
}

/// The message that a unit of work handles: what is recorded in it is caused by this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Its id; handled at most once per instance.
    pub message_id: MessageId,
    /// The first message of its chain.
    pub correlation_id: MessageId,
}

impl From<MessageId> for Inbound {
    /// A root message.
    fn from(message_id: MessageId) -> Self {
        Self { message_id, correlation_id: message_id }
    }
}

impl From<&Envelope> for Inbound {
    fn from(envelope: &Envelope) -> Self {
        Self { message_id: envelope.message_id, correlation_id: envelope.correlation_id }
    }
}

/// An event as it stands in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedEvent {
    /// The stream.
    pub stream: StreamName,
    /// Its place in the stream.
    pub offset: Offset,
    /// The event.
    pub envelope: Envelope,
}

impl RecordedEvent {
    /// For stores of one's own.
    pub fn new(stream: StreamName, offset: Offset, envelope: Envelope) -> Self {
        Self { stream, offset, envelope }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Envelope {
        Envelope::new(MessageKind::Event, "Happened", 1, "text/plain", "secret").expect("valid")
    }

    #[test]
    fn a_child_names_its_parent_and_the_root() {
        let root = message();
        let child = message().caused_by(&Inbound::from(&root));
        let grandchild = message().caused_by(&Inbound::from(&child));
        assert_eq!((root.causation_id, root.correlation_id), (root.message_id, root.message_id));
        assert_eq!((child.causation_id, child.correlation_id), (root.message_id, root.message_id));
        assert_eq!((grandchild.causation_id, grandchild.correlation_id), (child.message_id, root.message_id));
    }

    #[test]
    fn debug_output_does_not_show_the_payload() {
        assert!(!format!("{:?}", message()).contains("secret"));
    }

    #[test]
    fn a_message_comes_back_from_its_headers() {
        let mut sent = message().caused_by(&Inbound::from(&message()));
        sent.destination = Some("billing".into());
        sent.metadata.insert("traceparent".into(), "00-1".into());
        let headers = |message: &Envelope| {
            let record = crate::OutboxRecord {
                id: crate::OutboxId::START,
                aggregate_type: "order".into(),
                aggregate_id: "1".into(),
                envelope: message.clone(),
                attempts: 0,
            };
            record.headers()
        };
        let came = Envelope::from_headers(MessageKind::Event, &headers(&sent), sent.payload.clone()).expect("whole");
        assert_eq!(came, sent);
        for name in ["type", "type-version", "content-type"] {
            let mut headers = headers(&sent);
            headers.remove(name);
            let came = Envelope::from_headers(MessageKind::Event, &headers, "");
            assert!(came.expect_err(name).to_string().contains(name));
        }
        for name in ["type-version", "message-id", "causation-id", "correlation-id", "created-at", "type"] {
            let mut headers = headers(&sent);
            headers.insert(name.to_owned(), String::new());
            assert!(Envelope::from_headers(MessageKind::Event, &headers, "").is_err(), "{name}");
        }
        let few = BTreeMap::from([("type", "A"), ("type-version", "1"), ("content-type", "text/plain")]);
        let few = few.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let came = Envelope::from_headers(MessageKind::Command, &few, "").expect("enough");
        assert_eq!((came.causation_id, came.correlation_id), (came.message_id, came.message_id));
    }

    #[test]
    fn labels_are_checked() {
        assert!(Envelope::new(MessageKind::Event, "", 1, "text/plain", "").is_err());
        assert!(Envelope::new(MessageKind::Event, "a", 1, "\0", "").is_err());
    }
}
