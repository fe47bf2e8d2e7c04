//! Lists from files and folders.

use super::*;
use crate::harness::http2::{DATA, RST_STREAM};
use crate::harness::{OpensslCa, put};
use rustls::AlertDescription;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FILE: &str = "{crl: ['file:acme.crl']}";

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn certificate_revoked_by_openssl_ca_is_refused_and_cut() {
    let setup = revoking(Setup::new(), "acme-ca", FILE);
    let ca = OpensslCa::of(&setup.acme_ca);
    let list = setup.dir.path().join("acme.crl");
    put(&list, &ca.list(WHOLE));
    let other = client(&setup, &setup.acme_ca, "other", &[]);
    let gate = setup.start();
    let (opened, mut others) = (Opened::of(&gate, &gate.acme), Opened::of(&gate, &other));
    let mut globex = gate.dial().identity(&gate.globex).open();
    let mut download = Frames::open(&gate.dial().identity(&gate.acme), &[]);
    let stream = download.headers(&get_fields("/items?upstream_chunks=600&upstream_chunk_delay_ms=100"), true);
    download.await_frame("data", |f| f.kind == DATA && f.stream == stream);

    ca.revoke(&gate.acme);
    put(&list, &ca.list(WHOLE));
    let mut ends = Vec::new();
    while !ends.contains(&GOAWAY) || !ends.contains(&RST_STREAM) {
        ends.push(download.await_frame("its end", |f| f.kind == GOAWAY || f.kind == RST_STREAM).kind);
    }
    download.ended();
    opened.assert_ended();
    let cuts = await_some("the cuts", || {
        let cuts = gate.records().into_iter().filter(|r| r["kind"] == "stream-cut").collect::<Vec<_>>();
        (cuts.len() == 2).then_some(cuts)
    });
    assert!(cuts.iter().all(|r| r["reason"] == "certificate-revoked"), "{cuts:#?}");
    for dial in [gate.dial(), gate.dial().tls12()] {
        assert_eq!(dial.identity(&gate.acme).refused(), Some(AlertDescription::CertificateRevoked));
    }
    refused(&gate, &gate.acme, "certificate-revoked");
    others.assert_live();
    accepted(&gate, &other);
    globex.request(get("/items")).expect(200);

    assert_eq!(gate.metric("partnergate_revocation_enforcement_seconds_count"), 1.0);
    // From the arrival of this list, and not from that of the first one.
    let took = gate.metric("partnergate_revocation_enforcement_seconds_sum");
    assert!(took < 0.5, "{took} s");
    assert_eq!(gate.metric("partnergate_crl_revoked_certificates{anchor=\"acme-ca\"}"), 1.0);
    assert_eq!(gate.metric("partnergate_crl_failing_sources{anchor=\"acme-ca\"}"), 0.0);
}

#[test]
fn list_of_an_intermediate_is_needed_beside_the_root_s_and_each_revokes_its_own() {
    let setup = Setup::new();
    let issuing = setup.pki.intermediate(&setup.acme_ca, "issuing", |_| {});
    let (one, two) = (client(&setup, &issuing, "one", &[]), client(&setup, &issuing, "two", &[]));
    let (root_ca, issuing_ca) = (OpensslCa::of(&setup.acme_ca), OpensslCa::of(&issuing));
    let lists = "crl: ['file:root.crl', 'file:issuing.crl']";
    let setup = revoking(setup, "acme-ca", &format!("{{{lists}, intermediates: [issuing.pem]}}"));
    let folder = setup.dir.path().to_owned();
    put(&folder.join("root.crl"), &root_ca.list(WHOLE));
    let gate = setup.start();
    // Directly under the root: its list is enough.
    accepted(&gate, &gate.acme);
    refused(&gate, &one, "revocation-unknown");

    put(&folder.join("issuing.crl"), &issuing_ca.list(WHOLE));
    await_accepted(&gate, &one);
    accepted(&gate, &two);
    let (opened_one, mut opened_two) = (Opened::of(&gate, &one), Opened::of(&gate, &two));
    issuing_ca.revoke(&one);
    put(&folder.join("issuing.crl"), &issuing_ca.list(WHOLE));
    opened_one.assert_ended();
    refused(&gate, &one, "certificate-revoked");
    opened_two.assert_live();

    root_ca.revoke_file(&issuing.pem_file);
    put(&folder.join("root.crl"), &root_ca.list(WHOLE));
    opened_two.assert_ended();
    refused(&gate, &two, "certificate-revoked");
    accepted(&gate, &gate.acme);

    // A list of a CA that is not named speaks for nobody.
    let bare = gate.registry_text().replace(", intermediates: [issuing.pem]", "");
    gate.apply(&bare);
    accepted(&gate, &gate.acme);
    refused(&gate, &two, "certificate-revoked");
    await_error(&gate, "acme-ca", "neither the anchor nor a CA below it");
}

#[test]
fn what_a_missing_list_means_is_said_per_anchor_and_concerns_no_other() {
    for (settings, reason) in [
        (FILE, Some("revocation-unknown")),
        ("{mode: if-available, crl: ['file:acme.crl']}", None),
        ("{mode: off, crl: ['file:acme.crl']}", None),
    ] {
        let setup = Setup::new();
        let ca = OpensslCa::of(&setup.acme_ca);
        let list = setup.dir.path().join("acme.crl");
        let gate = setup.start();
        let (opened, mut globex) = (Opened::of(&gate, &gate.acme), gate.dial().identity(&gate.globex).open());
        let text = with_revocation(gate.registry_text(), "acme-ca", settings);
        gate.apply(&text);
        match reason {
            Some(reason) => {
                opened.assert_ended();
                assert_eq!(cut(&gate)["reason"], reason);
                refused(&gate, &gate.acme, reason);
            }
            None => accepted(&gate, &gate.acme),
        }
        globex.request(get("/items")).expect(200);
        accepted(&gate, &gate.globex);

        // What a list names is refused, unless nobody looks at it.
        ca.revoke(&gate.acme);
        put(&list, &ca.list(WHOLE));
        if settings.contains("off") {
            // Nothing happens, and that it is so shows on another anchor whose list came later.
            let other = OpensslCa::of(&gate.globex_ca);
            gate.apply(&with_revocation(&text, "globex-ca", "{crl: ['file:globex.crl']}"));
            put(&gate.dir.path().join("globex.crl"), &other.list(WHOLE));
            await_accepted(&gate, &gate.globex);
            accepted(&gate, &gate.acme);
        } else {
            await_refused(&gate, &gate.acme, "certificate-revoked");
            accepted(&gate, &gate.globex);
        }
    }
}

#[test]
fn stale_list_ends_what_is_open_at_its_next_update_and_with_grace_later() {
    let setup = revoking(Setup::new(), "acme-ca", FILE);
    let setup = revoking(setup, "globex-ca", "{crl: ['file:globex.crl'], grace: 1h}");
    let (acme_ca, globex_ca) = (OpensslCa::of(&setup.acme_ca), OpensslCa::of(&setup.globex_ca));
    let folder = setup.dir.path().to_owned();
    let list = acme_ca.list(&format!("{WHOLE} -crlsec 5"));
    put(&folder.join("acme.crl"), &list);
    put(&folder.join("globex.crl"), &globex_ca.list(&format!("{WHOLE} -crlsec 5")));
    let gate = setup.start();
    let opened = Opened::of(&gate, &gate.acme);
    let sessions = [gate.dial(), gate.dial().tls12()].map(|dial| dial.identity(&gate.acme).resuming());
    for dial in &sessions {
        dial.open().request(get("/items")).expect(200);
    }
    let mut globex = gate.dial().identity(&gate.globex).open();
    globex.request(get("/items")).expect(200);
    let next_update = gate.metric("partnergate_crl_next_update_timestamp_seconds{anchor=\"acme-ca\"}");

    let mut first = socket(&gate, &gate.acme);
    first.assert_closed();
    let late = now() - next_update;
    assert!((0.0..1.0).contains(&late), "{late} s after nextUpdate");
    opened.assert_ended();
    let record = cut(&gate);
    assert_eq!(record["reason"], "revocation-unknown", "{record}");
    refused(&gate, &gate.acme, "revocation-unknown");
    // Nothing but the clock has changed, so that sessions are there, and whoever resumes one is verified again.
    for dial in &sessions {
        let before = handshakes(&gate, &gate.acme).len();
        let mut resumed = dial.open();
        assert_eq!(resumed.state().handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        let _ = resumed.try_send(get("/items"));
        resumed.assert_closed();
        let record = await_some("the record", || handshakes(&gate, &gate.acme).into_iter().nth(before));
        assert_eq!(record["reason"], "revocation-unknown", "{record}");
    }
    let end = gate.metric("partnergate_crl_next_update_timestamp_seconds{anchor=\"globex-ca\"}");
    await_some("the end of the other list", || (now() > end).then_some(()));
    globex.request(get("/items")).expect(200);
    accepted(&gate, &gate.globex);

    put(&folder.join("acme.crl"), &acme_ca.list(WHOLE));
    await_accepted(&gate, &gate.acme);
}

/// The CA's clock may be a little ahead of ours.
#[test]
fn list_of_the_future_is_taken_when_its_time_has_come() {
    let setup = revoking(Setup::new(), "acme-ca", FILE);
    let ca = OpensslCa::of(&setup.acme_ca);
    let begins = jiff::Timestamp::now() + Duration::from_secs(4);
    let shown = begins.strftime("%y%m%d%H%M%SZ").to_string();
    put(&setup.dir.path().join("acme.crl"), &ca.list(&format!("{WHOLE} -crl_lastupdate {shown}")));
    let gate = setup.start();
    refused(&gate, &gate.acme, "revocation-unknown");
    await_error(&gate, "acme-ca", "not valid before");
    await_accepted(&gate, &gate.acme);
    assert!(jiff::Timestamp::now().as_second() >= begins.as_second());
}

#[test]
fn folder_holds_the_parts_of_a_list_and_a_bad_file_or_a_lost_one_costs_none_of_them() {
    let places = ["http://crl.example/0.crl", "http://crl.example/1.crl", "http://crl.example/2.crl"];
    let mut setup = revoking(Setup::new(), "acme-ca", "{crl: ['dir:lists']}");
    setup.acme = client(&setup, &setup.acme_ca, "acme", &places[..1]);
    let one = client(&setup, &setup.acme_ca, "one", &places[1..2]);
    let two = client(&setup, &setup.acme_ca, "two", &places[2..]);
    let nowhere = client(&setup, &setup.acme_ca, "nowhere", &[]);
    let ca = OpensslCa::of(&setup.acme_ca);
    let folder = setup.dir.path().join("lists");
    std::fs::create_dir(&folder).unwrap();
    put(&folder.join("0.crl"), &ca.part(places[0]));
    put(&folder.join("1.crl"), &ca.part(places[1]));
    put(&folder.join("broken.crl"), b"not a list");
    put(&folder.join("README"), b"no list either, and not taken for one");
    let mut gate = setup.start();
    let count = |gate: &Gate| gate.metric("partnergate_crl_lists{anchor=\"acme-ca\"}");
    assert_eq!(count(&gate), 2.0);
    assert_eq!(gate.metric("partnergate_crl_failing_sources{anchor=\"acme-ca\"}"), 1.0);
    await_error(&gate, "acme-ca", "neither DER nor PEM");
    accepted(&gate, &gate.acme);
    accepted(&gate, &one);
    for who in [&two, &nowhere] {
        refused(&gate, who, "revocation-unknown");
    }

    // Both are in the CA's list, and each part speaks of its own.
    ca.revoke(&gate.acme);
    ca.revoke(&one);
    put(&folder.join("0.crl"), &ca.part(places[0]));
    await_refused(&gate, &gate.acme, "certificate-revoked");
    accepted(&gate, &one);

    std::fs::remove_file(folder.join("0.crl")).unwrap();
    std::fs::remove_file(folder.join("1.crl")).unwrap();
    put(&folder.join("2.crl"), &ca.part(places[2]));
    await_accepted(&gate, &two);
    assert_eq!(count(&gate), 3.0);
    accepted(&gate, &one);
    refused(&gate, &gate.acme, "certificate-revoked");
    // And after a restart.
    gate.restart("KILL");
    accepted(&gate, &one);
    accepted(&gate, &two);
    refused(&gate, &gate.acme, "certificate-revoked");
}

#[test]
fn list_that_is_not_sound_is_named_for_what_it_is_and_takes_no_place() {
    let setup = revoking(Setup::new(), "acme-ca", "{crl: ['file:acme.crl']}");
    let other = client(&setup, &setup.acme_ca, "other", &[]);
    let (ca, globex) = (OpensslCa::of(&setup.acme_ca), OpensslCa::of(&setup.globex_ca));
    let file = setup.dir.path().join("acme.crl");
    ca.revoke(&setup.acme);
    put(&file, &ca.der(WHOLE));
    let gate = setup.start();
    let forged = {
        let mut list = ca.der(WHOLE);
        *list.last_mut().unwrap() ^= 1;
        list
    };
    let mut longer = ca.der(" -crlexts number");
    longer.push(0);
    for (list, said) in [
        (forged, "the signature does not verify with the key of `CN=acme-ca,O=Tests`"),
        (globex.der(WHOLE), "issued by `CN=globex-ca,O=Tests`, which is neither the anchor nor a CA below it"),
        (ca.der(" -crlexts number -md sha1"), "signed with SHA-1 or MD5"),
        (ca.der(" -crlexts delta"), "a delta list (deltaCRLIndicator)"),
        (ca.der(" -crlexts indirect"), "an indirect list (indirectCRL or certificateIssuer)"),
        (ca.der(" -crlexts some"), "a list for some reasons only (onlySomeReasons)"),
        (
            ca.der(" -crlexts number -crl_lastupdate 20891231000000Z -crl_nextupdate 20900131000000Z"),
            "not valid before",
        ),
        (ca.der(" -crlexts number -crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z"), "its thisUpdate"),
        (longer, "bytes follow the list"),
        (ca.list(WHOLE).repeat(2), "more than one PEM block"),
    ] {
        put(&file, &list);
        await_error(&gate, "acme-ca", said);
        refused(&gate, &gate.acme, "certificate-revoked");
        accepted(&gate, &other);
    }
    put(&file, &ca.der(WHOLE));
    gate.await_metric("partnergate_crl_failing_sources{anchor=\"acme-ca\"}", 0.0);
    refused(&gate, &gate.acme, "certificate-revoked");
    accepted(&gate, &other);
}

#[test]
fn ca_whose_key_usage_does_not_permit_it_signs_no_list() {
    let setup = revoking(Setup::new(), "acme-ca", "{crl: ['file:acme.crl']}");
    let mute = setup.pki.authority_with("mute-ca", |p| p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]);
    let registry = setup.registry_text().replace("certificate: acme-ca.pem", "certificate: mute-ca.pem");
    let who = client(&setup, &mute, "mute", &[]);
    put(&setup.dir.path().join("acme.crl"), &OpensslCa::of(&mute).der(WHOLE));
    let gate = setup.registry(&registry).start();
    await_error(&gate, "acme-ca", "the keyUsage of `CN=mute-ca,O=Tests` does not permit cRLSign");
    refused(&gate, &who, "revocation-unknown");
}

/// Threat 7: whoever serves lists has those of every scope that the CA has ever signed, and may not choose among them.
#[test]
fn list_of_another_scope_does_not_let_the_one_before_back_in() {
    let setup = revoking(Setup::new(), "acme-ca", FILE);
    let ca = OpensslCa::of(&setup.acme_ca);
    let list = setup.dir.path().join("acme.crl");
    let before = ca.list(WHOLE);
    put(&list, &before);
    let other = client(&setup, &setup.acme_ca, "other", &[]);
    let mut gate = setup.start();
    accepted(&gate, &gate.acme);
    ca.revoke(&gate.acme);
    put(&list, &ca.list(WHOLE));
    await_refused(&gate, &gate.acme, "certificate-revoked");
    let number = |gate: &Gate| anchor(gate, "acme-ca")["lists"][0]["number"].clone();
    let good = number(&gate);

    put(&list, &ca.part("http://crl.acme.example/elsewhere"));
    await_error(&gate, "acme-ca", "another scope than the list before, which is still good");
    assert_eq!(call(&gate, &gate.acme), None);
    accepted(&gate, &other);
    put(&list, &before);
    await_error(&gate, "acme-ca", "is lower than");
    assert_eq!((call(&gate, &gate.acme), number(&gate)), (None, good.clone()));
    // Nor over a restart.
    gate.restart("TERM");
    await_error(&gate, "acme-ca", "is lower than");
    assert_eq!((call(&gate, &gate.acme), number(&gate)), (None, good));
    accepted(&gate, &other);
}

#[test]
fn check_and_status_say_what_of_lists_is_missing_failing_or_late() {
    let setup = revoking(Setup::new(), "acme-ca", FILE);
    let ca = OpensslCa::of(&setup.acme_ca);
    let list = setup.dir.path().join("acme.crl");
    let mut gate = setup.start();
    let checked = |gate: &Gate| gate.cli(&["check"]).stderr;
    let said = checked(&gate);
    assert!(
        said.contains("no revocation list is there for the anchor `acme-ca`") && said.contains("does not exist"),
        "{said}"
    );
    put(&list, &ca.list(WHOLE));
    await_accepted(&gate, &gate.acme);
    let said = checked(&gate);
    assert!(!said.contains("revocation list"), "{said}");
    // In the last quarter of its life; the log has a line before anybody is refused.
    put(&list, &ca.list(" -crlexts number -crlsec 8"));
    let late = "the revocation list of the anchor `acme-ca` ends at";
    await_some("the list to be late", || checked(&gate).contains(late).then_some(()));
    let status = gate.cli(&["status"]).text();
    assert!(status.contains("ends soon    revocation-list acme-ca"), "{status}");
    gate.restart("TERM");
    gate.await_log(late);
}
