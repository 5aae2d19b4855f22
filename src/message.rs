//! What an event or command type tells about itself.

use std::sync::Arc;

use bytes::Bytes;

/// Event or command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Something that happened; part of the stream's history.
    Event,
    /// Something that is asked for; sent, but not history.
    Command,
}

/// Name and version of a message type, as stored.
///
/// Both are stored with every message and matched on load, so they must never change their meaning:
/// rename Rust types freely, but keep these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeTag {
    /// The stored name.
    pub name: &'static str,
    /// The stored version.
    pub version: u32,
}

impl TypeTag {
    /// A tag for constants.
    pub const fn new(name: &'static str, version: u32) -> Self {
        Self { name, version }
    }
}

/// The stored form of an event on its way to a current type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredForm {
    /// Type name.
    pub type_name: Arc<str>,
    /// Type version.
    pub type_version: u32,
    /// How the payload is encoded.
    pub content_type: Arc<str>,
    /// The encoded event.
    pub payload: Bytes,
}

/// An event or command type. Usually an enum; [`message_types!`](crate::message_types) writes this
/// implementation for one.
pub trait MessageType {
    /// All current types, by stored name and version.
    const TYPES: &'static [TypeTag];

    /// The type of this value; one of [`TYPES`](Self::TYPES).
    fn message_type(&self) -> TypeTag;

    /// Checks a value before it is recorded.
    ///
    /// # Errors
    /// A sentence saying what is wrong; the message is then neither applied nor recorded.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// Translates a stored event of an older name or version one step towards a current type;
    /// called again until the type is a current one, at most [`MAX_UPCAST_STEPS`] times. Must be
    /// a pure function. `None` means unknown, which is an error for the load.
    fn upcast(stored: StoredForm) -> Option<StoredForm> {
        let _ = stored;
        None
    }
}

/// Longest chain of upcasts for one event; a longer one is taken for a cycle.
pub const MAX_UPCAST_STEPS: usize = 64;

/// Implements [`MessageType`] for an enum: each variant with its stored name and version.
///
/// ```
/// # use sagastore::{MessageType, TypeTag};
/// enum OrderEvent {
///     Placed { item: String },
///     Shipped,
/// }
/// sagastore::message_types!(OrderEvent { Placed: "OrderPlaced" 1, Shipped: "OrderShipped" 2 });
/// assert_eq!(OrderEvent::Shipped.message_type(), TypeTag::new("OrderShipped", 2));
/// assert_eq!(OrderEvent::TYPES.len(), 2);
/// # let _ = OrderEvent::Placed { item: String::new() };
/// ```
#[macro_export]
macro_rules! message_types {
    ($type:ty { $($variant:ident : $name:literal $version:literal),+ $(,)? }) => {
        impl $crate::MessageType for $type {
            const TYPES: &'static [$crate::TypeTag] = &[$($crate::TypeTag::new($name, $version)),+];

            fn message_type(&self) -> $crate::TypeTag {
                match self {
                    $(Self::$variant { .. } => $crate::TypeTag::new($name, $version),)+
                }
            }
        }
    };
}

/// The current form of a stored event, or the form at which its chain of upcasts ended.
pub(crate) fn upcast_to_current<M: MessageType>(mut form: StoredForm) -> Result<StoredForm, (Arc<str>, u32)> {
    for _ in 0..=MAX_UPCAST_STEPS {
        let known = |tag: &TypeTag| tag.name == &*form.type_name && tag.version == form.type_version;
        if M::TYPES.iter().any(known) {
            return Ok(form);
        }
        let tag = (Arc::clone(&form.type_name), form.type_version);
        form = M::upcast(form).ok_or(tag)?;
    }
    Err((form.type_name, form.type_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Renamed;
    impl MessageType for Renamed {
        const TYPES: &'static [TypeTag] = &[TypeTag::new("New", 3)];
        fn message_type(&self) -> TypeTag {
            TypeTag::new("New", 3)
        }
        fn upcast(stored: StoredForm) -> Option<StoredForm> {
            let (name, version) = match (&*stored.type_name, stored.type_version) {
                ("Old", 1) => ("New", 1),
                ("New", 1) => ("New", 2),
                ("New", 2) => ("New", 3),
                ("Loop", 1) => ("Loop", 1),
                _ => return None,
            };
            let mut payload = stored.payload.to_vec();
            payload.push(b'+');
            Some(StoredForm { type_name: name.into(), type_version: version, payload: payload.into(), ..stored })
        }
    }

    fn stored(name: &str, version: u32) -> StoredForm {
        let (content_type, payload) = ("text/plain".into(), Bytes::new());
        StoredForm { type_name: name.into(), type_version: version, content_type, payload }
    }

    #[test]
    fn each_old_version_goes_through_its_chain_once() {
        for (name, version, steps) in [("Old", 1, 3), ("New", 1, 2), ("New", 2, 1), ("New", 3, 0)] {
            let current = upcast_to_current::<Renamed>(stored(name, version)).expect("known");
            assert_eq!((&*current.type_name, current.type_version, current.payload.len()), ("New", 3, steps));
        }
    }

    #[test]
    fn unknown_types_and_cycles_end_in_an_error() {
        assert_eq!(upcast_to_current::<Renamed>(stored("Other", 1)), Err(("Other".into(), 1)));
        assert_eq!(upcast_to_current::<Renamed>(stored("Loop", 1)), Err(("Loop".into(), 1)));
    }
}
