//! OpenAPI 3.0 and 3.1 documents → operations.
//!
//! In: one document as text (JSON or YAML). Out: its operations, each with the place where it was written, and
//! everything that is wrong with it. Only what decides which request is which operation is read: `paths`, `servers`,
//! `operationId`, `tags` and `x-partnergate-upgrade`; schemas, parameters, webhooks and security are not, but a `$ref`
//! into another document is refused wherever it is.
//!
//! Must never: fetch another document, choose between two base paths, or panic on any text.

mod pointer;
mod servers;

use super::{Operation, OperationId, OperationKind, Place, Template, nearest, parse_base_path, parse_upgrade, shown};
use crate::document::{self, Node, Problems, Value};
use http::Method;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

const UPGRADE: &str = "x-partnergate-upgrade";
const METHODS: [(&str, Method); 7] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
    ("head", Method::HEAD),
    ("patch", Method::PATCH),
];

/// Reads a document. `base_path` (from the config) takes the place of all `servers`; without it their path is used.
/// What is wrong is added to `problems`; the operations of a document with errors are not for use.
pub fn load(file: &str, text: &str, base_path: Option<&str>, problems: &mut Problems) -> Vec<Operation> {
    let root = match document::parse(file, text) {
        Ok(root) => root,
        Err(found) => {
            problems.extend(found);
            return Vec::new();
        }
    };
    if !version_is_known(&root, problems) {
        return Vec::new();
    }
    let base = match base_path.map(parse_base_path) {
        Some(Ok(base)) => Base::Configured(base),
        Some(Err(reason)) => {
            problems.file(file, format!("the configured `base_path` is wrong: {reason}"), Some("write it like `/v1`"));
            Base::Configured("")
        }
        None => Base::Servers(servers::base_path(&root, "servers", problems).unwrap_or_default()),
    };
    let mut remote = BTreeMap::new();
    pointer::remote(&root, &mut remote);
    for (target, reference) in remote {
        let (reason, fix) = pointer::elsewhere(target);
        problems.push(reference.error("$ref", reason, Some(fix)));
    }
    let mut reader = Reader { root: &root, base, operations: Vec::new(), problems };
    reader.paths();
    reader.operations
}

fn version_is_known(root: &Node, problems: &mut Problems) -> bool {
    let known = "OpenAPI 3.0 and 3.1 are read";
    if !matches!(root.value, Value::Table(_)) {
        problems.push(root.error("", format!("expected an OpenAPI document, found {}", root.kind_name()), None));
        return false;
    }
    if let Some(swagger) = root.get("swagger") {
        let version = swagger.to_json().to_string();
        let reason = format!("this is a Swagger {} document; {known}", shown(version.trim_matches('"')));
        problems.push(swagger.error("swagger", reason, Some("convert it to OpenAPI 3")));
        return false;
    }
    let Some(node) = root.get("openapi") else {
        let fix = Some("add `openapi: \"3.0.3\"` if it is one");
        problems.push(root.error(
            "openapi",
            format!("the key is missing, so this is no OpenAPI document; {known}"),
            fix,
        ));
        return false;
    };
    let Some(version) = node.text() else {
        let reason = format!("expected a version as text, found {}", node.kind_name());
        problems.push(node.error("openapi", reason, Some("write it in full, such as `3.0.3`")));
        return false;
    };
    let patch = version.strip_prefix("3.0.").or_else(|| version.strip_prefix("3.1."));
    let good = patch.is_some_and(|patch| patch.starts_with(|c: char| c.is_ascii_digit()));
    if !good {
        let reason = format!("OpenAPI version `{}` is not known; {known}", shown(version));
        problems.push(node.error(
            "openapi",
            reason,
            Some("convert the document to `3.1.0`, or write the version in full"),
        ));
    }
    good
}

/// Where the part of the path before the templates comes from.
enum Base<'a> {
    /// The config; `servers` are not looked at.
    Configured(&'a str),
    /// The document's own `servers`, which a path or an operation may replace.
    Servers(String),
}

/// The table of one path, found through its `$ref`s.
struct PathItem<'a> {
    node: &'a Node,
    /// The `$ref` on the path, when it has one: its operations are then placed where the path is written.
    reference: Option<&'a Node>,
}

struct Reader<'a, 'p> {
    root: &'a Node,
    base: Base<'a>,
    operations: Vec<Operation>,
    problems: &'p mut Problems,
}

impl<'a> Reader<'a, '_> {
    fn paths(&mut self) {
        let written = self.root.get("paths");
        let paths = written.unwrap_or(self.root);
        if !matches!(paths.value, Value::Table(_) | Value::Null) {
            let reason = format!("expected a table of paths, found {}", paths.kind_name());
            self.problems.push(paths.error("paths", reason, None));
            return;
        }
        if written.is_none() || paths.entries().is_empty() {
            let reason = "the document has no paths, so every request to its route is denied";
            self.problems.push(paths.warning("paths", reason, Some("add the paths that partners may call")));
            return;
        }
        for (key, item) in paths.entries() {
            let path = key.text().unwrap_or_default();
            if path.starts_with("x-") {
                continue;
            }
            if path == "$ref" {
                let fix = Some("copy the paths into this document");
                self.problems.push(key.error("paths.$ref", "OpenAPI has no `$ref` in the place of all paths", fix));
                continue;
            }
            self.path(key, path, item);
        }
    }

    fn path(&mut self, key: &'a Node, path: &str, node: &'a Node) {
        let at = format!("paths.{}", shown(path));
        // Said here because the message about the full path would speak of text that nobody wrote.
        if let Err(reason) = Template::parse(path) {
            self.problems.push(key.error(at, reason, None));
            return;
        }
        let Some(item) = self.path_item(node, &at) else { return };
        let servers = self.servers_of(item.node, &at);
        for (key, node) in item.node.entries() {
            let name = key.text().unwrap_or_default();
            let at = format!("{at}.{}", shown(name));
            match METHODS.iter().find(|(known, _)| *known == name) {
                Some((_, method)) => {
                    let place = Place::of(item.reference.unwrap_or(key));
                    self.operation(method.clone(), path, node, place, servers.as_deref(), &at);
                }
                None => self.other_key(key, name, &at),
            }
        }
    }

    /// A key of a path that is no method that is served.
    fn other_key(&mut self, key: &Node, name: &str, at: &str) {
        let lower = name.to_ascii_lowercase();
        let problem = match name {
            "summary" | "description" | "servers" | "parameters" => return,
            "trace" => {
                let reason = "the gateway never serves TRACE: it would send back what must stay hidden";
                key.error(at, reason, Some("remove the operation"))
            }
            _ if name.starts_with("x-partnergate-") => {
                key.error(at, "has no meaning on a path", Some("write it on an operation"))
            }
            _ if name.starts_with("x-") => return,
            _ if lower != name && METHODS.iter().any(|(known, _)| *known == lower) => {
                key.error(at, "methods are written in lower case", Some(&format!("write `{lower}`")))
            }
            _ => key.warning(at, "is no method that is served and is left out", Some("remove it")),
        };
        self.problems.push(problem);
    }

    fn path_item(&mut self, node: &'a Node, at: &str) -> Option<PathItem<'a>> {
        let mut item = PathItem { node, reference: None };
        if let Some(reference) = node.get("$ref") {
            // OpenAPI leaves open what holds when both sides say something.
            let beside = node.entries().iter().filter_map(|(key, _)| Some((key, key.text()?))).find(|(_, name)| {
                *name == "servers" || METHODS.iter().any(|(method, _)| name.eq_ignore_ascii_case(method))
            });
            if let Some((key, name)) = beside {
                let reason = "stands beside a `$ref`, and OpenAPI does not say which of the two holds";
                self.problems.push(key.error(
                    format!("{at}.{name}"),
                    reason,
                    Some("move it to where the `$ref` points"),
                ));
                return None;
            }
            match pointer::follow(self.root, reference) {
                // What leads out of the document is said already.
                Err(_) if reference.text().is_some_and(|target| !target.starts_with('#')) => return None,
                Ok(target) => item = PathItem { node: target, reference: Some(reference) },
                Err((reason, fix)) => {
                    self.problems.push(reference.error(format!("{at}.$ref"), reason, Some(fix)));
                    return None;
                }
            }
        }
        if !matches!(item.node.value, Value::Table(_)) {
            let reason = format!("expected a table of methods, found {}", item.node.kind_name());
            self.problems.push(item.node.error(at, reason, None));
            return None;
        }
        Some(item)
    }

    /// The base path that `servers` of a path or an operation set, when it has any that count.
    fn servers_of(&mut self, node: &Node, at: &str) -> Option<String> {
        match self.base {
            Base::Configured(_) => None,
            Base::Servers(_) => servers::base_path(node, &format!("{at}.servers"), self.problems),
        }
    }

    fn operation(
        &mut self,
        method: Method,
        path: &str,
        node: &Node,
        place: Place,
        path_servers: Option<&str>,
        at: &str,
    ) {
        if !matches!(node.value, Value::Table(_)) {
            let reason = format!("expected a table, found {}", node.kind_name());
            self.problems.push(node.error(at, reason, Some("write at least `{}`")));
            return;
        }
        if let Some(reference) = node.get("$ref") {
            let fix = Some("write the operation here, or put the `$ref` on the path");
            self.problems.push(reference.error(format!("{at}.$ref"), "OpenAPI has no `$ref` on an operation", fix));
            return;
        }
        let own_servers = self.servers_of(node, at);
        let base = match &self.base {
            Base::Configured(base) => *base,
            Base::Servers(base) => own_servers.as_deref().or(path_servers).unwrap_or(base),
        };
        let template = Template::parse(&format!("{base}{path}"));
        let tags = self.tags(node, at);
        let upgrade = self.upgrade(&method, node, at);
        let template = match template {
            Ok(template) => template,
            Err(reason) => {
                self.problems.push(node.error(at, reason, None));
                return;
            }
        };
        let Some(id) = self.id(&method, &template, node, &place, at) else {
            return;
        };
        self.operations.push(Operation { id, method, template, tags, upgrade, kind: OperationKind::Http, place });
    }

    fn id(
        &mut self,
        method: &Method,
        template: &Template,
        node: &Node,
        place: &Place,
        at: &str,
    ) -> Option<OperationId> {
        let (parsed, wrong_at, fix) = match node.get("operationId") {
            Some(written) => {
                let text: Cow<'_, str> = match written.text() {
                    Some(text) => text.into(),
                    None => written.to_json().to_string().into(),
                };
                (OperationId::parse(&text), written, "write it like `invoices.read`")
            }
            None => (OperationId::derived(method, template), node, "add an `operationId`"),
        };
        match parsed {
            Ok(id) => {
                if node.get("operationId").is_none() {
                    let reason = format!("has no `operationId`: it is called `{id}`, which changes when the path does");
                    let mut warning = node.warning(at, reason, Some(fix));
                    (warning.line, warning.column) = (place.line, 0);
                    self.problems.push(warning);
                }
                Some(id)
            }
            Err(reason) => {
                self.problems.push(wrong_at.error(format!("{at}.operationId"), reason, Some(fix)));
                None
            }
        }
    }

    fn tags(&mut self, node: &Node, at: &str) -> Vec<Arc<str>> {
        let Some(tags) = node.get("tags") else {
            return Vec::new();
        };
        if !matches!(tags.value, Value::List(_)) {
            let reason = format!("expected a list of text, found {}", tags.kind_name());
            self.problems.push(tags.error(format!("{at}.tags"), reason, None));
        }
        let mut names: Vec<Arc<str>> = Vec::new();
        for tag in tags.items() {
            match tag.text() {
                Some(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
                    if !names.iter().any(|known| **known == *text) {
                        names.push(text.into());
                    }
                }
                _ => self.problems.push(tag.error(
                    format!("{at}.tags"),
                    "a tag is text on one line",
                    Some("write it in quotes"),
                )),
            }
        }
        names
    }

    fn upgrade(&mut self, method: &Method, node: &Node, at: &str) -> Option<Arc<str>> {
        for (key, _) in node.entries() {
            let name = key.text().unwrap_or_default();
            if name.starts_with("x-partnergate-") && name != UPGRADE {
                let fix = nearest(name, [UPGRADE].into_iter())
                    .map_or("remove it", |_| "did you mean `x-partnergate-upgrade`?");
                self.problems.push(key.error(format!("{at}.{}", shown(name)), "unknown key", Some(fix)));
            }
        }
        let written = node.get(UPGRADE)?;
        let wrong = match written.text().map(parse_upgrade) {
            None => format!("expected text, found {}", written.kind_name()),
            Some(Err(reason)) => reason,
            Some(Ok(_)) if *method != Method::GET => "an upgrade starts with a GET".into(),
            Some(Ok(upgrade)) => return Some(upgrade),
        };
        let fix = "write `websocket`, on the `get` of a path";
        self.problems.push(written.error(format!("{at}.{UPGRADE}"), wrong, Some(fix)));
        None
    }
}

#[cfg(test)]
mod tests;
