//! The OpenAPI 3.1 document of the admin API, made from the code: paths, queries and bodies are what the handlers take,
//! answers what they give.

use super::Shared;
use super::answer::{Answer, PROBLEM, problem, sent};
use super::caller::NO_DRY_RUN;
use crate::operator::{Act, Role};
use aide::axum::ApiRouter;
use aide::openapi::{
    Header, MediaType, OpenApi, ParameterSchemaOrContent, ReferenceOr, Response as Description, SchemaObject,
};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, json_schema};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most bytes of a message of somebody else's that is put into a problem.
const MAX_MESSAGE: usize = 16 * 1024;

/// Before the first route: each schema is where it is used, since a route says its schemas as it is made and what is referred to
/// from several routers would be in one of them at most.
pub(super) fn begin() {
    aide::generate::extract_schemas(false);
}

/// The routers of each act as one, and what they serve.
pub(super) fn finished(routers: Vec<(ApiRouter<Shared>, Option<Act>)>) -> (axum::Router<Shared>, Value) {
    let mut all = axum::Router::new();
    let mut document = described();
    for (router, act) in routers {
        let mut own = OpenApi::default();
        all = all.merge(router.finish_api(&mut own));
        let own = serde_json::to_value(&own).unwrap_or_default();
        merge(&mut document, own, act);
    }
    (all, document)
}

fn described() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "partnergate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What operators do with partners, credentials, grants, networks, trust anchors, approvals and \
                            operators. Each operation says which roles permit it.",
            "license": {"name": "See the repository", "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"certificate": []}],
        "paths": {},
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of an operator (`pgo_…`)."},
                "certificate": {"type": "mutualTLS", "description": "A client certificate of an operator."},
            },
            "schemas": {"Problem": {
                "description": "What was not done and why (RFC 9457).",
                "type": "object",
                "required": ["type", "title", "status", "problems"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "problems": {"type": "array", "items": {"type": "string"}, "description": "Each with its place and its fix."},
                },
            }},
        },
    })
}

/// Takes over what one router serves.
fn merge(document: &mut Value, own: Value, act: Option<Act>) {
    let schemas = own.pointer("/components/schemas").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(all) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        all.extend(schemas);
    }
    let paths = own.get("paths").and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(all) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, operations) in paths {
        let item = all.entry(path.clone()).or_insert_with(|| json!({}));
        let Some(item) = item.as_object_mut() else { continue };
        for (method, mut operation) in operations.as_object().cloned().unwrap_or_default() {
            if let Some(operation) = operation.as_object_mut() {
                complete(&path, &method, operation, act);
            }
            item.insert(method, operation);
        }
    }
}

/// What is said of every operation alike.
fn complete(path: &str, method: &str, operation: &mut Map<String, Value>, act: Option<Act>) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "v1").collect();
    let named: Vec<&str> = parts.iter().map(|part| part.trim_matches(['{', '}'])).collect();
    operation.insert("operationId".into(), json!(format!("{method}-{}", named.join("-"))));
    operation.insert("tags".into(), json!([parts.first().copied().unwrap_or_default()]));
    let roles = match act {
        None => "Permitted where nobody is an operator yet.".to_owned(),
        Some(act) => {
            let roles: Vec<&str> = act.roles().iter().map(|role: &Role| role.as_str()).collect();
            format!("Roles: {}.", roles.join(", "))
        }
    };
    operation.insert("description".into(), json!(roles));
    let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
    if let Some(parameters) = parameters.as_array_mut() {
        for name in parts.iter().filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let schema = json!({"type": "string", "minLength": 1, "maxLength": 64});
            parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
        }
        let changes = !["get", "head"].contains(&method);
        let declared = parameters.iter().any(|p| p["name"] == "dry_run");
        if changes && !declared && !NO_DRY_RUN.contains(&path) {
            parameters.push(json!({
                "name": "dry_run", "in": "query", "required": false, "schema": {"type": "boolean"},
                "description": "Change nothing, and answer with the lines of what it would come to.",
            }));
        }
        if act == Some(Act::Request) {
            parameters.push(json!({
                "name": "If-Match", "in": "header", "required": false, "schema": {"type": "string"},
                "description": "The ETag that a GET of what is changed gave: 412 where it is another one by now.",
            }));
        }
    }
    let answer = |description: &str| json!({"description": description, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}});
    let said = [
        ("400", "The call is malformed."),
        ("401", "Nobody knows who is calling."),
        ("403", "No role of the caller permits it."),
        ("404", "There is no such thing."),
        ("405", "It is not called like that."),
        ("409", "Something else has changed it meanwhile."),
        ("412", "It is not what `If-Match` says any more."),
        ("413", "The call is too large."),
        ("415", "The call is not application/json."),
        ("422", "Nothing was changed; the problems say why, each with its place."),
        ("500", "The database failed."),
        ("503", "The gateway cannot do it now."),
    ];
    let mut responses: Map<String, Value> =
        said.into_iter().map(|(status, description)| (status.to_owned(), answer(description))).collect();
    // What the handler gives.
    let done = operation.get("responses").and_then(|given| given.get("200")).cloned().unwrap_or_default();
    responses.insert("200".into(), done);
    operation.insert("responses".into(), responses.into());
}

/// What is said of an answer that is sent as this type, written where it is used.
pub(super) fn answer_of<T: JsonSchema>() -> Description {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| settings.inline_subschemas = true);
    let mut json_schema = settings.into_generator().subschema_for::<T>();
    RecursiveTransform(exact).transform(&mut json_schema);
    let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
    let body = MediaType { schema, ..MediaType::default() };
    Description {
        description: "Done.".into(),
        content: [("application/json".to_owned(), body)].into_iter().collect(),
        ..Description::default()
    }
}

/// An object has the keys that are declared and no others. What may be left out is left out, and never null.
fn exact(schema: &mut Schema) {
    let required = schema.get("required").cloned().unwrap_or_default();
    let required: Vec<&str> = required.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(object) = schema.as_object_mut() else { return };
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (_, property) in properties.iter_mut().filter(|(name, _)| !required.contains(&name.as_str())) {
        not_null(property);
    }
    object.insert("additionalProperties".into(), false.into());
}

fn not_null(schema: &mut Value) {
    for (key, null) in [("type", json!("null")), ("enum", Value::Null), ("anyOf", json!({"type": "null"}))] {
        let Some(Value::Array(forms)) = schema.get_mut(key) else { continue };
        forms.retain(|form| *form != null);
        if let (true, [one]) = (key == "type", forms.as_slice()) {
            let one = one.clone();
            schema[key] = one;
        }
    }
}

/// Says that an answer has the tag of what it is about.
pub(super) fn with_tag(mut answer: Description) -> Description {
    let header = Header {
        description: Some("For `If-Match` of the call that changes it.".into()),
        required: true,
        format: ParameterSchemaOrContent::Schema(SchemaObject {
            json_schema: json_schema!({"type": "string", "minLength": 3}),
            external_docs: None,
            example: None,
        }),
        style: Default::default(),
        deprecated: None,
        example: None,
        examples: Default::default(),
        extensions: Default::default(),
    };
    answer.headers.insert("ETag".into(), ReferenceOr::Item(header));
    answer
}

/// This document, in OpenAPI 3.1.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown(#[schemars(with = "Map<String, Value>")] Arc<Value>);

pub(super) async fn show(State(shared): State<Shared>) -> Answer<Shown> {
    sent(Shown(shared.document))
}

/// What axum and others say in text is a problem like all others.
pub(super) async fn as_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let own = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM);
    if own || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = to_bytes(body, MAX_MESSAGE).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let title = match (said.is_empty(), status) {
        (false, _) => said,
        (true, StatusCode::NOT_FOUND) => "there is no such call".to_owned(),
        (true, StatusCode::METHOD_NOT_ALLOWED) => "it is not called with this method".to_owned(),
        (true, status) => status.canonical_reason().unwrap_or("refused").to_owned(),
    };
    let mut answer: Response<Body> = problem(status, &title, Vec::new());
    if let Some(allow) = parts.headers.get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allow.clone());
    }
    answer
}
