//! The way to the broker: one session at a time, made anew when it is lost.

use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use lapin::Connection;

use super::{RabbitMqError, Session};

/// How long an attempt to connect goes on for the batches that follow before another one is begun. A broker that takes
/// connections and does not answer on them costs a socket and a thread for each attempt, until it answers or is gone.
pub const ABANDON_CONNECTING_AFTER: Duration = Duration::from_secs(60);

type Connect = dyn Fn() -> BoxFuture<'static, lapin::Result<Connection>> + Send + Sync;
type Connecting = Shared<BoxFuture<'static, Result<Arc<Session>, RabbitMqError>>>;

pub(super) struct Link {
    connect: Arc<Connect>,
    channels: NonZeroUsize,
    current: Mutex<Option<Attempt>>,
}

/// An attempt to connect, under way or done.
struct Attempt {
    began: Instant,
    outcome: Connecting,
}

impl Attempt {
    fn is_of_use(&self) -> bool {
        match self.outcome.peek() {
            Some(Ok(session)) => session.is_of_use(),
            Some(Err(_)) => false,
            None => self.began.elapsed() < ABANDON_CONNECTING_AFTER,
        }
    }
}

impl Link {
    pub(super) fn new<F, Fut>(connect: F, channels: NonZeroUsize) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = lapin::Result<Connection>> + Send + 'static,
    {
        Self { connect: Arc::new(move || connect().boxed()), channels, current: Mutex::new(None) }
    }

    /// The same way, with no session yet.
    pub(super) fn with_channels(&self, channels: NonZeroUsize) -> Self {
        Self { connect: Arc::clone(&self.connect), channels, current: Mutex::new(None) }
    }

    /// The open session, or a new one within this time.
    pub(super) async fn session(&self, within: Duration) -> Result<Arc<Session>, RabbitMqError> {
        let outcome = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let attempt = match current.take() {
                Some(attempt) if attempt.is_of_use() => attempt,
                _ => self.attempt(),
            };
            current.insert(attempt).outcome.clone()
        };
        tokio::time::timeout(within, outcome).await.unwrap_or(Err(RabbitMqError::ConnectTimeout { after: within }))
    }

    /// Begins to connect in a task of its own, so that nobody who ceases to wait ends it for the others.
    fn attempt(&self) -> Attempt {
        let (connect, channels) = (Arc::clone(&self.connect), self.channels);
        let outcome = async move {
            let connected = AssertUnwindSafe(async { connect().await }).catch_unwind().await;
            let connection = connected.map_err(|_| RabbitMqError::ConnectPanicked)?;
            let connection = connection.map_err(|source| RabbitMqError::Connect { source })?;
            Ok(Arc::new(Session::new(connection, channels)))
        };
        let outcome = outcome.boxed().shared();
        tokio::spawn(outcome.clone());
        Attempt { began: Instant::now(), outcome }
    }
}
