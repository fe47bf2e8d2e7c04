//! SPIFFE IDs, and whether a leaf is an X.509-SVID.
//!
//! A certificate that says `spiffe:` in any URI is held to the rules of X.509-SVID as a whole: other programs, the
//! upstream among them, may believe the name, and it must then be the only one and of one reading.

use super::certificate::Certificate;

/// `spiffe://TRUST-DOMAIN/PATH`, of a workload: the path is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiffeId<'a> {
    pub trust_domain: &'a str,
    /// Without the first slash.
    pub path: &'a str,
}

/// What a leaf is to SPIFFE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Svid<'a> {
    /// No URI of it says `spiffe:`.
    No,
    /// One does, and a rule is broken: this one.
    Broken(String),
    Of(SpiffeId<'a>),
}

impl<'a> SpiffeId<'a> {
    /// SPIFFE-ID section 2: trust domain `[a-z0-9._-]`, path segments `[a-zA-Z0-9._-]`, none empty, `.` or `..`; at
    /// most 2048 bytes. A leaf names a workload, so there is a path (X.509-SVID section 4.1).
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("`{}` is not a workload's SPIFFE ID: {why}", text.escape_default()));
        let Some(rest) = text.strip_prefix("spiffe://") else { return bad("it must start with `spiffe://`") };
        if text.len() > 2048 {
            return bad("longer than 2048 bytes");
        }
        let Some((trust_domain, path)) = rest.split_once('/') else { return bad("it has no path") };
        if let Err(why) = check_trust_domain(trust_domain) {
            return bad(&why);
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !path.split('/').all(|s| !s.is_empty() && s != "." && s != ".." && s.bytes().all(fits)) {
            return bad("path segments are A-Z, a-z, 0-9, `.`, `_`, `-`, not empty");
        }
        Ok(SpiffeId { trust_domain, path })
    }
}

impl Certificate {
    /// X.509-SVID sections 2 and 4: exactly one URI, a workload's SPIFFE ID; not a CA; keyUsage with digitalSignature
    /// and neither keyCertSign nor cRLSign.
    pub fn svid(&self) -> Svid<'_> {
        if !self.san.uri.iter().any(|uri| claims_spiffe(uri)) {
            return Svid::No;
        }
        let [uri] = self.san.uri.as_slice() else {
            return Svid::Broken(format!("it has {} URIs; an X.509-SVID has one", self.san.uri.len()));
        };
        let id = match SpiffeId::parse(uri) {
            Ok(id) => id,
            Err(why) => return Svid::Broken(why),
        };
        if self.is_ca || self.cert_sign || (self.crl_sign && self.states_usage) {
            return Svid::Broken("its basicConstraints or keyUsage let it sign certificates or lists".into());
        }
        if !self.states_usage || !self.digital_signature {
            return Svid::Broken("it does not state the keyUsage digitalSignature".into());
        }
        Svid::Of(id)
    }
}

/// Whether a URI has the scheme of SPIFFE, in any case: some reader would take it for one.
pub fn claims_spiffe(uri: &str) -> bool {
    uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

/// The name of a SPIFFE trust domain (SPIFFE-ID section 2.1).
///
/// # Errors
/// What it must be.
pub fn check_trust_domain(text: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 255 || !text.bytes().all(fits) {
        return Err("the trust domain is 1 to 255 of a-z, 0-9, `.`, `_`, `-`".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Match;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    #[test]
    fn spiffe_ids_follow_their_rules() {
        for bad in [
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://A/x",
            "SPIFFE://a/x",
            "spiffe://a//x",
            "spiffe://a/../x",
            "spiffe://a/x/",
            "spiffe:/a",
            "spiffe://a/é",
            "spiffe://a:1/x",
            "spiffe://a/x?y",
        ] {
            assert!(Match::uri(bad).is_err(), "{bad}");
        }
        assert!(Match::uri("spiffe://acme.example/ns/prod/sa/billing").is_ok());
        let id = SpiffeId::parse("spiffe://acme.example/ns/prod").unwrap();
        assert_eq!((id.trust_domain, id.path), ("acme.example", "ns/prod"));
    }

    #[test]
    fn a_leaf_that_says_spiffe_is_an_svid_or_broken() {
        let leaf = |uris: &[&str], change: fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.subject_alt_names = uris.iter().map(|u| SanType::URI((*u).try_into().unwrap())).collect();
            change(&mut params);
            Certificate::from_der(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
        };
        let (good, none): (_, fn(&mut CertificateParams)) = ("spiffe://acme.example/a", |_| {});
        assert!(matches!(leaf(&[good], none).svid(), Svid::Of(id) if id.trust_domain == "acme.example"));
        assert_eq!(leaf(&["https://acme.example/a", "urn:x:y"], none).svid(), Svid::No);
        for (uris, change) in [
            (&[good, "https://acme.example/"][..], none),
            (&[good, good], none),
            (&["SPIFFE://acme.example/a"], none),
            (&["spiffe://acme.example"], none),
            (&[good], |p| p.key_usages.clear()),
            (&[good], |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            (&[good], |p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
            (&[good], |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ] {
            assert!(matches!(leaf(uris, change).svid(), Svid::Broken(_)), "{uris:?}");
        }
    }
}
