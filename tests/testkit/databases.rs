//! Databases of a test's own.

#[cfg(any(feature = "postgres", feature = "mysql"))]
use std::io::Write;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Pool, Sqlite};
use tempfile::TempDir;

/// How many connections a pool has.
const CONNECTIONS: u32 = 8;

/// A file in a folder that is gone with the folder's guard.
pub(crate) async fn sqlite() -> (TempDir, Pool<Sqlite>) {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("sagas.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(20));
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.unwrap();
    (folder, pool)
}

pub(crate) async fn sqlite_in_memory() -> Pool<Sqlite> {
    let options = SqlitePoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    options.connect("sqlite::memory:").await.unwrap()
}

/// A database on a server, with the pool of its owner.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) struct OnServer<DB: sqlx::Database> {
    pub(crate) pool: Pool<DB>,
    owner: Pool<DB>,
    name: String,
}

/// Not by print!, which is not seen of a test that passes.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn say_not_run(database: &str, why: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "not run: {database} ({why})").unwrap();
}

/// The URL of a server; a sentence on standard output if there is none.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn url(variable: &str, database: &str) -> Option<String> {
    let only = std::env::var("SAGASTORE_TEST_ONLY").unwrap_or_default();
    let only: Vec<_> = only.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let is_asked_for = only.contains(&database);
    if !only.is_empty() && !is_asked_for {
        say_not_run(database, "SAGASTORE_TEST_ONLY does not name it");
        return None;
    }
    let url = std::env::var(variable).ok();
    assert!(url.is_some() || !is_asked_for, "SAGASTORE_TEST_ONLY names {database}, and {variable} is not set");
    if url.is_none() {
        say_not_run(database, &format!("{variable} is not set"));
    }
    url
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn name() -> String {
    format!("testkit_{}", sagastore::MessageId::new().as_uuid().simple())
}

#[cfg(feature = "postgres")]
pub(crate) async fn postgres() -> Option<OnServer<sqlx::Postgres>> {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
    let options: PgConnectOptions = url("SAGASTORE_TEST_POSTGRES_URL", "postgres")?.parse().unwrap();
    let owner = PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap();
    let name = name();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"))).execute(&owner).await.unwrap();
    let options = options.options([("search_path", &name)]);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.unwrap();
    Some(OnServer { pool, owner, name })
}

#[cfg(feature = "postgres")]
impl OnServer<sqlx::Postgres> {
    pub(crate) async fn remove(self) {
        self.pool.close().await;
        let drop = format!("DROP SCHEMA {} CASCADE", self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&self.owner).await.unwrap();
    }
}

#[cfg(feature = "mysql")]
pub(crate) async fn mysql() -> Option<OnServer<sqlx::MySql>> {
    use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
    let options: MySqlConnectOptions = url("SAGASTORE_TEST_MYSQL_URL", "mysql")?.parse().unwrap();
    let owner = MySqlPoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap();
    let name = name();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&owner).await.unwrap();
    let options = options.database(&name);
    let pool = MySqlPoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await.unwrap();
    Some(OnServer { pool, owner, name })
}

#[cfg(feature = "mysql")]
impl OnServer<sqlx::MySql> {
    pub(crate) async fn remove(self) {
        self.pool.close().await;
        let drop = format!("DROP DATABASE {}", self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&self.owner).await.unwrap();
    }
}
