//! The saga of all scenarios.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sagastore::{
    Cause, CorrelationKey, Envelope, HandleMessage, InstanceId, KeySet, MessageKind, MessageType, Saga, StreamName,
    UnitOfWork, message_types,
};
use serde::{Deserialize, Serialize};

use super::desk::message_id;

pub(crate) const KEY: &str = "crash-order";

#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// While it is true, [`OrderMessage::Fragile`] fails.
    pub(crate) broken: Arc<AtomicBool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderData {
    pub(crate) name: String,
    pub(crate) steps: Vec<u32>,
    pub(crate) closed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderEvent {
    Named { name: String },
    Stepped { number: u32 },
    Closed,
}
message_types!(OrderEvent { Named: "Named" 1, Stepped: "Stepped" 1, Closed: "Closed" 1 });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderCommand {
    Ship { number: u32 },
    Remind { number: u32 },
}
message_types!(OrderCommand { Ship: "Ship" 1, Remind: "Remind" 1 });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderMessage {
    Open { name: String },
    Step { name: String, number: u32 },
    Fragile { name: String, number: u32 },
    Rename { name: String, to: String },
    Close { name: String },
}
message_types!(OrderMessage {
    Open: "Open" 1,
    Step: "Step" 1,
    Fragile: "Fragile" 1,
    Rename: "Rename" 1,
    Close: "Close" 1,
});

impl Saga for Order {
    type Data = OrderData;
    type Event = OrderEvent;

    fn persistence_key(&self) -> &str {
        KEY
    }

    fn new_data(&self) -> OrderData {
        OrderData::default()
    }

    fn apply_event(&self, data: &mut OrderData, event: &OrderEvent, _: &Envelope) {
        match event {
            OrderEvent::Named { name } => data.name.clone_from(name),
            OrderEvent::Stepped { number } => data.steps.push(*number),
            OrderEvent::Closed => data.closed = true,
        }
    }

    fn is_complete(&self, data: &OrderData) -> bool {
        data.closed
    }
}

impl HandleMessage for Order {
    type Message = OrderMessage;

    fn is_trigger(&self, message: &OrderMessage) -> bool {
        matches!(message, OrderMessage::Open { .. })
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &OrderMessage) -> Result<(), Cause> {
        match message {
            OrderMessage::Open { name } | OrderMessage::Rename { to: name, .. } => {
                unit.publish(OrderEvent::Named { name: name.clone() })?;
            }
            OrderMessage::Step { number, .. } => {
                unit.publish(OrderEvent::Stepped { number: *number })?;
                unit.execute(&OrderCommand::Ship { number: *number })?;
            }
            OrderMessage::Fragile { number, .. } => {
                unit.publish(OrderEvent::Stepped { number: *number })?;
                if self.broken.load(Ordering::Relaxed) {
                    return Err("it broke".into());
                }
            }
            OrderMessage::Close { .. } => {
                unit.publish(OrderEvent::Closed)?;
            }
        }
        Ok(())
    }
}

impl OrderMessage {
    fn name(&self) -> &str {
        match self {
            Self::Open { name }
            | Self::Step { name, .. }
            | Self::Fragile { name, .. }
            | Self::Rename { name, .. }
            | Self::Close { name } => name,
        }
    }

    /// As it comes in, under the same id each time.
    pub(crate) fn envelope(&self) -> anyhow::Result<Envelope> {
        let (tag, payload) = (self.message_type(), serde_json::to_vec(self)?);
        let id = message_id(&String::from_utf8_lossy(&payload));
        let mut message = Envelope::new(MessageKind::Command, tag.name, tag.version, "application/json", payload)?;
        (message.message_id, message.causation_id, message.correlation_id) = (id, id, id);
        Ok(message)
    }
}

/// Orders are found by their names.
pub(crate) fn keys() -> KeySet<Order> {
    KeySet::new(
        |message: &OrderMessage| Ok(Some(CorrelationKey::of([message.name()])?)),
        |data: &OrderData| Ok(vec![CorrelationKey::of([&data.name])?]),
    )
}

pub(crate) fn instance(id: &str) -> InstanceId {
    InstanceId::new(id).unwrap()
}

pub(crate) fn stream(id: &str) -> StreamName {
    StreamName::of_saga(KEY, &instance(id)).unwrap()
}
