//! Revocation in the gateway: lists from files, folders and URLs as a real CA makes them, denials, what sessions and
//! clocks have to do with it. Threats 1, 2, 7 and 23.

mod clock;
mod deny;
mod files;
mod sessions;
mod urls;

use crate::harness::http2::{Frames, GOAWAY, get_fields};
use crate::harness::{Authority, Gate, HOST, Identity, Setup, TlsConn, await_some};
use crate::websocket;
use rcgen::{CrlDistributionPoint, SanType};
use serde_json::Value;

/// `openssl ca -gencrl` arguments for a list of everything.
const WHOLE: &str = " -crlexts number";

/// The registry with this as the revocation settings of an anchor.
fn with_revocation(text: &str, anchor: &str, settings: &str) -> String {
    let from = format!("{anchor}: {{certificate: {anchor}.pem, ");
    assert!(text.contains(&from), "{text}");
    text.replace(&from, &format!("{from}revocation: {settings}, "))
}

fn revoking(setup: Setup, anchor: &str, settings: &str) -> Setup {
    let text = with_revocation(setup.registry_text(), anchor, settings);
    setup.registry(&text)
}

/// Another certificate of acme under an authority, whose list is at these places.
fn client(setup: &Setup, ca: &Authority, name: &str, places: &[&str]) -> Identity {
    setup.pki.client(ca, name, |p| {
        p.subject_alt_names = vec![SanType::URI("spiffe://acme.example/client".try_into().unwrap())];
        let uris: Vec<String> = places.iter().map(|p| (*p).to_owned()).collect();
        p.crl_distribution_points = if uris.is_empty() { Vec::new() } else { vec![CrlDistributionPoint { uris }] };
    })
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn socket(gate: &Gate, who: &Identity) -> TlsConn {
    let mut conn = gate.dial().identity(who).open();
    conn.request(websocket::handshake("/events")).expect(101);
    conn
}

/// One request on a connection of its own; `None` when the gateway lets nobody in.
fn call(gate: &Gate, who: &Identity) -> Option<u16> {
    match gate.dial().identity(who).handshake() {
        crate::harness::Tried::Open(mut conn) => {
            conn.try_send(get("/items")).ok()?;
            conn.try_response().ok().map(|r| r.status)
        }
        _ => None,
    }
}

#[track_caller]
fn accepted(gate: &Gate, who: &Identity) {
    assert_eq!(call(gate, who), Some(200), "{}", who.name);
}

#[track_caller]
fn await_accepted(gate: &Gate, who: &Identity) {
    await_some(&format!("`{}` to be let in", who.name), || (call(gate, who) == Some(200)).then_some(()));
}

/// Records of handshakes with this certificate.
fn handshakes(gate: &Gate, who: &Identity) -> Vec<Value> {
    let mut records = gate.records();
    let own = who.fingerprint();
    records.retain(|r| r["kind"] == "handshake" && r["input"]["credential"]["fingerprint_sha256"] == *own);
    records
}

/// The next handshake is refused, for this reason; the alert that the client sees.
#[track_caller]
fn refused(gate: &Gate, who: &Identity, reason: &str) -> Option<rustls::AlertDescription> {
    let before = handshakes(gate, who).len();
    let alert = gate.dial().identity(who).refused();
    let record = await_some("the record of the handshake", || handshakes(gate, who).into_iter().nth(before));
    assert_eq!((&record["reason"], &record["result"]), (&reason.into(), &"deny".into()), "{record}");
    alert
}

/// From some handshake on, they are refused for this reason.
#[track_caller]
fn await_refused(gate: &Gate, who: &Identity, reason: &str) {
    let because = || handshakes(gate, who).iter().filter(|r| r["reason"] == reason).count();
    let before = because();
    await_some(&format!("`{}` to be refused: {reason}", who.name), || {
        call(gate, who);
        (because() > before).then_some(())
    });
}

fn cut(gate: &Gate) -> Value {
    gate.await_record("the cut", |r| r["kind"] == "stream-cut")
}

fn anchor(gate: &Gate, name: &str) -> Value {
    let shown = gate.cli(&["anchor", "show", name, "--output", "json"]).ok();
    serde_json::from_str(&shown).unwrap()
}

/// What the gateway says against a source of an anchor.
fn await_error(gate: &Gate, name: &str, error: &str) {
    await_some(&format!("`{error}` in `anchor show {name}`"), || {
        let shown = anchor(gate, name);
        let lists = shown["lists"].as_array().unwrap().clone();
        lists.iter().any(|l| l["error"].as_str().is_some_and(|e| e.contains(error))).then_some(())
    });
}

/// Everything that one identity may have open.
struct Opened {
    socket: TlsConn,
    asking: TlsConn,
    silent: TlsConn,
    h2: Frames,
}

impl Opened {
    #[track_caller]
    fn of(gate: &Gate, who: &Identity) -> Self {
        let dial = gate.dial().identity(who);
        let (mut asking, mut silent) = (dial.open(), dial.open());
        for conn in [&mut asking, &mut silent] {
            conn.request(get("/items")).expect(200);
        }
        let mut h2 = Frames::open(&dial, &[]);
        let id = h2.headers(&get_fields("/items"), true);
        h2.await_frame("the answer", |f| f.stream == id && f.flags & 1 == 1);
        Opened { socket: socket(gate, who), asking, silent, h2 }
    }

    /// The WebSocket is cut, the others are told or end.
    #[track_caller]
    fn assert_ended(mut self) {
        self.socket.assert_closed();
        let told = self.asking.request(get("/items"));
        assert_eq!((told.status, told.header("connection")), (403, Some("close")), "{told:?}");
        self.silent.assert_closed();
        self.h2.await_frame("a GOAWAY", |f| f.kind == GOAWAY);
        self.h2.ended();
    }

    #[track_caller]
    fn assert_live(&mut self) {
        websocket::echoes(&mut self.socket, "still here");
        self.asking.request(get("/items")).expect(200);
        self.silent.request(get("/items")).expect(200);
        let id = self.h2.headers(&get_fields("/items"), true);
        self.h2.await_frame("the answer", |f| f.stream == id && f.flags & 1 == 1);
    }
}
