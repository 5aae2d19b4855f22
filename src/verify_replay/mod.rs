//! Tells before a deployment whether new code still replays what old code has stored.
//!
//! Run it in the pipeline, with the new code, against a copy of the database or, with the features `export` and `sqlite`,
//! an export (`run_on_export`). It replays instances from their first events and reports those that fail (an
//! unknown type, an upcaster that does not fit), those whose snapshots the new code would trust and that differ from
//! what it makes of the events, and those that differ from a baseline that the old code wrote.
//!
//! States are compared as JSON. So a state must give the same JSON each time (a `HashSet` does not: compare with a
//! `BTreeSet`). One that JSON cannot hold, as with a float that is infinite or no number, or that nests deeper than JSON is
//! read, is reported as failed; whole numbers beyond 64 bits are compared as text. A panic of the saga's code ends the run.
//!
//! ```
//! # use sagastore::{Persister, migrate, verify_replay::{Baseline, ReplayVerifier}};
//! # use sagastore::{Envelope, Saga, message_types};
//! # #[derive(serde::Serialize, serde::Deserialize)] enum Event { Stamped }
//! # message_types!(Event { Stamped: "Stamped" 1 });
//! # struct Card;
//! # impl Saga for Card {
//! #     type Data = u32;
//! #     type Event = Event;
//! #     fn persistence_key(&self) -> &str { "card" }
//! #     fn new_data(&self) -> u32 { 0 }
//! #     fn apply_event(&self, stamps: &mut u32, _: &Event, _: &Envelope) { *stamps += 1 }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # let _ = migrate(&pool).await?;
//! // With the old code: keep what it makes of the events.
//! let mut baseline = Vec::new();
//! let old = ReplayVerifier::new(&Card, Persister::new()).run(&pool, |state| state.write_line(&mut baseline)).await?;
//! // With the new code: compare.
//! let new = ReplayVerifier::new(&Card, Persister::new()).against(Baseline::read(&*baseline)?);
//! let verified = new.run(&pool, |_| Ok(())).await?;
//! assert!(verified.is_clean(), "{:?}", verified.findings);
//! # let _ = old;
//! # Ok(())
//! # }
//! ```

mod as_json;
#[cfg(all(feature = "export", feature = "sqlite"))]
mod export;
mod finding;
mod saved_state;

use std::num::NonZeroU32;

use sqlx::Pool;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::guarded_connection::GuardedConnection;
use crate::ids::{CommitNumber, InstanceId};
use crate::inspect::{Inspector, InstanceFilter};
use crate::persister::{Checkpoint, Persister};
use crate::saga::Saga;
pub(crate) use as_json::as_json;
use finding::first_difference;
pub use finding::{ReplayFault, ReplayFinding};
pub use saved_state::{Baseline, SavedState};

/// Most findings that are kept; more are only counted.
pub const MAX_REPLAY_FINDINGS: usize = 1_000;
/// How many instances are listed at a time.
const PAGE: u32 = 500;

/// Replays the instances of a saga, and compares.
pub struct ReplayVerifier<'a, S, DB: Backend> {
    saga: &'a S,
    persister: Persister<DB>,
    every: NonZeroU32,
    baseline: Baseline,
}

/// What replaying came to.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifiedReplay {
    /// How many instances were replayed, also those that failed.
    pub instances: u64,
    /// How many events were applied.
    pub events: u64,
    /// How many faults were found.
    pub faults: u64,
    /// The first of them, at most [`MAX_REPLAY_FINDINGS`].
    pub findings: Vec<ReplayFinding>,
}

impl VerifiedReplay {
    /// True if nothing was found.
    pub fn is_clean(&self) -> bool {
        self.faults == 0
    }

    fn add(&mut self, instance_id: &InstanceId, fault: ReplayFault) {
        self.faults += 1;
        if self.findings.len() < MAX_REPLAY_FINDINGS {
            self.findings.push(ReplayFinding { instance_id: instance_id.clone(), fault });
        }
    }
}

impl<'a, S: Saga, DB: Backend> ReplayVerifier<'a, S, DB> {
    /// Replays all instances of this saga, with the codecs of this persister.
    pub fn new(saga: &'a S, persister: Persister<DB>) -> Self {
        Self { saga, persister, every: NonZeroU32::MIN, baseline: Baseline::default() }
    }

    /// Replays a sample: one instance in so many, always the same ones (by a hash of the id).
    #[must_use]
    pub fn every(mut self, every: NonZeroU32) -> Self {
        self.every = every;
        self
    }

    /// Also compares with what other code has made of the same events. An instance that went on since is compared as
    /// it was then.
    #[must_use]
    pub fn against(mut self, baseline: Baseline) -> Self {
        self.baseline = baseline;
        self
    }

    /// Replays, and hands over each instance's last state. Reads only; one instance is in memory at a time.
    ///
    /// # Errors
    /// The database's, and what `each` returned. What does not replay is no error but a finding.
    pub async fn run(
        &self,
        pool: &Pool<DB>,
        mut each: impl FnMut(&SavedState) -> Result<()>,
    ) -> Result<VerifiedReplay> {
        let (inspector, mut verified, mut after) = (Inspector::new(pool), VerifiedReplay::default(), None);
        let persistence_key = Some(self.saga.persistence_key().to_owned());
        let filter = InstanceFilter { persistence_key, ..InstanceFilter::default() };
        let mut missing: std::collections::HashSet<_> = self.baseline.instances(self.saga.persistence_key()).collect();
        loop {
            let page = inspector.instances(&filter, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            for instance in &page {
                missing.remove(instance.instance_id.as_str());
                if crc32fast::hash(instance.instance_id.as_str().as_bytes()) % self.every == 0 {
                    self.verify(pool, &instance.instance_id, &mut verified, &mut each).await?;
                }
            }
        }
        for instance in missing {
            let id = InstanceId::new(instance)?;
            let revision = self.baseline.of(self.saga.persistence_key(), &id).map_or(0, |state| state.revision);
            verified.add(&id, ReplayFault::NotThere { revision });
        }
        Ok(verified)
    }

    async fn verify(
        &self,
        pool: &Pool<DB>,
        id: &InstanceId,
        verified: &mut VerifiedReplay,
        each: &mut impl FnMut(&SavedState) -> Result<()>,
    ) -> Result<()> {
        verified.instances += 1;
        let baseline = self.baseline.of(self.saga.persistence_key(), id);
        let at_baseline = baseline.and_then(|state| CommitNumber::try_from(state.commits).ok());
        let store = DB::Store::default();
        let mut conn = GuardedConnection::take(pool, &store, "taking a connection to replay an instance").await?;
        let replayed = self.persister.replay_from_start(self.saga, &mut conn, id, at_baseline).await;
        conn.release();
        let replayed = match replayed {
            Ok(replayed) => replayed,
            Err(error) if is_of_the_instance(&error) => {
                verified.add(id, ReplayFault::Failed(error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        verified.events += replayed.events;
        match replayed.snapshot {
            Checkpoint::None => {}
            Checkpoint::Unreadable(revision) => verified.add(id, ReplayFault::UnreadableSnapshot { revision }),
            Checkpoint::Found { revision, stored, replayed } => {
                if let Some(place) = first_difference(&stored, &replayed) {
                    verified.add(id, ReplayFault::DiffersFromSnapshot { revision, place });
                }
            }
        }
        if let Some(baseline) = baseline {
            let revision = baseline.revision;
            match &replayed.at_asked {
                Some(state) => {
                    if let Some(place) = first_difference(&baseline.state, state) {
                        verified.add(id, ReplayFault::DiffersFromBaseline { revision, place });
                    }
                }
                None => verified.add(id, ReplayFault::NotThere { revision }),
            }
        }
        each(&SavedState {
            persistence_key: self.saga.persistence_key().to_owned(),
            instance_id: id.as_str().to_owned(),
            commits: replayed.commits.get(),
            revision: replayed.revision.get(),
            state: replayed.state,
        })
    }
}

/// False for troubles of the database, which say nothing about the code.
fn is_of_the_instance(error: &Error) -> bool {
    matches!(
        error,
        Error::UnknownType { .. }
            | Error::Undecodable { .. }
            | Error::Corrupt { .. }
            | Error::ForeignInstance { .. }
            | Error::Unencodable { .. }
    )
}
