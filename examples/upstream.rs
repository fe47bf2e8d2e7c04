//! A real upstream to put behind the gateway, for the demo and for tests.
//!
//! It answers every request with what it received, and with `--record-dir` it keeps the bytes exactly as they came, so
//! that a test can assert on what left the gateway instead of on what the gateway says it sent. It speaks HTTP/1.1,
//! HTTP/2 (prior knowledge or ALPN), WebSocket and gRPC on one port. Its HTTP/1 parser is its own: strict, plain, and
//! without the corrections that a library would make silently. It never serves anything but tests and demos.
//!
//! In `DIR/conn-N.raw` is what connection N received, after TLS and as HTTP/2 frames where it is HTTP/2; in
//! `DIR/conn-N.h2.jsonl` are its HTTP/2 requests, decoded: a line with `"event":"head"` as soon as one arrives, and one
//! with `"body"` or `"body-cut"` when no more of it will come.
//!
//! Query parameters steer one answer, so that a test can reach it through a gateway on any path:
//!
//! | parameter | effect |
//! | --- | --- |
//! | `upstream_status=503` | status of the answer, 200 to 599 |
//! | `upstream_delay_ms=200` | wait before the head |
//! | `upstream_body_bytes=5000000` | a body of that many zero bytes |
//! | `upstream_chunks=20` | no length; the body comes in that many pieces (10 when only the delay is given) |
//! | `upstream_chunk_delay_ms=50` | wait before each piece |
//! | `upstream_close=before`, `head` or `body` | close the connection before the head, after it, or halfway through the body |
//! | `upstream_header=Name:value` | one more answer header, percent-decoded, repeatable; replaces ours of that name |
//!
//! A parameter that starts with `upstream_` and is not understood is answered with 400, so that a typo in a test shows.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program: address on stdout, troubles on stderr"
)]

use bytes::{Buf, Bytes, BytesMut};
use clap::Parser;
use h2::{RecvStream, SendStream, server::SendResponse};
use ring::digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::{
    fs::File,
    future::poll_fn,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// Sample upstream: answers with what it received and records the raw bytes
#[derive(Parser)]
#[command(name = "upstream")]
struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Serve TLS (ALPN h2, http/1.1) with this PEM certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM private key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Require a client certificate issued by one of these PEM certificates
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Write received bytes to DIR/conn-N.raw and decoded h2 requests to DIR/conn-N.h2.jsonl
    #[arg(long, value_name = "DIR")]
    record_dir: Option<PathBuf>,
    /// While this file exists, /healthz answers 503
    #[arg(long, value_name = "FILE")]
    unhealthy_when: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upstream: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> io::Result<()> {
    let tls = tls_acceptor(&args)?;
    if let Some(dir) = &args.record_dir {
        std::fs::create_dir_all(dir)?;
    }
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|error| io::Error::other(format!("`--listen {}`: {error}", args.listen)))?;
    println!("listening on {}", listener.local_addr()?);
    io::stdout().flush()?;

    let args = Arc::new(args);
    let mut number = 0;
    loop {
        let tcp = tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    eprintln!("upstream: accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        number += 1;
        let (args, tls) = (args.clone(), tls.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_connection(args, number, tcp, tls).await {
                eprintln!("upstream: connection {number}: {error}");
            }
        });
    }
}

fn tls_acceptor(args: &Args) -> io::Result<Option<tokio_rustls::TlsAcceptor>> {
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let named = |path: &Path, error: String| io::Error::other(format!("`{}`: {error}", path.display()));
    let certificates = |path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let read = read.map_err(|error| named(path, error.to_string()))?;
        if read.is_empty() { Err(named(path, "no certificate in it".into())) } else { Ok(read) }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &args.tls_client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| named(path, error.to_string()))?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| named(path, error.to_string()))?)
        }
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, error.to_string()))?;
    let config = builder.with_single_cert(certificates(cert)?, private);
    let mut config = config.map_err(|error| named(key, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config).into()))
}

/// What is the same for all requests of one connection.
struct Connection {
    args: Arc<Args>,
    number: u64,
    /// `null` without TLS.
    tls: Value,
}

async fn serve_connection(
    args: Arc<Args>,
    number: u64,
    tcp: TcpStream,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (io, tls): (Box<dyn Io>, Value) = match acceptor {
        None => (Box::new(tcp), Value::Null),
        Some(acceptor) => {
            let stream = acceptor.accept(tcp).await?;
            let session = stream.get_ref().1;
            let client = session.peer_certificates().and_then(<[_]>::first).map(|der| sha256_hex(der));
            let alpn = session.alpn_protocol().map(String::from_utf8_lossy);
            let facts =
                json!({"server_name": session.server_name(), "alpn": alpn, "client_certificate_sha256": client});
            (Box::new(stream), facts)
        }
    };
    let raw = args.record_dir.as_ref().map(|dir| append_to(&dir.join(format!("conn-{number}.raw")))).transpose()?;
    let connection = Connection { args, number, tls };
    let mut wire = Wire { io, replay: Bytes::new(), raw };

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut start = BytesMut::new();
    while start.len() < PREFACE.len() && PREFACE.starts_with(&start) {
        if wire.read_buf(&mut start).await? == 0 {
            break;
        }
    }
    if start.starts_with(PREFACE) {
        wire.replay = start.freeze();
        serve_http2(Arc::new(connection), wire).await.map_err(io::Error::other)
    } else {
        Http1 { connection, wire, unread: start }.serve().await
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection that writes down every byte it receives before anybody interprets it.
struct Wire {
    io: Box<dyn Io>,
    /// Received and recorded earlier, to be read once more.
    replay: Bytes,
    raw: Option<File>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.replay.has_remaining() {
            let length = self.replay.len().min(buffer.remaining());
            buffer.put_slice(&self.replay.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        // Blocking on purpose: the bytes are in the file before the answer is on its way.
        let received = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.raw.as_mut().map_or(Ok(()), |file| file.write_all(received)))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

type Fields = Vec<(String, Vec<u8>)>;

struct Head {
    method: String,
    target: String,
    version: &'static str,
    fields: Fields,
}

impl Head {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// Whether one of the comma-separated members of all lines of the field is `token`.
    fn lists(&self, name: &str, token: &str) -> bool {
        let mut members = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// A request body as it passes by.
struct Tally {
    bytes: u64,
    sha256: digest::Context,
    trailers: Fields,
}

impl Tally {
    fn new() -> Self {
        Self { bytes: 0, sha256: digest::Context::new(&digest::SHA256), trailers: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
    }
}

fn describe(connection: &Connection, nth: u64, head: &Head, body: &Tally) -> Value {
    let text = |fields: &Fields| -> Value {
        fields.iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)])).collect()
    };
    json!({
        "method": head.method, "target": head.target, "version": head.version,
        "headers": text(&head.fields), "trailers": text(&body.trailers),
        "body_bytes": body.bytes, "body_sha256": hex::encode(body.sha256.clone().finish()),
        "connection": connection.number, "request_on_connection": nth, "tls": connection.tls,
    })
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Close {
    #[default]
    Never,
    Before,
    Head,
    Body,
}

/// What the query parameters ask for.
#[derive(Default)]
struct Plan {
    status: Option<u16>,
    delay: Duration,
    body_bytes: Option<u64>,
    chunks: Option<u64>,
    chunk_delay: Option<Duration>,
    close: Close,
    fields: Fields,
}

impl Plan {
    fn from_target(target: &str) -> Result<Self, String> {
        let mut plan = Self::default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            let wrong = || format!("`{name}={value}` is not understood");
            let number = || value.parse::<u64>().map_err(|_| wrong());
            match name {
                "upstream_status" => {
                    plan.status = Some(number()?.try_into().ok().filter(|s| (200..600).contains(s)).ok_or_else(wrong)?);
                }
                "upstream_delay_ms" => plan.delay = Duration::from_millis(number()?),
                "upstream_body_bytes" => plan.body_bytes = Some(number()?),
                "upstream_chunks" => plan.chunks = Some(number()?.max(1)),
                "upstream_chunk_delay_ms" => plan.chunk_delay = Some(Duration::from_millis(number()?)),
                "upstream_close" => {
                    plan.close = match value {
                        "before" => Close::Before,
                        "head" => Close::Head,
                        "body" => Close::Body,
                        _ => return Err(wrong()),
                    }
                }
                "upstream_header" => {
                    let field = percent_decode(value);
                    let colon = field.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
                    let (name, value) = field.split_at(colon);
                    let name =
                        String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty()).ok_or_else(wrong)?;
                    plan.fields.push((name, value.trim_ascii_start().strip_prefix(b":").unwrap_or_default().to_vec()));
                }
                _ if name.starts_with("upstream_") => return Err(wrong()),
                _ => {}
            }
        }
        Ok(plan)
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        decoded.extend(escaped.as_deref().unwrap_or(&[*first]));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    decoded
}

enum Content {
    Text(Bytes),
    Zeros(u64),
}

/// An answer before either protocol has framed it.
struct Answer {
    status: u16,
    fields: Fields,
    content: Content,
    /// The content is sent in this many pieces.
    pieces: u64,
    /// Wait before each piece.
    piece_delay: Duration,
    /// Without a length in advance.
    streamed: bool,
    close: Close,
}

impl Answer {
    fn new(connection: &Connection, nth: u64, head: &Head, body: &Tally, plan: Plan) -> Self {
        let (mut status, mut kind, mut text) =
            (200, "application/json", describe(connection, nth, head, body).to_string());
        if head.target.split('?').next() == Some("/healthz") {
            let ill = connection.args.unhealthy_when.as_ref().is_some_and(|path| path.exists());
            (status, kind, text) =
                if ill { (503, "text/plain", "unhealthy".into()) } else { (200, "text/plain", "ok".into()) };
        }
        let streamed = plan.chunks.is_some() || plan.chunk_delay.is_some();
        let chunks = plan.chunks.unwrap_or(10);
        let (content, pieces) = match plan.body_bytes {
            Some(bytes) => (Content::Zeros(bytes), bytes.div_ceil(64 * 1024).max(2)),
            None => (Content::Text(text.into()), 2),
        };
        let kind = if plan.body_bytes.is_some() { "application/octet-stream" } else { kind };
        let mut fields = plan.fields;
        add_missing(&mut fields, "content-type", kind);
        Self {
            status: plan.status.unwrap_or(status),
            fields,
            content,
            pieces: if streamed { chunks } else { pieces },
            piece_delay: plan.chunk_delay.unwrap_or_default(),
            streamed,
            close: plan.close,
        }
    }

    fn refusal(error: &str) -> Self {
        Self {
            status: 400,
            fields: vec![("content-type".into(), b"application/json".to_vec())],
            content: Content::Text(json!({"error": error}).to_string().into()),
            pieces: 1,
            piece_delay: Duration::ZERO,
            streamed: false,
            close: Close::Never,
        }
    }

    fn length(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.len() as u64,
            Content::Zeros(bytes) => *bytes,
        }
    }

    fn has_body(&self, method: &str) -> bool {
        method != "HEAD" && !matches!(self.status, 204 | 304) && (self.length() > 0 || self.streamed)
    }

    /// The pieces that are sent: all of them, or half of them when the connection is to be closed in the middle.
    fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let last = if self.close == Close::Body { self.pieces.div_ceil(2) } else { self.pieces };
        let bound =
            move |piece: u64| (u128::from(self.length()) * u128::from(piece) / u128::from(self.pieces)) as usize;
        (0..last).map(move |piece| match &self.content {
            Content::Text(text) => text.slice(bound(piece)..bound(piece + 1)),
            Content::Zeros(_) => Bytes::from(vec![0; bound(piece + 1) - bound(piece)]),
        })
    }
}

fn add_missing(fields: &mut Fields, name: &str, value: &str) {
    if !fields.iter().any(|(present, _)| present.eq_ignore_ascii_case(name)) {
        fields.push((name.into(), value.into()));
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

struct Http1 {
    connection: Connection,
    wire: Wire,
    /// Received, not yet consumed.
    unread: BytesMut,
}

enum Fault {
    Gone(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

impl Http1 {
    async fn serve(mut self) -> io::Result<()> {
        for nth in 1.. {
            match self.exchange(nth).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(Fault::Gone(error)) => return Err(error),
                Err(Fault::Malformed(what)) => {
                    self.send_answer("", "HTTP/1.1", &Answer::refusal(what), false).await?;
                    // Read on for a moment: a reset because of unread bytes could take the answer away from the client.
                    self.wire.shutdown().await?;
                    let mut nowhere = tokio::io::sink();
                    let rest = tokio::io::copy(&mut self.wire, &mut nowhere);
                    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
                    break;
                }
            }
        }
        Ok(())
    }

    /// One request and its answer; whether another may follow.
    async fn exchange(&mut self, nth: u64) -> Result<bool, Fault> {
        let Some(head) = self.read_head().await? else { return Ok(false) };
        let framing = framing(&head)?;
        if head.version == "HTTP/1.1" && head.lists("expect", "100-continue") {
            self.wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            self.wire.flush().await?;
        }
        let body = self.read_body(framing).await?;
        let plan = match Plan::from_target(&head.target) {
            Ok(plan) => plan,
            Err(error) => {
                self.send_answer(&head.method, head.version, &Answer::refusal(&error), true).await?;
                return Ok(true);
            }
        };
        tokio::time::sleep(plan.delay).await;
        if plan.close == Close::Before {
            return Ok(false);
        }
        if plan.status.is_none() && head.lists("connection", "upgrade") && head.lists("upgrade", "websocket") {
            self.serve_websocket(&head, &plan).await?;
            return Ok(false);
        }
        let keep = match head.version {
            "HTTP/1.0" => head.lists("connection", "keep-alive"),
            _ => !head.lists("connection", "close"),
        };
        let answer = Answer::new(&self.connection, nth, &head, &body, plan);
        Ok(self.send_answer(&head.method, head.version, &answer, keep).await?)
    }

    /// Whether the connection is still good for another request.
    async fn send_answer(&mut self, method: &str, version: &str, answer: &Answer, keep: bool) -> io::Result<bool> {
        let bodiless = matches!(answer.status, 204 | 304);
        let chunked = answer.streamed && version == "HTTP/1.1" && !bodiless;
        let asked = |(name, value): &(String, Vec<u8>)| name.eq_ignore_ascii_case("connection") && value == b"close";
        let keep = keep && (chunked || bodiless || !answer.streamed) && !answer.fields.iter().any(asked);
        let mut fields = answer.fields.clone();
        if chunked {
            add_missing(&mut fields, "transfer-encoding", "chunked");
        } else if !answer.streamed && !bodiless {
            add_missing(&mut fields, "content-length", &answer.length().to_string());
        }
        match (keep, version) {
            (false, _) => add_missing(&mut fields, "connection", "close"),
            (true, "HTTP/1.0") => add_missing(&mut fields, "connection", "keep-alive"),
            (true, _) => {}
        }
        self.send_head(answer.status, &fields).await?;
        if answer.close == Close::Head {
            return Ok(false);
        }
        if answer.has_body(method) {
            for piece in answer.pieces() {
                tokio::time::sleep(answer.piece_delay).await;
                match chunked {
                    _ if piece.is_empty() => {}
                    true => {
                        let size = format!("{:x}\r\n", piece.len());
                        self.wire.write_all(&[size.as_bytes(), &piece, b"\r\n"].concat()).await?;
                    }
                    false => self.wire.write_all(&piece).await?,
                }
                self.wire.flush().await?;
            }
            if answer.close == Close::Body {
                return Ok(false);
            }
            if chunked {
                self.wire.write_all(b"0\r\n\r\n").await?;
                self.wire.flush().await?;
            }
        }
        if !keep {
            self.wire.shutdown().await?;
        }
        Ok(keep)
    }

    async fn send_head(&mut self, status: u16, fields: &Fields) -> io::Result<()> {
        let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Unassigned");
        let mut head = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
        for (name, value) in fields {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        self.wire.write_all(&head).await?;
        self.wire.flush().await
    }

    /// `None`: the client closed between two requests.
    async fn read_head(&mut self) -> Result<Option<Head>, Fault> {
        loop {
            if let Some(end) = head_end(&self.unread)? {
                return parse_head(&self.unread.split_to(end)).map(Some);
            }
            if self.unread.len() > 1024 * 1024 {
                return Err(Fault::Malformed("request head over 1 MiB"));
            }
            match self.more().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.unread.is_empty() => {
                    return Ok(None);
                }
                other => other?,
            }
        }
    }

    async fn read_body(&mut self, framing: Framing) -> Result<Tally, Fault> {
        let mut body = Tally::new();
        match framing {
            Framing::Length(length) => self.read_data(length, &mut body).await?,
            Framing::Chunked => {
                loop {
                    let line = self.read_line().await?;
                    let size = (*line).split(|byte: &u8| *byte == b';').next().unwrap_or_default();
                    let size = std::str::from_utf8(size).ok().filter(|s| s.bytes().all(|b| b.is_ascii_hexdigit()));
                    match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
                        None => return Err(Fault::Malformed("chunk size")),
                        Some(0) => break,
                        Some(size) => self.read_data(size, &mut body).await?,
                    }
                    if !self.read_line().await?.is_empty() {
                        return Err(Fault::Malformed("no CRLF after a chunk"));
                    }
                }
                loop {
                    match self.read_line().await? {
                        line if line.is_empty() => break,
                        line => body.trailers.push(parse_field(&line)?),
                    }
                }
            }
        }
        Ok(body)
    }

    async fn read_data(&mut self, mut length: u64, body: &mut Tally) -> io::Result<()> {
        while length > 0 {
            if self.unread.is_empty() {
                self.more().await?;
            }
            let now = usize::try_from(length).unwrap_or(usize::MAX).min(self.unread.len());
            body.add(&self.unread.split_to(now));
            length -= now as u64;
        }
        Ok(())
    }

    async fn read_line(&mut self) -> Result<BytesMut, Fault> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let mut line = self.unread.split_to(end + 1);
                line.truncate(end);
                return match line.last() {
                    Some(b'\r') => Ok(line.split_to(end - 1)),
                    _ => Err(Fault::Malformed("bare LF")),
                };
            }
            if self.unread.len() > 64 * 1024 {
                return Err(Fault::Malformed("line over 64 KiB"));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.wire.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Where the empty line after a request head ends.
fn head_end(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let mut start = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        match bytes.get(start..at).unwrap_or_default() {
            b"\r" => return Ok(Some(at + 1)),
            [.., b'\r'] => start = at + 1,
            _ => return Err(Fault::Malformed("bare LF")),
        }
    }
    Ok(None)
}

fn parse_head(bytes: &[u8]) -> Result<Head, Fault> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let mut parts = first.split(' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::Malformed("request line"));
    };
    if !is_token(method.as_bytes()) || target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::Malformed("method or target"));
    }
    let version = match version {
        "HTTP/1.1" => "HTTP/1.1",
        "HTTP/1.0" => "HTTP/1.0",
        _ => return Err(Fault::Malformed("version")),
    };
    let fields = lines.take_while(|line| !line.is_empty()).map(parse_field).collect::<Result<_, _>>()?;
    let head = Head { method: method.into(), target: target.into(), version, fields };
    match (version, head.values("host").count()) {
        (_, 1) | ("HTTP/1.0", 0) => Ok(head),
        _ => Err(Fault::Malformed("not exactly one Host")),
    }
}

fn parse_field(line: &[u8]) -> Result<(String, Vec<u8>), Fault> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::Malformed("header line without colon"))?;
    let (name, value) = line.split_at(colon);
    let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
    if !is_token(name) {
        return Err(Fault::Malformed("header name"));
    }
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Fault::Malformed("control character in a header value"));
    }
    Ok((String::from_utf8_lossy(name).into_owned(), value.to_vec()))
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// RFC 9112 section 6.3, without its leniencies.
fn framing(head: &Head) -> Result<Framing, Fault> {
    let lengths: Vec<_> = head.values("content-length").collect();
    let codings: Vec<_> = head.values("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|digits| digits.parse().ok());
            length.map(Framing::Length).ok_or(Fault::Malformed("Content-Length"))
        }
        ([], [coding]) if head.version == "HTTP/1.1" && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => Err(Fault::Malformed("ambiguous framing")),
    }
}

impl Http1 {
    /// Echoes text and binary frames as they are fragmented, answers pings, until closed (RFC 6455).
    async fn serve_websocket(&mut self, head: &Head, plan: &Plan) -> Result<(), Fault> {
        let (mut keys, mut versions) = (head.values("sec-websocket-key"), head.values("sec-websocket-version"));
        let (Some(key), None, Some(b"13")) = (keys.next(), keys.next(), versions.next()) else {
            return Err(Fault::Malformed("WebSocket handshake"));
        };
        let mut fields = plan.fields.clone();
        add_missing(&mut fields, "upgrade", "websocket");
        add_missing(&mut fields, "connection", "upgrade");
        add_missing(&mut fields, "sec-websocket-accept", &websocket_accept(key));
        if let Some(offer) = head.values("sec-websocket-protocol").next() {
            let first = offer.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            add_missing(&mut fields, "sec-websocket-protocol", &String::from_utf8_lossy(first));
        }
        self.send_head(101, &fields).await?;
        if plan.close == Close::Head {
            return Ok(());
        }
        loop {
            let (first, second) = (self.read_byte().await?, self.read_byte().await?);
            let length = match second & 0x7f {
                126 => u64::from(u16::from_be_bytes(self.read_array().await?)),
                127 => u64::from_be_bytes(self.read_array().await?),
                short => u64::from(short),
            };
            if second & 0x80 == 0 || length > 16 * 1024 * 1024 {
                let code: u16 = if second & 0x80 == 0 { 1002 } else { 1009 };
                return Ok(self.send_close(&code.to_be_bytes()).await?);
            }
            let mask: [u8; 4] = self.read_array().await?;
            let mut payload = self.read_exactly(length as usize).await?;
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            match first & 0x0f {
                0..=2 => self.send_frame(first, &payload).await?,
                8 => return Ok(self.send_close(&payload).await?),
                9 => self.send_frame(0x8a, &payload).await?,
                10 => {}
                _ => return Ok(self.send_close(&1002_u16.to_be_bytes()).await?),
            }
        }
    }

    async fn send_close(&mut self, payload: &[u8]) -> io::Result<()> {
        self.send_frame(0x88, payload).await?;
        self.wire.shutdown().await
    }

    async fn send_frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(length as u8),
            length @ 126..65536 => frame.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
            length => frame.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
        }
        frame.extend(payload);
        self.wire.write_all(&frame).await?;
        self.wire.flush().await
    }

    async fn read_exactly(&mut self, length: usize) -> io::Result<BytesMut> {
        while self.unread.len() < length {
            self.more().await?;
        }
        Ok(self.unread.split_to(length))
    }

    async fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.read_exactly(N).await?.as_ref().try_into().map_err(io::Error::other)
    }

    async fn read_byte(&mut self) -> io::Result<u8> {
        self.read_array::<1>().await.map(u8::from_be_bytes)
    }
}

fn websocket_accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    base64(sha1.as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |group: &[u8]| {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
        let digit = |at: usize| ALPHABET.get(bits >> (18 - 6 * at) & 63).filter(|_| at <= group.len());
        (0..4).map(|at| digit(at).map_or('=', |byte| char::from(*byte))).collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

async fn serve_http2(connection: Arc<Connection>, wire: Wire) -> Result<(), h2::Error> {
    let mut http2 = h2::server::Builder::new()
        .initial_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_header_list_size(1024 * 1024)
        .handshake::<_, Bytes>(wire)
        .await?;
    let cut = Arc::new(Notify::new());
    for nth in 1.. {
        let (request, respond) = tokio::select! {
            biased;
            () = cut.notified() => {
                // Once more, so that what is queued is written; then the connection is dropped without GOAWAY.
                poll_fn(|cx| Poll::Ready(http2.poll_accept(cx).is_ready())).await;
                return Ok(());
            }
            accepted = http2.accept() => match accepted {
                Some(accepted) => accepted?,
                None => return Ok(()),
            },
        };
        let exchange = Http2 { connection: connection.clone(), nth, cut: cut.clone() };
        tokio::spawn(async move {
            let number = exchange.connection.number;
            if let Err(error) = exchange.serve(request, respond).await {
                eprintln!("upstream: connection {number}, request {nth}: {error}");
            }
        });
    }
    Ok(())
}

/// One request on an HTTP/2 connection.
struct Http2 {
    connection: Arc<Connection>,
    nth: u64,
    /// Ends the whole connection.
    cut: Arc<Notify>,
}

impl Http2 {
    async fn serve(
        self,
        request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let (parts, mut incoming) = request.into_parts();
        let head = http2_head(&parts);
        self.write_down("head", &head, &Tally::new());
        let plan = match Plan::from_target(&head.target) {
            Ok(plan) => plan,
            Err(error) => return self.send_answer(&head.method, respond, Answer::refusal(&error)).await,
        };
        if plan.status.is_none() && head.values("content-type").any(|kind| kind.starts_with(b"application/grpc")) {
            return self.serve_grpc(&head, plan, incoming, respond).await;
        }
        let mut body = Tally::new();
        let received = loop {
            match next_data(&mut incoming, &mut body).await {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.write_down(if received.is_ok() { "body" } else { "body-cut" }, &head, &body);
        received?;
        tokio::time::sleep(plan.delay).await;
        if plan.close == Close::Before {
            self.cut(|cx| respond.poll_reset(cx)).await;
            return Ok(());
        }
        let answer = Answer::new(&self.connection, self.nth, &head, &body, plan);
        self.send_answer(&head.method, respond, answer).await
    }

    async fn send_answer(
        &self,
        method: &str,
        mut respond: SendResponse<Bytes>,
        answer: Answer,
    ) -> Result<(), h2::Error> {
        let mut fields = answer.fields.clone();
        if !answer.streamed && !matches!(answer.status, 204 | 304) {
            add_missing(&mut fields, "content-length", &answer.length().to_string());
        }
        let end = !answer.has_body(method) && answer.close != Close::Head;
        let mut stream = respond.send_response(http2_response(answer.status, &fields), end)?;
        if answer.close == Close::Head {
            self.cut(|cx| stream.poll_reset(cx)).await;
        } else if !end {
            for piece in answer.pieces() {
                tokio::time::sleep(answer.piece_delay).await;
                send_data(&mut stream, piece).await?;
            }
            match answer.close {
                Close::Body => self.cut(|cx| stream.poll_reset(cx)).await,
                _ => stream.send_data(Bytes::new(), true)?,
            }
        }
        Ok(())
    }

    /// Sends every message back as soon as it is complete.
    async fn serve_grpc(
        &self,
        head: &Head,
        plan: Plan,
        mut incoming: RecvStream,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        tokio::time::sleep(plan.delay).await;
        if plan.close == Close::Before {
            self.cut(|cx| respond.poll_reset(cx)).await;
            return Ok(());
        }
        let mut fields = plan.fields;
        for same in ["content-type", "grpc-encoding"] {
            if let Some(value) = head.values(same).next() {
                add_missing(&mut fields, same, &String::from_utf8_lossy(value));
            }
        }
        let mut stream = respond.send_response(http2_response(200, &fields), false)?;
        if plan.close == Close::Head {
            self.cut(|cx| stream.poll_reset(cx)).await;
            return Ok(());
        }
        let (mut body, mut unread) = (Tally::new(), BytesMut::new());
        let received = loop {
            match next_data(&mut incoming, &mut body).await {
                Ok(Some(data)) => unread.extend_from_slice(&data),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            while let Some(length) = unread.get(1..5).and_then(|prefix| prefix.try_into().ok()).map(u32::from_be_bytes)
            {
                let frame = 5 + length as usize;
                if unread.len() < frame {
                    break;
                }
                send_data(&mut stream, unread.split_to(frame).freeze()).await?;
            }
        };
        self.write_down(if received.is_ok() { "body" } else { "body-cut" }, head, &body);
        received?;
        if plan.close == Close::Body {
            self.cut(|cx| stream.poll_reset(cx)).await;
            return Ok(());
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(if unread.is_empty() { "0" } else { "13" }));
        stream.send_trailers(trailers)
    }

    /// Ends the connection, and holds on to the stream until then: dropped, it would be reset and lose what is queued.
    async fn cut<T>(&self, mut poll_reset: impl FnMut(&mut Context<'_>) -> Poll<T>) {
        self.cut.notify_one();
        poll_fn(|cx| poll_reset(cx)).await;
    }

    /// One line when the head is there, so that no request goes unseen, and one when the body has ended or was cut off.
    fn write_down(&self, event: &str, head: &Head, body: &Tally) {
        let Some(dir) = &self.connection.args.record_dir else { return };
        let Value::Object(facts) = describe(&self.connection, self.nth, head, body) else { return };
        let known =
            |name: &String| event != "head" || !matches!(name.as_str(), "trailers" | "body_bytes" | "body_sha256");
        let event = [("event".to_owned(), event.into())];
        let line: Value = event.into_iter().chain(facts.into_iter().filter(|(name, _)| known(name))).collect();
        let path = dir.join(format!("conn-{}.h2.jsonl", self.connection.number));
        if let Err(error) = append_to(&path).and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            eprintln!("upstream: `{}`: {error}", path.display());
        }
    }
}

fn http2_head(parts: &http::request::Parts) -> Head {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
    let pseudo = [
        (":method", Some(parts.method.as_str())),
        (":scheme", parts.uri.scheme_str()),
        (":authority", parts.uri.authority().map(|authority| authority.as_str())),
        (":path", Some(target.as_str()).filter(|target| !target.is_empty())),
    ];
    let mut fields: Fields = pseudo.iter().filter_map(|(n, value)| Some(((*n).into(), (*value)?.into()))).collect();
    fields.extend(parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())));
    Head { method: parts.method.to_string(), target, version: "HTTP/2", fields }
}

/// A field that HTTP/2 cannot carry is left out.
fn http2_response(status: u16, fields: &Fields) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), http::HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The next piece of the request body, counted; after the last one its trailers are counted and `None` is returned.
async fn next_data(incoming: &mut RecvStream, body: &mut Tally) -> Result<Option<Bytes>, h2::Error> {
    match incoming.data().await.transpose()? {
        Some(data) => {
            incoming.flow_control().release_capacity(data.len())?;
            body.add(&data);
            Ok(Some(data))
        }
        None => {
            let trailers = incoming.trailers().await?.unwrap_or_default();
            body.trailers.extend(trailers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())));
            Ok(None)
        }
    }
}

/// Waits for the client's window, so that a slow client slows us.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap_or(Err(h2::Reason::CANCEL.into()))?;
        if capacity > 0 {
            stream.send_data(data.split_to(capacity.min(data.len())), false)?;
        }
    }
    Ok(())
}
