//! Whether an access token is good, for upstreams that do not verify it themselves (RFC 7662).

use super::Shared;
use super::answer::{Answer, problem, sent};
use crate::decision::{self, Good};
use crate::token::Form;
use aide::OperationInput;
use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, ReferenceOr, RequestBody, SchemaObject};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use schemars::{JsonSchema, json_schema};
use serde::Serialize;

/// What an upstream is told of an access token (RFC 7662 section 2.2, RFC 8705 section 3.2): of one that is not good, that it is not.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Introspection {
    active: bool,
    /// What of its scope is granted now.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// Whom it is bound to: it is good with this certificate alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
}

/// RFC 8705 section 3.1.
#[derive(Serialize, JsonSchema)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

impl Introspection {
    fn of(good: &Good) -> Self {
        let token = &good.token;
        Introspection {
            active: true,
            scope: Some(good.scope.clone()),
            client_id: Some(token.partner.to_string()),
            token_type: Some("Bearer"),
            exp: Some(token.expires.seconds()),
            iat: Some(token.issued.seconds()),
            sub: Some(token.partner.to_string()),
            aud: Some(token.upstream.to_string()),
            iss: Some(token.issuer.to_string()),
            jti: Some(token.id.to_string()),
            cnf: Some(Confirmation { certificate: BASE64URL_NOPAD.encode(&token.certificate.0) }),
        }
    }
}

/// What is asked: `token`, and what else RFC 7662 section 2.1 has, which changes nothing.
pub(super) struct Asked(Form);

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let malformed = |said: &str| problem(StatusCode::BAD_REQUEST, said, Vec::new());
        let body = Bytes::from_request(request, state).await.map_err(|e| malformed(&e.to_string()))?;
        Form::parse(kind.as_deref(), &body).map(Asked).map_err(malformed)
    }
}

impl OperationInput for Asked {
    fn operation_input(_: &mut GenContext, operation: &mut Operation) {
        let json_schema = json_schema!({
            "type": "object",
            "properties": {
                "token": {"type": "string", "minLength": 1},
                "token_type_hint": {"type": "string"},
            },
            "required": ["token"],
        });
        let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
        let body = MediaType { schema, ..MediaType::default() };
        operation.request_body = Some(ReferenceOr::Item(RequestBody {
            content: [("application/x-www-form-urlencoded".to_owned(), body)].into_iter().collect(),
            required: true,
            ..RequestBody::default()
        }));
    }
}

pub(super) async fn introspect(State(shared): State<Shared>, Asked(form): Asked) -> Answer<Introspection> {
    let Some(token) = form.get("token") else {
        return Err(problem(StatusCode::BAD_REQUEST, "`token` is missing", Vec::new()));
    };
    let publisher = &shared.publisher;
    let live = publisher.live();
    let good = live.and_then(|live| decision::introspect(&live.snapshot, token, publisher.now()));
    sent(good.map_or_else(Introspection::default, |good| Introspection::of(&good)))
}
