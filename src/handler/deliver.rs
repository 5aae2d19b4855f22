//! Handling a message in a transaction of its own, or in the caller's.

use sqlx::{Pool, Transaction};

use super::incoming::{Incoming, carry_trace};
use super::panicking::{guarded, release};
use super::park_after::{is_parkable, kept_text};
use super::parked::{NewParked, ParkingTables};
use super::try_once::{Behind, Tried};
use super::{HandleMessage, Handling, Mapping, MessageHandler, telemetry};
use crate::backend::Backend;
use crate::envelope::{Envelope, Inbound};
use crate::error::{Error, Result};
use crate::guarded_connection::GuardedConnection;
use crate::ids::InstanceId;
use crate::mapper::Mapped;
use crate::persister::Executed;

/// Why a unit of work was not even begun.
enum Stopped {
    Failed(Error),
    Completed,
    NotFound,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// Handles a message in a transaction of its own. If another writer was faster, all is done again, bounded by the
    /// persister's [`ConflictRetry`](crate::ConflictRetry); with [`park_after`](Self::park_after), a message that keeps
    /// failing is parked.
    ///
    /// An `Ok` means that the message is dealt with, and can be acknowledged to whoever delivered it. After an `Err` it
    /// is to be delivered again: nothing was stored, or, where the connection was lost, all of it, which is then known.
    ///
    /// # Errors
    /// [`Error::Handler`] with what the saga said; [`Error::UndecodableMessage`]; [`Error::InstanceNotFound`] where that
    /// was asked for; [`Error::KeyHeld`]; [`Error::Conflict`] or [`Error::Contention`] after the last try; any of loading
    /// and saving.
    pub async fn handle(&self, pool: &Pool<DB>, message: &Envelope) -> Result<Handling> {
        // In a box, because it is large: those who handle messages move futures about, and poll them deep down a stack.
        let handle = Box::pin(self.handle_or_park(pool, message));
        telemetry::handling(self.saga.persistence_key(), message, handle).await
    }

    async fn handle_or_park(&self, pool: &Pool<DB>, message: &Envelope) -> Result<Handling> {
        let Some(incoming) = Incoming::decode(&*self.saga, self.persister.codecs(), message)? else {
            return Ok(Handling::Ignored);
        };
        let mut failures = 0;
        loop {
            let error = match self.handle_retrying(pool, &incoming).await {
                Err(error) if is_parkable(&error) => error,
                ended => return ended,
            };
            let Some(park_after) = self.park_after else { return Err(error) };
            failures += 1;
            if failures >= park_after.tries {
                return self.park(pool, &incoming, failures, error).await;
            }
            tokio::time::sleep(park_after.delay).await;
        }
    }

    /// Handles a message in the caller's transaction, in a part of it (a savepoint) that is undone if it fails: what the
    /// transaction did before stays, and the caller decides. Nothing is retried and nothing is parked. If the caller
    /// rolls back, the message was never handled. It does not wait behind messages that are parked.
    ///
    /// # Errors
    /// As [`handle`](Self::handle). After [`Error::Conflict`] and [`Error::Handler`] the transaction is still usable;
    /// after [`Error::Contention`] on MySQL and MariaDB it is lost.
    pub async fn handle_in(&self, tx: &mut Transaction<'_, DB>, message: &Envelope) -> Result<Handling> {
        let handle = async {
            match Incoming::decode(&*self.saga, self.persister.codecs(), message)? {
                Some(incoming) => self.try_in_part(tx, &incoming, Behind::Nothing).await,
                None => Ok(Handling::Ignored),
            }
        };
        telemetry::handling(self.saga.persistence_key(), message, handle).await
    }

    /// Handles it with lost races retried.
    async fn handle_retrying(&self, pool: &Pool<DB>, incoming: &Incoming<'_, S>) -> Result<Handling> {
        let named = match (&self.mapping, &incoming.timeout_of) {
            (_, Some(id)) => Some(id.clone()),
            (Mapping::Direct(instance_of), None) => match instance_of(&incoming.message)? {
                None => return Ok(Handling::Ignored),
                named => named,
            },
            (Mapping::Mapper(_), None) => None,
        };
        // Where nothing else is to be done in the transaction.
        let is_alone = !self.uses_inbox() && self.in_transaction.is_none();
        if let Some(id) = named.filter(|_| is_alone)
            && !self.waits(pool, &id).await?
        {
            return self.execute(pool, incoming, id).await;
        }
        let mut lost = 0;
        loop {
            let error = match self.try_in_own(pool, incoming).await {
                Ok(Handling::Handled { instance_id, saved, .. }) => {
                    self.persister.wake();
                    return Ok(Handling::Handled { instance_id, saved, conflicts: lost });
                }
                Ok(Handling::NotFound) => {
                    self.persister.wake();
                    return Ok(Handling::NotFound);
                }
                Err(error @ (Error::Conflict { .. } | Error::Contention { .. })) => error,
                ended => return ended,
            };
            self.persister.wait_to_retry(&mut lost, error).await?;
        }
    }

    /// True if the message has to wait behind others that are parked.
    async fn waits(&self, pool: &Pool<DB>, id: &InstanceId) -> Result<bool> {
        if self.park_after.is_none() {
            return Ok(false);
        }
        let store = DB::Store::default();
        let mut conn = GuardedConnection::take(pool, &store, "taking a connection for a message").await?;
        let parked = store.is_parked(&mut conn, self.saga.persistence_key(), id).await;
        conn.release();
        parked
    }

    /// The short way: one statement to load, one to commit.
    async fn execute(&self, pool: &Pool<DB>, incoming: &Incoming<'_, S>, id: InstanceId) -> Result<Handling> {
        let inbound = Some(Inbound::from(incoming.envelope));
        let executed = self.persister.execute(pool, &*self.saga, &id, inbound, |unit| {
            if unit.is_completed() {
                return Err(Stopped::Completed);
            }
            if unit.head.is_at_start() && !incoming.trigger {
                return Err(Stopped::NotFound);
            }
            carry_trace(incoming.envelope, unit.sender());
            let handled = guarded(|| self.saga.handle(unit, &incoming.message));
            handled.map_err(|cause| self.failed(incoming, &id, cause).into())
        });
        match executed.await {
            Ok(Executed::Done { saved, conflicts, .. }) => Ok(Handling::Handled { instance_id: id, saved, conflicts }),
            Ok(Executed::AlreadyHandled(handled)) => Ok(Handling::AlreadyHandled(Some(handled))),
            Err(Stopped::Completed) => Ok(Handling::Completed { instance_id: id }),
            Err(Stopped::NotFound) => self.without_instance(incoming),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    async fn try_in_own(&self, pool: &Pool<DB>, incoming: &Incoming<'_, S>) -> Result<Handling> {
        let mut conn = self.take(pool).await?;
        let tried = self.try_on(&mut conn, incoming).await;
        release(conn, &tried);
        tried
    }

    async fn try_on(&self, conn: &mut DB::Connection, incoming: &Incoming<'_, S>) -> Result<Handling> {
        let mut tx = self.persister.store().begin(conn).await?;
        let (handling, ended) = match self.try_once(&mut tx, incoming, Behind::Parked).await? {
            Tried::Keep(handling) => (handling, tx.commit().await),
            Tried::Undo(handling) => (handling, tx.rollback().await),
        };
        ended.map_err(|error| self.persister.store().classify("ending the transaction of a message", error))?;
        Ok(handling)
    }

    /// Parks a message that failed. The mapping is kept, so that later messages find the same instance, and wait.
    async fn park(&self, pool: &Pool<DB>, incoming: &Incoming<'_, S>, tries: u32, failure: Error) -> Result<Handling> {
        let text = kept_text(&failure);
        let mut lost = 0;
        loop {
            let mut conn = self.take(pool).await?;
            let parked = self.park_on(&mut conn, incoming, tries, &text).await;
            conn.release();
            match parked {
                Ok(Some(Handling::Parked { instance_id, .. })) => {
                    telemetry::parked(&instance_id, tries, &failure);
                    return Ok(Handling::Parked { instance_id, error: Some(failure) });
                }
                Ok(Some(handled)) => return Ok(handled),
                Ok(None) => return Err(failure),
                Err(error @ (Error::Conflict { .. } | Error::Contention { .. })) => {
                    self.persister.wait_to_retry(&mut lost, error).await?;
                }
                // Without an instance there is nothing to park it with.
                Err(error) if is_parkable(&error) => return Err(failure),
                Err(error) => return Err(error),
            }
        }
    }

    /// `None` if there is no instance with which to park it.
    async fn park_on(
        &self,
        conn: &mut DB::Connection,
        incoming: &Incoming<'_, S>,
        tries: u32,
        text: &str,
    ) -> Result<Option<Handling>> {
        let (saga, message) = (self.saga.persistence_key(), incoming.envelope);
        let mut tx = self.persister.store().begin(conn).await?;
        let Mapped::Instance(id) = self.map(&mut tx, incoming).await? else { return Ok(None) };
        if self.was_handled(&mut tx, incoming, &id).await? {
            return Ok(Some(Handling::AlreadyHandled(None)));
        }
        let parked = NewParked { saga, instance: &id, message, tries, error: Some(text) };
        DB::Store::default().park(&mut tx, parked).await?;
        let committed = tx.commit().await;
        committed.map_err(|error| self.persister.store().classify("parking a message", error))?;
        Ok(Some(Handling::Parked { instance_id: id, error: None }))
    }

    /// A connection for a transaction, which is closed, where the database needs it, if the call is dropped.
    pub(super) async fn take(&self, pool: &Pool<DB>) -> Result<GuardedConnection<DB>> {
        GuardedConnection::take(pool, self.persister.store(), "taking a connection for a message").await
    }
}
