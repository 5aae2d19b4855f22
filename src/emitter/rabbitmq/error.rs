//! Why a message is not in RabbitMQ.

use std::time::Duration;

/// Why a message was not confirmed by RabbitMQ.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RabbitMqError {
    /// The URI cannot be used; it is not shown, since it may hold a password.
    #[error(
        "the URI of RabbitMQ is not usable; it must be of the form amqp://user:password@host:port/vhost; for amqps or \
         an IPv6 address give the emitter a function that connects"
    )]
    Uri,
    /// There is no connection. Nothing was sent.
    #[error("there is no connection to RabbitMQ: {source}")]
    Connect {
        /// What the client said.
        source: lapin::Error,
    },
    /// No connection was made in time. Nothing was sent.
    #[error("no connection to RabbitMQ was made within {after:?}")]
    ConnectTimeout {
        /// How long was waited.
        after: Duration,
    },
    /// The function that connects has panicked. Nothing was sent.
    #[error("connecting to RabbitMQ panicked")]
    ConnectPanicked,
    /// The message cannot be put as AMQP has it. Nothing was sent.
    #[error("the {what} is not usable: {detail}")]
    Unusable {
        /// Which part of the message.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// No queue is bound for the message. Nothing was kept.
    #[error("exchange {exchange:?} routes {routing_key:?} to no queue (code {code}, {reason}); bind a queue")]
    Unroutable {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
        /// AMQP's code.
        code: u16,
        /// The broker's words.
        reason: String,
    },
    /// The broker did not take the message, as when a queue is full and rejects more.
    #[error("RabbitMQ refused a message for {routing_key:?} on exchange {exchange:?}; look for a full queue")]
    Refused {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// The confirmation did not come in time. The message may have arrived.
    #[error("RabbitMQ did not confirm a message within {after:?}; it may have arrived")]
    NoConfirm {
        /// How long was waited.
        after: Duration,
    },
    /// The broker takes nothing for now, as when its memory or its disk runs out. The message may arrive once that is over.
    #[error(
        "RabbitMQ has blocked the connection for {after:?}, as when its memory or its disk runs out; see its alarms"
    )]
    Blocked {
        /// How long was waited.
        after: Duration,
    },
    /// The channel or the connection ended before the confirmation came, as when the exchange does not exist. The message
    /// may have arrived.
    #[error("the channel ended before RabbitMQ confirmed a message, which may have arrived: {source}")]
    Lost {
        /// Why, by the broker or the client.
        source: lapin::Error,
    },
    /// The connection was given up while the message waited for its turn. Nothing was sent.
    #[error("the connection to RabbitMQ was lost or given up before a message could be sent")]
    GivenUp,
}
