//! API keys as operators make them and partners use them: asked for, approved, used, exchanged, rotated, revoked; and every
//! way to use one that is not one's own, or in a place where it leaks.

use crate::grants::{by_second, refused, waits};
use crate::harness::{Gate, HOST, Identity, Response, Setup, await_some, block, python, run};
use crate::websocket;
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

const ISSUER: &str = "https://api.partner.test";
const TOKENS: &str = include_str!("../../docs/tokens.md");
const EXCHANGE: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&client_id=acme\
    &subject_token_type=urn:partnergate:token-type:api-key";

fn setup(accepted_in: &str) -> Setup {
    let setup = Setup::new();
    let secret = setup.token_secret();
    let api_keys = json!({"accepted_in": accepted_in});
    setup.set("tokens", json!({"issuer": ISSUER, "secret": secret, "authorization_server": {}, "api_keys": api_keys}))
}

fn call(gate: &Gate, who: &Identity, fields: &str) -> Response {
    get(gate, who, "/items/7", fields)
}

fn get(gate: &Gate, who: &Identity, target: &str, fields: &str) -> Response {
    gate.dial().identity(who).open().request(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n"))
}

fn keyed(key: &str) -> String {
    format!("X-API-Key: {key}\r\n")
}

fn exchange(gate: &Gate, who: &Identity, key: &str) -> Response {
    let form = format!("{EXCHANGE}&subject_token={key}");
    let head = "Content-Type: application/x-www-form-urlencoded";
    gate.dial().identity(who).open().request(format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: {HOST}\r\n{head}\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ))
}

/// Makes a key by the command; where nobody else has to approve it, it is good at once.
#[track_caller]
fn made(gate: &Gate, id: &str, more: &[&str]) -> String {
    let certificate = gate.acme.chain_file.display().to_string();
    let add = ["credential", "add", "acme", id, "--api-key", "--grant", "acme-items", "--certificate", &certificate];
    key_in(&by_second(gate, &[&add, more].concat()).ok())
}

#[track_caller]
fn key_in(said: &str) -> String {
    said.lines().find(|line| line.starts_with("pgk_")).unwrap_or_else(|| panic!("no key in {said}")).to_owned()
}

#[track_caller]
fn denied(gate: &Gate, answer: Response, reason: &str, status: u16) {
    answer.expect(status);
    let record = gate.record_of(answer.id());
    assert_eq!(record["reason"], reason, "{record}");
}

/// No place that the gateway writes to has the key.
#[track_caller]
fn nowhere(gate: &Gate, key: &str) {
    gate.settle();
    assert!(!gate.records_text().contains(key) && !gate.log().contains(key) && !gate.metrics().contains(key));
    for name in ["partnergate.db", "partnergate.db-wal"] {
        let file = gate.dir.path().join("state").join(name);
        let found = fs::read(&file).is_ok_and(|bytes| bytes.windows(key.len()).any(|part| part == key.as_bytes()));
        assert!(!found, "{name}");
    }
}

#[test]
fn key_is_asked_for_approved_used_and_counted() {
    let gate = setup("header").start();
    let mut config = gate.config().clone();
    config["approval"]["four_eyes"] = json!("required");
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    let file = gate.dir.path().join("acme.key");
    let certificate = gate.acme.chain_file.display().to_string();
    let add = [
        "credential",
        "add",
        "acme",
        "acme-batch",
        "--api-key",
        "--grant",
        "acme-items",
        "--operation",
        "items.read",
        "--certificate",
        &certificate,
        "--reason",
        "their batch cannot do OAuth",
        "--ticket",
        "CTR-9",
    ];
    let planned = gate.cli(&[&add[..], &["--dry-run"]].concat()).ok();
    assert!(planned.contains("request      api-key") && !planned.contains("pgk_"), "{planned}");
    let said = gate.cli(&[&add[..], &["--key-file", file.to_str().unwrap()]].concat()).ok();
    let approval = waits(&said);
    let key = fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("pgk_") && key.len() == 63 && !said.contains("pgk_"), "{said}");
    denied(&gate, call(&gate, &gate.acme, &keyed(&key)), "api-key-unknown", 401);
    let shown = gate.cli(&["approval", "show", &approval]).ok();
    for part in ["is new, bound to fingerprint_sha256", "is for the grants acme-items", "of them for items.read"] {
        assert!(shown.contains(part), "{shown}");
    }
    by_second(&gate, &["approval", "approve", &approval]).ok();

    let answer = call(&gate, &gate.acme, &keyed(&key));
    answer.expect(200);
    let record = gate.record_of(answer.id());
    assert_eq!((&record["result"], &record["grant"]), (&json!("allow"), &json!("acme-items")));
    assert_eq!(record["input"]["credential"]["kind"], "api-key");
    assert_eq!(record["input"]["api_key"]["id"], "acme-batch");
    assert_eq!(record["input"]["api_key"]["operations"], json!(["items.read"]));
    assert!(!gate.upstream.text().to_lowercase().contains("x-api-key"), "{}", gate.upstream.text());
    // It narrows what the certificate alone may do.
    denied(&gate, get(&gate, &gate.acme, "/items", &keyed(&key)), "api-key-scope-exceeded", 403);
    get(&gate, &gate.acme, "/items", "").expect(200);

    let listed = gate.cli(&["credential", "list", "--partner", "acme"]).ok();
    let row = listed.lines().find(|line| line.starts_with("acme-batch ")).unwrap_or_else(|| panic!("{listed}"));
    assert!(row.contains("active") && row.contains("acme-items"), "{listed}");
    assert!(listed.contains("used         1 times from any"), "{listed}");
    let listed: Value =
        serde_json::from_str(&gate.cli(&["credential", "list", "--partner", "acme", "--output", "json"]).ok()).unwrap();
    assert_eq!(
        (&listed["api_keys"][0]["usage"][0]["count"], &listed["api_keys"][0]["owner"]),
        (&json!(1), &json!("items-team"))
    );
    let history = gate.cli(&["history", "partner", "acme"]).ok();
    assert!(history.contains("acme-batch"), "{history}");
    nowhere(&gate, &key);
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

#[test]
fn key_is_good_with_its_certificate_alone_and_outlives_a_restart() {
    let mut gate = setup("header").start();
    let key = made(&gate, "acme-batch", &[]);
    denied(&gate, call(&gate, &gate.globex, &keyed(&key)), "api-key-wrong-partner", 401);
    let second = gate.pki.client(&gate.acme_ca, "acme-second", |_| {});
    let by_key = format!("spki_sha256={}", second.spki());
    by_second(&gate, &["credential", "add", "acme", "acme-second", "--anchor", "acme-ca", "--match", &by_key]).ok();
    let answer = call(&gate, &second, &keyed(&key));
    assert_eq!(answer.header("www-authenticate"), Some("ApiKey realm=\"partners\""));
    assert_eq!(answer.code(), "api-key-invalid");
    denied(&gate, answer, "api-key-wrong-certificate", 401);
    // Of a renewal with the same key, a key that is bound to that is good too.
    let renewed = gate.pki.client_with_key(&gate.acme_ca, "acme-renewed", gate.acme.key_pair(), |_| {});
    let by_key = format!("fingerprint_sha256={}", renewed.fingerprint());
    by_second(&gate, &["credential", "add", "acme", "acme-renewed", "--anchor", "acme-ca", "--match", &by_key]).ok();
    let file = gate.acme.chain_file.display().to_string();
    let add = ["credential", "add", "acme", "acme-any", "--api-key", "--grant", "acme-items", "--public-key-of", &file];
    let any = key_in(&by_second(&gate, &add).ok());
    for who in [&gate.acme, &renewed] {
        call(&gate, who, &keyed(&any)).expect(200);
    }
    denied(&gate, call(&gate, &renewed, &keyed(&key)), "api-key-wrong-certificate", 401);
    gate.restart("TERM");
    call(&gate, &gate.acme, &keyed(&key)).expect(200);
    let listed = gate.cli(&["credential", "list", "--partner", "acme"]).ok();
    assert!(listed.contains("used         2 times from any"), "what was counted before the restart is kept: {listed}");
    // A copy that is taken back has what was revoked since revoked.
    let copy = gate.dir.path().join("copy");
    gate.cli(&["db", "backup", copy.to_str().unwrap()]).ok();
    by_second(&gate, &["credential", "revoke", "acme", "acme-batch", "--reason", "leaked", "--yes"]).ok();
    denied(&gate, call(&gate, &gate.acme, &keyed(&key)), "api-key-revoked", 401);
    gate.stop("TERM");
    let restore = gate.cli(&["db", "restore", copy.to_str().unwrap(), "--replace", "--reason", "drill"]);
    assert!(format!("{}{}", restore.text(), restore.stderr).contains("the API key `acme-batch`"), "{restore:?}");
}

#[test]
fn what_is_no_key_and_where_none_belongs_is_refused() {
    let gate = setup("header").start();
    let key = made(&gate, "acme-batch", &[]);
    let (half, upper) = (&key[..40], key.to_ascii_uppercase());
    for (fields, reason, status) in [
        (keyed("secret"), "api-key-malformed", 401),
        (keyed(half), "api-key-malformed", 401),
        (keyed(&upper), "api-key-malformed", 401),
        (format!("{0}{0}", keyed(&key)), "api-key-ambiguous", 400),
        (format!("Authorization: Bearer {key}\r\n"), "api-key-ambiguous", 400),
        (format!("Authorization: Basic {}\r\n", BASE64.encode(format!("{key}:").as_bytes())), "api-key-ambiguous", 400),
        (format!("X_API_KEY: {key}\r\n"), "api-key-ambiguous", 400),
        (format!("{}X-Api_Key: {key}\r\n", keyed(&key)), "api-key-ambiguous", 400),
        (format!("{key}: 1\r\n"), "api-key-ambiguous", 400),
        (format!("Connection: {key}\r\n"), "api-key-ambiguous", 400),
        (format!("Authorization: ApiKey {key}\r\n"), "api-key-ambiguous", 400),
        (format!("Cookie: key={key}\r\n"), "api-key-ambiguous", 400),
        (format!("Referer: https://x.example/?k={key}\r\n"), "api-key-ambiguous", 400),
    ] {
        denied(&gate, call(&gate, &gate.acme, &fields), reason, status);
    }
    // In a URL it has leaked.
    let encoded = key.replace("pgk_", "%70gk%5F");
    let sent = gate.upstream.text();
    for target in [
        format!("/items/7?api_key={key}"),
        format!("/items/{key}"),
        format!("/items/7?x=1&k={encoded}"),
        format!("/nowhere/{key}/x"),
        format!("/oauth2/token?k={key}"),
    ] {
        let answer = get(&gate, &gate.acme, &target, &keyed(&key));
        assert_eq!(answer.code(), "api-key-unclear", "{target}");
        let record = gate.record_of(answer.id());
        assert_eq!(
            (&record["reason"], &record["input"]["partner"]["id"]),
            (&json!("api-key-in-url"), &json!("acme")),
            "{record}"
        );
        assert!(record["detail"].as_str().unwrap().contains("`acme-batch` of `acme`: revoke it"), "{record}");
    }
    let host = format!("GET /items/7 HTTP/1.1\r\nHost: {key}.partner.test\r\n\r\n");
    let answer = gate.dial().identity(&gate.acme).open().request(host);
    denied(&gate, answer, "api-key-in-url", 400);
    // Where nothing else could be read of it, too.
    for target in
        [format!("https://{HOST}/items/7?k={key}"), format!("/items/7?k={key}#top"), format!("/items/7?ä={key}")]
    {
        denied(&gate, get(&gate, &gate.acme, &target, ""), "api-key-in-url", 400);
    }
    let answer = get(&gate, &gate.globex, &format!("/items/7?k={half}"), "");
    assert!(gate.record_of(answer.id())["detail"].as_str().unwrap().contains("a part of one"));
    assert_eq!(gate.metric("partnergate_api_keys_in_urls_total{partner=\"acme\"}"), 9.0);
    assert_eq!(gate.metric("partnergate_api_keys_in_urls_total{partner=\"globex\"}"), 1.0);
    assert_eq!(gate.upstream.text(), sent, "nothing of it has reached the upstream");
    nowhere(&gate, &key[4..36]);
}

#[test]
fn key_is_exchanged_for_a_token_that_is_no_better() {
    let gate = setup("exchange").start();
    let key = made(&gate, "acme-batch", &["--operation", "items.read"]);
    denied(&gate, call(&gate, &gate.acme, &keyed(&key)), "api-key-not-accepted", 401);
    let answer = exchange(&gate, &gate.acme, &key);
    answer.expect(200);
    let said = answer.json();
    assert_eq!((&said["scope"], &said["token_type"]), (&json!("items.read"), &json!("Bearer")));
    assert_eq!(said["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    let record = gate.record_of(answer.id());
    assert_eq!(record["oauth"]["issued"]["from"], "acme-batch", "{record}");
    let bearer = format!("Authorization: Bearer {}\r\n", said["access_token"].as_str().unwrap());
    let answer = call(&gate, &gate.acme, &bearer);
    answer.expect(200);
    let record = gate.record_of(answer.id());
    assert_eq!(record["input"]["credential"]["kind"], "token");
    assert_eq!(record["input"]["api_key"]["id"], "acme-batch");
    denied(&gate, get(&gate, &gate.acme, "/items", &bearer), "token-scope-exceeded", 403);
    denied(&gate, exchange(&gate, &gate.globex, &key), "token-client-not-authentic", 400);
    denied(&gate, exchange(&gate, &gate.acme, "pgk_x"), "api-key-malformed", 400);
    let listed = gate.cli(&["credential", "list", "--partner", "acme"]).ok();
    assert!(listed.contains("used         2 times from any"), "exchanged once, and a token used once: {listed}");
    by_second(&gate, &["credential", "revoke", "acme", "acme-batch", "--reason", "leaked", "--yes"]).ok();
    denied(&gate, call(&gate, &gate.acme, &bearer), "api-key-revoked", 401);
    denied(&gate, exchange(&gate, &gate.acme, &key), "api-key-revoked", 400);
    nowhere(&gate, &key);
}

#[test]
fn successor_in_use_lets_the_old_key_go_by_itself() {
    let gate = setup("header").start();
    let old = made(&gate, "acme-batch", &["--network", "any"]);
    let rotate = ["credential", "rotate", "acme", "acme-batch", "--api-key", "--to", "acme-batch-2", "--overlap", "0s"];
    let new = key_in(&by_second(&gate, &rotate).ok());
    for key in [&old, &new] {
        denied(&gate, get(&gate, &gate.acme, "/admin/x", &keyed(key)), "operation-unknown", 403);
    }
    let state = |id: &str| -> String {
        let list = gate.cli(&["credential", "list", "--partner", "acme"]).ok();
        let line = list.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_default().to_owned();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    assert_eq!((state("acme-batch"), state("acme-batch-2")), ("retiring".into(), "active".into()));
    call(&gate, &gate.acme, &keyed(&old)).expect(200);
    let shown = gate.cli(&["status"]).ok();
    assert!(shown.contains("acme-batch-2 is to succeed acme-batch of acme: its successor is not in use"), "{shown}");
    call(&gate, &gate.acme, &keyed(&new)).expect(200);
    await_some("the old one to go", || (state("acme-batch") == "revoked").then_some(()));
    denied(&gate, call(&gate, &gate.acme, &keyed(&old)), "api-key-revoked", 401);
    call(&gate, &gate.acme, &keyed(&new)).expect(200);
    // Files that know of no key take none away, and a file as it was exported changes nothing.
    let folder = gate.write_registry(gate.registry_text());
    gate.cli(&["apply", "--yes", "-f", folder.to_str().unwrap()]).ok();
    call(&gate, &gate.acme, &keyed(&new)).expect(200);
    let export = gate.dir.path().join("export");
    gate.cli(&["export", "-d", export.to_str().unwrap()]).ok();
    assert!(fs::read_to_string(export.join("registry.json")).unwrap().contains("acme-batch-2"));
    let again = gate.cli(&["apply", "--yes", "-f", export.to_str().unwrap()]).ok();
    assert!(again.contains("nothing to change"), "{again}");
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

/// A revoked key ends what is open as well.
#[test]
fn what_ends_a_partner_ends_its_keys() {
    let gate = setup("header").start();
    let key = made(&gate, "acme-batch", &[]);
    let socket = made(&gate, "acme-live", &["--grant", "acme-socket"]);
    let mut open = gate.dial().identity(&gate.acme).open();
    open.send(websocket::handshake("/events").replacen("\r\n", &format!("\r\n{}", keyed(&socket)), 1));
    open.response_head().expect(101);
    websocket::echoes(&mut open, "hello");
    by_second(&gate, &["credential", "revoke", "acme", "acme-live", "--reason", "leaked", "--yes"]).ok();
    open.assert_closed();
    gate.await_record("what was cut", |record| record["kind"] == "stream-cut" && record["reason"] == "api-key-revoked");
    by_second(&gate, &["partner", "suspend", "acme", "--reason", "test"]).ok();
    denied(&gate, call(&gate, &gate.acme, &keyed(&key)), "partner-not-active", 403);
    by_second(&gate, &["partner", "resume", "acme", "--reason", "test"]).ok();
    call(&gate, &gate.acme, &keyed(&key)).expect(200);
    by_second(&gate, &["partner", "offboard", "acme", "--reason", "test", "--yes"]).ok();
    let report = gate.cli(&["partner", "report", "acme", "--output", "json"]).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["closed"]["api_keys"], json!(["acme-batch"]), "{report}");
}

#[test]
fn what_cannot_be_meant_says_why() {
    let gate = setup("header").start();
    let file = gate.acme.chain_file.display().to_string();
    let add = |more: &[&str]| {
        let add = ["credential", "add", "acme", "acme-batch", "--api-key", "--certificate", &file];
        by_second(&gate, &[&add[..], more].concat())
    };
    refused(&add(&["--grant", "nothing"]), 3, "`acme` has no grant `nothing`");
    refused(&add(&["--grant", "acme-items", "--operation", "items.delete"]), 3, "is covered by none of the grants");
    refused(&add(&["--grant", "acme-items", "--network", "nowhere"]), 3, "there is no network `nowhere`");
    refused(&add(&["--grant", "acme-items", "--ends", "2030-01-01T00:00:00Z"]), 3, "tokens.api_keys.max_lifetime");
    refused(&add(&["--grant", "acme-items", "--ends", "2020-01-01T00:00:00Z"]), 3, "is over already");
    refused(&add(&[]), 2, "--grant");
    let none = by_second(&gate, &["credential", "add", "acme", "k", "--api-key", "--grant", "acme-items"]);
    refused(&none, 3, "bound to a certificate");
    let rotate = by_second(&gate, &["credential", "rotate", "acme", "nothing", "--api-key", "--to", "k"]);
    refused(&rotate, 3, "has no API key `nothing`");
    made(&gate, "acme-batch", &[]);
    refused(&add(&["--grant", "acme-items"]), 3, "is there already");
    let same =
        ["credential", "add", "globex", "acme-batch", "--api-key", "--certificate", &file, "--grant", "globex-items"];
    refused(&by_second(&gate, &same), 3, "is also one of `acme`");
    // The secret of a key that there is cannot be exchanged, whoever asks.
    let body = json!({"set": {"hash": "ab".repeat(32)}}).to_string();
    let (status, said) = gate.admin("PATCH", "/v1/partners/acme/api-keys/acme-batch", &body);
    assert!(status == 422 && said.contains("is another key already"), "{status} {said}");

    let off = Setup::new().start();
    let file = off.acme.chain_file.display().to_string();
    let add = ["credential", "add", "acme", "k", "--api-key", "--certificate", &file, "--grant", "acme-items"];
    refused(&by_second(&off, &add), 3, "nobody has API keys here");
    // Without them the field is the upstream's, and a key that somebody relies on is not taken for nothing.
    let key = made(&gate, "acme-other", &[]);
    denied(&off, call(&off, &off.acme, &keyed(&key)), "api-key-not-accepted", 401);
    denied(
        &off,
        call(&off, &off.acme, &format!("X-API-Key: of-the-upstream\r\n{}", keyed(&key))),
        "api-key-ambiguous",
        400,
    );
    denied(&off, get(&off, &off.acme, &format!("/items/7?k={key}"), ""), "api-key-in-url", 400);
    call(&off, &off.acme, &keyed("of-the-upstream")).expect(200);
    assert!(off.upstream.text().contains("of-the-upstream"));
    let (exit, said) = Setup::new().set("routes.api.api_key", "required").start_expecting_failure();
    assert!(exit == Some(3) && said.contains("routes.api.api_key") && said.contains("nobody has API keys"), "{said}");
    let setup = Setup::new();
    let secret = setup.token_secret();
    let only = json!({"accepted_in": "exchange"});
    let (exit, said) =
        setup.set("tokens", json!({"secret": secret, "issuer": ISSUER, "api_keys": only})).start_expecting_failure();
    assert!(exit == Some(3) && said.contains("tokens.api_keys.accepted_in"), "{said}");
}

#[test]
fn route_says_what_it_makes_of_keys() {
    let gate = setup("header").set("routes.api.api_key", "required").start();
    let answer = call(&gate, &gate.acme, "");
    assert_eq!(answer.expect(401).code(), "api-key-required");
    assert_eq!(answer.header("www-authenticate"), Some("ApiKey realm=\"partners\""));
    let key = made(&gate, "acme-batch", &[]);
    call(&gate, &gate.acme, &keyed(&key)).expect(200);
    let ignoring = setup("header").set("routes.api.api_key", "ignored").start();
    denied(&ignoring, call(&ignoring, &ignoring.acme, &keyed(&key)), "api-key-not-accepted", 401);
    call(&ignoring, &ignoring.acme, &keyed("of-the-upstream")).expect(200);
    assert!(ignoring.upstream.text().contains("of-the-upstream"));
}

/// What operators type by mistake is not kept, and what somebody has found is told from whom it is.
#[test]
fn key_that_was_found_is_told_and_not_written_down() {
    let gate = setup("header").start();
    let key = made(&gate, "acme-batch", &[]);
    let found = gate.dir.path().join("found");
    fs::write(&found, format!("{key}\n")).unwrap();
    let said = gate.cli(&["credential", "find", "--key-file", found.to_str().unwrap()]).ok();
    assert!(said.contains("`acme-batch` of `acme`, which is active"), "{said}");
    for arguments in [
        vec!["credential", "revoke", "acme", &key, "--reason", "leaked", "--yes"],
        vec!["credential", "revoke", "acme", "acme-batch", "--reason", &key, "--yes"],
    ] {
        refused(&by_second(&gate, &arguments), 3, "an API key is in what was to be sent");
    }
    let (status, said) =
        gate.admin("POST", &format!("/v1/partners/acme/credentials/{key}/revoke"), "{\"reason\":\"x\"}");
    assert!(status == 422 && said.contains("an API key is in what was to be sent"), "{status} {said}");
    call(&gate, &gate.acme, &keyed(&key)).expect(200);
    let answer = gate.dial().identity(&gate.acme).open().request(format!(
        "POST /oauth2/revoke HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\nclient_id=acme&token={key}",
        "client_id=acme&token=".len() + key.len()
    ));
    assert_eq!(answer.expect(400).json()["error"], "unsupported_token_type");
    // What its grant has lost since, a successor does not have either; one that is revoked is none.
    let narrow = gate.registry_text().replace("operations: [items.read, items.list,", "operations: [items.read,");
    assert!(narrow != gate.registry_text());
    gate.apply(&narrow);
    let rotate = ["credential", "rotate", "acme", "acme-batch", "--api-key", "--to", "acme-next"];
    call(&gate, &gate.acme, &keyed(&key_in(&by_second(&gate, &rotate).ok()))).expect(200);
    by_second(&gate, &["credential", "revoke", "acme", "acme-batch", "--reason", "test", "--yes"]).ok();
    let back = ["credential", "retire", "acme", "acme-next", "--api-key", "--successor", "acme-batch"];
    refused(&by_second(&gate, &back), 3, "`acme-batch` is revoked, and takes nobody's place");
    nowhere(&gate, &key);
}

/// `docs/tokens.md`, word for word.
#[test]
fn documented_clients_use_and_exchange_a_key() {
    let Some(python) = python(&["requests"]) else { return };
    let gate = setup("header").set("routes.api.hosts", json!([HOST, "localhost"])).start();
    let issuer = format!("https://localhost:{}", gate.address().port());
    let mut config = gate.config().clone();
    config["tokens"]["issuer"] = json!(issuer);
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.reload();
    let url = format!("{issuer}/items/7");
    let key = made(&gate, "acme-batch", &["--operation", "items.read"]);
    let settings = [
        ("ISSUER", issuer.as_str()),
        ("CLIENT_ID", "acme"),
        ("API_KEY", &key),
        ("URL", &url),
        ("CERTIFICATE", gate.acme.chain_file.to_str().unwrap()),
        ("KEY", gate.acme.key_file.to_str().unwrap()),
        ("SERVER_CA", gate.server_ca.pem_file.to_str().unwrap()),
    ];
    let set: String = settings.iter().map(|(name, value)| format!("{name} = {}\n", json!(value))).collect();
    let client = format!("{set}{}\nprint(answer.status_code)\n", block(TOKENS, "python", "import requests"));
    let file = gate.dir.path().join("client.py");
    fs::write(&file, client).unwrap();
    let mut command = Command::new(python);
    command.arg(file).env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
    assert_eq!(run(&mut command, b"").ok().trim(), "200");
    let in_shell = |first: &str| {
        let text = block(TOKENS, "sh", first);
        let mut shell = Command::new("sh");
        let more = "--silent --noproxy '*' --write-out '\\n%{http_code}'";
        shell.args(["-c", &format!("{} {more}", text.trim())]).envs(settings);
        run(&mut shell, b"").ok()
    };
    let used = in_shell("curl --cert \"$CERTIFICATE\" --key \"$KEY\" --cacert \"$SERVER_CA\" --header");
    assert!(used.ends_with("\n200"), "{used}");
    let exchanged = in_shell(
        "curl --cert \"$CERTIFICATE\" --key \"$KEY\" --cacert \"$SERVER_CA\" \"$ISSUER/oauth2/token\" --data \"client_id",
    );
    assert!(exchanged.contains("\"scope\":\"items.read\"") && exchanged.ends_with("\n200"), "{exchanged}");
}
