//! What happens to the instance.

use std::fmt::Debug;
use std::time::Duration;

use super::SagaTest;
use super::pending::{Pending, later};
use super::step::{Outcome, Step};
use crate::codec::Codecs;
use crate::envelope::Inbound;
use crate::error::Cause;
use crate::handler::HandleMessage;
use crate::message::StoredForm;
use crate::saga::Saga;
use crate::unit_of_work::UnitOfWork;
use crate::upcast::{UpcastError, upcast};

/// Most timeouts that one advance of the clock delivers; more are taken for an endless chain.
pub const MAX_DELIVERIES: u32 = 1_000;

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Runs a unit of work, for sagas that are used with [`Persister::execute`](crate::Persister::execute) and its
    /// like.
    ///
    /// # Panics
    /// If the instance is another one when it is loaded again.
    #[must_use]
    #[track_caller]
    pub fn when_unit<E: Into<Cause>>(mut self, decide: impl FnOnce(&mut UnitOfWork<'_, S>) -> Result<(), E>) -> Self {
        self.settle();
        let step = self.run(None, |unit| decide(unit).map_err(Into::into));
        self.step = Some(step);
        self
    }
}

impl<S: HandleMessage<Data: PartialEq + Debug>> SagaTest<S> {
    /// Hands the saga a message.
    ///
    /// # Panics
    /// If the instance is another one when it is loaded again.
    #[must_use]
    #[track_caller]
    pub fn when(mut self, message: S::Message) -> Self {
        self.settle();
        let inbound = Inbound::from(self.source.message_id());
        let step = self.deliver(inbound, &message, true);
        self.step = Some(step);
        self
    }

    /// Hands the saga a message as it is stored or sent, of an older version too; see
    /// [`StoredForm::json`].
    ///
    /// # Panics
    /// As [`when`](Self::when).
    #[must_use]
    #[track_caller]
    pub fn when_stored(mut self, message: StoredForm) -> Self {
        self.settle();
        let inbound = Inbound::from(self.source.message_id());
        let step = self.deliver_stored(inbound, message, true);
        self.step = Some(step);
        self
    }

    /// Delivers the pending timeout of this name, which starts no instance, moving the clock to its time if that is not past. Others that are
    /// due before it are left alone.
    ///
    /// # Panics
    /// If no timeout of this name is pending; as [`when`](Self::when).
    #[must_use]
    #[track_caller]
    pub fn when_timeout(mut self, name: &str) -> Self {
        self.settle();
        let Some(pending) = self.pending.named(name).cloned() else {
            panic!("no timeout {name:?} is pending; pending are {:?}", self.pending.names());
        };
        let step = self.deliver_timeout(&pending);
        self.step = Some(step);
        self
    }

    /// Moves the clock on and delivers all timeouts that become due meanwhile, each at its time, in order; also those
    /// that are scheduled on the way. What is expected next is expected of all of them together. Ends at the first
    /// that fails. Those to an instance that is completed are passed over.
    ///
    /// One that is cancelled on the way is not delivered here. A dispatcher may have read it into its batch by then, and still
    /// deliver it: test that too, with [`when`](Self::when) and the message of the timeout.
    ///
    /// # Panics
    /// After [`MAX_DELIVERIES`]; as [`when`](Self::when).
    #[must_use]
    #[track_caller]
    pub fn advance(mut self, duration: Duration) -> Self {
        self.settle();
        let end = later(self.now(), duration);
        let (mut all, mut left) = (Step::default(), MAX_DELIVERIES);
        self.begin_folding();
        while let Some(pending) = self.pending.first_due(end).cloned() {
            let Some(less) = left.checked_sub(1) else {
                panic!("{MAX_DELIVERIES} timeouts were delivered and there are more; does one schedule the next?");
            };
            left = less;
            all.extend(self.deliver_timeout(&pending));
            if matches!(all.outcome, Outcome::Failed(_)) {
                break;
            }
        }
        self.end_folding();
        if !matches!(all.outcome, Outcome::Failed(_)) {
            self.source.set(end);
        }
        self.step = Some(all);
        self
    }

    /// A timeout that fails stays pending: it would be tried again.
    #[track_caller]
    fn deliver_timeout(&mut self, pending: &Pending) -> Step {
        self.source.set(self.now().max(pending.due));
        let message = &pending.message;
        let form = StoredForm {
            type_name: message.type_name.clone(),
            type_version: message.type_version,
            content_type: message.content_type.clone(),
            payload: message.payload.clone(),
        };
        let step = self.deliver_stored(Inbound::from(message), form, false);
        if !matches!(step.outcome, Outcome::Failed(_)) {
            self.pending.remove_delivered(pending);
        }
        step
    }

    #[track_caller]
    fn deliver_stored(&mut self, inbound: Inbound, form: StoredForm, may_start: bool) -> Step {
        match decode::<S>(&self.codecs, form) {
            Ok(message) => self.deliver(inbound, &message, may_start),
            Err(error) => Step::of(Outcome::Failed(error)),
        }
    }

    /// `may_start` is false for timeouts, which start no instance, whatever their message.
    #[track_caller]
    fn deliver(&mut self, inbound: Inbound, message: &S::Message, may_start: bool) -> Step {
        if self.history.is_completed() {
            return Step::of(Outcome::PassedOver);
        }
        if self.history.is_empty() && !(may_start && self.saga.is_trigger(message)) {
            return Step::of(Outcome::NotFound);
        }
        self.run(Some(inbound), |unit| {
            let saga = unit.saga;
            saga.handle(unit, message)
        })
    }
}

fn decode<S: HandleMessage>(codecs: &Codecs, form: StoredForm) -> Result<S::Message, Cause> {
    let form = upcast::<S::Message>(form).map_err(|error| match error {
        UpcastError::Unknown { type_name, type_version } => {
            format!("the saga does not handle messages of type {type_name:?} version {type_version}").into()
        }
        failed @ UpcastError::Failed { .. } => Cause::from(failed),
    })?;
    codecs.decode_message(&form)
}
