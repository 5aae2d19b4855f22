//! What drivers report, as errors of this crate.

use super::{Cause, Error};

/// The kinds that a database tells apart by its codes; each backend maps its codes to these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(any(feature = "postgres", feature = "mysql")),
    expect(dead_code, reason = "SQLite has no codes for some of them")
)]
pub(crate) enum Fault {
    SchemaMissing,
    Contention,
    Timeout,
    Disconnected,
    Denied,
    Other,
}

/// Turns a driver's error into ours. `by_code` judges what the server itself answered.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn from_driver(
    doing: &'static str,
    error: sqlx::Error,
    by_code: impl FnOnce(&(dyn sqlx::error::DatabaseError + 'static)) -> Fault,
) -> Error {
    let fault = match &error {
        sqlx::Error::PoolTimedOut => return Error::PoolTimeout { doing },
        sqlx::Error::PoolClosed => return Error::Closed { doing },
        sqlx::Error::Database(answer) => by_code(answer.as_ref()),
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => Fault::Disconnected,
        sqlx::Error::Tls(_) => Fault::Denied,
        _ => Fault::Other,
    };
    let source = Cause::from(error);
    match fault {
        Fault::SchemaMissing => Error::SchemaMissing { doing },
        Fault::Contention => Error::Contention { doing, source },
        Fault::Timeout => Error::Timeout { doing, source },
        Fault::Disconnected => Error::Disconnected { doing, source },
        Fault::Denied => Error::Denied { doing, source },
        Fault::Other => Error::Storage { doing, source },
    }
}
