//! The messages that orders get, and how often and by whom each is delivered.
use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Result;
use fastrand::Rng;
use sagastore::{InstanceId, MessageId};
use uuid::Uuid;

#[derive(Debug)]
pub(crate) enum Message {
    Place { customer: u32, items: u32, total_cents: u64 },
    StockReserved,
    StockRefused,
    PaymentTaken,
    PaymentRefused,
    ParcelShipped { grams: u32 },
    RoundShipped { parcels_grams: Vec<u32>, cents: u64 },
    Delivered,
    Cancel,
}

/// A message under its id, which a repeated delivery shares.
pub(crate) struct Sent {
    pub(crate) instance: InstanceId,
    pub(crate) id: MessageId,
    pub(crate) message: Message,
}

/// One instance and its messages, each once. The state of an order depends on their order, that of
/// a subscription does not once it is paid.
pub(crate) struct Conversation {
    pub(crate) instance: InstanceId,
    pub(crate) messages: Vec<Arc<Sent>>,
}

pub(crate) enum Delivery {
    Once(Arc<Sent>),
    /// Two at the same time, as a broker does that believes the first to be lost.
    TwiceAtOnce(Arc<Sent>),
}

/// Deliveries that one task makes, one after another.
pub(crate) type Lane = VecDeque<Delivery>;

#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) conversations: Vec<Conversation>,
    /// What comes first: the openings of the subscriptions.
    pub(crate) openings: Vec<Lane>,
    /// All else, the longest first; the two lanes of a subscription are neighbours.
    pub(crate) lanes: Vec<Lane>,
}

/// One instance in so many is a subscription.
const SUBSCRIPTION_SHARE: u32 = 400;
/// Delivery rounds of a subscription, each of 4 to 10 events: on average 2,800 events in all.
const ROUNDS: std::ops::Range<usize> = 340..460;

impl Plan {
    /// The same seed gives the same messages; ids are new with each run.
    pub(crate) fn generate(instances: u32, seed: u64) -> Result<Self> {
        let (mut rng, run, mut plan) = (Rng::with_seed(seed), Uuid::now_v7().simple(), Self::default());
        let subscriptions = instances.div_ceil(SUBSCRIPTION_SHARE);
        for number in 0..instances {
            let is_subscription = number < subscriptions;
            let kind = if is_subscription { "subscription" } else { "order" };
            let instance = InstanceId::new(format!("{kind}-{number}-{run}"))?;
            let script = if is_subscription { subscription(&mut rng) } else { order(&mut rng) };
            let send = |message| Arc::new(Sent { instance: instance.clone(), id: MessageId::new(), message });
            let messages: Vec<_> = script.into_iter().map(send).collect();
            if is_subscription {
                plan.deliver_to_subscription(&messages, &mut rng);
            } else {
                plan.lanes.push(lane_with_repeats(&messages, &mut rng));
            }
            plan.conversations.push(Conversation { instance, messages });
        }
        Ok(plan)
    }

    /// Opens it first; then two lanes share its rounds, and some rounds are delivered by both.
    fn deliver_to_subscription(&mut self, messages: &[Arc<Sent>], rng: &mut Rng) {
        let is_round = |sent: &&Arc<Sent>| matches!(sent.message, Message::RoundShipped { .. });
        let (rounds, opening): (Vec<_>, Vec<_>) = messages.iter().partition(is_round);
        self.openings.push(opening.into_iter().cloned().map(Delivery::Once).collect());
        let (mut left, mut right) = (Lane::new(), Lane::new());
        for round in rounds {
            let (to_both, to_left) = (rng.u8(..100) < 5, rng.bool());
            let once = || Delivery::Once(Arc::clone(round));
            left.extend((to_both || to_left).then(once));
            right.extend((to_both || !to_left).then(once));
        }
        self.lanes.extend([left, right]);
    }

    pub(crate) fn distinct_messages(&self) -> u64 {
        self.conversations.iter().map(|conversation| count(conversation.messages.len())).sum()
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.openings.iter().chain(&self.lanes).flatten().map(Delivery::copies).sum()
    }
}

impl Delivery {
    pub(crate) fn copies(&self) -> u64 {
        match self {
            Self::Once(_) => 1,
            Self::TwiceAtOnce(_) => 2,
        }
    }
}

pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).expect("BUG: a length fits into 64 bits")
}

/// In order, with some messages delivered twice at once, some twice in a row, some again later.
fn lane_with_repeats(messages: &[Arc<Sent>], rng: &mut Rng) -> Lane {
    let mut lane = Lane::new();
    for (place, sent) in messages.iter().enumerate() {
        let once = |sent| Delivery::Once(Arc::clone(sent));
        match rng.u8(..100) {
            0..3 => lane.push_back(Delivery::TwiceAtOnce(Arc::clone(sent))),
            3..5 => lane.extend([once(sent), once(sent)]),
            5..7 => {
                lane.push_back(once(sent));
                lane.extend(messages.get(rng.usize(..=place)).map(once));
            }
            _ => lane.push_back(once(sent)),
        }
    }
    lane
}

fn place(rng: &mut Rng) -> Message {
    let items = rng.u32(1..=9);
    let total_cents = (0..items).map(|_| rng.u64(199..=9_999)).sum();
    Message::Place { customer: rng.u32(1..=100_000), items, total_cents }
}

fn order(rng: &mut Rng) -> Vec<Message> {
    let mut script = vec![place(rng), Message::StockReserved, Message::PaymentTaken];
    let parcels = |rng: &mut Rng| -> Vec<_> {
        (0..rng.u8(1..=3)).map(|_| Message::ParcelShipped { grams: rng.u32(50..=20_000) }).collect()
    };
    match rng.u8(..100) {
        0..6 => script.splice(1.., [Message::StockRefused]).for_each(drop),
        6..16 => script.splice(2.., [Message::PaymentRefused]).for_each(drop),
        // The customer cancels, at any time before the parcels leave.
        16..24 => script.splice(rng.usize(1..=3).., [Message::Cancel]).for_each(drop),
        // It crosses with the shipment.
        24..28 => {
            script.push(Message::Cancel);
            script.extend(parcels(rng));
        }
        // It comes too late.
        28..32 => {
            script.extend(parcels(rng));
            script.extend([Message::Cancel, Message::Delivered]);
        }
        // Still under way.
        32..38 => script.truncate(rng.usize(1..=3)),
        _ => {
            script.extend(parcels(rng));
            script.push(Message::Delivered);
        }
    }
    script
}

fn subscription(rng: &mut Rng) -> Vec<Message> {
    let mut script = vec![place(rng), Message::StockReserved, Message::PaymentTaken];
    for _ in 0..rng.usize(ROUNDS) {
        let parcels_grams = (0..rng.u8(3..=9)).map(|_| rng.u32(50..=20_000)).collect();
        script.push(Message::RoundShipped { parcels_grams, cents: rng.u64(500..=5_000) });
    }
    script
}
