//! States of instances as the code of today makes them, kept to compare with those of tomorrow.

use std::collections::HashMap;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::ids::InstanceId;

/// The state of an instance after one of its commits: a line of a baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    /// The saga.
    pub persistence_key: String,
    /// The instance.
    pub instance_id: String,
    /// Number of its commits.
    pub commits: u64,
    /// Number of its events.
    pub revision: u64,
    /// Its state, as JSON; whole numbers beyond 64 bits are strings there.
    pub state: Value,
}

impl SavedState {
    /// Writes it as one line of JSON.
    ///
    /// # Errors
    /// [`Error::Unencodable`] with what writing said.
    pub fn write_line(&self, to: &mut impl Write) -> Result<()> {
        let unencodable = |source: std::io::Error| Error::Unencodable {
            what: "a line of a baseline".to_owned(),
            source: source.into(),
        };
        serde_json::to_writer(&mut *to, self).map_err(|error| unencodable(error.into()))?;
        to.write_all(b"\n").map_err(unencodable)
    }
}

/// States that replay is to come to.
#[derive(Clone, Debug, Default)]
pub struct Baseline(HashMap<(String, String), SavedState>);

impl Baseline {
    /// Reads the lines that [`SavedState::write_line`] wrote. Of two for one instance the later counts. All are kept in
    /// memory.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the line that cannot be read.
    pub fn read(lines: impl BufRead) -> Result<Self> {
        let mut states = HashMap::new();
        for (number, line) in lines.lines().enumerate() {
            let unreadable =
                |error: &dyn std::fmt::Display| Error::invalid("baseline", format!("line {}: {error}", number + 1));
            let line = line.map_err(|error| unreadable(&error))?;
            let state: SavedState = serde_json::from_str(&line).map_err(|error| unreadable(&error))?;
            states.insert((state.persistence_key.clone(), state.instance_id.clone()), state);
        }
        Ok(Self(states))
    }

    pub(super) fn of(&self, persistence_key: &str, instance: &InstanceId) -> Option<&SavedState> {
        self.0.get(&(persistence_key.to_owned(), instance.as_str().to_owned()))
    }

    /// The instances of a saga that it knows.
    pub(super) fn instances<'a>(&'a self, persistence_key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.keys().filter(move |(key, _)| key == persistence_key).map(|(_, instance)| instance.as_str())
    }

    /// How many instances it knows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if it knows none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
