//! Sending one batch: in order within a stream, all streams at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::settings::{AfterFailure, DispatcherSettings};
use super::stop::Stop;
use crate::emitter::{Delivery, DeliveryFailure, Emitter, FailureKind, Report};
use crate::outbox::{OrderKey, OutboxRecord};

/// What became of a batch. What is neither delivered nor failed was not sent, or was abandoned.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) delivered: Vec<Arc<OutboxRecord>>,
    pub(super) failed: Vec<(Arc<OutboxRecord>, DeliveryFailure)>,
}

/// A message of a batch.
struct Message {
    record: Arc<OutboxRecord>,
    /// The place of the next one of the same stream.
    next: Option<usize>,
    is_under_way: bool,
}

/// A batch on its way.
struct Batch<'a> {
    emitter: &'a Arc<dyn Emitter>,
    settings: &'a DispatcherSettings,
    /// In delivery order. They are known by their places here.
    messages: Vec<Message>,
    /// In the order in which they were sent, and so of their ends.
    deadlines: VecDeque<(Instant, usize)>,
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
    let (messages, mut ready) = in_streams(records);
    let mut batch = Batch {
        emitter,
        settings,
        messages,
        deadlines: VecDeque::new(),
        reports,
        calls: JoinSet::new(),
        sent: Sent::default(),
    };
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
            Some(report) => ready.extend(batch.take(report.place, report.outcome)),
            None => ready.extend(batch.time_out()),
        }
        while let Ok(report) = reported.try_recv() {
            ready.extend(batch.take(report.place, report.outcome));
        }
    }
}

/// Each message with that which comes after it, and the places of those that come first.
fn in_streams(records: Vec<OutboxRecord>) -> (Vec<Message>, Vec<usize>) {
    let (mut messages, mut first) = (Vec::<Message>::with_capacity(records.len()), Vec::new());
    let mut last = HashMap::with_capacity(records.len());
    for (place, record) in records.into_iter().enumerate() {
        match last.insert(OrderKey::of(&record), place).and_then(|before| messages.get_mut(before)) {
            Some(before) => before.next = Some(place),
            None => first.push(place),
        }
        messages.push(Message { record: Arc::new(record), next: None, is_under_way: false });
    }
    (messages, first)
}

impl Batch<'_> {
    fn emit(&mut self, places: Vec<usize>) {
        if places.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.settings.emit_timeout;
        let mut deliveries = Vec::with_capacity(places.len());
        for place in places {
            if let Some(message) = self.messages.get_mut(place) {
                message.is_under_way = true;
                self.deadlines.push_back((deadline, place));
                deliveries.push(Delivery::new(place, Arc::clone(&message.record), self.reports.clone()));
            }
        }
        let emitter = Arc::clone(self.emitter);
        self.calls.spawn(async move { emitter.emit(deliveries).await });
    }

    /// When the next message is over its time limit; `None` if none is under way.
    fn next_deadline(&mut self) -> Option<Instant> {
        while let Some((deadline, place)) = self.deadlines.front() {
            if self.messages.get(*place).is_some_and(|message| message.is_under_way) {
                return Some(*deadline);
            }
            self.deadlines.pop_front();
        }
        None
    }

    /// Notes what became of a message; gives what can be sent now.
    fn take(&mut self, place: usize, outcome: Result<(), DeliveryFailure>) -> Option<usize> {
        // A report that comes after the time limit changes nothing any more.
        let message = self.messages.get_mut(place).filter(|message| message.is_under_way)?;
        message.is_under_way = false;
        let (record, next) = (Arc::clone(&message.record), message.next);
        match outcome {
            Ok(()) => self.sent.delivered.push(record),
            Err(failure) => {
                self.sent.failed.push((record, failure));
                if self.settings.after_failure == AfterFailure::Block {
                    return None;
                }
            }
        }
        next
    }

    fn time_out(&mut self) -> Vec<usize> {
        let (now, mut late) = (Instant::now(), Vec::new());
        while let Some((deadline, place)) = self.deadlines.front()
            && *deadline <= now
        {
            late.push(*place);
            self.deadlines.pop_front();
        }
        let limit = self.settings.emit_timeout;
        let failure = || DeliveryFailure::new(FailureKind::TimedOut, format!("no report within {limit:?}"));
        late.into_iter().filter_map(|place| self.take(place, Err(failure()))).collect()
    }
}
