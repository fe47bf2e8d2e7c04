//! What of a file is signed, as OPA has it: the bytes of most, and of documents their content in one fixed form.
//!
//! The form is JSON without spaces, keys sorted by their bytes, numbers as they are written, text with the escapes of Go's
//! `encoding/json` (without those for HTML).

use super::BundleError;
use crate::document::{self, Node, Value};
use ring::digest;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Hashes that a signature may name. The others that OPA knows are too weak, or nobody's habit.
const ALGORITHMS: &[(&str, &digest::Algorithm)] =
    &[("SHA-256", &digest::SHA256), ("SHA-384", &digest::SHA384), ("SHA-512", &digest::SHA512)];

/// What we write.
pub(super) const OURS: &str = "SHA-256";

/// Nesting allowed in a document.
const DEEPEST: usize = 100;

/// The hash of this name.
pub(super) fn algorithm(name: &str) -> Option<&'static digest::Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// What of a file is hashed, and is what counts: for a document its content in the fixed form.
pub(super) fn signed_form<'a>(name: &str, content: &'a [u8]) -> Result<Cow<'a, [u8]>, BundleError> {
    let base = name.rsplit('/').next().unwrap_or(name);
    if !matches!(base, "data.json" | "data.yaml" | "signatures.json" | ".manifest") {
        return Ok(Cow::Borrowed(content));
    }
    let refuse = |why: String| BundleError::Content { file: name.to_owned(), why };
    let text = std::str::from_utf8(content).map_err(|_| refuse("is not UTF-8".into()))?;
    let mut out = Vec::with_capacity(content.len());
    match serde_json::from_str::<&RawValue>(text) {
        Ok(json) => write_json(json.get(), 0, &mut out).map_err(refuse)?,
        Err(_) if base == "data.yaml" => {
            let node = document::parse(name, text).map_err(|problems| refuse(first(&problems)))?;
            write_node(&node, &mut out).map_err(refuse)?;
        }
        Err(e) => return Err(refuse(format!("is not JSON: {e}"))),
    }
    Ok(Cow::Owned(out))
}

fn first(problems: &document::Problems) -> String {
    problems.errors().next().map(|p| format!("line {}: {}", p.line, p.reason)).unwrap_or_default()
}

/// The entries of an object as they are written, each key once.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

fn write_json(json: &str, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("is nested deeper than {DEEPEST} levels"));
    }
    let wrong = |e: serde_json::Error| format!("is not JSON: {e}");
    match json.as_bytes().first() {
        Some(b'{') => {
            let Entries(mut entries) = serde_json::from_str(json).map_err(wrong)?;
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            if let Some(pair) = entries.windows(2).find(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
                let twice = pair.first().map(|(key, _)| key.as_str()).unwrap_or_default();
                return Err(format!("has the key `{}` twice", twice.escape_debug()));
            }
            out.push(b'{');
            for (n, (key, value)) in entries.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_text(key, out);
                out.push(b':');
                write_json(value.get(), depth + 1, out)?;
            }
            out.push(b'}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(wrong)?;
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_json(item.get(), depth + 1, out)?;
            }
            out.push(b']');
        }
        Some(b'"') => write_text(&serde_json::from_str::<String>(json).map_err(wrong)?, out),
        // A number, `true`, `false`, `null`: as they are written.
        _ => out.extend_from_slice(json.as_bytes()),
    }
    Ok(())
}

/// YAML, which OPA makes JSON of before it looks at it. Of what the two versions of YAML read differently a signature
/// that OPA has made does not verify.
fn write_node(node: &Node, out: &mut Vec<u8>) -> Result<(), String> {
    match &node.value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::Float(value) => out.extend_from_slice(go_float(*value)?.as_bytes()),
        Value::Text(value) => write_text(value, out),
        Value::List(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_node(item, out)?;
            }
            out.push(b']');
        }
        Value::Table(entries) => {
            let mut sorted: Vec<_> =
                entries.iter().map(|(key, value)| (key.text().unwrap_or_default(), value)).collect();
            sorted.sort_by_key(|(key, _)| *key);
            out.push(b'{');
            for (n, (key, value)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_text(key, out);
                out.push(b':');
                write_node(value, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// A number as Go's `encoding/json` writes a float: the shortest digits, with an exponent below 1e-6 and from 1e21.
fn go_float(value: f64) -> Result<String, String> {
    if !value.is_finite() {
        return Err("holds a number that JSON has not".into());
    }
    let size = value.abs();
    if size == 0.0 || (1e-6..1e21).contains(&size) {
        return Ok(value.to_string());
    }
    // Rust writes `1e-7` and `1e21`, Go `1e-07`, which its JSON shortens, and `1e+21`.
    let text = format!("{value:e}");
    Ok(if size < 1.0 { text } else { text.replacen('e', "e+", 1) })
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for sign in text.chars() {
        match sign {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\u{0}'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(sign)).as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
