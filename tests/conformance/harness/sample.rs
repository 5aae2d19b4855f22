//! Sagas and messages to test with.

use sagastore::{Envelope, InstanceId, MessageKind, OutboxRecord, Saga, StreamName, message_types};
use serde::{Deserialize, Serialize};

/// An order: events with text and numbers, commands, and an end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderData {
    pub(crate) lines: Vec<(String, u32)>,
    pub(crate) total_cents: i64,
    pub(crate) note: String,
    pub(crate) shipped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderEvent {
    LineAdded { item: String, quantity: u32, price_cents: i64 },
    NoteChanged { note: String },
    Shipped,
}
message_types!(OrderEvent { LineAdded: "OrderLineAdded" 1, NoteChanged: "OrderNoteChanged" 1, Shipped: "OrderShipped" 2 });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderCommand {
    TakePayment { amount_cents: i64 },
    SendMail { text: String },
}
message_types!(OrderCommand { TakePayment: "TakePayment" 1, SendMail: "SendMail" 1 });

impl Saga for Order {
    type Data = OrderData;
    type Event = OrderEvent;

    fn persistence_key(&self) -> &str {
        "order"
    }

    fn new_data(&self) -> OrderData {
        OrderData::default()
    }

    fn apply_event(&self, data: &mut OrderData, event: &OrderEvent, _: &Envelope) {
        match event {
            OrderEvent::LineAdded { item, quantity, price_cents } => {
                data.lines.push((item.clone(), *quantity));
                data.total_cents += i64::from(*quantity) * price_cents;
            }
            OrderEvent::NoteChanged { note } => data.note.clone_from(note),
            OrderEvent::Shipped => data.shipped = true,
        }
    }

    fn is_complete(&self, data: &OrderData) -> bool {
        data.shipped
    }
}

pub(crate) fn line(item: &str, quantity: u32, price_cents: i64) -> OrderEvent {
    OrderEvent::LineAdded { item: item.to_owned(), quantity, price_cents }
}

pub(crate) fn note(note: impl Into<String>) -> OrderEvent {
    OrderEvent::NoteChanged { note: note.into() }
}

/// A counter that never ends: the smallest saga.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counter;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CounterEvent {
    Added { amount: i64 },
}
message_types!(CounterEvent { Added: "CounterAdded" 1 });

impl Saga for Counter {
    type Data = i64;
    type Event = CounterEvent;

    fn persistence_key(&self) -> &str {
        "counter"
    }

    fn new_data(&self) -> i64 {
        0
    }

    fn apply_event(&self, data: &mut i64, event: &CounterEvent, _: &Envelope) {
        let CounterEvent::Added { amount } = event;
        *data += amount;
    }
}

pub(crate) fn added(amount: i64) -> CounterEvent {
    CounterEvent::Added { amount }
}

pub(crate) fn instance(id: &str) -> InstanceId {
    InstanceId::new(id).unwrap()
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

/// An event with any payload.
pub(crate) fn event_of(content_type: &str, payload: impl Into<Vec<u8>>) -> Envelope {
    Envelope::new(MessageKind::Event, "Happened", 1, content_type, payload.into()).unwrap()
}

/// An event with a JSON payload that tells it from others.
pub(crate) fn event(number: u32) -> Envelope {
    event_of("application/json", format!("{{\"number\":{number}}}"))
}

/// Events with the numbers 0, 1, 2, …
pub(crate) fn events(count: u32) -> Vec<Envelope> {
    (0..count).map(event).collect()
}

/// A command with a JSON payload.
pub(crate) fn command(number: u32) -> Envelope {
    Envelope::new(MessageKind::Command, "DoIt", 1, "application/json", format!("{{\"number\":{number}}}")).unwrap()
}

/// The numbers in the payloads that [`event`] and [`command`] made.
pub(crate) fn numbers(records: &[OutboxRecord]) -> Vec<u32> {
    let number = |record: &OutboxRecord| {
        let payload: serde_json::Value = serde_json::from_slice(record.payload()).unwrap();
        u32::try_from(payload["number"].as_u64().unwrap()).unwrap()
    };
    records.iter().map(number).collect()
}
