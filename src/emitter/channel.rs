//! Messages for another task of the same process.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Delivery, Emitter};

/// Puts records into a bounded channel. They count as delivered when whoever receives them says so.
///
/// The receiver may be slower than the dispatcher: the time limit of a record runs from when it is received, and what
/// was not received when the time for its batch is over is left in the outbox, for a later batch.
#[derive(Clone, Debug)]
pub struct ChannelEmitter(mpsc::Sender<Delivery>);

/// Receives what a [`ChannelEmitter`] was given; each record is to be reported on.
#[derive(Debug)]
pub struct DeliveryReceiver(mpsc::Receiver<Delivery>);

impl ChannelEmitter {
    /// A channel that holds so many records at most, at least one.
    pub fn new(capacity: usize) -> (Self, DeliveryReceiver) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Self(sender), DeliveryReceiver(receiver))
    }
}

impl DeliveryReceiver {
    /// The next record, whose time begins; `None` once all emitters of the channel are gone. Dropping the future loses
    /// no record.
    pub async fn recv(&mut self) -> Option<Delivery> {
        loop {
            let delivery = self.0.recv().await?;
            if delivery.begin() {
                return Some(delivery);
            }
        }
    }

    /// The next record if there is one, whose time begins.
    pub fn try_recv(&mut self) -> Option<Delivery> {
        std::iter::from_fn(|| self.0.try_recv().ok()).find(Delivery::begin)
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
