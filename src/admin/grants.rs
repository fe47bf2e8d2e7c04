//! Partners and grants over the admin API, one at a time: asked for, changed, ended.

use super::answer::{
    Answer, Change, Named, Switch, done, live, looked_up, problem, refused, sent, switched, undone, unknown, wrong,
};
use super::caller::Caller;
use super::page::{Listed, PageQuery};
use super::{Shared, WhyCall};
use crate::approval::Item;
use crate::clock::UnixNanos;
use crate::document::{nearest, parse_time};
use crate::name::{CredentialId, GrantId, PartnerId};
use crate::partner::{Grant, MAX_EMERGENCY, Reviewed, Revoked};
use crate::registry::find_grant;
use crate::reload::{Applied, Apply, Authority, ChangeError, Edit, Edited, Mark, Place, Subject, Wanted, Whose};
use crate::store::{PlanOptions, emergency_document};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Body of whatever changes a partner, a credential or a grant: keys of a registry file, null for what is to go.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditCall {
    pub set: Map<String, Value>,
    /// Of a grant: which way its end is meant to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Direction>,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Later,
    Earlier,
}

/// Body of `POST /v1/partners/{id}/grants/{grant}/emergency`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmergencyCall {
    pub operations: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Vec<String>>,
    /// Seconds that it lasts.
    pub for_s: u64,
    pub reason: String,
    pub ticket: String,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct GrantQuery {
    partner: Option<String>,
}

/// Grants; as a whole by partner, with those that wait for approval, and in pages by id, without them.
#[derive(Serialize, JsonSchema)]
pub(super) struct Grants {
    grants: Vec<GrantRow>,
}

/// One grant as `GET /v1/grants` gives it. Times are RFC 3339.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct GrantRow {
    pub id: String,
    pub partner: String,
    pub owner: String,
    /// `requested`, `approved` (it has not started), `active`, `ended` or `revoked`.
    pub state: String,
    pub operations: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// What it waits as, or was approved as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Why and by whom it was made alone, in the form of a registry file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Map<String, Value>>")]
    pub emergency: Option<Value>,
}

impl GrantRow {
    fn of(partner: &PartnerId, grant: &Grant, state: &str) -> Self {
        let from = grant.approval.as_ref();
        GrantRow {
            id: grant.id.to_string(),
            partner: partner.to_string(),
            owner: grant.owner.clone(),
            state: state.to_owned(),
            operations: grant.operations.iter().map(ToString::to_string).collect(),
            starts: grant.period.starts.map(|t| t.to_string()),
            ends: grant.period.ends.map(|t| t.to_string()),
            requester: from.map(|f| f.requester.clone()),
            approver: from.map(|f| f.approver.clone()),
            approval: from.and_then(|f| f.id.as_ref()).map(ToString::to_string),
            emergency: grant.emergency.as_deref().map(emergency_document),
        }
    }
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<GrantQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Listed<Grants>> {
    let live = live(&shared)?;
    let now = shared.publisher.now();
    let known = |id: &str| PartnerId::parse(id).is_ok_and(|id| live.snapshot.registry.partner(&id).is_some());
    if query.partner.as_deref().is_some_and(|id| !known(id)) {
        return Err(unknown("partner"));
    }
    let asked = page.read(GrantId::parse)?;
    let wanted = move |id: &PartnerId| query.partner.as_deref().is_none_or(|partner| partner == id.as_str());
    let row = move |id: &PartnerId, grant: &Grant| GrantRow::of(id, grant, grant.state(now).as_str());
    if !asked.is_whole() {
        // Of a page, by id; what waits for approval is listed with the approvals.
        let all = live.snapshot.registry.grants_after(asked.after.as_ref());
        let all = all.filter(|(record, _)| wanted(&record.partner.id));
        let (grants, next) =
            asked.page(all.map(|(record, grant)| row(&record.partner.id, grant)), |row| row.id.clone());
        return asked.listed(Grants { grants }, next);
    }
    let found = looked_up(async move {
        let records = live.snapshot.registry.partners().filter(|record| wanted(&record.partner.id));
        let mut rows: Vec<GrantRow> =
            records.flat_map(|record| record.grants.iter().map(|grant| row(&record.partner.id, grant))).collect();
        for approval in shared.publisher.waiting().await? {
            for item in &approval.items {
                let Item::Grant { partner, after: Some(grant), .. } = item else { continue };
                if wanted(partner) {
                    let row = GrantRow::of(partner, grant, "requested");
                    let (requester, id) = (Some(approval.requester.clone()), Some(approval.id.to_string()));
                    rows.push(GrantRow { requester, approver: None, approval: id, ..row });
                }
            }
        }
        Ok(rows)
    });
    asked.listed(Grants { grants: found.await? }, None)
}

pub(super) async fn add_partner(
    state: State<Shared>,
    caller: Extension<Caller>,
    id: Named<PartnerId>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    own(Whose::New, Place::Free, state, caller, id, call).await
}

pub(super) async fn edit_partner(
    state: State<Shared>,
    caller: Extension<Caller>,
    id: Named<PartnerId>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    own(Whose::Of, Place::Taken, state, caller, id, call).await
}

async fn own(
    whose: fn(PartnerId) -> Whose,
    place: Place,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(id): Named<PartnerId>,
    Json(call): Json<EditCall>,
) -> Answer<Applied> {
    edit(&shared, &caller, Subject::Partner(whose(id)), Vec::new(), place, call).await
}

pub(super) async fn add_grant(
    state: State<Shared>,
    caller: Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, GrantId)>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    below(("grants", Place::Free), state, caller, (partner, id.to_string()), call).await
}

pub(super) async fn add_credential(
    state: State<Shared>,
    caller: Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    below(("credentials", Place::Free), state, caller, (partner, id.to_string()), call).await
}

pub(super) async fn edit_credential(
    state: State<Shared>,
    caller: Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    call: Json<EditCall>,
) -> Answer<Applied> {
    below(("credentials", Place::Taken), state, caller, (partner, id.to_string()), call).await
}

/// A part of a partner; `nouns` is `grants`, `credentials` or `api_keys`.
pub(super) async fn below(
    (nouns, place): (&str, Place),
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    (id, below): (PartnerId, String),
    Json(call): Json<EditCall>,
) -> Answer<Applied> {
    edit(&shared, &caller, Subject::Partner(Whose::Of(id)), vec![nouns.to_owned(), below], place, call).await
}

pub(super) async fn edit_grant(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(grant): Named<GrantId>,
    Json(call): Json<EditCall>,
) -> Answer<Applied> {
    if let Err(reason) = goes(&shared, &grant, &call) {
        return Err(wrong(&reason));
    }
    let at = vec!["grants".to_owned(), grant.to_string()];
    edit(&shared, &caller, Subject::Partner(Whose::WithGrant(grant)), at, Place::Taken, call).await
}

/// Whether the end goes the way that was meant: a slip of a year would end a grant at once.
fn goes(shared: &Shared, grant: &GrantId, call: &EditCall) -> Result<(), String> {
    let (Some(direction), Some(ends)) = (call.end, time_of(call, "ends")) else { return Ok(()) };
    let live = shared.publisher.live();
    let before = live.as_ref().and_then(|live| live.snapshot.registry.with_grant(grant));
    let before = before.and_then(|record| find_grant(record, grant.as_str())).and_then(|grant| grant.period.ends);
    match (direction, before) {
        (Direction::Later, Some(before)) if ends <= before => {
            Err(format!("this is no later end: it ends at {before}; `grant shorten` is for an earlier one"))
        }
        (Direction::Earlier, Some(before)) if ends >= before => {
            Err(format!("this is no earlier end: it ends at {before}; `grant extend` is for a later one"))
        }
        _ => Ok(()),
    }
}

/// A key of what operators have decided, at whatever depth.
fn set_elsewhere(set: &Map<String, Value>) -> Option<&str> {
    set.iter().find_map(|(key, value)| match value {
        _ if ["suspension", "revoked", "emergency", "reviewed"].contains(&key.as_str()) => Some(key.as_str()),
        // What is to stay is asked for; what is to go has a command of its own.
        _ if key == "offboarding" && !value.is_null() => Some(key.as_str()),
        Value::Object(inner) => set_elsewhere(inner),
        _ => None,
    })
}

fn time_of(call: &EditCall, key: &str) -> Option<UnixNanos> {
    call.set.get(key).and_then(Value::as_str).and_then(|text| parse_time(text).ok()).map(UnixNanos)
}

pub(super) async fn edit(
    shared: &Shared,
    caller: &Caller,
    subject: Subject,
    at: Vec<String>,
    place: Place,
    call: EditCall,
) -> Answer<Applied> {
    // What an operator has stopped or looked at is not a matter of files.
    if let Some(key) = set_elsewhere(&call.set) {
        return Err(wrong(&format!("`{key}` is set by a command of its own")));
    }
    let of_grant = at.first().is_some_and(|nouns| nouns == "grants");
    if let Some(ends) = time_of(&call, "ends").filter(|ends| of_grant && *ends <= shared.publisher.now()) {
        return Err(wrong(&format!("the end, {ends}, is over already; `grant revoke` ends a grant now")));
    }
    if let (Some(observe), true) = (call.set.get("observe").and_then(Value::as_object), at.is_empty()) {
        let wrong = observe.iter().filter_map(|(rule, until)| not_observed(shared, &subject, rule, until));
        let wrong: Vec<String> = wrong.collect();
        if !wrong.is_empty() {
            return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed", wrong));
        }
    }
    let EditCall { set, dry_run, reason, ticket, .. } = call;
    let wanted = Wanted::Edited(Edited { subject, edit: Edit { at, patch: set, place } });
    ask(shared, caller, wanted, Asking { dry_run, reason, ticket }).await
}

/// Why a rule cannot be observed until then, or not any more. It may be one of the candidate: who is to adapt is observed before it is
/// promoted.
fn not_observed(shared: &Shared, subject: &Subject, rule: &str, until: &Value) -> Option<String> {
    let live = shared.publisher.live()?;
    let (snapshot, shown) = (&live.snapshot, rule.escape_debug());
    let time = until.as_str().and_then(|text| parse_time(text).ok()).map(UnixNanos);
    if let Some(until) = time.filter(|until| *until <= shared.publisher.now()) {
        return Some(format!("{shown}: {until} is over: name a time that is still to come"));
    }
    let there = match subject {
        Subject::Partner(Whose::Of(id)) => snapshot.registry.partner(id),
        _ => None,
    };
    let candidate = snapshot.candidate.as_ref().and_then(|candidate| candidate.good());
    let policies = || [Some(&snapshot.policy), candidate].into_iter().flatten();
    if there.is_some_and(|record| record.partner.observe.contains_key(rule)) || policies().any(|p| p.declares(rule)) {
        return None;
    }
    let near = nearest(rule, policies().flat_map(|policy| policy.custom_reasons()).map(|(name, _)| &**name));
    let fix =
        near.map_or_else(|| "`reasons.yaml` does not declare it".to_owned(), |near| format!("did you mean `{near}`?"));
    Some(format!("`{shown}` is not the reason of a custom rule: {fix}"))
}

/// What is said with whatever is asked for; in a query where a call has no body.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asking {
    #[serde(default)]
    pub dry_run: bool,
    pub reason: Option<String>,
    pub ticket: Option<String>,
}

/// Applies it, or has it wait for somebody else.
pub(super) async fn ask(shared: &Shared, caller: &Caller, wanted: Wanted, asking: Asking) -> Answer<Applied> {
    sent(asked(shared, caller, wanted, asking).await?)
}

pub(super) async fn asked(
    shared: &Shared,
    caller: &Caller,
    wanted: Wanted,
    asking: Asking,
) -> Result<Applied, Response> {
    let edited = matches!(wanted, Wanted::Edited(_));
    let apply = Apply {
        wanted,
        options: PlanOptions { edited, ..PlanOptions::default() },
        dry_run: asking.dry_run,
        cause: caller.cause(asking.reason.as_ref(), asking.ticket.as_ref()),
        authority: caller.authority(),
        if_match: caller.if_match.clone(),
    };
    shared.publisher.apply(apply).await.map_err(refused)
}

/// A grant that an operator has made alone.
#[derive(Serialize, JsonSchema)]
pub(super) struct MadeAlone {
    grant: GrantId,
    partner: PartnerId,
    /// RFC 3339.
    ends: String,
    /// The registry's that is live now.
    revision: u64,
}

/// A grant that was ended, or looked at.
#[derive(Serialize, JsonSchema)]
pub(super) struct Marked {
    grant: GrantId,
    partner: PartnerId,
}

pub(super) async fn emergency(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((id, grant)): Named<(PartnerId, GrantId)>,
    Json(call): Json<EmergencyCall>,
) -> Change<MadeAlone> {
    for (key, text) in [("reason", &call.reason), ("ticket", &call.ticket)] {
        if text.trim().is_empty() {
            return Err(wrong(&format!("a {key} is needed: who reviews it will read it")));
        }
    }
    let length = Duration::from_secs(call.for_s);
    if length.is_zero() || length > MAX_EMERGENCY {
        return Err(wrong(&format!("an emergency grant lasts at most {} h", MAX_EMERGENCY.as_secs() / 3_600)));
    }
    let at = shared.publisher.now();
    let (author, ends) = (caller.actor.name.clone(), at.saturating_add(length));
    let mut patch = Map::new();
    for (key, value) in [
        ("owner", json!(author)),
        ("operations", json!(call.operations)),
        ("networks", json!(call.networks)),
        ("credentials", json!(call.credentials)),
        ("starts", json!(at.to_string())),
        ("ends", json!(ends.to_string())),
        ("emergency", json!({"reason": call.reason, "ticket": call.ticket, "author": author, "at": at.to_string()})),
    ] {
        patch.insert(key.to_owned(), value);
    }
    let at = vec!["grants".to_owned(), grant.to_string()];
    let apply = Apply {
        wanted: Wanted::Edited(Edited {
            subject: Subject::Partner(Whose::Of(id.clone())),
            edit: Edit { at, patch, place: Place::Free },
        }),
        options: PlanOptions { edited: true, ..PlanOptions::default() },
        dry_run: false,
        cause: caller.cause(Some(&call.reason), Some(&call.ticket)),
        authority: Authority::Emergency,
        if_match: None,
    };
    match shared.publisher.apply(apply).await {
        Ok(applied) if !applied.changed => undone(ChangeError::DryRun(applied.lines)),
        Ok(applied) => {
            shared.publisher.metrics().emergency_grants_made.inc();
            let (reason, ticket) = (&call.reason, &call.ticket);
            tracing::warn!(partner = %id, %grant, author, until = %ends, reason, ticket, "an emergency grant");
            done(MadeAlone { grant, partner: id, ends: ends.to_string(), revision: applied.revision })
        }
        Err(e) => undone(e),
    }
}

pub(super) async fn revoke(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(id): Named<GrantId>,
    Json(call): Json<WhyCall>,
) -> Switch<Marked> {
    let at = shared.publisher.now();
    let revoked = Revoked { reason: call.reason.clone(), author: caller.actor.name.clone(), at };
    mark(&shared, &caller, id, call, Mark::Revoked(revoked)).await
}

pub(super) async fn review(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(id): Named<GrantId>,
    Json(call): Json<WhyCall>,
) -> Switch<Marked> {
    let at = shared.publisher.now();
    let reviewed = Reviewed { finding: call.reason.clone(), author: caller.actor.name.clone(), at };
    mark(&shared, &caller, id, call, Mark::Reviewed(reviewed)).await
}

async fn mark(shared: &Shared, caller: &Caller, id: GrantId, call: WhyCall, with: Mark) -> Switch<Marked> {
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept"));
    }
    let verb = if matches!(with, Mark::Revoked(_)) { "revoked" } else { "reviewed" };
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    match shared.publisher.mark_grant(id.clone(), with, cause).await {
        Ok(ended) => {
            let partner = &ended.record.partner.id;
            if ended.changed {
                let (author, reason, revision) = (&caller.actor.name, call.reason, ended.switched.revision);
                tracing::warn!(%partner, grant = %id, author, reason, revision, "a grant is {verb}");
            }
            let partner = partner.clone();
            switched(Marked { grant: id, partner }, ended.switched, ended.changed)
        }
        Err(e) => undone(e),
    }
}
