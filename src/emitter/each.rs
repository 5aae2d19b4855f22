//! Sending the records of a batch side by side.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::Delivery;
use crate::error::Cause;
use crate::outbox::OutboxRecord;

/// Calls `send` for all records at once, and reports on each as soon as its own call is done. A panic fails the record
/// that it is about, and no other.
pub(crate) async fn send_each<F, Fut, E>(batch: Vec<Delivery>, send: F)
where
    F: Fn(Arc<OutboxRecord>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<Cause>,
{
    let report = |delivery: Delivery| async {
        let sent = AssertUnwindSafe(async { send(delivery.shared_record()).await }).catch_unwind().await;
        match sent {
            Ok(Ok(())) => delivery.delivered(),
            Ok(Err(error)) => delivery.failed(error),
            Err(_) => drop(delivery),
        }
    };
    let mut sending: FuturesUnordered<_> = batch.into_iter().map(report).collect();
    while sending.next().await.is_some() {}
}
