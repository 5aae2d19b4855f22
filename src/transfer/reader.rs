//! Reading an export, and verifying it.

use std::fmt;
use std::io::{BufRead, Read};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::EXPORT_VERSION;
use super::error::TransferError;
use super::lines::{End, ExportedCommit, ExportedStream, Header, Line, read_commit};
use super::tally::Tally;

/// Longest line: what a unit of work of the largest default size becomes, several times over.
pub const MAX_LINE_BYTES: u64 = 256 * 1024 * 1024;

const AFTER_THE_END: &str = "there is something after the last line";

/// What an export holds, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// The commits up to the next stream are of this one.
    Stream(ExportedStream),
    /// A commit.
    Commit(ExportedCommit),
}

/// Reads an export line by line and verifies it: each line's checksum, that streams are dense in commits and offsets, that the times of
/// their commits rise, and at the end the totals and the checksum over all of it.
pub struct ExportReader<R> {
    from: R,
    tally: Tally,
    line: Vec<u8>,
}

impl<R> fmt::Debug for ExportReader<R> {
    /// Without the line that was read last, which holds payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportReader").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl<R: BufRead> ExportReader<R> {
    /// Reads from the beginning of an export.
    pub fn new(from: R) -> Self {
        Self { from, tally: Tally::default(), line: Vec::new() }
    }

    /// What was read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The next stream or commit. `None` at the end of the file, be the export
    /// [finished](Tally::finished) there or not: a last line that was cut off before that is passed over.
    ///
    /// # Errors
    /// [`TransferError::Damaged`], [`TransferError::Newer`] or [`TransferError::Io`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TransferError> {
        loop {
            self.line.clear();
            self.from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut self.line)?;
            if self.line.last() != Some(&b'\n') {
                return self.cut_off();
            }
            let line = std::mem::take(&mut self.line);
            let read = self.read(&line);
            self.line = line;
            if let Some(entry) = read? {
                return Ok(Some(entry));
            }
        }
    }

    /// At the end of the file, or of what a line can hold.
    fn cut_off(&self) -> Result<Option<Entry>, TransferError> {
        let length = u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        match length {
            1.. if self.tally.finished => Err(self.damaged(AFTER_THE_END)),
            MAX_LINE_BYTES.. => Err(self.damaged("it is too long")),
            _ => Ok(None),
        }
    }

    /// Reads to the end, and fails unless that is the end of the export.
    ///
    /// # Errors
    /// As [`next_entry`](Self::next_entry); [`TransferError::Unfinished`].
    pub fn verify(mut self) -> Result<Tally, TransferError> {
        while self.next_entry()?.is_some() {}
        self.check_finished()?;
        Ok(self.tally)
    }

    pub(super) fn check_finished(&self) -> Result<(), TransferError> {
        if self.tally.finished { Ok(()) } else { Err(TransferError::Unfinished { line: self.tally.lines }) }
    }

    fn damaged(&self, detail: impl Into<String>) -> TransferError {
        TransferError::Damaged { line: self.tally.lines + 1, detail: detail.into() }
    }

    fn read(&mut self, text: &[u8]) -> Result<Option<Entry>, TransferError> {
        let parsed = std::str::from_utf8(text).ok().and_then(|text| serde_json::from_str::<Line<'_>>(text).ok());
        let line = parsed.ok_or_else(|| self.damaged("it is no line of an export"))?;
        let entry = match (line.header, line.stream, line.commit, line.end) {
            _ if self.tally.finished => return Err(self.damaged(AFTER_THE_END)),
            (Some(header), None, None, None) if self.tally.lines == 0 => {
                self.header(self.checked(line.crc, header)?)?;
                None
            }
            _ if self.tally.lines == 0 => return Err(self.damaged("it does not begin as an export does")),
            (None, Some(stream), None, None) => Some(Entry::Stream(self.value(self.checked(line.crc, stream)?)?)),
            (None, None, Some(commit), None) => {
                let commit = read_commit(self.checked(line.crc, commit)?).map_err(|detail| self.damaged(detail))?;
                self.check_place(&commit)?;
                Some(Entry::Commit(commit))
            }
            (None, None, None, Some(end)) => {
                let end: End = self.value(self.checked(line.crc, end)?)?;
                if end != self.tally.last_line() {
                    return Err(self.damaged("the lines before it are not those that it tells of"));
                }
                self.tally.finished = true;
                None
            }
            _ => return Err(self.damaged("it is no line of an export")),
        };
        self.tally.add_line(text);
        match &entry {
            Some(Entry::Stream(stream)) => self.tally.add_stream(stream),
            Some(Entry::Commit(commit)) => self.tally.add_commit(commit),
            None => {}
        }
        Ok(entry)
    }

    fn header(&self, text: &str) -> Result<(), TransferError> {
        let Header { sagastore_export: found } = self.value(text)?;
        let known = EXPORT_VERSION;
        if found > known { Err(TransferError::Newer { found, known }) } else { Ok(()) }
    }

    fn checked<'t>(&self, crc: u32, raw: &'t RawValue) -> Result<&'t str, TransferError> {
        let fits = crc32fast::hash(raw.get().as_bytes()) == crc;
        if fits { Ok(raw.get()) } else { Err(self.damaged("its checksum is wrong")) }
    }

    fn value<T: DeserializeOwned>(&self, text: &str) -> Result<T, TransferError> {
        serde_json::from_str(text).map_err(|_| self.damaged("it does not parse"))
    }

    fn check_place(&self, commit: &ExportedCommit) -> Result<(), TransferError> {
        if self.tally.stream.is_none() {
            return Err(self.damaged("a commit stands before any stream"));
        }
        self.tally.check_next(commit).map_err(|detail| self.damaged(detail))
    }
}
