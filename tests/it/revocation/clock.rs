//! A system clock that steps, under the running gateway.

use super::*;
use crate::harness::{put, valid};
use std::path::{Path, PathBuf};

/// `libfaketimeMT.so.1`, of the system or where `scripts/test` has put it. `None`, with a line that says so, where there
/// is none.
fn libfaketime() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    for base in [PathBuf::from("/"), target.join("test-tools")] {
        let entries = std::fs::read_dir(base.join("usr/lib")).into_iter().flatten().flatten();
        let found = entries.map(|e| e.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        if found.is_some() {
            return found;
        }
    }
    eprintln!("SKIPPED: no libfaketime (Debian package `libfaketime`; scripts/test gets it)");
    None
}

#[test]
fn clock_that_steps_forward_ends_rights_and_one_that_steps_back_brings_none_back() {
    let Some(library) = libfaketime() else { return };
    let mut setup = Setup::new();
    let offset = setup.dir.path().join("offset");
    put(&offset, b"+0\n");
    let short = setup.pki.client(&setup.acme_ca, "short", |p| {
        valid(p, -1, 1);
        p.subject_alt_names = vec![SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    setup = setup
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    let gate = setup.start();
    let mut long = Opened::of(&gate, &gate.acme);
    let opened = Opened::of(&gate, &short);
    assert!(!gate.metrics().contains("partnergate_clock_steps_total{"));

    put(&offset, b"+2d\n");
    opened.assert_ended();
    assert_eq!(cut(&gate)["reason"], "credential-expired");
    gate.await_metric("partnergate_clock_steps_total{direction=\"forward\"}", 1.0);
    gate.await_log("the system clock has stepped forward");
    assert_eq!(refused(&gate, &short, "certificate-expired"), Some(rustls::AlertDescription::CertificateExpired));
    long.assert_live();

    put(&offset, b"+0\n");
    gate.await_metric("partnergate_clock_steps_total{direction=\"back\"}", 1.0);
    gate.await_log("the system clock has stepped back");
    refused(&gate, &short, "certificate-expired");
    long.assert_live();
    accepted(&gate, &gate.acme);
    // Time goes on from where it was.
    let newest = gate.await_record("a handshake", |r| r["kind"] == "handshake");
    let at: jiff::Timestamp = newest["time"].as_str().unwrap().parse().unwrap();
    assert!(at > jiff::Timestamp::now() + jiff::SignedDuration::from_hours(47), "{at}");
}
