//! One try of a unit of work with a transaction around it.

use sqlx::{Database, Transaction};

use crate::recorder::Outbox;
use crate::saga::Saga;
use crate::unit_of_work::UnitOfWork;

/// A unit of work and the transaction it will be saved in, handed to the closure of
/// [`execute_in_transaction`](crate::Persister::execute_in_transaction). Dropped, it undoes all.
#[derive(Debug)]
pub struct Attempt<'s, S: Saga, DB: Database> {
    /// The unit of work.
    pub unit: UnitOfWork<'s, S, Outbox>,
    /// The transaction, for the caller's own reads and writes.
    pub transaction: Transaction<'static, DB>,
}

impl<'s, S: Saga, DB: Database> Attempt<'s, S, DB> {
    /// Ends the try: the unit of work is saved, the transaction committed, and `value` returned.
    pub fn finish<R>(self, value: R) -> Finished<'s, S, DB, R> {
        Finished { attempt: self, value }
    }
}

/// A try that is to be saved and committed.
#[derive(Debug)]
pub struct Finished<'s, S: Saga, DB: Database, R> {
    pub(super) attempt: Attempt<'s, S, DB>,
    pub(super) value: R,
}
