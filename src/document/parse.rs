//! YAML 1.2 (and so JSON) → [`Node`] tree with positions, within bounds that hostile input cannot pass.

use super::problem::{Problem, Problems, Severity};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::sync::Arc;

/// Nesting allowed in a document; deeper input is refused, not recursed into.
const MAX_DEPTH: usize = 100;
/// Nodes allowed in a document after aliases are expanded (a "billion laughs" document stops here).
const MAX_NODES: usize = 5_000_000;

/// A value and the place where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    pub value: Value,
}

/// What a node holds. Mappings keep the order in which they were written and have text keys only.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Key node (always text) and value node.
    Table(Vec<(Node, Node)>),
}

impl Node {
    /// The value under `key`, when this node is a table that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v)
    }

    /// The entries of a table; empty for anything else.
    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; empty for anything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    pub fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(n) => Some(n),
            _ => None,
        }
    }

    /// What the value is called in a message.
    pub fn kind_name(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    pub fn error(&self, key: impl Into<String>, reason: impl Into<String>, fix: Option<&str>) -> Problem {
        self.problem(Severity::Error, key, reason, fix)
    }

    pub fn warning(&self, key: impl Into<String>, reason: impl Into<String>, fix: Option<&str>) -> Problem {
        self.problem(Severity::Warning, key, reason, fix)
    }

    fn problem(
        &self,
        severity: Severity,
        key: impl Into<String>,
        reason: impl Into<String>,
        fix: Option<&str>,
    ) -> Problem {
        Problem {
            severity,
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            key: key.into(),
            reason: reason.into(),
            fix: fix.map(str::to_owned),
        }
    }

    /// The same value without positions.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Integer(n) => Json::from(*n),
            Value::Float(x) => Json::from(*x),
            Value::Text(t) => Json::String(t.clone()),
            Value::List(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Table(entries) => {
                Json::Object(entries.iter().filter_map(|(k, v)| Some((k.text()?.to_owned(), v.to_json()))).collect())
            }
        }
    }
}

/// Reads one document. An empty document is an empty table.
///
/// # Errors
/// A syntax error, a duplicate or non-text key, a second document, or a bound exceeded.
pub fn parse(file: &str, text: &str) -> Result<Node, Problems> {
    let mut reader = Reader {
        file: file.into(),
        parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        anchors: HashMap::new(),
        nodes: 0,
        problems: Problems::new(),
    };
    let node = reader.document();
    match node {
        Ok(node) if !reader.problems.has_errors() => Ok(node),
        Ok(_) => Err(reader.problems),
        Err(problem) => {
            reader.problems.push(problem);
            Err(reader.problems)
        }
    }
}

struct Reader<'a> {
    file: Arc<str>,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    problems: Problems,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut root: Option<Node> = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => break,
                other => {
                    if root.is_some() {
                        return Err(self.at(&span, "a second document in one file", Some("split it into two files")));
                    }
                    root = Some(self.node(other, span, 0)?);
                }
            }
        }
        let empty = Node { file: self.file.clone(), line: 1, column: 1, value: Value::Table(Vec::new()) };
        Ok(match root {
            Some(Node { value: Value::Null, .. }) | None => empty,
            Some(node) => node,
        })
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(pair)) => Ok(pair),
            Some(Err(e)) => {
                let (line, column) = (place(e.marker().line()), place(e.marker().col() + 1));
                Err(self.place(line, column, format!("not valid YAML: {}", e.info()), None))
            }
            None => Err(self.place(0, 0, "the document ends too early".into(), None)),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        self.count(1, &span)?;
        if depth > MAX_DEPTH {
            return Err(self.at(&span, &format!("nested deeper than {MAX_DEPTH} levels"), None));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                if tag.as_ref().is_some_and(|t| !t.is_yaml_core_schema()) {
                    return Err(self.at(&span, "YAML tags are not used here", Some("remove the `!tag`")));
                }
                (anchor, scalar(&text, style))
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Value::List(items))
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Table(self.table(depth)?)),
            Event::Alias(id) => {
                let Some(target) = self.anchors.get(&id).cloned() else {
                    return Err(self.at(&span, "an alias to an anchor that does not exist (or contains itself)", None));
                };
                self.count(weight(&target), &span)?;
                return Ok(target);
            }
            _ => return Err(self.at(&span, "unexpected YAML structure", None)),
        };
        let node = Node {
            file: self.file.clone(),
            line: place(span.start.line()),
            column: place(span.start.col() + 1),
            value,
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn table(&mut self, depth: usize) -> Result<Vec<(Node, Node)>, Problem> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut seen: HashMap<String, u32> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let mut key = self.node(event, span, depth + 1)?;
            // Keys such as `200:` or `true:` are text here: OpenAPI writes status codes bare.
            let text = match &key.value {
                Value::Text(t) => t.clone(),
                Value::Integer(n) => n.to_string(),
                Value::Bool(b) => b.to_string(),
                _ => return Err(self.at(&span, "a key must be text", None)),
            };
            key.value = Value::Text(text.clone());
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if let Some(first) = seen.insert(text.clone(), key.line) {
                let reason = format!("the key is written twice; the first is on line {first}");
                self.problems.push(key.error(text, reason, Some("keep one of them")));
                continue;
            }
            entries.push((key, value));
        }
    }

    fn count(&mut self, n: usize, span: &Span) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(n);
        if self.nodes > MAX_NODES {
            return Err(self.at(span, &format!("more than {MAX_NODES} values in one document"), None));
        }
        Ok(())
    }

    fn at(&self, span: &Span, reason: &str, fix: Option<&str>) -> Problem {
        self.place(place(span.start.line()), place(span.start.col() + 1), reason.to_owned(), fix)
    }

    fn place(&self, line: u32, column: u32, reason: String, fix: Option<&str>) -> Problem {
        Problem {
            severity: Severity::Error,
            file: self.file.clone(),
            line,
            column,
            key: String::new(),
            reason,
            fix: fix.map(str::to_owned),
        }
    }
}

fn place(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn weight(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Table(entries) => 1 + entries.iter().map(|(_, v)| 1 + weight(v)).sum::<usize>(),
        _ => 1,
    }
}

/// YAML 1.2 core schema. Quoted and block scalars are always text; `yes`, `no`, `on`, `off` are text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() {
        // `007` is text: nobody means seven by it.
        if digits.len() == 1 || !digits.starts_with('0') {
            if let Ok(n) = text.parse::<i64>() {
                return Value::Integer(n);
            }
        }
        return Value::Text(text.to_owned());
    }
    let float_like = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|b| b.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(x) if float_like && x.is_finite() => Value::Float(x),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_kept_and_counted_from_one() {
        let doc = parse("f.yaml", "a:\n  b: 1\n  c: [x, \"2\"]\n").unwrap();
        let c = doc.get("a").unwrap().get("c").unwrap();
        assert_eq!((c.line, c.column), (3, 6));
        assert_eq!(c.items()[1].value, Value::Text("2".into()));
        assert_eq!(doc.get("a").unwrap().get("b").unwrap().integer(), Some(1));
    }

    #[test]
    fn all_duplicate_keys_are_reported_with_both_lines() {
        let err = parse("f.yaml", "a: 1\nb: 2\na: 3\nb: 4\n").unwrap_err();
        let text = err.to_string();
        assert!(text.contains("f.yaml:3:1: `a`: the key is written twice; the first is on line 1"), "{text}");
        assert!(text.contains("f.yaml:4:1: `b`"), "{text}");
    }

    #[test]
    fn a_billion_laughs_document_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            text.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(",")));
        }
        let err = parse("f.yaml", &text).unwrap_err();
        assert!(err.to_string().contains("values in one document"), "{err}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let err = parse("f.yaml", &"[".repeat(500)).unwrap_err();
        assert!(err.has_errors());
    }

    #[test]
    fn json_and_norway_are_read_as_written() {
        let doc = parse("f.json", "{\"a\": [1, 2.5, null, true], \"no\": \"no\"}").unwrap();
        assert_eq!(doc.to_json().to_string(), "{\"a\":[1,2.5,null,true],\"no\":\"no\"}");
        let doc = parse("f.yaml", "c: no\nv: 1.10\nz: 007\n").unwrap();
        assert_eq!(doc.get("c").unwrap().text(), Some("no"));
        assert_eq!(doc.get("z").unwrap().text(), Some("007"));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let err = parse("f.yaml", "a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(err.iter().all(|p| p.line > 0), "{err}");
    }
}
