//! Messages for a function.

use std::fmt;
use std::future::Future;

use async_trait::async_trait;

use super::each::send_each;
use super::{Delivery, Emitter};
use crate::error::Cause;
use crate::outbox::OutboxRecord;

/// Calls an asynchronous function for each record, for all records of a batch at once.
pub struct FnEmitter<F>(F);

/// An emitter that calls `send` for each record. A record is delivered when it returns `Ok`.
///
/// The time limit of a record runs from the call, also while `send` waits for its turn, as at a semaphore: what does not
/// get through in time fails. Where a batch takes longer than the limit, use a
/// [smaller one](crate::dispatcher::DispatcherSettings::with_batch), or a [`ChannelEmitter`](super::ChannelEmitter).
///
/// ```
/// use sagastore::emitter::emitter_fn;
///
/// let emitter = emitter_fn(async |record: sagastore::OutboxRecord| {
///     println!("{}: {} bytes", record.event_type(), record.payload().len());
///     Ok::<_, std::io::Error>(())
/// });
/// # drop(emitter);
/// ```
pub fn emitter_fn<F, Fut, E>(send: F) -> FnEmitter<F>
where
    F: Fn(OutboxRecord) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<Cause>,
{
    FnEmitter(send)
}

impl<F> fmt::Debug for FnEmitter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnEmitter")
    }
}

#[async_trait]
impl<F, Fut, E> Emitter for FnEmitter<F>
where
    F: Fn(OutboxRecord) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<Cause>,
{
    async fn emit(&self, batch: Vec<Delivery>) {
        send_each(batch, |record| (self.0)((*record).clone())).await;
    }
}
