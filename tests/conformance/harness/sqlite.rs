//! SQLite: a file in a folder of its own, or in memory.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Pool, Sqlite};

use super::mode::{Kind, Mode};
use super::subject::{Home, Subject, TextRow, as_text, raw_sql_verbs};

/// How long a writer waits for another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an operation waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(90);

fn options(folder: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(folder.join("sagas.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
}

impl Subject for Sqlite {
    const KIND: Kind = Kind::Sqlite;

    const COUNT_FAST_LANE: &'static str =
        "SELECT COALESCE(SUM(message_count), 0) FROM saga_commit WHERE undelivered IS NOT NULL";

    async fn create(mode: Mode, _: String) -> anyhow::Result<Home<Self>> {
        if mode == Mode::SqliteMemory {
            let options = "sqlite::memory:".parse()?;
            return Ok(Home { mode, options, name: String::new(), folder: None });
        }
        let folder = tempfile::tempdir()?;
        Ok(Home { mode, options: options(folder.path()), name: String::new(), folder: Some(folder) })
    }

    async fn connect(home: &Home<Self>, connections: u32) -> anyhow::Result<Pool<Self>> {
        let in_memory = home.mode == Mode::SqliteMemory;
        let options = SqlitePoolOptions::new()
            .max_connections(if in_memory { 1 } else { connections })
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // In memory, a call that is dropped while its connection is tested would close the database.
            .test_before_acquire(!in_memory)
            .idle_timeout(None)
            .max_lifetime(None);
        Ok(options.connect_with(home.options.clone()).await?)
    }

    async fn connect_by(_: &Home<Self>, _: u16, _: u32) -> anyhow::Result<Pool<Self>> {
        anyhow::bail!("SQLite has no server")
    }

    fn advised(options: SqliteConnectOptions) -> (SqliteConnectOptions, SqlitePoolOptions) {
        (sagastore::sqlite::connect_options(options), sagastore::sqlite::pool_options())
    }

    fn port(_: &Home<Self>) -> u16 {
        0
    }

    fn address(home: &Home<Self>) -> String {
        home.folder.as_ref().map(|folder| folder.path().display().to_string()).unwrap_or_default()
    }

    fn at_address(address: &str) -> anyhow::Result<Home<Self>> {
        let options = options(Path::new(address));
        Ok(Home { mode: Mode::SqliteFile, options, name: String::new(), folder: None })
    }

    async fn connect_restricted(_: &Home<Self>) -> anyhow::Result<Pool<Self>> {
        anyhow::bail!("SQLite has no roles")
    }

    async fn cut_connections(_: &Home<Self>) -> anyhow::Result<()> {
        anyhow::bail!("SQLite has no server")
    }

    async fn remove(_: &Home<Self>) -> anyhow::Result<()> {
        Ok(())
    }

    async fn leftovers(home: &Home<Self>, pool: &Pool<Self>) -> anyhow::Result<Vec<String>> {
        let lock = "BEGIN IMMEDIATE; ROLLBACK".to_owned();
        let done = if home.mode == Mode::SqliteMemory {
            Self::execute(&mut *pool.acquire().await?, lock).await
        } else {
            let mut conn = home.options.clone().busy_timeout(Duration::ZERO).connect().await?;
            let done = Self::execute(&mut conn, lock).await;
            conn.close().await?;
            done
        };
        Ok(done.err().map(|fault| format!("a transaction is still open: {fault}")).into_iter().collect())
    }

    raw_sql_verbs!();

    fn bytes(bytes: &[u8]) -> String {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("x'{digits}'")
    }
}

as_text!(SqliteRow);
