//! Which certificates a list speaks of: issuingDistributionPoint (RFC 5280 section 5.2.5).

use super::CrlFault;
use super::der::{DerFault, Reader, SEQUENCE, boolean};
use crate::identity::{DistinguishedName, Fingerprint, MAX_CRL_URLS, crl_url};

/// A list replaces the one of an equal scope, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub issuer: DistinguishedName,
    pub issuer_spki: Fingerprint,
    pub holds: Holds,
    /// Sorted. Empty: certificates wherever they say that their list is; else those that name one of these places.
    pub urls: Vec<String>,
}

/// Kinds of certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Holds {
    #[default]
    All,
    /// onlyContainsUserCerts.
    UserCertificates,
    /// onlyContainsCACerts.
    CaCertificates,
}

impl Scope {
    /// RFC 5280 section 6.3.3 (b) (2) for a certificate of this issuer.
    pub fn covers(&self, is_ca: bool, distribution_points: &[String]) -> bool {
        let kind = match self.holds {
            Holds::All => true,
            Holds::UserCertificates => !is_ca,
            Holds::CaCertificates => is_ca,
        };
        kind && (self.urls.is_empty() || distribution_points.iter().any(|url| self.urls.binary_search(url).is_ok()))
    }
}

/// Of the value of the extension.
pub(super) fn read(value: &[u8]) -> Result<(Holds, Vec<String>), CrlFault> {
    let form = |_: DerFault| CrlFault::ScopeMalformed("not in DER");
    let mut outer = Reader::new(value);
    let mut fields = Reader::new(outer.expect(SEQUENCE).map_err(form)?.content);
    outer.end().map_err(form)?;
    if fields.is_empty() {
        return Err(CrlFault::ScopeMalformed("it is empty"));
    }
    let (mut holds, mut urls) = (Holds::All, Vec::new());
    if let Some(point) = fields.optional(0xa0).map_err(form)? {
        urls = full_name(point.content)?;
    }
    let mut last = 0x80;
    while !fields.is_empty() {
        let field = fields.next().map_err(form)?;
        if field.tag <= last {
            return Err(CrlFault::ScopeMalformed("its fields are not in order"));
        }
        last = field.tag;
        // onlySomeReasons is a BIT STRING, all others are BOOLEAN.
        let set = field.tag == 0x83 || boolean(field.content).map_err(form)?;
        match (field.tag, set) {
            (0x81..=0x85, false) => {}
            (0x81, true) => holds = Holds::UserCertificates,
            (0x82, true) if holds == Holds::UserCertificates => {
                return Err(CrlFault::ScopeMalformed("it is for user certificates only and for CA certificates only"));
            }
            (0x82, true) => holds = Holds::CaCertificates,
            (0x83, true) => return Err(CrlFault::SomeReasons),
            (0x84, true) => return Err(CrlFault::Indirect),
            (0x85, true) => return Err(CrlFault::AttributeCertificates),
            _ => return Err(CrlFault::ScopeMalformed("it has a field that is not known")),
        }
    }
    Ok((holds, urls))
}

/// The URIs of a DistributionPointName. Names of other kinds may stand beside them: one that matches is enough.
fn full_name(content: &[u8]) -> Result<Vec<String>, CrlFault> {
    let form = |_: DerFault| CrlFault::ScopeMalformed("its distribution point is not in DER");
    let mut choice = Reader::new(content);
    let name = choice.next().map_err(form)?;
    choice.end().map_err(form)?;
    match name.tag {
        0xa0 => {}
        0xa1 => return Err(CrlFault::RelativeName),
        _ => return Err(CrlFault::ScopeMalformed("its distribution point is of no known kind")),
    }
    let (mut names, mut urls) = (Reader::new(name.content), Vec::new());
    while !names.is_empty() {
        let name = names.next().map_err(form)?;
        let uri = (name.tag == 0x86).then_some(name.content).and_then(|uri| std::str::from_utf8(uri).ok());
        let Some(url) = uri.and_then(crl_url) else { continue };
        if urls.len() == MAX_CRL_URLS {
            return Err(CrlFault::ScopeMalformed("its distribution point has more than 16 URIs"));
        }
        urls.push(url.to_owned());
    }
    if urls.is_empty() {
        return Err(CrlFault::ScopeWithoutUrl);
    }
    urls.sort();
    urls.dedup();
    Ok(urls)
}
