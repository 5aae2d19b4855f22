//! A connection with its channels.
//!
//! A channel has one message on its way at a time. The broker answers many messages on a channel with
//! one confirmation, and returns unroutable ones without saying by number which; the client hands a returned message to
//! whichever confirmation it completes next. With one message to a channel there is nothing to mistake.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::RabbitMqError;

/// AMQP's code for an end without a fault.
const FAREWELL: u16 = 200;
/// How long the broker may take to say farewell.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How often a connection that the broker has blocked is looked at.
const BLOCKED_POLL: Duration = Duration::from_millis(100);

pub(super) struct Session {
    connection: Arc<Connection>,
    turns: Semaphore,
    /// Channels without a message on its way.
    idle: Mutex<Vec<Channel>>,
    /// When the broker last confirmed something.
    heard: Mutex<Instant>,
    given_up: AtomicBool,
    /// Channels that were opened. One is opened anew only if the one before was lost.
    opened: AtomicUsize,
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
        let allowed = channels_allowed(&connection);
        Self {
            connection: Arc::new(connection),
            turns: Semaphore::new(channels.get().min(allowed).min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            given_up: AtomicBool::new(false),
            opened: AtomicUsize::new(0),
        }
    }

    /// True if the next batch may use it. The client gives each channel the next number, and for one that the broker has closed
    /// before it repeats the broker's words of then; so no number is used twice.
    pub(super) fn is_of_use(&self) -> bool {
        self.is_open() && self.opened.load(Ordering::Relaxed) < channels_allowed(&self.connection) / 2
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

    /// The broker takes nothing for now, as when it is short of memory. It says so after the first message that it does not take.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Waits for as long as the broker takes nothing. What is sent meanwhile would gather in memory.
    pub(super) async fn unblocked(&self) {
        while self.is_blocked() {
            tokio::time::sleep(BLOCKED_POLL).await;
        }
    }

    /// A message was not confirmed within this time. If nothing else was, the connection is of no use any more.
    pub(super) fn not_heard_for(&self, time: Duration) {
        if lock(&self.heard).elapsed() >= time {
            self.given_up.store(true, Ordering::Release);
        }
    }
}

/// Channels that broker and client agreed on; none stands for as many as there are numbers.
fn channels_allowed(connection: &Connection) -> usize {
    match connection.configuration().channel_max() {
        0 => usize::from(u16::MAX),
        most => usize::from(most),
    }
}

impl Drop for Session {
    /// Closes the connection, which channels that were lost would keep open.
    fn drop(&mut self) {
        let connection = Arc::clone(&self.connection);
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async move {
                // If the broker does not answer, it closes the connection when heartbeats are missing.
                let _ = tokio::time::timeout(CLOSE_WITHIN, connection.close(FAREWELL, "OK".into())).await;
            }));
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
        self.session.opened.fetch_add(1, Ordering::Relaxed);
        let open = async {
            let channel = self.session.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        open.await.map_err(|source| {
            self.session.given_up.store(true, Ordering::Release);
            RabbitMqError::Lost { source }
        })
    }

    /// The broker has answered; the channel can be used again. One that is not given back is closed.
    pub(super) fn done(&self, channel: Channel) {
        *lock(&self.session.heard) = Instant::now();
        lock(&self.session.idle).push(channel);
    }
}
