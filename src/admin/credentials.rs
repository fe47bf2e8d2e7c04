//! Credentials over the admin API: which there are and which certificates were seen of them, ended, and succeeded.

use super::answer::{Answer, Named, Switch, live, looked_up, of_partner, sent, switched, undone, unknown, wrong};
use super::caller::Caller;
use super::grants::edit;
use super::page::{Page, PageQuery};
use super::{EditCall, Shared, WhyCall};
use crate::clock::UnixNanos;
use crate::document::parse_id;
use crate::name::{AnchorName, CredentialId, PartnerId};
use crate::partner::{Credential, CredentialStage, PartnerRecord, Revoked};
use crate::registry::find_credential;
use crate::reload::{Applied, Place, Subject, Whose};
use crate::store::{Certificate, credential_document, grant_document};
use axum::extract::{Query, State};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

#[derive(Deserialize, JsonSchema)]
pub(super) struct CredentialQuery {
    pub partner: Option<String>,
}

/// Credentials, sorted by id.
#[derive(Serialize, JsonSchema)]
pub(super) struct Credentials {
    credentials: Vec<Row>,
}

/// One credential of a list. Times are RFC 3339.
#[derive(Serialize, JsonSchema)]
struct Row {
    id: CredentialId,
    partner: PartnerId,
    anchor: AnchorName,
    /// What it is recognised by.
    kind: &'static str,
    state: CredentialStage,
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<CredentialId>,
    /// From when on nothing but the successor's use is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    retires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<WhoEnded>,
    /// The certificates that were seen of it, the last one first; of one partner's credentials alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificates: Option<Vec<Certificate>>,
}

/// Who has ended it, why and when (RFC 3339).
#[derive(Serialize, JsonSchema)]
pub(super) struct WhoEnded {
    reason: String,
    author: String,
    at: String,
}

impl WhoEnded {
    pub(super) fn of(revoked: &Revoked) -> Self {
        let Revoked { reason, author, at } = revoked;
        WhoEnded { reason: reason.clone(), author: author.clone(), at: at.to_string() }
    }
}

impl Row {
    fn of(partner: &PartnerId, credential: &Credential, now: UnixNanos) -> Self {
        let retiring = credential.retiring.as_deref();
        Row {
            id: credential.id.clone(),
            partner: partner.clone(),
            anchor: credential.anchor.clone(),
            kind: credential.matching.kind().as_str(),
            state: credential.stage(now),
            ends: credential.ends.map(|ends| ends.to_string()),
            successor: retiring.map(|r| r.successor.clone()),
            retires: retiring.map(|r| r.until().to_string()),
            revoked: credential.revoked.as_deref().map(WhoEnded::of),
            certificates: None,
        }
    }
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<CredentialQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Page<Credentials>> {
    let live = live(&shared)?;
    let one = of_partner(&live, query.partner.as_deref())?;
    let asked = page.read(CredentialId::parse)?;
    let found = looked_up(async move {
        let now = shared.publisher.now();
        if one.is_some() {
            shared.publisher.write_usage().await?;
        }
        let mine = |record: &PartnerRecord| one.as_ref().is_none_or(|one| one.partner.id == record.partner.id);
        let all = live.snapshot.registry.credentials_after(asked.after.as_ref()).filter(|(record, _)| mine(record));
        let all = all.map(|(record, credential)| Row::of(&record.partner.id, credential, now));
        let (mut credentials, next) = asked.page(all, |row| row.id.to_string());
        if one.is_some() {
            for row in &mut credentials {
                row.certificates = Some(shared.publisher.store().certificates_of(&row.id).await?);
            }
        }
        Ok(Page { list: Credentials { credentials }, next })
    });
    sent(found.await?)
}

/// A credential, or an API key, that was ended.
#[derive(Serialize, JsonSchema)]
pub(super) struct RevokedCredential {
    credential: CredentialId,
    partner: PartnerId,
}

pub(super) async fn revoke(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<WhyCall>,
) -> Switch<RevokedCredential> {
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept"));
    }
    let (reason, author, at) = (call.reason.clone(), caller.actor.name.clone(), shared.publisher.now());
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    let revoked = Revoked { reason: reason.clone(), author: author.clone(), at };
    match shared.publisher.revoke_credential(partner.clone(), id.clone(), revoked, cause).await {
        Ok((done, changed)) => {
            if changed {
                tracing::warn!(%partner, credential = %id, author, reason, revision = done.revision, "a credential is revoked");
            }
            switched(RevokedCredential { credential: id, partner }, done, changed)
        }
        Err(e) => undone(e),
    }
}

/// Body of `POST /v1/partners/{id}/credentials/{credential}/rotate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateCall {
    /// The id of the credential that takes its place.
    pub successor: String,
    /// What it is recognised by, as a registry file has it; absent where the successor is registered already.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Map<String, Value>>,
    /// The predecessor's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// How long both are good at least, such as `7d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<String>,
    /// Register it as pending: it is not accepted before it is activated.
    #[serde(default)]
    pub pending: bool,
    #[serde(default)]
    pub dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// A successor that may do as much as its predecessor, and the predecessor on its way out.
pub(super) async fn rotate(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, id)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<RotateCall>,
) -> Answer<Applied> {
    parse_id(&call.successor).map_err(|reason| wrong(&format!("successor: {reason}")))?;
    let live = shared.publisher.live();
    let record = live.as_ref().and_then(|live| live.snapshot.registry.partner(&partner));
    let set = succession(record.ok_or_else(|| unknown("partner"))?, &id, &call).map_err(|reason| wrong(&reason))?;
    let RotateCall { dry_run, reason, ticket, .. } = call;
    let call = EditCall { set, end: None, dry_run, reason, ticket };
    edit(&shared, &caller, Subject::Partner(Whose::Of(partner)), Vec::new(), Place::Taken, call).await
}

/// What a rotation changes of a partner.
fn succession(record: &PartnerRecord, id: &CredentialId, call: &RotateCall) -> Result<Map<String, Value>, String> {
    let Some(old) = find_credential(record, id) else {
        let known: Vec<&str> = record.credentials.iter().map(|c| c.id.as_str()).collect();
        return Err(format!("`{}` has no credential `{id}`; it has {}", record.partner.id, known.join(", ")));
    };
    let registered = record.credentials.iter().any(|c| c.id.as_str() == call.successor);
    let mut credentials = Map::new();
    match (&call.matching, registered) {
        (Some(_), true) => return Err(format!("`{}` is registered already: leave `match` out", call.successor)),
        (None, false) => {
            return Err(format!("`{}` is not registered yet: say what it is recognised by", call.successor));
        }
        (None, true) => {}
        (Some(matching), false) => {
            let mut new = credential_document(old);
            if let Some(object) = new.as_object_mut() {
                for key in ["ends", "retiring", "revoked"] {
                    object.remove(key);
                }
                object.insert("match".into(), json!(matching));
                object.insert("state".into(), json!(if call.pending { "pending" } else { "active" }));
                object.extend(call.anchor.as_ref().map(|anchor| ("anchor".to_owned(), json!(anchor))));
                object.extend(call.ends.as_ref().map(|ends| ("ends".to_owned(), json!(ends))));
            }
            credentials.insert(call.successor.clone(), new);
        }
    }
    let mut retiring = json!({"successor": call.successor});
    if let (Some(object), Some(overlap)) = (retiring.as_object_mut(), &call.overlap) {
        object.insert("overlap".into(), json!(overlap));
    }
    credentials.insert(id.to_string(), json!({"retiring": retiring}));
    // Where a grant is for named credentials, the successor is one of them.
    let limited = record
        .grants
        .iter()
        .filter(|grant| grant.revoked.is_none() && grant.credentials.as_ref().is_some_and(|c| c.contains(id)));
    let mut grants = Map::new();
    for grant in limited {
        let mut document = grant_document(grant);
        let list = document.get_mut("credentials").and_then(Value::as_array_mut);
        if let Some(list) = list.filter(|list| !list.contains(&json!(call.successor))) {
            list.push(json!(call.successor));
            grants.insert(grant.id.to_string(), json!({"credentials": list}));
        }
    }
    let mut set = Map::new();
    set.insert("credentials".into(), credentials.into());
    if !grants.is_empty() {
        set.insert("grants".into(), grants.into());
    }
    Ok(set)
}
