//! Which named operation a request is: the unit that grants name, policy sees and records show.
//!
//! In: OpenAPI 3.0 / 3.1 documents ([`openapi`]) and operations listed in the config ([`listed`]), per route.
//! Out: [`Operations`], which turns route + method + canonical path into one [`Operation`] or none, and a pattern
//! of a grant into the exact ids it stands for.
//!
//! The path decides first, then the method, as in OpenAPI: the most specific listed path is found (a fixed segment
//! beats a parameter, segments compared from left to right), and then its operation for the method. `GET
//! /orders/search` beside `POST /orders/search` and `GET /orders/{id}` is therefore no operation, and denied.
//!
//! Must never: answer when two operations could be meant (such tables are refused when they are built), decode or
//! normalise a path (that is `request`'s work; paths are compared byte by byte), panic on any document or path, or
//! fetch anything.

pub mod listed;
pub mod openapi;
mod paths;
mod pattern;
mod table;
mod template;

pub use table::{Operations, Resolved, RouteId};
pub use template::{Template, parse_base_path};

use crate::document::{self, Node, Problem, Severity, nearest};
use http::Method;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest operation id, in bytes. Ids become metric labels and are stored with every grant.
const MAX_ID: usize = 200;

/// One endpoint that a grant can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub id: OperationId,
    pub method: Method,
    /// The full path from `/`, base path included.
    pub template: Template,
    pub tags: Vec<Arc<str>>,
    /// What its connection may turn into, as [`parse_upgrade`] reads it.
    pub upgrade: Option<Arc<str>>,
    pub kind: OperationKind,
    pub place: Place,
}

impl Operation {
    /// Names of the path parameters, in the order in which they stand in the path.
    pub fn params(&self) -> &[Arc<str>] {
        self.template.params()
    }
}

/// How an operation is spoken; refusals look different to a gRPC client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    Http,
    Grpc,
}

/// A protocol that a connection may turn into (RFC 9110 section 7.8), in lower case: `websocket`, `example/2`.
///
/// # Errors
/// What is wrong: no name of a protocol, or one in which there are requests that nobody would decide on.
pub fn parse_upgrade(text: &str) -> Result<Arc<str>, String> {
    let lower = text.to_ascii_lowercase();
    let (name, version) = lower.split_once('/').unwrap_or((&lower, "1"));
    if lower.len() > 100 || [name, version].iter().any(|part| part.is_empty() || !part.bytes().all(is_token)) {
        return Err(format!("`{}` is no protocol that an Upgrade field could name", shown(text)));
    }
    if ["http", "h2", "h2c", "h3", "tls"].contains(&name) || name.starts_with("connect-") {
        return Err(format!("`{}` would carry requests that are not decided on", shown(text)));
    }
    Ok(lower.into())
}

/// RFC 9110 section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Where an operation was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
}

impl Place {
    fn of(node: &Node) -> Place {
        Place { file: node.file.clone(), line: node.line }
    }

    /// What is wrong there.
    pub fn error(&self, key: &str, reason: String, fix: &str) -> Problem {
        Problem {
            severity: Severity::Error,
            file: self.file.clone(),
            line: self.line,
            column: 0,
            key: key.to_owned(),
            reason,
            fix: Some(fix.to_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The name of an operation, such as `invoices.read` or `get:/v1/orders/{id}`; unique over all routes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
pub struct OperationId(Arc<str>);

impl OperationId {
    /// # Errors
    /// Anything but 1 to 200 visible ASCII characters without `"`, `\` and `*`; and what starts with `tag:`, because
    /// a grant means a tag by it. The message names the text and the rule.
    pub fn parse(text: &str) -> Result<Self, String> {
        let good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'*');
        if text.is_empty() || text.len() > MAX_ID || !text.bytes().all(good) {
            return Err(format!(
                "`{}` is not an operation id: 1 to {MAX_ID} visible ASCII characters without spaces, `\"`, `\\` and `*`",
                shown(text)
            ));
        }
        if text.starts_with(pattern::TAG) {
            return Err(format!("`{text}` is not an operation id: `tag:` at its start means a tag in a grant"));
        }
        Ok(OperationId(text.into()))
    }

    /// The text, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The id of an operation that was given none: `get:/v1/orders/{id}`.
    fn derived(method: &Method, template: &Template) -> Result<Self, String> {
        Self::parse(&format!("{}:{template}", method.as_str().to_ascii_lowercase()))
    }
}

/// The name of a route of the config; an id as everywhere in our documents.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteName(Arc<str>);

impl RouteName {
    /// # Errors
    /// See [`document::parse_id`].
    pub fn parse(text: &str) -> Result<Self, String> {
        document::parse_id(text).map(|id| RouteName(id.into()))
    }
}

macro_rules! name_like_text {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_like_text!(OperationId);
name_like_text!(RouteName);

/// Text of a document as it may stand in a message: escaped, and cut where it is long.
fn shown(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut out = text.chars().take(LONGEST).collect::<String>().escape_debug().to_string();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_id_is_visible_text_without_pattern_characters() {
        for good in ["invoices.read", "get:/v1/orders/{id}", "billing.Invoices/Get", "a"] {
            assert_eq!(OperationId::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "a b", "a*", "a\"b", "a\\b", "größe", "a\n", "tag:x", &"x".repeat(201)] {
            assert!(OperationId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_read_and_written_as_text() {
        let id: OperationId = serde_json::from_str("\"invoices.read\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"invoices.read\"");
        let err = serde_json::from_str::<OperationId>("\"invoices.*\"").unwrap_err().to_string();
        assert!(err.contains("`invoices.*` is not an operation id"), "{err}");
        assert!(serde_json::from_str::<RouteName>("\"Billing API\"").is_err());
    }

    #[test]
    fn hostile_text_is_escaped_and_cut_in_messages() {
        let err = OperationId::parse(&format!("\u{1b}[31m{}", "x".repeat(5000))).unwrap_err();
        assert!(err.len() < 400 && !err.contains('\u{1b}'), "{err}");
    }
}
