//! The parts of a CertificateList (RFC 5280 section 5.1), taken apart and not yet believed.

use super::CrlFault;
use super::der::{BIT_STRING, DerFault, GENERALIZED_TIME, INTEGER, Reader, SEQUENCE, UTC_TIME};
use super::issuer::{Signed, octets};
use crate::clock::UnixNanos;
use crate::identity::DistinguishedName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

pub(super) struct Parts<'a> {
    pub issuer: DistinguishedName,
    pub this_update: UnixNanos,
    pub next_update: Option<UnixNanos>,
    /// Content of revokedCertificates.
    pub entries: &'a [u8],
    /// Content of the SEQUENCE OF Extension; `None` in a list of version 1.
    pub extensions: Option<&'a [u8]>,
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    pub fn of(der: &'a [u8]) -> Result<Self, CrlFault> {
        let mut file = Reader::new(der);
        let list = file.expect(SEQUENCE).map_err(|fault| match fault {
            DerFault::Short => CrlFault::Truncated,
            DerFault::Form => CrlFault::Malformed("it does not start with a SEQUENCE"),
        })?;
        file.end().map_err(|_| CrlFault::TrailingBytes)?;
        let mut fields = Reader::new(list.content);
        let to_be_signed = fields.expect(SEQUENCE).map_err(|_| CrlFault::Malformed("tbsCertList"))?;
        let algorithm = fields.expect(SEQUENCE).map_err(|_| CrlFault::Malformed("signatureAlgorithm"))?.content;
        let signature = fields
            .expect(BIT_STRING)
            .and_then(|bits| octets(bits.content))
            .map_err(|_| CrlFault::Malformed("signatureValue"))?;
        fields.end().map_err(|_| CrlFault::Malformed("something follows signatureValue"))?;

        let mut fields = Reader::new(to_be_signed.content);
        let version = fields.optional(INTEGER).map_err(|_| CrlFault::Malformed("version"))?;
        if version.is_some_and(|version| version.content != [1]) {
            return Err(CrlFault::Malformed("its version is not 2"));
        }
        if fields.expect(SEQUENCE).map_err(|_| CrlFault::Malformed("signature"))?.content != algorithm {
            return Err(CrlFault::AlgorithmsDiffer);
        }
        let issuer = fields.expect(SEQUENCE).map_err(|_| CrlFault::Malformed("issuer"))?.whole;
        let issuer = DistinguishedName::from_der(issuer).map_err(|_| CrlFault::Malformed("issuer"))?;
        let this_update = time(&mut fields).ok().flatten().ok_or(CrlFault::Malformed("thisUpdate"))?;
        let next_update = time(&mut fields).map_err(|_| CrlFault::Malformed("nextUpdate"))?;
        let entries = fields.optional(SEQUENCE).map_err(|_| CrlFault::Malformed("revokedCertificates"))?;
        let extensions = match fields.optional(0xa0).map_err(|_| CrlFault::Malformed("crlExtensions"))? {
            Some(_) if version.is_none() => return Err(CrlFault::Malformed("extensions in a list of version 1")),
            Some(wrapped) => {
                let mut inner = Reader::new(wrapped.content);
                let extensions = inner.expect(SEQUENCE).map_err(|_| CrlFault::Malformed("crlExtensions"))?;
                inner.end().map_err(|_| CrlFault::Malformed("crlExtensions"))?;
                Some(extensions.content)
            }
            None => None,
        };
        fields.end().map_err(|_| CrlFault::Malformed("tbsCertList has a field that is not known"))?;
        Ok(Parts {
            issuer,
            this_update,
            next_update,
            entries: entries.map_or(&[], |entries| entries.content),
            extensions,
            message: to_be_signed.whole,
            algorithm,
            signature,
        })
    }

    pub fn signed(&self) -> Signed<'_> {
        Signed { issuer: &self.issuer, message: self.message, algorithm: self.algorithm, signature: self.signature }
    }
}

/// A time if one comes next: digits to the second and `Z`, as RFC 5280 demands.
fn time(fields: &mut Reader<'_>) -> Result<Option<UnixNanos>, DerFault> {
    // One after the other: where the first is there, a second one is the next field.
    let (element, length) = match fields.optional(UTC_TIME)? {
        Some(element) => (element, 13),
        None => match fields.optional(GENERALIZED_TIME)? {
            Some(element) => (element, 15),
            None => return Ok(None),
        },
    };
    if element.content.len() != length {
        return Err(DerFault::Form);
    }
    let Some((b'Z', digits)) = element.content.split_last() else { return Err(DerFault::Form) };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(DerFault::Form);
    }
    let (_, time) = ASN1Time::from_der(element.whole).map_err(|_| DerFault::Form)?;
    Ok(Some(UnixNanos(time.timestamp().saturating_mul(1_000_000_000))))
}
