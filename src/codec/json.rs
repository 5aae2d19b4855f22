//! JSON by serde_json.

use std::cell::Cell;
use std::io::{self, Write};

use serde_json::ser::Formatter;

use super::unfit::Unfit;
use super::{Cause, Codec, JSON_CONTENT_TYPE, ReadValue};

/// How deep a value may nest: each list, map, struct, and enum with a value, within another is a level. It is as deep as
/// serde_json reads, so that nothing is written that cannot be read again.
pub const MAX_JSON_LEVELS: usize = 127;

/// JSON: readable in the database, the default for events. Floats come back as they were; a value with one that is infinite or no
/// number is refused, because it could not be read again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        JSON_CONTENT_TYPE
    }

    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), Cause> {
        let has_null = Cell::new(false);
        let compact = Compact { levels: 0, has_null: &has_null };
        erased_serde::serialize(value, &mut serde_json::Serializer::with_formatter(out, compact))?;
        // A float that is not finite is written so, as is what is not there.
        if has_null.get() {
            erased_serde::serialize(value, Unfit::Floats)?;
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))?;
        Ok(json.end()?)
    }
}

/// Writes without spaces, counts how many lists and objects are open, and tells whether it wrote null.
struct Compact<'a> {
    levels: usize,
    has_null: &'a Cell<bool>,
}

impl Compact<'_> {
    fn deeper(&mut self) -> io::Result<()> {
        self.levels += 1;
        let refused = || io::Error::other(format!("the value nests deeper than {MAX_JSON_LEVELS} levels"));
        if self.levels > MAX_JSON_LEVELS { Err(refused()) } else { Ok(()) }
    }
}

impl Formatter for Compact<'_> {
    fn write_null<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.has_null.set(true);
        out.write_all(b"null")
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.deeper()?;
        out.write_all(b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.levels -= 1;
        out.write_all(b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.deeper()?;
        out.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.levels -= 1;
        out.write_all(b"}")
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    enum Tree {
        Leaf(Vec<u8>),
        Branch { left: Option<Box<Tree>>, right: Option<Box<Tree>> },
    }

    /// Each branch is an object in an object.
    fn encoded(branches: usize) -> Result<Vec<u8>, String> {
        let leaf = Tree::Leaf(vec![]);
        let grow = |tree, _| Tree::Branch { left: Some(Box::new(tree)), right: Some(Box::new(Tree::Leaf(vec![1]))) };
        let mut out = Vec::new();
        Json.encode(&(0..branches).fold(leaf, grow), &mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    /// The last bit of about one in ten was another one after reading, so that replay made another state than was decided on.
    #[test]
    fn floats_come_back_as_they_were() {
        let mut random = fastrand::Rng::with_seed(7);
        let random =
            (0..10_000).map(|_| random.f64()).chain([1.0 / 11.0, 0.01 * 1.19, f64::MIN_POSITIVE, f64::MAX, -0.0]);
        for value in random {
            let mut out = Vec::new();
            Json.encode(&value, &mut out).expect("encodes");
            assert_eq!(serde_json::from_slice::<f64>(&out).expect("decodes").to_bits(), value.to_bits());
        }
    }

    /// It was written as null, and its instance could not be loaded any more.
    #[test]
    fn a_float_that_is_not_finite_is_not_written() {
        #[derive(Serialize)]
        enum Value {
            Newtype(f32),
            Tuple(Option<u8>, f64),
            Struct { name: Option<String>, list: Vec<(f64, Option<f64>)> },
        }
        let map = |value: f64| std::collections::BTreeMap::from([("null", Some(value)), ("none", None)]);
        for (bad, words) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            let refused = |value: &dyn erased_serde::Serialize| {
                let refused = Json.encode(value, &mut Vec::new()).expect_err("is not written").to_string();
                assert_eq!(refused, format!("JSON has no number for {words}"));
            };
            refused(&bad);
            refused(&Some(bad));
            refused(&Value::Newtype(bad as f32));
            refused(&Value::Tuple(None, bad));
            refused(&Value::Struct { name: None, list: vec![(1.0, None), (2.0, Some(bad))] });
            refused(&map(bad));
        }
        let mut out = Vec::new();
        Json.encode(&(map(1.5), Value::Tuple(None, 1.0), Value::Struct { name: None, list: vec![] }), &mut out)
            .expect("encodes");
        assert_eq!(
            String::from_utf8(out).expect("is text"),
            r#"[{"none":null,"null":1.5},{"Tuple":[null,1.0]},{"Struct":{"name":null,"list":[]}}]"#
        );
    }

    #[test]
    fn a_value_that_nests_deeper_than_is_read_is_not_written() {
        // Within 62 branches, the leaf is an object and a list: 126 levels.
        let deepest = encoded(62).expect("encodes");
        assert!(serde_json::from_slice::<Tree>(&deepest).is_ok());
        assert_eq!(encoded(63), Err("the value nests deeper than 127 levels".to_owned()));
        let lists = |count| format!("{}{}", "[".repeat(count), "]".repeat(count));
        let read = |count| serde_json::from_str::<serde_json::Value>(&lists(count));
        let value = read(MAX_JSON_LEVELS).expect("is read");
        let mut out = Vec::new();
        Json.encode(&value, &mut out).expect("encodes");
        assert_eq!(out, lists(MAX_JSON_LEVELS).into_bytes());
        assert!(read(MAX_JSON_LEVELS + 1).is_err(), "the limit is lower than it need be");
        assert!(Json.encode(&vec![value], &mut out).is_err());
    }
}
