//! What was done to a database so far.

use std::ops::RangeInclusive;

use super::ledger;
use super::place::Place;

/// The fault that fills the disk, as it is written down.
const DISK_FULL: &str = "Fill";
/// How long after it a client may be told of it.
const TOLD_LATE_MS: u64 = 5_000;

/// Counts faults, and knows when each was over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) counts: Vec<(&'static str, u32)>,
    pub(crate) ends: Vec<u64>,
    /// When the disk was full, until the last client may be told of it.
    pub(crate) full: Vec<RangeInclusive<u64>>,
}

impl Done {
    /// Nothing yet, of these.
    pub(crate) fn of(kinds: impl IntoIterator<Item = &'static str>) -> Self {
        Self { counts: kinds.into_iter().map(|kind| (kind, 0)).collect(), ends: Vec::new(), full: Vec::new() }
    }

    pub(crate) fn add(&mut self, kind: &str, count: u32) {
        let counted = self.counts.iter_mut().find(|(known, _)| *known == kind);
        counted.expect("the fault is of a known kind").1 += count;
    }

    /// What was begun then is over.
    pub(crate) fn end(&mut self, place: &Place, fault: &str, began: u64) -> std::io::Result<()> {
        let ended = ledger::now();
        self.ends.push(ended);
        if fault == DISK_FULL {
            self.full.push(began..=ended + TOLD_LATE_MS);
        }
        place.note(fault, began, ended)
    }
}
