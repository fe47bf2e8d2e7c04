//! What the gateway answers itself on the partner listener: as the authorization server of its partners.

use super::inflight::Answered;
use super::refusal::{Answer, Sent};
use super::{Connection, Context, Gateway, refusal};
use crate::decision::{ACCESS_TOKEN, NotGranted, decide_revocation, decide_token, may_ask};
use crate::reason::Reason;
use crate::token::{Form, LONGEST_FORM, OauthEndpoint, OauthError, RevokedToken};
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{Method, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::Session;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// How long clients may keep what changes with the config alone, and the set of keys.
const KEPT: &str = "private, max-age=300";

/// Makes a revocation last and live everywhere, or says why it is not; with where it was asked for from.
pub type Revoke = Arc<dyn Fn(RevokedToken, SocketAddr) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What comes of a form.
enum Outcome {
    Answer(Answer),
    /// To be made live first.
    Revoke(RevokedToken),
}

impl Gateway {
    /// Answers a request to one of the authorization server's endpoints. Its record is written before the answer.
    pub(super) async fn answer_itself(
        &self,
        session: &mut Session,
        context: &mut Context,
        connection: &Connection,
        endpoint: OauthEndpoint,
    ) {
        let method = session.req_header().method.clone();
        let mut got = 0;
        let authorization = session.req_header().headers.get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
        let at_once = self.guarded(context, |context| {
            self.at_once(context, connection, endpoint, (&method, authorization.as_deref()))
        });
        let answer = match at_once {
            Ok(Some(answer)) => answer,
            Err(reason) => error(&reason, None),
            Ok(None) => {
                let content_type = session.req_header().headers.get(CONTENT_TYPE);
                let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
                let body = tokio::time::timeout(self.limits.progress, body_of(session)).await;
                let form = match body {
                    Ok(Ok(body)) => {
                        got = body.len();
                        Form::parse(content_type.as_deref(), &body)
                    }
                    Ok(Err(said)) => Err(said),
                    Err(_) => Err("the body did not arrive in time"),
                };
                let outcome =
                    self.guarded(context, |context| self.of_form(context, connection, endpoint, form.as_ref()));
                match outcome {
                    Ok(Outcome::Answer(answer)) => answer,
                    Ok(Outcome::Revoke(token)) => self.revoked(context, connection, token).await,
                    Err(reason) => error(&reason, None),
                }
            }
        };
        if let Some(mut flight) = context.flight.take() {
            let size = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            let sent = if method == Method::HEAD { 0 } else { answer.body.len() };
            flight.complete(answer.status, size(got), size(sent), None);
        }
        let id = context.id.clone().unwrap_or_else(|| "unknown".into());
        refusal::send(session, Sent::Answer(&answer, &id), connection, self.limits.progress).await;
    }

    /// The answer, where nothing that is sent needs to be read for it.
    fn at_once(
        &self,
        context: &mut Context,
        connection: &Connection,
        endpoint: OauthEndpoint,
        (method, authorization): (&Method, Option<&[u8]>),
    ) -> Option<Answer> {
        let flight = context.flight.as_mut()?;
        let slots = self.recorder.slots();
        let live = flight.live().clone();
        let request = flight.request();
        let slot = match may_ask(&live.snapshot, &connection.peer, request, authorization.is_some(), slots) {
            Ok(slot) => slot,
            Err(refused) => {
                let is_client = OauthError::of(refused.denial.reason()) == OauthError::InvalidClient;
                let answer = self.refused(context, connection, refused);
                return Some(match authorization.filter(|_| is_client) {
                    Some(value) => challenged(answer, value),
                    None => answer,
                });
            }
        };
        if !endpoint.takes(method) {
            let refused = NotGranted::of(Reason::MethodNotServed, None, slots);
            let answer = self.refused(context, connection, refused).with("allow", endpoint.methods());
            return Some(Answer { status: 405, ..answer });
        }
        let tokens = live.snapshot.tokens.as_ref()?;
        let document: Value = match endpoint {
            OauthEndpoint::Metadata => tokens.access.as_ref()?.server.metadata(),
            OauthEndpoint::Keys => tokens.ring.jwks(request.now),
            OauthEndpoint::Token | OauthEndpoint::Revocation => return None,
        };
        flight.answered_itself(Answered { issued: None, revoked: None, slot });
        Some(json_answer(200, &document).with("cache-control", KEPT).without("pragma"))
    }

    /// What comes of a form, decided on what is live when it has come.
    fn of_form(
        &self,
        context: &mut Context,
        connection: &Connection,
        endpoint: OauthEndpoint,
        form: Result<&Form, &&'static str>,
    ) -> Outcome {
        let form = form.map_err(|said| *said);
        let (Some(flight), Some(live)) = (context.flight.as_mut(), self.live.load_full()) else {
            return Outcome::Answer(error(&Reason::NotReady, None));
        };
        let now = self.clock.now();
        flight.decided_on(live.clone(), now);
        let (snapshot, slots) = (&live.snapshot, self.recorder.slots());
        let asked = (flight.request(), now);
        let decided = match endpoint {
            OauthEndpoint::Revocation => {
                decide_revocation(snapshot, &connection.peer, asked, form, slots).map(|(token, slot)| {
                    flight.answered_itself(Answered { issued: None, revoked: token.clone(), slot });
                    token.map_or_else(|| Outcome::Answer(empty()), Outcome::Revoke)
                })
            }
            _ => decide_token(snapshot, &connection.peer, asked, form, slots).map(|(granted, slot)| {
                let mut document = json!({
                    "access_token": granted.token.text,
                    "token_type": "Bearer",
                    "expires_in": granted.token.expires_in,
                    "scope": granted.scope,
                });
                if let (Some(_), Some(document)) = (&granted.from, document.as_object_mut()) {
                    document.insert("issued_token_type".into(), ACCESS_TOKEN.into());
                }
                let answer = json_answer(200, &document);
                flight.answered_itself(Answered { issued: Some(granted), revoked: None, slot });
                Outcome::Answer(answer)
            }),
        };
        decided.unwrap_or_else(|refused| Outcome::Answer(self.refused(context, connection, refused)))
    }

    async fn revoked(&self, context: &mut Context, connection: &Connection, token: RevokedToken) -> Answer {
        let done = (self.revoke)(token, connection.source).await;
        let answered = self.guarded(context, |context| {
            let Err(why) = done else { return empty() };
            let refused = NotGranted::of(Reason::TokenNotRevoked, Some(why), self.recorder.slots());
            self.refused(context, connection, refused)
        });
        answered.unwrap_or_else(|reason| error(&reason, None))
    }

    fn refused(&self, context: &mut Context, connection: &Connection, refused: NotGranted) -> Answer {
        let NotGranted { denial, said } = refused;
        if !denial.identity_stands {
            connection.lost_its_rights();
        }
        let answer = error(denial.reason(), said);
        if let Some(flight) = context.flight.as_mut() {
            flight.denied(*denial);
        }
        answer
    }
}

/// RFC 6749 section 5.2: a client that was not authenticated, and said in Authorization who it is, is told so of the same scheme.
fn challenged(answer: Answer, authorization: &[u8]) -> Answer {
    let scheme = authorization.iter().copied().take_while(u8::is_ascii_alphanumeric).take(32);
    let scheme: String = scheme.map(char::from).collect();
    let scheme = if scheme.is_empty() { "Basic" } else { &scheme };
    Answer { status: 401, ..answer.with("www-authenticate", &format!("{scheme} realm=\"partners\"")) }
}

/// The body, whole.
async fn body_of(session: &mut Session) -> Result<Vec<u8>, &'static str> {
    const BROKE_OFF: &str = "the body broke off";
    const TOO_LONG: &str = "the body is too long";
    let head = session.req_header();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > LONGEST_FORM) {
        return Err(TOO_LONG);
    }
    if head.headers.contains_key(EXPECT) && head.version == Version::HTTP_11 {
        if let ServerSession::H1(h1) = session.as_downstream_mut() {
            h1.write_continue_response().await.map_err(|_| BROKE_OFF)?;
        }
    }
    let mut body = Vec::new();
    while let Some(piece) = session.as_downstream_mut().read_request_body().await.map_err(|_| BROKE_OFF)? {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST_FORM {
            return Err(TOO_LONG);
        }
    }
    Ok(body)
}

/// RFC 6749 section 5.2.
fn error(reason: &Reason, said: Option<&str>) -> Answer {
    let error = OauthError::of(reason);
    let mut document = json!({ "error": error.as_str() });
    if let (Some(said), Some(object)) = (said, document.as_object_mut()) {
        object.insert("error_description".into(), said.into());
    }
    json_answer(error.status(), &document)
}

fn json_answer(status: u16, document: &Value) -> Answer {
    // What is an answer to one client alone is kept by nobody (RFC 6749 section 5.1).
    let fields = vec![
        ("content-type", "application/json".to_owned()),
        ("cache-control", "no-store".to_owned()),
        ("pragma", "no-cache".to_owned()),
    ];
    Answer { status, fields, body: document.to_string() }
}

/// RFC 7009 section 2.2.
fn empty() -> Answer {
    Answer { status: 200, fields: vec![("cache-control", "no-store".to_owned())], body: String::new() }
}

impl Answer {
    /// The same with this field, in the place of one of its name.
    fn with(self, name: &'static str, value: &str) -> Self {
        let mut answer = self.without(name);
        answer.fields.push((name, value.to_owned()));
        answer
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self
    }
}
