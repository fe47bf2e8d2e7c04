//! Access tokens as partners get and use them: discovery, issuing, calls, revocation, and every way to use one that is not
//! one's own.

use crate::harness::{Gate, HOST, Identity, Over, Response, Setup, await_some, block, node_with, python, run};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const ISSUER: &str = "https://api.partner.test";
const TOKENS: &str = include_str!("../../docs/tokens.md");
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const FORM: &str = "application/x-www-form-urlencoded";

fn setup() -> Setup {
    let setup = Setup::new();
    let secret = setup.token_secret();
    setup.set("tokens", json!({"issuer": ISSUER, "secret": secret, "authorization_server": {}}))
}

/// Posts a form over HTTP/1.1 on a connection of its own.
fn post(gate: &Gate, who: &Identity, path: &str, form: &str) -> Response {
    post_as(gate, who, path, form, &format!("Content-Type: {FORM}\r\n"))
}

fn post_as(gate: &Gate, who: &Identity, path: &str, form: &str, fields: &str) -> Response {
    let length = form.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}Content-Length: {length}\r\n\r\n{form}");
    gate.dial().identity(who).open().request(head)
}

fn asked(gate: &Gate, who: &Identity, form: &str) -> Response {
    post(gate, who, "/oauth2/token", &format!("grant_type=client_credentials&{form}"))
}

#[track_caller]
fn issued(gate: &Gate, form: &str) -> String {
    let answer = asked(gate, &gate.acme, form);
    answer.expect(200);
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn call(gate: &Gate, who: &Identity, fields: &str) -> Response {
    gate.dial().identity(who).open().request(format!("GET /items/7 HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n"))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

#[test]
fn token_is_issued_used_and_recorded() {
    let gate = setup().start();
    let answer = asked(&gate, &gate.acme, "client_id=acme&scope=items.read%20items.delete");
    answer.expect(200);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("pragma"), Some("no-cache"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let said = answer.json();
    let token = said["access_token"].as_str().unwrap();
    assert_eq!((&said["token_type"], &said["expires_in"]), (&json!("Bearer"), &json!(600)));
    assert_eq!(said["scope"], "items.read", "what is not granted is not in it");
    // RFC 9068, RFC 8705.
    let (head, claims) = (part(token, 0), part(token, 1));
    assert_eq!((&head["typ"], &head["alg"]), (&json!("at+jwt"), &json!("ES256")));
    for (claim, value) in
        [("iss", ISSUER), ("aud", "api"), ("sub", "acme"), ("client_id", "acme"), ("scope", "items.read")]
    {
        assert_eq!(claims[claim], value, "{claims}");
    }
    let leaf = ring::digest::digest(&ring::digest::SHA256, gate.acme.leaf());
    assert_eq!(claims["cnf"]["x5t#S256"], BASE64URL_NOPAD.encode(leaf.as_ref()));
    assert_eq!(claims["grants"], json!(["acme-items"]));

    let record = gate.record_of(answer.id());
    assert_eq!(
        (&record["kind"], &record["result"], &record["status"]),
        (&json!("oauth"), &json!("allow"), &json!(200))
    );
    assert_eq!(record["oauth"]["endpoint"], "oauth2.token");
    assert_eq!(
        (&record["oauth"]["issued"]["id"], &record["oauth"]["issued"]["scope"]),
        (&claims["jti"], &json!(["items.read"]))
    );
    assert_eq!(record["input"]["partner"]["id"], "acme");

    let used = call(&gate, &gate.acme, &bearer(token));
    used.expect(200);
    let record = gate.record_of(used.id());
    assert_eq!(
        (&record["input"]["token"]["id"], &record["input"]["credential"]["kind"]),
        (&claims["jti"], &json!("token"))
    );
    let plain = call(&gate, &gate.acme, "");
    assert_eq!(gate.record_of(plain.expect(200).id())["input"]["credential"]["kind"], "x509");
    // The upstream has not seen it, and no record and no log has.
    let signature = token.rsplit('.').next().unwrap();
    assert!(!gate.upstream.text().contains(signature) && !gate.upstream.text().contains("uthorization"));
    assert!(!gate.records_text().contains(signature) && !gate.log().contains(signature));
}

#[test]
fn metadata_and_keys_are_there_for_partners() {
    let gate = setup().start();
    let get = |path: &str, method: &str| {
        gate.dial().identity(&gate.acme).open().request(format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
    };
    let metadata = get("/.well-known/oauth-authorization-server", "GET");
    let said = metadata.expect(200).json();
    assert_eq!(said["issuer"], ISSUER);
    assert_eq!(said["token_endpoint"], format!("{ISSUER}/oauth2/token"));
    assert_eq!(said["revocation_endpoint"], format!("{ISSUER}/oauth2/revoke"));
    assert_eq!(said["tls_client_certificate_bound_access_tokens"], true);
    assert_eq!(said["grant_types_supported"], json!(["client_credentials", EXCHANGE]));
    assert_eq!(
        said["token_endpoint_auth_methods_supported"],
        json!(["tls_client_auth", "self_signed_tls_client_auth"])
    );
    let keys = get("/.well-known/jwks.json", "GET").expect(200).json();
    let (_, public) = gate.http("/.well-known/jwks.json");
    assert_eq!(keys, serde_json::from_str::<Value>(&public).unwrap(), "the same as on the status listener");
    let token = issued(&gate, "client_id=acme");
    assert!(keys["keys"].as_array().unwrap().iter().any(|key| key["kid"] == part(&token, 0)["kid"]));
    assert_eq!(gate.record_of(metadata.id())["oauth"]["endpoint"], "oauth2.metadata");
    let (status, kit) = gate.admin("GET", "/v1/partners/acme/kit", "");
    assert!(status == 200 && kit.contains(&format!("{ISSUER}/oauth2/token")), "{kit}");

    for (path, method, allow) in [
        ("/oauth2/token", "GET", "POST"),
        ("/oauth2/revoke", "DELETE", "POST"),
        ("/.well-known/jwks.json", "PUT", "GET, HEAD"),
    ] {
        let answer = get(path, method);
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{path}");
    }
    // Nobody else's host, and nobody without a registered certificate.
    let curl = gate.curl(None, "/.well-known/oauth-authorization-server", &[]);
    assert!(curl.exit != 0 && curl.status == 0, "{curl:?}");
    let unknown = gate.pki.client(&gate.acme_ca, "unknown", |_| {});
    assert_eq!(asked(&gate, &unknown, "client_id=acme").expect(400).json()["error"], "invalid_client");
}

#[test]
fn requests_are_refused_as_the_rfcs_say() {
    let gate = setup().start();
    for (form, status, error) in [
        ("client_id=acme&scope=items.delete", 400, "invalid_scope"),
        ("client_id=acme&audience=nothing", 400, "invalid_target"),
        ("client_id=acme&resource=https%3A%2F%2Felsewhere.example%2F", 400, "invalid_target"),
        ("client_id=globex", 400, "invalid_client"),
        ("client_id=acme&client_secret=guess", 400, "invalid_client"),
        ("scope=items.read", 400, "invalid_request"),
        ("client_id=acme&client_id=acme", 400, "invalid_request"),
        ("client_id=acme&scope=items.read&scope=items.list", 400, "invalid_request"),
        ("client_id=acme&scope=%ff", 400, "invalid_request"),
    ] {
        let answer = asked(&gate, &gate.acme, form);
        answer.expect(status);
        assert_eq!(
            (&answer.json()["error"], answer.header("cache-control")),
            (&json!(error), Some("no-store")),
            "{form}"
        );
        let record = gate.record_of(answer.id());
        assert_eq!(
            (&record["kind"], &record["result"], &record["oauth"]["error"]),
            (&json!("oauth"), &json!("deny"), &json!(error)),
            "{form}"
        );
        assert!(record["reason"].as_str().unwrap().starts_with("token-"), "{record}");
    }
    let answer = post(&gate, &gate.acme, "/oauth2/token", "grant_type=password&client_id=acme");
    assert_eq!(answer.expect(400).json()["error"], "unsupported_grant_type");
    let answer = post_as(&gate, &gate.acme, "/oauth2/token", "{}", "Content-Type: application/json\r\n");
    assert_eq!(answer.expect(400).json()["error"], "invalid_request");
    let long = format!("client_id=acme&x={}", "y".repeat(40_000));
    assert_eq!(asked(&gate, &gate.acme, &long).expect(400).json()["error"], "invalid_request");
    // A connection goes on after it was told no.
    let mut connection = gate.dial().identity(&gate.acme).open();
    for _ in 0..2 {
        let form = "grant_type=client_credentials&client_id=globex";
        let head = format!(
            "POST /oauth2/token HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        connection.request(head).expect(400);
    }
    let basic = format!("Content-Type: {FORM}\r\nAuthorization: Basic YWNtZTo=\r\n");
    let answer = post_as(&gate, &gate.acme, "/oauth2/token", "grant_type=client_credentials&client_id=acme", &basic);
    assert_eq!(answer.expect(401).json()["error"], "invalid_client");
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"partners\""));
    let chunked = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let body = "grant_type=client_credentials&client_id=acme";
    connection.request(format!("{chunked}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).expect(200);
}

#[test]
fn curl_gets_a_token_over_http2_and_after_expecting_to_go_on() {
    let gate = setup().start();
    for more in [&["--http2"][..], &["--expect100-timeout", "40", "-H", "Expect: 100-continue"][..]] {
        let mut arguments = vec!["--data", "grant_type=client_credentials&client_id=acme"];
        arguments.extend(more);
        let answer = gate.curl(Some(&gate.acme), "/oauth2/token", &arguments);
        assert_eq!(answer.expect(200).json()["token_type"], "Bearer");
    }
}

/// Every way to use a token that is not one's own, or is one no more.
#[test]
fn stolen_and_altered_tokens_are_worth_nothing() {
    let gate = setup().start();
    let token = issued(&gate, "client_id=acme");
    let denied = |answer: Response, reason: &str| {
        let record = gate.record_of(answer.id());
        assert_eq!(record["reason"], reason, "{record}");
        answer
    };
    let challenge = |answer: &Response, error: &str| {
        let said = answer.header("www-authenticate").unwrap_or_default();
        assert!(said.starts_with("Bearer realm=") && said.contains(&format!("error=\"{error}\"")), "{said}");
    };
    // Another partner's certificate; another one of the same partner.
    let answer = call(&gate, &gate.globex, &bearer(&token));
    assert_eq!(answer.expect(401).code(), "token-invalid");
    challenge(&answer, "invalid_token");
    denied(answer, "token-wrong-partner");
    let second = gate.pki.client(&gate.acme_ca, "acme-second", |p| {
        p.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
    });
    call(&gate, &second, "").expect(200);
    denied(call(&gate, &second, &bearer(&token)), "token-wrong-certificate").expect(401);
    // Altered, unsigned, of another kind, and none at all.
    let [head, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let mut wider = part(&token, 1);
    wider["scope"] = json!("items.delete");
    let wider = BASE64URL_NOPAD.encode(wider.to_string().as_bytes());
    let none = BASE64URL_NOPAD
        .encode(json!({"alg": "none", "typ": "at+jwt", "kid": part(&token, 0)["kid"]}).to_string().as_bytes());
    for (text, reason) in [
        (format!("{head}.{wider}.{signature}"), "token-bad-signature"),
        (format!("{none}.{payload}."), "token-bad-signature"),
        (format!("{head}.{payload}"), "token-malformed"),
        (String::new(), "token-malformed"),
        ("opaque".to_owned(), "token-malformed"),
        (format!("{token} {token}"), "token-malformed"),
        ("x".repeat(9_000), "token-malformed"),
    ] {
        denied(call(&gate, &gate.acme, &bearer(&text)), reason).expect(401);
    }
    // The scheme in other letters is the same; another scheme is none of ours.
    call(&gate, &gate.acme, &format!("authorization: bEARER   {token}\r\n")).expect(200);
    denied(call(&gate, &gate.acme, "Authorization: BEARER x\r\n"), "token-malformed").expect(401);
    denied(call(&gate, &gate.acme, "Authorization: Bearer\r\n"), "token-malformed").expect(401);
    call(&gate, &gate.acme, "Authorization: Basic YTpi\r\n").expect(200);
    // Where a token could be read in two ways, it is not read.
    for fields in [
        format!("{0}{0}", bearer(&token)),
        format!("{}Authorization: Basic YTpi\r\n", bearer(&token)),
        format!("Authorization: Basic YTpi, Bearer {token}\r\n"),
        format!("Authorization: , Bearer {token}\r\n"),
        format!("Authorization: \"Bearer\" {token}\r\n"),
        format!("Authorization: \u{a0}Bearer {token}\r\n"),
        format!("Authorization: DPoP {token}\r\n"),
        format!("Authorization: {token}\r\n"),
    ] {
        let answer = denied(call(&gate, &gate.acme, &fields), "token-ambiguous");
        assert_eq!(answer.expect(400).code(), "token-unclear", "{fields}");
        challenge(&answer, "invalid_request");
    }
    assert!(!gate.upstream.text().contains(signature));
    let url = format!("GET /items/7?access_token={token} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let answer = gate.dial().identity(&gate.acme).open().request(url);
    denied(answer, "token-ambiguous").expect(400);
    assert!(!gate.records_text().contains(signature), "a token in the URL is masked");
    // What an operator is told of it.
    let log = gate.dir.path().join("records.jsonl");
    let refused = call(&gate, &gate.globex, &bearer(&token));
    gate.record_of(refused.id());
    let told = gate.cli(&["policy", "explain", "--decision", refused.id(), "--log", log.to_str().unwrap()]).ok();
    assert!(told.contains("token-wrong-partner") && told.contains("policy had no say in it"), "{told}");
    let certificate = gate.globex.chain_file.to_str().unwrap();
    let header = format!("Authorization: Bearer {token}");
    let told = gate
        .cli(&["policy", "explain", "--path", "/items", "--cert", certificate, "--header", &header, "--host", HOST])
        .ok();
    assert!(told.contains("by the floor") && told.contains("token-wrong-partner"), "{told}");
    // Outside of its scope, although it is granted.
    let narrow = issued(&gate, "client_id=acme&scope=items.list");
    let answer = denied(call(&gate, &gate.acme, &bearer(&narrow)), "token-scope-exceeded");
    assert_eq!(answer.expect(403).code(), "insufficient-scope");
    challenge(&answer, "insufficient_scope");
    assert!(gate.metric("partnergate_denials_total{reason=\"token-scope-exceeded\"}") >= 1.0);
}

#[test]
fn token_is_over_with_what_it_rests_on() {
    let gate = setup().set("tokens.authorization_server.token_lifetime", "1m").start();
    let token = issued(&gate, "client_id=acme");
    call(&gate, &gate.acme, &bearer(&token)).expect(200);
    // The grant alone ends.
    gate.cli(&["grant", "revoke", "acme-items", "--reason", "test", "--yes"]).ok();
    let answer = call(&gate, &gate.acme, &bearer(&token));
    assert_eq!(answer.expect(403).code(), "access-not-current");
    assert_eq!(
        asked(&gate, &gate.acme, "client_id=acme&scope=items.read").expect(400).json()["error"],
        "invalid_scope"
    );
    // The partner is suspended.
    let socket = issued(&gate, "client_id=acme");
    assert_eq!(part(&socket, 1)["scope"], "items.events");
    gate.cli(&["partner", "suspend", "acme", "--reason", "test"]).ok();
    assert_eq!(asked(&gate, &gate.acme, "client_id=acme").expect(400).json()["error"], "invalid_client");
    assert_eq!(call(&gate, &gate.acme, &bearer(&socket)).expect(403).code(), "engagement-not-active");
}

#[test]
fn client_revokes_a_token_and_it_stays_revoked() {
    let mut gate = setup().start();
    let (token, other) = (issued(&gate, "client_id=acme"), issued(&gate, "client_id=acme"));
    let revoke = |gate: &Gate, who: &Identity, form: String| post(gate, who, "/oauth2/revoke", &form);
    call(&gate, &gate.acme, &bearer(&token)).expect(200);
    let answer = revoke(&gate, &gate.globex, format!("client_id=globex&token={token}"));
    answer.expect(400);
    call(&gate, &gate.acme, &bearer(&token)).expect(200);
    let answer = revoke(&gate, &gate.acme, format!("client_id=acme&token={token}&token_type_hint=refresh_token"));
    assert_eq!(answer.expect(200).text(), "");
    let record = gate.record_of(answer.id());
    assert_eq!(record["oauth"]["revoked"], part(&token, 1)["jti"]);
    let refused = call(&gate, &gate.acme, &bearer(&token));
    assert_eq!(gate.record_of(refused.expect(401).id())["reason"], "token-revoked");
    call(&gate, &gate.acme, &bearer(&other)).expect(200);
    // Once more, and what is no token, is no error.
    for token in [token.as_str(), "nonsense"] {
        revoke(&gate, &gate.acme, format!("client_id=acme&token={token}")).expect(200);
    }
    gate.restart("TERM");
    call(&gate, &gate.acme, &bearer(&token)).expect(401);
    call(&gate, &gate.acme, &bearer(&other)).expect(200);
    gate.cli(&["token", "rotate-key", "--reason", "test", "--at-once"]).ok();
    call(&gate, &gate.acme, &bearer(&token)).expect(401);
    let verified = gate.cli(&["audit", "verify"]).ok();
    assert!(verified.starts_with("good: "), "{verified}");
}

#[test]
fn token_is_exchanged_for_a_narrower_one() {
    let gate = setup().start();
    let whole = issued(&gate, "client_id=acme&scope=items.read%20items.list");
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    let exchange = |who: &Identity, client: &str, token: &str, more: &str| {
        let form =
            format!("grant_type={EXCHANGE}&client_id={client}&subject_token={token}&subject_token_type={kind}{more}");
        post(&gate, who, "/oauth2/token", &form)
    };
    let answer = exchange(&gate.acme, "acme", &whole, "&scope=items.list");
    let said = answer.expect(200).json();
    assert_eq!((&said["issued_token_type"], &said["scope"]), (&json!(kind), &json!("items.list")));
    let narrow = said["access_token"].as_str().unwrap();
    assert!(part(narrow, 1)["exp"].as_u64() <= part(&whole, 1)["exp"].as_u64());
    let record = gate.record_of(answer.id());
    assert_eq!(record["oauth"]["issued"]["from"], part(&whole, 1)["jti"]);
    assert_eq!(call(&gate, &gate.acme, &bearer(narrow)).expect(403).code(), "insufficient-scope");
    call(&gate, &gate.acme, &bearer(&whole)).expect(200);
    for (answer, error, reason) in [
        (exchange(&gate.acme, "acme", narrow, "&scope=items.read"), "invalid_scope", "token-scope-empty"),
        (exchange(&gate.globex, "globex", &whole, ""), "invalid_request", "token-wrong-partner"),
        (exchange(&gate.acme, "acme", "nonsense", ""), "invalid_request", "token-malformed"),
    ] {
        assert_eq!(answer.expect(400).json()["error"], error);
        assert_eq!(gate.record_of(answer.id())["reason"], reason);
    }
    post(&gate, &gate.acme, "/oauth2/revoke", &format!("client_id=acme&token={whole}")).expect(200);
    let refused = call(&gate, &gate.acme, &bearer(narrow));
    assert_eq!(gate.record_of(refused.expect(401).id())["reason"], "token-revoked");
}

#[test]
fn upstream_asks_whether_a_token_is_good_and_may_ask_nothing_else() {
    let gate = setup().start();
    let token = issued(&gate, "client_id=acme&scope=items.read%20items.events");
    let file = gate.dir.path().join("billing.token");
    let name = ["operator", "add", "billing", "--role", "introspector", "--with-token", "--token-file"];
    gate.cli(&[&name[..], &[file.to_str().unwrap(), "--reason", "test"]].concat()).ok();
    let secret = fs::read_to_string(&file).unwrap();
    let socket = gate.dir.path().join("state/admin.sock");
    let ask = |path: &str, form: &str| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--noproxy", "*", "--unix-socket", socket.to_str().unwrap()]);
        command.args([
            "--header",
            &format!("Authorization: Bearer {}", secret.trim()),
            "--write-out",
            "\n%{http_code}",
        ]);
        if !form.is_empty() {
            command.args(["--data", form]);
        }
        let said = run(command.arg(format!("http://gate{path}")), b"").ok();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), serde_json::from_str::<Value>(body).unwrap())
    };
    let inactive = (200, json!({"active": false}));
    let (status, said) = ask("/oauth2/introspect", &format!("token={token}&token_type_hint=access_token"));
    let claims = part(&token, 1);
    assert_eq!((status, &said["active"], &said["token_type"]), (200, &json!(true), &json!("Bearer")));
    for claim in ["iss", "sub", "aud", "client_id", "jti", "iat", "exp", "cnf", "scope"] {
        assert_eq!(said[claim], claims[claim], "{claim}");
    }
    assert_eq!(ask("/oauth2/introspect", "token=nonsense"), inactive);
    assert_eq!(ask("/oauth2/introspect", "tokn=x").0, 400);
    assert_eq!(ask("/v1/partners", "").0, 403, "nothing else");
    gate.cli(&["grant", "revoke", "acme-socket", "--reason", "test", "--yes"]).ok();
    assert_eq!(ask("/oauth2/introspect", &format!("token={token}")).1["scope"], "items.read");
    gate.cli(&["partner", "suspend", "acme", "--reason", "test"]).ok();
    assert_eq!(ask("/oauth2/introspect", &format!("token={token}")), inactive);
    gate.cli(&["partner", "resume", "acme", "--reason", "test"]).ok();
    assert_eq!(ask("/oauth2/introspect", &format!("token={token}")).1["active"], true);
    let leaf = gate.acme.fingerprint();
    gate.cli(&["anchor", "deny", "acme-ca", "--fingerprint", &leaf, "--reason", "test"]).ok();
    assert_eq!(ask("/oauth2/introspect", &format!("token={token}")), inactive);
}

/// Each one is written and told: nobody writes as many as it likes, or makes operators wait.
#[test]
fn flood_of_revocations_is_bounded() {
    let gate = setup().start();
    let tokens: Vec<String> = (0..120).map(|_| issued(&gate, "client_id=acme")).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let part = |tokens: &[String]| {
            let one = |token: &String| {
                let form = format!("client_id=acme&token={token}");
                post(&gate, &gate.acme, "/oauth2/revoke", &form).status
            };
            tokens.iter().map(one).collect::<Vec<u16>>()
        };
        let parts: Vec<_> = tokens.chunks(30).map(|tokens| scope.spawn(move || part(tokens))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let done = statuses.iter().filter(|status| **status == 200).count();
    assert!((1..=100).contains(&done) && statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    let history = gate.cli(&["history", "tokens"]).ok();
    assert_eq!(history.matches("an access token of acme").count(), done);
    // What was not revoked is as good as before, and what was is not.
    for (token, status) in tokens.iter().zip(statuses).step_by(10) {
        call(&gate, &gate.acme, &bearer(token)).expect(if status == 200 { 401 } else { 200 });
    }
}

/// RFC 8705 section 2.2, with a certificate as `openssl req -x509` makes it.
#[test]
fn partner_without_a_ca_registers_its_own_certificate() {
    let gate = setup().start();
    let folder = gate.dir.path();
    let (own, key) = (folder.join("own.pem"), folder.join("own.key"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=acme",
    ]);
    run(openssl.args(["-days", "30", "-keyout"]).arg(&key).arg("-out").arg(&own), b"").ok();
    let der = run(Command::new("openssl").args(["x509", "-outform", "der", "-in"]).arg(&own), b"");
    let fingerprint = hex::encode(ring::digest::digest(&ring::digest::SHA256, &der.stdout).as_ref());
    let request = |target: &str, data: &[&str]| {
        let certificate = ["--cert", own.to_str().unwrap(), "--key", key.to_str().unwrap()];
        gate.curl(None, target, &[&certificate[..], data].concat())
    };
    assert_eq!(request("/items/7", &[]).status, 0, "nobody knows it yet");
    let add = ["anchor", "add", "acme-own", "--self-signed", own.to_str().unwrap(), "--reason", "test"];
    let refused = gate.cli(&[&add[..], &["--partner", "acme", "--partner", "globex"]].concat());
    assert!(refused.exit == Some(3) && refused.stderr.contains("of one partner"), "{refused:?}");
    gate.cli(&[&add[..], &["--partner", "acme"]].concat()).ok();
    let matching = format!("fingerprint_sha256={fingerprint}");
    let credential = ["credential", "add", "acme", "acme-own", "--anchor", "acme-own", "--match", &matching];
    gate.cli(&[&credential[..], &["--reason", "test"]].concat()).ok();
    request("/items/7", &[]).expect(200);
    let form = ["--data", "grant_type=client_credentials&client_id=acme&scope=items.read"];
    let token = request("/oauth2/token", &form).expect(200).json()["access_token"].as_str().unwrap().to_owned();
    let header = format!("Authorization: Bearer {token}");
    request("/items/7", &["--header", &header]).expect(200);
    let shown = gate.cli(&["anchor", "show", "acme-own"]).ok();
    assert!(shown.contains("self-signed") && shown.contains(&fingerprint), "{shown}");
    // It comes back as it was from what is exported.
    let export = folder.join("export");
    gate.cli(&["export", "--directory", export.to_str().unwrap()]).ok();
    let plan = gate.cli(&["plan", "-f", export.to_str().unwrap()]).ok();
    assert!(plan.contains("nothing") || plan.contains("no change"), "{plan}");
    // And is gone at once.
    gate.cli(&["anchor", "deny", "acme-own", "--fingerprint", &fingerprint, "--reason", "stolen"]).ok();
    assert_eq!(request("/items/7", &[]).status, 0);
}

#[test]
fn keys_follow_each_other_while_tokens_are_in_use() {
    let gate = setup().start();
    let old = issued(&gate, "client_id=acme");
    let over = AtomicBool::new(false);
    let calls = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut connection = gate.dial().identity(&gate.acme).open();
            let (mut calls, mut token) = (0, old.clone());
            while !over.load(Ordering::SeqCst) {
                let head = format!("GET /items/7 HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", bearer(&token));
                connection.request(head).expect(200);
                calls += 1;
                if calls % 50 == 0 {
                    token = issued(&gate, "client_id=acme");
                }
            }
            calls
        });
        let until = Over(&over);
        for _ in 0..3 {
            gate.cli(&["token", "rotate-key", "--reason", "test", "--at-once"]).ok();
        }
        drop(until);
        caller.join().unwrap()
    });
    assert!(calls > 10, "{calls}");
    let new = issued(&gate, "client_id=acme");
    assert_ne!(part(&old, 0)["kid"], part(&new, 0)["kid"]);
    // A key that is withdrawn takes its tokens with it.
    let kid = part(&new, 0)["kid"].as_str().unwrap().to_owned();
    gate.cli(&["token", "withdraw-key", &kid, "--reason", "leaked", "--yes"]).ok();
    let refused = call(&gate, &gate.acme, &bearer(&new));
    assert_eq!(gate.record_of(refused.expect(401).id())["reason"], "token-unknown-key");
    call(&gate, &gate.acme, &bearer(&old)).expect(200);
}

#[test]
fn open_stream_is_cut_when_its_token_is_revoked() {
    let gate = setup().start();
    let token = issued(&gate, "client_id=acme&scope=items.events");
    let mut stream = gate.dial().identity(&gate.acme).open();
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    stream.send(format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}{}\r\n", bearer(&token)));
    stream.response_head().expect(101);
    post(&gate, &gate.acme, "/oauth2/revoke", &format!("client_id=acme&token={token}")).expect(200);
    stream.assert_closed();
    let cut = gate.await_record("the cut", |record| record["kind"] == "stream-cut");
    assert_eq!((&cut["reason"], &cut["input"]["token"]["id"]), (&json!("token-revoked"), &part(&token, 1)["jti"]));
}

#[test]
fn route_says_what_it_makes_of_tokens() {
    let gate = setup().set("routes.api.token", "required").set("routes.api.forward_token", true).start();
    let answer = call(&gate, &gate.acme, "");
    assert_eq!(answer.expect(401).code(), "token-required");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"partners\""));
    let token = issued(&gate, "client_id=acme");
    call(&gate, &gate.acme, &bearer(&token)).expect(200);
    assert!(gate.upstream.text().contains(&token));
    let ignoring = setup().set("routes.api.token", "ignored").start();
    call(&ignoring, &ignoring.acme, "Authorization: Bearer of-the-upstream\r\n").expect(200);
    assert!(ignoring.upstream.text().contains("of-the-upstream"));
    // Without an authorization server the field is nobody's business either.
    let off = Setup::new().start();
    call(&off, &off.acme, "Authorization: Bearer of-the-upstream\r\n").expect(200);
    assert!(off.upstream.text().contains("of-the-upstream"));
    let answer = asked(&off, &off.acme, "client_id=acme");
    assert_eq!(answer.expect(403).code(), "not-permitted");
}

#[test]
fn config_that_cannot_be_meant_is_refused() {
    let clash = json!({"id": "login", "method": "POST", "path": "/oauth2/{what}"});
    let setup = setup();
    let mut operations = setup.config()["routes"]["api"]["operations"].clone();
    operations.as_array_mut().unwrap().push(clash);
    let (exit, said) = setup.set("routes.api.operations", operations).start_expecting_failure();
    assert!(
        exit == Some(3) && said.contains("`/oauth2/token` on `api.partner.test`") && said.contains("login"),
        "{said}"
    );
    for (key, value, why) in [
        ("routes.api.token", json!("required"), "nobody issues access tokens"),
        ("routes.api.forward_token", json!(true), "nobody issues access tokens"),
    ] {
        let (exit, said) = Setup::new().set(key, value).start_expecting_failure();
        assert!(exit == Some(3) && said.contains(key) && said.contains(why), "{said}");
    }
    let (exit, said) = self::setup().set("routes.api.token", "requird").start_expecting_failure();
    assert!(exit == Some(3) && said.contains("routes.api.token") && said.contains("required"), "{said}");
    let (exit, said) = self::setup().set("tokens.authorization_server.token_lifetime", "1s").start_expecting_failure();
    assert!(exit == Some(3) && said.contains("token_lifetime"), "{said}");
}

#[test]
fn slow_and_broken_requests_hold_nothing() {
    let gate = setup().set("partner.timeouts.body_progress", "300ms").start();
    let mut connection = gate.dial().identity(&gate.acme).open();
    connection.send(format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n\r\ngrant"
    ));
    let answer = connection.response();
    assert_eq!(answer.expect(400).json()["error"], "invalid_request");
    let mut connection = gate.dial().identity(&gate.acme).open();
    connection.send(format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n\r\ngrant"
    ));
    drop(connection);
    await_some("both records", || {
        let records = gate.records();
        (records.iter().filter(|r| r["kind"] == "oauth" && r["result"] == "deny").count() == 2).then_some(())
    });
    issued(&gate, "client_id=acme");
}

/// `docs/tokens.md`, word for word: discovery, a token, a call with it, and its end.
#[test]
fn documented_clients_get_use_and_revoke_a_token() {
    let Some(python) = python(&["authlib", "requests"]) else { return };
    let Some((node, modules)) = node_with(&["oauth4webapi", "undici"]) else { return };
    let gate = setup().set("routes.api.hosts", json!([HOST, "localhost"])).start();
    // The port is known now, and who discovers compares the issuer with where it looked.
    let issuer = format!("https://localhost:{}", gate.address().port());
    let mut config = gate.config().clone();
    config["tokens"]["issuer"] = json!(issuer);
    fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.reload();
    await_some("the new issuer", || {
        let state: Value = serde_json::from_str(&gate.cli(&["token", "keys", "--output", "json"]).ok()).unwrap();
        (state["issuer"] == issuer.as_str()).then_some(())
    });
    let url = format!("{issuer}/items/7");
    let settings = [
        ("ISSUER", issuer.as_str()),
        ("CLIENT_ID", "acme"),
        ("SCOPE", "items.read"),
        ("URL", &url),
        ("URL_TO_CALL", &url),
        ("CERTIFICATE", gate.acme.chain_file.to_str().unwrap()),
        ("KEY", gate.acme.key_file.to_str().unwrap()),
        ("SERVER_CA", gate.server_ca.pem_file.to_str().unwrap()),
    ];
    let folder = gate.dir.path();
    symlink(modules, folder.join("node_modules")).unwrap();
    let set = |keyword: &str, but: &str| -> String {
        let settings = settings.iter().filter(|(name, _)| *name != but);
        settings.map(|(name, value)| format!("{keyword}{name} = {}\n", json!(value))).collect()
    };
    let in_python = format!(
        "{}{}\nagain = session.get(URL)\nprint(answer.status_code, again.status_code, session.token['scope'])\n",
        set("", ""),
        block(TOKENS, "python", "from authlib")
    );
    fs::write(folder.join("client.py"), in_python).unwrap();
    let in_node = format!(
        "{}{}\nconst again = await fetch(URL_TO_CALL, {{ dispatcher, headers: {{ authorization: `Bearer ${{token}}` }} }});\n\
         console.log(answer.status, again.status, \"items.read\");\n",
        set("const ", "URL"),
        block(TOKENS, "js", "import { readFileSync } from \"node:fs\";\nimport * as oauth")
    );
    fs::write(folder.join("client.mjs"), in_node).unwrap();
    let in_shell = block(TOKENS, "sh", "curl --cert");
    for mut command in [
        [python.as_os_str(), folder.join("client.py").as_os_str()].map(ToOwned::to_owned),
        [node.as_os_str(), folder.join("client.mjs").as_os_str()].map(ToOwned::to_owned),
    ]
    .map(|[program, script]| {
        let mut command = Command::new(program);
        command.arg(script).env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
        command
    }) {
        let said = run(&mut command, b"").ok();
        assert_eq!(said.trim(), "200 401 items.read");
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{} --silent --noproxy '*'", in_shell.trim())]).envs(settings);
    let said: Value = serde_json::from_str(&run(&mut shell, b"").ok()).unwrap();
    assert_eq!(said["scope"], "items.read");
    let revoked = gate.cli(&["history", "tokens"]).ok();
    assert_eq!(revoked.matches("an access token of acme").count(), 2, "{revoked}");
}
