//! Reloads every instance and compares it with what was sent.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sagastore::{Backend, DEFAULT_SNAPSHOT_FREQUENCY, OutboxRepository, Persister};
use sqlx::Pool;

use crate::expected::Expected;
use crate::messages::{Conversation, count};
use crate::saga::OrderSaga;

/// What the reloaded instances hold together.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) instances: u64,
    pub(crate) events: u64,
    pub(crate) commands: u64,
    pub(crate) snapshots: u64,
    pub(crate) longest: u64,
    loads: Vec<Duration>,
}

impl Found {
    /// The time that so many percent of the loads did not exceed.
    pub(crate) fn load_percentile(&self, percent: usize) -> Duration {
        let last = self.loads.len().saturating_sub(1);
        self.loads.get(last * percent / 100).copied().unwrap_or_default()
    }
}

pub(crate) async fn reload_all<DB: Backend>(
    pool: &Pool<DB>,
    persister: &Persister<DB>,
    conversations: &[Conversation],
) -> Result<Found> {
    let (mut found, mut conn) = (Found::default(), pool.acquire().await?);
    for conversation in conversations {
        let id = &conversation.instance;
        let begun = Instant::now();
        let loaded = persister.load_instance(&OrderSaga, &mut conn, id).await?;
        found.loads.push(begun.elapsed());
        let unit = loaded.with_context(|| format!("{id:?} is not there"))?;

        let expected = Expected::of(conversation);
        let (instance, report) = (unit.instance(), unit.load_report());
        let revision = instance.revision.get();
        ensure!(
            (instance.data, revision, unit.is_completed()) == (expected.order, expected.events, expected.is_completed),
            "{id:?} is at revision {revision} with {:?}, expected {expected:?}",
            instance.data,
        );
        let has_snapshot = revision >= DEFAULT_SNAPSHOT_FREQUENCY.get() && !expected.is_completed;
        ensure!(
            report.snapshot.is_some() == has_snapshot && report.replayed_events < DEFAULT_SNAPSHOT_FREQUENCY.get(),
            "{id:?} at revision {revision} was not loaded from its newest snapshot: {report:?}"
        );
        found.events += revision;
        found.commands += expected.commands;
        found.snapshots += u64::from(has_snapshot);
        found.longest = found.longest.max(revision);
    }
    found.instances = count(found.loads.len());
    found.loads.sort_unstable();
    Ok(found)
}

/// How many messages wait to be relayed.
pub(crate) async fn pending<DB: Backend>(pool: &Pool<DB>) -> Result<u64> {
    let mut conn = pool.acquire().await?;
    Ok(DB::Store::default().stats(&mut conn).await?.pending)
}
