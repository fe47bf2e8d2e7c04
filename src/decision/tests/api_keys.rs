//! API keys: good with one certificate, for a part of what is granted, from where they may come, until they end; and what
//! they are exchanged for.

use super::tokens::{Gate, token};
use super::*;
use crate::partner::{ApiKey, BoundTo, KeyHash, Retiring, Revoked};
use crate::request::Brought;
use crate::token::MadeKey;

const EXCHANGE: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&client_id=acme\
    &subject_token_type=urn:partnergate:token-type:api-key";

fn day(n: i64) -> UnixNanos {
    UnixNanos(NOW.0 + n * 86_400_000_000_000)
}

fn key(id: &str, hash: KeyHash, leaf: &[u8]) -> ApiKey {
    ApiKey {
        id: credential_id(id),
        owner: "payments".into(),
        hash,
        bound_to: BoundTo::FingerprintSha256(Fingerprint::of(leaf)),
        grants: vec![GrantId::parse("acme-reads").unwrap()],
        operations: None,
        networks: None,
        environments: vec![environment("production")],
        ends: day(90),
        approval: None,
        retiring: None,
        revoked: None,
    }
}

/// Acme with one key, and the key.
fn gate() -> (Gate, String) {
    let mut gate = Gate::new();
    let MadeKey { text, hash } = gate.snapshot.tokens.as_ref().unwrap().api_keys.as_ref().unwrap().make().unwrap();
    let leaf = gate.world.acme_leaf.clone();
    gate.changed(|acme| acme.api_keys.push(key("acme-batch", hash, &leaf)));
    (gate, text)
}

impl Gate {
    /// The outcome for acme with this in X-API-Key.
    fn keyed(&self, text: &str) -> String {
        self.keyed_at(&self.world.peer(&self.snapshot), text, NOW)
    }

    fn keyed_at(&self, peer: &Peer, text: &str, now: UnixNanos) -> String {
        let request = RequestFacts { api_key: Brought::Text(text.into()), now, ..self.world.request.clone() };
        outcome(&decide(&self.snapshot, peer, &request, &self.slots))
    }

    fn exchange(&self, text: &str) -> String {
        format!("{EXCHANGE}&subject_token={text}")
    }

    fn routed(&mut self, api_key: TokenUse) {
        let routes = self.snapshot.routes.iter().cloned().map(|route| Route { api_key, ..route }).collect();
        self.snapshot.routes = Arc::new(crate::route::Routes::build(routes, &mut Problems::new()));
    }
}

#[test]
fn key_is_good_with_its_certificate_alone() {
    let (mut gate, text) = gate();
    assert_eq!(gate.keyed(&text), "allowed by acme-reads");
    // Another one of the same partner, and one of another partner.
    let second = gate.world.acme_ca.issue(|_| {});
    gate.changed(|acme| {
        acme.credentials.push(credential("acme-second", "acme-ca", Match::FingerprintSha256(Fingerprint::of(&second))));
    });
    let peer = verified(&gate.snapshot, &second);
    assert_eq!(gate.keyed_at(&peer, &text, NOW), "api-key-wrong-certificate");
    let globex = verified(&gate.snapshot, &gate.world.globex_leaf);
    assert_eq!(gate.keyed_at(&globex, &text, NOW), "api-key-wrong-partner");
    // Every certificate of one key.
    let spki = verified(&gate.snapshot, &second).leaf.spki_sha256;
    gate.changed(|acme| acme.api_keys[0].bound_to = BoundTo::SpkiSha256(spki));
    assert_eq!(gate.keyed_at(&peer, &text, NOW), "allowed by acme-reads");
    assert_eq!(gate.keyed(&text), "api-key-wrong-certificate");
}

#[test]
fn what_is_no_key_is_told_from_one_that_nobody_has() {
    let (gate, text) = gate();
    let other = gate.snapshot.tokens.as_ref().unwrap().api_keys.as_ref().unwrap().make().unwrap().text;
    assert_eq!(gate.keyed(&other), "api-key-unknown");
    for bad in ["", "secret", &text[..62], &text.to_ascii_uppercase(), &format!("{text} ")] {
        assert_eq!(gate.keyed(bad), "api-key-malformed", "{bad:?}");
    }
    let (peer, plain) = (gate.world.peer(&gate.snapshot), &gate.world.request);
    let unclear = RequestFacts { api_key: Brought::Unclear("why"), ..plain.clone() };
    assert_eq!(outcome(&decide(&gate.snapshot, &peer, &unclear, &gate.slots)), "api-key-ambiguous");
    assert_eq!(outcome(&decide(&gate.snapshot, &peer, plain, &gate.slots)), "allowed by acme-reads");
}

#[test]
fn key_narrows_what_is_granted_and_opens_nothing() {
    let (mut gate, text) = gate();
    gate.changed(|acme| acme.grants.insert(0, grant("acme-all", &["invoices.delete", "invoices.read"])));
    assert_eq!(gate.keyed(&text), "allowed by acme-reads", "it is not for the smaller id");
    gate.changed(|acme| acme.api_keys[0].operations = Some(vec![OperationId::parse("invoices.delete").unwrap()]));
    assert_eq!(gate.keyed(&text), "api-key-scope-exceeded");
    gate.changed(|acme| {
        acme.api_keys[0].operations = None;
        acme.api_keys[0].networks = Some(network_names(&["dc2"]));
    });
    assert_eq!(gate.keyed(&text), "network-not-allowed");
    gate.changed(|acme| acme.api_keys[0].networks = Some(network_names(&["dc1"])));
    assert_eq!(gate.keyed(&text), "allowed by acme-reads");
    gate.world.request = request(Method::DELETE, "/v1/invoices/7", "api.example");
    assert_eq!(gate.keyed(&text), "api-key-scope-exceeded", "another grant permits it");
    gate.changed(|acme| acme.grants.retain(|grant| grant.id.as_str() == "acme-reads"));
    assert_eq!(gate.keyed(&text), "operation-not-granted");
}

#[test]
fn policy_that_permits_everything_opens_no_key() {
    let allow = r#"decision := {"allow": true, "grant": "acme-reads"}"#;
    let mut gate = Gate::of(World::under(allow));
    let MadeKey { text, hash } = gate.snapshot.tokens.as_ref().unwrap().api_keys.as_ref().unwrap().make().unwrap();
    let leaf = gate.world.acme_leaf.clone();
    gate.changed(|acme| acme.api_keys.push(key("acme-batch", hash, &leaf)));
    assert_eq!(gate.keyed(&text), "allowed by acme-reads");
    gate.changed(|acme| acme.api_keys[0].operations = Some(Vec::new()));
    assert_eq!(gate.keyed(&text), "api-key-scope-exceeded");
    gate.changed(|acme| {
        acme.api_keys[0].operations = None;
        acme.api_keys[0].networks = Some(Vec::new());
    });
    assert_eq!(gate.keyed(&text), "network-not-allowed");
}

#[test]
fn key_ends_by_the_clock_by_hand_and_with_its_grant() {
    let (mut gate, text) = gate();
    let peer = gate.world.peer(&gate.snapshot);
    gate.changed(|acme| acme.api_keys[0].ends = day(1));
    assert_eq!(gate.keyed_at(&peer, &text, before(day(1))), "allowed by acme-reads");
    assert_eq!(gate.keyed_at(&peer, &text, day(1)), "api-key-expired");
    let request = RequestFacts { api_key: Brought::Text(text.as_str().into()), ..gate.world.request.clone() };
    let Decision::Allow(permit) = decide(&gate.snapshot, &peer, &request, &gate.slots) else { panic!() };
    assert_eq!((permit.until(), permit.narrowed().api_key.as_ref().unwrap().as_str()), (day(1), "acme-batch"));
    let again = |gate: &Gate, now: UnixNanos| {
        let peer = gate.world.peer(&gate.snapshot);
        let who = standing(&gate.snapshot, &peer, now).map_err(|_| ()).unwrap();
        who.decide_again(&request, &mut LastVerdict::default()).map_err(|(reasons, _)| reasons)
    };
    assert_eq!(again(&gate, before(day(1))), Ok(day(1)));
    assert_eq!(again(&gate, day(1)), Err(vec![Reason::ApiKeyExpired]));
    let successor = credential_id("acme-next");
    let retiring = Retiring { successor, since: NOW, overlap: Duration::from_secs(1) };
    let with_next = |acme: &mut PartnerRecord| {
        acme.api_keys.push(ApiKey {
            id: credential_id("acme-next"),
            hash: KeyHash(Fingerprint([1; 32])),
            ..acme.api_keys[0].clone()
        });
        acme.api_keys[0].retiring = Some(Box::new(retiring));
    };
    gate.changed(with_next);
    assert_eq!(gate.keyed(&text), "allowed by acme-reads", "it is good until it is revoked");
    gate.changed(|acme| acme.grants[0].period.ends = Some(NOW));
    assert_eq!(gate.keyed(&text), "grant-expired");
    gate.changed(|acme| {
        acme.api_keys[0].revoke(Revoked { reason: "leaked".into(), author: "a".into(), at: NOW });
    });
    assert_eq!(gate.keyed(&text), "api-key-revoked");
    assert_eq!(again(&gate, NOW), Err(vec![Reason::ApiKeyRevoked]));
}

#[test]
fn key_of_another_environment_is_nobody_s() {
    let (mut gate, text) = gate();
    gate.changed(|acme| acme.api_keys[0].environments = vec![environment("staging")]);
    assert_eq!(gate.keyed(&text), "api-key-unknown");
}

#[test]
fn route_says_whether_a_key_is_asked_for() {
    let (mut gate, text) = gate();
    let plain = |gate: &Gate| {
        outcome(&decide(&gate.snapshot, &gate.world.peer(&gate.snapshot), &gate.world.request, &gate.slots))
    };
    gate.routed(TokenUse::Required);
    assert_eq!(plain(&gate), "api-key-missing");
    assert_eq!(gate.keyed(&text), "allowed by acme-reads");
    // A token that was given for a key stands for it.
    let granted = gate.issued(&gate.exchange(&text));
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
    let without = gate.issued("grant_type=client_credentials&client_id=acme");
    assert_eq!(gate.with(token(&without)), "api-key-missing");
    gate.routed(TokenUse::Ignored);
    assert_eq!(gate.keyed("of the upstream"), "allowed by acme-reads");
    let (peer, plain) = (gate.world.peer(&gate.snapshot), gate.world.request.clone());
    let both = RequestFacts { bearer: token(&granted), api_key: Brought::Text("of the upstream".into()), ..plain };
    assert_eq!(outcome(&decide(&gate.snapshot, &peer, &both, &gate.slots)), "allowed by acme-reads");
}

#[test]
fn token_for_a_key_is_no_better_than_the_key() {
    let (mut gate, text) = gate();
    gate.changed(|acme| {
        acme.grants.insert(0, grant("acme-all", &["invoices.delete", "invoices.read"]));
        acme.api_keys[0].ends = UnixNanos(NOW.0 + 60_000_000_000);
        acme.api_keys[0].networks = Some(network_names(&["dc1"]));
    });
    let granted = gate.issued(&gate.exchange(&text));
    assert_eq!((granted.scope.as_str(), granted.token.expires_in), ("invoices.read", 60));
    assert_eq!((granted.from.as_deref(), granted.grants.len()), (Some("acme-batch"), 1));
    assert_eq!(gate.refused(&format!("{}&scope=invoices.delete", gate.exchange(&text))), "token-scope-empty");
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
    let narrower = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&client_id=acme&subject_token={}\
         &subject_token_type=urn:ietf:params:oauth:token-type:access_token",
        granted.token.text
    );
    let second = gate.issued(&narrower);
    assert_eq!(second.api_key.as_ref().unwrap().as_str(), "acme-batch");
    // The key and the token that was given for it, together: one of them is enough.
    let peer = gate.world.peer(&gate.snapshot);
    let both = RequestFacts {
        bearer: token(&granted),
        api_key: Brought::Text(text.as_str().into()),
        ..gate.world.request.clone()
    };
    assert_eq!(outcome(&decide(&gate.snapshot, &peer, &both, &gate.slots)), "api-key-ambiguous");
    assert!(introspect(&gate.snapshot, &granted.token.text, NOW).is_some_and(|good| good.scope == "invoices.read"));
    // What becomes of the key becomes of its tokens.
    gate.changed(|acme| acme.api_keys[0].networks = Some(network_names(&["dc2"])));
    assert_eq!(gate.with(token(&granted)), "network-not-allowed");
    assert_eq!(gate.refused(&gate.exchange(&text)), "network-not-allowed");
    gate.changed(|acme| {
        acme.api_keys[0].networks = None;
        acme.api_keys[0].operations = Some(Vec::new());
    });
    assert_eq!(gate.with(token(&granted)), "api-key-scope-exceeded");
    assert!(introspect(&gate.snapshot, &granted.token.text, NOW).is_none());
    gate.changed(|acme| {
        acme.api_keys[0].operations = None;
        acme.api_keys[0].revoke(Revoked { reason: "leaked".into(), author: "a".into(), at: NOW });
    });
    for granted in [&granted, &second] {
        assert_eq!(gate.with(token(granted)), "api-key-revoked");
        assert!(introspect(&gate.snapshot, &granted.token.text, NOW).is_none());
    }
    assert_eq!(gate.refused(&narrower), "api-key-revoked");
    assert_eq!(gate.refused(&gate.exchange(&text)), "api-key-revoked");
    gate.changed(|acme| acme.api_keys.clear());
    assert_eq!(gate.with(token(&granted)), "api-key-unknown");
}

#[test]
fn exchange_of_a_key_is_with_its_certificate() {
    let (mut gate, text) = gate();
    let second = gate.world.acme_ca.issue(|_| {});
    gate.changed(|acme| {
        acme.credentials.push(credential("acme-second", "acme-ca", Match::FingerprintSha256(Fingerprint::of(&second))));
    });
    let peer = verified(&gate.snapshot, &second);
    let refused = gate.asked_at(&peer, &gate.exchange(&text), NOW).unwrap_err();
    assert_eq!(refused.denial.reasons, [Reason::ApiKeyWrongCertificate]);
    for (bad, reason) in [("pgk_x", "api-key-malformed"), ("", "token-request-malformed")] {
        assert_eq!(gate.refused(&gate.exchange(bad)), reason);
    }
    assert_eq!(gate.issued(&gate.exchange(&text)).scope, "invoices.read");
}
