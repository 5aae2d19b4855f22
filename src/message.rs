//! What an event or command type tells about itself.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::JSON_CONTENT_TYPE;
use crate::envelope::Envelope;
use crate::upcast::Upcast;

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
/// Both are stored with every message and matched on load, so they must never change their meaning.
///
/// The name of the Rust type is stored nowhere and may change. Those of its variants and fields are: `serde` writes them into
/// the payload. So rename a variant or field with `#[serde(rename = "…")]`, which goes on writing the old name, or with
/// `#[serde(alias = "…")]`, which reads the old one and writes the new one; programs that are not yet up to date, and consumers, know
/// only the old one. Without either, what is stored does not load any more. bincode writes no names, but counts: keep the
/// order of variants and fields there, and add new variants at the end.
///
/// ```
/// use serde::Deserialize;
/// use serde_json::{from_str, json};
///
/// // Was: enum OrderEvent { Placed { item: String } }
/// #[derive(Deserialize)]
/// enum Renamed {
///     OrderPlaced { article: String },
/// }
///
/// #[derive(Debug, Deserialize, PartialEq)]
/// enum Kept {
///     #[serde(rename = "Placed")]
///     OrderPlaced {
///         #[serde(alias = "item")]
///         article: String,
///     },
/// }
///
/// let stored = json!({ "Placed": { "item": "tea" } }).to_string();
/// assert!(from_str::<Renamed>(&stored).is_err());
/// assert_eq!(from_str::<Kept>(&stored)?, Kept::OrderPlaced { article: "tea".to_owned() });
/// # fn unread(Renamed::OrderPlaced { article }: Renamed) -> String { article }
/// # Ok::<(), serde_json::Error>(())
/// ```
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

impl StoredForm {
    /// A message that is stored as JSON, for testing [upcasts](crate::Upcast).
    pub fn json(type_name: &str, type_version: u32, payload: &serde_json::Value) -> Self {
        let (content_type, payload) = (JSON_CONTENT_TYPE.into(), payload.to_string().into_bytes().into());
        Self { type_name: type_name.into(), type_version, content_type, payload }
    }
}

impl From<&Envelope> for StoredForm {
    /// Shares what the message holds.
    fn from(message: &Envelope) -> Self {
        Self {
            type_name: message.type_name.clone(),
            type_version: message.type_version,
            content_type: message.content_type.clone(),
            payload: message.payload.clone(),
        }
    }
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

    /// The steps that bring stored messages of older names and versions up to date; by default none.
    const UPCASTS: &'static [Upcast] = &[];

    /// Takes one step for a type from which none of [`UPCASTS`](Self::UPCASTS) leads on; for steps that are not known
    /// when the program is built. Must be a pure function. `None` means unknown, which is an error for the load.
    fn upcast(stored: StoredForm) -> Option<StoredForm> {
        let _ = stored;
        None
    }
}

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
///
/// The names of variants and fields are stored too, in the payload: see [`TypeTag`] for how to rename them.
///
/// Older versions are brought up to date by a list of [`Upcast`](crate::Upcast)s:
/// `message_types!(OrderEvent { … } upcasts ORDER_UPCASTS);`
#[macro_export]
macro_rules! message_types {
    ($type:ty { $($variant:ident : $name:literal $version:literal),+ $(,)? } $(upcasts $upcasts:expr)?) => {
        impl $crate::MessageType for $type {
            const TYPES: &'static [$crate::TypeTag] = &[$($crate::TypeTag::new($name, $version)),+];
            $(const UPCASTS: &'static [$crate::Upcast] = $upcasts;)?

            fn message_type(&self) -> $crate::TypeTag {
                match self {
                    $(Self::$variant { .. } => $crate::TypeTag::new($name, $version),)+
                }
            }
        }
    };
}
