//! JSON objects that can be read in one way only.

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Reads an object, in which no name stands twice at any depth (RFC 7515 section 4), of at most so many values in each
/// other and nothing after it.
///
/// # Errors
/// A sentence.
pub fn object(text: &[u8], depth: u8) -> Result<Map<String, Value>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
    let left = Cell::new(depth);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = de::DeserializeSeed::deserialize(Once { left: &left }, &mut reader).map_err(|e| said(&e))?;
    reader.end().map_err(|e| said(&e))?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("it is no JSON object".into()),
    }
}

fn said(e: &serde_json::Error) -> String {
    // What follows names a place in bytes of a token that nobody sees.
    e.to_string().split(" at line ").next().unwrap_or_default().chars().take(120).collect()
}

struct Once<'a> {
    left: &'a Cell<u8>,
}

impl Once<'_> {
    fn deeper<E: de::Error>(&self) -> Result<(), E> {
        match self.left.get().checked_sub(1) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(E::custom("too many values are in each other")),
        }
    }

    fn back(&self) {
        self.left.set(self.left.get().saturating_add(1));
    }
}

impl<'de> de::DeserializeSeed<'de> for Once<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is none"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.deeper()?;
        let mut out = Vec::new();
        while let Some(value) = seq.next_element_seed(Once { left: self.left })? {
            out.push(value);
        }
        self.back();
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.deeper()?;
        let mut out = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Once { left: self.left })?;
            if out.insert(name, value).is_some() {
                return Err(de::Error::custom("a name stands twice in it"));
            }
        }
        self.back();
        Ok(Value::Object(out))
    }
}
