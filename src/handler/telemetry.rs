//! What a message handler tells those who watch it. Names are stable; see the operations page.

use std::future::Future;

use tracing::Instrument;

use super::Handling;
use super::incoming::TRACE_CONTEXT;
use crate::envelope::Envelope;
use crate::error::{Error, Result};
use crate::ids::InstanceId;

/// Handles a message under observation. The span names the trace that the message belongs to, for who joins them.
pub(super) async fn handling(
    saga: &str,
    message: &Envelope,
    handle: impl Future<Output = Result<Handling>>,
) -> Result<Handling> {
    let trace = message.metadata.get(TRACE_CONTEXT[0]).map(String::as_str);
    let (message_id, message_type) = (&message.message_id, &*message.type_name);
    let span = tracing::info_span!(
        target: "sagastore", "saga.handle", saga, %message_id, message_type, traceparent = trace,
        correlation_id = %message.correlation_id
    );
    let observed = async {
        let handled = handle.await;
        ended(saga, &handled);
        handled
    };
    observed.instrument(span).await
}

/// What became of a message.
#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody counts"))]
fn ended(saga: &str, handled: &Result<Handling>) {
    let outcome = match handled {
        Ok(Handling::Handled { .. }) => "handled",
        Ok(Handling::AlreadyHandled(_)) => "already_handled",
        Ok(Handling::NotFound) => "not_found",
        Ok(Handling::Completed { .. }) => "completed",
        Ok(Handling::Parked { .. }) => "parked",
        Ok(Handling::Ignored) => "ignored",
        Err(_) => "failed",
    };
    #[cfg(feature = "metrics")]
    metrics::counter!("sagastore_messages_total", "saga" => saga.to_owned(), "outcome" => outcome).increment(1);
    match handled {
        Ok(_) => tracing::debug!(name: "saga.handled", target: "sagastore", outcome, "a message is dealt with"),
        Err(error) => tracing::warn!(name: "saga.failed", target: "sagastore", %error, "a message was not handled"),
    }
}

pub(super) fn parked(instance: &InstanceId, tries: u32, error: &Error) {
    tracing::error!(
        name: "saga.parked", target: "sagastore", instance = instance.as_str(), tries, %error,
        "a message keeps failing; it and those that come after it for its instance are parked"
    );
}
