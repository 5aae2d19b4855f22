//! Sending one batch: in order within a stream, all streams at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::settings::{AfterFailure, DispatcherSettings};
use super::stop::Stop;
use crate::emitter::{Delivery, DeliveryFailure, Emitter, FailureKind, Report};
use crate::outbox::{OrderKey, OutboxId, OutboxRecord};

/// What became of a batch. What is neither delivered nor failed was not sent, or was abandoned.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) delivered: Vec<Arc<OutboxRecord>>,
    pub(super) failed: Vec<(Arc<OutboxRecord>, DeliveryFailure)>,
}

/// A batch on its way.
struct Batch<'a> {
    emitter: &'a Arc<dyn Emitter>,
    settings: &'a DispatcherSettings,
    /// What is still to be sent, by stream.
    queues: HashMap<OrderKey, VecDeque<Arc<OutboxRecord>>>,
    under_way: HashMap<OutboxId, Arc<OutboxRecord>>,
    /// In the order in which they were sent, and so of their ends.
    deadlines: VecDeque<(Instant, OutboxId)>,
    reports: mpsc::UnboundedSender<Report>,
    /// Dropped with the batch, and the calls with it.
    calls: JoinSet<()>,
    sent: Sent,
}

/// Sends records, which must be in delivery order, and waits for the reports on them: for each no longer than the time
/// limit, and none longer than a stop allows.
pub(super) async fn send(
    emitter: &Arc<dyn Emitter>,
    settings: &DispatcherSettings,
    records: Vec<OutboxRecord>,
    stop: &Stop,
) -> Sent {
    let (reports, mut reported) = mpsc::unbounded_channel();
    let mut batch = Batch {
        emitter,
        settings,
        queues: HashMap::new(),
        under_way: HashMap::new(),
        deadlines: VecDeque::new(),
        reports,
        calls: JoinSet::new(),
        sent: Sent::default(),
    };
    let mut ready = batch.queue(records);
    loop {
        if !stop.is_requested() {
            batch.emit(std::mem::take(&mut ready));
        }
        let Some(deadline) = batch.next_deadline() else { return batch.sent };
        let received = tokio::select! {
            received = timeout_at(deadline, reported.recv()) => received.ok().flatten(),
            () = stop.grace_over() => return batch.sent,
        };
        match received {
            Some(report) => ready.extend(batch.take(report)),
            None => ready.extend(batch.time_out()),
        }
        while let Ok(report) = reported.try_recv() {
            ready.extend(batch.take(report));
        }
    }
}

impl Batch<'_> {
    /// Puts the records into the queues of their streams; gives the first of each.
    fn queue(&mut self, records: Vec<OutboxRecord>) -> Vec<Arc<OutboxRecord>> {
        let mut ready = Vec::new();
        for record in records {
            let (key, record) = (OrderKey::of(&record), Arc::new(record));
            match self.queues.get_mut(&key) {
                Some(queue) => queue.push_back(record),
                None => {
                    self.queues.insert(key, VecDeque::new());
                    ready.push(record);
                }
            }
        }
        ready
    }

    fn emit(&mut self, records: Vec<Arc<OutboxRecord>>) {
        if records.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.settings.emit_timeout;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            self.deadlines.push_back((deadline, record.id));
            self.under_way.insert(record.id, Arc::clone(&record));
            deliveries.push(Delivery::new(record, self.reports.clone()));
        }
        let emitter = Arc::clone(self.emitter);
        self.calls.spawn(async move { emitter.emit(deliveries).await });
    }

    /// When the next message is over its time limit; `None` if none is under way.
    fn next_deadline(&mut self) -> Option<Instant> {
        while let Some((deadline, id)) = self.deadlines.front() {
            if self.under_way.contains_key(id) {
                return Some(*deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Notes a report; gives what can be sent now.
    fn take(&mut self, report: Report) -> Option<Arc<OutboxRecord>> {
        // A report that comes after the time limit changes nothing any more.
        let record = self.under_way.remove(&report.id)?;
        let key = OrderKey::of(&record);
        match report.outcome {
            Ok(()) => self.sent.delivered.push(record),
            Err(failure) => {
                self.sent.failed.push((record, failure));
                if self.settings.after_failure == AfterFailure::Block {
                    self.queues.remove(&key);
                }
            }
        }
        self.queues.get_mut(&key).and_then(VecDeque::pop_front)
    }

    fn time_out(&mut self) -> Vec<Arc<OutboxRecord>> {
        let (now, mut late) = (Instant::now(), Vec::new());
        while let Some((deadline, id)) = self.deadlines.front()
            && *deadline <= now
        {
            late.push(*id);
            self.deadlines.pop_front();
        }
        let limit = self.settings.emit_timeout;
        let failure = || DeliveryFailure::new(FailureKind::TimedOut, format!("no report within {limit:?}"));
        late.into_iter().filter_map(|id| self.take(Report { id, outcome: Err(failure()) })).collect()
    }
}
