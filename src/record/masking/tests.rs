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

/// What is removed moves what comes after it in a list; a path means what it has led to before that.
#[test]
fn paths_mean_the_record_as_it_came_in_whatever_order_they_are() {
    let list = json!(["zero", {"x": "one", "y": 1}, "two"]);
    let at = |n: &str| format!("/input/request/query/x{n}");
    let (remove, upsert) = (|n: &str| rule(&at(n), None), |n: &str| rule(&at(n), Some(json!("**"))));
    for (rules, left, erased, masked) in [
        (vec![remove("/0"), remove("/1")], json!(["two"]), &["/0", "/1"][..], &[][..]),
        (vec![remove("/0"), remove("/1"), remove("/2")], json!([]), &["/0", "/1", "/2"], &[]),
        (vec![remove("/0"), remove("/2")], json!([{"x": "one", "y": 1}]), &["/0", "/2"], &[]),
        (vec![remove("/0"), upsert("/1")], json!(["**", "two"]), &["/0"], &["/1"]),
        (vec![remove("/0"), upsert("/2")], json!([{"x": "one", "y": 1}, "**"]), &["/0"], &["/2"]),
        (vec![remove("/0"), remove("/1/x")], json!([{"y": 1}, "two"]), &["/0", "/1/x"], &[]),
        (vec![remove("/0"), upsert("/1/x")], json!([{"x": "**", "y": 1}, "two"]), &["/0"], &["/1/x"]),
        (vec![remove("/1"), remove("/1/x")], json!(["zero", "two"]), &["/1", "/1/x"], &[]),
        // Twice the same item, and one that there is not.
        (vec![remove("/0"), remove("/00"), remove("/3")], json!([{"x": "one", "y": 1}, "two"]), &["/0", "/00"], &[]),
        // What is both removed and replaced is removed.
        (vec![remove("/1"), upsert("/1"), upsert("/1/x")], json!(["zero", "two"]), &["/1"], &[]),
        (vec![upsert(""), remove("/1")], json!("**"), &["/1"], &[""]),
    ] {
        let backwards = rules.iter().rev().cloned().collect();
        for rules in [rules, backwards] {
            let mut record = parsed(LINE.as_bytes());
            record["input"]["request"]["query"]["x"] = list.clone();
            let record = parsed(&applied(&line_of(&record), &rules));
            assert_eq!(record["input"]["request"]["query"]["x"], left, "{rules:?}");
            for (key, paths) in [("erased", erased), ("masked", masked)] {
                let mut said: Vec<&str> =
                    record[key].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
                said.sort_unstable();
                assert_eq!(said, paths.iter().map(|n| at(n)).collect::<Vec<_>>(), "{rules:?}");
            }
        }
    }
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
    let marks = Marks {
        erased: Vec::new(),
        masked: Vec::new(),
        later: vec![rule("/result/reasons/0", None), rule("/result/reasons/1", None)],
    };
    let mut event = json!({"result": {"reasons": ["a", "b", "c"]}});
    let (erased, masked) = marks.applied(&mut event, Vec::new());
    assert_eq!((erased, masked), (vec!["/result/reasons/0".to_owned(), "/result/reasons/1".to_owned()], Vec::new()));
    assert_eq!(event["result"]["reasons"], json!(["c"]));
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
