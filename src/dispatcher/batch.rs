//! Sending one batch: in order within a stream, all streams at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::settings::{AfterFailure, DispatcherSettings};
use super::stop::Stop;
use crate::emitter::{Delivery, DeliveryFailure, Emitter, FailureKind, Report, Start};
use crate::outbox::{OrderKey, OutboxRecord};

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) delivered: Vec<Arc<OutboxRecord>>,
    pub(super) failed: Vec<(Arc<OutboxRecord>, DeliveryFailure)>,
    /// How many were left when the time of the batch was over.
    pub(super) left: usize,
}

/// A message of a batch.
struct Message {
    record: Arc<OutboxRecord>,
    /// The place of the next one of the same stream.
    next: Option<usize>,
    start: Start,
    is_under_way: bool,
}

/// A batch on its way.
struct Batch<'a> {
    emitter: &'a Arc<dyn Emitter>,
    settings: &'a DispatcherSettings,
    /// In delivery order. They are known by their places here.
    messages: Vec<Message>,
    under_way: usize,
    /// Nothing is begun after it.
    end: Instant,
    /// Of what is under way, in order; once it is closed.
    deadlines: Option<VecDeque<(Instant, usize)>>,
    reports: mpsc::UnboundedSender<Report>,
    /// Dropped with the batch, and the calls with it.
    calls: JoinSet<()>,
    sent: Sent,
}

/// Sends records, which must be in delivery order, and waits for the reports on them: for each no longer than the time
/// limit, and none longer than a stop allows. Once the limit has passed since the beginning, or a stop is requested, nothing
/// more is begun, so that no stream holds up the others for longer than twice the limit.
pub(super) async fn send(
    emitter: &Arc<dyn Emitter>,
    settings: &DispatcherSettings,
    records: Vec<OutboxRecord>,
    stop: &Stop,
) -> Sent {
    let (reports, mut reported) = mpsc::unbounded_channel();
    let (messages, first) = in_streams(records);
    let mut batch = Batch {
        emitter,
        settings,
        messages,
        under_way: 0,
        end: Instant::now() + settings.emit_timeout,
        deadlines: None,
        reports,
        calls: JoinSet::new(),
        sent: Sent::default(),
    };
    let mut ready = Vec::new();
    if !stop.is_requested() {
        batch.emit(first);
    }
    loop {
        if stop.is_requested() || batch.is_over() {
            batch.close();
        } else {
            batch.emit(std::mem::take(&mut ready));
        }
        let Some(deadline) = batch.next_deadline() else { return batch.finish() };
        let received = tokio::select! {
            received = timeout_at(deadline, reported.recv()) => received.ok().flatten(),
            () = stop.requested(), if !batch.is_closed() => continue,
            () = stop.grace_over() => return batch.finish(),
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
        messages.push(Message { record: Arc::new(record), next: None, start: Start::default(), is_under_way: false });
    }
    (messages, first)
}

impl Batch<'_> {
    fn emit(&mut self, places: Vec<usize>) {
        if places.is_empty() {
            return;
        }
        let mut deliveries = Vec::with_capacity(places.len());
        for place in places {
            if let Some(message) = self.messages.get_mut(place) {
                message.is_under_way = true;
                self.under_way += 1;
                let (record, start) = (Arc::clone(&message.record), message.start.clone());
                deliveries.push(Delivery::new(place, record, start, self.reports.clone()));
            }
        }
        let emitter = Arc::clone(self.emitter);
        self.calls.spawn(async move { emitter.emit(deliveries).await });
    }

    fn is_over(&self) -> bool {
        self.end <= Instant::now()
    }

    fn is_closed(&self) -> bool {
        self.deadlines.is_some()
    }

    /// Withdraws what the emitter has not begun, and gives what it has its time limit.
    fn close(&mut self) {
        if self.is_closed() {
            return;
        }
        let mut deadlines = Vec::with_capacity(self.under_way);
        for (place, message) in self.messages.iter_mut().enumerate().filter(|(_, message)| message.is_under_way) {
            match message.start.or_withdraw() {
                Some(begun) => deadlines.push((begun + self.settings.emit_timeout, place)),
                None => message.is_under_way = false,
            }
        }
        deadlines.sort_unstable();
        self.under_way = deadlines.len();
        self.deadlines = Some(deadlines.into());
    }

    /// Until when to wait for a report; `None` if nothing is under way.
    fn next_deadline(&mut self) -> Option<Instant> {
        if self.under_way == 0 {
            return None;
        }
        let Some(deadlines) = &mut self.deadlines else { return Some(self.end) };
        while let Some((deadline, place)) = deadlines.front() {
            if self.messages.get(*place).is_some_and(|message| message.is_under_way) {
                return Some(*deadline);
            }
            deadlines.pop_front();
        }
        None
    }

    /// Notes what became of a message; gives what can be sent now.
    fn take(&mut self, place: usize, outcome: Result<(), DeliveryFailure>) -> Option<usize> {
        // A report that comes after the time limit changes nothing any more.
        let message = self.messages.get_mut(place).filter(|message| message.is_under_way)?;
        message.is_under_way = false;
        self.under_way -= 1;
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
        let Some(deadlines) = &mut self.deadlines else { return Vec::new() };
        let (now, mut late) = (Instant::now(), Vec::new());
        while let Some((deadline, place)) = deadlines.front()
            && *deadline <= now
        {
            late.push(*place);
            deadlines.pop_front();
        }
        let limit = self.settings.emit_timeout;
        let failure = || DeliveryFailure::new(FailureKind::TimedOut, format!("no report within {limit:?}"));
        late.into_iter().filter_map(|place| self.take(place, Err(failure()))).collect()
    }

    fn finish(mut self) -> Sent {
        if self.is_closed() {
            self.sent.left = self.messages.len() - self.sent.delivered.len() - self.sent.failed.len();
        }
        self.sent
    }
}
