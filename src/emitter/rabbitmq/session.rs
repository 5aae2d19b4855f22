//! A connection with its channels.
//!
//! A channel has one message on its way at a time. The broker answers many messages on a channel with
//! one confirmation, and returns unroutable ones without saying by number which; the client hands a returned message to
//! whichever confirmation it completes next. With one message to a channel there is nothing to mistake.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::RabbitMqError;

pub(super) struct Session {
    connection: Connection,
    turns: Semaphore,
    /// Channels without a message on its way.
    idle: Mutex<Vec<Channel>>,
    /// When the broker last confirmed something.
    heard: Mutex<Instant>,
    given_up: AtomicBool,
}

/// The right to have one message on its way.
pub(super) struct Turn<'a> {
    session: &'a Session,
    _permit: SemaphorePermit<'a>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub(super) fn new(connection: Connection, channels: NonZeroUsize) -> Self {
        Self {
            connection,
            turns: Semaphore::new(channels.get().min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            given_up: AtomicBool::new(false),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected() && !self.given_up.load(Ordering::Acquire)
    }

    /// Largest frame, in bytes.
    pub(super) fn frame_max(&self) -> u32 {
        self.connection.configuration().frame_max()
    }

    pub(super) async fn turn(&self) -> Result<Turn<'_>, RabbitMqError> {
        let permit = self.turns.acquire().await.map_err(|_| RabbitMqError::GivenUp)?;
        if self.is_open() { Ok(Turn { session: self, _permit: permit }) } else { Err(RabbitMqError::GivenUp) }
    }

    /// A message was not confirmed within this time. If nothing else was, the connection is of no use any more.
    pub(super) fn not_heard_for(&self, time: Duration) {
        if lock(&self.heard).elapsed() >= time {
            self.given_up.store(true, Ordering::Release);
        }
    }
}

impl Turn<'_> {
    /// A channel with nothing on its way, for this message alone.
    pub(super) async fn channel(&self) -> Result<Channel, RabbitMqError> {
        let idle = lock(&self.session.idle).pop();
        if let Some(channel) = idle.filter(|channel| channel.status().connected()) {
            return Ok(channel);
        }
        let open = async {
            let channel = self.session.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        open.await.map_err(|source| RabbitMqError::Lost { source })
    }

    /// The broker has answered; the channel can be used again. One that is not given back is closed.
    pub(super) fn done(&self, channel: Channel) {
        *lock(&self.session.heard) = Instant::now();
        lock(&self.session.idle).push(channel);
    }
}
