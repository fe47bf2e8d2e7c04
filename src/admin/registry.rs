//! The registry over the admin API: files applied, and what there is.

use super::Shared;
use super::answer::{looked_up, problem, refused, tagged, written, wrong};
use super::caller::Caller;
use crate::clock::UnixNanos;
use crate::name::{CredentialId, GrantId, PartnerId};
use crate::partner::{Grant, PartnerRecord, Provenance};
use crate::registry::{Registry, find_credential, find_grant};
use crate::reload::{Apply, Subject, Wanted, Whose, aside};
use crate::snapshot::Snapshot;
use crate::store::{self, DeclaredFile, Export, PlanOptions, UsageRow};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Body of `POST /v1/apply`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ApplyCall {
    pub files: Vec<DeclaredFile>,
    #[serde(default)]
    pub options: PlanOptions,
    #[serde(default)]
    pub dry_run: bool,
    /// Why; kept in the history.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub ticket: Option<String>,
}

pub(super) async fn apply(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a call is `application/json`", Vec::new());
    }
    let call: ApplyCall = match aside(async move { Json::from_bytes(&body).map(|Json(call)| call) }).await {
        Ok(Ok(call)) => call,
        Ok(Err(e)) => return e.into_response(),
        Err(e) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
    };
    let apply = Apply {
        cause: caller.cause(call.reason.as_ref(), call.ticket.as_ref()),
        authority: caller.authority(),
        if_match: caller.if_match.clone(),
        wanted: Wanted::Files(call.files),
        options: call.options,
        dry_run: call.dry_run,
    };
    match shared.publisher.apply(apply).await {
        // Not through `written`: whoever changes something does not wait for those who read.
        Ok(applied) => match aside(async move { Json(applied).into_response() }).await {
            Ok(answer) => answer,
            Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
        },
        Err(e) => refused(e),
    }
}

pub(super) async fn export_all(State(shared): State<Shared>) -> Response {
    match shared.publisher.live() {
        Some(live) => written(move |out| serde_json::to_writer(out, &export_document(&live.snapshot))).await,
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new()),
    }
}

/// A part of a list: so many of what is behind an id. All of it where no limit is named.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct PageQuery {
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<usize>,
    /// What the last page gave as `next`.
    pub after: Option<String>,
}

/// Most things of one page.
pub(super) const MAX_PAGE: usize = 1_000;

impl PageQuery {
    /// # Errors
    /// No page is as long.
    pub fn limit(&self) -> Result<usize, String> {
        match self.limit {
            None => Ok(usize::MAX),
            Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
            Some(limit) => Err(format!("limit: {limit} is not between 1 and {MAX_PAGE}")),
        }
    }
}

pub(super) async fn partners(State(shared): State<Shared>, Query(page): Query<PageQuery>) -> Response {
    let (limit, after) = match (page.limit(), page.after.as_deref().map(PartnerId::parse).transpose()) {
        (Ok(limit), Ok(after)) => (limit, after),
        (Err(reason), _) | (_, Err(reason)) => return wrong(&reason),
    };
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let now = shared.publisher.now();
    if limit == usize::MAX && after.is_none() {
        return written(move |out| serde_json::to_writer(out, &list_document(&live.snapshot.registry, now))).await;
    }
    let mut records: Vec<_> =
        live.snapshot.registry.partners_after(after.as_ref()).take(limit.saturating_add(1)).cloned().collect();
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|record| record.partner.id.to_string());
    let rows: Vec<Row<'_>> = records.iter().map(|record| Row(record, now)).collect();
    Json(json!({"partners": rows, "next": next})).into_response()
}

pub(super) async fn partner(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let found = PartnerId::parse(&id).ok().zip(shared.publisher.live());
    let record = found.as_ref().and_then(|(id, live)| live.snapshot.registry.partner(id));
    let (Some((id, _)), Some(record)) = (&found, record) else {
        return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new());
    };
    match shared.publisher.store().usage(Some(id)).await {
        Ok(usage) => {
            let tag = found
                .as_ref()
                .and_then(|(id, live)| Subject::Partner(Whose::Of(id.clone())).entity_tag(&live.snapshot.registry));
            tagged(partner_document(record, &usage, shared.publisher.now()), tag)
        }
        Err(e) => refused(e.into()),
    }
}

/// One grant, with the tag of its partner, which is what is changed when it is.
pub(super) async fn grant(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let found = GrantId::parse(&id).ok().zip(shared.publisher.live());
    let record = found.as_ref().and_then(|(id, live)| live.snapshot.registry.with_grant(id));
    let grant = record.and_then(|record| Some((record, find_grant(record, &id)?)));
    let (Some((id, live)), Some((record, grant))) = (&found, grant) else {
        return problem(StatusCode::NOT_FOUND, "there is no such grant", Vec::new());
    };
    let mut document = json!({"id": id, "partner": record.partner.id, "grant": store::grant_document(grant)});
    if let (Some(object), Value::Object(more)) = (document.as_object_mut(), granted(grant, shared.publisher.now())) {
        object.extend(more);
    }
    tagged(document, Subject::Partner(Whose::WithGrant(id.clone())).entity_tag(&live.snapshot.registry))
}

/// One credential, with the tag of its partner.
pub(super) async fn credential(
    State(shared): State<Shared>,
    Path((partner, credential)): Path<(String, String)>,
) -> Response {
    let found = PartnerId::parse(&partner).ok().zip(CredentialId::parse(&credential).ok()).zip(shared.publisher.live());
    let record = found.as_ref().and_then(|((partner, _), live)| live.snapshot.registry.partner(partner));
    let own = record.zip(found.as_ref()).and_then(|(record, ((_, id), _))| find_credential(record, id));
    let (Some(((partner, id), live)), Some(own)) = (&found, own) else {
        return problem(StatusCode::NOT_FOUND, "there is no such credential", Vec::new());
    };
    let document = json!({
        "id": id, "partner": partner, "state": own.stage(shared.publisher.now()).as_str(),
        "credential": store::credential_document(own),
    });
    tagged(document, Subject::Partner(Whose::Of(partner.clone())).entity_tag(&live.snapshot.registry))
}

/// Body of `GET /v1/export`.
pub fn export_document(snapshot: &Snapshot) -> impl Serialize + '_ {
    Exported { files: Export::new(&snapshot.registry, &snapshot.operations) }
}

#[derive(Serialize)]
struct Exported<'a> {
    files: Export<'a>,
}

/// Body of `GET /v1/partners`.
pub fn list_document(registry: &Registry, now: UnixNanos) -> impl Serialize + '_ {
    Listed { partners: Rows(registry, now) }
}

#[derive(Serialize)]
struct Listed<'a> {
    partners: Rows<'a>,
}

struct Rows<'a>(&'a Registry, UnixNanos);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.partners().map(|record| Row(record, self.1)))
    }
}

struct Row<'a>(&'a PartnerRecord, UnixNanos);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PartnerRecord { partner, credentials, grants } = self.0;
        let mut row = serializer.serialize_map(Some(7))?;
        row.serialize_entry("id", &partner.id)?;
        row.serialize_entry("name", &partner.name)?;
        row.serialize_entry("owner", &partner.owner)?;
        row.serialize_entry("state", partner.stage(self.1).as_str())?;
        row.serialize_entry("credentials", &credentials.len())?;
        row.serialize_entry("grants", &grants.len())?;
        row.serialize_entry("engagement_ends", &partner.engaged().ends.map(|e| e.to_string()))?;
        row.end()
    }
}

/// Body of `GET /v1/partners/{id}`: `partner` is as a registry file has it, with the keys that PATCH takes; beside it what
/// follows from time, what grants cover, who has asked for them and approved them, and their use.
pub fn partner_document(record: &PartnerRecord, usage: &[UsageRow], now: UnixNanos) -> Value {
    let grants: Map<String, Value> = record.grants.iter().map(|g| (g.id.to_string(), granted(g, now))).collect();
    let credentials = record.credentials.iter();
    let credentials: Map<String, Value> =
        credentials.map(|c| (c.id.to_string(), json!({"state": c.stage(now).as_str()}))).collect();
    json!({
        "id": record.partner.id, "state": record.partner.stage(now).as_str(), "partner": store::partner_document(record),
        "credentials": credentials, "grants": grants, "usage": usage,
    })
}

/// What a file does not say of a grant. Times are RFC 3339.
fn granted(grant: &Grant, now: UnixNanos) -> Value {
    let approval = grant.approval.as_deref().map(|by| {
        let Provenance { id, requester, approver, at, justification, ticket } = by;
        json!({
            "id": id, "requester": requester, "approver": approver, "at": at.to_string(),
            "justification": justification, "ticket": ticket,
        })
    });
    json!({"state": grant.state(now).as_str(), "covers": grant.operations, "approval": approval})
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct UsageQuery {
    partner: Option<String>,
}

pub(super) async fn usage(State(shared): State<Shared>, Query(query): Query<UsageQuery>) -> Response {
    let partner = match query.partner.as_deref().map(PartnerId::parse).transpose() {
        Ok(partner) => partner,
        Err(_) => return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new()),
    };
    match looked_up(async move { shared.publisher.store().usage(partner.as_ref()).await }).await {
        Ok(usage) => written(move |out| serde_json::to_writer(out, &json!({"usage": usage}))).await,
        Err(answer) => answer,
    }
}
