//! What became of each message, as its client was told.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use super::Of;
use crate::clients::Manner;
use crate::clients::kind::is_expected;
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
    pub(crate) fn of<DB: Site>(entries: &[Entry]) -> anyhow::Result<Self> {
        let mut fates = Self::default();
        for entry in entries {
            fates.add(&entry.told).with_context(|| format!("{entry}"))?;
        }
        for (kind, (count, first)) in &fates.errors {
            ensure!(is_expected::<DB>(kind), "{count} calls were told {first:?}");
        }
        Ok(fates)
    }

    fn add(&mut self, told: &Told) -> anyhow::Result<()> {
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
                fate.maybe |= maybe;
                fate.open = false;
                fate.failures.push(why.clone());
                self.note(why);
            }
            Told::Erred(why) => self.note(why),
            Told::Granted(..)
            | Told::Wrote(..)
            | Told::Refused(_)
            | Told::Overlap(_)
            | Told::Revived(_)
            | Told::Went => {}
        }
        Ok(())
    }

    fn note(&mut self, why: &str) {
        let kind = why.split(' ').next().unwrap_or_default().to_owned();
        self.errors.entry(kind).or_insert_with(|| (0, why.to_owned())).0 += 1;
    }
}
