//! What a pool of connections needs beside its options.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::{Connection, MySqlConnection};

/// How long a connection may take to show that it is in order.
const IN_ORDER_WITHIN: Duration = Duration::from_secs(5);

/// For [`PoolOptions::after_release`](sqlx::pool::PoolOptions::after_release): lets a connection back into its
/// pool only if it is in order and in no transaction.
///
/// When a call on a connection is dropped half-way, as by a timeout around it, sqlx may wait for ever
/// for an answer that never comes, or leave a transaction open in which the next user's writes are
/// lost. Calls that take a pool guard against that by themselves; a transaction that the caller holds
/// needs this. It costs two round trips after the connection was given back.
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
        Ok(matches!(tokio::time::timeout(IN_ORDER_WITHIN, restore).await, Ok(Ok(_))))
    })
}
