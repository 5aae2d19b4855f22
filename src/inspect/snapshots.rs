//! Snapshots, as a list shows them.

use super::tables::SnapshotRow;
use crate::ids::{CommitNumber, InstanceId, Revision};
use crate::row::{self, SnapshotColumns};
use crate::saga::SagaStream;
use crate::snapshot::Snapshot;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// A snapshot without its state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotSummary {
    /// How many events it holds.
    pub revision: Revision,
    /// The commit at which it was taken.
    pub commit_number: CommitNumber,
    /// The version of the state's form.
    pub data_version: u32,
    /// How the state is encoded.
    pub content_type: String,
    /// Bytes of the encoded state.
    pub size: usize,
    /// When it was taken, by the database's clock.
    pub taken_at: Timestamp,
    /// Its checksum is right. A snapshot that is not intact is never used.
    pub intact: bool,
}

impl SnapshotSummary {
    pub(super) fn new(row: SnapshotRow) -> Self {
        let taken_at = Timestamp::from_micros(row.taken_at);
        let snapshot = read(row.columns);
        Self {
            revision: snapshot.revision,
            commit_number: snapshot.commit_number,
            data_version: snapshot.data_version,
            content_type: snapshot.content_type.clone(),
            size: snapshot.body.len(),
            taken_at,
            intact: snapshot.is_intact(),
        }
    }
}

/// The snapshot of a row. Whose it is plays no part in whether it is intact.
pub(crate) fn read(columns: SnapshotColumns) -> Snapshot {
    let anybody = "-";
    let stream = SagaStream {
        name: StreamName::new(anybody).expect("BUG: a valid name"),
        persistence_key: columns.persistence_key.clone(),
        instance_id: InstanceId::new(anybody).expect("BUG: a valid id"),
    };
    row::snapshot(&stream, columns)
}
