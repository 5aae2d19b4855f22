//! Connections as the library does well with.

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use crate::pool::{ACQUIRE_TIMEOUT, LOCK_WAIT, STATEMENT_CACHE};

/// Connections of a pool on one file. SQLite has one writer at a time: beyond a few connections more gain little.
pub const FILE_CONNECTIONS: u32 = 4;

/// Sets what this library does well with, for a program that opens its file with nothing of its own.
///
/// | setting | why |
/// |---|---|
/// | `journal_mode` WAL | readers and the writer do not wait for each other, and a commit is one flush. It stays with the file. A file of another mode is converted when it is opened, which needs it for itself, and fails if it may only be read |
/// | `synchronous` FULL | what was committed survives a power cut. NORMAL is faster, and loses the newest commits then: a message that was acknowledged is not handled, one that was sent is sent again |
/// | `busy_timeout` [`LOCK_WAIT`] | a writer waits for its turn, and is told [`Error::Contention`](crate::Error::Contention) after it: a call that has waited is not tried again, but for [`unlock`](crate::lock::resource::ResourceLocker::unlock), which goes on until its lock expires. With none, two writers at once are enough for that error |
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
        .after_release(after_release)
}

/// For [`PoolOptions::after_release`](sqlx::pool::PoolOptions::after_release): lets a connection back into its pool only if a
/// transaction can be begun on it.
///
/// When the disk is full or cannot be written, SQLite ends the transaction by itself. sqlx does not learn of it, and begins no
/// other on this connection. Costs nothing after a commit, and a look after a rollback.
///
/// [`pool_options`] has it. In other pools the library closes such a connection when it comes across it, unless it is the only one;
/// a program that begins transactions by sqlx itself needs this.
pub fn after_release(conn: &mut SqliteConnection, _: PoolConnectionMetadata) -> BoxFuture<'_, sqlx::Result<bool>> {
    Box::pin(async move {
        if !conn.is_in_transaction() {
            return Ok(true);
        }
        // A rollback may be under way.
        conn.ping().await?;
        if conn.is_in_transaction() {
            // Now there is a transaction again, which is rolled back when another one cannot be begun.
            sqlx::raw_sql("BEGIN").execute(&mut *conn).await?;
            drop(conn.begin_with("BEGIN").await);
            conn.ping().await?;
        }
        Ok(!conn.is_in_transaction())
    })
}
