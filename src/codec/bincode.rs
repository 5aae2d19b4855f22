//! bincode 2 through serde.

use serde::Deserialize;

use super::unfit::Unfit;
use super::watched::Watch;
use super::{BINCODE_CONTENT_TYPE, Cause, Codec, ReadValue};

/// Largest value that is decoded, in bytes that it claims to need. Bounds what a damaged length
/// can make the decoder allocate.
pub const MAX_BINCODE_DECODE_BYTES: usize = 64 * 1024 * 1024;

/// How deep a value that is decoded may nest: each list, map, struct, enum, `Some` and newtype within another is a level.
/// Bounds what a damaged value of a type that holds itself can take of a thread's stack. A value that nests deeper can be
/// encoded, but not decoded.
pub const MAX_BINCODE_LEVELS: usize = 256;

/// bincode 2, standard configuration: compact and fast, not self-describing; the default for
/// snapshots, which can always be rebuilt from events.
///
/// It writes neither names nor how many fields there are. So a struct of which a named field is left out, by serde's
/// `skip_serializing_if`, is refused: it might be read as another value. Do without that attribute, and without `skip_serializing` alone,
/// also in structs without names, where serde does not tell. Types that serde reads by asking what is there
/// (`serde_json::Value`, untagged and internally tagged enums, `flatten`) can be written, and not read.
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
        erased_serde::serialize(value, Unfit::LeftOut)?;
        bincode::serde::encode_into_std_write(value, out, config())?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
        let mut reader = bincode::serde::BorrowedSerdeDecoder::from_slice(bytes, config(), ());
        let watch = Watch::new(MAX_BINCODE_LEVELS);
        let read = read(&mut <dyn erased_serde::Deserializer<'_>>::erase(watch.over(reader.as_deserializer())));
        if let Err(last) = read {
            return Err(watch.into_first_error().map_or_else(|| Cause::from(last), Cause::from));
        }
        // The decoder does not say how much it read; one more byte must not be there.
        match u8::deserialize(reader.as_deserializer()) {
            Err(_) => Ok(()),
            Ok(_) => Err("bytes are left over after the value".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain {
        next: Option<Box<Chain>>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf(u8),
        Branch { parts: Vec<Tree> },
    }

    fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
        let mut value = None;
        let read = Bincode.decode(bytes, &mut |deserializer| {
            value = Some(erased_serde::deserialize(deserializer)?);
            Ok(())
        });
        read.map_err(|error| error.to_string())?;
        value.ok_or_else(|| "no value".to_owned())
    }

    fn chain(length: usize) -> Chain {
        (0..length).fold(Chain { next: None }, |next, _| Chain { next: Some(Box::new(next)) })
    }

    fn encode(value: &dyn erased_serde::Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        Bincode.encode(value, &mut bytes).expect("encodes");
        bytes
    }

    /// Each level made the text of the error twice as long: this took hours, and more memory than there is.
    #[test]
    fn a_damaged_value_deep_within_others_is_an_error_at_once() {
        let began = Instant::now();
        assert_eq!(decode::<Chain>(&[1; 36]).expect_err("cut off"), "UnexpectedEnd { additional: 1 }");
        let mut tree = (0..36).fold(Tree::Leaf(7), |tree, _| Tree::Branch { parts: vec![tree] });
        assert_eq!(decode::<Tree>(&encode(&tree)).as_ref(), Ok(&tree));
        tree = Tree::Branch { parts: vec![tree] };
        let mut bytes = encode(&tree);
        let leaf = bytes.len() - 2;
        bytes[leaf] = 9;
        let error = decode::<Tree>(&bytes).expect_err("an unknown variant");
        assert_eq!(error, "invalid value: integer `9`, expected variant index 0 <= i < 2");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn values_nest_as_deep_as_the_limit_and_no_deeper_in_half_a_stack() {
        let deep = || {
            // A struct in a `Some` in a struct.
            let deepest = chain(MAX_BINCODE_LEVELS / 2 - 1);
            assert_eq!(decode::<Chain>(&encode(&deepest)).as_ref(), Ok(&deepest));
            let refused = "the value nests deeper than 256 levels".to_owned();
            assert_eq!(decode::<Chain>(&encode(&chain(MAX_BINCODE_LEVELS / 2))), Err(refused.clone()));
            assert_eq!(decode::<Chain>(&[1; 1_000_000]), Err(refused.clone()));
            assert_eq!(decode::<Tree>(&[1; 1_000_000]), Err(refused));
        };
        // A thread of an async runtime has 2 MiB.
        let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn(deep);
        thread.expect("it starts").join().expect("it withstands");
    }

    /// It was read as `(Some(3), true, [9])`.
    #[test]
    fn a_value_of_which_a_field_is_left_out_is_refused() {
        #[derive(Serialize)]
        struct State {
            #[serde(skip_serializing_if = "Option::is_none")]
            a: Option<u8>,
            b: bool,
            c: Vec<u8>,
        }
        let encode = |a| Bincode.encode(&Some(State { a, b: true, c: vec![1, 1, 9] }), &mut Vec::new());
        assert!(encode(Some(1)).is_ok());
        let refused = encode(None).expect_err("it has no place for what is not there");
        assert!(refused.to_string().contains("field \"a\" is left out"), "{refused}");
    }

    #[test]
    fn what_follows_a_value_within_another_does_not_add_to_its_depth() {
        let wide = Tree::Branch { parts: (0..1000).map(|_| Tree::Branch { parts: vec![] }).collect() };
        assert_eq!(decode::<Tree>(&encode(&wide)), Ok(wide));
    }

    #[test]
    fn what_has_every_form_of_serde_is_decoded() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Name(String);
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Unit;
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        enum Form {
            Unit,
            Pair(u8, i128),
        }
        type Numbers = (bool, i8, i16, i32, i64, u16, u32, u64, u128, f32, f64, char);
        type Parts = (Name, Unit, [Form; 2], std::collections::BTreeMap<String, Option<u8>>, (), std::time::Duration);

        let numbers: Numbers = (true, -1, -2, -3, -4, 5, 6, 7, 8, 0.5, -0.25, 'ü');
        assert_eq!(decode::<Numbers>(&encode(&numbers)), Ok(numbers));
        let map = [("one".to_owned(), Some(1)), ("none".to_owned(), None)].into();
        let parts: Parts =
            (Name("name".into()), Unit, [Form::Unit, Form::Pair(1, -2)], map, (), Duration::from_millis(5));
        assert_eq!(decode::<Parts>(&encode(&parts)), Ok(parts));
    }
}
