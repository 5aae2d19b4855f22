//! Connections as the library does well with.

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::pool::{ACQUIRE_TIMEOUT, LOCK_WAIT, STATEMENT_CACHE};

/// Connections of a pool on one file. SQLite has one writer at a time: beyond a few connections more gain little.
pub const FILE_CONNECTIONS: u32 = 4;

/// Sets what this library does well with, for a program that opens its file with nothing of its own.
///
/// | setting | why |
/// |---|---|
/// | `journal_mode` WAL | readers and the writer do not wait for each other, and a commit is one flush. It stays with the file. A file of another mode is converted when it is opened, which needs it for itself, and fails if it may only be read |
/// | `synchronous` FULL | what was committed survives a power cut. NORMAL is faster, and loses the newest commits then: a message that was acknowledged is not handled, one that was sent is sent again |
/// | `busy_timeout` [`LOCK_WAIT`] | a writer waits for its turn, and is told [`Error::Contention`](crate::Error::Contention) after it |
/// | `foreign_keys` on | is sqlx's default; the library's tables have none, the program's may |
/// | statement cache [`STATEMENT_CACHE`] | no statement is parsed twice |
///
/// The size of pages and of the page cache, and memory mapping, stay SQLite's.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> sqlx::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// use sagastore::sqlite;
/// use sqlx::sqlite::SqliteConnectOptions;
///
/// let file = SqliteConnectOptions::new().filename("cards.db").create_if_missing(true);
/// # let file = file.filename(folder.path().join("cards.db"));
/// let pool = sqlite::pool_options().connect_with(sqlite::connect_options(file)).await?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn connect_options(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(LOCK_WAIT)
        .foreign_keys(true)
        .statement_cache_capacity(STATEMENT_CACHE)
}

/// A pool as this library does well with.
///
/// It has [`FILE_CONNECTIONS`] and [`ACQUIRE_TIMEOUT`]. Connections are kept for as long as the pool, and not tested: no network
/// can have cut them.
///
/// A database in memory needs all that too, and lives in one connection:
/// `sqlite::pool_options().max_connections(1).connect("sqlite::memory:")`.
#[must_use]
pub fn pool_options() -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(FILE_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}
