//! Names of streams, and how a saga's parts are joined into one.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::ids::{InstanceId, check_name};

/// Longest stream name, in bytes of UTF-8; room for at least 256 characters of any script.
pub const MAX_STREAM_NAME_BYTES: usize = 1024;
/// Longest persistence key, in bytes of UTF-8.
pub const MAX_PERSISTENCE_KEY_BYTES: usize = 160;

/// Name of a stream: any Unicode text but NUL, at most [`MAX_STREAM_NAME_BYTES`] long.
///
/// Compared byte for byte on every database: case, accents, trailing blanks and the form of
/// composed characters all tell names apart. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if it is empty, too long, or holds NUL.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = check_name("stream name", text.as_ref(), MAX_STREAM_NAME_BYTES)?;
        Ok(Self(text.into()))
    }

    /// The stream of a saga instance: `key/instance`, where `%` and `/` of the key are written
    /// `%25` and `%2F`. The first `/` therefore always ends the key, and no two pairs share a name.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if the persistence key is empty, longer
    /// than [`MAX_PERSISTENCE_KEY_BYTES`], or holds NUL.
    pub fn of_saga(persistence_key: &str, instance_id: &InstanceId) -> Result<Self> {
        let key = check_name("persistence key", persistence_key, MAX_PERSISTENCE_KEY_BYTES)?;
        let key = key.replace('%', "%25").replace('/', "%2F");
        Self::new(format!("{key}/{instance_id}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pairs_of_key_and_instance_share_a_name() {
        let pairs = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a%", "2Fb/c"), ("a", "b%2Fc")];
        let names: std::collections::HashSet<_> = pairs
            .iter()
            .map(|(key, id)| StreamName::of_saga(key, &InstanceId::new(id).expect("valid")).expect("valid"))
            .collect();
        assert_eq!(names.len(), pairs.len());
    }

    #[test]
    fn the_longest_key_and_instance_fit_even_when_all_of_the_key_is_escaped() {
        let id = InstanceId::new("x".repeat(crate::ids::MAX_INSTANCE_ID_BYTES)).expect("valid");
        let key = "/".repeat(MAX_PERSISTENCE_KEY_BYTES);
        assert!(StreamName::of_saga(&key, &id).is_ok());
        assert!(StreamName::of_saga("", &id).is_err());
        assert!(StreamName::new("x".repeat(10_000)).is_err());
    }
}
