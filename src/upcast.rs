//! Bringing stored messages of older types up to date.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use crate::codec::{JSON_CONTENT_TYPE, has_wide_integer};
use crate::error::Cause;
use crate::message::{MessageType, StoredForm, TypeTag};

/// Longest chain of upcasts for one message; a longer one is taken for a cycle.
pub const MAX_UPCAST_STEPS: usize = 64;

/// One step from an older stored type to a newer one: a pure function on the stored form.
///
/// Steps are listed in [`MessageType::UPCASTS`]. A stored message goes through step after step until its type is a
/// current one, so each step only needs to know the next version.
///
/// ```
/// use sagastore::{MessageType, StoredForm, TypeTag, Upcast, upcast};
/// use serde_json::{Value, json};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// enum OrderEvent {
///     Placed { cents: i64 },
/// }
///
/// const V1: TypeTag = TypeTag::new("OrderMade", 1);
/// const V2: TypeTag = TypeTag::new("OrderPlaced", 2);
/// const V3: TypeTag = TypeTag::new("OrderPlaced", 3);
///
/// impl MessageType for OrderEvent {
///     const TYPES: &'static [TypeTag] = &[V3];
///     const UPCASTS: &'static [Upcast] = &[
///         Upcast::renamed(V1, V2),
///         Upcast::json(V2, V3, |mut event| {
///             let euros = event["Placed"]["euros"].as_i64().ok_or("no euros")?;
///             event["Placed"] = json!({ "cents": euros * 100 });
///             Ok(event)
///         }),
///     ];
///     fn message_type(&self) -> TypeTag {
///         V3
///     }
/// }
///
/// let old = StoredForm::json("OrderMade", 1, &json!({ "Placed": { "euros": 7 } }));
/// let new = upcast::<OrderEvent>(old)?;
/// assert_eq!((&*new.type_name, new.type_version), ("OrderPlaced", 3));
/// assert_eq!(serde_json::from_slice::<Value>(&new.payload)?, json!({ "Placed": { "cents": 700 } }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Upcast {
    from: TypeTag,
    to: TypeTag,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Renamed,
    Json(fn(Value) -> Result<Value, Cause>),
    Bytes(fn(Bytes) -> Result<Bytes, Cause>),
}

impl Upcast {
    /// The payload stays as it is: only the stored name or version changed. If the Rust variant has another name now, `serde`
    /// must still know the old one, which is in the payload: see [`TypeTag`].
    pub const fn renamed(from: TypeTag, to: TypeTag) -> Self {
        Self { from, to, step: Step::Renamed }
    }

    /// The payload is JSON, and is changed as such. A payload in another codec is an error, and so is [`WideInteger`]
    /// a payload with a whole number beyond 64 bits: a `serde_json::Value` would round it.
    pub const fn json(from: TypeTag, to: TypeTag, step: fn(Value) -> Result<Value, Cause>) -> Self {
        Self { from, to, step: Step::Json(step) }
    }

    /// The payload is changed byte for byte, and stays in its codec.
    pub const fn bytes(from: TypeTag, to: TypeTag, step: fn(Bytes) -> Result<Bytes, Cause>) -> Self {
        Self { from, to, step: Step::Bytes(step) }
    }

    /// The type that it takes.
    pub const fn from(&self) -> TypeTag {
        self.from
    }

    /// The type that it gives.
    pub const fn to(&self) -> TypeTag {
        self.to
    }

    /// Takes this step, if it is for this form.
    ///
    /// # Errors
    /// What the step says, or that the payload is no JSON; [`WideInteger`].
    pub fn apply(&self, form: StoredForm) -> Result<StoredForm, Cause> {
        let payload = match self.step {
            Step::Renamed => form.payload,
            Step::Bytes(step) => step(form.payload)?,
            Step::Json(_) if &*form.content_type != JSON_CONTENT_TYPE => {
                return Err(format!("the payload is {}, and its upcast is for JSON", form.content_type).into());
            }
            Step::Json(_) if has_wide_integer(&form.payload) => return Err(WideInteger.into()),
            Step::Json(step) => serde_json::to_vec(&step(serde_json::from_slice(&form.payload)?)?)?.into(),
        };
        Ok(StoredForm { type_name: self.to.name.into(), type_version: self.to.version, payload, ..form })
    }
}

impl fmt::Debug for Upcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from, self.to);
        write!(f, "Upcast from {} v{} to {} v{}", from.name, from.version, to.name, to.version)
    }
}

/// A payload that [`Upcast::json`] would change where its step does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload holds a whole number beyond 64 bits, which a JSON value would round; use `Upcast::bytes`")]
#[non_exhaustive]
pub struct WideInteger;

/// Why a stored form cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpcastError {
    /// No current type has this name and version, and no step leads on from it.
    #[error("type {type_name:?} version {type_version} is unknown; add the type, or a step from it")]
    Unknown {
        /// The type at which the chain ended.
        type_name: String,
        /// Its version.
        type_version: u32,
    },
    /// A step failed.
    #[error("the step from type {type_name:?} version {type_version} failed: {source}")]
    Failed {
        /// The type that the step is from.
        type_name: String,
        /// Its version.
        type_version: u32,
        /// What it said.
        source: Cause,
    },
}

/// Brings a stored message up to date, as loading does; for testing the steps on one message at a time.
///
/// # Errors
/// [`UpcastError::Unknown`], also for a chain longer than [`MAX_UPCAST_STEPS`]; [`UpcastError::Failed`].
pub fn upcast<M: MessageType>(mut form: StoredForm) -> Result<StoredForm, UpcastError> {
    for _ in 0..=MAX_UPCAST_STEPS {
        let is = |tag: TypeTag| tag.name == &*form.type_name && tag.version == form.type_version;
        if M::TYPES.iter().any(|tag| is(*tag)) {
            return Ok(form);
        }
        let (type_name, type_version) = (form.type_name.clone(), form.type_version);
        form = match M::UPCASTS.iter().find(|upcast| is(upcast.from)) {
            Some(upcast) => upcast.apply(form).map_err(|source| UpcastError::Failed {
                type_name: type_name.as_ref().to_owned(),
                type_version,
                source,
            })?,
            None => M::upcast(form)
                .ok_or_else(|| UpcastError::Unknown { type_name: type_name.as_ref().to_owned(), type_version })?,
        };
    }
    Err(UpcastError::Unknown { type_name: form.type_name.as_ref().to_owned(), type_version: form.type_version })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: TypeTag = TypeTag::new("New", 4);

    #[derive(Debug)]
    struct Renamed;
    impl MessageType for Renamed {
        const TYPES: &'static [TypeTag] = &[CURRENT];
        const UPCASTS: &'static [Upcast] = &[
            Upcast::renamed(TypeTag::new("Old", 1), TypeTag::new("New", 1)),
            Upcast::bytes(TypeTag::new("New", 1), TypeTag::new("New", 2), |payload| {
                Ok([&*payload, b"1"].concat().into())
            }),
            Upcast::json(TypeTag::new("New", 3), CURRENT, |mut value| {
                value["steps"] = value["steps"].as_i64().ok_or("no steps")?.saturating_add(1).into();
                Ok(value)
            }),
        ];
        fn message_type(&self) -> TypeTag {
            CURRENT
        }
        fn upcast(stored: StoredForm) -> Option<StoredForm> {
            let (name, version) = match (&*stored.type_name, stored.type_version) {
                ("New", 2) => ("New", 3),
                ("Loop", 1) => ("Loop", 1),
                _ => return None,
            };
            Some(StoredForm { type_name: name.into(), type_version: version, ..stored })
        }
    }

    fn stored(name: &str, version: u32, payload: &str) -> StoredForm {
        let (content_type, payload) = (JSON_CONTENT_TYPE.into(), payload.to_owned().into());
        StoredForm { type_name: name.into(), type_version: version, content_type, payload }
    }

    #[test]
    fn each_old_version_goes_through_its_chain_once() {
        for (name, version, before, after) in [
            ("Old", 1, r#"{"steps":1}"#.replace('}', ""), None),
            ("New", 2, r#"{"steps":1}"#.to_owned(), Some(r#"{"steps":2}"#)),
            ("New", 3, r#"{"steps":1}"#.to_owned(), Some(r#"{"steps":2}"#)),
            ("New", 4, r#"{"steps":1}"#.to_owned(), Some(r#"{"steps":1}"#)),
        ] {
            let found = upcast::<Renamed>(stored(name, version, &before));
            match after {
                Some(after) => {
                    let form = found.expect("it is known");
                    assert_eq!((&*form.type_name, form.type_version, &*form.payload), ("New", 4, after.as_bytes()));
                }
                None => assert!(matches!(found, Err(UpcastError::Failed { type_version: 3, .. })), "{found:?}"),
            }
        }
    }

    #[test]
    fn unknown_types_and_cycles_end_in_an_error() {
        for name in ["Other", "Loop"] {
            let found = upcast::<Renamed>(stored(name, 1, "{}"));
            assert!(matches!(found, Err(UpcastError::Unknown { ref type_name, .. }) if type_name == name), "{found:?}");
        }
    }

    #[test]
    fn a_number_that_a_value_would_round_is_refused() {
        for (payload, refused) in [
            (r#"{"steps":1,"n":340282366920938463463374607431768211455}"#, true),
            (r#"{"steps":1,"n":[-9223372036854775809]}"#, true),
            (r#"{"steps":1,"n":[18446744073709551615,-9223372036854775808,1e300]}"#, false),
            (r#"{"steps":1,"n\"":"18446744073709551616"}"#, false),
        ] {
            match upcast::<Renamed>(stored("New", 3, payload)) {
                Ok(_) => assert!(!refused, "{payload}"),
                Err(UpcastError::Failed { source, .. }) => {
                    assert!(refused && source.is::<WideInteger>(), "{payload}: {source}");
                }
                Err(other) => panic!("{payload}: {other}"),
            }
        }
    }

    #[test]
    fn a_step_that_fails_says_from_which_type() {
        let found = upcast::<Renamed>(stored("New", 3, "{}")).expect_err("no steps");
        assert_eq!(found.to_string(), "the step from type \"New\" version 3 failed: no steps");
        let binary = StoredForm { content_type: "text/plain".into(), ..stored("New", 3, "{}") };
        assert!(matches!(upcast::<Renamed>(binary), Err(UpcastError::Failed { .. })));
    }
}
