//! The sagas by hand, with `Persister` alone: what `MessageHandler` does is written out.
use anyhow::{Result, anyhow};
use async_trait::async_trait;
use sagastore::emitter::{Delivery, Emitter};
use sagastore::{
    Backend, Begun, Envelope, Error, HandleMessage, Inbox, InstanceId, KeySet, Mapped, Mapper, MessageType, Outbox,
    Persister, Revision, Saga, TIMEOUT_INSTANCE, UnitOfWork,
};
use serde::de::DeserializeOwned;
use sqlx::Pool;

use super::account::{Account, AccountMessage};
use super::order::{self, Order, OrderMessage};
use super::transfer::{Transfer, TransferMessage};

pub(crate) struct ByHand<DB: Backend, E> {
    pool: Pool<DB>,
    persister: Persister<DB>,
    order: Order,
    order_keys: KeySet<Order>,
    order_inbox: Inbox,
    outside: E,
}

/// Why a unit of work was not begun, or failed.
enum Stop {
    NotForThisState,
    Failed(anyhow::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

/// The message, if it is of one of these types.
fn decode<M: MessageType + DeserializeOwned>(envelope: &Envelope) -> Result<Option<M>> {
    let known = M::TYPES.iter().any(|tag| tag.name == &*envelope.type_name && tag.version == envelope.type_version);
    Ok(if known { Some(serde_json::from_slice(&envelope.payload)?) } else { None })
}

/// A completed instance takes no messages, and one that is not there only those that start it.
fn takes<S: HandleMessage>(saga: &S, unit: &UnitOfWork<'_, S>, message: &S::Message) -> bool {
    !unit.is_completed() && (unit.instance().revision > Revision::ZERO || saga.is_trigger(message))
}

impl<DB: Backend, E: Emitter> ByHand<DB, E> {
    pub(crate) fn new(pool: &Pool<DB>, order: Order, outside: E) -> Result<Self> {
        let (pool, persister, order_inbox) = (pool.clone(), Persister::<DB>::new(), Inbox::new("orders")?);
        let order_keys = KeySet::new(order::key_of, order::keys_of);
        Ok(Self { pool, persister, order, order_keys, order_inbox, outside })
    }

    /// False if no saga handles such messages.
    pub(crate) async fn deliver(&self, envelope: &Envelope) -> Result<bool> {
        if let Some(message) = decode::<AccountMessage>(envelope)? {
            self.hand_over(&Account, message.account()?, envelope, &message).await?;
        } else if let Some(message) = decode::<TransferMessage>(envelope)? {
            self.hand_over(&Transfer, message.transfer()?, envelope, &message).await?;
        } else if let Some(message) = decode::<OrderMessage>(envelope)? {
            while let Err(error) = self.try_order(envelope, &message).await {
                let again = |error: &Error| matches!(error, Error::Conflict { .. } | Error::Contention { .. });
                if !error.downcast_ref::<Error>().is_some_and(again) {
                    return Err(error);
                }
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The message names its instance: load, decide and save, once per message, retried when another was faster.
    async fn hand_over<S: HandleMessage>(
        &self,
        saga: &S,
        id: InstanceId,
        envelope: &Envelope,
        message: &S::Message,
    ) -> Result<()> {
        let executed = self.persister.execute(&self.pool, saga, &id, Some(envelope.into()), |unit| {
            if !takes(saga, unit, message) {
                return Err(Stop::NotForThisState);
            }
            saga.handle(unit, message).map_err(|error| Stop::Failed(anyhow!(error)))
        });
        match executed.await {
            Ok(_) | Err(Stop::NotForThisState) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// An order is found by its keys, which are kept in step with it: all in one transaction.
    async fn try_order(&self, envelope: &Envelope, message: &OrderMessage) -> Result<()> {
        let mut tx = self.persister.begin(&self.pool).await?;
        if self.order_inbox.receive(&mut tx, envelope.message_id).await?.is_repeated() {
            return Ok(());
        }
        let starts = self.order.is_trigger(message);
        let mapped = match envelope.metadata.get(TIMEOUT_INSTANCE) {
            Some(id) => Mapped::Instance(InstanceId::new(id)?),
            None => self.order_keys.map(&mut tx, &self.order, message, envelope, starts).await?,
        };
        let Mapped::Instance(id) = mapped else { return Ok(()) };
        let begun = self.persister.begin_handling(&self.order, &mut tx, Outbox, &id, envelope).await?;
        let Begun::Unit(mut unit) = begun else { return Ok(()) };
        if !takes(&self.order, &unit, message) {
            return Ok(());
        }
        self.order.handle(&mut unit, message).map_err(|error| anyhow!(error))?;
        let instance = unit.instance().clone();
        let completed = self.order.is_complete(&instance.data);
        if self.persister.save(&mut tx, unit).await?.is_changed() {
            self.order_keys.update(&mut tx, &self.order, &instance, completed).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl<DB: Backend, E: Emitter> Emitter for ByHand<DB, E> {
    async fn emit(&self, batch: Vec<Delivery>) {
        for delivery in batch {
            match self.deliver(&delivery.record().envelope).await {
                Ok(true) => delivery.delivered(),
                Ok(false) => self.outside.emit(vec![delivery]).await,
                Err(error) => delivery.failed(error),
            }
        }
    }
}
