//! Where a stream ends, as a unit of work has seen it.

use crate::commit::StoredCommit;
use crate::error::Result;
use crate::ids::{CommitNumber, Offset};
use crate::timestamp::Timestamp;

/// Where a stream ended when it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The store's own key of the stream; `None` if it has no row yet.
    pub key: Option<i64>,
    /// Number of its commits.
    pub commit_number: CommitNumber,
    /// The offset that its next event gets.
    pub next_offset: Offset,
    /// When its last commit was stored.
    pub recorded_at: Timestamp,
    /// The order token of its last commit.
    pub order_token: i64,
    /// The checksum of its last commit.
    pub checksum: u32,
    /// The instance is completed.
    pub completed: bool,
}

impl Head {
    /// No commit is there yet.
    pub fn is_at_start(&self) -> bool {
        self.commit_number == CommitNumber::ZERO
    }

    /// The head after `commit`.
    pub(crate) fn after(key: Option<i64>, commit: &StoredCommit) -> Result<Self> {
        Ok(Self {
            key,
            commit_number: commit.commit_number,
            next_offset: commit.end()?,
            recorded_at: commit.recorded_at,
            order_token: commit.order_token,
            checksum: commit.checksum,
            completed: commit.completed,
        })
    }
}

/// Whether the commit that a unit of work builds on may be gone.
///
/// Commits are never removed one by one, so what was committed stays. But a unit of work may have been loaded in a
/// transaction that had written to the stream itself and was rolled back, or long ago, before the server lost what it had
/// confirmed, as at a failover to a replica that had not got it yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadTrust {
    /// It may be: the store makes sure in the statement that writes, and refuses the unit of work otherwise.
    #[default]
    Check,
    /// It is there: this connection has just read it, outside of any transaction, and none of its reads is dirty. A
    /// store that knows of a cheaper statement then may leave the look out.
    JustRead,
}
