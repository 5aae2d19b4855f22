//! Connections as the library does well with.

use futures_util::future::BoxFuture;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolConnectionMetadata;
use sqlx::{Connection, MySqlConnection};

use crate::pool::{ANSWER_WITHIN, STATEMENT_CACHE, server_options};

/// Sets what this library does well with, for a program that connects with nothing of its own.
///
/// | setting | why |
/// |---|---|
/// | `time_zone` UTC | is sqlx's default; the library's times do not depend on it, those that the program writes may |
/// | character set utf8mb4 | is sqlx's default; any text can be stored |
/// | statement cache [`STATEMENT_CACHE`] | no statement is parsed twice. The server counts them over all connections, up to its `max_prepared_stmt_count`, 16,382 by default |
///
/// What else a session needs is set by [`pool_options`]. Address, user and TLS stay as they are given.
///
/// ```no_run
/// # async fn f() -> sqlx::Result<()> {
/// use sagastore::mysql;
///
/// let server = "mysql://localhost/shop".parse()?;
/// let pool = mysql::pool_options().connect_with(mysql::connect_options(server)).await?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn connect_options(options: MySqlConnectOptions) -> MySqlConnectOptions {
    options.timezone(Some("+00:00".to_owned())).charset("utf8mb4").statement_cache_capacity(STATEMENT_CACHE)
}

/// A pool as this library does well with.
///
/// It has the numbers of the module [`pool`](crate::pool), [`after_release`], and sets in each session:
///
/// | setting | why |
/// |---|---|
/// | isolation READ COMMITTED | for transactions that the program begins by itself, see [`MySqlStore`](super::MySqlStore) |
/// | `autocommit` on | a statement outside a transaction is done when it is answered, also where the server's default is another |
/// | `sql_mode` with STRICT_ALL_TABLES | what does not fit into a column is refused, and not cut; the server's other modes stay |
/// | `innodb_lock_wait_timeout` [`LOCK_WAIT`](crate::pool::LOCK_WAIT) | a writer who waits longer for a row is told [`Error::Timeout`](crate::Error::Timeout); the server's default is 50 seconds |
///
/// A connection that the server closed, or that the network lost, is replaced unseen if nobody used it for
/// [`TEST_AFTER_IDLE`](crate::pool::TEST_AFTER_IDLE). The first call on one that was lost in less time fails with
/// [`Error::Disconnected`](crate::Error::Disconnected), which is transient, and the pool drops that connection: after a restart of
/// the server at most one call for each connection. Those who must not see that set `test_before_acquire(true)`, for one
/// round trip more with each call; a connection can still be lost in the middle of it.
#[must_use]
pub fn pool_options() -> MySqlPoolOptions {
    server_options().after_connect(after_connect).after_release(after_release)
}

fn after_connect(conn: &mut MySqlConnection, _: PoolConnectionMetadata) -> BoxFuture<'_, sqlx::Result<()>> {
    let sql = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
        SET SESSION
            autocommit = 1,
            sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'),
            innodb_lock_wait_timeout = 10";
    Box::pin(async move { sqlx::raw_sql(sql).execute(conn).await.map(drop) })
}

/// For [`PoolOptions::after_release`](sqlx::pool::PoolOptions::after_release): lets a connection back into its
/// pool only if it is in order and in no transaction.
///
/// When a call on a connection is dropped half-way, as by a timeout around it, sqlx may wait for ever
/// for an answer that never comes, or leave a transaction open in which the next user's writes are
/// lost. Calls that take a pool guard against that by themselves; a transaction that the caller holds
/// needs this. It costs two round trips after the connection was given back.
///
/// [`pool_options`] has it.
///
/// ```no_run
/// # async fn f() -> sqlx::Result<()> {
/// let options = sqlx::mysql::MySqlPoolOptions::new().after_release(sagastore::mysql::after_release);
/// let pool = options.connect("mysql://localhost/shop").await?;
/// # Ok(()) }
/// ```
pub fn after_release(conn: &mut MySqlConnection, _: PoolConnectionMetadata) -> BoxFuture<'_, sqlx::Result<bool>> {
    Box::pin(async move {
        let restore = async {
            // First, since its answer cannot be taken for that of an earlier statement.
            conn.ping().await?;
            sqlx::raw_sql("ROLLBACK").execute(conn).await
        };
        Ok(matches!(tokio::time::timeout(ANSWER_WITHIN, restore).await, Ok(Ok(_))))
    })
}
