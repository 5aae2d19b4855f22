//! A state in a form that can be compared.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use crate::codec::Unfit;
use crate::error::{Error, Result};

/// A state as JSON. Whole numbers beyond 64 bits, which it would round, stand in it as strings; floats that are infinite or
/// no number, of which it would make null, are an error, and so are values that nest deeper than JSON is read.
pub(crate) fn as_json(state: &impl Serialize) -> Result<Value> {
    let what = "state of the instance as JSON";
    exact(state).map_err(|fault| Error::Unencodable { what: what.to_owned(), source: fault.into() })
}

fn exact(state: &impl Serialize) -> serde_json::Result<Value> {
    state.serialize(Unfit::Floats)?;
    let mut text = Vec::new();
    state.serialize(&mut Serializer::with_formatter(&mut text, Exact { in_key: false }))?;
    serde_json::from_slice(&text)
}

/// Writes whole numbers beyond 64 bits as strings.
struct Exact {
    /// A number that is a key is within a string already.
    in_key: bool,
}

impl Exact {
    fn write<W: ?Sized + Write>(&self, out: &mut W, number: impl Display, fits: bool) -> io::Result<()> {
        if fits || self.in_key { write!(out, "{number}") } else { write!(out, "\"{number}\"") }
    }
}

impl Formatter for Exact {
    fn write_i128<W: ?Sized + Write>(&mut self, out: &mut W, number: i128) -> io::Result<()> {
        self.write(out, number, i64::try_from(number).is_ok() || u64::try_from(number).is_ok())
    }

    fn write_u128<W: ?Sized + Write>(&mut self, out: &mut W, number: u128) -> io::Result<()> {
        self.write(out, number, u64::try_from(number).is_ok())
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.in_key = true;
        if first { Ok(()) } else { out.write_all(b",") }
    }

    fn end_object_key<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.in_key = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_of_any_size_stay_what_they_are() {
        let keys = BTreeMap::from([(u128::MAX, i128::MIN), (1, 1)]);
        let state =
            (u64::MAX, 1_u128 << 64, i128::from(i64::MIN), i128::from(i64::MIN) - 1, i128::from(u64::MAX), keys);
        let expected = json!([
            u64::MAX,
            "18446744073709551616",
            i64::MIN,
            "-9223372036854775809",
            u64::MAX,
            { "340282366920938463463374607431768211455": "-170141183460469231731687303715884105728", "1": 1 },
        ]);
        assert_eq!(as_json(&state).expect("JSON has room for it"), expected);
        assert_ne!(as_json(&u128::MAX).expect("text"), as_json(&(u128::MAX - 1)).expect("text"));
    }

    #[test]
    fn what_json_has_no_number_for_is_told_and_not_made_null() {
        for float in [f64::NAN, f64::INFINITY] {
            let refused = as_json(&vec![(1, Some(float))]);
            assert!(matches!(refused, Err(Error::Unencodable { .. })), "{refused:?}");
        }
        assert_eq!(as_json(&(None::<f64>, 0.1)).expect("JSON"), json!([null, 0.1]));
    }
}
