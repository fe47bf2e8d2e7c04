//! `$ref` inside one document: JSON pointers (RFC 6901) as URI fragments.

use super::shown;
use crate::document::{Node, Value};
use std::collections::BTreeMap;

/// How many `$ref`s may lead to one another.
const LONGEST_CHAIN: usize = 16;

/// What is wrong with a `$ref`, and the fix.
pub(super) type Wrong = (String, &'static str);

/// The value that `reference` (the value of a `$ref`) leads to, through further `$ref`s.
///
/// # Errors
/// A `$ref` into another document, to nothing, in a circle or through too many others.
pub(super) fn follow<'a>(root: &'a Node, reference: &'a Node) -> Result<&'a Node, Wrong> {
    let mut seen: Vec<&str> = Vec::new();
    let mut reference = reference;
    loop {
        let Some(text) = reference.text() else {
            return Err((
                format!("expected text, found {}", reference.kind_name()),
                "write it like `#/components/pathItems/x`",
            ));
        };
        if seen.contains(&text) {
            return Err((
                format!("`{}` leads back to itself", shown(text)),
                "write the path item in one of the places",
            ));
        }
        if seen.len() == LONGEST_CHAIN {
            let reason = format!("leads through more than {LONGEST_CHAIN} other `$ref`s");
            return Err((reason, "point to the path item itself"));
        }
        seen.push(text);
        let target = find(root, text)?;
        match target.get("$ref") {
            Some(next) => reference = next,
            None => return Ok(target),
        }
    }
}

/// Adds every `$ref` into another document, one for each target. Those that an example shows, or an extension has, are
/// no `$ref`s of this document's.
pub(super) fn remote<'a>(node: &'a Node, found: &mut BTreeMap<&'a str, &'a Node>) {
    const TEXT: [&str; 5] = ["example", "examples", "default", "enum", "const"];
    for item in node.items() {
        remote(item, found);
    }
    for (key, value) in node.entries() {
        match (key.text().unwrap_or_default(), value.text()) {
            ("$ref", Some(target)) if !target.starts_with('#') => {
                found.entry(target).or_insert(value);
            }
            (name, _) if TEXT.contains(&name) || name.starts_with("x-") => {}
            _ => remote(value, found),
        }
    }
}

fn find<'a>(root: &'a Node, text: &str) -> Result<&'a Node, Wrong> {
    let Some(fragment) = text.strip_prefix('#') else { return Err(elsewhere(text)) };
    let nothing = || (format!("`{}` points to nothing", shown(text)), "write it like `#/components/pathItems/x`");
    let pointer = percent_decoded(fragment).ok_or_else(nothing)?;
    let mut node = root;
    for token in pointer.strip_prefix('/').ok_or_else(nothing)?.split('/') {
        // The order matters: `~01` is `~1`, not `/`.
        let token = token.replace("~1", "/").replace("~0", "~");
        node = match &node.value {
            Value::Table(_) => node.get(&token),
            Value::List(items) => token.parse::<usize>().ok().and_then(|n| items.get(n)),
            _ => None,
        }
        .ok_or_else(nothing)?;
    }
    Ok(node)
}

/// What is wrong with a `$ref` into another document.
pub(super) fn elsewhere(text: &str) -> Wrong {
    let reason = format!("`{}` is in another document, and the gateway reads only this one", shown(text));
    (reason, "copy it into this document, or bundle the documents into one")
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse;

    #[test]
    fn a_pointer_is_unescaped_in_the_right_order() {
        let root = parse("f.yaml", "paths:\n  /a/{id}: {x: 1}\n  \"~1\": {x: 2}\nlist: [{x: 3}]\n").unwrap();
        let x = |text: &str| find(&root, text).ok().and_then(|n| n.get("x")).and_then(Node::integer);
        assert_eq!(x("#/paths/~1a~1{id}"), Some(1));
        assert_eq!(x("#/paths/~1a~1%7Bid%7D"), Some(1));
        assert_eq!(x("#/paths/~01"), Some(2));
        assert_eq!(x("#/list/0"), Some(3));
        for nothing in ["#", "#/", "#paths", "#/list/1", "#/list/-", "#/paths/%7", "#/paths/%ff", "#/list/0/x/y"] {
            assert_eq!(x(nothing), None, "{nothing}");
        }
    }
}
