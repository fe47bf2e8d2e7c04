//! The signed identity that upstreams are given, verified as upstreams do; and the keys that it is signed with.

use crate::harness::{Gate, HOST, Setup, await_some, block, node, python, run};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const TOKENS: &str = include_str!("../../docs/tokens.md");
const ISSUER: &str = "https://api.partners.example.com";

fn setup() -> Setup {
    let setup = Setup::new();
    let tokens = json!({"issuer": ISSUER, "secret": setup.token_secret()});
    setup.set("tokens", tokens).set("routes.api.assertion", true)
}

/// Calls once with these fields, and gives every assertion that the upstream has received of it.
fn asserted(gate: &Gate, fields: &str) -> Vec<String> {
    let before = gate.upstream.text().len();
    let call = format!("GET /items/7 HTTP/1.1\r\nHost: {HOST}\r\n{fields}Connection: close\r\n\r\n");
    gate.dial().identity(&gate.acme).open().request(call).expect(200);
    let text = gate.upstream.text();
    let seen = text[before..].lines().filter_map(|line| line.split_once(": "));
    let named = |name: &str| name.to_ascii_lowercase().replace('_', "-") == "x-partner-assertion";
    seen.filter(|(name, _)| named(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

fn key_ids(gate: &Gate) -> BTreeSet<String> {
    let (status, text) = gate.http("/.well-known/jwks.json");
    assert_eq!(status, 200, "{text}");
    let set: Value = serde_json::from_str(&text).unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert!(keys.iter().all(|key| key.get("d").is_none() && key["use"] == "sig"), "{set}");
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn keys(gate: &Gate) -> Vec<Value> {
    let state: Value = serde_json::from_str(&gate.cli(&["token", "keys", "--output", "json"]).ok()).unwrap();
    state["keys"].as_array().unwrap().clone()
}

fn in_state(gate: &Gate, state: &str) -> Vec<String> {
    let keys = keys(gate);
    let found = keys.iter().filter(|key| key["state"] == state);
    found.map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn upstream_is_told_who_calls_and_no_client_tells_it() {
    let gate = setup().start();
    let forged = "X-Partner-Assertion: e30.e30.AA\r\nx_partner_assertion: e30.e30.AA\r\nX-Partner_Assertion: e30\r\n";
    let told = asserted(&gate, forged);
    let [assertion] = told.as_slice() else { panic!("{told:?}") };
    let claims = part(assertion, 1);
    for (claim, value) in [("iss", ISSUER), ("sub", "acme"), ("operation", "items.read"), ("environment", "test")] {
        assert_eq!(claims[claim], value, "{claims}");
    }
    let record = gate.await_record("the call", |record| record["result"] == "allow");
    assert_eq!((&claims["grant"], &claims["aud"]), (&record["grant"], &record["upstream"]["name"]));
    let leaf = ring::digest::digest(&ring::digest::SHA256, gate.acme.leaf());
    assert_eq!(claims["cnf"]["x5t#S256"], BASE64URL_NOPAD.encode(leaf.as_ref()));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
    assert_eq!(part(assertion, 0)["typ"], "partner-assertion+jwt");
    assert!(key_ids(&gate).contains(part(assertion, 0)["kid"].as_str().unwrap()));
    // Alike, and so the same; another certificate is another one.
    assert_eq!(asserted(&gate, ""), told);
    // Neither records nor logs hold any of it.
    let signature = assertion.rsplit('.').next().unwrap();
    assert!(!gate.records_text().contains(signature) && !gate.log().contains(signature));
}

#[test]
fn assertion_is_sent_where_the_route_says_so_alone_and_needs_keys() {
    let gate = setup().set("routes.api.assertion", false).start();
    assert_eq!(asserted(&gate, "X-Partner-Assertion: e30.e30.AA\r\n"), Vec::<String>::new());
    let (exit, said) = Setup::new().set("routes.api.assertion", true).start_expecting_failure();
    assert!(exit == Some(3) && said.contains("routes.api.assertion") && said.contains("add `tokens`"), "{said}");
    for (key, value, why) in [
        ("tokens.issuer", "http://api.example", "`https://` and a host name"),
        ("tokens.issuer", "https://api.example/", "`https://` and a host name"),
        ("tokens.issuer", "https://API.example", "`https://` and a host name"),
        ("tokens.tell_ahead", "30d", "shorter than `rotate_every`"),
        ("tokens.algorithm", "HS256", "ES256"),
    ] {
        let (exit, said) = setup().set(key, value).start_expecting_failure();
        assert!(exit == Some(3) && said.contains(key) && said.contains(why), "{value}: {said}");
    }
    let short = setup();
    fs::write(short.pki.dir().join("token-keys"), "short\n").unwrap();
    let (exit, said) = short.start_expecting_failure();
    assert!(exit == Some(3) && said.contains("5 bytes") && said.contains("openssl rand"), "{said}");
}

/// `docs/tokens.md`, word for word.
#[test]
fn documented_verifiers_take_what_is_signed_and_nothing_else() {
    let Some(python) = python(&["jwt", "cryptography"]) else { return };
    let Some(node) = node() else { return };
    for algorithm in ["ES256", "EdDSA"] {
        let gate = setup().set("tokens.algorithm", algorithm).start();
        let assertion = asserted(&gate, "").remove(0);
        let upstream = part(&assertion, 1)["aud"].as_str().unwrap().to_owned();
        let folder = gate.dir.path();
        let settings = [
            ("JWKS_URL", format!("http://{}/.well-known/jwks.json", gate.status_address())),
            ("ISSUER", ISSUER.to_owned()),
            ("UPSTREAM", upstream),
        ];
        let said = |settings: &[(&str, String)], token: &str| {
            let lines = |keyword: &str| -> String {
                settings.iter().map(|(name, value)| format!("{keyword}{name} = {}\n", json!(value))).collect()
            };
            let script: PathBuf = folder.join("verify.py");
            let python_text = format!(
                "{}{}\nimport json, sys\nprint(json.dumps(caller(sys.argv[1])))\n",
                lines(""),
                block(TOKENS, "python", "import jwt\n")
            );
            fs::write(&script, python_text).unwrap();
            let in_python = run(Command::new(&python).arg(&script).arg(token), b"");
            let script = folder.join("verify.mjs");
            let text = format!(
                "{}{}\nconsole.log(JSON.stringify(await caller(process.argv[2])));\n",
                lines("const "),
                block(TOKENS, "js", "import { createPublicKey")
            );
            fs::write(&script, text).unwrap();
            let in_node = run(Command::new(&node).arg(&script).arg(token), b"");
            [("Python", in_python), ("Node", in_node)]
        };
        for (name, finished) in said(&settings, &assertion) {
            let claims: Value = serde_json::from_str(&finished.ok()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(claims["sub"], "acme", "{name}");
        }
        let (signed, _) = assertion.rsplit_once('.').unwrap();
        let mut claims = part(&assertion, 1);
        claims["sub"] = json!("globex");
        let head = assertion.split('.').next().unwrap();
        let signature = assertion.rsplit('.').next().unwrap();
        let altered = format!("{head}.{}.{signature}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
        let none = BASE64URL_NOPAD.encode(br#"{"alg":"none","typ":"partner-assertion+jwt"}"#);
        let unsigned = format!("{none}.{}.", assertion.split('.').nth(1).unwrap());
        for token in [altered, format!("{signed}."), unsigned] {
            for (name, finished) in said(&settings, &token) {
                assert!(finished.exit != Some(0), "{name} takes {token}: {}", finished.text());
            }
        }
        let elsewhere = [settings[0].clone(), settings[1].clone(), ("UPSTREAM", "another".to_owned())];
        for (name, finished) in said(&elsewhere, &assertion) {
            assert!(finished.exit != Some(0), "{name} takes what is for another upstream: {}", finished.text());
        }
    }
}

#[test]
fn keys_follow_each_other_and_outlive_a_restart() {
    let mut gate = setup().set("tokens.rotate_every", "1h").set("tokens.tell_ahead", "2s").start();
    let first = part(&asserted(&gate, "")[0], 0)["kid"].as_str().unwrap().to_owned();
    assert_eq!(in_state(&gate, "signs"), [first.as_str()]);
    gate.restart("TERM");
    assert_eq!(in_state(&gate, "signs"), [first.as_str()], "the same key after a restart");
    // Told first, then it signs, and the one before it still verifies.
    gate.cli(&["token", "rotate-key", "--reason", "audit", "--dry-run"]).ok();
    assert_eq!(keys(&gate).len(), 1);
    gate.cli(&["token", "rotate-key", "--reason", "audit"]).ok();
    let next = in_state(&gate, "next");
    assert!(next.len() == 1 && next[0] != first, "{next:?}");
    assert_eq!(key_ids(&gate), [first.clone(), next[0].clone()].into());
    assert_eq!(part(&asserted(&gate, "")[0], 0)["kid"], first.as_str());
    await_some("the next key to sign", || (in_state(&gate, "signs") == next).then_some(()));
    assert_eq!(in_state(&gate, "verifies"), [first.as_str()]);
    let history = gate.cli(&["history", "keys"]).ok();
    assert!(history.contains(&first) && history.contains("audit"), "{history}");
}

#[test]
fn key_that_is_withdrawn_is_gone_at_once() {
    let gate = setup().start();
    let first = part(&asserted(&gate, "")[0], 0)["kid"].as_str().unwrap().to_owned();
    let refused = gate.cli(&["token", "withdraw-key", "nothing", "--yes", "--reason", "leaked"]);
    assert!(refused.exit == Some(3) && refused.stderr.contains("token keys"), "{}", refused.stderr);
    gate.cli(&["token", "withdraw-key", &first, "--yes", "--reason", "leaked"]).ok();
    let ids = key_ids(&gate);
    assert!(!ids.contains(&first) && ids.len() == 1, "{ids:?}");
    let second = part(&asserted(&gate, "")[0], 0)["kid"].as_str().unwrap().to_owned();
    assert!(ids.contains(&second));
    assert_eq!(in_state(&gate, "withdrawn"), [first.as_str()]);
    // Twice is harmless.
    gate.cli(&["token", "withdraw-key", &first, "--yes", "--reason", "leaked"]).ok();
    assert_eq!(key_ids(&gate), ids);
}

#[test]
fn keys_are_opened_by_their_secret_alone_and_told_with_their_tag() {
    let mut gate = setup().start();
    asserted(&gate, "");
    let url = format!("http://{}/.well-known/jwks.json", gate.status_address());
    let answer = run(Command::new("curl").args(["-si", &url]), b"").ok();
    let field = |name: &str| {
        let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name}: {answer}")).split_once(": ").unwrap().1.trim().to_owned()
    };
    assert_eq!(
        (field("content-type"), field("cache-control")),
        ("application/jwk-set+json".into(), "public, max-age=300".into())
    );
    let again = format!("If-None-Match: {}", field("etag"));
    let unchanged = run(Command::new("curl").args(["-si", "-H", &again, &url]), b"").ok();
    assert!(unchanged.starts_with("HTTP/1.1 304"), "{unchanged}");
    // The database alone gives nothing away, and another secret opens nothing.
    gate.stop("TERM");
    let state = gate.dir.path().join("state");
    let held: Vec<u8> =
        fs::read_dir(state).unwrap().flat_map(|entry| fs::read(entry.unwrap().path()).unwrap_or_default()).collect();
    assert!(!String::from_utf8_lossy(&held).contains("PRIVATE KEY"));
    fs::write(gate.pki.dir().join("token-keys"), "y".repeat(44)).unwrap();
    let check = gate.cli(&["check"]);
    assert!(
        check.exit == Some(3) && format!("{}{}", check.text(), check.stderr).contains("tokens.secret"),
        "{}",
        check.stderr
    );
}
