//! What a framework tells this crate about its sagas.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, Revision};
use crate::message::MessageType;
use crate::stream_name::StreamName;

/// An event-sourced saga (process manager): its state is what its events make of it.
pub trait Saga: Send + Sync {
    /// The state of an instance.
    type Data: Clone + Send + Sync + Serialize + DeserializeOwned + 'static;
    /// The events of an instance.
    type Event: Send + Sync + Serialize + DeserializeOwned + MessageType;

    /// Names this saga in the database; at most
    /// [`MAX_PERSISTENCE_KEY_BYTES`](crate::MAX_PERSISTENCE_KEY_BYTES). Must never change, and no
    /// two sagas may share it.
    fn persistence_key(&self) -> &str;

    /// The state of an instance without events.
    fn new_data(&self) -> Self::Data;

    /// Changes the state by one event. Must depend on nothing else than its arguments, and must not
    /// fail: an event has happened. `envelope.recorded_at` is `None` while the event is published
    /// and set when it is replayed, so the state must not depend on it.
    fn apply_event(&self, data: &mut Self::Data, event: &Self::Event, envelope: &Envelope);

    /// Says that an instance in this state is done; its unit of work then completes it.
    fn is_complete(&self, data: &Self::Data) -> bool {
        let _ = data;
        false
    }

    /// Says that completing an instance cancels its pending timeouts. By default they are still delivered; a
    /// [`MessageHandler`](crate::MessageHandler) passes them over.
    fn completion_cancels_timeouts(&self) -> bool {
        false
    }

    /// Version of the form of [`Data`](Self::Data). Raise it with every change of the form: snapshots
    /// of another version are then ignored, and the instance is rebuilt from its events.
    fn data_version(&self) -> u32 {
        1
    }
}

/// An instance of a saga at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance<D> {
    /// Its identity.
    pub instance_id: InstanceId,
    /// Its state.
    pub data: D,
    /// Number of its events; zero for an instance that is not there yet.
    pub revision: Revision,
}

impl<D> Instance<D> {
    pub(crate) fn new(instance_id: InstanceId, data: D) -> Self {
        Self { instance_id, data, revision: Revision::ZERO }
    }
}

/// The stream of one saga instance, under its name and by its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SagaStream {
    /// The stream's name, made of the two parts.
    pub name: StreamName,
    /// The saga.
    pub persistence_key: String,
    /// The instance.
    pub instance_id: InstanceId,
}

impl SagaStream {
    /// The stream of an instance.
    ///
    /// # Errors
    /// As [`StreamName::of_saga`].
    pub fn new(persistence_key: &str, instance_id: &InstanceId) -> Result<Self> {
        Ok(Self {
            name: StreamName::of_saga(persistence_key, instance_id)?,
            persistence_key: persistence_key.to_owned(),
            instance_id: instance_id.clone(),
        })
    }

    /// Fails unless `found` is this stream's saga.
    pub(crate) fn check_owner(&self, found: Option<&str>) -> Result<()> {
        if found == Some(&*self.persistence_key) {
            return Ok(());
        }
        Err(Error::ForeignInstance {
            instance: self.instance_id.clone(),
            asked: self.persistence_key.clone(),
            found: found.unwrap_or_default().to_owned(),
        })
    }
}
