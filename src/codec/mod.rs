//! How messages and states become bytes. Every payload carries its content type, so a codec can be
//! changed at any time: old payloads are decoded by the codec that their content type names.

use std::any::Any;
use std::sync::Arc;

use erased_serde::{Deserializer, Serialize};
use serde::de::DeserializeOwned;

use crate::error::{Cause, Error, Result};
use crate::message::{MessageType, StoredForm, TypeTag};

#[cfg(feature = "bincode")]
mod bincode;
#[cfg(feature = "json")]
mod json;
mod unfit;
#[cfg(feature = "bincode")]
mod watched;
mod wide;

#[cfg(feature = "bincode")]
pub use bincode::{Bincode, MAX_BINCODE_DECODE_BYTES, MAX_BINCODE_LEVELS};
#[cfg(feature = "json")]
pub use json::{Json, MAX_JSON_LEVELS};
pub(crate) use unfit::Unfit;
pub(crate) use wide::has_wide_integer;

/// Content type of JSON.
pub const JSON_CONTENT_TYPE: &str = "application/json";
/// Content type of bincode 2 in its standard configuration.
pub const BINCODE_CONTENT_TYPE: &str = "application/vnd.bincode2";

/// Reads one value from a codec's deserializer; given by the caller of [`Codec::decode`].
pub type ReadValue<'a> = dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error> + 'a;

/// Turns serde values into bytes and back. Object-safe, so a framework can bring its own.
pub trait Codec: Any + Send + Sync {
    /// Stored beside every payload and matched exactly on load. Must never change its meaning.
    fn content_type(&self) -> &'static str;

    /// Appends the encoded value to `out`.
    ///
    /// # Errors
    /// The codec's own; what it appended is then thrown away.
    fn encode(&self, value: &dyn Serialize, out: &mut Vec<u8>) -> Result<(), Cause>;

    /// Decodes `bytes`, which come from the database and may be damaged: it must bound what it
    /// allocates by the size of `bytes`, and must refuse bytes that are left over.
    ///
    /// # Errors
    /// The codec's own.
    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause>;
}

/// The codecs of a persister: one that writes events, one that writes snapshots, and all that can
/// read what earlier releases wrote.
#[derive(Clone)]
pub struct Codecs {
    events: Arc<dyn Codec>,
    snapshots: Arc<dyn Codec>,
    known: Arc<[Arc<dyn Codec>]>,
    /// JSON is read by the built-in codec, not by one of the caller's own.
    #[cfg(feature = "json")]
    built_in_json: bool,
}

impl Codecs {
    /// Writes events with one codec and snapshots with the other; both, and the built-in ones,
    /// can be read. Of several codecs of one content type the first one reads: that of events, that of snapshots, the
    /// built-in one.
    pub fn new(events: Arc<dyn Codec>, snapshots: Arc<dyn Codec>) -> Self {
        let known: Vec<Arc<dyn Codec>> = vec![
            Arc::clone(&events),
            Arc::clone(&snapshots),
            #[cfg(feature = "json")]
            Arc::new(Json),
            #[cfg(feature = "bincode")]
            Arc::new(Bincode),
        ];
        Self {
            events,
            snapshots,
            #[cfg(feature = "json")]
            built_in_json: first(&known, JSON_CONTENT_TYPE).is_some_and(|codec| {
                let codec: &dyn Any = codec.as_ref();
                codec.is::<Json>()
            }),
            known: known.into(),
        }
    }

    /// Also reads what `codec` wrote, unless its content type is that of one before it.
    #[must_use]
    pub fn also_reading(mut self, codec: Arc<dyn Codec>) -> Self {
        let known: Vec<_> = self.known.iter().cloned().chain([codec]).collect();
        self.known = known.into();
        self
    }

    /// The codec for new events and commands.
    pub fn events(&self) -> &dyn Codec {
        self.events.as_ref()
    }

    /// The codec for new snapshots.
    pub fn snapshots(&self) -> &dyn Codec {
        self.snapshots.as_ref()
    }

    /// Decodes what the codec named by `content_type` wrote.
    ///
    /// # Errors
    /// A sentence naming the content type if no codec knows it; else the codec's own error.
    pub fn decode<T: DeserializeOwned>(&self, content_type: &str, bytes: &[u8]) -> Result<T, Cause> {
        #[cfg(feature = "json")]
        if self.built_in_json && content_type == JSON_CONTENT_TYPE {
            // The common case without dynamic dispatch: it is on the replay path.
            return serde_json::from_slice(bytes).map_err(Cause::from);
        }
        let codec = first(&self.known, content_type);
        let codec = codec.ok_or_else(|| format!("no codec for content type {content_type:?} is set up"))?;
        let mut value = None;
        codec.decode(bytes, &mut |deserializer| {
            value = Some(erased_serde::deserialize(deserializer)?);
            Ok(())
        })?;
        value.ok_or_else(|| format!("the codec for {content_type:?} read no value").into())
    }

    /// Decodes a message, which must be of the type that is stored with it.
    pub(crate) fn decode_message<M: MessageType + DeserializeOwned>(&self, form: &StoredForm) -> Result<M, Cause> {
        let message: M = self.decode(&form.content_type, &form.payload)?;
        let TypeTag { name, version, .. } = message.message_type();
        if name != &*form.type_name || version != form.type_version {
            return Err(format!("the payload is a {name} version {version}, its type says {}", form.type_name).into());
        }
        Ok(message)
    }
}

fn first<'k>(known: &'k [Arc<dyn Codec>], content_type: &str) -> Option<&'k Arc<dyn Codec>> {
    known.iter().find(|codec| codec.content_type() == content_type)
}

#[cfg(all(feature = "json", feature = "bincode"))]
impl Default for Codecs {
    /// JSON for events, bincode for snapshots.
    fn default() -> Self {
        Self::new(Arc::new(Json), Arc::new(Bincode))
    }
}

#[cfg(all(feature = "json", not(feature = "bincode")))]
impl Default for Codecs {
    /// JSON for events and for snapshots, since the feature `bincode` is off.
    fn default() -> Self {
        Self::new(Arc::new(Json), Arc::new(Json))
    }
}

#[cfg(all(feature = "bincode", not(feature = "json")))]
impl Default for Codecs {
    /// bincode for events and for snapshots, since the feature `json` is off.
    fn default() -> Self {
        Self::new(Arc::new(Bincode), Arc::new(Bincode))
    }
}

/// Encodes with a limit on the result.
pub(crate) fn encode(
    codec: &dyn Codec,
    what: &str,
    limit_of: &'static str,
    limit: usize,
    value: &dyn Serialize,
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    codec.encode(value, &mut out).map_err(|source| Error::Unencodable { what: what.to_owned(), source })?;
    check_size(limit_of, out.len(), limit)?;
    Ok(out)
}

/// Fails if `size` is over `limit`.
pub(crate) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<()> {
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    if size > limit { Err(Error::TooLarge { what, size: wide(size), limit: wide(limit) }) } else { Ok(()) }
}

#[cfg(all(test, feature = "json", feature = "bincode"))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn state() -> BTreeMap<String, Vec<u32>> {
        BTreeMap::from([("a".to_owned(), vec![1, 2, 3]), ("ü".to_owned(), vec![])])
    }

    #[test]
    fn what_one_codec_wrote_is_read_by_its_content_type_under_any_default() {
        let swapped = Codecs::new(Arc::new(Bincode), Arc::new(Json));
        for codec in [&Json as &dyn Codec, &Bincode] {
            let mut bytes = Vec::new();
            codec.encode(&state(), &mut bytes).expect("encodes");
            let read = swapped.decode::<BTreeMap<String, Vec<u32>>>(codec.content_type(), &bytes);
            assert_eq!(read.expect("decodes"), state());
        }
    }

    #[test]
    fn unknown_content_types_and_damaged_bytes_are_errors() {
        let codecs = Codecs::default();
        let mut bytes = Vec::new();
        Bincode.encode(&state(), &mut bytes).expect("encodes");
        let decode =
            |content_type: &str, bytes: &[u8]| codecs.decode::<BTreeMap<String, Vec<u32>>>(content_type, bytes);
        assert!(decode("application/x-unknown", &bytes).is_err());
        assert!(decode("application/json; charset", &bytes).is_err());
        assert!(decode(JSON_CONTENT_TYPE, &bytes).is_err());
        for cut in 0..bytes.len() {
            assert!(decode(BINCODE_CONTENT_TYPE, &bytes[..cut]).is_err(), "cut to {cut} bytes");
        }
        bytes.push(0);
        assert!(decode(BINCODE_CONTENT_TYPE, &bytes).is_err(), "a byte too many");
    }

    /// JSON behind a byte of its own.
    struct Prefixed;

    impl Codec for Prefixed {
        fn content_type(&self) -> &'static str {
            JSON_CONTENT_TYPE
        }

        fn encode(&self, value: &dyn Serialize, out: &mut Vec<u8>) -> Result<(), Cause> {
            out.push(1);
            Json.encode(value, out)
        }

        fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
            Json.decode(bytes.strip_prefix(&[1]).ok_or("it has no prefix")?, read)
        }
    }

    #[test]
    fn a_codec_of_ones_own_reads_what_it_wrote_as_json() {
        let mut bytes = Vec::new();
        Prefixed.encode(&state(), &mut bytes).expect("encodes");
        for (events, snapshots) in [
            (Arc::new(Prefixed) as Arc<dyn Codec>, Arc::new(Bincode) as Arc<dyn Codec>),
            (Arc::new(Bincode), Arc::new(Prefixed)),
            (Arc::new(Prefixed), Arc::new(Json)),
        ] {
            let read = Codecs::new(events, snapshots).decode::<BTreeMap<String, Vec<u32>>>(JSON_CONTENT_TYPE, &bytes);
            assert_eq!(read.expect("decodes"), state());
        }
        let later = Codecs::default().also_reading(Arc::new(Prefixed));
        assert!(later.decode::<BTreeMap<String, Vec<u32>>>(JSON_CONTENT_TYPE, &bytes).is_err(), "the first one reads");
    }

    #[test]
    fn a_forged_length_does_not_allocate() {
        // Ten bytes that claim a sequence of 2^63 elements.
        let forged = [253, 255, 255, 255, 255, 255, 255, 255, 127, 0];
        assert!(Codecs::default().decode::<Vec<u8>>(BINCODE_CONTENT_TYPE, &forged).is_err());
    }
}
