//! pingora's proxy phases: which snapshot, ask `decision`, refuse or forward, record; and the index of what is open,
//! because what was let in is decided again as long as it goes on.
//!
//! In: a request on a connection that `listen` has authenticated. Out: a refusal, or the upstream's answer; and one
//! record, whatever happens. Must never: hold a rule of its own, or open the way to an upstream without a
//! [`crate::decision::Permit`].

mod certificate;
mod cut;
mod forward;
mod inflight;
mod leak;
mod oauth;
mod open;
mod preview;
mod progress;
mod read;
mod refusal;
mod suppose;

pub use certificate::{ChainField, byte_sequence};
pub use cut::{Cut, Signal};
pub use inflight::Connection;
pub use leak::leaked_in_line;
pub use oauth::Revoke;
pub use open::{Concerns, Open, Registered};
pub use preview::{Preview, Tally};
pub use progress::{PROGRESS, Progress};
pub use refusal::{Refused, problem_document};
pub use suppose::SupposedRequest;

use crate::clock::Clock;
use crate::decision::{self, Decision};
use crate::name::UpstreamName;
use crate::reason::Reason;
use crate::record::{Entry, MalformedEntry, Recorder};
use crate::request::{Refusal, RequestFacts, UpgradeWanted};
use crate::route::{Found, Route};
use crate::snapshot::Snapshot;
use crate::token::OauthEndpoint;
use crate::upstream::{Endpoint, Upstream, Upstreams};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use inflight::InFlight;
use ipnet::IpNet;
use leak::leaked;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use read::{Arrival, is_bodyless, is_grpc, read};
use refusal::Sent;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What requests are decided on and sent to, published as one.
pub struct Live {
    pub snapshot: Arc<Snapshot>,
    pub upstreams: Arc<Upstreams>,
    /// Peers whose connections begin with a PROXY header.
    pub proxies: Arc<[IpNet]>,
}

/// The proxy application.
pub struct Gateway {
    live: Arc<ArcSwapOption<Live>>,
    recorder: Recorder,
    clock: Arc<Clock>,
    /// Where every allowed request is found until it has ended.
    open: Arc<Open>,
    via: Arc<str>,
    limits: BodyLimits,
    revoke: Revoke,
}

/// How request bodies must arrive.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Longest silence.
    pub progress: Duration,
    /// Bytes per second that must arrive on average, once `progress` has passed.
    pub min_rate: u64,
}

/// The state of one request.
#[derive(Default)]
pub struct Context {
    flight: Option<InFlight>,
    tried: Vec<SocketAddr>,
    chosen: Option<(Arc<Upstream>, Arc<Endpoint>, Instant)>,
    attempts: u32,
    id: Option<Arc<str>>,
}

impl Gateway {
    /// `via` is the pseudonym in `Via` (RFC 9110 section 7.6.3).
    pub fn new(open: Arc<Open>, via: Arc<str>, limits: BodyLimits, revoke: Revoke) -> Self {
        let (live, recorder, clock) = (open.live.clone(), open.recorder.clone(), open.clock.clone());
        Gateway { live, recorder, clock, open, via, limits, revoke }
    }

    /// Everything up to the decision. `Err` is a refusal that has still to be sent; an endpoint is one that the gateway answers
    /// itself, and nothing is decided yet.
    fn admit(
        &self,
        session: &Session,
        context: &mut Context,
        connection: &Arc<Connection>,
    ) -> Result<Option<OauthEndpoint>, Refused> {
        let started = Instant::now();
        let id: Arc<str> = (&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut [0; 36])).into();
        context.id = Some(id.clone());
        let grpc = is_grpc(session.req_header());
        let Some(live) = self.live.load_full() else {
            return Err(Refused { grpc, ..Refused::new(Reason::NotReady, id) });
        };
        let snapshot = live.snapshot.clone();
        let (head, bodyless) = (session.req_header(), is_bodyless(session));
        if let Some(refusal) = leaked(&snapshot, connection, self.recorder.metrics(), head) {
            self.malformed(connection, &snapshot, &id, &refusal);
            return Err(Refused { grpc, ..Refused::new(refusal.reason, id) });
        }
        let arrival = Arrival { source: connection.source, tls: &connection.tls, http2: connection.http2 };
        let request = match read(head, bodyless, &arrival, &snapshot.request, id.clone(), self.clock.now()) {
            Ok(request) => request,
            Err(refusal) => {
                self.malformed(connection, &snapshot, &id, &refusal);
                return Err(Refused { grpc, ..Refused::new(refusal.reason, id) });
            }
        };
        // From here on a record is written, whatever happens.
        let flight =
            context.flight.insert(InFlight::new(self.recorder.clone(), live, connection.clone(), request, started));
        flight.grpc = grpc;
        let access = flight.tokens().and_then(|tokens| tokens.access.as_ref());
        flight.endpoint = access.and_then(|access| access.server.endpoint(&flight.request().canonical));
        if flight.endpoint.is_some() {
            return Ok(flight.endpoint);
        }
        let before = Instant::now();
        let decision = decision::decide(&snapshot, &connection.peer, flight.request(), self.recorder.slots());
        self.recorder.metrics().decision_seconds.observe(before.elapsed().as_secs_f64());
        let denied = match &decision {
            Decision::Allow(_) => None,
            Decision::Deny(denial) => Some(denial.reasons.as_slice()),
        };
        self.open.preview.offer(&snapshot, connection, flight.stream(), denied);
        match decision {
            Decision::Allow(permit) => {
                let too_large =
                    flight.request().content_length.is_some_and(|n| flight.route().is_some_and(|r| n > r.max_body));
                let overtaken = self.open.began(connection, flight.stream(), &permit, flight.live()).err();
                flight.allowed(permit);
                if let Some((live, refused)) = overtaken.map(|o| *o) {
                    let reason = refused.0.first().cloned().unwrap_or(Reason::Internal);
                    flight.overtaken(live, refused);
                    return Err(Refused { grpc, ..Refused::new(reason, id) });
                }
                if too_large {
                    flight.fail(Reason::BodyTooLarge);
                    return Err(Refused { grpc, ..Refused::new(Reason::BodyTooLarge, id) });
                }
                Ok(None)
            }
            Decision::Deny(denial) => {
                let reason = denial.reason().clone();
                if !denial.identity_stands {
                    connection.lost_its_rights();
                }
                flight.denied(denial);
                Err(Refused { grpc, ..Refused::new(reason, id) })
            }
        }
    }

    /// Counts and records a request that could not be decided.
    fn malformed(&self, connection: &Connection, snapshot: &Snapshot, id: &str, refusal: &Refusal) {
        self.recorder.metrics().malformed.with_label_values(&[refusal.reason.as_str()]).inc();
        self.record_undecided(connection, snapshot, id, refusal);
    }

    fn record_undecided(&self, connection: &Connection, snapshot: &Snapshot, id: &str, refusal: &Refusal) {
        let partner = match snapshot.registry.resolve(&connection.peer) {
            crate::registry::Resolution::Known { record, .. } => Some(&record.partner.id),
            _ => None,
        };
        self.recorder.write_unreserved(&Entry::Malformed(MalformedEntry {
            time: self.clock.now(),
            id,
            source: connection.source,
            peer: &connection.peer,
            partner,
            reason: &refusal.reason,
            detail: &refusal.detail,
            status: refusal.reason.code().status(),
            revision: Some(&snapshot.revision),
        }));
    }

    /// Runs synchronous work of ours; a panic in it costs one request, not the connection's task. All that a phase does
    /// goes through here, so that the client gets an answer; what panics beneath us ends the stream and is recorded by
    /// the request's guard.
    fn guarded<T>(&self, context: &mut Context, work: impl FnOnce(&mut Context) -> T) -> Result<T, Reason> {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(context)));
        outcome.map_err(|_| {
            self.recorder.metrics().panics.inc();
            if let Some(flight) = &mut context.flight {
                flight.fail(Reason::Internal);
            }
            Reason::Internal
        })
    }

    /// A request that broke us before it had a guard.
    fn unread(&self, context: &mut Context, connection: &Connection, id: &str) {
        let recorded = self.guarded(context, |_| {
            let live = self.live.load_full()?;
            let refusal = Refusal::new(Reason::Internal, "the gateway failed while it read the request");
            self.record_undecided(connection, &live.snapshot, id, &refusal);
            Some(())
        });
        if !matches!(recorded, Ok(Some(()))) {
            self.recorder.metrics().records_lost.inc();
        }
    }

    fn connection(session: &Session) -> Option<Arc<Connection>> {
        let digest = session.digest()?.proxy_digest.as_ref()?;
        digest.user_data.as_ref()?.downcast_ref::<Arc<Connection>>().cloned()
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    fn init_downstream_modules(&self, _modules: &mut pingora_core::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> pingora_error::Result<bool> {
        let Some(connection) = Self::connection(session) else {
            // Not a connection of ours: nothing is served on it.
            session.set_keepalive(None);
            return Err(Error::new(ErrorType::HTTPStatus(500)));
        };
        // From the first byte of an answer on, a client that does not read is waited for only so long.
        session.set_write_timeout(Some(self.limits.progress));
        let admitted = self.guarded(context, |context| {
            let endpoint = self.admit(session, context, &connection)?;
            if endpoint.is_none() {
                self.prepare_body(session, context);
            }
            Ok(endpoint)
        });
        let refused = match admitted {
            Ok(Ok(None)) => return Ok(false),
            Ok(Ok(Some(endpoint))) => {
                self.answer_itself(session, context, &connection, endpoint).await;
                return Ok(true);
            }
            Ok(Err(refused)) => refused,
            Err(reason) => {
                let id = context.id.clone().unwrap_or_else(|| "unknown".into());
                if context.flight.is_none() {
                    self.unread(context, &connection, &id);
                }
                Refused { grpc: is_grpc(session.req_header()), ..Refused::new(reason, id) }
            }
        };
        // The record is written before the answer: a client that does not read its refusal holds no place for records.
        if let Some(mut flight) = context.flight.take() {
            let is_head = session.req_header().method == http::Method::HEAD;
            let bytes = if is_head { 0 } else { refused.body().len() };
            flight.complete(refused.status(), 0, u64::try_from(bytes).unwrap_or(u64::MAX), None);
        }
        refusal::send(session, Sent::Refused(&refused), &connection, self.limits.progress).await;
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        let got = body.as_ref().map_or(0, Bytes::len);
        let taken = self.guarded(context, |context| match &mut context.flight {
            Some(flight) => {
                flight.body(got, end_of_stream, &self.limits).inspect_err(|reason| flight.fail(reason.clone()))
            }
            None => Err(Reason::Internal),
        });
        taken.flatten().map_err(|reason| Error::new_down(ErrorType::HTTPStatus(reason.code().status())))
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        context: &mut Context,
    ) -> pingora_error::Result<Box<HttpPeer>> {
        let chosen = self.guarded(context, |context| self.choose(context));
        chosen.flatten().map_err(|reason| {
            let status = reason.code().status();
            if let Some(flight) = &mut context.flight {
                flight.fail(reason);
            }
            Error::new_in(ErrorType::CustomCode("refused", status))
        })
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        let version = session.req_header().version;
        let built = self.guarded(context, |context| {
            let Some(flight) = &context.flight else { return Err(Error::new(ErrorType::InternalError)) };
            let Some(permit) = flight.permit() else { return Err(Error::new(ErrorType::InternalError)) };
            let host = context.chosen.as_ref().and_then(|(u, ..)| u.spec().host.as_deref());
            forward::build_head(upstream, flight, permit, host, &self.via, version)
        });
        *upstream = built.unwrap_or_else(|_| Err(Error::new(ErrorType::InternalError)))?;
        Ok(())
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        #[cfg(unix)] _fd: std::os::unix::io::RawFd,
        #[cfg(windows)] _sock: std::os::windows::io::RawSocket,
        _digest: Option<&pingora_core::protocols::Digest>,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        if let Some((upstream, endpoint, _)) = &context.chosen {
            upstream.connected(endpoint);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let noted = self.guarded(context, |context| {
            if let Some((upstream, endpoint, _)) = &context.chosen {
                upstream.failed(endpoint);
                self.count_failure(upstream, &reason_of(&e));
            }
        });
        // Nothing was sent, so a second attempt is safe for every method.
        e.set_retry(noted.is_ok() && context.attempts < 2);
        e
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        // To what the client asked for, and to nothing else (RFC 9110 section 7.8).
        let asked = context.flight.as_ref().is_some_and(|flight| match &flight.request().upgrade {
            UpgradeWanted::To(wanted) => {
                let mut named = response.headers.get_all(http::header::UPGRADE).iter();
                named.next().is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()))
                    && named.next().is_none()
            }
            _ => false,
        });
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS && !asked {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 that the client has not asked for").into_up());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> pingora_error::Result<()> {
        let finished = self.guarded(context, |context| {
            if let Some((upstream, _, since)) = &context.chosen {
                if let Some(flight) = &mut context.flight {
                    flight.upstream_answered(since.elapsed());
                }
                let seconds =
                    self.recorder.metrics().upstream_seconds.with_label_values(&[upstream.spec().name.as_str()]);
                seconds.observe(since.elapsed().as_secs_f64());
            }
            let Some(flight) = &mut context.flight else { return Ok(()) };
            flight.answered(response.status.as_u16());
            if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
                let now = flight.request().now;
                self.open.announce(flight.connection(), flight.stream(), flight.live(), now, 101);
            }
            forward::finish_response(response, flight, &self.via)
        });
        finished.unwrap_or_else(|_| Err(Error::new(ErrorType::InternalError)))
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        context: &mut Context,
    ) -> pingora_error::Result<Option<Duration>> {
        if let Some(flight) = &mut context.flight {
            flight.answering(body.as_ref().map_or(0, Bytes::len));
        }
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        context: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let safe = session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
        let unanswered = session.response_written().is_none() && nothing_read(&e);
        if safe && unanswered && client_reused && context.attempts < 2 {
            // A pooled connection that the upstream had closed: the request never reached it.
            e.retry.decide_reuse(client_reused);
            // The same endpoint is as good as another.
            context.tried.clear();
        } else {
            e.set_retry(false);
        }
        let ended = stream_end(session, &e).is_some();
        let noted = self.guarded(context, |context| {
            if let (Some((upstream, ..)), ErrorSource::Upstream, false) = (&context.chosen, e.esource(), ended) {
                self.count_failure(upstream, &reason_of(&e));
            }
        });
        if noted.is_err() {
            e.set_retry(false);
        }
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, context: &mut Context) -> FailToProxy {
        let id = context.id.clone().unwrap_or_else(|| "unknown".into());
        // This connection is closed afterwards, and the answer says so.
        session.set_keepalive(None);
        let reason = match &mut context.flight {
            Some(flight) => flight.failed_with(stream_end(session, e).unwrap_or_else(|| reason_of(e))),
            None => Reason::Internal,
        };
        let answered = session.response_written().is_some_and(|r| !r.status.is_informational());
        let refused = Refused { grpc: is_grpc(session.req_header()), ..Refused::new(reason, id) };
        if answered || refused.reason == Reason::ClientGone {
            if answered && refused.grpc {
                refusal::end_call(session, &refused.reason).await;
            }
            // Without gRPC, all that is left once a response head is out is to end the connection.
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let connection = Self::connection(session);
        let status = refused.status();
        if let Some(connection) = connection {
            let sent = refusal::send(session, Sent::Refused(&refused), &connection, self.limits.progress).await;
            if let Some(flight) = &mut context.flight {
                flight.answered(sent);
            }
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, context: &mut Context) {
        let Some(mut flight) = context.flight.take() else { return };
        let status = session.response_written().map_or(0, |r| r.status.as_u16());
        let bytes_in = u64::try_from(session.body_bytes_read()).unwrap_or(u64::MAX);
        let bytes_out = u64::try_from(session.body_bytes_sent()).unwrap_or(u64::MAX);
        let failure = e.map(|e| stream_end(session, e).unwrap_or_else(|| reason_of(e)));
        flight.complete(status, bytes_in, bytes_out, failure);
    }

    fn request_summary(&self, _session: &Session, context: &Context) -> String {
        context.id.as_deref().unwrap_or("unknown").to_owned()
    }

    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Gateway {
    /// The endpoint that a permit opens the way to.
    fn choose(&self, context: &mut Context) -> Result<Box<HttpPeer>, Reason> {
        // Without a permit there is no way on; a filter that was missed fails closed here.
        let flight = context.flight.as_mut().ok_or(Reason::Internal)?;
        let permit = flight.permit().ok_or(Reason::Internal)?;
        let name: UpstreamName = permit.upstream().clone();
        let upgraded = flight.request().upgrade.is_wanted();
        let upstream = flight.upstreams().get(&name).ok_or(Reason::UpstreamUnavailable)?.clone();
        let (endpoint, mut peer) = upstream.choose(permit, &context.tried, upgraded)?;
        if upgraded {
            peer.options.read_timeout = flight.route().map(|r| r.stream_idle);
        }
        if context.attempts > 0 {
            self.recorder.metrics().upstream_retries.with_label_values(&[name.as_str()]).inc();
        }
        context.attempts += 1;
        context.tried.push(endpoint.address);
        flight.sent_to(name, endpoint.address);
        context.chosen = Some((upstream, endpoint, Instant::now()));
        Ok(peer)
    }

    fn count_failure(&self, upstream: &Upstream, reason: &Reason) {
        let labels = [upstream.spec().name.as_str(), reason.as_str()];
        self.recorder.metrics().upstream_failures.with_label_values(&labels).inc();
    }

    /// Deadlines for what is still to come of an allowed request.
    fn prepare_body(&self, session: &mut Session, context: &Context) {
        let Some(flight) = &context.flight else { return };
        let stream = flight.grpc || flight.request().upgrade.is_wanted();
        let idle = match flight.route() {
            Some(route) if stream => route.stream_idle,
            _ => self.limits.progress,
        };
        session.set_read_timeout(Some(idle));
        session.set_write_timeout(Some(idle));
        if !session.as_downstream_mut().is_body_done() {
            flight.expect_body(idle);
        }
    }
}

/// Whether the upstream had sent nothing of its answer when the attempt failed. pingora says in words how much it had.
fn nothing_read(e: &Error) -> bool {
    let said = e.to_string();
    said.split("bytes already read: ").nth(1).is_none_or(|n| n.starts_with('0'))
}

/// An upgraded connection has no request and no answer any more that could be late; whichever side's silence was seen
/// first, both were silent.
fn stream_end(session: &Session, e: &Error) -> Option<Reason> {
    (session.was_upgraded() && *e.etype() == ErrorType::ReadTimedout).then_some(Reason::StreamIdle)
}

/// Whether the HTTP/2 library ended a stream because of what its client sent.
fn broke_http2(e: &Error) -> bool {
    e.cause.as_ref().and_then(|c| c.downcast_ref::<h2::Error>()).is_some_and(|c| c.is_library() && c.is_reset())
}

/// pingora's errors as our reasons.
fn reason_of(e: &Error) -> Reason {
    use ErrorType::*;
    match (e.etype(), e.esource()) {
        (CustomCode("refused", _), _) => Reason::Internal,
        (HTTPStatus(413), _) => Reason::BodyTooLarge,
        (HTTPStatus(408), _) => Reason::BodyTimeout,
        (ConnectTimedout | TLSHandshakeTimedout, _) => Reason::UpstreamTimeout,
        (ConnectRefused | ConnectNoRoute | ConnectError | BindError | SocketError, _) => Reason::UpstreamConnect,
        (TLSHandshakeFailure | InvalidCert | HandshakeError | TLSWantX509Lookup, _) => Reason::UpstreamTls,
        (ReadTimedout | WriteTimedout, ErrorSource::Upstream) => Reason::UpstreamTimeout,
        (ReadTimedout, ErrorSource::Downstream) => Reason::BodyTimeout,
        (Custom(_) | InvalidHTTPHeader, ErrorSource::Downstream) => Reason::HeadAmbiguousFraming,
        (_, ErrorSource::Downstream) if broke_http2(e) => Reason::H2Protocol,
        (_, ErrorSource::Downstream) => Reason::ClientGone,
        (_, ErrorSource::Upstream) => Reason::UpstreamProtocol,
        _ => Reason::Internal,
    }
}

/// The route of a request on a snapshot.
fn route_of<'a>(snapshot: &'a Snapshot, request: &RequestFacts) -> Option<&'a Route> {
    match snapshot.routes.find(&request.canonical.host, &request.canonical.path) {
        Found::Route(route) => Some(route),
        Found::NoPath | Found::NoHost => None,
    }
}
