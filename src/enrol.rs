//! The enrol listener: Enrollment over Secure Transport (RFC 7030, RFC 8951), so that partners get their first certificate
//! with a code, and renew it by themselves.
//!
//! In: TLS connections with or without a client certificate. Out: certificates of the built-in CA, through [`Publisher`].
//! Must never: serve anything else; believe a client certificate that the partner listener would not believe.

use crate::decision::standing;
use crate::document::Problems;
use crate::history::{Actor, Cause, Way};
use crate::identity::{Csr, MAX_REQUEST};
use crate::issue::{certs_only, csr_attributes};
use crate::listen::SourceRate;
use crate::reason::Reason;
use crate::reload::{Asks, ChangeError, Given, NotGiven, Publisher, Source};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Connections that are served at once; partners enrol seldom. The oldest goes when others need its place.
const MAX_CONNECTIONS: usize = 64;
/// Connections of one source in one second.
const PER_SOURCE: u32 = 30;
/// For a handshake, for the head of a request, and for a whole connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it is waited after a connection could not be accepted.
const AGAIN: Duration = Duration::from_millis(50);
/// Characters of a line of base64.
const LINE: usize = 76;

/// What a call that asks for a certificate comes to, as it is counted.
const RESULTS: [&str; 6] = ["issued", "waits", "busy", "refused", "unknown", "failed"];

#[derive(Clone)]
struct Shared {
    publisher: Arc<Publisher>,
}

/// Who is at the other end, as far as it was shown.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    chain: Arc<Vec<CertificateDer<'static>>>,
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, publisher: Arc<Publisher>) {
    let router = router(Shared { publisher: publisher.clone() });
    for result in RESULTS {
        publisher.metrics().enrolments.with_label_values(&[result]);
    }
    let rate = SourceRate::new();
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "an enrol connection could not be accepted");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        if !rate.admit(address.ip(), PER_SOURCE, Instant::now()) {
            continue;
        }
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= MAX_CONNECTIONS {
            if let Some(oldest) = oldest_first.pop_front() {
                oldest.abort();
            }
        }
        let (publisher, router) = (publisher.clone(), router.clone());
        oldest_first.push_back(connections.spawn(async move {
            drop(timeout(CONNECTION_TIMEOUT, talk(stream, address, publisher, router)).await);
        }));
    }
}

async fn talk(stream: TcpStream, address: SocketAddr, publisher: Arc<Publisher>, router: Router) {
    let Some(key) = publisher.enrol().key.clone() else { return };
    let tls = match tls(key) {
        Ok(tls) => tls,
        Err(e) => return tracing::error!(error = %e, "the enrol listener has no TLS"),
    };
    let stream = match timeout(HEAD_TIMEOUT, TlsAcceptor::from(Arc::new(tls)).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return tracing::info!(%address, error = %e, "an enrol connection without a handshake"),
        Err(_) => return tracing::info!(%address, "an enrol connection whose handshake took too long"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = Arc::new(chain.iter().map(|der| der.clone().into_owned()).collect());
    let service = TowerToHyperService::new(router.layer(Extension(Client { address, chain })));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    // How a client ends its connection is nobody's concern.
    drop(connection.await);
}

/// The operations of RFC 7030 section 3.2.2 that are served.
fn router(shared: Shared) -> Router {
    Router::new()
        .route("/.well-known/est/cacerts", get(ca_certificates))
        .route("/.well-known/est/csrattrs", get(|| async { encoded("application/csrattrs", &csr_attributes()) }))
        .route("/.well-known/est/simpleenroll", post(enroll))
        .route("/.well-known/est/simplereenroll", post(reenroll))
        // In base64 and with line feeds.
        .layer(DefaultBodyLimit::max(MAX_REQUEST * 3 / 2))
        .with_state(shared)
}

async fn ca_certificates(State(shared): State<Shared>) -> Response {
    match shared.publisher.ca_certificate() {
        Some(certificate) => encoded("application/pkcs7-mime", &certs_only(&[&certificate])),
        None => text(StatusCode::NOT_FOUND, "there is no CA here"),
    }
}

async fn enroll(
    State(shared): State<Shared>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(code) = password(&headers) else { return unknown("send the enrolment code as the password") };
    // Before anything is read of who has none.
    if let Err(e) = shared.publisher.knows_code(&code).await {
        return not_given(&shared, &client, e);
    }
    let csr = match request(&headers, &body) {
        Ok(csr) => csr,
        Err(reason) => return wrong(&shared, &client, &reason),
    };
    give(&shared, &client, Asks::Code(code), csr).await
}

async fn reenroll(
    State(shared): State<Shared>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if client.chain.is_empty() {
        return text(StatusCode::UNAUTHORIZED, "renew with the certificate that is to be renewed");
    }
    let Some(live) = shared.publisher.live() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the gateway cannot decide this now: try again later");
    };
    let now = shared.publisher.now();
    let peer = match live.snapshot.trust.verify(&client.chain, now) {
        Ok(peer) => peer,
        Err(fault) => return forbidden(&shared, &client, &fault.reason, &fault.detail),
    };
    if let Err((reasons, _)) = standing(&live.snapshot, &peer, now).map(drop) {
        return match reasons.first() {
            Some(reason) => forbidden(&shared, &client, reason, ""),
            None => wrong(&shared, &client, "this is not permitted"),
        };
    }
    let csr = match request(&headers, &body) {
        Ok(csr) => csr,
        Err(reason) => return wrong(&shared, &client, &reason),
    };
    give(&shared, &client, Asks::Renewal(Box::new(peer)), csr).await
}

async fn give(shared: &Shared, client: &Client, asks: Asks, csr: Csr) -> Response {
    let actor = Actor { address: Some(client.address.to_string()), ..Actor::user("unknown", None, Way::Enrol) };
    let given = shared.publisher.issue(asks, Source::Request(Box::new(csr)), Cause::new(actor, None, None)).await;
    match given {
        Ok(Given { certificate, .. }) => {
            shared.publisher.metrics().enrolments.with_label_values(&["issued"]).inc();
            encoded("application/pkcs7-mime; smime-type=certs-only", &certs_only(&[&certificate]))
        }
        Err(e) => not_given(shared, client, e),
    }
}

fn later(shared: &Shared, status: StatusCode, said: &str) -> Response {
    let after = shared.publisher.enrol().retry_after.as_secs().to_string();
    let mut answer = text(status, said);
    if let Ok(after) = HeaderValue::try_from(after) {
        answer.headers_mut().insert(header::RETRY_AFTER, after);
    }
    answer
}

fn not_given(shared: &Shared, client: &Client, e: NotGiven) -> Response {
    let metrics = shared.publisher.metrics();
    let count = |result: &str| metrics.enrolments.with_label_values(&[result]).inc();
    match e {
        NotGiven::Code(e) => {
            count("unknown");
            tracing::warn!(address = %client.address, "an enrolment with a code that is not good");
            unknown(&e.to_string())
        }
        NotGiven::Waits => {
            count("waits");
            later(shared, StatusCode::ACCEPTED, &e.to_string())
        }
        NotGiven::Busy => {
            count("busy");
            later(shared, StatusCode::SERVICE_UNAVAILABLE, &e.to_string())
        }
        NotGiven::Refused(reason) => wrong(shared, client, &reason),
        NotGiven::NoCa => text(StatusCode::NOT_FOUND, "there is no CA here"),
        NotGiven::Change(e) => {
            count("failed");
            tracing::error!(address = %client.address, error = %e, "an enrolment failed");
            let own = matches!(&e, ChangeError::Invalid(problems) if Problems::has_errors(problems));
            if own {
                return text(StatusCode::FORBIDDEN, "what this code is for is gone");
            }
            text(StatusCode::SERVICE_UNAVAILABLE, "the gateway cannot do this now: try again later")
        }
    }
}

/// Who renews is not believed, or may not come here at all.
fn forbidden(shared: &Shared, client: &Client, reason: &Reason, detail: &str) -> Response {
    shared.publisher.metrics().enrolments.with_label_values(&["refused"]).inc();
    tracing::warn!(address = %client.address, reason = reason.as_str(), detail, "a renewal is refused");
    text(StatusCode::FORBIDDEN, reason.code().detail())
}

fn wrong(shared: &Shared, client: &Client, reason: &str) -> Response {
    shared.publisher.metrics().enrolments.with_label_values(&["refused"]).inc();
    tracing::warn!(address = %client.address, reason, "an enrolment is refused");
    text(StatusCode::BAD_REQUEST, reason)
}

fn unknown(reason: &str) -> Response {
    let mut answer = text(StatusCode::UNAUTHORIZED, reason);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"enrol\""));
    answer
}

/// The password of RFC 7617; whoever it says to be does not matter.
fn password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = data_encoding::BASE64.decode(encoded.trim().as_bytes()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// The request of a body in base64 (RFC 8951 section 3.1: whatever Content-Transfer-Encoding says).
fn request(headers: &HeaderMap, body: &[u8]) -> Result<Csr, String> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/pkcs10")) {
        return Err("the body is to be application/pkcs10".into());
    }
    let plain: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = data_encoding::BASE64.decode(&plain).map_err(|_| "the body is no base64".to_owned())?;
    Csr::from_der(&der)
}

fn encoded(kind: &'static str, der: &[u8]) -> Response {
    let text = data_encoding::BASE64.encode(der);
    let mut body = String::with_capacity(text.len() + text.len() / LINE + 1);
    for line in text.as_bytes().chunks(LINE) {
        body.extend(line.iter().map(|byte| char::from(*byte)));
        body.push('\n');
    }
    ([("content-type", kind), ("content-transfer-encoding", "base64")], body).into_response()
}

/// Who is told something else than a certificate comes again on another connection, and is counted there.
fn text(status: StatusCode, said: &str) -> Response {
    let fields = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")];
    (status, fields, format!("{said}\n")).into_response()
}

fn tls(key: Arc<CertifiedKey>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(Anybody(provider)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who comes again shows again who it is.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A client certificate may be shown, and has to be the client's; what it is worth is found out by who needs it.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
