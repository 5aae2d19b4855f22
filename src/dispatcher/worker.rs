//! Relaying the messages of some partitions: read, send, acknowledge.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::Instrument;

use super::batch::{self, Sent};
use super::ownership::{Ownership, Taken};
use super::retries::Retries;
use super::settings::{AfterFailure, DEFAULT_POLL_INTERVAL, DispatcherSettings};
use super::stop::Stop;
use super::telemetry;
use crate::backend::Backend;
use crate::emitter::Emitter;
use crate::error::{Error, Result};
use crate::lock::is_tried_again;
use crate::lock::tables::LeaseTables;
use crate::message_store::MessageStore;
use crate::outbox::{Failure, Found, Next, OutboxId, OutboxRecord, OutboxTables, Selection, find, settle};
use crate::slow_lane;
use crate::timeout::{Released, release};

/// Longest text of an error that is kept with a message, in bytes.
pub const MAX_LAST_ERROR_BYTES: usize = 2_000;

/// How long an idle dispatcher waits for a timeout or a retry at the least: where many become due one after another, it
/// hands over those of so long at once.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// How long it waits at the most after an error, or when the emitter takes nothing, though it looks less often otherwise.
const TROUBLED_PAUSE: Duration = DEFAULT_POLL_INTERVAL;

/// What a dispatcher did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dispatched {
    /// Messages that were delivered and left the outbox.
    pub delivered: u64,
    /// Deliveries that failed, and will be tried again.
    pub failed: u64,
    /// Messages that ran out of attempts.
    pub dead: u64,
    /// Commits that could not be read; their streams wait.
    pub damaged: u64,
}

impl Dispatched {
    /// What the same worker did next, and found again.
    pub(super) fn add(&mut self, more: Self) {
        let damaged = more.damaged.max(self.damaged);
        self.add_other(more);
        self.damaged = damaged;
    }

    /// What a worker for other partitions did.
    pub(super) fn add_other(&mut self, more: Self) {
        self.delivered += more.delivered;
        self.failed += more.failed;
        self.dead += more.dead;
        self.damaged += more.damaged;
    }

    fn is_nothing(&self) -> bool {
        (self.delivered, self.failed, self.dead) == (0, 0, 0)
    }
}

/// What draining came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drained {
    pub(super) dispatched: Dispatched,
    /// In how long the next timeout is due, of whatever partition; `None` if there is none.
    next_due: Option<Duration>,
    /// Messages were found last that the emitter did not begin to send.
    is_stuck: bool,
}

/// How long to wait unless woken: until the next look, the next timeout or the next retry. After an error, or if the emitter
/// takes nothing, a while whatever is due, so that the same is not sent again and again in vain.
pub(super) fn pause(drained: Option<&Drained>, retries: &Retries, poll: Duration) -> Duration {
    let Some(drained) = drained.filter(|drained| !drained.is_stuck) else { return poll.min(TROUBLED_PAUSE) };
    let due = drained.next_due.into_iter().chain(retries.next()).min();
    due.map_or(poll, |due| due.max(LEAST_PAUSE).min(poll))
}

/// Up to when what was recorded is relayed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Horizon {
    /// Without end: what is recorded meanwhile, too.
    Open,
    /// By the first look, which sets it. Under a load that never pauses there is always more.
    FirstLook(Option<i64>),
}

/// What was done in one round.
#[derive(Default)]
struct Round {
    dispatched: Dispatched,
    timeouts: Released,
    /// Messages that were left when the time of the batch was over.
    left: usize,
}

/// All that the workers of a dispatcher share.
pub(super) struct Shared<DB: Backend> {
    pub(super) ownership: Ownership<DB>,
    pub(super) store: DB::Store,
    pub(super) emitter: Arc<dyn Emitter>,
    pub(super) settings: DispatcherSettings,
    /// Whose turn it is to acknowledge, where only one can write: whom the database lets wait looks again and again.
    pub(super) turn: Mutex<()>,
}

/// What was decided about a batch.
#[derive(Default)]
struct Decided {
    delivered: Vec<(i64, OutboxId)>,
    failed: Vec<(i64, Failure)>,
}

impl<DB: Backend> Shared<DB> {
    /// Relays until nothing within the horizon is due, the emitter takes nothing, or a stop is requested.
    pub(super) async fn drain(
        &self,
        worker: u32,
        stop: &Stop,
        mut horizon: Horizon,
        retries: &mut Retries,
    ) -> Result<Drained> {
        let mut total = Drained::default();
        while !stop.is_requested() {
            retries.forget_due();
            let taken = self.ownership.take(worker, self.settings.workers);
            let given_back = GiveBack { ownership: &self.ownership, taken: &taken };
            let round = if taken.is_empty() {
                Ok(Round::default())
            } else {
                self.round(&taken, stop, &mut horizon, retries).await
            };
            drop(given_back);
            let Round { dispatched, timeouts, left } = round?;
            total.dispatched.add(dispatched);
            (total.next_due, total.is_stuck) = (timeouts.next, left > 0);
            // Timeouts that were handed over may wait behind a failed message; more are due only if they were a whole batch.
            if dispatched.is_nothing() && timeouts.count < u64::from(self.settings.batch) {
                break;
            }
        }
        Ok(total)
    }

    async fn round(&self, taken: &[Taken], stop: &Stop, horizon: &mut Horizon, retries: &mut Retries) -> Result<Round> {
        // Nothing is under way yet: a stop need not wait for a database that does not answer.
        let (timeouts, found) = tokio::select! {
            found = self.find(taken, horizon) => found?,
            () = stop.requested() => (Released::default(), Found::default()),
        };
        let Found { records, damaged } = found;
        for (_, damage) in &damaged {
            telemetry::damaged(damage);
        }
        let mut dispatched =
            Dispatched { damaged: u64::try_from(damaged.len()).unwrap_or(u64::MAX), ..Dispatched::default() };
        if records.is_empty() {
            return Ok(Round { dispatched, timeouts, left: 0 });
        }
        let (found, span) = (records.len(), telemetry::batch(taken.len(), records.len()));
        let settled = async {
            let sent = batch::send(&self.emitter, &self.settings, records, stop).await;
            let left = sent.left;
            if left > 0 && !stop.is_requested() {
                telemetry::left(left, found);
            }
            Ok::<_, Error>((left, self.settle(taken, self.decide(sent), retries).await?))
        };
        let (left, settled) = settled.instrument(span).await?;
        dispatched.add(settled);
        Ok(Round { dispatched, timeouts, left })
    }

    /// Hands over the timeouts that are due, then looks for messages. No transaction and no connection is held afterwards.
    async fn find(&self, taken: &[Taken], horizon: &mut Horizon) -> Result<(Released, Found)> {
        let partitions = taken.iter().fold(0_i64, |mask, taken| mask | 1 << taken.partition);
        let selection = Selection { partitions, behind_failed: self.settings.after_failure == AfterFailure::Skip };
        let mut conn = self.ownership.connect().await?;
        let batch = self.settings.batch;
        let found = async {
            let timeouts = release(&self.store, &mut conn, partitions, batch).await?;
            // Timeouts that were due are among what was recorded.
            if let Horizon::FirstLook(then @ None) = horizon {
                *then = Some(self.store.recorded_by(&mut conn).await?);
            }
            let found = find(&self.store, &mut conn, selection, OutboxId::START, batch).await?;
            Ok((timeouts, found))
        };
        let found = found.await;
        conn.release();
        let (timeouts, mut found) = found?;
        if let Horizon::FirstLook(Some(then)) = *horizon {
            found.keep_recorded_by(then);
        }
        found.keep_commits(batch);
        Ok((timeouts, found))
    }

    fn decide(&self, sent: Sent) -> Decided {
        let failed = |(record, error): (Arc<OutboxRecord>, crate::emitter::DeliveryFailure)| {
            let attempts = record.attempts.saturating_add(1);
            let next = self.settings.retry.next(attempts);
            let text = error.text();
            telemetry::failed(&record, attempts, &text, next);
            let error = slow_lane::error_text(&text, MAX_LAST_ERROR_BYTES);
            (record.partition(), Failure { id: record.id, attempts, error, next })
        };
        Decided {
            delivered: sent.delivered.into_iter().map(|record| (record.partition(), record.id)).collect(),
            failed: sent.failed.into_iter().map(failed).collect(),
        }
    }

    /// Acknowledges and notes what failed, in one transaction, for the partitions that are still held. A deadlock or the
    /// like only means to do it again: nothing of it was done.
    async fn settle(&self, taken: &[Taken], mut decided: Decided, retries: &mut Retries) -> Result<Dispatched> {
        let mut contentions = 0;
        loop {
            match self.settle_once(taken, &mut decided).await {
                Err(error) if is_tried_again(&error, contentions) => contentions += 1,
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        for (_, failure) in &decided.failed {
            if let Next::Retry(after) = failure.next {
                retries.add(after);
            }
        }
        Ok(decided.count())
    }

    async fn settle_once(&self, taken: &[Taken], decided: &mut Decided) -> Result<()> {
        let _turn = if self.store.has_one_writer() { Some(self.turn.lock().await) } else { None };
        let mut conn = self.ownership.connect().await?;
        let settled = async {
            let mut tx = self.store.begin(&mut conn).await?;
            let concerned = decided.partitions();
            let concerned: Vec<_> = taken.iter().filter(|taken| concerned.contains(&taken.partition)).collect();
            let fences: Vec<_> = concerned.iter().map(|taken| taken.fence.clone()).collect();
            let held = self.store.hold(&mut tx, &fences).await?;
            for (place, Taken { partition, fence }) in concerned.into_iter().enumerate() {
                if !held.contains(&place) {
                    self.ownership.lose(*partition, fence);
                    decided.forget(*partition);
                }
            }
            let delivered: Vec<_> = decided.delivered.iter().map(|(_, id)| *id).collect();
            let failed: Vec<_> = decided.failed.iter().map(|(_, failure)| failure.clone()).collect();
            settle(&self.store, &mut tx, &delivered, &failed).await?;
            let committed = tx.commit().await;
            committed.map_err(|error| self.store.classify("acknowledging messages of the outbox", error))
        };
        let settled = settled.await;
        conn.release();
        settled
    }
}

impl Decided {
    fn partitions(&self) -> BTreeSet<i64> {
        let delivered = self.delivered.iter().map(|(partition, _)| *partition);
        delivered.chain(self.failed.iter().map(|(partition, _)| *partition)).collect()
    }

    /// Its messages are another dispatcher's now, and will be delivered again.
    fn forget(&mut self, partition: i64) {
        self.delivered.retain(|(found, _)| *found != partition);
        self.failed.retain(|(found, _)| *found != partition);
    }

    fn count(&self) -> Dispatched {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let dead = count(self.failed.iter().filter(|(_, failure)| failure.next == Next::Dead).count());
        let failed = count(self.failed.len()) - dead;
        let dispatched = Dispatched { delivered: count(self.delivered.len()), failed, dead, damaged: 0 };
        telemetry::settled(&dispatched);
        dispatched
    }
}

/// Gives partitions back, also when the worker is dropped.
struct GiveBack<'a, DB: Backend> {
    ownership: &'a Ownership<DB>,
    taken: &'a [Taken],
}

impl<DB: Backend> Drop for GiveBack<'_, DB> {
    fn drop(&mut self) {
        self.ownership.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_that_is_due_shortens_no_pause_after_an_error_or_in_vain() {
        let (mut retries, poll) = (Retries::default(), Duration::from_secs(600));
        retries.add(Duration::from_millis(60));
        let (well, stuck) = (Drained::default(), Drained { is_stuck: true, ..Drained::default() });
        assert!(pause(Some(&well), &retries, poll) < Duration::from_secs(1));
        assert_eq!(pause(Some(&stuck), &retries, poll), TROUBLED_PAUSE);
        assert_eq!(pause(None, &retries, poll), TROUBLED_PAUSE);
    }
}
