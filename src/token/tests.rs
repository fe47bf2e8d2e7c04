use super::*;
use crate::clock::UnixNanos;
use crate::identity::Fingerprint;
use crate::jose::{Algorithm, Jwks, Jws};
use crate::name::{Environment, GrantId, PartnerId, UpstreamName};
use crate::operation::OperationId;
use crate::partner::Revoked;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const SECRET: &[u8] = b"correct horse battery staple";
const LONGEST: Duration = Duration::from_secs(600);

fn at(seconds: i64) -> UnixNanos {
    UnixNanos(seconds * 1_000_000_000)
}

fn key(from: i64) -> StoredKey {
    StoredKey::generate(Algorithm::Es256, SECRET, (at(from), at(from))).unwrap()
}

fn ring(keys: &[StoredKey]) -> Ring {
    Ring::open(keys, SECRET, LONGEST).unwrap()
}

fn told(ring: &Ring, now: i64) -> usize {
    ring.jwks(at(now))["keys"].as_array().unwrap().len()
}

#[test]
fn keys_follow_each_other_and_verify_as_long_as_what_they_signed_may_be_good() {
    let (first, second) = (key(1000), key(5000));
    let ring = ring(&[second.clone(), first.clone()]);
    let signer = |now| ring.signer(at(now)).map(|(_, id)| id.to_owned());
    assert_eq!(signer(999), None);
    assert_eq!(signer(1000).as_deref(), Some(first.id.as_str()));
    assert_eq!(signer(4999).as_deref(), Some(first.id.as_str()));
    assert_eq!(signer(5000).as_deref(), Some(second.id.as_str()));
    // Told before it signs, and for as long as what it signed last may be good.
    assert_eq!((told(&ring, 1000), told(&ring, 5599), told(&ring, 5600)), (2, 2, 1));
    assert!(ring.verifier(&first.id, at(5599)).is_some() && ring.verifier(&first.id, at(5600)).is_none());
    assert!(ring.verifier("other", at(1000)).is_none());
}

#[test]
fn key_that_was_withdrawn_neither_signs_nor_verifies() {
    let revoked = || Box::new(Revoked { reason: "r".into(), author: "a".into(), at: at(6000) });
    let (first, second) = (key(1000), StoredKey { withdrawn: Some(revoked()), ..key(5000) });
    let ring = ring(&[first.clone(), second.clone()]);
    assert_eq!(ring.signer(at(6000)).map(|(_, id)| id.to_owned()), Some(first.id));
    assert!(ring.verifier(&second.id, at(6000)).is_none());
    let none = self::ring(&[second]);
    assert!(none.signer(at(6000)).is_none());
    let rotation = Rotation { every: LONGEST, ahead: Duration::from_secs(60), longest: LONGEST };
    assert_eq!(none.due(&rotation, at(6000)), Some(at(6000)), "at once");
}

#[test]
fn next_key_is_made_so_early_that_it_is_known_when_it_signs() {
    let rotation = Rotation { every: Duration::from_secs(1000), ahead: Duration::from_secs(100), longest: LONGEST };
    assert_eq!(Ring::default().due(&rotation, at(7)), Some(at(7)));
    let mut keys = vec![key(1000)];
    assert_eq!(ring(&keys).due(&rotation, at(1899)), None);
    assert_eq!(ring(&keys).due(&rotation, at(1900)), Some(at(2000)));
    // Later than it should have been: it is still told first.
    assert_eq!(ring(&keys).due(&rotation, at(9000)), Some(at(9100)));
    keys.push(key(2000));
    assert_eq!(ring(&keys).due(&rotation, at(1900)), None, "it is there already");
}

#[test]
fn key_is_opened_by_its_secret_alone_and_is_what_it_says() {
    let stored = key(1000);
    let refused = |stored: StoredKey| Ring::open(&[stored], SECRET, LONGEST).err().unwrap();
    let other = Ring::open(std::slice::from_ref(&stored), b"other", LONGEST).err().unwrap();
    assert!(other.contains(&stored.id) && other.contains("not opened"), "{other}");
    let document = serde_json::to_string(&stored).unwrap();
    assert!(!document.contains(&stored.sealed), "the history has no part of it: {document}");
    assert!(check_secret(SECRET).is_err() && check_secret(&[b'x'; 32]).is_ok());
    assert!(check_secret(format!("{}\n\n", "x".repeat(31)).as_bytes()).unwrap_err().contains("31 bytes"));
    assert!(refused(StoredKey { algorithm: "none".into(), ..stored.clone() }).contains("not known"));
    assert!(refused(StoredKey { algorithm: "EdDSA".into(), ..stored.clone() }).contains("Ed25519"));
    assert!(refused(StoredKey { id: "x".into(), ..stored.clone() }).contains("another name"));
    let other = key(1000);
    let mixed = StoredKey { sealed: other.sealed, ..stored };
    assert!(refused(mixed).contains("not opened"), "it was sealed for another key");
}

fn asserted(grant: &str) -> Asserted {
    Asserted {
        partner: PartnerId::parse("acme").unwrap(),
        grant: GrantId::parse(grant).unwrap(),
        operation: OperationId::parse("invoices.read").unwrap(),
        upstream: UpstreamName::parse("billing").unwrap(),
        certificate: Fingerprint::of(b"certificate"),
    }
}

#[test]
fn assertion_says_who_and_by_what_and_is_used_again_for_a_part_of_its_life() {
    let ring = Arc::new(ring(&[key(1000)]));
    let production = Environment::parse("production").unwrap();
    let assertions = Assertions::new("https://gate.example".into(), production, ring.clone());
    let (token, due) = assertions.get(&asserted("g1"), at(2000)).unwrap();
    assert!(!due);
    // As an upstream has it, which knows the public keys.
    let jwks = Jwks::parse(ring.jwks(at(2000)).to_string().as_bytes()).unwrap();
    let jws = Jws::parse(&token, 4096).unwrap();
    assert_eq!(jws.header.kind.as_deref(), Some("partner-assertion+jwt"));
    let key = jwks.candidates(jws.header.key_id.as_deref(), Algorithm::Es256).next().unwrap();
    let claims: Value = serde_json::from_slice(jws.verified(key, Algorithm::Es256).unwrap()).unwrap();
    for (name, value) in [
        ("iss", "https://gate.example"),
        ("aud", "billing"),
        ("sub", "acme"),
        ("grant", "g1"),
        ("operation", "invoices.read"),
        ("environment", "production"),
    ] {
        assert_eq!(claims[name], value);
    }
    assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(2000), Some(2060)));
    assert_eq!(claims["cnf"]["x5t#S256"].as_str().map(str::len), Some(43));
    // Another grant is another assertion.
    assert_ne!(assertions.get(&asserted("g2"), at(2000)).unwrap().0, token);
    assert_eq!(assertions.get(&asserted("g1"), at(2019)).unwrap(), (token.clone(), false));
    // One of those who come next has the next one made, and the others do not wait.
    assert_eq!(assertions.get(&asserted("g1"), at(2020)).unwrap(), (token.clone(), true));
    assert_eq!(assertions.get(&asserted("g1"), at(2021)).unwrap(), (token.clone(), false));
    let next = assertions.replace(asserted("g1"), at(2021)).unwrap();
    assert_ne!(next, token);
    assert_eq!(assertions.get(&asserted("g1"), at(2040)).unwrap(), (next.clone(), false));
    // Nobody had it made: what is handed out is good for a third of its life.
    let late = assertions.get(&asserted("g1"), at(2061)).unwrap().0;
    assert!(late != next);
    let empty = Assertions::new("i".into(), Environment::parse("p").unwrap(), Arc::new(Ring::default()));
    assert!(empty.get(&asserted("g1"), at(2000)).unwrap_err().contains("no key"));
}
