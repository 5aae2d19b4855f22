//! What is there before the test begins.

use std::fmt::Debug;

use super::SagaTest;
use super::expected::ExpectedTimeout;
use crate::codec;
use crate::envelope::Envelope;
use crate::error::Result;
use crate::message::{MessageKind, MessageType, StoredForm};
use crate::saga::Saga;
use crate::source::Source;
use crate::timeout::{TIMEOUT_INSTANCE, TIMEOUT_NAME, TIMEOUT_SAGA, TimeoutChange};
use crate::timestamp::Timestamp;

impl<S: Saga<Data: PartialEq + Debug>> SagaTest<S> {
    /// Gives the instance these events, by one unit of work. If they make the state complete, the instance is
    /// completed.
    ///
    /// # Panics
    /// If an event cannot be stored.
    #[must_use]
    #[track_caller]
    pub fn given(self, events: impl IntoIterator<Item = S::Event>) -> Self {
        let forms: Result<Vec<_>> = events.into_iter().map(|event| self.stored(&event)).collect();
        match forms {
            Ok(forms) => self.given_stored(forms),
            Err(error) => panic!("a given event cannot be stored: {error}"),
        }
    }

    /// Gives the instance events as they are stored, of older versions too; see [`StoredForm::json`]. One that cannot be
    /// read is an error of the next step.
    ///
    /// # Panics
    /// If an event cannot be stored.
    #[must_use]
    #[track_caller]
    pub fn given_stored(mut self, events: impl IntoIterator<Item = StoredForm>) -> Self {
        self.settle();
        let source = Source::Manual(self.source.clone());
        let envelope = |form: StoredForm| {
            let StoredForm { type_name, type_version, content_type, payload } = form;
            Envelope::made_by(&source, MessageKind::Event, type_name, type_version, content_type, payload)
        };
        let events: Result<Vec<_>> = events.into_iter().map(envelope).collect();
        let given = events.and_then(|events| {
            if events.is_empty() { Ok(()) } else { self.history.append(&events, false, (self.now(), &self.limits)) }
        });
        if let Err(error) = given {
            panic!("a given event cannot be stored: {error}");
        }
        let complete = |replay: crate::persister::load::Replay<'_, S>| self.saga.is_complete(&replay.instance.data);
        if self.history.replay(&self.saga, &self.codecs, None).is_ok_and(complete) {
            self.history.complete_last();
        }
        self
    }

    /// Gives the instance these pending timeouts: names, times and messages.
    ///
    /// # Panics
    /// If a message cannot be stored.
    #[must_use]
    #[track_caller]
    pub fn given_timeouts<T: Into<ExpectedTimeout>>(mut self, timeouts: impl IntoIterator<Item = T>) -> Self {
        self.settle();
        for timeout in timeouts {
            let ExpectedTimeout { name, due, message } = timeout.into();
            let message = message.envelope(&self.codecs, &self.limits, &Source::Manual(self.source.clone()));
            let mut message = message.unwrap_or_else(|error| panic!("a given timeout cannot be stored: {error}"));
            let stream = &self.history.stream;
            let origin = [
                (TIMEOUT_SAGA, stream.persistence_key.as_str()),
                (TIMEOUT_INSTANCE, stream.instance_id.as_str()),
                (TIMEOUT_NAME, &name),
            ];
            message.metadata.extend(origin.map(|(key, value)| (key.to_owned(), value.to_owned())));
            self.pending.change(&TimeoutChange::Schedule { name, due, message }, self.source.now());
        }
        self
    }

    /// Gives that the instance is completed.
    ///
    /// # Panics
    /// Never, unless the instance cannot be stored at all.
    #[must_use]
    #[track_caller]
    pub fn given_completed(mut self) -> Self {
        self.settle();
        if let Err(error) = self.history.append(&[], true, (self.now(), &self.limits)) {
            panic!("the instance cannot be completed: {error}");
        }
        self
    }

    /// Sets the clock, without delivering anything. It does not go back once something has happened.
    ///
    /// # Panics
    /// If it would go back.
    #[must_use]
    #[track_caller]
    pub fn at(self, now: Timestamp) -> Self {
        let before = self.now();
        let fresh = self.step.is_none() && self.history.is_empty();
        assert!(fresh || now >= before, "the clock shows {before} and cannot go back to {now}");
        self.source.set(now);
        self
    }

    fn stored<M: MessageType + serde::Serialize>(&self, message: &M) -> Result<StoredForm> {
        let (tag, codec) = (message.message_type(), self.codecs.events());
        let limit = self.limits.message_bytes;
        let payload = codec::encode(codec, tag.name, "message payload in bytes", limit, message)?.into();
        let (type_name, content_type) = (tag.name.into(), codec.content_type().into());
        Ok(StoredForm { type_name, type_version: tag.version, content_type, payload })
    }
}
