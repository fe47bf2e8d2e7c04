//! One request from its decision to its record: a guard that writes exactly one record, also when the request's future
//! is dropped.

use super::certificate::ChainField;
use super::cut::{Cut, Signal};
use super::open::{Running, Stream};
use super::progress::PROGRESS;
use super::{BodyLimits, Live, route_of};
use crate::clock::UnixNanos;
use crate::decision::{Denial, Granted, Narrowed, Permit, Refused, Situation, Slot};
use crate::identity::Peer;
use crate::name::{PartnerId, UpstreamName};
use crate::operation::OperationId;
use crate::reason::Reason;
use crate::record::{
    Entry, FirstDenied, Kind, Metrics, OauthEntry, Outcome, Recorder, RequestEntry, UpstreamEntry, UsageKey,
};
use crate::request::{RequestFacts, TlsFacts};
use crate::route::Route;
use crate::token::{OauthEndpoint, RevokedToken, Tokens};
use crate::upstream::Upstreams;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What `listen` knows of an authenticated connection.
#[derive(Debug)]
pub struct Connection {
    /// One for each connection of the process.
    pub id: u64,
    pub peer: Peer,
    /// The client's address, IPv4-mapped addresses as IPv4.
    pub source: SocketAddr,
    pub tls: Arc<TlsFacts>,
    pub http2: bool,
    /// The leaf as an RFC 9440 byte sequence, for routes that forward it.
    pub client_cert: Option<String>,
    /// What lies between the leaf and the anchor, for routes that forward it.
    pub client_cert_chain: ChainField,
    /// Set when the connection is to be closed with a client still sending: the end is then announced and what still
    /// comes is discarded for a while, so that the answer is not lost.
    pub linger: AtomicBool,
    /// Raised when the identity has lost every right: nothing further is to be taken on the connection.
    pub leave: Signal,
    /// On HTTP/1, the end of the request that is open.
    pub cut: Cut,
    pub(super) running: Mutex<Running>,
}

impl Connection {
    pub fn new(
        id: u64,
        peer: Peer,
        source: SocketAddr,
        tls: Arc<TlsFacts>,
        http2: bool,
        (client_cert, client_cert_chain): (Option<String>, ChainField),
    ) -> Self {
        Connection {
            id,
            peer,
            source,
            tls,
            http2,
            client_cert,
            client_cert_chain,
            linger: AtomicBool::new(false),
            leave: Signal::default(),
            cut: Cut::default(),
            running: Mutex::default(),
        }
    }

    /// A request was denied because its identity has no right at all. Where it had some when it was looked at last,
    /// nothing further is taken: the look that the change brings need not have come here yet.
    pub(super) fn lost_its_rights(&self) {
        if std::mem::replace(&mut self.running().stands, false) {
            self.leave.raise();
        }
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Verdict {
    Undecided,
    Allowed(Permit),
    /// The way is closed again, but what the decision said is kept.
    Denied(Denial),
    /// What the gateway has answered itself.
    Answered(Box<Answered>),
    Recorded,
}

/// What was done for a client of the authorization server.
pub(super) struct Answered {
    pub issued: Option<Granted>,
    pub revoked: Option<RevokedToken>,
    pub slot: Slot,
}

/// See the module.
pub(super) struct InFlight {
    recorder: Recorder,
    live: Arc<Live>,
    connection: Arc<Connection>,
    stream: Arc<Stream>,
    verdict: Verdict,
    /// Why an allowed request did not end well.
    failure: Option<Reason>,
    upstream: Option<(UpstreamName, SocketAddr)>,
    upstream_took: Duration,
    body: u64,
    status: u16,
    bytes: (u64, u64),
    complete: bool,
    /// Both sides may send at any time, and be silent in between.
    pub(super) grpc: bool,
    /// It is for the authorization server.
    pub(super) endpoint: Option<OauthEndpoint>,
    /// When it was decided; when it arrived, where nothing is said.
    decided: Option<UnixNanos>,
}

impl InFlight {
    pub(super) fn new(
        recorder: Recorder,
        live: Arc<Live>,
        connection: Arc<Connection>,
        request: RequestFacts,
        started: Instant,
    ) -> Self {
        recorder.metrics().streams.inc();
        InFlight {
            recorder,
            live,
            connection,
            stream: Stream::new(request, started, PROGRESS.try_with(Arc::clone).ok()),
            verdict: Verdict::Undecided,
            failure: None,
            upstream: None,
            upstream_took: Duration::ZERO,
            body: 0,
            status: 0,
            bytes: (0, 0),
            complete: false,
            grpc: false,
            endpoint: None,
            decided: None,
        }
    }

    pub(super) fn request(&self) -> &RequestFacts {
        &self.stream.request
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn metrics(&self) -> &Metrics {
        self.recorder.metrics()
    }

    pub(super) fn tokens(&self) -> Option<&Arc<Tokens>> {
        self.live.snapshot.tokens.as_ref()
    }

    pub(super) fn upstreams(&self) -> &Upstreams {
        &self.live.upstreams
    }

    pub(super) fn route(&self) -> Option<&Route> {
        route_of(&self.live.snapshot, &self.stream.request)
    }

    pub(super) fn permit(&self) -> Option<&Permit> {
        match &self.verdict {
            Verdict::Allowed(permit) if self.failure.is_none() => Some(permit),
            _ => None,
        }
    }

    pub(super) fn allowed(&mut self, permit: Permit) {
        self.verdict = Verdict::Allowed(permit);
    }

    pub(super) fn denied(&mut self, denial: Denial) {
        self.verdict = Verdict::Denied(denial);
    }

    /// It is decided on this now: reading what it asks for has taken its time.
    pub(super) fn decided_on(&mut self, live: Arc<Live>, now: UnixNanos) {
        self.live = live;
        self.decided = Some(now);
    }

    pub(super) fn answered_itself(&mut self, answered: Answered) {
        self.verdict = Verdict::Answered(Box::new(answered));
    }

    /// What it was allowed on has been replaced, and on what replaced it the request is denied.
    pub(super) fn overtaken(&mut self, live: Arc<Live>, (reasons, detail): Refused) {
        self.live = live;
        let (slot, narrowed) = match std::mem::replace(&mut self.verdict, Verdict::Undecided) {
            Verdict::Allowed(permit) => {
                let narrowed = permit.narrowed().clone();
                (Some(permit.into_slot()), narrowed)
            }
            _ => (None, Narrowed::default()),
        };
        // Whether its identity stands, the look that the change brings finds out.
        self.verdict = Verdict::Denied(Denial { reasons, detail, slot, identity_stands: true, narrowed });
    }

    pub(super) fn sent_to(&mut self, upstream: UpstreamName, address: SocketAddr) {
        self.upstream = Some((upstream, address));
    }

    pub(super) fn upstream_answered(&mut self, took: Duration) {
        self.upstream_took = took;
    }

    /// Notes the first failure.
    pub(super) fn fail(&mut self, reason: Reason) {
        self.failure.get_or_insert(reason);
    }

    /// Notes a failure and returns the one that counts.
    pub(super) fn failed_with(&mut self, reason: Reason) -> Reason {
        self.failure.get_or_insert(reason).clone()
    }

    pub(super) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// A body is still to come, with at most this silence in it.
    pub(super) fn expect_body(&self, silence: Duration) {
        if let Some(progress) = &self.stream.progress {
            progress.begin(silence);
        }
    }

    /// A piece of the answer: where both sides talk, a silent client may be listening.
    pub(super) fn answering(&mut self, sent: usize) {
        self.bytes.1 = self.bytes.1.saturating_add(u64::try_from(sent).unwrap_or(u64::MAX));
        if let Some(progress) = &self.stream.progress {
            progress.touch();
        }
    }

    /// Counts a piece of the request body.
    pub(super) fn body(&mut self, got: usize, end: bool, limits: &BodyLimits) -> Result<(), Reason> {
        if let Some(progress) = &self.stream.progress {
            progress.moved(end);
        }
        self.body = self.body.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
        // What goes through an upgraded connection is no request body: it has no size and no pace of its own.
        if self.stream.request.upgrade.is_wanted() {
            return Ok(());
        }
        if self.route().is_some_and(|r| self.body > r.max_body) {
            return Err(Reason::BodyTooLarge);
        }
        // A body that drips just often enough not to be silent is as bad as one that stops.
        let elapsed = self.stream.started.elapsed();
        if got > 0
            && !self.grpc
            && elapsed > limits.progress
            && self.body < limits.min_rate.saturating_mul(elapsed.as_secs())
        {
            return Err(Reason::BodyTimeout);
        }
        Ok(())
    }

    /// The request has ended in the ordinary way or with an error; the record follows when this is dropped.
    pub(super) fn complete(&mut self, status: u16, bytes_in: u64, bytes_out: u64, error: Option<Reason>) {
        if let Some(reason) = error {
            self.failure.get_or_insert(reason);
        }
        if status != 0 {
            self.status = status;
        }
        self.bytes = (bytes_in.max(self.body), bytes_out.max(self.bytes.1));
        self.complete = true;
    }

    fn record(&mut self) {
        let stream = self.stream.clone();
        let connection = self.connection.clone();
        connection.running().streams.retain(|open| !Arc::ptr_eq(open, &stream));
        if stream.progress.as_ref().is_some_and(|p| p.has_expired()) {
            self.failure.get_or_insert(Reason::BodyTimeout);
        }
        // What ended by itself was not cut.
        let cut = stream.cut(&connection).ending().filter(|_| !self.complete);
        if let Some(ending) = cut {
            self.live = ending.live.clone();
        }
        let (mut reasons, mut detail, mut grant, mut partner) = (Vec::new(), None, None, None);
        let (mut observed, mut narrowed) = (Vec::new(), Narrowed::default());
        let (mut issued, mut revoked, mut allowed) = (None, None, false);
        let slot: Option<Slot> = match std::mem::replace(&mut self.verdict, Verdict::Recorded) {
            Verdict::Recorded => return,
            Verdict::Undecided => {
                // Of what is answered here, the client went away while its form was read.
                if self.endpoint.is_some() && !self.complete {
                    self.failure.get_or_insert(Reason::ClientGone);
                }
                reasons.push(self.failure.clone().unwrap_or(Reason::Internal));
                self.recorder.slots().reserve()
            }
            Verdict::Denied(denial) => {
                (reasons, detail, narrowed) = (denial.reasons, denial.detail, denial.narrowed);
                denial.slot
            }
            Verdict::Answered(answered) => {
                let Answered { issued: granted, revoked: gone, slot } = *answered;
                // A key is in use where it is exchanged as well.
                narrowed.api_key = granted.as_ref().and_then(|granted| granted.api_key.clone());
                (issued, revoked, allowed) = (granted, gone, true);
                Some(slot)
            }
            Verdict::Allowed(permit) => {
                allowed = true;
                grant = Some(permit.grant().clone());
                partner = Some(permit.partner().clone());
                observed = permit.observed().to_vec();
                narrowed = permit.narrowed().clone();
                Some(permit.into_slot())
            }
        };
        let cut = cut.filter(|_| allowed);
        let aborted = (!self.complete && self.failure.is_none()) || self.failure == Some(Reason::ClientGone);
        let (result, outcome) = match (allowed, aborted, &self.failure) {
            _ if cut.is_some() => ("deny", Outcome::Cut),
            (false, ..) => ("deny", Outcome::Denied),
            (true, true, _) => ("aborted", Outcome::Aborted),
            (true, false, Some(_)) => ("error", Outcome::Failed),
            (true, false, None) => ("allow", Outcome::Allowed),
        };
        let reasons = match (&self.failure, allowed) {
            _ if cut.is_some() => cut.map(|ending| ending.reasons.clone()).unwrap_or_default(),
            (Some(failure), true) => vec![failure.clone()],
            (None, true) if aborted => vec![Reason::ClientGone],
            _ => reasons,
        };
        let detail = cut.map_or(detail, |ending| ending.detail.clone());
        let took = stream.started.elapsed();
        let snapshot = &self.live.snapshot;
        let metrics = self.recorder.metrics();
        let situation = Situation::of(snapshot, &connection.peer, &stream.request);
        let operation = situation.operation.as_ref().map(|resolved| &resolved.operation.id);
        let named = self.endpoint.map(OauthEndpoint::name).or_else(|| operation.map(OperationId::as_str));
        let known = situation.partner();
        let partner = partner.as_ref().or_else(|| known.map(|(record, _)| &record.partner.id));
        metrics.request(partner.map(PartnerId::as_str), named, outcome);
        if let Some((record, credential)) = known {
            let leaf = &connection.peer.leaf;
            self.recorder.usage().saw(&credential.id, leaf, allowed, stream.request.now);
            let closed = record.partner.offboarding.as_ref().and_then(|offboarding| offboarding.closed);
            if let (false, Some(closed), Some(reason)) = (allowed, closed, reasons.first()) {
                self.recorder.usage().refused(&record.partner.id, closed, || FirstDenied {
                    at: stream.request.now,
                    request: stream.request.id.to_string(),
                    reason: reason.clone(),
                });
            }
            if let (true, Some(key)) = (allowed, &narrowed.api_key) {
                self.recorder.usage().key_used(key, situation.networks.join(","), stream.request.now);
            }
            if let (Some(grant), Some(operation)) = (&grant, operation) {
                let key = UsageKey {
                    partner: record.partner.id.clone(),
                    credential: credential.id.clone(),
                    grant: grant.clone(),
                    operation: operation.clone(),
                    network: situation.networks.join(","),
                };
                self.recorder.usage().count(key, stream.request.now);
            }
        }
        if let (false, Some(reason)) = (allowed, reasons.first()) {
            metrics.denial(reason);
        }
        if let (Some(_), Some(reason)) = (cut, reasons.first()) {
            metrics.streams_cut.with_label_values(&[reason.as_str()]).inc();
        }
        for reason in &observed {
            metrics.observed(partner.map_or("unknown", PartnerId::as_str), reason);
        }
        metrics.request_time(named, took);
        let entry = Entry::Request(RequestEntry {
            kind: match (cut, self.endpoint) {
                (Some(_), _) => Kind::StreamCut,
                (None, Some(_)) => Kind::Oauth,
                (None, None) => Kind::Request,
            },
            snapshot,
            peer: &connection.peer,
            request: &stream.request,
            now: cut.map_or(self.decided.unwrap_or(stream.request.now), |ending| ending.now),
            situation: &situation,
            token: narrowed.token.as_deref(),
            api_key: narrowed.api_key.as_ref(),
            result,
            reasons: &reasons,
            observed: &observed,
            detail: detail.as_deref(),
            grant: grant.as_ref(),
            status: self.status,
            bytes_in: self.bytes.0.max(self.body),
            bytes_out: self.bytes.1,
            duration: took,
            upstream: self.upstream.take().map(|(name, address)| UpstreamEntry {
                name: name.to_string(),
                address: Some(address),
                duration: self.upstream_took,
            }),
            oauth: self.endpoint.map(|endpoint| OauthEntry {
                endpoint,
                issued: issued.as_ref(),
                revoked: revoked.as_ref(),
            }),
        });
        self.recorder.write(&entry, slot);
        if let Some(ending) = cut {
            ending.over();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Something beneath us broke with this request in its hands; the client did not go away.
        if std::thread::panicking() {
            self.failure.get_or_insert(Reason::Internal);
        }
        // Out of here, a second panic would end the process.
        if catch_unwind(AssertUnwindSafe(|| self.record())).is_err() {
            self.recorder.metrics().panics.inc();
            self.recorder.metrics().records_lost.inc();
        }
        self.recorder.metrics().streams.dec();
    }
}
