//! What a refused client is told: problem+json (RFC 9457), or a gRPC Trailers-Only response.
//!
//! The body depends on the public code and the request id alone, so that a probe learns nothing else.

use super::Connection;
use crate::reason::{Code, Reason};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes of a refused request's body that are read and thrown away before the connection is closed.
const DISCARD_BYTES: usize = 64 * 1024;
/// Time spent on that.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// A refusal to be sent.
#[derive(Clone, Debug)]
pub struct Refused {
    pub reason: Reason,
    pub id: Arc<str>,
    /// The client speaks gRPC.
    pub grpc: bool,
}

impl Refused {
    pub fn new(reason: Reason, id: Arc<str>) -> Self {
        Refused { reason, id, grpc: false }
    }

    /// The body that is sent, except to HEAD.
    pub fn body(&self) -> String {
        if self.grpc { String::new() } else { problem_document(&self.reason, &self.id) }
    }

    /// The HTTP status that is sent.
    pub fn status(&self) -> u16 {
        if self.grpc { 200 } else { self.reason.code().status() }
    }
}

/// What the gateway answers itself.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub body: String,
}

/// What is sent without an upstream.
pub(super) enum Sent<'a> {
    Refused(&'a Refused),
    /// With the request's id.
    Answer(&'a Answer, &'a str),
}

impl Sent<'_> {
    fn status(&self) -> u16 {
        match self {
            Sent::Refused(refused) => refused.status(),
            Sent::Answer(answer, _) => answer.status,
        }
    }
}

/// The problem document of a refusal.
pub fn problem_document(reason: &Reason, id: &str) -> String {
    let code = reason.code();
    let status = code.status();
    let title = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Error");
    serde_json::json!({
        "type": format!("urn:partnergate:{code}"),
        "title": title,
        "status": status,
        "detail": code.detail(),
        "code": code.as_str(),
        "request_id": id,
    })
    .to_string()
}

/// Sends an answer within `limit` and deals with a body that is still coming. Returns the status that was sent, 0 when
/// the client was gone or did not read.
pub(super) async fn send(session: &mut Session, sent: Sent<'_>, connection: &Connection, limit: Duration) -> u16 {
    let body_pending = !session.as_downstream_mut().is_body_done();
    // A request that could not be read leaves no common ground for a next one.
    // Nor is there one for an identity that has lost every right.
    let unread = matches!(sent, Sent::Refused(_)) && sent.status() == 400;
    let close = body_pending || unread || connection.leave.is_up();
    if close && !connection.http2 {
        session.set_keepalive(None);
    }
    let Ok(Ok(status)) = tokio::time::timeout(limit, write(session, &sent)).await else {
        session.set_keepalive(None);
        return 0;
    };
    if body_pending && connection.http2 {
        // The stream is then reset without an error. Not at once: clients that are still sending lose the answer when
        // it and the reset come together; most end the stream themselves.
        discard(session).await;
    } else if body_pending {
        connection.linger.store(true, Ordering::Release);
        discard(session).await;
    }
    status
}

/// Ends a gRPC call whose answer has begun with trailers that say why, instead of a reset that says nothing.
pub(super) async fn end_call(session: &mut Session, reason: &Reason) {
    let body_pending = !session.as_downstream_mut().is_body_done();
    let ServerSession::H2(h2) = session.as_downstream_mut() else { return };
    if h2.write_trailers(status_fields(reason.code())).is_ok() && body_pending {
        discard(session).await;
    }
}

/// gRPC over HTTP/2, "Responses": Status and Status-Message.
fn status_fields(code: Code) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(2);
    fields.insert("grpc-status", HeaderValue::from(u16::from(code.grpc_status())));
    fields.insert("grpc-message", HeaderValue::from_static(code.as_str()));
    fields
}

async fn write(session: &mut Session, sent: &Sent<'_>) -> pingora_error::Result<u16> {
    match sent {
        Sent::Refused(refused) => write_refusal(session, refused).await,
        Sent::Answer(answer, id) => {
            let mut head = ResponseHeader::build(answer.status, Some(answer.fields.len() + 2))?;
            head.insert_header("x-request-id", *id)?;
            for (name, value) in &answer.fields {
                head.insert_header(*name, value)?;
            }
            write_whole(session, head, answer.body.clone()).await
        }
    }
}

async fn write_refusal(session: &mut Session, refused: &Refused) -> pingora_error::Result<u16> {
    let status = refused.status();
    let code = refused.reason.code();
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header("cache-control", "no-store")?;
    head.insert_header("x-request-id", &*refused.id)?;
    if refused.grpc {
        head.insert_header("content-type", "application/grpc")?;
        for (name, value) in &status_fields(code) {
            head.insert_header(name, value)?;
        }
        if let ServerSession::H2(h2) = session.as_downstream_mut() {
            // The generic session would not end the stream with the head.
            h2.write_response_header(Box::new(head), true)?;
            return Ok(status);
        }
        return Ok(0);
    }
    head.insert_header("content-type", "application/problem+json")?;
    if let Some(challenge) = code.challenge() {
        head.insert_header("www-authenticate", challenge)?;
    }
    if status == 405 {
        head.insert_header("allow", "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")?;
    }
    write_whole(session, head, refused.body()).await
}

async fn write_whole(session: &mut Session, mut head: ResponseHeader, body: String) -> pingora_error::Result<u16> {
    let status = head.status.as_u16();
    head.insert_header("content-length", body.len().to_string())?;
    let is_head = session.req_header().method == http::Method::HEAD;
    session.as_downstream_mut().write_response_header(Box::new(head)).await?;
    if !is_head {
        session.as_downstream_mut().write_response_body(Bytes::from(body), true).await?;
    } else {
        session.as_downstream_mut().finish_body().await?;
    }
    Ok(status)
}

async fn discard(session: &mut Session) {
    let work = async {
        let mut left = DISCARD_BYTES;
        while left > 0 {
            match session.as_downstream_mut().read_request_body().await {
                Ok(Some(bytes)) => left = left.saturating_sub(bytes.len().max(1)),
                Ok(None) | Err(_) => return,
            }
        }
        if let ServerSession::H2(h2) = session.as_downstream_mut() {
            let _ = h2.idle().await;
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, work).await;
}
