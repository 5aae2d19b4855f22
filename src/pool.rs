//! What pools of connections are set to by [`sqlite::pool_options`](crate::sqlite::pool_options) and its like for
//! PostgreSQL and MySQL, for programs that have no habits of their own.
//!
//! None of it is needed: the library works with any pool of sqlx's. Whatever is set after these functions wins.

#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "mysql")),
    allow(dead_code, rustdoc::broken_intra_doc_links, reason = "a build may have any of the databases")
)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::{PoolConnection, PoolConnectionMetadata, PoolOptions};
use sqlx::{Connection, Database, Pool};

/// How long a writer waits for another one, on SQLite for the file and on MySQL for a row. PostgreSQL has no such bound here,
/// because it would also cut off a process that waits until another one has migrated the tables.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long a call waits for a connection. Longer than [`LOCK_WAIT`], so that a writer who is held up is told so, and
/// not that the pool is empty.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connections of a pool on a server. A few processes with as many fit into the 100 that PostgreSQL, and the 151 that MySQL
/// and MariaDB allow by default; more help only while the server has idle cores.
pub const SERVER_CONNECTIONS: u32 = 10;

/// A connection to a server that was not used for this long is closed. sqlx looks as often as that, so it is gone after about
/// twice the time: routers of cloud providers forget a connection without a word after 4 to 6 minutes.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// A connection to a server is replaced at this age, so that the memory that it took there is freed, and a server that was added
/// gets its share.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// A connection to a server that was not used for this long is asked whether it lives before it is used again. One
/// that was used more recently is not, because that would be a round trip for each call. When sqlx looks for connections to
/// close, each [`IDLE_TIMEOUT`], it counts anew: for this long after it none is asked.
pub const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);

/// How long a connection may take to show that it is in order.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Statements that a connection keeps prepared: room for all of the library's, about a hundred, and as many of the program's.
pub const STATEMENT_CACHE: usize = 200;

/// True for clones of one pool, which share its options.
pub(crate) fn is_same<DB: Database>(one: &Pool<DB>, other: &Pool<DB>) -> bool {
    Arc::ptr_eq(&one.connect_options(), &other.connect_options())
}

/// A connection of the pool that is in no transaction.
///
/// SQLite ends a transaction by itself when the disk is full or cannot be written. sqlx does not learn of it, believes for ever
/// that the connection is in that transaction, and begins no other. Such a connection is closed, unless it is the only one,
/// in which a database in memory may live.
pub(crate) async fn take<DB: Database>(pool: &Pool<DB>) -> sqlx::Result<PoolConnection<DB>> {
    loop {
        let mut conn = pool.acquire().await?;
        if !conn.is_in_transaction() || !has_others(pool) {
            return Ok(conn);
        }
        conn.close_on_drop();
    }
}

/// False for a pool of a single connection, in which a database in memory may live.
pub(crate) fn has_others<DB: Database>(pool: &Pool<DB>) -> bool {
    pool.options().get_max_connections() > 1
}

/// Closes the idle connections that [`take`] would not give.
pub(crate) async fn weed<DB: Database>(pool: &Pool<DB>) -> sqlx::Result<()> {
    // The one that was idle for longest comes first.
    for _ in 0..pool.size() {
        drop(take(pool).await?);
    }
    Ok(())
}

/// For a server.
pub(crate) fn server_options<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(SERVER_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
        .test_before_acquire(false)
        .before_acquire(answers)
}

/// Asks a connection that was idle for long whether it lives.
fn answers<C: Connection>(conn: &mut C, met: PoolConnectionMetadata) -> BoxFuture<'_, sqlx::Result<bool>> {
    Box::pin(async move {
        if met.idle_for < TEST_AFTER_IDLE {
            return Ok(true);
        }
        let answer = tokio::time::timeout(ANSWER_WITHIN, conn.ping()).await;
        // An error, unlike a `false`, has the connection dropped without a farewell for which it might keep us waiting.
        answer.map_err(|_| sqlx::Error::Io(ErrorKind::TimedOut.into()))?.map(|()| true)
    })
}
