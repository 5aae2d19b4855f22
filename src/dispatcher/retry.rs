//! When a failed delivery is tried again.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::lock::ExponentialBackoff;
use crate::outbox::Next;

/// After how many failed deliveries a message becomes a dead letter, by default.
pub const DEFAULT_DELIVERY_ATTEMPTS: u32 = 10;
/// How many of the retries come at once, by default.
pub const DEFAULT_IMMEDIATE_RETRIES: u32 = 1;
/// The wait before the first retry that does not come at once, by default. Each later one is twice as long.
pub const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest wait before a retry, by default.
pub const DEFAULT_RETRY_DELAY_CAP: Duration = Duration::from_secs(5 * 60);
/// The part of a wait that is random, by default.
pub const DEFAULT_RETRY_JITTER: f64 = 0.25;

const DOUBLING: f64 = 2.0;
/// Longer waits would leave what the databases' clocks can tell.
const LONGEST_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How often a message is tried, and how long to wait between tries: at once, then exponentially longer up to a cap.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRetry {
    attempts: u32,
    immediate: u32,
    backoff: ExponentialBackoff,
}

impl DeliveryRetry {
    /// `attempts` deliveries in all; of the retries, `immediate` come at once, the next after `delay`, and
    /// each later one after twice the wait before, no longer than `cap`. A part `jitter` of each wait is random.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no attempt at all, or the jitter is not between 0 and 1.
    pub fn new(attempts: u32, immediate: u32, delay: Duration, cap: Duration, jitter: f64) -> Result<Self> {
        if attempts == 0 {
            return Err(Error::invalid("number of delivery attempts", "it is 0; use at least 1"));
        }
        let backoff =
            ExponentialBackoff::new(delay, DOUBLING, attempts)?.with_cap(cap.min(LONGEST_DELAY)).with_jitter(jitter)?;
        Ok(Self { attempts, immediate, backoff })
    }

    /// How long to wait after so many failed deliveries; `None` if no attempt is left.
    pub fn delay(&self, failures: u32) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let waited = failures.saturating_sub(1);
        Some(waited.checked_sub(self.immediate).map_or(Duration::ZERO, |attempt| self.backoff.jittered(attempt)))
    }

    pub(super) fn next(&self, failures: u32) -> Next {
        self.delay(failures).map_or(Next::Dead, Next::Retry)
    }
}

impl Default for DeliveryRetry {
    fn default() -> Self {
        let (attempts, immediate, jitter) =
            (DEFAULT_DELIVERY_ATTEMPTS, DEFAULT_IMMEDIATE_RETRIES, DEFAULT_RETRY_JITTER);
        let policy = Self::new(attempts, immediate, DEFAULT_RETRY_DELAY, DEFAULT_RETRY_DELAY_CAP, jitter);
        policy.expect("BUG: the defaults are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(attempts: u32, cap: u64) -> DeliveryRetry {
        DeliveryRetry::new(attempts, 2, Duration::from_secs(1), Duration::from_secs(cap), 0.0).expect("valid")
    }

    #[test]
    fn retries_come_at_once_then_after_doubling_waits_up_to_a_cap_and_end() {
        let policy = policy(50, 60);
        let seconds = |failures| policy.delay(failures).map(|delay| delay.as_secs());
        assert_eq!([1, 2, 3, 4, 5, 9, 49].map(seconds), [0, 0, 1, 2, 4, 60, 60].map(Some));
        assert_eq!([50, 51, 10_000, u32::MAX].map(seconds), [None; 4]);
    }

    #[test]
    fn ten_thousand_attempts_overflow_nothing() {
        let policy = policy(u32::MAX, 3600);
        assert_eq!(policy.delay(10_000), Some(Duration::from_secs(3600)));
        assert_eq!(policy.delay(u32::MAX - 1), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn no_attempt_at_all_is_refused() {
        assert!(DeliveryRetry::new(0, 0, Duration::ZERO, Duration::ZERO, 0.0).is_err());
        assert!(DeliveryRetry::new(1, 0, Duration::ZERO, Duration::ZERO, 1.5).is_err());
        assert_eq!(DeliveryRetry::new(1, 5, Duration::ZERO, Duration::ZERO, 0.0).expect("valid").delay(1), None);
    }
}
