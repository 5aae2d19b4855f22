//! One hold of a session lock.

use std::fmt;
use std::future::Future;

use sqlx::{Postgres, Transaction};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use super::fence;
use super::key::SessionLockKey;
use super::messages::{EndWatch, Message, gone};
use super::task::Link;
use crate::error::{Error, Result};

/// One hold of a session lock.
///
/// Keeps its locker's connections alive, also when all handles of the locker are dropped. Dropping
/// it releases the hold in the background, without saying when, or whether that failed.
#[must_use = "dropping it releases the lock"]
pub struct Releaser {
    key: SessionLockKey,
    session: u64,
    identity: i64,
    gone: watch::Receiver<()>,
    end: EndWatch,
    /// `None` once it was released.
    inbox: Option<UnboundedSender<Message>>,
}

impl Releaser {
    pub(super) fn new(key: SessionLockKey, link: &Link, inbox: UnboundedSender<Message>, end: EndWatch) -> Self {
        Self { key, session: link.id, identity: link.identity, gone: link.gone.clone(), end, inbox: Some(inbox) }
    }

    /// What it holds.
    pub fn key(&self) -> &SessionLockKey {
        &self.key
    }

    /// Gives this hold back; the lock becomes free with the last hold of its locker. A call that is
    /// dropped half-way releases all the same.
    ///
    /// # Errors
    /// [`Error::NotReleased`] if this hold was released before, which changes nothing;
    /// [`Error::LockLost`] if the lock was lost before; [`Error::Closed`] if the locker was closed,
    /// which freed the lock.
    pub async fn release(&mut self) -> Result<()> {
        let doing = "releasing a session lock";
        let Some(inbox) = self.inbox.take() else {
            return Err(Error::NotReleased { resource: self.key.to_string() });
        };
        let (reply, answer) = oneshot::channel();
        let message = Message::Release { key: self.key.clone(), session: self.session, reply: Some(reply) };
        if inbox.send(message).is_err() {
            return Err(gone(&self.end, doing, &self.key));
        }
        // An answer that does not come is that of a session that is gone.
        answer.await.unwrap_or_else(|_| Err(gone(&self.end, doing, &self.key)))
    }

    /// Ties a transaction to this hold: unless the lock is still held the call fails, and until the
    /// transaction has ended nobody else gets the lock, even if this holder dies meanwhile.
    ///
    /// So what the transaction writes is never seen to come after a later holder's beginning. Call it
    /// at any point before the commit, in the transaction itself or at a savepoint that is not
    /// rolled back; once is enough. It costs two short statements and waits for nobody. The
    /// transaction may be of any isolation, on any connection to the same database.
    ///
    /// The transaction shares the key's [`fence_key`](SessionLockKey::fence_key) until it ends, and
    /// only then looks whether the lock is held by this very session of the server. A session that
    /// is granted the lock later must own the fence key for a moment before it tells so, and thus
    /// waits for the transaction; one that was granted it earlier is seen by the look.
    ///
    /// # Errors
    /// [`Error::LockLost`] if the lock was lost, released or given to another, or is being given to
    /// another: roll the transaction back. [`Error::Closed`] if the locker was closed.
    pub async fn fence(&self, tx: &mut Transaction<'_, Postgres>) -> Result<()> {
        if self.inbox.is_none() {
            let detail = "this hold of it was released".to_owned();
            return Err(Error::LockLost { resource: self.key.to_string(), detail });
        }
        if self.gone.has_changed().is_err() {
            return Err(gone(&self.end, fence::DOING, &self.key));
        }
        fence::fence(tx, &self.key, self.identity).await
    }

    /// Resolves once the connection that holds the lock, and with it the lock, is gone: to
    /// [`Error::LockLost`], or to [`Error::Closed`] if the locker was closed. Borrows nothing. Of a hold
    /// that was released it tells nothing more.
    ///
    /// An idle connection's loss is noticed within the [heartbeat](super::SessionLockerConfig::with_heartbeat)
    /// and [`ANSWER_TIMEOUT`](super::ANSWER_TIMEOUT), usually within the former.
    pub fn lost(&self) -> impl Future<Output = Error> + Send + use<> {
        let (mut session, end, key) = (self.gone.clone(), self.end.clone(), self.key.clone());
        async move {
            while session.changed().await.is_ok() {}
            gone(&end, "keeping a session lock", &key)
        }
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.take() {
            // A locker that has ended holds nothing.
            let _ = inbox.send(Message::Release { key: self.key.clone(), session: self.session, reply: None });
        }
    }
}

impl fmt::Debug for Releaser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Releaser").field("key", &self.key).field("released", &self.inbox.is_none()).finish()
    }
}
