//! Locking down, and switches that work while the database does not.

use crate::harness::{Finished, Gate, HOST, Identity, Setup, TlsConn, await_some, this_user};
use crate::websocket;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use std::time::{Duration, Instant};

fn get() -> String {
    format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn status(gate: &Gate, who: &Identity) -> u16 {
    gate.dial().identity(who).open().request(get()).status
}

fn socket(gate: &Gate) -> TlsConn {
    let mut socket = gate.dial().identity(&gate.acme).open();
    socket.request(websocket::handshake("/events")).expect(101);
    socket
}

#[track_caller]
fn refused(finished: &Finished, exit: i32, said: &str) {
    assert_eq!(finished.exit, Some(exit), "{}{}", finished.text(), finished.stderr);
    assert!(finished.stderr.contains(said), "no `{said}` in {}", finished.stderr);
}

#[test]
fn lockdown_denies_everybody_at_once_until_it_is_taken_back() {
    let mut gate = Gate::start();
    let mut open = socket(&gate);
    let mut idle = gate.dial().identity(&gate.globex).open();
    idle.request(get()).expect(200);
    let said = gate.cli(&["lockdown", "on", "--reason", "we are being drained", "--ticket", "INC-3"]).ok();
    assert_eq!(said, "the lockdown of everybody is in force from now on (registry revision 2)\n");
    open.assert_closed();
    assert_eq!(gate.await_record("the cut", |r| r["kind"] == "stream-cut")["reason"], "lockdown");
    for who in [&gate.acme, &gate.globex] {
        let answer = gate.dial().identity(who).open().request(get());
        assert_eq!((answer.status, answer.code()), (503, "unavailable".into()));
        let record = gate.record_of(answer.header("x-request-id").unwrap());
        assert_eq!((&record["reason"], &record["result"]), (&"lockdown".into(), &"deny".into()));
    }
    let shown = gate.cli(&["status"]).ok();
    let line = format!("LOCKDOWN     of everybody by {} since ", this_user());
    assert!(shown.contains(&line) && shown.contains(": we are being drained"), "{shown}");
    assert_eq!(gate.metric("partnergate_lockdowns"), 1.0);
    assert!(gate.cli(&["lockdown", "on", "--reason", "x"]).ok().contains("is in force already"));

    // Neither files nor a restart take it back.
    gate.apply(gate.registry_text());
    gate.restart("KILL");
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (503, 503));
    let said = gate.cli(&["lockdown", "off", "--reason", "was a load test"]).ok();
    assert!(said.starts_with("the lockdown of everybody is over"), "{said}");
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (200, 200));
    assert!(gate.cli(&["lockdown", "off", "--reason", "x"]).ok().contains("was not in force"));
    let history = gate.cli(&["history", "all"]).ok();
    assert!(history.contains("create lockdown *") && history.contains("[INC-3]: we are being drained"), "{history}");
    assert!(history.contains("remove lockdown *") && history.contains(": was a load test"), "{history}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn lockdown_of_an_anchor_denies_what_comes_under_it_alone() {
    let gate = Gate::start();
    let mut open = socket(&gate);
    let mut globex = gate.dial().identity(&gate.globex).open();
    globex.request(get()).expect(200);
    refused(
        &gate.cli(&["lockdown", "on", "--anchor", "acme", "--reason", "x"]),
        3,
        "known anchors: acme-ca, globex-ca",
    );
    refused(&gate.cli(&["lockdown", "on", "--anchor", "*", "--reason", "x"]), 3, "leave `anchor` out for everybody");
    refused(&gate.cli(&["lockdown", "on", "--reason", " "]), 3, "a reason is needed");
    let said = gate.cli(&["lockdown", "on", "--anchor", "acme-ca", "--reason", "their CA is broken into"]).ok();
    assert_eq!(said, "the lockdown of everybody under `acme-ca` is in force from now on (registry revision 2)\n");
    open.assert_closed();
    assert_eq!(status(&gate, &gate.acme), 503);
    globex.request(get()).expect(200);
    // Everybody beside it, and that taken back, leaves it.
    gate.cli(&["lockdown", "on", "--reason", "all of it"]).ok();
    assert_eq!(status(&gate, &gate.globex), 503);
    let said = gate.cli(&["lockdown", "off", "--reason", "not all of it"]).ok();
    assert!(said.ends_with("still locked down: acme-ca\n"), "{said}");
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (503, 200));
    assert!(gate.cli(&["status"]).ok().contains("LOCKDOWN     of everybody under acme-ca by "));
    gate.cli(&["lockdown", "off", "--anchor", "acme-ca", "--reason", "their CA is new"]).ok();
    assert_eq!(status(&gate, &gate.acme), 200);
}

/// Somebody who has the database and does not let go of it. Readers are not kept out; whoever writes is.
pub struct Held {
    runtime: tokio::runtime::Runtime,
    database: SqliteConnection,
}

impl Held {
    pub fn of(gate: &Gate) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let database = runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(gate.dir.path().join("state/registry.db"));
            let mut database = options.connect().await.unwrap();
            sqlx::query("BEGIN IMMEDIATE").execute(&mut database).await.unwrap();
            database
        });
        Held { runtime, database }
    }

    pub fn let_go(self) {
        let Held { runtime, database } = self;
        runtime.block_on(async { database.close().await.unwrap() });
    }
}

const UNSAVED: &str = "NOT IN THE DATABASE YET";

#[test]
fn switches_work_while_the_database_does_not_and_are_saved_when_it_is_back() {
    let gate = Gate::start();
    let held = Held::of(&gate);
    let began = Instant::now();
    let said = gate.cli(&["partner", "suspend", "acme", "--reason", "odd traffic"]).ok();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(said.contains("`acme` is suspended from now on") && said.contains(UNSAVED), "{said}");
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (403, 200));
    // The next ones, too, in their order.
    let said = gate.cli(&["lockdown", "on", "--reason", "all of it"]).ok();
    assert!(said.contains(UNSAVED), "{said}");
    assert_eq!(status(&gate, &gate.globex), 503);
    let serial = gate.globex.serial();
    let said = gate.cli(&["anchor", "deny", "globex-ca", "--serial", &serial, "--reason", "leaked"]).ok();
    assert!(said.contains(UNSAVED), "{said}");
    assert_eq!(gate.metric("partnergate_unsaved_switches"), 3.0);
    assert_eq!(gate.metric("partnergate_registry_last_update_successful"), 0.0);
    assert!(gate.cli(&["status"]).ok().contains("UNSAVED      3 switches"));
    // What is no switch is not done, and says why.
    let failed = gate.try_apply(&gate.registry_text().replace("Acme GmbH", "Acme AG"));
    assert_eq!(failed.exit, Some(1), "{}", failed.text());

    held.let_go();
    await_some("all of it in the database", || (gate.metric("partnergate_unsaved_switches") == 0.0).then_some(()));
    assert!(!gate.dir.path().join("state/switches.json").exists());
    gate.cli(&["lockdown", "off", "--reason", "over"]).ok();
    assert_eq!(status(&gate, &gate.acme), 403);
    let alert = gate.dial().identity(&gate.globex).refused();
    assert_eq!(alert, Some(rustls::AlertDescription::CertificateRevoked));
    let history = gate.cli(&["history", "all"]).ok();
    for said in [": odd traffic", ": all of it", ": leaked"] {
        assert_eq!(history.matches(said).count(), 1, "{said}: {history}");
    }
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
    // And what comes then is changed on top of it.
    gate.apply(&gate.registry_text().replace("Acme GmbH", "Acme AG"));
    assert_eq!(status(&gate, &gate.acme), 403);
}

/// Threat 29: killed before the database was back.
#[test]
fn switch_that_is_not_in_the_database_outlives_a_kill() {
    let mut gate = Gate::start();
    let held = Held::of(&gate);
    assert!(gate.cli(&["partner", "suspend", "acme", "--reason", "odd traffic"]).ok().contains(UNSAVED));
    assert!(gate.cli(&["grant", "revoke", "globex-items", "--yes", "--reason", "leaked"]).ok().contains(UNSAVED));
    let file = gate.dir.path().join("state/switches.json");
    let kept = std::fs::read(&file).unwrap();
    gate.stop("KILL");
    held.let_go();
    gate.begin();
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (403, 403));
    await_some("both in the database", || (!file.exists()).then_some(()));
    gate.restart("TERM");
    assert_eq!((status(&gate, &gate.acme), status(&gate, &gate.globex)), (403, 403));
    let history = gate.cli(&["history", "partner", "acme"]).ok();
    assert!(history.contains(&format!("by {} (admin-socket): odd traffic", this_user())), "{history}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));

    // Killed between the database and the file: what it has already is done.
    gate.stop("TERM");
    std::fs::write(&file, kept).unwrap();
    gate.begin();
    assert!(!file.exists());
    assert_eq!(gate.metric("partnergate_snapshot_registry_revision"), 3.0);
    // For another state of the database nobody knows what it would stop.
    gate.stop("TERM");
    std::fs::write(&file, "{\"revision\": 77, \"switches\": []}").unwrap();
    let (exit, log) = gate.start_expecting_failure();
    assert_eq!(exit, Some(3), "{log}");
    assert!(log.contains("is for revision 77 of the registry, which is at 3") && log.contains("stop again"), "{log}");
    std::fs::write(&file, "half").unwrap();
    let (exit, log) = gate.start_expecting_failure();
    assert_eq!(exit, Some(3), "{log}");
    assert!(log.contains("switches.json") && log.contains("cannot be read"), "{log}");
}

/// A gateway that begins with a lockdown of its copy.
#[test]
fn lockdown_is_in_a_backup_and_is_not_forgotten_by_a_restore() {
    let mut gate = Setup::new().start();
    let copy = gate.dir.path().join("copy");
    gate.cli(&["db", "backup", copy.to_str().unwrap()]).ok();
    gate.cli(&["lockdown", "on", "--reason", "all of it"]).ok();
    gate.stop("TERM");
    let restore = ["db", "restore", copy.to_str().unwrap(), "--replace", "--reason", "x"];
    refused(&gate.cli(&restore), 3, "the lockdown of `*`");
    gate.cli(&[&restore[..], &["--forget-denials"]].concat()).ok();
    gate.begin();
    assert_eq!(status(&gate, &gate.acme), 200);
}
