//! The built-in CA over the admin API: certificates for requests, enrolment codes, and what was given.

use super::answer::{Answer, Change, Named, done, looked_up, problem, refused, sent, undone, unknown, wrong};
use super::caller::Caller;
use super::page::{Listed, PageQuery};
use super::{Shared, WhyCall};
use crate::history::{Cause, Off};
use crate::identity::{Csr, Fingerprint, Serial, certificate_pem};
use crate::issue::{Enrolment, Issued, Why};
use crate::name::{AnchorName, CredentialId, PartnerId};
use crate::reload::{Asks, CaState, Given, NotGiven, Ordered, SignedList, Source};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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

/// Of a call that can be asked what it would come to.
fn not_changed<T: Serialize>(e: NotGiven) -> Change<T> {
    match e {
        NotGiven::Change(e) => undone(e),
        other => Err(not_given(other)),
    }
}

/// A certificate that was given just now.
#[derive(Serialize, JsonSchema)]
pub(super) struct GivenAnswer {
    /// PEM.
    certificate: String,
    /// The CA's certificate in PEM; null where the config has lost it meanwhile.
    ca: Option<String>,
    issued: IssuedRow,
}

pub(super) async fn issue(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<IssueCall>,
) -> Change<GivenAnswer> {
    let source = source(&call).map_err(|reason| wrong(&reason))?;
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return Err(wrong(NO_REASON));
    }
    match shared.publisher.issue(Asks::Operator(partner, credential), source, cause).await {
        Ok(Given { certificate, issued }) => done(GivenAnswer {
            certificate: certificate_pem(&certificate),
            ca: shared.publisher.ca_certificate().map(|der| certificate_pem(&der)),
            issued: IssuedRow::of(&issued),
        }),
        Err(e) => not_changed(e),
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

/// An order for the host of the CA's key.
#[derive(Serialize, JsonSchema)]
pub(super) struct OrderAnswer {
    /// The file.
    order: String,
    /// The gateway's public key in hex, with which it is signed.
    key: String,
}

impl From<Ordered> for OrderAnswer {
    fn from(Ordered { order, key }: Ordered) -> Self {
        OrderAnswer { order, key }
    }
}

pub(super) async fn order(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<OrderCall>,
) -> Change<OrderAnswer> {
    let csr = Csr::from_pem(call.csr.as_bytes()).map_err(|reason| wrong(&format!("csr: {reason}")))?;
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return Err(wrong(NO_REASON));
    }
    match shared.publisher.order(partner, credential, csr, cause).await {
        Ok(ordered) => done(ordered.into()),
        Err(e) => not_changed(e),
    }
}

pub(super) async fn order_list(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Answer<OrderAnswer> {
    let by = caller.cause(None, None).actor.name;
    sent(shared.publisher.order_list(by).await.map_err(not_given)?.into())
}

/// The revocation list of the built-in CA.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListAnswer {
    number: u64,
    /// RFC 3339.
    next_update: String,
    /// Certificates on it.
    revoked: usize,
    /// Certificates that are revoked and not on it, since it is signed on another host.
    lacks: usize,
}

impl ListAnswer {
    fn of(list: &SignedList) -> Self {
        let SignedList { number, next_update, revoked, lacks, .. } = *list;
        ListAnswer { number, next_update: next_update.to_string(), revoked, lacks }
    }
}

pub(super) async fn publish_list(State(shared): State<Shared>, Json(call): Json<ListCall>) -> Answer<ListAnswer> {
    let der = data_encoding::BASE64.decode(call.list.as_bytes());
    let der = der.map_err(|_| wrong("list: is not DER in base64"))?;
    let list = shared.publisher.publish_list(der).await.map_err(not_given)?;
    sent(ListAnswer::of(&list))
}

/// The built-in CA.
#[derive(Serialize, JsonSchema)]
pub(super) struct CaAnswer {
    anchor: AnchorName,
    subject: String,
    fingerprint_sha256: Fingerprint,
    /// RFC 3339.
    not_after: String,
    /// Its key is on the gateway's machine.
    key_is_here: bool,
    /// The gateway's public key in hex, with which orders are signed.
    gateway_key: String,
    /// Null where none was signed yet.
    list: Option<ListAnswer>,
    /// Another list is to be signed now.
    list_is_due: bool,
    /// What keeps certificates from being issued; null where nothing does.
    fault: Option<String>,
}

impl CaAnswer {
    pub fn of(state: &CaState) -> Self {
        let facts = &state.config.ca.facts;
        CaAnswer {
            anchor: state.config.anchor.clone(),
            subject: facts.subject.to_string(),
            fingerprint_sha256: facts.fingerprint,
            not_after: facts.not_after.to_string(),
            key_is_here: state.config.ca.can_sign(),
            gateway_key: state.key.clone(),
            list: state.list.as_deref().map(ListAnswer::of),
            list_is_due: state.list_is_due,
            fault: state.fault.clone(),
        }
    }
}

pub(super) async fn ca(State(shared): State<Shared>) -> Answer<CaAnswer> {
    let state = looked_up(async move { shared.publisher.ca_state().await }).await?;
    let none = || problem(StatusCode::NOT_FOUND, &NotGiven::NoCa.to_string(), Vec::new());
    sent(CaAnswer::of(&state.ok_or_else(none)?))
}

/// An enrolment code that was made just now.
#[derive(Serialize, JsonSchema)]
pub(super) struct CodeAnswer {
    id: String,
    partner: PartnerId,
    credential: CredentialId,
    /// RFC 3339.
    expires: String,
    /// It is told this once.
    code: String,
}

pub(super) async fn enrolment(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<EnrolCall>,
) -> Change<CodeAnswer> {
    let life = Duration::from_secs(call.for_s);
    if life.is_zero() || life > MAX_CODE_LIFE {
        let days = MAX_CODE_LIFE.as_secs() / 86_400;
        return Err(wrong(&format!("an enrolment code is good for at most {days} days")));
    }
    let cause = alone(caller.cause(Some(&call.reason), call.ticket.as_ref()));
    if call.reason.trim().is_empty() {
        return Err(wrong(NO_REASON));
    }
    match shared.publisher.enrolment_code(partner, credential, life, cause).await {
        Ok((Enrolment { id, partner, credential, expires, .. }, code)) => {
            done(CodeAnswer { id, partner, credential, expires: expires.to_string(), code })
        }
        Err(e) => not_changed(e),
    }
}

/// How many codes are not good any more.
#[derive(Serialize, JsonSchema)]
pub(super) struct Voided {
    voided: usize,
}

pub(super) async fn void(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((partner, credential)): Named<(PartnerId, CredentialId)>,
    Json(call): Json<WhyCall>,
) -> Change<Voided> {
    let cause = caller.cause(Some(&call.reason), call.ticket.as_ref());
    match shared.publisher.void_codes(partner, credential, cause).await {
        Ok(voided) => done(Voided { voided }),
        Err(e) => not_changed(e),
    }
}

/// Enrolment codes of a partner that could be used now, sorted by id.
#[derive(Serialize, JsonSchema)]
pub(super) struct Enrolments {
    enrolments: Vec<EnrolmentRow>,
}

/// An enrolment code, without its secret. Times are RFC 3339.
#[derive(Serialize, JsonSchema)]
struct EnrolmentRow {
    id: String,
    partner: PartnerId,
    credential: CredentialId,
    author: String,
    created: String,
    expires: String,
}

impl EnrolmentRow {
    fn of(one: Enrolment) -> Self {
        let Enrolment { id, partner, credential, author, created, expires, .. } = one;
        EnrolmentRow { id, partner, credential, author, created: created.to_string(), expires: expires.to_string() }
    }
}

pub(super) async fn enrolments(
    State(shared): State<Shared>,
    Query(query): Query<CertificateQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Listed<Enrolments>> {
    let partner = PartnerId::parse(&query.partner).map_err(|_| unknown("partner"))?;
    let asked = page.read(enrolment_id)?;
    let now = shared.publisher.now();
    let open = looked_up(async move { shared.publisher.store().open_enrolments(&partner, now).await }).await?;
    let behind = open.into_iter().filter(|one| asked.after.as_ref().is_none_or(|after| one.id > *after));
    let (enrolments, next) = asked.page(behind.map(EnrolmentRow::of), |row| row.id.clone());
    asked.listed(Enrolments { enrolments }, next)
}

fn enrolment_id(text: &str) -> Result<String, String> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if good { Ok(text.to_owned()) } else { Err("after: this is no id of an enrolment code".into()) }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct CertificateQuery {
    partner: String,
}

/// Certificates that were given to a partner, the last one first.
#[derive(Serialize, JsonSchema)]
pub(super) struct Certificates {
    certificates: Vec<IssuedRow>,
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<CertificateQuery>,
    Query(page): Query<PageQuery>,
) -> Answer<Listed<Certificates>> {
    let partner = PartnerId::parse(&query.partner).map_err(|_| unknown("partner"))?;
    let asked = page.read(Serial::parse)?;
    let all = looked_up(async move { shared.publisher.store().certificates_issued(&partner, None).await }).await?;
    // None of them ever goes.
    let from = match &asked.after {
        None => 0,
        Some(after) => 1 + all.iter().position(|one| one.serial == *after).ok_or_else(|| unknown("certificate"))?,
    };
    let (certificates, next) =
        asked.page(all.iter().skip(from).map(IssuedRow::of), |row| row.serial.as_str().to_owned());
    asked.listed(Certificates { certificates }, next)
}

/// A certificate that was given. Times are RFC 3339.
#[derive(Serialize, JsonSchema)]
struct IssuedRow {
    serial: Serial,
    partner: PartnerId,
    credential: CredentialId,
    anchor: AnchorName,
    subject: String,
    uri: Vec<String>,
    dns: Vec<String>,
    fingerprint_sha256: Fingerprint,
    spki_sha256: Fingerprint,
    not_before: String,
    not_after: String,
    /// Null where the revocation list does not have it.
    revoked: Option<WithdrawnRow>,
}

/// Since when the revocation list has a certificate, and why.
#[derive(Serialize, JsonSchema)]
struct WithdrawnRow {
    at: String,
    why: Why,
}

impl IssuedRow {
    fn of(issued: &Issued) -> Self {
        let revoked = issued.revoked.as_ref();
        IssuedRow {
            serial: issued.serial.clone(),
            partner: issued.partner.clone(),
            credential: issued.credential.clone(),
            anchor: issued.anchor.clone(),
            subject: issued.subject.clone(),
            uri: issued.uri.clone(),
            dns: issued.dns.clone(),
            fingerprint_sha256: issued.fingerprint,
            spki_sha256: issued.spki,
            not_before: issued.not_before.to_string(),
            not_after: issued.not_after.to_string(),
            revoked: revoked.map(|r| WithdrawnRow { at: r.at.to_string(), why: r.why }),
        }
    }
}
