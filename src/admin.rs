//! The operators' API, on a unix socket and, where the config says so, over TLS: every verb that changes something, and
//! what `partnergate` asks for.
//!
//! In: requests of operators, who show themselves by their user of this machine, a token or a certificate. Out: the same
//! operations that files and signals trigger, through [`Publisher`]. Must never: be reachable over the partner listener;
//! do what none of the caller's roles permits; read or write on a thread that serves requests what is as long as the
//! registry is large.

#![expect(
    clippy::result_large_err,
    reason = "a call has one answer, whichever it is, and it is never moved through a loop"
)]

mod anchors;
mod answer;
mod api_keys;
mod approvals;
mod caller;
mod candidate;
mod credentials;
mod explain;
mod grants;
mod history;
mod introspect;
mod issue;
mod keys;
mod kit;
mod listener;
mod lockdown;
mod networks;
mod openapi;
mod operators;
mod page;
mod partners;
mod registry;
mod status;
mod suspend;

pub use anchors::{AnchorCall, DenyCall};
pub use api_keys::{ApiKeyCall, FindKeyCall, KeyRotateCall};
pub use approvals::{ApprovalAnswer, VerdictCall, document as approval_document};
pub use caller::{KEY_TYPED, user_name};
pub use candidate::PromoteCall;
pub use credentials::RotateCall;
pub use explain::{ExplainCall, HeaderCall};
pub use grants::{Direction, EditCall, EmergencyCall, GrantRow};
pub use history::{AuditAnswer, HistoryAnswer, HistoryCall};
pub use issue::{EnrolCall, IssueCall, ListCall, OrderCall};
pub use keys::NextKeyCall;
pub use listener::{serve, serve_tls};
pub use lockdown::LockdownCall;
pub use operators::{BootstrapCall, OperatorCall, RolesCall, Shown, TokenCall, new_operator};
pub use partners::OffboardCall;
pub use registry::{ApplyCall, PartnerAnswer, export_document, list_document};

use crate::operator::Act;
use crate::reload::Publisher;
use aide::axum::ApiRouter;
use aide::axum::routing::{delete, get, patch, post, post_with, put, put_with};
use axum::extract::DefaultBodyLimit;
use axum::{Json, Router, middleware};
use caller::{needs, recognised};
use openapi::{as_problems, begin, finished};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Largest body of a call, and of a folder of registry files.
const MAX_BODY: usize = 1024 * 1024;
const MAX_FILES: usize = 512 * 1024 * 1024;

/// Body of what needs no more than why.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WhyCall {
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

#[derive(Clone)]
struct Shared {
    publisher: Arc<Publisher>,
    /// The user that the gateway runs as.
    uid: u32,
    /// OpenAPI.
    document: Arc<Value>,
}

/// Every call, under the act that it comes to. What is under none is not reachable.
fn router(publisher: Arc<Publisher>, uid: u32) -> Router {
    let (all, document) = calls();
    let shared = Shared { publisher, uid, document: Arc::new(document) };
    all.layer(middleware::from_fn_with_state(shared.clone(), recognised))
        .layer(middleware::from_fn(as_problems))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

/// The OpenAPI 3.1 document of the admin API.
pub fn openapi_document() -> Value {
    calls().1
}

fn calls() -> (Router<Shared>, Value) {
    begin();
    let looks = ApiRouter::new()
        .api_route("/v1/export", get(registry::export_all))
        .api_route("/v1/partners", get(registry::partners))
        .api_route("/v1/partners/{id}", get(registry::partner))
        .api_route("/v1/partners/{id}/report", get(partners::report))
        .api_route("/v1/partners/{id}/kit", get(kit::show))
        .api_route("/v1/anchors", get(anchors::list))
        .api_route("/v1/anchors/{name}", get(anchors::show))
        .api_route("/v1/grants", get(grants::list))
        .api_route("/v1/grants/{id}", get(registry::grant))
        .api_route("/v1/partners/{id}/credentials/{credential}", get(registry::credential))
        .api_route("/v1/credentials", get(credentials::list))
        .api_route("/v1/api-keys", get(api_keys::list))
        .api_route("/v1/api-keys/find", post(api_keys::find))
        .api_route("/v1/certificates", get(issue::list))
        .api_route("/v1/enrolments", get(issue::enrolments))
        .api_route("/v1/ca", get(issue::ca))
        .api_route("/v1/networks", get(networks::list))
        .api_route("/v1/networks/{name}", get(networks::show))
        .api_route("/v1/usage", get(registry::usage))
        .api_route("/v1/status", get(status::status))
        .api_route("/v1/policy/candidate", get(candidate::show))
        .api_route("/v1/token/keys", get(keys::list))
        .api_route("/v1/approvals", get(approvals::list))
        .api_route("/v1/approvals/{id}", get(approvals::show))
        .api_route("/v1/operators", get(operators::list))
        .api_route("/v1/operators/{name}", get(operators::show))
        .api_route("/v1/policy/explain", post(explain::explain))
        .api_route("/v1/openapi.json", get(openapi::show));
    let looks_back =
        ApiRouter::new().api_route("/v1/history", get(history::list)).api_route("/v1/audit", get(history::audit));
    let files = DefaultBodyLimit::max(MAX_FILES);
    let requests = ApiRouter::new()
        .api_route("/v1/apply", post_with(registry::apply, |call| call.input::<Json<ApplyCall>>()).layer(files))
        .api_route("/v1/partners/{id}", put(grants::add_partner).patch(grants::edit_partner))
        .api_route("/v1/partners/{id}/grants/{grant}", put(grants::add_grant))
        .api_route(
            "/v1/partners/{id}/credentials/{credential}",
            put(grants::add_credential).patch(grants::edit_credential),
        )
        .api_route("/v1/partners/{id}/credentials/{credential}/rotate", post(credentials::rotate))
        .api_route("/v1/partners/{id}/api-keys/{key}", put(api_keys::add).patch(api_keys::edit))
        .api_route("/v1/partners/{id}/api-keys/{key}/rotate", post(api_keys::rotate))
        .api_route("/v1/networks/{name}", put(networks::add).patch(networks::change).delete(networks::remove))
        .api_route("/v1/anchors/{name}", put(anchors::add).patch(anchors::edit).delete(anchors::remove))
        .api_route("/v1/grants/{id}", patch(grants::edit_grant))
        .api_route("/v1/approvals/{id}/withdraw", post(approvals::withdraw));
    let approves = ApiRouter::new()
        .api_route("/v1/approvals/{id}/approve", post(approvals::approve))
        .api_route("/v1/approvals/{id}/reject", post(approvals::reject))
        .api_route("/v1/policy/candidate/promote", post(candidate::promote))
        .api_route("/v1/grants/{id}/review", post(grants::review))
        .api_route("/v1/partners/{id}/review", post(partners::review))
        .api_route("/v1/partners/{id}/credentials/{credential}/issue", post(issue::issue))
        .api_route("/v1/partners/{id}/credentials/{credential}/order", post(issue::order))
        .api_route("/v1/ca/order", post(issue::order_list))
        .api_route("/v1/ca/list", put_with(issue::publish_list, |call| call.input::<Json<ListCall>>()).layer(files))
        .api_route("/v1/partners/{id}/credentials/{credential}/enrolment", post(issue::enrolment));
    let ends = ApiRouter::new()
        .api_route("/v1/partners/{id}/credentials/{credential}/enrolment/void", post(issue::void))
        .api_route("/v1/partners/{id}/credentials/{credential}/revoke", post(credentials::revoke))
        .api_route("/v1/grants/{id}/revoke", post(grants::revoke));
    let operates = ApiRouter::new()
        .api_route("/v1/partners/{id}/grants/{grant}/emergency", post(grants::emergency))
        .api_route("/v1/partners/{id}/offboard", post(partners::offboard))
        .api_route("/v1/partners/{id}/suspend", post(suspend::suspend))
        .api_route("/v1/partners/{id}/resume", post(suspend::resume))
        .api_route("/v1/anchors/{name}/deny", post(anchors::deny))
        .api_route("/v1/anchors/{name}/undeny", post(anchors::undeny))
        .api_route("/v1/lockdown/on", post(lockdown::on))
        .api_route("/v1/lockdown/off", post(lockdown::off))
        .api_route("/v1/policy/candidate/rollback", post(candidate::roll_back))
        .api_route("/v1/token/keys", post(keys::next))
        .api_route("/v1/token/keys/{id}/withdraw", post(keys::withdraw))
        .api_route("/v1/reload", post(status::reload));
    let introspects = ApiRouter::new().api_route("/oauth2/introspect", post(introspect::introspect));
    let governs = ApiRouter::new()
        .api_route("/v1/operators", post(operators::add))
        .api_route("/v1/operators/{name}/roles", put(operators::roles))
        .api_route("/v1/operators/{name}/disable", post(operators::disable))
        .api_route("/v1/operators/{name}/enable", post(operators::enable))
        .api_route("/v1/operators/{name}/tokens", post(operators::add_token))
        .api_route("/v1/operators/{name}/tokens/{id}", delete(operators::revoke_token));
    // Who may do this is not a matter of roles: nobody has one yet.
    let first = ApiRouter::new().api_route("/v1/bootstrap", post(operators::bootstrap));
    let under = |(router, act): (ApiRouter<Shared>, Act)| {
        let held = middleware::from_fn(move |caller, request, next| needs(act, caller, request, next));
        (router.route_layer(held), Some(act))
    };
    let acts = [
        (introspects, Act::Introspect),
        (looks, Act::Look),
        (looks_back, Act::LookBack),
        (requests, Act::Request),
        (approves, Act::Approve),
        (ends, Act::End),
        (operates, Act::Operate),
        (governs, Act::Govern),
    ];
    finished(std::iter::once((first, None)).chain(acts.into_iter().map(under)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether every object in a schema has keys that are declared and no others, or is said to be open; and whether it says
    /// anything at all.
    fn says_its_keys(schema: &Value) -> bool {
        let Some(object) = schema.as_object() else { return false };
        let closed = !object.contains_key("properties") || object["additionalProperties"] == false;
        let said =
            object.get("type").is_none_or(|kind| kind != "object") || object.contains_key("additionalProperties");
        let inner = ["anyOf", "oneOf"].iter().filter_map(|key| object.get(*key)?.as_array()).flatten();
        let properties = object.get("properties").and_then(Value::as_object);
        let inner = inner.chain(properties.into_iter().flat_map(|all| all.values())).chain(object.get("items"));
        !object.is_empty() && closed && said && inner.into_iter().all(says_its_keys)
    }

    #[test]
    fn document_has_every_call_with_its_roles_its_parameters_and_its_body() {
        let document = openapi_document();
        let operations: Vec<(&String, &String, &Value)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, op)| (path, method, op)))
            .collect();
        assert!(operations.len() >= 50, "{}", operations.len());
        for (path, method, operation) in &operations {
            let parameters = operation["parameters"].as_array().unwrap();
            let declared = parameters.iter().filter(|p| p["in"] == "path").count();
            assert_eq!(declared, path.matches('{').count(), "{method} {path}");
            let said = operation["description"].as_str().unwrap();
            assert!(said.starts_with("Roles: ") || *path == "/v1/bootstrap", "{method} {path}: {said}");
            let content = &operation["requestBody"]["content"];
            let takes = ["application/json", "application/x-www-form-urlencoded"]
                .iter()
                .any(|kind| content[*kind]["schema"].is_object());
            let none =
                ["get", "delete"].contains(&method.as_str()) || ["/v1/reload", "/v1/ca/order"].contains(&path.as_str());
            assert!(takes != none || path.ends_with("/tokens/{id}"), "{method} {path}: {takes}");
        }
        let answers = operations.iter().map(|(path, method, operation)| {
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            (format!("{method} {path}"), schema)
        });
        for (call, schema) in answers.clone() {
            assert!(says_its_keys(schema), "{call}: {schema}");
            // Only documents that others define are open as a whole.
            assert!(schema["additionalProperties"] != true || call == "get /v1/openapi.json", "{call}: {schema}");
        }
        let dry = answers.filter(|(_, schema)| schema.to_string().contains("\"dry_run\":{"));
        let dry: Vec<String> = dry.map(|(call, _)| call).collect();
        assert!(dry.contains(&"post /v1/partners/{id}/suspend".to_owned()) && dry.len() > 15, "{dry:?}");
        let tagged = operations.iter().filter(|(.., op)| op["responses"]["200"]["headers"]["ETag"].is_object());
        assert_eq!(tagged.count(), 5);
        let text = document.to_string();
        let references: Vec<&str> =
            text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(!references.is_empty());
        assert_eq!(references.iter().find(|at| document.pointer(at).is_none()), None);
        let mut ids: Vec<&str> = operations.iter().map(|(.., op)| op["operationId"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), operations.len());
    }
}
