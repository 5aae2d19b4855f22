//! What a check can find.

use std::fmt;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A stream's row has no commits.
    EmptyStream,
    /// A stream's name is not that of its saga and instance.
    WrongName,
    /// The numbers of a stream's commits leave one out.
    MissingCommit,
    /// Commits whose stream has no row.
    OrphanCommit,
    /// A commit does not begin at the offset at which the one before ended.
    OffsetGap,
    /// A commit was not stored later than the one before.
    WrongTime,
    /// A commit's numbers are out of range.
    OutOfRange,
    /// A commit's contents and body do not fit its checksum.
    WrongChecksum,
    /// A commit's contents do not parse, or do not fit its body.
    Undecodable,
    /// A payload that is said to be JSON is none.
    UndecodablePayload,
    /// A commit holds other numbers of events or messages than its row says.
    WrongCount,
    /// Commits of a stream, or its row, do not agree on whether the instance is completed.
    WrongCompletion,
    /// An instance has events after its completion.
    EventsAfterCompletion,
    /// A message was handled more than once by one instance.
    RepeatedHandling,
    /// A snapshot whose stream has no row.
    OrphanSnapshot,
    /// A snapshot of another saga than its stream is of.
    ForeignSnapshot,
    /// A snapshot does not fit its checksum.
    DamagedSnapshot,
    /// A snapshot at a commit or revision that its stream does not have.
    MisplacedSnapshot,
    /// A mark of the outbox whose commit is not there.
    DanglingMark,
    /// A mark of the outbox does not agree with its commit.
    WrongMark,
    /// A message in the outbox whose commit is not there, or has no such message.
    DanglingOutboxMessage,
    /// A message in the outbox cannot be read.
    UndecodableOutboxMessage,
    /// A message in the outbox is in a partition in which its dispatcher does not look for it.
    WrongPartition,
}

impl FindingKind {
    /// The kind as scripts should tell it: words of small letters, joined by underscores. It never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyStream => "empty_stream",
            Self::WrongName => "wrong_name",
            Self::MissingCommit => "missing_commit",
            Self::OrphanCommit => "orphan_commit",
            Self::OffsetGap => "offset_gap",
            Self::WrongTime => "wrong_time",
            Self::OutOfRange => "out_of_range",
            Self::WrongChecksum => "wrong_checksum",
            Self::Undecodable => "undecodable",
            Self::UndecodablePayload => "undecodable_payload",
            Self::WrongCount => "wrong_count",
            Self::WrongCompletion => "wrong_completion",
            Self::EventsAfterCompletion => "events_after_completion",
            Self::RepeatedHandling => "repeated_handling",
            Self::OrphanSnapshot => "orphan_snapshot",
            Self::ForeignSnapshot => "foreign_snapshot",
            Self::DamagedSnapshot => "damaged_snapshot",
            Self::MisplacedSnapshot => "misplaced_snapshot",
            Self::DanglingMark => "dangling_mark",
            Self::WrongMark => "wrong_mark",
            Self::DanglingOutboxMessage => "dangling_outbox_message",
            Self::UndecodableOutboxMessage => "undecodable_outbox_message",
            Self::WrongPartition => "wrong_partition",
        }
    }
}

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingPlace {
    /// A stream, by its name.
    Stream(String),
    /// A commit.
    Commit {
        /// The stream's name.
        stream: String,
        /// Its number.
        number: i64,
    },
    /// A snapshot.
    Snapshot {
        /// The stream's name.
        stream: String,
        /// Its revision.
        revision: i64,
    },
    /// A stream that has no row: the value of `stream_id` in the rows that name it.
    Key(i64),
    /// A mark of the outbox.
    Mark {
        /// The value of `stream_id`.
        stream: i64,
        /// The commit's number.
        number: i64,
    },
    /// A row of the outbox: the value of `message_no`.
    OutboxMessage(i64),
}

impl fmt::Display for FindingPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => write!(f, "stream {stream:?}"),
            Self::Commit { stream, number } => write!(f, "stream {stream:?}, commit {number}"),
            Self::Snapshot { stream, revision } => write!(f, "stream {stream:?}, snapshot at revision {revision}"),
            Self::Key(key) => write!(f, "stream without a row, key {key}"),
            Self::Mark { stream, number } => {
                write!(f, "outbox, mark of commit {number} of the stream with key {stream}")
            }
            Self::OutboxMessage(row) => write!(f, "outbox, message {row}"),
        }
    }
}

/// Something that cannot be what was written. It never holds a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Where it is.
    pub place: FindingPlace,
    /// What was found there, as a sentence.
    pub detail: String,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, place: FindingPlace, detail: impl Into<String>) -> Self {
        Self { kind, place, detail: detail.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.place, self.detail, self.kind.name())
    }
}
