//! What the admin API answers, against the schemas of its OpenAPI document: each call once, and once as a dry run where it
//! has one.

use crate::harness::{Gate, HOST, copy_folder, python, run};
use crate::issue::{Client, URI, onboard, with_ca};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Calls that a gateway with a CA of its own, and operators, has no good answer to.
const ELSEWHERE: &[&str] = &[
    "post /v1/bootstrap",
    "post /v1/ca/order",
    "put /v1/ca/list",
    "post /v1/partners/{id}/credentials/{credential}/order",
];

/// In: a document, and answers as `[method, path, answer]`. Out: what is not as the document says, and the calls that had no
/// answer.
const JUDGE: &str = r#"
import json, re, sys
import jsonschema_rs
document, answers = json.load(open(sys.argv[1])), json.load(open(sys.argv[2]))
calls = {}
for path, item in document["paths"].items():
    pattern = re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path))
    for method, operation in item.items():
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        calls[f"{method} {path}"] = (method, pattern, jsonschema_rs.Draft202012Validator(schema))
left = set(calls)
for method, path, answer in answers:
    fits = [name for name, (its, pattern, _) in calls.items() if its == method.lower() and pattern.fullmatch(path.split("?")[0])]
    # A word is nearer than a parameter.
    name = min(fits, key=lambda name: name.count("{"))
    left.discard(name)
    for error in calls[name][2].iter_errors(answer):
        print(f"{name}: {error.message} at {list(error.instance_path)} in {json.dumps(answer)[:2000]}")
for name in sorted(left):
    print(f"unanswered {name}")
"#;

/// Who calls, and what was answered.
struct Calls {
    gate: Gate,
    answers: Vec<Value>,
}

impl Calls {
    /// As the user of the socket, or as the second operator.
    #[track_caller]
    fn by(&mut self, second: bool, method: &str, path: &str, body: &Value) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-w", "\n%{http_code}", "-X", method, "--unix-socket"]);
        curl.arg(self.gate.dir.path().join("state/admin.sock")).arg(format!("http://admin{path}"));
        if second {
            let token = fs::read_to_string(self.gate.dir.path().join("second.token")).unwrap();
            curl.arg("-H").arg(format!("Authorization: Bearer {}", token.trim()));
        }
        match body {
            Value::Null => {}
            // A form.
            Value::String(form) => drop(curl.args(["-d", form])),
            body => drop(curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()])),
        }
        let said = run(&mut curl, b"").ok();
        let (answer, status) = said.rsplit_once('\n').unwrap();
        assert_eq!(status, "200", "{method} {path}: {answer}");
        let answer: Value = serde_json::from_str(answer).unwrap();
        self.answers.push(json!([method, path, answer]));
        answer
    }

    #[track_caller]
    fn get(&mut self, path: &str) -> Value {
        self.by(false, "GET", path, &Value::Null)
    }

    #[track_caller]
    fn call(&mut self, method: &str, path: &str, body: &Value) -> Value {
        self.by(false, method, path, body)
    }

    /// First only to see what it would come to.
    #[track_caller]
    fn twice(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let dry = self.by(false, method, &format!("{path}?dry_run=true"), body);
        assert_eq!(dry["changed"], false, "{dry}");
        self.by(false, method, path, body)
    }

    fn lists(&mut self) {
        for list in ["partners", "grants", "credentials", "networks", "anchors", "operators", "usage", "approvals"] {
            self.get(&format!("/v1/{list}"));
            self.get(&format!("/v1/{list}?limit=1"));
        }
        for list in ["certificates", "enrolments"] {
            self.get(&format!("/v1/{list}?partner=initech"));
            self.get(&format!("/v1/{list}?partner=initech&limit=1"));
        }
        for path in [
            "/v1/approvals?all=true",
            "/v1/credentials?partner=acme",
            "/v1/partners/initech",
            "/v1/partners/initech/kit",
            "/v1/partners/initech/credentials/initech-1",
            "/v1/anchors/partners-ca",
            "/v1/networks/loopback",
            "/v1/operators/second",
            "/v1/ca",
            "/v1/status",
            "/v1/history",
            "/v1/audit",
            "/v1/openapi.json",
        ] {
            self.get(path);
        }
    }
}

fn why() -> Value {
    json!({"reason": "it is to be seen"})
}

fn registry(calls: &mut Calls) {
    let cidrs = json!({"set": {"cidrs": ["192.0.2.0/24"]}});
    calls.twice("PUT", "/v1/networks/office", &cidrs);
    calls.call("PATCH", "/v1/networks/office", &json!({"set": {"cidrs": ["192.0.2.0/25"]}}));
    calls.twice("DELETE", "/v1/networks/office", &Value::Null);
    let certificate = fs::read_to_string(&calls.gate.server_ca.pem_file).unwrap();
    let anchor = json!({"set": {"certificate": certificate, "partners": ["acme"]}});
    calls.twice("PUT", "/v1/anchors/other", &anchor);
    calls.call("PATCH", "/v1/anchors/other", &json!({"set": {"max_lifetime": "400d"}}));
    let serial = json!({"serial": "0102", "reason": "it was lost"});
    calls.twice("POST", "/v1/anchors/other/deny", &serial);
    calls.get("/v1/anchors/other");
    calls.twice("POST", "/v1/anchors/other/undeny", &serial);
    calls.call("DELETE", "/v1/anchors/other", &Value::Null);
    let partner = json!({"set": {
        "name": "Umbrella", "owner": "sales", "networks": ["loopback"], "engagement": {"ends": "2099-01-01T00:00:00Z"},
    }});
    calls.twice("PUT", "/v1/partners/umbrella", &partner);
    calls.call("PATCH", "/v1/partners/initech", &json!({"set": {"review_every": "90d"}}));
    calls.twice("POST", "/v1/partners/initech/review", &why());
    let credential = json!({"set": {"anchor": "partners-ca", "match": {"dns": "erp.initech.example"}}});
    calls.twice("PUT", "/v1/partners/initech/credentials/initech-2", &credential);
    let labels = json!({"set": {"labels": {"tier": "gold"}}});
    calls.call("PATCH", "/v1/partners/initech/credentials/initech-2", &labels);
    let rotate = json!({"successor": "initech-3", "match": {"dns": "new.initech.example"}});
    calls.twice("POST", "/v1/partners/initech/credentials/initech-2/rotate", &rotate);
    calls.lists();
    calls.twice("POST", "/v1/partners/initech/credentials/initech-2/revoke", &why());
    let ends = "2098-01-01T00:00:00Z";
    let grant = json!({"set": {"owner": "sales", "operations": ["items.read"], "ends": ends}});
    calls.twice("PUT", "/v1/partners/initech/grants/initech-read", &grant);
    calls.call("PATCH", "/v1/grants/initech-read", &json!({"set": {"owner": "items-team"}}));
    calls.twice("POST", "/v1/grants/initech-read/revoke", &why());
    calls.get("/v1/grants/initech-read");
    let emergency = json!({"operations": ["items.delete"], "for_s": 600, "reason": "an incident", "ticket": "INC-1"});
    calls.twice("POST", "/v1/partners/initech/grants/initech-911/emergency", &emergency);
    calls.get("/v1/status");
    calls.get("/v1/grants/initech-911");
    calls.by(true, "POST", "/v1/grants/initech-911/review?dry_run=true", &why());
    calls.by(true, "POST", "/v1/grants/initech-911/review", &why());
    let exported = calls.get("/v1/export");
    calls.call("POST", "/v1/apply", &json!({"files": exported["files"], "dry_run": true}));
}

fn certificates(calls: &mut Calls) {
    let client = Client::new(&calls.gate, "initech");
    client.csr("key.pem", "/CN=x", URI);
    let csr = fs::read_to_string(client.path("csr.pem")).unwrap();
    let of = "/v1/partners/initech/credentials/initech-1";
    calls.twice("POST", &format!("{of}/issue"), &json!({"csr": csr, "reason": "the first one"}));
    calls.call("POST", &format!("{of}/issue"), &json!({"csr": csr, "reason": "another one"}));
    let code = json!({"for_s": 600, "reason": "the first one"});
    calls.twice("POST", &format!("{of}/enrolment"), &code);
    calls.lists();
    calls.twice("POST", &format!("{of}/enrolment/void"), &why());
}

fn operators(calls: &mut Calls) {
    let operator = json!({"name": "carol", "roles": ["viewer"], "certificate": "subject=CN=carol,O=Example"});
    calls.twice("POST", "/v1/operators", &operator);
    calls.twice("PUT", "/v1/operators/carol/roles", &json!({"roles": ["auditor"], "reason": "x"}));
    let made = calls.twice("POST", "/v1/operators/carol/tokens", &json!({}));
    let token = made["tokens"][0]["id"].as_str().unwrap();
    calls.twice("DELETE", &format!("/v1/operators/carol/tokens/{token}"), &why());
    calls.twice("POST", "/v1/operators/carol/disable", &why());
    calls.get("/v1/operators/carol");
    calls.twice("POST", "/v1/operators/carol/enable", &why());
}

fn approvals(calls: &mut Calls) {
    let mut config: Value = serde_json::from_str(&fs::read_to_string(calls.gate.config_file()).unwrap()).unwrap();
    config["approval"]["four_eyes"] = "required".into();
    fs::write(calls.gate.config_file(), config.to_string()).unwrap();
    calls.call("POST", "/v1/reload", &Value::Null);
    let ask = json!({"set": {"owner": "x", "operations": ["items.delete"], "ends": "2098-01-01T00:00:00Z"}});
    for (verdict, second) in [("approve", true), ("reject", true), ("withdraw", false)] {
        let asked = calls.call("PUT", &format!("/v1/partners/acme/grants/acme-{verdict}"), &ask);
        let of = format!("/v1/approvals/{}", asked["approval"].as_str().unwrap());
        calls.lists();
        calls.get(&of);
        calls.by(second, "POST", &format!("{of}/{verdict}?dry_run=true"), &why());
        calls.by(second, "POST", &format!("{of}/{verdict}"), &why());
        calls.get(&of);
    }
    calls.call("PUT", "/v1/operators/carol/roles", &json!({"roles": ["operator"], "reason": "x"}));
    calls.lists();
}

fn policy(calls: &mut Calls) {
    let seen = calls.get("/v1/policy/candidate");
    let promotion = json!({"revision": seen["candidate"]["revision"], "reason": "x"});
    calls.twice("POST", "/v1/policy/candidate/promote", &promotion);
    calls.get("/v1/policy/candidate");
    calls.get("/v1/status");
    calls.twice("POST", "/v1/policy/candidate/rollback", &why());
    calls.call("POST", "/v1/policy/explain", &json!({"partner": "acme", "method": "GET", "path": "/items"}));
    let observed = json!({"set": {"observe": {"x-a": "2098-01-01T00:00:00Z"}}});
    calls.call("PATCH", "/v1/partners/globex", &observed);
    calls.get("/v1/status");
}

fn ends(calls: &mut Calls) {
    calls.twice("POST", "/v1/partners/acme/suspend", &why());
    calls.twice("POST", "/v1/partners/acme/resume", &why());
    calls.call("POST", "/v1/partners/acme/suspend", &why());
    calls.twice("POST", "/v1/lockdown/on", &why());
    calls.get("/v1/status");
    calls.twice("POST", "/v1/lockdown/off", &why());
    calls.call("POST", "/v1/partners/globex/offboard", &json!({"reason": "x", "at": "2098-01-01T00:00:00Z"}));
    calls.twice("POST", "/v1/partners/initech/offboard", &why());
    calls.get("/v1/partners/initech/report");
    calls.get("/v1/status");
}

fn keys(calls: &mut Calls) {
    let form = ["--data", "grant_type=client_credentials&client_id=acme"];
    let issued = calls.gate.curl(Some(&calls.gate.acme), "/oauth2/token", &form);
    let token = issued.expect(200).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(calls.call("POST", "/oauth2/introspect", &json!(format!("token={token}")))["active"], true);
    calls.call("POST", "/oauth2/introspect", &json!("token=none"));
    let id = calls.get("/v1/token/keys")["keys"][0]["id"].as_str().unwrap().to_owned();
    calls.call("POST", "/v1/token/keys", &json!({"reason": "x"}));
    calls.twice("POST", &format!("/v1/token/keys/{id}/withdraw"), &why());
}

/// By the second operator, where it waits.
fn approve(calls: &mut Calls, asked: &Value) {
    if let Some(id) = asked["approval"].as_str() {
        calls.by(true, "POST", &format!("/v1/approvals/{id}/approve"), &why());
    }
}

fn api_keys(calls: &mut Calls) {
    let sha256 = calls.gate.acme.fingerprint();
    let key =
        json!({"grants": ["acme-items"], "bound_to": {"fingerprint_sha256": sha256}, "operations": ["items.read"]});
    let path = "/v1/partners/acme/api-keys/acme-batch";
    let dry = calls.call("PUT", &format!("{path}?dry_run=true"), &key);
    assert!(dry["api_key"].is_null(), "{dry}");
    let made = calls.call("PUT", path, &key);
    assert!(made["api_key"].as_str().unwrap().starts_with("pgk_"), "{made}");
    approve(calls, &made);
    let used = format!("X-API-Key: {}", made["api_key"].as_str().unwrap());
    calls.gate.curl(Some(&calls.gate.acme), "/items/7", &["-H", &used]).expect(200);
    calls.call("PATCH", path, &json!({"set": {"networks": ["loopback"]}}));
    let rotated = calls.call("POST", &format!("{path}/rotate"), &json!({"successor": "acme-batch-2", "overlap": "1d"}));
    approve(calls, &rotated);
    calls.get("/v1/api-keys");
    calls.call("POST", "/v1/api-keys/find", &json!({"api_key": made["api_key"]}));
    calls.get("/v1/api-keys?limit=1");
    let of_one = calls.get("/v1/api-keys?partner=acme");
    assert_eq!(of_one["api_keys"][0]["usage"][0]["count"], 1, "{of_one}");
    calls.twice("POST", "/v1/partners/acme/credentials/acme-batch/revoke", &why());
    calls.get("/v1/api-keys?partner=acme");
}

#[test]
fn every_answer_is_as_its_schema_says() {
    let Some(python) = python(&["jsonschema_rs"]) else { return };
    let (setup, policies) = with_ca(false).own_policies();
    let next = setup.dir.path().join("next");
    fs::write(policies.join("reasons.yaml"), "reasons:\n  x-a: \"A\"\n").unwrap();
    copy_folder(&policies, &next);
    fs::write(next.join("custom/data.yaml"), "limit: 1\n").unwrap();
    let secret = setup.token_secret();
    let tokens =
        json!({"issuer": format!("https://{HOST}"), "secret": secret, "authorization_server": {}, "api_keys": {}});
    let gate = setup.set("policy.candidate", json!({"dir": next})).set("tokens", tokens).start();
    onboard(&gate);
    crate::grants::answer(&gate, "GET", "/items");
    let mut calls = Calls { gate, answers: Vec::new() };
    for part in [registry, certificates, operators, approvals, policy, keys, api_keys, ends] {
        part(&mut calls);
    }
    let (document, answers) = (calls.get("/v1/openapi.json"), Value::from(calls.answers));
    let folder = calls.gate.dir.path();
    let (document_file, answers_file) = (folder.join("openapi.json"), folder.join("answers.json"));
    fs::write(&document_file, document.to_string()).unwrap();
    fs::write(&answers_file, answers.to_string()).unwrap();
    let mut judge = Command::new(&python);
    let found = run(judge.args(["-c", JUDGE]).arg(document_file).arg(answers_file), b"").ok();
    let mut unanswered = Vec::new();
    for line in found.lines() {
        unanswered.push(line.strip_prefix("unanswered ").unwrap_or_else(|| panic!("{line}")));
    }
    assert!(unanswered.iter().all(|call| ELSEWHERE.contains(call)), "{unanswered:?}");
}
