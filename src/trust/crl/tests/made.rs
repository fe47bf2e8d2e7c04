//! Revocation lists made in the test: by rcgen, and by hand where rcgen would not make them.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    SignatureAlgorithm,
};
use x509_parser::prelude::FromDer;

pub(in crate::trust) struct Ca {
    pub der: Vec<u8>,
    pub signer: Issuer<'static, KeyPair>,
}

pub(in crate::trust) fn ca(name: &str) -> Ca {
    ca_with(name, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
}

pub(in crate::trust) fn ca_with(
    name: &str,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    let key = KeyPair::generate_for(algorithm).unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Ca { der, signer: Issuer::new(params, key) }
}

impl Ca {
    pub fn issuer(&self) -> IssuerKey {
        IssuerKey::from_certificate(&self.der).unwrap()
    }

    pub fn list(&self, number: u64, serials: &[&str]) -> Vec<u8> {
        self.by_rcgen(number, serials, None)
    }

    pub fn list_in_scope(&self, number: u64, serials: &[&str], url: &str, scope: Option<CrlScope>) -> Vec<u8> {
        let distribution_point = CrlDistributionPoint { uris: vec![url.to_owned()] };
        self.by_rcgen(number, serials, Some(CrlIssuingDistributionPoint { distribution_point, scope }))
    }

    fn by_rcgen(&self, number: u64, serials: &[&str], point: Option<CrlIssuingDistributionPoint>) -> Vec<u8> {
        self.list_params(number, serials, point).signed_by(&self.signer).unwrap().der().to_vec()
    }

    pub fn list_params(
        &self,
        number: u64,
        serials: &[&str],
        point: Option<CrlIssuingDistributionPoint>,
    ) -> CertificateRevocationListParams {
        let at = rcgen::date_time_ymd(2026, 1, 1);
        let revoked = |serial: &&str| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&hex::decode(format!("{serial:0>2}")).unwrap()),
            revocation_time: at,
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: Some(at),
        };
        CertificateRevocationListParams {
            this_update: at,
            next_update: rcgen::date_time_ymd(2027, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: point,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
    }
}

/// A list by hand. Starts out good.
pub(in crate::trust) struct Draft {
    pub version: Option<u8>,
    pub algorithm: Vec<u8>,
    pub inner_algorithm: Option<Vec<u8>>,
    pub issuer: Vec<u8>,
    pub this: &'static str,
    pub next: Option<&'static str>,
    pub entries: Vec<u8>,
    pub extensions: Vec<Vec<u8>>,
}

const ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

impl Draft {
    pub fn of(ca: &Ca) -> Self {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&ca.der).unwrap();
        Draft {
            version: Some(1),
            algorithm: ECDSA_SHA256.to_vec(),
            inner_algorithm: None,
            issuer: certificate.subject().as_raw().to_vec(),
            this: "260101000000Z",
            next: Some("270101000000Z"),
            entries: entries(&["05"], &[]),
            extensions: vec![number(1)],
        }
    }

    /// The content of tbsCertList.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.version.map(|version| tlv(2, &[version])).unwrap_or_default());
        body.extend(tlv(0x30, self.inner_algorithm.as_ref().unwrap_or(&self.algorithm)));
        body.extend(&self.issuer);
        body.extend(tlv(0x17, self.this.as_bytes()));
        body.extend(self.next.map(|next| tlv(0x17, next.as_bytes())).unwrap_or_default());
        body.extend(tlv(0x30, &self.entries));
        if !self.extensions.is_empty() {
            body.extend(tlv(0xa0, &tlv(0x30, &self.extensions.concat())));
        }
        body
    }

    pub fn signed(&self, ca: &Ca) -> Vec<u8> {
        sign_as(&tlv(0x30, &self.body()), &self.algorithm, ca)
    }
}

/// Puts the signature of a P-256 key to a tbsCertList.
pub(in crate::trust) fn sign(to_be_signed: &[u8], ca: &Ca) -> Vec<u8> {
    sign_as(to_be_signed, ECDSA_SHA256, ca)
}

fn sign_as(to_be_signed: &[u8], algorithm: &[u8], ca: &Ca) -> Vec<u8> {
    let signature = ca.signer.key().sign(to_be_signed).unwrap();
    let parts = [to_be_signed.to_vec(), tlv(0x30, algorithm), tlv(3, &[&[0], signature.as_slice()].concat())];
    tlv(0x30, &parts.concat())
}

pub(in crate::trust) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let digits: Vec<u8> = length.into_iter().skip_while(|digit| *digit == 0).collect();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        _ => {
            out.push(0x80 | digits.len() as u8);
            out.extend(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

pub(in crate::trust) fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { vec![1, 1, 0xff] } else { vec![] };
    tlv(0x30, &[tlv(6, oid), critical, tlv(4, value)].concat())
}

pub(in crate::trust) fn number(number: u16) -> Vec<u8> {
    extension(&[0x55, 0x1d, 0x14], false, &tlv(2, &number.to_be_bytes()))
}

/// The value of an issuingDistributionPoint with one URI.
pub(in crate::trust) fn idp_url(url: &str) -> Vec<u8> {
    tlv(0x30, &tlv(0xa0, &tlv(0xa0, &tlv(0x86, url.as_bytes()))))
}

/// Entries with these content octets as serials, in hex, and each with these extensions.
pub(in crate::trust) fn entries(serials: &[&str], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = if extensions.is_empty() { vec![] } else { tlv(0x30, &extensions.concat()) };
    let entry = |serial: &&str| {
        let serial = tlv(2, &hex::decode(serial).unwrap());
        tlv(0x30, &[serial, tlv(0x17, b"260101000000Z"), extensions.clone()].concat())
    };
    serials.iter().flat_map(entry).collect()
}

pub(in crate::trust) fn pem(der: &[u8]) -> String {
    let body = data_encoding::BASE64_MIME.encode(der).replace('\r', "");
    format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", body.trim_end())
}
