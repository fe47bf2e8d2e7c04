//! Stopping a partner at once, whatever files say, and letting it go on.

use crate::harness::{Finished, Gate, HOST, Setup, TlsConn, await_some};
use crate::websocket;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Enough for seconds.
const RULES: usize = 2_000;

fn get() -> String {
    format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn code(gate: &Gate, who: &crate::harness::Identity) -> (u16, String) {
    let answer = gate.dial().identity(who).open().request(get());
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status, code)
}

fn suspend(gate: &Gate, more: &[&str]) -> Finished {
    gate.cli(&[&["partner", "suspend", "acme", "--reason", "odd traffic at night"], more].concat())
}

fn resume(gate: &Gate) -> Finished {
    gate.cli(&["partner", "resume", "acme", "--reason", "was a load test"])
}

fn events(gate: &Gate) -> Vec<Value> {
    let text = gate.cli(&["history", "partner", "acme", "--output", "json"]).ok();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn suspended_partner_is_out_at_once_and_back_when_it_is_let_go_on() {
    let gate = Gate::start();
    let mut socket: TlsConn = gate.dial().identity(&gate.acme).open();
    socket.request(websocket::handshake("/events")).expect(101);
    let mut other = gate.dial().identity(&gate.globex).open();
    other.request(get()).expect(200);
    let said = suspend(&gate, &["--ticket", "INC-9"]).ok();
    assert_eq!(said, "`acme` is suspended from now on (registry revision 2)\n");
    // What is open too, and nobody else's.
    socket.assert_closed();
    assert_eq!(gate.await_record("the cut", |r| r["kind"] == "stream-cut")["reason"], "partner-not-active");
    assert_eq!(code(&gate, &gate.acme), (403, "engagement-not-active".into()));
    other.request(get()).expect(200);
    let record = gate.await_record("the denial", |r| r["kind"] == "request" && r["reason"] == "partner-not-active");
    assert_eq!(record["input"]["partner"]["state"], "suspended", "{record}");

    // Whoever looks, sees it.
    let list = gate.cli(&["partner", "list"]).ok();
    assert!(list.lines().any(|line| line.starts_with("acme ") && line.contains(" suspended ")), "{list}");
    let me = events(&gate).last().unwrap()["actor"]["name"].as_str().unwrap().to_owned();
    for shown in [gate.cli(&["partner", "show", "acme"]).ok(), gate.cli(&["status"]).ok()] {
        let line = shown.lines().find(|line| line.to_lowercase().contains("suspended  ")).unwrap_or_default();
        assert!(line.contains(&format!("by {me} since ")) && line.ends_with(": odd traffic at night"), "{shown}");
    }
    let again = suspend(&gate, &[]).ok();
    assert!(again.starts_with(&format!("`acme` is suspended already, by {me}: odd traffic at night")), "{again}");
    let last = events(&gate).pop().unwrap();
    assert_eq!((&last["reason"], &last["ticket"]), (&"odd traffic at night".into(), &"INC-9".into()));
    assert_eq!(last["after"]["partner"]["suspension"]["reason"], "odd traffic at night");

    assert_eq!(resume(&gate).ok(), "`acme` goes on as active (registry revision 3)\n");
    assert_eq!(code(&gate, &gate.acme).0, 200);
    let last = events(&gate).pop().unwrap();
    assert_eq!(last["before"]["partner"]["suspension"]["reason"], "odd traffic at night", "{last}");
    assert_eq!(last["reason"], "was a load test");
    assert!(resume(&gate).ok().starts_with("`acme` is not suspended: it is active"));
}

/// The files that everything is kept in do not know of it, and the next pipeline applies them.
#[test]
fn suspension_outlives_files_restarts_exports_and_prune() {
    let mut gate = Gate::start();
    suspend(&gate, &[]).ok();
    let out = |gate: &Gate| assert_eq!(code(gate, &gate.acme), (403, "engagement-not-active".into()));
    gate.apply(gate.registry_text());
    out(&gate);
    gate.apply(&gate.registry_text().replace("name: Acme GmbH", "name: Acme AG"));
    out(&gate);
    gate.restart("KILL");
    out(&gate);
    // An export has it, for the machine after this one.
    let folder = gate.dir.path().join("exported");
    gate.cli(&["export", "-d", folder.to_str().unwrap()]).ok();
    gate.cli(&["apply", "--yes", "--prune", "-f", folder.to_str().unwrap()]).ok();
    out(&gate);
    let files =
        std::fs::read_dir(&folder).unwrap().flatten().map(|entry| std::fs::read_to_string(entry.path()).unwrap());
    assert!(files.collect::<String>().contains("odd traffic at night"));
    resume(&gate).ok();
    assert_eq!(code(&gate, &gate.acme).0, 200);
    // A file that has one brings it.
    gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]).ok();
    out(&gate);
}

#[test]
fn what_cannot_be_suspended_or_resumed_is_said() {
    let gate = Gate::start();
    let refused = |finished: Finished, said: &str| {
        assert_eq!(finished.exit, Some(3), "{}{}", finished.text(), finished.stderr);
        assert!(finished.stderr.contains(said), "no `{said}` in {}", finished.stderr);
    };
    refused(gate.cli(&["partner", "suspend", "acmee", "--reason", "x"]), "`partners.acmee`: there is no such partner");
    refused(gate.cli(&["partner", "suspend", "A/B", "--reason", "x"]), "there is no such partner: `A/B` is not an id");
    refused(gate.cli(&["partner", "suspend", "acme", "--reason", " "]), "a reason is needed");
    let offline = gate.cli(&["partner", "--offline", "suspend", "acme", "--reason", "x"]);
    assert_eq!(offline.exit, Some(1), "{}", offline.text());
    assert!(offline.stderr.contains("for a gateway that runs"), "{}", offline.stderr);
    assert_eq!(code(&gate, &gate.acme).0, 200);
}

#[test]
fn state_of_the_files_is_taken_back_in_the_files() {
    let gate = Gate::start();
    let with =
        |state: &str| gate.registry_text().replace("name: Acme GmbH", &format!("name: Acme GmbH\n    state: {state}"));
    gate.apply(&with("suspended"));
    let finished = resume(&gate);
    assert_eq!(finished.exit, Some(3), "{}", finished.text());
    assert!(finished.stderr.contains("suspended by the file that was applied"), "{}", finished.stderr);
    let ended = gate.try_apply(&with("ended"));
    assert!(ended.exit == Some(3) && ended.stderr.contains("end it with `partnergate partner offboard`"), "{ended:?}");
    let draft = gate.try_apply(&with("draft"));
    assert!(draft.exit == Some(3) && draft.stderr.contains("only a new partner is a draft"), "{draft:?}");
    gate.apply(gate.registry_text());
    await_some("acme", || (code(&gate, &gate.acme).0 == 200).then_some(()));
}

/// However long somebody's policy takes to compile.
#[test]
fn suspension_does_not_wait_for_a_policy_that_is_compiled() {
    let (setup, policies) = Setup::new().set("reload.interval", "1h").own_policies();
    let gate = setup.start();
    let rule = |n: usize| {
        format!(
            "deny contains {{\"reason\": \"x-own\"}} if {{\n\tsome q in input.request.query[\"q{n}\"]\n\tcount([x | some x in \
             split(q, \",\"); x != \"{n}\"]) > {n}\n}}\n"
        )
    };
    let rules: String = (0..RULES).map(rule).collect();
    std::fs::write(policies.join("reasons.yaml"), "reasons: {x-own: ours}\n").unwrap();
    std::fs::write(
        policies.join("custom/own.rego"),
        format!("package partnergate.custom\n\nimport rego.v1\n\n{rules}"),
    )
    .unwrap();
    let (began, done) = (Instant::now(), AtomicBool::new(false));
    let (mut longest, mut switches) = (Duration::ZERO, 0);
    let took = std::thread::scope(|scope| {
        let reload = scope.spawn(|| {
            let reloaded = gate.cli(&["reload"]);
            done.store(true, Ordering::Relaxed);
            reloaded.ok();
            began.elapsed()
        });
        while !done.load(Ordering::Relaxed) {
            for verb in ["suspend", "resume"] {
                let asked = Instant::now();
                let answer = gate.admin("POST", &format!("/v1/partners/acme/{verb}"), "{\"reason\": \"x\"}");
                assert_eq!(answer.0, 200, "{answer:?}");
                longest = longest.max(asked.elapsed());
                switches += 1;
            }
        }
        reload.join().unwrap()
    });
    assert!(longest * 2 < took && switches > 4, "{switches} switches, the longest {longest:?}, while {took:?} went by");
}
