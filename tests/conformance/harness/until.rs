//! Waiting for what another task does.

use std::time::{Duration, Instant};

use anyhow::ensure;

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Waits until `condition` is true; `what` names it for the reader of a failure.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !condition().await? {
        ensure!(began.elapsed() < WITHIN, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
