//! Locks that live as long as a connection: PostgreSQL's advisory locks, by scopes.
//!
//! For work that one process at a time may do and that takes as long as it takes: there is no
//! expiry to renew. PostgreSQL only; elsewhere, and through poolers that give each transaction
//! another session, use a [lease](crate::lock).
//!
//! ```no_run
//! use sagastore::postgres::session::{SessionLockKey, SessionLocker, SessionLockerConfig};
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let options = "postgres://shop@localhost/shop".parse()?;
//! let locker = SessionLocker::new(SessionLockerConfig::new(options));
//! locker.start().await?;
//!
//! let key = SessionLockKey::new(["invoices", "customer 17"])?;
//! let mut lock = locker.lock(&key).await?;
//! let mut tx = pool.begin().await?;
//! lock.fence(&mut tx).await?;
//! // ... write ...
//! tx.commit().await?;
//! lock.release().await?;
//!
//! locker.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//! * At most one locker holds a key. A locker is one owner: what it holds it is granted again, and
//!   another gets it after as many releases. [Transactions](TransactionLocker) lock the same keys.
//! * `try_lock` never waits, and a waiting `lock` never delays other calls. Whoever waits is served
//!   in order, as soon as the key is free.
//! * A `lock` that is dropped or runs into the timeout leaves no lock and no wait behind. Its
//!   connection is ended at the server, which notes that in its log.
//! * [`close`](SessionLocker::close), and dropping all handles and releasers, end all tasks and connections.
//!
//! # Connections
//! A locker has one connection of its own, on which free keys are locked, and opens one more, up to
//! [a limit](SessionLockerConfig::with_max_waiters), for each key that it has to wait for. That one
//! also holds the key until it is released, and is kept for [`WAITER_KEPT`] after that. Every
//! statement checks that it still reaches the same session of the server. Locks exclude within one
//! *database*: all lockers must connect to the same one.
//!
//! # Loss
//! When a connection dies, the server frees what it held, at once or as soon as it notices: within
//! about half a minute where the platform allows. The holder learns of it by
//! [`Releaser::lost`], within the heartbeat and [`ANSWER_TIMEOUT`]. The time between is why writes
//! are to be [fenced](Releaser::fence). If the main connection dies, the whole locker is lost, with
//! all its locks: its calls fail with [`Error::LockLost`](crate::Error::LockLost). To go on, stop
//! what the locks protect and start a new locker.
//!
//! # What it does not do
//! The server sees no deadlock between lockers that wait for each other's keys, since they wait on
//! other sessions than those that hold. Lock several keys in one order, or set a
//! [lock timeout](SessionLockerConfig::with_lock_timeout). A locker that releases a key and locks it
//! again while a transaction of its own that was fenced by it is open waits for that transaction.
//! Whether a pooler is in between can only be guessed: some are seen at the start, others when they
//! first give another session.

mod config;
mod coordinator;
mod fence;
mod key;
mod locker;
mod messages;
mod pooler;
mod releaser;
mod server_session;
mod table;
mod task;
mod transaction;

pub use config::{
    DEFAULT_APPLICATION_NAME, DEFAULT_HEARTBEAT, DEFAULT_MAX_WAITERS, MAX_APPLICATION_NAME_BYTES, MAX_HEARTBEAT,
    MIN_HEARTBEAT, SessionLockerConfig,
};
pub use coordinator::{CLOSE_TIMEOUT, WAITER_KEPT};
pub use key::SessionLockKey;
pub use locker::SessionLocker;
pub use releaser::Releaser;
pub use server_session::ANSWER_TIMEOUT;
pub use transaction::TransactionLocker;

use crate::error::Result;

/// An advisory key that no other session has.
fn identity() -> Result<i64> {
    Ok(SessionLockKey::new(["identity of a session", &uuid::Uuid::now_v7().to_string()])?.advisory_key())
}
