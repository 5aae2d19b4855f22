//! An order: goods are reserved, and given free again if it is not paid in time.
use std::time::Duration;

use sagastore::{Cause, CorrelationKey, Envelope, HandleMessage, Saga, UnitOfWork, message_types};
use serde::{Deserialize, Serialize};

/// The name of the timeout that waits for the payment.
pub(crate) const PAYMENT: &str = "payment";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderMessage {
    Place {
        order: String,
        invoice: String,
        item: String,
    },
    /// Comes from the bank, which knows the invoice and not the order.
    Paid {
        invoice: String,
    },
    /// The timeout.
    PaymentOverdue,
}
message_types!(OrderMessage { Place: "PlaceOrder" 1, Paid: "InvoicePaid" 1, PaymentOverdue: "PaymentOverdue" 1 });

/// What the warehouse is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WarehouseCommand {
    Reserve { item: String },
    Ship { item: String },
    Release { item: String },
}
message_types!(WarehouseCommand { Reserve: "ReserveItem" 1, Ship: "ShipItem" 1, Release: "ReleaseItem" 1 });

impl WarehouseCommand {
    pub(crate) fn item(&self) -> &str {
        let (Self::Reserve { item } | Self::Ship { item } | Self::Release { item }) = self;
        item
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OrderEvent {
    Placed { order: String, invoice: String, item: String },
    Paid,
    Cancelled,
}
message_types!(OrderEvent { Placed: "OrderPlaced" 1, Paid: "OrderPaid" 1, Cancelled: "OrderCancelled" 1 });

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OrderData {
    pub(crate) order: String,
    pub(crate) invoice: String,
    pub(crate) item: String,
    pub(crate) paid: bool,
    pub(crate) cancelled: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// How long it waits for its payment.
    pub(crate) payment_within: Duration,
}

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
            OrderEvent::Placed { order, invoice, item } => {
                let (order, invoice, item) = (order.clone(), invoice.clone(), item.clone());
                *data = OrderData { order, invoice, item, ..OrderData::default() };
            }
            OrderEvent::Paid => data.paid = true,
            OrderEvent::Cancelled => data.cancelled = true,
        }
    }
    fn is_complete(&self, data: &OrderData) -> bool {
        data.paid || data.cancelled
    }
}

impl HandleMessage for Order {
    type Message = OrderMessage;

    fn is_trigger(&self, message: &OrderMessage) -> bool {
        matches!(message, OrderMessage::Place { .. })
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &OrderMessage) -> Result<(), Cause> {
        let reserved = unit.instance().data.item.clone();
        match message {
            OrderMessage::Place { order, invoice, item } => {
                let (order, invoice, item) = (order.clone(), invoice.clone(), item.clone());
                unit.execute(&WarehouseCommand::Reserve { item: item.clone() })?;
                unit.publish(OrderEvent::Placed { order, invoice, item })?;
                unit.schedule(PAYMENT, &OrderMessage::PaymentOverdue, self.payment_within)?;
            }
            OrderMessage::Paid { .. } => {
                unit.publish(OrderEvent::Paid)?;
                unit.cancel_timeout(PAYMENT)?;
                unit.execute(&WarehouseCommand::Ship { item: reserved })?;
            }
            OrderMessage::PaymentOverdue => {
                unit.publish(OrderEvent::Cancelled)?;
                unit.execute(&WarehouseCommand::Release { item: reserved })?;
            }
        }
        Ok(())
    }
}

/// The key by which a message finds its order. (A timeout knows its instance, and needs none.)
pub(crate) fn key_of(message: &OrderMessage) -> sagastore::Result<Option<CorrelationKey>> {
    match message {
        OrderMessage::Place { order, .. } => CorrelationKey::of(["order", order]).map(Some),
        OrderMessage::Paid { invoice } => CorrelationKey::of(["invoice", invoice]).map(Some),
        OrderMessage::PaymentOverdue => Ok(None),
    }
}

/// The keys by which an order is found.
pub(crate) fn keys_of(data: &OrderData) -> sagastore::Result<Vec<CorrelationKey>> {
    Ok(vec![CorrelationKey::of(["order", &data.order])?, CorrelationKey::of(["invoice", &data.invoice])?])
}
