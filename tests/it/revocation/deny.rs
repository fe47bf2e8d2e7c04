//! Single certificates that an operator denies.

use super::*;
use crate::harness::{Finished, run};
use rustls::AlertDescription;
use std::process::Command;

fn deny(gate: &Gate, verb: &str, name: &str, certificate: (&str, &str)) -> Finished {
    gate.cli(&["anchor", verb, name, certificate.0, certificate.1, "--reason", "key was leaked"])
}

fn serial_of(file: &std::path::Path) -> String {
    let mut command = Command::new("openssl");
    let printed = run(command.args(["x509", "-noout", "-serial", "-in"]).arg(file), b"").ok();
    printed.trim().to_owned()
}

fn fingerprint_of(file: &std::path::Path) -> String {
    let mut command = Command::new("openssl");
    let printed = run(command.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(file), b"").ok();
    printed.trim().split_once('=').unwrap().1.to_owned()
}

#[test]
fn certificate_that_is_denied_is_cut_and_refused_until_it_is_undenied() {
    let setup = Setup::new();
    let issuing = setup.pki.intermediate(&setup.acme_ca, "issuing", |_| {});
    let below = client(&setup, &issuing, "below", &[]);
    let other = client(&setup, &setup.acme_ca, "other", &[]);
    let gate = setup.start();
    let mut others = Opened::of(&gate, &other);
    let mut globex = gate.dial().identity(&gate.globex).open();
    // As the certificate's owner would read it out, in openssl's spelling.
    for (n, (who, certificate)) in [
        (&gate.acme, ("--serial", serial_of(&gate.acme.chain_file))),
        (&gate.acme, ("--fingerprint", fingerprint_of(&gate.acme.chain_file))),
        (&gate.acme, ("--serial", gate.acme.serial())),
        (&below, ("--fingerprint", hex::encode(ring::digest::digest(&ring::digest::SHA256, &issuing.der)))),
        (&below, ("--serial", serial_of(&issuing.pem_file))),
    ]
    .into_iter()
    .enumerate()
    {
        let certificate = (certificate.0, certificate.1.as_str());
        let mut socket = socket(&gate, who);
        // What is idle takes its time to end: once is enough.
        let opened = (n == 0).then(|| Opened::of(&gate, who));
        let said = deny(&gate, "deny", "acme-ca", certificate).ok();
        assert!(said.contains("is denied from now on under `acme-ca`"), "{said}");
        socket.assert_closed();
        if let Some(opened) = opened {
            opened.assert_ended();
        }
        // The first has two.
        let record =
            await_some("the cut", || gate.records().into_iter().filter(|r| r["kind"] == "stream-cut").nth(n + 1));
        assert_eq!(record["reason"], "certificate-revoked", "{certificate:?} {record}");
        let alert = refused(&gate, who, "certificate-revoked");
        assert_eq!(alert, Some(AlertDescription::CertificateRevoked), "{certificate:?}");
        others.assert_live();
        globex.request(get("/items")).expect(200);
        let again = deny(&gate, "deny", "acme-ca", certificate).ok();
        assert!(again.contains("is denied already"), "{again}");

        let said = deny(&gate, "undeny", "acme-ca", certificate).ok();
        assert!(said.contains("is not denied any more"), "{said}");
        accepted(&gate, who);
        assert!(deny(&gate, "undeny", "acme-ca", certificate).ok().contains("is not denied under"));
    }
    assert_eq!(gate.metric("partnergate_revocation_enforcement_seconds_count"), 5.0);
}

#[test]
fn denial_is_shown_with_reason_and_author_and_outlives_a_restart_and_an_apply() {
    let mut gate = Gate::start();
    let who = run(Command::new("id").arg("-un"), b"").ok();
    deny(&gate, "deny", "acme-ca", ("--fingerprint", &gate.acme.fingerprint())).ok();
    let text = gate.registry_text().to_owned();
    for change in ["", "restart", "apply"] {
        match change {
            "restart" => gate.restart("KILL"),
            // As it was before, and with something else changed.
            "apply" => {
                gate.apply(&text);
                gate.apply(&text.replace("partners: [acme]", "partners: [acme], max_lifetime: 90d"));
            }
            _ => {}
        }
        let shown = anchor(&gate, "acme-ca");
        let denied = &shown["denied"][0];
        assert_eq!(denied["certificate"]["fingerprint"], gate.acme.fingerprint(), "{change} {shown}");
        assert_eq!((&denied["reason"], &denied["author"]), (&"key was leaked".into(), &who.trim().into()));
        let people = gate.cli(&["anchor", "show", "acme-ca"]).ok();
        assert!(people.contains(&format!("by {}: key was leaked", who.trim())), "{people}");
        refused(&gate, &gate.acme, "certificate-revoked");
        accepted(&gate, &gate.globex);
    }
    // And it goes where the registry goes.
    let out = gate.dir.path().join("export");
    gate.cli(&["export", "--directory", out.to_str().unwrap()]).ok();
    let files = std::fs::read_dir(&out).unwrap().flatten().map(|e| e.path());
    let export: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    assert!(export.contains(&gate.acme.fingerprint()) && export.contains("key was leaked"), "{export}");
    let table = gate.cli(&["anchor", "list"]).ok();
    let row = table.lines().find(|l| l.starts_with("acme-ca")).unwrap();
    assert!(row.ends_with(" 1"), "{table}");
}

#[test]
fn denial_that_cannot_be_is_refused_with_what_to_do() {
    let gate = Gate::start();
    let revision = gate.metric("partnergate_snapshot_registry_revision");
    for name in ["acmee-ca", "Acme CA", "acme/../ca", "ä"] {
        let unknown = deny(&gate, "deny", name, ("--serial", "0a"));
        assert_eq!(unknown.exit, Some(3), "{name}: {}", unknown.stderr);
        let shown = gate.cli(&["anchor", "show", name]);
        assert_eq!(shown.exit, Some(3), "{name}: {}", shown.stderr);
        if name == "acmee-ca" {
            for said in [&unknown.stderr, &shown.stderr] {
                assert!(said.contains("there is no anchor `acmee-ca`"), "{said}");
                assert!(said.contains("known anchors: acme-ca, globex-ca"), "{said}");
            }
        }
    }
    for certificate in [("--serial", "no-hex"), ("--fingerprint", "0a0b"), ("--serial", "")] {
        let bad = deny(&gate, "deny", "acme-ca", certificate);
        assert_eq!(bad.exit, Some(3), "{certificate:?}: {}{}", bad.text(), bad.stderr);
    }
    // That would look done and change nothing.
    let own = deny(&gate, "deny", "acme-ca", ("--fingerprint", &fingerprint_of(&gate.acme_ca.pem_file)));
    assert_eq!((own.exit, own.stderr.contains("remove the anchor")), (Some(3), true), "{}", own.stderr);
    let no_reason = gate.cli(&["anchor", "deny", "acme-ca", "--serial", "0a", "--reason", " "]);
    assert_eq!((no_reason.exit, no_reason.stderr.contains("a reason is needed")), (Some(3), true));
    for usage in [
        &["anchor", "deny", "acme-ca", "--reason", "x"][..],
        &["anchor", "deny", "acme-ca", "--serial", "0a", "--fingerprint", "0a", "--reason", "x"],
        &["anchor", "deny", "acme-ca", "--serial", "0a"],
        &["anchor", "undeny", "acme-ca", "--reason", "x"],
    ] {
        assert_eq!(gate.cli(usage).exit, Some(2), "{usage:?}");
    }
    assert_eq!(gate.metric("partnergate_snapshot_registry_revision"), revision);
    accepted(&gate, &gate.acme);
}
