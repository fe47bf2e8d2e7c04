//! Why something was refused: the one list of reasons, and what each is called on the outside.
//!
//! A [`Reason`] is exact and internal: records, metrics, operators. A [`Code`] is what the partner sees; several
//! reasons share a code so that a probe learns nothing. `docs/reasons.md` is generated from this table.
//! Changing a name here is a change of an interface and needs a CHANGELOG line.

use std::fmt;
use std::sync::Arc;

/// What the partner is told. The kebab-case form is in the problem document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    BadRequest,
    HeadTimeout,
    BodyTimeout,
    HeadersTooLarge,
    BodyTooLarge,
    LengthRequired,
    Misdirected,
    MethodNotServed,
    IdentityUnknown,
    CredentialNotValid,
    EngagementNotActive,
    NotPermitted,
    SourceNotPermitted,
    AccessEnded,
    TokenUnclear,
    TokenRequired,
    TokenInvalid,
    ApiKeyUnclear,
    ApiKeyRequired,
    ApiKeyInvalid,
    InsufficientScope,
    Unavailable,
    UpstreamUnavailable,
    UpstreamFailed,
    UpstreamTimeout,
    Internal,
}

impl Code {
    pub const ALL: &'static [Code] = &[
        Code::BadRequest,
        Code::HeadTimeout,
        Code::BodyTimeout,
        Code::HeadersTooLarge,
        Code::BodyTooLarge,
        Code::LengthRequired,
        Code::Misdirected,
        Code::MethodNotServed,
        Code::IdentityUnknown,
        Code::CredentialNotValid,
        Code::EngagementNotActive,
        Code::NotPermitted,
        Code::SourceNotPermitted,
        Code::AccessEnded,
        Code::TokenUnclear,
        Code::TokenRequired,
        Code::TokenInvalid,
        Code::ApiKeyUnclear,
        Code::ApiKeyRequired,
        Code::ApiKeyInvalid,
        Code::InsufficientScope,
        Code::Unavailable,
        Code::UpstreamUnavailable,
        Code::UpstreamFailed,
        Code::UpstreamTimeout,
        Code::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// HTTP status (RFC 9110) that goes with the code.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// gRPC status code (grpc/doc/statuscodes.md) that goes with the code.
    pub fn grpc_status(self) -> u8 {
        self.row().2
    }

    /// One sentence for the partner's developer.
    pub fn detail(self) -> &'static str {
        self.row().3
    }

    /// What `WWW-Authenticate` says with the code, where it is about an access token (RFC 6750 section 3) or an API key, for
    /// which there is no registered scheme.
    pub fn challenge(self) -> Option<&'static str> {
        match self {
            Code::TokenUnclear => Some("Bearer realm=\"partners\", error=\"invalid_request\""),
            Code::TokenRequired => Some("Bearer realm=\"partners\""),
            Code::TokenInvalid => Some("Bearer realm=\"partners\", error=\"invalid_token\""),
            Code::ApiKeyRequired | Code::ApiKeyInvalid => Some("ApiKey realm=\"partners\""),
            Code::InsufficientScope => Some("Bearer realm=\"partners\", error=\"insufficient_scope\""),
            _ => None,
        }
    }

    fn row(self) -> (&'static str, u16, u8, &'static str) {
        match self {
            Code::BadRequest => ("bad-request", 400, 13, "The request is malformed or not in canonical form."),
            Code::HeadTimeout => ("request-timeout", 408, 14, "The request head did not arrive in time."),
            Code::BodyTimeout => ("body-timeout", 408, 14, "The request body stopped arriving."),
            Code::HeadersTooLarge => {
                ("headers-too-large", 431, 8, "The request head has too many or too large fields.")
            }
            Code::BodyTooLarge => ("body-too-large", 413, 8, "The request body is larger than this API accepts."),
            Code::LengthRequired => {
                ("length-required", 411, 9, "This call needs the length of its body beforehand, in Content-Length.")
            }
            Code::Misdirected => ("misdirected", 421, 14, "This host is not served on this connection."),
            Code::MethodNotServed => ("method-not-served", 405, 7, "This method is never served here."),
            Code::IdentityUnknown => (
                "identity-unknown",
                403,
                16,
                "The client certificate is valid but not registered for a partner. Send its fingerprint to your contact.",
            ),
            Code::CredentialNotValid => {
                ("credential-not-valid", 403, 16, "The client certificate is registered but not valid now.")
            }
            Code::EngagementNotActive => ("engagement-not-active", 403, 7, "The engagement is not active."),
            Code::NotPermitted => ("not-permitted", 403, 7, "This call is not permitted."),
            Code::SourceNotPermitted => {
                ("source-not-permitted", 403, 7, "This call is not permitted from this address.")
            }
            Code::AccessEnded => ("access-not-current", 403, 7, "The permission for this call is not current."),
            Code::TokenUnclear => {
                ("token-unclear", 400, 13, "An access token is sent in one Authorization field, and nowhere else.")
            }
            Code::ApiKeyUnclear => {
                ("api-key-unclear", 400, 13, "An API key is sent in one X-API-Key field, and nowhere else.")
            }
            Code::ApiKeyRequired => {
                ("api-key-required", 401, 16, "This call needs an API key beside the client certificate.")
            }
            Code::ApiKeyInvalid => {
                ("api-key-invalid", 401, 16, "The API key is not good with this client certificate.")
            }
            Code::TokenRequired => {
                ("token-required", 401, 16, "This call needs an access token beside the client certificate.")
            }
            Code::TokenInvalid => (
                "token-invalid",
                401,
                16,
                "The access token is not accepted. Get a new one with the client certificate of this connection.",
            ),
            Code::InsufficientScope => ("insufficient-scope", 403, 7, "The access token is not for this call."),
            Code::Unavailable => {
                ("unavailable", 503, 14, "The gateway cannot decide this request now. Try again later.")
            }
            Code::UpstreamUnavailable => {
                ("upstream-unavailable", 503, 14, "The API is not available now. Try again later.")
            }
            Code::UpstreamFailed => ("upstream-failed", 502, 14, "The API did not answer properly."),
            Code::UpstreamTimeout => ("upstream-timeout", 504, 14, "The API did not answer in time."),
            Code::Internal => ("internal", 500, 13, "The gateway failed on this request."),
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $name:literal $code:ident $doc:literal;)*) => {
        /// Why something was refused. Kebab-case forms are stable.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $doc] $variant,)*
            /// A reason of the security team's own, declared in `policies/reasons.yaml`; starts with `x-`.
            Custom(Arc<str>),
        }

        impl Reason {
            /// Every built-in reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            pub fn as_str(&self) -> &str {
                match self { $(Reason::$variant => $name,)* Reason::Custom(name) => name }
            }

            /// What the partner is told.
            pub fn code(&self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* Reason::Custom(_) => Code::NotPermitted }
            }

            /// One line for operators.
            pub fn doc(&self) -> &'static str {
                match self {
                    $(Reason::$variant => $doc,)*
                    Reason::Custom(_) => "A rule of the security team's own policy denied the request.",
                }
            }

            /// Whether it is policy that says so: what comes before is denied whatever a policy says.
            pub fn is_of_policy(&self) -> bool {
                use Reason::*;
                matches!(
                    self,
                    Custom(_)
                        | OperationNotGranted
                        | CredentialNotGranted
                        | MethodNotGranted
                        | TlsTooWeak
                        | TokenScopeExceeded
                        | ApiKeyScopeExceeded
                        | NetworkNotAllowed
                        | GrantNotStarted
                        | GrantExpired
                        | OutsideSchedule
                        | ContentLengthMissing
                        | ContentTooLarge
                        | PolicyDenied
                        | PolicyUndefined
                        | PolicyError
                        | PolicyTimeout
                        | PolicyInstructionLimit
                        | PolicyResultTooLarge
                        | PolicyReasonUndeclared
                )
            }

            /// Whether rules may give it. The others are the gateway's own to say, and have its codes.
            pub fn is_for_rules(&self) -> bool {
                use Reason::*;
                matches!(
                    self,
                    Custom(_)
                        | PartnerNotActive
                        | EngagementNotStarted
                        | EngagementEnded
                        | CredentialNotActive
                        | CredentialNotYetValid
                        | CredentialExpired
                        | TokenExpired
                        | ApiKeyExpired
                        | OperationNotGranted
                        | CredentialNotGranted
                        | MethodNotGranted
                        | TlsTooWeak
                        | TokenScopeExceeded
                        | ApiKeyScopeExceeded
                        | NetworkNotAllowed
                        | GrantNotStarted
                        | GrantExpired
                        | OutsideSchedule
                        | ContentLengthMissing
                        | ContentTooLarge
                        | PolicyDenied
                        | PolicyUndefined
                )
            }

            /// The built-in reason of this name.
            pub fn parse(name: &str) -> Option<Reason> {
                match name { $($name => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

// The order is the order of precedence: of several reasons for one denial, the first decides the public code.
// What tells a prober least comes before what tells it more.
reasons! {
    // The handshake.
    CertificateMissing "certificate-missing" IdentityUnknown "The client sent no certificate.";
    CertificateMalformed "certificate-malformed" IdentityUnknown "A certificate of the client's chain cannot be read, or is ambiguous.";
    CertificateSerial "certificate-serial" IdentityUnknown "A serial number of the chain is zero, negative or longer than 20 octets.";
    CertificateUnknownIssuer "certificate-unknown-issuer" IdentityUnknown "The chain ends in no trust anchor.";
    CertificateExpired "certificate-expired" CredentialNotValid "A certificate of the chain has expired.";
    CertificateNotYetValid "certificate-not-yet-valid" CredentialNotValid "A certificate of the chain is not valid yet.";
    CertificateWrongUsage "certificate-wrong-usage" CredentialNotValid "Key usage or extended key usage does not permit client authentication.";
    CertificateWeakKey "certificate-weak-key" CredentialNotValid "A key of the chain is too weak: RSA below 2048 bits, a curve below P-256, or DSA.";
    CertificateUnsupportedKey "certificate-unsupported-key" CredentialNotValid "A key or signature algorithm of the chain is not supported, such as P-521.";
    CertificateWeakSignature "certificate-weak-signature" CredentialNotValid "A signature of the chain uses SHA-1 or MD5.";
    CertificateBadSignature "certificate-bad-signature" IdentityUnknown "A signature of the chain does not verify.";
    CertificateConstraint "certificate-constraint" IdentityUnknown "A basic constraint, path length, name constraint or critical extension of the chain forbids this use.";
    CertificateLifetime "certificate-lifetime" CredentialNotValid "The client certificate is valid for longer than its anchor's max_lifetime.";
    CertificateNotSvid "certificate-not-svid" IdentityUnknown "The client certificate has a SPIFFE ID and breaks a rule of X.509-SVID, or its anchor is a SPIFFE trust domain and it is not of it.";
    CertificateChainTooLong "certificate-chain-too-long" IdentityUnknown "The chain has too many or too large certificates.";
    CertificateRevoked "certificate-revoked" CredentialNotValid "A certificate of the chain is revoked.";
    RevocationUnknown "revocation-unknown" CredentialNotValid "No current revocation list covers a certificate of the chain.";
    ProxyHeaderInvalid "proxy-header-invalid" BadRequest "A peer that is listed in `partner.proxy_protocol` sent no PROXY header, or a malformed one.";
    HandshakeTimeout "handshake-timeout" Unavailable "The TLS handshake did not finish in time.";
    HandshakeOverload "handshake-overload" Unavailable "Too many handshakes are in progress: no place came free in time, or one that took long had to make way.";
    HandshakeRate "handshake-rate" Unavailable "Too many handshakes came from one source in one second.";
    HandshakeProtocol "handshake-protocol" BadRequest "The TLS handshake failed: version, cipher or message.";
    ServerNameUnknown "server-name-unknown" BadRequest "The client asked in its TLS handshake for a server name that no server certificate is for.";
    HandshakeAborted "handshake-aborted" BadRequest "The client closed the connection during the TLS handshake.";
    ConnectionLimit "connection-limit" Unavailable "Too many connections are open.";
    PartnerConnectionLimit "partner-connection-limit" Unavailable "The partner has too many connections open.";
    // The request as such.
    HeadMalformed "head-malformed" BadRequest "The request head is not valid HTTP.";
    HeadAmbiguousFraming "head-ambiguous-framing" BadRequest "The request body's length is stated twice or in a form that proxies read differently.";
    HeadTimeout "head-timeout" HeadTimeout "The request head did not arrive within its deadline.";
    HeadTooLarge "head-too-large" HeadersTooLarge "The request head is larger than allowed.";
    HeadTooManyFields "head-too-many-fields" HeadersTooLarge "The request head has more fields than allowed.";
    HeadNotUtf8 "head-not-utf8" BadRequest "A header value is not UTF-8.";
    TargetNotCanonical "target-not-canonical" BadRequest "The path or query is not in canonical form, so that it could be read in two ways.";
    HostMissing "host-missing" BadRequest "Host is missing, repeated or not a host name.";
    HostMismatch "host-mismatch" Misdirected "The TLS server name and Host disagree, or the host is not served here.";
    MethodNotServed "method-not-served" MethodNotServed "CONNECT, TRACE and unknown methods are never served.";
    ExpectationUnknown "expectation-unknown" BadRequest "Expect is something other than 100-continue.";
    BodyTooLarge "body-too-large" BodyTooLarge "The request body is larger than the route allows.";
    BodyTimeout "body-timeout" BodyTimeout "The request body made no progress.";
    StreamIdle "stream-idle" BodyTimeout "An upgraded connection was silent in both directions for too long.";
    H2Protocol "h2-protocol" BadRequest "The client broke the HTTP/2 protocol.";
    // Identity: the floor.
    Lockdown "lockdown" Unavailable "An operator has locked down everybody, or everybody under this anchor.";
    IdentityUnknown "identity-unknown" IdentityUnknown "No credential is registered for this certificate under this anchor.";
    IdentityAmbiguous "identity-ambiguous" IdentityUnknown "Credentials of more than one partner match this certificate.";
    AnchorNotBound "anchor-not-bound" IdentityUnknown "A credential matches, but its anchor may not speak for that partner.";
    TrustDomainNotVouched "trust-domain-not-vouched" IdentityUnknown "The certificate has a SPIFFE ID of a trust domain that the bundle of another anchor vouches for, and no credential names that ID or this certificate.";
    TrustChanged "trust-changed" CredentialNotValid "The chain no longer leads to a live trust anchor.";
    WrongEnvironment "wrong-environment" NotPermitted "The credential, its anchor or the grant belongs to another environment.";
    CredentialNotActive "credential-not-active" CredentialNotValid "The credential is not in state active.";
    CredentialNotYetValid "credential-not-yet-valid" CredentialNotValid "The certificate is not valid yet.";
    CredentialExpired "credential-expired" CredentialNotValid "The certificate has expired.";
    CredentialEnded "credential-ended" CredentialNotValid "The credential itself has ended (`ends`), whatever its certificate says.";
    PartnerNotActive "partner-not-active" EngagementNotActive "The partner is not in state active.";
    EngagementNotStarted "engagement-not-started" EngagementNotActive "The engagement has not started.";
    EngagementEnded "engagement-ended" EngagementNotActive "The engagement has ended.";
    // The access token: the floor as well.
    TokenAmbiguous "token-ambiguous" TokenUnclear "An access token is not in one Authorization field, alone: there are several, it is behind something else, or it stands in the URL, where it has leaked.";
    TokenMissing "token-missing" TokenRequired "The route asks for an access token (`token: required`), and there is none.";
    TokenMalformed "token-malformed" TokenInvalid "What came as an access token is none: no JWT of type `at+jwt`, too long, or not as RFC 9068 has it.";
    TokenUnknownKey "token-unknown-key" TokenInvalid "The access token is not signed with a key that verifies now: unknown, withdrawn, or over.";
    TokenBadSignature "token-bad-signature" TokenInvalid "The signature of the access token is not good.";
    TokenWrongIssuer "token-wrong-issuer" TokenInvalid "The access token is of another issuer or environment.";
    TokenNotBound "token-not-bound" TokenInvalid "The access token is bound to no certificate (`cnf`).";
    TokenWrongCertificate "token-wrong-certificate" TokenInvalid "The access token is bound to another certificate than that of the connection.";
    TokenWrongPartner "token-wrong-partner" TokenInvalid "The access token is of another partner.";
    TokenNotYetValid "token-not-yet-valid" TokenInvalid "The access token is issued in the future.";
    TokenExpired "token-expired" TokenInvalid "The access token has expired.";
    TokenRevoked "token-revoked" TokenInvalid "The access token was revoked.";
    TokenWrongAudience "token-wrong-audience" TokenInvalid "The access token is for another upstream.";
    // What asks for a token.
    ApiKeyInUrl "api-key-in-url" ApiKeyUnclear "An API key is in the URL, where it has leaked.";
    ApiKeyAmbiguous "api-key-ambiguous" ApiKeyUnclear "An API key is not in one X-API-Key field, alone: there are several, it is in another field, or an access token is there too.";
    ApiKeyMissing "api-key-missing" ApiKeyRequired "The route asks for an API key (`api_key: required`), and there is none.";
    ApiKeyNotAccepted "api-key-not-accepted" ApiKeyInvalid "API keys are not accepted here: they are only exchanged for access tokens (`tokens.api_keys.accepted_in`), the route leaves the field to the upstream, or there is no `tokens.api_keys`.";
    ApiKeyMalformed "api-key-malformed" ApiKeyInvalid "What came as an API key is none, or is mistyped.";
    ApiKeyUnknown "api-key-unknown" ApiKeyInvalid "Nobody has this API key here: it never was, waits for approval, or is of another environment.";
    ApiKeyWrongPartner "api-key-wrong-partner" ApiKeyInvalid "The API key is of another partner.";
    ApiKeyWrongCertificate "api-key-wrong-certificate" ApiKeyInvalid "The API key is bound to another certificate than that of the connection.";
    ApiKeyRevoked "api-key-revoked" ApiKeyInvalid "The API key was revoked.";
    ApiKeyExpired "api-key-expired" ApiKeyInvalid "The API key has ended.";
    TokenRequestMalformed "token-request-malformed" BadRequest "The token request is not as RFC 6749 has it: its form, a parameter that is missing, or one that stands twice.";
    TokenClientNotAuthentic "token-client-not-authentic" IdentityUnknown "The token request names another client than the certificate is of, or brings a secret or an assertion: a certificate alone authenticates.";
    TokenGrantTypeNotServed "token-grant-type-not-served" BadRequest "The token request is of a grant type that is not served.";
    TokenTypeNotRevoked "token-type-not-revoked" BadRequest "What was to be revoked is an API key: operators revoke those.";
    TokenNotRevoked "token-not-revoked" Unavailable "The token that was to be revoked is not, because that could not be written.";
    TokenRevocationLimit "token-revocation-limit" Unavailable "So many tokens of the partner are revoked and have not expired that no other one is.";
    TokenTargetUnknown "token-target-unknown" BadRequest "The token request names no upstream of the partner, or several, in `audience` or `resource`.";
    TokenScopeEmpty "token-scope-empty" NotPermitted "Nothing that the token request asks for is granted now, or more than a token holds.";
    // Scope, network, expiry: policy.
    RouteUnknown "route-unknown" NotPermitted "No route serves this path.";
    OperationUnknown "operation-unknown" NotPermitted "The method and path are no known operation.";
    GrantRevoked "grant-revoked" AccessEnded "The only grant of the partner that covered the operation was revoked.";
    OperationNotGranted "operation-not-granted" NotPermitted "No grant of the partner covers the operation.";
    UpgradeNotAllowed "upgrade-not-allowed" NotPermitted "The request asks for an upgrade that the operation does not have.";
    CredentialNotGranted "credential-not-granted" NotPermitted "The grant is for other credentials of the partner.";
    GrantNotValid "grant-not-valid" NotPermitted "Policy allowed without naming a live grant of this partner that covers the operation.";
    MethodNotGranted "method-not-granted" NotPermitted "The grant is for other methods (`methods`).";
    TlsTooWeak "tls-too-weak" NotPermitted "The connection's version of TLS is lower than the grant asks for (`tls_min`), or its cipher suite another (`tls_ciphers`).";
    ApiKeyScopeExceeded "api-key-scope-exceeded" NotPermitted "The API key is not for this operation, or for none of the grants that permit it.";
    TokenScopeExceeded "token-scope-exceeded" InsufficientScope "The access token is not for this operation, or for none of the grants that permit it.";
    NetworkNotAllowed "network-not-allowed" SourceNotPermitted "The source address is in none of the allowed networks.";
    GrantNotStarted "grant-not-started" AccessEnded "The grant has not started.";
    GrantExpired "grant-expired" AccessEnded "The grant has ended.";
    OutsideSchedule "outside-schedule" AccessEnded "No window of the grant's `schedule` is open now, in the partner's time zone.";
    ContentLengthMissing "content-length-missing" LengthRequired "The grant limits the size of bodies (`max_content_length`), and the request does not say the length of its own.";
    ContentTooLarge "content-too-large" BodyTooLarge "The request body is larger than the grant allows (`max_content_length`).";
    // Policy as a program.
    PolicyDenied "policy-denied" NotPermitted "Policy denied without a reason.";
    PolicyUndefined "policy-undefined" NotPermitted "Policy gave no decision.";
    PolicyError "policy-error" NotPermitted "Policy failed, or its decision is not of the agreed form.";
    PolicyTimeout "policy-timeout" Unavailable "Policy took longer than its time limit.";
    PolicyInstructionLimit "policy-instruction-limit" Unavailable "Policy took more instructions than its limit.";
    PolicyResultTooLarge "policy-result-too-large" Unavailable "Policy's decision is larger than the gateway reads: 16 KiB of values and text.";
    PolicyReasonUndeclared "policy-reason-undeclared" NotPermitted "Policy denied with a reason that is not declared.";
    // The gateway and what is behind it.
    RecordUnavailable "record-unavailable" Unavailable "No record could be kept, so nothing was allowed.";
    NotReady "not-ready" Unavailable "No snapshot is live.";
    Draining "draining" Unavailable "The gateway, or the connection, takes no further requests.";
    UpstreamUnavailable "upstream-unavailable" UpstreamUnavailable "No endpoint of the upstream is healthy.";
    UpstreamConnect "upstream-connect" UpstreamFailed "The connection to the upstream failed.";
    UpstreamTls "upstream-tls" UpstreamFailed "The upstream's TLS certificate or handshake was refused.";
    UpstreamTimeout "upstream-timeout" UpstreamTimeout "The upstream did not answer within its deadline.";
    UpstreamProtocol "upstream-protocol" UpstreamFailed "The upstream's answer broke off or was not valid HTTP.";
    ClientGone "client-gone" BadRequest "The client went away before the answer was complete.";
    Internal "internal" Internal "The gateway failed on this request.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_kebab_case_and_read_back() {
        let mut seen = std::collections::HashSet::new();
        for reason in Reason::ALL {
            let name = reason.as_str();
            assert!(seen.insert(name.to_owned()), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
            assert_eq!(Reason::parse(name).as_ref(), Some(reason));
        }
        assert_eq!(Reason::parse("x-anything"), None);
    }

    #[test]
    fn what_a_probe_could_try_gives_one_code() {
        for reason in [Reason::RouteUnknown, Reason::OperationUnknown, Reason::OperationNotGranted] {
            assert_eq!(reason.code(), Code::NotPermitted);
        }
    }
}
