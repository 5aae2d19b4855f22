//! Whether what was sent was delivered, in order.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use sagastore::MessageId;

/// How often messages were delivered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deliveries {
    /// How many messages were.
    pub(crate) messages: usize,
    /// How many came once more.
    pub(crate) repeats: usize,
}

impl Deliveries {
    /// Each message of each stream was delivered, the first deliveries in order; and nothing else was.
    pub(crate) fn compare(streams: &[Vec<MessageId>], delivered: &[MessageId]) -> anyhow::Result<Self> {
        let mut places = HashMap::new();
        for (stream, messages) in streams.iter().enumerate() {
            for (place, message) in messages.iter().enumerate() {
                ensure!(places.insert(*message, (stream, place)).is_none(), "message {message} was sent twice");
            }
        }
        let (mut next, mut deliveries) = (vec![0; streams.len()], Self::default());
        for message in delivered {
            let (stream, place) =
                places.get(message).with_context(|| format!("message {message} was delivered and is not there"))?;
            if *place < next[*stream] {
                deliveries.repeats += 1;
            } else {
                let expected = next[*stream];
                ensure!(*place == expected, "stream {stream}: message {place} was delivered before {expected}");
                next[*stream] += 1;
                deliveries.messages += 1;
            }
        }
        for (stream, messages) in streams.iter().enumerate() {
            let (sent, next) = (messages.len(), next[stream]);
            ensure!(next == sent, "stream {stream}: {next} of {sent} messages were delivered");
        }
        Ok(deliveries)
    }
}
