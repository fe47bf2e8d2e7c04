//! Who calls, and whether a role of theirs permits what they call for.

use super::Shared;
use super::answer::{Said, problem};
use crate::history::{Actor, Cause, Way};
use crate::identity::Certificate;
use crate::operator::{Act, Operator, Role, Unrecognised};
use crate::reload::Authority;
use crate::token::find_key;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use nix::unistd::{Uid, User};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Calls that do something else than change the registry.
pub(super) const NO_DRY_RUN: &[&str] =
    &["/v1/reload", "/v1/bootstrap", "/v1/ca/order", "/v1/ca/list", "/v1/policy/explain", "/oauth2/introspect"];

/// Calls that change nothing, whatever their method.
const ONLY_LOOKS: &[&str] = &["/v1/policy/explain", "/v1/api-keys/find", "/oauth2/introspect"];

/// Calls that change something and are not in the history by what they change there.
const ELSEWHERE: &[&str] = &["/v1/reload", "/v1/ca/order"];
/// Most characters and lines that the history has of a call that was refused.
const MAX_NOTED: usize = 300;
const MAX_NOTED_LINES: usize = 5;

/// What a connection shows of who is at its other end.
#[derive(Clone, Debug)]
pub(super) enum Connection {
    /// The admin socket; the user is as the kernel names it.
    Socket { uid: Option<u32> },
    /// The admin listener. The chain of the certificate was verified; `known` is set once it has shown an operator.
    Tls { address: SocketAddr, certificate: Option<Arc<Certificate>>, known: Arc<AtomicBool> },
}

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub actor: Actor,
    /// Absent for the gateway's own user and root of this machine, who may look without being operators.
    operator: Option<Arc<Operator>>,
    /// What the caller has seen of what it changes.
    pub if_match: Option<String>,
    /// It is only to be seen what the call would come to.
    pub(super) dry_run: bool,
}

impl Caller {
    pub fn cause(&self, reason: Option<&String>, ticket: Option<&String>) -> Cause {
        Cause { dry_run: self.dry_run, ..Cause::new(self.actor.clone(), reason.cloned(), ticket.cloned()) }
    }

    /// What it may beside asking.
    pub fn authority(&self) -> Authority {
        if self.may(Act::Approve).is_ok() { Authority::Approve } else { Authority::Ask }
    }

    /// Who owns the machine that the gateway runs on, and is no operator.
    pub fn is_host(&self) -> bool {
        self.operator.is_none()
    }

    /// # Errors
    /// What to tell who may not.
    pub fn may(&self, act: Act) -> Result<(), String> {
        let named = |roles: &[Role]| roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(", ");
        match &self.operator {
            Some(operator) if operator.may(act) => Ok(()),
            Some(operator) => {
                let has: Vec<Role> = operator.roles.iter().copied().collect();
                Err(format!(
                    "the operator `{}` has the roles {}; this takes one of: {}",
                    operator.name,
                    named(&has),
                    named(act.roles())
                ))
            }
            None if matches!(act, Act::Look | Act::LookBack) => Ok(()),
            None => Err(format!(
                "`{}` may look, and is no operator: this takes one with a role of: {}; `partnergate admin bootstrap` \
                 makes the first operators, an approver adds more",
                self.actor.name,
                named(act.roles())
            )),
        }
    }
}

/// For people: the user's name, or its number where the system knows none.
pub fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
}

/// What is said where an API key was sent in the place of its id, or in a text that is kept.
pub const KEY_TYPED: &str = "an API key is in what was to be sent, where it would be kept for good: nothing was done. Write its id; `credential find` says whose it is";

/// Finds out who calls; nobody else comes further. What is logged of a call is who, what and how it went.
pub(super) async fn recognised(
    State(shared): State<Shared>,
    Extension(connection): Extension<Connection>,
    mut request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // A token that somebody took for its id is no less secret there.
    let path = if path.contains("pgo_") || path.contains("pge_") { "(with a token in it)".to_owned() } else { path };
    // It would stay in the log and in the history for good.
    if find_key(request.uri().to_string()).is_some() {
        shared.publisher.metrics().admin_calls.with_label_values(&["refused"]).inc();
        return problem(StatusCode::UNPROCESSABLE_ENTITY, KEY_TYPED, Vec::new());
    }
    let from_browser =
        |headers: &HeaderMap| headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    let metrics = shared.publisher.metrics();
    if from_browser(request.headers()) {
        metrics.admin_calls.with_label_values(&["refused"]).inc();
        return problem(StatusCode::FORBIDDEN, "calls from pages in a browser are refused", Vec::new());
    }
    let caller = match recognise(&shared, &connection, request.headers()) {
        Ok(caller) => caller,
        Err(e) => {
            metrics.admin_calls.with_label_values(&["unrecognised"]).inc();
            tracing::warn!(?connection, %method, path = %path.escape_debug(), reason = %e, "an admin call of nobody");
            // Whom the kernel names has nothing else to show.
            if matches!(e, Unrecognised::User(_) | Unrecognised::Disabled(_)) {
                return problem(StatusCode::FORBIDDEN, &e.to_string(), Vec::new());
            }
            let mut answer = problem(StatusCode::UNAUTHORIZED, &e.to_string(), Vec::new());
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            return answer;
        }
    };
    if let Connection::Tls { known, .. } = &connection {
        known.store(true, Ordering::Relaxed);
    }
    let actor = caller.actor.clone();
    let dry_run = match wants_dry_run(request.uri().query()) {
        Ok(dry_run) => dry_run,
        Err(reason) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &reason, Vec::new()),
    };
    let only_looks = ONLY_LOOKS.contains(&&*path);
    if dry_run && !only_looks && NO_DRY_RUN.contains(&request.uri().path()) {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "this call has no dry run", Vec::new());
    }
    let changes = !method.is_safe() && !dry_run && !only_looks;
    request.extensions_mut().insert(Caller { dry_run, ..caller });
    let response = next.run(request).await;
    let status = response.status().as_u16();
    if changes && (response.status().is_client_error() || ELSEWHERE.contains(&&*path)) {
        let call = shortened(&format!("{method} {path}").escape_debug().to_string());
        let outcome = outcome(&response);
        if let Err(e) = shared.publisher.note_call(call, outcome, Cause::new(actor.clone(), None, None)).await {
            tracing::error!(error = %e, "a call is not in the history");
        }
    }
    let result = match status {
        0..400 => "ok",
        403 => "refused",
        _ => "failed",
    };
    metrics.admin_calls.with_label_values(&[result]).inc();
    let (operator, token, address) = (&actor.name, actor.token.as_deref(), actor.address.as_deref());
    let path = path.escape_debug().to_string();
    tracing::info!(operator, uid = actor.uid, token, address, %method, path, status, "admin call");
    response
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_NOTED).collect()
}

/// What came of a call, as the history has it: its status, and of one that was refused, why.
fn outcome(response: &Response) -> Value {
    let mut outcome = json!({"status": response.status().as_u16()});
    if let (Some(object), false) = (outcome.as_object_mut(), response.status().is_success()) {
        let said = response.extensions().get::<Said>();
        let title = said.map(|said| &*said.title).or(response.status().canonical_reason()).unwrap_or_default();
        object.insert("title".into(), shortened(title).into());
        let problems = said.map(|said| &*said.problems).unwrap_or_default();
        if !problems.is_empty() {
            let lines: Vec<String> = problems.iter().take(MAX_NOTED_LINES).map(|line| shortened(line)).collect();
            object.insert("problems".into(), json!(lines));
        }
    }
    outcome
}

/// `dry_run=true` in the query of any call that changes something. What else is written there is refused: who wrote it did not
/// mean that it is done.
fn wants_dry_run(query: Option<&str>) -> Result<bool, String> {
    let mut wanted = false;
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match (&*key, &*value) {
            ("dry_run", "true") => wanted = true,
            ("dry_run", "false") => {}
            ("dry_run", _) => return Err("`dry_run` is `true` or `false`; nothing was changed".into()),
            _ => {}
        }
    }
    Ok(wanted)
}

/// A token says more than the connection: who sends one is whom it shows, or nobody.
fn recognise(shared: &Shared, connection: &Connection, headers: &HeaderMap) -> Result<Caller, Unrecognised> {
    let operators = shared.publisher.operators();
    let way = match connection {
        Connection::Socket { .. } => Way::AdminSocket,
        Connection::Tls { .. } => Way::AdminTls,
    };
    let address = match connection {
        Connection::Socket { .. } => None,
        Connection::Tls { address, .. } => Some(address.to_string()),
    };
    let if_match = headers.get(header::IF_MATCH).map(|tag| String::from_utf8_lossy(tag.as_bytes()).into_owned());
    let known = |operator: &Arc<Operator>, uid, token, certificate| Caller {
        actor: Actor { name: operator.name.to_string(), way, uid, token, certificate, address: address.clone() },
        operator: Some(operator.clone()),
        if_match: if_match.clone(),
        dry_run: false,
    };

    if let Some(shown) = headers.get(header::AUTHORIZATION) {
        let uid = match connection {
            Connection::Socket { uid } => *uid,
            Connection::Tls { .. } => None,
        };
        let (scheme, token) = shown.to_str().ok().and_then(|s| s.split_once(' ')).ok_or(Unrecognised::Token)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Unrecognised::Token);
        }
        let (operator, token) = operators.by_token(token.trim(), shared.publisher.now())?;
        return Ok(known(operator, uid, Some(token.id.clone()), None));
    }
    match connection {
        Connection::Socket { uid: Some(uid) } => match operators.by_uid(*uid) {
            Ok(operator) => Ok(known(operator, Some(*uid), None, None)),
            Err(_) if *uid == shared.uid || *uid == 0 => Ok(Caller {
                actor: Actor::user(user_name(*uid), Some(*uid), way),
                operator: None,
                if_match: if_match.clone(),
                dry_run: false,
            }),
            Err(e) => Err(e),
        },
        Connection::Tls { certificate: Some(certificate), .. } => {
            let operator = operators.by_certificate(certificate)?;
            Ok(known(operator, None, None, Some(certificate.fingerprint.to_string())))
        }
        Connection::Socket { uid: None } | Connection::Tls { certificate: None, .. } => Err(Unrecognised::Nothing),
    }
}

/// Lets through whoever has a role for it.
pub(super) async fn needs(act: Act, caller: Extension<Caller>, request: Request, next: Next) -> Response {
    match caller.may(act) {
        Ok(())
            if act != Act::Request
                && !request.method().is_safe()
                && request.headers().contains_key(header::IF_MATCH) =>
        {
            // A condition that nobody looks at would be worse than none.
            problem(StatusCode::BAD_REQUEST, "`If-Match` is for calls that change by PUT, PATCH or DELETE", Vec::new())
        }
        Ok(()) => next.run(request).await,
        Err(why) => problem(StatusCode::FORBIDDEN, &why, Vec::new()).into_response(),
    }
}
