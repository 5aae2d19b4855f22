//! What an export held so far.

use super::lines::{End, ExportedCommit, ExportedStream};

/// Latest time of a commit: the end of the year 9999, in microseconds since 1970. Each commit is stored later than the one before it,
/// so one at the end of time would be the stream's last.
const MAX_RECORDED_AT: i64 = 253_402_300_799_999_999;

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

    /// Why this commit cannot be the stream's next one.
    pub(super) fn check_next(&self, commit: &ExportedCommit) -> Result<(), &'static str> {
        let place = (commit.number.to_i64(), commit.first_offset.to_i64());
        if place != (self.number.saturating_add(1), self.end) {
            return Err("its commit does not follow the one before");
        }
        let recorded_at = commit.recorded_at.as_micros();
        if Some(recorded_at) <= self.recorded_at || recorded_at > MAX_RECORDED_AT {
            return Err("its commit was stored before the one before, or in no time of ours");
        }
        Ok(())
    }

    /// What the last line has to say of those before it.
    pub(super) fn last_line(&self) -> End {
        let Self { streams, commits, messages, .. } = *self;
        End { streams, commits, messages, crc: self.crc.clone().finalize() }
    }
}
