//! The HTTP/1 loop: read a head under a deadline, judge its raw bytes, hand it to pingora, round again.

use super::conn::Conn;
use super::{Shared, told};
use crate::gateway::{Connection, Signal, leaked_in_line, problem_document};
use crate::reason::Reason;
use crate::record::{Entry, MalformedEntry};
use crate::registry::Resolution;
use crate::request::{HeadLimits, Refusal, judge_head};
use bytes::BytesMut;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::{Shutdown, Stream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bound on a head when no snapshot says otherwise.
const DEFAULT_HEAD: HeadLimits = HeadLimits { max_bytes: 16 * 1024, max_fields: 100 };

/// How long the identity that has lost every right may take for the request that is told so.
const FAREWELL: Duration = Duration::from_secs(5);

enum Head {
    /// The head, with what of the body came with it.
    WithBody(BytesMut),
    /// A head that ends its request, and what came behind it already.
    WithoutBody(BytesMut, BytesMut),
    /// The client has gone, or was silent for too long between requests.
    Gone,
    /// With what came in its place.
    Refused(Refusal, BytesMut),
}

pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(shared: Arc<Shared<A>>, conn: Conn) {
    let facts = conn.facts().clone();
    let fence = conn.fence().clone();
    let opened = Instant::now();
    let mut stream: Stream = Box::new(conn);
    let mut settings: Option<HttpPersistentSettings> = None;
    let mut drain = shared.drain.clone();
    let mut requests = 0u64;
    loop {
        let limits = shared.live.load().as_ref().map_or(DEFAULT_HEAD, |l| l.snapshot.request.head);
        let left = shared.limits.max_age.saturating_sub(opened.elapsed());
        let idle = shared.limits.idle_timeout.min(left);
        let mut buffer = fence.open();
        let came_early = !buffer.is_empty();
        buffer.reserve(4096);
        let first = tokio::select! {
            biased;
            () = std::future::ready(()), if came_early => true,
            first = tokio::time::timeout(idle, stream.read_buf(&mut buffer)) => matches!(first, Ok(Ok(n)) if n > 0),
            // A request that has begun to arrive is still taken; a connection between requests is closed.
            () = told(&mut drain) => false,
            // One that comes now is told why it is denied, and that the connection ends.
            () = after(&facts.leave, FAREWELL) => false,
        };
        let head =
            if first { read_head(&mut stream, buffer, shared.limits.head_timeout, &limits).await } else { Head::Gone };
        let bytes = match head {
            Head::WithBody(bytes) => bytes,
            Head::WithoutBody(bytes, next) => {
                // pingora would take it for a fault of the request that it is serving.
                fence.close(next);
                bytes
            }
            Head::Gone => {
                Shutdown::shutdown(&mut *stream).await;
                return;
            }
            Head::Refused(refusal, came) => {
                refuse(&shared, &mut stream, &facts, (&refusal, &came)).await;
                return;
            }
        };
        requests += 1;
        let mut session = ServerSession::new_http1(stream);
        match settings.take() {
            Some(kept) => kept.apply_to_session(&mut session),
            None => session.set_keepalive(Some(shared.limits.idle_timeout.as_secs().max(1))),
        }
        session.set_total_drain_timeout(Some(shared.limits.head_timeout));
        let old = requests >= shared.limits.max_requests || opened.elapsed() >= shared.limits.max_age;
        if old || *drain.borrow() || facts.leave.is_up() {
            // `set_keepalive(None)` would be overruled by what the client asks for.
            session.set_keepalive_reuses_remaining(Some(0));
        }
        session.set_pipelined_prefix(bytes);
        let reused = tokio::select! {
            biased;
            reused = shared.app.process_new_http(session, &shared.drain) => reused,
            // Dropping the work closes the connection as it is and writes the request's record.
            () = facts.cut.made() => None,
        };
        let Some(reused) = reused else { return };
        (stream, settings) = reused.consume();
        // It ended just before it was cut.
        if facts.cut.is_made() {
            Shutdown::shutdown(&mut *stream).await;
            return;
        }
    }
}

async fn after(signal: &Signal, time: Duration) {
    signal.raised().await;
    tokio::time::sleep(time).await;
}

/// Reads the rest of a head whose first bytes are in `buffer`, within `total`.
async fn read_head(stream: &mut Stream, mut buffer: BytesMut, total: Duration, limits: &HeadLimits) -> Head {
    let rest = async {
        // Where the search for the end goes on; a match may begin in the last three bytes seen so far.
        let mut from = 0;
        loop {
            // A client may send an empty line after the body of its last request (RFC 9112 section 2.2).
            while buffer.starts_with(b"\r\n") {
                let _ = buffer.split_to(2);
                from = 0;
            }
            let unseen = buffer.get(from..).unwrap_or_default();
            if let Some(at) = unseen.windows(4).position(|w| w == b"\r\n\r\n") {
                let end = from + at + 4;
                let (head, body) = buffer.split_at(end);
                return judge_head(head, body.len(), limits).map(|()| Some((end, reads_on(head))));
            }
            if has_bare_lf(unseen) {
                return Err(Refusal::new(Reason::HeadMalformed, "a bare LF in the head"));
            }
            if buffer.len() > limits.max_bytes {
                return Err(Refusal::new(Reason::HeadTooLarge, format!("more than {} bytes", limits.max_bytes)));
            }
            from = buffer.len().saturating_sub(3);
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    };
    match tokio::time::timeout(total, rest).await {
        Ok(Ok(Some((_, true)))) => Head::WithBody(buffer),
        Ok(Ok(Some((end, false)))) => {
            let next = buffer.split_off(end);
            Head::WithoutBody(buffer, next)
        }
        Ok(Ok(None)) => Head::Gone,
        Ok(Err(refusal)) => Head::Refused(refusal, buffer),
        Err(_) => Head::Refused(Refusal::new(Reason::HeadTimeout, "the head did not arrive in time"), buffer),
    }
}

/// Whether more of a request may follow its head, which was judged: a body, or another protocol.
fn reads_on(head: &[u8]) -> bool {
    head.split(|b| *b == b'\n').any(|line| {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        ["content-length", "transfer-encoding", "upgrade"].iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
    })
}

/// A head that ends its lines in LF alone would never be seen to end.
fn has_bare_lf(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|w| matches!(w, [before, b'\n'] if *before != b'\r'))
}

/// Answers a head that pingora never sees, and records it.
async fn refuse<A>(shared: &Shared<A>, stream: &mut Stream, facts: &Connection, (refusal, came): (&Refusal, &[u8])) {
    let id = uuid::Uuid::now_v7().to_string();
    let live = shared.live.load_full();
    let leaked = live.as_ref().and_then(|l| leaked_in_line(&l.snapshot, facts, shared.recorder.metrics(), came));
    let refusal = leaked.as_ref().unwrap_or(refusal);
    let code = refusal.reason.code();
    let partner = live.as_ref().and_then(|l| match l.snapshot.registry.resolve(&facts.peer) {
        Resolution::Known { record, .. } => Some(record.partner.id.clone()),
        _ => None,
    });
    shared.recorder.metrics().malformed.with_label_values(&[refusal.reason.as_str()]).inc();
    shared.recorder.write_unreserved(&Entry::Malformed(MalformedEntry {
        time: shared.clock.now(),
        id: &id,
        source: facts.source,
        peer: &facts.peer,
        partner: partner.as_ref(),
        reason: &refusal.reason,
        detail: &refusal.detail,
        status: code.status(),
        revision: live.as_ref().map(|l| &l.snapshot.revision),
    }));
    let body = problem_document(&refusal.reason, &id);
    let phrase = http::StatusCode::from_u16(code.status()).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
    let answer = format!(
        "HTTP/1.1 {} {phrase}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: \
         no-store\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n{body}",
        code.status(),
        body.len()
    );
    facts.linger.store(true, Ordering::Release);
    let sent = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await
    };
    if matches!(tokio::time::timeout(shared.limits.head_timeout, sent).await, Ok(Ok(()))) {
        Shutdown::shutdown(&mut **stream).await;
    }
}
