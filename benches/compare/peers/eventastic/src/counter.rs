use std::convert::Infallible;

use compare_protocol::{Step, Tally};
use eventastic::aggregate::Aggregate;
use eventastic::event::DomainEvent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::side_effect::NoSideEffect;

/// A counter of which snapshots have this version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Counter<const SNAPSHOT: u64> {
    id: Uuid,
    pub(crate) tally: Tally,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    id: Uuid,
    counter: Uuid,
    step: Step,
}

impl Event {
    pub(crate) fn new(counter: Uuid, step: Step) -> Self {
        Self { id: Uuid::new_v4(), counter, step }
    }
}

impl DomainEvent for Event {
    type EventId = Uuid;

    fn id(&self) -> &Uuid {
        &self.id
    }
}

impl<const SNAPSHOT: u64> Aggregate for Counter<SNAPSHOT> {
    const SNAPSHOT_VERSION: u64 = SNAPSHOT;
    type AggregateId = Uuid;
    type DomainEvent = Event;
    type ApplyError = Infallible;
    type SideEffect = NoSideEffect;

    fn aggregate_id(&self) -> &Uuid {
        &self.id
    }

    fn apply_new(event: &Event) -> Result<Self, Infallible> {
        let mut counter = Self { id: event.counter, tally: Tally::default() };
        counter.apply(event)?;
        Ok(counter)
    }

    fn apply(&mut self, event: &Event) -> Result<(), Infallible> {
        self.tally.apply(&event.step);
        Ok(())
    }

    fn side_effects(&self, _: &Event) -> Option<Vec<NoSideEffect>> {
        None
    }
}
