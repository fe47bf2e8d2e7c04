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
mask contains "/input/tls/sni" if input.labels.app == "other"

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

/// What is written out is refused; what is worked out fails when it is there.
#[test]
fn what_is_no_mask_is_a_failure() {
    for (text, why) in [
        ("mask contains x if some x in [1]", "neither a path nor an object"),
        ("mask contains trim(\" input/x\", \" \")", "below neither `/input` nor `/result`"),
        ("mask contains concat(\"/\", [\"\", \"labels\", \"app\"])", "`/labels/app`, which is below neither"),
        ("mask contains object.union({}, {\"path\": \"/input/tls\"})", "neither `remove` nor `upsert`"),
        ("mask contains object.union({}, {\"op\": \"upsert\"})", "without a `path`"),
        ("mask := lower(\"/input/tls\")", "neither a set nor a list"),
        ("drop := lower(\"yes\")", "`drop` is not a boolean"),
    ] {
        let said = asked(&format!("package system.log\nimport rego.v1\n{text}\n"));
        assert!(matches!(&said, Err(MaskFailure::Form(said)) if said.contains(why)), "{text}: {said:?}");
    }
}

#[test]
fn masks_that_would_mask_nothing_are_refused_with_what_was_meant() {
    for (text, said) in [
        (
            "mask contains \"/input/crednetial/subject\"",
            "system/mask.rego:3:15: no record has `/input/crednetial`\n    fix: did you mean `/input/credential`?",
        ),
        (
            "mask contains {\"op\": \"upsert\", \"path\": \"/input/credential/subjct\", \"value\": 1}",
            "fix: did you mean `/input/credential/subject`?",
        ),
        ("mask contains \"/input/time/now_ns\"", "fix: `/input/time` has now, weekday, hour"),
        ("mask contains \"/input/request/headers/X-Session\"", "fix: write `x-session`"),
        ("mask contains \"/input/partner/grants/id\"", "the parts of a list are `0`, `1`"),
        ("mask contains \"/input/source/ip/0\"", "there is nothing below `/input/source/ip`"),
        ("mask contains \"/partner/name\"", "fix: write `/input/partner/name`"),
        ("mask contains \"/labels/app\"", "a path begins with `/input` or `/result`"),
        ("mask contains \"input.request.path\"", "does not begin with `/`\n    fix: write `/input/request/path`"),
        ("mask contains 5", "this is neither a path nor an object"),
        ("mask := [\"/input/tls\", true]", "system/mask.rego:3:24: this is neither a path nor an object"),
        ("mask := \"/input/tls\"", "`mask` is neither a set nor a list"),
        ("mask contains {\"op\": \"replace\", \"path\": \"/input/tls\"}", "`op` is neither `remove` nor `upsert`"),
        ("mask contains {\"path\": \"/input/tls\"}", "a mask that is an object has an `op`"),
        ("mask contains {\"op\": \"remove\"}", "a mask that is an object has a `path`"),
        ("mask contains {\"op\": \"remove\", \"path\": 5}", "a path is a text"),
        ("drop := \"yes\"", "`drop` is true or false"),
        ("drop contains 1", "`drop` is true or false"),
        (
            "drop if input.partner.id == \"acme\"",
            "there is no fact `input.partner` in an event\n    fix: what was decided on is one deeper: write `input.input.partner`",
        ),
        ("drop if input.input.partner.ids == \"acme\"", "no fact `input.input.partner.ids` in an event"),
        ("drop if input.input.time.hour == \"17\"", "fix: write `17`"),
        ("drop if not data.partnergate.decision", "`data.partnergate.decision`\n    fix: rules of other packages"),
        ("drop if data.system.log.pahts", "fix: did you mean `paths`?"),
    ] {
        let found = compiled(&format!("package system.log\nimport rego.v1\n{text}\n"), EngineKind::Rvm);
        let found = found.err().unwrap_or_else(|| panic!("{text}"));
        assert!(found.contains(said), "{text}: {found}");
    }
    let fine = r#"package system.log
import rego.v1
mask contains "/input"
mask contains "/input/partner/grants/0/starts"
mask contains "/input/request/query/a~1b/0"
mask contains "/result/outcome/upstream/address"
mask contains {"op": "remove", "path": concat("/", ["/input", "tls"])}
drop if input.query == "x"
drop if input.input.partner.engagement.ends < "2027"
"#;
    compiled(fine, EngineKind::Rvm).unwrap_or_else(|problems| panic!("{problems}"));
}

/// One place has one problem.
#[test]
fn what_is_refused_is_said_once() {
    let text = "package system.log\nimport rego.v1\nmask contains \"/input/tls\" if http.send({}).status == 1\n";
    let found = compiled(text, EngineKind::Rvm).err().unwrap();
    assert_eq!(found.matches("http.send").count(), 1, "{found}");
}

#[test]
fn rules_that_cannot_be_used_are_refused_with_their_place() {
    for (text, why) in [
        ("package system.log\nimport rego.v1\nmask contains \"/input/tls\" if http.send({}).y\n", "system/mask.rego:3"),
        ("package system.log\nimport rego.v1\nmask contains {\n", "system/mask.rego:"),
        ("package system.log\nimport rego.v1\nhide contains \"/input/tls\"\n", "neither `mask` nor `drop`"),
        ("package system[\"log\"]\nimport rego.v1\nmask contains \"/input/tls\"\n", "does not say so on one line"),
        (
            "package system.log\nimport rego.v1\nmask contains x if { x := mask_of }\nmask_of := \"/input/tls\" if { some x in mask; x != \"\" }\n",
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
        "package system.log\nimport rego.v1\nmany := [{}]\nmask contains \"/input/tls\" if {{\n\tsome a in many\n\tsome b in \
         many\n\tsome c in many\n\ta + b + c == 1000\n}}\n",
        many.join(", ")
    );
    let policy = compiled(&text, EngineKind::Rvm).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(policy.log().unwrap().machine().ask(&json!({})), Err(MaskFailure::Instructions));
}
