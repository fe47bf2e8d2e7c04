//! Operations that are listed in the gateway's config, where there is no OpenAPI document, and gRPC methods.

use super::{Operation, OperationId, OperationKind, Place, Template, parse_upgrade, shown};
use crate::document::{Field, Kind, Node, Presence, Problems, Section};
use http::Method;
use std::sync::Arc;

/// One listed operation.
pub static LISTED: &[Field] = &[
    Field {
        key: "id",
        kind: Kind::Text,
        presence: Presence::Optional("invoices.read"),
        doc: "The name that grants use; without it, it is made from method and path (`get:/v1/invoices`), or it is the \
              gRPC method.",
    },
    Field {
        key: "method",
        kind: Kind::Choice(&["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        presence: Presence::Optional("GET"),
        doc: "The HTTP method; HEAD and OPTIONS are operations of their own.",
    },
    Field {
        key: "path",
        kind: Kind::Text,
        presence: Presence::Optional("/v1/invoices/{id}"),
        doc: "The full path, with `{name}` where one segment, or part of it, is a parameter.",
    },
    Field {
        key: "grpc",
        kind: Kind::Text,
        presence: Presence::Optional("billing.v1.Invoices/Get"),
        doc: "A gRPC method as `package.Service/Method`, instead of `method` and `path`.",
    },
    Field {
        key: "tags",
        kind: Kind::List(&Kind::Text),
        presence: Presence::Optional("[billing]"),
        doc: "Names by which grants (`tag:billing`) and policy speak of several operations.",
    },
    Field {
        key: "upgrade",
        kind: Kind::Text,
        presence: Presence::Optional("websocket"),
        doc: "The protocol that a GET may turn its connection into (RFC 9110 section 7.8), such as `websocket`; without it an upgrade is refused.",
    },
];

/// One operation of a section that was checked against [`LISTED`]; `key` is its path in the document, such as
/// `routes.billing.operations[0]`. Nothing when a problem was reported.
pub fn operation(section: Section<'_>, key: &str, problems: &mut Problems) -> Option<Operation> {
    let own = section.own_node()?;
    let mut listing = Listing { section, own, key, problems };
    let endpoint = listing.endpoint();
    let id = listing.written_id();
    let upgrade = listing.upgrade(endpoint.as_ref());
    let endpoint = endpoint?;
    Some(Operation {
        id: match id? {
            Some(id) => id,
            None => listing.default_id(&endpoint)?,
        },
        method: endpoint.method,
        template: endpoint.template,
        tags: section.texts("tags").into_iter().map(Into::into).collect(),
        upgrade: upgrade?,
        kind: endpoint.kind,
        place: Place::of(own),
    })
}

struct Endpoint {
    method: Method,
    template: Template,
    kind: OperationKind,
}

struct Listing<'a, 'p> {
    section: Section<'a>,
    own: &'a Node,
    key: &'p str,
    problems: &'p mut Problems,
}

impl Listing<'_, '_> {
    fn endpoint(&mut self) -> Option<Endpoint> {
        let (method, path, grpc) = (self.section.text("method"), self.section.text("path"), self.section.text("grpc"));
        match (method, path, grpc) {
            (Some(method), Some(path), None) => {
                let template = Template::parse(path).map_err(|reason| self.wrong("path", reason, None)).ok();
                // A method that is not one was reported when the section was checked.
                let method = method.parse().ok()?;
                Some(Endpoint { method, template: template?, kind: OperationKind::Http })
            }
            (None, None, Some(grpc)) => match grpc_path(grpc) {
                Ok(template) => Some(Endpoint { method: Method::POST, template, kind: OperationKind::Grpc }),
                Err(reason) => {
                    self.wrong("grpc", reason, Some("write it like `billing.v1.Invoices/Get`"));
                    None
                }
            },
            (_, _, Some(_)) => {
                let reason = "is both a gRPC method and `method` or `path`";
                self.wrong("grpc", reason.into(), Some("write `grpc` alone, or `method` and `path`"));
                None
            }
            (_, _, None) => {
                let fix = "write `method` and `path`, or `grpc`";
                self.wrong("", "does not say which requests it is".into(), Some(fix));
                None
            }
        }
    }

    /// Nothing inside when no id is written.
    fn written_id(&mut self) -> Option<Option<OperationId>> {
        match self.section.text("id").map(OperationId::parse) {
            None => Some(None),
            Some(Ok(id)) => Some(Some(id)),
            Some(Err(reason)) => {
                self.wrong("id", reason, None);
                None
            }
        }
    }

    fn default_id(&mut self, endpoint: &Endpoint) -> Option<OperationId> {
        let fix = Some("add an `id`");
        let id = match endpoint.kind {
            OperationKind::Grpc => OperationId::parse(endpoint.template.as_str().trim_start_matches('/')),
            OperationKind::Http => OperationId::derived(&endpoint.method, &endpoint.template),
        };
        match id {
            Ok(id) => {
                if endpoint.kind == OperationKind::Http {
                    let reason = format!("has no `id`: it is called `{id}`, which changes when the path does");
                    self.problems.push(self.own.warning(self.key, reason, fix));
                }
                Some(id)
            }
            Err(reason) => {
                self.wrong("", reason, fix);
                None
            }
        }
    }

    /// Nothing inside when the operation has no upgrade.
    fn upgrade(&mut self, endpoint: Option<&Endpoint>) -> Option<Option<Arc<str>>> {
        let Some(text) = self.section.text("upgrade") else {
            return Some(None);
        };
        if endpoint.is_some_and(|e| e.method != Method::GET) {
            self.wrong(
                "upgrade",
                "an upgrade starts with a GET".into(),
                Some("remove `upgrade`, or write `method: GET`"),
            );
            return None;
        }
        match parse_upgrade(text) {
            Ok(upgrade) => Some(Some(upgrade)),
            Err(reason) => {
                self.wrong("upgrade", reason, Some("write `websocket`"));
                None
            }
        }
    }

    /// An error at the value of `key`; at the operation itself when `key` is empty.
    fn wrong(&mut self, key: &str, reason: String, fix: Option<&str>) {
        let node = self.section.own_node().and_then(|own| own.get(key)).unwrap_or(self.own);
        let at = if key.is_empty() { self.key.to_owned() } else { format!("{}.{key}", self.key) };
        self.problems.push(node.error(at, reason, fix));
    }
}

/// `package.Service/Method` as a path. Names are identifiers, as in the protobuf language.
fn grpc_path(text: &str) -> Result<Template, String> {
    let wrong = || format!("`{}` is not a gRPC method", shown(text));
    let identifier = |word: &str| {
        let mut bytes = word.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let (service, method) = text.split_once('/').ok_or_else(wrong)?;
    if !service.split('.').all(identifier) || !identifier(method) {
        return Err(wrong());
    }
    Template::parse(&format!("/{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn read(text: &str) -> (Option<Operation>, String) {
        let node = document::parse("partnergate.yaml", text).unwrap();
        let mut problems = Problems::new();
        document::check(&node, LISTED, &mut problems);
        let operation = operation(Section::new(&node, LISTED), "operations[0]", &mut problems);
        (operation, problems.to_string())
    }

    #[test]
    fn a_listed_operation_is_read_whole() {
        let (operation, problems) =
            read("id: feed.open\nmethod: GET\npath: /v1/feeds/{feed}\ntags: [live, feeds]\nupgrade: websocket\n");
        let operation = operation.unwrap();
        assert_eq!(problems, "");
        assert_eq!((operation.id.as_str(), operation.method.as_str()), ("feed.open", "GET"));
        assert_eq!(operation.template.as_str(), "/v1/feeds/{feed}");
        assert_eq!(operation.upgrade, Some("websocket".into()));
        assert_eq!(operation.kind, OperationKind::Http);
        assert_eq!(operation.tags.len(), 2);
        assert_eq!(operation.place.to_string(), "partnergate.yaml:1");
    }

    #[test]
    fn a_grpc_method_is_a_post_that_is_named_after_itself() {
        let (operation, problems) = read("grpc: billing.v1.Invoices/Get\n");
        let operation = operation.unwrap();
        assert_eq!(problems, "");
        assert_eq!(operation.id.as_str(), "billing.v1.Invoices/Get");
        assert_eq!(operation.template.as_str(), "/billing.v1.Invoices/Get");
        assert_eq!((operation.method, operation.kind), (Method::POST, OperationKind::Grpc));
    }

    #[test]
    fn an_operation_without_an_id_is_named_after_its_path_with_a_warning() {
        let (operation, problems) = read("method: HEAD\npath: /v1/orders/{id}\n");
        assert_eq!(operation.unwrap().id.as_str(), "head:/v1/orders/{id}");
        assert!(problems.starts_with("warning: partnergate.yaml:1:1: `operations[0]`: has no `id`"), "{problems}");
    }

    #[test]
    fn an_operation_is_either_a_path_or_a_grpc_method() {
        for (text, expected) in [
            ("id: a\nmethod: GET\n", ":1:1: `operations[0]`: does not say which requests it is"),
            ("id: a\npath: /x\n", "does not say which requests it is"),
            ("id: a\n", "does not say which requests it is"),
            ("id: a\ngrpc: a.B/C\npath: /x\n", ":2:7: `operations[0].grpc`: is both"),
            ("id: a\ngrpc: a.B\n", "`a.B` is not a gRPC method"),
            ("id: a\ngrpc: a..B/C\n", "is not a gRPC method"),
            ("id: a\ngrpc: a.B/C/D\n", "is not a gRPC method"),
            ("id: a\ngrpc: a.B/C\nupgrade: websocket\n", "an upgrade starts with a GET"),
            ("id: a*\nmethod: GET\npath: /x\n", "`operations[0].id`: `a*` is not an operation id"),
            ("id: a\nmethod: TRACE\npath: /x\n", "`TRACE` is not one of GET"),
            ("id: a\nmethod: GET\npath: x\n", ":3:7: `operations[0].path`: `x` does not start with `/`"),
        ] {
            let (_, problems) = read(text);
            assert!(problems.contains(expected), "{text}\n{problems}");
        }
    }
}
