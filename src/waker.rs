//! Telling dispatchers that there is something to relay.

use std::sync::Arc;

use tokio::sync::watch;

/// Wakes the dispatchers of this process, without any traffic to the database. Cheap to clone.
///
/// Only a hint: a dispatcher that is never woken finds everything by polling.
#[derive(Clone, Debug)]
pub struct OutboxWaker(Arc<watch::Sender<Wakes>>);

/// How often it was woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wakes {
    pub(crate) all: u64,
    /// By this process itself, and not because another said so.
    pub(crate) own: u64,
}

impl OutboxWaker {
    /// A waker that wakes nobody yet; see [`Dispatcher::with_waker`](crate::dispatcher::Dispatcher::with_waker).
    #[expect(clippy::new_without_default, reason = "every call gives another waker")]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Wakes::default())))
    }

    /// Says that messages may have been committed. Call it after a commit, never before.
    pub fn wake(&self) {
        self.0.send_modify(|wakes| *wakes = Wakes { all: wakes.all.wrapping_add(1), own: wakes.own.wrapping_add(1) });
    }

    /// As [`wake`](Self::wake), on behalf of another process.
    pub(crate) fn wake_for_another(&self) {
        self.0.send_modify(|wakes| wakes.all = wakes.all.wrapping_add(1));
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Wakes> {
        self.0.subscribe()
    }
}
