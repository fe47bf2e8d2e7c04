//! The client's certificate as fields for the upstream: RFC 9440 and Envoy's form, each within a bound.
//!
//! In: the peer and the chain as it was received. Out: field values. Must never: pass on a certificate that is no part
//! of the verified path; send part of what does not fit.

use crate::identity::{Certificate, Fingerprint, Peer};
use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;

/// Longest value of a field that grows with what the client sends. Servers commonly take 16 KiB for a whole head.
pub const MAX_VALUE: usize = 12 * 1024;

/// The certificates between the leaf and the anchor, as `Client-Cert-Chain` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainField {
    /// The anchor has issued the leaf itself.
    Empty,
    /// RFC 9440 section 2.3: a list of byte sequences, the leaf's issuer first.
    Value(String),
    /// Larger than a field may be.
    TooLarge,
}

impl ChainField {
    /// Of the certificates that were received, those of the verified path.
    pub fn of(peer: &Peer, received: &[CertificateDer<'_>]) -> Self {
        if peer.intermediates.is_empty() {
            return ChainField::Empty;
        }
        let below: Vec<(Fingerprint, &CertificateDer<'_>)> =
            received.iter().skip(1).map(|der| (Fingerprint::of(der), der)).collect();
        let mut value = String::new();
        for issuer in &peer.intermediates {
            let Some((_, der)) = below.iter().find(|(f, _)| *f == issuer.fingerprint) else { continue };
            if value.len() + BASE64.encode_len(der.len()) + 4 > MAX_VALUE {
                return ChainField::TooLarge;
            }
            if !value.is_empty() {
                value.push_str(", ");
            }
            value.push_str(&byte_sequence(der));
        }
        if value.is_empty() { ChainField::Empty } else { ChainField::Value(value) }
    }
}

/// RFC 8941 section 3.3.5.
pub fn byte_sequence(der: &[u8]) -> String {
    format!(":{}:", BASE64.encode(der))
}

/// Envoy's `X-Forwarded-Client-Cert`; `None` when it does not fit.
pub(super) fn xfcc(leaf: &Certificate) -> Option<String> {
    let mut value = format!("Hash={};Subject=\"{}\"", leaf.fingerprint, quoted(&leaf.subject.to_string()));
    for (kind, names) in [("URI", &leaf.san.uri), ("DNS", &leaf.san.dns)] {
        for name in names {
            value.push_str(&format!(";{kind}=\"{}\"", quoted(name)));
            if value.len() > MAX_VALUE {
                return None;
            }
        }
    }
    (value.len() <= MAX_VALUE).then_some(value)
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
