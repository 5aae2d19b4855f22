//! Messages for NATS JetStream.

mod error;
mod headers;
mod subject;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_trait::async_trait;

use super::each::send_each;
use super::{Delivery, Emitter, TopicFn, default_topic};
use crate::outbox::OutboxRecord;

pub use error::NatsError;
pub use headers::{HeaderError, read_headers};
pub use subject::MAX_SUBJECT_BYTES;

/// How long a message may take until the server has acknowledged it: many times what a healthy cluster needs, and less
/// than a dispatcher waits for a report.
pub const DEFAULT_ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes records to JetStream. A record is delivered when the server has acknowledged that a stream keeps it.
///
/// All records of a batch are sent at once, and each is reported on as soon as its own acknowledgement comes. Connection,
/// TLS and credentials are those of the context that is given; it reconnects by itself. Give the client a password by its
/// `ConnectOptions`: it logs the address, and a password in it, at DEBUG. What could not be sent within the
/// time for the acknowledgement is reported as failed, and may arrive nevertheless.
///
/// The message id is sent as `Nats-Msg-Id`, so that the server drops what it has seen before. It remembers ids as long
/// as the stream's *duplicate window*: set that to more than the longest delay between two tries of a dispatcher, with
/// the time of an outage on top. NATS's default is two minutes. A message that is tried again later than that stands in
/// the stream twice, with the same id.
///
/// The stream must exist and should be kept on file. Its subjects must cover those of the topic function; default topics
/// are of one token each, such as `outbox-order-shipped`, which a stream names one by one. A message whose subject no
/// stream covers fails with [`NatsError::NoStream`].
///
/// A subject is never changed: one that NATS does not allow (empty, with white space, control characters, wildcards or
/// empty tokens), one longer than [`MAX_SUBJECT_BYTES`], or one of the server's own below `$JS` and `$SYS` fails with
/// [`NatsError::Subject`]. The headers are [`OutboxRecord::headers`]; [`read_headers`] says how those are sent that
/// NATS could not carry as they are, and reads them back.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use sagastore::emitter::nats::NatsEmitter;
///
/// let client = async_nats::connect("nats://localhost").await?;
/// let emitter = NatsEmitter::new(async_nats::jetstream::new(client))
///     .topic(|record| format!("orders.{}", record.event_type()));
/// # drop(emitter);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct NatsEmitter {
    context: Context,
    topic: TopicFn,
    ack_timeout: Duration,
}

impl NatsEmitter {
    /// An emitter with [`default_topic`] and [`DEFAULT_ACK_TIMEOUT`].
    pub fn new(context: Context) -> Self {
        Self { context, topic: Arc::new(default_topic), ack_timeout: DEFAULT_ACK_TIMEOUT }
    }

    /// Names the subject of each record. A panic of `topic` fails the record.
    #[must_use]
    pub fn topic(mut self, topic: impl Fn(&OutboxRecord) -> String + Send + Sync + 'static) -> Self {
        self.topic = Arc::new(topic);
        self
    }

    /// How long a message may take from its turn to be sent until it is acknowledged. The context has a time limit of its
    /// own; the shorter one counts.
    #[must_use]
    pub fn ack_timeout(mut self, timeout: Duration) -> Self {
        self.ack_timeout = timeout;
        self
    }

    async fn publish(&self, record: &OutboxRecord) -> Result<(), NatsError> {
        let subject = subject::check((self.topic)(record))?;
        let message = PublishMessage::build()
            .payload(record.envelope.payload.clone())
            .headers(headers::to_nats(&record.headers())?)
            .message_id(record.envelope.message_id.to_string());
        let acknowledged = async { self.context.send_publish(subject.clone(), message).await?.await };
        match tokio::time::timeout(self.ack_timeout, acknowledged).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(NatsError::from_publish(subject, error)),
            Err(_) => Err(NatsError::NoAck { subject }),
        }
    }
}

impl fmt::Debug for NatsEmitter {
    /// Without the context, which knows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsEmitter").field("ack_timeout", &self.ack_timeout).finish_non_exhaustive()
    }
}

#[async_trait]
impl Emitter for NatsEmitter {
    async fn emit(&self, batch: Vec<Delivery>) {
        send_each(batch, async |record: Arc<OutboxRecord>| self.publish(&record).await).await;
    }
}
