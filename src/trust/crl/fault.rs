//! Why a revocation list is not taken.

use crate::clock::UnixNanos;
use thiserror::Error;

/// One variant for each cause. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CrlFault {
    // The file.
    #[error("neither DER nor PEM with an `X509 CRL` block")]
    NotACrl,
    #[error("the `X509 CRL` block is not base64")]
    NotBase64,
    #[error("more than one PEM block: put each revocation list in a file of its own")]
    SeveralBlocks,
    #[error("{bytes} bytes; at most {} are read", super::MAX_CRL_BYTES)]
    TooLarge { bytes: usize },
    #[error("cut off: fewer bytes than the list says it has")]
    Truncated,
    #[error("bytes follow the list")]
    TrailingBytes,
    #[error("not a revocation list in DER: {0}")]
    Malformed(&'static str),

    // Who signed it.
    #[error("issued by `{issuer}`, which is neither the anchor nor a CA below it that is known here")]
    UnknownIssuer { issuer: String },
    #[error("the signature does not verify with the key of `{issuer}`")]
    BadSignature { issuer: String },
    #[error("signed with SHA-1 or MD5: let the CA sign with SHA-256 or better")]
    WeakSignature,
    #[error("the signature algorithm {oid} is not supported with the key of `{issuer}`")]
    UnsupportedSignature { oid: String, issuer: String },
    #[error("the signature algorithm inside the list is another than the one beside the signature")]
    AlgorithmsDiffer,
    #[error("the keyUsage of `{issuer}` does not permit cRLSign")]
    IssuerMayNotSign { issuer: String },

    // When it holds.
    #[error("not valid before {this_update} (thisUpdate)")]
    NotYetValid { this_update: UnixNanos },
    #[error("it has no nextUpdate, so that nobody could tell when it is stale")]
    NoNextUpdate,
    #[error("its nextUpdate {next_update} is not after its thisUpdate {this_update}")]
    EndsBeforeItStarts { this_update: UnixNanos, next_update: UnixNanos },

    // What it is a list of.
    #[error("a delta list (deltaCRLIndicator): name the complete list")]
    Delta,
    #[error("an indirect list (indirectCRL or certificateIssuer): each CA must sign its own")]
    Indirect,
    #[error("a list for some reasons only (onlySomeReasons): name one for all reasons")]
    SomeReasons,
    #[error("a list of attribute certificates (onlyContainsAttributeCerts)")]
    AttributeCertificates,
    #[error("its issuingDistributionPoint is named relative to the CRL issuer, which is not read: use a URI")]
    RelativeName,
    #[error("its issuingDistributionPoint has no http, https or ldap URI, so that it would cover no certificate")]
    ScopeWithoutUrl,
    #[error("its issuingDistributionPoint is not critical")]
    ScopeNotCritical,
    #[error("its issuingDistributionPoint cannot be read: {0}")]
    ScopeMalformed(&'static str),
    #[error("the critical extension {oid} of the {place} is not known")]
    UnknownCritical { oid: String, place: &'static str },
    #[error("the extension {oid} appears twice in the {place}")]
    DuplicateExtension { oid: String, place: &'static str },
    #[error("an entry with removeFromCRL, which only a delta list may have")]
    RemoveFromCrl,

    // Beside the list that it would replace.
    #[error("its number {new} is lower than {old}, which was seen already")]
    NumberWentBack { new: String, old: String },
    #[error("it has no number (cRLNumber), and the list before had {old}")]
    NumberGone { old: String },
    #[error("its thisUpdate {new} is before {old} of a list that was seen already")]
    WentBack { new: UnixNanos, old: UnixNanos },
    #[error("it is of another CA or another scope than the list before, which is still good")]
    OtherScope,
}
