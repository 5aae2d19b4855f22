//! The handle of a locker.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::config::SessionLockerConfig;
use super::key::SessionLockKey;
use super::messages::{Caller, End, EndWatch, Message, gone};
use super::releaser::Releaser;
use super::server_session::{ServerSession, connect};
use super::{coordinator, identity, pooler};
use crate::error::{Error, Result};

/// Locks keys for as long as its connections live. Cheap to clone; clones are the same locker.
///
/// A locker is one owner: a key that it holds is granted again at once, to whichever task asks, and
/// is free after as many releases. Tasks that are to exclude each other need a locker each.
///
/// See the [module](super) for what it promises.
#[derive(Clone)]
pub struct SessionLocker(Arc<Shared>);

struct Shared {
    config: SessionLockerConfig,
    /// One `start` or `close` at a time.
    changing: tokio::sync::Mutex<()>,
    phase: Mutex<Phase>,
    next_caller: AtomicU64,
}

#[derive(Clone)]
enum Phase {
    New,
    Running(UnboundedSender<Message>, EndWatch),
    Closed,
}

impl SessionLocker {
    /// A locker that is yet to be [started](Self::start).
    pub fn new(config: SessionLockerConfig) -> Self {
        let (changing, phase) = (tokio::sync::Mutex::default(), Mutex::new(Phase::New));
        Self(Arc::new(Shared { config, changing, phase, next_caller: AtomicU64::new(0) }))
    }

    /// Connects, outside any pool, and spawns the tasks that serve the locker. One that is started
    /// already stays as it is; one that could not start can be started again.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close); [`Error::LockLost`] after a loss;
    /// [`Error::Unsupported`] if a pooler of transactions is in between, as far as can be seen; the
    /// errors of connecting.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub async fn start(&self) -> Result<()> {
        let doing = "starting a session locker";
        let _changing = self.0.changing.lock().await;
        match self.0.phase() {
            Phase::New => {}
            Phase::Closed => return Err(Error::Closed { doing }),
            Phase::Running(_, end) => {
                let ended = end.borrow().as_ref().map(|end| end.error(doing, "a session locker"));
                return ended.map_or(Ok(()), Err);
            }
        }
        let config = self.0.config.clone();
        let mut conn = connect(&config).await?;
        pooler::refuse(&config, &mut conn).await?;
        let identity = identity()?;
        let session = ServerSession::open(conn, identity).await?;
        let ((sender, inbox), (ended, end)) = (unbounded_channel(), watch::channel(None));
        tokio::spawn(coordinator::run(config, (session, identity), inbox, sender.downgrade(), ended));
        self.0.set_phase(Phase::Running(sender, end));
        Ok(())
    }

    /// Waits for the key until it is held. Those who wait get it in the order in which the server
    /// heard of them. A call that is dropped no longer waits, on the server either.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the [lock timeout](SessionLockerConfig::with_lock_timeout);
    /// [`Error::LockerBusy`] if all connections for waiting are in use; [`Error::NeverStarted`];
    /// [`Error::Closed`], also if the locker is closed meanwhile; [`Error::LockLost`] after a loss;
    /// [`Error::Disconnected`] or [`Error::Contention`] if a connection for waiting cannot be had,
    /// or is cut. After all of these the locker holds no more than before.
    pub async fn lock(&self, key: &SessionLockKey) -> Result<Releaser> {
        let doing = "waiting for a session lock";
        let granted = self.ask(doing, key, true);
        let answer = match self.0.config.lock_timeout {
            None => granted.await,
            Some(limit) => tokio::time::timeout(limit, granted).await.unwrap_or_else(|_| {
                let source = format!("others held {key} for {limit:?}").into();
                Err(Error::Timeout { doing, source })
            }),
        };
        Ok(answer?.expect("BUG: who waits was told that the lock is not free"))
    }

    /// Takes the key if it can be had at once; `None` if not: another session holds it, a fenced
    /// transaction of an earlier holder is open, or this very locker is waiting for it.
    ///
    /// # Errors
    /// Those of [`lock`](Self::lock) but for timeouts and connections for waiting.
    pub async fn try_lock(&self, key: &SessionLockKey) -> Result<Option<Releaser>> {
        self.ask("trying a session lock", key, false).await
    }

    /// [`lock`](Self::lock) on the key of these scopes.
    ///
    /// # Errors
    /// Those of [`lock`](Self::lock) and [`SessionLockKey::new`].
    pub async fn lock_with_scopes<S: AsRef<str>>(&self, scopes: &[S]) -> Result<Releaser> {
        let key = SessionLockKey::new(scopes)?;
        self.lock(&key).await
    }

    /// [`try_lock`](Self::try_lock) on the key of these scopes.
    ///
    /// # Errors
    /// Those of [`try_lock`](Self::try_lock) and [`SessionLockKey::new`].
    pub async fn try_lock_with_scopes<S: AsRef<str>>(&self, scopes: &[S]) -> Result<Option<Releaser>> {
        let key = SessionLockKey::new(scopes)?;
        self.try_lock(&key).await
    }

    /// Frees all locks, fails all that wait for one with [`Error::Closed`], and closes all
    /// connections; when it returns, the server has freed the locks, and no task is left.
    ///
    /// If the server does not answer, its connections are cut after
    /// [`CLOSE_TIMEOUT`](super::CLOSE_TIMEOUT). Closing again does nothing, a locker that was not
    /// started is closed, too. A call that is dropped half-way closes in the background.
    pub async fn close(&self) {
        let _changing = self.0.changing.lock().await;
        let Phase::Running(inbox, mut end) = self.0.set_phase(Phase::Closed) else { return };
        // It may have ended, or be ending, by itself. The last thing that it drops is its end of `end`.
        let _ = inbox.send(Message::Close);
        while end.changed().await.is_ok() {}
    }

    /// Resolves once the locker is of no use any more: to [`Error::LockLost`] if its main connection
    /// is lost, to [`Error::Closed`] if it was closed; at once, to [`Error::NeverStarted`], if it was
    /// not started. Borrows nothing, and does not keep the locker alive.
    ///
    /// A loss is noticed as with [`Releaser::lost`]. All locks of the locker, also those on other
    /// connections, are then given up.
    pub fn lost(&self) -> impl Future<Output = Error> + Send + use<> {
        let (phase, doing) = (self.0.phase(), "keeping session locks");
        let watched = match phase {
            Phase::New => Err(Error::NeverStarted { doing }),
            Phase::Closed => Err(Error::Closed { doing }),
            Phase::Running(_, end) => Ok(end),
        };
        async move {
            let mut end = match watched {
                Ok(end) => end,
                Err(error) => return error,
            };
            let _ = end.wait_for(Option::is_some).await;
            gone(&end, doing, "all that a session locker held")
        }
    }

    async fn ask(&self, doing: &'static str, key: &SessionLockKey, waits: bool) -> Result<Option<Releaser>> {
        let (inbox, end) = match self.0.phase() {
            Phase::New => return Err(Error::NeverStarted { doing }),
            Phase::Closed => return Err(Error::Closed { doing }),
            Phase::Running(inbox, end) => (inbox, end),
        };
        let id = self.0.next_caller.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let message = Message::Lock { key: key.clone(), caller: Caller { id, waits, reply } };
        if inbox.send(message).is_err() {
            return Err(gone(&end, doing, key));
        }
        let mut asked = Asked { inbox, key, id, answered: false };
        let answer = answer.await;
        asked.answered = true;
        answer.unwrap_or_else(|_| Err(gone(&end, doing, key)))
    }
}

/// Tells the coordinator when a caller is dropped before there is an answer.
struct Asked<'k> {
    inbox: UnboundedSender<Message>,
    key: &'k SessionLockKey,
    id: u64,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // A locker that has ended waits for nothing.
            let _ = self.inbox.send(Message::GiveUp { key: self.key.clone(), caller: self.id });
        }
    }
}

impl Shared {
    fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the one before.
    fn set_phase(&self, phase: Phase) -> Phase {
        std::mem::replace(&mut *self.phase.lock().unwrap_or_else(PoisonError::into_inner), phase)
    }
}

impl fmt::Debug for SessionLocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.0.phase() {
            Phase::New => "not started".to_owned(),
            Phase::Closed => "closed".to_owned(),
            Phase::Running(_, end) => match &*end.borrow() {
                None => "running".to_owned(),
                Some(End::Closed) => "closed".to_owned(),
                Some(End::Lost(detail)) => format!("lost: {detail}"),
            },
        };
        f.debug_tuple("SessionLocker").field(&state).finish()
    }
}
