use crate::policy::tests::shipped;
use crate::policy::{EngineKind, Policy, PolicyLimits};
use std::time::{Duration, Instant};

const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_millis(50), instructions: 25_000 };
const DATA: &str = "patterns: ['/items/*', '/orders/*']\nfactor: 3\nnames: {a: [b]}\nlong: ['LONG']\n";

/// Compiles with a rule of one's own; its text begins on line 5.
fn compiled(rules: &str) -> Result<(), String> {
    let text = format!("package partnergate.custom\n\nimport rego.v1\n\n{rules}\n");
    let source = shipped(&[
        ("custom/own.rego", &text),
        ("custom/own.yaml", &DATA.replace("LONG", &"{a,".repeat(300))),
        ("reasons.yaml", "reasons: {x-a: a}"),
    ]);
    Policy::compile(&source, EngineKind::Rvm, LIMITS).map(drop).map_err(|problems| problems.to_string())
}

/// Compiles a denial with these statements.
fn body(statements: &str) -> Result<(), String> {
    compiled(&format!("deny contains {{\"reason\": \"x-a\"}} if {{\n\t{}\n}}", statements.replace('\n', "\n\t")))
}

#[track_caller]
fn refused(statements: &str, place: &str, said: &str) {
    let started = Instant::now();
    let problems = body(statements).err().unwrap_or_else(|| panic!("accepted: {statements:.400}"));
    let wanted = match place {
        "" => "custom/own.rego:".to_owned(),
        _ => format!("custom/own.rego:{place}: "),
    };
    assert!(problems.contains(&wanted) && problems.contains(said), "{statements:.400}\n{problems:.2000}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}: {statements:.400}", started.elapsed());
}

#[track_caller]
fn accepted(statements: &str) {
    assert_eq!(body(statements).err(), None, "{statements:.400}");
}

const NOT_WRITTEN: &str = "is not what somebody wrote";

#[test]
fn patterns_and_paths_of_a_request_are_refused() {
    let header = "input.request.headers[\"x-p\"][0]";
    for pattern in
        [header, "concat(\"\", [\"{a,\", \"}\"])", "lower(\"A\")", "object.get(input.partner.labels, \"a\", \"b\")"]
    {
        refused(&format!("glob.match({pattern}, [\"/\"], \"a\")"), "6:13", NOT_WRITTEN);
        refused(&format!("regex.match({pattern}, \"a\")"), "6:14", NOT_WRITTEN);
        refused(&format!("regex.is_valid({pattern})"), "6:17", NOT_WRITTEN);
        refused(&format!("count(glob.quote_meta({pattern})) > 0"), "6:24", NOT_WRITTEN);
        refused(&format!("json.filter(input, [{pattern}]) == {{}}"), "6:22", NOT_WRITTEN);
        refused(&format!("json.remove(input, {{\"a\", {pattern}}}) == {{}}"), "6:27", NOT_WRITTEN);
    }
    refused("ps := {\"a\"} | {input.request.path}\nregex.match(ps[_], \"a\")", "7:14", NOT_WRITTEN);
    refused("glob.match(\"a\", split(input.request.path, \"\"), \"a\")", "6:18", NOT_WRITTEN);
    refused(&format!("p := {header}\nq = p\nglob.match(q, [], \"a\")"), "8:13", NOT_WRITTEN);
    refused("some p in input.request.headers.a\nglob.match(p, [], \"a\")", "7:13", NOT_WRITTEN);
    refused("[p, _] = input.request.headers.a\nglob.match(p, [], \"a\")", "7:13", NOT_WRITTEN);
    refused("[1 | some ps in input.request.headers; regex.match(ps[_], \"a\")] == []", "6:53", NOT_WRITTEN);
    refused("every p in input.request.headers.a { regex.match(p, \"a\") }", "6:51", NOT_WRITTEN);
    // By way of a rule, a function, a set and a name that is looked up with.
    for rules in [
        "p := input.request.path\ndeny contains {\"reason\": \"x-a\"} if regex.match(p, \"a\")",
        "f(p) if regex.match(p, \"a\")\ndeny contains {\"reason\": \"x-a\"} if f(input.request.path)",
        "f(p) := p\ndeny contains {\"reason\": \"x-a\"} if regex.match(f(input.request.path), \"a\")",
        "s contains input.request.path\ndeny contains {\"reason\": \"x-a\"} if { some p in s; regex.match(p, \"a\") }",
        "o[input.request.path] := 1\ndeny contains {\"reason\": \"x-a\"} if { some p, _ in o; regex.match(p, \"a\") }",
        "s contains input.request.path\ndeny contains {\"reason\": \"x-a\"} if { some p; s[p]; regex.match(p, \"a\") }",
        "p := \"a\" if input.partner\nelse := input.request.path\ndeny contains {\"reason\": \"x-a\"} if regex.match(p, \"a\")",
        "deny contains {\"reason\": \"x-a\"} if regex.match(data.partnergate.custom.p, \"a\")\np := input.request.path",
    ] {
        let problems = compiled(rules).err().unwrap_or_else(|| panic!("accepted: {rules}"));
        assert!(problems.contains(NOT_WRITTEN), "{rules}: {problems}");
    }
}

#[test]
fn patterns_that_somebody_wrote_are_served() {
    for statements in [
        "regex.match(`^/items/[0-9]+$`, input.request.path)",
        "glob.match(\"/items/*\", [\"/\"], input.request.path)",
        "glob.match(data.custom.patterns[_], [\"/\"], input.request.path)",
        "some p in data.custom.patterns\nglob.match(p, null, input.request.path)",
        "some p in [\"a*\", \"b*\"]\nsome h in input.request.headers[\"x-a\"]\nglob.match(p, [], h)",
        "some _, ps in data.custom.names\nevery p in ps { regex.match(p, input.request.path) }",
        "p = \"a\"\nq = p\nregex.match(q, lower(input.request.path))",
        "[p, q] := [\"a\", \"b\"]\nregex.match(p, q)",
        "p := object.get(data.custom.names, input.environment, [\"x\"])[0]\nregex.match(p, input.request.path)",
        "count([1 | some p in data.custom.patterns; regex.match(p, input.request.path)]) > 0",
        "json.remove(input.partner, [\"labels/a\", [\"labels\", input.environment]]) == {}",
        "json.filter(input.partner, data.custom.patterns) == {}",
    ] {
        accepted(statements);
    }
    for rules in [
        "ps := {\"a\", \"b\"}\ndeny contains {\"reason\": \"x-a\"} if { some p in ps; regex.match(p, input.request.path) }",
        "ps contains p if some p in data.custom.patterns\ndeny contains {\"reason\": \"x-a\"} if glob.match(ps[_], [], \"a\")",
        "f(p, h) if glob.match(p, [\"/\"], h)\ndeny contains {\"reason\": \"x-a\"} if f(\"/a/*\", input.request.path)",
        "default p := \"a\"\np := \"b\" if input.partner\ndeny contains {\"reason\": \"x-a\"} if regex.match(p, input.request.path)",
    ] {
        assert_eq!(compiled(rules).err(), None, "{rules}");
    }
}

#[test]
fn patterns_that_are_too_much_are_refused_at_their_own_place() {
    let deep = format!("{}{}", "{a,".repeat(11), "}".repeat(11));
    refused(&format!("p := \"{deep}\"\nglob.match(p, [], \"a\")"), "6:7", "has braces more than 10 deep");
    refused(&format!("glob.match(`{}`, [], \"a\")", "*****\n".repeat(200)), "6:13", "is longer than 1000 bytes");
    refused(&format!("regex.match(`{}`, \"a\")", "a?\n".repeat(400)), "6:14", "is longer than 1000 bytes");
    refused(&format!("json.remove(input, [\"{}\"]) == {{}}", "/".repeat(101)), "6:22", "has more than 100 steps");
    refused("glob.match(data.custom.long[0], [], \"a\")", "6:13", "one below `data.custom.long` that has braces");
    refused(
        &format!("input.request.path == `{}`", "aaaaaaaaa\n".repeat(900)),
        "6:24",
        "a text of more than 8192 bytes",
    );
}

#[test]
fn products_that_could_grow_without_end_are_refused() {
    let said = "both factors of this product are worked out";
    let squares: String = (1..=39).map(|n| format!("s{n} := s{0} * s{0}\n", n - 1)).collect();
    refused(&format!("s0 := 9999999999999999999\n{squares}s39 == 1"), "8:8", said);
    refused("x := to_number(substring(input.request.path, 0, 20))\nx * x == 1", "7:2", said);
    refused("x := input.time.now_ns + 1\ny := x * (x - 1)\ny == 1", "7:7", said);
    refused("[a | some b in [1, 2]; a := b * 2; c := a * a; c > 1] == []", "6:42", said);
    let function = "f(x) := x * x\ndeny contains {\"reason\": \"x-a\"} if f(f(f(3))) == 1";
    assert!(compiled(function).unwrap_err().contains("custom/own.rego:5:9: both factors"), "{function}");
    for statements in [
        "(input.time.local.hour * 60) + input.time.local.minute > 5",
        "x := input.time.now_ns / 1000\n(x * 86400) * 1000 > 5",
        "input.time.now_ns * data.custom.factor > 5",
        "hour := input.time.local.hour\nx := hour * data.custom.factor\ny := x * hour\ny > 5",
        "count(input.partner.grants) * floor(input.time.now_ns / 3) > 5",
        "s0 := 9999999999999999999\ns0 * s0 > 1",
    ] {
        accepted(statements);
    }
    let function =
        "per := 60\nf(x, y) := x * y\ndeny contains {\"reason\": \"x-a\"} if f(3, input.time.now_ns) * per > 1";
    assert_eq!(compiled(function).err(), None, "{function}");
}

/// `{"$serde_json::private::Number": "1e999999999"}` is a number of a thousand million digits to the engine.
#[test]
fn texts_of_a_request_are_cut_before_they_are_read_as_numbers() {
    for text in ["input.request.path", "concat(\"\", [input.request.path])", "substring(input.request.path, 0, -1)"] {
        refused(&format!("to_number({text}) == 1"), "6:2", "`to_number` of a text of any length can take minutes");
        refused(&format!("json.unmarshal({text}) == 1"), "6:17", NOT_WRITTEN);
        refused(&format!("json.is_valid({text})"), "6:16", NOT_WRITTEN);
    }
    refused("to_number(substring(input.request.path, 0, 60)) == 1", "6:2", "can take minutes");
    refused("json.unmarshal(`{\"$serde_json::private::Number\": \"1e9\"}`) == 1", "6:17", "has a `$`");
    refused("to_number(`{\"$serde_json::private::Number\": \"1e9\"}`) == 1", "6:2", "can take minutes");
    accepted("to_number(substring(input.request.path, 0, 20)) == 1");
    accepted("x := substring(input.request.path, 1, 9)\nto_number(x) == 1");
    accepted("to_number(data.custom.patterns[0]) == 1\njson.unmarshal(`{\"a\": 1}`).a == 1");
    // Numbers in a rule are no larger than others know them, whatever their exponent.
    assert!(body("input.time.now_ns == 1e400000000").unwrap_err().contains("invalid number"));
}

/// Each line holds the one before twice.
fn twice(lines: usize, put: impl Fn(usize) -> String) -> String {
    (1..=lines).map(|n| format!("s{n} := {}\n", put(n - 1))).collect()
}

#[test]
fn values_that_are_made_of_themselves_are_refused_where_they_become_too_large() {
    let said = "may have more than 65536 parts";
    let start = "s0 := input.request.path\n";
    refused(&format!("{start}{}s30 == 1", twice(30, |n| format!("[s{n}, s{n}]"))), "22:9", said);
    refused(&format!("{start}{}s40 == 1", twice(40, |n| format!("{{\"a\": s{n}, \"b\": s{n}}}"))), "21:20", said);
    refused(&format!("s0 := [1]\n{}s40 == 1", twice(40, |n| format!("array.concat(s{n}, s{n})"))), "22:9", said);
    refused(&format!("{start}{}s40 == 1", twice(40, |n| format!("concat(\"\", [s{n}, s{n}])"))), "", said);
    refused(&format!("{start}{}s40 == 1", twice(40, |n| format!("concat(s{n}, [\"\", \"\", \"\"])"))), "", said);
    refused(&format!("{start}{}s80 == 1", twice(80, |n| format!("hex.encode(s{n})"))), "", said);
    refused(&format!("s0 := {{1}}\n{}s40 == 1", twice(40, |n| format!("{{s{n}}} | {{[s{n}]}}"))), "", said);
    // Given by `=`, the order does not say which is made of which.
    let equal = body(&format!("s0 = [1]\n{}s40 = 1", twice(40, |n| format!("[s{n}, s{n}]")).replace(":=", "=")));
    assert!(equal.is_err());
    refused(&format!("{start}{}s40 == 1", twice(40, |n| format!("[s{n} | some _ in [1, 2]]"))), "", said);
    // By what `=` takes apart, in whatever order.
    let lines = twice(14, |n| format!("[s{n}, s{n}]"));
    let more = lines.replace('s', "t");
    for apart in ["[t0, _] = z\nz = y\ny := [s14]", "[t0] = z\n[z, _] = w\nw := [[s14], 1]"] {
        refused(&format!("s0 := 1\n{lines}{apart}\n{more}t14 == 1"), "", said);
    }
    // Out of their order.
    let upside_down: Vec<String> = twice(40, |n| format!("[s{n}, s{n}]")).lines().rev().map(str::to_owned).collect();
    refused(&format!("s40 == 1\n{}\ns0 := 1", upside_down.join("\n")), "", said);
    // By functions, rules, and what is taken out and put in again.
    let functions: String = (1..60).map(|n| format!("f{n}(x) := [f{0}(x), f{0}(x)]\n", n - 1)).collect();
    let wraps: String = (1..60).map(|n| format!("r{n} := [r{0}, r{0}]\n", n - 1)).collect();
    let sets: String = (1..60).map(|n| format!("c{n} contains [x, x] if some x in c{}\n", n - 1)).collect();
    let twins: String = (1..60).map(|n| format!("\ty{n} := g(y{})\n", n - 1)).collect();
    for rules in [
        format!("f0(x) := [x, x]\n{functions}deny contains {{\"reason\": \"x-a\"}} if count(f59(1)) == 1"),
        format!("r0 := [1]\n{wraps}deny contains {{\"reason\": \"x-a\"}} if r59 == 1"),
        format!("c0 contains 1\n{sets}deny contains {{\"reason\": \"x-a\"}} if c59 == 1"),
        format!("g(x) := [x, x]\ndeny contains {{\"reason\": \"x-a\"}} if {{\n\ty0 := 1\n{twins}\ty59 == 1\n}}"),
    ] {
        let problems = compiled(&rules).err().unwrap_or_else(|| panic!("accepted: {rules}"));
        assert!(problems.contains("custom/own.rego:") && problems.contains(said), "{rules}: {problems}");
    }
}

#[test]
fn values_that_are_too_deep_are_refused() {
    let deep: String = (0..20).map(|n| format!("\ts{} := [[[[[[[[[[[s{n}]]]]]]]]]]]\n", n + 1)).collect();
    let functions: String = (0..50).map(|n| format!("f{n}(s0) := s20 if {{\n{deep}}}\n")).collect();
    let calls: String = (0..50).map(|n| format!("\tv{} := f{n}(v{n})\n", n + 1)).collect();
    let rules = format!("{functions}deny contains {{\"reason\": \"x-a\"}} if {{\n\tv0 := 1\n{calls}\tv50 == 1\n}}");
    let problems = compiled(&rules).unwrap_err();
    assert!(problems.contains("may lie more than 200 deep in each other"), "{problems}");
    let less: String = (0..15).map(|n| format!("s{} := [[[[[[[[[[[s{n}]]]]]]]]]]]\n", n + 1)).collect();
    accepted(&format!("s0 := 1\n{less}s15 == 1"));
}

#[test]
fn ordinary_values_are_served() {
    let list: Vec<String> = (0..15_000).map(|n| format!("\"{n}\"")).collect();
    for rules in [
        format!("list := [\n{}\n]\ndeny contains {{\"reason\": \"x-a\"}} if input.environment in list", list.join(",\n")),
        // A chain of sets out of sets grows no part.
        (1..30).fold("c0 := input.partner.grants\n".to_owned(), |all, n| {
            format!("{all}c{n} contains x if {{ some x in c{}; x.id != \"{n}\" }}\n", n - 1)
        }),
        "x := {k: [v | some v in vs] | some k, vs in data.custom.names}\ny := {k: count(v) | some k, v in x}".into(),
        "f(x) := object.union(x, {\"a\": f2(x)})\nf2(x) := {k: lower(v) | some k, v in x.labels}\n\
         deny contains {\"reason\": \"x-a\"} if f(input.partner).a.b == \"c\""
            .into(),
        "deny contains {\"reason\": \"x-a\"} if { x = input.partner.labels; [a, b] = split(x.pair, \"-\"); a = b }".into(),
        "deny contains {\"reason\": \"x-a\"} if { some x, y in input.partner.labels; z = x; z = y; concat(\"\", [z, y]) == x }"
            .into(),
    ] {
        assert_eq!(compiled(&rules).err(), None, "{rules:.300}");
    }
    accepted("x = [1, input.environment]\ny = [x, 2]\nz = [y, 3]\nz == 1");
    accepted("z = split(input.request.path, \"/\")\n[_, b] = z\nb == \"a\"");
}

#[test]
fn what_is_looked_for_in_each_other_is_small() {
    let parts = "parts := split(input.request.path, \"\")\n";
    let said = "may be large, and no limit reaches inside of it";
    let blown = format!("s0 := input.request.path\n{}", twice(10, |n| format!("concat(\"\", [s{n}, s{n}])")));
    for call in
        ["strings.any_prefix_match(parts, [y | some y in parts])", "object.subset(parts, [y | some y in parts])"]
    {
        accepted(&format!("{parts}{}", call.replace("[y | some y in parts]", "data.custom.patterns")));
        let more = call.replace("parts,", "array.concat(parts, array.concat(parts, parts)),");
        refused(&format!("{parts}{more}"), "7:2", said);
    }
    for call in [
        "indexof(s10, input.request.path) == 1",
        "trim(input.request.path, s10) == \"\"",
        "regex.match(\"a\", s10)",
        "glob.match(\"a*\", [], s10)",
    ] {
        refused(&format!("{blown}{call}"), "17:2", said);
        accepted(&call.replace("s10", "input.environment"));
    }
}

#[test]
fn rules_with_too_many_branches_are_refused_before_they_are_compiled() {
    let branches = |most: usize| -> String { (1..most).map(|n| format!("else := {n} if x == {n}\n")).collect() };
    let rules = |n| format!("f(x) := 0 if x == 0\n{}deny contains {{\"reason\": \"x-a\"}} if f(1) == 2", branches(n));
    let started = Instant::now();
    let problems = compiled(&rules(15_000)).unwrap_err();
    assert!(problems.contains("custom/own.rego:5:1: a rule has more than 500 `else`"), "{problems}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(compiled(&rules(20)).err(), None);
}

#[test]
fn rules_of_masks_are_bounded_too() {
    for (rule, said) in [
        ("mask contains \"/input/a\" if regex.match(input.input.request.path, \"a\")", NOT_WRITTEN),
        ("mask contains \"/input/a\" if { x := input.a + 1; x * x == 1 }", "both factors"),
    ] {
        let text = format!("package system.log\n\nimport rego.v1\n\n{rule}\n");
        let source = shipped(&[("system/mask.rego", &text)]);
        let problems = Policy::compile(&source, EngineKind::Rvm, LIMITS).map_err(|p| p.to_string()).err().unwrap();
        assert!(problems.contains("system/mask.rego:5:") && problems.contains(said), "{problems}");
    }
}
