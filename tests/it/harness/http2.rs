//! HTTP/2 from both sides: a client that keeps the rules, and one that sends whatever frames it is told to.

use super::DEADLINE;
use super::client::{Dial, TlsConn};
use super::gate::HOST;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;

/// Runs a test's asynchronous part.
#[track_caller]
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    // Connections are driven beside the test, which may block.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * DEADLINE, work).await.expect("too slow") })
}

/// A connection that keeps the rules.
pub struct Http2 {
    pub send: SendRequest<Bytes>,
    /// How the connection ended.
    pub end: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// A request to [`HOST`] without a body.
pub fn request(method: &str, target: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://{HOST}{target}")).body(()).unwrap()
}

impl Http2 {
    pub async fn open(dial: &Dial) -> Http2 {
        Self::with(dial, &h2::client::Builder::new()).await
    }

    pub async fn with(dial: &Dial, settings: &h2::client::Builder) -> Http2 {
        let tls = dial.clone().alpn(&["h2"]).secure().await;
        let (send, connection) = settings.handshake(tls).await.unwrap();
        Http2 { send, end: tokio::spawn(connection) }
    }

    /// Starts a request; its body is still to be sent unless `end`.
    pub async fn begin(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.try_begin(request, end).await.unwrap()
    }

    pub async fn try_begin(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.send.clone().ready().await?.send_request(request, end)
    }

    /// One request and its whole answer.
    pub async fn request(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        let (answer, mut stream) = self.begin(request, body.is_empty()).await;
        if !body.is_empty() {
            send_all(&mut stream, body).await.unwrap();
        }
        whole(answer.await.unwrap()).await.unwrap()
    }

    pub async fn get(&mut self, target: &str) -> Answer {
        self.request(request("GET", target), b"").await
    }
}

/// Sends a body to its end, as the windows permit.
pub async fn send_all(stream: &mut SendStream<Bytes>, body: &[u8]) -> Result<(), h2::Error> {
    let mut left = Bytes::copy_from_slice(body);
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(n)) => stream.send_data(left.split_to(n.min(left.len())), false)?,
            Some(Err(e)) => return Err(e),
            None => return Err(std::future::poll_fn(|cx| stream.poll_reset(cx)).await?.into()),
        }
    }
    stream.send_data(Bytes::new(), true)
}

/// The rest of an answer whose head is there.
pub async fn whole(answer: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("no code: {self:?}")).to_owned()
    }

    #[track_caller]
    pub fn id(&self) -> &str {
        self.header("x-request-id").unwrap_or_else(|| panic!("no x-request-id: {self:?}"))
    }

    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it is on the wire (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing (RFC 7541 section 6.2.2), in the order and spelling given.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, text: &str| {
        let mut left = text.len();
        if left < 127 {
            out.push(u8::try_from(left).unwrap());
        } else {
            out.push(127);
            left -= 127;
            while left >= 128 {
                out.push(u8::try_from(left % 128 + 128).unwrap());
                left /= 128;
            }
            out.push(u8::try_from(left).unwrap());
        }
        out.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// The pseudo-headers of a GET.
pub fn get_fields(path: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "https"), (":authority", HOST), (":path", path)]
}

/// A connection that sends what it is told to.
pub struct Frames {
    pub conn: TlsConn,
    next: u32,
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Of RST_STREAM and GOAWAY.
    pub fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl Frames {
    /// Opens a connection; the settings are as given (RFC 9113 section 6.5.1).
    #[track_caller]
    pub fn open(dial: &Dial, settings: &[(u16, u32)]) -> Frames {
        let mut conn = dial.clone().alpn(&["h2"]).open();
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()].concat()).collect();
        conn.send([PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat());
        Frames { conn, next: 1 }
    }

    /// A stream id that was not used yet.
    pub fn stream(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        id
    }

    #[track_caller]
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.conn.send(frame(kind, flags, stream, payload));
    }

    /// The same where the other side may have closed already.
    pub fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.conn.try_send(frame(kind, flags, stream, payload))
    }

    /// A whole request head on a new stream.
    #[track_caller]
    pub fn headers(&mut self, fields: &[(&str, &str)], end: bool) -> u32 {
        let id = self.stream();
        self.send(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, id, &block(fields));
        id
    }

    pub fn next(&mut self) -> io::Result<Frame> {
        let head = self.conn.take(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Ok(Frame { kind: head[3], flags: head[4], stream, payload: self.conn.take(length)? })
    }

    /// Reads until a frame fits.
    #[track_caller]
    pub fn await_frame(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = BTreeMap::new();
        loop {
            match self.next() {
                Ok(frame) if fits(&frame) => return frame,
                Ok(frame) => {
                    *seen.entry(frame.kind).or_insert(0) += 1;
                    // Ours to acknowledge; a connection that does not would be a different test.
                    if frame.kind == PING && frame.flags == 0 {
                        let _ = self.conn.try_send(super::http2::frame(PING, 1, 0, &frame.payload));
                    }
                }
                Err(e) => panic!("no {what}: {e}; frames by kind before: {seen:?}"),
            }
        }
    }

    /// Reads until the gateway has closed the connection; the GOAWAY it sent with an error before, if any.
    #[track_caller]
    pub fn ended(&mut self) -> Option<Frame> {
        let mut goaway = None;
        loop {
            match self.next() {
                Ok(frame) if frame.kind == GOAWAY => goaway = Some(frame),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("left open, after {goaway:?}")
                }
                Err(_) => return goaway,
            }
        }
    }
}
