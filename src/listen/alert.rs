//! The TLS alert of a refused handshake, by its name in RFC 8446.
//!
//! In: the error that ended the handshake. Out: [`Alert`] for its record. rustls says which alert it has received, but
//! not which one it has sent: that follows from the error. Must never: guess; where it does not follow, nothing is said.

use crate::record::Alert;
use rustls::{AlertDescription, Error, PeerIncompatible};
use std::borrow::Cow;

/// The alert that came with this error, or went out because of it.
pub(super) fn of(error: &Error) -> Option<Alert> {
    if let Error::AlertReceived(alert) = error {
        return Some(Alert::Received(name(*alert)));
    }
    let sent = match error {
        Error::InvalidCertificate(e) => e.clone().into(),
        Error::InvalidMessage(e) => (*e).into(),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => AlertDescription::ProtocolVersion,
        Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::KeyShareExtensionRequired
            | PeerIncompatible::ExtendedMasterSecretExtensionRequired,
        ) => AlertDescription::HandshakeFailure,
        // No certificate of ours has the name that the client asks for.
        Error::General(_) => AlertDescription::AccessDenied,
        _ => return None,
    };
    Some(Alert::Sent(name(sent)))
}

/// The orderly end of a connection whose handshake was complete.
pub(super) fn close_notify() -> Alert {
    Alert::Sent(name(AlertDescription::CloseNotify))
}

fn name(alert: AlertDescription) -> Cow<'static, str> {
    use AlertDescription as A;
    Cow::Borrowed(match alert {
        A::CloseNotify => "close_notify",
        A::UnexpectedMessage => "unexpected_message",
        A::BadRecordMac => "bad_record_mac",
        A::DecryptionFailed => "decryption_failed",
        A::RecordOverflow => "record_overflow",
        A::DecompressionFailure => "decompression_failure",
        A::HandshakeFailure => "handshake_failure",
        A::NoCertificate => "no_certificate",
        A::BadCertificate => "bad_certificate",
        A::UnsupportedCertificate => "unsupported_certificate",
        A::CertificateRevoked => "certificate_revoked",
        A::CertificateExpired => "certificate_expired",
        A::CertificateUnknown => "certificate_unknown",
        A::IllegalParameter => "illegal_parameter",
        A::UnknownCA => "unknown_ca",
        A::AccessDenied => "access_denied",
        A::DecodeError => "decode_error",
        A::DecryptError => "decrypt_error",
        A::ExportRestriction => "export_restriction",
        A::ProtocolVersion => "protocol_version",
        A::InsufficientSecurity => "insufficient_security",
        A::InternalError => "internal_error",
        A::InappropriateFallback => "inappropriate_fallback",
        A::UserCanceled => "user_canceled",
        A::NoRenegotiation => "no_renegotiation",
        A::MissingExtension => "missing_extension",
        A::UnsupportedExtension => "unsupported_extension",
        A::CertificateUnobtainable => "certificate_unobtainable",
        A::UnrecognisedName => "unrecognized_name",
        A::BadCertificateStatusResponse => "bad_certificate_status_response",
        A::BadCertificateHashValue => "bad_certificate_hash_value",
        A::UnknownPSKIdentity => "unknown_psk_identity",
        A::CertificateRequired => "certificate_required",
        A::NoApplicationProtocol => "no_application_protocol",
        A::EncryptedClientHelloRequired => "ech_required",
        other => return Cow::Owned(format!("alert_{}", u8::from(other))),
    })
}
