//! Whole units of work in transactions of the library's own, with conflicts retried.

use std::future::Future;

use sqlx::{Database, Pool};

use super::save::Ended;
use super::{Attempt, Begun, Finished, Persister, telemetry};
use crate::envelope::Inbound;
use crate::error::Error;
use crate::guarded_connection::GuardedConnection;
use crate::ids::InstanceId;
use crate::message_store::HeadTrust;
use crate::recorder::Outbox;
use crate::saga::Saga;
use crate::unit_of_work::{Handled, Saved, UnitOfWork};

/// What executing a unit of work came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Executed<R> {
    /// It is saved and committed.
    Done {
        /// What the closure returned.
        value: R,
        /// What saving did.
        saved: Saved,
        /// How many tries were lost to other writers.
        conflicts: u32,
    },
    /// The message was handled before; what the closure may have done is undone.
    AlreadyHandled(Handled),
}

impl<R> Executed<R> {
    /// True if the message was handled before.
    pub fn is_already_handled(&self) -> bool {
        matches!(self, Self::AlreadyHandled(_))
    }
}

/// One try of a unit of work: its number, and who comes with what.
pub(super) struct Call<'a, DB: Database> {
    pub(super) pool: &'a Pool<DB>,
    pub(super) id: &'a InstanceId,
    pub(super) message: Option<Inbound>,
    pub(super) conflicts: u32,
}

pub(super) const TAKING: &str = "taking a connection for a unit of work";

pub(super) enum Tried<R> {
    Ended(Executed<R>),
    Lost(Error),
}

impl<DB: Database> Persister<DB> {
    /// Loads an instance, lets `decide` record events and commands, and saves: in a transaction of its
    /// own, with the fewest round trips. If another writer was faster, all is done again from the
    /// load, bounded by the [`ConflictRetry`](crate::ConflictRetry); so `decide` may run several
    /// times, and must have no effects of its own.
    ///
    /// With a `message`, the unit of work takes effect at most once for this instance.
    ///
    /// On SQLite, units of work of many callers can be committed together: see `with_group_commit`.
    ///
    /// # Errors
    /// What `decide` returned; [`Error::Conflict`] or [`Error::Contention`] after the last try, and at once if SQLite has waited
    /// for `busy_timeout`; any of loading and saving.
    pub async fn execute<S, R, E, F>(
        &self,
        pool: &Pool<DB>,
        saga: &S,
        id: &InstanceId,
        message: Option<Inbound>,
        mut decide: F,
    ) -> Result<Executed<R>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(&mut UnitOfWork<'_, S>) -> Result<R, E>,
    {
        let mut lost = 0;
        loop {
            match self.try_execute(pool, saga, id, message, &mut decide, lost).await? {
                Tried::Ended(executed) => return Ok(executed),
                Tried::Lost(error) => self.wait_to_retry(&mut lost, error).await?,
            }
        }
    }

    async fn try_execute<S, R, E, F>(
        &self,
        pool: &Pool<DB>,
        saga: &S,
        id: &InstanceId,
        message: Option<Inbound>,
        decide: &mut F,
        conflicts: u32,
    ) -> Result<Tried<R>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(&mut UnitOfWork<'_, S>) -> Result<R, E>,
    {
        let call = Call { pool, id, message, conflicts };
        if let Some(tried) = self.try_cached(&call, saga, decide).await? {
            return Ok(tried);
        }
        if let Some(queue) = &self.queue {
            return self.try_in_group(queue, &call, saga, decide).await;
        }
        let mut conn = GuardedConnection::take(pool, self.store(), TAKING).await?;
        let tried = self.try_on(&mut conn, &call, saga, decide).await;
        conn.release();
        tried
    }

    async fn try_on<S, R, E, F>(
        &self,
        conn: &mut DB::Connection,
        call: &Call<'_, DB>,
        saga: &S,
        decide: &mut F,
    ) -> Result<Tried<R>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(&mut UnitOfWork<'_, S>) -> Result<R, E>,
    {
        let mut unit = match self.load(saga, conn, Outbox, call.id, call.message).await {
            Ok(Begun::Unit(unit)) => unit,
            Ok(Begun::AlreadyHandled(handled)) => return Ok(Tried::Ended(Executed::AlreadyHandled(handled))),
            Err(error) => return lost_or(error),
        };
        unit.head_trust = HeadTrust::JustRead;
        let value = decide(&mut unit)?;
        let ended = self.save_alone(conn, &unit).await;
        self.tried(call, unit, value, ended)
    }

    pub(super) fn tried<S: Saga, R, E: From<Error>>(
        &self,
        call: &Call<'_, DB>,
        unit: UnitOfWork<'_, S>,
        value: R,
        ended: Result<Ended, Error>,
    ) -> Result<Tried<R>, E> {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => return lost_or(error),
        };
        self.keep(call.pool, unit, &ended);
        match ended.saved {
            Saved::AlreadyHandled(handled) => Ok(Tried::Ended(Executed::AlreadyHandled(handled))),
            saved => Ok(Tried::Ended(self.done(value, saved, call.conflicts))),
        }
    }

    /// As [`execute`](Self::execute), with the transaction in the closure's hands, for reads and writes of
    /// the caller's own that share the fate of the unit of work. Everything of a lost try is rolled
    /// back. The closure takes the [`Attempt`] and gives it back with [`Attempt::finish`].
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub async fn execute_in_transaction<'s, S, R, E, F, Fut>(
        &self,
        pool: &Pool<DB>,
        saga: &'s S,
        id: &InstanceId,
        message: Option<Inbound>,
        mut work: F,
    ) -> Result<Executed<R>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(Attempt<'s, S, DB>) -> Fut,
        Fut: Future<Output = Result<Finished<'s, S, DB, R>, E>>,
    {
        let mut lost = 0;
        loop {
            match self.try_in_transaction(pool, saga, id, message, &mut work, lost).await? {
                Tried::Ended(executed) => return Ok(executed),
                Tried::Lost(error) => self.wait_to_retry(&mut lost, error).await?,
            }
        }
    }

    async fn try_in_transaction<'s, S, R, E, F, Fut>(
        &self,
        pool: &Pool<DB>,
        saga: &'s S,
        id: &InstanceId,
        message: Option<Inbound>,
        work: &mut F,
        conflicts: u32,
    ) -> Result<Tried<R>, E>
    where
        S: Saga,
        E: From<Error>,
        F: FnMut(Attempt<'s, S, DB>) -> Fut,
        Fut: Future<Output = Result<Finished<'s, S, DB, R>, E>>,
    {
        let mut transaction = match self.begin(pool).await {
            Ok(transaction) => transaction,
            Err(error) => return lost_or(error),
        };
        let unit = match self.load(saga, &mut transaction, Outbox, id, message).await {
            Ok(Begun::Unit(unit)) => unit,
            Ok(Begun::AlreadyHandled(handled)) => return Ok(Tried::Ended(Executed::AlreadyHandled(handled))),
            Err(error) => return lost_or(error),
        };
        let Finished { attempt: Attempt { unit, mut transaction }, value } =
            work(Attempt { unit, transaction }).await?;
        let saved = match self.save(&mut transaction, unit).await {
            Ok(Saved::AlreadyHandled(handled)) => return Ok(Tried::Ended(Executed::AlreadyHandled(handled))),
            Ok(saved) => saved,
            Err(error) => return lost_or(error),
        };
        if !saved.is_changed() {
            self.check_usable(&mut transaction, saga, id).await?;
        }
        match transaction.commit().await.map_err(self.classify("committing a unit of work")) {
            Ok(()) => Ok(Tried::Ended(self.done(value, saved, conflicts))),
            Err(error) => lost_or(error),
        }
    }

    /// It is committed: what it sent can be relayed.
    fn done<R>(&self, value: R, saved: Saved, conflicts: u32) -> Executed<R> {
        if saved.is_changed() {
            self.wake();
        }
        Executed::Done { value, saved, conflicts }
    }

    /// Waits before the next try, or gives the error of the last one. Who has waited in vain does not wait as long again.
    pub(crate) async fn wait_to_retry(&self, lost: &mut u32, error: Error) -> Result<(), Error> {
        if error.has_waited() {
            return Err(error);
        }
        let Some(delay) = self.retry.delay(*lost) else { return Err(error) };
        *lost = lost.saturating_add(1);
        telemetry::retrying(*lost, &error);
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// Another writer or a deadlock can be tried again; nothing else is, least of all a lost connection,
/// whose commit may have happened.
pub(super) fn lost_or<R, E: From<Error>>(error: Error) -> Result<Tried<R>, E> {
    match error {
        Error::Conflict { .. } | Error::Contention { .. } => Ok(Tried::Lost(error)),
        other => Err(other.into()),
    }
}
