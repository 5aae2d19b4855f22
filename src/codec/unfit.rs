//! Whether a format gives back what a value holds.

use serde::ser::{self, Error, Serialize};

type Done = Result<(), serde_json::Error>;

/// Writes nothing, and fails at what some format would not give back.
#[derive(Clone, Copy)]
pub(crate) enum Unfit {
    /// A float that is infinite or no number: JSON would have `null` in its place, which is read as no float.
    Floats,
    /// A field that is left out, as by serde's `skip_serializing_if`: bincode, which writes no names, would read the next one in
    /// its place.
    #[cfg_attr(not(feature = "bincode"), expect(dead_code, reason = "there is no bincode"))]
    LeftOut,
}

impl Unfit {
    fn float(self, value: f64) -> Done {
        if value.is_finite() || !matches!(self, Self::Floats) {
            return Ok(());
        }
        Err(serde_json::Error::custom(format!("JSON has no number for {value}")))
    }

    fn left_out(self, field: &str) -> Done {
        if matches!(self, Self::Floats) {
            return Ok(());
        }
        let detail = format!("field {field:?} is left out, which bincode cannot tell; do without skip_serializing_if");
        Err(serde_json::Error::custom(detail))
    }
}

macro_rules! fine {
    ($($method:ident($($type:ty),*)),+ $(,)?) => {
        $(fn $method(self, $(_: $type),*) -> Done { Ok(()) })+
    };
}

macro_rules! begun {
    ($($method:ident($($type:ty),*)),+ $(,)?) => {
        $(fn $method(self, $(_: $type),*) -> Result<Self, serde_json::Error> { Ok(self) })+
    };
}

impl ser::Serializer for Unfit {
    type Ok = ();
    type Error = serde_json::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    /// As the format that is written has it.
    fn is_human_readable(&self) -> bool {
        matches!(self, Self::Floats)
    }

    fn serialize_f32(self, value: f32) -> Done {
        self.float(value.into())
    }

    fn serialize_f64(self, value: f64) -> Done {
        self.float(value)
    }

    fine!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_none(),
        serialize_unit(),
        serialize_unit_struct(&'static str),
        serialize_unit_variant(&'static str, u32, &'static str),
    );

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        value.serialize(self)
    }

    begun!(
        serialize_seq(Option<usize>),
        serialize_tuple(usize),
        serialize_tuple_struct(&'static str, usize),
        serialize_tuple_variant(&'static str, u32, &'static str, usize),
        serialize_map(Option<usize>),
        serialize_struct(&'static str, usize),
        serialize_struct_variant(&'static str, u32, &'static str, usize),
    );
}

macro_rules! parts {
    ($($part:ident: $method:ident($($name:ty)?) $($skip:ident)?),+ $(,)?) => {
        $(impl ser::$part for Unfit {
            type Ok = ();
            type Error = serde_json::Error;

            fn $method<T: ?Sized + Serialize>(&mut self, $(_: $name,)? value: &T) -> Done {
                value.serialize(*self)
            }

            $(fn $skip(&mut self, name: &'static str) -> Done {
                self.left_out(name)
            })?

            fn end(self) -> Done {
                Ok(())
            }
        })+
    };
}

parts!(
    SerializeSeq: serialize_element(),
    SerializeTuple: serialize_element(),
    SerializeTupleStruct: serialize_field(),
    SerializeTupleVariant: serialize_field(),
    SerializeStruct: serialize_field(&'static str) skip_field,
    SerializeStructVariant: serialize_field(&'static str) skip_field,
);

impl ser::SerializeMap for Unfit {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Done {
        match self {
            // A number is written as a text there.
            Self::Floats => Ok(()),
            Self::LeftOut => key.serialize(*self),
        }
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Done {
        value.serialize(*self)
    }

    fn end(self) -> Done {
        Ok(())
    }
}
