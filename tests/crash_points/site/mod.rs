//! Where the processes find their database.

use std::path::PathBuf;

use sagastore::{Backend, Persister, migrate};
use sqlx::Pool;
use tempfile::TempDir;

use super::desk::Desk;
use super::journal::Journal;
use super::scenarios::Scenario;
use super::wire::Protocol;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

/// A table of the program's own, beside those of the library.
pub(crate) const OWN_TABLE: &str = "CREATE TABLE crash_own (entry VARCHAR(200) NOT NULL)";

/// A database as one scenario uses it, over and over.
pub(crate) struct Home<DB: Site> {
    pub(crate) scenario: Scenario,
    /// The server's name for it, or a file.
    pub(crate) name: String,
    pub(crate) folder: TempDir,
    /// The file as the scenario finds it.
    pub(crate) template: Option<PathBuf>,
    /// A connection that stays, where there is a server.
    pub(crate) pool: Option<Pool<DB>>,
}

impl<DB: Site> Home<DB> {
    pub(crate) async fn create(scenario: Scenario) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let name = format!("saga_crash_{}", &uuid::Uuid::now_v7().simple().to_string()[12..]);
        let mut home = Self { scenario, name, folder, template: None, pool: None };
        DB::create(&mut home).await?;
        Ok(home)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(crate) fn desk(&self, pool: Pool<DB>) -> anyhow::Result<Desk<DB>> {
        Ok(Desk::new(pool, Journal::open(&self.journal())?))
    }

    pub(crate) fn desk_journal(&self) -> anyhow::Result<Journal> {
        Journal::open(&self.journal())
    }

    /// Removes it, and gives what was done.
    pub(crate) async fn remove_with<R>(self, done: anyhow::Result<R>) -> anyhow::Result<R> {
        let removed = DB::remove(self).await;
        let done = done?;
        removed.map(|()| done)
    }

    /// Puts what the scenario finds into an empty database.
    async fn fill(&self, pool: &Pool<DB>) -> anyhow::Result<()> {
        if self.scenario.begins_without_tables() {
            return Ok(());
        }
        let _ = migrate(pool).await?;
        DB::run(&mut *pool.acquire().await?, OWN_TABLE.to_owned()).await
    }
}

/// A database whose clients can be killed.
pub(crate) trait Site: Backend {
    /// As in SAGASTORE_TEST_ONLY.
    const KIND: &'static str;
    /// The environment variable with the URL of its server.
    const VARIABLE: Option<&'static str>;
    /// A change of the schema ends the transaction that it is in.
    const SCHEMA_COMMITS: bool = false;
    /// There are locks on sessions.
    const SESSION_LOCKS: bool = false;
    /// The marks of commits whose messages wait.
    const MARKED: &'static str;
    /// The ids of all instances.
    const INSTANCES: &'static str = "SELECT instance_id FROM saga_stream ORDER BY instance_id";
    /// Each lease's name and token.
    const LEASES: &'static str = "SELECT namespace || '/' || resource_id || ' ' || token FROM saga_lease";

    /// The server's address, and what is spoken there.
    fn server() -> anyhow::Result<Option<(Protocol, (String, u16))>>;

    async fn create(home: &mut Home<Self>) -> anyhow::Result<()>;

    /// Makes everything as the scenario finds it, and leaves no connection that could hide what a crash leaves.
    async fn start_over(home: &mut Home<Self>) -> anyhow::Result<()>;

    /// Connects as the process that is to be killed.
    async fn connect(name: &str, port: u16, connections: u32) -> anyhow::Result<Pool<Self>>;

    /// Opens the database again, once the server has noticed that nobody else is there.
    async fn reopen(home: &Home<Self>) -> anyhow::Result<Pool<Self>>;

    async fn close(_pool: Pool<Self>) {}

    async fn remove(home: Home<Self>) -> anyhow::Result<()>;

    /// A store that keeps the global order.
    fn ordered_store() -> Self::Store {
        Self::Store::default()
    }

    async fn enable_order(_pool: &Pool<Self>) -> anyhow::Result<()> {
        Ok(())
    }

    /// Writes a row of the program's own under a lock on a session, unless it is there.
    async fn write_under_session_lock(_desk: &Desk<Self>, _entry: &str) -> anyhow::Result<()> {
        anyhow::bail!("there are no locks on sessions")
    }

    /// Nobody holds that lock.
    async fn session_lock_is_free(_desk: &Desk<Self>) -> anyhow::Result<bool> {
        anyhow::bail!("there are no locks on sessions")
    }

    /// A persister that commits units of work of many callers together, where there is one.
    fn in_groups(persister: Persister<Self>, _pool: &Pool<Self>) -> Persister<Self> {
        persister
    }

    /// What the database itself has to say against its files.
    async fn damage(_pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// All tables, columns and indexes, in lines.
    async fn schema(pool: &Pool<Self>) -> anyhow::Result<Vec<String>>;

    /// Writes a row of the program's own.
    fn write_own(conn: &mut Self::Connection, entry: &str) -> impl Future<Output = anyhow::Result<()>> + Send;

    fn run(conn: &mut Self::Connection, sql: String) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Rows of one number.
    fn numbers(conn: &mut Self::Connection, sql: String) -> impl Future<Output = anyhow::Result<Vec<i64>>> + Send;

    /// Rows of one text.
    fn texts(conn: &mut Self::Connection, sql: String) -> impl Future<Output = anyhow::Result<Vec<String>>> + Send;
}

/// What is written alike for each database.
macro_rules! verbs {
    ($insert_own:literal) => {
        async fn write_own(conn: &mut Self::Connection, entry: &str) -> anyhow::Result<()> {
            sqlx::query($insert_own).bind(entry).execute(conn).await?;
            Ok(())
        }

        async fn run(conn: &mut Self::Connection, sql: String) -> anyhow::Result<()> {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(conn).await?;
            Ok(())
        }

        async fn numbers(conn: &mut Self::Connection, sql: String) -> anyhow::Result<Vec<i64>> {
            Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(conn).await?)
        }

        async fn texts(conn: &mut Self::Connection, sql: String) -> anyhow::Result<Vec<String>> {
            Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(conn).await?)
        }
    };
}
use verbs;

/// What two servers have in common.
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server {
    use std::time::{Duration, Instant};

    use anyhow::{Context, ensure};
    use sqlx::Pool;

    use super::{Home, Site};

    const NOTICED_WITHIN: Duration = Duration::from_secs(10);
    const LOOK_EVERY: Duration = Duration::from_millis(1);

    pub(super) fn url<DB: Site>() -> anyhow::Result<String> {
        let variable = DB::VARIABLE.context("a file needs no server")?;
        std::env::var(variable).context(variable)
    }

    /// Waits until the statement, which lists other sessions, lists none: what they did not commit is undone then.
    pub(super) async fn left_alone<DB: Site>(home: &Home<DB>, others: &str) -> anyhow::Result<Pool<DB>> {
        let (pool, began) = (home.pool.clone().context("no connection")?, Instant::now());
        loop {
            let there = DB::texts(&mut *pool.acquire().await?, others.to_owned()).await?;
            if there.is_empty() {
                return Ok(pool);
            }
            ensure!(
                began.elapsed() < NOTICED_WITHIN,
                "sessions of a process that was killed are still there: {there:?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Empties the tables, or makes them.
    pub(super) async fn start_over<DB: Site>(home: &Home<DB>, clear: &str, tables: &str) -> anyhow::Result<()> {
        let pool = home.pool.clone().context("no connection")?;
        if home.scenario.begins_without_tables() {
            return DB::run(&mut *pool.acquire().await?, clear.to_owned()).await;
        }
        let there = DB::texts(&mut *pool.acquire().await?, tables.to_owned()).await?;
        if there.is_empty() {
            home.fill(&pool).await?;
        } else {
            let empty: String = there.iter().map(|table| format!("DELETE FROM {table};\n")).collect();
            DB::run(&mut *pool.acquire().await?, format!("BEGIN; {empty}{clear}; COMMIT")).await?;
        }
        let desk = home.desk(pool)?;
        home.scenario.prepare(&desk).await
    }
}
