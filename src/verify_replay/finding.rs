//! What does not replay as it should.

use std::fmt;

use serde_json::Value;

use crate::error::Error;
use crate::ids::{InstanceId, Revision};

/// An instance that does not replay as it should.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplayFinding {
    /// The instance.
    pub instance_id: InstanceId,
    /// What is wrong with it.
    pub fault: ReplayFault,
}

/// In what way an instance does not replay as it should.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayFault {
    /// It cannot be loaded: an event is of an unknown type, or does not decode, or is damaged.
    Failed(Error),
    /// Its state at a snapshot is not the snapshot's, although that is of the same data version. Loading would give
    /// another state with the snapshot than without: raise [`Saga::data_version`](crate::Saga::data_version), or mend
    /// `apply_event`.
    DiffersFromSnapshot {
        /// The snapshot's revision.
        revision: Revision,
        /// Where the two states differ first.
        place: String,
    },
    /// A snapshot of the same data version cannot be read by this code: raise the data version.
    UnreadableSnapshot {
        /// The snapshot's revision.
        revision: Revision,
    },
    /// Its state is not the one in the baseline.
    DiffersFromBaseline {
        /// The baseline's revision.
        revision: u64,
        /// Where the two states differ first.
        place: String,
    },
    /// The instance, or the commit, of the baseline is not there.
    NotThere {
        /// The baseline's revision.
        revision: u64,
    },
}

impl fmt::Display for ReplayFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {:?} ", self.instance_id)?;
        match &self.fault {
            ReplayFault::Failed(error) => write!(f, "does not replay: {error}"),
            ReplayFault::DiffersFromSnapshot { revision, place } => {
                write!(f, "differs at {place} from its snapshot at revision {revision}; raise the data version")
            }
            ReplayFault::UnreadableSnapshot { revision } => {
                write!(f, "has a snapshot at revision {revision} that does not decode; raise the data version")
            }
            ReplayFault::DiffersFromBaseline { revision, place } => {
                write!(f, "differs at {place} from the baseline at revision {revision}")
            }
            ReplayFault::NotThere { revision } => write!(f, "does not have revision {revision} of the baseline"),
        }
    }
}

/// The path of the first place where two values differ, `state.a.b[3]`; `None` if they do not.
pub(super) fn first_difference(one: &Value, other: &Value) -> Option<String> {
    fn differ(path: String, one: &Value, other: &Value) -> Option<String> {
        match (one, other) {
            (Value::Object(one), Value::Object(other)) => {
                let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
                keys.into_iter().find_map(|key| match (one.get(key), other.get(key)) {
                    (Some(one), Some(other)) => differ(format!("{path}.{key}"), one, other),
                    _ => Some(format!("{path}.{key}")),
                })
            }
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                let mut places = one.iter().zip(other).enumerate();
                places.find_map(|(at, (one, other))| differ(format!("{path}[{at}]"), one, other))
            }
            (one, other) if one == other => None,
            _ => Some(path),
        }
    }
    differ("state".to_owned(), one, other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named_by_its_path_and_no_value_is_shown() {
        let state = json!({ "a": [1, { "b": "secret" }], "c": null });
        for (other, place) in [
            (state.clone(), None),
            (json!({ "a": [1, { "b": "x" }], "c": null }), Some("state.a[1].b")),
            (json!({ "a": [1], "c": null }), Some("state.a")),
            (json!({ "a": [1, { "b": "secret" }] }), Some("state.c")),
            (json!({ "a": [1, { "b": "secret", "d": 1 }], "c": null }), Some("state.a[1].d")),
            (json!(7), Some("state")),
        ] {
            assert_eq!(first_difference(&state, &other).as_deref(), place);
        }
    }
}
