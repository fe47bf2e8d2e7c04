//! From a TCP connection to an authenticated one, under one deadline, with evidence when it fails: the PROXY header of
//! a listed proxy, the source's rate, TLS, the partner's share.

use super::conn::{Conn, linger};
use super::proxy::{self, Announced};
use super::share::Share;
use super::tls::{Current, EVIDENCE, Evidence};
use super::{Counted, Shared, alert};
use crate::gateway::{ChainField, Connection, byte_sequence};
use crate::identity::Peer;
use crate::reason::Reason;
use crate::record::{Alert, Entry, HandshakeEntry, Presented};
use crate::registry::Resolution;
use crate::request::TlsFacts;
use pingora_core::protocols::l4::stream::Stream as TcpIo;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use rustls::{HandshakeKind, ProtocolVersion};
use std::cell::RefCell;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a refused client may take to accept the last bytes for it.
const FAREWELL: Duration = Duration::from_secs(1);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

struct Refused {
    reason: Reason,
    detail: String,
    leaf: Option<Box<Presented>>,
    alert: Option<Alert>,
    /// The socket, when it is still there to say goodbye on, and what is still to be sent.
    io: Option<(Box<TcpIo>, Vec<u8>)>,
}

impl Refused {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Refused { reason, detail: detail.into(), leaf: None, alert: None, io: None }
    }
}

/// What is known of a connection while its handshake goes on.
struct Coming {
    source: SocketAddr,
    /// The proxy that the connection came through, when it has announced the source.
    via: Option<SocketAddr>,
    sni: Option<String>,
    stage: Stage,
}

enum Stage {
    ProxyHeader,
    /// For a place among the handshakes in progress.
    Waiting,
    Handshake,
}

/// A connection whose client is known.
struct Secured {
    tls: TlsStream<TcpIo>,
    peer: Peer,
    share: Share,
    resumed: bool,
}

/// Runs the handshake. A refusal is recorded and counted here.
pub(super) async fn accept<A>(shared: &Shared<A>, stream: TcpStream, source: SocketAddr) -> Option<(Conn, Share)> {
    let started = Instant::now();
    let mut coming = Coming { source, via: None, sni: None, stage: Stage::Handshake };
    let work = secure(shared, stream, &mut coming);
    let outcome = tokio::time::timeout(shared.limits.handshake_timeout, work).await.unwrap_or_else(|_| {
        Err(match coming.stage {
            Stage::ProxyHeader => Refused::new(Reason::HandshakeTimeout, "the PROXY header did not arrive in time"),
            Stage::Waiting => Refused::new(Reason::HandshakeOverload, "too many handshakes are in progress"),
            Stage::Handshake => Refused::new(Reason::HandshakeTimeout, "the handshake did not finish in time"),
        })
    });
    let metrics = shared.recorder.metrics();
    match outcome {
        Ok(Secured { tls, peer, share, resumed }) => {
            metrics.handshakes.with_label_values(&[if resumed { "resumed" } else { "ok" }]).inc();
            metrics.handshake_seconds.observe(started.elapsed().as_secs_f64());
            metrics.anchor_handshake(peer.anchor.as_str());
            Some((wrap(tls, peer, coming), share))
        }
        Err(mut refused) => {
            // Where many make way at the same moment, they go one after another.
            shared.caps.turns.take(ready(())).await;
            metrics.handshakes.with_label_values(&[refused.reason.as_str()]).inc();
            if let (Reason::CertificateRevoked, Some(leaf)) = (&refused.reason, &refused.leaf) {
                shared.recorder.usage().refused_handshake(leaf.fingerprint, shared.clock.now());
            }
            if let Some(via) = coming.via {
                refused.detail = format!("{} (through {via})", refused.detail);
            }
            shared.recorder.write_unreserved(&Entry::Handshake(HandshakeEntry {
                time: shared.clock.now(),
                source: coming.source,
                sni: coming.sni.as_deref(),
                certificate: refused.leaf.as_deref(),
                reason: &refused.reason,
                detail: &refused.detail,
                alert: refused.alert.as_ref(),
                duration: started.elapsed(),
            }));
            if let Some((mut io, last)) = refused.io {
                // With TLS 1.3 the client may be sending its request already; the alert must not be lost in a reset.
                let said = async {
                    io.write_all(&last).await?;
                    io.shutdown().await
                };
                let _ = tokio::time::timeout(FAREWELL, said).await;
                linger(&mut io).await;
            }
            None
        }
    }
}

async fn secure<A>(shared: &Shared<A>, mut stream: TcpStream, coming: &mut Coming) -> Result<Secured, Refused> {
    // Without it, small answers wait for the client's delayed acknowledgement.
    stream.set_nodelay(true).map_err(|e| aborted(&e))?;
    if shared.live.load().as_ref().is_some_and(|l| l.proxies.iter().any(|net| net.contains(&coming.source.ip()))) {
        announced(&mut stream, coming).await?;
    }
    if !shared.caps.sources.admit(coming.source.ip(), shared.limits.handshakes_per_source, Instant::now()) {
        return Err(Refused::new(Reason::HandshakeRate, "too many handshakes from this source in one second"));
    }
    let io = TcpIo::from(stream);
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
    let start = shared.caps.turns.take(hello).await.map_err(|e| refusal_of(&e, Evidence::default()))?;
    coming.sni = start.client_hello().server_name().map(str::to_owned);
    coming.stage = Stage::Waiting;
    let place = shared.caps.place().await;
    let _place = place.map_err(|_| Refused::new(Reason::Draining, "stopping"))?;
    coming.stage = Stage::Handshake;
    let _counted = Counted::new(shared.recorder.metrics().handshakes_now.clone());
    let Some(current) = shared.tls.current() else { return Err(Refused::new(Reason::NotReady, "no snapshot is live")) };
    let config = current.config.clone();
    // The first step answers the ClientHello, with a signature: it is the longest of all.
    let accept = async { start.into_stream(config).into_fallible().await };
    let accept = EVIDENCE.scope(RefCell::new(Evidence::default()), async {
        let outcome = shared.caps.placed(accept).await;
        (outcome, EVIDENCE.with(RefCell::take))
    });
    let (outcome, evidence) = accept.await;
    let Some(outcome) = outcome else {
        // Many came together and go together: one after another, since letting go takes a while too.
        shared.caps.turns.take(ready(())).await;
        return Err(Refused::new(Reason::HandshakeOverload, "the handshake took long while others waited"));
    };
    let tls = match outcome {
        Ok(tls) => tls,
        Err((e, io)) => {
            let mut refused = refusal_of(&e, evidence);
            if let (Some(rustls::Error::General(_)), Some(name)) = (cause(&e), coming.sni.as_deref()) {
                if !current.has_certificate_for(name) {
                    refused.reason = Reason::ServerNameUnknown;
                    refused.detail = format!("no server certificate is for `{}`", name.escape_debug());
                }
            }
            return Err(Refused { io: Some((Box::new(io), Vec::new())), ..refused });
        }
    };
    let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    match admit(shared, &current, &tls, evidence) {
        Ok((peer, share)) => Ok(Secured { tls, peer, share, resumed }),
        Err(refused) => Err(closing(tls, refused)),
    }
}

/// Reads the PROXY header that this peer has to send.
async fn announced(stream: &mut TcpStream, coming: &mut Coming) -> Result<(), Refused> {
    coming.stage = Stage::ProxyHeader;
    match proxy::read(stream).await.map_err(|e| aborted(&e))? {
        Ok(Some(Announced::Source(source))) => coming.via = Some(std::mem::replace(&mut coming.source, source)),
        Ok(Some(Announced::Nobody)) => {}
        Ok(None) => return Err(aborted(&io::ErrorKind::UnexpectedEof.into())),
        Err(fault) => return Err(Refused::new(Reason::ProxyHeaderInvalid, fault.to_string())),
    }
    coming.stage = Stage::Handshake;
    Ok(())
}

fn aborted(e: &io::Error) -> Refused {
    Refused::new(Reason::HandshakeAborted, e.to_string())
}

/// Who the client is, and its place in its partner's share.
fn admit<A>(
    shared: &Shared<A>,
    current: &Current,
    tls: &TlsStream<TcpIo>,
    evidence: Evidence,
) -> Result<(Peer, Share), Refused> {
    let peer = peer_of(shared, current, tls, evidence)?;
    let live = shared.live.load();
    let partner = live.as_ref().and_then(|l| match l.snapshot.registry.resolve(&peer) {
        Resolution::Known { record, .. } => Some(record.partner.id.clone()),
        _ => None,
    });
    let detail = match &partner {
        Some(partner) => format!("`{partner}` has too many connections open"),
        None => "unknown identities have too many connections open".to_owned(),
    };
    match shared.caps.shares.take(partner, shared.recorder.metrics()) {
        Some(share) => Ok((peer, share)),
        None => {
            let leaf = Some(Box::new(Presented::from(&peer)));
            Err(Refused { leaf, ..Refused::new(Reason::PartnerConnectionLimit, detail) })
        }
    }
}

/// After a whole handshake there is but one alert left to send.
fn closing(tls: TlsStream<TcpIo>, refused: Refused) -> Refused {
    let (io, mut state) = tls.into_inner();
    state.send_close_notify();
    let mut last = Vec::new();
    while state.wants_write() && state.write_tls(&mut last).is_ok() {}
    Refused { alert: Some(alert::close_notify()), io: Some((Box::new(io), last)), ..refused }
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

fn cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|e| e.downcast_ref())
}

fn refusal_of(error: &io::Error, evidence: Evidence) -> Refused {
    let tls = cause(error);
    let alert = tls.and_then(alert::of);
    let leaf = match evidence.outcome {
        Some(Err(fault)) => return Refused { leaf: evidence.leaf, alert, ..Refused::new(fault.reason, fault.detail) },
        // Its chain was good, and then it did not prove that the key is its own.
        Some(Ok(peer)) => Some(Box::new(Presented::from(&peer))),
        None => None,
    };
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
    Refused { leaf, alert, ..refused }
}

fn wrap(tls: TlsStream<TcpIo>, peer: Peer, Coming { source, sni, .. }: Coming) -> Conn {
    let state = tls.get_ref().1;
    let http2 = state.alpn_protocol() == Some(b"h2");
    let facts = TlsFacts {
        version: match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "unknown",
        },
        cipher: state
            .negotiated_cipher_suite()
            .map_or_else(|| "unknown".to_owned(), |suite| TlsFacts::cipher_name(suite.suite())),
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
