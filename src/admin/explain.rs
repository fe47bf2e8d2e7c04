//! Why a request that nobody has sent would be allowed or denied, on what is live now.

use super::Shared;
use super::answer::{Answer, failed, live, problem, sent};
use crate::clock::UnixNanos;
use crate::decision::{Supposed, Supposition, suppose};
use crate::document::parse_time;
use crate::gateway::{Live, SupposedRequest};
use crate::identity::{Fault, Peer};
use crate::name::{CredentialId, PartnerId};
use crate::partner::{Credential, CredentialStage, PartnerRecord};
use crate::policy::explain::{Certificate, Told, VerdictTold};
use crate::reason::Reason;
use crate::registry::{Registry, Resolution, find_credential};
use crate::reload::aside;
use crate::request::{Host, RequestFacts, SERVED, TlsFacts, canonical_ip};
use crate::snapshot::Snapshot;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio::time::timeout;

/// How long rules are looked into and changes are tried.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a call waits for those before it, and how many do.
const PATIENCE: Duration = Duration::from_secs(5);
const WAITING: usize = 4;
static TURNS: Turns = Turns::new(PATIENCE);
/// Where a call comes from that says nothing of it: in no network but one of all addresses.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Body of `POST /v1/policy/explain`: a request that nobody has sent.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainCall {
    /// Who would send it. May be left out beside a certificate, which says who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<String>,
    /// With what, where the partner has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// With which certificate, in PEM, with what lies between it and its anchor. Without one, what is asked of certificates
    /// is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    pub method: String,
    /// Path and query, as they would be sent.
    pub path: String,
    /// The only one that serves the path, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The address that it would come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// When, in RFC 3339; now where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderCall>,
    /// Bytes of its body; without, it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length: Option<u64>,
    /// `1.2` or `1.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// The IANA name of a cipher suite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
}

/// One header field.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderCall {
    pub name: String,
    pub value: String,
}

/// What a request would come to, and why.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Explained {
    result: Outcome,
    /// What says so.
    decided_by: Stage,
    /// By precedence; none for an allow.
    reasons: Vec<String>,
    /// What the first of them means.
    meaning: Option<&'static str>,
    /// What the partner would be told.
    code: Option<&'static str>,
    detail: Option<String>,
    /// What allows it.
    grant: Option<String>,
    snapshot: ExplainedOn,
    /// All facts, as policy sees them; null where it does not come to facts.
    #[schemars(with = "Option<Map<String, Value>>")]
    input: Option<Value>,
    /// What the call did not say, and what was taken for it.
    assumed: Vec<String>,
    /// What a real request would be asked besides.
    left_out: Vec<String>,
    /// What the policy says of the facts, also where the floor has denied before; null where it does not come to that.
    policy: Option<Told>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Allow,
    Deny,
}

/// Where a request ends, in the order in which it comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// The certificate is not believed: no request is read.
    Handshake,
    /// The request cannot be read in one way.
    Head,
    /// A check that no policy can open.
    Floor,
    /// No route, no operation, or not in this way.
    Route,
    Policy,
    /// The grant that the policy has named is none for this.
    Grant,
}

/// Revisions of what it was asked of.
#[derive(Debug, Serialize, JsonSchema)]
struct ExplainedOn {
    registry: u64,
    policy: String,
    /// Of the policy's bundle, where it comes in one.
    bundle: Option<String>,
    trust: u64,
    config: String,
}

pub(super) async fn explain(State(shared): State<Shared>, Json(call): Json<ExplainCall>) -> Answer<Explained> {
    let work = move || {
        let (live, now) = (live(&shared)?, shared.publisher.now());
        explained(&live, &call, now).map_err(|Wrong(reasons)| {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "such a request cannot be explained", reasons)
        })
    };
    match TURNS.alone(work).await {
        Ok(Some(explained)) => sent(explained?),
        Ok(None) => {
            let title = "other requests are being explained: ask again";
            Err(problem(StatusCode::SERVICE_UNAVAILABLE, title, Vec::new()))
        }
        Err(e) => Err(failed(e)),
    }
}

/// One explanation at a time, since each takes a processor for as long. What is done aside goes on when its caller hangs up, and
/// so it is the work that has the turn, not the caller.
struct Turns {
    turn: Semaphore,
    waiting: Semaphore,
    patience: Duration,
}

impl Turns {
    const fn new(patience: Duration) -> Turns {
        Turns { turn: Semaphore::const_new(1), waiting: Semaphore::const_new(WAITING), patience }
    }

    /// Does work while no other is done; `None` where that would be too long a wait.
    async fn alone<T: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, JoinError> {
        let Ok(waiting) = self.waiting.try_acquire() else { return Ok(None) };
        let Ok(Ok(turn)) = timeout(self.patience, self.turn.acquire()).await else { return Ok(None) };
        drop(waiting);
        let work = async move {
            let done = work();
            drop(turn);
            done
        };
        aside(work).await.map(Some)
    }
}

/// All of a call that has no meaning, with its fix.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    /// Notes what is wrong, so that the rest is looked at too.
    fn note<T>(&mut self, read: Result<T, String>) -> Option<T> {
        read.map_err(|reason| self.0.push(reason)).ok()
    }
}

/// Who would come.
enum Who<'a> {
    Peer(Box<Peer>),
    Registered(&'a Arc<PartnerRecord>, &'a Credential),
    /// With a certificate that is not believed.
    Nobody(Fault),
}

fn explained(live: &Live, call: &ExplainCall, now: UnixNanos) -> Result<Explained, Wrong> {
    let snapshot = &*live.snapshot;
    let (mut assumed, mut wrong) = (Vec::new(), Wrong::default());
    let at = call.at.as_ref().map(|at| parse_time(at).map(UnixNanos).map_err(|e| format!("at: {e}")));
    let now = at.and_then(|at| wrong.note(at)).unwrap_or(now);
    let request = request(snapshot, call, now, &mut assumed, &mut wrong);
    let who = match &call.certificate {
        None => {
            let registered = wrong.note(registered(snapshot, call, now, &mut assumed));
            registered.map(|(record, credential)| Who::Registered(record, credential))
        }
        Some(pem) => wrong.note(chain(pem)).and_then(|chain| match snapshot.trust.suppose(&chain, now) {
            Ok(peer) => wrong.note(check_names(&snapshot.registry, call, &peer)).map(|()| Who::Peer(Box::new(peer))),
            Err(fault) => Some(Who::Nobody(fault)),
        }),
    };
    let (Some(request), Some(who), true) = (request, who, wrong.0.is_empty()) else { return Err(wrong) };
    let denied = |stage, (reasons, detail): (Vec<Reason>, Option<String>), assumed: Vec<String>| Explained {
        result: Outcome::Deny,
        decided_by: stage,
        meaning: reasons.first().map(Reason::doc),
        code: reasons.first().map(|reason| reason.code().as_str()),
        reasons: reasons.iter().map(ToString::to_string).collect(),
        detail,
        grant: None,
        snapshot: ExplainedOn::of(snapshot),
        input: None,
        assumed,
        left_out: Vec::new(),
        policy: None,
    };
    let mut left_out = Vec::new();
    let (who, certificate) = match &who {
        Who::Peer(peer) => (Supposed::Peer(peer), Certificate::Given),
        Who::Registered(record, credential) => {
            left_out.push(format!(
                "whether a certificate of `{}` is believed: its chain, its validity, its revocation, its names \
                 (give the certificate to ask that)",
                credential.id
            ));
            (Supposed::Credential(record, credential), Certificate::Supposed)
        }
        Who::Nobody(Fault { reason, detail }) => {
            return Ok(denied(Stage::Handshake, (vec![reason.clone()], Some(detail.clone())), assumed));
        }
    };
    let facts = match request.read(&snapshot.request) {
        Ok(facts) => facts,
        Err(refusal) => return Ok(denied(Stage::Head, (vec![refusal.reason], Some(refusal.detail)), assumed)),
    };
    let supposition = suppose(snapshot, who, &facts);
    let told = asked_policy(snapshot, &supposition, certificate);
    let too_large = too_large(snapshot, &facts);
    let explained = match (supposition.denial(), supposition.grant()) {
        (Some(refused), _) => {
            let (mut refused, stage) = (refused.clone(), stage(&supposition, told.as_ref()));
            if refused.0.first() == Some(&Reason::OperationUnknown) {
                refused.1 = Some(other_methods(snapshot, &facts));
            }
            denied(stage, refused, assumed)
        }
        (None, Some(_)) if too_large.is_some() => {
            denied(Stage::Route, (vec![Reason::BodyTooLarge], too_large), assumed)
        }
        (None, grant) => Explained {
            result: Outcome::Allow,
            grant: grant.map(ToString::to_string),
            ..denied(Stage::Policy, (Vec::new(), None), assumed)
        },
    };
    // What it says of a request that no operation serves has no bearing on it.
    let policy = told.filter(|_| explained.decided_by != Stage::Route);
    let input = supposition.input.and_then(|input| serde_json::to_value(input).ok());
    Ok(Explained { input, left_out, policy, ..explained })
}

impl ExplainedOn {
    fn of(snapshot: &Snapshot) -> Self {
        let revision = &snapshot.revision;
        ExplainedOn {
            registry: revision.registry,
            policy: revision.policy.to_string(),
            bundle: revision.bundle.as_deref().map(str::to_owned),
            trust: revision.trust,
            config: revision.config.to_string(),
        }
    }
}

/// The policy on the facts, where there are such.
fn asked_policy(snapshot: &Snapshot, supposition: &Supposition, certificate: Certificate) -> Option<Told> {
    let input = supposition.input.as_ref()?;
    Some(Told::from(&snapshot.policy.explain(input, certificate, Some(Instant::now() + LIMIT))))
}

fn stage(supposition: &Supposition, policy: Option<&Told>) -> Stage {
    let route = [Reason::HostMismatch, Reason::RouteUnknown, Reason::OperationUnknown, Reason::UpgradeNotAllowed];
    match supposition.denial().and_then(|(reasons, _)| reasons.first()) {
        _ if supposition.floor.is_err() => Stage::Floor,
        Some(reason) if route.contains(reason) => Stage::Route,
        _ if policy.is_some_and(|told| matches!(told.decision, VerdictTold::Allow { .. })) => Stage::Grant,
        _ => Stage::Policy,
    }
}

fn too_large(snapshot: &Snapshot, facts: &RequestFacts) -> Option<String> {
    let route = snapshot.routes.find(&facts.canonical.host, &facts.canonical.path).route()?;
    let length = facts.content_length.filter(|length| *length > route.max_body)?;
    Some(format!("{length} bytes; the route `{}` takes {}", route.name, route.max_body))
}

/// What may be done with a path that is not done with it.
fn other_methods(snapshot: &Snapshot, facts: &RequestFacts) -> String {
    let canonical = &facts.canonical;
    let route = snapshot.routes.find(&canonical.host, &canonical.path).route();
    let methods: Vec<&str> = SERVED
        .iter()
        .map(http::Method::as_str)
        .filter(|method| {
            let operations = route.and_then(|route| route.operations);
            operations.is_some_and(|id| snapshot.operations.resolve(id, method, &canonical.path).is_some())
        })
        .collect();
    let route = route.map(|route| route.name.to_string()).unwrap_or_default();
    if methods.is_empty() {
        format!("the route `{route}` has no operation of this path")
    } else {
        format!("the route `{route}` has operations of this path for {} only", methods.join(", "))
    }
}

/// The request, with what was taken for what the call does not say.
fn request(
    snapshot: &Snapshot,
    call: &ExplainCall,
    now: UnixNanos,
    assumed: &mut Vec<String>,
    wrong: &mut Wrong,
) -> Option<SupposedRequest> {
    let source = match &call.from {
        None => {
            assumed.push(format!("from {NOWHERE}, which is in no network that does not hold all addresses"));
            Some(NOWHERE)
        }
        Some(from) => {
            let read = from.parse().map_err(|_| format!("from: `{}` is not an IP address", from.escape_debug()));
            wrong.note(read).map(canonical_ip)
        }
    };
    let host = wrong.note(host(snapshot, call, assumed));
    let headers: Vec<_> = call.headers.iter().filter_map(|header| wrong.note(field(header))).collect();
    let tls = wrong.note(tls(call, host.as_deref().unwrap_or_default(), assumed));
    Some(SupposedRequest {
        method: call.method.clone(),
        target: call.path.clone(),
        tls: Arc::new(tls?),
        host: host?,
        headers,
        content_length: call.content_length,
        source: SocketAddr::new(source?, 0),
        now,
    })
}

fn field(HeaderCall { name, value }: &HeaderCall) -> Result<(HeaderName, HeaderValue), String> {
    let shown = name.escape_debug();
    let name = HeaderName::try_from(name).map_err(|_| format!("headers: `{shown}` is not a field name"))?;
    if [http::header::HOST, http::header::CONTENT_LENGTH].contains(&name) {
        return Err(format!("headers: `{name}` is said with `host` or `content_length`"));
    }
    let value = HeaderValue::try_from(value)
        .map_err(|_| format!("headers: the value of `{name}` is none that a field can have"))?;
    Ok((name, value))
}

fn host(snapshot: &Snapshot, call: &ExplainCall, assumed: &mut Vec<String>) -> Result<String, String> {
    if let Some(host) = &call.host {
        return Ok(host.clone());
    }
    let all: BTreeSet<&Host> = snapshot.routes.iter().flat_map(|route| &route.hosts).collect();
    let path = call.path.split('?').next().unwrap_or_default();
    let serving: Vec<&Host> =
        all.iter().copied().filter(|host| snapshot.routes.find(host, path).route().is_some()).collect();
    let list: Vec<&Host> = if serving.is_empty() { all.into_iter().collect() } else { serving };
    match list.as_slice() {
        [one] => {
            assumed.push(format!("host {one}"));
            Ok(one.to_string())
        }
        several => {
            let several: Vec<String> = several.iter().map(|host| format!("`{host}`")).collect();
            Err(format!("host: say which of {} it is sent to (`--host`)", several.join(", ")))
        }
    }
}

fn tls(call: &ExplainCall, host: &str, assumed: &mut Vec<String>) -> Result<TlsFacts, String> {
    let of = |version: &str, cipher: &str| cipher.starts_with("TLS_ECDHE_") == (version == "1.2");
    let version = match call.tls.as_deref() {
        Some("1.2") => "1.2",
        Some("1.3") => "1.3",
        None if call.cipher.as_deref().is_some_and(|cipher| of("1.2", cipher)) => "1.2",
        None => {
            assumed.push("TLS 1.3".into());
            "1.3"
        }
        Some(other) => return Err(format!("tls: `{}` is neither 1.2 nor 1.3", other.escape_debug())),
    };
    let ciphers: Vec<String> = TlsFacts::ciphers().filter(|cipher| of(version, cipher)).collect();
    let cipher = match &call.cipher {
        Some(cipher) if ciphers.contains(cipher) => cipher.clone(),
        Some(other) => {
            let (other, known) = (other.escape_debug(), ciphers.join(", "));
            return Err(format!("cipher: `{other}` is none of TLS {version}: {known}"));
        }
        None => {
            let first = ciphers.into_iter().next().unwrap_or_default();
            assumed.push(format!("cipher suite {first}"));
            first
        }
    };
    // A client that connects by address sends no name.
    let is_name = Host::parse(host).is_ok() && host.parse::<IpAddr>().is_err() && !host.starts_with('[');
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    Ok(TlsFacts { version, cipher, sni: is_name.then(|| name.to_owned()) })
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|e| format!("certificate: is no PEM: {e}"))?;
    if chain.is_empty() { Err("certificate: has no certificate in PEM".into()) } else { Ok(chain) }
}

/// A partner's credential, where it is clear which.
fn registered<'a>(
    snapshot: &'a Snapshot,
    call: &ExplainCall,
    now: UnixNanos,
    assumed: &mut Vec<String>,
) -> Result<(&'a Arc<PartnerRecord>, &'a Credential), String> {
    let Some(partner) = &call.partner else {
        return Err(
            "partner: say who sends it (`--partner`), or give the certificate that it comes with (`--cert`)".into()
        );
    };
    let id = PartnerId::parse(partner).map_err(|e| format!("partner: {e}"))?;
    let record = snapshot.registry.partner(&id).ok_or_else(|| format!("partner: there is no `{id}`"))?;
    let all: Vec<String> =
        record.credentials.iter().map(|c| format!("`{}` ({})", c.id, c.stage(now).as_str())).collect();
    let all = all.join(", ");
    if let Some(wanted) = &call.credential {
        let wanted = CredentialId::parse(wanted).map_err(|e| format!("credential: {e}"))?;
        return match find_credential(record, &wanted) {
            Some(credential) => Ok((record, credential)),
            None if all.is_empty() => Err(format!("credential: `{id}` has none")),
            None => Err(format!("credential: `{id}` has no `{wanted}`, but {all}")),
        };
    }
    let accepted = |c: &&Credential| matches!(c.stage(now), CredentialStage::Active | CredentialStage::Retiring);
    let accepted: Vec<&Credential> =
        record.credentials.iter().filter(|c| c.environments.contains(&snapshot.environment)).filter(accepted).collect();
    match (accepted.as_slice(), record.credentials.as_slice()) {
        ([one], _) => {
            assumed.push(format!("credential {}", one.id));
            Ok((record, one))
        }
        ([], [one]) => {
            assumed.push(format!("credential {}", one.id));
            Ok((record, one))
        }
        (_, []) => Err(format!("credential: `{id}` has none: nobody can come as it")),
        ([], _) => Err(format!("credential: `{id}` has none that is accepted; say which (`--credential`): {all}")),
        _ => Err(format!("credential: `{id}` has several; say which (`--credential`): {all}")),
    }
}

/// Whether a certificate is of whom the call says.
fn check_names(registry: &Registry, call: &ExplainCall, peer: &Peer) -> Result<(), String> {
    let Resolution::Known { record, credential, .. } = registry.resolve(peer) else { return Ok(()) };
    let (partner, id) = (record.partner.id.as_str(), credential.id.as_str());
    let said = |said: &Option<String>, is: &str| said.as_deref().is_none_or(|said| said == is);
    if said(&call.partner, partner) && said(&call.credential, id) {
        return Ok(());
    }
    Err(format!("certificate: it is `{id}` of `{partner}`: leave out the partner and the credential, or give theirs"))
}

#[cfg(test)]
mod tests;
