//! Why a message is not in JetStream.

use async_nats::jetstream::context::{PublishError, PublishErrorKind};

use super::HeaderError;

/// Why a message was not acknowledged by JetStream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The topic function named a subject that is not allowed. Nothing was sent.
    #[error("the subject {subject:?} is not usable: {detail}; mend the topic function")]
    Subject {
        /// What the topic function said, its beginning if it is long.
        subject: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// A header cannot be sent. Nothing was sent.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// No stream takes the subject, or JetStream is not there. Nothing was kept.
    #[error(
        "no stream takes messages for {subject:?}; create one whose subjects cover it, or look whether JetStream runs"
    )]
    NoStream {
        /// The subject.
        subject: String,
    },
    /// The message is larger than the server takes, headers included. Nothing was sent.
    #[error("the message for {subject:?} is too large for the server: {source}; raise its max_payload")]
    TooLarge {
        /// The subject.
        subject: String,
        /// The sizes.
        source: PublishError,
    },
    /// The acknowledgement did not come in time. The message may have arrived.
    #[error("no acknowledgement for a message to {subject:?} came in time; it may have arrived")]
    NoAck {
        /// The subject.
        subject: String,
    },
    /// The connection was lost before the acknowledgement came. The message may have arrived.
    #[error("the connection was lost while a message to {subject:?} was on its way; it may have arrived")]
    Disconnected {
        /// The subject.
        subject: String,
    },
    /// The server or the client refused the message.
    #[error("the message for {subject:?} was refused: {source}")]
    Refused {
        /// The subject.
        subject: String,
        /// What it said.
        source: PublishError,
    },
}

impl NatsError {
    pub(super) fn from_publish(subject: String, source: PublishError) -> Self {
        match source.kind() {
            PublishErrorKind::StreamNotFound => Self::NoStream { subject },
            PublishErrorKind::TimedOut => Self::NoAck { subject },
            PublishErrorKind::BrokenPipe => Self::Disconnected { subject },
            PublishErrorKind::MaxPayloadExceeded => Self::TooLarge { subject, source },
            _ => Self::Refused { subject, source },
        }
    }
}
