//! Messages for RabbitMQ.

mod error;
mod link;
mod properties;
mod session;

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Confirmation, Connection, ConnectionProperties};

use self::link::Link;
use self::session::Session;
use super::each::send_each;
use super::{Delivery, Emitter, TopicFn, default_topic};
use crate::outbox::OutboxRecord;

pub use error::RabbitMqError;
pub use link::ABANDON_CONNECTING_AFTER;

/// How long a message may take from its turn to be sent until the broker has confirmed it: many times what a healthy
/// cluster needs, and less than a dispatcher waits for a report.
pub const DEFAULT_CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a batch waits for a connection. It covers the name, TLS and the login.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many messages are on their way at a time, each on a channel of its own. RabbitMQ allows 2,047 channels to a
/// connection; confirming a persistent message takes it some milliseconds. What waits for a channel has
/// [begun](crate::emitter::Delivery::begin): keep the [batch](crate::dispatcher::DispatcherSettings::with_batch) within it if the
/// broker is slow.
pub const DEFAULT_CHANNELS: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// Publishes records to an exchange. A record is delivered when the broker has routed it to a queue and confirmed it.
///
/// Messages are persistent and mandatory: one that is routed to no queue is returned by the broker, and fails with
/// [`RabbitMqError::Unroutable`]; one that a queue refuses fails with [`RabbitMqError::Refused`]. They survive a restart
/// of the broker if the queues are durable.
///
/// Message id, correlation id, type, content type and time (in seconds) are sent as AMQP's properties, and
/// [`OutboxRecord::headers`] as headers, as text. RabbitMQ does not drop duplicates; consumers know them by the message
/// id. Metadata named `CC` or `BCC` would send copies to others and fails with [`RabbitMqError::Unusable`], and so do
/// names and routing keys of more than 255 bytes, and headers that do not fit into one frame together.
///
/// Each message has a channel of its own until it is confirmed, and channels are used again. A message for which the
/// broker closes the channel, as when the exchange does not exist, takes none of the others with it. The connection is
/// made with the first batch, and a lost one again with the next: what was on its way fails. One on which nothing was
/// heard for the time of a confirmation is given up.
///
/// The client library logs messages that were returned, with their payload, at level `warn` below the target `lapin`.
#[derive(Clone)]
pub struct RabbitMqEmitter {
    link: Arc<Link>,
    exchange: String,
    topic: TopicFn,
    confirm_timeout: Duration,
    connect_timeout: Duration,
}

impl RabbitMqEmitter {
    /// An emitter that gets its connections by `connect`, where they can have TLS, other ways to log in, and a name.
    /// Automatic recovery is to be left off. For TLS, switch on one of lapin's features for it; without, lapin connects
    /// to `amqps` in the clear. With [`default_topic`] as routing key and the default limits.
    ///
    /// ```
    /// use lapin::{Connection, ConnectionProperties};
    /// use sagastore::emitter::rabbitmq::RabbitMqEmitter;
    ///
    /// let emitter = RabbitMqEmitter::new("orders", async || {
    ///     Connection::connect("amqp://localhost", ConnectionProperties::default()).await
    /// })
    /// .topic(|record| record.event_type().to_owned());
    /// # drop(emitter);
    /// ```
    pub fn new<F, Fut>(exchange: impl Into<String>, connect: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = lapin::Result<Connection>> + Send + 'static,
    {
        Self {
            link: Arc::new(Link::new(connect, DEFAULT_CHANNELS)),
            exchange: exchange.into(),
            topic: Arc::new(default_topic),
            confirm_timeout: DEFAULT_CONFIRM_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        }
    }

    /// An emitter that connects to `amqp://user:password@host:port/vhost`, without TLS.
    ///
    /// # Errors
    /// [`RabbitMqError::Uri`] if it is not of this form. It refuses `amqps`, since the client sends passwords in the clear
    /// when it was built without TLS; and addresses of IPv6, for which the client would take `localhost`. Give those to
    /// [`new`](Self::new). No error and no debug output shows the URI.
    pub fn from_uri(exchange: impl Into<String>, uri: &str) -> Result<Self, RabbitMqError> {
        let is_ipv6 = uri.contains('[');
        // What the parser says may hold the URI.
        let uri: AMQPUri = uri.parse().map_err(|_| RabbitMqError::Uri)?;
        if uri.scheme != AMQPScheme::AMQP || is_ipv6 {
            return Err(RabbitMqError::Uri);
        }
        Ok(Self::new(exchange, move || {
            let properties = ConnectionProperties::default().with_connection_name(env!("CARGO_PKG_NAME").into());
            Connection::connect_uri(uri.clone(), properties)
        }))
    }

    /// Names the routing key of each record. A panic of `topic` fails the record.
    #[must_use]
    pub fn topic(mut self, topic: impl Fn(&OutboxRecord) -> String + Send + Sync + 'static) -> Self {
        self.topic = Arc::new(topic);
        self
    }

    /// How long a message may take from its turn to be sent until it is confirmed.
    #[must_use]
    pub fn confirm_timeout(mut self, timeout: Duration) -> Self {
        self.confirm_timeout = timeout;
        self
    }

    /// How long a batch waits for a connection.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many messages are on their way at a time. Clones of the emitter made before keep the old number, and a
    /// connection of their own.
    #[must_use]
    pub fn channels(mut self, channels: NonZeroUsize) -> Self {
        self.link = Arc::new(self.link.with_channels(channels));
        self
    }

    async fn publish(&self, session: &Session, record: &OutboxRecord) -> Result<(), RabbitMqError> {
        let routing_key = properties::short("routing key", &(self.topic)(record))?;
        let exchange = properties::short("exchange", &self.exchange)?;
        let properties = properties::of(record, session.frame_max())?;
        // Waiting for a channel ends when those before are confirmed, failed or timed out.
        let turn = session.turn().await?;
        let sent = async {
            session.unblocked().await;
            let channel = turn.channel().await?;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let publish = channel.basic_publish(exchange, routing_key.clone(), options, record.payload(), properties);
            let confirmed = async { publish.await?.await };
            let confirmation = confirmed.await.map_err(|source| RabbitMqError::Lost { source })?;
            turn.done(channel);
            Ok(confirmation)
        };
        match tokio::time::timeout(self.confirm_timeout, sent).await {
            Ok(confirmation) => self.judge(confirmation?, &routing_key),
            // The connection is kept: another would be blocked, too, and this one could not even be closed.
            Err(_) if session.is_blocked() => Err(RabbitMqError::Blocked { after: self.confirm_timeout }),
            Err(_) => {
                session.not_heard_for(self.confirm_timeout);
                Err(RabbitMqError::NoConfirm { after: self.confirm_timeout })
            }
        }
    }

    fn judge(&self, confirmation: Confirmation, routing_key: &ShortString) -> Result<(), RabbitMqError> {
        let (exchange, routing_key) = (self.exchange.clone(), routing_key.to_string());
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                let (code, reason) = (returned.reply_code, returned.reply_text.to_string());
                Err(RabbitMqError::Unroutable { exchange, routing_key, code, reason })
            }
            Confirmation::Nack(None) | Confirmation::NotRequested => {
                Err(RabbitMqError::Refused { exchange, routing_key })
            }
        }
    }
}

impl fmt::Debug for RabbitMqEmitter {
    /// Without the way to connect, which knows a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMqEmitter")
            .field("exchange", &self.exchange)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Emitter for RabbitMqEmitter {
    async fn emit(&self, batch: Vec<Delivery>) {
        match self.link.session(self.connect_timeout).await {
            Ok(session) => {
                send_each(batch, async |record: Arc<OutboxRecord>| self.publish(&session, &record).await).await;
            }
            Err(error) => batch.into_iter().for_each(|delivery| delivery.failed(error.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_neither_by_errors_nor_by_debug_output() {
        for bad in ["hidden", "http://u:hidden@h", "amqp:u:hidden", "amqps://u:hidden@h", "amqp://u:hidden@[::1]:1"] {
            let error = RabbitMqEmitter::from_uri("x", bad).expect_err(bad);
            assert!(!format!("{error} {error:?}").contains("hidden"), "{error:?}");
        }
        let emitter = RabbitMqEmitter::from_uri("x", "amqp://u:hidden@localhost/v").expect("usable");
        assert!(!format!("{emitter:?}").contains("hidden"));
    }
}
