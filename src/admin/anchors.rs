//! Anchors over the admin API: added, bound, removed, who is under them, and single certificates that are denied.

use super::answer::{Answer, Named, Switch, Tagged, failed, live, problem, refused, switched, tagged, undone, wrong};
use super::caller::Caller;
use super::grants::{Asking, ask};
use super::page::{Listed, PageQuery};
use super::{EditCall, Shared, grants};
use crate::clock::UnixNanos;
use crate::fetch::Overview;
use crate::identity::{Fingerprint, Serial};
use crate::name::{AnchorName, CredentialId, Environment, PartnerId};
use crate::partner::{Anchor, ClientAuthUsage, CredentialState, Denied, DeniedCertificate, RevocationMode, Root};
use crate::registry::{Change, Registry};
use crate::reload::{Applied, Binding, Denial, Place, Subject, Wanted, aside, no_anchor};
use crate::snapshot::Snapshot;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::PathBuf;

/// Body of `POST /v1/anchors/{name}/deny` and `…/undeny`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DenyCall {
    /// Hex; either this or `fingerprint`.
    #[serde(default)]
    pub serial: Option<String>,
    /// SHA-256 of the certificate in hex.
    #[serde(default)]
    pub fingerprint: Option<String>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

impl DenyCall {
    fn certificate(&self) -> Result<DeniedCertificate, String> {
        match (&self.serial, &self.fingerprint) {
            // As `openssl x509 -serial` prints it.
            (Some(serial), None) => Serial::parse(serial.trim_start_matches("serial=")).map(DeniedCertificate::Serial),
            (None, Some(fingerprint)) => Fingerprint::parse(fingerprint).map(DeniedCertificate::Fingerprint),
            _ => Err("name the certificate by exactly one of `serial` and `fingerprint`".into()),
        }
    }
}

/// Anchors, sorted by name.
#[derive(Serialize, JsonSchema)]
pub(super) struct Anchors {
    anchors: Vec<AnchorRow>,
}

/// One anchor of a list.
#[derive(Serialize, JsonSchema)]
struct AnchorRow {
    name: AnchorName,
    /// When the first of its certificates ends, RFC 3339; null where a bundle has none.
    not_after: Option<String>,
    /// Partners that it may speak for.
    partners: usize,
    /// Credentials under it.
    credentials: usize,
    revocation: RevocationMode,
    /// Certificates that are denied.
    denied: usize,
}

pub(super) async fn list(State(shared): State<Shared>, Query(page): Query<PageQuery>) -> Answer<Listed<Anchors>> {
    let asked = page.read(AnchorName::parse)?;
    let live = live(&shared)?;
    // Credentials are counted over all partners.
    let work = async move {
        let rows = rows(&live.snapshot).filter(|row| asked.after.as_ref().is_none_or(|after| row.name > *after));
        let (anchors, next) = asked.page(rows, |row| row.name.to_string());
        asked.listed(Anchors { anchors }, next)
    };
    aside(work).await.map_err(failed)?
}

fn rows(snapshot: &Snapshot) -> impl Iterator<Item = AnchorRow> {
    let mut credentials: HashMap<&AnchorName, usize> = HashMap::new();
    for record in snapshot.registry.partners() {
        for credential in &record.credentials {
            *credentials.entry(&credential.anchor).or_default() += 1;
        }
    }
    snapshot.registry.anchors().map(move |anchor| {
        let ends = snapshot.trust.anchors().iter().filter(|a| a.name == anchor.name).map(|a| a.not_after).min();
        AnchorRow {
            name: anchor.name.clone(),
            not_after: ends.map(|t| t.to_string()),
            partners: anchor.partners.len(),
            credentials: credentials.get(&anchor.name).copied().unwrap_or(0),
            revocation: anchor.revocation.mode,
            denied: anchor.denied.len(),
        }
    })
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Tagged<AnchorAnswer>, Response> {
    let live = live(&shared)?;
    let name =
        AnchorName::parse(&name).map_err(|reason| problem(StatusCode::UNPROCESSABLE_ENTITY, &reason, Vec::new()))?;
    let Some(anchor) = live.snapshot.registry.anchor(&name).cloned() else {
        return Err(refused(no_anchor(&name, &live.snapshot.registry).into()));
    };
    let seen = shared.publisher.store().last_seen().await.map_err(|e| refused(e.into()))?;
    let work = async move {
        let mut lists = shared.publisher.lists();
        lists.retain(|list| list.anchor == anchor.name);
        let tag = Subject::Anchor(anchor.name.clone()).entity_tag(&live.snapshot.registry);
        tagged(AnchorAnswer::of(&anchor, &live.snapshot, &seen, lists), tag)
    };
    aside(work).await.map_err(failed)?
}

pub(super) async fn deny(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Json(call): Json<DenyCall>,
) -> Switch<Judged> {
    change(shared, caller, name, call, true).await
}

pub(super) async fn undeny(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Json(call): Json<DenyCall>,
) -> Switch<Judged> {
    change(shared, caller, name, call, false).await
}

/// Body of `PUT` and `PATCH /v1/anchors/{name}`: keys of a registry file, where `certificate` is the PEM itself; and, of
/// one that is there, the partners that it is bound to besides and no more.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnchorCall {
    #[serde(default)]
    pub set: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unbind: Vec<String>,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

pub(super) async fn add(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<AnchorName>,
    call: Json<AnchorCall>,
) -> Answer<Applied> {
    set(Place::Free, state, caller, name, call).await
}

pub(super) async fn edit(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<AnchorName>,
    call: Json<AnchorCall>,
) -> Answer<Applied> {
    set(Place::Taken, state, caller, name, call).await
}

async fn set(
    place: Place,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Json(call): Json<AnchorCall>,
) -> Answer<Applied> {
    let AnchorCall { set, bind, unbind, dry_run, reason, ticket } = call;
    if set.contains_key("denied") {
        return Err(wrong("`denied` is set by a command of its own"));
    }
    if !bind.is_empty() || !unbind.is_empty() {
        if !set.is_empty() || place == Place::Free {
            return Err(wrong(
                "`bind` and `unbind` are for an anchor that is there, and without `set`, whose key is `partners`",
            ));
        }
        let parsed = |ids: Vec<String>| ids.iter().map(|id| PartnerId::parse(id)).collect::<Result<Vec<_>, _>>();
        let (bind, unbind) = (parsed(bind).map_err(|e| wrong(&e))?, parsed(unbind).map_err(|e| wrong(&e))?);
        let wanted = Wanted::Bound(Binding { anchor: name, bind, unbind });
        return ask(&shared, &caller, wanted, Asking { dry_run, reason, ticket }).await;
    }
    let call = EditCall { set, end: None, dry_run, reason, ticket };
    grants::edit(&shared, &caller, Subject::Anchor(name), Vec::new(), place, call).await
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Query(query): Query<Asking>,
) -> Answer<Applied> {
    let live = live(&shared)?;
    let Some(anchor) = live.snapshot.registry.anchor(&name) else {
        return Err(refused(no_anchor(&name, &live.snapshot.registry).into()));
    };
    if !anchor.denied.is_empty() {
        return Err(wrong(&format!(
            "{} certificates under the anchor are denied, and with it that would be forgotten: `anchor undeny` them first",
            anchor.denied.len()
        )));
    }
    ask(&shared, &caller, Wanted::Gone(Change::Anchor(name, None)), query).await
}

/// A certificate that is denied, or is not any more.
#[derive(Serialize, JsonSchema)]
pub(super) struct Judged {
    anchor: AnchorName,
    certificate: DeniedCertificate,
}

async fn change(shared: Shared, caller: Caller, name: AnchorName, call: DenyCall, deny: bool) -> Switch<Judged> {
    let certificate = call.certificate().map_err(|reason| wrong(&reason))?;
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept with the denial"));
    }
    let author = caller.actor.name.clone();
    let at: UnixNanos = shared.publisher.now();
    let denial = if deny {
        let denied =
            Denied { certificate: certificate.clone(), reason: call.reason.clone(), author: author.clone(), at };
        Denial::Deny(denied)
    } else {
        Denial::Undeny(certificate.clone())
    };
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    match shared.publisher.deny(name.clone(), denial, cause).await {
        Ok((done, changed)) => {
            let verb = if deny { "denied" } else { "no longer denied" };
            if changed {
                tracing::warn!(anchor = %name, %certificate, author, reason = call.reason, revision = done.revision, "a certificate is {verb}");
            }
            switched(Judged { anchor: name, certificate }, done, changed)
        }
        Err(e) => undone(e),
    }
}

/// Answer of `GET /v1/anchors/{name}`. Times are RFC 3339.
#[derive(Serialize, JsonSchema)]
pub(super) struct AnchorAnswer {
    name: AnchorName,
    certificates: Vec<RootRow>,
    /// Null where the anchor is a certificate.
    bundle: Option<BundleRow>,
    /// It is a client certificate, and the only one under itself.
    self_signed: bool,
    /// The partners that it may speak for.
    partners: Vec<PartnerId>,
    environments: Vec<Environment>,
    client_auth: ClientAuthUsage,
    /// Longest validity of a client certificate under it, in seconds; null where it does not matter.
    max_lifetime_s: Option<u64>,
    revocation: RevocationRow,
    /// The revocation lists that are held, and sources that fail.
    lists: Vec<Overview>,
    denied: Vec<DeniedRow>,
    /// Every credential under it.
    credentials: Vec<User>,
}

/// A certificate that paths may end in.
#[derive(Serialize, JsonSchema)]
struct RootRow {
    subject: String,
    fingerprint_sha256: Fingerprint,
    not_before: String,
    not_after: String,
}

/// Where a SPIFFE trust bundle is read from.
#[derive(Serialize, JsonSchema)]
struct BundleRow {
    trust_domain: String,
    file: PathBuf,
}

/// How it is found out which certificates are revoked.
#[derive(Serialize, JsonSchema)]
struct RevocationRow {
    mode: RevocationMode,
    /// `file:PATH`, `dir:PATH` or a URL each.
    sources: Vec<String>,
    /// Seconds that a list is still good enough after its nextUpdate.
    grace_s: u64,
    /// Lists that certificates name themselves are fetched as well.
    distribution_points: bool,
}

/// A certificate that is refused.
#[derive(Serialize, JsonSchema)]
struct DeniedRow {
    certificate: DeniedCertificate,
    reason: String,
    author: String,
    at: String,
}

/// A credential that still needs the anchor.
#[derive(Serialize, JsonSchema)]
struct User {
    partner: PartnerId,
    id: CredentialId,
    state: CredentialState,
    /// Null where it never was.
    last_used: Option<String>,
}

impl AnchorAnswer {
    /// `seen` is when each credential was used last.
    fn of(anchor: &Anchor, snapshot: &Snapshot, seen: &HashMap<String, UnixNanos>, lists: Vec<Overview>) -> Self {
        let roots = snapshot.trust.anchors().iter().filter(|a| a.name == anchor.name);
        let bundle = match &anchor.root {
            Root::Bundle { bundle } => {
                Some(BundleRow { trust_domain: bundle.trust_domain.clone(), file: bundle.file.clone() })
            }
            Root::Certificate { .. } | Root::SelfSigned { .. } => None,
        };
        let revocation = &anchor.revocation;
        let denied = anchor.denied.iter().map(|d| DeniedRow {
            certificate: d.certificate.clone(),
            reason: d.reason.clone(),
            author: d.author.clone(),
            at: d.at.to_string(),
        });
        AnchorAnswer {
            name: anchor.name.clone(),
            certificates: roots
                .map(|a| RootRow {
                    subject: a.subject.to_string(),
                    fingerprint_sha256: a.fingerprint,
                    not_before: a.not_before.to_string(),
                    not_after: a.not_after.to_string(),
                })
                .collect(),
            bundle,
            self_signed: matches!(anchor.root, Root::SelfSigned { .. }),
            partners: anchor.partners.clone(),
            environments: anchor.environments.clone(),
            client_auth: anchor.client_auth,
            max_lifetime_s: anchor.max_lifetime.map(|d| d.as_secs()),
            revocation: RevocationRow {
                mode: revocation.mode,
                sources: revocation.sources.iter().map(ToString::to_string).collect(),
                grace_s: revocation.grace.as_secs(),
                distribution_points: revocation.distribution_points,
            },
            lists,
            denied: denied.collect(),
            credentials: users(anchor, &snapshot.registry, seen),
        }
    }
}

fn users(anchor: &Anchor, registry: &Registry, seen: &HashMap<String, UnixNanos>) -> Vec<User> {
    let mut users = Vec::new();
    for record in anchor.partners.iter().filter_map(|id| registry.partner(id)) {
        for credential in record.credentials.iter().filter(|c| c.anchor == anchor.name) {
            users.push(User {
                partner: record.partner.id.clone(),
                id: credential.id.clone(),
                state: credential.state,
                last_used: seen.get(credential.id.as_str()).map(|t| t.to_string()),
            });
        }
    }
    users
}
