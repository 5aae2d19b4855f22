use std::convert::Infallible;

use compare_protocol::{Step, Tally};
use disintegrate::{Decision, StateMutate, StateQuery};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, disintegrate::Event, Serialize, Deserialize)]
#[stream(CounterEvent, [Counted])]
pub(crate) enum Event {
    Counted {
        #[id]
        counter: String,
        step: Step,
    },
}

#[derive(Clone, Default, StateQuery, Serialize, Deserialize)]
#[state_query(CounterEvent)]
pub(crate) struct Counter {
    #[id]
    counter: String,
    pub(crate) tally: Tally,
}

impl Counter {
    pub(crate) fn new(counter: &str) -> Self {
        Self { counter: counter.to_owned(), tally: Tally::default() }
    }
}

impl StateMutate for Counter {
    fn mutate(&mut self, event: Self::Event) {
        let CounterEvent::Counted { step, .. } = event;
        self.tally.apply(&step);
    }
}

/// Counts that often.
pub(crate) struct Count {
    counter: String,
    times: u32,
}

impl Count {
    pub(crate) fn new(counter: &str, times: u32) -> Self {
        Self { counter: counter.to_owned(), times }
    }
}

impl Decision for Count {
    type Event = Event;
    type StateQuery = Counter;
    type Error = Infallible;

    fn state_query(&self) -> Counter {
        Counter::new(&self.counter)
    }

    fn process(&self, counter: &Counter) -> Result<Vec<Event>, Infallible> {
        let steps = counter.tally.decide_all(self.times).into_iter();
        Ok(steps.map(|step| Event::Counted { counter: self.counter.clone(), step }).collect())
    }
}
