//! Identifiers and counters. All are plain values; none needs a database.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Longest instance id, in bytes of UTF-8.
pub const MAX_INSTANCE_ID_BYTES: usize = 512;

/// Identity of one message: an event, a command, or an inbound message.
///
/// New ids are UUIDv7 (RFC 9562), so they sort roughly by time. Any other UUID may be given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

impl MessageId {
    /// A new, unique id (UUIDv7).
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for MessageId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for MessageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = Uuid::parse_str(text);
        parsed.map(Self).map_err(|fault| Error::invalid("message id", fault))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a saga instance: a UUID or any text.
///
/// Not empty, at most [`MAX_INSTANCE_ID_BYTES`] long, without the character NUL (which PostgreSQL
/// cannot store in text). Compared byte for byte on every database. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is empty, too long, or holds NUL.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = check_name("instance id", text.as_ref(), MAX_INSTANCE_ID_BYTES)?;
        Ok(Self(text.into()))
    }

    /// The id as text; a UUID in its lower-case hyphenated form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The rules that every name in the store keeps.
pub(crate) fn check_name<'a>(what: &'static str, text: &'a str, max: usize) -> Result<&'a str> {
    if text.is_empty() {
        return Err(Error::invalid(what, "it is empty"));
    }
    if text.len() > max {
        let found = text.len();
        return Err(Error::invalid(what, format!("it has {found} bytes, the limit is {max}")));
    }
    if text.contains('\0') {
        return Err(Error::invalid(what, "it holds the character NUL"));
    }
    Ok(text)
}

impl From<Uuid> for InstanceId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.to_string().into())
    }
}

impl FromStr for InstanceId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Defines a counter that fits the signed 64-bit integers of every database.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(i64);

        impl $name {
            #[doc = concat!("The first ", $what, ".")]
            pub const ZERO: Self = Self(0);
            #[doc = concat!("The largest ", $what, " that every database can store.")]
            pub const MAX: Self = Self(i64::MAX);

            #[doc = concat!("A small ", $what, ", for constants.")]
            pub const fn of(value: u32) -> Self {
                #[expect(clippy::as_conversions, reason = "`i64::from` is not const; u32 always fits")]
                Self(value as i64)
            }

            /// The value, never negative.
            pub const fn get(self) -> u64 {
                self.0.unsigned_abs()
            }

            /// The value as the databases store it.
            pub const fn to_i64(self) -> i64 {
                self.0
            }

            /// Reads a stored value; `None` if it is negative, which only a damaged row holds.
            pub const fn from_i64(value: i64) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value)) }
            }

            /// Adds, refusing what no database could store.
            ///
            /// # Errors
            /// [`Error::TooLarge`] if the sum is above [`MAX`](Self::MAX).
            pub fn checked_add(self, count: u64) -> Result<Self> {
                let sum = i64::try_from(count).ok().and_then(|count| self.0.checked_add(count));
                sum.map(Self).ok_or(Error::TooLarge {
                    what: $what,
                    size: self.get().saturating_add(count),
                    limit: Self::MAX.get(),
                })
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.get()
            }
        }

        impl TryFrom<u64> for $name {
            type Error = Error;

            fn try_from(value: u64) -> Result<Self> {
                Self::ZERO.checked_add(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Zero-based place of an event in its stream.
    Offset, "offset"
}
counter! {
    /// Number of events that an instance has.
    Revision, "revision"
}
counter! {
    /// Number of units of work that a stream has; the first commit is number 1.
    CommitNumber, "commit number"
}

impl Revision {
    /// The offset that the next event of an instance at this revision gets.
    ///
    /// An instance at revision n holds the offsets 0 to n - 1. This is the one place where the two
    /// are turned into each other, together with its inverse [`Offset::as_revision`].
    pub const fn next_offset(self) -> Offset {
        Offset(self.0)
    }
}

impl Offset {
    /// The revision of an instance whose next event gets this offset.
    pub const fn as_revision(self) -> Revision {
        Revision(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn instance_ids_refuse_what_some_database_could_not_hold() {
        for bad in ["", "a\0b", &"x".repeat(MAX_INSTANCE_ID_BYTES + 1)] {
            assert!(matches!(InstanceId::new(bad), Err(Error::InvalidInput { .. })), "{bad:?}");
        }
        for good in ["1", "שלום", "'; DROP TABLE saga_commit; --", " x ", &"x".repeat(512)] {
            assert_eq!(InstanceId::new(good).map(String::from).ok().as_deref(), Some(good));
        }
    }

    #[test]
    fn uuids_have_one_text_form() {
        let uuid = Uuid::now_v7();
        let upper: MessageId = uuid.to_string().to_uppercase().parse().expect("a UUID");
        assert_eq!(upper, MessageId::from(uuid));
        assert_eq!(InstanceId::from(uuid).as_str(), uuid.to_string());
        assert!("not-a-uuid".parse::<MessageId>().is_err());
    }

    #[test]
    fn generated_ids_are_unique_over_a_million() {
        let ids: HashSet<_> = (0..1_000_000).map(|_| MessageId::new()).collect();
        assert_eq!(ids.len(), 1_000_000);
    }

    #[test]
    fn counters_refuse_to_overflow() {
        assert!(matches!(Offset::MAX.checked_add(1), Err(Error::TooLarge { .. })));
        assert!(matches!(Revision::try_from(u64::MAX), Err(Error::TooLarge { .. })));
        assert_eq!(Offset::MAX.checked_add(0).ok(), Some(Offset::MAX));
        assert_eq!(Revision::of(7).next_offset(), Offset::of(7));
        assert_eq!(Offset::of(7).as_revision(), Revision::of(7));
        assert_eq!(Offset::from_i64(-1), None);
    }
}
