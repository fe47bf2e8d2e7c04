use super::*;
use crate::jose::{Algorithm, SignKey};
use crate::token::StoredKey;
use proptest::prelude::*;
use std::sync::LazyLock;

const SECRET: &[u8] = b"a secret that is long enough for tests";
const ISSUER: &str = "https://gate.example";
const LIFETIME: Duration = Duration::from_secs(600);

static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().unwrap();
    Certificate::from_der(rcgen::CertificateParams::default().self_signed(&key).unwrap().der()).unwrap()
});

fn at(seconds: i64) -> UnixNanos {
    UnixNanos(seconds * 1_000_000_000)
}

fn key(from: i64) -> StoredKey {
    StoredKey::generate(Algorithm::Es256, SECRET, (at(0), at(from))).unwrap()
}

fn access_with(keys: &[StoredKey]) -> Access {
    let ring = Ring::open(keys, SECRET, LIFETIME).unwrap();
    Access::new(Server::of(ISSUER).unwrap(), Environment::parse("production").unwrap(), LIFETIME, Arc::new(ring))
}

struct World {
    access: Access,
    /// What the gateway signs with, for who has stolen it.
    key: SignKey,
    key_id: String,
}

fn world() -> World {
    let stored = key(1000);
    let pkcs8 = super::super::seal::open(&stored.sealed, SECRET, &stored.id).unwrap();
    let key = SignKey::from_pkcs8(Algorithm::Es256, &pkcs8).unwrap();
    World { access: access_with(std::slice::from_ref(&stored)), key, key_id: stored.id }
}

struct Names {
    partner: PartnerId,
    upstream: UpstreamName,
    operations: Vec<OperationId>,
    grants: Vec<GrantId>,
}

fn names() -> Names {
    Names {
        partner: PartnerId::parse("acme").unwrap(),
        upstream: UpstreamName::parse("billing").unwrap(),
        operations: ["invoices.list", "invoices.read"].map(|id| OperationId::parse(id).unwrap()).into(),
        grants: ["g-1", "g-2"].map(|id| GrantId::parse(id).unwrap()).into(),
    }
}

fn issued(access: &Access, until: UnixNanos, now: UnixNanos) -> Result<Issued, NotIssued> {
    let names = names();
    let (scope, grants): (Vec<_>, Vec<_>) = (names.operations.iter().collect(), names.grants.iter().collect());
    let Names { partner, upstream, .. } = &names;
    let order = Order {
        partner,
        upstream,
        scope: &scope,
        grants: &grants,
        certificate: &CERTIFICATE,
        credential: &CredentialId::parse("acme-1").unwrap(),
        until,
        from: None,
        api_key: None,
    };
    access.issue(&order, now)
}

const NEVER: UnixNanos = UnixNanos(i64::MAX);

fn claims() -> Map<String, Value> {
    let claims = json!({
        "iss": ISSUER, "aud": "billing", "sub": "acme", "client_id": "acme", "iat": 2000, "exp": 2600, "jti": "j-1",
        "scope": "invoices.list invoices.read", "grants": ["g-1", "g-2"], "environment": "production",
        "cnf": {"x5t#S256": BASE64URL_NOPAD.encode(&CERTIFICATE.fingerprint.0)}, "serial": "0a", "credential": "acme-1",
    });
    claims.as_object().unwrap().clone()
}

impl World {
    fn signed(&self, claims: &Map<String, Value>) -> String {
        self.signed_as(&[("typ", "at+jwt"), ("kid", &self.key_id)], claims)
    }

    fn signed_as(&self, head: &[(&str, &str)], claims: &Map<String, Value>) -> String {
        jose::sign(&self.key, head, Value::Object(claims.clone()).to_string().as_bytes()).unwrap()
    }

    #[track_caller]
    fn refused(&self, token: &str) -> Reason {
        self.access.verified(token, at(2100)).unwrap_err().0
    }
}

#[test]
fn token_says_what_it_was_issued_for() {
    let world = world();
    let token = issued(&world.access, NEVER, at(2000)).unwrap();
    assert_eq!((token.expires_in, token.expires), (600, at(2600)));
    let jws = Jws::parse(&token.text, LONGEST_TOKEN).unwrap();
    assert_eq!((jws.header.kind.as_deref(), jws.header.algorithm.as_str()), (Some("at+jwt"), "ES256"));
    let said: Value = serde_json::from_slice(jws.unverified()).unwrap();
    // RFC 9068 section 2.2.
    for claim in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope"] {
        assert!(!said[claim].is_null(), "{claim}");
    }
    let known = world.access.verified(&token.text, at(2000)).unwrap();
    let names = names();
    assert_eq!((&known.partner, &known.upstream), (&names.partner, &names.upstream));
    assert_eq!((&known.scope, &known.grants), (&names.operations, &names.grants));
    assert_eq!((known.certificate, &*known.id), (CERTIFICATE.fingerprint, token.id.as_str()));
    assert!(known.covers(&names.operations[0], &names.grants[1]));
    assert!(!known.covers(&OperationId::parse("orders.read").unwrap(), &names.grants[0]));
    assert!(!known.covers(&names.operations[0], &GrantId::parse("g-3").unwrap()));
    // Twice the same is one, and another time another one.
    assert!(Arc::ptr_eq(&known, &world.access.verified(&token.text, at(2001)).unwrap()));
    assert_ne!(issued(&world.access, NEVER, at(2000)).unwrap().id, token.id);
}

#[test]
fn token_ends_with_the_first_of_what_it_rests_on() {
    let world = world();
    let token = issued(&world.access, UnixNanos(at(2100).0 + 999_999_999), at(2000)).unwrap();
    assert_eq!((token.expires_in, token.expires), (100, at(2100)));
    for _ in 0..2 {
        assert!(world.access.verified(&token.text, UnixNanos(at(2100).0 - 1)).is_ok());
        assert_eq!(world.access.verified(&token.text, at(2100)).unwrap_err().0, Reason::TokenExpired);
    }
    assert_eq!(issued(&world.access, UnixNanos(at(2001).0 - 1), at(2000)).unwrap_err(), NotIssued::NoTime);
    assert_eq!(issued(&world.access, at(1999), at(2000)).unwrap_err(), NotIssued::NoTime);
}

#[test]
fn token_of_a_key_that_is_over_is_none() {
    let (first, second) = (key(1000), key(3000));
    let access = access_with(&[first.clone(), second]);
    let token = issued(&access, NEVER, at(2990)).unwrap();
    // It verifies as long as the last that it has signed may be good, and the token is longer than that.
    assert!(access.verified(&token.text, at(3100)).is_ok());
    let withdrawn = crate::partner::Revoked { reason: "r".into(), author: "a".into(), at: at(3000) };
    let after = access_with(&[StoredKey { withdrawn: Some(Box::new(withdrawn)), ..first }, key(3000)]);
    let after = Access { verified: access.verified.clone(), ..after };
    assert_eq!(after.verified(&token.text, at(3100)).unwrap_err().0, Reason::TokenUnknownKey, "also from the cache");
    assert_eq!(
        issued(&access_with(&[]), NEVER, at(1)).unwrap_err(),
        NotIssued::Failed("there is no key that signs".into())
    );
}

#[test]
fn revoked_token_is_none_and_is_forgotten_when_it_would_be_over() {
    let world = world();
    let token = issued(&world.access, NEVER, at(2000)).unwrap();
    assert!(world.access.verified(&token.text, at(2001)).is_ok());
    let partner = names().partner;
    let revoked =
        RevokedToken { id: token.id.clone(), partner: partner.clone(), expires: token.expires, revoked: at(2001) };
    let after = world.access.with_revoked([revoked], at(2001));
    assert_eq!(after.verified(&token.text, at(2001)).unwrap_err().0, Reason::TokenRevoked);
    assert!(world.access.verified(&token.text, at(2001)).is_ok(), "on the state before");
    assert_eq!((after.revoked_of(&partner, at(2001)), after.revoked_of(&partner, at(2600))), (1, 0));
    assert!(after.is_revoked(&token.id) && !after.with_revoked([], at(2600)).is_revoked(&token.id));
}

#[test]
fn token_chooses_neither_its_algorithm_nor_its_key() {
    let world = world();
    let good = world.signed(&claims());
    assert!(world.access.verified(&good, at(2100)).is_ok());
    let [_, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let head = |head: Value| BASE64URL_NOPAD.encode(head.to_string().as_bytes());
    let id = world.key_id.as_str();
    let none = head(json!({"alg": "none", "typ": "at+jwt", "kid": id}));
    for token in [format!("{none}.{payload}."), format!("{none}.{payload}.{signature}")] {
        assert_eq!(world.refused(&token), Reason::TokenBadSignature);
    }
    // HMAC under the public key, as who confuses the two would verify it.
    let ring = Ring::default();
    assert!(ring.verifier(id, at(2100)).is_none());
    let public = world.access.ring.jwks(at(2100)).to_string();
    let hs256 = head(json!({"alg": "HS256", "typ": "at+jwt", "kid": id}));
    let mac = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes()),
        format!("{hs256}.{payload}").as_bytes(),
    );
    assert_eq!(
        world.refused(&format!("{hs256}.{payload}.{}", BASE64URL_NOPAD.encode(mac.as_ref()))),
        Reason::TokenBadSignature
    );
    // A key of the client's own, named in every way that there is.
    let own = SignKey::from_pkcs8(Algorithm::Es256, &SignKey::generate(Algorithm::Es256).unwrap()).unwrap();
    let text = Value::Object(claims()).to_string();
    let forged = |fields: &[(&str, &str)]| jose::sign(&own, fields, text.as_bytes()).unwrap();
    let (typ, thumb) = (("typ", "at+jwt"), jose::thumbprint(own.public()));
    assert_eq!(world.refused(&forged(&[typ, ("kid", id)])), Reason::TokenBadSignature);
    assert_eq!(world.refused(&forged(&[typ, ("kid", &thumb)])), Reason::TokenUnknownKey);
    for kid in ["", "../../../dev/null", "' OR '1'='1", "https://evil.example/jwks"] {
        assert_eq!(world.refused(&forged(&[typ, ("kid", kid)])), Reason::TokenUnknownKey);
    }
    let evil = "https://evil.example/jwks";
    assert_eq!(world.refused(&forged(&[typ, ("kid", id), ("jku", evil), ("x5u", evil)])), Reason::TokenBadSignature);
    assert_eq!(world.refused(&forged(&[typ])), Reason::TokenMalformed);
}

#[test]
fn token_of_another_kind_is_none() {
    let world = world();
    for kind in ["JWT", "partner-assertion+jwt", "AT+JWT", "dpop+jwt", ""] {
        let token = world.signed_as(&[("typ", kind), ("kid", &world.key_id)], &claims());
        assert_eq!(world.refused(&token), Reason::TokenMalformed, "{kind}");
    }
    assert_eq!(world.refused(&world.signed_as(&[("kid", &world.key_id)], &claims())), Reason::TokenMalformed);
    for token in ["", ".", "..", "a.b.c", "e30.e30.", "Bearer x", &"x".repeat(LONGEST_TOKEN + 1)] {
        assert_eq!(world.refused(token), Reason::TokenMalformed, "{token:.20}");
    }
}

#[test]
fn every_claim_is_there_and_what_it_is_to_be() {
    let world = world();
    let changed = |name: &str, value: Value| {
        let mut claims = claims();
        claims.insert(name.into(), value);
        world.refused(&world.signed(&claims))
    };
    for name in claims().keys() {
        let mut without = claims();
        without.shift_remove(name);
        let expected = match name.as_str() {
            "iss" | "environment" => Reason::TokenWrongIssuer,
            "cnf" => Reason::TokenNotBound,
            _ => Reason::TokenMalformed,
        };
        assert_eq!(world.refused(&world.signed(&without)), expected, "without {name}");
        let other = changed(name, json!(true));
        assert_eq!(other, expected, "{name}");
    }
    let bound = |cnf: Value| changed("cnf", cnf);
    for cnf in [json!({}), json!({"x5t#S256": ""}), json!({"x5t#S256": "AAAA"}), json!({"jkt": "x"}), json!([])] {
        assert_eq!(bound(cnf.clone()), Reason::TokenNotBound, "{cnf}");
    }
    for (name, value, reason) in [
        ("iss", json!("https://gate.example/"), Reason::TokenWrongIssuer),
        ("iss", json!("https://evil.example"), Reason::TokenWrongIssuer),
        ("environment", json!("staging"), Reason::TokenWrongIssuer),
        ("aud", json!(["billing", "orders"]), Reason::TokenMalformed),
        ("client_id", json!("globex"), Reason::TokenMalformed),
        ("scope", json!(""), Reason::TokenMalformed),
        ("scope", json!("a  b"), Reason::TokenMalformed),
        ("grants", json!([1]), Reason::TokenMalformed),
        ("exp", json!("2600"), Reason::TokenMalformed),
        ("exp", json!(-1), Reason::TokenMalformed),
        ("exp", json!(2100), Reason::TokenExpired),
        ("iat", json!(2131), Reason::TokenNotYetValid),
    ] {
        assert_eq!(changed(name, value.clone()), reason, "{name} {value}");
    }
    // Clocks of a fleet differ a little.
    let mut early = claims();
    early.insert("iat".into(), json!(2130));
    assert!(world.access.verified(&world.signed(&early), at(2100)).is_ok());
    // A far future is no end that comes around.
    let mut late = claims();
    late.insert("exp".into(), json!(u64::MAX));
    assert!(world.access.verified(&world.signed(&late), at(2100)).is_ok());
}

proptest! {
    #[test]
    fn no_byte_of_a_token_can_be_another(position in 0usize..2_000, byte in "[A-Za-z0-9_.-]") {
        let world = world();
        let token = issued(&world.access, NEVER, at(2000)).unwrap().text;
        let position = position % token.len();
        let mut other = token.clone();
        other.replace_range(position..=position, &byte);
        prop_assume!(other != token);
        prop_assert!(world.access.verified(&other, at(2001)).is_err());
    }
}
