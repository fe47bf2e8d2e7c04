//! JSON Schema of contract version 1: of the input, made from the table of its facts, and of a decision, as
//! `evaluate` reads it.
//!
//! Both keep to what OPA's type checker takes from a schema (`opa check --schema`): `type`, `properties`, `items`,
//! `anyOf`. What else is said (`required`, `additionalProperties`, `enum`, bounds) is for validators; the checker does
//! not look at it. An object whose keys nobody knows therefore has no `properties`: one with any would be closed to it.

use super::contract::{CONTRACT_VERSION, Fact, INPUT, Shape};
use crate::reason::Reason;
use serde_json::{Map, Value as Json, json};

/// The draft that OPA's validator and type checker know best.
const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// What a decision is made of: key, when it is there, meaning. In the order of the contract.
pub const DECISION: &[(&str, &str, &str)] = &[
    ("allow", "always", "Whether the request may go on; anything but `true` and `false` denies"),
    (
        "reasons",
        "where `allow` is false",
        "Why not: built-in reasons, and those of one's own that are declared. Where it is absent or empty the reason is \
         `policy-denied`. With `allow` it is empty or absent",
    ),
    ("grant", "where `allow` is true", "Id of the grant that permits the request; the gateway checks that it does"),
    (
        "observed",
        "where a custom rule denies that is only observed with the partner",
        "The reasons of these rules: they are recorded, and do not count",
    ),
];

/// Of the whole input. What a policy does not look at may be left out of what it is given.
pub fn input_schema() -> Json {
    let about = format!(
        "What policy decides on (`input`), contract version {CONTRACT_VERSION}. Within a version facts are only added."
    );
    titled("partnergate policy input", about, shape(&INPUT))
}

/// Of `data.partnergate.decision`.
pub fn decision_schema() -> Json {
    let about = format!(
        "What policy decides (`data.partnergate.decision`), contract version {CONTRACT_VERSION}. Anything else denies."
    );
    let said = |key: &str| DECISION.iter().find(|(name, ..)| *name == key).map_or("", |(.., meaning)| *meaning);
    let form = |allow: bool, required: &[&str], more: Vec<(&str, Json)>| {
        let mut properties = Map::new();
        let first = ("allow", json!({"type": "boolean", "enum": [allow]}));
        for (key, mut schema) in [first].into_iter().chain(more) {
            describe(&mut schema, said(key));
            properties.insert(key.to_owned(), schema);
        }
        json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
    };
    let built_in: Vec<&str> = Reason::ALL.iter().map(Reason::as_str).collect();
    let reason = json!({"anyOf": [{"type": "string", "enum": built_in}, {"type": "string", "pattern": CUSTOM}]});
    let none = json!({"type": "array", "maxItems": 0, "items": {"type": "string"}});
    let custom = json!({"type": "array", "minItems": 1, "items": {"type": "string", "pattern": CUSTOM}});
    let grant = json!({"type": "string"});
    let allowed = vec![("reasons", none), ("grant", grant.clone()), ("observed", custom)];
    let denied = vec![("reasons", json!({"type": "array", "items": reason})), ("grant", grant)];
    let forms = [form(true, &["allow", "grant"], allowed), form(false, &["allow"], denied)];
    titled("partnergate policy decision", about, json!({"anyOf": forms}))
}

/// Names of reasons of one's own.
const CUSTOM: &str = "^x-[a-z0-9-]{1,62}$";

fn titled(title: &str, about: String, schema: Json) -> Json {
    let mut out = Map::new();
    out.insert("$schema".into(), json!(DRAFT));
    out.insert("title".into(), json!(format!("{title}, contract version {CONTRACT_VERSION}")));
    out.insert("description".into(), json!(about));
    if let Json::Object(schema) = schema {
        out.extend(schema);
    }
    Json::Object(out)
}

fn describe(schema: &mut Json, meaning: &str) {
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".into(), json!(meaning));
    }
}

fn shape(of: &'static Shape) -> Json {
    match of {
        Shape::Text | Shape::Name(_) => json!({"type": "string"}),
        Shape::OneOf(texts) => json!({"type": "string", "enum": texts}),
        Shape::Whole => json!({"type": "integer"}),
        Shape::Within(least, most) if least == most => json!({"type": "integer", "enum": [least]}),
        Shape::Within(least, i64::MAX) => json!({"type": "integer", "minimum": least}),
        Shape::Within(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Shape::Condition => {
            let texts = json!({"type": "array", "items": {"type": "string"}});
            json!({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, texts]})
        }
        Shape::Unknown => json!({}),
        Shape::Open(below) | Shape::Headers(below) => json!({"type": "object", "additionalProperties": shape(below)}),
        Shape::List(item) => json!({"type": "array", "items": shape(item)}),
        Shape::Table(facts) => table(facts),
    }
}

fn table(facts: &'static [Fact]) -> Json {
    let mut properties = Map::new();
    for fact in facts {
        let mut schema = shape(&fact.shape);
        let when = fact.when.map(|when| format!(". Absent unless {when}")).unwrap_or_default();
        describe(&mut schema, &format!("{}{when}", fact.meaning));
        properties.insert(fact.key.to_owned(), schema);
    }
    let required: Vec<&str> = facts.iter().filter(|fact| fact.when.is_none()).map(|fact| fact.key).collect();
    let mut out = json!({"type": "object", "additionalProperties": false, "properties": properties});
    // An empty list is not allowed in the drafts before.
    if let Some(object) = out.as_object_mut().filter(|_| !required.is_empty()) {
        object.insert("required".into(), json!(required));
    }
    out
}
