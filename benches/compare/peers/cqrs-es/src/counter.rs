use std::convert::Infallible;

use compare_protocol::{Step, Tally};
use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Counter {
    pub(crate) tally: Tally,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    Counted(Step),
}

/// Counts that often.
pub(crate) struct Count(pub(crate) u32);

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        "Counted".to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Counter {
    const TYPE: &'static str = "counter";
    type Command = Count;
    type Event = Event;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, Count(times): Count, (): &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        for _ in 0..times {
            sink.write(Event::Counted(self.tally.decide(0)), self).await;
        }
        Ok(())
    }

    fn apply(&mut self, Event::Counted(step): Event) {
        self.tally.apply(&step);
    }
}
