//! Networks over the admin API: which there are and who may call from them, added, changed, removed.

use super::answer::{Named, problem, refused, tagged, written, wrong};
use super::caller::Caller;
use super::grants::edit;
use super::registry::PageQuery;
use super::{EditCall, Shared};
use crate::name::NetworkName;
use crate::partner::Network;
use crate::registry::{Change, Registry};
use crate::reload::{Apply, Place, Subject, Wanted, aside};
use crate::store::PlanOptions;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) async fn list(State(shared): State<Shared>, Query(page): Query<PageQuery>) -> Response {
    let limit = match page.limit() {
        Ok(limit) => limit,
        Err(reason) => return wrong(&reason),
    };
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    written(move |out| {
        let behind = |name: &str| page.after.as_deref().is_none_or(|after| name > after);
        let all = live.snapshot.registry.networks().filter(|network| behind(network.name.as_str()));
        let mut networks: Vec<Value> = all.take(limit.saturating_add(1)).map(|network| row(network)).collect();
        let more = networks.len() > limit;
        networks.truncate(limit);
        let next = networks.last().filter(|_| more).and_then(|last| last.get("name")).cloned();
        serde_json::to_writer(out, &json!({"networks": networks, "next": next}))
    })
    .await
}

fn row(network: &Network) -> Value {
    json!({"name": network.name, "cidrs": network.cidrs})
}

pub(super) async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let shown = aside(async move {
        let name = NetworkName::parse(&name).ok()?;
        let network = live.snapshot.registry.network(&name)?;
        let (partners, grants) = users(&live.snapshot.registry, &name);
        let mut document = row(network);
        if let Some(object) = document.as_object_mut() {
            object.insert("partners".into(), json!(partners));
            object.insert("grants".into(), json!(grants));
        }
        Some((document, Subject::Network(name).entity_tag(&live.snapshot.registry)))
    });
    match shown.await {
        Ok(Some((document, tag))) => tagged(document, tag),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no such network", Vec::new()),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
    }
}

/// Partners and grants that name a network.
fn users(registry: &Registry, name: &NetworkName) -> (Vec<String>, Vec<String>) {
    let (mut partners, mut grants) = (Vec::new(), Vec::new());
    for record in registry.partners() {
        if record.partner.networks.contains(name) {
            partners.push(record.partner.id.to_string());
        }
        let naming = record.grants.iter().filter(|g| g.networks.as_ref().is_some_and(|n| n.contains(name)));
        grants.extend(naming.map(|g| g.id.to_string()));
    }
    (partners, grants)
}

pub(super) async fn add(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<NetworkName>,
    call: Json<EditCall>,
) -> Response {
    set(Place::Free, state, caller, name, call).await
}

pub(super) async fn change(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<NetworkName>,
    call: Json<EditCall>,
) -> Response {
    set(Place::Taken, state, caller, name, call).await
}

async fn set(
    place: Place,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<NetworkName>,
    Json(call): Json<EditCall>,
) -> Response {
    edit(&shared, &caller, Subject::Network(name), Vec::new(), place, call).await
}

/// What is to be removed is named by its path; why, and whether only to look, by a query.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    #[serde(default)]
    pub dry_run: bool,
    pub reason: Option<String>,
    pub ticket: Option<String>,
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<NetworkName>,
    Query(query): Query<RemoveQuery>,
) -> Response {
    if shared.publisher.live().is_none_or(|live| live.snapshot.registry.network(&name).is_none()) {
        return problem(StatusCode::NOT_FOUND, "there is no such network", Vec::new());
    }
    apply(&shared, &caller, Wanted::Gone(Change::Network(name, None)), query).await
}

pub(super) async fn apply(shared: &Shared, caller: &Caller, wanted: Wanted, query: RemoveQuery) -> Response {
    let apply = Apply {
        wanted,
        options: PlanOptions::default(),
        dry_run: query.dry_run,
        cause: caller.cause(query.reason.as_ref(), query.ticket.as_ref()),
        authority: caller.authority(),
        if_match: caller.if_match.clone(),
    };
    match shared.publisher.apply(apply).await {
        Ok(applied) => Json(applied).into_response(),
        Err(e) => refused(e),
    }
}
