//! Whether, and when, an emitter began to send a message.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

/// When an emitter began with a delivery, or that it no longer may. Whoever comes first decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start(Arc<OnceLock<Option<Instant>>>);

impl Start {
    /// Begins, unless that was done before; false if it was withdrawn.
    pub(super) fn begin(&self) -> bool {
        self.0.get_or_init(|| Some(Instant::now())).is_some()
    }

    /// When it began. If it has not, it is withdrawn.
    pub(crate) fn or_withdraw(&self) -> Option<Instant> {
        *self.0.get_or_init(|| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withdrawn_cannot_begin_and_what_began_is_not_withdrawn() {
        let (withdrawn, begun) = (Start::default(), Start::default());
        assert!(withdrawn.or_withdraw().is_none() && !withdrawn.begin());
        assert!(begun.begin() && begun.or_withdraw().is_some() && begun.begin());
    }
}
