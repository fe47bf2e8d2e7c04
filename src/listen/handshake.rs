//! From a TCP connection to an authenticated one, under one deadline, with evidence when it fails.

use super::conn::{Conn, linger};
use super::tls::{Current, EVIDENCE, Evidence};
use super::{Counted, Shared};
use crate::gateway::{ChainField, Connection, byte_sequence};
use crate::identity::Peer;
use crate::reason::Reason;
use crate::record::{Entry, HandshakeEntry, Presented};
use crate::request::TlsFacts;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use rustls::{HandshakeKind, ProtocolVersion};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

struct Refused {
    reason: Reason,
    detail: String,
    leaf: Option<Box<Presented>>,
    /// The socket, when it is still there to say goodbye on.
    io: Option<Box<TcpIo>>,
}

impl Refused {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Refused { reason, detail: detail.into(), leaf: None, io: None }
    }
}

/// Runs the handshake. A refusal is recorded and counted here.
pub(super) async fn accept<A>(shared: &Shared<A>, stream: TcpStream, source: SocketAddr) -> Option<Conn> {
    let started = Instant::now();
    let mut sni: Option<String> = None;
    let mut waiting = false;
    let work = secure(shared, stream, &mut sni, &mut waiting);
    let outcome = match tokio::time::timeout(shared.limits.handshake_timeout, work).await {
        Ok(outcome) => outcome,
        Err(_) if waiting => Err(Refused::new(Reason::HandshakeOverload, "too many handshakes are in progress")),
        Err(_) => Err(Refused::new(Reason::HandshakeTimeout, "the handshake did not finish in time")),
    };
    let metrics = shared.recorder.metrics();
    match outcome {
        Ok((tls, peer, resumed)) => {
            metrics.handshakes.with_label_values(&[if resumed { "resumed" } else { "ok" }]).inc();
            metrics.handshake_seconds.observe(started.elapsed().as_secs_f64());
            Some(wrap(tls, peer, source, sni))
        }
        Err(refused) => {
            metrics.handshakes.with_label_values(&[refused.reason.as_str()]).inc();
            shared.recorder.write_unreserved(&Entry::Handshake(HandshakeEntry {
                time: shared.clock.now(),
                source,
                sni: sni.as_deref(),
                certificate: refused.leaf.as_deref(),
                reason: &refused.reason,
                detail: &refused.detail,
                duration: started.elapsed(),
            }));
            if let Some(mut io) = refused.io {
                // With TLS 1.3 the client may be sending its request already; the alert must not be lost in a reset.
                let _ = io.shutdown().await;
                linger(&mut io).await;
            }
            None
        }
    }
}

async fn secure<A>(
    shared: &Shared<A>,
    stream: TcpStream,
    sni: &mut Option<String>,
    waiting: &mut bool,
) -> Result<(TlsStream<TcpIo>, Peer, bool), Refused> {
    let aborted = |e: &io::Error| Refused::new(Reason::HandshakeAborted, e.to_string());
    // Without it, small answers wait for the client's delayed acknowledgement.
    stream.set_nodelay(true).map_err(|e| aborted(&e))?;
    let io = TcpIo::from(stream);
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io)
        .await
        .map_err(|e| refusal_of(&e, Evidence::default()))?;
    *sni = start.client_hello().server_name().map(str::to_owned);
    *waiting = true;
    let _place = shared.handshakes.acquire().await.map_err(|_| Refused::new(Reason::Draining, "stopping"))?;
    *waiting = false;
    let _counted = Counted::new(shared.recorder.metrics().handshakes_now.clone());
    let Some(current) = shared.tls.current() else { return Err(Refused::new(Reason::NotReady, "no snapshot is live")) };
    let accept = start.into_stream(current.config.clone()).into_fallible();
    let (outcome, evidence) = EVIDENCE
        .scope(RefCell::new(Evidence::default()), async {
            let outcome = accept.await;
            (outcome, EVIDENCE.with(RefCell::take))
        })
        .await;
    match outcome {
        Ok(tls) => {
            let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            let peer = peer_of(shared, &current, &tls, evidence)?;
            Ok((tls, peer, resumed))
        }
        Err((e, io)) => Err(Refused { io: Some(Box::new(io)), ..refusal_of(&e, evidence) }),
    }
}

/// The peer that the verifier accepted. rustls does not call it for a resumed session, so the chain that the session
/// remembers is verified again.
fn peer_of<A>(
    shared: &Shared<A>,
    current: &Current,
    tls: &TlsStream<TcpIo>,
    evidence: Evidence,
) -> Result<Peer, Refused> {
    if let Some(outcome) = evidence.outcome {
        return outcome.map_err(|fault| Refused::new(fault.reason, fault.detail));
    }
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    current.trust.verify(chain, shared.clock.now()).map_err(|fault| Refused {
        leaf: chain.first().map(|der| Box::new(Presented::of(der))),
        ..Refused::new(fault.reason, fault.detail)
    })
}

fn refusal_of(error: &io::Error, evidence: Evidence) -> Refused {
    if let Some(Err(fault)) = evidence.outcome {
        return Refused { leaf: evidence.leaf, ..Refused::new(fault.reason, fault.detail) };
    }
    let leaf = evidence.leaf;
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let refused = match tls {
        Some(rustls::Error::NoCertificatesPresented) => {
            Refused::new(Reason::CertificateMissing, "no certificate was sent")
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            Refused::new(Reason::HandshakeAborted, format!("the client sent the alert {alert:?}"))
        }
        Some(e) => Refused::new(Reason::HandshakeProtocol, e.to_string()),
        None => Refused::new(Reason::HandshakeAborted, error.to_string()),
    };
    Refused { leaf, ..refused }
}

fn wrap(tls: TlsStream<TcpIo>, peer: Peer, source: SocketAddr, sni: Option<String>) -> Conn {
    let state = tls.get_ref().1;
    let http2 = state.alpn_protocol() == Some(b"h2");
    let facts = TlsFacts {
        version: match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "unknown",
        },
        cipher: state.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("unknown").to_owned(),
        sni,
    };
    let received = state.peer_certificates().unwrap_or_default();
    let client_cert = received.first().map(|der| byte_sequence(der));
    let chain = ChainField::of(&peer, received);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let connection = Arc::new(Connection::new(id, peer, source, Arc::new(facts), http2, (client_cert, chain)));
    // pingora carries facts of a connection beside the answer of a proxy; there is no proxy, so the answer is empty.
    let answer = ResponseHeader::build_no_case(200, Some(0)).ok();
    let digest =
        ProxyDigest::new(Box::new(answer.unwrap_or_else(pingora_http_fallback)), Some(Box::new(connection.clone())));
    Conn::new(tls, connection, Arc::new(digest))
}

/// Never needed: 200 is a status code.
fn pingora_http_fallback() -> ResponseHeader {
    let (parts, ()) = http::Response::new(()).into_parts();
    ResponseHeader::from(parts)
}
