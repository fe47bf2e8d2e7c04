//! Policies that come in bundles: polled from a real web server, verified, live without a restart, and never less than the
//! last good one.

use crate::harness::{Curl, Gate, Nginx, Setup, await_some, openssl_key, put, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A rule that denies nothing, and everything.
const OPEN: &str = "input.request.operation == \"nothing\"";
const CLOSED: &str = "input.request.method == \"GET\"";

/// Where bundles are made: a policy folder and keys.
struct Office {
    folder: PathBuf,
    keys: PathBuf,
    setup: Setup,
}

impl Office {
    fn new() -> Self {
        let (setup, folder) = Setup::new().own_policies();
        std::fs::write(folder.join("reasons.yaml"), "reasons:\n  x-closed: 'closed'\n").unwrap();
        let keys = setup.dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let office = Office { folder, keys, setup };
        office.key("a");
        office.key("b");
        office
    }

    /// A new pair under this name.
    fn key(&self, name: &str) {
        let private = openssl_key(&self.setup.pki, name, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        std::fs::rename(private, self.private(name)).unwrap();
        let mut command = Command::new("openssl");
        command.args(["pkey", "-pubout", "-in"]).arg(self.private(name)).arg("-out").arg(self.public(name));
        run(&mut command, b"").ok();
    }

    fn private(&self, name: &str) -> PathBuf {
        self.keys.join(format!("{name}.key"))
    }

    fn public(&self, name: &str) -> PathBuf {
        self.keys.join(format!("{name}.pub"))
    }

    /// A bundle with this rule, signed with a key unless that is empty.
    fn bundle(&self, revision: &str, rule: &str, key: &str) -> Vec<u8> {
        let text = format!(
            "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {{\"reason\": \"x-closed\"}} if {rule}\n"
        );
        std::fs::write(self.folder.join("custom/closed.rego"), text).unwrap();
        let file = self.setup.dir.path().join("built.tar.gz");
        let (folder, shown) = (self.folder.to_str().unwrap(), file.to_str().unwrap());
        self.setup.cli(&["policy", "build", folder, "-o", shown, "--revision", revision]).ok();
        if !key.is_empty() {
            let private = self.private(key);
            let sign = ["policy", "sign", shown, "--algorithm", "ES256", "--key-id", key, "--key"];
            self.setup.cli(&[&sign[..], &[private.to_str().unwrap()]].concat()).ok();
        }
        std::fs::read(file).unwrap()
    }

    /// What is in this folder, packed as it is by GNU tar, with these arguments.
    fn packed(&self, folder: &Path, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("tar");
        run(command.args(["cz", "-C"]).arg(folder).args(arguments), b"").stdout
    }

    /// A gateway to be that takes bundles of the key `a` from here.
    fn serving(self, source: &str, more: &Value) -> Setup {
        let mut bundle = json!({
            "source": source, "refresh": "1s", "keys": {"a": {"key": self.public("a"), "algorithm": "ES256"}},
        });
        for (key, value) in more.as_object().unwrap() {
            bundle[key] = value.clone();
        }
        self.setup.set("policy", json!({"bundle": bundle, "time_limit": "1s"})).set("reload.interval", "100ms")
    }
}

fn get(gate: &Gate) -> Curl {
    gate.curl(Some(&gate.acme), "/items/1", &[])
}

fn status(gate: &Gate) -> Value {
    serde_json::from_str(&gate.cli(&["status", "--output", "json"]).ok()).unwrap()
}

fn await_error(gate: &Gate, expected: &str) {
    await_some(expected, || {
        let error = status(gate)["policy_bundle"]["error"].as_str()?.to_owned();
        error.contains(expected).then_some(())
    });
}

const OK: &str = "partnergate_policy_bundle_last_fetch_successful";

fn revision(gate: &Gate, revision: &str) {
    gate.await_metric(&format!("partnergate_policy_bundle_info{{revision=\"{revision}\"}}"), 1.0);
    assert_eq!(gate.metrics().matches("partnergate_policy_bundle_info{").count(), 1);
}

#[test]
fn new_bundle_of_a_url_decides_the_next_request_of_an_open_connection() {
    let folder = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(folder.path(), "") else { return };
    let office = Office::new();
    let (open, closed) = (office.bundle("one", OPEN, "a"), office.bundle("two", CLOSED, "a"));
    nginx.put("p.tar.gz", &open);
    let gate = office.serving(&nginx.url("/p.tar.gz"), &json!({})).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let mut asked = || conn.request("GET /items/1 HTTP/1.1\r\nHost: api.partner.test\r\n\r\n").status;
    assert_eq!(asked(), 200);
    revision(&gate, "one");
    assert_eq!(gate.metric(OK), 1.0);
    assert!(gate.metric("partnergate_policy_bundle_last_success_timestamp_seconds") > 1e9);
    assert_eq!(gate.metric("partnergate_policy_bundle_fetches_total{result=\"activated\"}"), 1.0);
    await_some("nothing new", || nginx.asked("/p.tar.gz").contains(&304).then_some(()));
    assert_eq!(nginx.asked("/p.tar.gz").iter().filter(|status| **status == 200).count(), 1);
    let before = status(&gate);
    assert_eq!(before["policy_bundle"]["revision"], "one");
    assert_eq!(before["policy_bundle"]["signed_by"], json!({"key_id": "a", "algorithm": "ES256"}));
    assert_eq!(before["policy_bundle"]["source"], nginx.url("/p.tar.gz"));
    assert_eq!(before["policy_bundle"]["error"], Value::Null);

    nginx.put("p.tar.gz", &closed);
    revision(&gate, "two");
    assert_eq!(asked(), 403);
    let after = status(&gate);
    assert_eq!(after["policy_bundle"]["revision"], "two");
    assert_ne!(after["snapshot"]["policy"], before["snapshot"]["policy"]);
    assert!(after["snapshot"]["policy_since"].as_str() > before["snapshot"]["policy_since"].as_str());
    assert!(gate.cli(&["status"]).ok().contains("of the bundle `two`, signed by a, since 2"));
    let records = gate.await_all(2);
    let requests: Vec<&Value> = records.iter().filter(|r| r["kind"] == "request").collect();
    assert_eq!((&requests[0]["snapshot"]["bundle"], &requests[0]["result"]), (&json!("one"), &json!("allow")));
    assert_eq!((&requests[1]["snapshot"]["bundle"], &requests[1]["reason"]), (&json!("two"), &json!("x-closed")));
    assert_eq!(requests[1]["snapshot"]["policy"], after["snapshot"]["policy"]);
}

#[test]
fn nothing_but_a_good_bundle_takes_the_place_of_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut nginx) = Nginx::start(folder.path(), "") else { return };
    let office = Office::new();
    let good = office.bundle("good", OPEN, "a");
    let next = office.bundle("next", CLOSED, "a");
    let (unsigned, strange) = (office.bundle("x", CLOSED, ""), office.bundle("x", CLOSED, "b"));
    let unpacked = office.setup.dir.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar").args(["xz", "-C"]).arg(&unpacked), &next).ok();
    let packed = |arguments: &[&str]| office.packed(&unpacked, arguments);
    std::fs::write(unpacked.join("custom/closed.rego"), "package partnergate.custom\n# altered\n").unwrap();
    let altered = packed(&["."]);
    let escaping = packed(&["--transform", "s,^./reasons.yaml,../../reasons.yaml,", "."]);
    std::os::unix::fs::symlink("/etc/passwd", unpacked.join("custom/data.json")).unwrap();
    let linked = packed(&["."]);
    std::fs::remove_file(unpacked.join("custom/data.json")).unwrap();
    std::fs::write(unpacked.join("custom/large"), vec![0; 5 << 20]).unwrap();
    let large = packed(&["."]);
    assert!(large.len() < 1 << 20, "it is the size unpacked that counts");
    // Signed as it should be, and no policy: the rule uses what policies may not.
    let broken = {
        std::fs::remove_file(unpacked.join("custom/large")).unwrap();
        let text = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-closed\"} if http.send({})\n";
        std::fs::write(unpacked.join("custom/closed.rego"), text).unwrap();
        let private = office.private("a");
        let sign = ["policy", "sign", unpacked.to_str().unwrap(), "--algorithm", "ES256", "--key-id", "a", "--key"];
        office.setup.cli(&[&sign[..], &[private.to_str().unwrap()]].concat()).ok();
        packed(&["."])
    };
    nginx.put("p.tar.gz", &good);
    let gate = office.serving(&nginx.url("/p.tar.gz"), &json!({"max_size": "4MiB"})).start();
    revision(&gate, "good");
    let since = status(&gate)["snapshot"]["policy_since"].clone();
    let bad: [(&[u8], &str); 9] = [
        (&unsigned, "it is not signed"),
        (&strange, "the key `b` is not known; known are a"),
        (&altered, "`custom/closed.rego` is not what was signed"),
        (&next[..next.len() / 2], "the gzip is broken or cut off"),
        (&escaping, "leads out of its folder"),
        (&linked, "a symbolic link"),
        (&large, "larger than 4194304 bytes"),
        (&broken, "http.send"),
        (b"<!doctype html><title>Please log in</title>", "the gzip is broken"),
    ];
    for (bytes, expected) in bad {
        nginx.put("p.tar.gz", bytes);
        await_error(&gate, expected);
        assert_eq!(gate.metric(OK), 0.0);
        get(&gate).expect(200);
        revision(&gate, "good");
        assert!(gate.log().contains(expected), "it is in the log");
    }
    // Whoever has files read again is told, at once.
    nginx.put("p.tar.gz", &unsigned);
    let said = gate.cli(&["reload"]);
    assert!(said.exit == Some(3) && said.text() == "reloaded\n", "{}", said.text());
    let kept = format!(
        "the last good policy decides: {}, of the bundle `good`",
        status(&gate)["snapshot"]["policy"].as_str().unwrap()
    );
    assert!(said.stderr.contains("it is not signed") && said.stderr.contains(&kept), "{}", said.stderr);
    nginx.put("p.tar.gz", &good);
    gate.cli(&["reload"]).ok();
    // Nor does a server that has none, or sends elsewhere.
    let url = nginx.url("/elsewhere");
    for (location, expected) in
        [("return 500;", "answered 500"), (&*format!("return 302 {url};"), "redirects are not followed")]
    {
        nginx.restart(&format!("location /p.tar.gz {{ {location} }}"));
        await_error(&gate, expected);
        get(&gate).expect(200);
    }
    let shown = status(&gate);
    assert_eq!(shown["snapshot"]["policy_since"], since, "the same policy has decided all the time");
    assert!(shown["policy_bundle"]["failing_since"].as_str() > since.as_str());
    assert!(gate.cli(&["status"]).ok().contains("BUNDLE       not taken since 2"));
    assert_eq!(gate.http("/readyz").0, 200);
    assert!(gate.metric("partnergate_policy_bundle_fetches_total{result=\"refused\"}") >= 1.0);
    assert!(gate.metric("partnergate_policy_bundle_fetches_total{result=\"failed\"}") >= 9.0);

    nginx.restart("");
    nginx.put("p.tar.gz", &next);
    revision(&gate, "next");
    get(&gate).expect(403);
    gate.await_metric(OK, 1.0);
    assert_eq!(status(&gate)["policy_bundle"]["error"], Value::Null);
}

#[test]
fn kept_bundle_serves_when_its_server_is_down_and_only_as_it_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut nginx) = Nginx::start(folder.path(), "") else { return };
    let office = Office::new();
    let strange = office.bundle("strange", OPEN, "b");
    let closed = office.bundle("kept", CLOSED, "a");
    nginx.put("p.tar.gz", &closed);
    let setup = office.serving(&nginx.url("/p.tar.gz"), &json!({}));
    let mut gate = setup.start();
    get(&gate).expect(403);
    gate.stop("TERM");
    nginx.stop();
    gate.begin();
    get(&gate).expect(403);
    revision(&gate, "kept");
    assert_eq!(gate.metric(OK), 0.0);
    await_error(&gate, "Connection refused");
    let warned = gate.cli(&["check"]);
    assert_eq!(warned.exit, Some(0), "{}", warned.stderr);
    assert!(warned.stderr.contains("the copy of an earlier one be served"), "{}", warned.stderr);
    gate.cli(&["policy", "check"]).ok();
    // It does not look at the copy before it is started again.
    gate.stop("TERM");

    let kept = gate.dir.path().join("state/policy");
    let copy = std::fs::read_dir(&kept).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().unwrap() == "gz");
    let (copy, label) = (copy.unwrap(), kept.join("bundle.json"));
    let (bytes, text) = (std::fs::read(&copy).unwrap(), std::fs::read_to_string(&label).unwrap());
    assert_eq!(bytes, closed);
    let refused = |expected: &str| {
        let (exit, said) = gate.start_expecting_failure();
        assert_eq!(exit, Some(3), "{said}");
        assert!(said.contains(expected) && said.contains("Connection refused"), "{said}");
        assert_eq!(gate.cli(&["check"]).exit, Some(3));
    };
    let mut altered = bytes.clone();
    altered[20] ^= 1;
    std::fs::write(&copy, &altered).unwrap();
    refused("is not what was kept");
    // Whoever can write the copy can write its label as well, and cannot sign.
    let hash = |bytes: &[u8]| run(Command::new("sha256sum").arg("-"), bytes).ok()[..64].to_owned();
    let relabelled = text.replace(&hash(&bytes), &hash(&strange));
    assert_ne!(relabelled, text);
    std::fs::write(kept.join(format!("{}.tar.gz", hash(&strange))), &strange).unwrap();
    std::fs::write(&label, relabelled).unwrap();
    refused("the key `b` is not known");
    std::fs::write(&label, text.replace(&hash(&bytes), "../../../etc/passwd")).unwrap();
    refused("names no copy");
    std::fs::write(&label, text.replace("/p.tar.gz", "/other.tar.gz")).unwrap();
    refused("is of another bundle");
    std::fs::remove_file(&label).unwrap();
    refused("does not exist");
    nginx.restart("");
    gate.begin();
    get(&gate).expect(403);
    gate.await_metric(OK, 1.0);
}

#[test]
fn keys_change_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let Some(nginx) = Nginx::start(folder.path(), "") else { return };
    let office = Office::new();
    let (old, new) = (office.bundle("old", OPEN, "a"), office.bundle("new", CLOSED, "a"));
    let public = office.public("a");
    let first = std::fs::read(&public).unwrap();
    office.key("a");
    let (signed_anew, by_b) = (office.bundle("new", CLOSED, "a"), office.bundle("by-b", OPEN, "b"));
    let second = json!({"key": office.public("b"), "algorithm": "ES256"});
    let next = std::fs::read(&public).unwrap();
    put(&public, &first);
    nginx.put("p.tar.gz", &old);
    let gate = office.serving(&nginx.url("/p.tar.gz"), &json!({})).start();
    let process = gate.process.id();
    get(&gate).expect(200);
    // The key is replaced where it lies. What decides was good when it came, and goes on; it is not good any more.
    put(&public, &next);
    await_error(&gate, "not by the key `a`");
    get(&gate).expect(200);
    revision(&gate, "old");
    nginx.put("p.tar.gz", &new);
    await_some("the old key's bundle to be asked for", || (nginx.asked("/p.tar.gz").len() > 3).then_some(()));
    get(&gate).expect(200);
    nginx.put("p.tar.gz", &signed_anew);
    revision(&gate, "new");
    get(&gate).expect(403);
    // One more key beside it, by the config.
    nginx.put("p.tar.gz", &by_b);
    await_error(&gate, "the key `b` is not known");
    let mut config = gate.config().clone();
    config["policy"]["bundle"]["keys"]["b"] = second;
    put(&gate.config_file(), serde_json::to_string(&config).unwrap().as_bytes());
    revision(&gate, "by-b");
    get(&gate).expect(200);
    assert_eq!(status(&gate)["policy_bundle"]["signed_by"]["key_id"], "b");
    assert_eq!(gate.process.id(), process);
}

#[test]
fn bundle_in_a_file_is_followed_as_a_folder_is() {
    let office = Office::new();
    let file = office.setup.dir.path().join("p.tar.gz");
    let (open, closed) = (office.bundle("one", OPEN, "a"), office.bundle("two", CLOSED, "a"));
    let strange = office.bundle("strange", OPEN, "b");
    let unsigned = office.bundle("unsigned", OPEN, "");
    put(&file, &open);
    let gate = office.serving("p.tar.gz", &json!({})).start();
    get(&gate).expect(200);
    revision(&gate, "one");
    put(&file, &closed);
    revision(&gate, "two");
    get(&gate).expect(403);
    gate.cli(&["check"]).ok();
    for (bytes, expected) in [(&strange, "the key `b` is not known"), (&unsigned, "it is not signed")] {
        put(&file, bytes);
        gate.await_log(expected);
        gate.await_metric("partnergate_config_last_reload_successful", 0.0);
        get(&gate).expect(403);
        let refused = gate.cli(&["check"]);
        assert!(refused.exit == Some(3) && refused.stderr.contains(expected), "{}", refused.stderr);
    }
    // Without keys a file need not be signed, as a folder need not.
    let mut config = gate.config().clone();
    config["policy"]["bundle"] = json!({"source": "p.tar.gz"});
    put(&gate.config_file(), serde_json::to_string(&config).unwrap().as_bytes());
    revision(&gate, "unsigned");
    get(&gate).expect(200);
    assert_eq!(status(&gate)["policy_bundle"]["signed_by"], Value::Null);
}

#[test]
fn server_and_gateway_prove_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let office = Office::new();
    let bundle = office.bundle("one", OPEN, "");
    let pki = &office.setup.pki;
    let (servers, clients) = (pki.authority("servers"), pki.authority("clients"));
    let (server, client) = (pki.server(&servers, "bundles", &["localhost"]), pki.client(&clients, "gateway", |_| {}));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (chain, key) = (server.chain_file.display(), server.key_file.display());
    let secure = format!(
        "listen 127.0.0.1:{port} ssl;\nssl_certificate {chain};\nssl_certificate_key {key};\n\
         ssl_client_certificate {};\nssl_verify_client on;\n\
         if ($http_authorization != \"Bearer s3cret\") {{ return 401; }}",
        clients.pem_file.display()
    );
    let Some(nginx) = Nginx::start(folder.path(), &secure) else { return };
    nginx.put("p.tar.gz", &bundle);
    let token = pki.write("token", 0o600, b"s3cret\n");
    let wrong_token = pki.write("wrong-token", 0o600, b"other\n");
    let whole = json!({
        "keys": {}, "require_signature": false, "ca": servers.pem_file,
        "client_chain": client.chain_file, "client_key": format!("file:{}", client.key_file.display()),
        "token": format!("file:{}", token.display()),
    });
    let (acme_ca, wrong_token) = (office.setup.acme_ca.pem_file.clone(), format!("file:{}", wrong_token.display()));
    let setup = office.serving(&format!("https://localhost:{port}/p.tar.gz"), &whole);
    let bundle_of = |change: &dyn Fn(&mut Value)| {
        let mut config = setup.config().clone();
        change(&mut config["policy"]["bundle"]);
        let (exit, said) = setup.start_text_expecting_failure(&config.to_string());
        assert_eq!(exit, Some(3), "{said}");
        said
    };
    let said = bundle_of(&|bundle| bundle["ca"] = json!(acme_ca));
    assert!(said.contains("certificate"), "{said}");
    let said = bundle_of(&|bundle| bundle["token"] = json!(wrong_token));
    assert!(said.contains("answered 401") && !said.contains("other"), "{said}");
    let said = bundle_of(&|bundle| {
        bundle.as_object_mut().unwrap().retain(|key, _| !key.starts_with("client_"));
    });
    assert!(said.contains("answered 400"), "{said}");
    let gate = setup.start();
    get(&gate).expect(200);
    revision(&gate, "one");
    assert!(!gate.log().contains("s3cret"));
}

#[test]
fn bundle_that_cannot_be_had_makes_unready_only_after_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut nginx) = Nginx::start(folder.path(), "") else { return };
    let office = Office::new();
    nginx.put("p.tar.gz", &office.bundle("one", OPEN, "a"));
    let gate = office.serving(&nginx.url("/p.tar.gz"), &json!({"stale_after": "2s"})).start();
    assert_eq!(gate.http("/readyz").0, 200);
    nginx.stop();
    let why = await_some("unready", || Some(gate.http("/readyz")).filter(|(status, _)| *status == 503)).1;
    assert!(why.contains("policy.bundle.stale_after"), "{why}");
    assert_eq!(status(&gate)["policy_bundle"]["stale"], true);
    get(&gate).expect(200);
    nginx.restart("");
    await_some("ready", || (gate.http("/readyz").0 == 200).then_some(()));
}

#[test]
fn whatever_is_wrong_with_the_config_of_a_bundle_is_said() {
    let office = Office::new();
    let (public, private) = (office.public("a"), office.private("a"));
    let token = office.setup.pki.write("token", 0o600, b"x");
    let dir = office.folder.clone();
    let setup = office.serving("https://bundles.example/p.tar.gz", &json!({}));
    let refused = |change: &dyn Fn(&mut Value), expected: &str| {
        let mut config = setup.config().clone();
        change(&mut config["policy"]);
        std::fs::write(setup.config_file(), config.to_string()).unwrap();
        let checked = setup.cli(&["check"]);
        assert_eq!(checked.exit, Some(3), "{expected}");
        assert!(checked.stderr.contains(expected), "no {expected:?} in {}", checked.stderr);
    };
    refused(&|p| p["dir"] = json!(dir), "either in a folder (`dir`) or in a bundle");
    refused(&|p| p["bundle"]["keys"] = json!({}), "there is no key to verify it with");
    refused(&|p| p["bundle"]["key_id"] = json!("b"), "there is no key `b`; there are: a");
    refused(&|p| p["bundle"]["keys"]["a"]["key"] = json!(private), "only the public key belongs here");
    refused(&|p| p["bundle"]["keys"]["a"]["algorithm"] = json!("RS256"), "a key of another kind than RS256 needs");
    refused(&|p| p["bundle"]["keys"]["a"]["algorithm"] = json!("HS256"), "HS256");
    refused(&|p| p["bundle"]["keys"]["a"]["key"] = json!("/nonexistent"), "does not exist");
    refused(&|p| p["bundle"]["source"] = json!("https:///p.tar.gz"), "is no URL that can be asked");
    refused(&|p| p["bundle"]["client_chain"] = json!(public), "needs `client_key` beside it");
    refused(&|p| p["bundle"]["ca"] = json!(public), "no certificates in PEM");
    refused(
        &|p| p["bundle"] = json!({"source": "http://bundles.example/p", "require_signature": false}),
        "an unsigned bundle over plain http",
    );
    let token = format!("file:{}", token.display());
    refused(
        &|p| {
            p["bundle"]["source"] = json!("http://bundles.example/p");
            p["bundle"]["token"] = json!(token);
        },
        "would be sent where it can be read",
    );
    refused(
        &|p| p["bundle"] = json!({"source": "p.tar.gz", "token": token, "stale_after": "1h"}),
        "is for a URL, and `source` is a file",
    );
    refused(&|p| p["bundle"] = json!({"source": "nonexistent.tar.gz"}), "does not exist");
}
