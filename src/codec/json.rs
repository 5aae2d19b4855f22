//! JSON by serde_json.

use std::io::{self, Write};

use serde_json::ser::Formatter;

use super::{Cause, Codec, JSON_CONTENT_TYPE, ReadValue};

/// How deep a value may nest: each list, map, struct, and enum with a value, within another is a level. It is as deep as
/// serde_json reads, so that nothing is written that cannot be read again.
pub const MAX_JSON_LEVELS: usize = 127;

/// JSON: readable in the database, the default for events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    fn content_type(&self) -> &'static str {
        JSON_CONTENT_TYPE
    }

    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), Cause> {
        erased_serde::serialize(value, &mut serde_json::Serializer::with_formatter(out, Levels(0)))?;
        Ok(())
    }

    fn decode(&self, bytes: &[u8], read: &mut ReadValue<'_>) -> Result<(), Cause> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        read(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))?;
        Ok(json.end()?)
    }
}

/// Writes without spaces, and counts how many lists and objects are open.
struct Levels(usize);

impl Levels {
    fn deeper(&mut self) -> io::Result<()> {
        self.0 += 1;
        let refused = || io::Error::other(format!("the value nests deeper than {MAX_JSON_LEVELS} levels"));
        if self.0 > MAX_JSON_LEVELS { Err(refused()) } else { Ok(()) }
    }
}

impl Formatter for Levels {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.deeper()?;
        out.write_all(b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0 -= 1;
        out.write_all(b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.deeper()?;
        out.write_all(b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0 -= 1;
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
