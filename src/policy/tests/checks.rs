//! What `policy check` finds before anything is asked.

use super::*;

const REASONS: (&str, &str) = ("reasons.yaml", "reasons: {x-late: too late}");

fn file(package: &str, rules: &str) -> String {
    format!("package {package}\n\nimport rego.v1\n\n{rules}\n")
}

/// The shipped folder with one file in it.
fn with(path: &str, package: &str, rules: &str) -> PolicySource {
    shipped(&[(path, &file(package, rules)), REASONS])
}

#[track_caller]
fn warned(source: &PolicySource) -> String {
    compile(source).unwrap_or_else(|problems| panic!("{problems}")).warnings().to_string()
}

const DENY: &str = "deny contains {\"reason\": \"x-late\"} if input.time.hour > 20";

#[test]
fn denials_that_nobody_asks_for_are_refused() {
    let below = refused(&with("custom/x.rego", "partnergate.custom.x", DENY));
    let said = "custom/x.rego:5:1: nothing asks for `x.deny`: denials count in the set `deny` of `package partnergate.custom` alone";
    assert!(below.contains(said), "{below}");
    for rules in [
        DENY.replace("deny", "Deny"),
        DENY.replace("deny", "denials"),
        DENY.replace("deny", "x.deny"),
        DENY.replace("deny", "refusals"),
        "denials contains d if some d in [1]".to_owned(),
    ] {
        let said = refused(&with("custom/x.rego", "partnergate.custom", &rules));
        assert!(said.contains("custom/x.rego:5:1: nothing asks for `"), "{rules}: {said}");
    }
    // What something asks for may be called so, and helpers may be in a package of their own.
    let helper =
        file("partnergate.custom.x", &format!("{}\n\nlate if input.time.hour > 22", DENY.replace("deny", "late_ones")));
    let own = file("partnergate.custom", "deny contains d if some d in data.partnergate.custom.x.late_ones");
    let source = shipped(&[("custom/x.rego", &helper), ("custom/own.rego", &own), REASONS]);
    let policy = compile(&source).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(policy.warnings().is_empty(), "{}", policy.warnings());
    let late = input(r#"{"time": {"hour": 23, "now_ns": 1}}"#);
    assert!(reasons(policy.evaluate(late)).contains(&"x-late".to_owned()));
    // A policy of one's own says by itself what it asks for.
    let decision = format!("{}\n{DENY}\n", file("partnergate.custom.x", "decision := 1"));
    let whole = file("partnergate", "decision := {\"allow\": false} if data.partnergate.custom.x.decision");
    let files = [("a.rego", whole), ("b.rego", decision)].map(|(path, text)| (path.to_owned(), text));
    assert_eq!(compile(&PolicySource { files: files.to_vec() }).err().map(|p| p.contains("nothing asks")), None);
}

#[test]
fn what_does_not_do_what_it_seems_to_is_warned_of() {
    for (path, package, rules, said) in [
        (
            "custom/x.rego",
            "partnergate.custom",
            "allow if input.version == 1",
            "custom/x.rego:5:1: `allow` opens nothing",
        ),
        ("custom/x.rego", "partnergate.custom", "decision := {\"allow\": true}", "`decision` opens nothing"),
        (
            "custom/x.rego",
            "partnergate.custom",
            "deny contains {\"detail\": \"y\"} if input.time.hour > 20",
            "custom/x.rego:5:15: a denial without a `reason` denies",
        ),
        ("custom/x.rego", "partnergate.custom", "test_x if true", "the test `test_x` is in a file that is served"),
        (
            "system/logs.rego",
            "system.logs",
            "x := 1",
            "system/logs.rego:1:1: rules of `package system.logs` say nothing",
        ),
        ("system/x.rego", "team", "x := 1", "rules of `package team` say nothing about records"),
    ] {
        let found = warned(&with(path, package, rules));
        assert!(found.starts_with("warning: ") && found.contains(said), "{rules}: {found}");
    }
    let used = "allow if input.version == 1\n\ndeny contains {\"reason\": \"x-late\"} if not allow";
    assert_eq!(warned(&with("custom/x.rego", "partnergate.custom", used)), "");
}

#[test]
fn nothing_outside_of_the_library_reaches_into_it() {
    for (path, package, said) in [
        (
            "team/r.rego",
            "partnergate",
            "team/r.rego:1:1: `package partnergate` is declared outside of the shipped library",
        ),
        ("r.rego", "partnergate.more", "r.rego:1:1: `package partnergate.more` is declared outside"),
        ("team/r.rego", "partnergate[\"custom\"]", "team/r.rego:1:1: `package partnergate.custom` is declared outside"),
        (
            "custom/r.rego",
            "partnergate",
            "custom/r.rego:1:1: `package partnergate` is declared in the folder of custom rules",
        ),
        ("custom/r.rego", "system.log", "`package system.log` is declared in the folder of custom rules"),
    ] {
        let found = refused(&with(path, package, "partner_admits if input.version == 1"));
        assert!(found.contains(said), "{path}: {found}");
    }
    assert_eq!(warned(&with("team/r.rego", "team.helpers", "partner_admits if input.version == 1")), "");
    // Data cannot stand for a rule, wherever it lies.
    for data in ["partner_admits: true", "custom: {deny: []}", "usable_grants: [g]"] {
        let found = refused(&shipped(&[("data.yaml", &format!("partnergate: {{{data}}}"))]));
        assert!(found.contains("where a rule stands"), "{data}: {found}");
    }
}

#[test]
fn comparisons_that_never_hold_are_refused_with_what_was_meant() {
    for (condition, said) in [
        (
            "input.time.hour == \"17\"",
            "6:21: `input.time.hour` cannot be compared with a text; it is: whole number, 0 to 23\n    fix: write `17`",
        ),
        ("input.time.hour > \"17\"", "fix: write `17`"),
        ("\"17\" != input.time.hour", "6:2: `input.time.hour` cannot be compared with a text"),
        ("input.time.hour == 24", "`input.time.hour` is never `24`; it is: whole number, 0 to 23"),
        ("input.source.port == input.source.ip", "`input.source.port` cannot be compared with a text"),
        ("input.source.networks == \"any\"", "fix: write `\"any\" in input.source.networks`"),
        ("input.source.networks != \"any\"", "fix: write `not \"any\" in input.source.networks`"),
        ("input.request.method == \"delete\"", "fix: did you mean `DELETE`?"),
        ("input.request.method = \"DELET\"", "fix: did you mean `DELETE`?"),
        ("input.request.method in {\"GET\", \"put\"}", "6:34: `input.request.method` is never `\"put\"`"),
        ("input.request.method in [5]", "`input.request.method` cannot be compared with a number"),
        ("5 in input.source.networks", "`input.source.networks[_]` cannot be compared with a number"),
        ("\"a\" in input.request.path", "there is nothing in `input.request.path`; it is: text"),
        ("some x in input.time.hour\n\tx > 1", "there is nothing in `input.time.hour`"),
        ("input.request.headers[\"x-a\"] == \"1\"", "fix: write `\"1\" in input.request.headers[\"x-a\"]`"),
        ("input.partner.labels.tier == 1", "`input.partner.labels.tier` cannot be compared with a number"),
        ("input.request.route == null", "is never null: what is not there is undefined"),
        ("h := input.time.hour\n\th == \"17\"", "7:7: `h` cannot be compared with a text"),
        ("startswith(input.request.path, 5)", "6:33: `startswith` takes a text here, and `5` is a number"),
        ("startswith(input.request.segments, \"a\")", "takes a text here, and `input.request.segments` is a list"),
        (
            "count([m | m := lower(input.time.hour)]) > 0",
            "`lower` takes a text here, and `input.time.hour` is a number",
        ),
    ] {
        let found = lint(&format!("deny contains {{\"reason\": \"x-late\"}} if {{\n\t{condition}\n}}"));
        assert!(found.contains(said), "{condition}: {found}");
    }
    for condition in [
        "input.request.route != null",
        "input.request.method < \"delete\"",
        "input.partner.networks == [\"any\"]",
        "some g in input.partner.grants\n\tg.conditions.limit == \"5\"",
        "some g in input.partner.grants\n\tg.conditions.limit == 5",
        "input.time.hour in {1, 2, 3}",
        "some key, values in input.request.query\n\tkey in {\"a\"}\n\tvalues[0] == \"1\"",
        "indexof(concat(\"/\", input.request.segments), \"a\") == 0",
    ] {
        fine(&format!("deny contains {{\"reason\": \"x-late\"}} if {{\n\t{condition}\n}}"));
    }
    // A function of one's own is not the builtin.
    fine("startswith(a, b) if a > b\n\nq if startswith(input.time.hour, 5)");
}

#[test]
fn rules_and_data_that_there_are_not_are_refused() {
    let data = ("custom/limits.yaml", "limits: {latest: 20, hosts: {\"a.b\": 1}}\n");
    let looked = |condition: &str| {
        let rule = format!("late if input.time.hour > 3\n\nq if {condition}");
        compile(&shipped(&[("custom/own.rego", &file("partnergate.custom", &rule)), data, REASONS]))
    };
    for (condition, said) in [
        (
            "data.custom.limits.lates > 3",
            "own.rego:7:6: there is neither a rule nor data of the name `data.custom.limits.lates`\n    fix: did you mean `latest`?",
        ),
        ("data.partnergate.custom.lat", "fix: did you mean `late`?"),
        ("data.other.thing[input.request.method]", "`data.other.thing`"),
        ("data.custom.limits.latest.more == 1", "`data.custom.limits.latest.more`"),
        ("data.custom.limits[data.custom.nothing] == 1", "`data.custom.nothing`"),
        (
            "data.partnergate[input.request.method]",
            "own.rego:7:6: `data.partnergate[…]` asks for a rule by a computed name",
        ),
        ("count(data.partnergate.custom) > 1", "own.rego:7:12: `data.partnergate.custom` asks for a whole package"),
    ] {
        let found = looked(condition).err().unwrap_or_else(|| panic!("{condition}"));
        assert!(found.contains(said), "{condition}: {found}");
    }
    for condition in [
        "data.custom.limits[input.request.method] == 1",
        "data.custom.limits.hosts[\"a.b\"] == 1",
        "data.partnergate.custom.late",
        "object.get(data.custom.limits, \"none\", 1) == 1",
        "count(data.partnergate.custom.deny) == 0",
    ] {
        assert_eq!(looked(condition).err(), None, "{condition}");
    }
}

#[test]
fn what_the_engine_would_say_of_itself_is_said_with_place_and_fix() {
    for (rules, said) in [
        (
            "deny if input.time.hour > 20",
            "own.rego:5:1: `deny` is a set at partnergate/custom_default.rego:22, and one value here\n    fix: write `deny contains \
             {\"reason\": \"x-…\"} if …`",
        ),
        ("deny[d] := 1 if some d in [1]", "and an object here"),
        ("deny[\"x-late\"] if input.time.hour > 20", "and an object here"),
        ("late contains 1\n\nlate := 1", "own.rego:7:1: `late` is a set at custom/own.rego:5, and one value here"),
        (
            "deny contains {\"reason\": \"x-late\"} if a\n\na if b\n\nb if a",
            "custom/own.rego:9: this rule comes back to itself: recursion is not supported",
        ),
        (
            "deny contains {\"reason\": \"network-not-allowed\"} if input.time.hour > 20",
            "fix: reasons of custom rules begin with `x-`: write one such as `x-network-not-allowed`, and declare it in `reasons.yaml`",
        ),
        (
            "deny contains {\"reason\": \"x-other-one\"} if input.time.hour > 20",
            "fix: declare it in `reasons.yaml`, with",
        ),
        (
            "q if {\n\tinput.version == 1\n\nr if {\n\tinput.version == 1\n}",
            "own.rego:5:6: this `{` is not closed\n    fix: write `}`",
        ),
        ("q if count([1, 2)] == 1", "own.rego:5:17: this `)` comes before the `[` of line 5 is closed"),
        ("q if true }", "own.rego:5:11: there is nothing that this `}` closes"),
    ] {
        let found = lint(rules);
        assert!(found.contains(said), "{rules}: {found}");
        assert!(!found.contains("internal:") && !found.contains("Compile-time"), "{found}");
    }
    // The list that is named is the one beside the rule, where there is one.
    let rule = file("partnergate.custom", "deny contains {\"reason\": \"x-other\"} if input.time.hour > 20");
    let found = refused(&shipped(&[("custom/a/own.rego", &rule), ("custom/a/reasons.yaml", "reasons: {x-a: a}\n")]));
    assert!(found.contains("declare it in `custom/a/reasons.yaml`"), "{found}");
}

#[test]
fn what_is_shipped_gives_no_warning() {
    for names in library::EXAMPLES.iter().map(|name| vec![*name]).chain([library::EXAMPLES.to_vec()]) {
        assert_eq!(warned(&library::with_examples(&names)), "", "{names:?}");
    }
}
