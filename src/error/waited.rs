//! Contention that was waited for.

use super::Error;

impl Error {
    /// True if the session has waited for another for as long as it may: tried again, the call would only wait as long once more.
    #[cfg(feature = "sqlite")]
    pub(crate) fn has_waited(&self) -> bool {
        let Self::Contention { source, .. } = self else { return false };
        let first: &(dyn std::error::Error + 'static) = &**source;
        let mut causes = std::iter::successors(Some(first), |cause| cause.source());
        causes.any(|cause| cause.downcast_ref().is_some_and(crate::sqlite::has_waited))
    }

    /// On servers that is [`Error::Timeout`].
    #[cfg(not(feature = "sqlite"))]
    pub(crate) fn has_waited(&self) -> bool {
        false
    }
}
