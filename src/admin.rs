//! The operators' API on a unix socket: every verb that changes something, and what `partnergate` asks for.
//!
//! In: requests of local processes whose user the kernel names. Out: the same operations that files and signals
//! trigger, through [`Publisher`]. Must never: be reachable over the partner listener, or by other users; read or write
//! on a thread that serves requests what is as long as the registry is large.

mod anchors;
mod history;
mod suspend;

pub use anchors::{DenyCall, anchors_document};
pub use history::{AuditAnswer, HistoryAnswer, HistoryCall};
pub use suspend::StopCall;

use crate::document::Problems;
use crate::history::{Actor, Cause, Way};
use crate::name::PartnerId;
use crate::partner::PartnerRecord;
use crate::registry::Registry;
use crate::reload::{ChangeError, Publisher, aside};
use crate::snapshot::Snapshot;
use crate::store::{DeclaredFile, Export, PlanOptions, StoreError, UsageRow};
use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use nix::unistd::{Uid, User};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};

/// Largest body of a call: a folder of registry files.
const MAX_BODY: usize = 512 * 1024 * 1024;
/// Answers are sent in pieces of this size, and so many wait for a caller that reads slowly.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 4;
/// Answers that are being written; more wait.
static WRITERS: Semaphore = Semaphore::const_new(8);
/// How long a caller may take nothing of its answer.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// Body of `POST /v1/apply`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApplyCall {
    pub files: Vec<DeclaredFile>,
    #[serde(default)]
    pub options: PlanOptions,
    #[serde(default)]
    pub dry_run: bool,
    /// Why; kept in the history.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub ticket: Option<String>,
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

impl Caller {
    fn actor(self) -> Actor {
        let name = self.uid.map_or_else(|| "unknown".to_owned(), user_name);
        Actor { name, uid: self.uid, way: Way::AdminSocket }
    }

    fn cause(self, reason: Option<String>, ticket: Option<String>) -> Cause {
        Cause { actor: self.actor(), reason, ticket }
    }
}

/// For people: the user's name, or its number where the system knows none.
pub fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
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
        .route("/v1/partners/{id}/suspend", post(suspend::suspend))
        .route("/v1/partners/{id}/resume", post(suspend::resume))
        .route("/v1/anchors", get(anchors::list))
        .route("/v1/anchors/{name}", get(anchors::show))
        .route("/v1/anchors/{name}/deny", post(anchors::deny))
        .route("/v1/anchors/{name}/undeny", post(anchors::undeny))
        .route("/v1/history", get(history::list))
        .route("/v1/audit", get(history::audit))
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

/// What the database answers, asked aside.
async fn looked_up<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, Response> {
    match aside(work).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(e)) => Err(refused(e.into())),
        Err(e) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new())),
    }
}

async fn apply(
    State(shared): State<Shared>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a call is `application/json`", Vec::new());
    }
    let call: ApplyCall = match aside(async move { Json::from_bytes(&body).map(|Json(call)| call) }).await {
        Ok(Ok(call)) => call,
        Ok(Err(e)) => return e.into_response(),
        Err(e) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
    };
    let cause = caller.cause(call.reason, call.ticket);
    match shared.publisher.apply(call.files, call.options, call.dry_run, cause).await {
        // Not through `written`: whoever changes something does not wait for those who read.
        Ok(applied) => match aside(async move { Json(applied).into_response() }).await {
            Ok(answer) => answer,
            Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new()),
        },
        Err(e) => refused(e),
    }
}

async fn reload(State(shared): State<Shared>) -> Response {
    match shared.publisher.reload().await {
        Ok(waiting) => Json(json!({"reloaded": true, "needs_restart": waiting})).into_response(),
        Err(e) => refused(e),
    }
}

async fn export_all(State(shared): State<Shared>) -> Response {
    match shared.publisher.live() {
        Some(live) => written(move |out| serde_json::to_writer(out, &export_document(&live.snapshot))).await,
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new()),
    }
}

async fn partners(State(shared): State<Shared>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    written(move |out| serde_json::to_writer(out, &list_document(&live.snapshot.registry))).await
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
pub fn export_document(snapshot: &Snapshot) -> impl Serialize + '_ {
    Exported { files: Export::new(&snapshot.registry, &snapshot.operations) }
}

#[derive(Serialize)]
struct Exported<'a> {
    files: Export<'a>,
}

/// Body of `GET /v1/partners`.
pub fn list_document(registry: &Registry) -> impl Serialize + '_ {
    Listed { partners: Rows(registry) }
}

#[derive(Serialize)]
struct Listed<'a> {
    partners: Rows<'a>,
}

struct Rows<'a>(&'a Registry);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.partners().map(|record| Row(record)))
    }
}

struct Row<'a>(&'a PartnerRecord);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PartnerRecord { partner, credentials, grants } = self.0;
        let mut row = serializer.serialize_map(Some(7))?;
        row.serialize_entry("id", &partner.id)?;
        row.serialize_entry("name", &partner.name)?;
        row.serialize_entry("owner", &partner.owner)?;
        row.serialize_entry("state", partner.standing().as_str())?;
        row.serialize_entry("credentials", &credentials.len())?;
        row.serialize_entry("grants", &grants.len())?;
        row.serialize_entry("engagement_ends", &partner.engagement.ends.map(|e| e.to_string()))?;
        row.end()
    }
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
    match looked_up(async move { shared.publisher.store().usage(partner.as_ref()).await }).await {
        Ok(usage) => written(move |out| serde_json::to_writer(out, &json!({"usage": usage}))).await,
        Err(answer) => answer,
    }
}

/// Partners that an operator has stopped.
fn suspended(registry: &Registry) -> Vec<Value> {
    let stopped = registry.partners().filter_map(|r| Some((&r.partner.id, r.partner.suspension.as_ref()?)));
    stopped
        .map(|(id, s)| json!({"partner": id, "reason": s.reason, "author": s.author, "at": s.at.to_string()}))
        .collect()
}

async fn status(State(shared): State<Shared>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let publisher = shared.publisher.clone();
    // Every credential is looked at.
    let (of, now) = (live.clone(), publisher.now());
    let looked = async move {
        let suspended = suspended(&of.snapshot.registry);
        Ok((publisher.expiring(now).await?, publisher.outgoing().await?, suspended))
    };
    let (expiring, outgoing, suspended) = match looked_up(looked).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let outgoing: Vec<Value> = outgoing
        .iter()
        .map(|(one, open)| {
            json!({
                "anchor": one.anchor, "credentials": one.credentials, "last_used": one.last_used,
                "open_connections": open, "text": one.to_string(),
            })
        })
        .collect();
    let s = &live.snapshot;
    let anchors: Vec<Value> = s
        .trust
        .anchors()
        .iter()
        .map(|a| json!({"name": a.name, "subject": a.subject.to_string(), "not_after": a.not_after.to_string()}))
        .collect();
    let mut bundles: Vec<_> = s.material.bundles.iter().collect();
    bundles.sort_by_key(|(name, _)| *name);
    let bundles: Vec<Value> = bundles
        .into_iter()
        .map(|(name, bundle)| {
            json!({
                "anchor": name, "trust_domain": bundle.trust_domain, "sequence": bundle.sequence,
                "refresh_hint_s": bundle.refresh_hint.map(|hint| hint.as_secs()),
                "certificates": bundle.certificates.len(),
            })
        })
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
        "last_reload": shared.publisher.failing().map_or_else(
            || json!({"ok": true}),
            |f| json!({"ok": false, "failing_since": f.at.to_string(), "stale": f.is_stale(), "problems": f.problems}),
        ),
        "partners": s.registry.partner_count(),
        "suspended": suspended,
        "operations": s.operations.iter().map(|o| o.id.as_str()).collect::<Vec<_>>(),
        "anchors": anchors,
        "bundles": bundles,
        "certificates": certificates,
        "revocation_lists": shared.publisher.lists(),
        "expiring": expiring,
        "outgoing_anchors": outgoing,
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

/// An answer in JSON that is sent while it is written, aside: it is never in memory as a whole. A few at a time, since
/// each has a thread, and no longer than its caller takes what is sent.
async fn written(write: impl FnOnce(&mut dyn Write) -> serde_json::Result<()> + Send + 'static) -> Response {
    let Ok(writing) = WRITERS.acquire().await else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping", Vec::new());
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE, Pieces { sender: sender.clone(), runtime });
        let done = write(&mut out).map_err(io::Error::from).and_then(|()| out.flush());
        drop(writing);
        // An answer that is not whole must not look as if it were. A caller that takes nothing is told nothing.
        if let Err(e) = done {
            drop(sender.try_send(Err(e)));
        }
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    ([("content-type", "application/json")], Body::from_stream(pieces)).into_response()
}

struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let send = self.sender.send_timeout(Ok(Bytes::copy_from_slice(piece)), SEND_LIMIT);
        match self.runtime.block_on(send) {
            Ok(()) => Ok(piece.len()),
            Err(SendTimeoutError::Timeout(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(SendTimeoutError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
