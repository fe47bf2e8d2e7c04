//! The operators' API on a unix socket: every verb that changes something, and what `partnergate` asks for.
//!
//! In: requests of local processes whose user the kernel names. Out: the same operations that files and signals
//! trigger, through [`Publisher`]. Must never: be reachable over the partner listener, or by other users.

use crate::document::Problems;
use crate::name::PartnerId;
use crate::partner::PartnerRecord;
use crate::registry::Registry;
use crate::reload::{ChangeError, Publisher};
use crate::snapshot::Snapshot;
use crate::store::{DeclaredFile, PlanOptions, StoreError, UsageRow, export};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::UnixListener;

/// Largest body of a call: a folder of registry files.
const MAX_BODY: usize = 512 * 1024 * 1024;

/// Body of `POST /v1/apply`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApplyCall {
    pub files: Vec<DeclaredFile>,
    #[serde(default)]
    pub options: PlanOptions,
    #[serde(default)]
    pub dry_run: bool,
}

/// One problem as the API gives it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ProblemLine {
    pub text: String,
}

#[derive(Clone)]
struct Shared {
    publisher: Arc<Publisher>,
    /// The user that the gateway runs as.
    uid: u32,
}

/// Who is at the other end of the socket.
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Caller { uid: stream.io().peer_cred().ok().map(|c| c.uid()) }
    }
}

/// Serves until the task is dropped. `uid` is the user that the gateway runs as; that user and root may call.
///
/// # Errors
/// The socket fails.
pub async fn serve(listener: UnixListener, publisher: Arc<Publisher>, uid: u32) -> std::io::Result<()> {
    let shared = Shared { publisher, uid };
    let router = Router::new()
        .route("/v1/apply", post(apply))
        .route("/v1/export", get(export_all))
        .route("/v1/partners", get(partners))
        .route("/v1/partners/{id}", get(partner))
        .route("/v1/usage", get(usage))
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .layer(middleware::from_fn_with_state(shared.clone(), only_own_user))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared);
    axum::serve(listener, router.into_make_service_with_connect_info::<Caller>()).await
}

async fn only_own_user(
    State(shared): State<Shared>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match caller.uid {
        Some(uid) if uid == shared.uid || uid == 0 => {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let response = next.run(request).await;
            tracing::info!(uid, %method, path, status = response.status().as_u16(), "admin call");
            response
        }
        _ => problem(StatusCode::FORBIDDEN, "this user may not administer the gateway", Vec::new()),
    }
}

async fn apply(State(shared): State<Shared>, Json(call): Json<ApplyCall>) -> Response {
    match shared.publisher.apply(call.files, call.options, call.dry_run).await {
        Ok(applied) => Json(applied).into_response(),
        Err(e) => refused(e),
    }
}

async fn reload(State(shared): State<Shared>) -> Response {
    match shared.publisher.reload().await {
        Ok(()) => Json(json!({"reloaded": true})).into_response(),
        Err(e) => refused(e),
    }
}

async fn export_all(State(shared): State<Shared>) -> Response {
    match shared.publisher.live() {
        Some(live) => Json(export_document(&live.snapshot)).into_response(),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new()),
    }
}

async fn partners(State(shared): State<Shared>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    Json(list_document(&live.snapshot.registry)).into_response()
}

async fn partner(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let found = PartnerId::parse(&id).ok().zip(shared.publisher.live());
    let record = found.as_ref().and_then(|(id, live)| live.snapshot.registry.partner(id));
    let (Some((id, _)), Some(record)) = (&found, record) else {
        return problem(StatusCode::NOT_FOUND, "there is no such partner", Vec::new());
    };
    match shared.publisher.store().usage(Some(id)).await {
        Ok(usage) => Json(partner_document(record, &usage)).into_response(),
        Err(e) => refused(e.into()),
    }
}

/// Body of `GET /v1/export`.
pub fn export_document(snapshot: &Snapshot) -> Value {
    json!({"files": export(&snapshot.registry, &snapshot.operations)})
}

/// Body of `GET /v1/partners`.
pub fn list_document(registry: &Registry) -> Value {
    let mut list: Vec<_> = registry.partners().collect();
    list.sort_by(|a, b| a.partner.id.cmp(&b.partner.id));
    let rows: Vec<Value> = list
        .into_iter()
        .map(|r| {
            let ends = r.partner.engagement.ends.map(|e| e.to_string());
            json!({
                "id": r.partner.id, "name": r.partner.name, "owner": r.partner.owner, "state": r.partner.state.as_str(),
                "credentials": r.credentials.len(), "grants": r.grants.len(), "engagement_ends": ends,
            })
        })
        .collect();
    json!({"partners": rows})
}

/// Body of `GET /v1/partners/{id}`.
pub fn partner_document(record: &PartnerRecord, usage: &[UsageRow]) -> Value {
    json!({"record": record, "usage": usage})
}

#[derive(Deserialize)]
struct UsageQuery {
    partner: Option<String>,
}

async fn usage(State(shared): State<Shared>, Query(query): Query<UsageQuery>) -> Response {
    let partner = query.partner.as_deref().and_then(|p| PartnerId::parse(p).ok());
    match shared.publisher.store().usage(partner.as_ref()).await {
        Ok(usage) => Json(json!({"usage": usage})).into_response(),
        Err(e) => refused(e.into()),
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let s = &live.snapshot;
    let anchors: Vec<Value> = s
        .trust
        .anchors()
        .iter()
        .map(|a| json!({"name": a.name, "subject": a.subject.to_string(), "not_after": a.not_after.to_string()}))
        .collect();
    let certificates: Vec<Value> =
        s.certificates.iter().map(|c| json!({"file": c.file, "not_after": c.facts.not_after.to_string()})).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "environment": s.environment,
        "snapshot": {
            "built": s.built.to_string(), "registry": s.revision.registry, "policy": &*s.revision.policy,
            "trust": s.revision.trust, "config": &*s.revision.config,
        },
        "partners": s.registry.partner_count(),
        "operations": s.operations.iter().map(|o| o.id.as_str()).collect::<Vec<_>>(),
        "anchors": anchors,
        "certificates": certificates,
    }))
    .into_response()
}

fn refused(e: ChangeError) -> Response {
    match e {
        ChangeError::Invalid(problems) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed", lines(&problems))
        }
        ChangeError::Store(StoreError::Conflict { .. }) => problem(StatusCode::CONFLICT, &e.to_string(), Vec::new()),
        ChangeError::Store(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
    }
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn problem(status: StatusCode, title: &str, problems: Vec<String>) -> Response {
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "problems": problems});
    (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
}
