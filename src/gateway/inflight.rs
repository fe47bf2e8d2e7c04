//! One request from its decision to its record: a guard that writes exactly one record, also when the request's future
//! is dropped.

use super::progress::{PROGRESS, Progress};
use super::{BodyLimits, Live, route_of};
use crate::decision::{Denial, Permit, Situation, Slot};
use crate::identity::Peer;
use crate::name::UpstreamName;
use crate::operation::OperationId;
use crate::reason::Reason;
use crate::record::{Entry, Kind, Outcome, Recorder, RequestEntry, UpstreamEntry, UsageKey};
use crate::request::{RequestFacts, TlsFacts, UpgradeWanted};
use crate::route::Route;
use crate::upstream::Upstreams;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// What `listen` knows of an authenticated connection.
#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    /// The client's address, IPv4-mapped addresses as IPv4.
    pub source: SocketAddr,
    pub tls: Arc<TlsFacts>,
    pub http2: bool,
    /// The leaf as an RFC 9440 byte sequence, for routes that forward it.
    pub client_cert: Option<String>,
    /// Set when the connection is to be closed with a client still sending: the end is then announced and what still
    /// comes is discarded for a while, so that the answer is not lost.
    pub linger: AtomicBool,
}

enum Verdict {
    Undecided,
    Allowed(Permit),
    /// The way is closed again, but what the decision said is kept.
    Denied(Denial),
    Recorded,
}

/// See the module.
pub(super) struct InFlight {
    recorder: Recorder,
    live: Arc<Live>,
    connection: Arc<Connection>,
    request: RequestFacts,
    started: Instant,
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
    /// On HTTP/2, what the stream's watchdog looks at.
    progress: Option<Arc<Progress>>,
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
            request,
            started,
            verdict: Verdict::Undecided,
            failure: None,
            upstream: None,
            upstream_took: Duration::ZERO,
            body: 0,
            status: 0,
            bytes: (0, 0),
            complete: false,
            grpc: false,
            progress: PROGRESS.try_with(Arc::clone).ok(),
        }
    }

    pub(super) fn request(&self) -> &RequestFacts {
        &self.request
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn upstreams(&self) -> &Upstreams {
        &self.live.upstreams
    }

    pub(super) fn route(&self) -> Option<&Route> {
        route_of(&self.live.snapshot, &self.request)
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
        if let Some(progress) = &self.progress {
            progress.begin(silence);
        }
    }

    /// A piece of the answer: where both sides talk, a silent client may be listening.
    pub(super) fn answering(&self) {
        if let Some(progress) = &self.progress {
            progress.touch();
        }
    }

    /// Counts a piece of the request body.
    pub(super) fn body(&mut self, got: usize, end: bool, limits: &BodyLimits) -> Result<(), Reason> {
        if let Some(progress) = &self.progress {
            progress.moved(end);
        }
        self.body = self.body.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
        // What goes through an upgraded connection is no request body: it has no size and no pace of its own.
        if self.request.upgrade == UpgradeWanted::WebSocket {
            return Ok(());
        }
        if self.route().is_some_and(|r| self.body > r.max_body) {
            return Err(Reason::BodyTooLarge);
        }
        // A body that drips just often enough not to be silent is as bad as one that stops.
        let elapsed = self.started.elapsed();
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
        self.bytes = (bytes_in.max(self.body), bytes_out);
        self.complete = true;
    }

    fn record(&mut self) {
        if self.progress.as_ref().is_some_and(|p| p.has_expired()) {
            self.failure.get_or_insert(Reason::BodyTimeout);
        }
        let (mut reasons, mut detail, mut grant) = (Vec::new(), None, None);
        let slot: Option<Slot> = match std::mem::replace(&mut self.verdict, Verdict::Recorded) {
            Verdict::Recorded => return,
            Verdict::Undecided => {
                reasons.push(self.failure.clone().unwrap_or(Reason::Internal));
                self.recorder.slots().reserve()
            }
            Verdict::Denied(denial) => {
                (reasons, detail) = (denial.reasons, denial.detail);
                denial.slot
            }
            Verdict::Allowed(permit) => {
                grant = Some(permit.grant().clone());
                Some(permit.into_slot())
            }
        };
        let allowed = grant.is_some();
        let aborted = (!self.complete && self.failure.is_none()) || self.failure == Some(Reason::ClientGone);
        let (result, outcome) = match (allowed, aborted, &self.failure) {
            (false, ..) => ("deny", Outcome::Denied),
            (true, true, _) => ("aborted", Outcome::Aborted),
            (true, false, Some(_)) => ("error", Outcome::Failed),
            (true, false, None) => ("allow", Outcome::Allowed),
        };
        let reasons = match (&self.failure, allowed) {
            (Some(failure), true) => vec![failure.clone()],
            (None, true) if aborted => vec![Reason::ClientGone],
            _ => reasons,
        };
        let took = self.started.elapsed();
        let snapshot = &self.live.snapshot;
        let metrics = self.recorder.metrics();
        let situation = Situation::of(snapshot, &self.connection.peer, &self.request);
        let operation = situation.operation.as_ref().map(|resolved| &resolved.operation.id);
        let known = situation.partner();
        metrics.request(known.map(|(r, _)| r.partner.id.as_str()), operation.map(OperationId::as_str), outcome);
        if let Some((record, credential)) = known {
            let leaf = &self.connection.peer.leaf;
            self.recorder.usage().saw(&credential.id, leaf.fingerprint, leaf.not_after, self.request.now);
            if let (Some(grant), Some(operation)) = (&grant, operation) {
                let key = UsageKey {
                    partner: record.partner.id.clone(),
                    credential: credential.id.clone(),
                    grant: grant.clone(),
                    operation: operation.clone(),
                    network: situation.networks.join(","),
                };
                self.recorder.usage().count(key, self.request.now);
            }
        }
        if let (false, Some(reason)) = (allowed, reasons.first()) {
            metrics.denial(reason);
        }
        metrics.request_time(operation.map(OperationId::as_str), took);
        let entry = Entry::Request(RequestEntry {
            kind: Kind::Request,
            snapshot,
            peer: &self.connection.peer,
            request: &self.request,
            situation: &situation,
            result,
            reasons: &reasons,
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
        });
        self.recorder.write(&entry, slot);
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
