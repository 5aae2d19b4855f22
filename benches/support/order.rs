//! A saga with events of about 200 bytes of JSON and a small state.

use fastrand::Rng;
use sagastore::{Envelope, Saga, message_types};
use serde::{Deserialize, Serialize};

pub(crate) struct Order;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum OrderEvent {
    LineAdded { line: u32, article: String, title: String, quantity: u32, cents: u64, warehouse: String },
    PaymentNoted { payment: String, cents: u64, bank: String, reference: String, accepted: bool },
}
message_types!(OrderEvent { LineAdded: "OrderLineAdded" 1, PaymentNoted: "OrderPaymentNoted" 1 });

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderState {
    lines: u64,
    quantity: u64,
    due_cents: u64,
    paid_cents: u64,
    last_article: String,
}

impl OrderState {
    pub(crate) fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::LineAdded { article, quantity, cents, .. } => {
                self.lines += 1;
                self.quantity += u64::from(*quantity);
                self.due_cents += cents * u64::from(*quantity);
                self.last_article.clone_from(article);
            }
            OrderEvent::PaymentNoted { cents, accepted, .. } => self.paid_cents += u64::from(*accepted) * cents,
        }
    }

    /// What a program without this library does with a row: parse it, and apply it.
    pub(crate) fn apply_json(&mut self, payload: &[u8]) {
        self.apply(&serde_json::from_slice(payload).expect("an event"));
    }

    /// As a snapshot has it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        bincode::serde::encode_to_vec(self, bincode::config::standard()).expect("encodes")
    }

    pub(crate) fn decode(body: &[u8]) -> Self {
        let decoded = bincode::serde::decode_from_slice(body, bincode::config::standard());
        decoded.expect("a state").0
    }
}

impl Saga for Order {
    type Data = OrderState;
    type Event = OrderEvent;

    fn persistence_key(&self) -> &str {
        "bench-order"
    }

    fn new_data(&self) -> OrderState {
        OrderState::default()
    }

    fn apply_event(&self, state: &mut OrderState, event: &OrderEvent, _: &Envelope) {
        state.apply(event);
    }
}

impl OrderEvent {
    /// The same events in every run.
    pub(crate) fn generate(count: u32) -> Vec<Self> {
        let mut random = Rng::with_seed(200);
        (0..count)
            .map(|line| if line % 4 == 3 { Self::payment(&mut random) } else { Self::line(&mut random, line) })
            .collect()
    }

    fn line(random: &mut Rng, line: u32) -> Self {
        Self::LineAdded {
            line,
            article: text(random, 16),
            title: text(random, 60),
            quantity: random.u32(1..9),
            cents: random.u64(100..100_000),
            warehouse: text(random, 20),
        }
    }

    fn payment(random: &mut Rng) -> Self {
        Self::PaymentNoted {
            payment: text(random, 36),
            cents: random.u64(100..100_000),
            bank: text(random, 22),
            reference: text(random, 50),
            accepted: random.bool(),
        }
    }
}

/// Text that compresses no better than names do.
pub(crate) fn text(random: &mut Rng, length: usize) -> String {
    (0..length).map(|_| random.alphanumeric()).collect()
}
