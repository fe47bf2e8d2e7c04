//! The status listener and the admin socket: what is counted, what it is called, and who may ask. Threats 24 and 28.

use crate::harness::{
    DEADLINE, Gate, HOST, OpensslCa, Response, Setup, TlsConn, Tried, await_some, missing, put, run, skipped,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn get(conn: &mut TlsConn, path: &str) -> Response {
    conn.request(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
}

fn open(gate: &Gate) -> TlsConn {
    gate.dial().identity(&gate.acme).open()
}

/// A metric of the exposition: its type, and its series as labels and value.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    series: Vec<(BTreeMap<String, String>, f64)>,
}

/// The exposition, read strictly: HELP, TYPE, then series of that name.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(help.split(' ').next().unwrap().to_owned()), "helped twice: {line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name), "no help for {name}");
            found.entry(name.into()).or_default().kind = kind.into();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| name.strip_suffix(end))
            .find(|n| found.get(*n).is_some_and(|f| f.kind == "histogram"))
            .unwrap_or(name);
        let mut map = BTreeMap::new();
        for pair in labels.split_terminator("\",") {
            let (key, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            map.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
        }
        let known = found.get_mut(family).unwrap_or_else(|| panic!("a series without a type: {line}"));
        known.series.push((map, value.parse().unwrap()));
    }
    found
}

/// Name, type and labels of each metric in `docs/metrics.md`.
pub fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter(|l| l.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let labels = cells[2].split(',').map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
        (cells[0].trim_matches('`').to_owned(), (cells[1].to_owned(), labels))
    })
    .collect()
}

/// Traffic of every kind that is told apart.
fn traffic(gate: &Gate) {
    let mut conn = open(gate);
    get(&mut conn, "/items").expect(200);
    get(&mut conn, "/items/7").expect(200);
    conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(403);
    get(&mut conn, "/nowhere").expect(403);
    conn.request(format!("GET /items/%2e%2e HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(400);
    open(gate).request("GET /items HTTP/1.1\r\nHost : a\r\n\r\n").expect(400);
    let mut conn = gate.dial().identity(&gate.globex).open();
    get(&mut conn, "/items").expect(200);
    get(&mut conn, "/items/7").expect(403);
    gate.dial().refused();
    open(gate).request(format!("GET /items?upstream_close=before HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    gate.settle();
}

#[test]
fn requests_are_counted_by_partner_and_outcome_and_denials_by_reason() {
    let gate = Gate::start();
    let mut conn = open(&gate);
    for _ in 0..3 {
        get(&mut conn, "/items").expect(200);
    }
    conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).expect(403);
    let stranger = gate.pki.client(&gate.acme_ca, "stranger", |_| {});
    get(&mut gate.dial().identity(&stranger).open(), "/items").expect(403);
    get(&mut gate.dial().identity(&gate.globex).open(), "/nowhere").expect(403);
    let answer = get(&mut gate.dial().identity(&gate.globex).open(), "/items?upstream_close=before");
    gate.record_of(answer.id());
    gate.await_record("the stranger's", |r| r["reason"] == "identity-unknown");
    for (series, value) in [
        ("partnergate_requests_total{outcome=\"allowed\",partner=\"acme\"}", 3.0),
        ("partnergate_requests_total{outcome=\"denied\",partner=\"acme\"}", 1.0),
        ("partnergate_requests_total{outcome=\"denied\",partner=\"unknown\"}", 1.0),
        ("partnergate_requests_total{outcome=\"denied\",partner=\"globex\"}", 1.0),
        ("partnergate_requests_total{outcome=\"failed\",partner=\"globex\"}", 1.0),
        ("partnergate_denials_total{reason=\"operation-not-granted\"}", 1.0),
        ("partnergate_denials_total{reason=\"operation-unknown\"}", 1.0),
        ("partnergate_denials_total{reason=\"identity-unknown\"}", 1.0),
        ("partnergate_handshakes_total{outcome=\"ok\"}", 4.0),
        ("partnergate_request_duration_seconds_count{operation=\"items.list\"}", 5.0),
        ("partnergate_open_requests", 0.0),
    ] {
        gate.await_metric(series, value);
    }
    drop(conn);
    gate.await_metric("partnergate_open_connections{protocol=\"http/1.1\"}", 0.0);
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let mut setup = Setup::new();
    // One that ends soon.
    setup.acme = setup.pki.client(&setup.acme_ca, "acme", |p| {
        crate::harness::valid(p, -1, 10);
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    let bundled = setup.pki.authority("initech-ca");
    let x5c = data_encoding::BASE64.encode(&bundled.der);
    let bundle = json!({"keys": [{"use": "x509-svid", "kty": "EC", "x5c": [x5c]}]});
    std::fs::write(setup.dir.path().join("initech.jwks"), bundle.to_string()).unwrap();
    let anchor =
        "anchors:\n  initech: {bundle: {trust_domain: initech.example, file: initech.jwks}, partners: [acme]}\n";
    let registry = setup.registry_text().replace("anchors:\n", anchor);
    // One list in a file, and a server of lists that is not there.
    let ca = OpensslCa::of(&setup.acme_ca);
    put(&setup.dir.path().join("acme.crl"), &ca.list(" -crlexts number"));
    let from = "acme-ca: {certificate: acme-ca.pem, ";
    let lists = "revocation: {crl: ['file:acme.crl', 'http://127.0.0.1:1/acme.crl']}, ";
    assert!(registry.contains(from));
    let registry = registry.replace(from, &format!("{from}{lists}"));
    let setup = setup.registry(&registry).set("revocation.refresh", "1s");
    let mut gate = setup.set("metrics", json!({"partner_operation": true})).start();
    traffic(&gate);
    gate.reload();
    // The upstream is gone: what is counted then appears too.
    gate.signal("TERM");
    gate.process.ended();
    gate.process = crate::harness::Process::start(Command::new("sleep").arg("60"), gate.dir.path(), "nothing");
    gate.restart("TERM");
    traffic(&gate);
    let mut socket = crate::websocket::open(&gate);
    gate.apply(&gate.registry_text().replace("[items.events]", "[items.list]"));
    socket.assert_closed();
    gate.reload();
    gate.upstream.process.signal("KILL");
    await_some("a refusal", || (get(&mut open(&gate), "/items").status == 502).then_some(()));
    await_some("the expiry", || {
        gate.metrics().contains("partnergate_credential_expiry_timestamp_seconds{").then_some(())
    });
    gate.settle();
    let documented = documented();
    let found = families(&gate.metrics());
    for (name, family) in found.iter().filter(|(n, _)| !n.starts_with("process_")) {
        let (kind, labels) = documented.get(name).unwrap_or_else(|| panic!("`{name}` is not documented"));
        assert_eq!(&family.kind, kind, "{name}");
        for (series, _) in &family.series {
            let got: BTreeSet<&String> = series.keys().filter(|k| *k != "le").collect();
            let wanted: BTreeSet<&String> = labels.iter().collect();
            assert_eq!(got, wanted, "{name}");
        }
    }
    // Nobody has moved the clock, nobody enrols or has an API key, is only observed or masked here, and the policy is in a folder and has no candidate: see
    // `served_bundles.rs` and `candidate.rs`.
    let rare = [
        "partnergate_api_keys_in_urls_total",
        "partnergate_clock_steps_total",
        "partnergate_enrolments_total",
        "partnergate_observed_denials_total",
        "partnergate_record_masks_total",
    ];
    let elsewhere = ["partnergate_policy_bundle_", "partnergate_policy_candidate_"];
    let is_rare = |name: &str| rare.contains(&name) || elsewhere.iter().any(|start| name.starts_with(start));
    for name in documented.keys().filter(|n| !is_rare(n)) {
        assert!(found.contains_key(name), "`{name}` is documented, and is not there after traffic of every kind");
    }
    assert!(found.keys().any(|n| n == "process_resident_memory_bytes"));
}

#[test]
fn promtool_finds_nothing_wrong() {
    let there = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|s| s.success()) {
        missing("promtool on PATH (Debian package `prometheus`)");
        return;
    }
    let gate = Gate::start();
    traffic(&gate);
    gate.reload();
    let checked = run(Command::new("promtool").args(["check", "metrics"]), gate.metrics().as_bytes());
    assert_eq!((checked.exit, checked.stderr.as_str(), checked.text().as_str()), (Some(0), "", ""));
}

#[test]
fn nothing_that_a_client_chooses_becomes_a_label() {
    let gate = Gate::start();
    const MARK: &str = "evil-7f3a";
    let mut conn = open(&gate);
    get(&mut conn, &format!("/{MARK}")).expect(403);
    get(&mut conn, &format!("/items/{MARK}?{MARK}={MARK}")).expect(200);
    conn.request(format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\n{MARK}: {MARK}\r\nX-Partner-Id: {MARK}\r\nUser-Agent: {MARK}\r\nTraceparent: {MARK}\r\n\r\n"));
    for request in [
        format!("{MARK} /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("{} /items HTTP/1.1\r\nHost: {HOST}\r\n\r\n", MARK.to_uppercase().replace('-', "")),
        format!("GET /items HTTP/1.1\r\nHost: {MARK}.test\r\n\r\n"),
        format!("GET /items HTTP/1.1\r\nHost: {MARK} x\r\n\r\n"),
        format!("GET http://{MARK}.test/items HTTP/1.1\r\nHost: {MARK}.test\r\n\r\n"),
        format!("GET /{MARK}/%2e%2e HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /items HTTP/1.1\r\nHost: {HOST}\r\nExpect: {MARK}\r\n\r\n"),
        format!("GET /items HTTP/{MARK}\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: {MARK}\r\n\r\n"),
        format!(
            "POST /items HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/grpc+{MARK}\r\nContent-Length: 0\r\n\r\n"
        ),
    ] {
        open(&gate).request(request);
    }
    // The server name, and names in certificates.
    let sni = format!("{MARK}.test");
    let _: Tried = gate.dial().sni(Some(&sni)).identity(&gate.acme).handshake();
    let named = gate.pki.client(&gate.acme_ca, MARK, |p| {
        p.subject_alt_names = vec![rcgen::SanType::URI(format!("spiffe://{MARK}/x").try_into().unwrap())];
    });
    get(&mut gate.dial().identity(&named).open(), "/items").expect(403);
    gate.dial().identity(&gate.pki.self_signed(&format!("self-{MARK}"), |_| {})).refused();
    let mut plain = TcpStream::connect(gate.address()).unwrap();
    plain.write_all(format!("GET /{MARK} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    let _ = plain.read(&mut [0; 64]);
    // The status listener is asked by anybody, too.
    assert_eq!(gate.http(&format!("/{MARK}")).0, 404);
    gate.settle();

    let text = gate.metrics();
    let squeezed = MARK.replace('-', "");
    assert!(!text.to_lowercase().contains(MARK) && !text.to_lowercase().contains(&squeezed), "{text}");
    // Every value is one that somebody on our side has chosen.
    let reasons = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reasons.md")).unwrap();
    let reason = |v: &str| reasons.contains(&format!("| `{v}` |"));
    let any = |v: &str, of: &[&str]| of.contains(&v);
    let operations =
        ["items.list", "items.create", "items.read", "items.delete", "items.events", "pairs.read", "other"];
    for (name, family) in families(&text) {
        for (labels, _) in &family.series {
            for (label, value) in labels {
                let good = match label.as_str() {
                    "partner" => any(value, &["acme", "globex", "unknown", "other"]),
                    "reason" => reason(value),
                    "outcome" => {
                        any(
                            value,
                            &["allowed", "denied", "failed", "aborted", "cut", "ok", "resumed", "masked", "dropped"],
                        ) || reason(value)
                    }
                    "operation" => any(value, &operations),
                    "upstream" => any(value, &["api", "other"]),
                    "protocol" => any(value, &["h2", "http/1.1"]),
                    "anchor" => any(value, &["acme-ca", "globex-ca"]),
                    "kind" => any(
                        value,
                        &[
                            "handshake",
                            "malformed",
                            "candidate",
                            "server-certificate",
                            "anchor",
                            "credential",
                            "api-key",
                        ],
                    ),
                    "credential" => any(value, &["acme-client", "globex-client"]),
                    "sink" => any(value, &["stdout", "file", "upload"]),
                    "engine" => any(value, &["rvm", "interpreter"]),
                    "le" | "policy" | "config" | "version" | "file" | "state" | "result" | "direction" | "within" => {
                        true
                    }
                    _ => false,
                };
                assert!(good, "{name}: {label}=\"{value}\"");
            }
        }
    }
}

#[test]
fn expiry_is_shown_for_certificates_anchors_and_credentials_that_end_soon() {
    let setup = Setup::new();
    let days = |n: i64| move |p: &mut rcgen::CertificateParams| crate::harness::valid(p, -1, n);
    let with_name = |name: &'static str, n: i64| {
        move |p: &mut rcgen::CertificateParams| {
            crate::harness::valid(p, -1, n);
            p.subject_alt_names =
                vec![rcgen::SanType::URI(format!("spiffe://{name}.example/client").try_into().unwrap())];
        }
    };
    let acme_ca = setup.pki.authority_with("acme-ca", days(500));
    let soon = setup.pki.client(&acme_ca, "acme-soon", with_name("acme", 10));
    let globex = setup.pki.client(&setup.globex_ca, "globex-late", with_name("globex", 200));
    let next = setup.pki.client(&acme_ca, "acme-next", with_name("acme", 200));
    // Recognised by what it is, so that its successor has to be registered.
    let exact = format!("match: {{fingerprint_sha256: \"{}\"}}", soon.fingerprint());
    let registry = setup.registry_text().replace("match: {uri: \"spiffe://acme.example/client\"}", &exact);
    assert!(registry.contains(&exact));
    let mut gate = setup.registry(&registry).start();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let in_days = |value: f64| ((value - now) / 86_400.0).round();
    let files: Vec<f64> = families(&gate.metrics())["partnergate_server_certificate_expiry_timestamp_seconds"]
        .series
        .iter()
        .map(|(_, v)| in_days(*v))
        .collect();
    assert_eq!(files, [30.0]);
    let anchor = |gate: &Gate, name: &str| {
        in_days(gate.metric(&format!("partnergate_anchor_expiry_timestamp_seconds{{anchor=\"{name}\"}}")))
    };
    assert_eq!((anchor(&gate, "acme-ca"), anchor(&gate, "globex-ca")), (500.0, 30.0));
    let within =
        |gate: &Gate, bucket: &str| gate.metric(&format!("partnergate_credentials_expiring{{within=\"{bucket}\"}}"));

    get(&mut gate.dial().identity(&soon).open(), "/items").expect(200);
    let last = get(&mut gate.dial().identity(&globex).open(), "/items");
    gate.record_of(last.id());
    // They are looked at from time to time, and at the start.
    gate.restart("TERM");
    await_some("the credentials", || (within(&gate, "30d") == 1.0).then_some(()));
    let found = families(&gate.metrics());
    let named = &found["partnergate_credential_expiry_timestamp_seconds"].series;
    let [(labels, ends)] = named.as_slice() else { panic!("only what ends within 30 days has a name: {named:?}") };
    assert_eq!(
        (labels["partner"].as_str(), labels["credential"].as_str(), in_days(*ends)),
        ("acme", "acme-client", 10.0)
    );
    assert_eq!((within(&gate, "later"), within(&gate, "unseen"), within(&gate, "expired")), (1.0, 0.0, 0.0));

    // And in words, for whoever looks or reads the log.
    let what = "the certificate last seen of the credential `acme-client` of `acme` ends at ";
    gate.await_log(what);
    gate.await_metric("partnergate_expiring_without_successor{kind=\"credential\"}", 1.0);
    let checked = gate.cli(&["check"]).stderr;
    assert!(checked.contains(what) && checked.contains("; no successor is registered"), "{checked}");
    let status = |gate: &Gate| {
        let status = gate.cli(&["status"]).ok();
        status.lines().find(|l| l.contains("credential acme-client of acme")).unwrap_or_default().to_owned()
    };
    assert!(status(&gate).contains("ends soon") && status(&gate).ends_with(": no successor"), "{}", status(&gate));
    let both = format!(
        "{exact}}}\n      acme-next: {{anchor: acme-ca, match: {{fingerprint_sha256: \"{}\"}}",
        next.fingerprint()
    );
    gate.apply(&registry.replace(&exact, &both));
    assert!(status(&gate).ends_with(": acme-next succeeds it"), "{}", status(&gate));
}

#[test]
fn revisions_move_with_what_they_name() {
    let gate = Gate::start();
    let info = |gate: &Gate| {
        let found = families(&gate.metrics());
        let [(labels, value)] = found["partnergate_snapshot_info"].series.as_slice() else { panic!("not one series") };
        assert_eq!(*value, 1.0);
        let number = |name: &str| gate.metric(&format!("partnergate_snapshot_{name}"));
        (number("registry_revision"), number("trust_generation"), labels["policy"].clone(), labels["config"].clone())
    };
    let first = info(&gate);
    assert_eq!(gate.metric("partnergate_partners"), 2.0);
    gate.apply(&gate.registry_text().replace("Acme GmbH", "Acme SE"));
    let second = info(&gate);
    assert_eq!(second, (first.0 + 1.0, first.1, first.2.clone(), first.3.clone()));
    gate.apply(&gate.registry_text().replace("partners: [acme]}", "client_auth: optional, partners: [acme]}"));
    let third = info(&gate);
    assert_eq!((third.0, third.1), (second.0 + 1.0, second.1 + 1.0));
    let mut config = gate.config().clone();
    config["request"] = json!({"max_fields": 90});
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.reload();
    let fourth = info(&gate);
    assert_eq!((fourth.0, fourth.1, &fourth.2), (third.0, third.1, &third.2));
    assert_ne!(fourth.3, third.3);
    // A record names the same.
    let record = gate.record_of(get(&mut open(&gate), "/items").id());
    assert_eq!(record["snapshot"]["policy"], fourth.2);
    assert_eq!(record["snapshot"]["config"], fourth.3);
    let built = gate.metric("partnergate_snapshot_timestamp_seconds");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..60.0).contains(&(now - built)), "{built}");
    // So does the CLI.
    let status: Value = serde_json::from_str(&gate.cli(&["status", "--output", "json"]).ok()).unwrap();
    assert_eq!(status["snapshot"]["policy"], fourth.2);
    assert!(gate.cli(&["status"]).ok().contains(&fourth.3));
}

#[test]
fn health_readiness_and_version_are_plain_and_read_only() {
    let gate = Gate::start();
    assert_eq!(gate.http("/healthz"), (200, "ok\n".into()));
    assert_eq!(gate.http("/readyz"), (200, "ready\n".into()));
    let version: Value = serde_json::from_str(&gate.http("/version").1).unwrap();
    assert_eq!(version, json!({"name": "partnergate", "version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(gate.metric(&format!("partnergate_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for path in ["/metrics", "/readyz", "/healthz", "/version"] {
            let mut stream = TcpStream::connect(gate.status_address()).unwrap();
            write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.0 405"), "{method} {path}: {answer}");
        }
    }
}

#[test]
fn the_admin_verbs_are_on_the_admin_socket_and_nowhere_else() {
    let gate = Gate::start();
    let verbs = [
        ("POST", "/v1/apply"),
        ("GET", "/v1/export"),
        ("GET", "/v1/partners"),
        ("GET", "/v1/partners/acme"),
        ("GET", "/v1/usage"),
        ("GET", "/v1/status"),
        ("POST", "/v1/reload"),
    ];
    for (method, path) in verbs {
        // With a partner's certificate, for the gateway's host and for the one that the CLI sends.
        for host in [HOST, "admin"] {
            let mut conn = open(&gate);
            let answer = conn.request(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"));
            assert!(matches!(answer.status, 403 | 421), "{method} {path}: {answer:?}");
            assert!(!answer.text().contains("acme"), "{answer:?}");
        }
        let mut stream = TcpStream::connect(gate.status_address()).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 404"), "{method} {path}: {answer}");
    }
    for path in ["/metrics", "/readyz", "/version"] {
        get(&mut open(&gate), path).expect(403);
    }
    gate.upstream.assert_untouched();
    assert_eq!(gate.metric("partnergate_snapshot_registry_revision"), 1.0);
    assert!(!gate.metrics().contains("partnergate_reloads_total{"));
}

#[test]
fn the_admin_socket_is_for_the_gateway_s_own_user() {
    let gate = Gate::start();
    let state = gate.dir.path().join("state");
    let socket = state.join("admin.sock");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!((mode(&socket), mode(&state)), (0o600, 0o700));

    let id = run(Command::new("id").arg("-u"), b"").ok();
    let setpriv = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status();
    if id.trim() != "0" || !setpriv.is_ok_and(|s| s.success()) {
        skipped("other user to call as: only root has one");
        return;
    }
    let call = |method: &str, path: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "--silent", "--show-error"]);
        command.args(["--noproxy", "*", "--max-time", "20", "--write-out", "\n%{http_code}", "-X", method]);
        command.args(["-H", "content-type: application/json"]);
        if method == "POST" {
            command.args(["-d", "{\"files\":[{\"name\":\"a.yaml\",\"text\":\"{}\"}],\"options\":{\"prune\":true}}"]);
        }
        command.arg("--unix-socket").arg(&socket).arg(format!("http://admin{path}"));
        run(&mut command, b"")
    };
    // The file system keeps others out.
    let outside = call("GET", "/v1/partners");
    assert_eq!(outside.exit, Some(7), "{}{}", outside.text(), outside.stderr);
    // And where somebody has opened it, the gateway asks the kernel who calls.
    for path in [gate.dir.path(), &state] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    for (method, path) in
        [("GET", "/v1/partners"), ("GET", "/v1/export"), ("POST", "/v1/apply"), ("POST", "/v1/reload")]
    {
        let inside = call(method, path);
        let text = inside.text();
        assert!(text.ends_with("\n403"), "{method} {path}: {text}{}", inside.stderr);
        assert!(!text.contains("acme"), "{text}");
    }
    get(&mut open(&gate), "/items").expect(200);
    assert_eq!(gate.metric("partnergate_snapshot_registry_revision"), 1.0);
    assert!(!gate.metrics().contains("partnergate_reloads_total{"));
    // Our own user is still served.
    gate.cli(&["partner", "list"]).ok();
}

/// Whoever reaches the listener cannot use up its connections by saying nothing.
#[test]
fn silent_connections_are_cut_at_their_deadline_and_keep_no_scraper_waiting() {
    let gate = Gate::start();
    let began = Instant::now();
    let begun = |first: &[u8]| {
        let mut tcp = TcpStream::connect(gate.status_address()).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.write_all(first).unwrap();
        tcp
    };
    let half = b"GET /metrics HTTP/1.1\r\nHost: st";
    let mut answered = begun(b"GET /healthz HTTP/1.1\r\nHost: status\r\n\r\n");
    answered.read_exact(&mut [0; 15]).unwrap();
    let held = [("silent", begun(b"")), ("half a head", begun(half)), ("after an answer", answered)];
    let mut drips = begun(half);
    drips.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while began.elapsed() < DEADLINE && !matches!(drips.read(&mut [0; 512]), Ok(0)) {
        if drips.write_all(b"x").is_err() {
            break;
        }
    }
    assert!(began.elapsed() < DEADLINE, "a head that drips is never cut");
    assert!(began.elapsed() > Duration::from_secs(4), "a head that drips is cut after {:?}", began.elapsed());
    for (name, mut tcp) in held {
        tcp.read_to_end(&mut Vec::new()).unwrap_or_else(|e| panic!("{name}: left open: {e}"));
    }

    // Far more than are served at once, and none of them over yet.
    let began = Instant::now();
    let many: Vec<TcpStream> = (0..300).map(|n| begun(if n % 2 == 0 { b"" } else { half })).collect();
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(gate.http(path).0, 200, "{path}");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "a scraper has waited {:?}", began.elapsed());
    get(&mut open(&gate), "/items").expect(200);
    drop(many);
    assert_eq!(gate.http("/metrics").0, 200);
}
