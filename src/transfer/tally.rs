//! What an export held so far.

use super::lines::{End, ExportedCommit, ExportedStream};

/// What an export held so far: enough to go on after it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Tally {
    /// Whole lines.
    pub lines: u64,
    /// Their bytes: where the next line begins.
    pub bytes: u64,
    /// Streams.
    pub streams: u64,
    /// Commits.
    pub commits: u64,
    /// Events and commands.
    pub messages: u64,
    /// The last line was the last of the whole export.
    pub finished: bool,
    pub(super) crc: crc32fast::Hasher,
    /// The last stream's name, and its last commit.
    pub(super) stream: Option<String>,
    pub(super) number: i64,
    /// Where the next commit begins.
    pub(super) end: i64,
    /// When the stream's last commit was stored.
    pub(super) recorded_at: Option<i64>,
}

impl Tally {
    pub(super) fn add_line(&mut self, line: &[u8]) {
        self.lines += 1;
        self.bytes += u64::try_from(line.len()).unwrap_or(u64::MAX);
        self.crc.update(line);
    }

    pub(super) fn add_stream(&mut self, stream: &ExportedStream) {
        self.streams += 1;
        self.stream = Some(stream.name.clone());
        (self.number, self.end, self.recorded_at) = (0, 0, None);
    }

    pub(super) fn add_commit(&mut self, commit: &ExportedCommit) {
        self.commits += 1;
        self.messages += u64::try_from(commit.messages.len()).unwrap_or(u64::MAX);
        self.number = commit.number.to_i64();
        self.recorded_at = Some(commit.recorded_at.as_micros());
        let events = i64::try_from(commit.events()).unwrap_or(i64::MAX);
        self.end = commit.first_offset.to_i64().saturating_add(events);
    }

    /// What the last line has to say of those before it.
    pub(super) fn last_line(&self) -> End {
        let Self { streams, commits, messages, .. } = *self;
        End { streams, commits, messages, crc: self.crc.clone().finalize() }
    }
}
