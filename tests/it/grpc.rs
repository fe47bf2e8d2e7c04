//! gRPC: a real client through the gateway, and what it makes of refusals.

use crate::harness::http2::{Http2, block_on, request, whole};
use crate::harness::{Gate, HOST, Identity, Setup, Upstream, await_some, count, python, run};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// acme may call three methods of the service, and globex none of them.
pub fn setup() -> Setup {
    let setup = Setup::new().set("upstreams.api.protocol", "h2").set(
        "routes.api.operations",
        json!([
            {"id": "items.list", "method": "GET", "path": "/items"},
            {"grpc": "shop.v1.Orders/Get"},
            {"grpc": "shop.v1.Orders/Chat"},
            {"grpc": "shop.v1.Orders/Upload"},
            {"grpc": "shop.v1.Orders/Delete"},
        ]),
    );
    let registry = setup
        .registry_text()
        .replace(
            "operations: [items.read, items.list, items.create, pairs.read]",
            "operations: [items.list, shop.v1.Orders/Get, shop.v1.Orders/Chat, shop.v1.Orders/Upload]",
        )
        .replace(
            "      acme-socket: {owner: items-team, operations: [items.events], ends: 2100-01-01T00:00:00Z}\n",
            "",
        );
    setup.registry(&registry)
}

/// Runs a script with a channel of this partner; `call` makes a call and prints what came of it.
#[track_caller]
pub fn client(gate: &Gate, who: &Identity, script: &str) -> Option<String> {
    let python = python(&["grpc"])?;
    let prelude = r#"
import grpc, sys, threading, time
port, ca, cert, key, host = sys.argv[1:]
read = lambda path: open(path, "rb").read()
credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
options = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host), ("grpc.enable_http_proxy", 0)]
channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
def outcome(error):
    return f"{error.code().name} {error.details()}"
def get(name, message=b"hello", **more):
    try:
        answer, call = channel.unary_unary(f"/{name}").with_call(message, timeout=20, **more)
        return f"{call.code().name} {answer.decode()}"
    except grpc.RpcError as error:
        return outcome(error)
"#;
    let mut command = Command::new(python);
    command.args(["-c", &format!("{prelude}{script}"), &gate.address().port().to_string()]);
    command.arg(&gate.server_ca.pem_file).arg(&who.chain_file).arg(&who.key_file).arg(HOST);
    command.env("GRPC_VERBOSITY", "NONE").env_remove("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH");
    Some(run(&mut command, b"").ok().trim().to_owned())
}

fn fields(event: &Value, name: &str) -> Vec<String> {
    let fields = event["headers"].as_array().unwrap();
    fields.iter().filter(|f| f[0] == name).map(|f| f[1].as_str().unwrap().to_owned()).collect()
}

#[test]
fn unary_call_is_answered_with_its_trailers() {
    let gate = setup().start();
    let Some(out) = client(&gate, &gate.acme, "print(get('shop.v1.Orders/Get'))") else { return };
    assert_eq!(out, "OK hello");
    let record = gate.await_record("the call", |r| r["kind"] == "request");
    assert_eq!(record["input"]["request"]["operation"], "shop.v1.Orders/Get", "{record}");
    assert_eq!((&record["result"], &record["status"]), (&"allow".into(), &200.into()), "{record}");
    let events = gate.upstream.h2_events();
    let head = events.iter().find(|e| e["event"] == "head").unwrap();
    assert_eq!(fields(head, "te"), ["trailers"], "{head}");
    assert_eq!(fields(head, "content-type"), ["application/grpc"], "{head}");
    assert_eq!(fields(head, "x-partner-id"), ["acme"], "{head}");
    assert_eq!((&head["method"], &head["target"]), (&"POST".into(), &"/shop.v1.Orders/Get".into()), "{head}");
}

#[test]
fn both_sides_of_a_call_may_stream() {
    let gate = setup().start();
    let script = r#"
seen = []
first = threading.Event()
def messages():
    yield b"one"
    # The next one only when the first has come back: nothing waits for the end of the request.
    assert first.wait(20)
    for n in range(50):
        yield b"x" * 20_000
call = channel.stream_stream("/shop.v1.Orders/Chat")(messages(), timeout=30)
for answer in call:
    seen.append(len(answer))
    first.set()
print(len(seen), sum(seen), call.code().name)
upload = channel.stream_unary("/shop.v1.Orders/Upload")
def one():
    yield b"whole"
print(upload(one(), timeout=20))
"#;
    let Some(out) = client(&gate, &gate.acme, script) else { return };
    assert_eq!(out, "51 1000003 OK\nb'whole'");
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "allow"), 2, "{records:#?}");
    let chat = records.iter().find(|r| r["input"]["request"]["operation"] == "shop.v1.Orders/Chat").unwrap();
    assert!(chat["bytes_in"].as_u64() > Some(1_000_000) && chat["bytes_out"].as_u64() > Some(1_000_000), "{chat}");
}

/// A client that listens, and one that only talks now and then, are not silent bodies.
#[test]
fn call_that_pauses_is_not_taken_for_a_silent_body() {
    let gate = setup().set("partner.timeouts.body_progress", "300ms").set("request.min_body_rate", 100_000).start();
    let script = r#"
def messages():
    for n in range(4):
        yield b"now and then"
        time.sleep(0.5)
call = channel.stream_stream("/shop.v1.Orders/Chat")(messages(), timeout=30)
print(len(list(call)), call.code().name)
"#;
    let Some(out) = client(&gate, &gate.acme, script) else { return };
    assert_eq!(out, "4 OK");
}

/// But there is an end to it.
#[test]
fn call_that_stays_silent_is_ended() {
    let gate = setup().set("routes.api.stream_idle", "500ms").start();
    let script = r#"
stop = threading.Event()
def messages():
    yield b"and no more"
    stop.wait(30)
call = channel.stream_stream("/shop.v1.Orders/Chat")(messages(), timeout=30)
try:
    for answer in call:
        pass
    print("ended")
except grpc.RpcError as error:
    print(outcome(error))
stop.set()
"#;
    let Some(out) = client(&gate, &gate.acme, script) else { return };
    assert!(out.starts_with("CANCELLED"), "{out}");
    let record = gate.await_record("the call", |r| r["kind"] == "request");
    assert_eq!((&record["result"], &record["reason"]), (&"error".into(), &"body-timeout".into()), "{record}");
}

#[test]
fn denied_calls_are_told_their_code() {
    let gate = setup().start();
    let script = r#"
print(get("shop.v1.Orders/Delete"))
print(get("shop.v1.Orders/Nothing"))
print(get("other.Service/Get"))
print(get("shop.v1.Orders/Delete", b"x" * 3_000_000))
def messages():
    while True:
        yield b"x" * 10_000
try:
    print(list(channel.stream_stream("/shop.v1.Orders/Delete")(messages(), timeout=20)))
except grpc.RpcError as error:
    print(outcome(error))
print(get("shop.v1.Orders/Get"))
"#;
    let Some(out) = client(&gate, &gate.acme, script) else { return };
    let denied = "PERMISSION_DENIED not-permitted";
    assert_eq!(out.lines().collect::<Vec<_>>(), [denied, denied, denied, denied, denied, "OK hello"]);
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "deny" && r["code"] == "not-permitted" && r["status"] == 200), 5);
    assert_eq!(records.len(), 6, "{records:#?}");
    let heads = gate.upstream.h2_events().iter().filter(|e| e["event"] == "head").count();
    assert_eq!(heads, 1, "only the allowed one arrived");
}

#[test]
fn unknown_identity_is_unauthenticated() {
    let setup = setup();
    let stranger = setup.pki.client(&setup.acme_ca, "stranger", |_| {});
    let gate = setup.start();
    let Some(out) = client(&gate, &stranger, "print(get('shop.v1.Orders/Get'))") else { return };
    assert_eq!(out, "UNAUTHENTICATED identity-unknown");
}

#[test]
fn what_is_too_much_is_resource_exhausted() {
    let gate = setup().set("routes.api.max_body", "100KiB").start();
    // Whether the upstream's answer has begun by then is for the upstream to say.
    let Some(out) = client(&gate, &gate.acme, "print(get('shop.v1.Orders/Get', b'x' * 1_000_000))") else { return };
    assert_eq!(out, "RESOURCE_EXHAUSTED body-too-large");
    let begun = r#"
seen = []
first = threading.Event()
def messages():
    yield b"one"
    assert first.wait(20)
    yield b"x" * 1_000_000
try:
    for answer in channel.stream_stream("/shop.v1.Orders/Chat")(messages(), timeout=20):
        seen.append(answer)
        first.set()
except grpc.RpcError as error:
    print(seen, outcome(error))
"#;
    assert_eq!(client(&gate, &gate.acme, begun).unwrap(), "[b'one'] RESOURCE_EXHAUSTED body-too-large");
    let many = "print(get('shop.v1.Orders/Get', metadata=[(f'x-{n}', 'y') for n in range(120)]))";
    let out = client(&gate, &gate.acme, many).unwrap();
    assert_eq!(out, "RESOURCE_EXHAUSTED headers-too-large");
}

#[test]
fn upstream_that_is_down_is_unavailable() {
    let setup = setup().set("upstreams.api.endpoints", json!(["127.0.0.1:1"]));
    let gate = setup.start();
    let Some(out) = client(&gate, &gate.acme, "print(get('shop.v1.Orders/Get'))") else { return };
    assert_eq!(out, "UNAVAILABLE upstream-failed");
    let record = gate.await_record("the call", |r| r["kind"] == "request");
    assert_eq!((&record["result"], &record["reason"]), (&"error".into(), &"upstream-connect".into()), "{record}");
}

/// A Trailers-Only response: one head that ends the stream, with status 200 (gRPC over HTTP/2, "Responses").
#[test]
fn refusal_is_trailers_only() {
    let gate = setup().start();
    let answer = block_on(async {
        let mut client = Http2::open(&gate.dial().identity(&gate.acme)).await;
        let mut call = request("POST", "/shop.v1.Orders/Delete");
        call.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        call.headers_mut().insert("te", "trailers".parse().unwrap());
        let (answer, mut stream) = client.begin(call, false).await;
        let answer = answer.await.unwrap();
        assert!(answer.body().is_end_stream(), "the head ends the stream");
        let _ = stream.send_data("".into(), true);
        whole(answer).await.unwrap()
    });
    answer.expect(200);
    assert_eq!(answer.header("grpc-status"), Some("7"));
    assert_eq!(answer.header("grpc-message"), Some("not-permitted"));
    assert_eq!(answer.header("content-type"), Some("application/grpc"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(gate.record_of(answer.id())["reason"], "operation-not-granted");
}

#[test]
fn upstream_that_breaks_off_is_an_error_for_the_client() {
    let gate = setup().start();
    for close in ["before", "head", "body"] {
        let script = format!("print(get('shop.v1.Orders/Get?upstream_close={close}'))");
        let Some(out) = client(&gate, &gate.acme, &script) else { return };
        assert_eq!(out, "UNAVAILABLE upstream-failed", "{close}");
    }
    let records = gate.settle();
    assert_eq!(count(&records, |r| r["result"] == "error" && r["reason"] == "upstream-protocol"), 3, "{records:#?}");
}

#[test]
fn calls_pass_over_tls_to_the_upstream() {
    let setup = setup();
    let (ca, dir) = (setup.pki.authority("upstream-ca"), setup.dir.path().to_owned());
    let server = setup.pki.server(&ca, "upstream", &["upstream.test"]);
    let upstream = tls_upstream(&dir, &server);
    let gate = setup
        .set("upstreams.api.endpoints", json!([upstream.address().to_string()]))
        .set("upstreams.api.tls", json!({"server_name": "upstream.test", "ca": ca.pem_file}))
        .start();
    let Some(out) = client(&gate, &gate.acme, "print(get('shop.v1.Orders/Get'))") else { return };
    assert_eq!(out, "OK hello");
    let head = await_some("the call", || upstream.h2_events().into_iter().next());
    assert_eq!(head["tls"]["alpn"], "h2", "{head}");
}

fn tls_upstream(dir: &Path, server: &Identity) -> Upstream {
    let (chain, key) = (server.chain_file.to_str().unwrap(), server.key_file.to_str().unwrap());
    Upstream::start(dir, "tls-upstream", &["--tls-cert", chain, "--tls-key", key])
}

/// HTTP/1 has no trailers that a gRPC client would see: half a protocol is refused where it would begin.
#[test]
fn call_is_spoken_over_http2_on_both_sides_or_not_at_all() {
    let gate = setup().start();
    let call = |kind: &str| {
        let head = "POST /shop.v1.Orders/Get HTTP/1.1\r\nHost: api.partner.test\r\nContent-Length: 0\r\n";
        gate.dial().identity(&gate.acme).open().request(format!("{head}Content-Type: {kind}\r\n\r\n"))
    };
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc;x=y"] {
        assert_eq!(call(kind).expect(400).code(), "bad-request", "{kind}");
    }
    // Another protocol, which is made for HTTP/1.
    call("application/grpc-web+proto").expect(200);

    let (code, log) = setup().set("upstreams.api.protocol", "h1").start_expecting_failure();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("is a gRPC method") && log.contains("set `protocol: h2` at the upstream `api`"), "{log}");
}
