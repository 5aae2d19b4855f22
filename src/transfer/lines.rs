//! The lines of an export.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::payload::{as_json, from_base64, to_base64};
use crate::envelope::{Envelope, Metadata};
use crate::ids::{CommitNumber, MessageId, Offset};
use crate::message::MessageKind;
use crate::timestamp::Timestamp;

/// A line: one of the four, with the CRC-32 over its text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    pub(super) crc: u32,
    #[serde(borrow, default)]
    pub(super) header: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) stream: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) commit: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) end: Option<&'a RawValue>,
}

/// The first line.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) sagastore_export: u32,
}

/// The last line.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct End {
    pub(super) streams: u64,
    pub(super) commits: u64,
    pub(super) messages: u64,
    /// CRC-32 over all lines before this one.
    pub(super) crc: u32,
}

/// A stream, before its commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportedStream {
    /// Its name.
    pub name: String,
    /// The saga, if one owns it.
    pub saga: Option<String>,
    /// The instance, if a saga owns it.
    pub instance: Option<String>,
    /// When it was started, in microseconds since 1970.
    pub created_at: i64,
    /// When the instance was completed.
    pub completed_at: Option<i64>,
}

/// A commit of the stream before it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportedCommit {
    /// Its number in the stream.
    pub number: CommitNumber,
    /// The offset of its first event, or of the next one if it has none.
    pub first_offset: Offset,
    /// When it was stored.
    pub recorded_at: Timestamp,
    /// The message that was handled.
    pub handled: Option<MessageId>,
    /// The instance is completed as of this commit.
    pub completed: bool,
    /// Its events and commands in order.
    pub messages: Vec<Envelope>,
}

impl ExportedCommit {
    /// The number of its events.
    pub fn events(&self) -> u64 {
        let events = self.messages.iter().filter(|message| message.kind == MessageKind::Event).count();
        u64::try_from(events).unwrap_or(u64::MAX)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitLine<'a> {
    number: CommitNumber,
    first_offset: Offset,
    recorded_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handled: Option<MessageId>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    completed: bool,
    #[serde(borrow)]
    messages: Vec<MessageLine<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageLine<'a> {
    id: MessageId,
    kind: Cow<'a, str>,
    #[serde(rename = "type")]
    type_name: Cow<'a, str>,
    version: u32,
    content_type: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destination: Option<Cow<'a, str>>,
    created_at: i64,
    cause: MessageId,
    root: MessageId,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
    #[serde(borrow, default, deserialize_with = "whatever_it_is", skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<Cow<'a, str>>,
}

/// Also null, which is a payload like any other.
fn whatever_it_is<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

const EVENT: &str = "event";
const COMMAND: &str = "command";

/// A whole line.
pub(super) fn line(what: &str, value: &impl Serialize) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(value)?;
    let crc = crc32fast::hash(text.as_bytes());
    Ok(format!("{{\"crc\":{crc},\"{what}\":{text}}}\n"))
}

pub(super) fn commit_line(commit: &ExportedCommit) -> Result<String, serde_json::Error> {
    let messages = commit.messages.iter().map(message_line).collect();
    let ExportedCommit { number, first_offset, recorded_at, handled, completed, .. } = *commit;
    let recorded_at = recorded_at.as_micros();
    line("commit", &CommitLine { number, first_offset, recorded_at, handled, completed, messages })
}

fn message_line(message: &Envelope) -> MessageLine<'_> {
    let json = as_json(&message.content_type, &message.payload);
    MessageLine {
        id: message.message_id,
        kind: Cow::Borrowed(if message.kind == MessageKind::Event { EVENT } else { COMMAND }),
        type_name: Cow::Borrowed(&message.type_name),
        version: message.type_version,
        content_type: Cow::Borrowed(&message.content_type),
        destination: message.destination.as_deref().map(Cow::Borrowed),
        created_at: message.created_at.as_micros(),
        cause: message.causation_id,
        root: message.correlation_id,
        metadata: message.metadata.clone(),
        json,
        base64: json.is_none().then(|| Cow::Owned(to_base64(&message.payload))),
    }
}

/// Reads a commit; a sentence if it cannot be read, which quotes nothing of it.
pub(super) fn read_commit(text: &str) -> Result<ExportedCommit, String> {
    let line: CommitLine<'_> = serde_json::from_str(text).map_err(|_| "its commit does not parse".to_owned())?;
    let recorded_at = Timestamp::from_micros(line.recorded_at);
    Ok(ExportedCommit {
        number: line.number,
        first_offset: line.first_offset,
        recorded_at,
        handled: line.handled,
        completed: line.completed,
        messages: line
            .messages
            .into_iter()
            .map(|message| read_message(message, recorded_at))
            .collect::<Result<_, _>>()?,
    })
}

fn read_message(line: MessageLine<'_>, recorded_at: Timestamp) -> Result<Envelope, String> {
    let payload = match (line.json, line.base64) {
        (Some(raw), None) => Bytes::copy_from_slice(raw.get().as_bytes()),
        (None, Some(text)) => from_base64(&text).ok_or("a payload is no base64")?,
        _ => return Err("a message has no payload, or two".to_owned()),
    };
    let kind = match &*line.kind {
        EVENT => MessageKind::Event,
        COMMAND => MessageKind::Command,
        _ => return Err("a message is of unknown kind".to_owned()),
    };
    Ok(Envelope {
        message_id: line.id,
        causation_id: line.cause,
        correlation_id: line.root,
        kind,
        type_name: line.type_name.into(),
        type_version: line.version,
        content_type: line.content_type.into(),
        destination: line.destination.map(Into::into),
        created_at: Timestamp::from_micros(line.created_at),
        recorded_at: Some(recorded_at),
        metadata: line.metadata,
        payload,
    })
}
