//! Decisions that go to somebody elsewhere in the form of OPA's decision log: every one arrives, at least once and in
//! order, whatever becomes of the server, the connection and the gateway; what cannot wait any longer is counted.

use crate::harness::{Gate, Identity, Process, Setup, await_some};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GOOD: &str = "GET /items HTTP/1.1\r\nHost: api.partner.test\r\n\r\n";
/// Fields of an event, and which of them always are: `EventV1` in `v1/plugins/logs/plugin.go` of OPA.
const FIELDS: &[&str] = &[
    "labels",
    "decision_id",
    "trace_id",
    "span_id",
    "revision",
    "bundles",
    "path",
    "query",
    "input",
    "result",
    "mapped_result",
    "nd_builtin_cache",
    "erased",
    "masked",
    "error",
    "requested_by",
    "timestamp",
    "metrics",
    "req_id",
    "request_context",
];
const ALWAYS: &[&str] = &["labels", "decision_id", "timestamp"];

/// A web server that keeps what it is given, one batch a line, and answers as the file `mode` says.
const COLLECTOR: &str = r#"
import gzip, http.server, json, os, ssl, sys
folder, port, token = sys.argv[1], int(sys.argv[2]), sys.argv[3]

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(os.path.join(folder, "mode")) as file:
            mode = file.read().split()
        keep, status = True, 200
        if mode[0] == "refuse":
            keep, status = False, int(mode[1])
        elif mode[0] == "keep-and-refuse":
            status = int(mode[1])
        elif mode[0] == "at-most" and len(body) > int(mode[1]):
            keep, status = False, 413
        if token and self.headers.get("Authorization") != "Bearer " + token:
            keep, status = False, 401
        if keep:
            assert self.headers["Content-Encoding"] == "gzip"
            events = json.loads(gzip.decompress(body))
            batch = {"path": self.path, "type": self.headers["Content-Type"], "size": len(body), "events": events}
            with open(os.path.join(folder, "batches"), "a") as file:
                file.write(json.dumps(batch) + "\n")
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    context.load_verify_locations(sys.argv[6])
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Collector {
    folder: PathBuf,
    process: Option<Process>,
    port: u16,
    /// More arguments: token, then certificate, key and the CA of clients.
    more: Vec<String>,
}

impl Collector {
    #[track_caller]
    fn start(dir: &Path, more: &[&str]) -> Self {
        let folder = dir.join("collector");
        fs::create_dir(&folder).unwrap();
        let more = if more.is_empty() { vec![String::new()] } else { more.iter().map(|m| (*m).to_owned()).collect() };
        let mut collector = Collector { folder, process: None, port: 0, more };
        collector.answer("take");
        collector.begin();
        collector
    }

    /// Starts it, after a stop on the same port.
    #[track_caller]
    fn begin(&mut self) {
        let mut command = Command::new("python3");
        command.args(["-c", COLLECTOR]).arg(&self.folder).arg(self.port.to_string()).args(&self.more);
        let mut process = Process::start(&mut command, &self.folder, "run");
        self.port = process.await_output("a port", |p| p.out().trim().parse().ok());
        self.process = Some(process);
    }

    fn stop(&mut self) {
        self.process = None;
    }

    fn answer(&self, mode: &str) {
        crate::harness::put(&self.folder.join("mode"), mode.as_bytes());
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/logs", self.port)
    }

    fn batches(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("batches")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn events(&self) -> Vec<Value> {
        self.batches().iter().flat_map(|batch| batch["events"].as_array().unwrap().clone()).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.events().iter().map(|event| event["decision_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until these have arrived.
    #[track_caller]
    fn await_ids(&self, ids: &[String]) {
        await_some("all decisions", || {
            let there: HashSet<String> = self.ids().into_iter().collect();
            ids.iter().all(|id| there.contains(id)).then_some(())
        });
    }
}

fn setup(collector: &Collector, setup: Setup, more: &Value) -> Setup {
    let mut upload = json!({"url": collector.url("http"), "interval": "50ms"});
    upload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    setup.set("record.upload", upload)
}

/// Requests one after another; the id of each.
#[track_caller]
fn ask(gate: &Gate, n: usize) -> Vec<String> {
    let mut conn = gate.dial().identity(&gate.acme).open();
    (0..n).map(|_| conn.request(GOOD).expect(200).id().to_owned()).collect()
}

/// Waits until nothing waits any more.
#[track_caller]
fn await_empty(gate: &Gate) {
    gate.await_metric("partnergate_record_spool_bytes", 0.0);
    gate.await_metric("partnergate_record_sink_lag_seconds{sink=\"upload\"}", 0.0);
}

#[test]
fn every_decision_arrives_in_the_form_of_opa_s_decision_log() {
    let base = Setup::new();
    let collector = Collector::start(base.dir.path(), &[]);
    let gate = setup(&collector, base, &json!({"labels": {"team": "api"}})).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let allowed = conn.request("GET /items/7?page=2 HTTP/1.1\r\nHost: api.partner.test\r\n\r\n");
    let denied = conn.request("DELETE /items/7 HTTP/1.1\r\nHost: api.partner.test\r\n\r\n");
    let (allowed, denied) = (allowed.expect(200).id().to_owned(), denied.expect(403).id().to_owned());
    gate.dial()
        .identity(&gate.acme)
        .open()
        .request("EVIL /items HTTP/1.1\r\nHost: api.partner.test\r\nContent-Length: x\r\n\r\n");
    let _ = gate.dial().refused();
    let many = ask(&gate, 40);
    let decisions = ["request", "stream-cut", "malformed", "handshake"];
    await_some("one event for each record", || {
        let records = gate.records();
        let wanted = records.iter().filter(|r| decisions.iter().any(|kind| r["kind"] == *kind)).count();
        (wanted >= 44 && collector.events().len() == wanted).then_some(())
    });
    collector.await_ids(&many);
    let events = collector.events();
    for batch in collector.batches() {
        assert_eq!((&batch["path"], &batch["type"]), (&json!("/logs"), &json!("application/json")));
    }
    let mut before = 0;
    for event in &events {
        let fields = event.as_object().unwrap();
        assert!(fields.keys().all(|field| FIELDS.contains(&field.as_str())), "{event}");
        assert!(ALWAYS.iter().all(|field| fields.contains_key(*field)), "{event}");
        assert!(event["labels"].as_object().unwrap().values().all(Value::is_string), "{event}");
        let time = event["timestamp"].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{event}");
        assert!(event["path"].as_str().unwrap().starts_with("partnergate/"), "{event}");
        if let Some(bundles) = event.get("bundles") {
            assert!(bundles.as_object().unwrap().values().all(|b| b["revision"].is_string()), "{event}");
        }
        if let Some(metrics) = event.get("metrics") {
            assert!(metrics.as_object().unwrap().values().all(Value::is_u64), "{event}");
        }
        assert!(event["req_id"].as_u64().unwrap() > before, "in the order of the records: {event}");
        before = event["req_id"].as_u64().unwrap();
        for pointer in event["masked"].as_array().into_iter().flatten() {
            assert!(event.pointer(pointer.as_str().unwrap()).is_some(), "{pointer} points nowhere: {event}");
        }
    }
    let of = |id: &str| events.iter().find(|e| e["decision_id"] == id).unwrap();
    let (allowed, denied) = (of(&allowed), of(&denied));
    assert_eq!((&allowed["labels"]["team"], &allowed["labels"]["environment"]), (&json!("api"), &json!("test")));
    assert_eq!((&allowed["result"]["allow"], &allowed["result"]["grant"]), (&json!(true), &json!("acme-items")));
    assert_eq!(allowed["input"]["partner"]["id"], "acme");
    let record = gate.record_of(allowed["decision_id"].as_str().unwrap());
    assert_eq!(allowed["bundles"]["policy"]["revision"], record["snapshot"]["policy"]);
    assert_eq!(allowed["input"], record["input"], "as the record has it");
    let masked = json!([
        "/input/request/query/page/0",
        "/input/request/params/id",
        "/input/request/segments/1",
        "/input/request/path"
    ]);
    assert_eq!(allowed["masked"], masked);
    assert_eq!(
        (&denied["result"]["allow"], &denied["result"]["reasons"][0]),
        (&json!(false), &json!("operation-not-granted"))
    );
    assert_eq!(denied["result"]["outcome"]["status"], 403);
    await_empty(&gate);
}

#[test]
fn every_decision_arrives_over_errors_outages_and_kills() {
    let base = Setup::new();
    let mut collector = Collector::start(base.dir.path(), &[]);
    let mut gate = setup(&collector, base, &json!({"batch_size": "8KiB"})).start();
    collector.answer("refuse 500");
    let mut ids = ask(&gate, 20);
    await_some("an error", || {
        (gate.metric("partnergate_record_sink_errors_total{sink=\"upload\"}") > 0.0).then_some(())
    });
    assert!(gate.metric("partnergate_record_sink_lag_seconds{sink=\"upload\"}") > 0.0);
    gate.await_log("decisions cannot be uploaded");
    collector.stop();
    ids.extend(ask(&gate, 20));
    // What is in the file was in the spool before it.
    gate.record_of(ids.last().unwrap());
    gate.restart("KILL");
    assert!(gate.metric("partnergate_record_spool_bytes") > 0.0, "what waited is there again");
    ids.extend(ask(&gate, 20));
    collector.answer("take");
    collector.begin();
    collector.await_ids(&ids);
    await_empty(&gate);
    // In order, each at least once; here nothing was lost on its way, and so exactly once.
    let there: Vec<String> = collector.ids().into_iter().filter(|id| ids.contains(id)).collect();
    assert_eq!(there, ids);
    assert_eq!(gate.metric("partnergate_record_sink_dropped_total{sink=\"upload\"}"), 0.0);
    // An orderly end sends what is there; nothing of it comes again.
    let last = ask(&gate, 5);
    gate.restart("TERM");
    collector.await_ids(&last);
    await_empty(&gate);
    let ids = collector.ids();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
}

#[test]
fn decision_whose_answer_was_lost_arrives_again_with_the_same_id() {
    let base = Setup::new();
    let collector = Collector::start(base.dir.path(), &[]);
    let gate = setup(&collector, base, &json!({})).start();
    collector.answer("keep-and-refuse 503");
    let ids = ask(&gate, 3);
    collector.await_ids(&ids);
    collector.answer("take");
    await_empty(&gate);
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for id in collector.ids() {
        *times.entry(id).or_default() += 1;
    }
    assert!(ids.iter().all(|id| times[id] >= 2), "{times:?}");
}

#[test]
fn batches_are_as_small_as_the_server_takes_them() {
    let base = Setup::new();
    let collector = Collector::start(base.dir.path(), &[]);
    let gate = setup(&collector, base, &json!({"interval": "300ms"})).start();
    collector.answer("at-most 4096");
    let ids = ask(&gate, 60);
    collector.await_ids(&ids);
    await_empty(&gate);
    assert!(collector.batches().iter().all(|batch| batch["size"].as_u64().unwrap() <= 4096));
    // One that is too large by itself is dropped, and the next are not held up by it.
    collector.answer("at-most 100");
    ask(&gate, 1);
    await_some("a dropped one", || {
        (gate.metric("partnergate_record_sink_dropped_total{sink=\"upload\"}") >= 1.0).then_some(())
    });
    collector.answer("take");
    collector.await_ids(&ask(&gate, 1));
}

#[test]
fn oldest_decisions_are_dropped_and_counted_when_the_spool_is_full() {
    let base = Setup::new();
    let mut collector = Collector::start(base.dir.path(), &[]);
    let gate = setup(&collector, base, &json!({"spool_size": "64KiB"})).start();
    collector.stop();
    let ids = ask(&gate, 150);
    gate.record_of(ids.last().unwrap());
    let dropped = gate.metric("partnergate_record_sink_dropped_total{sink=\"upload\"}");
    assert!(dropped > 0.0 && dropped < 150.0, "{dropped}");
    assert!(gate.metric("partnergate_record_spool_bytes") <= 65536.0);
    collector.begin();
    collector.await_ids(&ids[140..]);
    await_empty(&gate);
    let there: Vec<String> = collector.ids().into_iter().filter(|id| ids.contains(id)).collect();
    assert_eq!(there, ids[dropped as usize..], "the newest, in order");
}

#[test]
fn requests_are_denied_while_the_spool_has_no_room_where_the_config_says_so() {
    let base = Setup::new();
    let mut collector = Collector::start(base.dir.path(), &[]);
    let gate = setup(&collector, base, &json!({"spool_size": "64KiB", "on_failure": "deny"})).start();
    collector.stop();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let mut allowed = Vec::new();
    let denied = loop {
        let answer = conn.request(GOOD);
        if answer.status != 200 {
            break answer;
        }
        allowed.push(answer.id().to_owned());
        assert!(allowed.len() < 500, "the spool has a bound");
    };
    denied.expect(503);
    assert_eq!(denied.code(), "unavailable");
    // A denial is in the file all the same, and takes nobody's place in the spool.
    let record = gate.record_of(denied.id());
    assert_eq!(record["reason"], "record-unavailable", "{record}");
    for _ in 0..100 {
        conn.request(GOOD).expect(503);
    }
    assert!(gate.metric("partnergate_record_sink_dropped_total{sink=\"upload\"}") > 0.0);
    collector.begin();
    await_some("room", || (conn.request(GOOD).status == 200).then_some(()));
    collector.await_ids(&allowed);
}

#[test]
fn server_is_verified_and_told_who_comes() {
    let base = Setup::new();
    let ca = base.pki.authority("collector-ca");
    let server: Identity = base.pki.server(&ca, "collector", &["localhost", "127.0.0.1"]);
    let client = base.pki.client(&base.acme_ca, "gateway", |_| {});
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    let more =
        ["t0ken-of-the-upload", &file(&server.chain_file), &file(&server.key_file), &file(&base.acme_ca.pem_file)];
    let collector = Collector::start(base.dir.path(), &more);
    let token = base.dir.path().join("upload.token");
    let write = |text: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::write(&token, text).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("t0ken-of-nobody\n");
    let upload = json!({
        "url": collector.url("https"),
        "interval": "50ms",
        "ca": ca.pem_file,
        "token": format!("file:{}", token.display()),
        "client_chain": client.chain_file,
        "client_key": format!("file:{}", client.key_file.display()),
    });
    let mut gate = base.set("record.upload", upload).set("log.level", "debug").start();
    let ids = ask(&gate, 3);
    gate.await_log("answered 401");
    assert_eq!(collector.events().len(), 0);
    let without_token = |gate: &Gate| {
        let text = gate.log() + &gate.metrics() + &gate.records_text();
        assert!(!text.contains("t0ken"), "the token is shown");
    };
    without_token(&gate);
    gate.stop("TERM");
    write("t0ken-of-the-upload\n");
    gate.begin();
    collector.await_ids(&ids);
    without_token(&gate);
}

#[test]
fn server_under_another_ca_gets_nothing() {
    let base = Setup::new();
    let ca = base.pki.authority("collector-ca");
    let server = base.pki.server(&ca, "collector", &["127.0.0.1"]);
    let file = |path: &Path| path.to_str().unwrap().to_owned();
    let more = ["", &file(&server.chain_file), &file(&server.key_file), &file(&base.acme_ca.pem_file)];
    let collector = Collector::start(base.dir.path(), &more);
    let other = base.server_ca.pem_file.clone();
    let upload = json!({"url": collector.url("https"), "interval": "50ms", "ca": other});
    let gate = base.set("record.upload", upload).start();
    ask(&gate, 1);
    gate.await_log("decisions cannot be uploaded");
    assert!(gate.log().contains("UnknownIssuer"), "{}", gate.log());
    assert_eq!(collector.batches().len(), 0);
}

#[test]
fn upload_that_cannot_be_meant_is_refused_with_its_place() {
    let token = |setup: &Setup, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = setup.dir.path().join("token");
        fs::write(&path, "a b").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        format!("file:{}", path.display())
    };
    let base = Setup::new();
    let (open, odd) = (token(&base, 0o644), token(&base, 0o600));
    fs::set_permissions(base.dir.path().join("token"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut setup = base;
    for (upload, said) in [
        (json!({"url": "collector/logs"}), "is no URL of a server"),
        (json!({"url": "ftp://collector.test/logs"}), "is no URL of a server"),
        (json!({"url": "https://user:secret@collector.test/"}), "is no URL of a server"),
        (json!({"url": "https://collector.test/", "token": open}), "can be read by others"),
        (json!({"url": "https://collector.test/", "client_chain": "x.pem"}), "needs `client_key` beside it"),
        (json!({"url": "https://collector.test/", "ca": "none.pem"}), "does not exist"),
        (json!({"token": odd}), "`record.upload.url`: is required and missing"),
    ] {
        setup = setup.set("record.upload", upload);
        let (exit, log) = setup.start_expecting_failure();
        assert!(exit == Some(3) && log.contains(said) && log.contains("partnergate.yaml:"), "{said}: {log}");
    }
    let odd = token(&setup, 0o600);
    for (upload, said) in [
        (json!({"url": "https://collector.test/", "token": odd}), "holds no token"),
        (json!({"url": "http://collector.test/", "ca": "none.pem"}), "does not exist"),
    ] {
        setup = setup.set("record.upload", upload);
        let (exit, log) = setup.start_expecting_failure();
        assert!(exit == Some(3) && log.contains(said), "{said}: {log}");
    }
}

/// The place of everything in some documents.
fn pointers(documents: &[Value], at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let mut keys: Vec<&String> = documents.iter().filter_map(Value::as_object).flat_map(|o| o.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let below: Vec<Value> = documents.iter().filter_map(|document| document.get(key).cloned()).collect();
        pointers(&below, &format!("{at}/{key}"), found);
    }
    let items: Vec<Value> = documents.iter().filter_map(Value::as_array).flatten().cloned().collect();
    if !items.is_empty() {
        pointers(&items, &format!("{at}/0"), found);
    }
}

/// Masks hold in every sink, drops and masks of the result in the upload alone; what cannot be masked has no facts.
#[test]
fn rules_of_system_log_mask_records_and_leave_out_uploads() {
    let (base, folder) = Setup::new().own_policies();
    let collector = Collector::start(base.dir.path(), &[]);
    let rules = folder.join("system/log.rego");
    fs::create_dir(folder.join("system")).unwrap();
    let write = |more: &str| fs::write(&rules, format!("package system.log\n\nimport rego.v1\n\n{more}\n")).unwrap();
    write(
        r#"mask contains "/input/request/query/token"
mask contains {"op": "upsert", "path": "/input/source/ip", "value": "elsewhere"} if input.labels.team == "api"
mask contains "/result/outcome/upstream"
mask contains concat("/", ["", "nowhere", "at", "all"]) if input.input.request.operation == "items.create"
drop if input.input.request.operation == "items.list"
"#,
    );
    let include = json!({"query": ["token", "page"]});
    let base = base.set("record.include", include);
    let gate = setup(&collector, base, &json!({"labels": {"team": "api"}})).start();
    let mut conn = gate.dial().identity(&gate.acme).open();
    let mut call = |head: &str, body: &str| {
        conn.request(format!("{head} HTTP/1.1\r\nHost: api.partner.test\r\n{body}\r\n")).expect(200).id().to_owned()
    };
    let dropped = call("GET /items", "");
    let masked = call("GET /items/7?token=secret&page=2", "");
    let failed = call("POST /items", "Content-Length: 0\r\n");
    collector.await_ids(&[masked.clone(), failed.clone()]);
    await_empty(&gate);

    // In the file, all of them, with what was decided.
    let record = gate.record_of(&dropped);
    assert_eq!((&record["result"], &record["input"]["source"]["ip"]), (&json!("allow"), &json!("elsewhere")));
    let record = gate.record_of(&masked);
    assert_eq!(record["input"]["request"]["query"], json!({"page": ["2"]}), "{record}");
    assert_eq!(
        (&record["erased"], &record["masked"]),
        (&json!(["/input/request/query/token"]), &json!(["/input/source/ip"]))
    );
    assert!(record["upstream"]["address"].is_string() && record.get("result_masks").is_none(), "{record}");
    let record = gate.record_of(&failed);
    assert_eq!((&record["input"], &record["result"]), (&Value::Null, &json!("allow")), "{record}");
    let stub = json!({"failure": "wrong-form", "partner": "acme", "credential": "acme-client"});
    assert_eq!(record["mask_failed"], stub);
    assert!(!gate.records_text().contains("secret"));
    gate.await_log("`mask` has the path `/nowhere/at/all`");

    // Elsewhere, what was not dropped.
    let events = collector.events();
    let of = |id: &str| events.iter().find(|event| event["decision_id"] == id);
    assert!(of(&dropped).is_none());
    let event = of(&masked).unwrap();
    assert_eq!(event["input"]["request"]["query"], json!({"page": ["2"]}));
    assert_eq!(event["erased"], json!(["/input/request/query/token", "/result/outcome/upstream"]));
    assert!(event["masked"].as_array().unwrap().contains(&json!("/input/source/ip")), "{event}");
    assert_eq!((&event["result"]["allow"], &event["result"]["outcome"]["upstream"]), (&json!(true), &Value::Null));
    assert!(event.as_object().unwrap().keys().all(|field| FIELDS.contains(&field.as_str())), "{event}");
    assert_eq!(of(&failed).unwrap()["result"]["outcome"]["mask_failed"], stub);
    let count = |outcome: &str| gate.metric(&format!("partnergate_record_masks_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((count("masked"), count("dropped"), count("failed")), (2.0, 1.0, 1.0));

    assert!(gate.cli(&["status"]).ok().contains("  MASKS FAIL   1 records since the start have no facts"));

    // Signed as it stands there, and replayable where nothing that policy looks at was taken.
    assert!(gate.cli(&["audit", "verify"]).ok().contains("good: "));
    let said = gate.cli(&["policy", "explain", "--decision", &masked]).ok();
    assert!(said.contains("masked in the record, and so here: input.request.query.token, input.source.ip\n"), "{said}");

    // What there is can be masked, wherever it lies.
    let mut paths = Vec::new();
    for part in ["input", "result"] {
        pointers(
            &events.iter().map(|event| &event[part]).cloned().collect::<Vec<_>>(),
            &format!("/{part}"),
            &mut paths,
        );
    }
    assert!(paths.len() > 60 && paths.contains(&"/input/time/local/weekday".to_owned()), "{paths:?}");
    write(&paths.iter().map(|path| format!("mask contains {path:?}\n")).collect::<String>());
    gate.cli(&["policy", "check", folder.to_str().unwrap()]).ok();

    // A rule that cannot be used is refused with its place, and the one that is live stays.
    write("mask contains \"/input/tls\" if http.send({}).status == 1");
    let check = gate.cli(&["policy", "check", folder.to_str().unwrap()]);
    assert!(check.exit == Some(3) && check.stderr.contains("system/log.rego:5"), "{}", check.stderr);
    assert_eq!(gate.cli(&["reload"]).exit, Some(3));
    // One that is good is live with a reload.
    write("mask contains \"/input\"");
    gate.cli(&["reload"]).ok();
    let all = ask(&gate, 1);
    assert_eq!(gate.record_of(&all[0])["input"], Value::Null);
    collector.await_ids(&all);
}
