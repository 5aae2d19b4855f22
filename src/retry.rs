//! How lost races are retried.

use std::time::Duration;

/// Retries after a conflict by default.
pub const DEFAULT_CONFLICT_RETRIES: u32 = 20;
/// Longest wait before the first retry by default.
pub const DEFAULT_CONFLICT_DELAY: Duration = Duration::from_millis(2);
/// Longest wait before any retry by default.
pub const DEFAULT_CONFLICT_DELAY_CAP: Duration = Duration::from_millis(100);

/// Bounded retry with full jitter: each wait is drawn evenly between nothing and a bound that
/// doubles from retry to retry, up to a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConflictRetry {
    /// How often to try again after the first try.
    pub retries: u32,
    /// The bound of the first wait.
    pub delay: Duration,
    /// The bound of every wait.
    pub cap: Duration,
}

impl ConflictRetry {
    /// No retry: the first conflict is the caller's.
    pub const NEVER: Self = Self { retries: 0, delay: Duration::ZERO, cap: Duration::ZERO };

    /// The largest wait after `lost` lost tries before this one; `None` if no try is left.
    pub fn bound(&self, lost: u32) -> Option<Duration> {
        if lost >= self.retries {
            return None;
        }
        let doubled = 2_u32.checked_pow(lost).and_then(|factor| self.delay.checked_mul(factor));
        Some(doubled.unwrap_or(self.cap).min(self.cap))
    }

    /// A wait to take now.
    pub(crate) fn delay(&self, lost: u32) -> Option<Duration> {
        self.bound(lost).map(|bound| bound.mul_f64(fastrand::f64()))
    }
}

impl Default for ConflictRetry {
    fn default() -> Self {
        Self { retries: DEFAULT_CONFLICT_RETRIES, delay: DEFAULT_CONFLICT_DELAY, cap: DEFAULT_CONFLICT_DELAY_CAP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_then_end() {
        let retry = ConflictRetry { retries: 40, delay: Duration::from_millis(2), cap: Duration::from_millis(100) };
        let bounds: Vec<_> = [0, 1, 2, 6, 39].iter().filter_map(|lost| retry.bound(*lost)).collect();
        assert_eq!(bounds, [2, 4, 8, 100, 100].map(Duration::from_millis));
        assert_eq!(retry.bound(40), None);
        assert_eq!(ConflictRetry::NEVER.bound(0), None);
        assert!((0..1000).all(|_| retry.delay(3) <= retry.bound(3)));
    }
}
