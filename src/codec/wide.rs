//! Whole numbers beyond 64 bits, for which `serde_json::Value` has no room: it rounds them.

/// Whether this JSON holds one.
pub(crate) fn has_wide_integer(json: &[u8]) -> bool {
    let (mut in_string, mut escaped, mut number) = (false, false, None);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'-' | b'+' | b'.' | b'0'..=b'9' | b'e' | b'E' if !in_string => {
                number.get_or_insert(at);
                continue;
            }
            _ => {}
        }
        if number.take().is_some_and(|start| is_wide_integer(json.get(start..at))) {
            return true;
        }
    }
    number.is_some_and(|start| is_wide_integer(json.get(start..)))
}

fn is_wide_integer(number: Option<&[u8]>) -> bool {
    let text = number.and_then(|number| std::str::from_utf8(number).ok()).unwrap_or_default();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_whole && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_integers_are_found_wherever_they_stand_and_nothing_else_is_taken_for_one() {
        for wide in [
            "18446744073709551616",
            "-9223372036854775809",
            "[1,{\"a\":99999999999999999999999}]",
            "[\"\\\"\",1e5,18446744073709551616 ]",
        ] {
            assert!(has_wide_integer(wide.as_bytes()), "{wide}");
        }
        for fine in [
            "18446744073709551615",
            "-9223372036854775808",
            "true",
            "[1.5e300,-0,null]",
            "\"18446744073709551616\"",
            "{\"\\\" 18446744073709551616\":1}",
            "18446744073709551616.0",
            "",
        ] {
            assert!(!has_wide_integer(fine.as_bytes()), "{fine}");
        }
    }
}
