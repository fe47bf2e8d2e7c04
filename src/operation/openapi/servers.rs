//! `servers` → the one base path that they mean.

use super::{parse_base_path, shown};
use crate::document::{Node, Problems, Value};

const SET_BASE_PATH: &str = "set `base_path` for this document in the config";

/// The path of the URLs in `servers` of `owner` (a document, path or operation); nothing when it has none.
///
/// Hosts are not looked at: the route says which host is meant. What is wrong is reported at `at`, and an empty base
/// path is answered then, so that the rest of the document is still checked.
pub(super) fn base_path(owner: &Node, at: &str, problems: &mut Problems) -> Option<String> {
    let servers = owner.get("servers").filter(|servers| servers.value != Value::Null)?;
    if !matches!(servers.value, Value::List(_)) {
        problems.push(servers.error(at, format!("expected a list, found {}", servers.kind_name()), None));
        return Some(String::new());
    }
    let mut first: Option<(&Node, String)> = None;
    for (n, server) in servers.items().iter().enumerate() {
        let at = format!("{at}[{n}]");
        let base = match server_path(server) {
            Ok(base) => base,
            Err(Wrong { node, key, reason, fix }) => {
                problems.push(node.error(format!("{at}.{key}"), reason, Some(fix)));
                continue;
            }
        };
        match &first {
            None => first = Some((server, base)),
            Some((_, known)) if *known == base => {}
            Some((other, known)) => {
                let reason = format!(
                    "the base path is `{base}` here and `{known}` on line {}: which one the upstream has is ambiguous",
                    other.line
                );
                problems.push(server.error(at, reason, Some(SET_BASE_PATH)));
            }
        }
    }
    // An empty list says nothing, like one that is not written.
    (!servers.items().is_empty()).then(|| first.map(|(_, base)| base).unwrap_or_default())
}

struct Wrong<'a> {
    node: &'a Node,
    key: String,
    reason: String,
    fix: &'static str,
}

fn server_path(server: &Node) -> Result<String, Wrong<'_>> {
    let Some(node) = server.get("url") else {
        let reason = match server.get("$ref") {
            Some(_) => "is missing: a `$ref` cannot stand for a server".to_owned(),
            None => "is missing".to_owned(),
        };
        return Err(Wrong { node: server, key: "url".into(), reason, fix: "add `url: /v1`, or whatever the path is" });
    };
    let wrong = |reason: String, fix| Wrong { node, key: "url".into(), reason, fix };
    let Some(written) = node.text() else {
        return Err(wrong(format!("expected text, found {}", node.kind_name()), "write it like `/v1`"));
    };
    let url = with_defaults(server, node, written)?;
    let path = url_path(&url).map_err(|reason| wrong(reason, SET_BASE_PATH))?;
    match parse_base_path(path) {
        Ok(base) => Ok(base.to_owned()),
        Err(reason) => Err(wrong(format!("the path of the URL {reason}"), SET_BASE_PATH)),
    }
}

/// `text` with each `{name}` replaced by the `default` of that variable.
fn with_defaults<'a>(server: &'a Node, url: &'a Node, text: &str) -> Result<String, Wrong<'a>> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            let reason = format!("`{}` has an unbalanced brace", shown(text));
            return Err(Wrong { node: url, key: "url".into(), reason, fix: "write a variable as `{name}`" });
        };
        out.push_str(before);
        out.push_str(&default_of(server, url, name)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn default_of<'a>(server: &'a Node, url: &'a Node, name: &str) -> Result<String, Wrong<'a>> {
    let variable = server.get("variables").and_then(|variables| variables.get(name));
    let key = format!("variables.{}.default", shown(name));
    let Some(default) = variable.and_then(|variable| variable.get("default")) else {
        let reason = format!("the URL has the variable `{}`, and that has no default", shown(name));
        return Err(Wrong { node: variable.unwrap_or(url), key, reason, fix: "add its `default`" });
    };
    // A bare port is meant as it is written; `1.10` would not come back as it was.
    match (default.text(), default.integer()) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(number)) => Ok(number.to_string()),
        (None, None) => {
            let reason = format!("expected text, found {}", default.kind_name());
            Err(Wrong { node: default, key, reason, fix: "write it in quotes" })
        }
    }
}

/// The path of `https://host/path`, `//host/path` or `/path`.
fn url_path(url: &str) -> Result<&str, String> {
    let after_scheme = match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => Some(rest),
        _ => url.strip_prefix("//"),
    };
    let path = match after_scheme {
        Some(rest) => rest.find(['/', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or_default(),
        None if url.starts_with('/') => url,
        None => {
            return Err(format!("`{}` is relative to where the document was, which is not known here", shown(url)));
        }
    };
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse;

    fn base(text: &str) -> (Option<String>, String) {
        let mut problems = Problems::new();
        let base = base_path(&parse("api.yaml", text).unwrap(), "servers", &mut problems);
        (base, problems.to_string())
    }

    #[test]
    fn the_base_path_is_the_path_of_the_url() {
        for (url, expected) in [
            ("/", ""),
            ("/v1", "/v1"),
            ("/v1/", "/v1"),
            ("https://api.example.com", ""),
            ("https://api.example.com/", ""),
            ("https://api.example.com:8443/a/v1", "/a/v1"),
            ("//api.example.com/v1", "/v1"),
        ] {
            assert_eq!(
                base(&format!("servers: [{{url: \"{url}\"}}]")),
                (Some(expected.into()), String::new()),
                "{url}"
            );
        }
        assert_eq!(base("servers: []"), (None, String::new()));
        assert_eq!(base("info: {}"), (None, String::new()));
    }

    #[test]
    fn variables_are_replaced_by_their_defaults() {
        let text = "servers:\n  - url: https://{region}.example.com:{port}/{base}\n    variables:\n      region: {default: eu}\n      port: {default: 8443}\n      base: {default: v2}\n";
        assert_eq!(base(text), (Some("/v2".into()), String::new()));
    }

    #[test]
    fn what_leaves_the_base_path_open_is_an_error_with_its_place() {
        for (text, expected) in [
            (
                "servers:\n  - url: /{base}\n",
                ":2:10: `servers[0].variables.base.default`: the URL has the variable `base`",
            ),
            (
                "servers:\n  - url: /{b}\n    variables:\n      b: {enum: [v1]}\n",
                ":4:10: `servers[0].variables.b.default`",
            ),
            ("servers:\n  - url: /{b}\n    variables:\n      b: {default: 1.10}\n", "expected text, found a number"),
            (
                "servers:\n  - url: /v1\n  - url: /v2\n",
                ":3:5: `servers[1]`: the base path is `/v2` here and `/v1` on line 2",
            ),
            ("servers: [{url: v1}]", "`v1` is relative"),
            ("servers: [{url: ../v1}]", "is relative"),
            ("servers: [{url: \"/v1?x=1\"}]", "contains `?`"),
            ("servers: [{url: \"https://h?x=1\"}]", "does not start with `/`"),
            ("servers: [{url: \"/{v\"}]", "unbalanced brace"),
            ("servers: [{url: \"/a//b\"}]", "contains `//`"),
            ("servers: [{description: x}]", "`servers[0].url`: is missing"),
            ("servers: [{$ref: other.yaml}]", "a `$ref` cannot stand for a server"),
            ("servers: /v1", "expected a list, found text"),
            ("servers: [3]", "`servers[0].url`: is missing"),
        ] {
            let (_, problems) = base(text);
            assert!(problems.contains(expected), "{text}\n{problems}");
        }
    }
}
