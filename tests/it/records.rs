//! Records show tampering: signed checkpoints, ends that were not in order, and what `audit verify` says of files that
//! somebody has been at. Threat 30.

use crate::harness::{Finished, Gate, HOST, Setup, await_some, run, skipped};
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";

/// What a record may take from the end of its request to the file, on a machine that is busy with other tests.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

fn file(gate: &Gate) -> PathBuf {
    gate.dir.path().join("records.jsonl")
}

fn verify(gate: &Gate, what: &Path, more: &[&str]) -> Finished {
    gate.cli(&[&["audit", "verify", "--records", what.to_str().unwrap()], more].concat())
}

/// Requests of `clients` connections at once while `act` goes on: the id of each that was answered, and when.
fn load(gate: &Gate, clients: usize, act: impl FnOnce()) -> Vec<(String, Instant)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = || {
            let mut answered = Vec::new();
            let mut conn = gate.dial().identity(&gate.acme).open();
            while !stop.load(Ordering::Relaxed) {
                if conn.try_send(GOOD).is_err() {
                    break;
                }
                let Ok(answer) = conn.try_response() else { break };
                assert_eq!(answer.status, 200, "{answer:?}");
                answered.push((answer.id().to_owned(), Instant::now()));
            }
            answered
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        act();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    })
}

fn await_records(gate: &Gate, n: usize) {
    await_some("records", || (gate.records_text().lines().count() >= n).then_some(()));
}

#[test]
fn every_batch_ends_with_a_signed_checkpoint_over_restarts() {
    let mut gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..5 {
        gate.record_of(conn.request(GOOD).id());
    }
    gate.restart("TERM");
    gate.record_of(gate.dial().identity(&gate.acme).open().request(GOOD).id());
    gate.stop("TERM");
    let lines = gate.lines();
    let checkpoints: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "checkpoint").collect();
    let numbers: Vec<u64> = checkpoints.iter().map(|c| c["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "one chain over both starts");
    assert_eq!(checkpoints.iter().filter(|c| c["end"] == true).count(), 2, "each start ended in order");
    assert!(lines.iter().all(|line| line["kind"] != "records-lost"));
    assert_eq!(lines.last().unwrap()["end"], true);

    // By anybody's means: each hash is of the bytes as they stand.
    let script = "import hashlib, json, sys\nbatch, previous = b'', '0' * 64\nfor line in open(sys.argv[1], 'rb'):\n    \
                  c = json.loads(line)\n    if c['kind'] != 'checkpoint':\n        batch += line\n        continue\n    \
                  assert c['sha256'] == hashlib.sha256(batch).hexdigest(), c\n    assert c['previous'] == previous, c\n    \
                  batch, previous = b'', hashlib.sha256(line).hexdigest()\nassert batch == b''\nprint('agreed')";
    let python = run(Command::new("python3").args(["-c", script]).arg(file(&gate)), b"");
    assert_eq!(python.ok().trim(), "agreed");
    let said = verify(&gate, &file(&gate), &["--offline"]).ok();
    assert!(said.contains("signed checkpoints\n  ends with checkpoint"), "{said}");
}

/// Threat 30.
#[test]
fn first_record_that_somebody_was_at_is_named_with_file_line_boot_and_seq() {
    let gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..20 {
        gate.record_of(conn.request(GOOD).id());
    }
    let good = gate.records_text();
    verify(&gate, &file(&gate), &[]).ok();
    let key = gate.dir.path().join("gateway.key");
    fs::write(&key, gate.cli(&["audit", "key"]).ok()).unwrap();
    let elsewhere = gate.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let copy = elsewhere.join("taken.jsonl");

    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    let of = |kind: &str| -> Vec<usize> {
        let is = |n: &usize| lines[*n].contains(&format!("\"kind\":\"{kind}\""));
        (0..lines.len()).filter(is).collect()
    };
    let target = of("request")[10];
    let line: Value = serde_json::from_str(lines[target]).unwrap();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        change(&mut lines);
        fs::write(&copy, lines.concat()).unwrap();
        // Alone, as an auditor elsewhere does it: no config, no gateway.
        let args = [
            "audit",
            "verify",
            "--output",
            "json",
            "--key",
            key.to_str().unwrap(),
            "--records",
            copy.to_str().unwrap(),
        ];
        let finished = gate.cli(&args);
        let answer: Value = serde_json::from_str(finished.text().trim()).unwrap_or_default();
        (finished.exit, answer["record_fault"].clone())
    };
    assert_eq!(with(&|_| {}), (Some(0), Value::Null));
    type Change<'a> = &'a dyn Fn(&mut Vec<String>);
    let cases: [(&str, Change<'_>); 4] = [
        ("altered", &|l| l[target] = l[target].replace("\"status\":200", "\"status\":403")),
        ("missing", &|l| drop(l.remove(target))),
        ("moved", &|l| l.swap(target, target + 1)),
        ("inserted", &|l| l.insert(target, l[target].replace("\"status\":200", "\"status\":403"))),
    ];
    for (kind, change) in cases {
        let (exit, fault) = with(change);
        assert_eq!(exit, Some(3), "{kind}: {fault}");
        let next_to_it = fault["line"].as_u64().unwrap().abs_diff(target as u64 + 1);
        assert!(fault["file"].as_str().unwrap().ends_with("taken.jsonl") && next_to_it <= 1, "{kind}: {fault}");
        assert_eq!(fault["boot"], line["boot"], "{kind}: {fault}");
        // A record that is moved into a batch of its own, or out of it, is missing there or put in here.
        let said = fault["kind"].as_str().unwrap();
        assert!(
            said == kind || (kind == "moved" && ["missing", "inserted", "altered"].contains(&said)),
            "{kind}: {fault}"
        );
    }
    // Taken away at the end: only who knows how far it came can tell, and the gateway does.
    fs::write(&copy, lines[..of("checkpoint")[5] + 1].concat()).unwrap();
    verify(&gate, &copy, &["--key", key.to_str().unwrap()]).ok();
    let found = verify(&gate, &copy, &[]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(found.text().contains("missing: the gateway has signed up to checkpoint"), "{}", found.text());
    verify(&gate, &copy, &["--part"]).ok();
    // Another gateway's key.
    let other = Gate::start();
    fs::write(&key, other.cli(&["audit", "key"]).ok()).unwrap();
    let found = verify(&gate, &copy, &["--key", key.to_str().unwrap()]);
    assert!(found.exit == Some(3) && found.text().contains("is none of those given"), "{}", found.text());
}

#[test]
fn files_are_verified_in_any_order_packed_or_not_and_whole_folders() {
    let gate = Gate::start();
    let folder = gate.dir.path().join("old");
    fs::create_dir(&folder).unwrap();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for n in 0..3 {
        gate.record_of(conn.request(GOOD).id());
        // As logrotate does it.
        fs::rename(file(&gate), folder.join(format!("records.jsonl.{}", 9 - n))).unwrap();
        await_some("a new file", || {
            conn.request(GOOD).expect(200);
            file(&gate).exists().then_some(())
        });
    }
    run(Command::new("gzip").arg(folder.join("records.jsonl.8")), b"").ok();
    fs::write(folder.join("notes.txt"), "no record\n").unwrap();
    gate.settle();
    let said = gate.cli(&["audit", "verify", "--records", file(&gate).to_str().unwrap(), folder.to_str().unwrap()]);
    assert!(said.stderr.contains("notes.txt: left out"), "{}", said.stderr);
    assert!(said.ok().contains("lines of the node"));
    // Named twice it is read once.
    let own = folder.join("records.jsonl.9");
    let twice = gate.cli(&[
        "audit",
        "verify",
        "--records",
        folder.to_str().unwrap(),
        own.to_str().unwrap(),
        file(&gate).to_str().unwrap(),
    ]);
    assert!(twice.stderr.contains("records.jsonl.9: is named twice, and read once"), "{}", twice.stderr);
    assert!(twice.ok().contains("lines of the node"));
    // What can be verified so can be replayed so.
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let replayed = |logs: &[&Path]| -> u64 {
        let logs: Vec<&str> = logs.iter().map(|log| log.to_str().unwrap()).collect();
        let said =
            gate.cli(&[&["policy", "replay", "--candidate", policies.to_str().unwrap(), "--log"], &logs[..]].concat());
        said.ok().split(' ').next().unwrap().parse().unwrap()
    };
    let packed = folder.join("records.jsonl.8.gz");
    assert!(replayed(&[&packed]) > 0);
    assert_eq!(replayed(&[&folder, &file(&gate)]), replayed(&[&folder]) + replayed(&[&file(&gate)]));
    fs::remove_file(folder.join("records.jsonl.8.gz")).unwrap();
    let found = gate.cli(&["audit", "verify", "--records", folder.to_str().unwrap(), file(&gate).to_str().unwrap()]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(found.text().contains("missing"), "{}", found.text());
}

#[test]
fn kill_under_load_loses_at_most_what_was_not_flushed_and_the_next_start_says_so() {
    let mut gate = Gate::start();
    let mut killed = None;
    let answered = load(&gate, 4, || {
        await_records(&gate, 300);
        killed = Some(Instant::now());
        gate.signal("KILL");
    });
    gate.process.ended();
    let killed = killed.unwrap();
    // A line that a crash has cut off, whether this one did so or not.
    let end = fs::metadata(file(&gate)).unwrap().len();
    fs::File::options().append(true).open(file(&gate)).unwrap().write_all(b"{\"schema\":\"partnergate.rec").unwrap();
    gate.begin();
    let answer = gate.dial().identity(&gate.acme).open().request(GOOD);
    let id = answer.expect(200).id().to_owned();
    await_some("the record of the next start", || gate.records_text().contains(&id).then_some(()));

    let text = gate.records_text();
    let written: HashSet<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["decision_id"].as_str().map(str::to_owned))
        .collect();
    let lost: Vec<&(String, Instant)> = answered.iter().filter(|(id, _)| !written.contains(id)).collect();
    for (id, when) in &lost {
        assert!(*when + WRITTEN_WITHIN > killed, "{id} was answered {:?} before the kill", killed - *when);
    }
    let told = text.get(usize::try_from(end).unwrap()..).unwrap();
    let told = told.lines().find(|line| line.contains("\"kind\":\"records-lost\"")).expect("a line of the loss");
    let told: Value = serde_json::from_str(told).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&told["seq"], &told["since"]["boot"]), (&1.into(), &first["boot"]), "{told}");
    assert_eq!((&told["ended"], &told["found"]["partial"]), (&false.into(), &true.into()), "{told}");
    assert_eq!(gate.metric("partnergate_records_unclean_start"), 1.0);
    gate.await_log("did not end in order");

    let said = verify(&gate, &file(&gate), &[]).ok();
    assert!(said.contains("LOST: the gateway did not end in order after boot"), "{said}");
    // What was found after the kill is not to be altered either.
    let cut = text.replace("{\"schema\":\"partnergate.rec\n", "{\"schema\":\"partnergate.rek\n");
    let copy = gate.dir.path().join("copy.jsonl");
    fs::write(&copy, cut).unwrap();
    assert_eq!(verify(&gate, &copy, &["--part"]).exit, Some(3));
    // An orderly end has nothing to tell.
    gate.restart("TERM");
    assert_eq!(gate.metric("partnergate_records_unclean_start"), 0.0);
    assert_eq!(gate.records_text().matches("\"kind\":\"records-lost\"").count(), 1);
}

#[test]
fn records_that_were_taken_away_while_the_gateway_was_down_are_missed() {
    let mut gate = Gate::start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    for _ in 0..5 {
        gate.record_of(conn.request(GOOD).id());
    }
    gate.stop("TERM");
    let text = gate.records_text();
    let kept: Vec<&str> = text.split_inclusive('\n').collect();
    let checkpoints: Vec<usize> = (0..kept.len()).filter(|n| kept[*n].contains("\"kind\":\"checkpoint\"")).collect();
    let short = kept[..=checkpoints[checkpoints.len() - 3]].concat();
    fs::write(file(&gate), short).unwrap();
    gate.begin();
    let answer = gate.dial().identity(&gate.acme).open().request(GOOD);
    await_some("the record", || gate.records_text().contains(answer.id()).then_some(()));
    let found = verify(&gate, &file(&gate), &[]);
    assert_eq!(found.exit, Some(3), "{}", found.text());
    assert!(found.text().contains("the gateway had ended in order"), "{}", found.text());
}

#[test]
fn records_on_stdout_have_the_same_checkpoints() {
    let mut gate = Setup::new().set("record.output", "stdout").start();
    let answer =
        gate.dial().identity(&gate.acme).open().request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let id = answer.expect(200).id().to_owned();
    await_some("the record", || gate.process.out().contains(&id).then_some(()));
    gate.stop("TERM");
    let out = gate.process.stdout.clone();
    verify(&gate, &out, &["--offline"]).ok();
}

/// Bounds, a file at a time.
fn rotating(rotate: Value) -> Gate {
    Setup::new().set("record.rotate", rotate).start()
}

/// Files of records, those that are done with first.
fn files(gate: &Gate) -> Vec<PathBuf> {
    let entries = fs::read_dir(gate.dir.path()).unwrap().flatten().map(|e| e.path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("records.jsonl");
    let mut files: Vec<PathBuf> = entries.filter(name).collect();
    let number = |path: &PathBuf| -> u64 {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.trim_end_matches(".gz").rsplit('.').next().unwrap().parse().unwrap_or(u64::MAX)
    };
    files.sort_by_key(number);
    files
}

#[test]
fn file_that_is_begun_anew_under_load_loses_no_line() {
    let gate = rotating(serde_json::json!({"max_size": "64KiB", "compress": true}));
    let answered = load(&gate, 4, || {
        await_some("many files", || (files(&gate).len() > 8).then_some(()));
    });
    gate.settle();
    await_some("all but the last packed", || {
        let files = files(&gate);
        files[..files.len() - 1].iter().all(|p| p.extension().is_some_and(|e| e == "gz")).then_some(())
    });
    let said = verify(&gate, gate.dir.path(), &[]).ok();
    assert!(said.contains("lines of the node") && !said.contains("LOST"), "{said}");
    let mut ids = HashSet::new();
    for path in files(&gate) {
        let text = run(Command::new("zcat").arg("-f").arg(&path), b"").ok();
        assert!(fs::metadata(&path).unwrap().len() <= 128 * 1024, "{}", path.display());
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["kind"], "checkpoint", "{}", path.display());
        ids.extend(
            text.lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).unwrap()["decision_id"].as_str().map(str::to_owned)),
        );
    }
    let missing = answered.iter().filter(|(id, _)| !ids.contains(id)).count();
    assert_eq!(missing, 0, "of {}", answered.len());
}

#[test]
fn only_as_many_files_stay_as_are_to_and_a_period_ends_one() {
    use std::os::unix::fs::PermissionsExt;
    let mut gate = rotating(serde_json::json!({"every": "1s", "keep": 2}));
    let mut conn = gate.dial().identity(&gate.acme).open();
    let mut seen = HashSet::new();
    await_some("several periods", || {
        gate.record_of(conn.request(GOOD).id());
        let files = files(&gate);
        assert!(
            files.iter().all(|p| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o777 == 0o600) || !p.exists())
        );
        seen.extend(files);
        // Whoever verifies while it goes on finds nothing wrong.
        let found = verify(&gate, gate.dir.path(), &[]);
        let moving = found.stderr.contains("change while they are looked at");
        assert!(found.exit == Some(0) || moving, "{}{}", found.text(), found.stderr);
        (seen.len() > 5).then_some(())
    });
    await_some("the removal", || (files(&gate).len() == 3).then_some(()));
    // What is gone is gone by its age, and so is at the beginning.
    let said = verify(&gate, gate.dir.path(), &[]).ok();
    assert!(said.contains("they begin with checkpoint"), "{said}");
    gate.restart("KILL");
    verify(&gate, gate.dir.path(), &[]).ok();
    drop(conn);
}

#[test]
fn file_that_cannot_be_begun_anew_goes_on() {
    let mut setup = Setup::new().set("record.rotate", serde_json::json!({"max_size": "8KiB"}));
    let folder = setup.dir.path().join("log");
    fs::create_dir(&folder).unwrap();
    setup = setup
        .set("record.output", format!("file:{}", folder.join("records.jsonl").display()))
        .set("record.stdout", true);
    let gate = setup.start();
    let lock =
        |on: bool| run(Command::new("chattr").arg(if on { "+a" } else { "-a" }).arg(&folder), b"").exit == Some(0);
    if !lock(true) {
        // No file system for it: what is on stdout is still to be whole.
        skipped("folder that files cannot be renamed in (`chattr +a`)");
    }
    let mut conn = gate.dial().identity(&gate.acme).open();
    let mut last = String::new();
    for _ in 0..50 {
        last = conn.request(GOOD).expect(200).id().to_owned();
    }
    await_some("the last record on stdout", || gate.process.out().contains(&last).then_some(()));
    lock(false);
    gate.cli(&["audit", "verify", "--records", folder.to_str().unwrap()]).ok();
    let out = gate.process.stdout.clone();
    gate.cli(&["audit", "verify", "--records", out.to_str().unwrap()]).ok();
}

#[test]
fn rotation_that_makes_no_sense_is_refused_with_its_place() {
    for (key, value, said) in [
        ("record.rotate", serde_json::json!({"keep": 3}), "does not say when a file is done with"),
        ("record.rotate", serde_json::json!({"max_size": "1B"}), "outside"),
        ("record.output", "stdout".into(), "is only for records in a file"),
    ] {
        let setup = Setup::new().set("record.rotate", serde_json::json!({"every": "1d"})).set(key, value);
        let (exit, log) = setup.start_expecting_failure();
        assert!(exit == Some(3) && log.contains(said) && log.contains("partnergate.yaml:"), "{key}: {log}");
    }
}
