//! The admin socket and the admin listener.

use super::files::{At, Reader};
use crate::document::{Problems, Section};
use nix::unistd::Group;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where operators come in.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub socket: PathBuf,
    /// The group of this machine whose members may connect to the socket.
    pub group: Option<String>,
    pub listen: Vec<SocketAddr>,
    /// Of the listener; none where it is off.
    pub tls: Option<Arc<ServerConfig>>,
}

impl AdminConfig {
    /// Whether nothing differs that takes effect at a start only.
    pub fn same_place(&self, other: &AdminConfig) -> bool {
        (&self.socket, &self.group, &self.listen) == (&other.socket, &other.group, &other.listen)
    }
}

pub(super) fn read(
    section: Section<'_>,
    socket: PathBuf,
    reader: &mut Reader,
    problems: &mut Problems,
) -> Option<AdminConfig> {
    let listen: Vec<SocketAddr> = section.texts("listen").iter().filter_map(|t| t.parse().ok()).collect();
    let group = section.text("group").map(str::to_owned);
    if let (Some(group), Some(node)) = (&group, section.node("group")) {
        if !matches!(Group::from_name(group), Ok(Some(_))) {
            problems.push(node.error("admin.group", format!("this machine has no group `{group}`"), None));
        }
    }
    let tls = if listen.is_empty() { None } else { Some(Arc::new(tls(section, reader, problems)?)) };
    Some(AdminConfig { socket, group, listen, tls })
}

fn tls(section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<ServerConfig> {
    let at = |key: &str| section.node(key).map(|node| At { node, key: format!("admin.{key}") });
    let (Some(chain_at), Some(key_at)) = (at("chain"), at("key")) else {
        let fix = "add `chain` and `key`: what the listener shows who it is with";
        problems.push(section.node("listen")?.error("admin.listen", "needs a server certificate", Some(fix)));
        return None;
    };
    let chain = reader.certificates(&chain_at, section.text("chain")?, problems)?;
    let (key_file, pem) = reader.secret(&key_at, section.text("key")?, problems)?;
    let key = reader.matched_key(&key_at, &chain, (&key_file, &pem), problems)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().ok()?;
    let builder = match at("client_ca") {
        None => builder.with_no_client_auth(),
        Some(ca_at) => {
            let mut roots = RootCertStore::empty();
            for ca in reader.certificates(&ca_at, section.text("client_ca")?, problems)? {
                if let Err(e) = roots.add(CertificateDer::from(ca)) {
                    problems.push(ca_at.node.error(ca_at.key.as_str(), format!("is no CA certificate: {e}"), None));
                    return None;
                }
            }
            // Who has none sends a token.
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build();
            match verifier {
                Ok(verifier) => builder.with_client_cert_verifier(verifier),
                Err(e) => {
                    problems.push(ca_at.node.error(ca_at.key.as_str(), format!("cannot be used: {e}"), None));
                    return None;
                }
            }
        }
    };
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::try_from(key).ok()?;
    match builder.with_single_cert(chain, key) {
        Ok(config) => Some(config),
        Err(e) => {
            problems.push(chain_at.node.error(chain_at.key.as_str(), format!("cannot be used: {e}"), None));
            None
        }
    }
}
