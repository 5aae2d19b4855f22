//! What one message came to.

use crate::envelope::Envelope;
use crate::error::Cause;
use crate::message::MessageKind;
use crate::timeout::TimeoutChange;
use crate::timestamp::Timestamp;

/// What became of the last message, or of all timeouts that the last advance of the clock delivered.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) outcome: Outcome,
    /// The test has said that it expects this outcome.
    pub(super) expected: bool,
    pub(super) messages: Vec<Envelope>,
    /// What was done to timeouts, and when.
    pub(super) timeouts: Vec<(Timestamp, TimeoutChange)>,
    /// It completed the instance.
    pub(super) completes: bool,
}

/// Whether it was handled.
#[derive(Debug, Default)]
pub(super) enum Outcome {
    #[default]
    Handled,
    /// There is no instance, and the message may not start one.
    NotFound,
    /// The instance is completed.
    PassedOver,
    Failed(Cause),
}

impl Outcome {
    /// As a sentence.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Handled => "the message was handled".to_owned(),
            Self::NotFound => {
                "no instance was found: there is none yet, and the message is no trigger (is_trigger)".to_owned()
            }
            Self::PassedOver => "the message was passed over: the instance is completed".to_owned(),
            Self::Failed(error) => format!("handling the message failed: {error}"),
        }
    }
}

impl Step {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self { outcome, ..Self::default() }
    }

    pub(super) fn of_kind(&self, kind: MessageKind) -> impl Iterator<Item = &Envelope> {
        self.messages.iter().filter(move |message| message.kind == kind)
    }

    /// Goes on with what came next.
    pub(super) fn extend(&mut self, next: Self) {
        self.messages.extend(next.messages);
        self.timeouts.extend(next.timeouts);
        self.completes |= next.completes;
        if matches!(next.outcome, Outcome::Failed(_)) {
            self.outcome = next.outcome;
        }
    }
}
