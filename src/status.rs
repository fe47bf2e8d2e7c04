//! The status listener: metrics, health, readiness, version, the revocation list of the built-in CA, the keys that what
//! the gateway signs is verified with. Read-only; nothing of a partner but the metrics and the serial numbers on that list.

use crate::record::Recorder;
use crate::reload::Publisher;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ring::digest::{SHA256, digest};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the listener shows.
#[derive(Clone)]
pub struct StatusState {
    pub publisher: Arc<Publisher>,
    pub recorder: Recorder,
    /// True from the first signal to stop.
    pub stopping: watch::Receiver<bool>,
}

/// Connections that are served at once; scrapers need few.
const MAX_CONNECTIONS: usize = 64;
/// How long the set of keys is good without asking again: much shorter than a new key is told before it signs.
const KEYS_FRESH: &str = "public, max-age=300";
/// For a request head, and for a whole connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves until the task is dropped. A connection that asks nothing is closed at its deadline, and before that when
/// others need its place: the oldest goes, so that silent ones never keep a scraper waiting.
pub async fn serve(listener: TcpListener, state: StatusState) {
    let service = TowerToHyperService::new(router(state));
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "a status connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= MAX_CONNECTIONS {
            if let Some(oldest) = oldest_first.pop_front() {
                oldest.abort();
            }
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service.clone());
        // How a scraper ends its connection is nobody's concern.
        let bounded = async { drop(tokio::time::timeout(CONNECTION_TIMEOUT, connection).await) };
        oldest_first.push_back(connections.spawn(bounded));
    }
}

/// The routes.
fn router(state: StatusState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .route("/crl/{file}", get(list))
        .route("/.well-known/jwks.json", get(jwks))
        .with_state(state)
}

async fn metrics(State(state): State<StatusState>) -> impl IntoResponse {
    let metrics = state.recorder.metrics();
    let slots = state.recorder.slots();
    metrics.record_slots_free.set(i64::try_from(slots.free()).unwrap_or(i64::MAX));
    metrics.record_waiting_bytes.set(i64::try_from(slots.waiting_bytes()).unwrap_or(i64::MAX));
    state.recorder.show_stuck();
    metrics.ready.set(i64::from(is_ready(&state).is_ok()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.encode())
}

async fn ready(State(state): State<StatusState>) -> impl IntoResponse {
    match is_ready(&state) {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn is_ready(state: &StatusState) -> Result<(), &'static str> {
    if *state.stopping.borrow() {
        Err("stopping\n")
    } else if state.publisher.live().is_none() {
        Err("no snapshot is live\n")
    } else if state.publisher.failing().is_some_and(|f| f.is_stale()) {
        Err("reloads have been failing for longer than reload.stale_after\n")
    } else if state.publisher.bundle_is_stale() {
        Err("the policy bundle has not been had for longer than policy.bundle.stale_after\n")
    } else {
        Ok(())
    }
}

/// The revocation list of the built-in CA (RFC 5280 section 4.2.1.13, RFC 2585).
async fn list(State(state): State<StatusState>, Path(file): Path<String>) -> Response {
    match state.publisher.signed_list() {
        Some(list) if file.strip_suffix(".crl") == Some(list.anchor.as_str()) => {
            ([(header::CONTENT_TYPE, "application/pkix-crl")], list.der.clone()).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The public keys of what the gateway signs (RFC 7517 section 5).
async fn jwks(State(state): State<StatusState>, headers: HeaderMap) -> Response {
    let Some(keys) = state.publisher.jwks() else { return StatusCode::NOT_FOUND.into_response() };
    let text = keys.to_string();
    let tag = format!("\"{}\"", hex::encode(digest(&SHA256, text.as_bytes()).as_ref().get(..16).unwrap_or_default()));
    let cache = [(header::CACHE_CONTROL, KEYS_FRESH.to_owned()), (header::ETAG, tag.clone())];
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    if known.flat_map(|v| v.split(',')).any(|known| known.trim() == tag) {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (cache, [(header::CONTENT_TYPE, "application/jwk-set+json")], text).into_response()
}

async fn version() -> impl IntoResponse {
    Json(serde_json::json!({"name": "partnergate", "version": env!("CARGO_PKG_VERSION")}))
}
