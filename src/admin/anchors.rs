//! Anchors over the admin API: added, bound, removed, who is under them, and single certificates that are denied.

use super::answer::{Named, problem, refused, switched, tagged, wrong};
use super::caller::Caller;
use super::networks::{RemoveQuery, apply};
use super::{EditCall, Shared, grants};
use crate::clock::UnixNanos;
use crate::fetch::Overview;
use crate::identity::{Fingerprint, Serial};
use crate::name::{AnchorName, PartnerId};
use crate::partner::{Anchor, Denied, DeniedCertificate, Root};
use crate::registry::{Change, Registry};
use crate::reload::{Binding, Denial, Place, Subject, Wanted, aside, no_anchor};
use crate::snapshot::Snapshot;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

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

pub(super) async fn list(State(shared): State<Shared>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    // Credentials are counted over all partners.
    match aside(async move { anchors_document(&live.snapshot) }).await {
        Ok(document) => Json(document).into_response(),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
    }
}

pub(super) async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let name = match AnchorName::parse(&name) {
        Ok(name) => name,
        Err(reason) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &reason, Vec::new()),
    };
    let Some(anchor) = live.snapshot.registry.anchor(&name).cloned() else {
        return refused(no_anchor(&name, &live.snapshot.registry).into());
    };
    let seen = match shared.publisher.store().last_seen().await {
        Ok(seen) => seen,
        Err(e) => return refused(e.into()),
    };
    let document = aside(async move {
        let mut lists = shared.publisher.lists();
        lists.retain(|list| list.anchor == anchor.name);
        let tag = Subject::Anchor(anchor.name.clone()).entity_tag(&live.snapshot.registry);
        (anchor_document(&anchor, &live.snapshot, &seen, &lists), tag)
    });
    match document.await {
        Ok((document, tag)) => tagged(document, tag),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
    }
}

pub(super) async fn deny(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Json(call): Json<DenyCall>,
) -> Response {
    change(shared, caller, name, call, true).await
}

pub(super) async fn undeny(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Json(call): Json<DenyCall>,
) -> Response {
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
) -> Response {
    set(Place::Free, state, caller, name, call).await
}

pub(super) async fn edit(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<AnchorName>,
    call: Json<AnchorCall>,
) -> Response {
    set(Place::Taken, state, caller, name, call).await
}

async fn set(
    place: Place,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Json(call): Json<AnchorCall>,
) -> Response {
    let AnchorCall { set, bind, unbind, dry_run, reason, ticket } = call;
    if set.contains_key("denied") {
        return wrong("`denied` is set by a command of its own");
    }
    if !bind.is_empty() || !unbind.is_empty() {
        if !set.is_empty() || place == Place::Free {
            return wrong(
                "`bind` and `unbind` are for an anchor that is there, and without `set`, whose key is `partners`",
            );
        }
        let parsed = |ids: Vec<String>| ids.iter().map(|id| PartnerId::parse(id)).collect::<Result<Vec<_>, _>>();
        let (bind, unbind) = match (parsed(bind), parsed(unbind)) {
            (Ok(bind), Ok(unbind)) => (bind, unbind),
            (Err(reason), _) | (_, Err(reason)) => return wrong(&reason),
        };
        let wanted = Wanted::Bound(Binding { anchor: name, bind, unbind });
        let query = RemoveQuery { dry_run, reason, ticket };
        return apply(&shared, &caller, wanted, query).await;
    }
    let call = EditCall { set, end: None, dry_run, reason, ticket };
    grants::edit(&shared, &caller, Subject::Anchor(name), Vec::new(), place, call).await
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<AnchorName>,
    Query(query): Query<RemoveQuery>,
) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let Some(anchor) = live.snapshot.registry.anchor(&name) else {
        return refused(no_anchor(&name, &live.snapshot.registry).into());
    };
    if !anchor.denied.is_empty() {
        return wrong(&format!(
            "{} certificates under the anchor are denied, and with it that would be forgotten: `anchor undeny` them first",
            anchor.denied.len()
        ));
    }
    apply(&shared, &caller, Wanted::Gone(Change::Anchor(name, None)), query).await
}

async fn change(shared: Shared, caller: Caller, name: AnchorName, call: DenyCall, deny: bool) -> Response {
    let certificate = match call.certificate() {
        Ok(certificate) => certificate,
        Err(reason) => return wrong(&reason),
    };
    if call.reason.trim().is_empty() {
        return wrong("a reason is needed: it is kept with the denial");
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
            switched(json!({"anchor": name, "certificate": certificate}), done, changed)
        }
        Err(e) => refused(e),
    }
}

/// Body of `GET /v1/anchors`.
pub fn anchors_document(snapshot: &Snapshot) -> Value {
    let mut credentials: HashMap<&AnchorName, usize> = HashMap::new();
    for record in snapshot.registry.partners() {
        for credential in &record.credentials {
            *credentials.entry(&credential.anchor).or_default() += 1;
        }
    }
    let anchors: Vec<Value> = snapshot
        .registry
        .anchors()
        .map(|anchor| {
            let ends = snapshot.trust.anchors().iter().filter(|a| a.name == anchor.name).map(|a| a.not_after).min();
            json!({
                "name": anchor.name,
                "not_after": ends.map(|t| t.to_string()),
                "partners": anchor.partners.len(),
                "credentials": credentials.get(&anchor.name).copied().unwrap_or(0),
                "revocation": anchor.revocation.mode.as_str(),
                "denied": anchor.denied.len(),
            })
        })
        .collect();
    json!({"anchors": anchors})
}

/// Body of `GET /v1/anchors/{name}`. `seen` is when each credential was used last.
fn anchor_document(
    anchor: &Anchor,
    snapshot: &Snapshot,
    seen: &HashMap<String, UnixNanos>,
    lists: &[Overview],
) -> Value {
    let certificates: Vec<Value> = snapshot
        .trust
        .anchors()
        .iter()
        .filter(|a| a.name == anchor.name)
        .map(|a| {
            json!({
                "subject": a.subject.to_string(), "fingerprint_sha256": a.fingerprint,
                "not_before": a.not_before.to_string(), "not_after": a.not_after.to_string(),
            })
        })
        .collect();
    let bundle = match &anchor.root {
        Root::Bundle { bundle } => Some(json!({"trust_domain": bundle.trust_domain, "file": bundle.file})),
        Root::Certificate { .. } => None,
    };
    let revocation = &anchor.revocation;
    let denied = anchor
        .denied
        .iter()
        .map(|d| json!({"certificate": d.certificate, "reason": d.reason, "author": d.author, "at": d.at.to_string()}));
    json!({
        "name": anchor.name,
        "certificates": certificates,
        "bundle": bundle,
        "partners": anchor.partners,
        "environments": anchor.environments,
        "client_auth": anchor.client_auth.as_str(),
        "max_lifetime_s": anchor.max_lifetime.map(|d| d.as_secs()),
        "revocation": {
            "mode": revocation.mode.as_str(), "sources": revocation.sources, "grace_s": revocation.grace.as_secs(),
            "distribution_points": revocation.distribution_points,
        },
        "lists": lists,
        "denied": denied.collect::<Vec<_>>(),
        "credentials": users(anchor, &snapshot.registry, seen),
    })
}

/// Who still needs the anchor: every credential under it, and when it was used last.
fn users(anchor: &Anchor, registry: &Registry, seen: &HashMap<String, UnixNanos>) -> Vec<Value> {
    let mut users = Vec::new();
    for record in anchor.partners.iter().filter_map(|id| registry.partner(id)) {
        for credential in record.credentials.iter().filter(|c| c.anchor == anchor.name) {
            users.push(json!({
                "partner": record.partner.id, "id": credential.id, "state": credential.state.as_str(),
                "last_used": seen.get(credential.id.as_str()).map(|t| t.to_string()),
            }));
        }
    }
    users
}
