//! API keys over the admin API: which there are and where they were used from, made, and succeeded. A key is shown once, to
//! who asks for it, and is good when somebody else has approved it.

use super::answer::{Answer, Named, live, looked_up, of_partner, sent, unknown, wrong};
use super::caller::Caller;
use super::credentials::{CredentialQuery, WhoEnded};
use super::grants::{Asking, asked, below};
use super::page::{Page, PageQuery};
use super::{EditCall, Shared};
use crate::clock::UnixNanos;
use crate::document::{nearest, parse_id};
use crate::name::{CredentialId, GrantId, NetworkName, PartnerId};
use crate::operation::OperationId;
use crate::partner::{ApiKey, CredentialStage, GrantState, PartnerRecord};
use crate::registry::{find_api_key, find_grant};
use crate::reload::{Applied, Edit, Edited, Place, Subject, Wanted, Whose};
use crate::store::{KeyUsage, api_key_document};
use crate::token::{ApiKeys, MadeKey};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a key is good where nothing is said.
const USUAL: Duration = Duration::from_secs(90 * 86_400);

/// API keys, sorted by id.
#[derive(Serialize, JsonSchema)]
pub(super) struct Keys {
    api_keys: Vec<Row>,
}

/// One key of a list. Times are RFC 3339.
#[derive(Serialize, JsonSchema)]
struct Row {
    id: CredentialId,
    partner: PartnerId,
    owner: String,
    state: CredentialStage,
    ends: String,
    /// The certificate that it is good with: `fingerprint_sha256` or `spki_sha256`, and the hash in hex.
    bound_to: BTreeMap<String, String>,
    grants: Vec<GrantId>,
    /// Absent: all that its grants cover.
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<Vec<OperationId>>,
    /// Absent: where its grants allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<Vec<NetworkName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<CredentialId>,
    /// From when on nothing but the successor's use is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    retires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<WhoEnded>,
    /// Its use, by where it came from, the last place first; of one partner's keys alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Vec<KeyUsage>>,
}

impl Row {
    fn of(partner: &PartnerId, key: &ApiKey, now: UnixNanos) -> Self {
        let (kind, hash) = key.bound_to.parts();
        let retiring = key.retiring.as_deref();
        Row {
            id: key.id.clone(),
            partner: partner.clone(),
            owner: key.owner.clone(),
            state: key.stage(now),
            ends: key.ends.to_string(),
            bound_to: BTreeMap::from([(kind.to_owned(), hash.to_string())]),
            grants: key.grants.clone(),
            operations: key.operations.clone(),
            networks: key.networks.clone(),
            successor: retiring.map(|r| r.successor.clone()),
            retires: retiring.map(|r| r.until().to_string()),
            revoked: key.revoked.as_deref().map(WhoEnded::of),
            usage: None,
        }
    }
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<CredentialQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Page<Keys>> {
    let live = live(&shared)?;
    let one = of_partner(&live, query.partner.as_deref())?;
    let asked = page.read(CredentialId::parse)?;
    let found = looked_up(async move {
        let now = shared.publisher.now();
        if one.is_some() {
            shared.publisher.write_usage().await?;
        }
        let mine = |record: &PartnerRecord| one.as_ref().is_none_or(|one| one.partner.id == record.partner.id);
        let all = live.snapshot.registry.api_keys_after(asked.after.as_ref()).filter(|(record, _)| mine(record));
        let all = all.map(|(record, key)| Row::of(&record.partner.id, key, now));
        let (mut api_keys, next) = asked.page(all, |row| row.id.to_string());
        if one.is_some() {
            for row in &mut api_keys {
                row.usage = Some(shared.publisher.store().key_usage(&row.id).await?);
            }
        }
        Ok(Page { list: Keys { api_keys }, next })
    });
    sent(found.await?)
}

/// Body of `POST /v1/api-keys/find`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindKeyCall {
    /// The key itself, as somebody has found it. It is written nowhere.
    pub api_key: String,
}

/// Whose key it is.
#[derive(Serialize, JsonSchema)]
pub(super) struct FoundKey {
    id: CredentialId,
    partner: PartnerId,
    state: CredentialStage,
}

pub(super) async fn find(State(shared): State<Shared>, Json(call): Json<FindKeyCall>) -> Answer<FoundKey> {
    let live = live(&shared)?;
    let keys = live.snapshot.tokens.as_ref().and_then(|tokens| tokens.api_keys.as_ref());
    let keys = keys.ok_or_else(|| wrong(NO_KEYS))?;
    let hash = keys.read(call.api_key.trim()).ok_or_else(|| wrong("it is no whole API key, or is mistyped"))?;
    let (record, key) = live.snapshot.registry.api_key(&hash).ok_or_else(|| unknown("API key"))?;
    let state = key.stage(shared.publisher.now());
    sent(FoundKey { id: key.id.clone(), partner: record.partner.id.clone(), state })
}

const NO_KEYS: &str = "nobody has API keys here: add `tokens.api_keys` to the config";

/// Body of `PUT /v1/partners/{id}/api-keys/{key}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyCall {
    /// Grants of the partner that it may be used by.
    pub grants: Vec<String>,
    /// Ids of operations that it is for; all that its grants cover when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<String>>,
    /// Where it may come from; where its grants allow it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// The certificate that it is good with: `fingerprint_sha256` or `spki_sha256`, as a registry file has it.
    pub bound_to: Map<String, Value>,
    /// Who answers for it on our side; who answers for the first of its grants when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// RFC 3339; in 90 days when absent, or sooner where the config, the grants or the engagement end it sooner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Body of `POST /v1/partners/{id}/api-keys/{key}/rotate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRotateCall {
    /// The id of the key that takes its place.
    pub successor: String,
    /// As the predecessor's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<Map<String, Value>>,
    /// As of a key that is new when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// How long both are good at least, such as `7d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// What making a key came to. The key is shown this once.
#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    #[serde(flatten)]
    applied: Applied,
    /// Absent of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
}

pub(super) async fn add(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<ApiKeyCall>,
) -> Answer<Made> {
    let (keys, record) = known(&shared, &partner)?;
    let ApiKeyCall { grants, operations, networks, bound_to, owner, ends, dry_run, reason, ticket } = call;
    if grants.is_empty() {
        return Err(wrong("grants: name at least one grant of the partner"));
    }
    if let Some(unknown) = grants.iter().find(|id| find_grant(&record, id).is_none()) {
        let near = nearest(unknown, record.grants.iter().map(|grant| grant.id.as_str()));
        let fix = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Err(wrong(&format!("`{partner}` has no grant `{}`{fix}", unknown.escape_debug())));
    }
    let first = grants.first().and_then(|id| find_grant(&record, id)).map(|grant| grant.owner.clone());
    let made = keys.make().map_err(|reason| wrong(&reason))?;
    let usual = || usual_end(&shared, &keys, &record, &grants);
    let mut set = Map::new();
    for (key, value) in [
        ("owner", owner.or(first).map(Value::from)),
        ("hash", Some(json!(made.hash))),
        ("bound_to", Some(bound_to.into())),
        ("ends", Some(ends.unwrap_or_else(usual).into())),
        ("operations", operations.map(Value::from)),
        ("networks", networks.map(Value::from)),
    ] {
        set.extend(value.map(|value| (key.to_owned(), value)));
    }
    set.insert("grants".into(), grants.into());
    let at = vec!["api_keys".to_owned(), id.to_string()];
    let edit = Edit { at, patch: set, place: Place::Free };
    make(&shared, &caller, (partner, edit), made, Asking { dry_run, reason, ticket }).await
}

pub(super) async fn edit(
    state: State<Shared>,
    caller: Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    below(("api_keys", Place::Taken), state, caller, (partner, id.to_string()), call).await
}

/// A successor that may do as much as its predecessor, and the predecessor on its way out.
pub(super) async fn rotate(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<KeyRotateCall>,
) -> Answer<Made> {
    let (keys, record) = known(&shared, &partner)?;
    let KeyRotateCall { successor, bound_to, ends, overlap, dry_run, reason, ticket } = call;
    parse_id(&successor).map_err(|reason| wrong(&format!("successor: {reason}")))?;
    let Some(old) = find_api_key(&record, &id) else { return Err(no_key(&record, &id)) };
    if record.api_keys.iter().any(|key| key.id.as_str() == successor) {
        return Err(wrong(&format!("there is an API key `{successor}` already")));
    }
    let made = keys.make().map_err(|reason| wrong(&reason))?;
    // No more than is granted now: what its grants have lost since, its successor need not lose again.
    let open = |id: &&GrantId| {
        let state = find_grant(&record, id.as_str()).map(|grant| grant.state(shared.publisher.now()));
        matches!(state, Some(GrantState::Approved | GrantState::Active))
    };
    let grants: Vec<String> = old.grants.iter().filter(open).map(ToString::to_string).collect();
    if grants.is_empty() {
        return Err(wrong(&format!("none of the grants of `{id}` is in force: make another key for those that are")));
    }
    let mut new = api_key_document(old);
    if let Some(object) = new.as_object_mut() {
        let covers = |o: &&OperationId| grants.iter().any(|id| find_grant(&record, id).is_some_and(|g| g.covers(o)));
        let operations = old.operations.as_ref().map(|all| all.iter().filter(covers).collect::<Vec<_>>());
        object.extend(operations.map(|operations| ("operations".to_owned(), json!(operations))));
        object.insert("grants".into(), json!(grants));
        for key in ["retiring", "revoked"] {
            object.remove(key);
        }
        object.insert("hash".into(), json!(made.hash));
        let ends = ends.unwrap_or_else(|| usual_end(&shared, &keys, &record, &grants));
        object.insert("ends".into(), ends.into());
        object.extend(bound_to.map(|bound_to| ("bound_to".to_owned(), bound_to.into())));
    }
    let mut retiring = json!({"successor": successor});
    if let (Some(object), Some(overlap)) = (retiring.as_object_mut(), overlap) {
        object.insert("overlap".into(), overlap.into());
    }
    let mut set = Map::new();
    set.insert("api_keys".into(), json!({ successor: new, id.as_str(): {"retiring": retiring} }));
    let edit = Edit { at: Vec::new(), patch: set, place: Place::Taken };
    make(&shared, &caller, (partner, edit), made, Asking { dry_run, reason, ticket }).await
}

async fn make(
    shared: &Shared,
    caller: &Caller,
    (partner, edit): (PartnerId, Edit),
    made: MadeKey,
    asking: Asking,
) -> Answer<Made> {
    let dry_run = asking.dry_run || caller.dry_run;
    let wanted = Wanted::Edited(Edited { subject: Subject::Partner(Whose::Of(partner)), edit });
    let applied = asked(shared, caller, wanted, asking).await?;
    sent(Made { applied, api_key: (!dry_run).then_some(made.text) })
}

/// What makes keys, and whose it is to be.
fn known(shared: &Shared, partner: &PartnerId) -> Result<(Arc<ApiKeys>, Arc<PartnerRecord>), Response> {
    let live = live(shared)?;
    let keys = live.snapshot.tokens.as_ref().and_then(|tokens| tokens.api_keys.clone());
    let keys = keys.ok_or_else(|| wrong(NO_KEYS))?;
    let record = live.snapshot.registry.partner(partner).cloned().ok_or_else(|| unknown("partner"))?;
    Ok((keys, record))
}

fn no_key(record: &PartnerRecord, id: &CredentialId) -> Response {
    let near = nearest(id.as_str(), record.api_keys.iter().map(|key| key.id.as_str()));
    let fix = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    wrong(&format!("`{}` has no API key `{id}`{fix}", record.partner.id))
}

fn usual_end(shared: &Shared, keys: &ApiKeys, record: &PartnerRecord, grants: &[String]) -> String {
    let longest = shared.publisher.now().saturating_add(USUAL.min(keys.settings.longest));
    let named = grants.iter().filter_map(|id| find_grant(record, id));
    // After the last of its grants it would be for nothing.
    let last = named.map(|grant| grant.period.ends).reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
    let ends = [Some(longest), record.partner.engaged().ends, last];
    ends.into_iter().flatten().min().unwrap_or(longest).to_string()
}
