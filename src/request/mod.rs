//! The canonical form of a request: what policy sees and what the upstream receives are the same bytes, or the request
//! is refused.
//!
//! In: the raw HTTP/1 head ([`judge_head`]) and the parsed target, host and fields ([`canonicalise`]). Out: a
//! [`CanonicalRequest`], or a [`Refusal`] with its reason. Must never: decode, normalise or repair what the client sent.

mod canonical;
mod head;

pub use canonical::{CanonicalRequest, Host, SERVED, canonicalise};
pub use head::{HeadLimits, judge_head};

use crate::clock::UnixNanos;
use crate::reason::Reason;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Why a request is refused before any decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// For the operator; the partner sees only the reason's code.
    pub detail: String,
}

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Refusal { reason, detail: detail.into() }
    }
}

/// What the TLS layer agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsFacts {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher: String,
    pub sni: Option<String>,
}

impl TlsFacts {
    /// IANA names of the cipher suites that can be agreed on.
    pub fn ciphers() -> impl Iterator<Item = String> {
        rustls::crypto::ring::ALL_CIPHER_SUITES.iter().map(|suite| Self::cipher_name(suite.suite()))
    }

    /// The IANA name of a cipher suite, where rustls has a prefix of its own.
    pub fn cipher_name(suite: rustls::CipherSuite) -> String {
        let name = suite.as_str().unwrap_or("unknown");
        name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
    }
}

/// Everything a decision needs to know of one request besides who sent it.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// The gateway's own id for the request (UUIDv7).
    pub id: Arc<str>,
    pub canonical: CanonicalRequest,
    /// Address of the client, IPv4-mapped addresses as IPv4.
    pub source: SocketAddr,
    pub tls: Arc<TlsFacts>,
    /// The fields that the config lets policy see, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Of the Content-Length field; 0 where there is no body; absent where there is one that does not say its length.
    pub content_length: Option<u64>,
    pub upgrade: UpgradeWanted,
    /// What comes as an access token (RFC 6750 section 2.1).
    pub bearer: Brought,
    /// What comes as an API key.
    pub api_key: Brought,
    pub now: UnixNanos,
}

/// What of a request may be a secret that it proves itself with. It is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Brought {
    None,
    Text(Arc<str>),
    /// What may be one, and stands in another way than it is to.
    Unclear(&'static str),
}

impl fmt::Debug for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Brought::None => "None",
            Brought::Text(_) => "Text",
            Brought::Unclear(_) => "Unclear",
        })
    }
}

/// Whether the request asks to leave HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeWanted {
    No,
    /// For this protocol, in lower case.
    To(Arc<str>),
    /// Several protocols, or asked for in another way than RFC 9110 section 7.8 has it: never served.
    Unclear,
}

impl UpgradeWanted {
    /// Whether what follows the head is no HTTP.
    pub fn is_wanted(&self) -> bool {
        *self != UpgradeWanted::No
    }
}

/// An address as it is compared: IPv4-mapped IPv6 is IPv4.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
