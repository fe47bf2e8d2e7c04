//! Threat 34: a panic costs the request that it happens in, and nothing else.
//!
//! Nothing in the program panics on demand. So the same house is built here, in this process, with one part that
//! panics where the real one would not: a metric whose labels do not fit, a key whose library breaks, a future that
//! breaks beneath a request. Everything around that part, from the listener to the record, is what serves.

use crate::harness::http2::{Http2, block_on, request, whole};
use crate::harness::{Dial, HOST, Setup, TlsConn, await_some};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use partnergate::clock::Clock;
use partnergate::config::Config;
use partnergate::gateway::{Gateway, Live, Open, Revoke};
use partnergate::history::{self, Actor, Cause, Way};
use partnergate::listen::{Caps, Listener, TlsSlot};
use partnergate::record::{Mask, Metrics, RecordOptions, Recorder, WriterOptions};
use partnergate::reload::{Apply, Authority, Publisher, Wanted};
use partnergate::snapshot::ServerCertificate;
use partnergate::store::{DeclaredFile, PlanOptions, Store};
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A running house. Dropped, it ends.
struct House {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    capacity: usize,
    breaks: Arc<Notify>,
    _stop: watch::Sender<bool>,
    runtime: Option<tokio::runtime::Runtime>,
    setup: Setup,
}

/// What stands between listener and gateway: told to, it panics in the middle of the request that has run longest, as
/// if a library had.
struct Fragile {
    proxy: Arc<HttpProxy<Gateway>>,
    breaks: Arc<Notify>,
}

#[async_trait]
impl HttpServerApp for Fragile {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        tokio::select! {
            biased;
            done = self.proxy.process_new_http(session, shutdown) => done,
            // Inside of the branch and not behind the arrow: there, the request would have been dropped already.
            () = self.broken() => None,
        }
    }
}

impl Fragile {
    async fn broken(&self) {
        self.breaks.notified().await;
        panic!("the library beneath has broken");
    }
}

impl House {
    #[track_caller]
    fn start(setup: Setup, break_metrics: impl FnOnce(&mut Metrics)) -> House {
        Self::start_with(setup, break_metrics, |certificate| certificate)
    }

    /// As `server::run` puts it together.
    #[track_caller]
    fn start_with(
        setup: Setup,
        break_metrics: impl FnOnce(&mut Metrics),
        certificate: impl Fn(ServerCertificate) -> ServerCertificate,
    ) -> House {
        let path = setup.config_file();
        std::fs::write(&path, setup.config().to_string()).unwrap();
        let config = Config::load(&path).unwrap_or_else(|p| panic!("{p}"));
        std::fs::create_dir_all(&config.state_dir).unwrap();
        let mut metrics = Metrics::new(config.max_series, config.partner_operation).unwrap();
        break_metrics(&mut metrics);
        let metrics = Arc::new(metrics);
        let options = RecordOptions {
            capacity: config.record.buffer,
            max_bytes: config.record.buffer_size,
            when_full: config.record.when_full,
            per_second: config.record.per_second,
            mask: Mask::new(&[7; 32], config.record.include.clone()),
            writer: WriterOptions {
                sinks: config.record.sinks.clone(),
                rotation: None,
                node: "test".into(),
                boot: "test".into(),
                signer: history::Signer::from_pkcs8(&history::Signer::generate().unwrap()).unwrap(),
                end: setup.dir.path().join("record.end"),
                clock: Arc::new(Clock::new()),
            },
            spool: None,
            labels: Vec::new(),
        };
        let recorder = Recorder::start(options, metrics.clone()).unwrap();
        let (clock, live, tls) = (Arc::new(Clock::new()), Arc::new(ArcSwapOption::empty()), Arc::new(TlsSlot::new()));
        let (stop, stopped) = watch::channel(false);
        let breaks = Arc::new(Notify::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = runtime.block_on(async {
            let store = Store::open(&config.state_dir.join("registry.db"), clock.now()).await.unwrap();
            let open = Arc::new(Open::new(live.clone(), recorder.clone(), clock.clone()));
            let publisher = Publisher::start(path.clone(), config.clone(), store, tls.clone(), open.clone());
            let publisher = Arc::new(publisher.await.unwrap_or_else(|e| panic!("{e}")));
            let files = declared(&setup.write_registry(setup.registry_text()));
            let apply = Apply {
                wanted: Wanted::Files(files),
                options: PlanOptions::default(),
                dry_run: false,
                if_match: None,
                cause: cause(),
                authority: Authority::Approve,
            };
            publisher.apply(apply).await.unwrap_or_else(|e| panic!("{e}"));
            let registry = live.load_full().map(|l: Arc<Live>| l.snapshot.registry.clone()).unwrap();
            let built = partnergate::snapshot::Snapshot::build(config.sources(registry, None), None, clock.now());
            let mut shown = built.unwrap_or_else(|p| panic!("{p}")).0;
            let certificates = Arc::into_inner(shown.certificates).expect("nobody else has it");
            shown.certificates = Arc::new(certificates.into_iter().map(certificate).collect());
            tls.publish(&shown, Some(config.tls), &clock).unwrap();
            let revoke: Revoke = Arc::new(|_, _| Box::pin(async { Ok(()) }));
            let gateway = Gateway::new(open.clone(), config.via.clone(), config.body, revoke);
            let conf = ServerConf { max_retries: 2, ..ServerConf::default() };
            let proxy = Arc::new(http_proxy(&Arc::new(conf), gateway));
            let app = Arc::new(Fragile { proxy, breaks: breaks.clone() });
            let caps = Arc::new(Caps::new(config.limits, tokio::runtime::Handle::current().metrics().num_workers()));
            let listener = Listener::new(app, open, tls, caps, stopped.clone());
            let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::spawn(listener.run(socket, stopped, Duration::ZERO));
            address
        });
        let capacity = config.record.buffer;
        House { address, metrics, recorder, capacity, breaks, _stop: stop, runtime: Some(runtime), setup }
    }

    fn dial(&self) -> Dial {
        Dial::new(self.address, HOST).identity(&self.setup.acme)
    }

    /// The first record that fits.
    #[track_caller]
    fn record(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        await_some(what, || self.records().into_iter().find(|r| fits(r)))
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.setup.dir.path().join("records.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.filter(|line| line["kind"] != "history").collect()
    }

    /// Nothing that a request holds is left over, so many panics were caught, and a new client is served as ever.
    #[track_caller]
    fn assert_well(&self, panics: u64) {
        await_some("the end of all requests", || (self.metrics.streams.get() == 0).then_some(()));
        await_some("all places for records", || (self.recorder.slots().free() == self.capacity).then_some(()));
        assert_eq!(self.metrics.panics.get(), panics, "panics");
        let open = ["h2", "http/1.1"].map(|p| self.metrics.connections.with_label_values(&[p]));
        await_some("the end of all connections", || open.iter().all(|g| g.get() == 0).then_some(()));
        assert_eq!(self.metrics.handshakes_now.get(), 0);
        let mut conn = self.dial().open();
        denied(&mut conn);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if std::thread::panicking() {
            eprintln!("== the records\n{:#?}", self.records());
        }
    }
}

fn declared(folder: &Path) -> Vec<DeclaredFile> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let file = |e: std::fs::DirEntry| DeclaredFile {
        name: e.file_name().into_string().unwrap(),
        text: std::fs::read_to_string(e.path()).unwrap(),
    };
    entries.map(file).collect()
}

/// A counter that panics when it is asked for the one label, or the two, that it should have.
fn broken_counter() -> IntCounterVec {
    IntCounterVec::new(Opts::new("broken", "Broken."), &["too", "many", "labels"]).unwrap()
}

fn broken_histogram() -> HistogramVec {
    HistogramVec::new(HistogramOpts::new("broken", "Broken."), &["too", "many", "labels"]).unwrap()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// A request that is denied, and so needs none of what is broken behind the decision.
#[track_caller]
fn denied(conn: &mut TlsConn) {
    let answer = conn.request(format!("DELETE /items/7 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    assert_eq!(answer.expect(403).code(), "not-permitted");
}

/// Sends a request that breaks something over HTTP/1 and over HTTP/2: each gets its 500 and its record, and the
/// connection goes on. Returns the records.
#[track_caller]
fn answered_with_500(house: &House, target: &str) -> Vec<Value> {
    let mut conn = house.dial().open();
    let over_h1 = conn.request(get(target));
    over_h1.expect(500);
    assert_eq!(over_h1.header("content-type"), Some("application/problem+json"), "{over_h1:?}");
    assert_eq!(over_h1.code(), "internal");
    assert_eq!(over_h1.json()["request_id"], over_h1.id());
    if over_h1.header("connection") != Some("close") {
        denied(&mut conn);
    }
    drop(conn);
    let over_h2 = block_on(async {
        let mut client = Http2::open(&house.dial()).await;
        let answer = client.get(target).await;
        assert_eq!(client.request(request("DELETE", "/items/7"), b"").await.expect(403).code(), "not-permitted");
        answer
    });
    over_h2.expect(500);
    assert_eq!(over_h2.header("content-type"), Some("application/problem+json"), "{over_h2:?}");
    assert_eq!((over_h2.code().as_str(), over_h2.json()["request_id"].as_str()), ("internal", Some(over_h2.id())));
    let record = |id: &str| house.record("the record of a panic", |r| r["decision_id"] == id);
    let records = vec![record(over_h1.id()), record(over_h2.id())];
    for record in &records {
        assert_eq!((&record["reason"], &record["status"]), (&json!("internal"), &json!(500)), "{record}");
        assert_eq!(record["input"]["partner"]["id"], "acme", "{record}");
    }
    records
}

#[test]
fn panic_before_the_decision_is_answered_with_500_and_recorded() {
    let house = House::start(Setup::new(), |m| m.malformed = broken_counter());
    for record in answered_with_500(&house, "/items/..") {
        assert_eq!((&record["kind"], &record["result"]), (&json!("malformed"), &json!("deny")), "{record}");
    }
    house.assert_well(2);
    house.setup.upstream.assert_untouched();
}

#[test]
fn panic_while_an_endpoint_is_chosen_is_answered_with_500_and_recorded() {
    let setup = Setup::new();
    // Nobody listens on the first one, so that a second one is chosen, which is counted.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoints = json!([nobody.to_string(), nobody.to_string()]);
    let house =
        House::start(setup.set("upstreams.api.endpoints", endpoints), |m| m.upstream_retries = broken_counter());
    for record in answered_with_500(&house, "/items/7") {
        assert_eq!((&record["kind"], &record["result"]), (&json!("request"), &json!("error")), "{record}");
        assert_eq!(record["input"]["request"]["operation"], "items.read", "{record}");
    }
    house.assert_well(2);
    house.setup.upstream.assert_untouched();
}

#[test]
fn panic_on_the_failure_of_an_upstream_is_answered_with_500_and_recorded() {
    let house = House::start(Setup::new(), |m| m.upstream_failures = broken_counter());
    for record in answered_with_500(&house, "/items/7?upstream_close=before") {
        assert_eq!((&record["kind"], &record["result"]), (&json!("request"), &json!("error")), "{record}");
    }
    house.assert_well(2);
}

#[test]
fn panic_on_the_answer_of_an_upstream_is_answered_with_500_and_recorded() {
    let house = House::start(Setup::new(), |m| m.upstream_seconds = broken_histogram());
    for record in answered_with_500(&house, "/items/7") {
        assert_eq!((&record["kind"], &record["result"]), (&json!("request"), &json!("error")), "{record}");
        assert_eq!(record["upstream"]["name"], "api", "{record}");
    }
    house.assert_well(2);
}

/// The record is all that is lost then, and its loss is counted.
#[test]
fn panic_in_the_record_costs_only_the_record() {
    let house = House::start(Setup::new(), |m| m.requests = broken_counter());
    let mut conn = house.dial().open();
    for _ in 0..2 {
        conn.request(get("/items/7")).expect(200);
    }
    drop(conn);
    block_on(async {
        let mut client = Http2::open(&house.dial()).await;
        client.get("/items/7").await.expect(200);
    });
    await_some("the end of the third", || (house.metrics.panics.get() == 3).then_some(()));
    assert_eq!(house.metrics.records_lost.get(), 3);
    assert_eq!(house.records().len(), 0);
    house.assert_well(3);
}

/// A panic that no answer can be given for, because what would give it has gone: the stream is reset, the record says
/// why, and its siblings on the same connection get their answers.
#[test]
fn panic_beneath_a_stream_ends_that_stream_alone() {
    let house = House::start(Setup::new(), |_| {});
    block_on(async {
        let mut client = Http2::open(&house.dial()).await;
        let (broken, _) = client.begin(request("GET", "/items/broken?upstream_delay_ms=60000"), true).await;
        await_some("the first", || house.setup.upstream.text().contains("/items/broken").then_some(()));
        let (sibling, _) = client.begin(request("GET", "/items/sibling?upstream_delay_ms=500"), true).await;
        await_some("the second", || house.setup.upstream.text().contains("/items/sibling").then_some(()));
        house.breaks.notify_one();
        let end = broken.await.expect_err("nobody is left to answer");
        assert!(end.is_reset() && end.is_remote(), "{end:?}");
        whole(sibling.await.unwrap()).await.unwrap().expect(200);
        client.get("/items/next").await.expect(200);
    });
    let record = house.record("the panic", |r| r["reason"] == "internal");
    assert_eq!((&record["kind"], &record["result"]), (&json!("request"), &json!("error")), "{record}");
    assert_eq!(record["input"]["request"]["operation"], "items.read", "{record}");
    house.assert_well(1);
    let results: Vec<Value> = house.records().into_iter().map(|r| r["result"].clone()).collect();
    assert_eq!(results.iter().filter(|r| *r == "allow").count(), 2, "{results:?}");
    assert_eq!(results.iter().filter(|r| *r == "error").count(), 1, "{results:?}");
}

#[test]
fn panic_beneath_an_http1_request_ends_that_connection_alone() {
    let house = House::start(Setup::new(), |_| {});
    let mut other = house.dial().open();
    other.request(get("/items")).expect(200);
    let mut conn = house.dial().open();
    conn.send(get("/items/broken?upstream_delay_ms=60000"));
    await_some("the request", || house.setup.upstream.text().contains("/items/broken").then_some(()));
    house.breaks.notify_one();
    conn.assert_closed();
    let record = house.record("the panic", |r| r["reason"] == "internal");
    assert_eq!((&record["result"], &record["status"]), (&json!("error"), &json!(0)), "{record}");
    other.request(get("/items")).expect(200);
    drop(other);
    house.assert_well(1);
}

/// A key that breaks when it is told to.
#[derive(Debug)]
struct FragileKey {
    key: Arc<dyn SigningKey>,
    breaks: Arc<AtomicBool>,
}

impl SigningKey for FragileKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        assert!(!self.breaks.load(Ordering::SeqCst), "the library beneath has broken");
        self.key.choose_scheme(offered)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[test]
fn panic_in_a_handshake_ends_that_connection_alone_and_is_recorded() {
    let breaks = Arc::new(AtomicBool::new(false));
    let fragile = |mut certificate: ServerCertificate| {
        let key = Arc::new(FragileKey { key: certificate.key.key.clone(), breaks: breaks.clone() });
        certificate.key = Arc::new(CertifiedKey::new(certificate.key.cert.clone(), key));
        certificate
    };
    let house = House::start_with(Setup::new(), |_| {}, fragile);
    let mut other = house.dial().open();
    other.request(get("/items")).expect(200);
    breaks.store(true, Ordering::SeqCst);
    assert_eq!(house.dial().refused(), None, "closed without an alert");
    breaks.store(false, Ordering::SeqCst);
    let record = house.record("the panic", |r| r["kind"] == "handshake");
    assert_eq!((&record["result"], &record["reason"]), (&json!("deny"), &json!("internal")), "{record}");
    assert_eq!(record["input"]["source"]["ip"], "127.0.0.1", "{record}");
    assert_eq!(house.metrics.handshakes.with_label_values(&["internal"]).get(), 1);
    other.request(get("/items")).expect(200);
    drop(other);
    house.assert_well(1);
}

fn cause() -> Cause {
    Cause::new(Actor::user("test", None, Way::Offline), None, None)
}
