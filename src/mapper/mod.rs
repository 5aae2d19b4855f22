//! Which instance a message is for.

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use crate::envelope::Envelope;
use crate::error::Result;
use crate::handler::HandleMessage;
use crate::ids::InstanceId;
use crate::saga::Instance;

mod correlation_key;
mod key_set;
mod tables;

pub use correlation_key::{CorrelationKey, MAX_CORRELATION_KEY_BYTES};
pub use key_set::{KeySet, MAX_CORRELATION_KEYS};
pub(crate) use tables::MapperTables;

/// Where a [`Mapper`] sends a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// To this instance, whether it is there or not.
    Instance(InstanceId),
    /// To an instance that is not there.
    NotFound,
    /// Nowhere: the saga does not care for it.
    Ignored,
}

/// Finds the instance that a message is for, with the help of the database. For messages that name their instance
/// themselves, [`MessageHandler::direct`](crate::MessageHandler::direct) needs none. The one that is built in is
/// [`KeySet`].
///
/// As a message can find another instance each time, its being handled is remembered for the whole saga, in an
/// [`Inbox`](crate::Inbox).
#[async_trait]
pub trait Mapper<S: HandleMessage, DB: Database>: Send + Sync {
    /// Finds the instance. For a message that may start one (`trigger`), it gives the id of the new instance; of two
    /// that start one at once for the same reason, both must be given one id. What is written here is undone if the
    /// message fails.
    ///
    /// It is asked again once the instance is loaded: if it then finds another, the first has changed meanwhile, and all is
    /// done again.
    ///
    /// # Errors
    /// Any; the message then fails.
    async fn map(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &S,
        message: &S::Message,
        envelope: &Envelope,
        trigger: bool,
    ) -> Result<Mapped>;

    /// Notes how the instance is to be found from now on, after each unit of work and in its transaction.
    ///
    /// # Errors
    /// Any; the message then fails.
    async fn update(
        &self,
        tx: &mut Transaction<'_, DB>,
        saga: &S,
        instance: &Instance<S::Data>,
        completed: bool,
    ) -> Result<()>;
}
