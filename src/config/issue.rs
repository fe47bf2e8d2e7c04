//! The built-in CA and the enrol listener.

use super::files::{At, Reader};
use crate::document::{Problems, Section};
use crate::issue::{Ca, Terms, open_key};
use crate::name::AnchorName;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The CA that certificates of partners come from.
#[derive(Clone, Debug)]
pub struct IssueConfig {
    /// The anchor that it is.
    pub anchor: AnchorName,
    pub ca: Arc<Ca>,
    pub terms: Terms,
    /// How long a certificate is good beside the one that has renewed it, once that is in use.
    pub overlap: Duration,
    /// From its thisUpdate to its nextUpdate.
    pub list_lifetime: Duration,
}

/// Where partners enrol.
#[derive(Clone, Debug)]
pub struct EnrolConfig {
    pub listen: Vec<SocketAddr>,
    /// The built-in CA, where there is one.
    pub ca: Option<Arc<Ca>>,
    /// What it shows who it is with; none where it is off.
    pub key: Option<Arc<CertifiedKey>>,
    /// When a partner whose approval waits is to ask again.
    pub retry_after: Duration,
}

pub(super) fn read(section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<Option<IssueConfig>> {
    if section.own_node().is_none() {
        return Some(None);
    }
    let at = |key: &str| section.node(key).map(|node| At { node, key: format!("issue.{key}") });
    let certificate_at = at("certificate")?;
    let certificates = reader.certificates(&certificate_at, section.text("certificate")?, problems)?;
    let [certificate] = certificates.as_slice() else {
        problems.push(certificate_at.node.error(
            "issue.certificate",
            "holds several certificates: name the CA's alone",
            None,
        ));
        return None;
    };
    let passphrase = match at("passphrase") {
        Some(at) => Some(reader.secret(&at, section.text("passphrase")?, problems)?.1),
        None => None,
    };
    let key = match at("key") {
        None => None,
        Some(at) => {
            let (file, pem) = reader.secret(&at, section.text("key")?, problems)?;
            match open_key(&pem, passphrase.as_deref()) {
                Ok(key) => Some(key),
                Err(reason) => {
                    problems.push(at.node.error("issue.key", format!("`{file}` {reason}"), None));
                    return None;
                }
            }
        }
    };
    let ca = match Ca::new(certificate, key.as_deref()) {
        Ok(ca) => ca,
        Err(reason) => {
            problems.push(certificate_at.node.error(
                "issue.certificate",
                reason,
                Some("make one with `partnergate ca init`"),
            ));
            return None;
        }
    };
    Some(Some(IssueConfig {
        anchor: AnchorName::parse(section.text("anchor")?).ok()?,
        ca: Arc::new(ca),
        terms: Terms {
            lifetime: section.duration("lifetime"),
            list_url: section.text("list_url").map(str::to_owned),
            until: None,
        },
        overlap: section.duration("overlap"),
        list_lifetime: section.duration("list_lifetime"),
    }))
}

pub(super) fn enrol(
    section: Section<'_>,
    (ca, is_wrong): (Option<Arc<Ca>>, bool),
    reader: &mut Reader,
    problems: &mut Problems,
) -> Option<EnrolConfig> {
    let listen: Vec<SocketAddr> = section.texts("listen").iter().filter_map(|t| t.parse().ok()).collect();
    let retry_after = section.duration("retry_after");
    if listen.is_empty() {
        return Some(EnrolConfig { listen, ca, key: None, retry_after });
    }
    if ca.is_none() && !is_wrong {
        let fix = "add `issue`: the CA that gives the certificates";
        problems.push(section.node("listen")?.error("enrol.listen", "needs a built-in CA", Some(fix)));
    }
    if ca.as_ref().is_some_and(|ca| !ca.can_sign()) {
        let fix =
            "add `issue.key`, or take `enrol` away: partners enrol by themselves where the gateway itself can sign";
        problems.push(section.node("listen")?.error("enrol.listen", "needs the key of the built-in CA", Some(fix)));
    }
    let at = |key: &str| section.node(key).map(|node| At { node, key: format!("enrol.{key}") });
    let (Some(chain_at), Some(key_at)) = (at("chain"), at("key")) else {
        let fix = "add `chain` and `key`: what the listener shows who it is with";
        problems.push(section.node("listen")?.error("enrol.listen", "needs a server certificate", Some(fix)));
        return None;
    };
    let chain = reader.certificates(&chain_at, section.text("chain")?, problems)?;
    let (key_file, pem) = reader.secret(&key_at, section.text("key")?, problems)?;
    let key = reader.matched_key(&key_at, &chain, (&key_file, &pem), problems)?;
    let key = PrivateKeyDer::try_from(key).ok()?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(key) => Some(EnrolConfig { listen, ca, key: Some(Arc::new(key)), retry_after }),
        Err(e) => {
            problems.push(chain_at.node.error("enrol.chain", format!("cannot be used: {e}"), None));
            None
        }
    }
}
