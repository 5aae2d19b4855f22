//! Whether the commits of a stream follow each other, and can be read.

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::finding::{Finding, FindingKind, FindingPlace};
use crate::codec::JSON_CONTENT_TYPE;
use crate::commit::StoredCommit;
use crate::contents::{self, CommonCause, Texts};
use crate::ids::InstanceId;
use crate::inspect::tables::{CommitRow, StreamColumns};
use crate::message::MessageKind;
use crate::row;
use crate::stream_name::StreamName;

/// A stream on the way from its first commit to its last.
pub(super) struct Walk {
    stream: StreamColumns,
    /// Commits so far.
    number: i64,
    end: i64,
    recorded_at: i64,
    completed: bool,
}

impl Walk {
    pub(super) fn new(stream: StreamColumns) -> Self {
        Self { stream, number: 0, end: 0, recorded_at: i64::MIN, completed: false }
    }

    pub(super) fn key(&self) -> i64 {
        self.stream.key
    }

    /// Takes the next commit; gives the number of its messages.
    pub(super) fn take(&mut self, row: CommitRow, found: &mut Vec<Finding>) -> u64 {
        let place = FindingPlace::Commit { stream: self.stream.name.clone(), number: row.columns.commit_no };
        let mut find = |kind, detail: &str| found.push(Finding::new(kind, place.clone(), detail));
        let (number, first, counted) = (row.columns.commit_no, row.columns.first_offset, row.columns.event_count);
        if number != self.number.saturating_add(1) {
            let missing = self.number.saturating_add(1);
            find(FindingKind::MissingCommit, &format!("the commits from {missing} up to it are missing"));
        } else if first != self.end {
            let end = self.end;
            find(FindingKind::OffsetGap, &format!("it begins at offset {first}, the one before ended at {end}"));
        }
        if row.columns.recorded_at <= self.recorded_at {
            find(FindingKind::WrongTime, "it was not stored later than the one before");
        }
        if self.completed && !row.columns.completed {
            find(FindingKind::WrongCompletion, "it is not completed, though the one before is");
        }
        let was_completed = std::mem::replace(&mut self.completed, row.columns.completed);
        (self.number, self.recorded_at) = (number, row.columns.recorded_at);
        let message_count = row.message_count;
        let read = read(row, &mut find);
        let (events, messages) = read.unwrap_or((counted, 0));
        self.end = first.saturating_add(events);
        if read.is_some() && (events, messages) != (counted, message_count) {
            let held = format!("it holds {events} events among {messages} messages");
            find(FindingKind::WrongCount, &format!("{held}, its row says {counted} among {message_count}"));
        }
        if was_completed && events > 0 && self.stream.persistence_key.is_some() {
            find(FindingKind::EventsAfterCompletion, "it holds events, and the instance was completed before");
        }
        u64::try_from(messages).unwrap_or_default()
    }

    /// After the last commit.
    pub(super) fn finish(self, found: &mut Vec<Finding>) {
        let place = FindingPlace::Stream(self.stream.name.clone());
        let mut find = |kind, detail: &str| found.push(Finding::new(kind, place.clone(), detail));
        if !is_name_of_parts(&self.stream) {
            find(FindingKind::WrongName, "its name is not that of its saga and instance");
        }
        if self.number == 0 {
            find(FindingKind::EmptyStream, "it has no commits; if it ever had one, that is lost");
        } else if self.completed != self.stream.completed_at.is_some() {
            let (last, row) = if self.completed { ("is", "is not") } else { ("is not", "is") };
            let detail = format!("the instance {last} completed by its last commit, and {row} by the stream's row");
            find(FindingKind::WrongCompletion, &detail);
        }
    }
}

fn is_name_of_parts(stream: &StreamColumns) -> bool {
    match (&stream.persistence_key, &stream.instance_id) {
        (None, None) => StreamName::new(&stream.name).is_ok(),
        (Some(key), Some(id)) => {
            let name = InstanceId::new(id).and_then(|id| StreamName::of_saga(key, &id));
            name.is_ok_and(|name| name.as_str() == stream.name)
        }
        _ => false,
    }
}

/// The numbers of events and messages of a commit; `None` if it cannot be read.
fn read(row: CommitRow, find: &mut impl FnMut(FindingKind, &str)) -> Option<(i64, i64)> {
    let anywhere = StreamName::new("-").expect("BUG: a valid name");
    let commit: StoredCommit = match row::commit(&anywhere, row.columns) {
        Ok(commit) => commit,
        Err(_) => {
            find(FindingKind::OutOfRange, "one of its numbers is out of range, or a column is empty");
            return None;
        }
    };
    if contents::checksum(&commit.contents, &commit.body) != commit.checksum {
        find(FindingKind::WrongChecksum, "its contents and body do not fit its checksum");
        return None;
    }
    let common = CommonCause { causation_id: commit.causation_id, correlation_id: commit.correlation_id };
    let decoded = contents::decode(&commit.contents, commit.body, common, commit.recorded_at, &mut Texts::default());
    let messages = match decoded {
        Ok(messages) => messages,
        Err(detail) => {
            find(FindingKind::Undecodable, &detail);
            return None;
        }
    };
    let (mut events, mut broken) = (0, 0);
    for message in &messages {
        events += i64::from(message.kind == MessageKind::Event);
        broken += u32::from(!is_readable(&message.content_type, &message.payload));
    }
    if broken > 0 {
        let detail = format!("{broken} of its payloads are said to be JSON and are none");
        find(FindingKind::UndecodablePayload, &detail);
    }
    Some((events, i64::try_from(messages.len()).unwrap_or(i64::MAX)))
}

/// Only of JSON it is known what makes it readable.
fn is_readable(content_type: &str, payload: &Bytes) -> bool {
    let is_json = |text| serde_json::from_str::<IgnoredAny>(text).is_ok();
    // What is passed over in a slice need not be UTF-8.
    content_type != JSON_CONTENT_TYPE || std::str::from_utf8(payload).is_ok_and(is_json)
}
