//! A gateway of a test's own: the built binary in a folder of its own, before a recording upstream.

use super::await_some;
use super::client::Dial;
use super::command::{Finished, Process, run};
use super::pki::{Authority, Identity, Pki};
use super::upstream::Upstream;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Bytes of records that are read.
const MAX_RECORDS: u64 = 256 << 20;

/// The host of the route `api`.
pub const HOST: &str = "api.partner.test";

/// The partners of [`Setup::new`]: `acme` may read, list and create items from loopback, `globex` only list them.
const REGISTRY: &str = r#"
environment: test
networks:
  loopback: {cidrs: [127.0.0.1/32, "::1/128"]}
anchors:
  acme-ca: {certificate: acme-ca.pem, partners: [acme]}
  globex-ca: {certificate: globex-ca.pem, partners: [globex]}
partners:
  acme:
    name: Acme GmbH
    owner: payments-team
    engagement: {starts: 2020-01-01T00:00:00Z, ends: 2100-01-01T00:00:00Z}
    networks: [loopback]
    credentials:
      acme-client: {anchor: acme-ca, match: {uri: "spiffe://acme.example/client"}}
    grants:
      acme-items: {owner: items-team, operations: [items.read, items.list, items.create, pairs.read], ends: 2100-01-01T00:00:00Z}
      acme-socket: {owner: items-team, operations: [items.events], ends: 2100-01-01T00:00:00Z}
  globex:
    name: Globex Corporation
    owner: payments-team
    engagement: {starts: 2020-01-01T00:00:00Z, ends: 2100-01-01T00:00:00Z}
    networks: [loopback]
    credentials:
      globex-client: {anchor: globex-ca, match: {uri: "spiffe://globex.example/client"}}
    grants:
      globex-items: {owner: items-team, operations: [items.list], ends: 2100-01-01T00:00:00Z}
"#;

/// The name of the user that runs the tests: of the operator that a gate's commands come from.
pub fn this_user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

/// The binary under test; another build of it with `PARTNERGATE_TEST_BINARY`.
pub fn program() -> PathBuf {
    std::env::var_os("PARTNERGATE_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_partnergate").into(), PathBuf::from)
}

/// A gateway to be: its config and registry can still be changed.
///
/// As it comes: one route `api` for [`HOST`], whose operations are `items.list`, `items.read`, `items.create`,
/// `items.delete`, `items.events` (a WebSocket) and `pairs.read`; the partners `acme` and `globex`, each with a CA of
/// its own; records in a file; the shipped policy with a generous time limit.
pub struct Setup {
    pub dir: TempDir,
    pub pki: Pki,
    pub upstream: Upstream,
    /// Issues the server certificate.
    pub server_ca: Authority,
    pub acme_ca: Authority,
    pub globex_ca: Authority,
    pub acme: Identity,
    pub globex: Identity,
    config: Value,
    registry: String,
    environment: Vec<(String, String)>,
    operators: bool,
}

impl Setup {
    #[track_caller]
    pub fn new() -> Self {
        Self::with_upstream(&[])
    }

    /// With these arguments for `examples/upstream`.
    #[track_caller]
    pub fn with_upstream(arguments: &[&str]) -> Self {
        let dir = TempDir::with_prefix("partnergate-it.").unwrap();
        let pki = Pki::new(&dir.path().join("pki"));
        let upstream = Upstream::start(dir.path(), "upstream", arguments);
        let server_ca = pki.authority("server-ca");
        let server = pki.server(&server_ca, "server", &[HOST, "localhost", "127.0.0.1", "::1"]);
        let (acme_ca, globex_ca) = (pki.authority("acme-ca"), pki.authority("globex-ca"));
        let client = |ca: &Authority, name: &str| {
            pki.client(ca, name, |p| {
                let uri = format!("spiffe://{name}.example/client");
                p.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
            })
        };
        let (acme, globex) = (client(&acme_ca, "acme"), client(&globex_ca, "globex"));
        let config = json!({
            "environment": "test",
            "state_dir": dir.path().join("state"),
            "partner": {
                "listen": ["127.0.0.1:0"],
                "certificates": [{
                    "chain": server.chain_file, "key": format!("file:{}", server.key_file.display()),
                }],
                // Every client of a test comes from one address.
                "limits": {"handshakes_per_source": 0},
            },
            "status": {"listen": ["127.0.0.1:0"]},
            "upstreams": {"api": {"endpoints": [upstream.address().to_string()]}},
            "routes": {"api": {
                "hosts": [HOST],
                "upstream": "api",
                "operations": [
                    {"id": "items.list", "method": "GET", "path": "/items"},
                    {"id": "items.create", "method": "POST", "path": "/items"},
                    {"id": "items.read", "method": "GET", "path": "/items/{id}"},
                    {"id": "items.delete", "method": "DELETE", "path": "/items/{id}"},
                    {"id": "items.events", "method": "GET", "path": "/events", "upgrade": "websocket"},
                    {"id": "pairs.read", "method": "GET", "path": "/pairs/{a}/{b}"},
                ],
            }},
            // A busy machine is not under test; the limit itself is where a test sets it.
            "policy": {"dir": Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), "time_limit": "1s"},
            "record": {"output": format!("file:{}", dir.path().join("records.jsonl").display())},
            "drain": {"delay": "0s", "grace": "5s"},
            // One operator asks and approves, unless approvals are what a test is about.
            "approval": {"four_eyes": "off"},
        });
        Setup {
            dir,
            pki,
            upstream,
            server_ca,
            acme_ca,
            globex_ca,
            acme,
            globex,
            config,
            registry: REGISTRY.into(),
            environment: Vec::new(),
            operators: true,
        }
    }

    /// Sets a key of the config by its path, such as `partner.timeouts.head`; tables on the way are made.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut at = &mut self.config;
        for part in key.split('.') {
            at = match part.parse::<usize>() {
                Ok(n) if at.is_array() => &mut at[n],
                _ => &mut at[part],
            };
        }
        *at = value.into();
        self
    }

    /// Another registry instead of the one above. Every authority of `pki` is beside it as `NAME.pem`.
    #[must_use]
    pub fn registry(mut self, yaml: &str) -> Self {
        self.registry = yaml.into();
        self
    }

    /// Nobody operates it yet, and so it has no registry either.
    #[must_use]
    pub fn without_operators(mut self) -> Self {
        self.operators = false;
        self.registry("")
    }

    /// The registry as it stands, for tests that change a part of it.
    pub fn registry_text(&self) -> &str {
        &self.registry
    }

    /// A reference to a secret that signing keys can be kept under, for `tokens.secret`.
    pub fn token_secret(&self) -> String {
        let file = self.pki.write("token-keys", 0o600, "x".repeat(44).as_bytes());
        format!("file:{}", file.display())
    }

    /// Sets an environment variable of the gateway.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A copy of the shipped policy folder that a test may change; the config points to it.
    #[must_use]
    pub fn own_policies(self) -> (Self, PathBuf) {
        let copy = self.dir.path().join("policies");
        copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), &copy);
        (self.set("policy.dir", copy.to_str().unwrap()), copy)
    }

    /// Where the config is written by [`Setup::start`].
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("partnergate.yaml")
    }

    /// The config as it will be written.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Starts the gateway, waits until it is ready and applies the registry.
    #[track_caller]
    pub fn start(self) -> Gate {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        self.start_with_config(&text)
    }

    /// The same with a config text of the test's own.
    #[track_caller]
    pub fn start_with_config(self, text: &str) -> Gate {
        std::fs::write(self.config_file(), text).unwrap();
        let process = self.spawn();
        let registry = self.registry.clone();
        let mut gate = Gate { process, partners: Vec::new(), status: None, settled: AtomicU32::new(0), setup: self };
        gate.await_ready();
        if gate.operators {
            gate.bootstrap();
        }
        if !registry.is_empty() {
            gate.apply(&registry);
        }
        gate
    }

    /// Starts a gateway that must not come up; its exit code and what it said.
    #[track_caller]
    pub fn start_expecting_failure(&self) -> (Option<i32>, String) {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        self.start_text_expecting_failure(&text)
    }

    /// The same with a config text of the test's own.
    #[track_caller]
    pub fn start_text_expecting_failure(&self, text: &str) -> (Option<i32>, String) {
        std::fs::write(self.config_file(), text).unwrap();
        let mut process = self.spawn();
        let status = process.ended();
        (status.code(), process.log())
    }

    /// Runs a command of the CLI with this config, whether a gateway runs or not.
    #[track_caller]
    pub fn cli(&self, arguments: &[&str]) -> Finished {
        run(Command::new(program()).arg("--config").arg(self.config_file()).args(arguments), b"")
    }

    fn spawn(&self) -> Process {
        let mut command = Command::new(program());
        command.arg("--config").arg(self.config_file()).arg("serve").env_remove("PARTNERGATE_CONFIG");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        Process::start(&mut command, self.dir.path(), "gateway")
    }

    /// Writes a registry folder: the YAML and every authority.
    pub fn write_registry(&self, yaml: &str) -> PathBuf {
        let folder = self.dir.path().join("registry");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("registry.yaml"), yaml).unwrap();
        for entry in std::fs::read_dir(self.pki.dir()).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_authority = self.pki.dir().join(name.replace(".pem", ".key")).exists();
            if name.ends_with(".pem") && is_authority {
                std::fs::copy(entry.path(), folder.join(name)).unwrap();
            }
        }
        folder
    }
}

/// A running gateway; stopped when dropped.
pub struct Gate {
    // Dropped before the folder that it works in.
    pub process: Process,
    partners: Vec<SocketAddr>,
    status: Option<SocketAddr>,
    settled: AtomicU32,
    setup: Setup,
}

impl std::ops::Deref for Gate {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl Gate {
    /// One as [`Setup::new`] describes it.
    #[track_caller]
    pub fn start() -> Gate {
        Setup::new().start()
    }

    #[track_caller]
    fn await_ready(&mut self) {
        self.process.await_output("`ready` in the log", |p| p.log().contains("INFO ready").then_some(()));
        let log = self.process.log();
        let addresses = |what: &str| -> Vec<SocketAddr> {
            let lines = log.lines().filter(|l| l.contains(what));
            lines.filter_map(|l| l.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()).collect()
        };
        self.partners = addresses("partner listener");
        self.status = addresses("status listener").first().copied();
        assert!(!self.partners.is_empty(), "no partner address in\n{log}");
        if self.status.is_some() {
            await_some("/readyz", || (self.http("/readyz").0 == 200).then_some(()));
        }
    }

    /// Names the first operators: this user, with every role, and `second`, whose token is in the file `second.token`.
    #[track_caller]
    fn bootstrap(&self) {
        let call =
            json!({"operators": [{"name": this_user(), "user": this_user()}, {"name": "second", "token": true}]});
        let (status, answer) = self.admin("POST", "/v1/bootstrap", &call.to_string());
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let token = answer["operators"][1]["token"].as_str().unwrap();
        let mut file = std::fs::File::options();
        file.create_new(true).write(true).mode(0o600);
        file.open(self.dir.path().join("second.token")).unwrap().write_all(token.as_bytes()).unwrap();
    }

    /// A call on the admin socket as it stands: status and body.
    #[track_caller]
    pub fn admin(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let socket =
            self.config()["admin"]["socket"].as_str().map_or(self.dir.path().join("state/admin.sock"), Into::into);
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(super::DEADLINE)).unwrap();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Stops it with a signal, waits for its end, and starts it again on the same state; ports change.
    #[track_caller]
    pub fn restart(&mut self, signal: &str) {
        self.stop(signal);
        self.begin();
    }

    /// Stops it with a signal and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, signal: &str) {
        self.process.signal(signal);
        self.process.ended();
    }

    /// Starts it again after [`Gate::stop`].
    #[track_caller]
    pub fn begin(&mut self) {
        self.process = self.setup.spawn();
        self.await_ready();
    }

    /// The first partner listener.
    pub fn address(&self) -> SocketAddr {
        self.partners[0]
    }

    /// All partner listeners, in the order of the config.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.partners
    }

    pub fn status_address(&self) -> SocketAddr {
        self.status.expect("the status listener is off")
    }

    /// The admin listener over TLS.
    #[track_caller]
    pub fn admin_address(&self) -> SocketAddr {
        self.listener("admin listener")
    }

    /// Where partners enrol.
    #[track_caller]
    pub fn enrol_address(&self) -> SocketAddr {
        self.listener("enrol listener")
    }

    #[track_caller]
    fn listener(&self, name: &str) -> SocketAddr {
        let log = self.log();
        let line = log.lines().rfind(|l| l.contains(name)).unwrap_or_else(|| panic!("the {name} is off"));
        line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// GET on the status listener: status and body.
    #[track_caller]
    pub fn http(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.status_address()).unwrap();
        stream.set_read_timeout(Some(super::DEADLINE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: status\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[track_caller]
    pub fn metrics(&self) -> String {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200);
        body
    }

    /// A metric as it is written before its value, such as `partnergate_denials_total{reason="grant-expired"}`; 0 when
    /// there is no such series.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    #[track_caller]
    pub fn await_metric(&self, series: &str, value: f64) {
        await_some(&format!("{series} = {value}"), || (self.metric(series) == value).then_some(()));
    }

    /// What the gateway has written to stderr.
    pub fn log(&self) -> String {
        self.process.log()
    }

    #[track_caller]
    pub fn await_log(&self, text: &str) {
        await_some(&format!("`{text}` in the log"), || self.log().contains(text).then_some(()));
    }

    /// The records file as it is.
    pub fn records_text(&self) -> String {
        // Within a bound: it may be a device that never ends.
        let mut bytes = Vec::new();
        if let Ok(file) = std::fs::File::open(self.dir.path().join("records.jsonl")) {
            file.take(MAX_RECORDS).read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8(bytes).expect("records are UTF-8")
    }

    /// Every record that is written so far. Copies of the history, checkpoints, and what is said of an end are none.
    #[track_caller]
    pub fn records(&self) -> Vec<Value> {
        let other = |line: &Value| ["history", "checkpoint", "records-lost"].iter().any(|kind| line["kind"] == *kind);
        self.lines().into_iter().filter(|line| !other(line)).collect()
    }

    /// Every line that is in the file of records so far.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let text = self.records_text();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// The first record that fits.
    #[track_caller]
    pub fn await_record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        await_some(&format!("a record: {what}"), || self.records().into_iter().find(|r| fits(r)))
    }

    /// All records, once there are so many.
    #[track_caller]
    pub fn await_all(&self, n: usize) -> Vec<Value> {
        await_some(&format!("{n} records"), || Some(self.records()).filter(|r| r.len() >= n))
    }

    /// The record of the request with this id (`X-Request-Id` of its answer).
    #[track_caller]
    pub fn record_of(&self, id: &str) -> Value {
        self.await_record(id, |r| r["decision_id"] == id)
    }

    /// Every record up to now. Records are written in order, so a request of our own that comes last shows that nothing
    /// is missing; it is left out. Needs the partner `acme` as [`Setup::new`] has it.
    #[track_caller]
    pub fn settle(&self) -> Vec<Value> {
        let n = self.settled.fetch_add(1, Ordering::Relaxed);
        let path = format!("/settle/{n}");
        let answer =
            self.dial().identity(&self.acme).open().request(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        self.record_of(answer.header("x-request-id").expect("an answer of the gateway"));
        let ours = |r: &Value| r["input"]["request"]["path"].as_str().is_some_and(|p| p.starts_with("/settle/"));
        self.records().into_iter().filter(|r| !ours(r)).collect()
    }

    /// Resident memory of the gateway in bytes.
    pub fn memory(&self) -> u64 {
        resident(self.process.id())
    }

    /// Applies a registry text as it stands; everything that it does not name is removed.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let finished = self.try_apply(yaml);
        assert_eq!(finished.exit, Some(0), "{}\n{}", finished.stderr, self.log());
    }

    #[track_caller]
    /// The same where acme has something that never comes back: it goes, and is another one of that name.
    pub fn apply_anew(&self, yaml: &str) {
        let (before, rest) = yaml.split_once("  acme:\n").unwrap();
        self.apply(&format!("{before}{}", &rest[rest.find("  globex:\n").unwrap()..]));
        self.apply(yaml);
    }

    pub fn try_apply(&self, yaml: &str) -> Finished {
        let folder = self.setup.write_registry(yaml);
        self.cli(&["apply", "--yes", "--prune", "-f", folder.to_str().unwrap()])
    }

    /// Sends SIGHUP and waits until the reload has been tried.
    #[track_caller]
    pub fn reload(&self) {
        let tried = || {
            self.metric("partnergate_reloads_total{result=\"ok\"}")
                + self.metric("partnergate_reloads_total{result=\"failed\"}")
        };
        let before = tried();
        self.process.signal("HUP");
        await_some("a reload", || (tried() > before).then_some(()));
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// A TLS connection to be, without a certificate, to [`HOST`] on the first partner listener.
    pub fn dial(&self) -> Dial {
        Dial::new(self.address(), HOST)
    }

    /// One call of curl over HTTP/1.1 to `https://HOST:PORT/TARGET`, with more arguments of curl.
    #[track_caller]
    pub fn curl(&self, who: Option<&Identity>, target: &str, arguments: &[&str]) -> Curl {
        let scratch = TempDir::new_in(self.dir.path()).unwrap();
        let (head, body) = (scratch.path().join("head"), scratch.path().join("body"));
        let port = self.address().port();
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--path-as-is", "--max-time", "50", "--http1.1", "--noproxy", "*"]);
        command.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1"), "--write-out", "%{http_code} %{http_version}"]);
        command.arg("--cacert").arg(&self.server_ca.pem_file).arg("-D").arg(&head).arg("-o").arg(&body);
        if let Some(who) = who {
            command.arg("--cert").arg(&who.chain_file).arg("--key").arg(&who.key_file);
        }
        command.args(arguments).arg(format!("https://{HOST}:{port}{target}"));
        let finished = run(&mut command, b"");
        let out = finished.text();
        let (status, version) = out.split_once(' ').unwrap_or(("0", ""));
        Curl {
            exit: finished.exit.unwrap_or(-1),
            status: status.parse().unwrap_or(0),
            version: version.to_owned(),
            head: String::from_utf8_lossy(&std::fs::read(&head).unwrap_or_default()).into_owned(),
            body: std::fs::read(&body).unwrap_or_default(),
            stderr: finished.stderr,
        }
    }

    /// One call of `openssl s_client` with [`HOST`] as server name.
    #[track_caller]
    pub fn s_client(&self, who: Option<&Identity>, arguments: &[&str], input: &[u8]) -> Finished {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &self.address().to_string(), "-servername", HOST]);
        if let Some(who) = who {
            command
                .arg("-cert")
                .arg(&who.chain_file)
                .arg("-cert_chain")
                .arg(&who.chain_file)
                .arg("-key")
                .arg(&who.key_file);
        }
        run(command.args(arguments), input)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tail = |text: &str| {
                let lines: Vec<&str> = text.lines().collect();
                lines[lines.len().saturating_sub(30)..].join("\n")
            };
            eprintln!("== the gateway's log\n{}", tail(&self.log()));
            eprintln!("== its last records\n{}", tail(&self.records_text()));
        }
    }
}

/// What curl saw.
pub struct Curl {
    pub exit: i32,
    /// 0 when there was no answer.
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// All heads that came, interim ones and trailers included.
    pub head: String,
    pub body: Vec<u8>,
    pub stderr: String,
}

impl Curl {
    /// The last field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|l| l.split_once(':'));
        fields.rev().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails with everything that is known unless the answer has this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl std::fmt::Debug for Curl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\ncurl ended with {}: {}\n{}{}", self.exit, self.stderr, self.head, self.text())
    }
}

/// How many records fit.
pub fn count(records: &[Value], fits: impl Fn(&Value) -> bool) -> usize {
    records.iter().filter(|r| fits(r)).count()
}

/// A text with every occurrence of `id` replaced, to compare answers that differ in nothing else.
pub fn same(text: &str, id: &str) -> String {
    text.replace(id, "ID")
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Resident memory of a process in bytes.
pub fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
