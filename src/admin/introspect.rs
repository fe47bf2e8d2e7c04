//! Whether an access token is good, for upstreams that do not verify it themselves (RFC 7662).

use super::Shared;
use super::answer::{Answer, problem, sent};
use crate::reload::Introspection;
use crate::token::Form;
use aide::OperationInput;
use aide::generate::GenContext;
use aide::openapi::{MediaType, Operation, ReferenceOr, RequestBody, SchemaObject};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use schemars::json_schema;

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
    sent(shared.publisher.introspect(token))
}
