//! Connections as the library does well with.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::pool::{STATEMENT_CACHE, server_options};

/// Sets what this library does well with, for a program that connects with nothing of its own.
///
/// | setting | why |
/// |---|---|
/// | `default_transaction_isolation` read committed | above it a lost race aborts the transaction. It is the server's default, unless the database or the role has another |
/// | `idle_in_transaction_session_timeout` one minute | a transaction that its holder forgot keeps streams locked, holds up readers of the global order, and keeps dead rows from being vacuumed; the server ends it, and its holder is told [`Error::Timeout`](crate::Error::Timeout) or [`Error::Disconnected`](crate::Error::Disconnected) |
/// | statement cache [`STATEMENT_CACHE`] | no statement is parsed twice |
///
/// Address, role and TLS stay as they are given. Leave this function out behind a pooler of transactions, which takes no settings of a
/// session. Such a pooler must keep apart whose prepared statements are whose, as PgBouncer does from 1.21 on if
/// `max_prepared_statements` is not 0, but not before: it would run the statement of one client in place of another's.
/// `statement_cache_capacity(0)` does not help there, because sqlx 0.9 then still gives each statement a name, and never closes it:
/// each call leaves up to 70 KiB in the memory of the server.
///
/// ```no_run
/// # async fn f() -> sqlx::Result<()> {
/// use sagastore::postgres;
///
/// let server = "postgres://localhost/shop".parse()?;
/// let pool = postgres::pool_options().connect_with(postgres::connect_options(server)).await?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn connect_options(options: PgConnectOptions) -> PgConnectOptions {
    options
        .options([("default_transaction_isolation", "read committed"), ("idle_in_transaction_session_timeout", "60s")])
        .statement_cache_capacity(STATEMENT_CACHE)
}

/// A pool as this library does well with.
///
/// It has the numbers of the module [`pool`](crate::pool). A connection that the server closed, or that the network lost, is replaced
/// unseen if nobody used it for [`TEST_AFTER_IDLE`](crate::pool::TEST_AFTER_IDLE). The first call on one that was lost in less time
/// fails with [`Error::Disconnected`](crate::Error::Disconnected), which is transient, and the pool drops that connection: after a restart
/// of the server at most one call for each connection. Those who must not see that set `test_before_acquire(true)`, for one
/// round trip more with each call; a connection can still be lost in the middle of it.
#[must_use]
pub fn pool_options() -> PgPoolOptions {
    server_options()
}
