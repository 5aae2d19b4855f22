//! The index of a commit's messages (`contents`) and their payload bytes (`body`).
//!
//! `contents` is JSON that an operator can read:
//! `{"at":µs,"messages":[{"id":…,"type":…,"len":…}, …]}`, in the order in which the messages were
//! recorded. A field that has its default is left out: `v` 1, `ct` `application/json`, `kind` event,
//! `at` that of the commit, `cause` and `root` those of the commit.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::JSON_CONTENT_TYPE;
use crate::envelope::{Envelope, Metadata};
use crate::ids::MessageId;
use crate::message::MessageKind;
use crate::timestamp::Timestamp;

#[derive(Serialize, Deserialize)]
struct Contents<'a> {
    at: i64,
    #[serde(borrow)]
    messages: Vec<Entry<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    id: MessageId,
    #[serde(rename = "type", borrow)]
    type_name: Cow<'a, str>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    v: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    ct: Option<Cow<'a, str>>,
    len: usize,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    to: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    meta: Metadata,
}

const COMMAND: &str = "command";

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(version: &u32) -> bool {
    *version == 1
}

/// What is the same for all messages of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommonCause {
    pub(crate) causation_id: Option<MessageId>,
    pub(crate) correlation_id: Option<MessageId>,
}

impl CommonCause {
    /// The cause that all messages share, if they do.
    pub(crate) fn of(messages: &[Envelope]) -> Self {
        let Some(first) = messages.first() else { return Self::default() };
        let all = |same: fn(&Envelope) -> MessageId| {
            let value = same(first);
            // A root message is its own cause; that is the default and needs no column.
            let shared = value != first.message_id && messages.iter().all(|message| same(message) == value);
            shared.then_some(value)
        };
        Self { causation_id: all(|m| m.causation_id), correlation_id: all(|m| m.correlation_id) }
    }
}

/// Writes the index; the inverse of [`decode`].
pub(crate) fn encode(messages: &[Envelope], common: CommonCause) -> Result<String, serde_json::Error> {
    let at = messages.first().map_or(0, |message| message.created_at.as_micros());
    let entries = messages.iter().map(|message| {
        let own = |id: MessageId, common: Option<MessageId>| (id != common.unwrap_or(message.message_id)).then_some(id);
        let created = message.created_at.as_micros();
        Entry {
            id: message.message_id,
            type_name: Cow::Borrowed(&message.type_name),
            v: message.type_version,
            ct: (&*message.content_type != JSON_CONTENT_TYPE).then_some(Cow::Borrowed(&message.content_type)),
            len: message.payload.len(),
            kind: (message.kind == MessageKind::Command).then_some(Cow::Borrowed(COMMAND)),
            to: message.destination.as_deref().map(Cow::Borrowed),
            at: (created != at).then_some(created),
            cause: own(message.causation_id, common.causation_id),
            root: own(message.correlation_id, common.correlation_id),
            meta: message.metadata.clone(),
        }
    });
    serde_json::to_string(&Contents { at, messages: entries.collect() })
}

/// Shares texts that repeat from message to message, as type names do.
#[derive(Default)]
pub(crate) struct Texts(Vec<Arc<str>>);

/// As many different texts as are looked for one by one.
const MAX_SHARED_TEXTS: usize = 16;

impl Texts {
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| &***known == text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        if self.0.len() < MAX_SHARED_TEXTS {
            self.0.push(Arc::clone(&new));
        }
        new
    }
}

/// Reads the index and cuts the body into payloads, without copying them. Gives the messages in order. Fails with a sentence
/// if the two do not fit together.
pub(crate) fn decode(
    contents: &str,
    mut body: Bytes,
    common: CommonCause,
    recorded_at: Timestamp,
    texts: &mut Texts,
) -> Result<Vec<Envelope>, String> {
    let contents: Contents<'_> = serde_json::from_str(contents).map_err(|fault| unparsable(&fault))?;
    let mut messages = Vec::with_capacity(contents.messages.len());
    for entry in contents.messages {
        if entry.len > body.len() {
            return Err("its body is shorter than its contents say".to_owned());
        }
        let kind = match entry.kind.as_deref() {
            None => MessageKind::Event,
            Some(COMMAND) => MessageKind::Command,
            Some(other) => return Err(format!("it holds a message of unknown kind {other:?}")),
        };
        messages.push(Envelope {
            message_id: entry.id,
            causation_id: entry.cause.or(common.causation_id).unwrap_or(entry.id),
            correlation_id: entry.root.or(common.correlation_id).unwrap_or(entry.id),
            kind,
            type_name: texts.share(&entry.type_name),
            type_version: entry.v,
            content_type: texts.share(entry.ct.as_deref().unwrap_or(JSON_CONTENT_TYPE)),
            destination: entry.to.map(|to| texts.share(&to)),
            created_at: Timestamp::from_micros(entry.at.unwrap_or(contents.at)),
            recorded_at: Some(recorded_at),
            metadata: entry.meta,
            payload: body.split_to(entry.len),
        });
    }
    if body.is_empty() { Ok(messages) } else { Err("its body is longer than its contents say".to_owned()) }
}

/// Where the index breaks off, without what it holds there: that may be secret.
fn unparsable(fault: &serde_json::Error) -> String {
    format!("its contents do not parse, from line {}, column {} on", fault.line(), fault.column())
}

/// The checksum that is stored with a commit: CRC-32 (IEEE) over contents, then body.
pub(crate) fn checksum(contents: &str, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(contents.as_bytes());
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Inbound;

    fn message(kind: MessageKind, content_type: &str, payload: &'static [u8]) -> Envelope {
        Envelope::new(kind, "Happened", 1, content_type, payload).expect("valid")
    }

    fn round_trip(messages: &[Envelope]) -> Vec<Envelope> {
        let common = CommonCause::of(messages);
        let contents = encode(messages, common).expect("encodes");
        let body: Bytes = messages.iter().flat_map(|m| m.payload.iter().copied()).collect();
        decode(&contents, body, common, Timestamp::from_micros(7), &mut Texts::default()).expect("decodes")
    }

    #[test]
    fn every_field_survives() {
        let inbound = Inbound { message_id: MessageId::new(), correlation_id: MessageId::new() };
        let mut odd = message(MessageKind::Command, "application/x-own", &[0, 255, 13, 10]);
        odd.destination = Some("billing".into());
        odd.type_version = 9;
        odd.created_at = Timestamp::from_micros(-5);
        odd.metadata = Metadata::from([("traceparent".into(), "00-\u{0}\"\\".into())]);
        let plain = message(MessageKind::Event, JSON_CONTENT_TYPE, b"{}");
        let child = message(MessageKind::Event, JSON_CONTENT_TYPE, b"").caused_by(&inbound);
        for messages in [vec![], vec![plain.clone()], vec![child.clone(), child.clone()], vec![plain, odd, child]] {
            let mut read = round_trip(&messages);
            for message in &mut read {
                assert_eq!(message.recorded_at.take(), Some(Timestamp::from_micros(7)));
            }
            assert_eq!(read, messages);
        }
    }

    #[test]
    fn a_body_that_does_not_fit_its_contents_is_refused() {
        let messages = [message(MessageKind::Event, JSON_CONTENT_TYPE, b"123")];
        let contents = encode(&messages, CommonCause::default()).expect("encodes");
        for body in ["", "12", "1234"] {
            let body = Bytes::from_static(body.as_bytes());
            let at = Timestamp::default();
            let read = decode(&contents, body.clone(), CommonCause::default(), at, &mut Texts::default());
            assert!(read.is_err(), "{body:?}");
        }
    }

    #[test]
    fn no_text_makes_the_decoder_panic() {
        for contents in ["", "{}", "null", r#"{"at":1,"messages":[{"id":1}]}"#, "{\"at\":1e99,\"messages\":[]}"] {
            let none = CommonCause::default();
            let at = Timestamp::default();
            assert!(decode(contents, Bytes::new(), none, at, &mut Texts::default()).is_err());
        }
        let huge = format!(
            r#"{{"at":1,"messages":[{{"id":"{0}","type":"a","len":{1}}},{{"id":"{0}","type":"a","len":{1}}}]}}"#,
            MessageId::new(),
            u64::MAX
        );
        let none = CommonCause::default();
        assert!(decode(&huge, Bytes::new(), none, Timestamp::default(), &mut Texts::default()).is_err());
    }
}
