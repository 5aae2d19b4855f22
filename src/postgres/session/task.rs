//! The task that owns one connection.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::config::SessionLockerConfig;
use super::messages::{Job, Message};
use super::server_session::{ServerSession, connect, is_fatal};
use crate::error::{Error, Result};

/// A session as the coordinator knows it. When `jobs` is dropped, the session ends.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) identity: i64,
    pub(super) jobs: UnboundedSender<Job>,
    /// Its sender is dropped with the session.
    pub(super) gone: watch::Receiver<()>,
}

/// The other end of a [`Link`].
struct Task {
    id: u64,
    heartbeat: Duration,
    jobs: UnboundedReceiver<Job>,
    /// Weak, for a locker without handles is to end.
    coordinator: WeakUnboundedSender<Message>,
    _alive: watch::Sender<()>,
}

/// Spawns the task of a session that is open, or of one to be opened.
pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    config: &SessionLockerConfig,
    coordinator: WeakUnboundedSender<Message>,
    (id, identity): (u64, i64),
    session: Option<ServerSession>,
) -> Link {
    let ((sender, jobs), (alive, gone)) = (unbounded_channel(), watch::channel(()));
    let (config, heartbeat) = (config.clone(), config.heartbeat);
    let task = Task { id, heartbeat, jobs, coordinator, _alive: alive };
    tasks.spawn(async move {
        let opened = match session {
            Some(session) => Ok(session),
            None => open(&config, identity).await,
        };
        match opened {
            Ok(session) => task.serve(session).await,
            Err(fault) => task.tell(Message::Died { session: id, job: None, fault }),
        }
    });
    Link { id, identity, jobs: sender, gone }
}

async fn open(config: &SessionLockerConfig, identity: i64) -> Result<ServerSession> {
    ServerSession::open(connect(config).await?, identity).await
}

impl Task {
    fn tell(&self, message: Message) {
        // Without a coordinator there is nobody to tell.
        if let Some(coordinator) = self.coordinator.upgrade() {
            let _ = coordinator.send(message);
        }
    }

    async fn serve(mut self, mut session: ServerSession) {
        self.tell(Message::Opened { session: self.id });
        loop {
            let (job, answer) = match tokio::time::timeout(self.heartbeat, self.jobs.recv()).await {
                Err(_) => (None, session.check_alive().await.map(|()| true)),
                Ok(None) => return session.close().await,
                Ok(Some(job)) => {
                    let answer = perform(&mut session, &job).await;
                    (Some(job), answer)
                }
            };
            match (job, answer) {
                (job, Err(fault)) if is_fatal(&fault) => {
                    return self.tell(Message::Died { session: self.id, job, fault });
                }
                (Some(job), answer) => self.tell(Message::Done { session: self.id, job, answer }),
                (None, _) => {}
            }
        }
    }
}

/// After an error that is not fatal, the session holds what it held before.
async fn perform(session: &mut ServerSession, job: &Job) -> Result<bool> {
    match job {
        Job::Try { key } => session.try_lock(key).await,
        Job::Terminate { identities, wait } => session.terminate(identities, *wait).await.map(|()| true),
        // The session is there for this wait alone.
        Job::Wait { key } => session.lock(key).await.map(|()| true),
        Job::Again { key, .. } => held(session.lock_again(key.advisory_key()).await),
        Job::Unlock { key, .. } => session.unlock(key.advisory_key()).await.map_err(lost),
    }
}

/// A key that this session held cannot be held elsewhere.
fn held(answer: Result<bool>) -> Result<bool> {
    match answer {
        Ok(true) => Ok(true),
        Ok(false) => Err(lost("the server gave the lock to another session")),
        Err(fault) => Err(lost(fault)),
    }
}

/// What is held is not known any more.
fn lost(fault: impl Into<crate::error::Cause>) -> Error {
    Error::Disconnected { doing: "keeping session locks", source: fault.into() }
}
