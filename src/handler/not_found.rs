//! What becomes of messages whose instance is not there.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use crate::envelope::Envelope;
use crate::error::Cause;
use crate::ids::InstanceId;
use crate::recorder::{Outbox, Recorder};

/// What is done about a message that starts no instance and whose instance is not there.
#[async_trait]
pub trait NotFound<DB: Database>: Send + Sync {
    /// Called once for such a message, in the transaction in which it counts as handled; `instance` is the one that it
    /// was for, if that is known. Messages that are recorded in `recorder` go to the outbox with that transaction.
    ///
    /// It may run again if the transaction is lost to others, so it must have no effects outside it.
    ///
    /// # Errors
    /// Anything; the transaction is then rolled back, and the error returned as that of
    /// [`InTransaction::run`](super::InTransaction::run) is.
    async fn not_found(
        &self,
        tx: &mut Transaction<'_, DB>,
        recorder: &mut Recorder<Outbox>,
        message: &Envelope,
        instance: Option<&InstanceId>,
    ) -> Result<(), Cause>;
}

/// The choice between them.
pub(super) enum NotFoundPolicy<DB: Database> {
    Ignore,
    Error,
    Own(Arc<dyn NotFound<DB>>),
}

impl<DB: Database> Clone for NotFoundPolicy<DB> {
    fn clone(&self) -> Self {
        match self {
            Self::Ignore => Self::Ignore,
            Self::Error => Self::Error,
            Self::Own(own) => Self::Own(Arc::clone(own)),
        }
    }
}
