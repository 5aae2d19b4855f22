//! A unit of work on its way to another task.

use crate::commit::EncodedCommit;
use crate::ids::MessageId;
use crate::message_store::{Head, HeadTrust, SnapshotChange, UnitCommit};
use crate::saga::SagaStream;
use crate::snapshot::Snapshot;

/// As [`UnitCommit`], without borrowing anything.
pub(crate) struct OwnedCommit {
    pub(crate) stream: SagaStream,
    pub(crate) head: Head,
    pub(crate) encoded: EncodedCommit,
    pub(crate) handled: Option<MessageId>,
    pub(crate) completed: bool,
    pub(crate) deliver: bool,
    pub(crate) snapshots: OwnedChange,
}

/// As [`SnapshotChange`].
pub(crate) enum OwnedChange {
    None,
    Save(Box<Snapshot>, u32),
    Delete,
}

impl OwnedCommit {
    pub(crate) fn as_commit(&self) -> UnitCommit<'_> {
        UnitCommit {
            stream: &self.stream,
            head: &self.head,
            head_trust: HeadTrust::Check,
            encoded: &self.encoded,
            handled: self.handled,
            completed: self.completed,
            deliver: self.deliver,
            snapshots: match &self.snapshots {
                OwnedChange::None => SnapshotChange::None,
                OwnedChange::Save(snapshot, keep) => SnapshotChange::Save(snapshot, *keep),
                OwnedChange::Delete => SnapshotChange::Delete,
            },
        }
    }

    /// How much is to be written, in bytes, without what every unit of work has.
    pub(crate) fn size(&self) -> usize {
        let snapshot = match &self.snapshots {
            OwnedChange::Save(snapshot, _) => snapshot.body.len(),
            OwnedChange::None | OwnedChange::Delete => 0,
        };
        self.encoded.contents.len() + self.encoded.body.len() + snapshot
    }
}
