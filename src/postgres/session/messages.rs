//! What handles, the coordinator and the tasks of its connections say to each other.

use std::fmt;

use tokio::sync::{oneshot, watch};

use super::key::SessionLockKey;
use super::releaser::Releaser;
use crate::error::{Error, Result};

/// One who wants a lock. Gone when the other end of `reply` is.
pub(super) struct Caller {
    pub(super) id: u64,
    /// Waits for the lock, or takes `None` for an answer.
    pub(super) waits: bool,
    pub(super) reply: oneshot::Sender<Result<Option<Releaser>>>,
}

/// What a coordinator is told.
pub(super) enum Message {
    Lock {
        key: SessionLockKey,
        caller: Caller,
    },
    /// The caller no longer waits.
    GiveUp {
        key: SessionLockKey,
        caller: u64,
    },
    /// Of one hold, on the session with this number.
    Release {
        key: SessionLockKey,
        session: u64,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    Close,
    /// The session with this number can be used.
    Opened {
        session: u64,
    },
    Done {
        session: u64,
        job: Job,
        answer: Result<bool>,
    },
    /// The session with this number, and all that it held, is gone.
    Died {
        session: u64,
        job: Option<Job>,
        fault: Error,
    },
}

/// What a session is to do.
pub(super) enum Job {
    Try {
        key: SessionLockKey,
    },
    Wait {
        key: SessionLockKey,
    },
    Again {
        key: SessionLockKey,
        caller: Caller,
    },
    /// The `last` one leaves the key free.
    Unlock {
        key: SessionLockKey,
        last: bool,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    Terminate {
        identities: Vec<i64>,
        wait: bool,
    },
}

/// Why a locker is of no use any more.
#[derive(Clone, Debug)]
pub(super) enum End {
    Closed,
    Lost(String),
}

impl End {
    pub(super) fn error(&self, doing: &'static str, resource: impl fmt::Display) -> Error {
        match self {
            Self::Closed => Error::Closed { doing },
            Self::Lost(detail) => Error::LockLost { resource: resource.to_string(), detail: detail.clone() },
        }
    }
}

/// The end of a locker once it has come.
pub(super) type EndWatch = watch::Receiver<Option<End>>;

/// Why a session of this locker is gone.
pub(super) fn gone(end: &EndWatch, doing: &'static str, resource: impl fmt::Display) -> Error {
    match &*end.borrow() {
        Some(end) => end.error(doing, resource),
        None => End::Lost("the connection that held it is gone".to_owned()).error(doing, resource),
    }
}
