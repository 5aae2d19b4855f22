//! Panics of the program's code, which fail the message that they are about and nothing else.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;
use sqlx::Database;

use crate::error::{Cause, Error, Result};
use crate::guarded_connection::GuardedConnection;

/// A panic, as an error.
#[derive(Debug, thiserror::Error)]
#[error("it panicked: {0}")]
struct Panicked(String);

impl Panicked {
    fn new(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Self(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a text".to_owned()))
    }
}

/// What the program's code says, also if it panics: what it had in hand is dropped then.
pub(super) fn guarded(code: impl FnOnce() -> Result<(), Cause>) -> Result<(), Cause> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| Err(Panicked::new(&*panic).into()))
}

/// As [`guarded`], for what is waited for.
pub(super) async fn guarded_future(code: impl Future<Output = Result<(), Cause>>) -> Result<(), Cause> {
    AssertUnwindSafe(code).catch_unwind().await.unwrap_or_else(|panic| Err(Panicked::new(&*panic).into()))
}

/// True if a panic is the cause. A statement may then have been dropped half-way, as by a dropped call.
pub(super) fn is_panic(error: &Error) -> bool {
    matches!(error, Error::Handler { source, .. } if source.is::<Panicked>())
}

/// Gives a connection back to its pool, unless a panic may have left it unusable.
pub(super) fn release<DB: Database, T>(conn: GuardedConnection<DB>, done: &Result<T>) {
    if !done.as_ref().is_err_and(is_panic) {
        conn.release();
    }
}
