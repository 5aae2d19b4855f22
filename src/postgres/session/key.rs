//! What a session lock is on.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Stands before all that is hashed, so that keys of other programs differ. Lockers of releases with
/// different versions here do not exclude each other.
const NAMESPACE: &[u8] = b"sagastore session lock v1";
/// How much of the scopes is kept for messages, in characters.
const NAME_CHARACTERS: usize = 200;

/// What a session lock is on: one or more scopes, in an order that matters.
///
/// A scope is any text that is not empty, of any length. No two lists of scopes are mixed up:
/// (`a`, `bc`), (`ab`, `c`), (`a:b`, `c`) and (`a`, `b:c`) are four keys.
///
/// # Name space
/// PostgreSQL's advisory keys are 64-bit numbers that all programs on a database share. A key's
/// [number](Self::advisory_key) is the first eight bytes of SHA-256 over a prefix of this crate and
/// the scopes, each with its length before it. So a program's own `pg_advisory_lock(42)`, or a hash
/// of its own, meets a key of this crate with a probability of 2⁻⁶⁴; among a million keys that are
/// locked at once, any two meet with one of about 2⁻²⁵. Two keys that meet exclude each other
/// needlessly (and through one locker are one lock); nothing else happens. The two-number form
/// `pg_advisory_lock(int, int)` is another space.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionLockKey {
    digest: [u8; 32],
    advisory: i64,
    fence: i64,
    name: Arc<str>,
}

impl SessionLockKey {
    /// The key of these scopes.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there is no scope, or an empty one.
    pub fn new<S: AsRef<str>>(scopes: impl IntoIterator<Item = S>) -> Result<Self> {
        let (mut hash, mut name) = (Sha256::new_with_prefix(NAMESPACE), String::new());
        for scope in scopes {
            let scope = scope.as_ref();
            if scope.is_empty() {
                return Err(Error::invalid("scope of a lock", "it is empty"));
            }
            let length = u64::try_from(scope.len()).map_err(|fault| Error::invalid("scope of a lock", fault))?;
            hash.update(length.to_be_bytes());
            hash.update(scope);
            if name.chars().nth(NAME_CHARACTERS).is_none() {
                name.push_str(if name.is_empty() { "" } else { "/" });
                name.extend(scope.chars().take(NAME_CHARACTERS + 1));
            }
        }
        if name.is_empty() {
            return Err(Error::invalid("key of a lock", "it has no scope; give at least one"));
        }
        if let Some((end, _)) = name.char_indices().nth(NAME_CHARACTERS) {
            name.truncate(end);
            name.push('…');
        }
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest;
        Ok(Self {
            digest,
            advisory: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            fence: i64::from_be_bytes([i, j, k, l, m, n, o, p]),
            name: name.into(),
        })
    }

    /// The advisory key that is locked, any 64-bit number.
    ///
    /// `pg_locks` shows its upper half as `classid`, its lower half as `objid`, and `objsubid` 1.
    pub fn advisory_key(&self) -> i64 {
        self.advisory
    }

    /// The advisory key that [fenced](super::Releaser::fence) transactions share until they end, and
    /// that a new holder takes for a moment. The next eight bytes of the same hash.
    pub fn fence_key(&self) -> i64 {
        self.fence
    }
}

/// The scopes with slashes between them, for people to read; cut if they are long.
impl fmt::Display for SessionLockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for SessionLockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionLockKey({:?} = {})", self.name, self.advisory)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn scopes_are_not_mixed_up_and_their_order_matters() {
        let long = "ä".repeat(10_000);
        let lists: [&[&str]; 12] = [
            &["a", "bc"],
            &["ab", "c"],
            &["a:b", "c"],
            &["a", "b:c"],
            &["a:b:c"],
            &["abc"],
            &["a", "b", "c"],
            &["c", "b", "a"],
            &["a/b", "c"],
            &["\0"],
            &[&long],
            &[&long, "a"],
        ];
        let keys: Vec<_> = lists.iter().map(|scopes| SessionLockKey::new(*scopes).expect("valid")).collect();
        let numbers: HashSet<i64> = keys.iter().flat_map(|key| [key.advisory_key(), key.fence_key()]).collect();
        assert_eq!(numbers.len(), 2 * lists.len());
        assert_eq!(SessionLockKey::new(vec!["a".to_owned(), "bc".to_owned()]).expect("valid"), keys[0]);
        assert_eq!((keys[0].to_string(), keys[10].to_string().chars().count()), ("a/bc".to_owned(), 201));
    }

    #[test]
    fn a_key_stays_the_same_in_every_release() {
        let key = SessionLockKey::new(["a", "bc"]).expect("valid");
        assert_eq!((key.advisory_key(), key.fence_key()), (6_160_804_464_062_849_264, -8_828_843_476_284_741_040));
    }

    #[test]
    fn a_key_changes_with_nothing_after_it_was_built() {
        let mut scopes = vec!["a".to_owned()];
        let key = SessionLockKey::new(&scopes).expect("valid");
        let before = key.advisory_key();
        scopes.push("b".to_owned());
        assert_eq!(key.advisory_key(), before);
    }

    #[test]
    fn no_scope_and_empty_scopes_are_refused() {
        let lists: [&[&str]; 4] = [&[], &[""], &["a", ""], &["", "a"]];
        for scopes in lists {
            let built = SessionLockKey::new(scopes);
            assert!(matches!(built, Err(Error::InvalidInput { .. })), "{scopes:?} was taken");
        }
    }
}
