//! A part of the time, and how long things took in it.

use std::time::Duration;

/// Durations, in microseconds.
#[derive(Default)]
pub(crate) struct Times(Vec<u64>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Of a thousand, so many took no longer than this; in milliseconds.
    pub(crate) fn at(&mut self, per_mille: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * per_mille / 1000).min(self.0.len().saturating_sub(1));
        Duration::from_micros(self.0.get(at).copied().unwrap_or(0)).as_secs_f64() * 1000.0
    }
}

/// What clients did in it.
#[derive(Default)]
pub(crate) struct Window {
    pub(crate) appends: Times,
    /// Of notes in the inbox, with their commits.
    pub(crate) receives: Times,
    pub(crate) loads: Times,
    /// Tries of units of work that were lost, to another writer or in a deadlock.
    pub(crate) lost_tries: u64,
}

impl Window {
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.appends.append(other.appends);
        self.receives.append(other.receives);
        self.loads.append(other.loads);
        self.lost_tries += other.lost_tries;
        self
    }
}
