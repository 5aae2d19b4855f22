//! Sending the records of a batch side by side.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::Delivery;
use crate::error::Cause;
use crate::outbox::OutboxRecord;

/// Calls `send` for all records at once that are still to be sent, and reports on each as soon as its own call is done. A panic
/// fails the record that it is about, and no other.
pub(crate) async fn send_each<F, Fut, E>(batch: Vec<Delivery>, send: F)
where
    F: Fn(Arc<OutboxRecord>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<Cause>,
{
    let report = |delivery: Delivery| async {
        if !delivery.begin() {
            return;
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::emitter::Start;
    use crate::envelope::Envelope;
    use crate::message::MessageKind;

    #[tokio::test]
    async fn what_was_withdrawn_is_not_sent() {
        let (reports, mut reported) = mpsc::unbounded_channel();
        let delivery = |place: usize| {
            let message = Envelope::new(MessageKind::Event, "Happened", 1, "text/plain", "it").expect("valid");
            let record = OutboxRecord::new("1:1:1:0:0".parse().expect("an id"), "a", "1", message);
            let start = Start::default();
            (Delivery::new(place, Arc::new(record), start.clone(), reports.clone()), start)
        };
        let ((withdrawn, start), (kept, _)) = (delivery(0), delivery(1));
        assert!(start.or_withdraw().is_none());
        let sent = AtomicUsize::new(0);
        send_each(vec![withdrawn, kept], async |_| {
            sent.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Cause>(())
        })
        .await;
        assert_eq!(sent.into_inner(), 1);
        let outcome = |place| move |report: crate::emitter::Report| report.place == place && report.outcome.is_ok();
        assert!(
            reported.try_recv().is_ok_and(|report| !outcome(0)(report)) && reported.try_recv().is_ok_and(outcome(1))
        );
    }
}
