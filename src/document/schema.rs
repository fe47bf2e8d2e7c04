//! What a document may contain, written once: checking, the JSON Schema, the commented example and the reference
//! all come from the same table of [`Field`]s, so that they cannot disagree.

use super::parse::{Node, Value};
use super::problem::Problems;
use super::value;
use serde_json::json;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// One key of a table.
#[derive(Debug)]
pub struct Field {
    pub key: &'static str,
    pub kind: Kind,
    pub presence: Presence,
    /// One or two sentences for the operator; they appear in the example and in the schema.
    pub doc: &'static str,
}

/// Whether a key must be written, and what holds when it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Must be written; the text is the value shown in the example.
    Required(&'static str),
    /// May be left out; the text is what holds then.
    Default(&'static str),
    /// May be left out; nothing holds then. The text is the value shown (commented out) in the example.
    Optional(&'static str),
}

/// What a value must be.
#[derive(Debug)]
pub enum Kind {
    Text,
    /// See [`value::parse_id`].
    Id,
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    Size {
        min: u64,
        max: u64,
    },
    Time,
    Zone,
    /// IP address and port.
    Address,
    /// Host name or IP address, and port.
    Endpoint,
    Cidr,
    Path,
    Secret,
    Choice(&'static [&'static str]),
    Table(&'static [Field]),
    List(&'static Kind),
    /// Any id → the same kind of value.
    Map(&'static Kind),
    /// Text → text, such as labels.
    Labels,
    /// Checked elsewhere.
    Any,
}

/// Checks `node` against `fields`, reporting every problem.
pub fn check(node: &Node, fields: &'static [Field], problems: &mut Problems) {
    check_table(node, fields, "", problems);
}

fn check_table(node: &Node, fields: &'static [Field], path: &str, problems: &mut Problems) {
    if !matches!(node.value, Value::Table(_)) {
        problems.push(node.error(path, format!("expected a table of keys, found {}", node.kind_name()), None));
        return;
    }
    for (key, value) in node.entries() {
        let name = key.text().unwrap_or_default();
        let at = join(path, name);
        match fields.iter().find(|f| f.key == name) {
            Some(field) => check_value(value, &field.kind, &at, problems),
            None => {
                let fix = nearest(name, fields.iter().map(|f| f.key)).map(|near| format!("did you mean `{near}`?"));
                let known = fields.iter().map(|f| f.key).collect::<Vec<_>>().join(", ");
                problems.push(key.error(
                    at,
                    "unknown key",
                    Some(fix.as_deref().unwrap_or(&format!("known keys here: {known}"))),
                ));
            }
        }
    }
    for field in fields {
        if let Presence::Required(example) = field.presence {
            if node.get(field.key).is_none() {
                let fix = match field.kind {
                    Kind::Table(_) | Kind::Map(_) | Kind::List(_) => format!("add it: {}", field.doc),
                    _ => format!("add `{}: {example}`", field.key),
                };
                problems.push(node.error(join(path, field.key), "is required and missing", Some(&fix)));
            }
        }
    }
}

fn check_value(node: &Node, kind: &'static Kind, path: &str, problems: &mut Problems) {
    let mut wrong = |reason: String| problems.push(node.error(path, reason, None));
    let expected = |what: &str| format!("expected {what}, found {}", node.kind_name());
    match kind {
        Kind::Any => {}
        Kind::Table(fields) => check_table(node, fields, path, problems),
        Kind::List(item) => match &node.value {
            Value::List(items) => {
                for (n, value) in items.iter().enumerate() {
                    check_value(value, item, &format!("{path}[{n}]"), problems);
                }
            }
            _ => wrong(expected("a list")),
        },
        Kind::Map(item) => match &node.value {
            Value::Table(entries) => {
                for (key, value) in entries {
                    let name = key.text().unwrap_or_default();
                    if let Err(reason) = value::parse_id(name) {
                        problems.push(key.error(path, reason, None));
                    }
                    check_value(value, item, &join(path, name), problems);
                }
            }
            _ => wrong(expected("a table")),
        },
        Kind::Labels => match &node.value {
            Value::Table(entries) => {
                for (key, value) in entries {
                    if value.text().is_none() {
                        problems.push(value.error(
                            join(path, key.text().unwrap_or_default()),
                            format!("expected text, found {}", value.kind_name()),
                            Some("write the value in quotes"),
                        ));
                    }
                }
            }
            _ => wrong(expected("a table of text")),
        },
        Kind::Boolean => {
            if node.boolean().is_none() {
                wrong(expected("`true` or `false`"));
            }
        }
        Kind::Integer { min, max } => match node.integer() {
            Some(n) if n >= *min && n <= *max => {}
            Some(n) => wrong(format!("{n} is outside {min} to {max}")),
            None => wrong(expected("a whole number")),
        },
        Kind::Size { min, max } => {
            let text = node.text().map(str::to_owned).or_else(|| node.integer().map(|n| n.to_string()));
            match text.as_deref().map(value::parse_size) {
                Some(Ok(n)) if n >= *min && n <= *max => {}
                Some(Ok(n)) => wrong(format!("{n} bytes is outside {min} to {max}")),
                Some(Err(reason)) => wrong(reason),
                None => wrong(expected("a size such as `64KiB`")),
            }
        }
        _ => match node.text() {
            Some(text) => {
                if let Err(reason) = check_text(text, kind) {
                    wrong(reason);
                }
            }
            None => {
                let reason = expected("text");
                problems.push(node.error(path, reason, Some("write the value in quotes")));
            }
        },
    }
}

fn check_text(text: &str, kind: &Kind) -> Result<(), String> {
    if matches!(kind, Kind::Secret) {
        // First of all, because a key that was pasted here has line ends in it.
        value::parse_secret(text)?;
    }
    if text.chars().any(char::is_control) {
        return Err("contains a control character".into());
    }
    match kind {
        Kind::Id => value::parse_id(text).map(|_| ()),
        Kind::Duration { min, max } => {
            let d = value::parse_duration(text)?;
            if d < *min || d > *max {
                return Err(format!("{text} is outside {} to {}", show_duration(*min), show_duration(*max)));
            }
            Ok(())
        }
        Kind::Time => value::parse_time(text).map(|_| ()),
        Kind::Zone => value::parse_zone(text).map(|_| ()),
        Kind::Address => text.parse::<SocketAddr>().map(|_| ()).map_err(|_| {
            format!("`{text}` is not an address with a port: write it like `0.0.0.0:8443` or `[::]:8443`")
        }),
        Kind::Endpoint => match text.rsplit_once(':') {
            Some((host, port))
                if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|p| p > 0) =>
            {
                Ok(())
            }
            _ => Err(format!("`{text}` is not a host and port: write it like `billing.internal:8080`")),
        },
        Kind::Cidr => value::parse_cidr(text).map(|_| ()),
        Kind::Choice(choices) => {
            if choices.contains(&text) {
                return Ok(());
            }
            let near = nearest(text, choices.iter().copied()).map(|n| format!("; did you mean `{n}`?"));
            Err(format!("`{text}` is not one of {}{}", choices.join(", "), near.unwrap_or_default()))
        }
        Kind::Text | Kind::Path if text.is_empty() => Err("is empty".into()),
        _ => Ok(()),
    }
}

fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The word of `known` that was probably meant.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::osa_distance(word, k), k))
        .filter(|(distance, k)| *distance <= 1 + k.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// A checked table, read by key with the defaults of its [`Field`]s.
///
/// Reading never fails: [`check`] has refused the document before. Values that could not be read are the type's
/// zero value and never leave a load that has errors.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    node: Option<&'a Node>,
    fields: &'static [Field],
}

impl<'a> Section<'a> {
    pub fn new(node: &'a Node, fields: &'static [Field]) -> Self {
        Section { node: Some(node), fields }
    }

    /// The table under `key`; an empty one when it is not written, so that defaults apply.
    pub fn section(&self, key: &str) -> Section<'a> {
        let fields: &'static [Field] = match self.field(key).map(|f| &f.kind) {
            Some(Kind::Table(fields)) => fields,
            _ => &[],
        };
        Section { node: self.node(key), fields }
    }

    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// The node written under `key`.
    pub fn node(&self, key: &str) -> Option<&'a Node> {
        self.node.and_then(|n| n.get(key)).filter(|n| n.value != Value::Null)
    }

    /// The node of this table itself.
    pub fn own_node(&self) -> Option<&'a Node> {
        self.node
    }

    /// Tables of a list or map under `key`, each with its id (empty in a list).
    pub fn tables(&self, key: &str) -> Vec<(&'a str, Section<'a>)> {
        let fields: &'static [Field] = match self.field(key).map(|f| &f.kind) {
            Some(Kind::List(Kind::Table(fields)) | Kind::Map(Kind::Table(fields))) => fields,
            _ => &[],
        };
        let Some(node) = self.node(key) else { return Vec::new() };
        match &node.value {
            Value::List(items) => items.iter().map(|n| ("", Section { node: Some(n), fields })).collect(),
            Value::Table(entries) => {
                entries.iter().map(|(k, v)| (k.text().unwrap_or_default(), Section { node: Some(v), fields })).collect()
            }
            _ => Vec::new(),
        }
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.node(key).and_then(Node::text).or_else(|| self.default(key))
    }

    pub fn texts(&self, key: &str) -> Vec<String> {
        let of = |node: &Node| node.items().iter().filter_map(Node::text).map(str::to_owned).collect();
        match self.node(key) {
            Some(node) => of(node),
            None => self.default(key).and_then(|t| super::parse("default", t).ok()).map(|n| of(&n)).unwrap_or_default(),
        }
    }

    pub fn boolean(&self, key: &str) -> bool {
        self.node(key).and_then(Node::boolean).unwrap_or_else(|| self.default(key) == Some("true"))
    }

    pub fn integer(&self, key: &str) -> i64 {
        self.node(key).and_then(Node::integer).or_else(|| self.default(key)?.parse().ok()).unwrap_or_default()
    }

    /// A whole number that is known to fit because the field's bounds say so.
    pub fn count(&self, key: &str) -> usize {
        usize::try_from(self.integer(key)).unwrap_or_default()
    }

    pub fn duration(&self, key: &str) -> Duration {
        self.text(key).and_then(|t| value::parse_duration(t).ok()).unwrap_or_default()
    }

    pub fn size(&self, key: &str) -> usize {
        let written = self.node(key).and_then(Node::integer).map(|n| n.to_string());
        let text = written.as_deref().or_else(|| self.text(key));
        text.and_then(|t| value::parse_size(t).ok()).and_then(|n| usize::try_from(n).ok()).unwrap_or_default()
    }

    /// Nanoseconds since 1970.
    pub fn time(&self, key: &str) -> Option<i64> {
        self.text(key).and_then(|t| value::parse_time(t).ok())
    }

    pub fn labels(&self, key: &str) -> Vec<(&'a str, &'a str)> {
        self.node(key)
            .map(|n| n.entries().iter().filter_map(|(k, v)| Some((k.text()?, v.text()?))).collect())
            .unwrap_or_default()
    }

    fn field(&self, key: &str) -> Option<&'static Field> {
        let field = self.fields.iter().find(|f| f.key == key);
        debug_assert!(field.is_some() || self.fields.is_empty(), "`{key}` is read but not declared");
        field
    }

    fn default(&self, key: &str) -> Option<&'static str> {
        match self.field(key)?.presence {
            Presence::Default(text) => Some(text),
            _ => None,
        }
    }
}

/// JSON Schema (draft 2020-12) of a table.
pub fn json_schema(title: &str, fields: &'static [Field]) -> serde_json::Value {
    let mut schema = table_schema(fields);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".into(), json!(title));
    }
    schema
}

fn table_schema(fields: &'static [Field]) -> serde_json::Value {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for field in fields {
        let mut schema = kind_schema(&field.kind);
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".into(), json!(field.doc));
            match field.presence {
                Presence::Default(text) => {
                    let default = match field.kind {
                        Kind::Boolean => json!(text == "true"),
                        Kind::Integer { .. } => text.parse::<i64>().map_or(json!(text), |n| json!(n)),
                        _ => json!(text),
                    };
                    object.insert("default".into(), default);
                }
                Presence::Required(_) => required.push(field.key),
                Presence::Optional(_) => {}
            }
        }
        properties.insert(field.key.into(), schema);
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn kind_schema(kind: &'static Kind) -> serde_json::Value {
    match kind {
        Kind::Id => json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Duration { .. } => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}),
        Kind::Size { .. } => json!({"type": ["string", "integer"], "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Secret => json!({"type": "string", "pattern": "^(file|env|credential):.+$"}),
        Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
        Kind::Table(fields) => table_schema(fields),
        Kind::List(item) => json!({"type": "array", "items": kind_schema(item)}),
        Kind::Map(item) => json!({"type": "object", "additionalProperties": kind_schema(item)}),
        Kind::Labels => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Kind::Any => json!({}),
        Kind::Text | Kind::Zone | Kind::Address | Kind::Endpoint | Kind::Cidr | Kind::Path => json!({"type": "string"}),
    }
}

/// A commented example: required keys with example values, the others commented out with their defaults.
pub fn example(fields: &'static [Field]) -> String {
    let mut out = String::new();
    example_table(&mut out, fields, 0, false);
    out
}

fn example_table(out: &mut String, fields: &'static [Field], indent: usize, commented: bool) {
    for (n, field) in fields.iter().enumerate() {
        if indent == 0 && n > 0 {
            out.push('\n');
        }
        let pad = "  ".repeat(indent);
        let shown = match field.presence {
            Presence::Required(text) | Presence::Default(text) | Presence::Optional(text) => text,
        };
        let off = commented || !matches!(field.presence, Presence::Required(_));
        let mark = if off { "# " } else { "" };
        for line in wrap(field.doc, 108usize.saturating_sub(pad.len())) {
            let _ = writeln!(out, "{pad}# {line}");
        }
        match &field.kind {
            Kind::Table(inner) => {
                // A table of defaults is written open, so that only its keys are commented out.
                let all_off = commented || matches!(field.presence, Presence::Optional(_));
                let mark = if all_off || !inner.iter().any(|f| matches!(f.presence, Presence::Required(_))) {
                    "# "
                } else {
                    ""
                };
                let _ = writeln!(out, "{pad}{mark}{}:", field.key);
                example_table(out, inner, indent + 1, !mark.is_empty());
            }
            Kind::Map(Kind::Table(inner)) => {
                let _ = writeln!(out, "{pad}{mark}{}:", field.key);
                let _ = writeln!(out, "{pad}  {mark}{shown}:");
                example_table(out, inner, indent + 2, off);
            }
            Kind::List(Kind::Table(inner)) => {
                let _ = writeln!(out, "{pad}{mark}{}:", field.key);
                let mut item = String::new();
                example_table(&mut item, inner, indent + 2, off);
                out.push_str(&first_as_item(&item, indent + 1, mark));
            }
            Kind::List(_) if shown.is_empty() => {
                let _ = writeln!(out, "{pad}{mark}{}: []", field.key);
            }
            _ => {
                // Text that would be read as something else is quoted.
                let texty = matches!(field.kind, Kind::Text | Kind::Choice(_) | Kind::Path | Kind::Id);
                let plain = super::parse("shown", &format!("k: {shown}")).ok();
                let quote =
                    texty && plain.and_then(|n| n.get("k")?.text().map(str::to_owned)).as_deref() != Some(shown);
                let shown = if quote { format!("\"{shown}\"") } else { shown.to_owned() };
                let _ = writeln!(out, "{pad}{mark}{}: {shown}", field.key);
            }
        }
    }
}

/// Puts the `- ` of a list item before the first key line of `block` (comment lines above it stay comments).
fn first_as_item(block: &str, indent: usize, mark: &str) -> String {
    let pad = "  ".repeat(indent);
    let mut out = String::new();
    let mut placed = false;
    for line in block.lines() {
        let body = line.trim_start();
        let body = body.strip_prefix(mark).unwrap_or(body);
        let is_key = !placed && !body.starts_with('#') && body.split_once(':').is_some_and(|(k, _)| !k.contains(' '));
        if is_key {
            let _ = writeln!(out, "{pad}{mark}- {body}");
            placed = true;
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// Reference lines `key — type, default — doc`, one per key, nested keys with their full path.
pub fn reference(fields: &'static [Field]) -> Vec<(String, String, String)> {
    let mut rows = Vec::new();
    reference_table(fields, "", &mut rows);
    rows
}

fn reference_table(fields: &'static [Field], path: &str, rows: &mut Vec<(String, String, String)>) {
    for field in fields {
        let at = join(path, field.key);
        let presence = match field.presence {
            Presence::Required(_) => "required".to_owned(),
            Presence::Default(text) => format!("`{text}`"),
            Presence::Optional(_) => "—".to_owned(),
        };
        rows.push((at.clone(), presence, field.doc.to_owned()));
        match &field.kind {
            Kind::Table(inner) => reference_table(inner, &at, rows),
            Kind::Map(Kind::Table(inner)) => reference_table(inner, &format!("{at}.NAME"), rows),
            Kind::List(Kind::Table(inner)) => reference_table(inner, &format!("{at}[]"), rows),
            _ => {}
        }
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    static INNER: &[Field] = &[
        Field {
            key: "idle",
            kind: Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(60) },
            presence: Presence::Default("5s"),
            doc: "Idle.",
        },
        Field {
            key: "mode",
            kind: Kind::Choice(&["deny", "count"]),
            presence: Presence::Required("deny"),
            doc: "Mode.",
        },
    ];
    static FIELDS: &[Field] = &[
        Field {
            key: "listen",
            kind: Kind::List(&Kind::Address),
            presence: Presence::Required("[0.0.0.0:8443]"),
            doc: "Where.",
        },
        Field { key: "limits", kind: Kind::Table(INNER), presence: Presence::Required(""), doc: "Limits." },
        Field {
            key: "things",
            kind: Kind::Map(&Kind::Table(INNER)),
            presence: Presence::Optional("one"),
            doc: "Things.",
        },
    ];

    #[test]
    fn every_error_of_a_document_is_reported_at_once() {
        let doc = parse("c.yaml", "lisen: []\nlimits:\n  idle: 2h\n  mode: dney\nthings: {A: {mode: deny}}\n").unwrap();
        let mut problems = Problems::new();
        check(&doc, FIELDS, &mut problems);
        let text = problems.to_string();
        for expected in [
            "c.yaml:1:1: `lisen`: unknown key\n    fix: did you mean `listen`?",
            "`listen`: is required and missing",
            "`limits.idle`: 2h is outside 1s to 1m",
            "did you mean `deny`",
            "`A` is not an id",
        ] {
            assert!(text.contains(expected), "missing {expected:?} in\n{text}");
        }
    }

    #[test]
    fn defaults_come_from_the_table() {
        let doc = parse("c.yaml", "listen: [\"127.0.0.1:1\"]\nlimits: {mode: deny}\n").unwrap();
        let section = Section::new(&doc, FIELDS).section("limits");
        assert_eq!(section.duration("idle"), Duration::from_secs(5));
        assert_eq!(section.text("mode"), Some("deny"));
    }
}
