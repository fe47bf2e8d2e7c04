//! A newer library under a team's own rules: looked at beforehand, and exchanged under load.

use crate::harness::{HOST, Setup, await_some, copy_folder};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const OWN: &str = "package partnergate.custom\n\nimport rego.v1\n\n\
                   deny contains {\"reason\": \"x-own\"} if input.request.operation == \"items.read\"\n";

#[test]
fn shipped_library_is_upgraded_under_rules_of_ones_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (setup, policies) = Setup::new().set("reload.interval", "1h").own_policies();
    let before = root.join("tests/data/library-before-conditions");
    let shipped = setup.dir.path().join("shipped");
    fs::rename(policies.join("partnergate"), &shipped).unwrap();
    copy_folder(&before, &policies.join("partnergate"));
    copy_folder(&root.join("policies/examples/maintenance_freeze"), &policies.join("custom/maintenance_freeze"));
    fs::write(policies.join("custom/own.rego"), OWN).unwrap();
    fs::write(policies.join("reasons.yaml"), "reasons: {x-own: ours}\n").unwrap();
    let gate = setup.start();
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        gate.dial().identity(&gate.acme).open().request(request)
    };
    ask("/items").expect(200);
    gate.record_of(ask("/items/7").expect(403).id());

    // What is to come, beside what there is: whether it would be served, its tests, and what it would change.
    let next = gate.dir.path().join("next");
    copy_folder(&policies, &next);
    fs::remove_dir_all(next.join("partnergate")).unwrap();
    copy_folder(&shipped, &next.join("partnergate"));
    let next = next.to_str().unwrap();
    gate.cli(&["policy", "check", next]).ok();
    let tested = gate.cli(&["policy", "test", next, "--strict"]).ok();
    assert!(tested.contains("custom/maintenance_freeze") || tested.contains("PASS"), "{tested}");
    let log = gate.dir.path().join("records.jsonl");
    let replayed = gate.cli(&["policy", "replay", "--log", log.to_str().unwrap(), "--candidate", next]).ok();
    assert!(replayed.contains("0 newly denied, 0 newly allowed, 0 denied for another reason"), "{replayed}");

    // The folder is exchanged while requests are served: a moment without a library is no moment without a policy.
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|s| {
        let load = || {
            let mut conn = gate.dial().identity(&gate.acme).open();
            while !done.load(Ordering::Relaxed) {
                for (path, status) in [("/items", 200), ("/items/7", 403)] {
                    conn.request(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(status);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let loads = [s.spawn(load), s.spawn(load)];
        let more = |n: usize| await_some("requests", || (asked.load(Ordering::Relaxed) >= n).then_some(()));
        more(40);
        fs::remove_dir_all(policies.join("partnergate")).unwrap();
        let failed = gate.cli(&["reload"]);
        assert!(failed.exit == Some(3), "{}{}", failed.text(), failed.stderr);
        more(asked.load(Ordering::Relaxed) + 40);
        copy_folder(&shipped, &policies.join("partnergate"));
        gate.cli(&["reload"]).ok();
        more(asked.load(Ordering::Relaxed) + 40);
        done.store(true, Ordering::Relaxed);
        loads.into_iter().for_each(|load| load.join().unwrap());
    });
    // It does what the one before could not.
    let limited = "items.read, items.list, items.create, pairs.read], ";
    let text = gate.registry_text();
    assert!(text.contains(limited), "{text}");
    gate.apply(&text.replacen(limited, &format!("{limited}conditions: {{methods: [POST]}}, "), 1));
    let refused = ask("/items");
    refused.expect(403);
    assert_eq!(gate.record_of(refused.id())["reason"], "method-not-granted");
}
