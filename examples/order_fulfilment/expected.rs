//! What an instance must come to, told from its messages alone: by what is among them, not by
//! running the saga.
use crate::messages::{Conversation, Message, count};
use crate::saga::{Order, Status};

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) order: Order,
    pub(crate) events: u64,
    pub(crate) commands: u64,
    pub(crate) is_completed: bool,
}

impl Expected {
    pub(crate) fn of(conversation: &Conversation) -> Self {
        let messages: Vec<&Message> = conversation.messages.iter().map(|sent| &sent.message).collect();
        let place = |wanted: fn(&Message) -> bool| messages.iter().position(|message| wanted(message));
        let is_in = |wanted: fn(&Message) -> bool| place(wanted).is_some();

        let (mut items, mut total_cents) = (0, 0);
        for message in &messages {
            if let Message::Place { items: ordered, total_cents: price, .. } = message {
                (items, total_cents) = (*ordered, *price);
            }
        }
        let reserved = is_in(|message| matches!(message, Message::StockReserved));
        let paid = is_in(|message| matches!(message, Message::PaymentTaken));
        let refused = is_in(|message| matches!(message, Message::PaymentRefused));
        let delivered = is_in(|message| matches!(message, Message::Delivered));
        let first_parcel = place(|message| matches!(message, Message::ParcelShipped { .. }));
        let cancelled = is_in(|message| matches!(message, Message::StockRefused | Message::PaymentRefused))
            || place(|message| matches!(message, Message::Cancel))
                .is_some_and(|asked| first_parcel.is_none_or(|shipped| asked < shipped));

        let parcels: Vec<u32> = if cancelled { Vec::new() } else { messages.iter().flat_map(grams).collect() };
        let charges: Vec<u64> = messages.iter().filter_map(charge).collect();
        let status = match () {
            () if cancelled => Status::Cancelled,
            () if delivered => Status::Delivered,
            () if !parcels.is_empty() => Status::Shipped,
            () if paid => Status::Paid,
            () if reserved => Status::Reserved,
            () => Status::Placed,
        };
        let kept = |amount: u64| if cancelled { 0 } else { amount };
        let [reserved, paid, refused, delivered, cancelled] =
            [reserved, paid, refused, delivered, cancelled].map(u64::from);
        let compensated = cancelled * (reserved + paid);
        Self {
            order: Order {
                status,
                items,
                total_cents,
                items_in_stock: if kept(reserved) == 1 { items } else { 0 },
                cents_paid: kept(paid) * total_cents + charges.iter().sum::<u64>(),
                parcels: count(parcels.len()),
                grams: parcels.iter().copied().map(u64::from).sum(),
            },
            events: 1
                + reserved
                + paid
                + refused
                + delivered
                + cancelled
                + compensated
                + count(parcels.len())
                + count(charges.len()),
            commands: 1 + reserved + paid + compensated + count(charges.len()),
            is_completed: cancelled + delivered > 0,
        }
    }
}

fn grams(message: &&Message) -> Vec<u32> {
    match message {
        Message::ParcelShipped { grams } => vec![*grams],
        Message::RoundShipped { parcels_grams, .. } => parcels_grams.clone(),
        _ => Vec::new(),
    }
}

fn charge(message: &&Message) -> Option<u64> {
    match message {
        Message::RoundShipped { cents, .. } => Some(*cents),
        _ => None,
    }
}
