//! How a dispatcher goes about it.

use std::time::Duration;

use super::retry::DeliveryRetry;
use crate::error::{Error, Result};
use crate::outbox::{LOCK_MAX_DURATION, MAX_DISPATCHERS, SUBS_EXPIRATION_AFTER};

/// How many dispatchers may share the outbox, by default.
pub const DEFAULT_DISPATCHERS: u32 = 2;
/// How many messages are read, sent and acknowledged at once, by default.
pub const DEFAULT_DISPATCH_BATCH: u32 = 100;
/// Most messages in a batch.
pub const MAX_DISPATCH_BATCH: u32 = 10_000;
/// How often the outbox is looked at when nobody wakes the dispatcher, by default.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Longest time between two looks: the partitions' leases are renewed then.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How many batches one dispatcher has under way at a time, by default. Each is of partitions of its own.
pub const DEFAULT_DISPATCH_WORKERS: u32 = 4;
/// Most batches that one dispatcher can have under way at a time: one for each block of partitions.
pub const MAX_DISPATCH_WORKERS: u32 = 8;
/// How long an emitter may take for one message, by default: longer than the emitters' own limits, and shorter than
/// a lease.
pub const DEFAULT_EMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a dispatcher that is stopped waits for messages that are under way, by default.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(5);
/// Longest time to wait for messages that are under way.
pub const MAX_STOP_GRACE: Duration = Duration::from_secs(60 * 60);
/// Shortest lease on a partition: a few round trips to a slow database.
pub const MIN_DISPATCH_LEASE: Duration = Duration::from_secs(1);
/// Longest lease on a partition, and so nearly the longest wait for what a killed dispatcher left.
pub const MAX_DISPATCH_LEASE: Duration = Duration::from_secs(60 * 60);

/// A slot is kept for so many leases of a partition.
const SLOT_LEASES: u32 = 2;
const _: () = assert!(SUBS_EXPIRATION_AFTER.as_secs() == 2 * LOCK_MAX_DURATION.as_secs(), "by default as documented");
/// How often leases and subscription are looked after while a lease lasts.
const REFRESHES_PER_LEASE: u32 = 5;

/// What becomes of the later messages of a stream while one has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterFailure {
    /// They wait behind it until it is delivered, or, once it is a dead letter, until that is retried or discarded: the
    /// order of the stream is kept.
    #[default]
    Block,
    /// They pass it: it comes later than they do, or never.
    Skip,
}

/// The settings of a [`Dispatcher`](super::Dispatcher).
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct DispatcherSettings {
    pub(super) dispatchers: u32,
    pub(super) batch: u32,
    pub(super) lease: Duration,
    pub(super) poll: Duration,
    pub(super) workers: u32,
    pub(super) emit_timeout: Duration,
    pub(super) stop_grace: Duration,
    pub(super) retry: DeliveryRetry,
    pub(super) after_failure: AfterFailure,
}

impl Default for DispatcherSettings {
    fn default() -> Self {
        Self {
            dispatchers: DEFAULT_DISPATCHERS,
            batch: DEFAULT_DISPATCH_BATCH,
            lease: LOCK_MAX_DURATION,
            poll: DEFAULT_POLL_INTERVAL,
            workers: DEFAULT_DISPATCH_WORKERS,
            emit_timeout: DEFAULT_EMIT_TIMEOUT,
            stop_grace: DEFAULT_STOP_GRACE,
            retry: DeliveryRetry::default(),
            after_failure: AfterFailure::default(),
        }
    }
}

fn check<T: PartialOrd + std::fmt::Debug>(what: &'static str, value: T, least: T, most: T) -> Result<T> {
    if value >= least && value <= most {
        return Ok(value);
    }
    Err(Error::invalid(what, format!("it is {value:?}; use one between {least:?} and {most:?}")))
}

impl DispatcherSettings {
    /// How long a subscription lasts: longer than the leases, so that who comes back finds its share.
    pub(super) fn slot_lease(&self) -> Duration {
        self.lease * SLOT_LEASES
    }

    /// How often leases and subscription are looked after, at the least.
    pub(super) fn refresh_interval(&self) -> Duration {
        self.poll.min(self.lease / REFRESHES_PER_LEASE)
    }

    /// So many dispatchers share the outbox at most; default [`DEFAULT_DISPATCHERS`]. All should be told the same.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between 1 and [`MAX_DISPATCHERS`].
    pub fn with_dispatchers(mut self, dispatchers: u32) -> Result<Self> {
        self.dispatchers = check("number of dispatchers", dispatchers, 1, MAX_DISPATCHERS)?;
        Ok(self)
    }

    /// Batches of so many messages at most; default [`DEFAULT_DISPATCH_BATCH`].
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between 1 and [`MAX_DISPATCH_BATCH`].
    pub fn with_batch(mut self, batch: u32) -> Result<Self> {
        self.batch = check("size of a dispatcher's batch", batch, 1, MAX_DISPATCH_BATCH)?;
        Ok(self)
    }

    /// Leases partitions for so long, and renews in time; default [`LOCK_MAX_DURATION`]. A dispatcher that is killed or
    /// paused for longer is replaced once its leases have expired and its slot, which lasts twice as long, has, too.
    /// All should be told the same.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between [`MIN_DISPATCH_LEASE`] and [`MAX_DISPATCH_LEASE`].
    pub fn with_lease(mut self, lease: Duration) -> Result<Self> {
        self.lease = check("lease of a dispatcher", lease, MIN_DISPATCH_LEASE, MAX_DISPATCH_LEASE)?;
        Ok(self)
    }

    /// Looks so often; default [`DEFAULT_POLL_INTERVAL`]. Retries of messages that this dispatcher could not deliver, and
    /// timeouts, come when they are due; after an error it looks at least as often as by default.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between a millisecond and [`MAX_POLL_INTERVAL`].
    pub fn with_poll_interval(mut self, poll: Duration) -> Result<Self> {
        self.poll = check("poll interval", poll, Duration::from_millis(1), MAX_POLL_INTERVAL)?;
        Ok(self)
    }

    /// So many batches under way at a time; default [`DEFAULT_DISPATCH_WORKERS`]. Each needs a connection while it reads
    /// and acknowledges, and none while it sends. More of them help where sending takes long. Where it does not, they gain little on
    /// SQLite, where one at a time writes, and each writes pages of the file that commits of other partitions share.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between 1 and [`MAX_DISPATCH_WORKERS`].
    pub fn with_workers(mut self, workers: u32) -> Result<Self> {
        self.workers = check("number of workers", workers, 1, MAX_DISPATCH_WORKERS)?;
        Ok(self)
    }

    /// The emitter may take so long for one message from when it [begins](crate::emitter::Delivery::begin); default
    /// [`DEFAULT_EMIT_TIMEOUT`]. After as long a batch ends: what of it was not begun by then comes with a later one, and
    /// costs no attempt.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] unless between a millisecond and [`LOCK_MAX_DURATION`], after which another
    /// dispatcher could take over.
    pub fn with_emit_timeout(mut self, timeout: Duration) -> Result<Self> {
        self.emit_timeout = check("time limit of an emitter", timeout, Duration::from_millis(1), LOCK_MAX_DURATION)?;
        Ok(self)
    }

    /// Once stopped, waits so long for what is under way; default [`DEFAULT_STOP_GRACE`], at most [`MAX_STOP_GRACE`].
    pub fn with_stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = grace.min(MAX_STOP_GRACE);
        self
    }

    /// Retries so.
    pub fn with_retry(mut self, retry: DeliveryRetry) -> Self {
        self.retry = retry;
        self
    }

    /// Lets later messages of a stream wait behind one that failed, or pass it.
    pub fn with_after_failure(mut self, after_failure: AfterFailure) -> Self {
        self.after_failure = after_failure;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type With<T> = fn(DispatcherSettings, T) -> Result<DispatcherSettings>;

    fn is_refused(setting: Result<DispatcherSettings>) -> bool {
        matches!(setting, Err(Error::InvalidInput { .. }))
    }

    #[test]
    fn numbers_outside_their_limits_are_refused() {
        let settings = DispatcherSettings::default;
        let numbers: [(With<u32>, u32); 3] = [
            (DispatcherSettings::with_dispatchers, MAX_DISPATCHERS),
            (DispatcherSettings::with_batch, MAX_DISPATCH_BATCH),
            (DispatcherSettings::with_workers, MAX_DISPATCH_WORKERS),
        ];
        for (with, most) in numbers {
            assert!(with(settings(), 1).is_ok() && with(settings(), most).is_ok(), "{most}");
            assert!([0, most + 1, u32::MAX].into_iter().all(|number| is_refused(with(settings(), number))), "{most}");
        }
    }

    #[test]
    fn times_outside_their_limits_are_refused() {
        let settings = DispatcherSettings::default;
        let (millisecond, nanosecond) = (Duration::from_millis(1), Duration::from_nanos(1));
        let times: [(With<Duration>, Duration, Duration); 3] = [
            (DispatcherSettings::with_lease, MIN_DISPATCH_LEASE, MAX_DISPATCH_LEASE),
            (DispatcherSettings::with_poll_interval, millisecond, MAX_POLL_INTERVAL),
            (DispatcherSettings::with_emit_timeout, millisecond, LOCK_MAX_DURATION),
        ];
        for (with, least, most) in times {
            assert!(with(settings(), least).is_ok() && with(settings(), most).is_ok(), "{least:?} to {most:?}");
            let wrong = [Duration::ZERO, least - nanosecond, most + nanosecond, Duration::MAX];
            assert!(wrong.into_iter().all(|time| is_refused(with(settings(), time))), "{least:?} to {most:?}");
        }
        let grace = |grace| settings().with_stop_grace(grace).stop_grace;
        assert_eq!([Duration::ZERO, Duration::MAX].map(grace), [Duration::ZERO, MAX_STOP_GRACE]);
    }
}
