//! What no policy can open: each case is asked under the shipped policy and under one that allows everything.

use super::*;

const ALLOW_EVERYTHING: &str = r#"decision := {"allow": true, "grant": "acme-reads"}"#;

/// Asks under both policies; the answers are the same because policy is not asked at all.
fn asked(change: impl Fn(&mut World)) -> String {
    let shipped = World::new().with(&change).ask();
    let open = World::under(ALLOW_EVERYTHING).with(&change).ask();
    assert_eq!(shipped, open, "policy made a difference to the floor");
    shipped
}

#[test]
fn the_policy_that_allows_everything_does_allow_when_the_floor_holds() {
    assert_eq!(asked(|_| {}), "allowed by acme-reads");
}

#[test]
fn a_certificate_that_nobody_registered_is_nobody() {
    assert_eq!(asked(|w| w.acme_leaf = w.acme_ca.issue(|_| {})), "identity-unknown");
}

#[test]
fn an_anchor_of_one_partner_does_not_speak_in_the_name_of_another() {
    let uri = "spiffe://globex.example/billing";
    let impostor = |w: &mut World| {
        w.globex.credentials[0].matching = Match::uri(uri).unwrap();
        w.acme_leaf = w.acme_ca.issue(|p| p.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())]);
    };
    assert_eq!(asked(impostor), "identity-unknown");
}

#[test]
fn a_certificate_of_two_partners_is_nobody() {
    let uri = "spiffe://shared.example/service";
    let shared = |w: &mut World| {
        w.acme_leaf = w.acme_ca.issue(|p| p.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())]);
        w.acme.credentials[0].matching = Match::FingerprintSha256(Fingerprint::of(&w.acme_leaf));
        w.anchors[0].partners.push(w.globex.partner.id.clone());
        w.globex.credentials = vec![credential("globex-cert", "acme-ca", Match::uri(uri).unwrap())];
    };
    assert_eq!(asked(shared), "identity-ambiguous");
}

#[test]
fn another_environment_of_anchor_or_credential_is_denied() {
    let staging = || vec![environment("staging")];
    assert_eq!(asked(|w| w.anchors[0].environments = staging()), "wrong-environment");
    assert_eq!(asked(|w| w.anchors[0].environments.clear()), "wrong-environment");
    assert_eq!(asked(|w| w.acme.credentials[0].environments = staging()), "wrong-environment");
    assert_eq!(asked(|w| w.acme.credentials[0].environments.clear()), "wrong-environment");
    assert_eq!(asked(|w| w.environment = environment("staging")), "wrong-environment");
}

#[test]
fn only_an_active_credential_is_accepted() {
    for state in [CredentialState::Pending, CredentialState::Revoked] {
        assert_eq!(asked(|w| w.acme.credentials[0].state = state), "credential-not-active", "{state:?}");
    }
}

#[test]
fn only_an_active_partner_is_served() {
    for state in [PartnerState::Draft, PartnerState::Suspended, PartnerState::Ended] {
        assert_eq!(asked(|w| w.acme.partner.state = state), "partner-not-active", "{state:?}");
    }
}

#[test]
fn the_engagement_holds_its_first_instant_and_not_its_last() {
    let at = |now: UnixNanos| {
        asked(|w| {
            w.acme.partner.engagement = Period { starts: Some(NOW), ends: Some(UnixNanos(NOW.0 + 2)) };
            w.request.now = now;
        })
    };
    assert_eq!(at(before(NOW)), "engagement-not-started");
    assert_eq!(at(NOW), "allowed by acme-reads");
    assert_eq!(at(UnixNanos(NOW.0 + 1)), "allowed by acme-reads");
    assert_eq!(at(UnixNanos(NOW.0 + 2)), "engagement-ended");
}

#[test]
fn a_certificate_ends_at_its_exact_instant_on_a_connection_that_is_open() {
    let leaf = |w: &mut World| {
        let day = rcgen::date_time_ymd(2026, 3, 4);
        w.acme_leaf = w.acme_ca.issue(|p| (p.not_before, p.not_after) = (day, day + Duration::from_secs(86_399)));
        w.acme.credentials[0].matching = Match::FingerprintSha256(Fingerprint::of(&w.acme_leaf));
    };
    // Valid from midnight through the last second of the day.
    let (starts, ends) = (UnixNanos(1_772_582_400_000_000_000), UnixNanos(1_772_668_800_000_000_000));
    for (now, expected) in [
        (before(starts), "credential-not-yet-valid"),
        (starts, "allowed by acme-reads"),
        (before(ends), "allowed by acme-reads"),
        (ends, "credential-expired"),
    ] {
        let at = |w: &mut World| {
            leaf(w);
            w.request.now = now;
        };
        assert_eq!(asked(at), expected, "{now}");
    }
}

#[test]
fn an_anchor_ends_at_its_exact_instant_on_a_connection_that_is_open() {
    let mut world = World::new();
    let day = rcgen::date_time_ymd(2026, 4, 4) + Duration::from_secs(86_399);
    let ca = Ca::new("Acme CA", |p| p.not_after = day);
    world.acme_leaf = ca.issue(|_| {});
    world.acme.credentials[0].matching = Match::FingerprintSha256(Fingerprint::of(&world.acme_leaf));
    world.anchors[0].root = Root::Certificate { certificate: Der(ca.der) };
    let ends = UnixNanos(1_775_347_200_000_000_000);
    assert_eq!(world.ask_at(before(ends)), "allowed by acme-reads");
    assert_eq!(world.ask_at(ends), "certificate-expired");
}

#[test]
fn a_connection_outlives_neither_its_anchor_nor_the_anchor_s_key() {
    for policy in [shipped(), World::under(ALLOW_EVERYTHING).policy] {
        let world = World::new().with(|w| w.policy = policy);
        let old = world.snapshot();
        let peer = world.peer(&old);

        // The same name, another key.
        let mut replaced = world.clone();
        replaced.anchors[0].root = Root::Certificate { certificate: Der(Ca::new("Acme CA", |_| {}).der) };
        let change = Change::Anchor(replaced.anchors[0].name.clone(), Some(replaced.anchors[0].clone()));
        let new = old.with_registry(old.registry.with(2, &[change]).unwrap(), &[], Some(Arc::default()), NOW);
        let new = new.unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(world.ask_of(&new, &peer), "trust-changed");
        assert_eq!(world.ask_of(&replaced.snapshot_after(Some(&old)), &peer), "trust-changed");

        // The same key, another name: the name is what credentials and partners are bound to.
        let mut renamed = world.clone();
        renamed.anchors[0].name = AnchorName::parse("acme-ca-2").unwrap();
        renamed.acme.credentials[0].anchor = renamed.anchors[0].name.clone();
        assert_eq!(world.ask_of(&renamed.snapshot_after(Some(&old)), &peer), "trust-changed");

        // Gone.
        let mut gone = world.clone();
        gone.anchors.remove(0);
        gone.acme.credentials.clear();
        assert_eq!(world.ask_of(&gone.snapshot_after(Some(&old)), &peer), "trust-changed");

        // The state of yesterday still answers as yesterday: a request is decided on one snapshot.
        assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
    }
}

#[test]
fn a_renewed_anchor_with_its_key_keeps_its_connections() {
    let world = World::new();
    let old = world.snapshot();
    let mut renewed = world.clone();
    let certificate = {
        let params = ca_params("Acme CA", |p| p.not_after = rcgen::date_time_ymd(2040, 1, 1));
        params.self_signed(world.acme_ca.signer.key()).unwrap().der().to_vec()
    };
    renewed.anchors[0].root = Root::Certificate { certificate: Der(certificate) };
    let new = renewed.snapshot_after(Some(&old));
    assert_eq!(world.ask_of(&new, &world.peer(&old)), "allowed by acme-reads");
}

#[test]
fn removing_or_revoking_the_credential_ends_an_open_connection() {
    let world = World::new();
    let old = world.snapshot();
    let peer = world.peer(&old);
    let after = |change: fn(&mut PartnerRecord)| {
        let mut acme = world.acme.clone();
        change(&mut acme);
        let id = acme.partner.id.clone();
        let registry = old.registry.with(2, &[Change::Partner(id.clone(), Some(acme.into()))]).unwrap();
        let new = old.with_registry(registry, &[id], None, NOW).unwrap_or_else(|p| panic!("{p}"));
        world.ask_of(&new, &peer)
    };
    assert_eq!(after(|r| r.credentials[0].state = CredentialState::Revoked), "credential-not-active");
    assert_eq!(after(|r| r.credentials.clear()), "identity-unknown");
    assert_eq!(after(|r| r.partner.state = PartnerState::Suspended), "partner-not-active");
}

#[test]
fn who_does_not_pass_the_floor_learns_nothing_of_routes_and_operations() {
    for target in ["/v1/invoices/7", "/v1/unknown", "/elsewhere"] {
        for host in ["api.example", "other.example"] {
            let change = |w: &mut World| {
                w.acme.partner.state = PartnerState::Ended;
                w.request = request(Method::GET, target, host);
            };
            assert_eq!(asked(change), "partner-not-active", "{host}{target}");
        }
    }
}

#[test]
fn an_intermediate_that_expires_ends_a_connection_that_is_open() {
    let mut world = World::new();
    let last_second = rcgen::date_time_ymd(2026, 4, 4) + Duration::from_secs(86_399);
    let issuing = world.acme_ca.below("Acme Issuing CA", |p| p.not_after = last_second);
    world.acme_leaf = issuing.issue(|_| {});
    world.acme.credentials[0].matching = Match::FingerprintSha256(Fingerprint::of(&world.acme_leaf));
    let snapshot = world.snapshot();
    let chain = [world.acme_leaf.as_slice(), &issuing.der].map(CertificateDer::from);
    let peer = snapshot.trust.verify(&chain, NOW).unwrap();
    let ends = UnixNanos(1_775_347_200_000_000_000);
    assert!(snapshot.trust.verify(&chain, ends).is_err(), "a new connection is refused");
    world.request.now = before(ends);
    assert_eq!(world.ask_of(&snapshot, &peer), "allowed by acme-reads");
    world.request.now = ends;
    assert_eq!(world.ask_of(&snapshot, &peer), "certificate-expired");
}

#[test]
fn an_anchor_that_begins_to_demand_client_auth_ends_connections_without_it() {
    let mut world = World::new();
    world.anchors[0].client_auth = ClientAuthUsage::Optional;
    world.acme_leaf = world.acme_ca.issue(|p| p.extended_key_usages.clear());
    world.acme.credentials[0].matching = Match::FingerprintSha256(Fingerprint::of(&world.acme_leaf));
    let lenient = world.snapshot();
    let peer = world.peer(&lenient);
    assert_eq!(world.ask_of(&lenient, &peer), "allowed by acme-reads");
    world.anchors[0].client_auth = ClientAuthUsage::Required;
    let strict = world.snapshot_after(Some(&lenient));
    assert!(strict.trust.verify(&[CertificateDer::from(world.acme_leaf.as_slice())], NOW).is_err());
    assert_eq!(world.ask_of(&strict, &peer), "certificate-wrong-usage");
}
