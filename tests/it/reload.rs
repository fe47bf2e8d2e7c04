//! Changed files: threats 21 and 22, and every way in which files are replaced.

use crate::harness::{Dial, Gate, HOST, Identity, Response, Setup, TlsConn, await_some};
use rustls::HandshakeKind;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const OK: &str = "partnergate_reloads_total{result=\"ok\"}";
const FAILED: &str = "partnergate_reloads_total{result=\"failed\"}";
const LAST: &str = "partnergate_config_last_reload_successful";

/// Denies one operation; `x-closed` is declared by [`with_custom_rule`].
const CLOSED: &str = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-closed\"} if input.request.operation == \"items.list\"\n";
const OPEN: &str = "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\"reason\": \"x-closed\"} if input.request.operation == \"nothing\"\n";

fn get_of(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn get(conn: &mut TlsConn, path: &str) -> Response {
    conn.request(get_of(path))
}

fn open(gate: &Gate) -> TlsConn {
    gate.dial().identity(&gate.acme).open()
}

/// A policy folder of its own with one custom rule that denies nothing yet. Returns the rule's file.
fn with_custom_rule(setup: Setup) -> (Setup, PathBuf) {
    let (setup, policies) = setup.own_policies();
    fs::write(policies.join("reasons.yaml"), "reasons:\n  x-closed: \"Closed for a test\"\n").unwrap();
    let rule = policies.join("custom/closed.rego");
    fs::write(&rule, OPEN).unwrap();
    (setup, rule)
}

/// As editors and deployment tools do it: a new file, renamed over the old one.
fn rename_over(path: &Path, text: &[u8], mode: u32) {
    let next = path.with_extension("new");
    let mut file = fs::File::options().create_new(true).write(true).mode(mode).open(&next).unwrap();
    std::io::Write::write_all(&mut file, text).unwrap();
    fs::rename(next, path).unwrap();
}

fn write_config(gate: &Gate, change: impl FnOnce(&mut Value)) {
    let mut config = gate.config().clone();
    change(&mut config);
    fs::write(gate.config_file(), serde_json::to_string_pretty(&config).unwrap()).unwrap();
}

/// Files are looked at ten times a second.
fn watching() -> Setup {
    Setup::new().set("reload.interval", "100ms")
}

/// Files are practically never looked at, so that only being told counts.
fn not_watching() -> Setup {
    Setup::new().set("reload.interval", "1h")
}

#[test]
fn a_policy_edited_in_place_decides_the_next_request_of_an_open_connection() {
    let (setup, rule) = with_custom_rule(watching());
    let gate = setup.start();
    let mut conn = open(&gate);
    get(&mut conn, "/items").expect(200);
    fs::write(&rule, CLOSED).unwrap();
    gate.await_metric(OK, 1.0);
    let refused = get(&mut conn, "/items");
    assert_eq!((refused.status, refused.code().as_str()), (403, "not-permitted"));
    let record = gate.record_of(refused.id());
    assert_eq!(record["reason"], "x-closed");
    get(&mut conn, "/items/7").expect(200);
    fs::remove_file(&rule).unwrap();
    gate.await_metric(OK, 2.0);
    let allowed = get(&mut conn, "/items");
    let after = gate.record_of(allowed.expect(200).id());
    assert_ne!(after["snapshot"]["policy"], record["snapshot"]["policy"]);
    // A file that was not there before counts as well.
    fs::write(rule.with_file_name("another.rego"), CLOSED).unwrap();
    gate.await_metric(OK, 3.0);
    get(&mut conn, "/items").expect(403);
}

#[test]
fn a_config_renamed_over_the_old_one_is_live_on_an_open_connection() {
    let gate = watching().start();
    let mut conn = open(&gate);
    get(&mut conn, "/items").expect(200);
    let mut config = gate.config().clone();
    config["upstreams"]["api"]["host"] = json!("items.internal");
    rename_over(&gate.config_file(), config.to_string().as_bytes(), 0o644);
    gate.await_metric(OK, 1.0);
    let answer = get(&mut conn, "/items");
    assert!(answer.expect(200).text().contains("items.internal"), "{answer:?}");
}

#[test]
fn a_kubernetes_volume_is_followed_through_its_data_link() {
    let setup = watching();
    let dir = setup.dir.path().to_owned();
    let first = setup.pki.server(&setup.server_ca, "first", &[HOST]);
    let second = setup.pki.server(&setup.server_ca, "second", &[HOST]);
    // As kubelet lays a volume out: names link into `..data`, which links to the folder of one revision.
    let volume = |name: &str, files: &[&str]| {
        let volume = dir.join(name);
        fs::create_dir_all(&volume).unwrap();
        for file in files {
            symlink(Path::new("..data").join(file), volume.join(file)).unwrap();
        }
        volume
    };
    let publish = |volume: &Path, revision: &str, files: &[(&str, Vec<u8>, u32)]| {
        let folder = volume.join(format!("..{revision}"));
        fs::create_dir(&folder).unwrap();
        for (name, text, mode) in files {
            let mut file =
                fs::File::options().create_new(true).write(true).mode(*mode).open(folder.join(name)).unwrap();
            std::io::Write::write_all(&mut file, text).unwrap();
        }
        let old = fs::read_link(volume.join("..data")).ok();
        symlink(format!("..{revision}"), volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        if let Some(old) = old {
            fs::remove_dir_all(volume.join(old)).unwrap();
        }
    };
    let tls = |who: &Identity| {
        let read = |path: &Path| fs::read(path).unwrap();
        [("tls.crt", read(&who.chain_file), 0o644), ("tls.key", read(&who.key_file), 0o600)]
    };
    let secret = volume("tls", &["tls.crt", "tls.key"]);
    publish(&secret, "1", &tls(&first));
    let (setup, rule) = with_custom_rule(setup);
    let custom = rule.parent().unwrap().to_owned();
    fs::remove_dir_all(&custom).unwrap();
    let custom = volume(custom.strip_prefix(&dir).unwrap().to_str().unwrap(), &["closed.rego"]);
    publish(&custom, "1", &[("closed.rego", OPEN.into(), 0o644)]);
    let gate = setup
        .set("partner.certificates.0.chain", secret.join("tls.crt").to_str().unwrap())
        .set("partner.certificates.0.key", format!("file:{}", secret.join("tls.key").display()))
        .start();

    let mut conn = open(&gate);
    assert_eq!(conn.server_certificate(), first.leaf());
    get(&mut conn, "/items").expect(200);
    publish(&custom, "2", &[("closed.rego", CLOSED.into(), 0o644)]);
    gate.await_metric(OK, 1.0);
    get(&mut conn, "/items").expect(403);
    publish(&secret, "2", &tls(&second));
    gate.await_metric(OK, 2.0);
    assert_eq!(open(&gate).server_certificate(), second.leaf());
    publish(&custom, "3", &[("closed.rego", OPEN.into(), 0o644)]);
    gate.await_metric(OK, 3.0);
    get(&mut conn, "/items").expect(200);
    assert_eq!(gate.metric(FAILED), 0.0, "{}", gate.log());
}

/// How a file is replaced.
#[derive(Clone, Copy, Debug)]
enum Way {
    InPlace,
    RenamedOver,
    /// As kubelet does it: the name links into `..data`, which links to the folder of one revision.
    DataLink,
}

impl Way {
    /// Makes these files of a folder be these, with their modes.
    fn put(self, folder: &Path, revision: usize, files: &[(&str, &[u8], u32)]) {
        let write = |path: &Path, text: &[u8], mode: u32| {
            let mut file = fs::File::options().create(true).truncate(true).write(true).mode(mode).open(path).unwrap();
            std::io::Write::write_all(&mut file, text).unwrap();
        };
        match self {
            Way::InPlace => files.iter().for_each(|(name, text, mode)| write(&folder.join(name), text, *mode)),
            Way::RenamedOver => {
                files.iter().for_each(|(name, text, mode)| rename_over(&folder.join(name), text, *mode))
            }
            Way::DataLink => {
                let next = folder.join(format!("..{revision}"));
                fs::create_dir(&next).unwrap();
                let old = fs::read_link(folder.join("..data")).ok();
                for (name, text, mode) in files {
                    write(&next.join(name), text, *mode);
                    if old.is_none() {
                        symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
                    }
                }
                symlink(format!("..{revision}"), folder.join("..data_tmp")).unwrap();
                fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
                if let Some(old) = old {
                    fs::remove_dir_all(folder.join(old)).unwrap();
                }
            }
        }
    }
}

#[test]
fn every_kind_of_file_is_followed_in_every_way_of_replacing_it() {
    for way in [Way::InPlace, Way::RenamedOver, Way::DataLink] {
        let (setup, policies) = watching().own_policies();
        fs::write(policies.join("reasons.yaml"), "reasons:\n  x-closed: \"Closed for a test\"\n").unwrap();
        let custom = policies.join("custom");
        fs::remove_dir_all(&custom).unwrap();
        let [tls, api] = ["tls", "api"].map(|name| setup.dir.path().join(name));
        for folder in [&custom, &tls, &api] {
            fs::create_dir(folder).unwrap();
        }
        let servers = ["zero", "one"].map(|name| setup.pki.server(&setup.server_ca, name, &[HOST]));
        let policy =
            |n: usize, way: Way| way.put(&custom, n, &[("closed.rego", [OPEN, CLOSED][n % 2].as_bytes(), 0o644)]);
        let certificate = |n: usize, way: Way| {
            let [chain, key] = [&servers[n % 2].chain_file, &servers[n % 2].key_file].map(|f| fs::read(f).unwrap());
            way.put(&tls, n, &[("tls.crt", &chain, 0o644), ("tls.key", &key, 0o600)]);
        };
        let document = |n: usize, way: Way| {
            let path = ["/things", "/objects"][n % 2];
            let text =
                json!({"openapi": "3.0.3", "paths": {path: {"get": {"operationId": "things.list"}}}}).to_string();
            way.put(&api, n, &[("api.json", text.as_bytes(), 0o644)]);
        };
        policy(0, way);
        certificate(0, way);
        document(0, way);
        way.put(setup.dir.path(), 0, &[("partnergate.yaml", b"", 0o644)]);
        let registry = setup.registry_text().replace("items.create, pairs.read]", "items.create, things.list]");
        let gate = setup
            .set("partner.certificates.0.chain", tls.join("tls.crt").to_str().unwrap())
            .set("partner.certificates.0.key", format!("file:{}", tls.join("tls.key").display()))
            .set("routes.api.openapi", json!([{"file": api.join("api.json")}]))
            .set("upstreams.api.host", "host-0.internal")
            .registry(&registry)
            .start();
        let config = |n: usize| {
            let mut config = gate.config().clone();
            config["upstreams"]["api"]["host"] = json!(format!("host-{}.internal", n % 2));
            way.put(gate.dir.path(), n, &[("partnergate.yaml", config.to_string().as_bytes(), 0o644)]);
        };
        // What of each kind is live: config, policy, certificate, OpenAPI document.
        let live = || {
            let mut conn = open(&gate);
            let certificate = usize::from(conn.server_certificate() == servers[1].leaf());
            let host = usize::from(get(&mut conn, "/items/7").expect(200).text().contains("host-1.internal"));
            let policy = usize::from(get(&mut conn, "/items").status == 403);
            let [things, objects] = ["/things", "/objects"].map(|path| get(&mut conn, path).status);
            // Between the two, one may have become the other.
            let document =
                [(200, 403), (403, 200)].iter().position(|of| *of == (things, objects)).unwrap_or(usize::MAX);
            [host, policy, certificate, document]
        };
        let mut expected = [0; 4];
        assert_eq!(live(), expected, "{way:?}");
        for n in 1..=2 {
            for kind in 0..4 {
                match kind {
                    0 => config(n),
                    1 => policy(n, way),
                    2 => certificate(n, way),
                    _ => document(n, way),
                }
                expected[kind] = n % 2;
                await_some(&format!("{way:?} {expected:?}"), || (live() == expected).then_some(()));
            }
        }
        gate.await_metric(LAST, 1.0);
    }
}

#[test]
fn sighup_and_the_reload_command_reload_at_once() {
    let (setup, rule) = with_custom_rule(not_watching());
    let gate = setup.start();
    let mut conn = open(&gate);
    fs::write(&rule, CLOSED).unwrap();
    get(&mut conn, "/items").expect(200);
    gate.reload();
    get(&mut conn, "/items").expect(403);
    fs::write(&rule, OPEN).unwrap();
    assert_eq!(gate.cli(&["reload"]).ok().trim(), "reloaded");
    get(&mut conn, "/items").expect(200);
    assert_eq!((gate.metric(OK), gate.metric(LAST)), (2.0, 1.0));

    // The command says what the log says, and fails.
    fs::write(&rule, "package partnergate.custom\n\nimport rego.v1\n\ndeny contains {\n").unwrap();
    let refused = gate.cli(&["reload"]);
    assert_eq!(refused.exit, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("custom/closed.rego:"), "{}", refused.stderr);
    assert_eq!(gate.metric(LAST), 0.0);
    get(&mut conn, "/items").expect(200);
}

#[test]
fn whatever_is_wrong_keeps_the_last_good_state_and_says_where() {
    let (setup, rule) = with_custom_rule(not_watching());
    let other = setup.pki.server(&setup.server_ca, "other", &[HOST]);
    let good = setup.pki.dir().join("server.chain.pem");
    let key = setup.pki.dir().join("server.key.pem");
    let gate = setup.start();
    let config = gate.config_file();
    let text = fs::read_to_string(&config).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "no `{from}` in {text}");
        text.replacen(from, to, 1).into_bytes()
    };
    let line = |text: &[u8], what: &str| {
        let text = String::from_utf8_lossy(text);
        text.lines().position(|l| l.contains(what)).unwrap() + 1
    };
    let at = |text: &[u8], what: &str| format!("partnergate.yaml:{}:", line(text, what));
    let unknown = with("\"partner\"", "\"partnr\"");
    let wrong_type = with("\"1h\"", "\"soon\"");
    let unknown_upstream = with("\"upstream\": \"api\"", "\"upstream\": \"apo\"");
    let half = text.as_bytes()[..text.len() / 2].to_vec();
    let no_file = with("server.chain.pem", "server.chian.pem");
    let rego = |body: &str| format!("package partnergate.custom\n\nimport rego.v1\n\n{body}\n").into_bytes();
    // What, the file, what is in it now (`None`: it is gone), and what the log says.
    type Case<'a> = (&'a str, &'a Path, Option<Vec<u8>>, Vec<String>);
    let cases: Vec<Case<'_>> = vec![
        ("an unknown key", &config, Some(unknown.clone()), vec![at(&unknown, "\"partnr\""), "unknown key".into()]),
        (
            "a wrong value",
            &config,
            Some(wrong_type.clone()),
            vec![at(&wrong_type, "\"soon\""), "reload.interval".into()],
        ),
        (
            "an unknown upstream",
            &config,
            Some(unknown_upstream.clone()),
            vec![at(&unknown_upstream, "\"apo\""), "apo".into()],
        ),
        ("half a config", &config, Some(half), vec!["partnergate.yaml:".into()]),
        ("an empty config", &config, Some(Vec::new()), vec!["partnergate.yaml".into()]),
        ("a config that is gone", &config, None, vec!["partnergate.yaml".into(), "does not exist".into()]),
        (
            "a certificate that is not there",
            &config,
            Some(no_file.clone()),
            vec![at(&no_file, "chian"), "server.chian.pem".into()],
        ),
        (
            "a key that does not fit",
            &good,
            Some(fs::read(&other.chain_file).unwrap()),
            vec!["server.key.pem".into(), "does not fit".into()],
        ),
        ("half a certificate", &good, Some(fs::read(&good).unwrap()[..300].to_vec()), vec!["server.chain.pem".into()]),
        ("a key that is gone", &key, None, vec!["server.key.pem".into(), "does not exist".into()]),
        (
            "half a rule",
            &rule,
            Some(CLOSED.as_bytes()[..CLOSED.len() - 55].to_vec()),
            vec!["custom/closed.rego:5:".into()],
        ),
        ("a rule of the wrong form", &rule, Some(rego("deny := true")), vec!["custom/closed.rego:5:".into()]),
        (
            "an unknown function",
            &rule,
            Some(rego("deny contains {\"reason\": \"x-closed\"} if nosuch(input)")),
            vec!["custom/closed.rego:5:".into(), "nosuch".into()],
        ),
        (
            "a refused function",
            &rule,
            Some(rego("deny contains {\"reason\": \"x-closed\"} if count(numbers.range(1, 9)) > 0")),
            vec!["custom/closed.rego:5:".into(), "numbers.range".into()],
        ),
    ];
    let mut conn = open(&gate);
    for (n, (what, path, bad, said)) in cases.iter().enumerate() {
        let before = fs::read(path).unwrap();
        let log = gate.log().len();
        match bad {
            Some(bad) => fs::write(path, bad).unwrap(),
            None => fs::rename(path, path.with_extension("away")).unwrap(),
        }
        gate.reload();
        assert_eq!((gate.metric(LAST), gate.metric(FAILED)), (0.0, n as f64 + 1.0), "{what}");
        let logged = gate.log()[log..].to_owned();
        for part in said {
            assert!(logged.contains(part), "{what}: no `{part}` in\n{logged}");
        }
        assert!(logged.contains("the last good state is kept"), "{what}: {logged}");
        assert!(!logged.contains("PRIVATE KEY"), "{what}: {logged}");
        get(&mut conn, "/items").expect(200);
        get(&mut open(&gate), "/items").expect(200);
        assert_eq!(gate.http("/readyz").0, 200, "{what}");

        match bad {
            Some(_) => fs::write(path, before).unwrap(),
            None => fs::rename(path.with_extension("away"), path).unwrap(),
        }
        gate.reload();
        assert_eq!((gate.metric(LAST), gate.metric(OK)), (1.0, n as f64 + 1.0), "after {what}: {}", gate.log());
        get(&mut conn, "/items").expect(200);
    }
}

#[test]
fn half_a_write_is_noticed_and_so_is_its_other_half() {
    let (setup, rule) = with_custom_rule(watching());
    let gate = setup.start();
    let mut conn = open(&gate);
    get(&mut conn, "/items").expect(200);
    fs::write(&rule, &CLOSED[..CLOSED.len() - 55]).unwrap();
    gate.await_metric(LAST, 0.0);
    gate.await_log("custom/closed.rego:5:");
    get(&mut conn, "/items").expect(200);
    fs::write(&rule, CLOSED).unwrap();
    gate.await_metric(LAST, 1.0);
    get(&mut conn, "/items").expect(403);
    assert_eq!((gate.metric(OK), gate.metric(FAILED)), (1.0, 1.0), "{}", gate.log());
}

#[test]
fn a_file_that_arrives_after_the_config_that_names_it_is_noticed() {
    let setup = watching();
    let next = setup.pki.server(&setup.server_ca, "next", &[HOST]);
    let late = setup.dir.path().join("late.pem");
    let gate = setup.start();
    write_config(&gate, |c| {
        c["partner"]["certificates"] = json!([{"chain": late, "key": format!("file:{}", next.key_file.display())}]);
    });
    gate.await_metric(LAST, 0.0);
    gate.await_log("late.pem");
    fs::copy(&next.chain_file, &late).unwrap();
    gate.await_metric(LAST, 1.0);
    assert_eq!(open(&gate).server_certificate(), next.leaf());
}

#[test]
fn a_change_that_comes_while_another_one_is_taken_over_is_not_missed() {
    let (setup, rule) = with_custom_rule(watching());
    let gate = setup.start();
    // Both have the same size, and most come within a second of the last.
    let other = CLOSED.replace("items.list", "items.read");
    for (text, status) in [(CLOSED, 403), (&other, 200)].into_iter().cycle().take(8) {
        // As soon as the last change is there, and so while the gateway may still be busy with it.
        fs::write(&rule, text).unwrap();
        // Each on a connection of its own: a change that denies cuts what is open.
        await_some("the change", || (get(&mut open(&gate), "/items").status == status).then_some(()));
    }
}

#[test]
fn keys_that_only_a_restart_changes_are_named() {
    let gate = not_watching().start();
    write_config(&gate, |c| {
        c["node"] = json!("another");
        c["partner"]["listen"] = json!(["127.0.0.1:0", "[::1]:0"]);
        c["partner"]["limits"] = json!({"max_requests": 7});
        c["log"] = json!({"level": "debug"});
        c["drain"]["delay"] = json!("7s");
        c["drain"]["grace"] = json!("7s");
        c["request"] = json!({"via": "another", "min_body_rate": 7});
    });
    gate.reload();
    assert_eq!(gate.metric(LAST), 1.0, "{}", gate.log());
    let log = gate.log();
    let named = |key: &str| log.lines().any(|l| l.contains("takes effect at the next start") && l.contains(key));
    for key in ["node", "partner.listen", "partner.limits", "log", "drain", "request.via", "request.min_body_rate"] {
        // Said, or else done.
        assert!(named(key), "`{key}` was neither taken over nor named:\n{log}");
    }
    // Whoever asks is told, as often as it is asked.
    for _ in 0..2 {
        let told = gate.cli(&["reload"]);
        assert!(told.text().contains("reloaded") && told.stderr.contains("`drain` has changed"), "{}", told.text());
        assert!(told.stderr.contains("takes effect at the next start"), "{}", told.text());
    }
    let answer = get(&mut open(&gate), "/items");
    assert!(!answer.text().contains("another"), "{answer:?}");
}

#[test]
fn the_environment_cannot_change_under_a_running_gateway() {
    let gate = not_watching().start();
    let elsewhere = gate.dir.path().join("elsewhere");
    for change in [("environment", json!("production")), ("state_dir", json!(elsewhere))] {
        write_config(&gate, |c| c[change.0] = change.1.clone());
        gate.reload();
        assert_eq!(gate.metric(LAST), 0.0, "{change:?}");
        assert!(gate.log().contains("cannot change while the gateway runs"), "{}", gate.log());
        get(&mut open(&gate), "/items").expect(200);
    }
    assert!(!elsewhere.exists());
}

#[test]
fn a_new_server_certificate_is_for_new_connections_and_the_open_ones_go_on() {
    let setup = watching();
    let old = setup.pki.dir().join("server.chain.pem");
    let key = setup.pki.dir().join("server.key.pem");
    let next = setup.pki.server(&setup.server_ca, "next", &[HOST]);
    let gate = setup.start();
    let mut conn = open(&gate);
    get(&mut conn, "/items").expect(200);
    let before = conn.server_certificate();
    // One after the other; what is seen in between does not fit and is not used.
    rename_over(&key, &fs::read(&next.key_file).unwrap(), 0o600);
    rename_over(&old, &fs::read(&next.chain_file).unwrap(), 0o644);
    let mut newer = await_some("the new certificate", || {
        let conn = open(&gate);
        (conn.server_certificate() == next.leaf()).then_some(conn)
    });
    assert_ne!(before, next.leaf());
    get(&mut newer, "/items").expect(200);
    get(&mut conn, "/items").expect(200);
    assert_eq!(gate.metric(LAST), 1.0);
}

#[test]
fn under_load_every_request_is_decided_by_exactly_one_policy() {
    const CONNECTIONS: usize = 4;
    // `scripts/test --deep` asks for many more.
    let reloads: usize = std::env::var("PARTNERGATE_TEST_RELOADS").map_or(8, |n| n.parse().unwrap());
    let (setup, rule) = with_custom_rule(not_watching());
    let gate = setup.start();
    let (asked, done, ended) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(Vec::new()));
    let load = |dial: Dial| {
        let mut conn = dial.open();
        let mut seen = Vec::new();
        while !done.load(Ordering::Relaxed) {
            conn.send(get_of("/items"));
            match conn.try_response() {
                Ok(answer) => seen.push((answer.id().to_owned(), answer.status)),
                // Denied by a policy that came while it was being served.
                Err(e) => {
                    ended.lock().unwrap().push(e.to_string());
                    conn = dial.open();
                }
            }
            asked.fetch_add(1, Ordering::Relaxed);
        }
        seen
    };
    let answers: Vec<(String, u16)> = std::thread::scope(|s| {
        let dial = || gate.dial().identity(&gate.acme);
        let workers: Vec<_> = std::iter::repeat_with(dial).take(CONNECTIONS).map(|d| s.spawn(|| load(d))).collect();
        let mut early = 0;
        for n in 0..reloads {
            if n == reloads / 4 {
                early = gate.memory();
            }
            let enough = (n + 1) * 60;
            await_some("requests", || (asked.load(Ordering::Relaxed) >= enough).then_some(()));
            rename_over(&rule, if n % 2 == 0 { CLOSED } else { OPEN }.as_bytes(), 0o644);
            gate.reload();
        }
        let enough = asked.load(Ordering::Relaxed) + 60;
        await_some("requests", || (asked.load(Ordering::Relaxed) >= enough).then_some(()));
        done.store(true, Ordering::Relaxed);
        let late = gate.memory();
        assert!(late < early + early / 2, "memory grows with reloads: {early} → {late} bytes");
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    assert_eq!((gate.metric(OK), gate.metric(FAILED)), (reloads as f64, 0.0));
    assert!(answers.len() > 400, "{}", answers.len());
    let statuses: BTreeSet<u16> = answers.iter().map(|a| a.1).collect();
    assert_eq!(statuses, BTreeSet::from([200, 403]));

    let last = &answers.iter().max().unwrap().0;
    gate.record_of(last);
    let records: BTreeMap<String, Value> =
        gate.settle().into_iter().map(|r| (r["decision_id"].as_str().unwrap().to_owned(), r)).collect();
    let is_cut = |record: &&Value| record["kind"] == "stream-cut";
    // One that had been answered a moment before it was to be cut ended its connection behind the answer.
    let ended = ended.into_inner().unwrap();
    let cut = records.values().filter(is_cut).count();
    assert!(cut <= ended.len(), "{cut} were cut, and of the clients only these saw it: {ended:?}");
    assert_eq!(records.len(), answers.len() + cut, "one record for each request; {ended:?}");
    let mut outcomes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (id, status) in &answers {
        let record = &records[id];
        let result = if *status == 200 { "allow" } else { "deny" };
        assert_eq!(record["result"], result, "{record}");
        assert_eq!(record["status"], *status);
        if result == "deny" {
            assert_eq!(record["reason"], "x-closed");
        }
        outcomes.entry(record["snapshot"]["policy"].as_str().unwrap()).or_default().insert(result);
    }
    assert_eq!(outcomes.len(), 2, "two policies, whatever the number of reloads: {outcomes:?}");
    assert!(outcomes.values().all(|o| o.len() == 1), "a policy that decided both ways: {outcomes:?}");
}

#[test]
fn tls_sessions_survive_a_policy_and_not_an_anchor() {
    for version in ["1.3", "1.2"] {
        let (setup, rule) = with_custom_rule(not_watching());
        let gate = setup.start();
        let dial = gate.dial().identity(&gate.acme);
        let dial = if version == "1.2" { dial.tls12() } else { dial }.resuming();
        // The answer comes behind the tickets.
        let connect = |status: u16| {
            let mut conn = dial.open();
            get(&mut conn, "/items").expect(status);
            conn.state().handshake_kind().unwrap()
        };
        assert_eq!(connect(200), HandshakeKind::Full, "{version}");
        assert_eq!(connect(200), HandshakeKind::Resumed, "{version}");
        fs::write(&rule, CLOSED).unwrap();
        gate.reload();
        // The session goes on; what it may do is decided anew.
        assert_eq!(connect(403), HandshakeKind::Resumed, "{version}");
        fs::write(&rule, OPEN).unwrap();
        gate.reload();
        assert_eq!(connect(200), HandshakeKind::Resumed, "{version}");
        // So does a change of the registry that concerns no anchor.
        gate.apply(&gate.registry_text().replace("name: Acme GmbH", "name: Acme SE"));
        assert_eq!(connect(200), HandshakeKind::Resumed, "{version}");
        assert_eq!(gate.metric("partnergate_handshakes_total{outcome=\"resumed\"}"), 4.0);

        let generation = gate.metric("partnergate_snapshot_trust_generation");
        gate.apply(&gate.registry_text().replace("partners: [globex]", "client_auth: optional, partners: [globex]"));
        assert!(gate.metric("partnergate_snapshot_trust_generation") > generation);
        assert_eq!(connect(200), HandshakeKind::Full, "{version}");
        assert_eq!(connect(200), HandshakeKind::Resumed, "{version}");
    }
}

#[test]
fn no_session_is_kept_where_the_config_gives_none_room() {
    let gate = Setup::new().set("partner.tls.session_cache", 0).start();
    for tls12 in [false, true] {
        let dial = gate.dial().identity(&gate.acme);
        let dial = if tls12 { dial.tls12() } else { dial }.resuming();
        for _ in 0..3 {
            let mut conn = dial.open();
            get(&mut conn, "/items").expect(200);
            assert_eq!(conn.state().handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(conn.state().tls13_tickets_received(), 0);
        }
    }
}

/// Threat 21: what is wrong with the files is shown as long as it lasts, and only too long a time of it concerns readiness.
#[test]
fn reload_that_keeps_failing_is_shown_and_makes_unready_only_after_its_bound() {
    for (stale_after, ready) in [("1h", 200), ("1s", 503)] {
        let gate = not_watching().set("reload.stale_after", stale_after).start();
        let good = gate.config().clone();
        write_config(&gate, |config| config["partner"]["lisen"] = json!([]));
        gate.reload();
        gate.await_metric(LAST, 0.0);
        await_some("readiness", || (gate.http("/readyz").0 == ready).then_some(()));
        let shown = gate.cli(&["status"]).text();
        assert!(shown.contains("FAILS since") && shown.contains("partner.lisen"), "{shown}");
        let status: Value = serde_json::from_slice(&gate.cli(&["status", "--output", "json"]).stdout).unwrap();
        assert_eq!(status["last_reload"]["stale"], json!(ready == 503), "{status}");
        get(&mut open(&gate), "/items").expect(200);
        write_config(&gate, |config| *config = good);
        gate.reload();
        gate.await_metric(LAST, 1.0);
        assert_eq!(gate.http("/readyz").0, 200);
        let status: Value = serde_json::from_slice(&gate.cli(&["status", "--output", "json"]).stdout).unwrap();
        assert_eq!(status["last_reload"], json!({"ok": true}));
    }
}
