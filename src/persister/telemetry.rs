//! What a persister tells those who watch it: spans and events of `tracing`, and counters and histograms of the
//! `metrics` facade (feature `metrics`). Names are stable; see the operations page.

use std::future::Future;
#[cfg(feature = "metrics")]
use std::time::Instant;

use tracing::{Instrument, Span};

use super::save::Ended;
use crate::error::{Error, Result};
use crate::saga::SagaStream;
#[cfg(feature = "metrics")]
use crate::unit_of_work::SnapshotFault;
use crate::unit_of_work::{LoadReport, Saved};

/// Around loading an instance.
pub(super) fn load_span(stream: &SagaStream) -> Span {
    let (saga, instance) = (stream.persistence_key.as_str(), stream.instance_id.as_str());
    tracing::debug_span!(target: "sagastore", "saga.load", saga, instance)
}

/// Saves a unit of work under observation.
pub(super) async fn saving<T: Outcome>(
    stream: &SagaStream,
    messages: usize,
    save: impl Future<Output = Result<T>>,
) -> Result<T> {
    let (saga, instance) = (stream.persistence_key.as_str(), stream.instance_id.as_str());
    let span = tracing::debug_span!(target: "sagastore", "saga.save", saga, instance, messages);
    let watch = Watch::start();
    let observed = async {
        let saved = save.await;
        watch.saved(stream, saved.as_ref().map(Outcome::saved));
        saved
    };
    observed.instrument(span).await
}

/// What saving came to; `None` if it is to be done again from a load.
pub(super) trait Outcome {
    fn saved(&self) -> Option<&Saved>;
}

impl Outcome for Saved {
    fn saved(&self) -> Option<&Saved> {
        Some(self)
    }
}

impl Outcome for Ended {
    fn saved(&self) -> Option<&Saved> {
        Some(&self.saved)
    }
}

impl Outcome for Option<Ended> {
    fn saved(&self) -> Option<&Saved> {
        self.as_ref().map(|ended| &ended.saved)
    }
}

/// Measures how long a step of a saga takes.
pub(super) struct Watch {
    #[cfg(feature = "metrics")]
    begun: Instant,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            begun: Instant::now(),
        }
    }

    /// An instance was loaded.
    #[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
    pub(super) fn loaded(self, stream: &SagaStream, report: &LoadReport) {
        let LoadReport { replayed_events, replayed_commits, snapshot, ignored_snapshot, .. } = *report;
        #[cfg(feature = "metrics")]
        {
            let saga = stream.persistence_key.clone();
            let events = u32::try_from(replayed_events).map_or(f64::from(u32::MAX), f64::from);
            let found = match (snapshot, ignored_snapshot) {
                (Some(_), _) => "hit",
                (None, None) => "miss",
                (None, Some(_)) => "discarded",
            };
            metrics::histogram!("sagastore_load_seconds", "saga" => saga.clone()).record(self.begun.elapsed());
            metrics::histogram!("sagastore_replayed_events", "saga" => saga.clone()).record(events);
            metrics::counter!("sagastore_snapshots_total", "saga" => saga.clone(), "result" => found).increment(1);
            if let Some(fault) = ignored_snapshot {
                metrics::counter!("sagastore_snapshots_discarded_total", "saga" => saga, "reason" => reason(fault))
                    .increment(1);
            }
        }
        tracing::debug!(
            name: "saga.loaded", target: "sagastore",
            replayed_events, replayed_commits, snapshot = snapshot.map(u64::from), "an instance was loaded"
        );
    }

    /// A unit of work was saved, or was not.
    #[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
    fn saved(self, stream: &SagaStream, saved: Result<Option<&Saved>, &Error>) {
        #[cfg(feature = "metrics")]
        {
            let saga = stream.persistence_key.clone();
            let outcome = match saved {
                Ok(Some(Saved::Changed { .. })) => "changed",
                Ok(Some(Saved::Unchanged { .. })) => "unchanged",
                Ok(Some(Saved::AlreadyHandled(_))) => "already_handled",
                Ok(None) => "stale",
                Err(Error::Conflict { .. }) => "conflict",
                Err(_) => "failed",
            };
            metrics::histogram!("sagastore_save_seconds", "saga" => saga.clone()).record(self.begun.elapsed());
            metrics::counter!("sagastore_units_total", "saga" => saga, "outcome" => outcome).increment(1);
        }
        if let Ok(Some(saved)) = saved {
            let (revision, changed) = (saved.revision().get(), saved.is_changed());
            tracing::debug!(name: "saga.saved", target: "sagastore", revision, changed, "a unit of work was saved");
        }
    }
}

#[cfg(feature = "metrics")]
fn reason(fault: SnapshotFault) -> &'static str {
    match fault {
        SnapshotFault::Damaged => "damaged",
        SnapshotFault::DataVersion => "data_version",
        SnapshotFault::NotInStream => "not_in_stream",
        SnapshotFault::Undecodable => "undecodable",
    }
}

/// An instance was looked for in the cache, or what was found there did not count.
#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
pub(super) fn cached(stream: &SagaStream, result: &'static str) {
    #[cfg(feature = "metrics")]
    {
        let saga = stream.persistence_key.clone();
        metrics::counter!("sagastore_instance_cache_total", "saga" => saga, "result" => result).increment(1);
    }
    tracing::trace!(name: "saga.cached", target: "sagastore", result, "an instance was looked for in the cache");
}

/// A lost race is tried again.
pub(super) fn retrying(lost: u32, error: &Error) {
    #[cfg(feature = "metrics")]
    metrics::counter!("sagastore_retries_total").increment(1);
    tracing::debug!(name: "saga.retrying", target: "sagastore", lost, %error, "a unit of work is tried again");
}
