use std::convert::Infallible;

use compare_protocol::{Step, Tally};
use esrs::Aggregate;
use serde::{Deserialize, Serialize};

pub(crate) struct Counter;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    Counted(Step),
}

/// Counts that often.
pub(crate) struct Count(pub(crate) u32);

impl Aggregate for Counter {
    const NAME: &'static str = "counter";
    type State = Tally;
    type Command = Count;
    type Event = Event;
    type Error = Infallible;

    fn handle_command(tally: &Tally, Count(times): Count) -> Result<Vec<Event>, Infallible> {
        Ok(tally.decide_all(times).into_iter().map(Event::Counted).collect())
    }

    fn apply_event(mut tally: Tally, Event::Counted(step): Event) -> Tally {
        tally.apply(&step);
        tally
    }
}
