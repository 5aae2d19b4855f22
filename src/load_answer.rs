//! The answer of the one statement that loads an instance, the same for every database.

use crate::error::Result;
use crate::message_store::{LoadFrom, Loaded, PAGE_BYTES, PAGE_COMMITS, StreamRow};
use crate::row::{self, CommitColumns, SnapshotColumns};
use crate::saga::SagaStream;

/// What a row of the answer is, where it has rows of several kinds; any other number is the commit that handled the message.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const STREAM: i32 = 0;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const SNAPSHOT: i32 = 1;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) const COMMIT: i32 = 2;

impl LoadFrom {
    /// The commit to load from, as the statement takes it: none means the newest snapshot's.
    pub(crate) fn commit_no(self) -> Option<i64> {
        match self {
            Self::Start => Some(0),
            Self::Snapshot => None,
            Self::Commit(number) => Some(number.to_i64()),
        }
    }
}

/// The rows of the answer, sorted by what they are.
#[derive(Default)]
pub(crate) struct LoadAnswer {
    pub(crate) stream: Option<StreamRow>,
    pub(crate) snapshot: Option<SnapshotColumns>,
    pub(crate) handled: Option<CommitColumns>,
    /// Commits were passed over because the page was full of bytes.
    pub(crate) cut: bool,
    commits: Vec<CommitColumns>,
    bytes: usize,
}

impl LoadAnswer {
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= PAGE_BYTES
    }

    pub(crate) fn push(&mut self, commit: CommitColumns) {
        self.bytes = self.bytes.saturating_add(commit.size());
        self.commits.push(commit);
    }

    pub(crate) fn into_loaded(self, stream: &SagaStream) -> Result<Loaded> {
        let Self { stream: found, snapshot, handled, cut, mut commits, .. } = self;
        let key = found.as_ref().map(|row| row.key);
        let full = cut || u32::try_from(commits.len()).map_or(true, |read| read >= PAGE_COMMITS);
        // The commit at which the snapshot was taken comes without contents.
        let at_snapshot = if commits.first().is_some_and(|first| first.contents.is_none()) {
            Some(row::head(&stream.name, key, &commits.remove(0))?)
        } else {
            None
        };
        Ok(Loaded {
            stream: found,
            snapshot: snapshot.map(|columns| row::snapshot(stream, columns)),
            at_snapshot,
            page: row::page(&stream.name, commits, PAGE_COMMITS, full)?,
            handled: handled.map(|columns| row::commit(&stream.name, columns)).transpose()?,
        })
    }
}
