//! Where the outbox's messages go.

mod channel;
mod closure;
mod delivery;
mod each;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
mod start;
mod topic;

use async_trait::async_trait;

pub use channel::{ChannelEmitter, DeliveryReceiver};
pub use closure::{FnEmitter, emitter_fn};
pub(crate) use delivery::Report;
pub use delivery::{Delivery, DeliveryFailure, FailureKind, Reports, deliveries};
pub(crate) use each::send_each;
pub(crate) use start::Start;
pub use topic::{TOPIC_PREFIX, TopicFn, default_topic};

/// Sends messages to the outside world: a broker, a queue, a function.
///
/// A [`Dispatcher`](crate::dispatcher::Dispatcher) hands over batches of records that may be sent in any order and at
/// once: a batch never holds two records of one stream, and the next record of a stream comes only after the one
/// before was reported. Several batches may be under way at a time.
///
/// The emitter reports on each record by itself, by [`Delivery::delivered`] once the other side has *confirmed* that it
/// keeps the message, or [`Delivery::failed`]. It need not wait for the slowest of the batch. A delivery that is
/// dropped, also by a panic, counts as failed; one that was [begun](Delivery::begin) and is not reported counts as failed
/// after the dispatcher's time limit. One with which the emitter did not begin within that time of its batch is
/// withdrawn: it costs no attempt, and comes again with a later batch. A record may come again, also after it was reported as delivered: the message's id is the
/// same then, so a broker or consumer can drop it.
#[async_trait]
pub trait Emitter: Send + Sync {
    /// Sends the records of a batch, and reports on each.
    async fn emit(&self, batch: Vec<Delivery>);
}

#[async_trait]
impl<E: Emitter + ?Sized> Emitter for std::sync::Arc<E> {
    async fn emit(&self, batch: Vec<Delivery>) {
        (**self).emit(batch).await;
    }
}
