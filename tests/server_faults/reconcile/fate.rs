//! What became of each message, as its client was told.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context, ensure};

use super::Of;
use crate::clients::Manner;
use crate::clients::kind::{is_duplicate, is_expected};
use crate::ledger::{Entry, Told};
use crate::site::Site;

/// What became of a message.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) manner: Manner,
    pub(crate) name: String,
    /// Its client was told that it is handled.
    pub(crate) answered: bool,
    /// Its client was told that it may be handled.
    maybe: bool,
    /// Its client was told nothing, the last time.
    open: bool,
    /// What its client was told when it failed.
    failures: Vec<String>,
}

impl Fate {
    /// It may be handled or not.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.maybe || self.open
    }
}

/// What became of all messages.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    pub(crate) of: Of,
    pub(crate) again: usize,
    pub(crate) errors: BTreeMap<String, (usize, String)>,
}

impl Fates {
    /// `full` are the times at which the disk was full.
    pub(crate) fn of<DB: Site>(entries: &[Entry], full: &[RangeInclusive<u64>]) -> anyhow::Result<Self> {
        let mut fates = Self::default();
        for entry in entries {
            let is_full = full.iter().any(|time| time.contains(&entry.at));
            fates.add::<DB>(&entry.told, is_full).with_context(|| format!("{entry}"))?;
        }
        Ok(fates)
    }

    fn add<DB: Site>(&mut self, told: &Told, disk_is_full: bool) -> anyhow::Result<()> {
        match told {
            Told::Tries(message, manner, name) => {
                let (manner, name) = (*manner, name.clone());
                let new = Fate { manner, name, answered: false, maybe: false, open: true, failures: Vec::new() };
                self.of.entry(*message).or_insert(new).open = true;
            }
            Told::Saved(message) => {
                let fate = self.of.get_mut(message).context("it was not tried")?;
                ensure!(!fate.answered, "it was handled before");
                (fate.answered, fate.open) = (true, false);
            }
            Told::Again(message) => {
                let fate = self.of.get_mut(message).context("it was not tried")?;
                ensure!(fate.answered || fate.maybe, "it failed for certain: {fate:?}");
                (fate.answered, fate.open) = (true, false);
                self.again += 1;
            }
            Told::Failed(message, maybe, why) => {
                let fate = self.of.get_mut(message).context("it was not tried")?;
                let may_be_there = fate.maybe;
                fate.maybe |= maybe;
                fate.open = false;
                fate.failures.push(why.clone());
                let kind = self.note(why);
                // The try before may be committed while this one goes on.
                let is_late = may_be_there && is_duplicate::<DB>(kind);
                ensure!(is_late || is_expected::<DB>(kind, disk_is_full), "it was told {why:?}");
            }
            Told::Erred(why) => {
                ensure!(is_expected::<DB>(self.note(why), disk_is_full), "it was told {why:?}");
            }
            Told::Granted(..)
            | Told::Wrote(..)
            | Told::Refused(_)
            | Told::Overlap(_)
            | Told::Revived(_)
            | Told::Went => {}
        }
        Ok(())
    }

    /// Gives its kind.
    fn note<'a>(&mut self, why: &'a str) -> &'a str {
        let kind = why.split(' ').next().unwrap_or_default();
        self.errors.entry(kind.to_owned()).or_insert_with(|| (0, why.to_owned())).0 += 1;
        kind
    }
}
