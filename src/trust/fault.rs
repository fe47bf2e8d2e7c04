//! webpki's errors as our reasons.

use crate::identity::Fault;
use crate::reason::Reason;
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
    Fault::new(reason, error.to_string())
}
