use super::*;
use crate::policy::tests::shipped;
use crate::policy::{EngineKind, Policy, PolicyLimits, program, syntax};
use proptest::prelude::*;
use regorus::Engine;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// Files with these rules in a package of their own.
fn engine(rules: &str) -> Option<Engine> {
    let mut engine = program::engine();
    engine
        .add_policy("a.rego".into(), format!("package t\n\nimport rego.v1\nimport input.source as src\n\n{rules}\n"))
        .ok()?;
    Some(engine)
}

fn looked(rules: &str) -> Vec<String> {
    at(&syntax::files(&mut engine(rules).unwrap()))
}

#[test]
fn name_of_an_object_counts_as_what_is_looked_at_below_it() {
    for (rules, facts) in [
        (
            "a if { c := input.credential; c.state == \"active\"; c.key[\"bits\"] > 1 }",
            "credential.key.bits credential.state",
        ),
        ("a := c.id if c := input.credential", "credential.id"),
        ("a contains c.id if { c := input.credential }", "credential.id"),
        ("a if { p := input.partner; e := p.engagement; e.ends_ns > 1 }", "partner.engagement.ends_ns"),
        ("a if { p := input.partner; count([1 | p.id == \"x\"; some k in [p.name]]) > 0 }", "partner.id partner.name"),
        ("a if { c := input.credential; object.get(c, [\"san\", \"uri\"], []) != [] }", "credential.san.uri"),
        ("a if object.get(input.request.headers, \"x-env\", []) != []", "request.headers.x-env"),
        ("a if { h := input.request.headers; h[\"x-env\"] }", "request.headers.x-env"),
        (
            "f(h) if h.id == \"x\"\n\nf(h) := h.name if h.state == \"y\"\n\na if f(input.partner)",
            "partner.id partner.name partner.state",
        ),
        ("f(x, h) if h.id == x\n\na if { p := input.partner; f(input.source.ip, p) }", "partner.id source.ip"),
        ("a if { i := input; i.partner.id == \"x\" }", "partner.id"),
        ("a if src.ip == \"x\"", "source.ip"),
        ("a if { s := src; s.ip == \"x\" }", "source.ip"),
        // What is used in another way counts whole.
        ("a := c if c := input.credential", "credential"),
        ("a if { c := input.credential; is_object(c) }", "credential"),
        ("a if { c := input.credential; some k in [\"id\"]; c[k] == \"x\" }", "credential"),
        ("a if { c := input.credential; c[_] == \"x\" }", "credential"),
        ("a if { c := input.credential; c.san[_] == \"x\" }", "credential.san"),
        ("a if { c := input.credential; {\"id\": \"x\"} == c }", "credential"),
        ("a if { some c; c = input.credential; c.id == \"x\" }", "credential"),
        ("a if { c := input.credential; true }", "credential"),
        ("a if { c := input.credential; b with input as c }\n\nb if input.tls.sni", "credential input"),
        ("a if { c := input.credential; object.get(c, input.tls.sni, 1) == 1 }", "credential tls.sni"),
        ("a if { c := input.credential; object.get(c, \"id\", input.partner) == 1 }", "credential.id partner"),
        ("a if { c := input.credential; every x in [c] { x.id } }", "credential"),
        // Whether it is there says something by itself.
        ("a if { p := input.request.params; not p.id }", "request.params"),
        ("a if { x := input.request.tags; x.id }", "request.tags"),
        ("a if object.get(input.request.params, \"id\", 1) == 1", "request.params"),
        // A parameter that is no name, or is one twice.
        ("f({\"id\": x}) := x\n\na if f(input.partner)", "partner"),
        ("f(x, x) if x.id\n\na if f(input.partner, input.credential)", "credential partner"),
        ("f(h) if g(h)\n\ng(h) if h.id\n\na if f(input.partner)", "partner"),
        ("f(h) if h.id\n\ng(h) if h.name\n\na if f(input.partner) with f as g", "partner"),
        (
            "g(h, k, d) := 1 if h.name\n\na if { object.get(input.partner, \"id\", 1) == 1 with object.get as g }",
            "partner",
        ),
        // Other things of the same name in other parts of a rule.
        (
            "a if { [1 | c := input.credential; c.id]; [1 | c := input.partner; c.name] }",
            "credential.id credential.name partner.id partner.name",
        ),
        (
            "a if { [1 | c := input.credential; c.id]; some c in input.partner.grants; c.id }",
            "credential partner.grants",
        ),
        ("a if { [1 | src := input.partner; src.id]; src.ip == \"x\" }", "partner.id partner.ip source.id source.ip"),
        ("a if { c := input.credential; c.id == \"x\" } else := c if { c := input.tls }", "credential tls"),
    ] {
        let mut expected: Vec<String> =
            facts.split(' ').map(|fact| if fact == "input" { fact.into() } else { format!("input.{fact}") }).collect();
        let all = expected.clone();
        expected.retain(|path| !all.iter().any(|other| path.starts_with(&format!("{other}."))));
        assert_eq!(looked(rules), expected, "{rules}");
    }
}

/// What records hide by default, or by the masks that `docs/record.md` shows, is nothing that the shipped rules look at.
#[test]
fn shipped_policy_looks_at_no_more_than_it_needs() {
    let limits = PolicyLimits { time: Duration::from_secs(5), instructions: 100_000 };
    let policy = Policy::compile(&shipped(&[]), EngineKind::Rvm, limits).unwrap_or_else(|p| panic!("{p}"));
    for fact in
        ["credential.subject", "credential.san.email", "partner.labels", "partner.name", "request.path", "source.ip"]
    {
        let fact = format!("input.{fact}");
        let seen: Vec<&String> = policy.looks_at().iter().filter(|path| syntax::overlap(path, &fact)).collect();
        assert!(seen.is_empty(), "{fact}: {seen:?}");
    }
    for fact in ["credential.state", "partner.state", "partner.networks", "partner.engagement.ends_ns", "tls.version"] {
        let fact = format!("input.{fact}");
        assert!(policy.looks_at().iter().any(|path| syntax::overlap(path, &fact)), "{fact}: {:?}", policy.looks_at());
    }
}

/// Every text in it is another one.
fn input() -> Json {
    json!({
        "version": 1,
        "partner": {"id": "p", "name": "n", "labels": {"id": "l"}, "engagement": {"id": "e"}, "networks": ["i", "j"]},
        "credential": {"id": "c", "name": "cn", "san": {"uri": ["u"], "id": "s"}, "labels": {"name": "m"}},
        "source": {"id": "si", "ip": "192.0.2.1"},
        "request": {"id": "r", "params": {"id": "7"}, "headers": {"id": ["h"]}},
    })
}

fn places(value: &Json, path: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        places(value, &path, found);
        found.push(path);
    }
}

/// Rules of all kinds, most of which compile.
fn rules() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["x", "y", "src"]);
    let key = || prop::sample::select(vec!["id", "name", "labels", "san", "engagement", "networks"]);
    let fact = || {
        prop::sample::select(vec![
            "input",
            "input.partner",
            "input.credential",
            "input.credential.san",
            "input.partner.labels",
            "input.source",
            "input.partner.networks",
            "input.request.params",
            "input.request.headers",
            "src",
        ])
    };
    let value = (name(), key(), key(), fact(), 0..9_u8).prop_map(|(n, k, l, f, which)| match which {
        0 => n.to_string(),
        1 | 2 => format!("{n}.{k}"),
        3 => format!("{n}.{k}.{l}"),
        4 => format!("{f}.{k}"),
        5 => format!("object.get({n}, \"{k}\", \"-\")"),
        6 => format!("object.get({n}, [\"{k}\", \"{l}\"], \"-\")"),
        7 => format!("object.get({f}, \"{k}\", {n})"),
        _ => format!("[{n}, \"{k}\"][0]"),
    });
    let value = value.boxed();
    let simple =
        (value.clone(), value.clone(), name(), fact(), key(), 0..14_u8).prop_map(
            |(v, w, n, f, k, which)| match which {
                0..4 => format!("{n} := {f}"),
                4 => format!("{n} := {v}"),
                5 => format!("{v} != {w}"),
                6 => format!("not {v}"),
                7 => v.clone(),
                8 => format!("f({n}, {v})"),
                9 => format!("f({f}, \"{k}\") with input.partner as {{\"id\": {v}}}"),
                10 => format!("g({n}) == {v}"),
                11 => format!("some {n} in {v}"),
                12 => format!("r with input as {v}"),
                _ => format!("some \"{k}\", {n} in {f}"),
            },
        );
    let simple = simple.boxed();
    let nested = (prop::collection::vec(simple.clone(), 1..4), value.clone(), name(), fact(), 0..4_u8);
    let nested = nested.prop_map(|(body, v, n, f, which)| match which {
        0 => format!("count({{{v} | {}}}) > 0", body.join("; ")),
        1 => format!("{n} := [{v} | {}]", body.join("; ")),
        2 => format!("every {n} in [{f}] {{ {} }}", body.join("; ")),
        _ => format!("not {n}.id; {}", body.join("; ")),
    });
    let statement = prop_oneof![4 => simple, 1 => nested];
    let body = move || prop::collection::vec(statement.clone(), 1..5).prop_map(|all| all.join("\n"));
    (body(), body(), body(), value.clone(), value, name()).prop_map(|(a, b, c, v, w, n)| {
        // A function that comes back to itself is refused before anybody runs it; here it would overflow the stack.
        let c = c.replace("f(", "h(");
        format!(
            "a := [{v}] if {{\n{a}\n}} else := [{w}] if {{\n{b}\n}}\n\nf(x, k) if {{\n{c}\n}}\n\nf(y, _) if y.id == \"p\"\n\n\
             g({n}) := {n}.name\n\nh(x, k) if x.name == k\n\nr if input.credential.id\n"
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    /// Whatever else is changed or taken away, put there or replaced: the rules come to the same.
    #[test]
    fn what_is_not_looked_at_makes_no_difference(rules in rules()) {
        let Some(mut engine) = engine(&rules) else { return Ok(()) };
        let ask = |engine: &mut Engine, input: Json| {
            engine.set_input(input.into());
            engine.eval_rule("data.t.a".into()).map_err(|_| ())
        };
        let looked = at(&syntax::files(&mut engine));
        let before = ask(&mut engine, input());
        let mut all = Vec::new();
        places(&input(), "", &mut all);
        all.extend(["/partner/labels/name/id", "/request/params/name/id", "/credential/engagement/id"].map(str::to_owned));
        for pointer in all {
            let fact = format!("input{}", pointer.replace('/', "."));
            if looked.iter().any(|path| syntax::overlap(path, &fact)) {
                continue;
            }
            let (above, last) = pointer.rsplit_once('/').unwrap();
            for other in [None, Some(json!("other")), Some(json!({"id": "other"})), Some(json!(null))] {
                let mut changed = input();
                if changed.pointer(above).is_none() {
                    let (above, middle) = above.rsplit_once('/').unwrap();
                    changed.pointer_mut(above).unwrap()[middle] = json!({});
                }
                let object = changed.pointer_mut(above).unwrap().as_object_mut().unwrap();
                match other {
                    None => drop(object.shift_remove(last)),
                    Some(other) => drop(object.insert(last.to_owned(), other)),
                }
                prop_assert_eq!(&ask(&mut engine, changed), &before, "{} is looked at, not only {:?}", fact, looked);
            }
        }
    }
}
