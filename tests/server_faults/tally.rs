//! The saga under load: each message that it handles leaves so many events, which name the message, and a command.

use sagastore::{
    Cause, CorrelationKey, Envelope, HandleMessage, KeySet, MessageId, MessageKind, Result, Saga, UnitOfWork,
    message_types,
};
use serde::{Deserialize, Serialize};

/// Most events of a unit of work.
const MOST_EVENTS: u128 = 3;

/// Instances of one kind are named by who sends, those of the other are found by their keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) persistence_key: &'static str,
}

pub(crate) const NAMED: Tally = Tally { persistence_key: "tally" };
pub(crate) const KEYED: Tally = Tally { persistence_key: "keyed" };

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) events: u64,
    pub(crate) last: Option<MessageId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    Counted { message: MessageId, part: u64, name: String, padding: String },
}
message_types!(Event { Counted: "Counted" 1 });

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Tell { message: MessageId },
}
message_types!(Command { Tell: "Tell" 1 });

/// For those found by their keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Incoming {
    Count { message: MessageId, name: String, padding: usize },
}
message_types!(Incoming { Count: "Count" 1 });

impl Saga for Tally {
    type Data = State;
    type Event = Event;

    fn persistence_key(&self) -> &str {
        self.persistence_key
    }

    fn new_data(&self) -> State {
        State::default()
    }

    fn apply_event(&self, state: &mut State, event: &Event, _: &Envelope) {
        let Event::Counted { message, name, .. } = event;
        state.name.clone_from(name);
        state.events += 1;
        state.last = Some(*message);
    }
}

impl HandleMessage for Tally {
    type Message = Incoming;

    fn is_trigger(&self, _: &Incoming) -> bool {
        true
    }

    fn handle(&self, unit: &mut UnitOfWork<'_, Self>, incoming: &Incoming) -> Result<(), Cause> {
        let Incoming::Count { message, name, padding } = incoming;
        Ok(count(unit, *message, name, *padding)?)
    }
}

/// How many events a message leaves.
pub(crate) fn events(message: MessageId) -> u64 {
    u64::try_from(message.as_uuid().as_u128() % MOST_EVENTS).unwrap() + 1
}

/// What a message leads to.
pub(crate) fn count(unit: &mut UnitOfWork<'_, Tally>, message: MessageId, name: &str, padding: usize) -> Result<()> {
    for part in 0..events(message) {
        let (name, padding) = (name.to_owned(), "x".repeat(padding));
        unit.publish(Event::Counted { message, part, name, padding })?;
    }
    unit.execute(&Command::Tell { message })?;
    Ok(())
}

/// The message for an instance that is found by its keys.
pub(crate) fn incoming(message: MessageId, name: &str, padding: usize) -> Result<Envelope> {
    let payload = serde_json::to_vec(&Incoming::Count { message, name: name.to_owned(), padding }).unwrap();
    Ok(Envelope::new(MessageKind::Command, "Count", 1, "application/json", payload)?.with_message_id(message))
}

/// The two keys of an instance.
pub(crate) fn keys(name: &str) -> Result<Vec<CorrelationKey>> {
    Ok(vec![CorrelationKey::of(["name", name])?, CorrelationKey::of(["also", name])?])
}

pub(crate) fn key_set() -> KeySet<Tally> {
    KeySet::new(
        |Incoming::Count { name, .. }: &Incoming| Ok(keys(name)?.into_iter().next()),
        |state: &State| keys(&state.name),
    )
}
