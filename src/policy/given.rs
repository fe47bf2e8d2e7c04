//! An input that somebody has written down, held against the contract: what no request has would make an answer that is none.

use super::contract::{INPUT, Shape};
use crate::document::{Problem, Problems, Severity, nearest};
use serde_json::Value as Json;

/// Characters of a value that are shown.
const SHOWN: usize = 40;

/// What is in an input that no request has: other keys, other types, other texts than the contract names. What is left out is
/// absent, which is nothing wrong.
pub fn check_input(file: &str, input: &Json) -> Problems {
    let mut problems = Problems::new();
    if input.pointer("/time/now").is_some() {
        let reason = "is the input of a record: its times are text, and values in it may be hashes, cut or masked";
        problems.file(file, reason, Some("have it read from the record: `--decision ID --log FILE`"));
        return problems;
    }
    look(file, "input", input, &INPUT, &mut problems);
    problems
}

fn look(file: &str, path: &str, value: &Json, shape: &'static Shape, problems: &mut Problems) {
    let wrong = |key: &str, reason: String, fix: Option<String>| {
        let (severity, file, key) = (Severity::Error, file.into(), key.to_owned());
        Problem { severity, file, line: 0, column: 0, key, reason, fix }
    };
    let good = match (shape, value) {
        (Shape::Unknown, _) => true,
        (Shape::Text | Shape::Name(_), Json::String(_)) => true,
        (Shape::OneOf(texts), Json::String(text)) if !texts.contains(&text.as_str()) => {
            let fix = nearest(text, texts.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            problems.push(wrong(path, format!("is {}, and is one of {}", shown(value), shape.named()), fix));
            true
        }
        (Shape::OneOf(_), Json::String(_)) => true,
        (Shape::Whole, number) => number.is_i64(),
        (Shape::Within(least, most), number) => number.as_i64().is_some_and(|n| (*least..=*most).contains(&n)),
        (Shape::Condition, Json::Array(items)) => items.iter().all(Json::is_string),
        (Shape::Condition, value) => value.is_string() || value.is_i64() || value.is_boolean(),
        (Shape::List(item), Json::Array(items)) => {
            for (n, value) in items.iter().enumerate() {
                look(file, &format!("{path}[{n}]"), value, item, problems);
            }
            true
        }
        (Shape::Open(below) | Shape::Headers(below), Json::Object(object)) => {
            for (key, value) in object {
                let path = format!("{path}.{key}");
                if matches!(shape, Shape::Headers(_)) && key.chars().any(char::is_uppercase) {
                    let fix = format!("write `{}`", key.to_lowercase());
                    problems.push(wrong(&path, "names of header fields are in lower case".into(), Some(fix)));
                }
                look(file, &path, value, below, problems);
            }
            true
        }
        (Shape::Table(_), Json::Object(object)) => {
            for (key, value) in object {
                let below = format!("{path}.{key}");
                if let Some(shape) = shape.key(key) {
                    look(file, &below, value, shape, problems);
                    continue;
                }
                let fix = match nearest(key, shape.keys()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("`{path}` has {}", shape.keys().collect::<Vec<_>>().join(", ")),
                };
                problems.push(wrong(&below, "there is no such fact in the contract".into(), Some(fix)));
            }
            true
        }
        _ => false,
    };
    if !good {
        let fix = value.is_null().then(|| "leave it out where it is absent".to_owned());
        problems.push(wrong(path, format!("is {}, and must be {}", shown(value), shape.named()), fix));
    }
}

/// A value in a few words.
fn shown(value: &Json) -> String {
    match value {
        Json::Object(_) => "an object".into(),
        Json::Array(_) => "a list".into(),
        value => {
            let text = value.to_string();
            let cut = text.chars().count() > SHOWN;
            let text: String = text.chars().take(SHOWN).collect();
            format!("`{text}{}`", if cut { "…" } else { "" })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn wrong(input: Json) -> Vec<String> {
        check_input("i.json", &input).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_that_no_request_has_is_named_at_once() {
        let found = wrong(json!({
            "version": 2,
            "partner": {"id": "acme", "state": "actve", "grants": [{"id": "g", "operation": ["a"], "conditions": {"x": {}}}]},
            "request": {"methd": "GET", "headers": {"X-Env": ["a"]}, "query": {"page": "2"}, "content_length": -1},
            "source": "192.0.2.1",
            "tls": {"sni": null},
            "time": {"now_ns": 1.5},
        }));
        for (what, fix) in [
            ("`input.version`: is `2`, and must be `1`", ""),
            ("`input.partner.state`: is `\"actve\"`, and is one of ", "did you mean `active`?"),
            (
                "`input.partner.grants[0].operation`: there is no such fact in the contract",
                "did you mean `operations`?",
            ),
            ("`input.partner.grants[0].conditions.x`: is an object, and must be text, whole number, boolean", ""),
            ("`input.request.methd`: there is no such fact in the contract", "did you mean `method`?"),
            ("`input.request.headers.X-Env`: names of header fields are in lower case", "write `x-env`"),
            ("`input.request.query.page`: is `\"2\"`, and must be list of text", ""),
            ("`input.request.content_length`: is `-1`, and must be whole number from 0", ""),
            ("`input.source`: is `\"192.0.2.1\"`, and must be object", ""),
            ("`input.tls.sni`: is `null`, and must be text", "leave it out"),
            ("`input.time.now_ns`: is `1.5`, and must be whole number", ""),
        ] {
            assert!(found.iter().any(|said| said.contains(what) && said.contains(fix)), "{what}: {found:#?}");
        }
        assert_eq!(found.len(), 11, "{found:#?}");
    }

    #[test]
    fn what_is_left_out_is_absent() {
        for input in [
            json!({}),
            json!({"version": 1, "partner": {"labels": {"any": "text"}}, "request": {"params": {"id": "7"}}}),
        ] {
            assert_eq!(wrong(input), Vec::<String>::new());
        }
        assert_eq!(wrong(json!([])).len(), 1);
    }

    #[test]
    fn input_of_a_record_is_not_what_policy_sees() {
        let found =
            wrong(json!({"version": 1, "time": {"now": "2027-01-05T10:20:00Z"}, "credential": {"not_before": "x"}}));
        assert!(found.len() == 1 && found[0].contains("is the input of a record"), "{found:?}");
    }
}
