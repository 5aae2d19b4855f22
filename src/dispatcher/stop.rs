//! An orderly end.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Whether, and until when, a dispatcher is to end.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<Option<Instant>>);

/// Asks for the end.
#[derive(Debug)]
pub(super) struct Stopper(watch::Sender<Option<Instant>>);

pub(super) fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(None);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    pub(super) fn stop(&self, grace: Duration) {
        self.0.send_replace(Some(Instant::now() + grace));
    }
}

impl Stop {
    pub(super) fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for the request; for ever if none can come.
    pub(super) async fn requested(&self) {
        let mut state = self.0.clone();
        if state.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until nothing may be under way any more.
    pub(super) async fn grace_over(&self) {
        self.requested().await;
        let end = *self.0.borrow();
        if let Some(end) = end {
            tokio::time::sleep_until(end).await;
        }
    }
}
