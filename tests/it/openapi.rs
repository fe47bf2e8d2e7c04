//! The admin API against its own OpenAPI document, by Schemathesis; pages, and changes of what somebody has seen.

use crate::grants::{answer, by_second, waits};
use crate::harness::{Gate, Setup, await_some, python, run};
use crate::issue::{Client, URI, code, issue, onboard, with_ca};
use serde_json::{Value, json};
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn admin_api_is_what_its_document_says() {
    let Some(python) = python(&["schemathesis"]) else { return };
    let setup = Setup::new();
    let server = setup.pki.server(&setup.server_ca, "admin", &["localhost"]);
    let gate = setup
        .set("admin.listen", vec!["127.0.0.1:0"])
        .set("admin.chain", server.chain_file.to_str().unwrap())
        .set("admin.key", format!("file:{}", server.key_file.display()))
        .start();
    let token = std::fs::read_to_string(gate.dir.path().join("second.token")).unwrap();
    let (status, document) = gate.admin("GET", "/v1/openapi.json", "");
    assert_eq!(status, 200);
    let parsed: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(parsed["openapi"], "3.1.0");
    let file = gate.dir.path().join("openapi.json");
    std::fs::write(&file, &document).unwrap();
    let out = File::create(gate.dir.path().join("schemathesis.log")).unwrap();
    // Each value at the bounds of each schema; at random as well where there is time for it.
    let deep = std::env::var_os("PARTNERGATE_TEST_DEEP").is_some();
    let checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
        "unsupported_method",
    ];
    let phases = if deep { "examples,coverage,fuzzing" } else { "examples,coverage" };
    let mut command = Command::new(python.with_file_name("schemathesis"));
    command
        .arg("run")
        .arg(&file)
        .args(["--url", &format!("https://localhost:{}", gate.admin_address().port())])
        .arg("--tls-verify")
        .arg(&gate.server_ca.pem_file)
        .args(["-H", &format!("Authorization: Bearer {}", token.trim())])
        // The last of several `--checks` would be all that is checked.
        .args(["--checks", &checks.join(",")])
        // Who disables itself sees no more of the API.
        .args(["--exclude-path-regex", "/v1/operators/\\{name\\}/(disable|roles)"])
        .args(["--phases", phases, "--max-examples", "20", "--no-shrink"])
        .args(["--seed", "1", "--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off"])
        .current_dir(gate.dir.path())
        .env("NO_PROXY", "localhost")
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out);
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(900);
    let status = await_end(&mut child, end);
    let log = std::fs::read_to_string(gate.dir.path().join("schemathesis.log")).unwrap();
    let tail: Vec<&str> = log.lines().rev().take(150).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(status.success(), "{tail}");
    let cases = log.lines().find(|line| line.contains("generated")).unwrap_or_else(|| panic!("{tail}"));
    let count: u32 = cases.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{cases}"));
    assert!(count > 300, "{cases}");
    // Most of it came further than to the question who calls.
    let calls = |result: &str| gate.metric(&format!("partnergate_admin_calls_total{{result=\"{result}\"}}"));
    let (known, unknown) = (calls("ok") + calls("failed"), calls("unrecognised"));
    assert!(known > 3.0 * unknown, "{known} calls of an operator, {unknown} of nobody");
    // Whatever it did, the gateway lives, and the history is whole.
    assert_eq!(gate.http("/healthz").0, 200);
    assert!(gate.cli(&["audit", "verify"]).ok().starts_with("good: "));
}

fn await_end(child: &mut std::process::Child, end: Instant) -> std::process::ExitStatus {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            return child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn json(gate: &Gate, path: &str) -> Value {
    let socket = gate.dir.path().join("state/admin.sock");
    let mut curl = Command::new("curl");
    curl.args(["-sf", "--noproxy", "*", "--unix-socket"]).arg(socket).arg(format!("http://admin{path}"));
    serde_json::from_str(&run(&mut curl, b"").ok()).unwrap()
}

/// All rows of a list, so many at a time. What is done between the pages may change the list.
fn paged(gate: &Gate, path: &str, limit: usize, mut between: impl FnMut(&Gate, &Value)) -> Vec<Value> {
    let (list, join) = (list_of(path), if path.contains('?') { '&' } else { '?' });
    let (mut rows, mut next) = (Vec::new(), String::new());
    loop {
        let after = if next.is_empty() { String::new() } else { format!("&after={next}") };
        let page = json(gate, &format!("{path}{join}limit={limit}{after}"));
        let those = page[list].as_array().unwrap_or_else(|| panic!("{page}"));
        assert!(those.len() <= limit, "{path}: {page}");
        rows.extend(those.iter().cloned());
        match &page["next"] {
            Value::String(more) => next.clone_from(more),
            last => {
                assert_eq!(last, &Value::Null);
                return rows;
            }
        }
        between(gate, rows.last().unwrap());
    }
}

fn list_of(path: &str) -> &str {
    path.trim_start_matches("/v1/").split('?').next().unwrap()
}

#[test]
fn lists_come_in_pages_that_miss_nothing() {
    let gate = with_ca(false).start();
    onboard(&gate);
    let client = Client::new(&gate, "initech");
    client.csr("key.pem", "/CN=x", URI);
    for n in 0..5 {
        gate.cli(&["network", "add", &format!("net-{n}"), "--cidr", "192.0.2.0/24"]).ok();
        gate.cli(&[
            "operator",
            "add",
            &format!("op-{n}"),
            "--role",
            "viewer",
            "--certificate",
            &format!("dns=op-{n}.example"),
        ])
        .ok();
        issue(&gate, &client, &format!("cert-{n}.pem")).ok();
        let (id, uri) = (format!("initech-new-{n}"), format!("uri=spiffe://initech.example/{n}"));
        gate.cli(&["credential", "add", "initech", &id, "--anchor", "partners-ca", "--match", &uri]).ok();
        code(&gate, &id);
    }
    for target in ["/items", "/items/1", "/items/1?x=y"] {
        assert_eq!(answer(&gate, "GET", target).status, 200, "{target}");
    }
    client.call(&gate, ("cert-0.pem", "key.pem"), "/items").expect(200);
    await_some("use is written", || {
        json(&gate, "/v1/credentials?partner=acme");
        (json(&gate, "/v1/usage")["usage"].as_array().unwrap().len() >= 3).then_some(())
    });
    let check = |path: &str, least: usize| {
        let list = list_of(path);
        let whole = json(&gate, path)[list].as_array().unwrap().clone();
        assert!(whole.len() >= least, "{path}: {whole:?}");
        assert_eq!(paged(&gate, path, 2, |_, _| ()), whole, "{path}");
        let join = if path.contains('?') { '&' } else { '?' };
        for wrong in ["limit=0", "limit=1001", "limit=2&after=Not%20a%20name"] {
            assert_eq!(gate.admin("GET", &format!("{path}{join}{wrong}"), "").0, 422, "{path}{join}{wrong}");
        }
    };
    for (path, least) in [
        ("/v1/partners", 3),
        ("/v1/grants", 3),
        ("/v1/credentials", 3),
        ("/v1/networks", 5),
        ("/v1/anchors", 2),
        ("/v1/operators", 5),
        ("/v1/certificates?partner=initech", 5),
        ("/v1/enrolments?partner=initech", 5),
        ("/v1/usage", 3),
    ] {
        check(path, least);
    }
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(gate.config_file()).unwrap()).unwrap();
    config["approval"]["four_eyes"] = "required".into();
    std::fs::write(gate.config_file(), config.to_string()).unwrap();
    gate.cli(&["reload"]).ok();
    let asked: Vec<String> = (0..5)
        .map(|n| {
            let id = format!("acme-more-{n}");
            let ask = ["grant", "request", "acme", &id, "--operation", "items.delete", "--owner", "x"];
            waits(&gate.cli(&[&ask[..], &["--ends", "2099-01-01T00:00:00Z"]].concat()).ok())
        })
        .collect();
    check("/v1/approvals", 5);
    check("/v1/approvals?all=true", 5);
    let ids = |rows: Vec<Value>| -> Vec<String> { rows.iter().map(|a| a["id"].as_str().unwrap().to_owned()).collect() };
    // What the next page begins behind is decided meanwhile.
    let rows = paged(&gate, "/v1/approvals", 2, |gate, last| {
        by_second(gate, &["approval", "reject", last["id"].as_str().unwrap(), "--reason", "x"]).ok();
    });
    assert_eq!(ids(rows), asked);
    let (all, newest) = (ids(paged(&gate, "/v1/approvals?all=true", 2, |_, _| ())), asked.into_iter().rev());
    assert_eq!(all, newest.collect::<Vec<_>>());
}

/// RFC 9110 section 13.1.1: what somebody has seen is changed as it was seen, or not at all.
#[test]
fn change_of_what_was_seen_fails_where_somebody_else_was_faster() {
    let gate = Gate::start();
    let call = |method: &str, path: &str, tag: Option<&str>, body: &str| -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(gate.dir.path().join("state/admin.sock")).unwrap();
        let tag = tag.map(|tag| format!("If-Match: {tag}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Type: application/json\r\n{tag}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    };
    for (path, body) in [
        ("/v1/partners/acme", r#"{"set": {"owner": "a"}}"#),
        ("/v1/networks/loopback", r#"{"set": {"cidrs": ["127.0.0.0/8", "::1/128"]}}"#),
        ("/v1/anchors/acme-ca", r#"{"set": {"max_lifetime": "400d"}}"#),
        ("/v1/grants/acme-items", r#"{"set": {"owner": "a"}}"#),
        ("/v1/partners/acme/credentials/acme-client", r#"{"set": {"labels": {"tier": "gold"}}}"#),
    ] {
        let (status, seen) = call("GET", path, None, "");
        assert_eq!(status, 200, "{path}");
        let tag = seen.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_else(|| panic!("{seen}")).trim();
        assert_eq!(call("PATCH", path, Some("\"0123\""), body).0, 412, "{path}");
        assert_eq!(call("PATCH", path, Some(tag), body).0, 200, "{path}");
        let (status, said) = call("PATCH", path, Some(tag), body);
        assert!(status == 412 && said.contains("has changed since it was looked at"), "{path}: {said}");
        assert_eq!(call("PATCH", path, Some("*"), body).0, 200, "{path}");
    }
    // What is seen has the keys and the forms that a change takes.
    let seen = |path: &str| serde_json::from_str::<Value>(&gate.admin("GET", path, "").1).unwrap();
    let partner = seen("/v1/partners/acme");
    assert_eq!(partner["partner"]["engagement"]["ends"], "2100-01-01T00:00:00Z", "{partner}");
    assert_eq!(partner["partner"]["grants"]["acme-items"], seen("/v1/grants/acme-items")["grant"], "{partner}");
    assert_eq!((&partner["state"], &partner["grants"]["acme-items"]["state"]), (&"active".into(), &"active".into()));
    let back = json!({"set": {"engagement": partner["partner"]["engagement"], "owner": partner["partner"]["owner"]}});
    let (status, said) = gate.admin("PATCH", "/v1/partners/acme", &back.to_string());
    assert!(status == 200 && said.contains("\"changed\":false"), "{status} {said}");
    // A switch takes no condition, and does not pretend to.
    let (status, said) = call("POST", "/v1/partners/acme/suspend", Some("\"0123\""), r#"{"reason": "x"}"#);
    assert!(status == 400 && said.contains("`If-Match` is for calls"), "{said}");
    await_some("nothing is left over", || gate.cli(&["status"]).ok().contains("revision").then_some(()));
}
