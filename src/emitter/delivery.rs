//! One record on its way, and what became of it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::start::Start;
use crate::error::Cause;
use crate::outbox::{OutboxId, OutboxRecord};

/// A record that is to be sent, with the duty to report on it.
#[derive(Debug)]
#[must_use = "a delivery that is dropped counts as failed"]
pub struct Delivery {
    /// In its batch.
    place: usize,
    record: Arc<OutboxRecord>,
    start: Start,
    /// Where to report; `None` once that is done.
    reports: Option<mpsc::UnboundedSender<Report>>,
}

/// What became of a record.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) place: usize,
    pub(crate) id: OutboxId,
    pub(crate) outcome: Result<(), DeliveryFailure>,
}

/// Why a record was not delivered.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {source}")]
pub struct DeliveryFailure {
    /// In what way.
    pub kind: FailureKind,
    /// What the emitter said.
    pub source: Cause,
}

/// What stands for the text of an error that panics when it is asked for it.
const UNREADABLE: &str = "it panicked when it was asked for its text";

/// In what way a delivery failed. The message may have arrived nevertheless, except where it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The emitter reported an error.
    Refused,
    /// The emitter dropped the record without a report, as by a panic.
    Dropped,
    /// No report came in time.
    TimedOut,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the emitter reported an error",
            Self::Dropped => "the emitter dropped the message without a report",
            Self::TimedOut => "the emitter did not report in time",
        })
    }
}

impl DeliveryFailure {
    pub(crate) fn new(kind: FailureKind, source: impl Into<Cause>) -> Self {
        Self { kind, source: source.into() }
    }

    /// As it is shown. What the emitter said is foreign code, which must not take the dispatcher along.
    pub(crate) fn text(&self) -> String {
        let shown = catch_unwind(AssertUnwindSafe(|| self.to_string()));
        shown.unwrap_or_else(|_| format!("{}: {UNREADABLE}", self.kind))
    }
}

impl Delivery {
    pub(crate) fn new(
        place: usize,
        record: Arc<OutboxRecord>,
        start: Start,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Self {
        Self { place, record, start, reports: Some(reports) }
    }

    /// Begins to send it: its time runs from the first such call, or from the first look at its [`record`](Self::record).
    /// False if it is not to be sent any more: the time for its batch was over first, it is still in the outbox, and comes
    /// again. Who lets deliveries wait in a queue of their own should ask when they leave it.
    #[must_use = "what is not to be sent comes again"]
    pub fn begin(&self) -> bool {
        self.start.begin()
    }

    /// What is to be sent, without [beginning](Self::begin): for emitters that choose to whom they pass a delivery on.
    pub fn peek(&self) -> &OutboxRecord {
        &self.record
    }

    /// What to send. Whoever looks [begins](Self::begin).
    pub fn record(&self) -> &OutboxRecord {
        self.start.begin();
        &self.record
    }

    pub(super) fn shared_record(&self) -> Arc<OutboxRecord> {
        self.start.begin();
        Arc::clone(&self.record)
    }

    /// Reports that the other side has confirmed that it keeps the message.
    pub fn delivered(mut self) {
        self.report(Ok(()));
    }

    /// Reports that the message could not be sent, or was not confirmed. It will be tried again.
    pub fn failed(mut self, error: impl Into<Cause>) {
        self.report(Err(DeliveryFailure::new(FailureKind::Refused, error)));
    }

    fn report(&mut self, outcome: Result<(), DeliveryFailure>) {
        if let Some(reports) = self.reports.take() {
            self.start.begin();
            // Nobody listens once the dispatcher has stopped; the record is then delivered again.
            let _ = reports.send(Report { place: self.place, id: self.record.id, outcome });
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.report(Err(DeliveryFailure::new(FailureKind::Dropped, "no report")));
    }
}

/// What an emitter reported, for using or testing an emitter without a dispatcher.
#[derive(Debug)]
pub struct Reports(mpsc::UnboundedReceiver<Report>);

impl Reports {
    /// The next report; `None` once all deliveries were reported and their reports read. Waits while an emitter
    /// keeps a delivery.
    pub async fn next(&mut self) -> Option<(OutboxId, Result<(), DeliveryFailure>)> {
        self.0.recv().await.map(|report| (report.id, report.outcome))
    }
}

/// Deliveries of these records, and where an emitter's reports on them come out.
pub fn deliveries(records: impl IntoIterator<Item = OutboxRecord>) -> (Vec<Delivery>, Reports) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let delivery = |(place, record)| Delivery::new(place, Arc::new(record), Start::default(), sender.clone());
    let deliveries = records.into_iter().enumerate().map(delivery).collect();
    (deliveries, Reports(receiver))
}
