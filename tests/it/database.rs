//! The database as files: copies of it with its keys, and back from one.

use crate::harness::{Finished, Gate, HOST, Setup, await_some, this_user};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn status(gate: &Gate, who: &crate::harness::Identity) -> Option<u16> {
    let mut conn = match gate.dial().identity(who).handshake() {
        crate::harness::Tried::Open(conn) => conn,
        _ => return None,
    };
    conn.try_send(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).ok()?;
    conn.try_response().ok().map(|answer| answer.status)
}

fn db(gate: &Gate, arguments: &[&str]) -> Finished {
    gate.cli(&[&["db"], arguments].concat())
}

fn suspended(gate: &Gate) -> String {
    gate.registry_text().replace("name: Globex Corporation", "name: Globex Corporation\n    state: suspended")
}

fn backed_up(gate: &Gate, name: &str) -> PathBuf {
    let folder = gate.dir.path().join(name);
    db(gate, &["backup", folder.to_str().unwrap()]).ok();
    folder
}

fn refused(finished: &Finished, said: &str) {
    assert_eq!(finished.exit, Some(3), "{}{}", finished.text(), finished.stderr);
    assert!(finished.stderr.contains(said), "no `{said}` in {}", finished.stderr);
}

#[test]
fn copy_of_a_running_gateway_is_whole_and_a_gateway_goes_on_from_it() {
    let mut gate = Gate::start();
    gate.apply(&suspended(&gate));
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (Some(200), Some(403)));
    let masked = |gate: &Gate| {
        let answer =
            gate.dial().identity(&gate.acme).open().request(format!("GET /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        gate.record_of(answer.id())["input"]["request"]["path"].clone()
    };
    let hidden = masked(&gate);
    let folder = backed_up(&gate, "copy");
    for file in ["registry.db", "history.key", "record.key", "manifest.json"] {
        let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    refused(&db(&gate, &["backup", folder.to_str().unwrap()]), "is there already and not empty");
    assert!(db(&gate, &["verify", folder.to_str().unwrap()]).ok().starts_with("good: registry revision 2 of "));

    // The drill: a machine that has nothing but the config and the copy.
    let state = gate.dir.path().join("state");
    let running = db(&gate, &["restore", folder.to_str().unwrap(), "--reason", "drill"]);
    assert_eq!(running.exit, Some(1), "{}", running.stderr);
    assert!(running.stderr.contains("another partnergate is using"), "{}", running.stderr);
    gate.stop("TERM");
    fs::remove_dir_all(&state).unwrap();
    let said = db(&gate, &["restore", folder.to_str().unwrap(), "--reason", "drill", "--ticket", "OPS-1"]).ok();
    assert!(said.starts_with("restored: registry revision 2 of "), "{said}");
    gate.begin();
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (Some(200), Some(403)));
    assert_eq!(masked(&gate), hidden, "the key of the hashes in records came along");
    gate.cli(&["audit", "verify"]).ok();
    let history = gate.cli(&["history", "all", "--output", "json"]).ok();
    let last: Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["verb"], &last["noun"], &last["reason"]),
        (&"restore".into(), &"history".into(), &"drill".into())
    );
    assert_eq!((&last["ticket"], &last["after"]["revision"]), (&"OPS-1".into(), &2.into()));
    // And life goes on.
    gate.apply(gate.registry_text());
    await_some("globex", || (status(&gate, &gate.globex) == Some(200)).then_some(()));
    gate.cli(&["audit", "verify"]).ok();
}

#[test]
fn copy_that_was_touched_or_is_not_whole_is_not_taken_back() {
    let mut gate = Gate::start();
    let folder = backed_up(&gate, "copy");
    gate.stop("TERM");
    fs::remove_dir_all(gate.dir.path().join("state")).unwrap();
    let restore = |gate: &Gate| db(gate, &["restore", folder.to_str().unwrap(), "--reason", "x"]);
    let database = folder.join("registry.db");
    let good = fs::read(&database).unwrap();
    let mut other = good.clone();
    *other.last_mut().unwrap() ^= 1;
    for (bytes, said) in
        [(&other[..], "is not what was backed up"), (&good[..good.len() / 2], "is not what was backed up")]
    {
        fs::write(&database, bytes).unwrap();
        refused(&db(&gate, &["verify", folder.to_str().unwrap()]), said);
        refused(&restore(&gate), said);
    }
    fs::remove_file(&database).unwrap();
    refused(&restore(&gate), "registry.db`: does not exist");
    fs::write(&database, &good).unwrap();
    // A manifest that leads out of the copy.
    let manifest = folder.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"record.key\"", "\"../records.jsonl\"")).unwrap();
    refused(&restore(&gate), "is not what was backed up");
    for (from, to) in [("\"registry.db\"", "\"registry\""), ("\"form\": 1", "\"form\": 2")] {
        assert!(text.contains(from));
        fs::write(&manifest, text.replace(from, to)).unwrap();
        refused(&restore(&gate), "is no manifest of form 1 with `registry.db` in it");
    }
    fs::remove_file(&manifest).unwrap();
    refused(&restore(&gate), "manifest.json`: does not exist");
    assert!(!gate.dir.path().join("state/registry.db").exists());
    fs::write(&manifest, text).unwrap();
    // A key without its database, and a journal that would be put into another one, are not written over either.
    for left in ["history.key", "registry.db-wal"] {
        let left = gate.dir.path().join("state").join(left);
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(&left, "left").unwrap();
        refused(&restore(&gate), "is there already: --replace moves what is in its place aside");
        assert_eq!(fs::read(&left).unwrap(), b"left");
        fs::remove_file(&left).unwrap();
    }
    restore(&gate).ok();
}

/// Going back to an older state must not let in who was thrown out since.
#[test]
fn restore_over_a_registry_names_the_denials_that_it_would_forget() {
    let mut gate = Gate::start();
    let folder = backed_up(&gate, "copy");
    let serial = gate.acme.serial();
    gate.cli(&["anchor", "deny", "acme-ca", "--serial", &serial, "--reason", "stolen"]).ok();
    gate.cli(&["partner", "suspend", "globex", "--reason", "odd"]).ok();
    let shown = gate.cli(&["operator", "show", "second"]).ok();
    let id = shown.lines().find_map(|l| l.trim().strip_prefix("shown by  token ")?.split(' ').next()).unwrap();
    gate.cli(&["operator", "token", "revoke", "second", id, "--reason", "leaked"]).ok();
    gate.cli(&["operator", "disable", "second", "--reason", "left"]).ok();
    gate.stop("KILL");
    let restore = |gate: &Gate, more: &[&str]| {
        db(gate, &[&["restore", folder.to_str().unwrap(), "--reason", "x"], more].concat())
    };
    refused(&restore(&gate, &[]), "--replace moves what is in its place aside");
    refused(&restore(&gate, &["--replace"]), "let in again by it: serial ");
    refused(&restore(&gate, &["--replace"]), "under `acme-ca`, the partner `globex`, the operator `second`, ");
    refused(&restore(&gate, &["--replace"]), &format!("the token {id} of `second`; --forget-denials goes on"));
    // What cannot be read could deny anybody.
    let database = gate.dir.path().join("state/registry.db");
    let current = fs::read(&database).unwrap();
    gate.begin();
    assert_eq!(status(&gate, &gate.acme), None, "nothing was changed");
    gate.stop("TERM");
    fs::write(&database, &current[..100]).unwrap();
    refused(&restore(&gate, &["--replace"]), "nobody knows which certificates it denies");
    let said = restore(&gate, &["--replace", "--forget-denials"]).ok();
    let aside = said.lines().find_map(|line| line.strip_prefix("what was there is in ")).unwrap();
    assert_eq!(fs::read(Path::new(aside).join("registry.db")).unwrap(), current[..100]);
    gate.begin();
    assert_eq!(status(&gate, &gate.acme), Some(200));
    // The records know of the denial, and the auditor is told that it was taken back.
    let records = gate.dir.path().join("records.jsonl");
    let verify = |gate: &Gate| gate.cli(&["audit", "verify", "--records", records.to_str().unwrap()]);
    await_some("the copy of the restore", || gate.records_text().contains("\"verb\":\"restore\"").then_some(()));
    let said = verify(&gate).ok();
    assert!(
        said.starts_with("good: ") && said.contains("\n4 events in the records were taken back by a restore"),
        "{said}"
    );
    // What was before the restore's place is no less than it was.
    let text = fs::read_to_string(&records).unwrap();
    let forged = text
        .lines()
        .find(|line| line.contains("\"event\":{\"seq\":5,"))
        .unwrap()
        .replace("\"revision\":1", "\"revision\":9");
    fs::write(&records, format!("{text}{forged}\n")).unwrap();
    let finished = verify(&gate);
    assert_eq!(finished.exit, Some(3), "{}", finished.text());
    assert!(finished.text().contains("event 5 is another one in the records"), "{}", finished.text());
}

#[test]
fn status_of_a_database_and_its_migration_are_told() {
    let mut gate = Gate::start();
    let said = db(&gate, &["status"]).ok();
    assert!(
        said.contains("registry  revision 1: 2 partners, 1 networks, 2 anchors") && said.contains("file      sound"),
        "{said}"
    );
    let told: Value = serde_json::from_str(&db(&gate, &["status", "--output", "json"]).ok()).unwrap();
    assert_eq!((&told["schema"], &told["revision"], &told["faults"]), (&12.into(), &1.into(), &Value::Array(vec![])));
    let migrate = db(&gate, &["migrate"]);
    assert_eq!(migrate.exit, Some(1), "a gateway runs on it: {}", migrate.stderr);
    gate.stop("TERM");
    assert_eq!(db(&gate, &["migrate"]).ok().trim(), "the tables are of version 12 already");
    let setup = Setup::new();
    fs::write(setup.config_file(), setup.config().to_string()).unwrap();
    assert!(setup.cli(&["db", "status"]).stderr.contains("there is no database"));
}

/// Everybody who could let somebody in is gone: who has the machine gets back in, and it shows.
#[test]
fn operator_is_added_with_the_gateway_stopped() {
    let mut gate = Gate::start();
    let token = gate.dir.path().join("rescue");
    let way = format!("rescue=token:{}", token.display());
    let add = |gate: &Gate, operator: &str| db(gate, &["operator", operator, "--reason", "nobody else is left"]);
    let running = add(&gate, &way);
    assert_eq!(running.exit, Some(1), "{}", running.text());
    assert!(running.stderr.contains("another partnergate"), "{}", running.stderr);
    gate.stop("TERM");
    refused(&add(&gate, "second=token"), "there is an operator `second` already");
    refused(&add(&gate, "rescue"), "write NAME=user:USER");
    let said = add(&gate, &way).ok();
    assert!(said.contains("viewer, requester, approver, operator, auditor") && !said.contains("pgo_"), "{said}");
    gate.begin();
    let token = format!("file:{}", token.display());
    gate.cli(&["--token", &token, "reload"]).ok();
    let shown = gate.cli(&["history", "operator", "rescue"]).ok();
    assert!(shown.contains(&format!("by {} (offline): nobody else is left", this_user())), "{shown}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// One call over the admin socket; `None` where the gateway was not there to answer it.
fn try_put(socket: &Path, name: &str) -> Option<u16> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let body = r#"{"set": {"cidrs": ["192.0.2.0/24"]}}"#;
    let head = format!(
        "PUT /v1/networks/{name} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// What was acknowledged is there, whenever the gateway is killed; what was not is there whole or not at all.
#[test]
fn kills_at_random_during_a_thousand_writes_lose_nothing_that_was_acknowledged() {
    const WRITES: usize = 1_000;
    let mut gate = Gate::start();
    let socket = gate.dir.path().join("state/admin.sock");
    let acknowledged = Mutex::new(Vec::new());
    let kills = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 0;
            while acknowledged.lock().unwrap().len() < WRITES {
                let name = format!("n-{n}");
                match try_put(&socket, &name) {
                    Some(200) => acknowledged.lock().unwrap().push(name),
                    // It may be there or not: another name is next.
                    None => std::thread::yield_now(),
                    Some(status) => panic!("{name}: {status}"),
                }
                n += 1;
            }
        });
        let mut random = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos() | 1;
        let mut due = 0;
        while !writer.is_finished() {
            // xorshift: enough to be nowhere in particular.
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            due += 40 + random as usize % 160;
            let moment = Duration::from_micros(u64::from(random % 4_000));
            await_some("the next kill", || {
                let count = acknowledged.lock().unwrap().len();
                (count >= due || count >= WRITES).then_some(())
            });
            if due < WRITES {
                // Somewhere within a write.
                let begun = std::time::Instant::now();
                while begun.elapsed() < moment {
                    std::hint::spin_loop();
                }
                gate.restart("KILL");
                kills.fetch_add(1, Ordering::Relaxed);
            }
        }
        writer.join().unwrap();
    });
    let (acknowledged, kills) = (acknowledged.into_inner().unwrap(), kills.into_inner());
    assert!(kills >= 4, "{kills} kills");
    let listed = gate.cli(&["network", "list"]).ok();
    let there: std::collections::HashSet<&str> = listed.lines().filter_map(|l| l.split_whitespace().next()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "after {kills} kills: {lost:?}");
    let events = gate.cli(&["history", "all", "--output", "json"]).ok();
    let told = events.lines().filter(|line| line.contains("\"noun\":\"network\",\"id\":\"n-")).count();
    let made = there.iter().filter(|name| name.starts_with("n-")).count();
    assert_eq!(told, made, "an event each, and none of what is not there");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// Threat 29: a database that is gone takes nothing with it that somebody was told is done.
#[test]
fn database_that_is_gone_is_said_and_nothing_is_lost_with_it() {
    let mut gate = Gate::start();
    let folder = backed_up(&gate, "copy");
    let state = gate.dir.path().join("state");
    let database = state.join("registry.db");
    let aside = gate.dir.path().join("aside");
    fs::create_dir(&aside).unwrap();
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        let _ = fs::rename(state.join(name), aside.join(name));
    }
    let edited = gate.cli(&["partner", "edit", "acme", "--owner", "somebody", "--reason", "x"]);
    assert_eq!(edited.exit, Some(1), "{}", edited.text());
    assert!(edited.stderr.contains("is gone, or another file is in its place"), "{}", edited.text());
    assert_eq!(gate.metric("partnergate_registry_last_update_successful"), 0.0);
    await_some("the look at it", || (gate.metric("partnergate_database_ok") == 0.0).then_some(()));
    assert!(gate.cli(&["status"]).ok().contains("DATABASE     cannot be used"));
    // Another file in its place is no database of this gateway either.
    fs::copy(folder.join("registry.db"), &database).unwrap();
    let edited = gate.cli(&["partner", "edit", "acme", "--owner", "somebody", "--reason", "x"]);
    assert!(edited.exit == Some(1) && edited.stderr.contains("is gone, or"), "{}", edited.text());
    fs::remove_file(&database).unwrap();
    // Requests go on, and the switches work.
    assert_eq!(status(&gate, &gate.acme), Some(200));
    let said = gate.cli(&["partner", "suspend", "acme", "--reason", "odd traffic"]).ok();
    assert!(said.contains("NOT IN THE DATABASE YET"), "{said}");
    assert_eq!(status(&gate, &gate.acme), Some(403));
    assert!(state.join("switches.json").exists());
    // An empty registry is no start.
    gate.stop("KILL");
    let (exit, log) = gate.start_expecting_failure();
    assert!(exit == Some(1) && log.contains("the key of its history beside it says that there was one"), "{log}");
    assert!(!database.exists(), "none is made");
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        let _ = fs::rename(aside.join(name), state.join(name));
    }
    gate.begin();
    assert_eq!(status(&gate, &gate.acme), Some(403), "what was switched is in force");
    await_some("all of it in the database", || (gate.metric("partnergate_unsaved_switches") == 0.0).then_some(()));
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}
