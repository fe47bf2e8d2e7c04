//! What waits for approval over the admin API, and what operators make of it.

use super::Shared;
use super::answer::{Answer, Change, done, live, looked_up, sent, undone, unknown, wrong};
use super::caller::Caller;
use super::operators::Shown;
use super::page::{Listed, PageQuery};
use crate::approval::{Approval, Item, Present, Verdict};
use crate::clock::UnixNanos;
use crate::name::ApprovalId;
use crate::reload::Verdicted;
use crate::store::{anchor_document, api_key_document, credential_document, grant_document, own_document};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

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
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    pub noun: String,
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partner: Option<String>,
    /// What it permits that is not permitted now; empty where it goes with the rest, and once it is decided.
    pub widens: Vec<String>,
    /// As it is to be, in the form of a registry file; absent where it is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Map<String, Value>>")]
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
        Item::ApiKey { after, .. } => after.as_deref().map(api_key_document),
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

/// Approvals: those that wait, the oldest first; or the last of all, the newest first.
#[derive(Serialize, JsonSchema)]
pub(super) struct Approvals {
    approvals: Vec<ApprovalAnswer>,
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<ListQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Listed<Approvals>> {
    let asked = page.read(ApprovalId::parse)?;
    let live = live(&shared)?;
    let (now, operators) = (shared.publisher.now(), shared.publisher.operators());
    let found = looked_up(async move {
        let store = shared.publisher.store();
        let (all, most) = (query.all, (!asked.is_whole()).then(|| asked.most()));
        // What has been decided since the last page is still a place in the list.
        let after = match &asked.after {
            Some(id) => match store.approval(id).await? {
                Some(after) => Some(after),
                None => return Ok(None),
            },
            None => None,
        };
        let found = match all {
            true => store.approvals(after.as_ref(), most).await?,
            false => store.open_approvals().await?,
        };
        let place = |approval: &Approval| (approval.requested, approval.id.clone());
        let after = after.as_ref().filter(|_| !all).map(place);
        let wanted = found.iter().filter(|approval| {
            all || (approval.is_open(now) && after.as_ref().is_none_or(|after| place(approval) > *after))
        });
        let present = Present { registry: &live.snapshot.registry, operators: &operators };
        let (approvals, next) =
            asked.page(wanted.map(|approval| document(approval, present, now)), |shown| shown.id.clone());
        Ok(Some(asked.listed(Approvals { approvals }, next)))
    });
    found.await?.ok_or_else(|| unknown("approval"))?
}

pub(super) async fn show(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<ApprovalAnswer> {
    let live = live(&shared)?;
    let id = ApprovalId::parse(&id).map_err(|_| unknown("approval"))?;
    let (now, operators) = (shared.publisher.now(), shared.publisher.operators());
    let present = Present { registry: &live.snapshot.registry, operators: &operators };
    let found = looked_up(async move { shared.publisher.store().approval(&id).await }).await?;
    sent(document(&found.ok_or_else(|| unknown("approval"))?, present, now))
}

/// An approval, and what its verdict came to.
#[derive(Serialize, JsonSchema)]
pub(super) struct Decided {
    approval: ApprovalAnswer,
    /// The registry's that is live now.
    revision: u64,
}

pub(super) async fn approve(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<VerdictCall>,
) -> Change<Decided> {
    decide(shared, caller, &id, call, Verdict::Approved).await
}

pub(super) async fn reject(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<VerdictCall>,
) -> Change<Decided> {
    if call.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        return Err(wrong("a reason is needed: who has asked will read it"));
    }
    decide(shared, caller, &id, call, Verdict::Rejected).await
}

pub(super) async fn withdraw(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<VerdictCall>,
) -> Change<Decided> {
    decide(shared, caller, &id, call, Verdict::Withdrawn).await
}

async fn decide(shared: Shared, caller: Caller, id: &str, call: VerdictCall, verdict: Verdict) -> Change<Decided> {
    let id = ApprovalId::parse(id).map_err(|_| unknown("approval"))?;
    let cause = caller.cause(call.reason.as_ref(), call.ticket.as_ref());
    match shared.publisher.decide(Verdicted { id, verdict, cause }).await {
        Ok(decided) => {
            let live = live(&shared)?;
            let operators = shared.publisher.operators();
            let present = Present { registry: &live.snapshot.registry, operators: &operators };
            let approval = document(&decided.approval, present, shared.publisher.now());
            done(Decided { approval, revision: decided.revision })
        }
        Err(e) => undone(e),
    }
}
