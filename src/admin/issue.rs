//! The built-in CA over the admin API: certificates for requests, enrolment codes, and what was given.

use super::Shared;
use super::answer::{looked_up, problem, refused, wrong};
use super::caller::Caller;
use crate::history::{Cause, Off};
use crate::identity::Csr;
use crate::issue::Issued;
use crate::name::{CredentialId, PartnerId};
use crate::reload::{Asks, Given, NotGiven};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest life of an enrolment code.
const MAX_CODE_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// Body of `POST /v1/partners/{id}/credentials/{credential}/issue`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCall {
    /// PKCS#10 in PEM.
    pub csr: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Body of `POST /v1/partners/{id}/credentials/{credential}/enrolment`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolCall {
    /// Seconds that the code is good.
    pub for_s: u64,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Who gives a certificate, or the code for one, could keep it: the history says that nobody else had to agree.
fn alone(cause: Cause) -> Cause {
    Cause { four_eyes: Some(Off::Off), ..cause }
}

fn ids(partner: &str, credential: &str) -> Result<(PartnerId, CredentialId), String> {
    Ok((PartnerId::parse(partner)?, CredentialId::parse(credential)?))
}

fn not_given(e: NotGiven) -> Response {
    match e {
        NotGiven::Change(e) => refused(e),
        other => wrong(&other.to_string()),
    }
}

/// A certificate in PEM.
pub fn pem(der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

pub(super) async fn issue(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path((partner, credential)): Path<(String, String)>,
    Json(call): Json<IssueCall>,
) -> Response {
    let (partner, credential) = match ids(&partner, &credential) {
        Ok(ids) => ids,
        Err(reason) => return wrong(&reason),
    };
    let csr = match Csr::from_pem(call.csr.as_bytes()) {
        Ok(csr) => csr,
        Err(reason) => return wrong(&format!("csr: {reason}")),
    };
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return wrong("a reason is needed: it is kept");
    }
    match shared.publisher.issue(Asks::Operator(partner, credential), csr, cause).await {
        Ok(Given { certificate, issued }) => {
            let ca = shared.publisher.ca_certificate().map(|der| pem(&der));
            Json(json!({"certificate": pem(&certificate), "ca": ca, "issued": document(&issued)})).into_response()
        }
        Err(e) => not_given(e),
    }
}

pub(super) async fn enrolment(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Path((partner, credential)): Path<(String, String)>,
    Json(call): Json<EnrolCall>,
) -> Response {
    let (partner, credential) = match ids(&partner, &credential) {
        Ok(ids) => ids,
        Err(reason) => return wrong(&reason),
    };
    let life = Duration::from_secs(call.for_s);
    if life.is_zero() || life > MAX_CODE_LIFE {
        return wrong(&format!("an enrolment code is good for at most {} days", MAX_CODE_LIFE.as_secs() / 86_400));
    }
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return wrong("a reason is needed: it is kept");
    }
    match shared.publisher.enrolment_code(partner, credential, life, cause).await {
        Ok((enrolment, code)) => Json(json!({
            "id": enrolment.id, "partner": enrolment.partner, "credential": enrolment.credential,
            "expires": enrolment.expires.to_string(), "code": code,
        }))
        .into_response(),
        Err(e) => not_given(e),
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct CertificateQuery {
    partner: String,
}

pub(super) async fn list(State(shared): State<Shared>, Query(query): Query<CertificateQuery>) -> Response {
    let Ok(partner) = PartnerId::parse(&query.partner) else {
        return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new());
    };
    match looked_up(async move { shared.publisher.store().certificates_issued(&partner, None).await }).await {
        Ok(issued) => {
            let all: Vec<Value> = issued.iter().map(document).collect();
            Json(json!({"certificates": all})).into_response()
        }
        Err(answer) => answer,
    }
}

/// A certificate that was given. Times are RFC 3339.
fn document(issued: &Issued) -> Value {
    let revoked = issued.revoked.as_ref().map(|revoked| json!({"at": revoked.at.to_string(), "why": revoked.why}));
    json!({
        "serial": issued.serial, "partner": issued.partner, "credential": issued.credential, "anchor": issued.anchor,
        "subject": issued.subject, "uri": issued.uri, "dns": issued.dns, "fingerprint_sha256": issued.fingerprint,
        "spki_sha256": issued.spki, "not_before": issued.not_before.to_string(),
        "not_after": issued.not_after.to_string(), "revoked": revoked,
    })
}
