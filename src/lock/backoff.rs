//! How long to wait between tries to obtain a lock.

use std::fmt::Debug;
use std::time::Duration;

use crate::error::{Error, Result};

/// The default's first wait.
pub const DEFAULT_BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The default's factor from wait to wait.
pub const DEFAULT_BACKOFF_MULTIPLIER: f64 = 1.5;
/// How often the default tries again after the first try.
pub const DEFAULT_BACKOFF_ATTEMPTS: u32 = 3;
/// Longest wait, unless [`ExponentialBackoff::with_cap`] says otherwise.
pub const DEFAULT_BACKOFF_CAP: Duration = Duration::from_secs(60);

/// Says how long to wait before each further try, and when to stop.
///
/// A value is both a policy and one run of it: [`start`](Self::start) begins a run of its own, so
/// a policy can be shared by any number of callers.
pub trait Backoff: Debug + Send + Sync {
    /// A new run of the same policy, in which nothing was tried yet.
    fn start(&self) -> Box<dyn Backoff>;

    /// The wait before the next try; `None` if no try is left. Counts the try.
    fn next(&mut self) -> Option<Duration>;

    /// How many further tries this run has given out.
    fn attempts(&self) -> u32;

    /// How many it gives out at most.
    fn max_attempts(&self) -> u32;
}

/// Waits that grow by a factor, up to a cap. By default three: 1 s, 1.5 s and 2.25 s.
#[derive(Clone, Debug, PartialEq)]
pub struct ExponentialBackoff {
    first: Duration,
    multiplier: f64,
    max_attempts: u32,
    cap: Duration,
    jitter: f64,
    attempts: u32,
}

impl ExponentialBackoff {
    /// No further try.
    pub const NEVER: Self = Self {
        first: Duration::ZERO,
        multiplier: 1.0,
        max_attempts: 0,
        cap: DEFAULT_BACKOFF_CAP,
        jitter: 0.0,
        attempts: 0,
    };

    /// So many further tries, the first after `first`, each later one after `multiplier` times the wait before.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless `multiplier` is a finite number of at least 1.
    pub fn new(first: Duration, multiplier: f64, max_attempts: u32) -> Result<Self> {
        if !multiplier.is_finite() || multiplier < 1.0 {
            let detail = format!("it is {multiplier}; waits must not shrink: use a finite number of at least 1");
            return Err(Error::invalid("multiplier of a backoff", detail));
        }
        Ok(Self { first, multiplier, max_attempts, ..Self::NEVER })
    }

    /// No wait is longer than this; default [`DEFAULT_BACKOFF_CAP`].
    #[must_use]
    pub fn with_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// Shortens each wait by a random part of up to `fraction` of it, so that many callers do not
    /// come at once. 0, the default, is none.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless it is between 0 and 1.
    pub fn with_jitter(mut self, fraction: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::invalid("jitter of a backoff", format!("it is {fraction}; use one between 0 and 1")));
        }
        self.jitter = fraction;
        Ok(self)
    }

    /// The wait before further try `attempt`, counted from zero, without jitter.
    pub fn wait(&self, attempt: u32) -> Duration {
        let factor = self.multiplier.powf(f64::from(attempt));
        let seconds = self.first.as_secs_f64() * factor;
        // Too long to be a duration, or not a number: zero times infinity.
        let wait = Duration::try_from_secs_f64(seconds);
        wait.unwrap_or(if self.first.is_zero() { Duration::ZERO } else { self.cap }).min(self.cap)
    }
}

impl ExponentialBackoff {
    /// The wait before further try `attempt`, with jitter.
    pub(crate) fn jittered(&self, attempt: u32) -> Duration {
        let wait = self.wait(attempt);
        let shortened = wait.as_secs_f64() * (1.0 - self.jitter * fastrand::f64());
        Duration::try_from_secs_f64(shortened).unwrap_or(wait).min(wait)
    }
}

impl Default for ExponentialBackoff {
    fn default() -> Self {
        Self {
            first: DEFAULT_BACKOFF_FIRST,
            multiplier: DEFAULT_BACKOFF_MULTIPLIER,
            max_attempts: DEFAULT_BACKOFF_ATTEMPTS,
            ..Self::NEVER
        }
    }
}

impl Backoff for ExponentialBackoff {
    fn start(&self) -> Box<dyn Backoff> {
        Box::new(Self { attempts: 0, ..self.clone() })
    }

    fn next(&mut self) -> Option<Duration> {
        if self.attempts >= self.max_attempts {
            return None;
        }
        let wait = self.jittered(self.attempts);
        self.attempts += 1;
        Some(wait)
    }

    fn attempts(&self) -> u32 {
        self.attempts
    }

    fn max_attempts(&self) -> u32 {
        self.max_attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(policy: &dyn Backoff) -> Vec<Duration> {
        let mut run = policy.start();
        std::iter::from_fn(|| run.next()).collect()
    }

    #[test]
    fn the_default_waits_three_times_and_then_no_more() {
        assert_eq!(waits(&ExponentialBackoff::default()), [1000, 1500, 2250].map(Duration::from_millis));
        let mut run = ExponentialBackoff::default().start();
        assert_eq!((run.attempts(), run.max_attempts()), (0, 3));
        run.next();
        assert_eq!((run.attempts(), run.start().attempts()), (1, 0));
    }

    #[test]
    fn no_attempts_gives_no_wait() {
        assert!(waits(&ExponentialBackoff::NEVER).is_empty());
        assert!(waits(&ExponentialBackoff::new(Duration::from_secs(1), 2.0, 0).expect("valid")).is_empty());
    }

    #[test]
    fn what_cannot_grow_is_refused_when_it_is_built() {
        for multiplier in [0.0, 0.5, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let built = ExponentialBackoff::new(Duration::from_secs(1), multiplier, 3);
            assert!(matches!(built, Err(Error::InvalidInput { .. })), "{multiplier} was taken");
        }
        for jitter in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let built = ExponentialBackoff::default().with_jitter(jitter);
            assert!(matches!(built, Err(Error::InvalidInput { .. })), "{jitter} was taken");
        }
    }

    #[test]
    fn the_ten_thousandth_wait_is_the_cap() {
        let cap = Duration::from_secs(7);
        let policy = ExponentialBackoff::new(Duration::from_millis(1), 1e300, 10_000).expect("valid").with_cap(cap);
        let waits = waits(&policy);
        assert_eq!((waits.len(), waits.last()), (10_000, Some(&cap)));
        let never = ExponentialBackoff::new(Duration::ZERO, 1e300, 10_000).expect("valid");
        assert_eq!(never.wait(9_999), Duration::ZERO);
        let longest = ExponentialBackoff::new(Duration::MAX, 2.0, 3).expect("valid").with_cap(Duration::MAX);
        assert_eq!((longest.wait(2), longest.start().next()), (Duration::MAX, Some(Duration::MAX)));
        let constant = ExponentialBackoff::new(cap, 1.0, 3).expect("valid");
        assert_eq!(constant.wait(2), cap);
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_differs() {
        let policy = ExponentialBackoff::new(Duration::from_secs(8), 1.0, 200).expect("valid");
        let waits = waits(&policy.with_jitter(0.25).expect("valid"));
        assert!(waits.iter().all(|wait| (6.0..=8.0).contains(&wait.as_secs_f64())), "{waits:?}");
        assert!(waits.iter().collect::<std::collections::HashSet<_>>().len() > 100);
    }

    #[test]
    fn callers_who_share_a_policy_do_not_share_its_count() {
        let policy = ExponentialBackoff::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(waits(&policy).len(), 3));
            }
        });
    }
}
