//! What waits for approval over the admin API, and what operators make of it.

use super::Shared;
use super::answer::{looked_up, problem, refused};
use super::caller::Caller;
use super::operators::Shown;
use crate::approval::{Approval, Item, Present, Verdict};
use crate::clock::UnixNanos;
use crate::name::ApprovalId;
use crate::reload::Verdicted;
use crate::store::{anchor_document, credential_document, grant_document, own_document};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Body of `POST /v1/approvals/{id}/approve`, `…/reject` and `…/withdraw`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerdictCall {
    /// Needed to reject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// One approval as the API gives it. Times are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApprovalAnswer {
    pub id: String,
    /// `requested`, `approved`, `rejected`, `withdrawn` or `lapsed`.
    pub state: String,
    pub requester: String,
    pub requested: String,
    pub lapses: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Who has decided, when and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub parts: Vec<Part>,
}

/// One part of what was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub noun: String,
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<String>,
    /// What it permits that is not permitted now; empty where it goes with the rest, and once it is decided.
    pub widens: Vec<String>,
    /// As it is to be, in the form of a registry file; absent where it is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// Operations that a grant would cover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covers: Vec<String>,
}

/// An approval as it looks beside what there is now.
pub fn document(approval: &Approval, present: Present<'_>, now: UnixNanos) -> ApprovalAnswer {
    let open = approval.is_open(now);
    let part = |item: &Item| Part {
        noun: item.noun().to_owned(),
        id: item.id().to_owned(),
        partner: item.partner().map(ToString::to_string),
        widens: if open { item.widens(present) } else { Vec::new() },
        after: after(item, now),
        covers: match item {
            Item::Grant { after: Some(grant), .. } => grant.operations.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        },
    };
    let outcome = approval.outcome.as_ref();
    ApprovalAnswer {
        id: approval.id.to_string(),
        state: approval.state(now).to_owned(),
        requester: approval.requester.clone(),
        requested: approval.requested.to_string(),
        lapses: approval.lapses.to_string(),
        justification: approval.justification.clone(),
        ticket: approval.ticket.clone(),
        author: outcome.map(|o| o.author.clone()),
        decided: outcome.map(|o| o.at.to_string()),
        reason: outcome.and_then(|o| o.reason.clone()),
        parts: approval.items.iter().map(part).collect(),
    }
}

fn after(item: &Item, now: UnixNanos) -> Option<Value> {
    match item {
        Item::Partner { after, .. } => after.as_deref().map(own_document),
        Item::Credential { after, .. } => after.as_deref().map(credential_document),
        Item::Grant { after, .. } => after.as_deref().map(grant_document),
        Item::Network { after, .. } => after.as_ref().map(|n| json!({"cidrs": n.cidrs})),
        Item::Anchor { after, .. } => after.as_deref().map(anchor_document),
        Item::Operator { after, .. } => Some(json!(Shown::of(after, now, None))),
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ListQuery {
    /// Decided ones as well.
    #[serde(default)]
    all: bool,
}

pub(super) async fn list(State(shared): State<Shared>, Query(query): Query<ListQuery>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let (now, operators) = (shared.publisher.now(), shared.publisher.operators());
    let found = looked_up(async move {
        let present = Present { registry: &live.snapshot.registry, operators: &operators };
        let store = shared.publisher.store();
        let found = if query.all { store.approvals().await? } else { store.open_approvals().await? };
        let wanted = found.iter().filter(|approval| query.all || approval.is_open(now));
        Ok(wanted.map(|approval| document(approval, present, now)).collect::<Vec<_>>())
    });
    match found.await {
        Ok(approvals) => Json(json!({"approvals": approvals})).into_response(),
        Err(answer) => answer,
    }
}

pub(super) async fn show(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let Ok(id) = ApprovalId::parse(&id) else { return unknown() };
    let (now, operators) = (shared.publisher.now(), shared.publisher.operators());
    let present = Present { registry: &live.snapshot.registry, operators: &operators };
    match looked_up(async move { shared.publisher.store().approval(&id).await }).await {
        Ok(Some(approval)) => Json(document(&approval, present, now)).into_response(),
        Ok(None) => unknown(),
        Err(answer) => answer,
    }
}

pub(super) async fn approve(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<VerdictCall>,
) -> Response {
    decide(shared, caller, &id, call, Verdict::Approved).await
}

pub(super) async fn reject(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<VerdictCall>,
) -> Response {
    if call.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        let why = vec!["a reason is needed: who has asked will read it".to_owned()];
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed", why);
    }
    decide(shared, caller, &id, call, Verdict::Rejected).await
}

pub(super) async fn withdraw(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<VerdictCall>,
) -> Response {
    decide(shared, caller, &id, call, Verdict::Withdrawn).await
}

async fn decide(shared: Shared, caller: Caller, id: &str, call: VerdictCall, verdict: Verdict) -> Response {
    let Ok(id) = ApprovalId::parse(id) else { return unknown() };
    let cause = caller.cause(call.reason.as_ref(), call.ticket.as_ref());
    match shared.publisher.decide(Verdicted { id, verdict, cause }).await {
        Ok(decided) => {
            let Some(live) = shared.publisher.live() else {
                return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
            };
            let operators = shared.publisher.operators();
            let present = Present { registry: &live.snapshot.registry, operators: &operators };
            let approval = document(&decided.approval, present, shared.publisher.now());
            Json(json!({"approval": approval, "revision": decided.revision})).into_response()
        }
        Err(e) => refused(e),
    }
}

fn unknown() -> Response {
    problem(StatusCode::NOT_FOUND, "there is no such approval", Vec::new())
}
