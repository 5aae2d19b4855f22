//! Payloads, where they were asked for.

use std::io;

use sagastore::{Envelope, JSON_CONTENT_TYPE};
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// An object with a payload, if that was asked for.
#[derive(Serialize)]
pub(crate) struct WithPayload<T> {
    #[serde(flatten)]
    pub(crate) object: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Box<RawValue>>,
}

/// JSON as the text that it is, without the white space around its parts; anything else as its bytes in hexadecimal digits.
pub(crate) fn text(envelope: &Envelope) -> io::Result<Box<RawValue>> {
    if &*envelope.content_type == JSON_CONTENT_TYPE
        && let Ok(json) = serde_json::from_slice::<&RawValue>(&envelope.payload)
    {
        return Ok(RawValue::from_string(without_spaces(json.get()))?);
    }
    let digits: String = envelope.payload.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(to_raw_value(&json!({ "hex": digits }))?)
}

/// A line break would end the line, and one that is escaped is no white space.
fn without_spaces(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let mut is_kept = |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        in_string || !matches!(c, ' ' | '\n' | '\r' | '\t')
    };
    json.chars().filter(|c| is_kept(*c)).collect()
}

#[cfg(test)]
mod tests {
    use sagastore::MessageKind;

    use super::*;
    use crate::output::json_line;

    fn shown(content_type: &str, payload: &[u8]) -> String {
        let envelope = Envelope::new(MessageKind::Event, "A", 1, content_type, payload.to_vec()).expect("it is valid");
        let payload = Some(text(&envelope).expect("it is shown"));
        json_line(&WithPayload { object: json!({ "a": 1 }), payload }).expect("a line")
    }

    #[test]
    fn json_is_shown_digit_by_digit_and_on_one_line() {
        for (payload, expected) in [
            (
                r#"{"n":340282366920938463463374607431768211455,"n":1.50}"#,
                r#"{"n":340282366920938463463374607431768211455,"n":1.50}"#,
            ),
            ("\n{ \"b\\\" \" :\r\n\t[1, 2] }", r#"{"b\" ":[1,2]}"#),
            ("\"\u{9b}\"", r#""\u009b""#),
        ] {
            assert_eq!(shown(JSON_CONTENT_TYPE, payload.as_bytes()), format!("{{\"a\":1,\"payload\":{expected}}}"));
        }
    }

    #[test]
    fn what_is_no_json_is_shown_as_its_bytes() {
        for (content_type, payload) in
            [("text/plain", &b"{}"[..]), (JSON_CONTENT_TYPE, b"{"), (JSON_CONTENT_TYPE, b"\"\xff\"")]
        {
            let digits: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(shown(content_type, payload), format!("{{\"a\":1,\"payload\":{{\"hex\":\"{digits}\"}}}}"));
        }
    }
}
