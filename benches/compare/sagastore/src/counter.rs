use compare_protocol::{Step, Tally};
use sagastore::{Envelope, Saga, message_types};
use serde::{Deserialize, Serialize};

pub(crate) struct Counter;

#[derive(Serialize, Deserialize)]
pub(crate) enum Event {
    Counted(Step),
}
message_types!(Event { Counted: "Counted" 1 });

impl Saga for Counter {
    type Data = Tally;
    type Event = Event;

    fn persistence_key(&self) -> &str {
        "counter"
    }

    fn new_data(&self) -> Tally {
        Tally::default()
    }

    fn apply_event(&self, tally: &mut Tally, Event::Counted(step): &Event, _: &Envelope) {
        tally.apply(step);
    }
}
