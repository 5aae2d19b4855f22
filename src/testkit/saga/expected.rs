//! What a test expects to be sent.

use std::fmt;

use erased_serde::Serialize;

use super::diff::Shown;
use crate::codec::{self, Codecs, JSON_CONTENT_TYPE};
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::message::{MessageKind, MessageType, TypeTag};
use crate::source::Source;
use crate::timeout::Due;
use crate::timestamp::Timestamp;

/// How many bytes of a payload are shown that is not JSON.
const SHOWN_BYTES: usize = 32;

/// A message that is expected: its type and its content. It is encoded as the saga's own messages are, and
/// compared in that form.
pub(super) struct Expected {
    tag: TypeTag,
    value: Box<dyn Serialize>,
}

/// An expected command. Any command turns into one; [`to`](Self::to) adds where it goes.
pub struct ExpectedCommand {
    message: Expected,
    destination: Option<String>,
}

impl ExpectedCommand {
    /// Expects this command, wherever it goes.
    pub fn new<C: MessageType + serde::Serialize + 'static>(command: C) -> Self {
        Self { message: Expected::new(command), destination: None }
    }

    /// Expects it to go to this destination.
    #[must_use]
    pub fn to(mut self, destination: impl Into<String>) -> Self {
        self.destination = Some(destination.into());
        self
    }
}

impl<C: MessageType + serde::Serialize + 'static> From<C> for ExpectedCommand {
    fn from(command: C) -> Self {
        Self::new(command)
    }
}

/// An expected timeout. A triple of name, time and message turns into one.
pub struct ExpectedTimeout {
    pub(super) name: String,
    pub(super) due: Due,
    pub(super) message: Expected,
}

impl ExpectedTimeout {
    /// Expects a timeout of this name and message. Where the saga scheduled by a duration, the point in time that
    /// comes to the same is as good, and the other way round.
    pub fn new<M>(name: impl Into<String>, due: impl Into<Due>, message: M) -> Self
    where
        M: MessageType + serde::Serialize + 'static,
    {
        Self { name: name.into(), due: due.into(), message: Expected::new(message) }
    }
}

impl<N: Into<String>, D: Into<Due>, M: MessageType + serde::Serialize + 'static> From<(N, D, M)> for ExpectedTimeout {
    fn from((name, due, message): (N, D, M)) -> Self {
        Self::new(name, due, message)
    }
}

/// A message in the form in which messages are compared.
#[derive(Debug)]
pub(super) struct Form {
    type_name: String,
    type_version: u32,
    destination: Option<String>,
    /// Of a timeout.
    timeout: Option<(String, Timestamp)>,
    payload: Payload,
}

#[derive(Debug, PartialEq)]
enum Payload {
    Json(serde_json::Value),
    Other(Vec<u8>),
}

impl Payload {
    fn new(content_type: &str, bytes: &[u8]) -> Self {
        let is_exact = content_type == JSON_CONTENT_TYPE && !codec::has_wide_integer(bytes);
        let json = is_exact.then(|| serde_json::from_slice(bytes).ok()).flatten();
        json.map_or_else(|| Self::Other(bytes.to_vec()), Self::Json)
    }
}

impl Expected {
    fn new<M: MessageType + serde::Serialize + 'static>(message: M) -> Self {
        Self { tag: message.message_type(), value: Box::new(message) }
    }

    /// The message as a unit of work would record it.
    pub(super) fn envelope(&self, codecs: &Codecs, limits: &Limits, source: &Source) -> Result<Envelope> {
        let (tag, codec) = (self.tag, codecs.events());
        let limit = limits.message_bytes;
        let payload = codec::encode(codec, tag.name, "message payload in bytes", limit, self.value.as_ref())?;
        Envelope::made_by(source, MessageKind::Command, tag.name, tag.version, codec.content_type(), payload)
    }

    fn form(&self, codecs: &Codecs, limits: &Limits) -> Result<Form> {
        Form::encoded(self.tag, self.value.as_ref(), codecs, limits)
    }
}

impl ExpectedCommand {
    pub(super) fn form(&self, codecs: &Codecs, limits: &Limits) -> Result<Form> {
        Ok(Form { destination: self.destination.clone(), ..self.message.form(codecs, limits)? })
    }
}

impl ExpectedTimeout {
    pub(super) fn form(&self, codecs: &Codecs, limits: &Limits, due: Timestamp) -> Result<Form> {
        Ok(self.message.form(codecs, limits)?.with_timeout(&self.name, due))
    }
}

impl Form {
    pub(super) fn encoded(tag: TypeTag, value: &dyn Serialize, codecs: &Codecs, limits: &Limits) -> Result<Self> {
        let codec = codecs.events();
        let bytes = codec::encode(codec, tag.name, "message payload in bytes", limits.message_bytes, value)?;
        Ok(Self {
            type_name: tag.name.to_owned(),
            type_version: tag.version,
            destination: None,
            timeout: None,
            payload: Payload::new(codec.content_type(), &bytes),
        })
    }

    pub(super) fn came(message: &Envelope) -> Self {
        Self {
            type_name: message.type_name.as_ref().to_owned(),
            type_version: message.type_version,
            destination: message.destination.as_deref().map(str::to_owned),
            timeout: None,
            payload: Payload::new(&message.content_type, &message.payload),
        }
    }

    pub(super) fn with_timeout(self, name: &str, due: Timestamp) -> Self {
        Self { timeout: Some((name.to_owned(), due)), ..self }
    }

    /// A destination is compared only if one is expected.
    pub(super) fn fits(&self, came: &Self) -> bool {
        self.type_name == came.type_name
            && self.type_version == came.type_version
            && self.payload == came.payload
            && self.timeout == came.timeout
            && (self.destination.is_none() || self.destination == came.destination)
    }

    pub(super) fn shown(&self) -> Shown {
        let value = match &self.payload {
            Payload::Json(value) => Some(value.clone()),
            Payload::Other(_) => None,
        };
        Shown { line: self.to_string(), value }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, due)) = &self.timeout {
            write!(f, "{name:?} at {due}: ")?;
        }
        write!(f, "{} v{} ", self.type_name, self.type_version)?;
        match &self.payload {
            Payload::Json(value) => write!(f, "{value}")?,
            Payload::Other(bytes) => {
                write!(f, "{} bytes ", bytes.len())?;
                bytes.iter().take(SHOWN_BYTES).try_for_each(|byte| write!(f, "{byte:02x}"))?;
            }
        }
        match &self.destination {
            Some(destination) => write!(f, " to {destination:?}"),
            None => Ok(()),
        }
    }
}

/// A message of the test itself that cannot be encoded is the test's mistake.
#[track_caller]
pub(super) fn must_encode(form: Result<Form, Error>) -> Form {
    form.unwrap_or_else(|error| panic!("an expected message cannot be encoded: {error}"))
}
