//! Clients that work at the same time.

use std::future::Future;
use std::time::{Duration, Instant};

use super::side::is_measuring;

/// How long clients work in one run.
const RUN: Duration = Duration::from_millis(250);
/// How long if nothing is measured.
const SHORT_RUN: Duration = Duration::from_millis(10);

/// When a run that begins now is over.
pub(crate) fn end_of_run() -> Instant {
    Instant::now() + if is_measuring() { RUN } else { SHORT_RUN }
}

/// Runs each client as a task of its own; gives what they ended with, and how long the last one took.
pub(crate) async fn together<T, F>(clients: impl Iterator<Item = F>) -> (Vec<T>, Duration)
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let clients: Vec<F> = clients.collect();
    let start = Instant::now();
    let running: Vec<_> = clients.into_iter().map(tokio::spawn).collect();
    let mut ended = Vec::with_capacity(running.len());
    for client in running {
        ended.push(client.await.expect("ends"));
    }
    (ended, start.elapsed())
}

/// How many of a run's units each client has.
pub(crate) fn share(units: u32, clients: u32) -> u32 {
    (units / clients).max(1)
}

pub(crate) fn per_second(units: u32, taken: Duration) -> f64 {
    f64::from(units) / taken.as_secs_f64()
}
