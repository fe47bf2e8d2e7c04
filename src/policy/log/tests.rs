use super::*;
use crate::policy::tests::shipped;
use crate::policy::{EngineKind, Policy};
use serde_json::json;
use std::time::Duration;

const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_secs(5), instructions: 100_000 };

fn compiled(text: &str, kind: EngineKind) -> Result<Policy, String> {
    let data = ("system/log/hide.yaml", "paths: [/input/request/query/token]\n");
    let source = shipped(&[("system/mask.rego", text), data]);
    Policy::compile(&source, kind, LIMITS).map_err(|problems| problems.to_string())
}

fn asked(text: &str) -> Result<Masking, MaskFailure> {
    let event = json!({
        "path": "partnergate/decision", "input": {"request": {"operation": "items.read"}}, "result": {"allow": true},
        "labels": {"app": "partnergate"},
    });
    let both = [EngineKind::Rvm, EngineKind::Interpreter].map(|kind| {
        let policy = compiled(text, kind).unwrap_or_else(|problems| panic!("{problems}"));
        policy.log().unwrap().machine().ask(&event)
    });
    assert_eq!(both[0], both[1], "{text}");
    let [serving, _] = both;
    serving
}

#[test]
fn masks_have_the_forms_that_opa_has() {
    let masking = asked(
        r#"# ours
package system.log

import rego.v1

mask contains "/input/request/query/secret"
mask contains path if some path in data.system.log.paths
mask contains {"op": "upsert", "path": "/input/source/ip", "value": "x"} if input.input.request.operation == "items.read"
mask contains {"op": "remove", "path": "/result/grant"} if input.result.allow
mask contains "/input/other" if input.labels.app == "other"

drop if input.input.request.operation == "items.list"
"#,
    )
    .unwrap();
    let mut rules: Vec<(&str, &MaskOp)> = masking.rules.iter().map(|rule| (rule.path.as_str(), &rule.op)).collect();
    rules.sort_by_key(|(path, _)| *path);
    let put = MaskOp::Upsert(json!("x"));
    let wanted = [
        ("/input/request/query/secret", &MaskOp::Remove),
        ("/input/request/query/token", &MaskOp::Remove),
        ("/input/source/ip", &put),
        ("/result/grant", &MaskOp::Remove),
    ];
    assert_eq!(rules, wanted);
    assert!(!masking.drop);
    let drop = asked("package system.log\nimport rego.v1\ndrop if input.result.allow == true\n").unwrap();
    assert_eq!(drop, Masking { rules: Vec::new(), drop: true });
}

#[test]
fn what_is_no_mask_is_a_failure() {
    for (text, why) in [
        ("mask contains 1", "neither a path nor an object"),
        ("mask contains \"input/x\"", "below neither `/input` nor `/result`"),
        ("mask contains \"/labels/app\"", "`/labels/app`, which is below neither"),
        ("mask contains {\"path\": \"/input/x\"}", "neither `remove` nor `upsert`"),
        ("mask contains {\"op\": \"upsert\"}", "without a `path`"),
        ("mask := \"/input/x\"", "neither a set nor a list"),
        ("drop := \"yes\"", "`drop` is not a boolean"),
    ] {
        let said = asked(&format!("package system.log\nimport rego.v1\n{text}\n"));
        assert!(matches!(&said, Err(MaskFailure::Form(said)) if said.contains(why)), "{text}: {said:?}");
    }
}

#[test]
fn rules_that_cannot_be_used_are_refused_with_their_place() {
    for (text, why) in [
        ("package system.log\nimport rego.v1\nmask contains \"/input/x\" if http.send({}).y\n", "system/mask.rego:3"),
        ("package system.log\nimport rego.v1\nmask contains {\n", "system/mask.rego:"),
        ("package system.log\nimport rego.v1\nhide contains \"/input/x\"\n", "neither `mask` nor `drop`"),
        ("package system[\"log\"]\nimport rego.v1\nmask contains \"/input/x\"\n", "does not say so on one line"),
        (
            "package system.log\nimport rego.v1\nmask contains x if { x := mask_of }\nmask_of := x if { some x in mask }\n",
            "recursi",
        ),
    ] {
        let said = compiled(text, EngineKind::Rvm).err().unwrap_or_else(|| panic!("{text}"));
        assert!(said.contains(why), "{text}: {said}");
    }
    assert!(compiled("package other\nimport rego.v1\n", EngineKind::Rvm).unwrap().log().is_none());
}

#[test]
fn rules_that_do_not_end_are_stopped() {
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let text = format!(
        "package system.log\nimport rego.v1\nmany := [{}]\nmask contains \"/input/x\" if {{\n\tsome a in many\n\tsome b in \
         many\n\tsome c in many\n\ta + b + c == 1000\n}}\n",
        many.join(", ")
    );
    let policy = compiled(&text, EngineKind::Rvm).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(policy.log().unwrap().machine().ask(&json!({})), Err(MaskFailure::Instructions));
}
