use super::*;
use crate::policy::tests::shipped;

const RULES: &str = r#"package partnergate.custom

import rego.v1

deny contains {"reason": "x-night"} if {
	input.time.hour >= data.custom.from
}

deny contains {"reason": "x-label"} if {
	some label in object.keys(input.partner.labels)
	label == "blocked"
}

kind := "early" if {
	input.version == 1
} else := "late"
"#;
const REASONS: &str = "reasons:\n  x-night: at night\n  x-label: labelled\n";
const HEAD: &str = "package partnergate.custom_test\n\nimport data.partnergate.custom\nimport rego.v1\n\nat(hour) := {\"time\": {\"hour\": hour}}\n\n";

/// A folder with these rules and these tests.
fn folder(tests: &str) -> PolicySource {
    shipped(&[
        ("custom/own.rego", RULES),
        ("custom/limits.yaml", "from: 22\n"),
        ("reasons.yaml", REASONS),
        ("custom/own_test.rego", &format!("{HEAD}{tests}")),
    ])
}

fn tested(source: &PolicySource, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Tested, Problems> {
    let options =
        Options { wanted, timeout: Duration::from_secs(5), threads: NonZeroUsize::new(2).unwrap(), coverage: true };
    run(source, &options)
}

/// The one test that this text has.
#[track_caller]
fn one(text: &str) -> Test {
    let mut found = tested(&folder(text), &|name| name.starts_with("data.partnergate.custom_test."));
    let tests = &mut found.as_mut().unwrap_or_else(|p| panic!("{p}")).tests;
    assert_eq!(tests.len(), 1, "{tests:?}");
    tests.remove(0)
}

#[track_caller]
fn refused(text: &str) -> String {
    match tested(&folder(text), &|_| true) {
        Err(problems) => problems.to_string(),
        Ok(tested) => panic!("{:?}", tested.tests),
    }
}

#[test]
fn shipped_tests_pass_on_both_engines_and_reach_every_line() {
    let found = tested(&shipped(&[]), &|_| true).unwrap_or_else(|p| panic!("{p}"));
    assert!(found.tests.len() > 80, "only {} tests found", found.tests.len());
    for test in &found.tests {
        assert!(test.passed() && test.engines == Engines::Both, "{test:?}");
    }
    let coverage = found.coverage.unwrap();
    for file in &coverage.files {
        assert!(file.not_covered.is_empty(), "{file:?}");
    }
    assert!(coverage.lines().0 > 70, "{:?}", coverage.lines());
}

#[test]
fn what_with_replaces_becomes_documents() {
    for text in [
        "test_x if custom.deny == {{\"reason\": \"x-night\"}} with input as at(23)",
        "test_x if custom.deny == set() with input.time.hour as 21",
        // Below what is no object.
        "test_x if custom.deny == set() with input as 1 with input.time.hour as 21",
        "test_x if {\n\thour := 5\n\tfound := custom.deny with input as at(hour) with data.custom.from as 4\n\tcount(found) == 1\n\t\
         custom.deny == set() with input as at(hour)\n}",
        // A rule, below which others find it as well, and a whole package.
        "test_x if {\n\tdata.partnergate.decision.reasons == [\"x-mock\"] with data.partnergate.custom.deny as {{\"reason\": \"x-mock\"}} \
         with data.partnergate.denials as {\"x-mock\"}\n}",
        "test_x if custom.deny == {5} with data.partnergate.custom as {\"deny\": {5}, \"kind\": 1}",
        "test_x if {\n\tevery case in [{\"hour\": 1, \"n\": 0}, {\"hour\": 23, \"n\": 1}] {\n\t\t\
         count(custom.deny) == case.n with input as at(case.hour)\n\t}\n}",
        "test_x if {\n\tmore := {\"version\": 1}\n\tevery name, case in {\"a\": {\"hour\": 1, \"n\": 0}, \"b\": {\"hour\": 23, \"n\": 1}} {\n\t\t\
         doc := object.union(more, at(case.hour))\n\t\tfound := custom.deny with input as doc\n\t\tcount(found) == case.n\n\t\t\
         name in {\"a\", \"b\"}\n\t}\n}",
        "test_x if {\n\tevery case in [] {\n\t\tcustom.deny == case with input as 1\n\t}\n}",
        "test_x if {\n\tprint(\"here\")\n\tcustom.kind == \"early\" with input as {\"version\": 1, \"partner\": {\"labels\": {}}}\n}",
        "test_x if 1 + 1 == 2",
        "test_x if sprintf(\"%d\", [3]) == \"3\"",
        "test_x := true if custom.kind == \"late\" with input as {}",
    ] {
        let test = one(text);
        assert!(test.passed() && test.engines == Engines::Both, "{text}: {test:?}");
    }
}

#[test]
fn what_cannot_be_turned_is_run_on_the_interpreter_and_counted() {
    for (text, why) in [
        ("test_x if count([1, 2]) == 1 with count as 1", "replaces a builtin"),
        ("f(x) := x\ntest_x if f(1) == 2 with f as 2", "replaces a function"),
        (
            "test_x if {\n\ta := custom.deny with input as at(1)\n\tb := custom.deny with input as at(2)\n\ta == b\n}",
            "different replacements",
        ),
        (
            "test_x if {\n\tsome hour in [1, 23]\n\tcount(custom.deny) == 1 with input as at(hour)\n}",
            "several documents",
        ),
        (
            "test_x if {\n\tcount(custom.deny) == 0\n\tcount(custom.deny) == 0 with input as at(1)\n}",
            "without `with` depends",
        ),
        (
            "test_x if {\n\tx := data.partnergate.decision\n\tevery hour in [1] {\n\t\tcustom.deny == set() with input as at(hour)\n\t}\n\tx.allow == false\n}",
            "before an `every`",
        ),
        (
            "test_x if [x | x := custom.kind with input as {\"version\": 1}] == [\"early\"]",
            "inside `every` or a comprehension",
        ),
        ("late if custom.deny == set() with input as at(1)\ntest_x if late", "does not take it"),
    ] {
        let test = one(text);
        let Engines::Interpreter(said) = &test.engines else { panic!("{text}: {test:?}") };
        assert!(test.passed() && said.contains(why), "{text}: {test:?}");
    }
}

#[test]
fn a_failing_test_says_which_condition_and_what_it_saw() {
    let test = one(
        "test_x if {\n\tnight := 23\n\tcustom.deny == {{\"reason\": \"x-day\"}} with input as at(night)\n\tnight == 4\n}",
    );
    assert!(test.failed() && test.differences.is_empty() && test.engines == Engines::Both, "{test:?}");
    let failure = test.failure.unwrap();
    assert_eq!((failure.line, failure.column), (10, 2));
    assert_eq!(failure.seen, [("custom.deny".to_owned(), vec!["{{\"reason\": \"x-night\"}}".to_owned()])]);
    // What is absent has no value, and of a table it is the case that is told.
    let test = one("test_x if input.time.hour == 3");
    assert_eq!(test.failure.unwrap().seen, [("input.time.hour".to_owned(), vec![])]);
    let test = one(
        "test_x if {\n\tevery case in [{\"hour\": 1}, {\"hour\": 23}] {\n\t\tcustom.deny == set() with input as at(case.hour)\n\t}\n}",
    );
    assert_eq!(test.failure.unwrap().seen, [("the case".to_owned(), vec!["{\"hour\": 23}".to_owned()])]);
    let test = one(
        "test_x if {\n\tevery name, case in {\"day\": {\"hour\": 1}, \"night\": {\"hour\": 23}} {\n\t\tcustom.deny == set() with input as at(case.hour)\n\t\tname != \"\"\n\t}\n}",
    );
    assert_eq!(test.failure.unwrap().seen, [("the case".to_owned(), vec!["\"night\"".to_owned()])]);
}

#[test]
fn a_difference_between_the_engines_fails_a_test() {
    // The machine carries on after an assignment from an absent value. In a served file it would be refused.
    let test = one("odd if {\n\tx := input.nope\n\ttrue\n}\n\ntest_x if not odd with input as {}");
    assert!(test.outcome == Outcome::Passed && test.failed(), "{test:?}");
    assert!(test.differences.iter().any(|said| said.contains("on the serving engine")), "{test:?}");
}

#[test]
fn what_would_end_the_process_is_not_run() {
    let test = one("p if q\nq if p\ntest_x if not p");
    assert!(matches!(&test.outcome, Outcome::Error(e) if e.contains("recursion")), "{test:?}");
    let Engines::Interpreter(why) = &test.engines else { panic!("{test:?}") };
    assert!(why.contains("comes back to itself"), "{why}");
    // Time ends what does not end.
    let wanted = |name: &str| name.ends_with("test_x");
    let text = "many := numbers.range(1, 2000)\ntest_x if count([1 | some a in many; some b in many; some c in many; a + b == c]) == 1";
    let options =
        Options { wanted: &wanted, timeout: Duration::from_millis(50), threads: NonZeroUsize::MIN, coverage: false };
    let found = run(&folder(text), &options).unwrap_or_else(|p| panic!("{p}"));
    assert!(matches!(&found.tests[0].outcome, Outcome::Error(e) if e.contains("time")), "{:?}", found.tests);
}

#[test]
fn tests_that_would_not_say_what_they_seem_to_are_refused() {
    let said = refused("test_x if true\n\ntest_x if false");
    assert!(
        said.contains("custom/own_test.rego:10:1: the test `test_x` is there already, at custom/own_test.rego:8"),
        "{said}"
    );
    for text in ["test_x contains 1 if true", "test_x[name] if {\n\tsome name in [\"a\"]\n}", "test_x(y) if y"] {
        let said = refused(text);
        assert!(said.contains("custom/own_test.rego:8") && said.contains("write `test_"), "{text}: {said}");
    }
    assert!(refused("test_x if nope").contains("custom/own_test.rego:8"));
    assert!(refused("test_x if {").contains("custom/own_test.rego"));
}

#[test]
fn what_only_seems_to_be_the_same_is_run_by_itself() {
    // Two inputs that differ in a space alone.
    let test = one(
        "test_x if {\n\tinput.a == \"x y\" with input as {\"a\": \"x y\"}\n\tinput.a == \"xy\" with input as {\"a\": \"xy\"}\n}",
    );
    assert!(test.passed() && test.engines == Engines::Both, "{test:?}");
}

#[test]
fn functions_without_end_and_what_is_unclear_are_refused() {
    let said = refused("f(x) := f(x + 1)\n\ntest_x if f(1)");
    assert!(said.contains("`data.partnergate.custom_test.f` comes back to itself"), "{said}");
    let said = refused("f(x) := g(x)\n\ng(x) := h if h := f(x)\n\ntest_x if f(1)");
    assert!(said.contains("comes back to itself"), "{said}");
    let said = refused("test_x if not [1, 2, 3][_] == 3");
    assert!(said.contains("custom/own_test.rego:8:15: `[_]` below `not`"), "{said}");
}

#[test]
fn a_test_that_is_to_be_written_is_skipped() {
    let test = one("todo_test_x if false");
    assert!(test.outcome == Outcome::Skipped && !test.passed() && !test.failed(), "{test:?}");
}

#[test]
fn lines_that_no_test_reaches_are_told() {
    let source = folder(
        "test_x if custom.deny == set() with input as {\"time\": {\"hour\": 1}, \"partner\": {\"labels\": {\"a\": \"b\"}}}",
    );
    let found =
        tested(&source, &|name| name.starts_with("data.partnergate.custom_test")).unwrap_or_else(|p| panic!("{p}"));
    let coverage = found.coverage.unwrap();
    let own = coverage.files.iter().find(|file| file.path == "custom/own.rego").unwrap();
    // Both conditions were looked at, and neither denial was given; what nothing asks for is not reached.
    let not: Vec<u32> = own.not_covered.iter().copied().collect();
    assert!(own.covered.contains(&6) && own.covered.contains(&10) && own.covered.contains(&11), "{own:?}");
    assert!(not.contains(&5) && not.contains(&9), "{own:?}");
    assert!(coverage.files.iter().all(|file| !file.path.ends_with("_test.rego")), "tests do not count");
}
