//! Handling one message.

use async_trait::async_trait;
use sagastore::{
    Begun, Cause, Envelope, Error, Executed, Handling, InTransaction, Inbox, InstanceId, MessageHandler, MessageId,
    Outbox, Persister, Saved, SnapshotFrequency, UnitOfWork,
};
use sqlx::{Pool, Transaction};

use super::Manner;
use crate::site::Site;
use crate::tally::{self, KEYED, NAMED, Tally};

/// So often that instances have several.
const SNAPSHOT_FREQUENCY: u64 = 10;
/// Fewer than there are instances.
const CACHED_INSTANCES: usize = 100;
/// Who remembers what was handled without a saga.
pub(crate) const CONSUMER: &str = "inbox-writer";

/// Why a message could not be handled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Library(#[from] Error),
    /// Of a statement of the caller's own, before the commit.
    #[error("a statement of the caller's own failed: {0}")]
    Own(sqlx::Error),
}

impl Fault {
    /// The message may be handled all the same, as the library tells its callers.
    pub(crate) fn may_have_happened(&self) -> bool {
        matches!(self, Self::Library(Error::Disconnected { .. }))
    }
}

/// Handles messages in one manner.
pub(crate) struct Worker<DB: Site> {
    pool: Pool<DB>,
    manner: Manner,
    persister: Persister<DB>,
    handler: MessageHandler<Tally, DB>,
    inbox: Inbox,
}

impl<DB: Site> Worker<DB> {
    pub(crate) fn new(pool: &Pool<DB>, manner: Manner) -> Result<Self, Error> {
        let every = SnapshotFrequency::every(SNAPSHOT_FREQUENCY);
        let mut persister = Persister::<DB>::new().with_snapshot_frequency(every);
        if matches!(manner, Manner::Cached | Manner::CachedInGroup) {
            persister = persister.with_instance_cache(pool, CACHED_INSTANCES);
        }
        if matches!(manner, Manner::Grouped | Manner::CachedInGroup) {
            persister = DB::grouped(persister, pool);
        }
        let handler = MessageHandler::mapped(KEYED, persister.clone(), tally::key_set())?.in_transaction(OwnRow);
        Ok(Self { pool: pool.clone(), manner, persister, handler, inbox: Inbox::new(CONSUMER)? })
    }

    pub(crate) fn manner(&self) -> Manner {
        self.manner
    }

    /// Handles it, once. `false`: it was handled before.
    pub(crate) async fn handle(&self, message: MessageId, name: &str) -> Result<bool, Fault> {
        match self.manner {
            Manner::Plain | Manner::Cached | Manner::Grouped | Manner::CachedInGroup => {
                let id = InstanceId::new(name)?;
                let decide = |unit: &mut UnitOfWork<'_, Tally>| tally::count(unit, message, name, DB::PADDING);
                let executed = self.persister.execute(&self.pool, &NAMED, &id, Some(message.into()), decide).await?;
                Ok(!executed.is_already_handled())
            }
            Manner::Attempt => self.attempt(message, name).await,
            Manner::OwnTransaction => self.own_transaction(message, name).await,
            Manner::Keyed => {
                let envelope = tally::incoming(message, name, DB::PADDING)?;
                match self.handler.handle(&self.pool, &envelope).await? {
                    Handling::Handled { .. } => Ok(true),
                    Handling::AlreadyHandled(_) => Ok(false),
                    other => panic!("a trigger was not handled: {other:?}"),
                }
            }
            Manner::Inbox => self.receive(message).await,
        }
    }

    async fn attempt(&self, message: MessageId, name: &str) -> Result<bool, Fault> {
        let id = InstanceId::new(name)?;
        let work = |mut attempt: sagastore::Attempt<'static, Tally, DB>| async move {
            tally::count(&mut attempt.unit, message, name, DB::PADDING)?;
            own_row::<DB>(&mut attempt.transaction, message).await.map_err(Fault::Own)?;
            Ok::<_, Fault>(attempt.finish(()))
        };
        let executed: Executed<()> =
            self.persister.execute_in_transaction(&self.pool, &NAMED, &id, Some(message.into()), work).await?;
        Ok(!executed.is_already_handled())
    }

    async fn own_transaction(&self, message: MessageId, name: &str) -> Result<bool, Fault> {
        let id = InstanceId::new(name)?;
        let mut tx = self.persister.begin(&self.pool).await?;
        let begun = self.persister.begin_handling(&NAMED, &mut tx, Outbox, &id, message).await?;
        let Begun::Unit(mut unit) = begun else { return Ok(false) };
        tally::count(&mut unit, message, name, DB::PADDING)?;
        own_row::<DB>(&mut tx, message).await.map_err(Fault::Own)?;
        match self.persister.save(&mut tx, unit).await? {
            Saved::AlreadyHandled(_) => return Ok(false),
            saved => assert!(saved.is_changed(), "nothing was saved"),
        }
        self.commit(tx).await?;
        Ok(true)
    }

    async fn receive(&self, message: MessageId) -> Result<bool, Fault> {
        let mut tx = self.persister.begin(&self.pool).await?;
        if self.inbox.receive(&mut tx, message).await?.is_repeated() {
            return Ok(false);
        }
        own_row::<DB>(&mut tx, message).await.map_err(Fault::Own)?;
        self.commit(tx).await?;
        Ok(true)
    }

    async fn commit(&self, tx: Transaction<'_, DB>) -> Result<(), Error> {
        tx.commit().await.map_err(|error| self.persister.store().classify("committing", error))
    }
}

/// The row is written in the transaction of the handler.
struct OwnRow;

#[async_trait]
impl<DB: Site> InTransaction<Tally, DB> for OwnRow {
    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        _: &mut UnitOfWork<'_, Tally>,
        message: &Envelope,
    ) -> Result<(), Cause> {
        Ok(own_row::<DB>(tx, message.message_id).await?)
    }
}

async fn own_row<DB: Site>(tx: &mut Transaction<'_, DB>, message: MessageId) -> sqlx::Result<()> {
    DB::execute(tx, format!("INSERT INTO own_row VALUES ('{message}')")).await
}
