//! One try to handle a message, inside a transaction.

use sqlx::{Connection, Transaction};

use super::incoming::{Incoming, carry_trace};
use super::panicking::{guarded, guarded_future, is_panic};
use super::park_after::is_parkable;
use super::parked::{NewParked, ParkingTables};
use super::{HandleMessage, Handling, Mapping, MessageHandler, NotFoundPolicy};
use crate::backend::Backend;
use crate::envelope::Inbound;
use crate::error::{Error, Result};
use crate::ids::InstanceId;
use crate::mapper::Mapped;
use crate::outbox::NewOutboxRecord;
use crate::persister::Begun;
use crate::recorder::Outbox;
use crate::saga::Instance;
use crate::unit_of_work::Saved;

/// What a try came to, and whether what it wrote is to be kept.
pub(super) enum Tried {
    Keep(Handling),
    Undo(Handling),
}

/// Whether a message waits behind those of its instance that are parked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Parked,
    Nothing,
}

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// A try in a part of a transaction, of which nothing is left unless it is to be kept.
    pub(super) async fn try_in_part(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        behind: Behind,
    ) -> Result<Handling> {
        let classify = |error| self.persister.store().classify("handling a message in a part of a transaction", error);
        let mut part = Connection::begin(&mut **tx).await.map_err(classify)?;
        match self.try_once(&mut part, incoming, behind).await {
            Ok(Tried::Keep(handling)) => part.commit().await.map_err(classify).map(|()| handling),
            Ok(Tried::Undo(handling)) => part.rollback().await.map_err(classify).map(|()| handling),
            // It is undone before the next statement.
            Err(error) if is_panic(&error) => Err(error),
            Err(error) => {
                // If this fails too, the whole transaction is lost; the first error says why.
                let _ = part.rollback().await;
                Err(error)
            }
        }
    }

    pub(super) async fn try_once(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        behind: Behind,
    ) -> Result<Tried> {
        let envelope = incoming.envelope;
        let mapped = self.map(tx, incoming).await?;
        if let (Mapped::Instance(id), Behind::Parked) = (&mapped, behind)
            && self.park_behind(tx, incoming, id).await?
        {
            return Ok(Tried::Keep(Handling::Parked { instance_id: id.clone(), error: None }));
        }
        if self.uses_inbox() && self.inbox.receive(tx, envelope.message_id).await?.is_repeated() {
            return Ok(Tried::Undo(Handling::AlreadyHandled(None)));
        }
        let (mut mapped, mut freed) = (mapped, false);
        let (id, mut unit) = loop {
            let id = match mapped {
                Mapped::Ignored => return Ok(Tried::Undo(Handling::Ignored)),
                Mapped::NotFound => return self.not_found(tx, incoming, None).await,
                Mapped::Instance(id) => id,
            };
            let begun = self.persister.begin_handling(&*self.saga, tx, Outbox, &id, Inbound::from(envelope)).await?;
            let unit = match begun {
                Begun::Unit(unit) => unit,
                Begun::AlreadyHandled(handled) => return Ok(Tried::Undo(Handling::AlreadyHandled(Some(handled)))),
            };
            if !unit.is_completed() {
                break (id, unit);
            }
            if freed {
                return Ok(Tried::Undo(Handling::Completed { instance_id: id }));
            }
            match self.map_past(tx, incoming, &unit.instance).await? {
                Some(again) => mapped = again,
                None => return Ok(Tried::Undo(Handling::Completed { instance_id: id })),
            }
            freed = true;
        };
        if unit.head.is_at_start() && !incoming.trigger {
            return self.not_found(tx, incoming, Some(&id)).await;
        }
        if !unit.head.is_at_start() {
            self.check_mapping(tx, incoming, &id).await?;
        }
        carry_trace(envelope, unit.sender());
        let handled = guarded(|| self.saga.handle(&mut unit, &incoming.message));
        handled.map_err(|cause| self.failed(incoming, &id, cause))?;
        if let Some(own) = &self.in_transaction {
            let done = guarded_future(own.run(tx, &mut unit, envelope)).await;
            done.map_err(|cause| self.failed(incoming, &id, cause))?;
        }
        let mapped = match &self.mapping {
            Mapping::Direct(_) => None,
            Mapping::Mapper(mapper) => Some((mapper, unit.instance.clone(), unit.completes())),
        };
        let saved = match self.persister.save(tx, unit).await? {
            Saved::AlreadyHandled(handled) => return Ok(Tried::Undo(Handling::AlreadyHandled(Some(handled)))),
            saved => saved,
        };
        if let Some((mapper, instance, completed)) = mapped {
            mapper.update(tx, &self.saga, &instance, completed).await?;
        }
        Ok(Tried::Keep(Handling::Handled { instance_id: id, saved, conflicts: 0 }))
    }

    /// The instance is completed. If that happened since it was found, its keys are free now, and the message may be for
    /// another. Where it was completed by somebody who knows nothing of the mapping they are not, and are freed now: gives what
    /// the message is for then. `None` if it is for the instance all the same.
    async fn map_past(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        completed: &Instance<S::Data>,
    ) -> Result<Option<Mapped>> {
        let (id, Mapping::Mapper(mapper)) = (&completed.instance_id, &self.mapping) else { return Ok(None) };
        if incoming.timeout_of.is_some() {
            return Ok(None);
        }
        self.check_mapping(tx, incoming, id).await?;
        let found = Mapped::Instance(id.clone());
        mapper.update(tx, &self.saga, completed, true).await?;
        let again = self.map(tx, incoming).await?;
        Ok((again != found).then_some(again))
    }

    /// Fails if the instance, which has been loaded since, is no longer the one that the message is for.
    async fn check_mapping(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        id: &InstanceId,
    ) -> Result<()> {
        if matches!(self.mapping, Mapping::Direct(_)) || self.map(tx, incoming).await? == Mapped::Instance(id.clone()) {
            return Ok(());
        }
        let source = format!("instance {id:?} gave up a key while a message was on its way to it").into();
        Err(Error::Contention { doing: "handling a message", source })
    }

    /// The instance that a message is for.
    pub(super) async fn map(&self, tx: &mut Transaction<'_, DB>, incoming: &Incoming<'_, S>) -> Result<Mapped> {
        if let Some(id) = &incoming.timeout_of {
            return Ok(Mapped::Instance(id.clone()));
        }
        match &self.mapping {
            Mapping::Direct(instance_of) => {
                Ok(instance_of(&incoming.message)?.map_or(Mapped::Ignored, Mapped::Instance))
            }
            Mapping::Mapper(mapper) => {
                mapper.map(tx, &self.saga, &incoming.message, incoming.envelope, incoming.trigger).await
            }
        }
    }

    async fn not_found(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        id: Option<&InstanceId>,
    ) -> Result<Tried> {
        let NotFoundPolicy::Own(own) = &self.not_found else { return self.without_instance(incoming).map(Tried::Undo) };
        if incoming.timeout_of.is_some() {
            return Ok(Tried::Undo(Handling::NotFound));
        }
        let envelope = incoming.envelope;
        let mut recorder = self.persister.recorder(Outbox);
        recorder.set_inbound(envelope.into())?;
        carry_trace(envelope, &mut recorder);
        let done = guarded_future(own.not_found(tx, &mut recorder, envelope, id)).await;
        // What nobody is known for goes by the message's own id.
        let id = id.cloned().unwrap_or_else(|| InstanceId::from(envelope.message_id.as_uuid()));
        done.map_err(|cause| self.failed(incoming, &id, cause))?;
        let record =
            |message: &crate::Envelope| NewOutboxRecord::new(self.saga.persistence_key(), id.as_str(), message.clone());
        let records: Vec<_> = recorder.recorded().iter().map(record).collect();
        if records.is_empty() {
            self.persister.check_usable(tx, &*self.saga, &id).await?;
        } else {
            self.persister.save_records(tx, &records).await?;
        }
        Ok(Tried::Keep(Handling::NotFound))
    }

    /// What a message comes to whose instance is not there, where nothing is to be done about it.
    pub(super) fn without_instance(&self, incoming: &Incoming<'_, S>) -> Result<Handling> {
        if incoming.timeout_of.is_some() || !matches!(self.not_found, NotFoundPolicy::Error) {
            return Ok(Handling::NotFound);
        }
        Err(Error::InstanceNotFound {
            saga: self.saga.persistence_key().to_owned(),
            message_id: incoming.envelope.message_id,
            type_name: incoming.envelope.type_name.as_ref().to_owned(),
        })
    }

    /// Parks a message if others of its instance are parked.
    async fn park_behind(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        id: &InstanceId,
    ) -> Result<bool> {
        let (store, saga) = (DB::Store::default(), self.saga.persistence_key());
        if self.park_after.is_none() {
            return Ok(false);
        }
        while store.is_parked(tx, saga, id).await? && !self.was_handled(tx, incoming, id).await? {
            // Who takes the last one away waits until this one is seen.
            if store.hold_parked(tx, saga, id).await? {
                let parked = NewParked { saga, instance: id, message: incoming.envelope, tries: 0, error: None };
                store.park(tx, parked).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if the message was handled before: then it need not be parked. An instance that cannot be loaded does not tell.
    pub(super) async fn was_handled(
        &self,
        tx: &mut Transaction<'_, DB>,
        incoming: &Incoming<'_, S>,
        id: &InstanceId,
    ) -> Result<bool> {
        let message = incoming.envelope.message_id;
        if self.uses_inbox() && self.inbox.has_received::<DB>(tx, message).await? {
            return Ok(true);
        }
        match self.persister.begin_handling(&*self.saga, tx, Outbox, id, message).await {
            Ok(Begun::AlreadyHandled(_)) => Ok(true),
            Ok(Begun::Unit(_)) => Ok(false),
            Err(error) if is_parkable(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
