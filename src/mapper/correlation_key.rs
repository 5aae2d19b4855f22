//! Natural keys by which messages find instances.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::ids::check_name;

/// Longest correlation key as it is stored, in bytes of UTF-8.
pub const MAX_CORRELATION_KEY_BYTES: usize = 512;

/// A natural key of an instance: an order's number, or a customer and a day.
///
/// Made of one or more parts, which are joined so that no two lists of parts give the same key: within a part `%` and
/// `/` are written `%25` and `%2F`, and parts are joined by `/`. Compared byte for byte on every database.
///
/// ```
/// use sagastore::CorrelationKey;
///
/// assert_ne!(CorrelationKey::of(["a/b", "c"])?, CorrelationKey::of(["a", "b/c"])?);
/// assert_ne!(CorrelationKey::of(["a"])?, CorrelationKey::of(["a", ""])?);
/// assert_eq!(CorrelationKey::of(["order", "7"])?.as_str(), "order/7");
/// # Ok::<(), sagastore::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrelationKey(Arc<str>);

impl CorrelationKey {
    /// The key of these parts, in this order.
    ///
    /// # Errors
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) if it would be empty, hold NUL, or be longer than
    /// [`MAX_CORRELATION_KEY_BYTES`].
    pub fn of<P: AsRef<str>>(parts: impl IntoIterator<Item = P>) -> Result<Self> {
        let escaped: Vec<_> =
            parts.into_iter().map(|part| part.as_ref().replace('%', "%25").replace('/', "%2F")).collect();
        Self::from_stored(&escaped.join("/"))
    }

    /// A key as it was stored.
    pub(crate) fn from_stored(text: &str) -> Result<Self> {
        check_name("correlation key", text, MAX_CORRELATION_KEY_BYTES).map(|text| Self(text.into()))
    }

    /// The key as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CorrelationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CorrelationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn no_two_lists_of_parts_share_a_key() {
        let pieces = ["", "a", "/", "%", "%2F", "%25", "a/b", "é"];
        let mut keys = HashMap::new();
        let lists = |length| {
            (0..pieces.len().pow(length)).map(move |mut number| {
                let digit = |_| {
                    let piece = pieces[number % pieces.len()];
                    number /= pieces.len();
                    piece
                };
                (0..length).map(digit).collect::<Vec<_>>()
            })
        };
        for list in (1..=3).flat_map(lists) {
            let Ok(key) = CorrelationKey::of(&list) else {
                assert_eq!(list, [""], "only this one is empty");
                continue;
            };
            assert_eq!(keys.insert(key.clone(), list.clone()), None, "{key} is made twice, also of {list:?}");
        }
        assert_eq!(keys.len(), 8 + 64 + 512 - 1);
    }

    #[test]
    fn keys_that_cannot_be_stored_are_refused() {
        let none: [&str; 0] = [];
        assert!(CorrelationKey::of(none).is_err());
        assert!(CorrelationKey::of(["\0"]).is_err());
        assert!(CorrelationKey::of(["a".repeat(MAX_CORRELATION_KEY_BYTES)]).is_ok());
        assert!(CorrelationKey::of(["a".repeat(MAX_CORRELATION_KEY_BYTES + 1)]).is_err());
    }
}
