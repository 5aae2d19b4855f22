//! The ways in which messages are handled.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;

/// How a writer handles its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Manner {
    /// `Persister::execute`.
    Plain,
    /// With instances in memory.
    Cached,
    /// Committed together with others, where that can be had.
    Grouped,
    /// Both.
    CachedInGroup,
    /// `Persister::execute_in_transaction`, with a row of the caller's own.
    Attempt,
    /// In a transaction that the caller begins and commits, with a row of its own.
    OwnTransaction,
    /// By a message handler that finds instances by their keys, with a row of the program's own.
    Keyed,
    /// Without a saga, by an inbox, with a row of the caller's own.
    Inbox,
}

impl Manner {
    pub(crate) const ALL: [Self; 8] = [
        Self::Plain,
        Self::Cached,
        Self::Grouped,
        Self::CachedInGroup,
        Self::Attempt,
        Self::OwnTransaction,
        Self::Keyed,
        Self::Inbox,
    ];

    /// It comes with a row of the caller's own.
    pub(crate) fn has_own_row(self) -> bool {
        matches!(self, Self::Attempt | Self::OwnTransaction | Self::Keyed | Self::Inbox)
    }
}

impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Manner {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Self::ALL.into_iter().find(|manner| manner.to_string() == name).with_context(|| format!("manner {name:?}"))
    }
}
