//! Snapshots: a cache of what an instance's events make of its state.

use std::fmt;
use std::num::NonZeroU64;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Database, Transaction};

use crate::error::{Error, Result};
use crate::ids::{CommitNumber, InstanceId, Revision};
use crate::stream_name::StreamName;

/// Revisions since the last known snapshot after which the next one is taken.
pub const DEFAULT_SNAPSHOT_FREQUENCY: Revision = Revision::of(1000);

/// How many snapshots of an instance are kept by default: the newest, and one to look back at.
pub const DEFAULT_KEPT_SNAPSHOTS: u32 = 2;

/// When a snapshot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFrequency {
    /// As soon as the instance is this many revisions past its last known snapshot.
    Every(NonZeroU64),
    /// Never; snapshots that are there are still used.
    Never,
}

impl SnapshotFrequency {
    /// Every `revisions`; the default for zero.
    pub fn every(revisions: u64) -> Self {
        NonZeroU64::new(revisions).map_or_else(Self::default, Self::Every)
    }

    /// True if an instance at `revision`, with its last known snapshot at `last`, is due one.
    pub fn is_due(self, revision: Revision, last: Revision) -> bool {
        match self {
            Self::Every(revisions) => revision.get().saturating_sub(last.get()) >= revisions.get(),
            Self::Never => false,
        }
    }
}

impl Default for SnapshotFrequency {
    fn default() -> Self {
        NonZeroU64::new(DEFAULT_SNAPSHOT_FREQUENCY.get()).map_or(Self::Never, Self::Every)
    }
}

/// The state of an instance at a revision, encoded.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The saga.
    pub persistence_key: String,
    /// The instance.
    pub instance_id: InstanceId,
    /// How many events the state holds.
    pub revision: Revision,
    /// How many commits the state holds.
    pub commit_number: CommitNumber,
    /// The version of the state's form.
    pub data_version: u32,
    /// How `body` is encoded.
    pub content_type: String,
    /// CRC-32 over all that matters; see [`is_intact`](Self::is_intact).
    pub checksum: u32,
    /// The encoded state.
    pub body: Bytes,
}

impl Snapshot {
    /// A snapshot with its checksum.
    pub fn new(
        persistence_key: &str,
        instance_id: &InstanceId,
        revision: Revision,
        commit_number: CommitNumber,
        data_version: u32,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Self {
        let mut snapshot = Self {
            persistence_key: persistence_key.to_owned(),
            instance_id: instance_id.clone(),
            revision,
            commit_number,
            data_version,
            content_type: content_type.to_owned(),
            checksum: 0,
            body: body.into(),
        };
        snapshot.checksum = snapshot.compute_checksum();
        snapshot
    }

    /// True if the checksum fits revision, commit number, data version, content type and body.
    pub fn is_intact(&self) -> bool {
        self.checksum == self.compute_checksum()
    }

    fn compute_checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.revision.to_i64().to_le_bytes());
        crc.update(&self.commit_number.to_i64().to_le_bytes());
        crc.update(&self.data_version.to_le_bytes());
        crc.update(self.content_type.as_bytes());
        crc.update(&self.body);
        crc.finalize()
    }
}

impl fmt::Debug for Snapshot {
    /// Shows everything but the body, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("persistence_key", &self.persistence_key)
            .field("instance_id", &self.instance_id)
            .field("revision", &self.revision)
            .field("commit_number", &self.commit_number)
            .field("data_version", &self.data_version)
            .field("content_type", &self.content_type)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// A state that the database cannot take does not stop its events.
pub(crate) fn unless_too_large(stream: &StreamName, revision: Revision, saved: Result<()>) -> Result<()> {
    match saved {
        Err(error @ Error::TooLarge { .. }) => {
            warn_of_none(stream, revision, &error);
            Ok(())
        }
        saved => saved,
    }
}

pub(crate) fn warn_of_none(stream: &StreamName, revision: Revision, error: &Error) {
    tracing::warn!(
        target: "sagastore", %stream, %revision, %error, "no snapshot is taken; the events are saved"
    );
}

/// Keeps snapshots. Each verb is given the saga's persistence key and refuses rows of another saga.
///
/// A repository stores and returns; whether a snapshot can be used is judged by the persister.
#[async_trait]
pub trait SnapshotRepository<DB: Database>: Send + Sync {
    /// The newest snapshot of an instance, however damaged or old in form it is; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::ForeignInstance`](crate::Error::ForeignInstance), or the database's; never "none"
    /// where the database could not tell.
    async fn load_saga_snapshot(
        &self,
        conn: &mut DB::Connection,
        persistence_key: &str,
        instance_id: &InstanceId,
    ) -> Result<Option<Snapshot>>;

    /// Stores a snapshot, in place of one at the same revision, and deletes all but the newest
    /// `keep` up to its revision, and any beyond it: those are newer than the stream.
    ///
    /// # Errors
    /// [`Error::ForeignInstance`](crate::Error::ForeignInstance), or the database's; [`Error::TooLarge`](crate::Error::TooLarge)
    /// if the database cannot take it and nothing was changed: the events are then saved without a snapshot.
    async fn save_saga_snapshot(&self, tx: &mut Transaction<'_, DB>, snapshot: &Snapshot, keep: u32) -> Result<()>;

    /// Deletes all snapshots of an instance and says how many there were.
    ///
    /// # Errors
    /// [`Error::ForeignInstance`](crate::Error::ForeignInstance), or the database's.
    async fn delete_saga_snapshots(
        &self,
        tx: &mut Transaction<'_, DB>,
        persistence_key: &str,
        instance_id: &InstanceId,
    ) -> Result<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_once_the_frequency_has_passed_since_the_last_one() {
        let due = |at, last| SnapshotFrequency::every(1000).is_due(Revision::of(at), Revision::of(last));
        assert!(!due(999, 0) && due(1000, 0) && due(1002, 0) && !due(1999, 1002) && due(2002, 1002));
    }

    #[test]
    fn zero_means_the_default_and_the_largest_never_overflows() {
        assert_eq!(SnapshotFrequency::every(0), SnapshotFrequency::default());
        assert!(SnapshotFrequency::every(0).is_due(DEFAULT_SNAPSHOT_FREQUENCY, Revision::ZERO));
        assert!(!SnapshotFrequency::every(u64::MAX).is_due(Revision::MAX, Revision::ZERO));
        assert!(!SnapshotFrequency::Never.is_due(Revision::MAX, Revision::ZERO));
        assert!(SnapshotFrequency::every(1).is_due(Revision::of(1), Revision::ZERO));
    }

    #[test]
    fn the_checksum_covers_every_field_that_decides_what_the_body_means() {
        let id = InstanceId::new("i").expect("valid");
        let whole = Snapshot::new("k", &id, Revision::of(3), CommitNumber::of(2), 1, "c", &b"abc"[..]);
        assert!(whole.is_intact());
        let damaged = [
            Snapshot { revision: Revision::of(4), ..whole.clone() },
            Snapshot { commit_number: CommitNumber::of(3), ..whole.clone() },
            Snapshot { data_version: 2, ..whole.clone() },
            Snapshot { content_type: "d".to_owned(), ..whole.clone() },
            Snapshot { body: Bytes::from_static(b"abd"), ..whole },
        ];
        assert!(damaged.iter().all(|snapshot| !snapshot.is_intact()));
    }
}
