//! One unit of work as one row: how it is written, and how it is read back.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;

use crate::codec::check_size;
use crate::contents::{self, CommonCause, Texts};
use crate::envelope::{Envelope, RecordedEvent};
use crate::error::{Error, Result};
use crate::ids::{CommitNumber, MessageId, Offset};
use crate::limits::Limits;
use crate::message::MessageKind;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// The encoded columns of a commit, checked against the limits and ready to be bound.
#[derive(Clone)]
#[non_exhaustive]
pub struct EncodedCommit {
    /// Number of events.
    pub event_count: u32,
    /// Number of events and commands.
    pub message_count: u32,
    /// The cause that all messages share.
    pub causation_id: Option<MessageId>,
    /// The root that all messages share.
    pub correlation_id: Option<MessageId>,
    /// The index of the messages, as JSON.
    pub contents: String,
    /// All payloads, one after another.
    pub body: Vec<u8>,
    /// CRC-32 over contents and body.
    pub checksum: u32,
}

impl fmt::Debug for EncodedCommit {
    /// Shows neither payloads nor metadata, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedCommit")
            .field("event_count", &self.event_count)
            .field("message_count", &self.message_count)
            .field("causation_id", &self.causation_id)
            .field("correlation_id", &self.correlation_id)
            .field("contents", &format_args!("{} bytes", self.contents.len()))
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("checksum", &self.checksum)
            .finish()
    }
}

impl EncodedCommit {
    /// Encodes the messages of one commit, in order.
    ///
    /// # Errors
    /// Before any SQL: [`Error::TooLarge`] over a limit, [`Error::DuplicateMessage`] for an id that stands
    /// twice, [`Error::InvalidInput`] for a text that not every database could store.
    pub fn encode(stream: &StreamName, messages: &[Envelope], limits: &Limits) -> Result<Self> {
        check_size("number of messages in one unit of work", messages.len(), limits.unit_messages)?;
        let mut seen = HashSet::with_capacity(messages.len());
        for message in messages {
            message.check()?;
            check_size("message payload in bytes", message.payload.len(), limits.message_bytes)?;
            if messages.len() > 1 && !seen.insert(message.message_id) {
                return Err(Error::DuplicateMessage { message_id: message.message_id, stream: stream.clone() });
            }
        }
        let size = messages.iter().map(|message| message.payload.len()).sum();
        check_size("unit of work in bytes", size, limits.unit_bytes)?;
        let mut body = Vec::with_capacity(size);
        for message in messages {
            body.extend_from_slice(&message.payload);
        }
        let common = CommonCause::of(messages);
        let contents = contents::encode(messages, common)
            .map_err(|fault| Error::Unencodable { what: "index of the messages".to_owned(), source: fault.into() })?;
        check_size("unit of work in bytes", size.saturating_add(contents.len()), limits.unit_bytes)?;
        let count = |n: usize| u32::try_from(n).map_err(|fault| Error::invalid("number of messages", fault));
        let events = messages.iter().filter(|message| message.kind == MessageKind::Event).count();
        Ok(Self {
            event_count: count(events)?,
            message_count: count(messages.len())?,
            causation_id: common.causation_id,
            correlation_id: common.correlation_id,
            checksum: contents::checksum(&contents, &body),
            contents,
            body,
        })
    }
}

/// A commit as it was read from its row. Nothing in it is trusted before [`decode_each`](Self::decode_each).
#[derive(Clone)]
pub struct StoredCommit {
    /// Its number in the stream.
    pub commit_number: CommitNumber,
    /// The offset of its first event, or of the next one if it has none.
    pub first_offset: Offset,
    /// Number of its events.
    pub event_count: u32,
    /// The instance is completed as of this commit.
    pub completed: bool,
    /// When it was stored, by the database's clock.
    pub recorded_at: Timestamp,
    /// What a database with a global order needs to keep it; zero elsewhere.
    pub order_token: i64,
    /// The cause that all messages share.
    pub causation_id: Option<MessageId>,
    /// The root that all messages share.
    pub correlation_id: Option<MessageId>,
    /// The stored checksum.
    pub checksum: u32,
    /// The stored index.
    pub contents: String,
    /// The stored payloads.
    pub body: Bytes,
}

impl fmt::Debug for StoredCommit {
    /// Shows neither payloads nor metadata, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCommit")
            .field("commit_number", &self.commit_number)
            .field("first_offset", &self.first_offset)
            .field("event_count", &self.event_count)
            .field("completed", &self.completed)
            .field("recorded_at", &self.recorded_at)
            .field("order_token", &self.order_token)
            .field("causation_id", &self.causation_id)
            .field("correlation_id", &self.correlation_id)
            .field("checksum", &self.checksum)
            .field("contents", &format_args!("{} bytes", self.contents.len()))
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

impl StoredCommit {
    /// The offset after its last event.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the row claims offsets beyond [`Offset::MAX`].
    pub fn end(&self) -> Result<Offset> {
        self.first_offset.checked_add(u64::from(self.event_count))
    }

    /// Checks the row and calls `take` with each message in order; events with their offset.
    ///
    /// # Errors
    /// [`Error::Corrupt`], naming stream and offset, if checksum, index and body do not agree.
    pub fn decode_each(
        &self,
        stream: &StreamName,
        mut take: impl FnMut(Option<Offset>, Envelope) -> Result<()>,
    ) -> Result<()> {
        self.decode_sharing(stream, &mut Texts::default(), &mut take)
    }

    pub(crate) fn decode_sharing(
        &self,
        stream: &StreamName,
        texts: &mut Texts,
        take: &mut dyn FnMut(Option<Offset>, Envelope) -> Result<()>,
    ) -> Result<()> {
        let corrupt = |detail: &str| Error::corrupt(stream, self.first_offset, detail);
        if contents::checksum(&self.contents, &self.body) != self.checksum {
            return Err(corrupt("the checksum of the commit is wrong"));
        }
        let common = CommonCause { causation_id: self.causation_id, correlation_id: self.correlation_id };
        let messages = contents::decode(&self.contents, self.body.clone(), common, self.recorded_at, texts);
        let messages = messages.map_err(|detail| corrupt(&detail))?;
        let events = messages.iter().filter(|message| message.kind == MessageKind::Event).count();
        if u32::try_from(events) != Ok(self.event_count) {
            return Err(corrupt("the commit does not hold as many events as its row says"));
        }
        let mut offset = self.first_offset;
        for message in messages {
            let is_event = message.kind == MessageKind::Event;
            take(is_event.then_some(offset), message)?;
            if is_event {
                offset = offset.checked_add(1)?;
            }
        }
        Ok(())
    }

    /// Checks the row and gives all messages in order.
    ///
    /// # Errors
    /// As [`decode_each`](Self::decode_each).
    pub fn messages(&self, stream: &StreamName) -> Result<Vec<Envelope>> {
        let mut messages = Vec::new();
        self.decode_each(stream, |_, message| {
            messages.push(message);
            Ok(())
        })?;
        Ok(messages)
    }

    /// Checks the row and gives its events in order, without its commands.
    ///
    /// # Errors
    /// As [`decode_each`](Self::decode_each).
    pub fn events(&self, stream: &StreamName) -> Result<Vec<RecordedEvent>> {
        let mut events = Vec::new();
        self.decode_each(stream, |offset, message| {
            events.extend(offset.map(|offset| RecordedEvent::new(stream.clone(), offset, message)));
            Ok(())
        })?;
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(messages: &[Envelope]) -> StoredCommit {
        let encoded = EncodedCommit::encode(&stream(), messages, &Limits::default()).expect("encodes");
        StoredCommit {
            commit_number: CommitNumber::of(1),
            first_offset: Offset::of(5),
            event_count: encoded.event_count,
            completed: false,
            recorded_at: Timestamp::default(),
            order_token: 0,
            causation_id: encoded.causation_id,
            correlation_id: encoded.correlation_id,
            checksum: encoded.checksum,
            contents: encoded.contents,
            body: encoded.body.into(),
        }
    }

    fn stream() -> StreamName {
        StreamName::new("s").expect("valid")
    }

    fn message(kind: MessageKind, payload: &'static str) -> Envelope {
        Envelope::new(kind, "Happened", 1, "text/plain", payload).expect("valid")
    }

    #[test]
    fn events_get_offsets_and_commands_get_none() {
        let commit = stored(&[
            message(MessageKind::Event, "a"),
            message(MessageKind::Command, "b"),
            message(MessageKind::Event, "c"),
        ]);
        let offsets: Vec<_> = commit.events(&stream()).expect("decodes").iter().map(|e| e.offset).collect();
        assert_eq!(offsets, [Offset::of(5), Offset::of(6)]);
        assert_eq!(commit.messages(&stream()).expect("decodes").len(), 3);
        assert_eq!(commit.end().expect("in range"), Offset::of(7));
    }

    #[test]
    fn every_single_flipped_bit_is_found_and_named() {
        let whole = stored(&[message(MessageKind::Event, "payload")]);
        for bit in 0..whole.body.len() * 8 {
            let mut bytes = whole.body.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let damaged = StoredCommit { body: bytes.into(), ..whole.clone() };
            let Err(Error::Corrupt { offset, .. }) = damaged.messages(&stream()) else { panic!("bit {bit}") };
            assert_eq!(offset, Offset::of(5));
        }
    }

    #[test]
    fn limits_are_checked_before_anything_else() {
        let limits = Limits { message_bytes: 4, unit_bytes: 200, unit_messages: 2, ..Limits::default() };
        let encode = |messages: &[Envelope]| EncodedCommit::encode(&stream(), messages, &limits);
        let small = || message(MessageKind::Event, "1234");
        assert!(encode(&[small()]).is_ok());
        assert!(matches!(encode(&[message(MessageKind::Event, "12345")]), Err(Error::TooLarge { size: 5, .. })));
        assert!(matches!(encode(&[small(), small(), small()]), Err(Error::TooLarge { size: 3, .. })));
        assert!(matches!(encode(&[small(), small()]), Err(Error::TooLarge { limit: 200, .. })));
        let twice = small();
        let limits = Limits::default();
        let result = EncodedCommit::encode(&stream(), &[twice.clone(), twice], &limits);
        assert!(matches!(result, Err(Error::DuplicateMessage { .. })));
    }
}
