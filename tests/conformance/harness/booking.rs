//! A saga that handles messages.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sagastore::{
    Cause, ConflictRetry, CorrelationKey, Envelope, HandleMessage, InstanceId, KeySet, MessageHandler, MessageKind,
    MessageType, Persister, Saga, StoredForm, TypeTag, UnitOfWork, message_types,
};
use serde::{Deserialize, Serialize};

use super::{Subject, TestDb};

/// A booking, which is found by its number, and by its customer and day.
#[derive(Clone, Debug, Default)]
pub(crate) struct Booking {
    /// While true, [`BookingMessage::Fragile`] fails.
    pub(crate) broken: Arc<AtomicBool>,
    /// While true, it panics instead.
    pub(crate) panics: Arc<AtomicBool>,
    /// How often a message was handed over.
    pub(crate) calls: Arc<AtomicU32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BookingData {
    pub(crate) number: String,
    pub(crate) customer: String,
    pub(crate) notes: Vec<String>,
    pub(crate) closed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BookingEvent {
    Booked { number: String, customer: String },
    Noted { note: String },
    Renumbered { number: String },
    Closed,
}
message_types!(BookingEvent { Booked: "Booked" 1, Noted: "Noted" 1, Renumbered: "Renumbered" 1, Closed: "Closed" 1 });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BookingCommand {
    Bill { note: String },
}
message_types!(BookingCommand { Bill: "Bill" 1 });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BookingMessage {
    /// Starts a booking, or is noted by one that is there.
    Book {
        number: String,
        customer: String,
    },
    /// Notes, and bills.
    Note {
        number: String,
        note: String,
    },
    /// Comes by the customer.
    Call {
        customer: String,
        note: String,
    },
    /// Fails while the saga is broken, else is noted.
    Fragile {
        number: String,
        note: String,
    },
    Renumber {
        number: String,
        to: String,
    },
    Close {
        number: String,
    },
    /// Is for nobody.
    Chatter,
}

impl MessageType for BookingMessage {
    const TYPES: &'static [TypeTag] = &[
        TypeTag::new("Book", 1),
        TypeTag::new("Note", 2),
        TypeTag::new("Call", 1),
        TypeTag::new("Fragile", 1),
        TypeTag::new("Renumber", 1),
        TypeTag::new("Close", 1),
        TypeTag::new("Chatter", 1),
    ];

    fn message_type(&self) -> TypeTag {
        match self {
            Self::Book { .. } => TypeTag::new("Book", 1),
            Self::Note { .. } => TypeTag::new("Note", 2),
            Self::Call { .. } => TypeTag::new("Call", 1),
            Self::Fragile { .. } => TypeTag::new("Fragile", 1),
            Self::Renumber { .. } => TypeTag::new("Renumber", 1),
            Self::Close { .. } => TypeTag::new("Close", 1),
            Self::Chatter => TypeTag::new("Chatter", 1),
        }
    }

    /// A note was once called a remark.
    fn upcast(stored: StoredForm) -> Option<StoredForm> {
        if (&*stored.type_name, stored.type_version) != ("Remark", 1) {
            return None;
        }
        let text = String::from_utf8(stored.payload.to_vec()).ok()?;
        let payload = text.replace("Remark", "Note").replace("text", "note").into_bytes().into();
        Some(StoredForm { type_name: "Note".into(), type_version: 2, payload, ..stored })
    }
}

impl Saga for Booking {
    type Data = BookingData;
    type Event = BookingEvent;

    fn persistence_key(&self) -> &str {
        "booking"
    }

    fn new_data(&self) -> BookingData {
        BookingData::default()
    }

    fn apply_event(&self, data: &mut BookingData, event: &BookingEvent, _: &Envelope) {
        match event {
            BookingEvent::Booked { number, customer } => {
                data.number.clone_from(number);
                data.customer.clone_from(customer);
            }
            BookingEvent::Noted { note } => data.notes.push(note.clone()),
            BookingEvent::Renumbered { number } => data.number.clone_from(number),
            BookingEvent::Closed => data.closed = true,
        }
    }

    fn is_complete(&self, data: &BookingData) -> bool {
        data.closed
    }
}

impl HandleMessage for Booking {
    type Message = BookingMessage;

    fn is_trigger(&self, message: &BookingMessage) -> bool {
        matches!(message, BookingMessage::Book { .. })
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, message: &BookingMessage) -> Result<(), Cause> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match message {
            BookingMessage::Book { number, customer } if unit.instance().data.number.is_empty() => {
                unit.publish(BookingEvent::Booked { number: number.clone(), customer: customer.clone() })?;
            }
            BookingMessage::Book { customer, .. } => {
                unit.publish(BookingEvent::Noted { note: format!("again by {customer}") })?;
            }
            BookingMessage::Fragile { note, .. } => {
                unit.publish(BookingEvent::Noted { note: note.clone() })?;
                if self.panics.load(Ordering::Relaxed) {
                    panic_quietly();
                }
                if self.broken.load(Ordering::Relaxed) {
                    return Err("it broke".into());
                }
            }
            BookingMessage::Note { note, .. } | BookingMessage::Call { note, .. } => {
                unit.publish(BookingEvent::Noted { note: note.clone() })?;
                unit.execute(&BookingCommand::Bill { note: note.clone() })?;
            }
            BookingMessage::Renumber { to, .. } => {
                unit.publish(BookingEvent::Renumbered { number: to.clone() })?;
            }
            BookingMessage::Close { .. } => {
                unit.publish(BookingEvent::Closed)?;
            }
            BookingMessage::Chatter => {}
        }
        Ok(())
    }
}

/// Without the message of the panic hook, which would bury the results of the suite.
pub(crate) fn panic_quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

impl BookingMessage {
    fn number(&self) -> Option<&str> {
        match self {
            Self::Book { number, .. }
            | Self::Note { number, .. }
            | Self::Fragile { number, .. }
            | Self::Renumber { number, .. }
            | Self::Close { number } => Some(number),
            Self::Call { .. } | Self::Chatter => None,
        }
    }

    /// As it comes in.
    pub(crate) fn envelope(&self) -> Envelope {
        let (tag, payload) = (self.message_type(), serde_json::to_vec(self).unwrap());
        Envelope::new(MessageKind::Command, tag.name, tag.version, "application/json", payload).unwrap()
    }
}

pub(crate) fn book(number: &str, customer: &str) -> Envelope {
    BookingMessage::Book { number: number.to_owned(), customer: customer.to_owned() }.envelope()
}

pub(crate) fn remark(number: &str, note: impl Into<String>) -> Envelope {
    BookingMessage::Note { number: number.to_owned(), note: note.into() }.envelope()
}

pub(crate) fn call(customer: &str, note: &str) -> Envelope {
    BookingMessage::Call { customer: customer.to_owned(), note: note.to_owned() }.envelope()
}

pub(crate) fn fragile(number: &str, note: &str) -> Envelope {
    BookingMessage::Fragile { number: number.to_owned(), note: note.to_owned() }.envelope()
}

pub(crate) fn renumber(number: &str, to: &str) -> Envelope {
    BookingMessage::Renumber { number: number.to_owned(), to: to.to_owned() }.envelope()
}

pub(crate) fn close(number: &str) -> Envelope {
    BookingMessage::Close { number: number.to_owned() }.envelope()
}

pub(crate) fn number_key(number: &str) -> CorrelationKey {
    CorrelationKey::of(["number", number]).unwrap()
}

pub(crate) fn customer_key(customer: &str) -> CorrelationKey {
    CorrelationKey::of(["customer", customer]).unwrap()
}

impl<DB: Subject> TestDb<DB> {
    /// Bookings whose instances have their numbers as ids.
    pub(crate) fn direct(&self, saga: &Booking) -> MessageHandler<Booking, DB> {
        let instance_of = |message: &BookingMessage| message.number().map(InstanceId::new).transpose();
        MessageHandler::direct(saga.clone(), self.patient(), instance_of).unwrap()
    }

    /// Bookings that are found by their keys.
    pub(crate) fn keyed(&self, saga: &Booking) -> MessageHandler<Booking, DB> {
        let keys = KeySet::new(
            |message: &BookingMessage| {
                Ok(match (message, message.number()) {
                    (BookingMessage::Call { customer, .. }, _) => Some(customer_key(customer)),
                    (_, Some(number)) => Some(number_key(number)),
                    _ => None,
                })
            },
            |data: &BookingData| Ok(vec![number_key(&data.number), customer_key(&data.customer)]),
        );
        MessageHandler::mapped(saga.clone(), self.patient(), keys).unwrap()
    }

    /// A persister with enough tries for many writers at once.
    fn patient(&self) -> Persister<DB> {
        self.persister().with_conflict_retry(ConflictRetry { retries: 1_000, ..ConflictRetry::default() })
    }

    /// The instance that has a key.
    pub(crate) async fn holder(&self, key: &CorrelationKey) -> anyhow::Result<Option<InstanceId>> {
        Ok(KeySet::<Booking>::find::<DB>(&mut *self.conn().await?, "booking", key).await?)
    }

    /// The notes of the instance that has a number.
    pub(crate) async fn notes(&self, number: &str) -> anyhow::Result<Vec<String>> {
        let id = match self.holder(&number_key(number)).await? {
            Some(id) => id,
            None => InstanceId::new(number)?,
        };
        Ok(self.state(&Booking::default(), id.as_str()).await?.map(|(data, _)| data.notes).unwrap_or_default())
    }
}
