//! A rule that burns its budget on one partner's requests costs that partner its requests, and nobody else theirs.

use crate::harness::{Gate, Setup};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ASKED: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";
/// Connections on which the one partner asks without a pause.
const BURNING: u32 = 4;
/// What a request of it may take: the limit of time, and once more.
const LIMIT: Duration = Duration::from_millis(10);

/// Goes on for hours, for `acme` alone.
const RULE: &str = r#"package partnergate.custom

import rego.v1

deny contains {"reason": "x-burns"} if {
	input.partner.id == "acme"
	count([1 | some a in list; some b in list; some c in list; some d in list; some e in list; a + b + c + d + e < 0]) > 0
}

list := [n | some n in data.custom.numbers]
"#;

fn gate(instructions: u64) -> Gate {
    let (setup, folder) = Setup::new().own_policies();
    std::fs::write(folder.join("custom/own.rego"), RULE).unwrap();
    std::fs::write(folder.join("custom/data.json"), format!("{{\"numbers\": {:?}}}", (0..100).collect::<Vec<_>>()))
        .unwrap();
    std::fs::write(folder.join("reasons.yaml"), "reasons: {x-burns: never}\n").unwrap();
    let setup = setup.set("policy.time_limit", format!("{}ms", LIMIT.as_millis()));
    setup.set("policy.instruction_limit", instructions).start()
}

/// The time that each of so many requests of `globex` takes, one after another; every one is allowed.
fn asked(gate: &Gate, count: usize) -> Vec<Duration> {
    let mut conn = gate.dial().identity(&gate.globex).open();
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let started = Instant::now();
            conn.request(ASKED).expect(200);
            started.elapsed()
        })
        .collect();
    times.sort();
    times
}

#[test]
fn a_rule_that_burns_its_budget_for_one_partner_leaves_the_others_theirs() {
    for (instructions, reason) in [(25_000, "policy-instruction-limit"), (10_000_000, "policy-timeout")] {
        let mut gate = gate(instructions);
        let alone = asked(&gate, 100);
        let (stop, burnt) = (AtomicBool::new(false), AtomicU64::new(0));
        let beside = std::thread::scope(|scope| {
            for _ in 0..BURNING {
                scope.spawn(|| {
                    let mut conn = gate.dial().identity(&gate.acme).open();
                    while !stop.load(Ordering::Acquire) {
                        let answer = conn.request(ASKED);
                        assert_eq!(answer.expect(503).code(), "unavailable");
                        burnt.fetch_add(1, Ordering::AcqRel);
                    }
                });
            }
            // Neither the first requests alone nor the last.
            while burnt.load(Ordering::Acquire) < u64::from(2 * BURNING) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let beside = asked(&gate, 100);
            stop.store(true, Ordering::Release);
            beside
        });
        // On a busy machine the limit of time may come before that of instructions.
        let denied = ["policy-instruction-limit", "policy-timeout"]
            .map(|reason| gate.metric(&format!("partnergate_denials_total{{reason=\"{reason}\"}}")));
        assert_eq!(denied[0] + denied[1], burnt.load(Ordering::Acquire) as f64, "{reason}");
        assert!(gate.metric(&format!("partnergate_denials_total{{reason=\"{reason}\"}}")) > 0.0, "{reason}");
        assert_eq!(gate.metric("partnergate_requests_total{outcome=\"allowed\",partner=\"globex\"}"), 200.0);
        // At worst each waits for what every connection of the other has begun; four times over, for a busy machine.
        let (before, after) = (alone[alone.len() / 2], beside[beside.len() / 2]);
        let bound = 4 * (before + 2 * LIMIT * BURNING);
        assert!(after < bound, "{reason}: {before:?} became {after:?}, {bound:?} was the most");
        assert!(gate.process.lives(), "{}", gate.log());
        assert_eq!(gate.metric("partnergate_panics_total"), 0.0);
        assert_eq!(gate.metric("partnergate_policy_engine_info{engine=\"rvm\"}"), 1.0);
    }
}

/// A pattern that a partner sends once overflowed the stack of the thread that serves, and the process with it.
#[test]
fn a_rule_whose_pattern_a_partner_sends_is_refused_at_load() {
    let (setup, folder) = Setup::new().own_policies();
    let rule = |pattern: &str| {
        let text = format!(
            "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {{\"reason\": \"x-matches\"}} if \
             glob.match({pattern}, [\"/\"], input.request.path)\n"
        );
        std::fs::write(folder.join("custom/own.rego"), text).unwrap();
    };
    std::fs::write(folder.join("reasons.yaml"), "reasons: {x-matches: it matches}\n").unwrap();
    rule("data.custom.closed[_]");
    std::fs::write(folder.join("custom/data.yaml"), "closed: ['/closed/*']\n").unwrap();
    let gate = setup.start();
    let check = || gate.cli(&["policy", "check", folder.to_str().unwrap()]);
    check().ok();
    rule("input.request.headers[\"x-pattern\"][0]");
    let said = check();
    assert_eq!(said.exit, Some(3), "{said:?}");
    let text = format!("{said:?}");
    assert!(text.contains("custom/own.rego:5:") && text.contains("the pattern of `glob.match`"), "{text}");
    // Nor does it get in while others are served, and what a partner sends is just a field.
    let pattern = "{a,".repeat(3_000);
    let asked = format!("GET /items HTTP/1.1\r\nHost: api.partner.test\r\nX-Pattern: {pattern}\r\n\r\n");
    gate.cli(&["reload"]);
    gate.dial().identity(&gate.globex).open().request(asked).expect(200);
    assert_eq!(gate.metric("partnergate_panics_total"), 0.0);
}
