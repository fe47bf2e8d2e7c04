//! The built-in CA over the admin API: certificates for requests, enrolment codes, and what was given.

use super::answer::{Named, looked_up, problem, refused, wrong};
use super::caller::Caller;
use super::{Shared, WhyCall};
use crate::history::{Cause, Off};
use crate::identity::{Csr, certificate_pem};
use crate::issue::Issued;
use crate::name::{CredentialId, PartnerId};
use crate::reload::{Asks, CaState, Given, NotGiven, Ordered, SignedList, Source};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

const NO_REASON: &str = "a reason is needed: it is kept";
/// Longest life of an enrolment code.
const MAX_CODE_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// Body of `POST /v1/partners/{id}/credentials/{credential}/issue`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCall {
    /// PKCS#10 in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
    /// Instead: the certificate in PEM that the CA has signed on another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Body of `POST /v1/partners/{id}/credentials/{credential}/order`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderCall {
    /// PKCS#10 in PEM.
    pub csr: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Body of `PUT /v1/ca/list`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListCall {
    /// DER in base64.
    pub list: String,
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

fn not_given(e: NotGiven) -> Response {
    match e {
        NotGiven::Change(e) => refused(e),
        other => wrong(&other.to_string()),
    }
}

pub(super) async fn issue(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<IssueCall>,
) -> Response {
    let source = match source(&call) {
        Ok(source) => source,
        Err(reason) => return wrong(&reason),
    };
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return wrong(NO_REASON);
    }
    match shared.publisher.issue(Asks::Operator(partner, credential), source, cause).await {
        Ok(Given { certificate, issued }) => {
            let ca = shared.publisher.ca_certificate().map(|der| certificate_pem(&der));
            Json(json!({"certificate": certificate_pem(&certificate), "ca": ca, "issued": document(&issued)}))
                .into_response()
        }
        Err(e) => not_given(e),
    }
}

fn source(call: &IssueCall) -> Result<Source, String> {
    match (&call.csr, &call.certificate) {
        (Some(csr), None) => {
            let csr = Csr::from_pem(csr.as_bytes()).map_err(|reason| format!("csr: {reason}"))?;
            Ok(Source::Request(Box::new(csr)))
        }
        (None, Some(certificate)) => {
            let der = CertificateDer::from_pem_slice(certificate.as_bytes())
                .map_err(|_| "certificate: is no certificate in PEM".to_owned())?;
            Ok(Source::Signed(der.to_vec()))
        }
        _ => Err("write one of `csr` and `certificate`".into()),
    }
}

fn ordered(outcome: Result<Ordered, NotGiven>) -> Response {
    match outcome {
        Ok(Ordered { order, key }) => Json(json!({"order": order, "key": key})).into_response(),
        Err(e) => not_given(e),
    }
}

pub(super) async fn order(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<OrderCall>,
) -> Response {
    let csr = match Csr::from_pem(call.csr.as_bytes()) {
        Ok(csr) => csr,
        Err(reason) => return wrong(&format!("csr: {reason}")),
    };
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return wrong(NO_REASON);
    }
    ordered(shared.publisher.order(partner, credential, csr, cause).await)
}

pub(super) async fn order_list(State(shared): State<Shared>, Extension(caller): Extension<Caller>) -> Response {
    let by = caller.cause(None, None).actor.name;
    ordered(shared.publisher.order_list(by).await)
}

pub(super) async fn publish_list(State(shared): State<Shared>, Json(call): Json<ListCall>) -> Response {
    let Ok(der) = data_encoding::BASE64.decode(call.list.as_bytes()) else {
        return wrong("list: is not DER in base64");
    };
    match shared.publisher.publish_list(der).await {
        Ok(list) => Json(list_document(&list)).into_response(),
        Err(e) => not_given(e),
    }
}

pub(super) async fn ca(State(shared): State<Shared>) -> Response {
    match looked_up(async move { shared.publisher.ca_state().await }).await {
        Ok(Some(state)) => Json(ca_document(&state)).into_response(),
        Ok(None) => problem(StatusCode::NOT_FOUND, &NotGiven::NoCa.to_string(), Vec::new()),
        Err(answer) => answer,
    }
}

/// The built-in CA. Times are RFC 3339.
pub(super) fn ca_document(state: &CaState) -> Value {
    let facts = &state.config.ca.facts;
    json!({
        "anchor": state.config.anchor, "subject": facts.subject.to_string(), "fingerprint_sha256": facts.fingerprint,
        "not_after": facts.not_after.to_string(), "key_is_here": state.config.ca.can_sign(), "gateway_key": state.key,
        "list": state.list.as_deref().map(list_document), "list_is_due": state.list_is_due, "fault": state.fault,
    })
}

fn list_document(list: &SignedList) -> Value {
    json!({
        "number": list.number, "next_update": list.next_update.to_string(), "revoked": list.revoked, "lacks": list.lacks,
    })
}

pub(super) async fn enrolment(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<EnrolCall>,
) -> Response {
    let life = Duration::from_secs(call.for_s);
    if life.is_zero() || life > MAX_CODE_LIFE {
        return wrong(&format!("an enrolment code is good for at most {} days", MAX_CODE_LIFE.as_secs() / 86_400));
    }
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return wrong(NO_REASON);
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

pub(super) async fn void(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<WhyCall>,
) -> Response {
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    match shared.publisher.void_codes(partner, credential, cause).await {
        Ok(voided) => Json(json!({"voided": voided})).into_response(),
        Err(e) => not_given(e),
    }
}

pub(super) async fn enrolments(State(shared): State<Shared>, Query(query): Query<CertificateQuery>) -> Response {
    let Ok(partner) = PartnerId::parse(&query.partner) else {
        return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new());
    };
    let now = shared.publisher.now();
    match looked_up(async move { shared.publisher.store().open_enrolments(&partner, now).await }).await {
        Ok(open) => {
            let all = open.iter().map(|one| {
                json!({
                    "id": one.id, "partner": one.partner, "credential": one.credential, "author": one.author,
                    "created": one.created.to_string(), "expires": one.expires.to_string(),
                })
            });
            Json(json!({"enrolments": all.collect::<Vec<Value>>()})).into_response()
        }
        Err(answer) => answer,
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
