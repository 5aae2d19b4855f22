//! The saga: what an order does about the messages it gets.
use sagastore::{Envelope, Error, Saga, UnitOfWork, message_types};
use serde::{Deserialize, Serialize};

use crate::messages::Message;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    Placed { customer: u32, items: u32, total_cents: u64 },
    StockReserved { items: u32 },
    Paid { cents: u64 },
    PaymentRefused,
    ParcelShipped { grams: u32 },
    RoundCharged { cents: u64 },
    Delivered,
    StockReleased { items: u32 },
    PaymentRefunded { cents: u64 },
    Cancelled { reason: String },
}
message_types!(Event {
    Placed: "OrderPlaced" 1,
    StockReserved: "StockReserved" 1,
    Paid: "OrderPaid" 1,
    PaymentRefused: "PaymentRefused" 1,
    ParcelShipped: "ParcelShipped" 1,
    RoundCharged: "DeliveryRoundCharged" 1,
    Delivered: "OrderDelivered" 1,
    StockReleased: "StockReleased" 1,
    PaymentRefunded: "PaymentRefunded" 1,
    Cancelled: "OrderCancelled" 1,
});

#[derive(Serialize)]
enum Command {
    ReserveStock { items: u32 },
    TakePayment { cents: u64 },
    Ship { items: u32 },
    ReleaseStock { items: u32 },
    Refund { cents: u64 },
}
message_types!(Command {
    ReserveStock: "ReserveStock" 1,
    TakePayment: "TakePayment" 1,
    Ship: "ShipOrder" 1,
    ReleaseStock: "ReleaseStock" 1,
    Refund: "RefundPayment" 1,
});

const WAREHOUSE: &str = "warehouse";
const BILLING: &str = "billing";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    #[default]
    New,
    Placed,
    Reserved,
    Paid,
    Shipped,
    Delivered,
    Cancelled,
}

/// The state of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) status: Status,
    pub(crate) items: u32,
    pub(crate) total_cents: u64,
    pub(crate) items_in_stock: u32,
    pub(crate) cents_paid: u64,
    pub(crate) parcels: u64,
    pub(crate) grams: u64,
}

pub(crate) struct OrderSaga;

impl Saga for OrderSaga {
    type Data = Order;
    type Event = Event;

    fn persistence_key(&self) -> &str {
        "order-fulfilment"
    }

    fn new_data(&self) -> Order {
        Order::default()
    }

    fn apply_event(&self, order: &mut Order, event: &Event, _: &Envelope) {
        match *event {
            Event::Placed { items, total_cents, .. } => {
                *order = Order { status: Status::Placed, items, total_cents, ..*order };
            }
            Event::StockReserved { items } => {
                *order = Order { status: Status::Reserved, items_in_stock: items, ..*order };
            }
            Event::Paid { cents } => *order = Order { status: Status::Paid, cents_paid: cents, ..*order },
            Event::PaymentRefused => {}
            Event::ParcelShipped { grams } => {
                order.status = Status::Shipped;
                order.parcels += 1;
                order.grams += u64::from(grams);
            }
            Event::RoundCharged { cents } => order.cents_paid += cents,
            Event::Delivered => order.status = Status::Delivered,
            Event::StockReleased { items } => order.items_in_stock -= items,
            Event::PaymentRefunded { cents } => order.cents_paid -= cents,
            Event::Cancelled { .. } => order.status = Status::Cancelled,
        }
    }

    fn is_complete(&self, order: &Order) -> bool {
        matches!(order.status, Status::Delivered | Status::Cancelled)
    }
}

/// Handles one message. What comes too late, or crossed with a cancellation, changes nothing; it
/// still counts as handled.
pub(crate) fn handle(unit: &mut UnitOfWork<'_, OrderSaga>, message: &Message) -> Result<(), Error> {
    let order = unit.instance().data;
    match (order.status, message) {
        (Status::New, &Message::Place { customer, items, total_cents }) => {
            unit.publish(Event::Placed { customer, items, total_cents })?;
            unit.execute_to(&Command::ReserveStock { items }, WAREHOUSE)?;
        }
        (Status::Placed, Message::StockReserved) => {
            unit.publish(Event::StockReserved { items: order.items })?;
            unit.execute_to(&Command::TakePayment { cents: order.total_cents }, BILLING)?;
        }
        (Status::Placed, Message::StockRefused) => compensate(unit, "out of stock")?,
        (Status::Reserved, Message::PaymentTaken) => {
            unit.publish(Event::Paid { cents: order.total_cents })?;
            unit.execute_to(&Command::Ship { items: order.items }, WAREHOUSE)?;
        }
        (Status::Reserved, Message::PaymentRefused) => {
            unit.publish(Event::PaymentRefused)?;
            compensate(unit, "payment refused")?;
        }
        (Status::Paid | Status::Shipped, &Message::ParcelShipped { grams }) => {
            unit.publish(Event::ParcelShipped { grams })?;
        }
        (Status::Paid | Status::Shipped, Message::RoundShipped { parcels_grams, cents }) => {
            for &grams in parcels_grams {
                unit.publish(Event::ParcelShipped { grams })?;
            }
            unit.publish(Event::RoundCharged { cents: *cents })?;
            unit.execute_to(&Command::TakePayment { cents: *cents }, BILLING)?;
        }
        (Status::Shipped, Message::Delivered) => unit.publish(Event::Delivered).map(drop)?,
        (Status::Placed | Status::Reserved | Status::Paid, Message::Cancel) => compensate(unit, "by the customer")?,
        _ => {}
    }
    Ok(())
}

/// Undoes what was done so far, last step first, and ends the order.
fn compensate(unit: &mut UnitOfWork<'_, OrderSaga>, reason: &str) -> Result<(), Error> {
    let Order { cents_paid: cents, items_in_stock: items, .. } = unit.instance().data;
    if cents > 0 {
        unit.publish(Event::PaymentRefunded { cents })?;
        unit.execute_to(&Command::Refund { cents }, BILLING)?;
    }
    if items > 0 {
        unit.publish(Event::StockReleased { items })?;
        unit.execute_to(&Command::ReleaseStock { items }, WAREHOUSE)?;
    }
    unit.publish(Event::Cancelled { reason: reason.to_owned() })?;
    Ok(())
}
