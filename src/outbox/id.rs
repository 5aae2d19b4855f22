//! Places in the outbox.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::timeout::TIMEOUT_INDEX_BASE;

/// Identity and place of a record in the outbox. Ordered as records are delivered: oldest first, and
/// within a stream in the order in which they were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId {
    pub(crate) recorded_at: i64,
    pub(crate) stream: i64,
    pub(crate) commit_number: i64,
    pub(crate) index: i64,
    pub(crate) row: i64,
}

impl OutboxId {
    /// Before every record.
    pub(crate) const START: Self =
        Self { recorded_at: i64::MIN, stream: i64::MIN, commit_number: i64::MIN, index: i64::MIN, row: i64::MIN };

    /// It is of a message that a commit holds, or held; no row of its own, and no timeout.
    pub(crate) fn is_of_commit(&self) -> bool {
        self.row == 0 && self.index < TIMEOUT_INDEX_BASE
    }

    /// The commit whose message it is, or at which a page ended.
    pub(crate) fn commit(&self) -> Self {
        Self { index: 0, row: 0, ..*self }
    }
}

impl fmt::Display for OutboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}:{}", self.recorded_at, self.stream, self.commit_number, self.index, self.row)
    }
}

impl FromStr for OutboxId {
    type Err = Error;

    /// Reads what was printed.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid("id of an outbox record", format!("{text:?} is not one"));
        let parts: Result<Vec<i64>, _> = text.split(':').map(str::parse).collect();
        match parts.map_err(|_| invalid())?.as_slice() {
            &[recorded_at, stream, commit_number, index, row] => {
                Ok(Self { recorded_at, stream, commit_number, index, row })
            }
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_printed() {
        let id = OutboxId { recorded_at: -1, stream: 2, commit_number: 3, index: 0, row: i64::MAX };
        assert_eq!(id.to_string().parse::<OutboxId>().expect("an id"), id);
        for bad in ["", "1:2:3:4", "1:2:3:4:5:6", "1:2:3:4:x"] {
            assert!(bad.parse::<OutboxId>().is_err(), "{bad}");
        }
    }
}
