//! Whose fault it is that a message was not handled.

use std::error::Error as StdError;
use std::sync::Arc;

use sqlx::error::DatabaseError;

use super::incoming::Incoming;
use super::{HandleMessage, MessageHandler};
use crate::backend::Backend;
use crate::error::{Cause, Error, Fault};
use crate::ids::InstanceId;

const DOING: &str = "reading or writing in the transaction of a message";

impl<S: HandleMessage, DB: Backend> MessageHandler<S, DB> {
    /// An error that the saga, or what runs in its transaction, gave: one of the library's or of the database is
    /// passed on as such.
    pub(super) fn failed(&self, incoming: &Incoming<'_, S>, id: &InstanceId, cause: Cause) -> Error {
        let cause = match cause.downcast::<Error>() {
            Ok(error) => return *error,
            Err(cause) => cause,
        };
        let wrapped = along(&*cause).find_map(found::<DB>);
        match wrapped {
            Some(Found::Fault(fault, doing)) => fault.error(doing, cause),
            Some(Found::Ours(error)) => error,
            Some(Found::Theirs) | None => Error::Handler {
                saga: self.saga.persistence_key().to_owned(),
                instance: id.clone(),
                message_id: incoming.envelope.message_id,
                source: cause,
            },
        }
    }
}

/// An error and its causes.
fn along<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| StdError::source(*error))
}

/// What an error was wrapped around.
enum Found {
    /// A trouble of the database.
    Fault(Fault, &'static str),
    /// An error of the library that has no cause.
    Ours(Error),
    /// The fault of the message, its instance or the program.
    Theirs,
}

fn found<DB: Backend>(error: &(dyn StdError + 'static)) -> Option<Found> {
    match held::<Error>(error) {
        // Its cause says more.
        Some(Error::UnlockFailed { .. }) => return None,
        Some(error) => return Some(found_ours(error)),
        None => {}
    }
    let fault = match held::<sqlx::Error>(error) {
        Some(error) => Fault::of::<DB>(error),
        // What has the same text as an error of sqlx, and its causes, as `anyhow` and `error(transparent)` make it, has this.
        None => DB::judge(&**error.downcast_ref::<Box<dyn DatabaseError>>()?),
    };
    Some(match fault {
        // A table of the program's own is not there.
        Fault::SchemaMissing | Fault::Other => Found::Theirs,
        fault => Found::Fault(fault, DOING),
    })
}

/// The error itself, also where it is in a box or shared.
fn held<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    error
        .downcast_ref::<T>()
        .or_else(|| error.downcast_ref::<Box<T>>().map(|held| &**held))
        .or_else(|| error.downcast_ref::<Arc<T>>().map(|held| &**held))
}

fn found_ours(error: &Error) -> Found {
    match error {
        Error::Contention { doing, .. } => Found::Fault(Fault::Contention, doing),
        Error::Timeout { doing, .. } => Found::Fault(Fault::Timeout, doing),
        Error::PoolTimeout { doing } => Found::Fault(Fault::PoolTimeout, doing),
        Error::Closed { doing } => Found::Fault(Fault::Closed, doing),
        Error::Disconnected { doing, .. } => Found::Fault(Fault::Disconnected, doing),
        Error::Denied { doing, .. } => Found::Fault(Fault::Denied, doing),
        Error::Storage { doing, .. } => Found::Fault(Fault::Other, doing),
        Error::SchemaMissing { doing } => Found::Fault(Fault::SchemaMissing, doing),
        Error::Conflict { stream, expected, actual } => {
            Found::Ours(Error::Conflict { stream: stream.clone(), expected: *expected, actual: *actual })
        }
        Error::SchemaNewer { found, known } => Found::Ours(Error::SchemaNewer { found: *found, known: *known }),
        Error::Unsupported { what, detail } => Found::Ours(Error::Unsupported { what, detail }),
        Error::GlobalOrderRestored => Found::Ours(Error::GlobalOrderRestored),
        Error::Fenced { resource, token } => Found::Ours(Error::Fenced { resource: resource.clone(), token: *token }),
        Error::LockLost { resource, detail } => {
            Found::Ours(Error::LockLost { resource: resource.clone(), detail: detail.clone() })
        }
        Error::NotReleased { resource } => Found::Ours(Error::NotReleased { resource: resource.clone() }),
        Error::NeverStarted { doing } => Found::Ours(Error::NeverStarted { doing }),
        Error::LockerBusy { resource, limit } => {
            Found::Ours(Error::LockerBusy { resource: resource.clone(), limit: *limit })
        }
        Error::MaxRetries { resource, tries } => {
            Found::Ours(Error::MaxRetries { resource: resource.clone(), tries: *tries })
        }
        Error::InstanceNotFound { saga, message_id, type_name } => Found::Ours(Error::InstanceNotFound {
            saga: saga.clone(),
            message_id: *message_id,
            type_name: type_name.clone(),
        }),
        _ => Found::Theirs,
    }
}
