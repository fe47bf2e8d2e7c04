use super::*;

const LINE: &str = r#"{"schema":"partnergate.record/1","node":"n","boot":"b","seq":7,"time":"2026-11-30T10:00:00Z","decision_id":"d","kind":"request","input":{"partner":{"id":"acme"},"credential":{"id":"acme-1","san":{"email":["a","b"]}},"source":{"ip":"192.0.2.7"},"request":{"query":{"a/b":["1"],"x":["2"]}}},"result":"deny","reason":"grant-expired","detail":"of a person","status":403}
"#;

fn rule(path: &str, value: Option<Value>) -> MaskRule {
    MaskRule { op: value.map_or(MaskOp::Remove, MaskOp::Upsert), path: path.into() }
}

fn parsed(line: &[u8]) -> Value {
    assert!(line.ends_with(b"}\n") && line.iter().filter(|b| **b == b'\n').count() == 1);
    serde_json::from_slice(line).unwrap()
}

#[test]
fn facts_are_removed_and_replaced_and_the_line_says_which() {
    let rules = [
        rule("/input/request/query/x", None),
        rule("/input/request/query/a~1b", None),
        rule("/input/credential/san/email/1", None),
        rule("/input/nothing/here", None),
        rule("/input/source/ip", Some(json!("**"))),
        rule("/input/new/deep", Some(json!({"n": 1}))),
        rule("/input/source/ip/below", Some(json!(1))),
    ];
    let record = parsed(&applied(LINE.as_bytes(), &rules));
    assert_eq!(record["input"]["request"]["query"], json!({}));
    assert_eq!(record["input"]["credential"]["san"]["email"], json!(["a"]));
    assert_eq!((&record["input"]["source"]["ip"], &record["input"]["new"]), (&json!("**"), &json!({"deep": {"n": 1}})));
    assert_eq!(record["erased"], json!([rules[0].path, rules[1].path, rules[2].path]));
    assert_eq!(record["masked"], json!(["/input/source/ip", "/input/new/deep"]));
    assert_eq!((&record["result"], &record["detail"]), (&json!("deny"), &json!("of a person")));
    let all = parsed(&applied(LINE.as_bytes(), &[rule("/input", None)]));
    assert_eq!((&all["input"], &all["erased"]), (&Value::Null, &json!(["/input"])));
    assert_eq!(applied(LINE.as_bytes(), &[]), LINE.as_bytes());
}

#[test]
fn result_is_masked_in_the_event_alone() {
    let rules = [rule("/result/outcome/detail", None), rule("/result/reasons", Some(json!({"result": "deny"})))];
    let line = with_later(LINE.as_bytes(), &rules);
    assert_eq!(parsed(&line)["detail"], "of a person");
    // What is written there is not taken for a field.
    assert!(super::super::event::is_denial(&line) && super::super::event::is_decision(&line));
    let event = super::super::opa_event(&line, &Labels::new()).unwrap();
    assert_eq!(event["result"]["outcome"]["detail"], Value::Null);
    assert_eq!((&event["result"]["reasons"], &event["result"]["allow"]), (&json!({"result": "deny"}), &json!(false)));
    assert_eq!((&event["erased"], &event["masked"]), (&json!(["/result/outcome/detail"]), &json!(["/result/reasons"])));
    assert!(!event.to_string().contains(LATER));
}

#[test]
fn stub_has_who_and_what_and_why_and_nothing_from_outside() {
    let record = parsed(&stub(LINE.as_bytes(), &MaskFailure::Time));
    assert_eq!(record["mask_failed"], json!({"failure": "timeout", "partner": "acme", "credential": "acme-1"}));
    assert_eq!((&record["input"], &record["detail"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&record["decision_id"], &record["reason"], &record["status"]),
        (&json!("d"), &json!("grant-expired"), &json!(403))
    );
}
