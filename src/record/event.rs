//! A record as an event of OPA's decision log (`EventV1` of its `plugins/logs`), so that what reads those reads ours.
//!
//! In: the line of a record. Out: the event, or nothing for lines that are no decision. Must never: show what the record
//! does not.

use super::masking::Marks;
use serde_json::{Map, Value, json};

/// What the event of every record has besides.
pub type Labels = Vec<(String, String)>;

/// Kinds that are decisions, and have an event each. A `stream-open` is followed by one of them.
const DECISIONS: &[&str] = &["request", "stream-cut", "malformed", "handshake"];
const KIND: &[u8] = b"\"kind\":\"";

/// Whether there is an event of this line. Before the first `kind` of a line stands nothing that comes from outside.
pub(super) fn is_decision(line: &[u8]) -> bool {
    is_of(line, DECISIONS)
}

/// The same, or the first of two records of a decision.
pub(super) fn has_facts(line: &[u8]) -> bool {
    is_decision(line) || is_of(line, &["stream-open"])
}

fn is_of(line: &[u8], kinds: &[&str]) -> bool {
    let Some(at) = line.windows(KIND.len()).position(|window| window == KIND) else { return false };
    let rest = line.get(at + KIND.len()..).unwrap_or_default();
    kinds.iter().any(|kind| rest.starts_with(kind.as_bytes()) && rest.get(kind.len()) == Some(&b'"'))
}

/// Whether a decision was one against the request. Behind its `result` a line has no other.
pub(super) fn is_denial(line: &[u8]) -> bool {
    const RESULT: &[u8] = b"\"result\":\"";
    let at = line.windows(RESULT.len()).rposition(|window| window == RESULT);
    at.is_some_and(|at| line.get(at + RESULT.len()..).unwrap_or_default().starts_with(b"deny\""))
}

/// The event of a line.
pub fn opa_event(line: &[u8], labels: &Labels) -> Option<Value> {
    event_of(serde_json::from_slice(line).ok()?, labels)
}

/// The event of a record.
pub(super) fn event_of(mut record: Map<String, Value>, labels: &Labels) -> Option<Value> {
    let text = |record: &Map<String, Value>, key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
    let (node, boot, kind) = (text(&record, "node")?, text(&record, "boot")?, text(&record, "kind")?);
    let seq = record.get("seq")?.as_u64()?;
    let input = record.remove("input").unwrap_or_else(|| json!({}));
    let result = text(&record, "result")?;
    let decided = matches!(kind.as_str(), "request" | "stream-cut" | "stream-open");
    let marks = Marks::taken(&mut record);

    let mut all: Map<String, Value> = labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    all.extend([
        ("app".to_owned(), json!("partnergate")),
        ("id".to_owned(), json!(node)),
        ("version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
        ("boot".to_owned(), json!(boot)),
    ]);
    if let Some(environment) = input.get("environment") {
        all.insert("environment".into(), environment.clone());
    }
    let mut event = Map::new();
    event.insert("labels".into(), all.into());
    // A handshake has no id of its own.
    let id = text(&record, "decision_id").unwrap_or_else(|| format!("{boot}/{seq}"));
    event.insert("decision_id".into(), id.into());
    if let Some(Value::Object(snapshot)) = record.remove("snapshot") {
        let revision = |value: Value| match value {
            Value::String(text) => json!({"revision": text}),
            other => json!({"revision": other.to_string()}),
        };
        let bundles: Map<String, Value> = snapshot.into_iter().map(|(name, value)| (name, revision(value))).collect();
        event.insert("bundles".into(), bundles.into());
    }
    let path = if decided { "partnergate/decision".to_owned() } else { format!("partnergate/{kind}") };
    event.insert("path".into(), path.into());
    let hashes = masked(&input);
    if let Some(ip) = input.pointer("/source/ip") {
        event.insert("requested_by".into(), ip.clone());
    }
    event.insert("input".into(), input);

    let denied = result == "deny" || kind == "stream-cut";
    let mut verdict = Map::new();
    verdict.insert("allow".into(), json!(!denied));
    let reasons = record.remove("reasons").or_else(|| Some(json!([record.get("reason")?])));
    if let Some(reasons) = reasons.filter(|_| denied) {
        verdict.insert("reasons".into(), reasons);
    }
    if let Some(grant) = record.remove("grant") {
        verdict.insert("grant".into(), grant);
    }
    let timers = [
        ("timer_server_handler_ns", record.get("duration_ns").cloned()),
        ("timer_upstream_ns", record.get("upstream").and_then(|u| u.get("duration_ns")).cloned()),
    ];
    let timers: Map<String, Value> = timers.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect();
    let timestamp = record.remove("time");
    // What became of it: all that is left.
    for known in ["schema", "node", "boot", "seq", "decision_id", "duration_ns"] {
        record.remove(known);
    }
    verdict.insert("outcome".into(), record.into());
    event.insert("result".into(), verdict.into());
    let mut event = Value::Object(event);
    let (erased, masked) = marks.applied(&mut event, hashes);
    let Value::Object(event_map) = &mut event else { return None };
    for (key, paths) in [("erased", erased), ("masked", masked)] {
        if !paths.is_empty() {
            event_map.insert(key.into(), json!(paths));
        }
    }
    event_map.insert("timestamp".into(), timestamp?);
    if !timers.is_empty() {
        event_map.insert("metrics".into(), timers.into());
    }
    event_map.insert("req_id".into(), json!(seq));
    Some(event)
}

/// JSON pointers to what is written as a hash, or not in full.
fn masked(input: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for place in ["/request/query", "/request/params", "/request/segments", "/credential/san/email"] {
        if let Some(value) = input.pointer(place) {
            hashes(value, &format!("/input{place}"), &mut found);
        }
    }
    // The path has its parameters in it.
    if found.iter().any(|pointer| pointer.starts_with("/input/request/segments/")) {
        found.push("/input/request/path".into());
    }
    if input.pointer("/source/ip").and_then(Value::as_str).is_some_and(|ip| ip.contains('/')) {
        found.push("/input/source/ip".into());
    }
    found
}

fn hashes(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                hashes(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                hashes(value, &format!("{at}/{n}"), found);
            }
        }
        Value::String(text) if is_hash(text) => found.push(at.to_owned()),
        _ => {}
    }
}

/// As [`super::Mask::hash`] writes it.
fn is_hash(text: &str) -> bool {
    text.strip_prefix("h:").is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "h:0123456789abcdef0123456789abcdef";

    fn line(kind: &str, more: &Value) -> Vec<u8> {
        let mut line = json!({"schema": "partnergate.record/1", "node": "n", "boot": "b", "seq": 7, "time": "2026-11-30T10:00:00Z"});
        line.as_object_mut().unwrap().insert("kind".into(), json!(kind));
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line.to_string().into_bytes()
    }

    #[test]
    fn denied_request_has_the_fields_that_consumers_read() {
        let record = line(
            "request",
            &json!({
                "decision_id": "d", "result": "deny", "reason": "grant-expired", "code": "not-permitted", "status": 403,
                "duration_ns": 5, "snapshot": {"registry": 3, "policy": "abc", "trust": 1, "config": "def"},
                "input": {"environment": "test", "source": {"ip": "192.0.2.0/24"}, "request": {
                    "path": format!("/items/{HASH}"), "segments": ["items", HASH], "params": {"id": HASH},
                    "query": {"a/b": ["1", HASH]},
                }},
            }),
        );
        assert!(is_decision(&record));
        let event = opa_event(&record, &vec![("team".into(), "api".into())]).unwrap();
        assert_eq!(event["labels"]["team"], "api");
        assert_eq!((&event["labels"]["id"], &event["labels"]["environment"]), (&json!("n"), &json!("test")));
        assert_eq!((&event["path"], &event["decision_id"]), (&json!("partnergate/decision"), &json!("d")));
        assert_eq!(event["bundles"]["registry"]["revision"], "3");
        assert_eq!(event["result"]["allow"], false);
        assert_eq!(event["result"]["reasons"], json!(["grant-expired"]));
        assert_eq!(event["result"]["outcome"]["status"], 403);
        assert_eq!((&event["req_id"], &event["metrics"]), (&json!(7), &json!({"timer_server_handler_ns": 5})));
        let masked = [
            "/input/request/query/a~1b/1",
            "/input/request/params/id",
            "/input/request/segments/1",
            "/input/request/path",
            "/input/source/ip",
        ];
        assert_eq!(event["masked"], json!(masked));
    }

    #[test]
    fn allowed_request_that_was_not_served_was_allowed_and_one_that_was_cut_was_not() {
        let of = |kind: &str, result: &str| {
            let record =
                line(kind, &json!({"decision_id": "d", "result": result, "reason": "x", "grant": "g", "input": {}}));
            opa_event(&record, &Labels::new()).unwrap()["result"].clone()
        };
        assert_eq!(of("request", "aborted")["allow"], true);
        assert_eq!(of("request", "aborted")["outcome"]["reason"], "x");
        assert_eq!(of("stream-cut", "deny")["allow"], false);
    }

    #[test]
    fn lines_that_are_no_decision_have_no_event() {
        for kind in ["history", "checkpoint", "suppressed", "stream-open", "records-lost", "request-x"] {
            assert!(!is_decision(&line(kind, &json!({}))), "{kind}");
        }
        let handshake =
            line("handshake", &json!({"result": "deny", "reason": "r", "input": {"source": {"ip": "::1"}}}));
        let event = opa_event(&handshake, &Labels::new()).unwrap();
        assert_eq!((&event["decision_id"], &event["path"]), (&json!("b/7"), &json!("partnergate/handshake")));
    }
}
