//! A request that nobody has sent, read as one of HTTP/1.1 that somebody has: for whoever asks what it would come to.

use super::read::{Arrival, read};
use crate::clock::UnixNanos;
use crate::reason::Reason;
use crate::request::{Refusal, RequestFacts, TlsFacts, judge_head};
use crate::snapshot::RequestSettings;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use std::net::SocketAddr;
use std::sync::Arc;

/// What would be sent.
pub struct SupposedRequest {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub host: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `None` where there is no body.
    pub content_length: Option<u64>,
    /// Where from.
    pub source: SocketAddr,
    pub tls: Arc<TlsFacts>,
    pub now: UnixNanos,
}

impl SupposedRequest {
    /// Reads its facts.
    ///
    /// # Errors
    /// Why such a request cannot be read in one way.
    pub fn read(&self, settings: &RequestSettings) -> Result<RequestFacts, Refusal> {
        let malformed = |detail: &str| Refusal::new(Reason::HeadMalformed, detail);
        let length = self.content_length.map(|length| (CONTENT_LENGTH, HeaderValue::from(length)));
        let host = HeaderValue::try_from(&self.host).map_err(|_| malformed("the host is no value of a field"))?;
        let fields: Vec<_> = [(HOST, host)].into_iter().chain(length).chain(self.headers.iter().cloned()).collect();
        let mut raw = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &fields {
            raw.extend_from_slice(name.as_str().as_bytes());
            raw.extend_from_slice(b": ");
            raw.extend_from_slice(value.as_bytes());
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"\r\n");
        judge_head(&raw, 0, &settings.head)?;
        let mut head = RequestHeader::build(self.method.as_str(), self.target.as_bytes(), Some(fields.len()))
            .map_err(|_| malformed("the request line cannot be read"))?;
        for (name, value) in fields {
            head.append_header(name, value).map_err(|_| malformed("a field cannot be read"))?;
        }
        let bodyless = self.content_length.is_none() && !head.headers.contains_key(http::header::TRANSFER_ENCODING);
        let arrival = Arrival { source: self.source, tls: &self.tls, http2: false };
        let id = uuid::Uuid::now_v7().hyphenated().to_string().into();
        read(&head, bodyless, &arrival, settings, id, self.now)
    }
}
