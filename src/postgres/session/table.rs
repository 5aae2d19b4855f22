//! Which keys a locker holds and wants, and on which of its sessions.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::coordinator::{MAIN, Sessions, WaiterState};
use super::key::SessionLockKey;
use super::messages::{Caller, End, Job};
use super::releaser::Releaser;
use crate::error::{Error, Result};

/// What is going on with a key. The sessions are given by their numbers.
#[derive(Clone, Copy)]
enum State {
    /// Tried on the main session.
    Trying,
    /// Will be waited for on a session that is being opened.
    Opening(u64),
    /// Waited for.
    Waiting(u64),
    /// Held so many times; 0 while the last release is under way.
    Held(u64, u32),
}

struct Entry {
    key: SessionLockKey,
    state: State,
    /// Who waits for the state to change.
    callers: Vec<Caller>,
}

/// All keys that a locker has to do with, by their numbers.
pub(super) struct Table {
    entries: HashMap<i64, Entry>,
    pub(super) sessions: Sessions,
}

impl Table {
    pub(super) fn new(sessions: Sessions) -> Self {
        Self { entries: HashMap::new(), sessions }
    }

    pub(super) fn lock(&mut self, key: SessionLockKey, caller: Caller) {
        let Some(entry) = self.entries.get_mut(&key.advisory_key()) else { return self.try_on_main(key, vec![caller]) };
        match &mut entry.state {
            State::Opening(_) | State::Waiting(_) if !caller.waits => drop(caller.reply.send(Ok(None))),
            State::Held(session, times) if *times > 0 => {
                *times += 1;
                self.sessions.send(*session, Job::Again { key, caller });
            }
            _ => entry.callers.push(caller),
        }
    }

    /// The caller is gone. With the last one, the wait ends.
    pub(super) fn give_up(&mut self, key: &SessionLockKey, caller: u64) {
        let Some(entry) = self.entries.get_mut(&key.advisory_key()) else { return };
        entry.callers.retain(|other| other.id != caller);
        if !entry.callers.is_empty() {
            return;
        }
        match entry.state {
            State::Trying | State::Held(..) => return,
            State::Opening(session) => self.sessions.set_state(session, WaiterState::Spare),
            State::Waiting(session) => self.sessions.doom(session),
        }
        self.entries.remove(&key.advisory_key());
    }

    pub(super) fn release(&mut self, key: SessionLockKey, session: u64, reply: Option<oneshot::Sender<Result<()>>>) {
        match self.entries.get_mut(&key.advisory_key()).map(|entry| &mut entry.state) {
            Some(State::Held(holder, times)) if *holder == session && *times > 0 => {
                *times -= 1;
                let last = *times == 0;
                self.sessions.send(session, Job::Unlock { key, last, reply });
            }
            // Dropped unanswered, it says that the session is gone.
            _ if self.sessions.link(session).is_none() => {}
            _ => answer(reply, Err(Error::NotReleased { resource: key.to_string() })),
        }
    }

    pub(super) fn opened(&mut self, session: u64) {
        let opening = |entry: &&mut Entry| matches!(entry.state, State::Opening(of) if of == session);
        match self.entries.values_mut().find(opening) {
            Some(entry) => {
                entry.state = State::Waiting(session);
                let key = entry.key.clone();
                self.sessions.set_state(session, WaiterState::Busy);
                self.sessions.send(session, Job::Wait { key });
            }
            None => self.sessions.set_state(session, WaiterState::Idle(Instant::now())),
        }
    }

    pub(super) fn done(&mut self, session: u64, job: Job, done: Result<bool>) {
        match job {
            Job::Try { key } => self.tried(&key, done),
            Job::Wait { key } => self.waited(session, &key, done),
            Job::Again { key, caller } => self.grant(session, &key, caller),
            Job::Unlock { key, last, reply } => {
                let resource = || key.to_string();
                let released = done.and_then(|held| if held { Ok(()) } else { Err(not_released(resource())) });
                answer(reply, released);
                if last {
                    self.freed(session, &key);
                }
            }
            Job::Terminate { .. } => {
                if let Err(fault) = done {
                    tracing::warn!(target: "sagastore", %fault, "a session that nobody needs may wait on for a lock");
                }
            }
        }
    }

    /// A session is gone that is not the main one.
    pub(super) fn died(&mut self, session: u64, fault: Error) {
        self.sessions.waiters.remove(&session);
        let of_it =
            |state| matches!(state, State::Opening(of) | State::Waiting(of) | State::Held(of, _) if of == session);
        let gone = self.entries.extract_if(|_, entry| of_it(entry.state)).map(|(_, entry)| entry);
        for entry in gone.collect::<Vec<_>>() {
            match entry.state {
                // They wanted it after it was released.
                State::Held(..) if !entry.callers.is_empty() => self.try_on_main(entry.key, entry.callers),
                _ => fail(entry.callers, &fault),
            }
        }
    }

    /// The locker ends.
    pub(super) fn fail_all(&mut self, end: &End) {
        for (_, entry) in self.entries.drain() {
            for caller in entry.callers {
                let _ = caller.reply.send(Err(end.error("locking", &entry.key)));
            }
        }
    }

    fn try_on_main(&mut self, key: SessionLockKey, callers: Vec<Caller>) {
        self.sessions.send(MAIN, Job::Try { key: key.clone() });
        self.entries.insert(key.advisory_key(), Entry { key, state: State::Trying, callers });
    }

    fn tried(&mut self, key: &SessionLockKey, tried: Result<bool>) {
        let Some(entry) = self.entries.remove(&key.advisory_key()) else { return };
        match tried {
            Ok(true) => self.hold(MAIN, entry.key, entry.callers),
            Ok(false) => {
                let (waiting, trying): (Vec<_>, Vec<_>) = entry.callers.into_iter().partition(|caller| caller.waits);
                trying.into_iter().for_each(|caller| drop(caller.reply.send(Ok(None))));
                if !waiting.is_empty() {
                    self.wait(entry.key, waiting);
                }
            }
            Err(fault) => fail(entry.callers, &fault),
        }
    }

    fn wait(&mut self, key: SessionLockKey, callers: Vec<Caller>) {
        let state = if let Some(session) = self.sessions.idle() {
            self.sessions.send(session, Job::Wait { key: key.clone() });
            State::Waiting(session)
        } else if let Some(session) = self.sessions.spare().or_else(|| self.sessions.open()) {
            State::Opening(session)
        } else {
            let limit = self.sessions.config.max_waiters;
            for caller in callers {
                let _ = caller.reply.send(Err(Error::LockerBusy { resource: key.to_string(), limit }));
            }
            return;
        };
        self.entries.insert(key.advisory_key(), Entry { key, state, callers });
    }

    fn waited(&mut self, session: u64, key: &SessionLockKey, waited: Result<bool>) {
        let wanted = |entry: &Entry| matches!(entry.state, State::Waiting(of) if of == session);
        let entry = match self.entries.remove(&key.advisory_key()) {
            Some(entry) if wanted(&entry) => Some(entry),
            Some(other) => {
                self.entries.insert(key.advisory_key(), other);
                None
            }
            None => None,
        };
        match (entry, waited) {
            (Some(entry), Ok(_)) => self.hold(session, entry.key, entry.callers),
            (entry, waited) => {
                // With the session goes whatever it was granted in the last moment.
                self.sessions.waiters.remove(&session);
                if let (Some(entry), Err(fault)) = (entry, waited) {
                    fail(entry.callers, &fault);
                }
            }
        }
    }

    fn hold(&mut self, session: u64, key: SessionLockKey, callers: Vec<Caller>) {
        let entry = Entry { key: key.clone(), state: State::Held(session, 1), callers: Vec::new() };
        self.entries.insert(key.advisory_key(), entry);
        let mut callers = callers.into_iter();
        match callers.next() {
            Some(first) => self.grant(session, &key, first),
            None => self.release(key.clone(), session, None),
        }
        for caller in callers {
            self.lock(key.clone(), caller);
        }
    }

    /// If the caller is gone, the releaser is dropped, and so releases.
    fn grant(&self, session: u64, key: &SessionLockKey, caller: Caller) {
        let (Some(link), Some(inbox)) = (self.sessions.link(session), self.sessions.inbox.upgrade()) else { return };
        let releaser = Releaser::new(key.clone(), link, inbox, self.sessions.end.clone());
        let _ = caller.reply.send(Ok(Some(releaser)));
    }

    /// The last hold of a key was released.
    fn freed(&mut self, session: u64, key: &SessionLockKey) {
        self.sessions.set_state(session, WaiterState::Idle(Instant::now()));
        if let Some(entry) = self.entries.remove(&key.advisory_key())
            && !entry.callers.is_empty()
        {
            self.try_on_main(entry.key, entry.callers);
        }
    }
}

fn not_released(resource: String) -> Error {
    Error::NotReleased { resource }
}

fn answer(reply: Option<oneshot::Sender<Result<()>>>, answer: Result<()>) {
    match (reply, answer) {
        (Some(reply), answer) => drop(reply.send(answer)),
        (None, Err(fault)) => tracing::warn!(target: "sagastore", %fault, "a dropped releaser released nothing"),
        (None, Ok(())) => {}
    }
}

fn fail(callers: Vec<Caller>, fault: &Error) {
    for caller in callers {
        let _ = caller.reply.send(Err(copy(fault)));
    }
}

/// The same kind once more, for several callers share one wait.
fn copy(fault: &Error) -> Error {
    let detail = || fault.to_string().into();
    match fault {
        Error::Contention { doing, .. } => Error::Contention { doing, source: detail() },
        Error::Timeout { doing, .. } => Error::Timeout { doing, source: detail() },
        Error::Disconnected { doing, .. } => Error::Disconnected { doing, source: detail() },
        Error::Denied { doing, .. } => Error::Denied { doing, source: detail() },
        Error::PoolTimeout { doing } => Error::PoolTimeout { doing },
        Error::SchemaMissing { doing } => Error::SchemaMissing { doing },
        Error::Closed { doing } => Error::Closed { doing },
        Error::Unsupported { what, detail } => Error::Unsupported { what, detail },
        _ => Error::Storage { doing: "locking", source: detail() },
    }
}
