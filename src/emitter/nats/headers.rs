//! Headers in the form that NATS can carry.

use std::collections::BTreeMap;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};

/// Ends the name of a header whose name and value are percent-encoded.
const ENCODED: char = '*';
/// Begins an encoded value, as RFC 8187 has it.
const CHARSET: &str = "UTF-8''";
/// The server looks for its own headers by this, also within those of others; in small letters.
const SERVERS_OWN: &str = "nats-";

/// A header cannot be sent, or was not sent by a [`NatsEmitter`](super::NatsEmitter).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header {name:?} {detail}")]
pub struct HeaderError {
    /// The header's name.
    pub name: String,
    /// What is wrong with it.
    pub detail: &'static str,
}

/// A name goes as it is if it is of visible ASCII characters, without a colon.
fn is_plain_name(name: &str) -> bool {
    let visible = name.chars().all(|letter| letter.is_ascii_graphic() && letter != ':');
    visible && !name.is_empty() && !name.ends_with(ENCODED) && !mentions_servers_own(name)
}

/// A value goes as it is if no receiver can cut or split it.
fn is_plain_value(value: &str) -> bool {
    !value.contains(char::is_control) && value.trim() == value && !mentions_servers_own(value)
}

fn mentions_servers_own(text: &str) -> bool {
    text.to_ascii_lowercase().contains(SERVERS_OWN)
}

/// Bytes other than ASCII letters, digits, dots and underscores as `%XX`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The headers as they are sent.
pub(super) fn to_nats(headers: &BTreeMap<String, String>) -> Result<HeaderMap, HeaderError> {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        let (plain, plain_name) = (is_plain_name(name) && is_plain_value(value), name);
        let (name, value) = if plain {
            (name.clone(), value.clone())
        } else {
            (format!("{}{ENCODED}", encode(name)), format!("{CHARSET}{}", encode(value)))
        };
        let refused = |detail| HeaderError { name: plain_name.clone(), detail };
        let name: HeaderName = name.parse().map_err(|_| refused("has a name that NATS refuses"))?;
        let value: HeaderValue = value.parse().map_err(|_| refused("has a value that NATS refuses"))?;
        sent.insert(name, value);
    }
    Ok(sent)
}

/// Reads the headers of a message that a [`NatsEmitter`](super::NatsEmitter) has sent, as
/// [`OutboxRecord::headers`](crate::OutboxRecord::headers) gave them. Headers of the server (`Nats-…`) are left out.
///
/// Most headers are sent as they are. Metadata may hold anything, though, and NATS carries visible ASCII in names and
/// one line in values; it would also obey a `Nats-Rollup`. A header that cannot go as it is is percent-encoded, name
/// and value, and marked by an asterisk at the end of the name, with the value in the form of RFC 8187:
/// `note: two\nlines` becomes `note*: UTF-8''two%0Alines`.
///
/// # Errors
/// [`HeaderError`] if a header has the mark and is not encoded in this way.
pub fn read_headers(headers: &HeaderMap) -> Result<BTreeMap<String, String>, HeaderError> {
    let mut read = BTreeMap::new();
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        let value = values.last().map_or("", HeaderValue::as_str);
        if let Some(encoded) = name.strip_suffix(ENCODED) {
            let bad = || HeaderError { name: name.to_owned(), detail: "is marked as encoded and is not" };
            let value = value.strip_prefix(CHARSET).and_then(decode).ok_or_else(bad)?;
            read.insert(decode(encoded).ok_or_else(bad)?, value);
        } else if !mentions_servers_own(name) {
            read.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: &str, value: &str) -> (String, String) {
        let headers = to_nats(&BTreeMap::from([(name.to_owned(), value.to_owned())])).expect("can be sent");
        let (name, values) = headers.iter().next().expect("one header");
        (name.to_string(), values[0].to_string())
    }

    #[test]
    fn harmless_headers_go_as_they_are() {
        for (name, value) in [("traceparent", "00-1"), ("baggage", "a=b%20c"), ("empty", ""), ("name", "Grüße, 世界")]
        {
            assert_eq!(sent(name, value), (name.to_owned(), value.to_owned()));
        }
    }

    #[test]
    fn what_nats_cannot_carry_is_encoded_and_marked() {
        assert_eq!(sent("note", "two\nlines"), ("note*".to_owned(), "UTF-8''two%0Alines".to_owned()));
        assert_eq!(sent("a b", "c"), ("a%20b*".to_owned(), "UTF-8''c".to_owned()));
    }

    #[test]
    fn no_metadata_can_pass_for_a_header_of_the_server() {
        for (name, value) in [("Nats-Rollup", "all"), ("x-nats-msg-id", "1"), ("x", "Nats-Msg-Id: 1")] {
            let (name, value) = sent(name, value);
            assert!(!mentions_servers_own(&name) && !mentions_servers_own(&value), "{name}: {value}");
        }
    }

    #[test]
    fn any_headers_come_back_as_they_were() {
        let any = ["", " ", "a", "*", "a*", "a:b", "%41", "a\r\nb: c", "\0", "é", "Nats-TTL", "'", " a ", "\u{2028}"];
        let headers: BTreeMap<_, _> =
            any.iter().flat_map(|name| any.map(|value| (format!("{name}|{value}"), value.to_owned()))).collect();
        assert_eq!(read_headers(&to_nats(&headers).expect("can be sent")), Ok(headers));
        let names: BTreeMap<_, _> = any.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        assert_eq!(read_headers(&to_nats(&names).expect("can be sent")), Ok(names));
    }

    #[test]
    fn a_mark_without_encoding_is_an_error() {
        for (name, value) in [("a*", "b"), ("a*", "UTF-8''%4"), ("%zz*", "UTF-8''"), ("a*", "UTF-8''%FF")] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value);
            assert_eq!(read_headers(&headers).expect_err(value).name, name);
        }
    }
}
