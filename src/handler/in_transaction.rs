//! What else happens in the transaction of a handled message.

use async_trait::async_trait;
use sqlx::{Database, Transaction};

use crate::envelope::Envelope;
use crate::error::Cause;
use crate::saga::Saga;
use crate::unit_of_work::UnitOfWork;

/// Reads and writes of the program's own, in the transaction in which a saga handles a message: a projection, a table
/// of the business. They share the fate of the unit of work.
#[async_trait]
pub trait InTransaction<S: Saga, DB: Database>: Send + Sync {
    /// Called after the saga has decided and before its unit of work is saved; it may record more in `unit`.
    ///
    /// It runs again if the transaction is lost to others, so it must have no effects outside it.
    ///
    /// # Errors
    /// Anything; nothing of the message is then stored. An [`Error`](crate::Error) of this crate, or a trouble that `sqlx` reports, is
    /// told as what it is, also if it is only a [`source`](std::error::Error::source), as in an enum of the program's own:
    /// a lost race is tried again, and no trouble of the database or of a lock parks a message. All else, also a statement that the
    /// database refuses, is [`Error::Handler`](crate::Error::Handler), and so are a panic and what a wrapped error of this crate says
    /// of a message, a key or an instance.
    ///
    /// A wrapper that stands in for what it holds, and gives only the sources of that, hides it, unless the database itself
    /// has answered: `#[error(transparent)]`, or an `anyhow::Error` to which no context was added.
    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &mut UnitOfWork<'_, S>,
        message: &Envelope,
    ) -> Result<(), Cause>;
}
