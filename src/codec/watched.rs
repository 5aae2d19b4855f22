//! A deserializer that keeps its first error aside, and lets values nest no deeper than a limit.
//!
//! Type erasure makes a text of an error at each level of a value. A format whose errors display what they hold in
//! quotes, as bincode's do, makes that text twice as long each time: a few hostile bytes would keep a processor busy for
//! years. So what goes up through the levels is always the same short text.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Display};

use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

/// What is watched while one value is decoded.
pub(super) struct Watch {
    most_levels: usize,
    levels: Cell<usize>,
    first_error: RefCell<Option<String>>,
}

impl Watch {
    pub(super) fn new(most_levels: usize) -> Self {
        Self { most_levels, levels: Cell::new(0), first_error: RefCell::new(None) }
    }

    pub(super) fn over<T>(&self, inner: T) -> Watched<'_, T> {
        Watched { watch: self, inner }
    }

    pub(super) fn into_first_error(self) -> Option<String> {
        self.first_error.into_inner()
    }

    /// An error of the format, on its way to the value's type.
    fn keep(&self, error: impl Display) -> Failure {
        self.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
        Failure::Kept
    }

    /// An error of the value's type, on its way to the format.
    fn hand_over<E: de::Error>(&self, failure: Failure) -> E {
        E::custom(self.keep(failure))
    }

    /// Does what reads a value within a value.
    fn within<T, E: de::Error>(&self, read: impl FnOnce() -> Result<T, Failure>) -> Result<T, E> {
        let levels = self.levels.get();
        if levels == self.most_levels {
            let failure = de::Error::custom(format_args!("the value nests deeper than {levels} levels"));
            return Err(self.hand_over(failure));
        }
        self.levels.set(levels + 1);
        let read = read();
        self.levels.set(levels);
        read.map_err(|failure| self.hand_over(failure))
    }
}

/// What the value's type gets to see of an error, and what it says itself.
#[derive(Debug)]
pub(super) enum Failure {
    /// The watch has it.
    Kept,
    Said(String),
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("the value does not decode"),
            Self::Said(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: Display>(text: T) -> Self {
        Self::Said(text.to_string())
    }
}

/// A deserializer, or one of its parts, or what is given to it, under watch.
pub(super) struct Watched<'w, T> {
    watch: &'w Watch,
    inner: T,
}

/// Methods of a deserializer that take a visitor, and arguments before it.
macro_rules! forward_to_deserializer {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, Failure> {
            let read = self.inner.$method($($argument,)* self.watch.over(visitor));
            read.map_err(|error| self.watch.keep(error))
        }
    )*};
}

type Names = &'static [&'static str];

impl<'de, D: de::Deserializer<'de>> de::Deserializer<'de> for Watched<'_, D> {
    type Error = Failure;

    forward_to_deserializer! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: Names);
        deserialize_enum(name: &'static str, variants: Names);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Methods of a visitor that take a value without others in it.
macro_rules! forward_to_visitor {
    ($($method:ident($($value:ident: $type:ty)?);)*) => {$(
        fn $method<E: de::Error>(self $(, $value: $type)?) -> Result<V::Value, E> {
            self.inner.$method($($value)?).map_err(|failure| self.watch.hand_over(failure))
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watched<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    forward_to_visitor! {
        visit_bool(value: bool);
        visit_i8(value: i8);
        visit_i16(value: i16);
        visit_i32(value: i32);
        visit_i64(value: i64);
        visit_i128(value: i128);
        visit_u8(value: u8);
        visit_u16(value: u16);
        visit_u32(value: u32);
        visit_u64(value: u64);
        visit_u128(value: u128);
        visit_f32(value: f32);
        visit_f64(value: f64);
        visit_char(value: char);
        visit_str(value: &str);
        visit_borrowed_str(value: &'de str);
        visit_string(value: String);
        visit_bytes(value: &[u8]);
        visit_borrowed_bytes(value: &'de [u8]);
        visit_byte_buf(value: Vec<u8>);
        visit_none();
        visit_unit();
    }

    fn visit_some<D: de::Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.watch.within(|| self.inner.visit_some(self.watch.over(inner)))
    }

    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.watch.within(|| self.inner.visit_newtype_struct(self.watch.over(inner)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.watch.within(|| self.inner.visit_seq(self.watch.over(access)))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.watch.within(|| self.inner.visit_map(self.watch.over(access)))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.watch.within(|| self.inner.visit_enum(self.watch.over(access)))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Watched<'_, S> {
    type Value = S::Value;

    fn deserialize<D: de::Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let read = self.inner.deserialize(self.watch.over(inner));
        read.map_err(|failure| self.watch.hand_over(failure))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Watched<'_, A> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        self.inner.next_element_seed(self.watch.over(seed)).map_err(|error| self.watch.keep(error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Watched<'_, A> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Failure> {
        self.inner.next_key_seed(self.watch.over(seed)).map_err(|error| self.watch.keep(error))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        self.inner.next_value_seed(self.watch.over(seed)).map_err(|error| self.watch.keep(error))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'w, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Watched<'w, A> {
    type Error = Failure;
    type Variant = Watched<'w, A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), Failure> {
        let chosen = self.inner.variant_seed(self.watch.over(seed)).map_err(|error| self.watch.keep(error));
        chosen.map(|(value, variant)| (value, self.watch.over(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Watched<'_, A> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        self.inner.unit_variant().map_err(|error| self.watch.keep(error))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Failure> {
        self.inner.newtype_variant_seed(self.watch.over(seed)).map_err(|error| self.watch.keep(error))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failure> {
        self.inner.tuple_variant(len, self.watch.over(visitor)).map_err(|error| self.watch.keep(error))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: Names, visitor: V) -> Result<V::Value, Failure> {
        self.inner.struct_variant(fields, self.watch.over(visitor)).map_err(|error| self.watch.keep(error))
    }
}
