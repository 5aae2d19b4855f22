//! An order that is placed, paid in time or cancelled, and shipped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sagastore::{Cause, Envelope, HandleMessage, MessageType, Saga, StoredForm, TypeTag, UnitOfWork};
use serde::{Deserialize, Serialize};

pub(crate) const PAY_WITHIN: Duration = Duration::from_secs(3600);
pub(crate) const REMIND_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OrderData {
    pub(crate) item: String,
    pub(crate) cents: u32,
    pub(crate) paid: bool,
    pub(crate) reminders: u32,
    pub(crate) done: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum OrderEvent {
    Placed { item: String, cents: u32 },
    Paid,
    Reminded,
    Cancelled,
}

impl MessageType for OrderEvent {
    const TYPES: &'static [TypeTag] = &[
        TypeTag::new("Placed", 2),
        TypeTag::new("Paid", 1),
        TypeTag::new("Reminded", 1),
        TypeTag::new("Cancelled", 1),
    ];

    fn message_type(&self) -> TypeTag {
        match self {
            Self::Placed { .. } => TypeTag::new("Placed", 2),
            Self::Paid => TypeTag::new("Paid", 1),
            Self::Reminded => TypeTag::new("Reminded", 1),
            Self::Cancelled => TypeTag::new("Cancelled", 1),
        }
    }

    /// Version 1 of `Placed` told the price in euros.
    fn upcast(stored: StoredForm) -> Option<StoredForm> {
        if (&*stored.type_name, stored.type_version) != ("Placed", 1) {
            return None;
        }
        let mut value: serde_json::Value = serde_json::from_slice(&stored.payload).ok()?;
        let placed = value.get_mut("Placed")?.as_object_mut()?;
        let euros = placed.remove("euros")?.as_u64()?;
        placed.insert("cents".to_owned(), (euros * 100).into());
        Some(StoredForm { type_version: 2, payload: value.to_string().into(), ..stored })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum OrderCommand {
    TakePayment { cents: u32 },
    Ship { item: String },
    SendMail { text: String },
}

sagastore::message_types!(OrderCommand { TakePayment: "TakePayment" 1, Ship: "Ship" 1, SendMail: "SendMail" 1 });

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum OrderMessage {
    Place { item: String, cents: u32 },
    Pay { cents: u32 },
    PaymentLate,
    Remind,
    Cancel,
    Ignore,
}

sagastore::message_types!(OrderMessage {
    Place: "Place" 1,
    Pay: "Pay" 1,
    PaymentLate: "PaymentLate" 1,
    Remind: "Remind" 1,
    Cancel: "Cancel" 1,
    Ignore: "Ignore" 1,
});

/// The payment is wrong.
#[derive(Debug, PartialEq)]
pub(crate) struct WrongAmount(pub(crate) u32);

impl std::fmt::Display for WrongAmount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cents are not what is owed", self.0)
    }
}

impl std::error::Error for WrongAmount {}

#[derive(Default)]
pub(crate) struct Order {
    pub(crate) cancels_timeouts: bool,
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
            OrderEvent::Placed { item, cents } => (data.item, data.cents) = (item.clone(), *cents),
            OrderEvent::Paid => (data.paid, data.done) = (true, true),
            OrderEvent::Reminded => data.reminders += 1,
            OrderEvent::Cancelled => data.done = true,
        }
    }

    fn is_complete(&self, data: &OrderData) -> bool {
        data.done
    }

    fn completion_cancels_timeouts(&self) -> bool {
        self.cancels_timeouts
    }
}

impl HandleMessage for Order {
    type Message = OrderMessage;

    fn is_trigger(&self, message: &OrderMessage) -> bool {
        matches!(message, OrderMessage::Place { .. })
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &OrderMessage) -> Result<(), Cause> {
        match message {
            OrderMessage::Place { item, cents } => {
                unit.publish(OrderEvent::Placed { item: item.clone(), cents: *cents })?;
                unit.execute_to(&OrderCommand::TakePayment { cents: *cents }, "billing")?;
                unit.schedule("payment", &OrderMessage::PaymentLate, PAY_WITHIN)?;
                unit.schedule("reminder", &OrderMessage::Remind, REMIND_AFTER)?;
            }
            OrderMessage::Pay { cents } if *cents != unit.instance().data.cents => {
                unit.publish(OrderEvent::Paid)?;
                return Err(WrongAmount(*cents).into());
            }
            OrderMessage::Pay { .. } => {
                let item = unit.instance().data.item.clone();
                unit.publish(OrderEvent::Paid)?;
                unit.execute(&OrderCommand::Ship { item })?;
                unit.cancel_timeout("payment")?;
                unit.cancel_timeout("reminder")?;
            }
            OrderMessage::PaymentLate => drop(unit.publish(OrderEvent::Cancelled)?),
            OrderMessage::Remind => {
                unit.publish(OrderEvent::Reminded)?;
                unit.execute(&OrderCommand::SendMail { text: "please pay".to_owned() })?;
                unit.schedule("reminder", &OrderMessage::Remind, unit.now_plus(REMIND_AFTER))?;
            }
            OrderMessage::Cancel => {
                unit.publish(OrderEvent::Cancelled)?;
                unit.cancel_timeouts();
            }
            OrderMessage::Ignore => {}
        }
        Ok(())
    }
}

trait NowPlus {
    fn now_plus(&self, after: Duration) -> sagastore::Timestamp;
}

impl NowPlus for UnitOfWork<'_, Order> {
    fn now_plus(&self, after: Duration) -> sagastore::Timestamp {
        sagastore::Timestamp::from_micros(self.now().as_micros() + i64::try_from(after.as_micros()).unwrap())
    }
}

pub(crate) fn place() -> OrderMessage {
    OrderMessage::Place { item: "book".to_owned(), cents: 995 }
}

pub(crate) fn placed() -> OrderEvent {
    OrderEvent::Placed { item: "book".to_owned(), cents: 995 }
}

/// With what text a part of a test fails; panics if it does not.
pub(crate) fn complaint(part: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(part)).expect_err("this was to fail and did not");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().copied().unwrap().to_owned(),
    }
}
