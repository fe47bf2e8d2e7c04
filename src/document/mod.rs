//! Text that people write (YAML or JSON) turned into a tree that still knows where each value stood.
//!
//! In: a file name and its text. Out: a [`Node`] tree with line and column on every node, or [`Problems`].
//! `config`, the registry files and OpenAPI documents are all read through here, so that every error names
//! file, line, key, reason and fix, and so that all errors of a file are reported at once.
//!
//! Must never: guess. A duplicate key, a second document, an unknown key or a value of the wrong type is an error.

mod parse;
mod plain;
mod problem;
mod schema;
mod value;

pub use parse::{Node, Value, parse};
pub use plain::{plain, shown};
pub use problem::{Problem, Problems, REGISTRY, Severity};
pub use schema::{Field, Kind, Presence, Section, check, example, json_schema, nearest, reference};
pub use value::{
    SecretRef, format_time, parse_cidr, parse_duration, parse_id, parse_secret, parse_size, parse_time, parse_zone,
};
