//! Where a process is killed.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};

/// On which side of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Before,
    After,
}

/// What a process is killed at. Each is counted from one, over the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A request to the server; on SQLite a statement that the driver ran.
    Statement(u32),
    /// A delivery by the emitter.
    Publish(u32),
    /// A commit of SQLite.
    Commit(u32),
    /// A step of SQLite's virtual machine. It has no sides: the process is killed before it.
    Step(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) place: Place,
    pub(crate) side: Side,
}

impl Point {
    pub(crate) fn before(place: Place) -> Self {
        Self { place, side: Side::Before }
    }

    pub(crate) fn after(place: Place) -> Self {
        Self { place, side: Side::After }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Before { "before" } else { "after" };
        let (place, number) = match self.place {
            Place::Statement(number) => ("statement", number),
            Place::Publish(number) => ("publish", number),
            Place::Commit(number) => ("commit", number),
            Place::Step(number) => ("step", number),
        };
        write!(f, "{side} {place} {number}")
    }
}

impl FromStr for Point {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut words = text.split(' ');
        let mut word = || words.next().context("a point has three words");
        let (side, place, number) = (word()?, word()?, word()?.parse()?);
        let side = if side == "before" { Side::Before } else { Side::After };
        let place = match place {
            "statement" => Place::Statement(number),
            "publish" => Place::Publish(number),
            "commit" => Place::Commit(number),
            "step" => Place::Step(number),
            other => bail!("no such place: {other:?}"),
        };
        Ok(Self { place, side })
    }
}
