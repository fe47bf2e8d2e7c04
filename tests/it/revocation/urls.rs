//! Lists from a web server that comes and goes and is not always honest.

use super::*;
use crate::harness::{Nginx, OpensslCa};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;

const FAILING: &str = "partnergate_crl_failing_sources{anchor=\"acme-ca\"}";
const UNCHANGED: &str = "partnergate_crl_fetches_total{result=\"unchanged\"}";

/// acme's anchor with a list at this URL, asked every second; a second certificate of acme, and the CA.
fn setup(url: &str) -> (Setup, Identity, OpensslCa) {
    let setup = Setup::new().set("revocation.refresh", "1s");
    let other = client(&setup, &setup.acme_ca, "other", &[]);
    let ca = OpensslCa::of(&setup.acme_ca);
    let setup = if url.is_empty() { setup } else { revoking(setup, "acme-ca", &format!("{{crl: ['{url}']}}")) };
    (setup, other, ca)
}

fn await_failing(gate: &Gate, sources: f64) {
    gate.await_metric(FAILING, sources);
}

fn number(gate: &Gate) -> String {
    let shown = anchor(gate, "acme-ca");
    shown["lists"].as_array().unwrap().iter().filter_map(|l| l["number"].as_str()).collect()
}

#[test]
fn list_from_a_server_that_goes_away_is_kept_and_followed_by_the_next_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut nginx) = Nginx::start(folder.path(), "") else { return };
    let (setup, other, ca) = setup(&nginx.url("/acme.crl"));
    let gate = setup.start();
    // Nothing there yet.
    refused(&gate, &gate.acme, "revocation-unknown");
    await_error(&gate, "acme-ca", "404");
    nginx.put("acme.crl", &ca.der(WHOLE));
    await_accepted(&gate, &gate.acme);
    assert_eq!((number(&gate).as_str(), gate.metric(FAILING)), ("fff", 0.0));
    // Asked again, and nothing new.
    await_some("an answer 304", || (gate.metric(UNCHANGED) >= 1.0).then_some(()));
    assert!(nginx.asked("/acme.crl").contains(&304), "{:?}", nginx.asked("/acme.crl"));

    let (opened, mut others) = (Opened::of(&gate, &gate.acme), Opened::of(&gate, &other));
    nginx.stop();
    await_failing(&gate, 1.0);
    accepted(&gate, &gate.acme);
    others.assert_live();
    ca.revoke(&gate.acme);
    nginx.put("acme.crl", &ca.der(WHOLE));
    nginx.restart("");
    opened.assert_ended();
    refused(&gate, &gate.acme, "certificate-revoked");
    others.assert_live();
    await_failing(&gate, 0.0);
    assert_eq!(number(&gate), "1000");
    assert_eq!(gate.metric("partnergate_revocation_enforcement_seconds_count"), 1.0);
}

#[test]
fn nothing_that_a_server_sends_replaces_a_good_list_but_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut nginx) = Nginx::start(folder.path(), "") else { return };
    let (setup, other, ca) = setup(&nginx.url("/acme.crl"));
    let older = ca.der(WHOLE);
    ca.revoke(&setup.acme);
    let good = ca.der(WHOLE);
    nginx.put("acme.crl", &good);
    let gate = setup.set("revocation.max_size", "1KiB").start();
    let unmoved = |gate: &Gate| {
        refused(gate, &gate.acme, "certificate-revoked");
        accepted(gate, &other);
        assert_eq!(number(gate), "1000");
    };
    await_refused(&gate, &gate.acme, "certificate-revoked");
    unmoved(&gate);
    // A whole answer with half a list.
    nginx.put("acme.crl", &good[..good.len() / 2]);
    await_error(&gate, "acme-ca", "cut off: fewer bytes");
    await_failing(&gate, 1.0);
    unmoved(&gate);
    nginx.put("acme.crl", b"<!doctype html><title>Please log in</title>");
    await_error(&gate, "acme-ca", "neither DER nor PEM");
    nginx.put("acme.crl", &older);
    await_error(&gate, "acme-ca", "its number fff is lower than 1000");
    unmoved(&gate);
    // Larger than is read, whatever it is.
    nginx.put("acme.crl", &[&good[..], &[0; 1024]].concat());
    await_error(&gate, "acme-ca", "larger than 1024 bytes");
    // Another host is not asked.
    nginx.put("acme.crl", &good);
    let away = format!("location /acme.crl {{ return 302 {}; }}", nginx.url("/elsewhere.crl"));
    nginx.restart(&away);
    await_error(&gate, "acme-ca", "redirects are not followed");
    assert_eq!(nginx.asked("/elsewhere.crl"), Vec::<u16>::new());
    // A connection that breaks off half-way: what is behind nginx promises more than it sends.
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let behind = format!("location /acme.crl {{ proxy_pass http://{}; }}", origin.local_addr().unwrap());
    let (length, half) = (good.len(), good[..good.len() / 2].to_vec());
    std::thread::spawn(move || {
        while let Ok((mut conn, _)) = origin.accept() {
            let _ = conn.read(&mut [0; 4096]);
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = conn.write_all(&[head.as_bytes(), &half].concat());
        }
    });
    nginx.restart(&behind);
    await_error(&gate, "acme-ca", "broke off");
    unmoved(&gate);
    // And all is well again.
    nginx.restart("");
    await_failing(&gate, 0.0);
    unmoved(&gate);
}

#[test]
fn list_that_came_is_in_force_while_another_server_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(folder.path(), "") else { return };
    let (setup, other, ca) = setup("");
    // Accepts, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = format!("{{crl: ['{}', 'http://{}/a']}}", nginx.url("/acme.crl"), silent.local_addr().unwrap());
    let setup = revoking(setup, "acme-ca", &settings).set("revocation.timeout", "1m");
    nginx.put("acme.crl", &ca.der(WHOLE));
    let mut gate = setup.start();
    await_accepted(&gate, &gate.acme);
    // At a start too, which does not wait for the other one either.
    ca.revoke(&gate.acme);
    nginx.put("acme.crl", &ca.der(WHOLE));
    gate.restart("TERM");
    await_refused(&gate, &gate.acme, "certificate-revoked");
    accepted(&gate, &other);
}

#[test]
fn https_server_of_a_list_must_prove_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (setup, other, ca) = setup("");
    let public = setup.pki.authority("public-ca");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let secure = |names: &[&str]| {
        let server = setup.pki.server(&public, "lists", names);
        let (chain, key) = (server.chain_file.display(), server.key_file.display());
        format!("listen 127.0.0.1:{port} ssl;\nssl_certificate {chain};\nssl_certificate_key {key};")
    };
    let Some(mut nginx) = Nginx::start(folder.path(), &secure(&["lists.example"])) else { return };
    ca.revoke(&setup.acme);
    nginx.put("acme.crl", &ca.der(WHOLE));
    let right = secure(&["localhost"]);
    let setup = setup.env("SSL_CERT_FILE", public.pem_file.to_str().unwrap());
    let setup = revoking(setup, "acme-ca", &format!("{{crl: ['https://localhost:{port}/acme.crl']}}"));
    let gate = setup.start();
    await_error(&gate, "acme-ca", "certificate");
    refused(&gate, &other, "revocation-unknown");
    assert_eq!(nginx.asked("/acme.crl"), Vec::<u16>::new());
    nginx.restart(&right);
    await_accepted(&gate, &other);
    refused(&gate, &gate.acme, "certificate-revoked");
    assert_eq!(nginx.asked("/acme.crl").first(), Some(&200));
}

#[test]
fn distribution_point_of_a_certificate_is_asked_only_where_the_config_permits_its_host() {
    let folder = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(folder.path(), "") else { return };
    let (mut setup, _, ca) = setup("");
    let elsewhere = format!("http://localhost:{}/other.crl", nginx.port());
    setup.acme = client(&setup, &setup.acme_ca, "acme", &[&nginx.url("/acme.crl")]);
    let other = client(&setup, &setup.globex_ca, "other", &[&elsewhere]);
    nginx.put("acme.crl", &ca.der(WHOLE));
    nginx.put("other.crl", &OpensslCa::of(&setup.globex_ca).der(WHOLE));
    nginx.put("named.crl", &OpensslCa::of(&setup.globex_ca).part("http://crl.example/nobody"));
    let setup = revoking(setup, "acme-ca", "{distribution_points: true}");
    let named = format!("{{distribution_points: true, crl: ['{}']}}", nginx.url("/named.crl"));
    let setup = revoking(setup, "globex-ca", &named).set("revocation.hosts", json!([nginx.host()]));
    let mut gate = setup.start();
    refused(&gate, &other, "revocation-unknown");
    refused(&gate, &gate.acme, "revocation-unknown");
    await_accepted(&gate, &gate.acme);
    assert_eq!(nginx.asked("/acme.crl").first(), Some(&200));
    refused(&gate, &other, "revocation-unknown");
    assert_eq!(nginx.asked("/other.crl"), Vec::<u16>::new());

    // The host is permitted no more: it is not asked, before and after a restart, though its list is known.
    let mut config = gate.config().clone();
    config["revocation"]["hosts"] = json!([]);
    std::fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.reload();
    let rounds = |gate: &Gate, nginx: &Nginx| {
        let round = |n: usize| {
            let before = nginx.asked("/named.crl").len();
            await_some("another round", || (nginx.asked("/named.crl").len() >= before + n).then_some(()));
        };
        // One may have been on its way.
        round(1);
        let before = nginx.asked("/acme.crl").len();
        round(2);
        assert_eq!(nginx.asked("/acme.crl").len(), before);
        accepted(gate, &gate.acme);
    };
    rounds(&gate, &nginx);
    gate.restart("TERM");
    rounds(&gate, &nginx);
}

#[test]
fn cold_start_without_the_server_uses_the_kept_copy_and_takes_no_older_one_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut nginx) = Nginx::start(folder.path(), "") else { return };
    let (setup, other, ca) = setup(&nginx.url("/acme.crl"));
    let older = ca.der(WHOLE);
    ca.revoke(&setup.acme);
    nginx.put("acme.crl", &ca.der(WHOLE));
    let mut gate = setup.start();
    await_refused(&gate, &gate.acme, "certificate-revoked");
    accepted(&gate, &other);

    nginx.stop();
    gate.restart("KILL");
    accepted(&gate, &other);
    refused(&gate, &gate.acme, "certificate-revoked");
    await_failing(&gate, 1.0);
    assert_eq!(number(&gate), "1000");

    nginx.put("acme.crl", &older);
    nginx.restart("");
    await_error(&gate, "acme-ca", "its number fff is lower than 1000");
    refused(&gate, &gate.acme, "certificate-revoked");
    accepted(&gate, &other);
    // A copy that was damaged is not used, and not a reason to let anybody in.
    nginx.stop();
    for entry in std::fs::read_dir(gate.dir.path().join("state/crl")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|e| e == "crl") {
            std::fs::write(entry.path(), b"damaged").unwrap();
        }
    }
    gate.restart("TERM");
    for who in [&gate.acme, &other] {
        refused(&gate, who, "revocation-unknown");
    }
}
