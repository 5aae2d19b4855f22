//! Instances of sagas, as a list shows them.

use super::tables::{LastColumns, StreamChoice, StreamColumns};
use crate::error::Result;
use crate::ids::{CommitNumber, InstanceId, Revision};
use crate::row;
use crate::stream_name::StreamName;
use crate::timestamp::Timestamp;

/// The store's own key of a stream: later ones are larger. Only of use to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(pub(crate) i64);

/// Which instances are wanted; all by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    /// Only of this saga.
    pub persistence_key: Option<String>,
    /// Only completed ones, or only those that are not.
    pub completed: Option<bool>,
    /// Only those whose ids begin so.
    pub instance_prefix: Option<String>,
}

impl InstanceFilter {
    pub(super) fn choice(&self, after: Option<StreamKey>) -> StreamChoice<'_> {
        StreamChoice {
            after: after.map_or(i64::MIN, |key| key.0),
            persistence_key: self.persistence_key.as_deref(),
            instance_prefix: self.instance_prefix.as_deref(),
            completed: self.completed,
            instances_only: true,
        }
    }
}

/// An instance and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceSummary {
    /// The key of its stream.
    pub key: StreamKey,
    /// Its stream.
    pub stream: StreamName,
    /// The saga.
    pub persistence_key: String,
    /// Its identity.
    pub instance_id: InstanceId,
    /// Number of its events.
    pub revision: Revision,
    /// Number of its commits.
    pub commits: CommitNumber,
    /// When its stream was started, by the database's clock.
    pub created_at: Timestamp,
    /// When its last commit was stored.
    pub last_recorded_at: Timestamp,
    /// It is completed.
    pub completed: bool,
}

impl InstanceSummary {
    /// `None` of a stream that no saga owns, or that has no commit.
    pub(super) fn new(columns: StreamColumns) -> Option<Result<Self>> {
        match (columns.persistence_key.clone(), columns.instance_id.clone(), columns.last) {
            (Some(key), Some(id), Some(last)) => Some(Self::of(&columns, key, &id, last)),
            _ => None,
        }
    }

    fn of(columns: &StreamColumns, persistence_key: String, instance: &str, last: LastColumns) -> Result<Self> {
        let stream = StreamName::new(&columns.name)?;
        Ok(Self {
            key: StreamKey(columns.key),
            persistence_key,
            instance_id: InstanceId::new(instance)?,
            revision: row::offset(&stream, last.end)?.as_revision(),
            commits: row::commit_number(&stream, last.commit_no)?,
            created_at: Timestamp::from_micros(columns.created_at),
            last_recorded_at: Timestamp::from_micros(last.recorded_at),
            completed: last.completed,
            stream,
        })
    }
}
