//! Which facts contract version 1 has, and where: what a policy that names another one is told.

/// What lies under a key of the input document.
#[derive(Debug)]
pub(super) enum Shape {
    /// Text, a number or a truth value.
    Fact,
    /// Keys that the contract does not know, such as labels, with lists or facts below.
    Open,
    /// The same, by names in lower case.
    Headers,
    List(&'static Shape),
    Table(&'static [(&'static str, Shape)]),
}

impl Shape {
    pub fn key(&self, name: &str) -> Option<&'static Shape>
    where
        Self: 'static,
    {
        match self {
            Shape::Open | Shape::Headers => Some(&Shape::Open),
            Shape::Table(keys) => keys.iter().find(|(key, _)| *key == name).map(|(_, shape)| shape),
            Shape::Fact | Shape::List(_) => None,
        }
    }

    /// What a key that is worked out leads to, where that can be said.
    pub fn item(&self) -> Option<&'static Shape> {
        match self {
            Shape::Open | Shape::Headers => Some(&Shape::Open),
            Shape::List(item) => Some(item),
            Shape::Fact | Shape::Table(_) => None,
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        let keys = match self {
            Shape::Table(keys) => *keys,
            _ => &[],
        };
        keys.iter().map(|(key, _)| *key)
    }
}

use Shape::{Fact, Headers, List, Open, Table};

const FACTS: Shape = List(&Fact);
const PERIOD: Shape = Table(&[("starts_ns", Fact), ("ends_ns", Fact)]);
const GRANT: Shape = Table(&[
    ("id", Fact),
    ("owner", Fact),
    ("operations", FACTS),
    ("networks", FACTS),
    ("credentials", FACTS),
    ("starts_ns", Fact),
    ("ends_ns", Fact),
    ("conditions", Open),
]);

/// The input document.
pub(super) static INPUT: Shape = Table(&[
    ("version", Fact),
    ("environment", Fact),
    (
        "partner",
        Table(&[
            ("id", Fact),
            ("name", Fact),
            ("state", Fact),
            ("owner", Fact),
            ("labels", Open),
            ("time_zone", Fact),
            ("engagement", PERIOD),
            ("networks", FACTS),
            ("grants", List(&GRANT)),
            ("observe", List(&Table(&[("reason", Fact), ("until_ns", Fact)]))),
        ]),
    ),
    (
        "credential",
        Table(&[
            ("id", Fact),
            ("kind", Fact),
            ("state", Fact),
            ("labels", Open),
            ("fingerprint_sha256", Fact),
            ("spki_sha256", Fact),
            ("serial", Fact),
            ("issuer", Fact),
            ("subject", Fact),
            ("san", Table(&[("uri", FACTS), ("dns", FACTS), ("email", FACTS), ("ip", FACTS)])),
            ("not_before_ns", Fact),
            ("not_after_ns", Fact),
            ("key", Table(&[("algorithm", Fact), ("bits", Fact)])),
            ("trust_anchor", Fact),
        ]),
    ),
    ("source", Table(&[("ip", Fact), ("port", Fact), ("networks", FACTS)])),
    ("tls", Table(&[("version", Fact), ("cipher", Fact), ("sni", Fact)])),
    (
        "request",
        Table(&[
            ("id", Fact),
            ("method", Fact),
            ("scheme", Fact),
            ("host", Fact),
            ("path", Fact),
            ("segments", FACTS),
            ("query", Open),
            ("headers", Headers),
            ("operation", Fact),
            ("route", Fact),
            ("params", Open),
            ("tags", FACTS),
            ("content_length", Fact),
        ]),
    ),
    (
        "time",
        Table(&[
            ("now_ns", Fact),
            ("weekday", Fact),
            ("hour", Fact),
            ("minute", Fact),
            ("local", Table(&[("weekday", Fact), ("hour", Fact), ("minute", Fact)])),
        ]),
    ),
]);

/// What is under a dotted path of the input.
pub(super) fn at(path: &str) -> Option<&'static Shape> {
    path.split('.').filter(|key| !key.is_empty()).try_fold(&INPUT, |shape, key| shape.key(key))
}

/// Every fact of the contract by its path: `partner.grants[].id`; a table of names that are not the contract's as
/// `partner.labels{}`.
pub fn facts() -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), &INPUT)];
    while let Some((path, shape)) = waiting.pop() {
        match shape {
            Fact => found.push(path),
            Open | Headers => found.push(format!("{path}{{}}")),
            List(item) => waiting.push((format!("{path}[]"), item)),
            Table(keys) => {
                let dot = if path.is_empty() { "" } else { "." };
                waiting.extend(keys.iter().map(|(key, shape)| (format!("{path}{dot}{key}"), shape)));
            }
        }
    }
    found.sort();
    found
}
