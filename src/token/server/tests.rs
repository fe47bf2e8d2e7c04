use super::*;
use crate::request::canonicalise;

#[test]
fn issuer_is_a_host_and_maybe_a_port() {
    for (issuer, host) in [
        ("https://api.example.com", "api.example.com"),
        ("https://api.example.com:8443", "api.example.com"),
        ("https://[2001:db8::1]:8443", "[2001:db8::1]"),
    ] {
        assert_eq!(Server::of(issuer).map(|server| server.host.to_string()), Ok(host.to_owned()), "{issuer}");
    }
    for issuer in [
        "http://api.example.com",
        "https://api.example.com/",
        "https://api.example.com/path",
        "https://api.example.com?x",
        "https://API.example.com",
        "https://api.example.com.",
        "https://api.example.com:",
        "https://api.example.com:443",
        "https://api.example.com:08443",
        "https://user@api.example.com",
        "https://",
        "api.example.com",
    ] {
        assert!(Server::of(issuer).is_err(), "{issuer}");
    }
}

#[test]
fn endpoints_are_found_by_exact_path_under_the_host_of_the_issuer() {
    let server = Server::of("https://api.example.com:8443").unwrap();
    let asked = |method: Method, target: &str, host: &str| {
        server.endpoint(&canonicalise(&method, target.as_bytes(), Some(host), None).unwrap())
    };
    assert_eq!(asked(Method::POST, "/oauth2/token", "api.example.com:8443"), Some(OauthEndpoint::Token));
    assert_eq!(asked(Method::GET, "/oauth2/token?x=1", "api.example.com"), Some(OauthEndpoint::Token));
    for (target, host) in [
        ("/oauth2/token", "other.example.com"),
        ("/oauth2/token/", "api.example.com"),
        ("/OAuth2/token", "api.example.com"),
        ("/v1/oauth2/token", "api.example.com"),
    ] {
        assert_eq!(asked(Method::POST, target, host), None, "{target}");
    }
    let metadata = server.metadata();
    for endpoint in OauthEndpoint::ALL {
        assert!(endpoint.takes(&Method::GET) != endpoint.takes(&Method::POST));
        let key = match endpoint {
            OauthEndpoint::Metadata => continue,
            OauthEndpoint::Keys => "jwks_uri",
            OauthEndpoint::Token => "token_endpoint",
            OauthEndpoint::Revocation => "revocation_endpoint",
        };
        assert_eq!(metadata[key], format!("https://api.example.com:8443{}", endpoint.path()));
    }
}

#[test]
fn every_reason_has_an_error_that_tells_as_little_as_its_code() {
    for reason in Reason::ALL {
        let error = OauthError::of(reason);
        assert!((400..=503).contains(&error.status()), "{reason}");
        if matches!(reason.code(), Code::IdentityUnknown | Code::CredentialNotValid | Code::EngagementNotActive) {
            assert_eq!(error, OauthError::InvalidClient, "{reason}");
        }
    }
    for (reason, error) in [
        (Reason::TokenRequestMalformed, "invalid_request"),
        (Reason::BodyTimeout, "invalid_request"),
        (Reason::TokenClientNotAuthentic, "invalid_client"),
        (Reason::WrongEnvironment, "invalid_client"),
        (Reason::TokenGrantTypeNotServed, "unsupported_grant_type"),
        (Reason::TokenScopeEmpty, "invalid_scope"),
        (Reason::TokenTargetUnknown, "invalid_target"),
        (Reason::RecordUnavailable, "temporarily_unavailable"),
        (Reason::Lockdown, "temporarily_unavailable"),
        (Reason::Internal, "server_error"),
    ] {
        assert_eq!(OauthError::of(&reason).as_str(), error, "{reason}");
    }
}
