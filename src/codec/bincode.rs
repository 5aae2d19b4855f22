//! bincode 2 through serde.

use serde::Deserialize;

use super::{BINCODE_CONTENT_TYPE, Cause, Codec, ReadValue};

/// Largest value that is decoded, in bytes that it claims to need. Bounds what a damaged length
/// can make the decoder allocate.
pub const MAX_BINCODE_DECODE_BYTES: usize = 64 * 1024 * 1024;

/// bincode 2, standard configuration: compact and fast, not self-describing; the default for
/// snapshots, which can always be rebuilt from events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bincode;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_BINCODE_DECODE_BYTES>()
}

impl Codec for Bincode {
    fn content_type(&self) -> &'static str {
        BINCODE_CONTENT_TYPE
    }

    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), Cause> {
        bincode::serde::encode_into_std_write(value, out, config())?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
        let mut reader = bincode::serde::BorrowedSerdeDecoder::from_slice(bytes, config(), ());
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(reader.as_deserializer()))?;
        // The decoder does not say how much it read; one more byte must not be there.
        match u8::deserialize(reader.as_deserializer()) {
            Err(_) => Ok(()),
            Ok(_) => Err("bytes are left over after the value".into()),
        }
    }
}
