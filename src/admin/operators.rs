//! Operators over the admin API: the first ones, and who there is since.

use super::answer::{Answer, Change, done, problem, refused, sent, undone, unknown, wrong};
use super::caller::{Caller, user_name};
use super::page::{Listed, PageQuery};
use super::{Shared, WhyCall};
use crate::clock::UnixNanos;
use crate::identity::Match;
use crate::name::OperatorName;
use crate::operator::{Disabled, Operator, Operators, Role, Token};
use crate::reload::Governed;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use nix::unistd::User;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

const DAY: u64 = 86_400;
/// How long a token is good for when nothing is said, and at most.
const TOKEN_LIFE: Duration = Duration::from_secs(90 * DAY);
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(366 * DAY);
/// Operators that a gateway begins with, at least: nobody approves what they have asked for themselves.
const FIRST: usize = 2;

/// An operator to be, and how it will show who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorCall {
    pub name: String,
    /// The first operators have every role.
    #[serde(default)]
    pub roles: Vec<String>,
    /// A user of the gateway's machine, by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `uri=…`, `dns=…`, `subject=…`, `spki_sha256=…` or `fingerprint_sha256=…` of a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Whether it gets a token.
    #[serde(default)]
    pub token: bool,
    /// Seconds that the token is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_life_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Body of `POST /v1/bootstrap`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootstrapCall {
    pub operators: Vec<OperatorCall>,
}

/// Body of `PUT /v1/operators/{name}/roles`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolesCall {
    pub roles: Vec<String>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Body of `POST /v1/operators/{name}/tokens`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCall {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// An operator as the API gives it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Shown {
    pub name: String,
    pub roles: Vec<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The name that the gateway's machine has for `uid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Match>,
    pub tokens: Vec<ShownToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<ShownEnd>,
    /// The text of a token that was just made. It is told this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What nobody may have meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Where the command has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// It is to be so when somebody else has approved this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
}

/// A token as the API gives it. Times are RFC 3339.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShownToken {
    pub id: String,
    pub created: String,
    pub expires: String,
    pub expired: bool,
}

/// Why an operator is disabled.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShownEnd {
    pub reason: String,
    pub author: String,
    /// RFC 3339.
    pub at: String,
}

impl Shown {
    pub fn of(operator: &Operator, now: UnixNanos, token: Option<String>) -> Self {
        let tokens = operator.tokens.iter().map(|t| ShownToken {
            id: t.id.clone(),
            created: t.created.to_string(),
            expires: t.expires.to_string(),
            expired: now >= t.expires,
        });
        Shown {
            name: operator.name.to_string(),
            roles: operator.roles.iter().copied().collect(),
            uid: operator.uid,
            user: operator.uid.map(user_name),
            certificate: operator.certificate.clone(),
            tokens: tokens.collect(),
            disabled: operator.disabled.as_ref().map(|d| ShownEnd {
                reason: d.reason.clone(),
                author: d.author.clone(),
                at: d.at.to_string(),
            }),
            token,
            warning: None,
            token_file: None,
            approval: None,
        }
    }

    fn governed(shared: &Shared, governed: &Governed, token: Option<String>) -> Self {
        let (operators, now) = (shared.publisher.operators(), shared.publisher.now());
        let approval = governed.approval.as_ref().map(ToString::to_string);
        let mut approvers = operators.approvers(now);
        let warning = match (approvers.next(), approvers.next()) {
            (Some(last), None) => Some(format!(
                "`{}` alone may approve now, and nobody approves what they have asked for themselves: with the gateway \
                 stopped, `partnergate db operator` adds somebody",
                last.name
            )),
            _ => None,
        };
        Shown { approval, warning, ..Shown::of(&governed.operator, now, token) }
    }
}

/// Operators, sorted by name.
#[derive(Serialize, JsonSchema)]
pub(super) struct Operating {
    operators: Vec<Shown>,
}

pub(super) async fn list(State(shared): State<Shared>, Query(page): Query<PageQuery>) -> Answer<Listed<Operating>> {
    let asked = page.read(OperatorName::parse)?;
    let (all, now) = (shared.publisher.operators(), shared.publisher.now());
    let behind = all.iter().filter(|operator| asked.after.as_ref().is_none_or(|after| operator.name > *after));
    let (operators, next) = asked.page(behind.map(|o| Shown::of(o, now, None)), |shown| shown.name.clone());
    asked.listed(Operating { operators }, next)
}

pub(super) async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Shown> {
    match shared.publisher.operators().get(&name) {
        Some(operator) => sent(Shown::of(operator, shared.publisher.now(), None)),
        None => Err(unknown("operator")),
    }
}

pub(super) async fn bootstrap(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<BootstrapCall>,
) -> Answer<Operating> {
    if !caller.is_host() {
        let why = "there are operators already: one of them who has the role `approver` adds more";
        return Err(problem(StatusCode::FORBIDDEN, why, Vec::new()));
    }
    let now = shared.publisher.now();
    let mut wrong = Vec::new();
    let mut first = Vec::new();
    for operator in &call.operators {
        let all = Role::ALL.iter().copied().collect();
        match new_operator(operator, all, now) {
            Ok(made) => first.push(made),
            Err(reason) => wrong.push(format!("`{}`: {reason}", operator.name.escape_debug())),
        }
    }
    if wrong.is_empty() && first.len() < FIRST {
        wrong.push(format!("{} operators are named, and it takes {FIRST}: one asks, another approves", first.len()));
    }
    let names: BTreeSet<&OperatorName> = first.iter().map(|(o, _)| &o.name).collect();
    if wrong.is_empty() && names.len() < first.len() {
        wrong.push("an operator is named twice".into());
    }
    if !wrong.is_empty() {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed", wrong));
    }
    let operators = first.iter().map(|(operator, _)| operator.clone()).collect();
    shared.publisher.bootstrap(operators, caller.cause(None, None)).await.map_err(refused)?;
    sent(Operating { operators: first.into_iter().map(|(o, token)| Shown::of(&o, now, token)).collect() })
}

pub(super) async fn add(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Json(call): Json<OperatorCall>,
) -> Change<Shown> {
    let now = shared.publisher.now();
    let made = roles_of(&call.roles).and_then(|roles| new_operator(&call, roles, now));
    let (operator, token) = match made {
        Ok(made) => made,
        Err(reason) => return Err(wrong(&reason)),
    };
    let change = move |operators: &Operators| match operators.get(operator.name.as_str()) {
        Some(there) => Err(format!("there is an operator `{}` already", there.name)),
        None => Ok(operator),
    };
    let cause = caller.cause(call.reason.as_ref(), call.ticket.as_ref());
    match shared.publisher.govern(change, cause).await {
        Ok(governed) => done(Shown::governed(&shared, &governed, token)),
        Err(e) => undone(e),
    }
}

pub(super) async fn roles(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(call): Json<RolesCall>,
) -> Change<Shown> {
    let roles = match roles_of(&call.roles) {
        Ok(roles) => roles,
        Err(reason) => return Err(wrong(&reason)),
    };
    let why = WhyCall { reason: call.reason, ticket: call.ticket };
    change(&shared, &caller, name, &why, move |operator| Ok(Operator { roles, ..operator })).await
}

pub(super) async fn disable(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(call): Json<WhyCall>,
) -> Change<Shown> {
    let disabled =
        Disabled { reason: call.reason.clone(), author: caller.actor.name.clone(), at: shared.publisher.now() };
    change(&shared, &caller, name, &call, move |mut operator| {
        // The first reason stays.
        operator.disabled.get_or_insert(disabled);
        Ok(operator)
    })
    .await
}

pub(super) async fn enable(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(call): Json<WhyCall>,
) -> Change<Shown> {
    change(&shared, &caller, name, &call, |operator| Ok(Operator { disabled: None, ..operator })).await
}

pub(super) async fn add_token(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(call): Json<TokenCall>,
) -> Change<Shown> {
    let now = shared.publisher.now();
    let (token, text) = match new_token(call.life_s, now) {
        Ok(made) => made,
        Err(reason) => return Err(wrong(&reason)),
    };
    let change = move |operators: &Operators| {
        let mut operator = existing(operators, &name)?;
        // What has expired makes room.
        operator.tokens.retain(|t| now < t.expires);
        operator.tokens.push(token);
        Ok(operator)
    };
    let cause = caller.cause(call.reason.as_ref(), call.ticket.as_ref());
    match shared.publisher.govern(change, cause).await {
        Ok(governed) => done(Shown::governed(&shared, &governed, Some(text))),
        Err(e) => undone(e),
    }
}

pub(super) async fn revoke_token(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path((name, id)): Path<(String, String)>,
    Json(call): Json<WhyCall>,
) -> Change<Shown> {
    change(&shared, &caller, name, &call, move |mut operator| {
        let before = operator.tokens.len();
        operator.tokens.retain(|t| t.id != id);
        if operator.tokens.len() == before {
            let known = if id.len() > 16 { "of this id".to_owned() } else { format!("`{}`", id.escape_debug()) };
            return Err(format!("the operator `{}` has no token {known}", operator.name));
        }
        Ok(operator)
    })
    .await
}

async fn change(
    shared: &Shared,
    caller: &Caller,
    name: String,
    why: &WhyCall,
    change: impl FnOnce(Operator) -> Result<Operator, String> + Send + 'static,
) -> Change<Shown> {
    if why.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept"));
    }
    let cause = caller.cause(Some(&why.reason), why.ticket.as_ref());
    match shared.publisher.govern(move |operators| change(existing(operators, &name)?), cause).await {
        Ok(governed) => done(Shown::governed(shared, &governed, None)),
        Err(e) => undone(e),
    }
}

fn existing(operators: &Operators, name: &str) -> Result<Operator, String> {
    let found = operators.get(name).ok_or_else(|| format!("there is no operator `{}`", name.escape_debug()))?;
    Ok(Operator::clone(found))
}

fn roles_of(texts: &[String]) -> Result<BTreeSet<Role>, String> {
    texts.iter().map(|text| Role::parse(text)).collect()
}

/// The operator, and the text of its token where it gets one. `call.roles` is not looked at.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn new_operator(
    call: &OperatorCall,
    roles: BTreeSet<Role>,
    now: UnixNanos,
) -> Result<(Operator, Option<String>), String> {
    let name = OperatorName::parse(&call.name)?;
    let uid = call.user.as_deref().map(uid_of).transpose()?;
    let certificate = call.certificate.as_deref().map(Match::parse).transpose()?;
    let token = if call.token { Some(new_token(call.token_life_s, now)?) } else { None };
    if uid.is_none() && certificate.is_none() && token.is_none() {
        return Err("nothing will show who it is: name a `user`, a `certificate` or a `token`".into());
    }
    let (token, text) = token.unzip();
    let tokens = token.into_iter().collect();
    Ok((Operator { name, roles, uid, certificate, tokens, disabled: None }, text))
}

fn new_token(life_s: Option<u64>, now: UnixNanos) -> Result<(Token, String), String> {
    let life = life_s.map_or(TOKEN_LIFE, Duration::from_secs);
    if life.is_zero() || life > MAX_TOKEN_LIFE {
        return Err(format!("a token is good for at most {} days", MAX_TOKEN_LIFE.as_secs() / DAY));
    }
    Token::generate(now, now.saturating_add(life))
}

/// Of a user of this machine, by name or number.
fn uid_of(user: &str) -> Result<u32, String> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    match User::from_name(user) {
        Ok(Some(found)) => Ok(found.uid.as_raw()),
        _ => Err(format!("the gateway's machine has no user `{}`", user.escape_debug())),
    }
}
