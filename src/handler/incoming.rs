//! A message as its saga sees it.

use super::{HandleMessage, MessageHandler};
use crate::backend::Backend;
use crate::codec::Codecs;
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Result};
use crate::ids::InstanceId;
use crate::message::{MessageType, StoredForm};
use crate::recorder::{Outbox, Recorder};
use crate::timeout::{TIMEOUT_INSTANCE, TIMEOUT_SAGA};
use crate::upcast::{UpcastError, upcast};

/// A message that a saga handles.
pub(super) struct Incoming<'a, S: HandleMessage> {
    pub(super) envelope: &'a Envelope,
    pub(super) message: S::Message,
    pub(super) trigger: bool,
    /// The instance that scheduled it, if it is a timeout.
    pub(super) timeout_of: Option<InstanceId>,
}

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// Says whether a message is of a type that the saga handles, in whatever version, and no timeout of another saga.
    pub fn handles(&self, message: &Envelope) -> bool {
        !matches!(current_form(&*self.saga, message), Ok(None))
    }
}

/// The current form of a message; `None` if it is not for this saga.
fn current_form<S: HandleMessage>(saga: &S, envelope: &Envelope) -> Result<Option<StoredForm>, UpcastError> {
    if envelope.metadata.get(TIMEOUT_SAGA).is_some_and(|key| key != saga.persistence_key()) {
        return Ok(None);
    }
    match upcast::<S::Message>(StoredForm::from(envelope)) {
        Ok(form) => Ok(Some(form)),
        Err(UpcastError::Unknown { type_name, .. }) if is_foreign::<S>(envelope, &type_name) => Ok(None),
        Err(error) => Err(error),
    }
}

/// No message of the saga has this name, in any version, and no step led away from it; nor did the saga schedule it.
/// Otherwise the saga lacks a version or a step, and the message must not be passed over.
fn is_foreign<S: HandleMessage>(envelope: &Envelope, ended_at: &str) -> bool {
    let name = &*envelope.type_name;
    let mut known =
        S::Message::TYPES.iter().map(|tag| tag.name).chain(S::Message::UPCASTS.iter().map(|step| step.from().name));
    name == ended_at && known.all(|known| known != name) && !envelope.metadata.contains_key(TIMEOUT_SAGA)
}

pub(super) fn undecodable(envelope: &Envelope, source: Cause) -> Error {
    Error::UndecodableMessage {
        message_id: envelope.message_id,
        type_name: envelope.type_name.as_ref().to_owned(),
        content_type: envelope.content_type.as_ref().to_owned(),
        source,
    }
}

impl<'a, S: HandleMessage> Incoming<'a, S> {
    /// Decodes a message; `None` if it is not for this saga.
    pub(super) fn decode(saga: &S, codecs: &Codecs, envelope: &'a Envelope) -> Result<Option<Self>> {
        let Some(form) = current_form(saga, envelope).map_err(|error| undecodable(envelope, error.into()))? else {
            return Ok(None);
        };
        let message: S::Message = codecs.decode_message(&form).map_err(|source| undecodable(envelope, source))?;
        let timeout_of = match envelope.metadata.get(TIMEOUT_SAGA) {
            Some(_) => envelope.metadata.get(TIMEOUT_INSTANCE).map(InstanceId::new).transpose()?,
            None => None,
        };
        let trigger = timeout_of.is_none() && saga.is_trigger(&message);
        Ok(Some(Self { envelope, message, trigger, timeout_of }))
    }
}

/// The text pairs by which a trace goes on through the outbox, as W3C Trace Context names them.
pub(super) const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// What is recorded belongs to the trace of the message that led to it.
pub(super) fn carry_trace(envelope: &Envelope, recorder: &mut Recorder<Outbox>) {
    for key in TRACE_CONTEXT {
        if let Some(value) = envelope.metadata.get(key) {
            recorder.set_metadata(key, value.as_str());
        }
    }
}
