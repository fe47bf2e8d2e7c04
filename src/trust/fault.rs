//! webpki's errors as our reasons.

use crate::clock::UnixNanos;
use crate::identity::Fault;
use crate::reason::Reason;
use rustls::pki_types::UnixTime;
use std::time::Duration;
use webpki::Error;

pub(super) fn of(error: &Error) -> Fault {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is non-exhaustive; what is new is refused as malformed"
    )]
    let reason = match error {
        Error::UnknownIssuer => Reason::CertificateUnknownIssuer,
        Error::CertExpired { .. } => Reason::CertificateExpired,
        Error::CertNotValidYet { .. } => Reason::CertificateNotYetValid,
        Error::CertRevoked => Reason::CertificateRevoked,
        Error::InvalidSignatureForPublicKey | Error::SignatureAlgorithmMismatch => Reason::CertificateBadSignature,
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => Reason::CertificateWrongUsage,
        Error::UnsupportedSignatureAlgorithmContext(_) | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            Reason::CertificateUnsupportedKey
        }
        Error::CaUsedAsEndEntity
        | Error::EndEntityUsedAsCa
        | Error::NameConstraintViolation
        | Error::PathLenConstraintViolated
        | Error::UnsupportedCriticalExtension
        | Error::InvalidNetworkMaskConstraint
        | Error::MalformedNameConstraint
        | Error::IssuerNotCrlSigner => Reason::CertificateConstraint,
        Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => Reason::CertificateChainTooLong,
        _ => Reason::CertificateMalformed,
    };
    Fault::new(reason, detail(error))
}

/// What is wrong, in words where webpki has numbers.
fn detail(error: &Error) -> String {
    let at = |time: &UnixTime| UnixNanos(0).saturating_add(Duration::from_secs(time.as_secs()));
    match error {
        Error::CertExpired { time, not_after } => {
            format!("a certificate of the chain was valid until {}, and it is {}", at(not_after), at(time))
        }
        Error::CertNotValidYet { time, not_before } => {
            format!("a certificate of the chain is valid from {}, and it is {}", at(not_before), at(time))
        }
        other => other.to_string(),
    }
}
