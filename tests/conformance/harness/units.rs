//! Shorthands for whole units of work, and for what they left.

use sagastore::{InstanceId, Outbox, Result, Saga, Saved, StreamName, UnitOfWork};
use sqlx::{Pool, Transaction};

use super::sample::instance;
use super::{Subject, TestDb};

/// What there is of everything that a unit of work writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) commits: i64,
    pub(crate) completed: i64,
    pub(crate) snapshots: i64,
    pub(crate) outbox: usize,
}

impl<DB: Subject> TestDb<DB> {
    /// A unit of work loaded as of now, in no transaction: whatever is saved after this is another writer's.
    pub(crate) async fn unit<'s, S: Saga>(&self, saga: &'s S, id: &str) -> Result<UnitOfWork<'s, S>> {
        let mut tx = self.begin().await?;
        let unit = self.persister().begin_unit_of_work(saga, &mut tx, Outbox, &instance(id)).await?;
        self.roll_back(tx).await?;
        Ok(unit)
    }

    /// Saves in a transaction of its own.
    pub(crate) async fn save<S: Saga>(&self, unit: UnitOfWork<'_, S>) -> Result<Saved> {
        let mut tx = self.begin().await?;
        let saved = self.persister().save(&mut tx, unit).await?;
        self.commit(tx).await?;
        Ok(saved)
    }

    pub(crate) async fn commit(&self, tx: Transaction<'_, DB>) -> Result<()> {
        tx.commit().await.map_err(|error| self.persister().store().classify("committing", error))
    }

    pub(crate) async fn roll_back(&self, tx: Transaction<'_, DB>) -> Result<()> {
        tx.rollback().await.map_err(|error| self.persister().store().classify("rolling back", error))
    }

    /// One unit of work that publishes these events; gives the revision after it.
    pub(crate) async fn publish<S: Saga>(
        &self,
        saga: &S,
        id: &str,
        events: impl IntoIterator<Item = S::Event>,
    ) -> Result<u64> {
        let mut unit = self.unit(saga, id).await?;
        for event in events {
            unit.publish(event)?;
        }
        let saved = self.save(unit).await?;
        assert!(saved.is_changed());
        Ok(saved.revision().get())
    }

    /// An instance's state and revision; `None` if it does not exist.
    pub(crate) async fn state<S: Saga>(&self, saga: &S, id: &str) -> anyhow::Result<Option<(S::Data, u64)>> {
        let mut conn = self.conn().await?;
        let found = self.persister().load_instance(saga, &mut conn, &instance(id)).await?;
        Ok(found.map(|unit| (unit.instance().data.clone(), unit.instance().revision.get())))
    }

    pub(crate) async fn footprint(&self) -> anyhow::Result<Footprint> {
        Ok(Footprint {
            commits: self.count("SELECT COUNT(*) FROM saga_commit").await?,
            completed: self.count("SELECT COUNT(*) FROM saga_stream WHERE completed_at IS NOT NULL").await?,
            snapshots: self.count("SELECT COUNT(*) FROM saga_snapshot").await?,
            outbox: self.outbox().await?.len(),
        })
    }

    /// A pool of so many connections: another one, or in memory the only one there is.
    pub(crate) async fn small_pool(&self, connections: u32) -> anyhow::Result<Pool<DB>> {
        if self.mode() == super::Mode::SqliteMemory {
            return Ok(self.pool().clone());
        }
        self.second_pool(connections).await
    }

    /// Makes a table for a caller's own writes: one unique number each.
    pub(crate) async fn create_own_table(&self) -> anyhow::Result<()> {
        self.sql("CREATE TABLE own_table (n BIGINT NOT NULL PRIMARY KEY)").await.map(drop)
    }

    /// A write of the caller's own.
    pub(crate) async fn write_own(&self, conn: &mut DB::Connection, n: u32) -> anyhow::Result<()> {
        DB::execute(conn, format!("INSERT INTO own_table (n) VALUES ({n})")).await.map(drop)
    }

    pub(crate) async fn own_writes(&self) -> anyhow::Result<i64> {
        self.count("SELECT COUNT(*) FROM own_table").await
    }
}

/// The stream of an instance.
pub(crate) fn stream_of<S: Saga>(saga: &S, id: &str) -> StreamName {
    let id: InstanceId = instance(id);
    StreamName::of_saga(saga.persistence_key(), &id).unwrap()
}

/// Runs a future to its end inside code that cannot await.
pub(crate) fn wait_for<F: Future>(future: F) -> F::Output {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}
