//! Payloads in lines: JSON as it is where that gives the same bytes back, else base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::codec::JSON_CONTENT_TYPE;

/// The payload as a part of a line; `None` unless its very bytes can be read back from there.
pub(super) fn as_json<'p>(content_type: &str, payload: &'p [u8]) -> Option<&'p RawValue> {
    if content_type != JSON_CONTENT_TYPE || payload.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return None;
    }
    let text = std::str::from_utf8(payload).ok()?;
    // White space around a value is not part of it.
    serde_json::from_str::<&RawValue>(text).ok().filter(|raw| raw.get().len() == payload.len())
}

pub(super) fn to_base64(payload: &[u8]) -> String {
    STANDARD.encode(payload)
}

pub(super) fn from_base64(text: &str) -> Option<Bytes> {
    STANDARD.decode(text).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_embedded_only_where_its_bytes_come_back() {
        for exact in ["{}", r#"{ "a" : 1.0e0,"a":-0, "b":"\ud83d\u0000" }"#, "null", "1e999", "\"ü\""] {
            let raw = as_json(JSON_CONTENT_TYPE, exact.as_bytes()).expect(exact);
            let line = serde_json::to_string(&[raw]).expect("a line");
            let back: Vec<&RawValue> = serde_json::from_str(&line).expect("parses");
            assert_eq!(back.first().map(|raw| raw.get()), Some(exact));
        }
        for other in ["", " {}", "{}\t", "{\n}", "{\r}", "{", "1 2", "\u{feff}1"] {
            assert!(as_json(JSON_CONTENT_TYPE, other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(as_json(JSON_CONTENT_TYPE, b"\"\xff\"").is_none());
        assert!(as_json("text/plain", b"{}").is_none());
        let deep = "[".repeat(5000) + &"]".repeat(5000);
        assert!(as_json(JSON_CONTENT_TYPE, deep.as_bytes()).is_some());
    }
}
