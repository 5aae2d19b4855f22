//! Shorthands for timeouts.

use std::time::Duration;

use anyhow::ensure;
use sagastore::{MessageId, MessageStore, PendingTimeout, Result};

use super::sample::{Counter, added};
use super::{Subject, TestDb, stream_of};

/// Longer than any clause runs.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

impl<DB: Subject> TestDb<DB> {
    /// A unit of work of a counter that schedules an amount, and nothing else.
    pub(crate) async fn schedule(&self, id: &str, name: &str, amount: i64, after: Duration) -> Result<MessageId> {
        let mut unit = self.unit(&Counter, id).await?;
        let message = unit.schedule(name, &added(amount), after)?;
        assert!(self.save(unit).await?.is_changed());
        Ok(message)
    }

    /// The timeouts of a counter that are pending, by name.
    pub(crate) async fn timeouts(&self, id: &str) -> anyhow::Result<Vec<PendingTimeout>> {
        let mut conn = self.conn().await?;
        Ok(self.store().pending_timeouts(&mut conn, &stream_of(&Counter, id), None, 10_000).await?)
    }

    pub(crate) async fn timeout_names(&self, id: &str) -> anyhow::Result<Vec<String>> {
        Ok(self.timeouts(id).await?.into_iter().map(|timeout| timeout.name).collect())
    }

    /// How many timeouts there are, pending or handed over and not yet delivered.
    pub(crate) async fn timeouts_left(&self) -> anyhow::Result<i64> {
        let pending = self.count("SELECT COUNT(*) FROM saga_timeout").await?;
        Ok(pending + self.count("SELECT COUNT(*) FROM saga_outbox_message").await?)
    }

    /// As if an hour had passed for all timeouts.
    pub(crate) async fn let_an_hour_pass(&self) -> anyhow::Result<u64> {
        self.sql("UPDATE saga_timeout SET due_at = due_at - 3600000000").await
    }

    /// Hands everything that is due over to the outbox.
    pub(crate) async fn release(&self) -> Result<u64> {
        let mut tx = self.begin().await?;
        let released = self.store().release_due_timeouts(&mut tx, 100_000).await?;
        self.commit(tx).await?;
        Ok(released)
    }

    /// Every timeout belongs to a commit and to the partition of its stream, and none is in two places.
    pub(super) async fn check_timeouts(&self) -> anyhow::Result<()> {
        let orphans = "SELECT COUNT(*) FROM saga_timeout AS t
            WHERE partition_no <> stream_id % 64
                OR NOT EXISTS (
                    SELECT 1 FROM saga_commit AS c WHERE c.stream_id = t.stream_id AND c.commit_no = t.commit_no
                )";
        ensure!(self.count(orphans).await? == 0, "timeouts without their commit, or in a foreign partition");
        let twice = "SELECT COUNT(*) FROM saga_timeout AS t
            JOIN saga_outbox_message AS m ON m.stream_id = t.stream_id
            WHERE m.timeout_name = t.name";
        ensure!(self.count(twice).await? == 0, "timeouts are pending and in the outbox");
        Ok(())
    }
}
