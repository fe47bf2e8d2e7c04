//! Record version 1: the JSON of one line. Within the version only additions.

mod oauth;

pub use oauth::OauthEntry;

use super::mask::{Mask, printable};
use super::replay::Change;
use crate::clock::UnixNanos;
use crate::decision::Situation;
use crate::history::Checkpoint;
use crate::identity::{Certificate, Fingerprint, Peer};
use crate::name::{CredentialId, GrantId, PartnerId};
use crate::partner::{Credential, CredentialKind, PartnerRecord, Period};
use crate::policy::{CONTRACT_VERSION, weekday_name};
use crate::reason::{Code, Reason};
use crate::registry::{Derived, find_api_key};
use crate::request::RequestFacts;
use crate::route::Found;
use crate::snapshot::{Revision, Snapshot};
use crate::token::AccessToken;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use oauth::{Key, OauthLine, Token};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Query pairs that a record shows; what a client can make long must not make records long.
const MAX_QUERY: usize = 64;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request,
    Handshake,
    Malformed,
    StreamOpen,
    StreamCut,
    Suppressed,
    Candidate,
    History,
    /// What the gateway itself answers as the authorization server.
    Oauth,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Request => "request",
            Kind::Handshake => "handshake",
            Kind::Malformed => "malformed",
            Kind::StreamOpen => "stream-open",
            Kind::StreamCut => "stream-cut",
            Kind::Suppressed => "suppressed",
            Kind::Candidate => "candidate",
            Kind::History => "history",
            Kind::Oauth => "oauth",
        }
    }
}

/// One record to be.
pub enum Entry<'a> {
    Request(RequestEntry<'a>),
    Handshake(HandshakeEntry<'a>),
    Malformed(MalformedEntry<'a>),
    Suppressed(SuppressedEntry),
    Candidate(CandidateEntry<'a>),
    History(HistoryEntry<'a>),
}

/// A request that was decided.
pub struct RequestEntry<'a> {
    pub kind: Kind,
    pub snapshot: &'a Snapshot,
    pub peer: &'a Peer,
    pub request: &'a RequestFacts,
    /// Of the decision: where a request was decided again, of that.
    pub now: UnixNanos,
    pub situation: &'a Situation<'a>,
    /// The access token that it came with, where that is good.
    pub token: Option<&'a AccessToken>,
    /// The id of the API key that it came with, or that the token was given for, where that is good.
    pub api_key: Option<&'a CredentialId>,
    /// `allow` or `deny`; or `aborted` and `error` for an allowed request that did not end well.
    pub result: &'static str,
    pub reasons: &'a [Reason],
    /// Custom denials that did not count, because the partner is only observed.
    pub observed: &'a [Reason],
    pub detail: Option<&'a str>,
    pub grant: Option<&'a GrantId>,
    /// The status that was sent; 0 when none was.
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub upstream: Option<UpstreamEntry>,
    /// What was done where it was for the authorization server.
    pub oauth: Option<OauthEntry<'a>>,
}

/// The upstream's part in a request.
pub struct UpstreamEntry {
    pub name: String,
    pub address: Option<SocketAddr>,
    pub duration: Duration,
}

/// A handshake that was refused.
pub struct HandshakeEntry<'a> {
    pub time: UnixNanos,
    pub source: SocketAddr,
    pub sni: Option<&'a str>,
    pub certificate: Option<&'a Presented>,
    pub reason: &'a Reason,
    pub detail: &'a str,
    /// Absent where there was none, or where it is not known which.
    pub alert: Option<&'a Alert>,
    pub duration: Duration,
}

/// A TLS alert by its name in RFC 8446 section 6, such as `unknown_ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    Sent(Cow<'static, str>),
    Received(Cow<'static, str>),
}

/// A leaf certificate as a client sent it.
pub struct Presented {
    /// Over the bytes that were sent, also when no certificate could be read in them.
    pub fingerprint: Fingerprint,
    /// Absent when the bytes are not a certificate.
    pub certificate: Option<Certificate>,
}

impl Presented {
    pub fn of(der: &[u8]) -> Self {
        Presented { fingerprint: Fingerprint::of(der), certificate: Certificate::from_der(der).ok() }
    }
}

impl From<&Peer> for Presented {
    fn from(peer: &Peer) -> Self {
        Presented { fingerprint: peer.leaf.fingerprint, certificate: Some(peer.leaf.clone()) }
    }
}

/// A request that was refused before it could be decided.
pub struct MalformedEntry<'a> {
    pub time: UnixNanos,
    pub id: &'a str,
    pub source: SocketAddr,
    pub peer: &'a Peer,
    pub partner: Option<&'a PartnerId>,
    pub reason: &'a Reason,
    pub detail: &'a str,
    pub status: u16,
    pub revision: Option<&'a Revision>,
}

/// Records that were not written because there were too many; how many is told as by any other record.
pub struct SuppressedEntry {
    pub time: UnixNanos,
    /// What they would have been.
    pub of: Kind,
}

/// A decision that the candidate would have made otherwise.
pub struct CandidateEntry<'a> {
    pub time: UnixNanos,
    /// The id of the decision.
    pub decision: &'a str,
    pub change: &'a Change,
    /// The first reason of its denial; nothing where it was allowed.
    pub reason: Option<&'a Reason>,
    /// The grant that it would be allowed by, or the reasons and the detail of the denial.
    pub would: Result<&'a GrantId, (&'a [Reason], Option<&'a str>)>,
    /// The candidate's revision.
    pub policy: &'a str,
    /// Of what was decided on.
    pub revision: &'a Revision,
}

/// A copy of what the registry's history has: whoever alters it there cannot alter it here as well.
pub enum HistoryEntry<'a> {
    /// The text of an event.
    Event(&'a str),
    Checkpoint(&'a Checkpoint),
}

/// Prebuilt JSON of partners and credentials.
pub type InputCache = Derived<Arc<RawValue>, Arc<RawValue>>;

impl Entry<'_> {
    pub fn kind(&self) -> Kind {
        match self {
            Entry::Request(entry) => entry.kind,
            Entry::Handshake(_) => Kind::Handshake,
            Entry::Malformed(_) => Kind::Malformed,
            Entry::Suppressed(_) => Kind::Suppressed,
            Entry::Candidate(_) => Kind::Candidate,
            Entry::History(_) => Kind::History,
        }
    }

    /// Whether it is of a request that was refused because there was no place for its record.
    pub(super) fn is_refused_for_want_of_it(&self) -> bool {
        matches!(self, Entry::Request(entry) if entry.reasons.contains(&Reason::RecordUnavailable))
    }

    /// Writes the fields after `seq`, as a JSON object, behind what is in `out`.
    pub(super) fn write_json(&self, mask: &Mask, cache: &InputCache, out: &mut Vec<u8>) {
        match self {
            Entry::Request(entry) => entry.write_json(mask, cache, out),
            Entry::Handshake(entry) => out.extend(entry.to_json(mask)),
            Entry::Malformed(entry) => out.extend(entry.to_json(mask)),
            Entry::Suppressed(entry) => out.extend(entry.to_json()),
            Entry::Candidate(entry) => out.extend(entry.to_json()),
            Entry::History(entry) => out.extend(entry.to_json()),
        }
    }
}

#[derive(serde::Serialize)]
struct RequestLine<'a> {
    time: String,
    decision_id: &'a str,
    kind: &'static str,
    input: Input<'a>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    observed: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<&'a str>,
    snapshot: RevisionLine<'a>,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<UpstreamLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oauth: Option<OauthLine<'a>>,
}

#[derive(serde::Serialize)]
struct RevisionLine<'a> {
    registry: u64,
    policy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<&'a str>,
    trust: u64,
    config: &'a str,
}

impl<'a> RevisionLine<'a> {
    fn of(revision: &'a Revision) -> Self {
        let Revision { registry, policy, bundle, trust, config } = revision;
        RevisionLine { registry: *registry, policy, bundle: bundle.as_deref(), trust: *trust, config }
    }
}

#[derive(serde::Serialize)]
struct UpstreamLine<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    duration_ns: u64,
}

/// Contract 1, masked.
#[derive(serde::Serialize)]
struct Input<'a> {
    version: i64,
    environment: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partner: Option<Arc<RawValue>>,
    credential: Arc<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Token<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<Key<'a>>,
    source: Source<'a>,
    tls: Tls<'a>,
    request: Request<'a>,
    time: Time,
}

#[derive(serde::Serialize)]
struct Source<'a> {
    ip: String,
    port: u16,
    networks: Vec<&'a str>,
}

#[derive(serde::Serialize)]
struct Tls<'a> {
    version: &'a str,
    cipher: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct Request<'a> {
    id: &'a str,
    method: &'a str,
    scheme: &'static str,
    host: &'a str,
    path: String,
    segments: Vec<String>,
    query: Map<String, Value>,
    headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_length: Option<u64>,
}

#[derive(serde::Serialize)]
struct Time {
    /// RFC 3339: nanosecond integers exceed 2^53 and would be rounded by common readers.
    now: String,
    weekday: &'static str,
    hour: i8,
    minute: i8,
    local: LocalTime,
}

#[derive(Clone, serde::Serialize)]
struct LocalTime {
    weekday: &'static str,
    hour: i8,
    minute: i8,
}

impl RequestEntry<'_> {
    fn write_json(&self, mask: &Mask, cache: &InputCache, out: &mut Vec<u8>) {
        let primary = self.reasons.first();
        let revision = &self.snapshot.revision;
        let line = RequestLine {
            time: self.now.to_string(),
            decision_id: &self.request.id,
            kind: self.kind.as_str(),
            input: self.input(mask, cache),
            result: self.result,
            reason: primary.map(Reason::as_str),
            reasons: if self.reasons.len() > 1 {
                self.reasons.iter().map(Reason::as_str).collect()
            } else {
                Vec::new()
            },
            observed: self.observed.iter().map(Reason::as_str).collect(),
            // Of the authorization server a client is told the error of OAuth alone.
            code: primary.filter(|_| self.oauth.is_none()).map(|r| r.code().as_str()),
            detail: self.detail.map(printable),
            grant: self.grant.map(GrantId::as_str),
            snapshot: RevisionLine::of(revision),
            status: self.status,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_ns: nanos(self.duration),
            upstream: self.upstream.as_ref().map(|u| UpstreamLine {
                name: &u.name,
                address: u.address.map(|a| a.to_string()),
                duration_ns: nanos(u.duration),
            }),
            oauth: self.oauth.as_ref().map(|entry| OauthLine::of(entry, primary)),
        };
        let before = out.len();
        if let Err(e) = serde_json::to_writer(&mut *out, &line) {
            out.truncate(before);
            out.extend(broken(&self.request.id, &e));
        }
    }

    fn input(&self, mask: &Mask, cache: &InputCache) -> Input<'_> {
        let (request, situation) = (self.request, self.situation);
        let canonical = &request.canonical;
        let known = situation.partner();
        let partner = known.map(|(record, _)| cache.partner(record, || raw(&partner_json(record, self.snapshot))));
        let api_key = self.api_key.zip(known).and_then(|(id, (record, _))| find_api_key(record, id));
        let kind = CredentialKind::of(self.token.is_some(), self.api_key.is_some());
        let credential = match known {
            Some((record, credential)) => cache.credential(record, credential, (self.peer, kind), || {
                raw(&credential_json(Some(credential), (self.peer, kind), mask))
            }),
            None => raw(&credential_json(None, (self.peer, kind), mask)),
        };
        let utc = wall(self.now, &TimeZone::UTC);
        // The path of a known operation is written from its template, so that parameters are masked in it too.
        let mut path = printable(&canonical.path);
        let mut params = None;
        if let Some(resolved) = &situation.operation {
            let mut map = Map::new();
            path = resolved.operation.template.as_str().to_owned();
            for (name, value) in resolved.named() {
                let masked = mask.param(name, value);
                path = path.replace(&format!("{{{name}}}"), &masked);
                map.insert(name.to_string(), Value::String(masked));
            }
            params = Some(map);
        }
        let segments = path.split('/').skip(1).map(str::to_owned).collect();
        Input {
            version: CONTRACT_VERSION,
            environment: self.snapshot.environment.as_str(),
            partner,
            credential,
            token: self.token.map(Token::of),
            api_key: api_key.map(Key::of),
            source: Source {
                ip: mask.address(request.source.ip()),
                port: request.source.port(),
                networks: situation.networks.clone(),
            },
            tls: Tls { version: request.tls.version, cipher: &request.tls.cipher, sni: request.tls.sni.as_deref() },
            request: Request {
                id: &request.id,
                method: canonical.method.as_str(),
                scheme: "https",
                host: canonical.host.as_str(),
                path,
                segments,
                query: multimap(canonical.query_pairs().take(MAX_QUERY).map(|(k, v)| (printable(k), mask.query(k, v)))),
                headers: multimap(request.headers.iter().map(|(n, v)| (n.clone(), printable(v)))),
                operation: situation.operation.as_ref().map(|r| r.operation.id.as_str()),
                tags: situation.operation.as_ref().map(|r| r.operation.tags.iter().map(|t| &**t).collect()),
                params,
                route: match situation.route {
                    Found::Route(route) => Some(route.name.as_str()),
                    Found::NoPath | Found::NoHost => None,
                },
                content_length: request.content_length,
            },
            time: Time {
                now: self.now.to_string(),
                weekday: utc.weekday,
                hour: utc.hour,
                minute: utc.minute,
                local: known.map_or_else(|| utc.clone(), |(r, _)| wall(self.now, r.partner.time_zone.rules())),
            },
        }
    }
}

impl HandshakeEntry<'_> {
    fn to_json(&self, mask: &Mask) -> Vec<u8> {
        let mut input = json!({"source": {"ip": mask.address(self.source.ip()), "port": self.source.port()}});
        if let Some(object) = input.as_object_mut() {
            if let Some(sni) = self.sni {
                object.insert("tls".into(), json!({"sni": printable(sni)}));
            }
            if let Some(presented) = self.certificate {
                let credential = match &presented.certificate {
                    Some(certificate) => certificate_json(certificate, mask),
                    None => json!({"kind": "x509", "fingerprint_sha256": presented.fingerprint}),
                };
                object.insert("credential".into(), credential);
            }
        }
        let mut out = json!({
            "time": self.time.to_string(),
            "kind": Kind::Handshake.as_str(),
            "input": input,
            "result": "deny",
            "reason": self.reason.as_str(),
            "detail": printable(self.detail),
            "duration_ns": nanos(self.duration),
        });
        if let (Some(object), Some(alert)) = (out.as_object_mut(), self.alert) {
            let alert = match alert {
                Alert::Sent(name) => json!({"sent": name}),
                Alert::Received(name) => json!({"received": name}),
            };
            object.insert("alert".into(), alert);
        }
        line(out)
    }
}

impl MalformedEntry<'_> {
    fn to_json(&self, mask: &Mask) -> Vec<u8> {
        let mut credential = certificate_json(&self.peer.leaf, mask);
        if let Some(object) = credential.as_object_mut() {
            object.insert("trust_anchor".into(), json!(self.peer.anchor.as_str()));
        }
        let mut input = json!({
            "source": {"ip": mask.address(self.source.ip()), "port": self.source.port()},
            "credential": credential,
        });
        if let (Some(object), Some(partner)) = (input.as_object_mut(), self.partner) {
            object.insert("partner".into(), json!({"id": partner.as_str()}));
        }
        let code: Code = self.reason.code();
        let mut out = json!({
            "time": self.time.to_string(),
            "decision_id": self.id,
            "kind": Kind::Malformed.as_str(),
            "input": input,
            "result": "deny",
            "reason": self.reason.as_str(),
            "code": code.as_str(),
            "detail": printable(self.detail),
            "status": self.status,
        });
        if let (Some(object), Some(r)) = (out.as_object_mut(), self.revision) {
            let revision =
                json!({"registry": r.registry, "policy": &*r.policy, "trust": r.trust, "config": &*r.config});
            object.insert("snapshot".into(), revision);
        }
        line(out)
    }
}

impl SuppressedEntry {
    fn to_json(&self) -> Vec<u8> {
        line(json!({
            "time": self.time.to_string(),
            "kind": Kind::Suppressed.as_str(),
            "of": self.of.as_str(),
            "result": "deny",
        }))
    }
}

impl CandidateEntry<'_> {
    fn to_json(&self) -> Vec<u8> {
        let (result, grant, reasons, detail) = match self.would {
            Ok(grant) => ("allow", Some(grant.as_str()), None, None),
            Err((reasons, detail)) => {
                let reasons: Vec<&str> = reasons.iter().map(Reason::as_str).collect();
                ("deny", None, Some(reasons), detail.map(printable))
            }
        };
        let would = [
            ("result", Some(json!(result))),
            ("grant", grant.map(|grant| json!(grant))),
            ("reasons", reasons.map(|reasons| json!(reasons))),
            ("detail", detail.map(|detail| json!(detail))),
            ("policy", Some(json!(self.policy))),
        ];
        let would: Map<String, Value> =
            would.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        let mut record = json!({
            "time": self.time.to_string(),
            "decision_id": self.decision,
            "kind": Kind::Candidate.as_str(),
            "partner": self.change.partner,
            "operation": self.change.operation,
            "change": self.change.kind.as_str(),
            "result": if self.reason.is_some() { "deny" } else { "allow" },
            "candidate": would,
            "snapshot": RevisionLine::of(self.revision),
        });
        if let (Some(reason), Some(record)) = (self.reason, record.as_object_mut()) {
            record.insert("reason".into(), json!(reason.as_str()));
        }
        line(record)
    }
}

impl HistoryEntry<'_> {
    /// An event's text is taken over byte for byte.
    fn to_json(&self) -> Vec<u8> {
        let kind = Kind::History.as_str();
        match self {
            HistoryEntry::Event(text) => format!("{{\"kind\":\"{kind}\",\"event\":{text}}}").into_bytes(),
            HistoryEntry::Checkpoint(checkpoint) => line(json!({"kind": kind, "checkpoint": checkpoint})),
        }
    }
}

fn line(value: Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A record that could not be written in full still says that there was one.
fn broken(id: &str, error: &serde_json::Error) -> Vec<u8> {
    line(
        json!({"decision_id": id, "kind": "request", "result": "deny", "reason": "internal", "detail": error.to_string()}),
    )
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn raw(value: &Value) -> Arc<RawValue> {
    let text = RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
    Arc::from(text)
}

fn multimap(pairs: impl Iterator<Item = (String, String)>) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in pairs {
        if let Some(list) = map.entry(key).or_insert_with(|| json!([])).as_array_mut() {
            list.push(Value::String(value));
        }
    }
    map
}

fn wall(now: UnixNanos, zone: &TimeZone) -> LocalTime {
    let civil = zone.to_datetime(Timestamp::from_nanosecond(i128::from(now.0)).unwrap_or(Timestamp::UNIX_EPOCH));
    LocalTime { weekday: weekday_name(civil.weekday()), hour: civil.hour(), minute: civil.minute() }
}

fn put_period(object: &mut Map<String, Value>, period: &Period) {
    if let Some(starts) = period.starts {
        object.insert("starts".into(), json!(starts.to_string()));
    }
    if let Some(ends) = period.ends {
        object.insert("ends".into(), json!(ends.to_string()));
    }
}

fn partner_json(record: &PartnerRecord, snapshot: &Snapshot) -> Value {
    let partner = &record.partner;
    let mut engagement = Map::new();
    put_period(&mut engagement, &partner.engaged());
    let grants = record.grants_in(&snapshot.environment).map(|grant| {
        let mut out = Map::new();
        out.insert("id".into(), json!(grant.id));
        out.insert("owner".into(), json!(grant.owner));
        out.insert("operations".into(), json!(grant.operations));
        if let Some(networks) = &grant.networks {
            out.insert("networks".into(), json!(networks));
        }
        if let Some(credentials) = &grant.credentials {
            out.insert("credentials".into(), json!(credentials));
        }
        put_period(&mut out, &grant.period);
        out.insert("conditions".into(), json!(grant.conditions));
        Value::Object(out)
    });
    let mut document = json!({
        "id": partner.id,
        "name": partner.name,
        "state": partner.standing().as_str(),
        "owner": partner.owner,
        "labels": partner.labels,
        "time_zone": partner.time_zone,
        "engagement": engagement,
        "networks": partner.networks,
        "grants": grants.collect::<Vec<_>>(),
    });
    if let (false, Some(object)) = (partner.observe.is_empty(), document.as_object_mut()) {
        let observe =
            partner.observe.iter().map(|(reason, until)| json!({"reason": reason, "until": until.to_string()}));
        object.insert("observe".into(), observe.collect());
    }
    document
}

fn credential_json(credential: Option<&Credential>, (peer, kind): (&Peer, CredentialKind), mask: &Mask) -> Value {
    let mut out = certificate_json(&peer.leaf, mask);
    if let Some(object) = out.as_object_mut() {
        object.insert("kind".into(), json!(kind.as_str()));
        object.insert("trust_anchor".into(), json!(peer.anchor.as_str()));
        if let Some(credential) = credential {
            object.insert("id".into(), json!(credential.id));
            object.insert("state".into(), json!(credential.state.as_str()));
            object.insert("labels".into(), json!(credential.labels));
        }
    }
    out
}

fn certificate_json(certificate: &Certificate, mask: &Mask) -> Value {
    json!({
        "kind": "x509",
        "fingerprint_sha256": certificate.fingerprint,
        "spki_sha256": certificate.spki_sha256,
        "serial": certificate.serial,
        "issuer": printable(&certificate.issuer.to_string()),
        "subject": printable(&certificate.subject.to_string()),
        "san": {
            "uri": certificate.san.uri.iter().map(|t| printable(t)).collect::<Vec<_>>(),
            "dns": certificate.san.dns.iter().map(|t| printable(t)).collect::<Vec<_>>(),
            "email": certificate.san.email.iter().map(|t| mask.email(t)).collect::<Vec<_>>(),
            "ip": certificate.san.ip.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "not_before": certificate.not_before.to_string(),
        "not_after": certificate.not_after.to_string(),
        "key": {"algorithm": certificate.key.algorithm.as_str(), "bits": certificate.key.bits},
    })
}
