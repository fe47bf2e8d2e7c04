//! What may be called, from where and until when, under the shipped policy.

use super::*;

/// The outcome after `change`.
fn asked(change: impl FnOnce(&mut World)) -> String {
    World::new().with(change).ask()
}

fn calling(method: Method, target: &str, host: &str) -> String {
    asked(|w| w.request = request(method, target, host))
}

#[test]
fn only_configured_hosts_paths_and_operations_exist() {
    assert_eq!(calling(Method::GET, "/v1/invoices/7", "other.example"), "host-mismatch");
    assert_eq!(calling(Method::GET, "/v2/invoices/7", "api.example"), "route-unknown");
    assert_eq!(calling(Method::GET, "/", "api.example"), "route-unknown");
    assert_eq!(calling(Method::GET, "/v1/payments", "api.example"), "operation-unknown");
    assert_eq!(calling(Method::GET, "/v1/invoices/7/", "api.example"), "operation-unknown");
    assert_eq!(calling(Method::POST, "/v1/invoices/7", "api.example"), "operation-unknown");
    assert_eq!(calling(Method::HEAD, "/v1/invoices/7", "api.example"), "operation-unknown");
}

#[test]
fn an_operation_that_no_grant_names_is_denied() {
    assert_eq!(calling(Method::DELETE, "/v1/invoices/7", "api.example"), "operation-not-granted");
    assert_eq!(asked(|w| w.acme.grants.clear()), "operation-not-granted");
    assert_eq!(asked(|w| w.acme.grants[0].operations.clear()), "operation-not-granted");
}

#[test]
fn a_partner_is_not_served_on_the_grant_of_another() {
    assert_eq!(asked(|w| w.acme.grants = vec![grant("acme-feed", &["feed.open"])]), "operation-not-granted");
}

#[test]
fn a_grant_of_another_environment_is_named_as_the_cause() {
    let outcome = asked(|w| w.acme.grants[0].environments = vec![environment("staging")]);
    assert_eq!(outcome, "wrong-environment operation-not-granted");
    let outcome = asked(|w| w.acme.grants[0].environments.clear());
    assert_eq!(outcome, "wrong-environment operation-not-granted");
    // One for the operation and this environment is enough, whatever stands beside it.
    let outcome = asked(|w| {
        let mut staging = grant("a-staging", &["invoices.read"]);
        staging.environments = vec![environment("staging")];
        w.acme.grants.insert(0, staging);
    });
    assert_eq!(outcome, "allowed by acme-reads");
}

#[test]
fn an_upgrade_is_for_operations_that_have_it() {
    let upgrade = |target: &str, wanted: UpgradeWanted| {
        asked(|w| {
            w.acme.grants = vec![grant("all", &["feed.open", "invoices.read"])];
            w.request = request(Method::GET, target, "api.example");
            w.request.upgrade = wanted;
        })
    };
    assert_eq!(upgrade("/v1/feed", UpgradeWanted::To("websocket".into())), "allowed by all");
    assert_eq!(upgrade("/v1/feed", UpgradeWanted::No), "allowed by all");
    assert_eq!(upgrade("/v1/feed", UpgradeWanted::Unclear), "upgrade-not-allowed");
    assert_eq!(upgrade("/v1/feed", UpgradeWanted::To("websocket/2".into())), "upgrade-not-allowed");
    assert_eq!(upgrade("/v1/invoices/7", UpgradeWanted::To("websocket".into())), "upgrade-not-allowed");
    assert_eq!(upgrade("/v1/invoices/7", UpgradeWanted::Unclear), "upgrade-not-allowed");
}

#[test]
fn a_source_must_be_in_the_networks_of_partner_and_grant() {
    const ALLOWED: &str = "allowed by acme-reads";
    const DENIED: &str = "network-not-allowed";
    let dc2 = "198.51.100.9";
    let nowhere = "203.0.113.9";
    for (partner, grant, source, expected) in [
        // A grant without a list has the partner's.
        (&["dc1"][..], None, "192.0.2.7", ALLOWED),
        (&["dc1"], None, dc2, DENIED),
        // A partner without networks reaches nothing, whatever its grants say.
        (&[], None, "192.0.2.7", DENIED),
        (&[], Some(&["any"][..]), "192.0.2.7", DENIED),
        (&[], Some(&["dc1"]), "192.0.2.7", DENIED),
        // A grant narrows.
        (&["dc1", "dc2"], Some(&["dc1"]), "192.0.2.7", ALLOWED),
        (&["dc1", "dc2"], Some(&["dc1"]), dc2, DENIED),
        (&["dc1"], Some(&[]), "192.0.2.7", DENIED),
        // A grant does not widen.
        (&["dc1"], Some(&["dc2"]), dc2, DENIED),
        (&["dc1"], Some(&["dc1", "dc2"]), dc2, DENIED),
        (&["dc1"], Some(&["any"]), dc2, DENIED),
        (&["dc1"], Some(&["any"]), "192.0.2.7", ALLOWED),
        // `any` is written or does not hold.
        (&["dc1", "dc2"], None, nowhere, DENIED),
        (&["any"], None, nowhere, ALLOWED),
        (&["any"], Some(&["dc2"]), nowhere, DENIED),
        (&["any"], Some(&["dc2"]), dc2, ALLOWED),
        (&["any"], None, "2001:db8::1", ALLOWED),
        // An IPv4-mapped address is the IPv4 address; other IPv6 forms of it are not.
        (&["dc1"], None, "::ffff:192.0.2.7", ALLOWED),
        (&["dc1"], None, "::ffff:198.51.100.9", DENIED),
        (&["dc1"], None, "::192.0.2.7", DENIED),
        (&["dc1"], None, "64:ff9b::192.0.2.7", DENIED),
        // The edges of 192.0.2.0/24.
        (&["dc1"], None, "192.0.2.0", ALLOWED),
        (&["dc1"], None, "192.0.2.255", ALLOWED),
        (&["dc1"], None, "192.0.3.0", DENIED),
    ] {
        let outcome = asked(|w| {
            w.acme.partner.networks = network_names(partner);
            w.acme.grants[0].networks = grant.map(network_names);
            w.request.source = from(source);
        });
        assert_eq!(outcome, expected, "partner {partner:?}, grant {grant:?}, source {source}");
    }
}

#[test]
fn a_grant_holds_its_first_instant_and_not_its_last() {
    let mut world = World::new();
    world.acme.grants[0].period = Period { starts: Some(NOW), ends: Some(UnixNanos(NOW.0 + 2)) };
    assert_eq!(world.ask_at(before(NOW)), "grant-not-started");
    assert_eq!(world.ask_at(NOW), "allowed by acme-reads");
    assert_eq!(world.ask_at(UnixNanos(NOW.0 + 1)), "allowed by acme-reads");
    assert_eq!(world.ask_at(UnixNanos(NOW.0 + 2)), "grant-expired");
}

#[test]
fn a_grant_for_other_credentials_is_not_for_this_one() {
    let second = |w: &mut World| {
        let matching = Match::dns("second.acme.example").unwrap();
        w.acme.credentials.push(credential("acme-second", "acme-ca", matching));
    };
    let listed = |list: &[&str]| {
        asked(|w| {
            second(w);
            w.acme.grants[0].credentials = Some(list.iter().map(|c| credential_id(c)).collect());
        })
    };
    assert_eq!(listed(&["acme-cert"]), "allowed by acme-reads");
    assert_eq!(listed(&["acme-cert", "acme-second"]), "allowed by acme-reads");
    assert_eq!(listed(&["acme-second"]), "credential-not-granted");
    assert_eq!(listed(&[]), "credential-not-granted");
}

#[test]
fn a_denial_names_all_that_stands_in_the_way_the_least_telling_first() {
    let outcome = asked(|w| {
        w.acme.grants[0].period.ends = Some(NOW);
        w.acme.grants[0].credentials = Some(vec![]);
        w.request.source = from("203.0.113.9");
    });
    assert_eq!(outcome, "credential-not-granted network-not-allowed grant-expired");
}
