//! Once per message for handlers without a saga: what they handled is remembered in their own transaction.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::{Database, Pool, Transaction};

use crate::backend::Backend;
use crate::error::Result;
use crate::guarded_connection::GuardedConnection;
use crate::ids::{MessageId, check_name};
use crate::lock::tables::LeaseTables;

/// Longest name of an inbox's consumer, in bytes.
pub const MAX_INBOX_CONSUMER_BYTES: usize = 255;
/// How long messages should be remembered unless there is a reason for another time: longer than any broker goes on
/// delivering a message again.
pub const DEFAULT_INBOX_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many messages one step of [`Inbox::forget`] deletes, in a transaction of its own.
pub const INBOX_FORGET_STEP: u32 = 1_000;

/// Whether a message comes for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Receipt {
    /// It was not handled before: handle it now.
    First,
    /// It was handled before: there is nothing to do.
    Repeated,
}

impl Receipt {
    /// True if the message was handled before.
    pub fn is_repeated(self) -> bool {
        self == Self::Repeated
    }
}

/// The statements of a database.
#[async_trait]
pub trait InboxTables<DB: Database>: Send + Sync {
    /// Notes that a message is handled; false if that was noted before.
    async fn note_handled(&self, tx: &mut Transaction<'_, DB>, consumer: &str, message: MessageId) -> Result<bool>;

    /// True if it was noted that a message is handled.
    async fn is_handled(&self, conn: &mut DB::Connection, consumer: &str, message: MessageId) -> Result<bool>;

    /// Forgets what was handled longer than `retention` ago, at most `limit` messages; says how many.
    async fn forget_handled(
        &self,
        conn: &mut DB::Connection,
        consumer: &str,
        retention: Duration,
        limit: u32,
    ) -> Result<u64>;
}

/// Remembers which messages a handler that is no saga has handled, each a row of `saga_inbox`. Sagas do not need it:
/// [`Persister::begin_handling`](crate::Persister::begin_handling) remembers for the instance's whole life.
///
/// ```
/// # use sagastore::{Inbox, MessageId, migrate};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
/// # let _ = migrate(&pool).await?;
/// # sqlx::query("CREATE TABLE stock (item TEXT, count INTEGER)").execute(&pool).await?;
/// let inbox = Inbox::new("stock-keeper")?;
/// let message = MessageId::new(); // of the message that came in
/// for _ in 0..2 {
///     let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
///     if !inbox.receive(&mut tx, message).await?.is_repeated() {
///         sqlx::query("INSERT INTO stock VALUES ('book', -1)").execute(&mut *tx).await?;
///     }
///     tx.commit().await?;
/// }
/// let sold: i64 = sqlx::query_scalar("SELECT SUM(count) FROM stock").fetch_one(&pool).await?;
/// assert_eq!(sold, -1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    consumer: String,
}

impl Inbox {
    /// The inbox of a consumer. Each consumer handles a message once for itself; processes that share the work of one
    /// share its name.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if the name is empty, holds NUL, or is longer than
    /// [`MAX_INBOX_CONSUMER_BYTES`].
    pub fn new(consumer: impl Into<String>) -> Result<Self> {
        let consumer = consumer.into();
        check_name("name of a consumer", &consumer, MAX_INBOX_CONSUMER_BYTES)?;
        Ok(Self { consumer })
    }

    /// Notes in the caller's transaction that this message is handled, and says whether it was handled before. It counts
    /// as handled once the transaction is committed; rolled back, it was never received.
    ///
    /// While another transaction handles the same message this waits for its end, so that of several who are given one
    /// message at once one handles it. After [`Receipt::Repeated`] the transaction can be used as before.
    ///
    /// # Errors
    /// [`Error::Contention`](crate::Error::Contention) if the database refused to wait (a deadlock, a busy file): roll
    /// back and try again. Any other of the database's.
    pub async fn receive<DB: Backend>(&self, tx: &mut Transaction<'_, DB>, message: MessageId) -> Result<Receipt> {
        let first = DB::Store::default().note_handled(tx, &self.consumer, message).await?;
        Ok(if first { Receipt::First } else { Receipt::Repeated })
    }

    /// Says whether a message was handled before, without noting anything.
    ///
    /// # Errors
    /// The database's.
    pub async fn has_received<DB: Backend>(&self, conn: &mut DB::Connection, message: MessageId) -> Result<bool> {
        DB::Store::default().is_handled(conn, &self.consumer, message).await
    }

    /// Forgets what was handled longer than `retention` ago by the database's clock, in steps of [`INBOX_FORGET_STEP`],
    /// each a transaction of its own; says how many messages that were. A message that comes again after it was forgotten
    /// is handled again. What becomes so old meanwhile is left to the next call. May be dropped half-way, and called by several at once.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget<DB: Backend>(&self, pool: &Pool<DB>, retention: Duration) -> Result<u64> {
        let (store, mut forgotten) = (DB::Store::default(), 0);
        loop {
            let begun = Instant::now();
            // Given back after each step: it may be the pool's only one.
            let mut conn = GuardedConnection::take(pool, &store, "taking a connection for an inbox").await?;
            let step = store.forget_handled(&mut conn, &self.consumer, retention, INBOX_FORGET_STEP).await;
            conn.release();
            let some = step?;
            forgotten += some;
            // What becomes too old meanwhile is left to the next call, lest this one go on for ever.
            if some < u64::from(INBOX_FORGET_STEP) {
                return Ok(forgotten);
            }
            store.let_others_write(begun).await;
        }
    }
}
