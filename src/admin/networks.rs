//! Networks over the admin API: which there are and who may call from them, added, changed, removed.

use super::answer::{Answer, Named, Tagged, failed, live, sent, tagged, unknown};
use super::caller::Caller;
use super::grants::{Asking, ask, edit};
use super::page::{Page, PageQuery};
use super::{EditCall, Shared};
use crate::name::{GrantId, NetworkName, PartnerId};
use crate::partner::Network;
use crate::registry::{Change, Registry};
use crate::reload::{Applied, Place, Subject, Wanted, aside};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::{Extension, Json};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

/// Networks, sorted by name.
#[derive(Serialize, JsonSchema)]
pub(super) struct Networks {
    networks: Vec<NetworkRow>,
}

/// A named list of networks.
#[derive(Serialize, JsonSchema)]
struct NetworkRow {
    name: NetworkName,
    /// Such as `192.0.2.0/24` and `2001:db8::/32`.
    #[schemars(with = "Vec<String>")]
    cidrs: Vec<IpNet>,
}

impl NetworkRow {
    fn of(network: &Network) -> Self {
        NetworkRow { name: network.name.clone(), cidrs: network.cidrs.clone() }
    }
}

pub(super) async fn list(State(shared): State<Shared>, Query(page): Query<PageQuery>) -> Answer<Page<Networks>> {
    let asked = page.read(NetworkName::parse)?;
    let live = live(&shared)?;
    let work = async move {
        let behind = |name: &NetworkName| asked.after.as_ref().is_none_or(|after| name > after);
        let all = live.snapshot.registry.networks().filter(|network| behind(&network.name));
        let (networks, next) = asked.page(all.map(|network| NetworkRow::of(network)), |row| row.name.to_string());
        sent(Page { list: Networks { networks }, next })
    };
    aside(work).await.map_err(failed)?
}

/// A network, and who names it.
#[derive(Serialize, JsonSchema)]
pub(super) struct NetworkAnswer {
    #[serde(flatten)]
    network: NetworkRow,
    /// Partners that may call from it.
    partners: Vec<PartnerId>,
    /// Grants that are for it.
    grants: Vec<GrantId>,
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Tagged<NetworkAnswer>, Response> {
    let live = live(&shared)?;
    let shown = aside(async move {
        let name = NetworkName::parse(&name).ok()?;
        let network = NetworkRow::of(live.snapshot.registry.network(&name)?);
        let (partners, grants) = users(&live.snapshot.registry, &name);
        let tag = Subject::Network(name).entity_tag(&live.snapshot.registry);
        Some(tagged(NetworkAnswer { network, partners, grants }, tag))
    });
    shown.await.map_err(failed)?.ok_or_else(|| unknown("network"))?
}

/// Partners and grants that name a network.
fn users(registry: &Registry, name: &NetworkName) -> (Vec<PartnerId>, Vec<GrantId>) {
    let (mut partners, mut grants) = (Vec::new(), Vec::new());
    for record in registry.partners() {
        if record.partner.networks.contains(name) {
            partners.push(record.partner.id.clone());
        }
        let naming = record.grants.iter().filter(|g| g.networks.as_ref().is_some_and(|n| n.contains(name)));
        grants.extend(naming.map(|g| g.id.clone()));
    }
    (partners, grants)
}

pub(super) async fn add(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<NetworkName>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    set(Place::Free, state, caller, name, call).await
}

pub(super) async fn change(
    state: State<Shared>,
    caller: Extension<Caller>,
    name: Named<NetworkName>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    set(Place::Taken, state, caller, name, call).await
}

async fn set(
    place: Place,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<NetworkName>,
    Json(call): Json<EditCall>,
) -> Answer<Applied> {
    edit(&shared, &caller, Subject::Network(name), Vec::new(), place, call).await
}

pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(name): Named<NetworkName>,
    Query(query): Query<Asking>,
) -> Answer<Applied> {
    if shared.publisher.live().is_none_or(|live| live.snapshot.registry.network(&name).is_none()) {
        return Err(unknown("network"));
    }
    ask(&shared, &caller, Wanted::Gone(Change::Network(name, None)), query).await
}
