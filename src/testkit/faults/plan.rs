//! Which call is to fail, and how.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::gate::Gate;
use crate::error::{Error, Result};

/// A verb of [`MessageStore`](crate::MessageStore), [`SnapshotRepository`](crate::SnapshotRepository) or
/// [`OutboxRepository`](crate::OutboxRepository). Verbs whose default is made of others are counted as these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "they are named as the verbs")]
pub enum Verb {
    AppendMessages,
    ReadPage,
    NextOffset,
    Load,
    ReadCommits,
    /// In the caller's transaction: what [`Persister::save`](crate::Persister::save) does.
    Commit,
    ChangeTimeouts,
    PendingTimeouts,
    TimeoutStats,
    ReleaseDueTimeouts,
    /// In a transaction of its own: what [`Persister::execute`](crate::Persister::execute) does.
    CommitAlone,
    Fence,
    Begin,
    LoadSagaSnapshot,
    SaveSagaSnapshot,
    DeleteSagaSnapshots,
    SaveRecords,
    FindBatch,
    DeleteInBatches,
    AcquireLock,
    ReleaseLock,
    SubscribeDispatcher,
    UpdateSubscription,
    Unsubscribe,
    DeadLetters,
    DamagedDeadLetters,
    RetryDeadLetters,
    DiscardDeadLetters,
    EditAndRetryDeadLetter,
    Stats,
    Lag,
}

/// Before or after what the call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before: an error keeps the call from being made.
    Before,
    /// After: an error hides what the call did, and that it did it.
    After,
}

/// What happens to a call.
#[derive(Debug)]
pub enum Fault {
    /// It fails with this error.
    Error(Error),
    /// It takes so much longer, by tokio's clock.
    Stall(Duration),
    /// It takes until the gate is opened.
    Wait(Gate),
}

/// The faults that are planned for a store, and the calls that it got. Cheap to clone; all clones are one plan, which
/// several stores can share.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    calls: HashMap<Verb, u64>,
    planned: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    verb: Verb,
    call: u64,
    moment: Moment,
    fault: Fault,
}

impl Faults {
    /// No faults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans a fault for the call of this number, counted from one over all calls of the verb.
    pub fn on(&self, verb: Verb, call: u64, moment: Moment, fault: Fault) -> &Self {
        self.plan(|plan| plan.planned.push(Planned { verb, call, moment, fault }));
        self
    }

    /// Plans a fault for the next call.
    pub fn on_next(&self, verb: Verb, moment: Moment, fault: Fault) -> &Self {
        let next = self.calls(verb).saturating_add(1);
        self.on(verb, next, moment, fault)
    }

    /// How many calls of a verb there were, with those that failed.
    pub fn calls(&self, verb: Verb) -> u64 {
        self.plan(|plan| plan.calls.get(&verb).copied().unwrap_or_default())
    }

    /// How many planned faults have not come yet.
    pub fn left(&self) -> usize {
        self.plan(|plan| plan.planned.len())
    }

    fn plan<T>(&self, look: impl FnOnce(&mut Plan) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a call with what is planned for it.
    pub(crate) async fn around<T>(&self, verb: Verb, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let number = self.plan(|plan| {
            let calls = plan.calls.entry(verb).or_default();
            *calls = calls.saturating_add(1);
            *calls
        });
        self.meet(verb, number, Moment::Before).await?;
        let answer = call.await;
        self.meet(verb, number, Moment::After).await?;
        answer
    }

    async fn meet(&self, verb: Verb, call: u64, moment: Moment) -> Result<()> {
        let is_meant = |planned: &mut Planned| (planned.verb, planned.call, planned.moment) == (verb, call, moment);
        let planned: Vec<_> = self.plan(|plan| plan.planned.extract_if(.., is_meant).collect());
        for Planned { fault, .. } in planned {
            match fault {
                Fault::Error(error) => return Err(error),
                Fault::Stall(duration) => tokio::time::sleep(duration).await,
                Fault::Wait(gate) => gate.pass().await,
            }
        }
        Ok(())
    }
}
