//! Payloads, where they were asked for.

use sagastore::{Envelope, JSON_CONTENT_TYPE};
use serde_json::{Value, json};

/// JSON as it is, anything else as its bytes in hexadecimal digits.
pub(crate) fn value(envelope: &Envelope) -> Value {
    let decoded = || serde_json::from_slice(&envelope.payload).ok();
    let is_json = &*envelope.content_type == JSON_CONTENT_TYPE;
    is_json.then(decoded).flatten().unwrap_or_else(|| {
        let digits: String = envelope.payload.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "hex": digits })
    })
}
