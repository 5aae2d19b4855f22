//! A database of a clause's own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use sagastore::{Backend, Envelope, MessageStore, Offset, Persister, RecordedEvent, StreamName, migrate};
use sqlx::pool::PoolConnection;
use sqlx::{Pool, Transaction};

use super::invariants::Expected;
use super::mode::Mode;
use super::proxy::Proxy;
use super::subject::{Home, Subject, TextRow, unique_name};

/// Connections of a pool.
pub(crate) const CONNECTIONS: u32 = 8;
/// How long a pool may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A freshly migrated database. Cheap to clone.
pub(crate) struct TestDb<DB: Subject>(Arc<Inner<DB>>);

struct Inner<DB: Subject> {
    home: Home<DB>,
    pool: Pool<DB>,
    other_pools: Mutex<Vec<Pool<DB>>>,
    damaged: AtomicBool,
    relayed: AtomicBool,
}

impl<DB: Subject> Clone for TestDb<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Subject> TestDb<DB> {
    pub(super) async fn create(mode: Mode) -> anyhow::Result<Self> {
        Self::create_named(mode, unique_name()).await
    }

    /// One more database; to be given to [`remove`](Self::remove).
    pub(crate) async fn create_named(mode: Mode, name: String) -> anyhow::Result<Self> {
        let home = DB::create(mode, name).await?;
        let pool = DB::connect(&home, CONNECTIONS).await?;
        let _ = migrate(&pool).await?;
        DB::set_up(&pool, mode).await?;
        let other_pools = Mutex::default();
        let inner = Inner { home, pool, other_pools, damaged: AtomicBool::new(false), relayed: AtomicBool::new(false) };
        Ok(Self(Arc::new(inner)))
    }

    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        let mut pools = std::mem::take(&mut *self.0.other_pools.lock().unwrap());
        pools.push(self.0.pool.clone());
        for pool in pools {
            let _ = tokio::time::timeout(CLOSE_WITHIN, pool.close()).await;
        }
        DB::remove(&self.0.home).await
    }

    pub(crate) fn mode(&self) -> Mode {
        self.0.home.mode
    }

    pub(crate) fn home(&self) -> &Home<DB> {
        &self.0.home
    }

    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.0.pool
    }

    /// Another pool on the same database, as another process would have. Not in memory.
    pub(crate) async fn second_pool(&self, connections: u32) -> anyhow::Result<Pool<DB>> {
        anyhow::ensure!(self.mode() != Mode::SqliteMemory, "a database in memory has one pool");
        let pool = DB::connect(&self.0.home, connections).await?;
        self.0.other_pools.lock().unwrap().push(pool.clone());
        Ok(pool)
    }

    /// As [`second_pool`](Self::second_pool), by way of a network that may fail. Servers only.
    pub(crate) async fn pool_through(&self, proxy: &Proxy, connections: u32) -> anyhow::Result<Pool<DB>> {
        let pool = DB::connect_by(&self.0.home, proxy.port(), connections).await?;
        self.0.other_pools.lock().unwrap().push(pool.clone());
        Ok(pool)
    }

    /// A pool in a role that may read and write rows, and nothing else. Servers only.
    pub(crate) async fn restricted_pool(&self) -> anyhow::Result<Pool<DB>> {
        let pool = DB::connect_restricted(&self.0.home).await?;
        self.0.other_pools.lock().unwrap().push(pool.clone());
        Ok(pool)
    }

    /// The server ends all connections to this database. Servers only.
    pub(crate) async fn cut_connections(&self) -> anyhow::Result<()> {
        DB::cut_connections(&self.0.home).await
    }

    pub(crate) fn store(&self) -> <DB as Backend>::Store {
        DB::store(self.mode())
    }

    /// A persister with all defaults; of separate parts where the mode says so.
    pub(crate) fn persister(&self) -> Persister<DB> {
        let persister = Persister::with_store(Arc::new(self.store()));
        if self.mode() != Mode::SqliteParts {
            return persister;
        }
        persister.with_snapshot_repository(Arc::new(self.store())).with_outbox_repository(Arc::new(self.store()))
    }

    pub(crate) async fn conn(&self) -> anyhow::Result<PoolConnection<DB>> {
        self.pool().acquire().await.context("no connection is free")
    }

    /// A transaction fit for writing.
    pub(crate) async fn begin(&self) -> sagastore::Result<Transaction<'static, DB>> {
        self.persister().begin(self.pool()).await
    }

    /// Runs SQL statements as they are, and says how many rows they changed.
    pub(crate) async fn sql(&self, sql: impl Into<String>) -> anyhow::Result<u64> {
        let sql = sql.into();
        DB::execute(&mut *self.conn().await?, sql.clone()).await.with_context(|| sql)
    }

    /// The rows of a query, as text.
    pub(crate) async fn rows(&self, sql: impl Into<String>) -> anyhow::Result<Vec<TextRow>> {
        let sql = sql.into();
        DB::rows(&mut *self.conn().await?, sql.clone()).await.with_context(|| sql)
    }

    /// The one number that a query gives.
    pub(crate) async fn count(&self, sql: impl Into<String>) -> anyhow::Result<i64> {
        let sql = sql.into();
        let rows = self.rows(sql.clone()).await?;
        let value = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        value.with_context(|| format!("no value: {sql}"))?.parse().with_context(|| sql)
    }

    /// Appends in a transaction of its own.
    pub(crate) async fn append(
        &self,
        stream: &StreamName,
        offset: u32,
        messages: &[Envelope],
    ) -> sagastore::Result<Offset> {
        let mut tx = self.begin().await?;
        let end = self.store().append_messages(&mut tx, stream, Offset::of(offset), messages).await?;
        tx.commit().await.map_err(|error| self.store().classify("committing an append", error))?;
        Ok(end)
    }

    /// All events of a stream; `None` if there is no such stream.
    pub(crate) async fn events(&self, stream: &StreamName) -> anyhow::Result<Option<Vec<RecordedEvent>>> {
        let mut conn = self.conn().await?;
        Ok(self.store().read_page(&mut conn, stream, Offset::ZERO, u32::MAX).await?)
    }

    /// From here on rows may be broken: streams and outbox are not checked after the clause.
    pub(crate) fn will_damage(&self) {
        self.0.damaged.store(true, Ordering::Relaxed);
    }

    /// From here on messages may leave the outbox, or not be put into it: that all of them are there
    /// is not checked after the clause, that none is there twice still is.
    pub(crate) fn will_relay(&self) {
        self.0.relayed.store(true, Ordering::Relaxed);
    }

    pub(super) fn expected(&self) -> Expected {
        Expected { damaged: self.0.damaged.load(Ordering::Relaxed), relayed: self.0.relayed.load(Ordering::Relaxed) }
    }
}
