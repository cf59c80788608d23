//! The question as Rego sees it: `serde::Serialize` straight into the engine's value, with no text in between.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use regorus::Value;
use serde::ser::{self, Serialize, Serializer};

/// Largest question that is evaluated, in bytes of its JSON form (counted without escapes).
pub(crate) const INPUT_LIMIT: usize = 1 << 20;

/// Builds inputs. Keeps the keys it has seen, so that a decision allocates values only.
#[derive(Default)]
pub(crate) struct InputBuilder {
    keys: Keys,
}

/// By where the name of a field lies in the program: names of fields are not copied, so the place tells them apart, and it
/// costs less to hash than the name.
type Keys = HashMap<(usize, usize), Value, BuildHasherDefault<PlaceHasher>>;

#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, value: usize) {
        // The odd constant of Fibonacci hashing spreads neighbouring places over the table.
        self.0 = (self.0.rotate_left(5) ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Why there is no input.
#[derive(Debug)]
pub(crate) enum InputError {
    /// It is larger than [`INPUT_LIMIT`].
    TooLarge,
    /// It has no JSON form, as a time that no clock can show.
    Unsayable(String),
}

impl InputBuilder {
    /// `subject` in exactly the form its JSON has.
    pub(crate) fn build<T: Serialize + ?Sized>(&mut self, subject: &T) -> Result<Value, InputError> {
        let mut left = INPUT_LIMIT;
        subject.serialize(ToValue { keys: &mut self.keys, left: &mut left })
    }

    /// A `data` document, which is the policy author's own and may be larger than a question.
    pub(crate) fn unlimited<T: Serialize + ?Sized>(subject: &T) -> Result<Value, InputError> {
        subject.serialize(ToValue { keys: &mut Keys::default(), left: &mut usize::MAX.clone() })
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the question is larger than {} KiB", INPUT_LIMIT >> 10),
            Self::Unsayable(why) => write!(f, "the question cannot be written down: {why}"),
        }
    }
}

impl std::error::Error for InputError {}

impl ser::Error for InputError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Unsayable(message.to_string())
    }
}

struct ToValue<'a> {
    keys: &'a mut Keys,
    left: &'a mut usize,
}

impl ToValue<'_> {
    fn spend(&mut self, bytes: usize) -> Result<(), InputError> {
        *self.left = self.left.checked_sub(bytes).ok_or(InputError::TooLarge)?;
        Ok(())
    }

    fn key(&mut self, key: &'static str) -> Result<Value, InputError> {
        self.spend(key.len() + 4)?;
        Ok(self.keys.entry((key.as_ptr().addr(), key.len())).or_insert_with(|| key.into()).clone())
    }

    fn again(&mut self) -> ToValue<'_> {
        ToValue { keys: self.keys, left: self.left }
    }
}

/// A list or a map in the making.
struct Many<'a> {
    to: ToValue<'a>,
    list: Vec<Value>,
}

struct Fields<'a> {
    to: ToValue<'a>,
    key: Option<Value>,
    /// Sorted all at once in the end, which costs less than keeping it sorted.
    map: Vec<(Value, Value)>,
}

impl<'a> Serializer for ToValue<'a> {
    type Ok = Value;
    type Error = InputError;
    type SerializeSeq = Many<'a>;
    type SerializeTuple = Many<'a>;
    type SerializeTupleStruct = Many<'a>;
    type SerializeTupleVariant = ser::Impossible<Value, InputError>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = ser::Impossible<Value, InputError>;

    fn serialize_bool(mut self, v: bool) -> Result<Value, InputError> {
        self.spend(5)?;
        Ok(Value::Bool(v))
    }

    fn serialize_i8(self, v: i8) -> Result<Value, InputError> {
        self.serialize_i64(v.into())
    }

    fn serialize_i16(self, v: i16) -> Result<Value, InputError> {
        self.serialize_i64(v.into())
    }

    fn serialize_i32(self, v: i32) -> Result<Value, InputError> {
        self.serialize_i64(v.into())
    }

    fn serialize_i64(mut self, v: i64) -> Result<Value, InputError> {
        self.spend(8)?;
        Ok(Value::from(v))
    }

    fn serialize_u8(self, v: u8) -> Result<Value, InputError> {
        self.serialize_u64(v.into())
    }

    fn serialize_u16(self, v: u16) -> Result<Value, InputError> {
        self.serialize_u64(v.into())
    }

    fn serialize_u32(self, v: u32) -> Result<Value, InputError> {
        self.serialize_u64(v.into())
    }

    fn serialize_u64(mut self, v: u64) -> Result<Value, InputError> {
        self.spend(8)?;
        Ok(Value::from(v))
    }

    fn serialize_f32(self, v: f32) -> Result<Value, InputError> {
        self.serialize_f64(v.into())
    }

    fn serialize_f64(mut self, v: f64) -> Result<Value, InputError> {
        self.spend(8)?;
        // JSON has no other numbers; they would compare as nothing else does.
        Ok(if v.is_finite() { Value::from(v) } else { Value::Null })
    }

    fn serialize_char(self, v: char) -> Result<Value, InputError> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(mut self, v: &str) -> Result<Value, InputError> {
        self.spend(v.len() + 3)?;
        Ok(v.into())
    }

    fn serialize_bytes(mut self, v: &[u8]) -> Result<Value, InputError> {
        self.spend(v.len().saturating_mul(4))?;
        Ok(v.iter().map(|byte| Value::from(u64::from(*byte))).collect::<Vec<_>>().into())
    }

    fn serialize_none(self) -> Result<Value, InputError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, InputError> {
        value.serialize(self)
    }

    fn serialize_unit(mut self) -> Result<Value, InputError> {
        self.spend(5)?;
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, InputError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, InputError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Value, InputError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, InputError> {
        let key = self.key(variant)?;
        let value = value.serialize(self.again())?;
        Ok(BTreeMap::from([(key, value)]).into())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Many<'a>, InputError> {
        self.serialize_tuple(len.unwrap_or_default())
    }

    fn serialize_tuple(mut self, len: usize) -> Result<Many<'a>, InputError> {
        self.spend(2)?;
        Ok(Many { to: self, list: Vec::with_capacity(len.min(1024)) })
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Many<'a>, InputError> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, InputError> {
        Err(InputError::Unsayable("a tuple variant has no JSON form here".into()))
    }

    fn serialize_map(mut self, len: Option<usize>) -> Result<Fields<'a>, InputError> {
        self.spend(2)?;
        Ok(Fields { to: self, key: None, map: Vec::with_capacity(len.unwrap_or_default().min(64)) })
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Fields<'a>, InputError> {
        self.serialize_map(Some(len))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, InputError> {
        Err(InputError::Unsayable("a struct variant has no JSON form here".into()))
    }
}

impl Many<'_> {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), InputError> {
        let value = value.serialize(self.to.again())?;
        self.list.push(value);
        Ok(())
    }
}

impl ser::SerializeSeq for Many<'_> {
    type Ok = Value;
    type Error = InputError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), InputError> {
        self.push(value)
    }

    fn end(self) -> Result<Value, InputError> {
        Ok(self.list.into())
    }
}

impl ser::SerializeTuple for Many<'_> {
    type Ok = Value;
    type Error = InputError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), InputError> {
        self.push(value)
    }

    fn end(self) -> Result<Value, InputError> {
        Ok(self.list.into())
    }
}

impl ser::SerializeTupleStruct for Many<'_> {
    type Ok = Value;
    type Error = InputError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), InputError> {
        self.push(value)
    }

    fn end(self) -> Result<Value, InputError> {
        Ok(self.list.into())
    }
}

impl ser::SerializeMap for Fields<'_> {
    type Ok = Value;
    type Error = InputError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), InputError> {
        match key.serialize(self.to.again())? {
            key @ Value::String(_) => self.key = Some(key),
            other => return Err(InputError::Unsayable(format!("a key must be text, not {other}"))),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), InputError> {
        let key = self.key.take().ok_or_else(|| InputError::Unsayable("a value without a key".into()))?;
        let value = value.serialize(self.to.again())?;
        self.map.push((key, value));
        Ok(())
    }

    fn end(self) -> Result<Value, InputError> {
        Ok(self.map.into_iter().collect::<BTreeMap<_, _>>().into())
    }
}

impl ser::SerializeStruct for Fields<'_> {
    type Ok = Value;
    type Error = InputError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), InputError> {
        let key = self.to.key(key)?;
        let value = value.serialize(self.to.again())?;
        self.map.push((key, value));
        Ok(())
    }

    fn end(self) -> Result<Value, InputError> {
        Ok(self.map.into_iter().collect::<BTreeMap<_, _>>().into())
    }
}
