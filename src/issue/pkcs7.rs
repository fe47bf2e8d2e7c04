//! Certificates alone in the wrapping that EST wants: a degenerate SignedData (RFC 5652 section 5, RFC 7030 section 4.1.3),
//! which signs nothing; and what a request is to look like (RFC 7030 section 4.5.2).

use yasna::models::ObjectIdentifier;
use yasna::{Tag, construct_der};

/// id-signedData and id-data.
const SIGNED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 2];
const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];

/// A ContentInfo with these certificates, each in DER.
pub fn certs_only(certificates: &[&[u8]]) -> Vec<u8> {
    let oid = |arcs: &[u64]| ObjectIdentifier::from_slice(arcs);
    construct_der(|writer| {
        writer.write_sequence(|content| {
            content.next().write_oid(&oid(SIGNED_DATA));
            content.next().write_tagged(Tag::context(0), |writer| {
                writer.write_sequence(|signed| {
                    signed.next().write_u8(1);
                    signed.next().write_set(|_| {});
                    signed.next().write_sequence(|inner| inner.next().write_oid(&oid(DATA)));
                    signed.next().write_tagged_implicit(Tag::context(0), |writer| {
                        writer.write_set(|set| certificates.iter().for_each(|der| set.next().write_der(der)));
                    });
                    signed.next().write_set(|_| {});
                });
            });
        });
    })
}

/// What clients are asked for: a key on P-256, and a signature by it with SHA-256.
pub fn csr_attributes() -> Vec<u8> {
    const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10_045, 4, 3, 2];
    const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10_045, 2, 1];
    const P256: &[u64] = &[1, 2, 840, 10_045, 3, 1, 7];
    let oid = |arcs: &[u64]| ObjectIdentifier::from_slice(arcs);
    construct_der(|writer| {
        writer.write_sequence(|all| {
            all.next().write_sequence(|attribute| {
                attribute.next().write_oid(&oid(EC_PUBLIC_KEY));
                attribute.next().write_set(|values| values.next().write_oid(&oid(P256)));
            });
            all.next().write_oid(&oid(ECDSA_WITH_SHA256));
        });
    })
}
