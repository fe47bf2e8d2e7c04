//! The process: what it refuses to start with, and how it ends.

use crate::harness::{Gate, HOST, Process, Response, Setup, TlsConn, await_some, python};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn get(conn: &mut TlsConn, path: &str) -> Response {
    conn.request(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
}

fn open(gate: &Gate) -> TlsConn {
    gate.dial().identity(&gate.acme).open()
}

/// Sends a request whose answer the upstream holds back, and returns once the upstream has it.
fn in_flight(gate: &Gate, delay_ms: u64) -> TlsConn {
    let mut conn = open(gate);
    conn.send(format!("GET /items/slow?upstream_delay_ms={delay_ms} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    await_some("the request at the upstream", || gate.upstream.text().contains("/items/slow").then_some(()));
    conn
}

/// What `check` and `serve` say against the config of this setup; both must refuse it.
#[track_caller]
fn refused(setup: &Setup) -> String {
    let (exit, served) = setup.start_expecting_failure();
    let checked = setup.cli(&["check"]);
    assert_eq!((exit, checked.exit), (Some(3), Some(3)), "serve: {served}\ncheck: {}", checked.stderr);
    // An error and how to mend it; warnings are left out.
    let errors = |text: &str| -> Vec<String> {
        let mut wanted = false;
        let kept = text.lines().filter(|l| {
            wanted = l.starts_with("error: ") || wanted && l.starts_with("    fix: ");
            wanted
        });
        kept.map(str::to_owned).collect()
    };
    assert_eq!(errors(&served), errors(&checked.stderr), "check and serve disagree");
    assert!(!served.contains("ready"), "{served}");
    served
}

/// `partnergate.yaml:LINE:` of the first line that contains this, in the config as it was written.
#[track_caller]
fn place(setup: &Setup, what: &str) -> String {
    let text = fs::read_to_string(setup.config_file()).unwrap();
    let line = text.lines().position(|l| l.contains(what)).unwrap_or_else(|| panic!("no `{what}` in {text}"));
    format!("partnergate.yaml:{}:", line + 1)
}

/// Fails unless one line has all of these.
#[track_caller]
fn one_line_has(text: &str, parts: &[&str]) {
    assert!(text.lines().any(|l| parts.iter().all(|p| l.contains(p))), "no line with {parts:?} in\n{text}");
}

#[test]
fn a_config_that_is_not_there_is_no_config() {
    let setup = Setup::new();
    for command in ["serve", "check"] {
        let nothing = setup.cli(&[command]);
        assert_eq!(nothing.exit, Some(3), "{}", nothing.stderr);
        one_line_has(&nothing.stderr, &["partnergate.yaml", "does not exist"]);
    }
    assert!(!setup.dir.path().join("state").exists());
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_one_suggested() {
    for (key, value, near) in [
        ("partner.timeouts.hed", json!("1s"), "head"),
        ("drian", json!({"delay": "1s"}), "drain"),
        ("routes.api.upstraem", json!("api"), "upstream"),
        ("partner.tls.min_versoin", json!("1.3"), "min_version"),
    ] {
        let setup = Setup::new().set(key, value);
        let said = refused(&setup);
        let last = key.rsplit('.').next().unwrap();
        one_line_has(&said, &[&place(&setup, &format!("\"{last}\"")), &format!("`{key}`"), "unknown key"]);
        one_line_has(&said, &["did you mean", &format!("`{near}`")]);
    }
}

#[test]
fn all_errors_are_said_at_once_with_file_line_and_key() {
    let setup = Setup::new()
        .set("partnr", json!({}))
        .set("drain.delay", "soon")
        .set("request.max_fields", 3)
        .set("status.listen", json!(["localhost"]))
        .set("routes.api.upstream", "apo")
        .set("routes.api.max_body", "10MB")
        .set("upstreams.other", json!({"endpoints": ["127.0.0.1:1"], "protocol": "h3"}))
        .set("partner.certificates.0.chain", "nowhere.pem")
        .set("routes.other", json!({"hosts": [HOST], "upstream": "api"}));
    let (setup, policies) = setup.own_policies();
    fs::write(policies.join("custom/broken.rego"), "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\n")
        .unwrap();
    let said = refused(&setup);
    for (written, key, what) in [
        ("\"partnr\"", "partnr", "unknown key"),
        ("\"soon\"", "drain.delay", "not a duration"),
        ("\"max_fields\"", "request.max_fields", "3 is outside"),
        ("\"localhost\"\n", "status.listen[0]", "not an address"),
        ("\"10MB\"", "routes.api.max_body", "not a size"),
        ("\"h3\"", "upstreams.other.protocol", "not one of h1, h2"),
        ("\"apo\"", "routes.api.upstream", "no upstream `apo`"),
        ("nowhere.pem", "", "does not exist"),
    ] {
        let written = written.trim_end();
        // The server certificate names localhost too.
        let at = place(&setup, written);
        one_line_has(&said, &[&at, key, what]);
    }
    one_line_has(&said, &["routes", "`api`", "`other`", "same host"]);
    one_line_has(&said, &["custom/broken.rego:"]);
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let setup = Setup::new();
    let key = setup.pki.dir().join("server.key.pem");
    for mode in [0o640, 0o604, 0o644, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let said = refused(&setup);
        one_line_has(&said, &[&place(&setup, "server.key.pem"), "server.key.pem", "read by others"]);
        one_line_has(&said, &["fix:", "chmod 0600", "server.key.pem"]);
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    drop(setup.start());
}

#[test]
fn a_secret_is_never_written_inline_nor_said_again() {
    let key = |setup: &Setup| fs::read_to_string(setup.pki.dir().join("server.key.pem")).unwrap();
    for inline in ["hunter2hunter2".to_owned(), key(&Setup::new()), key(&Setup::new()).replace('\n', "")] {
        let setup = Setup::new().set("partner.certificates.0.key", inline.clone());
        let said = refused(&setup);
        one_line_has(&said, &[&place(&setup, "\"key\""), "partner.certificates[0].key"]);
        assert!(said.contains("file:"), "the fix is not said: {said}");
        for part in inline.split_whitespace().filter(|p| p.len() > 12) {
            assert!(!said.contains(part), "the secret is in the message: {said}");
        }
    }
}

#[test]
fn routes_upstreams_and_their_tls_must_fit_together() {
    let same = Setup::new().set("routes.twin", json!({"hosts": ["API.partner.test."], "upstream": "api"}));
    let said = refused(&same);
    one_line_has(&said, &["`api`", "`twin`", HOST, "same host"]);
    one_line_has(&said, &["partnergate.yaml:"]);

    let nowhere = Setup::new().set("routes.api.upstream", "billing");
    let said = refused(&nowhere);
    one_line_has(&said, &[&place(&nowhere, "\"billing\""), "routes.api.upstream", "`billing`"]);
    one_line_has(&said, &["fix:", "api"]);

    let unnamed = Setup::new().set("upstreams.api.tls", json!({}));
    let said = refused(&unnamed);
    one_line_has(&said, &[&place(&unnamed, "\"tls\""), "upstreams.api.tls.server_name", "missing"]);
}

#[test]
fn check_says_what_serve_would_do_without_doing_it() {
    let setup = Setup::new();
    fs::write(setup.config_file(), setup.config().to_string()).unwrap();
    let good = setup.cli(&["check"]);
    assert_eq!(good.exit, Some(0), "{}", good.stderr);
    assert!(good.text().contains("is good") && good.text().contains("6 operations"), "{}", good.text());
    assert!(!setup.dir.path().join("state").exists(), "check writes nothing");

    // With a registry: beside a gateway that runs, after its end, and after a kill.
    let mut gate = setup.start();
    let agree = |gate: &Gate, when: &str| {
        let checked = gate.cli(&["check"]);
        assert_eq!(checked.exit, Some(0), "{when}: {}", checked.stderr);
        assert!(checked.text().contains("2 partners"), "{when}: {}", checked.text());
    };
    agree(&gate, "while it runs");
    // A folder can be looked at before it is applied.
    let folder = gate.write_registry(&gate.registry_text().replace("items.events]", "items.evnets]"));
    let refused = gate.cli(&["check", "-f", folder.to_str().unwrap()]);
    assert_eq!(refused.exit, Some(3), "{}", refused.text());
    one_line_has(&refused.stderr, &["registry.yaml:", "acme-socket.operations", "items.events"]);
    gate.signal("KILL");
    gate.process.ended();
    agree(&gate, "after a kill");
    gate.process = Process::start(Command::new("sleep").arg("60"), gate.dir.path(), "nothing");
    gate.restart("TERM");
    gate.signal("TERM");
    gate.process.ended();
    agree(&gate, "after its end");
}

#[test]
fn check_warns_of_what_expires_soon() {
    let setup = Setup::new();
    let long = |p: &mut rcgen::CertificateParams| crate::harness::valid(p, -1, 400);
    setup.pki.authority_with("long-ca", long);
    let server = |name: &str, days: i64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        crate::harness::valid(&mut params, -1, days);
        let certificate = params.self_signed(&key).unwrap();
        setup.pki.identity(name, vec![certificate.der().to_vec()], key.serialize_der())
    };
    let (soon, lasting) = (server("soon", 20), server("lasting", 400));
    let pair = |who: &crate::harness::Identity| json!([{"chain": who.chain_file, "key": format!("file:{}", who.key_file.display())}]);
    setup.pki.authority_with("short-ca", |p| crate::harness::valid(p, -1, 20));
    let registry = setup.registry_text().replace("certificate: globex-ca.pem", "certificate: long-ca.pem");
    let registry = registry.replace("certificate: acme-ca.pem", "certificate: short-ca.pem");
    let gate = setup.set("partner.certificates", pair(&lasting)).registry(&registry).start();
    let warnings = |gate: &Gate, more: &[&str]| {
        let checked = gate.cli(&[&["check"], more].concat());
        (checked.exit, checked.stderr)
    };
    let (exit, said) = warnings(&gate, &[]);
    assert_eq!(exit, Some(0));
    one_line_has(&said, &["warning", "`acme-ca`", "expires at"]);
    assert!(!said.contains("globex-ca") && !said.contains("lasting"), "{said}");
    assert_eq!(warnings(&gate, &["--strict"]).0, Some(3));

    let mut config = gate.config().clone();
    config["partner"]["certificates"] = pair(&soon);
    fs::write(gate.config_file(), config.to_string()).unwrap();
    let (exit, said) = warnings(&gate, &[]);
    assert_eq!(exit, Some(0));
    one_line_has(&said, &["warning", "soon.chain.pem", "server certificate", "expires at"]);
}

#[test]
fn a_second_process_on_the_same_state_is_refused_and_harms_nothing() {
    let gate = Gate::start();
    let mut conn = open(&gate);
    get(&mut conn, "/items").expect(200);
    let second = gate.cli(&["serve"]);
    assert_eq!(second.exit, Some(1), "{}", second.stderr);
    one_line_has(&second.stderr, &["another partnergate", "state"]);
    // The first one goes on, its admin socket too.
    get(&mut conn, "/items").expect(200);
    gate.apply(&gate.registry_text().replace("items.list, items.create", "items.create"));
    get(&mut conn, "/items").expect(403);
}

#[test]
fn sigterm_is_not_ready_at_once_serves_new_connections_for_the_delay_and_then_drains() {
    let mut gate = Setup::new().set("drain.delay", "1500ms").set("drain.grace", "60s").start();
    let mut idle = open(&gate);
    get(&mut idle, "/items").expect(200);
    let mut slow = in_flight(&gate, 2500);

    let told = Instant::now();
    gate.signal("TERM");
    await_some("/readyz", || (gate.http("/readyz").0 == 503).then_some(()));
    assert_eq!(gate.http("/healthz").0, 200);
    assert_eq!(gate.metric("partnergate_ready"), 0.0);
    // A load balancer has not noticed yet.
    get(&mut open(&gate), "/items").expect(200);
    get(&mut idle, "/items").expect(200);
    assert!(told.elapsed() < Duration::from_millis(1500), "too slow a machine to see the delay");

    // The listener closes, and idle connections do; the request in progress goes on.
    idle.assert_closed();
    assert!(told.elapsed() >= Duration::from_millis(1500), "{:?}", told.elapsed());
    await_some("the end of the listener", || TcpStream::connect(gate.address()).is_err().then_some(()));
    assert!(gate.process.lives());
    slow.response().expect(200);
    let answered = Instant::now();
    assert_eq!(gate.process.ended().code(), Some(0), "{}", gate.log());
    assert!(answered.elapsed() < Duration::from_secs(15), "the grace period ends with the last request");
    slow.assert_closed();
    let slow = gate.records().into_iter().filter(|r| r["input"]["request"]["operation"] == "items.read");
    assert_eq!(slow.map(|r| r["result"].clone()).collect::<Vec<_>>(), ["allow"]);
}

#[test]
fn sigint_drains_without_delay() {
    let mut gate = Setup::new().set("drain.delay", "1h").set("drain.grace", "1h").start();
    let mut idle = open(&gate);
    get(&mut idle, "/items").expect(200);
    let mut slow = in_flight(&gate, 800);
    gate.signal("INT");
    idle.assert_closed();
    await_some("the end of the listener", || TcpStream::connect(gate.address()).is_err().then_some(()));
    slow.response().expect(200);
    assert_eq!(gate.process.ended().code(), Some(0));
}

#[test]
fn the_grace_period_has_an_end() {
    let mut gate = Setup::new().set("drain.grace", "300ms").start();
    let mut slow = in_flight(&gate, 60_000);
    gate.signal("TERM");
    assert_eq!(gate.process.ended().code(), Some(0));
    slow.assert_closed();
    let records = gate.records();
    assert_eq!(records.last().map(|r| r["result"].clone()), Some(json!("aborted")), "{records:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    // While draining, and in the delay before; whatever the first signal was.
    for (first, second, delay) in
        [("TERM", "TERM", "0s"), ("INT", "INT", "0s"), ("TERM", "INT", "1h"), ("TERM", "TERM", "1h")]
    {
        let mut gate = Setup::new().set("drain.delay", delay).set("drain.grace", "1h").start();
        let mut slow = in_flight(&gate, 60_000);
        gate.signal(first);
        await_some("/readyz", || (gate.http("/readyz").0 == 503).then_some(()));
        if delay == "0s" {
            await_some("the end of the listener", || TcpStream::connect(gate.address()).is_err().then_some(()));
        }
        gate.signal(second);
        let status = gate.process.ended();
        assert_eq!(status.code(), Some(0), "{first} {second} in {delay}");
        slow.assert_closed();
        let records = gate.records().into_iter().filter(|r| r["kind"] == "request");
        let results: Vec<Value> = records.map(|r| r["result"].clone()).collect();
        assert_eq!(results, ["aborted"], "{first} {second} in {delay}");
    }
}

#[test]
fn http2_clients_are_told_to_go_away_and_their_streams_end_well() {
    let Some(python) = python(&["h2"]) else { return };
    let mut gate = Setup::new().set("drain.grace", "60s").start();
    let script = gate.dir.path().join("client.py");
    fs::write(&script, H2_CLIENT).unwrap();
    let mut client = Command::new(python);
    client.arg(&script).arg(gate.address().port().to_string()).arg(HOST);
    client.arg(&gate.acme.chain_file).arg(&gate.acme.key_file);
    let mut client = Process::start(&mut client, gate.dir.path(), "client");
    await_some("the request at the upstream", || gate.upstream.text().contains("/items/slow").then_some(()));
    gate.signal("TERM");
    client.await_output("the GOAWAY", |p| p.out().contains("goaway 0").then_some(()));
    let status = client.ended();
    let out = client.out();
    assert!(status.success(), "{out}{}", client.log());
    assert!(out.contains("status 200") && out.contains("ended"), "{out}");
    assert_eq!(gate.process.ended().code(), Some(0));
}

const H2_CLIENT: &str = r#"
import socket, ssl, sys
import h2.config, h2.connection, hpack
port, host, chain, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
context.load_cert_chain(chain, key)
tls = context.wrap_socket(socket.create_connection(("127.0.0.1", int(port)), 20), server_hostname=host)
h2c = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
h2c.initiate_connection()
h2c.send_headers(1, [(":method", "GET"), (":scheme", "https"), (":authority", host),
                     (":path", "/items/slow?upstream_delay_ms=1200")], end_stream=True)
tls.sendall(h2c.data_to_send())
# The library refuses every frame after the first GOAWAY, where RFC 9113 section 6.8 lets streams end: read by hand.
decoder, data = hpack.Decoder(), b""
while more := tls.recv(65536):
    data += more
    while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
        length, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
        frame, data = data[9:9 + length], data[9 + length:]
        if kind == 1:
            print("status", dict(decoder.decode(frame))[":status"], flush=True)
        if kind in (0, 1) and flags & 1:
            print("ended", flush=True)
        if kind == 3:
            print("reset", int.from_bytes(frame, "big"), flush=True)
        if kind == 7:
            print("goaway", int.from_bytes(frame[4:8], "big"), flush=True)
        if kind in (4, 6) and not flags & 1:
            answer = frame if kind == 6 else b""
            tls.sendall(len(answer).to_bytes(3, "big") + bytes([kind, 1, 0, 0, 0, 0]) + answer)
print("closed", flush=True)
"#;

#[test]
fn the_program_documents_itself() {
    let setup = Setup::new();
    let said = |what: &str| setup.cli(&["config", what]).ok();
    let committed =
        |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file)).unwrap();
    for (what, file) in [("reference", "config.md"), ("metrics", "metrics.md"), ("reasons", "reasons.md")] {
        assert_eq!(said(what).trim_end(), committed(file).trim_end(), "{what}");
    }
    let schema: Value = serde_json::from_str(&said("schema")).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for key in setup.config().as_object().unwrap().keys() {
        assert!(schema["properties"][key].is_object(), "no `{key}` in the schema");
    }
    for key in schema["required"].as_array().unwrap() {
        assert!(setup.config()[key.as_str().unwrap()] != Value::Null, "{key} is not required by what works");
    }
    let registry: Value = serde_json::from_str(&said("registry-schema")).unwrap();
    assert!(registry["properties"]["partners"].is_object());

    // The example is good but for the files that it names.
    let example = said("example");
    fs::write(setup.config_file(), &example).unwrap();
    let checked = setup.cli(&["check"]);
    assert_eq!(checked.exit, Some(3));
    for line in checked.stderr.lines().filter(|l| l.starts_with("error: ")) {
        let missing = line.contains("does not exist") || line.contains("has no .rego files");
        assert!(missing, "{line}\n{example}");
    }
    for key in schema["properties"].as_object().unwrap().keys() {
        assert!(example.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key}:"))), "no `{key}`");
    }
}

/// Every file below, with what would show a write: size, time, inode.
fn listing(dir: &Path, skip: &[PathBuf], out: &mut BTreeMap<PathBuf, (u64, i64, i64, u64)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if skip.contains(&path) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        out.insert(path.clone(), (meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ino()));
        if meta.is_dir() {
            listing(&path, skip, out);
        }
    }
}

#[test]
fn only_the_state_folder_is_written_to() {
    let setup = Setup::new();
    let dir = setup.dir.path().to_owned();
    let state = dir.join("state");
    fs::create_dir(dir.join("tmp")).unwrap();
    fs::create_dir(dir.join("home")).unwrap();
    let in_dir = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (setup, _) = setup.own_policies();
    let records = state.join("records.jsonl");
    fs::create_dir(&state).unwrap();
    let mut gate = setup
        .set("record.output", format!("file:{}", records.display()))
        .env("TMPDIR", &in_dir("tmp"))
        .env("HOME", &in_dir("home"))
        .start();
    let folder = gate.write_registry(gate.registry_text());
    // What the test itself writes: the upstream's records, and the outputs of both programs.
    let mut skip: Vec<PathBuf> = ["state", "upstream", "gateway.log", "gateway.out", "upstream.log", "upstream.out"]
        .map(|n| dir.join(n))
        .to_vec();
    skip.push(folder);
    let look = || {
        let mut found = BTreeMap::new();
        listing(&dir, &skip, &mut found);
        found
    };
    let before = look();
    assert!(before.len() > 20, "{before:?}");
    get(&mut open(&gate), "/items").expect(200);
    gate.reload();
    gate.apply(&gate.registry_text().replace("Acme GmbH", "Acme SE"));
    // Whatever is open for writing is in the state folder, but for the two outputs.
    for entry in fs::read_dir(format!("/proc/{}/fd", gate.process.id())).unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let info = format!("/proc/{}/fdinfo/{}", gate.process.id(), entry.file_name().to_string_lossy());
        let Ok(info) = fs::read_to_string(info) else { continue };
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap().trim();
        let writes = u32::from_str_radix(flags, 8).unwrap() & 0o3 != 0;
        let number: u32 = entry.file_name().to_string_lossy().parse().unwrap();
        if writes && number > 2 && target.is_absolute() && !target.starts_with("/dev") {
            assert!(target.starts_with(&state), "fd {number}: {}", target.display());
        }
    }
    gate.signal("TERM");
    gate.process.ended();
    assert_eq!(look(), before);
    let mut left: Vec<String> =
        fs::read_dir(&state).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    left.sort();
    assert_eq!(left, ["history.key", "lock", "record.end", "record.key", "records.jsonl", "registry.db"]);
    for secret in ["record.key", "lock", "registry.db", "records.jsonl"] {
        let mode = fs::metadata(state.join(secret)).unwrap().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{secret} has mode {mode:o}");
    }
}
