//! The end of partners over the admin API, and what is found when somebody looks at one.

use super::answer::{problem, refused, wrong};
use super::caller::Caller;
use super::{Shared, WhyCall, suspend};
use crate::clock::UnixNanos;
use crate::document::parse_time;
use crate::name::PartnerId;
use crate::partner::Reviewed;
use crate::reload::{Reported, Stop};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Body of `POST /v1/partners/{id}/offboard`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OffboardCall {
    /// RFC 3339; now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

pub(super) async fn offboard(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<OffboardCall>,
) -> Response {
    let Ok(id) = PartnerId::parse(&id) else {
        return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new());
    };
    if call.reason.trim().is_empty() {
        return wrong("a reason is needed: it is kept");
    }
    let at = match call.at.as_deref().map(parse_time).transpose() {
        Ok(at) => at.map(UnixNanos),
        Err(reason) => return wrong(&format!("at: {reason}")),
    };
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    let done = match shared.publisher.offboard(id.clone(), at, cause).await {
        Ok(done) => done,
        Err(e) => return refused(e),
    };
    let report = match shared.publisher.report(&id).await {
        Ok(report) => {
            report.filter(|_| done.offboarding.closed.is_some() || done.offboarding.ends <= shared.publisher.now())
        }
        Err(e) => return refused(e.into()),
    };
    let offboarding = json!({
        "reason": done.offboarding.reason, "author": done.offboarding.author, "ends": done.offboarding.ends.to_string(),
    });
    Json(json!({
        "partner": id, "offboarding": offboarding, "revision": done.revision, "changed": done.changed,
        "report": report.as_ref().map(document),
    }))
    .into_response()
}

pub(super) async fn report(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let found = match PartnerId::parse(&id) {
        Ok(id) => shared.publisher.report(&id).await,
        Err(_) => Ok(None),
    };
    match found {
        Ok(Some(reported)) => Json(document(&reported)).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no report: no such partner was closed", Vec::new()),
        Err(e) => refused(e.into()),
    }
}

/// A report with what is known since.
fn document(reported: &Reported) -> Value {
    let mut document = json!(reported.report);
    if let Some(object) = document.as_object_mut() {
        // What the report has not taken up yet.
        object.entry("last_allowed").or_insert_with(|| json!(reported.last_allowed));
        object.entry("first_denied").or_insert_with(|| json!(reported.first_denied));
    }
    document
}

pub(super) async fn review(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Response {
    let (finding, author, at) = (call.reason.clone(), caller.actor.name.clone(), shared.publisher.now());
    suspend::change(shared, caller, &id, call, Stop::Review(Reviewed { finding, author, at })).await
}
