//! What a record says of the input, as policy saw it: the other direction of what is written.
//!
//! A record has times as text, and some values as keyed hashes. The times are turned back to the nanosecond; the hashes stay what
//! they are, and [`masked`] names the facts that have such.

use super::mask::is_masked;
use crate::document::parse_time;
use crate::policy::CONTRACT_VERSION;
use serde_json::Value;

/// The input of a record in the form of contract version 1.
///
/// # Errors
/// What there is in it that no record has.
pub fn input(record: &Value) -> Result<Value, String> {
    facts(record.get("input").cloned().ok_or("it has no `input`")?)
}

/// The same of what a record has as its input.
///
/// # Errors
/// What there is in it that no record has.
pub fn facts(mut input: Value) -> Result<Value, String> {
    if input.get("version").and_then(Value::as_i64) != Some(CONTRACT_VERSION) {
        return Err(format!("its input is not of contract version {}", CONTRACT_VERSION));
    }
    for (path, from, to) in [
        ("/time", "now", "now_ns"),
        ("/partner/engagement", "starts", "starts_ns"),
        ("/partner/engagement", "ends", "ends_ns"),
        ("/credential", "not_before", "not_before_ns"),
        ("/credential", "not_after", "not_after_ns"),
        ("/token", "issued", "issued_ns"),
        ("/token", "expires", "expires_ns"),
        ("/api_key", "ends", "ends_ns"),
    ] {
        instant(input.pointer_mut(path), from, to)?;
    }
    for grant in input.pointer_mut("/partner/grants").and_then(Value::as_array_mut).into_iter().flatten() {
        instant(Some(&mut *grant), "starts", "starts_ns")?;
        instant(Some(grant), "ends", "ends_ns")?;
    }
    for one in input.pointer_mut("/partner/observe").and_then(Value::as_array_mut).into_iter().flatten() {
        instant(Some(one), "until", "until_ns")?;
    }
    Ok(input)
}

/// Gives a time its other name and form, where there is one.
fn instant(object: Option<&mut Value>, from: &str, to: &str) -> Result<(), String> {
    let Some(object) = object.and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(text) = object.shift_remove(from) else { return Ok(()) };
    let time = text.as_str().and_then(|text| parse_time(text).ok());
    let time = time.ok_or_else(|| format!("its `{from}` is not a time: {text}"))?;
    object.insert(to.to_owned(), time.into());
    Ok(())
}

/// Facts of an input that are not what policy saw, as dotted paths: keyed hashes (also within a path), addresses that were cut
/// to their network, and texts that were cut or had characters written out.
pub fn masked(input: &Value) -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![("input".to_owned(), input)]);
    while let Some((path, value)) = waiting.pop() {
        match value {
            Value::String(text) if is_other(&path, text) => found.push(path),
            Value::Array(list) => waiting.extend(list.iter().map(|value| (path.clone(), value))),
            Value::Object(object) => {
                waiting.extend(object.iter().map(|(key, value)| (format!("{path}.{key}"), value)));
            }
            _ => {}
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The same of what rules of `package system.log` have taken out of a record or replaced in it, by the JSON pointers that the
/// record has of that.
pub fn hidden<'p>(pointers: impl IntoIterator<Item = &'p str>) -> Vec<String> {
    let dotted = |pointer: &str| {
        let parts = pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~"));
        // A place in a list is no part of the name of a fact.
        parts.filter(|part| part.parse::<usize>().is_err()).collect::<Vec<_>>().join(".")
    };
    pointers.into_iter().map(dotted).collect()
}

fn is_other(path: &str, text: &str) -> bool {
    let hashed = || text.match_indices("h:").any(|(at, _)| text.get(at..at + 34).is_some_and(is_masked));
    let network = path == "input.source.ip" && text.contains('/');
    is_masked(text) || hashed() || network || text.ends_with('…') || text.contains("\\u{")
}
