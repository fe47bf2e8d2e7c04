//! A system clock that steps, under the running gateway.

use super::*;
use crate::harness::{missing, put, valid};
use std::path::{Path, PathBuf};

/// `libfaketimeMT.so.1`, of the system or where `scripts/test` has put it. `None` only where it may
/// be missing.
#[track_caller]
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
    missing("libfaketime (Debian package `libfaketime`)");
    None
}

/// A gateway whose system clock is moved by what is written to the file.
#[track_caller]
fn stepping() -> Option<(Setup, PathBuf)> {
    let library = libfaketime()?;
    let setup = Setup::new();
    let offset = setup.dir.path().join("offset");
    put(&offset, b"+0\n");
    let setup = setup
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1");
    Some((setup, offset))
}

#[test]
fn clock_that_steps_forward_ends_rights_and_one_that_steps_back_brings_none_back() {
    let Some((setup, offset)) = stepping() else { return };
    let short = setup.pki.client(&setup.acme_ca, "short", |p| {
        valid(p, -1, 1);
        p.subject_alt_names = vec![SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
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

#[test]
fn what_is_about_to_end_is_logged_at_30_14_7_and_1_days_and_at_the_end() {
    let Some((setup, offset)) = stepping() else { return };
    let gate = setup.start();
    accepted(&gate, &gate.acme);
    let ends = ["the server certificate `", "the trust anchor `acme-ca`", "the trust anchor `globex-ca`"];
    let said = |what: &str| gate.log().lines().filter(|l| l.contains(what) && l.contains(" ends at ")).count();
    let await_said = |n: usize| {
        for what in ends {
            await_some(&format!("{n} lines of {what}"), || (said(what) == n).then_some(()));
        }
    };
    // The certificates of the tests end in 30 days.
    // Looked at again at every step of the clock.
    for (n, hours) in [(1, 1), (1, 240), (2, 409), (2, 470), (3, 553), (3, 620), (4, 697), (5, 721)] {
        let steps = gate.metric("partnergate_clock_steps_total{direction=\"forward\"}");
        put(&offset, format!("+{hours}h\n").as_bytes());
        gate.await_metric("partnergate_clock_steps_total{direction=\"forward\"}", steps + 1.0);
        await_said(n);
    }
}

/// A step, and what the gateway makes of it.
fn step(gate: &crate::harness::Gate, offset: &Path, to: &str) {
    let steps = gate.metric("partnergate_clock_steps_total{direction=\"forward\"}");
    put(offset, format!("{to}\n").as_bytes());
    gate.await_metric("partnergate_clock_steps_total{direction=\"forward\"}", steps + 1.0);
}

#[test]
fn emergency_that_nobody_has_reviewed_is_overdue_after_three_days() {
    let Some((setup, offset)) = stepping() else { return };
    let gate = setup.start();
    let make = ["grant", "emergency", "acme", "acme-911", "--operation", "items.delete", "--for", "1h"];
    gate.cli(&[&make[..], &["--reason", "their fallback is down", "--ticket", "INC-1"]].concat()).ok();
    let overdue = "partnergate_emergency_grants{state=\"overdue\"}";
    step(&gate, &offset, "+71h");
    gate.await_metric("partnergate_emergency_grants{state=\"live\"}", 0.0);
    assert_eq!(gate.metric(overdue), 0.0);
    let status = gate.cli(&["status"]).ok();
    assert!(status.contains("acme-911") && !status.contains("REVIEW OVERDUE"), "{status}");
    step(&gate, &offset, "+73h");
    gate.await_metric(overdue, 1.0);
    let status = gate.cli(&["status"]).ok();
    assert!(status.contains("acme-911") && status.contains("REVIEW OVERDUE"), "{status}");
}

#[test]
fn list_of_the_built_in_ca_is_signed_anew_when_half_of_its_life_is_over() {
    let Some((setup, offset)) = stepping() else { return };
    let gate = crate::issue::with_ca_in(setup, false).start();
    crate::issue::onboard(&gate);
    let dir = gate.dir.path().to_owned();
    let (first, _) = await_some("the first list", || crate::issue::list(&gate, &dir));
    step(&gate, &offset, "+83h");
    gate.cli(&["partner", "edit", "acme", "--owner", "o", "--reason", "x"]).ok();
    assert_eq!(crate::issue::list(&gate, &dir).unwrap().0, first, "of seven days, less than half have passed");
    step(&gate, &offset, "+85h");
    let second = await_some("the next list", || crate::issue::list(&gate, &dir).filter(|(n, _)| *n > first));
    assert!(second.1.contains("Next Update"), "{}", second.1);
}

#[test]
fn window_that_closes_ends_what_is_open() {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let Some((setup, offset)) = stepping() else { return };
    let today = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::now()).weekday().to_monday_zero_offset();
    let day = |ahead: i8| DAYS[usize::try_from((today + 7 + ahead) % 7).unwrap()];
    let windows = format!("conditions: {{schedule: [\"{}-{} 00:00-24:00\"]}}", day(-1), day(1));
    let text = setup.registry_text().to_owned();
    let ends = "ends: 2100-01-01T00:00:00Z}\n  globex:";
    assert!(text.contains(ends), "{text}");
    let text = text.replacen(ends, &format!("{}, {windows}}}\n  globex:", ends.split('}').next().unwrap()), 1);
    let gate = setup.registry(&text).start();
    let mut open = socket(&gate, &gate.acme);
    put(&offset, b"+3d\n");
    open.assert_closed();
    assert_eq!(cut(&gate)["reason"], "outside-schedule");
    // What asks anew is not let in either.
    let mut conn = gate.dial().identity(&gate.acme).open();
    let answer = conn.request(crate::websocket::handshake("/events"));
    assert_eq!(gate.record_of(answer.expect(403).id())["reason"], "outside-schedule");
}
