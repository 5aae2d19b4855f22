//! Units of work by a persister of the clause's own making.

use anyhow::Context;
use sagastore::{NewOutboxRecord, Outbox, OutboxRepository, Persister, Result, Saga, UnitOfWork};

use super::sample::instance;
use super::{Subject, TestDb};

impl<DB: Subject> TestDb<DB> {
    /// One unit of work that publishes these events, in a transaction of its own.
    pub(crate) async fn publish_by<S: Saga>(
        &self,
        persister: &Persister<DB>,
        saga: &S,
        id: &str,
        events: impl IntoIterator<Item = S::Event>,
    ) -> Result<()> {
        let mut tx = persister.begin(self.pool()).await?;
        let mut unit = persister.begin_unit_of_work(saga, &mut tx, Outbox, &instance(id)).await?;
        for event in events {
            unit.publish(event)?;
        }
        assert!(persister.save(&mut tx, unit).await?.is_changed(), "nothing was published");
        tx.commit().await.map_err(|error| persister.store().classify("committing", error))?;
        Ok(())
    }

    /// An instance that must be there, with how it was loaded.
    pub(crate) async fn load_by<'s, S: Saga>(
        &self,
        persister: &Persister<DB>,
        saga: &'s S,
        id: &str,
    ) -> anyhow::Result<UnitOfWork<'s, S>> {
        let found = persister.load_instance(saga, &mut *self.conn().await?, &instance(id)).await?;
        found.with_context(|| format!("no instance {id:?}"))
    }

    /// Puts records into the outbox, in a transaction of their own.
    pub(crate) async fn save_records(&self, records: &[NewOutboxRecord]) -> Result<()> {
        let mut tx = self.begin().await?;
        self.store().save(&mut tx, records).await?;
        tx.commit().await.map_err(|error| self.persister().store().classify("committing", error))
    }

    /// The revisions of all snapshots that there are, in order.
    pub(crate) async fn snapshots(&self) -> anyhow::Result<Vec<u64>> {
        let rows = self.rows("SELECT revision FROM saga_snapshot ORDER BY stream_id, revision").await?;
        rows.into_iter().flatten().map(|revision| Ok(revision.context("a null")?.parse()?)).collect()
    }
}
