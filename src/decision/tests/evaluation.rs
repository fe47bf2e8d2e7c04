//! Policies that are hostile or broken: what they say opens nothing that is not granted.

use super::*;

fn allowing(grant: &str) -> World {
    World::under(&format!(r#"decision := {{"allow": true, "reasons": [], "grant": "{grant}"}}"#))
}

#[test]
fn a_policy_of_only_allow_true_opens_nothing_that_is_not_granted() {
    let world = World::under(r#"decision := {"allow": true}"#);
    assert_eq!(world.ask(), "grant-not-valid");
    assert!(world.detail().contains("without naming a grant"), "{}", world.detail());
}

#[test]
fn an_allow_must_name_a_grant_of_this_partner() {
    for (named, shown) in [("globex-reads", "`globex-reads`"), ("no-such", "`no-such`"), ("", "``")] {
        let world = allowing(named);
        assert_eq!(world.ask(), "grant-not-valid", "{named}");
        let detail = world.detail();
        assert!(detail.contains(shown) && detail.contains("not a grant of this partner"), "{detail}");
    }
    assert_eq!(allowing("acme-reads").ask(), "allowed by acme-reads");
}

#[test]
fn an_allow_must_name_a_grant_that_covers_the_operation() {
    let world = allowing("acme-reads").with(|w| w.request = request(Method::DELETE, "/v1/invoices/7", "api.example"));
    assert_eq!(world.ask(), "grant-not-valid");
    assert!(world.detail().contains("does not cover this operation"), "{}", world.detail());
}

#[test]
fn an_allow_must_name_a_grant_that_is_live_at_this_instant() {
    let mut world = allowing("acme-reads");
    world.acme.grants[0].period = Period { starts: Some(NOW), ends: Some(UnixNanos(NOW.0 + 1)) };
    assert_eq!(world.ask_at(before(NOW)), "grant-not-valid");
    assert_eq!(world.ask_at(NOW), "allowed by acme-reads");
    assert_eq!(world.ask_at(UnixNanos(NOW.0 + 1)), "grant-not-valid");
    assert!(world.detail().contains("is not live"), "{}", world.detail());
}

#[test]
fn an_allow_must_name_a_grant_for_this_credential() {
    for list in [vec![], vec![credential_id("acme-second")]] {
        let world = allowing("acme-reads").with(|w| {
            let matching = Match::dns("second.acme.example").unwrap();
            w.acme.credentials.push(credential("acme-second", "acme-ca", matching));
            w.acme.grants[0].credentials = Some(list);
        });
        assert_eq!(world.ask(), "grant-not-valid");
        assert!(world.detail().contains("is for other credentials"), "{}", world.detail());
    }
}

#[test]
fn an_allow_must_name_a_grant_of_this_environment() {
    for list in [vec![], vec![environment("staging")]] {
        let world = allowing("acme-reads").with(|w| w.acme.grants[0].environments = list);
        assert_eq!(world.ask(), "wrong-environment");
    }
}

#[test]
fn an_allow_opens_no_unknown_route_operation_or_upgrade() {
    for (target, host, upgrade, expected) in [
        ("/v1/invoices/7", "other.example", UpgradeWanted::No, "host-mismatch"),
        ("/elsewhere", "api.example", UpgradeWanted::No, "route-unknown"),
        ("/v1/elsewhere", "api.example", UpgradeWanted::No, "operation-unknown"),
        ("/v1/invoices/7", "api.example", UpgradeWanted::To("websocket".into()), "upgrade-not-allowed"),
    ] {
        let world = allowing("acme-reads").with(|w| {
            w.request = request(Method::GET, target, host);
            w.request.upgrade = upgrade;
        });
        assert_eq!(world.ask(), expected);
    }
}

#[test]
fn what_a_hostile_policy_says_is_shown_to_operators_escaped_and_cut() {
    let world = allowing(&format!("\\u001b[31m\\n{}", "x".repeat(900)));
    let detail = world.detail();
    assert!(detail.len() < 200 && !detail.chars().any(char::is_control), "{detail}");
}

#[test]
fn a_policy_that_gives_no_proper_decision_denies_by_name() {
    for (policy, expected) in [
        (r#"decision := {"allow": true, "grant": "acme-reads"} if input.request.params.never"#, "policy-undefined"),
        ("decision := true", "policy-error"),
        (r#"decision := {"allow": "true", "grant": "acme-reads"}"#, "policy-error"),
        (r#"decision := {"allow": 1, "grant": "acme-reads"}"#, "policy-error"),
        (r#"decision := {"allow": null, "grant": "acme-reads"}"#, "policy-error"),
        (r#"decision := [{"allow": true, "grant": "acme-reads"}]"#, "policy-error"),
        (r#"decision := {"grant": "acme-reads"}"#, "policy-error"),
        (r#"decision := {"allow": true, "grant": ["acme-reads"]}"#, "grant-not-valid"),
        (r#"decision := {"allow": false, "grant": "acme-reads"}"#, "policy-denied"),
        (r#"decision := {"allow": false, "reasons": ["x-nobody-declared"]}"#, "policy-reason-undeclared"),
    ] {
        assert_eq!(World::under(policy).ask(), expected, "{policy}");
    }
}

#[test]
fn an_allow_with_reasons_against_it_is_an_error() {
    for reasons in [r#"["grant-expired"]"#, r#"{"grant-expired"}"#, r#""grant-expired""#, r#"{"a": "b"}"#] {
        let policy = format!(r#"decision := {{"allow": true, "reasons": {reasons}, "grant": "acme-reads"}}"#);
        assert_eq!(World::under(&policy).ask(), "policy-error", "{reasons}");
    }
    for nothing in ["[]", "set()"] {
        let policy = format!(r#"decision := {{"allow": true, "reasons": {nothing}, "grant": "acme-reads"}}"#);
        assert_eq!(World::under(&policy).ask(), "allowed by acme-reads", "{nothing}");
    }
}

#[test]
fn a_policy_without_end_is_stopped_and_denies() {
    let endless = format!(
        "list := [{}]\ndecision := {{\"allow\": true, \"grant\": \"acme-reads\"}} if {{\n  some a in list\n  some b in list\n  some c in list\n  a + b + c == -1\n}}",
        (0..300).map(|n| n.to_string()).collect::<Vec<_>>().join(",\n")
    );
    let mut world = World::under(&endless);
    assert_eq!(world.ask(), "policy-instruction-limit");
    world.limits = PolicyLimits { time: Duration::from_millis(5), instructions: usize::MAX };
    assert_eq!(world.ask(), "policy-timeout");
    assert_eq!(World::new().ask(), "allowed by acme-reads", "the thread decides on as before");
}

#[test]
fn a_decision_that_is_too_large_denies_whatever_makes_it_so() {
    let ones = |n: usize| format!("[{}]", vec!["1"; n].join(",\n"));
    let text = |n: usize| format!("concat(\"\", [x | some x in {}])", ones(n).replace('1', "\"a\""));
    for (big, rest, expected) in [
        (text(16_300), "\"x\": big", "allowed by acme-reads"),
        (text(16_384), "\"x\": big", "policy-result-too-large"),
        (text(16_384), "big: 1", "policy-result-too-large"),
        (text(16_384), "\"x\": [[[big]]]", "policy-result-too-large"),
        (ones(16_000), "\"x\": big", "allowed by acme-reads"),
        (ones(16_385), "\"x\": big", "policy-result-too-large"),
    ] {
        let size = big.len();
        let policy = format!("big := {big}\ndecision := {{\"allow\": true, \"grant\": \"acme-reads\", {rest}}}");
        let mut world = World::under(&policy);
        world.limits = PolicyLimits { time: Duration::from_secs(10), instructions: usize::MAX };
        assert_eq!(world.ask(), expected, "{rest} with {size} bytes of text");
    }
}

#[test]
fn a_custom_rule_denies_what_is_granted() {
    let rule = "package partnergate.custom\nimport rego.v1\n\
                deny contains {\"reason\": \"x-wednesday\"} if input.time.weekday == \"wednesday\"\n";
    let mut world = World::new();
    world.policy.files.retain(|(path, _)| path != "reasons.yaml");
    world.policy.files.push(("custom/days.rego".into(), rule.into()));
    world.policy.files.push(("reasons.yaml".into(), "reasons: {x-wednesday: closed on Wednesdays}\n".into()));
    assert_eq!(world.ask(), "x-wednesday");
    assert_eq!(world.ask_at(UnixNanos(NOW.0 + 86_400_000_000_000)), "allowed by acme-reads");
}

#[test]
fn definitions_that_disagree_do_not_pass_for_a_rule_that_does_not_hold() {
    for policy in [
        "blocked := true if input.version == 1\nblocked := false if input.partner.id == \"acme\"",
        "blocked if is(input.version)\nis(n) := true if n == 1\nis(n) := false if n > 0",
    ] {
        let text = format!("{policy}\ndecision := {{\"allow\": true, \"grant\": \"acme-reads\"}} if not blocked\n");
        let source = World::under(&text).policy;
        let refused = crate::policy::Policy::compile(&source, EngineKind::Rvm, World::new().limits).err();
        let said = refused.unwrap_or_else(|| panic!("accepted: {policy}")).to_string();
        assert!(said.contains("replacement.rego:") && said.contains("more than one value"), "{said}");
    }
}
