//! What locks are on, who holds them, and which acquisition it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::check_name;

/// Longest id of a resource, in bytes of UTF-8.
pub const MAX_RESOURCE_ID_BYTES: usize = 512;
/// Longest name of a namespace, in bytes of UTF-8.
pub const MAX_NAMESPACE_BYTES: usize = 160;
/// Longest id of a client, in bytes of UTF-8.
pub const MAX_CLIENT_ID_BYTES: usize = 255;

macro_rules! name {
    ($(#[$doc:meta])+ $name:ident, $what:literal, $max:ident) => {
        $(#[$doc])+
        ///
        /// Not empty, bounded in length, without the character NUL. Compared byte for byte on every
        /// database. Cloning is cheap.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes `text`.
            ///
            /// # Errors
            /// [`Error::InvalidInput`] if it is empty, too long, or holds NUL.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                Ok(Self(check_name($what, text.as_ref(), $max)?.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// What a lock is on, within its namespace; at most [`MAX_RESOURCE_ID_BYTES`] long.
    ResourceId, "resource id", MAX_RESOURCE_ID_BYTES
}
name! {
    /// A kind of resources: the same id in two namespaces is two resources. At most [`MAX_NAMESPACE_BYTES`] long.
    Namespace, "namespace", MAX_NAMESPACE_BYTES
}
name! {
    /// Who holds a lock, for people to read; at most [`MAX_CLIENT_ID_BYTES`] long. It need not be unique:
    /// what tells two holders apart is the [`FencingToken`].
    ClientId, "client id", MAX_CLIENT_ID_BYTES
}

/// A resource with its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Its kind.
    pub namespace: Namespace,
    /// Its id.
    pub id: ResourceId,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.id)
    }
}

/// Number of one acquisition of a resource, higher than that of every acquisition before.
///
/// It is the larger of the one before plus one and the database's clock in microseconds, so it
/// rises also when the row that held the one before is gone, unless that was deleted by hand in the same tick
/// of the clock, which is a millisecond on SQLite (D. Burrows, "The Chubby lock service",
/// OSDI 2006, calls it a sequencer).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(i64);

impl FencingToken {
    /// The token with this number.
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_hold_no_nul() {
        assert!(ResourceId::new("").is_err() && ResourceId::new("a\0b").is_err());
        assert!(ResourceId::new("é".repeat(256)).is_ok() && ResourceId::new("é".repeat(257)).is_err());
        assert!(ClientId::new("x".repeat(256)).is_err() && Namespace::new("x".repeat(161)).is_err());
        assert_eq!(format!("{:?} {}", ClientId::new("a\"b").expect("valid"), FencingToken::new(7)), r#""a\"b" 7"#);
    }
}
