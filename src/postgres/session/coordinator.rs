//! The task that knows who holds and wants what. It never waits for the server: that is done by the
//! tasks of the connections.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, WeakUnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::SessionLockerConfig;
use super::identity;
use super::messages::{End, EndWatch, Job, Message};
use super::server_session::{ServerSession, connect};
use super::table::Table;
use super::task::{Link, spawn};
use crate::error::Result;

/// The number of the session that every locker has.
pub(super) const MAIN: u64 = 0;
/// How long a connection for waiting is kept that nobody needs.
pub const WAITER_KEPT: Duration = Duration::from_secs(30);
/// How long the connections of a locker that ends may take to close.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection for locks that had to be waited for.
pub(super) struct Waiter {
    pub(super) link: Link,
    pub(super) state: WaiterState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WaiterState {
    Opening,
    /// Is being opened for a key that nobody wants any more.
    Spare,
    Idle(Instant),
    /// Waits for a key, or holds one.
    Busy,
    /// Is being ended, since nobody wants its key any more.
    Doomed,
}

/// All sessions of a locker.
pub(super) struct Sessions {
    pub(super) config: SessionLockerConfig,
    pub(super) inbox: WeakUnboundedSender<Message>,
    pub(super) end: EndWatch,
    pub(super) main: Link,
    pub(super) waiters: HashMap<u64, Waiter>,
    tasks: JoinSet<()>,
    last: u64,
}

/// Runs a locker on a session that is open, until it is closed, lost, or without handles.
pub(super) async fn run(
    config: SessionLockerConfig,
    session: (ServerSession, i64),
    mut inbox: UnboundedReceiver<Message>,
    sender: WeakUnboundedSender<Message>,
    ended: watch::Sender<Option<End>>,
) {
    let mut tasks = JoinSet::new();
    let main = spawn(&mut tasks, &config, sender.clone(), (MAIN, session.1), Some(session.0));
    let end = ended.subscribe();
    let sessions = Sessions { config, inbox: sender, end, main, waiters: HashMap::new(), tasks, last: MAIN };
    let mut table = Table::new(sessions);
    let end = loop {
        let message = tokio::time::timeout(WAITER_KEPT, inbox.recv()).await;
        table.sessions.tidy();
        match message {
            Err(_) => {}
            Ok(None) => break End::Closed,
            Ok(Some(message)) => {
                if let ControlFlow::Break(end) = handle(&mut table, message) {
                    break end;
                }
            }
        }
    };
    ended.send_replace(Some(end.clone()));
    inbox.close();
    // What is in it is answered by being dropped.
    while inbox.try_recv().is_ok() {}
    table.fail_all(&end);
    table.sessions.shut_down(&end).await;
}

fn handle(table: &mut Table, message: Message) -> ControlFlow<End> {
    match message {
        Message::Lock { key, caller } => table.lock(key, caller),
        Message::GiveUp { key, caller } => table.give_up(&key, caller),
        Message::Release { key, session, reply } => table.release(key, session, reply),
        Message::Close => return ControlFlow::Break(End::Closed),
        Message::Opened { session } => table.opened(session),
        Message::Done { session, job, answer } => table.done(session, job, answer),
        Message::Died { session: MAIN, fault, .. } => return ControlFlow::Break(End::Lost(fault.to_string())),
        Message::Died { session, job, fault } => {
            drop(job);
            table.died(session, fault);
        }
    }
    ControlFlow::Continue(())
}

impl Sessions {
    pub(super) fn link(&self, session: u64) -> Option<&Link> {
        if session == MAIN { Some(&self.main) } else { self.waiters.get(&session).map(|waiter| &waiter.link) }
    }

    /// A job for a session that is gone is dropped, which is its answer.
    pub(super) fn send(&self, session: u64, job: Job) {
        if let Some(link) = self.link(session) {
            let _ = link.jobs.send(job);
        }
    }

    /// An idle connection.
    pub(super) fn idle(&mut self) -> Option<u64> {
        let idle = self.waiters.values_mut().find(|waiter| matches!(waiter.state, WaiterState::Idle(_)))?;
        idle.state = WaiterState::Busy;
        Some(idle.link.id)
    }

    /// A connection that is being opened for nobody.
    pub(super) fn spare(&mut self) -> Option<u64> {
        let spare = self.waiters.values_mut().find(|waiter| waiter.state == WaiterState::Spare)?;
        spare.state = WaiterState::Opening;
        Some(spare.link.id)
    }

    /// Opens one more connection, unless there are enough.
    pub(super) fn open(&mut self) -> Option<u64> {
        if self.waiters.len() >= usize::try_from(self.config.max_waiters).unwrap_or(usize::MAX) {
            return None;
        }
        self.last += 1;
        let (id, inbox) = ((self.last, identity().ok()?), self.inbox.clone());
        let link = spawn(&mut self.tasks, &self.config, inbox, id, None);
        self.waiters.insert(self.last, Waiter { link, state: WaiterState::Opening });
        Some(self.last)
    }

    pub(super) fn set_state(&mut self, session: u64, state: WaiterState) {
        if let Some(waiter) = self.waiters.get_mut(&session) {
            waiter.state = state;
        }
    }

    /// Ends a session that waits at the server, and so hears nothing.
    pub(super) fn doom(&mut self, session: u64) {
        self.set_state(session, WaiterState::Doomed);
        if let Some(link) = self.link(session) {
            self.send(MAIN, Job::Terminate { identities: vec![link.identity], wait: false });
        }
    }

    /// Closes connections that were idle for long, and forgets tasks that have ended.
    fn tidy(&mut self) {
        let needed = |state| !matches!(state, WaiterState::Idle(since) if since.elapsed() >= WAITER_KEPT);
        self.waiters.retain(|_, waiter| needed(waiter.state));
        while self.tasks.try_join_next().is_some() {}
    }

    /// Ends all sessions, those that wait at the server by force.
    async fn shut_down(self, end: &End) {
        let Self { config, main, waiters, mut tasks, .. } = self;
        let waiting = waiters.values().filter(|waiter| !matches!(waiter.state, WaiterState::Idle(_)));
        let identities: Vec<i64> = waiting.map(|waiter| waiter.link.identity).collect();
        let closing = async {
            match end {
                End::Closed if identities.is_empty() => {}
                End::Closed => drop(main.jobs.send(Job::Terminate { identities, wait: true })),
                End::Lost(_) => {
                    if let Err(fault) = terminate(&config, &identities).await {
                        tracing::warn!(target: "sagastore", %fault, "sessions of a lost locker may wait on");
                    }
                }
            }
            drop((main, waiters));
            while tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!(target: "sagastore", "a session locker took too long to close; its connections are cut");
        }
        tasks.shutdown().await;
    }
}

/// Ends sessions over a connection of its own.
async fn terminate(config: &SessionLockerConfig, identities: &[i64]) -> Result<()> {
    if identities.is_empty() {
        return Ok(());
    }
    let mut session = ServerSession::open(connect(config).await?, identity()?).await?;
    session.terminate(identities, false).await?;
    session.close().await;
    Ok(())
}
