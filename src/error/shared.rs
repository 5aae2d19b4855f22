//! One error for several callers.

use std::fmt::Display;

use super::{Cause, Error};

impl Error {
    /// The same error for each of several callers.
    pub(crate) fn for_each_of(self, callers: usize) -> impl Iterator<Item = Self> {
        type Kind = fn(&'static str, Cause) -> Error;
        let (doing, source, kind): (_, _, Kind) = match self {
            Self::Contention { doing, source } => (doing, source, |doing, source| Self::Contention { doing, source }),
            Self::Disconnected { doing, source } => {
                (doing, source, |doing, source| Self::Disconnected { doing, source })
            }
            Self::Storage { doing, source } => (doing, source, |doing, source| Self::Storage { doing, source }),
            Self::PoolTimeout { doing } => (doing, doing.into(), |doing, _| Self::PoolTimeout { doing }),
            Self::Closed { doing } => (doing, doing.into(), |doing, _| Self::Closed { doing }),
            other => ("writing for several callers", other.into(), |doing, source| Self::Storage { doing, source }),
        };
        let shared = SharedCause(source.into());
        (0..callers).map(move |_| kind(doing, shared.clone().into()))
    }
}

/// A cause that several errors have.
#[derive(Clone, Debug)]
struct SharedCause(std::sync::Arc<dyn std::error::Error + Send + Sync>);

impl Display for SharedCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Itself, so that who looks for the driver's error finds it.
        Some(&*self.0)
    }
}
