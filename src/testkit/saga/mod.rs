//! A saga under test, without a database.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::codec::Codecs;
use crate::envelope::Envelope;
use crate::ids::{InstanceId, Revision};
use crate::limits::Limits;
use crate::saga::{Saga, SagaStream};
use crate::source::ManualSource;
use crate::timestamp::Timestamp;

mod diff;
mod expect_messages;
mod expect_outcome;
mod expect_timeouts;
mod expected;
mod given;
mod history;
mod pending;
mod step;
mod unit;
mod when;

pub use expected::{ExpectedCommand, ExpectedTimeout};
pub use when::MAX_DELIVERIES;

use history::{Folded, History};
use pending::PendingTimeouts;
use step::{Outcome, Step};

/// What the clock of a test shows at first: 2020-01-01T00:00:00Z.
pub const TEST_START: Timestamp = Timestamp::from_micros(1_577_836_800_000_000);

/// The instance that is tested, unless the test names one.
const TEST_INSTANCE: &str = "1";

/// One instance of a saga under test: given a history, when something comes, then something is expected.
///
/// Nothing is simulated but the database: what is given and what the saga publishes is encoded, kept in the form
/// of a commit, decoded, brought up to date and folded by the code that loads instances. After every unit of work the
/// instance is loaded again, from its events and from a snapshot, and must be the same.
///
/// Message ids count from one and the clock stands still until it is moved, so every run is the same.
///
/// An expectation that is not met panics and shows what came; so does an outcome that nobody expected (an error, a
/// message without an instance, one to a completed instance), at the next step or at the end of the test.
pub struct SagaTest<S: Saga> {
    saga: S,
    codecs: Codecs,
    limits: Limits,
    snapshots: bool,
    source: Arc<ManualSource>,
    history: History,
    pending: PendingTimeouts,
    step: Option<Step>,
    /// While the clock is advanced: what need not be replayed for every timeout.
    folded: Option<Folded<S::Data>>,
}

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Tests a saga with the default codecs.
    #[cfg(any(feature = "json", feature = "bincode"))]
    #[track_caller]
    pub fn new(saga: S) -> Self {
        Self::with_codecs(saga, Codecs::default())
    }

    /// Tests a saga with these codecs. Messages are compared by value if they are JSON, else by their bytes.
    #[track_caller]
    pub fn with_codecs(saga: S, codecs: Codecs) -> Self {
        let id = InstanceId::new(TEST_INSTANCE).expect("BUG: the id is valid");
        let stream = stream_of(&saga, &id);
        let source = Arc::new(ManualSource::new(TEST_START));
        let (limits, history, pending) = (Limits::default(), History::new(stream), PendingTimeouts::default());
        Self { saga, codecs, limits, snapshots: true, source, history, pending, step: None, folded: None }
    }

    /// Names the instance; `"1"` by default. Call it first.
    #[must_use]
    #[track_caller]
    pub fn with_instance_id(mut self, id: &InstanceId) -> Self {
        assert!(self.history.is_empty(), "the instance must be named before it is given anything");
        self.history = History::new(stream_of(&self.saga, id));
        self
    }

    /// Uses these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Does not check that the state survives a snapshot, for sagas of which none are taken.
    #[must_use]
    pub fn without_snapshots(mut self) -> Self {
        self.snapshots = false;
        self
    }

    /// The state, as it is loaded.
    ///
    /// # Panics
    /// If it cannot be loaded.
    #[track_caller]
    pub fn data(&self) -> S::Data {
        self.replayed().0
    }

    /// The number of events that the instance has.
    ///
    /// # Panics
    /// If it cannot be loaded.
    #[track_caller]
    pub fn revision(&self) -> Revision {
        self.replayed().1
    }

    /// The events and commands of the last step, in order, with their ids, causes and metadata.
    pub fn messages(&self) -> &[Envelope] {
        self.step.as_ref().map_or(&[], |step| &step.messages)
    }

    /// What the clock shows.
    pub fn now(&self) -> Timestamp {
        self.source.now()
    }

    #[track_caller]
    fn replayed(&self) -> (S::Data, Revision) {
        match self.history.replay(&self.saga, &self.codecs, None) {
            Ok(replay) => (replay.instance.data, replay.instance.revision),
            Err(error) => panic!("the instance cannot be loaded: {error}"),
        }
    }
}

#[track_caller]
fn stream_of<S: Saga>(saga: &S, id: &InstanceId) -> SagaStream {
    SagaStream::new(saga.persistence_key(), id).unwrap_or_else(|error| panic!("the saga cannot be stored: {error}"))
}

impl<S: Saga> SagaTest<S> {
    /// Fails if the last step ended in a way that nobody expected.
    #[track_caller]
    fn settle(&self) {
        if let Some(step) = &self.step
            && !step.expected
            && !matches!(step.outcome, Outcome::Handled)
        {
            panic!("this was not expected: {}", step.outcome.describe());
        }
    }
}

impl<S: Saga> Drop for SagaTest<S> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.settle();
        }
    }
}

impl<S: Saga> Debug for SagaTest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SagaTest")
            .field("stream", &self.history.stream.name)
            .field("now", &format_args!("{}", self.source.now()))
            .field("pending", &self.pending.names())
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
