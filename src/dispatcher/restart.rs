//! Going on after a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::FutureExt;

use super::stop::Stop;
use super::telemetry;

/// How long a part of a dispatcher rests after a panic before it goes on: what panics at once must not take a processor.
pub(super) const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Does a part of a dispatcher's work to its end; `None` if it panicked. That is told at once, and followed by a pause
/// that a stop cuts short. An emitter's error, or who listens to `tracing` or `metrics`, is foreign code that can panic.
pub(super) async fn unless_it_panics<T>(doing: &'static str, stop: &Stop, part: impl Future<Output = T>) -> Option<T> {
    let done = AssertUnwindSafe(part).catch_unwind().await;
    if done.is_err() {
        // Who listens may be what panics.
        let _ = catch_unwind(|| telemetry::panicked(doing));
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => {}
            () = stop.requested() => {}
        }
    }
    done.ok()
}
