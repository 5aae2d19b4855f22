//! What only shows when an instance is loaded again.

use sagastore::testkit::SagaTest;
use sagastore::{Envelope, Saga};
use serde::{Deserialize, Serialize};

use crate::order::complaint;

/// What is wrong with a saga.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// Its state depends on when the event was recorded.
    AsksWhenRecorded,
    /// Its events do not store all that its state is made of.
    ForgetsInEvent,
    /// Its state does not store all of itself.
    ForgetsInState,
    /// It stores what it cannot read.
    Unreadable,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    sum: u32,
    #[serde(skip)]
    cache: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Event {
    Added {
        number: u32,
        #[serde(skip)]
        bonus: u32,
        #[serde(skip_deserializing, serialize_with = "as_text")]
        unread: u32,
    },
}

fn as_text<S: serde::Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    if *number == u32::MAX { Err(serde::ser::Error::custom("too much")) } else { serializer.serialize_u32(*number) }
}

sagastore::message_types!(Event { Added: "Added" 1 });

struct Sum(Flaw);

impl Saga for Sum {
    type Data = State;
    type Event = Event;

    fn persistence_key(&self) -> &str {
        "sum"
    }

    fn new_data(&self) -> State {
        State::default()
    }

    fn apply_event(&self, data: &mut State, Event::Added { number, bonus, .. }: &Event, envelope: &Envelope) {
        data.sum += number;
        match self.0 {
            Flaw::AsksWhenRecorded if envelope.recorded_at.is_some() => data.sum += 1,
            Flaw::ForgetsInEvent => data.sum += bonus,
            Flaw::ForgetsInState => data.cache = data.sum,
            _ => {}
        }
    }
}

fn test(flaw: Flaw) -> SagaTest<Sum> {
    let unread = if flaw == Flaw::Unreadable { u32::MAX } else { 0 };
    SagaTest::new(Sum(flaw)).when_unit(|unit| unit.publish(Event::Added { number: 2, bonus: 3, unread }).map(drop))
}

#[test]
fn a_sound_saga_is_the_same_when_it_is_loaded_again() {
    let _ = test(Flaw::None).expect_state(|state| assert_eq!(state.sum, 2));
}

#[test]
fn a_state_that_replay_does_not_give_is_shown() {
    for (flaw, published, replayed) in [(Flaw::AsksWhenRecorded, 2, 3), (Flaw::ForgetsInEvent, 5, 2)] {
        let text = complaint(|| drop(test(flaw)));
        assert!(text.starts_with("replaying the events gives another state than publishing them did"), "{text}");
        assert!(text.contains(&format!("when published:\n    1. State {{\n  > 2.     sum: {published},\n")), "{text}");
        assert!(text.contains(&format!("when replayed:\n    1. State {{\n  > 2.     sum: {replayed},\n")), "{text}");
    }
}

#[test]
fn a_state_that_a_snapshot_does_not_keep_is_shown() {
    let text = complaint(|| drop(test(Flaw::ForgetsInState)));
    assert!(text.starts_with("a snapshot of the state gives another state; if no snapshots are taken"), "{text}");
    assert!(text.contains("  > 3.     cache: 2,\n") && text.contains("  > 3.     cache: 0,\n"), "{text}");
    let unit = SagaTest::new(Sum(Flaw::ForgetsInState)).without_snapshots();
    let _ = unit.when_unit(|unit| unit.publish(Event::Added { number: 2, bonus: 3, unread: 0 }).map(drop));
}

#[test]
fn an_event_that_cannot_be_encoded_is_an_error() {
    let _ = test(Flaw::Unreadable).expect_error("cannot be encoded: too much");
}
