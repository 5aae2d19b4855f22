//! When a worker has to look again by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Most retries that a worker keeps in mind; the later ones it finds by looking.
const MAX_RETRIES: usize = 10_000;
/// Databases tell the time in milliseconds, and round it.
const SLACK: Duration = Duration::from_millis(5);

/// When the messages that a worker could not deliver are to be tried again.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeSet<Instant>);

impl Retries {
    /// One comes after so long, or later than anybody waits.
    pub(super) fn add(&mut self, after: Duration) {
        self.0.extend(Instant::now().checked_add(after.saturating_add(SLACK)));
        if self.0.len() > MAX_RETRIES {
            self.0.pop_last();
        }
    }

    /// Whatever is due now is about to be found.
    pub(super) fn forget_due(&mut self) {
        let now = Instant::now();
        self.0.retain(|at| *at > now);
    }

    /// In how long the next one comes.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.first().map(|at| at.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_is_next_until_it_is_due_and_as_many_are_kept_as_there_is_room_for() {
        let mut retries = Retries::default();
        retries.add(Duration::MAX);
        assert_eq!(retries.next(), None);
        for seconds in (1..=20_000).rev() {
            retries.add(Duration::from_secs(seconds));
        }
        assert_eq!(retries.0.len(), MAX_RETRIES);
        let next = retries.next().expect("one is next");
        assert!(next > Duration::ZERO && next <= Duration::from_secs(1) + SLACK, "{next:?}");
        retries.0.insert(Instant::now());
        assert_eq!(retries.next(), Some(Duration::ZERO));
        retries.forget_due();
        assert_eq!(retries.0.len(), MAX_RETRIES);
    }
}
