//! The gateway's own certificates: read, matched with their keys, and found by server name.

use crate::clock::UnixNanos;
use crate::document::Problems;
use crate::identity::Certificate;
use crate::request::Host;
use crate::route::Routes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A certificate chain and its key, as read. The key is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerCertificateSource {
    /// The files, for messages.
    pub chain_file: String,
    pub key_file: String,
    /// PEM, leaf first.
    pub chain: Vec<u8>,
    /// PEM.
    pub key: Vec<u8>,
    /// What clients verify it by, where that is said; DER.
    pub ca: Vec<Vec<u8>>,
}

impl fmt::Debug for ServerCertificateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificateSource").field("chain_file", &self.chain_file).finish_non_exhaustive()
    }
}

/// A certificate in use.
#[derive(Debug)]
pub struct ServerCertificate {
    pub file: String,
    pub facts: Certificate,
    pub key: Arc<CertifiedKey>,
    /// What clients verify it by, as far as that is known; DER.
    pub ca: Vec<Vec<u8>>,
}

impl ServerCertificate {
    /// Whether the certificate is for this server name (RFC 9525: one wildcard label, leftmost).
    pub fn serves(&self, name: &Host) -> bool {
        let name = name.as_str();
        self.facts.san.dns.iter().any(|dns| {
            dns == name
                || dns.strip_prefix("*.").is_some_and(|base| {
                    name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == base)
                })
        }) || self.facts.san.ip.iter().any(|ip| Host::parse(&bracketed(ip)).is_ok_and(|h| h.as_str() == name))
    }
}

fn bracketed(ip: &std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

pub(super) fn build(
    sources: &[ServerCertificateSource],
    now: UnixNanos,
    warn_within: Duration,
    problems: &mut Problems,
) -> Vec<ServerCertificate> {
    let mut built = Vec::new();
    for source in sources {
        match read(source) {
            Ok(certificate) => {
                let ends = certificate.facts.not_after;
                if ends <= now.saturating_add(warn_within) {
                    let state = if ends <= now { "has expired" } else { "expires" };
                    let reason = format!("the server certificate {state} at {ends}");
                    let fix = Some("replace the files; they are read again when they change");
                    problems.warning(&source.chain_file, "", reason, fix);
                }
                built.push(certificate);
            }
            Err((file, reason)) => problems.file(&file, reason, None),
        }
    }
    built
}

fn read(source: &ServerCertificateSource) -> Result<ServerCertificate, (String, String)> {
    let chain_error = |reason: String| (source.chain_file.clone(), reason);
    let key_error = |reason: String| (source.key_file.clone(), reason);
    let mut chain = Vec::new();
    for der in CertificateDer::pem_slice_iter(&source.chain) {
        chain.push(der.map_err(|e| chain_error(format!("not a certificate chain in PEM: {e}")))?);
    }
    let Some(leaf) = chain.first() else { return Err(chain_error("contains no certificate in PEM".into())) };
    let facts = Certificate::from_der(leaf).map_err(|fault| chain_error(fault.detail))?;
    if facts.san.dns.is_empty() && facts.san.ip.is_empty() {
        return Err(chain_error("the certificate has no DNS name or IP address in subjectAltName".into()));
    }
    // The error of the PEM reader is not shown: it could repeat what is in the key file.
    let key = PrivateKeyDer::from_pem_slice(&source.key)
        .map_err(|_| key_error("contains no private key in PEM (PKCS#8, PKCS#1 or SEC1, not encrypted)".into()))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| {
        key_error("the key is of a kind that is not supported: use RSA, P-256, P-384 or Ed25519".into())
    })?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|_| key_error(format!("the key does not fit the certificate in `{}`", source.chain_file)))?;
    let above = || certified.cert.iter().skip(1).map(|der| der.to_vec()).collect();
    let ca = if source.ca.is_empty() { above() } else { source.ca.clone() };
    Ok(ServerCertificate { file: source.chain_file.clone(), facts, key: Arc::new(certified), ca })
}

/// A host that no certificate is for could not be reached.
pub(super) fn check_hosts(certificates: &[ServerCertificate], routes: &Routes, problems: &mut Problems) {
    for route in routes.iter() {
        for host in route.hosts.iter().filter(|h| !certificates.iter().any(|c| c.serves(h))) {
            let reason = format!("no server certificate is for the host `{host}`");
            let fix = Some("add a certificate with this name, or clients will refuse the connection");
            problems.warning("routes", route.name.as_str(), reason, fix);
        }
    }
}
