//! The HTTP/2 loop: accept streams, one task each, until the connection ends, is idle, too old or drained.

use super::conn::Conn;
use super::{Shared, told};
use crate::gateway::{PROGRESS, Progress};
use crate::reason::Reason;
use crate::record::{Entry, MalformedEntry};
use crate::registry::Resolution;
use futures::FutureExt;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{self, H2Accept, HttpSession};
use pingora_core::protocols::{Digest, GetProxyDigest};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Streams that a client may reset before we have looked at them, and that we may reset for its errors, before the
/// connection ends (rapid reset, CVE-2023-44487).
const MAX_RESETS: usize = 50;
/// Streams that pingora may refuse as malformed before the connection ends; it leaves this bound to loops of others.
const MAX_REJECTED: usize = 50;
/// How long a client may take to acknowledge a GOAWAY, with no stream open.
const FAREWELL: Duration = Duration::from_secs(2);
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;

pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(shared: Arc<Shared<A>>, mut conn: Conn) {
    let facts = conn.facts().clone();
    let digest = Arc::new(Digest { proxy_digest: conn.get_proxy_digest(), ..Default::default() });
    let head = shared.live.load().as_ref().map_or(16 * 1024, |l| l.snapshot.request.head.max_bytes);
    let mut options = server::default_h2_options();
    options
        .max_concurrent_streams(shared.limits.h2_max_streams)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let refusals = conn.watch();
    let preface = server::handshake(Box::new(conn), Some(options));
    let mut h2 = match tokio::time::timeout(shared.limits.h2_preface_timeout, preface).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(_)) => return malformed(&shared, &facts, "the HTTP/2 preface is malformed"),
        Err(_) => return malformed(&shared, &facts, "the HTTP/2 preface did not arrive in time"),
    };
    let mut streams = JoinSet::new();
    let mut drain = shared.drain.clone();
    let age = tokio::time::sleep(shared.limits.max_age);
    tokio::pin!(age);
    let (mut requests, mut closing, mut rejected) = (0u64, false, 0);
    // From here on nothing further is served, whatever the client makes of the GOAWAY.
    let mut last_call: Option<Instant> = None;
    let mut idle_since = Instant::now();
    loop {
        if closing && last_call.is_none() {
            last_call = Some(Instant::now() + FAREWELL);
        }
        let over = last_call.is_some_and(|at| Instant::now() >= at);
        // Who has lost every right has nothing to wait for.
        if over && facts.leave.is_up() {
            break;
        }
        // A client that takes no notice of a GOAWAY has a moment, or as long as it still has something to take.
        let limit = match closing {
            true if !h2.has_streams() => FAREWELL.min(shared.limits.h2_idle_timeout),
            _ => shared.limits.h2_idle_timeout,
        };
        let idle_left = limit.saturating_sub(idle_since.elapsed());
        tokio::select! {
            biased;
            Some(_) = streams.join_next() => idle_since = Instant::now(),
            () = told(&mut drain), if !closing => {
                closing = true;
                idle_since = Instant::now();
                h2.graceful_shutdown();
            }
            () = facts.leave.raised(), if !closing => {
                closing = true;
                idle_since = Instant::now();
                h2.graceful_shutdown();
            }
            () = &mut age, if !closing => {
                closing = true;
                idle_since = Instant::now();
                h2.graceful_shutdown();
            }
            found = refusals.next() => {
                for one in found {
                    malformed(&shared, &facts, one.detail());
                }
            }
            // The connection's own frames are driven by accepting, so this branch is polled all the time.
            accepted = HttpSession::from_h2_conn(&mut h2, digest.clone()) => match accepted {
                // pingora would answer CONNECT by itself, in its own words and without a record.
                Ok(Some(H2Accept::Session(mut session))) if session.req_header().method == http::Method::CONNECT => {
                    session.shutdown_with_reason(h2::Reason::CANCEL);
                    refused(&shared, &facts, &Reason::MethodNotServed, "CONNECT");
                }
                Ok(Some(H2Accept::Session(mut session))) if over => {
                    session.shutdown_with_reason(h2::Reason::REFUSED_STREAM);
                    refused(&shared, &facts, &Reason::Draining, "opened long after the GOAWAY");
                }
                Ok(Some(H2Accept::Session(session))) => {
                    idle_since = Instant::now();
                    requests += 1;
                    if requests >= shared.limits.max_requests && !closing {
                        closing = true;
                        h2.graceful_shutdown();
                    }
                    let shared = shared.clone();
                    streams.spawn(async move {
                        let progress = Arc::new(Progress::default());
                        let work = shared.app.process_new_http(ServerSession::new_http2(session), &shared.drain);
                        let work = PROGRESS.scope(progress.clone(), AssertUnwindSafe(work).catch_unwind());
                        tokio::select! {
                            biased;
                            outcome = work => {
                                if outcome.is_err() {
                                    shared.recorder.metrics().panics.inc();
                                }
                            }
                            // Dropping the handler resets the stream and writes its record.
                            () = progress.stalled(shared.limits.body_progress) => {}
                            () = progress.cut.made() => {}
                        }
                    });
                }
                // Its answer or reset is seen when it leaves, and recorded then.
                Ok(Some(H2Accept::Rejected)) => {
                    rejected += 1;
                    if rejected == MAX_REJECTED {
                        closing = true;
                        h2.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    if let Some(reason) = broken_rule(&e) {
                        malformed(&shared, &facts, &format!("the connection was ended: {reason}"));
                    }
                    break;
                }
            },
            () = until(last_call), if !over => {}
            () = tokio::time::sleep(idle_left.max(Duration::from_millis(1))), if streams.is_empty() => {
                if idle_since.elapsed() < limit {
                    continue;
                }
                if closing {
                    break;
                }
                closing = true;
                idle_since = Instant::now();
                h2.graceful_shutdown();
            }
        }
    }
    for one in refusals.take() {
        malformed(&shared, &facts, one.detail());
    }
    // Streams see the end of the connection only when it is dropped: after a failed write the library does not tell them.
    drop(h2);
    // They end, and their records are written.
    while streams.join_next().await.is_some() {}
}

/// Never, where there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What the client did when the connection failed for that. A connection that just broke off, and one that the client
/// ended, are nothing malformed.
fn broken_rule(e: &pingora_error::Error) -> Option<h2::Reason> {
    let cause = e.cause.as_ref()?.downcast_ref::<h2::Error>()?;
    if cause.is_io() || cause.is_remote() { None } else { cause.reason() }
}

fn malformed<A>(shared: &Shared<A>, facts: &crate::gateway::Connection, detail: &str) {
    refused(shared, facts, &Reason::H2Protocol, detail);
}

/// Records what is refused before it is a request.
fn refused<A>(shared: &Shared<A>, facts: &crate::gateway::Connection, reason: &Reason, detail: &str) {
    shared.recorder.metrics().malformed.with_label_values(&[reason.as_str()]).inc();
    let live = shared.live.load_full();
    let partner = live.as_ref().and_then(|l| match l.snapshot.registry.resolve(&facts.peer) {
        Resolution::Known { record, .. } => Some(record.partner.id.clone()),
        _ => None,
    });
    shared.recorder.write_unreserved(&Entry::Malformed(MalformedEntry {
        time: shared.clock.now(),
        id: &uuid::Uuid::now_v7().to_string(),
        source: facts.source,
        peer: &facts.peer,
        partner: partner.as_ref(),
        reason,
        detail,
        status: 0,
        revision: live.as_ref().map(|l| &l.snapshot.revision),
    }));
}
