//! The authorization server: where it is, what it says of itself (RFC 8414), and how it says no.

use crate::reason::{Code, Reason};
use crate::request::{CanonicalRequest, Host};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is asked for at one of its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OauthEndpoint {
    /// RFC 8414 section 3.
    Metadata,
    /// RFC 7517 section 5.
    Keys,
    /// RFC 6749 section 3.2.
    Token,
    /// RFC 7009 section 2.
    Revocation,
}

impl OauthEndpoint {
    pub const ALL: &'static [OauthEndpoint] =
        &[OauthEndpoint::Metadata, OauthEndpoint::Keys, OauthEndpoint::Token, OauthEndpoint::Revocation];

    pub fn path(self) -> &'static str {
        match self {
            OauthEndpoint::Metadata => "/.well-known/oauth-authorization-server",
            OauthEndpoint::Keys => "/.well-known/jwks.json",
            OauthEndpoint::Token => "/oauth2/token",
            OauthEndpoint::Revocation => "/oauth2/revoke",
        }
    }

    /// As records and metrics name it, in the place of an operation.
    pub fn name(self) -> &'static str {
        match self {
            OauthEndpoint::Metadata => "oauth2.metadata",
            OauthEndpoint::Keys => "oauth2.keys",
            OauthEndpoint::Token => "oauth2.token",
            OauthEndpoint::Revocation => "oauth2.revoke",
        }
    }

    pub fn takes(self, method: &Method) -> bool {
        match self {
            OauthEndpoint::Metadata | OauthEndpoint::Keys => matches!(*method, Method::GET | Method::HEAD),
            OauthEndpoint::Token | OauthEndpoint::Revocation => *method == Method::POST,
        }
    }

    /// Methods that it takes, as Allow says them.
    pub fn methods(self) -> &'static str {
        match self {
            OauthEndpoint::Metadata | OauthEndpoint::Keys => "GET, HEAD",
            OauthEndpoint::Token | OauthEndpoint::Revocation => "POST",
        }
    }
}

/// RFC 8705 section 2: a certificate authenticates, one of a CA or one that was registered.
const AUTH_METHODS: [&str; 2] = ["tls_client_auth", "self_signed_tls_client_auth"];

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub issuer: Arc<str>,
    pub host: Host,
}

impl Server {
    /// `https://`, a host name and maybe a port.
    ///
    /// # Errors
    /// It is none of that.
    pub fn of(issuer: &str) -> Result<Server, String> {
        let host = issuer.strip_prefix("https://").and_then(|rest| {
            let host = Host::parse(rest).ok()?;
            let port = rest.strip_prefix(host.as_str())?;
            let is_plain = port.is_empty() || (port.len() > 1 && !port.starts_with(":0") && port != ":443");
            is_plain.then_some(host)
        });
        match host {
            Some(host) => Ok(Server { issuer: issuer.into(), host }),
            None => Err(format!(
                "`{issuer}` is not `https://` and a host name in lower case, with a port where it is not 443, and nothing behind it"
            )),
        }
    }

    /// Which of its endpoints a request is for.
    pub fn endpoint(&self, request: &CanonicalRequest) -> Option<OauthEndpoint> {
        let endpoint = OauthEndpoint::ALL.iter().find(|endpoint| endpoint.path() == request.path)?;
        (request.host == self.host).then_some(*endpoint)
    }

    /// RFC 8414 section 2, RFC 8705 section 3.3.
    pub fn metadata(&self) -> Value {
        let at = |endpoint: OauthEndpoint| format!("{}{}", self.issuer, endpoint.path());
        json!({
            "issuer": &*self.issuer,
            "token_endpoint": at(OauthEndpoint::Token),
            "revocation_endpoint": at(OauthEndpoint::Revocation),
            "jwks_uri": at(OauthEndpoint::Keys),
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
            "token_endpoint_auth_methods_supported": AUTH_METHODS,
            "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
            "tls_client_certificate_bound_access_tokens": true,
        })
    }
}

/// How a request for a token is refused (RFC 6749 section 5.2, RFC 8707 section 2, RFC 7009 section 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OauthError {
    InvalidRequest,
    InvalidClient,
    UnsupportedGrantType,
    UnsupportedTokenType,
    InvalidScope,
    InvalidTarget,
    TemporarilyUnavailable,
    ServerError,
}

impl OauthError {
    /// What the client is told, for an exact reason.
    pub fn of(reason: &Reason) -> Self {
        match reason {
            Reason::TokenClientNotAuthentic => OauthError::InvalidClient,
            Reason::TokenGrantTypeNotServed => OauthError::UnsupportedGrantType,
            Reason::TokenTypeNotRevoked => OauthError::UnsupportedTokenType,
            Reason::TokenScopeEmpty => OauthError::InvalidScope,
            Reason::TokenTargetUnknown => OauthError::InvalidTarget,
            reason => match reason.code() {
                Code::Internal => OauthError::ServerError,
                code if code.status() >= 500 => OauthError::TemporarilyUnavailable,
                Code::IdentityUnknown
                | Code::CredentialNotValid
                | Code::EngagementNotActive
                | Code::SourceNotPermitted
                | Code::NotPermitted => OauthError::InvalidClient,
                _ => OauthError::InvalidRequest,
            },
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            OauthError::InvalidRequest => "invalid_request",
            OauthError::InvalidClient => "invalid_client",
            OauthError::UnsupportedGrantType => "unsupported_grant_type",
            OauthError::UnsupportedTokenType => "unsupported_token_type",
            OauthError::InvalidScope => "invalid_scope",
            OauthError::InvalidTarget => "invalid_target",
            OauthError::TemporarilyUnavailable => "temporarily_unavailable",
            OauthError::ServerError => "server_error",
        }
    }

    /// 400 for a client that is not authenticated too: 401 would name another way to be, and there is none.
    pub fn status(self) -> u16 {
        match self {
            OauthError::TemporarilyUnavailable => 503,
            OauthError::ServerError => 500,
            _ => 400,
        }
    }
}

#[cfg(test)]
mod tests;
