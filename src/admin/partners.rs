//! The end of partners over the admin API, and what is found when somebody looks at one.

use super::answer::{Answer, Change, Switch, done, problem, refused, sent, undone, unknown, wrong};
use super::caller::Caller;
use super::suspend::{self, Standing};
use super::{Shared, WhyCall};
use crate::clock::UnixNanos;
use crate::document::parse_time;
use crate::name::PartnerId;
use crate::partner::{Offboarding, Report, Reviewed};
use crate::reload::{Reported, Stop};
use crate::store::{FirstDenied, UsageRow};
use axum::extract::{Path, State};
use axum::http::StatusCode;
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

/// What the end of a partner came to.
#[derive(Serialize, JsonSchema)]
pub(super) struct Offboarded {
    partner: PartnerId,
    offboarding: OffboardingRow,
    /// The registry's that is live now.
    revision: u64,
    /// Whether it was not so before.
    changed: bool,
    /// Null where the end is still to come.
    report: Option<ReportAnswer>,
}

/// Of what was set or done; the first reason stays.
#[derive(Serialize, JsonSchema)]
struct OffboardingRow {
    reason: String,
    author: String,
    /// From then on the partner is not served, RFC 3339.
    ends: String,
}

pub(super) async fn offboard(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<OffboardCall>,
) -> Change<Offboarded> {
    let id = PartnerId::parse(&id).map_err(|_| unknown("partner"))?;
    if call.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept"));
    }
    let at = call.at.as_deref().map(parse_time).transpose().map_err(|reason| wrong(&format!("at: {reason}")))?;
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    let ended = match shared.publisher.offboard(id.clone(), at.map(UnixNanos), cause).await {
        Ok(ended) => ended,
        Err(e) => return undone(e),
    };
    let report = shared.publisher.report(&id).await.map_err(|e| refused(e.into()))?;
    let is_over = ended.offboarding.closed.is_some() || ended.offboarding.ends <= shared.publisher.now();
    let Offboarding { reason, author, ends, .. } = ended.offboarding;
    done(Offboarded {
        partner: id,
        offboarding: OffboardingRow { reason, author, ends: ends.to_string() },
        revision: ended.revision,
        changed: ended.changed,
        report: report.filter(|_| is_over).map(ReportAnswer::of),
    })
}

pub(super) async fn report(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<ReportAnswer> {
    let found = match PartnerId::parse(&id) {
        Ok(id) => shared.publisher.report(&id).await.map_err(|e| refused(e.into()))?,
        Err(_) => None,
    };
    let none = || problem(StatusCode::NOT_FOUND, "there is no report: no such partner was closed", Vec::new());
    sent(ReportAnswer::of(found.ok_or_else(none)?))
}

/// A report with what is known since.
#[derive(Serialize, JsonSchema)]
pub(super) struct ReportAnswer {
    #[serde(flatten)]
    report: Report,
    /// The last request that was allowed; null where none ever was.
    #[schemars(with = "Option<UsageRow>")]
    last_allowed: Option<Value>,
    /// The first request, or handshake, that was refused since; null until there was one.
    #[schemars(with = "Option<FirstDenied>")]
    first_denied: Option<Value>,
}

impl ReportAnswer {
    fn of(reported: Reported) -> Self {
        let Reported { mut report, last_allowed, first_denied } = reported;
        // What the report has not taken up yet.
        let last_allowed = report.last_allowed.take().or_else(|| last_allowed.map(|row| json!(row)));
        let first_denied = report.first_denied.take().or_else(|| first_denied.map(|first| json!(first)));
        ReportAnswer { report, last_allowed, first_denied }
    }
}

pub(super) async fn review(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Json(call): Json<WhyCall>,
) -> Switch<Standing> {
    let (finding, author, at) = (call.reason.clone(), caller.actor.name.clone(), shared.publisher.now());
    suspend::change(shared, caller, &id, call, Stop::Review(Reviewed { finding, author, at })).await
}
