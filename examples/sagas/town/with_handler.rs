//! The sagas with `MessageHandler`: it finds instances, handles each message once, and leaves out the rest.
use std::time::Duration;

use anyhow::Result;
use sagastore::emitter::Emitter;
use sagastore::{Backend, Handlers, KeySet, MessageHandler, Persister};
use sqlx::Pool;

use super::account::{Account, AccountMessage};
use super::order::{self, Order};
use super::transfer::{Transfer, TransferMessage};

/// All sagas, as what the dispatcher sends messages to; what is for the world outside goes to `outside`.
pub(crate) fn sagas<DB: Backend>(
    pool: &Pool<DB>,
    payment_within: Duration,
    outside: impl Emitter + 'static,
) -> Result<Handlers<DB>> {
    let persister = Persister::<DB>::new();
    let accounts = MessageHandler::direct(Account, persister.clone(), |m: &AccountMessage| m.account().map(Some))?;
    let transfers = MessageHandler::direct(Transfer, persister.clone(), |m: &TransferMessage| m.transfer().map(Some))?;
    let orders =
        MessageHandler::mapped(Order { payment_within }, persister, KeySet::new(order::key_of, order::keys_of))?;
    Ok(Handlers::new(pool.clone()).with(accounts).with(transfers).with(orders).others_to(outside))
}
