//! What may be a subject.

use super::NatsError;

/// Longest subject, in bytes of UTF-8. A line of NATS's protocol has 4,096 bytes at most, headers not counted; a longer
/// one makes the server close the connection, and all that is on its way with it.
pub const MAX_SUBJECT_BYTES: usize = 1_024;

/// How much of a wrong subject an error shows, in characters.
const SHOWN_CHARACTERS: usize = 80;

/// The subject as it is, if NATS can take it for publishing.
pub(super) fn check(subject: String) -> Result<String, NatsError> {
    let detail = if subject.len() > MAX_SUBJECT_BYTES {
        "it is too long"
    } else if subject.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        "it has white space or control characters"
    } else if subject.contains(['*', '>']) {
        "it has a wildcard, * or >"
    } else if subject.split('.').any(str::is_empty) {
        "it is empty, or has an empty token between its dots"
    } else if subject.split('.').next().is_some_and(|first| matches!(first, "$JS" | "$SYS")) {
        "it belongs to the server"
    } else {
        return Ok(subject);
    };
    Err(NatsError::Subject { subject: subject.chars().take(SHOWN_CHARACTERS).collect(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nats_allows_is_left_as_it_is() {
        let longest = "x".repeat(MAX_SUBJECT_BYTES);
        for good in ["outbox-order-shipped", "orders.eu.1", "$KV.a.b", "überweisung", "a:b", &longest] {
            assert_eq!(check(good.to_owned()).expect("allowed"), good);
        }
    }

    #[test]
    fn what_nats_does_not_allow_is_refused_and_not_changed() {
        let too_long = "x".repeat(MAX_SUBJECT_BYTES + 1);
        let bad = [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\r\nPUB x 0",
            "a\0",
            "a.*",
            "a.>",
            "$JS.API.x",
            "$SYS",
            &too_long,
        ];
        for bad in bad {
            let error = check(bad.to_owned()).expect_err(bad);
            assert!(matches!(&error, NatsError::Subject { subject, .. } if bad.starts_with(subject)), "{error}");
            assert!(error.to_string().len() < 300);
        }
    }
}
