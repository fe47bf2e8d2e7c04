//! The registry over the admin API: files applied, and what there is.

use super::Shared;
use super::answer::{Answer, Tagged, failed, live, looked_up, problem, refused, sent, tagged, unknown, written};
use super::caller::Caller;
use super::page::{Listed, PageQuery};
use crate::clock::UnixNanos;
use crate::name::{ApprovalId, CredentialId, GrantId, PartnerId};
use crate::operation::OperationId;
use crate::partner::{CredentialStage, Grant, GrantState, PartnerRecord, PartnerStage, Provenance};
use crate::registry::{Registry, find_credential, find_grant};
use crate::reload::{Applied, Apply, Subject, Wanted, Whose, aside};
use crate::snapshot::Snapshot;
use crate::store::{self, DeclaredFile, Export, PlanOptions, UsageRow};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use data_encoding::BASE64URL_NOPAD;
use schemars::JsonSchema;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

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
) -> Answer<Applied> {
    let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a call is `application/json`", Vec::new()));
    }
    let read = aside(async move { Json::from_bytes(&body).map(|Json(call)| call) }).await.map_err(failed)?;
    let call: ApplyCall = read.map_err(IntoResponse::into_response)?;
    let apply = Apply {
        cause: caller.cause(call.reason.as_ref(), call.ticket.as_ref()),
        authority: caller.authority(),
        if_match: caller.if_match.clone(),
        wanted: Wanted::Files(call.files),
        options: call.options,
        dry_run: call.dry_run,
    };
    let applied = shared.publisher.apply(apply).await.map_err(refused)?;
    // Not through `written`: whoever changes something does not wait for those who read.
    aside(async move { sent(applied) }).await.map_err(failed)?
}

pub(super) async fn export_all(State(shared): State<Shared>) -> Answer<Exported<'static>> {
    let live = live(&shared)?;
    written(move |out| serde_json::to_writer(out, &export_document(&live.snapshot))).await
}

pub(super) async fn partners(State(shared): State<Shared>, Query(page): Query<PageQuery>) -> Answer<Listed<Partners>> {
    let asked = page.read(PartnerId::parse)?;
    let live = live(&shared)?;
    let now = shared.publisher.now();
    if asked.is_whole() {
        return written(move |out| serde_json::to_writer(out, &list_document(&live.snapshot.registry, now))).await;
    }
    let all = live.snapshot.registry.partners_after(asked.after.as_ref());
    let (partners, next) = asked.page(all.map(|record| PartnerRow::of(record, now)), |row| row.id.to_string());
    asked.listed(Partners { partners }, next)
}

pub(super) async fn partner(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Tagged<PartnerAnswer>, Response> {
    let id = PartnerId::parse(&id).map_err(|_| unknown("partner"))?;
    let live = shared.publisher.live().ok_or_else(|| unknown("partner"))?;
    let record = live.snapshot.registry.partner(&id).ok_or_else(|| unknown("partner"))?;
    let usage = shared.publisher.store().usage(Some(&id)).await.map_err(|e| refused(e.into()))?;
    let tag = Subject::Partner(Whose::Of(id)).entity_tag(&live.snapshot.registry);
    tagged(PartnerAnswer::of(record, usage, shared.publisher.now()), tag)
}

/// A grant, and what follows from it.
#[derive(Serialize, JsonSchema)]
pub(super) struct GrantAnswer {
    id: GrantId,
    partner: PartnerId,
    /// In the form of a registry file.
    #[schemars(with = "Map<String, Value>")]
    grant: Value,
    #[serde(flatten)]
    now: GrantNow,
}

/// One grant, with the tag of its partner, which is what is changed when it is.
pub(super) async fn grant(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Tagged<GrantAnswer>, Response> {
    let id = GrantId::parse(&id).map_err(|_| unknown("grant"))?;
    let live = shared.publisher.live().ok_or_else(|| unknown("grant"))?;
    let record = live.snapshot.registry.with_grant(&id).ok_or_else(|| unknown("grant"))?;
    let grant = find_grant(record, id.as_str()).ok_or_else(|| unknown("grant"))?;
    let tag = Subject::Partner(Whose::WithGrant(id.clone())).entity_tag(&live.snapshot.registry);
    let now = GrantNow::of(grant, shared.publisher.now());
    tagged(GrantAnswer { id, partner: record.partner.id.clone(), grant: store::grant_document(grant), now }, tag)
}

/// A credential, and what follows from it.
#[derive(Serialize, JsonSchema)]
pub(super) struct CredentialAnswer {
    id: CredentialId,
    partner: PartnerId,
    state: CredentialStage,
    /// In the form of a registry file.
    #[schemars(with = "Map<String, Value>")]
    credential: Value,
}

/// One credential, with the tag of its partner.
pub(super) async fn credential(
    State(shared): State<Shared>,
    Path((partner, credential)): Path<(String, String)>,
) -> Result<Tagged<CredentialAnswer>, Response> {
    let none = || unknown("credential");
    let partner = PartnerId::parse(&partner).map_err(|_| none())?;
    let id = CredentialId::parse(&credential).map_err(|_| none())?;
    let live = shared.publisher.live().ok_or_else(none)?;
    let record = live.snapshot.registry.partner(&partner).ok_or_else(none)?;
    let own = find_credential(record, &id).ok_or_else(none)?;
    let tag = Subject::Partner(Whose::Of(partner.clone())).entity_tag(&live.snapshot.registry);
    let (state, credential) = (own.stage(shared.publisher.now()), store::credential_document(own));
    tagged(CredentialAnswer { id, partner, state, credential }, tag)
}

/// Body of `GET /v1/export`.
pub fn export_document(snapshot: &Snapshot) -> impl Serialize + '_ {
    Exported { files: Export::new(&snapshot.registry, &snapshot.operations) }
}

/// The registry in the form that is applied.
#[derive(Serialize, JsonSchema)]
pub(super) struct Exported<'a> {
    #[schemars(with = "Vec<DeclaredFile>")]
    files: Export<'a>,
}

/// Body of `GET /v1/partners`: all of them, row by row.
pub fn list_document(registry: &Registry, now: UnixNanos) -> impl Serialize + '_ {
    All { partners: Rows(registry, now) }
}

/// Partners, sorted by id.
#[derive(Serialize, JsonSchema)]
pub(super) struct Partners {
    partners: Vec<PartnerRow>,
}

#[derive(Serialize)]
struct All<'a> {
    partners: Rows<'a>,
}

struct Rows<'a>(&'a Registry, UnixNanos);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.partners().map(|record| PartnerRow::of(record, self.1)))
    }
}

/// One partner of a list.
#[derive(Serialize, JsonSchema)]
struct PartnerRow {
    id: PartnerId,
    name: String,
    owner: String,
    state: PartnerStage,
    /// How many it has.
    credentials: usize,
    /// How many it has.
    grants: usize,
    /// How many it has.
    api_keys: usize,
    /// RFC 3339; null where no end is set.
    engagement_ends: Option<String>,
}

impl PartnerRow {
    fn of(record: &PartnerRecord, now: UnixNanos) -> Self {
        let PartnerRecord { partner, credentials, grants, api_keys } = record;
        PartnerRow {
            id: partner.id.clone(),
            name: partner.name.clone(),
            owner: partner.owner.clone(),
            state: partner.stage(now),
            credentials: credentials.len(),
            grants: grants.len(),
            api_keys: api_keys.len(),
            engagement_ends: partner.engaged().ends.map(|e| e.to_string()),
        }
    }
}

/// Answer of `GET /v1/partners/{id}`: a partner; beside it what follows from time, what grants cover, who has asked for them
/// and approved them, and their use.
#[derive(Serialize, JsonSchema)]
pub struct PartnerAnswer {
    id: PartnerId,
    state: PartnerStage,
    /// As a registry file has it, with the keys that PATCH takes.
    #[schemars(with = "Map<String, Value>")]
    partner: Value,
    /// By id.
    credentials: BTreeMap<CredentialId, CredentialNow>,
    /// By id.
    grants: BTreeMap<GrantId, GrantNow>,
    usage: Vec<UsageRow>,
}

/// What a file does not say of a credential.
#[derive(Serialize, JsonSchema)]
struct CredentialNow {
    state: CredentialStage,
}

/// What a file does not say of a grant.
#[derive(Serialize, JsonSchema)]
struct GrantNow {
    state: GrantState,
    /// Operations that it covers.
    covers: Vec<OperationId>,
    /// Where it comes from; null where it is older than approvals.
    approval: Option<ProvenanceRow>,
}

/// Who has asked for a grant, and who has approved it.
#[derive(Serialize, JsonSchema)]
struct ProvenanceRow {
    /// Null where nobody else had to approve it.
    id: Option<ApprovalId>,
    requester: String,
    approver: String,
    /// RFC 3339.
    at: String,
    justification: Option<String>,
    ticket: Option<String>,
}

impl PartnerAnswer {
    pub fn of(record: &PartnerRecord, usage: Vec<UsageRow>, now: UnixNanos) -> Self {
        let credentials = record.credentials.iter();
        PartnerAnswer {
            id: record.partner.id.clone(),
            state: record.partner.stage(now),
            partner: store::partner_document(record),
            credentials: credentials.map(|c| (c.id.clone(), CredentialNow { state: c.stage(now) })).collect(),
            grants: record.grants.iter().map(|g| (g.id.clone(), GrantNow::of(g, now))).collect(),
            usage,
        }
    }
}

impl GrantNow {
    fn of(grant: &Grant, now: UnixNanos) -> Self {
        let approval = grant.approval.as_deref().cloned().map(|by| {
            let Provenance { id, requester, approver, at, justification, ticket } = by;
            ProvenanceRow { id, requester, approver, at: at.to_string(), justification, ticket }
        });
        GrantNow { state: grant.state(now), covers: grant.operations.clone(), approval }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct UsageQuery {
    partner: Option<String>,
}

/// Recorded use, sorted by partner, credential, grant, operation and network.
#[derive(Serialize, JsonSchema)]
pub(super) struct Usage {
    usage: Vec<UsageRow>,
}

pub(super) async fn usage(
    State(shared): State<Shared>,
    Query(query): Query<UsageQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Listed<Usage>> {
    let partner = query.partner.as_deref().map(PartnerId::parse).transpose().map_err(|_| unknown("partner"))?;
    let asked = page.read(usage_place)?;
    let list = looked_up(async move {
        let most = (!asked.is_whole()).then(|| asked.most());
        let found = shared.publisher.store().usage_behind(partner.as_ref(), asked.after.as_ref(), most).await?;
        let (usage, next) = asked.page(found, usage_next);
        Ok(asked.form(Usage { usage }, next))
    });
    let list = list.await?;
    written(move |out| serde_json::to_writer(out, &list)).await
}

/// A line of use has no id: its place is what it is about, so that it can be in a URL.
fn usage_next(row: &UsageRow) -> String {
    let place = [&row.partner, &row.credential, &row.grant, &row.operation, &row.network];
    BASE64URL_NOPAD.encode(Value::from_iter(place.map(String::as_str)).to_string().as_bytes())
}

fn usage_place(text: &str) -> Result<[String; 5], String> {
    let place = BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    let place = place.and_then(|place| serde_json::from_slice(&place).ok());
    place.ok_or_else(|| "after: this is no `next` of a page".to_owned())
}
