//! Messages for another task of the same process.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Delivery, Emitter};

/// Puts records into a bounded channel. They count as delivered when whoever receives them says so.
#[derive(Clone, Debug)]
pub struct ChannelEmitter(mpsc::Sender<Delivery>);

/// Receives what a [`ChannelEmitter`] was given; each record is to be reported on.
pub type DeliveryReceiver = mpsc::Receiver<Delivery>;

impl ChannelEmitter {
    /// A channel that holds so many records at most, at least one.
    pub fn new(capacity: usize) -> (Self, DeliveryReceiver) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Self(sender), receiver)
    }
}

#[async_trait]
impl Emitter for ChannelEmitter {
    async fn emit(&self, batch: Vec<Delivery>) {
        for delivery in batch {
            if let Err(closed) = self.0.send(delivery).await {
                closed.0.failed("the receiver of the channel is gone");
            }
        }
    }
}
