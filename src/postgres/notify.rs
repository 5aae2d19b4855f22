//! Waking dispatchers of other processes.

use std::io::ErrorKind;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgNotification};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::classify;
use crate::error::Result;
use crate::pool::ANSWER_WITHIN;
use crate::waker::OutboxWaker;

/// The channel of LISTEN and NOTIFY.
pub const NOTIFY_CHANNEL: &str = "saga_outbox";
/// Least time between two notifications of one process: many commits make one.
pub const NOTIFY_DEBOUNCE: Duration = Duration::from_millis(50);
/// After so long without a notification the connection for listening is asked whether it lives: a router may have forgotten it.
const ASK_AFTER: Duration = Duration::from_secs(30);
/// How long to wait when the connection for listening was lost.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Carries wake-ups between processes, by LISTEN and NOTIFY: when this process's [`OutboxWaker`] is woken, those of the
/// other processes on the same database are, too. Runs until it is dropped.
///
/// A notification is sent after the commit, by a statement of its own, at most one per [`NOTIFY_DEBOUNCE`]: a NOTIFY inside a
/// transaction would make all commits of the database queue behind one lock. One that is lost costs latency, never a
/// message: dispatchers poll.
#[derive(Debug)]
pub struct OutboxNotifier {
    /// Aborted with it.
    _tasks: JoinSet<()>,
}

impl OutboxNotifier {
    /// Listens, and notifies. Keeps one connection of the pool for as long as it runs. Needs a tokio runtime, and a
    /// connection to the server itself or through a pooler of sessions.
    ///
    /// # Errors
    /// The database's, if it cannot listen at once; later it reconnects by itself.
    pub async fn start(pool: &PgPool, waker: &OutboxWaker) -> Result<Self> {
        let origin = Uuid::now_v7().to_string();
        let listener = listen(pool).await.map_err(|error| classify("listening for wake-ups", error))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(receive(pool.clone(), listener, waker.clone(), origin.clone()));
        tasks.spawn(send(pool.clone(), waker.clone(), origin));
        Ok(Self { _tasks: tasks })
    }
}

async fn listen(pool: &PgPool) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(NOTIFY_CHANNEL).await?;
    Ok(listener)
}

async fn receive(pool: PgPool, mut listener: PgListener, waker: OutboxWaker, origin: String) {
    loop {
        match next(&mut listener).await {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Notification(notification)) if notification.payload() == origin => {}
            Ok(_) => waker.wake_for_another(),
            // Who closes the pool waits for this connection.
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                tracing::warn!(target: "sagastore", %error, "listening for wake-ups failed; it is tried again");
                tokio::time::sleep(RECONNECT_AFTER).await;
                if let Ok(again) = listen(&pool).await {
                    listener = again;
                    // Nor is known what was sent meanwhile.
                    waker.wake_for_another();
                }
            }
        }
    }
}

enum Heard {
    Notification(PgNotification),
    /// The connection was lost and made anew; what was sent meanwhile is not known.
    Lost,
    Nothing,
}

async fn next(listener: &mut PgListener) -> sqlx::Result<Heard> {
    match timeout(ASK_AFTER, listener.try_recv()).await {
        Ok(heard) => Ok(heard?.map_or(Heard::Lost, Heard::Notification)),
        Err(_) => {
            let asked = timeout(ANSWER_WITHIN, sqlx::raw_sql("SELECT 1").execute(listener)).await;
            asked.map_err(|_| sqlx::Error::Io(ErrorKind::TimedOut.into()))?.map(|_| Heard::Nothing)
        }
    }
}

/// Counts what is woken from the call on, and not only from when the task gets its turn.
fn send(pool: PgPool, waker: OutboxWaker, origin: String) -> impl Future<Output = ()> + Send {
    let mut wakes = waker.subscribe();
    let mut told = wakes.borrow_and_update().own;
    async move {
        // The waker lives as long as this task.
        let _waker = waker;
        while wakes.changed().await.is_ok() {
            let own = wakes.borrow_and_update().own;
            if own == told {
                continue;
            }
            told = own;
            let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(NOTIFY_CHANNEL).bind(&origin).execute(&pool);
            if let Err(error) = notify.await {
                tracing::warn!(target: "sagastore", %error, "other processes were not woken; they poll");
            }
            tokio::time::sleep(NOTIFY_DEBOUNCE).await;
        }
    }
}
