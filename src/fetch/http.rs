//! Asking a URL for a list or a bundle: one GET, conditional, bounded, without redirects. And giving one something: one POST.

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::error::Error;
use std::io;
use std::sync::Arc;

/// Answers of others are read up to this.
const MAX_ANSWER: usize = 64 * 1024;

/// The one HTTP client of what the gateway asks and gives by itself.
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Whom a server must be, and who asks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpTls {
    /// CA certificates that the server's must be issued by; those of this machine where there are none.
    pub ca: Option<Vec<Vec<u8>>>,
    /// DER chain and DER key of ours, already matched with each other.
    pub client: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

/// What a URL is asked.
pub(super) struct Question<'a> {
    pub url: &'a str,
    pub accept: &'static str,
    pub etag: Option<&'a str>,
    pub modified: Option<&'a str>,
    pub token: Option<&'a HeaderValue>,
    pub max_size: usize,
}

pub(super) enum Answer {
    NotModified,
    New { bytes: Bytes, etag: Option<String>, modified: Option<String> },
}

impl Http {
    /// With what this machine believes.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = match HttpsConnectorBuilder::new().with_provider_and_native_roots(provider.clone()) {
            Ok(builder) => builder,
            Err(e) => {
                tracing::warn!(error = %e, "no certificates of public CAs on this machine: https sources of lists fail");
                let config = rustls::ClientConfig::builder_with_provider(provider);
                let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
                let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let client = Client::builder(TokioExecutor::new()).build(builder.https_or_http().enable_http1().build());
        Ok(Http { client })
    }

    /// # Errors
    /// TLS cannot be set up.
    pub fn with(tls: &HttpTls) -> io::Result<Self> {
        if *tls == HttpTls::default() {
            return Self::new();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let config = match &tls.ca {
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                for der in ca {
                    roots.add(CertificateDer::from(der.as_slice())).map_err(io::Error::other)?;
                }
                config.with_root_certificates(roots)
            }
            None => config.with_native_roots()?,
        };
        let config = match &tls.client {
            Some((chain, key)) => {
                let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
                let key = PrivateKeyDer::try_from(key.clone()).map_err(io::Error::other)?;
                config.with_client_auth_cert(chain, key).map_err(io::Error::other)?
            }
            None => config.with_no_client_auth(),
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        Ok(Http { client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// The status of the answer, once all of it is there.
    ///
    /// # Errors
    /// Why there is no answer, for the operator.
    pub async fn post(&self, url: &str, head: HeaderMap, body: Bytes) -> Result<StatusCode, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
        *request.headers_mut() = head;
        let agent = HeaderValue::from_static(concat!("partnergate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        let answer = self.client.request(request).await.map_err(|e| causes(&e))?;
        let status = answer.status();
        // Only so that the connection can be used again; what it says does not matter.
        let _ = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok(status)
    }

    /// # Errors
    /// Why there is nothing, for the operator.
    pub(super) async fn get(&self, question: Question<'_>) -> Result<Answer, String> {
        let Question { url, accept, etag, modified, token, max_size } = question;
        let mut request = Request::get(url)
            .header(USER_AGENT, concat!("partnergate/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, accept);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if let Some(modified) = modified {
            request = request.header(IF_MODIFIED_SINCE, modified);
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::default()).map_err(|e| e.to_string())?;
        let answer = self.client.request(request).await.map_err(|e| causes(&e))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if etag.is_some() || modified.is_some() => return Ok(Answer::NotModified),
            status if status.is_redirection() => {
                let to = text(&answer, http::header::LOCATION).unwrap_or_default();
                return Err(format!("redirected to `{}`; redirects are not followed", to.escape_debug()));
            }
            status => return Err(format!("answered {status}")),
        }
        let (etag, modified) = (text(&answer, ETAG), text(&answer, LAST_MODIFIED));
        let body = Limited::new(answer.into_body(), max_size);
        match body.collect().await {
            Ok(body) => Ok(Answer::New { bytes: body.to_bytes(), etag, modified }),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(format!("larger than {max_size} bytes")),
            Err(e) => Err(format!("broke off: {}", causes(&*e))),
        }
    }
}

/// Host of a URL, with its port where one is written.
pub(super) fn host_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    uri.authority().filter(|a| http && !a.as_str().contains('@')).map(|a| a.as_str().to_owned())
}

fn text<B>(answer: &http::Response<B>, name: HeaderName) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().filter(|v| v.len() <= 1024).map(str::to_owned)
}

/// The error with what caused it: the outer one alone often says nothing.
fn causes(e: &dyn Error) -> String {
    let mut out = e.to_string();
    let mut inner = e.source();
    while let Some(e) = inner {
        let said = e.to_string();
        if !out.contains(&said) {
            out = format!("{out}: {said}");
        }
        inner = e.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_is_asked_and_nothing_that_only_looks_like_it() {
        assert_eq!(host_of("http://crl.example/a").as_deref(), Some("crl.example"));
        assert_eq!(host_of("http://crl.example:8080/a").as_deref(), Some("crl.example:8080"));
        for bad in ["http://crl.example@evil.example/a", "ldap://crl.example/a", "file:///etc/passwd", "//crl.example/"]
        {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }
}
