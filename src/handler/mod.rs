//! Hands messages to sagas: finds the instance, lets the saga decide, and stores what it decided, once per message.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Database, Pool};

use crate::backend::Backend;
use crate::error::Result;
use crate::ids::InstanceId;
use crate::inbox::Inbox;
use crate::mapper::Mapper;
use crate::persister::Persister;

mod deliver;
mod failure;
mod handle_message;
mod handlers;
mod handling;
mod in_transaction;
mod incoming;
mod not_found;
mod panicking;
mod park_after;
mod parked;
mod refresh;
mod retry_parked;
mod telemetry;
mod try_once;

pub use handle_message::HandleMessage;
pub use handlers::Handlers;
pub use handling::Handling;
pub use in_transaction::InTransaction;
pub use not_found::NotFound;
use not_found::NotFoundPolicy;
pub use park_after::{DEFAULT_PARKING_DELAY, DEFAULT_TRIES_BEFORE_PARKING, MAX_PARKED_ERROR_BYTES, ParkAfter};
pub use parked::{MAX_PARKED_PAGE, ParkedFilter, ParkedId, ParkedMessage, discard_parked, parked_messages};
pub(crate) use parked::{NewParked, ParkedRow, ParkingTables};
pub use refresh::{MAX_REFRESH_FAILURES, REFRESH_PAGE, Refreshed};
pub use retry_parked::Retried;

/// What the messages that a saga with a [`Mapper`] handled are remembered under in the
/// [`Inbox`]: this, and the persistence key.
pub const SAGA_INBOX_PREFIX: &str = "saga/";

/// Hands messages to the instances of one saga.
///
/// For each message it finds the instance, loads it, lets the saga decide ([`HandleMessage`]), and saves events,
/// commands, timeouts, the mapping and the program's own writes ([`InTransaction`]) in one transaction. A message takes
/// effect once, however often it is delivered: messages are told apart by
/// [`Envelope::message_id`](crate::Envelope::message_id).
///
/// [`handle`](Self::handle) owns its transaction, and tries again when other writers were faster;
/// [`handle_in`](Self::handle_in) works in a transaction of the caller's, where nothing is retried.
///
/// A message that names its instance itself, without [`InTransaction`] or a [`NotFound`] of the program's own, costs what
/// [`Persister::execute`] costs: one statement to load and one to commit.
///
/// Cheap to clone; holds no connection.
pub struct MessageHandler<S: HandleMessage, DB: Database> {
    saga: Arc<S>,
    persister: Persister<DB>,
    mapping: Mapping<S, DB>,
    inbox: Inbox,
    not_found: NotFoundPolicy<DB>,
    in_transaction: Option<Arc<dyn InTransaction<S, DB>>>,
    park_after: Option<ParkAfter>,
}

type InstanceOf<S> = dyn Fn(&<S as HandleMessage>::Message) -> Result<Option<InstanceId>> + Send + Sync;

/// How instances are found.
enum Mapping<S: HandleMessage, DB: Database> {
    /// The message names it.
    Direct(Arc<InstanceOf<S>>),
    /// The database is asked.
    Mapper(Arc<dyn Mapper<S, DB>>),
}

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// For a saga whose messages name their instance: `instance_of` gives its id, `None` for a message that the saga
    /// does not care for. Must depend on nothing but the message.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) for a persistence key that cannot be stored.
    pub fn direct(
        saga: S,
        persister: Persister<DB>,
        instance_of: impl Fn(&S::Message) -> Result<Option<InstanceId>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::new(saga, persister, Mapping::Direct(Arc::new(instance_of)))
    }

    /// For a saga whose instances are found in the database, as by a [`KeySet`](crate::KeySet).
    ///
    /// # Errors
    /// As [`direct`](Self::direct).
    pub fn mapped(saga: S, persister: Persister<DB>, mapper: impl Mapper<S, DB> + 'static) -> Result<Self> {
        Self::new(saga, persister, Mapping::Mapper(Arc::new(mapper)))
    }

    fn new(saga: S, persister: Persister<DB>, mapping: Mapping<S, DB>) -> Result<Self> {
        let inbox = Inbox::new(format!("{SAGA_INBOX_PREFIX}{}", saga.persistence_key()))?;
        let (not_found, saga) = (NotFoundPolicy::Ignore, Arc::new(saga));
        Ok(Self { saga, persister, mapping, inbox, not_found, in_transaction: None, park_after: None })
    }

    /// Passes over messages whose instance is not there and that start none; this is the default.
    #[must_use]
    pub fn ignore_not_found(mut self) -> Self {
        self.not_found = NotFoundPolicy::Ignore;
        self
    }

    /// Fails with [`Error::InstanceNotFound`](crate::Error::InstanceNotFound) on messages whose instance is not there and
    /// that start none, so that they are delivered again. Timeouts are passed over.
    #[must_use]
    pub fn error_if_not_found(mut self) -> Self {
        self.not_found = NotFoundPolicy::Error;
        self
    }

    /// Does this about messages whose instance is not there and that start none, once for each. Timeouts are passed
    /// over.
    #[must_use]
    pub fn on_not_found(mut self, own: impl NotFound<DB> + 'static) -> Self {
        self.not_found = NotFoundPolicy::Own(Arc::new(own));
        self
    }

    /// Does this too, in the transaction of each message that the saga handles.
    #[must_use]
    pub fn in_transaction(mut self, own: impl InTransaction<S, DB> + 'static) -> Self {
        self.in_transaction = Some(Arc::new(own));
        self
    }

    /// Parks messages that fail again and again, each with its instance: later messages of that instance then wait
    /// behind, in the order in which they came, and those of other instances go on. Without this, a failure is only
    /// returned. Applies to [`handle`](Self::handle); costs one more read for each message.
    #[must_use]
    pub fn park_after(mut self, park_after: ParkAfter) -> Self {
        self.park_after = Some(park_after);
        self
    }

    /// Forgets which messages were handled longer than `retention` ago; see [`Inbox::forget`]. Only needed with
    /// [`mapped`](Self::mapped) or [`on_not_found`](Self::on_not_found); otherwise an instance remembers for its whole
    /// life, and nothing is there to forget.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget(&self, pool: &Pool<DB>, retention: Duration) -> Result<u64> {
        self.inbox.forget(pool, retention).await
    }

    /// The saga.
    pub fn saga(&self) -> &S {
        &self.saga
    }

    /// The persister underneath.
    pub fn persister(&self) -> &Persister<DB> {
        &self.persister
    }

    /// A message may find another instance when it is delivered again, or was handled without one.
    fn uses_inbox(&self) -> bool {
        matches!(self.mapping, Mapping::Mapper(_)) || matches!(self.not_found, NotFoundPolicy::Own(_))
    }
}

impl<S: HandleMessage, DB: Database> Clone for MessageHandler<S, DB> {
    fn clone(&self) -> Self {
        Self {
            saga: Arc::clone(&self.saga),
            persister: self.persister.clone(),
            mapping: match &self.mapping {
                Mapping::Direct(instance_of) => Mapping::Direct(Arc::clone(instance_of)),
                Mapping::Mapper(mapper) => Mapping::Mapper(Arc::clone(mapper)),
            },
            inbox: self.inbox.clone(),
            not_found: self.not_found.clone(),
            in_transaction: self.in_transaction.clone(),
            park_after: self.park_after,
        }
    }
}

impl<S: HandleMessage, DB: Database> fmt::Debug for MessageHandler<S, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageHandler").field("saga", &self.saga.persistence_key()).finish_non_exhaustive()
    }
}
