//! Where new messages get their ids and times from.

use crate::ids::MessageId;
use crate::timestamp::Timestamp;

/// The process, unless a test kit set something else.
#[derive(Clone, Debug, Default)]
pub(crate) enum Source {
    /// Random ids that sort by time, and the clock of this process.
    #[default]
    Process,
    /// A counter, and a clock that is moved by hand.
    #[cfg(feature = "testkit")]
    Manual(std::sync::Arc<ManualSource>),
}

impl Source {
    pub(crate) fn message_id(&self) -> MessageId {
        match self {
            Self::Process => MessageId::new(),
            #[cfg(feature = "testkit")]
            Self::Manual(manual) => manual.message_id(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        match self {
            Self::Process => Timestamp::now(),
            #[cfg(feature = "testkit")]
            Self::Manual(manual) => manual.now(),
        }
    }
}

/// Ids that count from one, and a clock that stands still.
#[cfg(feature = "testkit")]
#[derive(Debug)]
pub(crate) struct ManualSource {
    last_id: std::sync::atomic::AtomicU64,
    micros: std::sync::atomic::AtomicI64,
}

#[cfg(feature = "testkit")]
impl ManualSource {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { last_id: 0.into(), micros: now.as_micros().into() }
    }

    pub(crate) fn message_id(&self) -> MessageId {
        let last = self.last_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        MessageId::from(uuid::Uuid::from_u128(u128::from(last) + 1))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.micros.load(std::sync::atomic::Ordering::Relaxed))
    }

    pub(crate) fn set(&self, now: Timestamp) {
        self.micros.store(now.as_micros(), std::sync::atomic::Ordering::Relaxed);
    }
}
