//! Access tokens: what they are issued for, and that they narrow and never open.

use super::*;
use crate::jose::Algorithm;
use crate::partner::{Denied, DeniedCertificate, Revoked, Suspension};
use crate::request::Brought;
use crate::token::{
    ApiKeySettings, Form, Issued, KeyUse, RevokedToken, Rotation, Server, StoredKey, TokenSettings, Tokens,
};
use serde_json::Value;

const LIFETIME: Duration = Duration::from_secs(600);

fn tokens() -> Arc<Tokens> {
    let secret: Arc<[u8]> = b"a secret that is long enough for tests".as_slice().into();
    let rotation = Rotation { every: Duration::from_secs(86_400), ahead: Duration::from_secs(60), longest: LIFETIME };
    let key = StoredKey::generate(Algorithm::Es256, &secret, (NOW, NOW)).unwrap();
    let server = Server::of("https://api.example").unwrap();
    let api_keys = Some(ApiKeySettings { accepted_in: KeyUse::Header, longest: Duration::from_secs(366 * 86_400) });
    let algorithm = Algorithm::Es256;
    let settings = TokenSettings { server, lifetime: Some(LIFETIME), api_keys, algorithm, secret, rotation };
    Arc::new(Tokens::new(settings, vec![key], environment("production")).unwrap_or_else(|e| panic!("{e}")))
}

fn with_tokens(world: &World, tokens: Option<Arc<Tokens>>) -> Snapshot {
    world.snapshot().with_tokens(tokens, NOW).unwrap_or_else(|p| panic!("{p}"))
}

pub(super) struct Gate {
    pub world: World,
    pub snapshot: Snapshot,
    pub slots: Slots,
}

impl Gate {
    pub(super) fn of(world: World) -> Gate {
        let snapshot = with_tokens(&world, Some(tokens()));
        Gate { world, snapshot, slots: Slots::new(10, usize::MAX, WhenFull::Deny) }
    }

    pub(super) fn new() -> Gate {
        Gate::of(World::new())
    }

    pub(super) fn asked(&self, form: &str) -> Result<Granted, NotGranted> {
        let peer = self.world.peer(&self.snapshot);
        self.asked_at(&peer, form, NOW)
    }

    pub(super) fn asked_at(&self, peer: &Peer, form: &str, now: UnixNanos) -> Result<Granted, NotGranted> {
        let form = Form::parse(Some("application/x-www-form-urlencoded"), form.as_bytes());
        let form = form.as_ref().map_err(|said| *said);
        let request = request(Method::POST, "/oauth2/token", "api.example");
        decide_token(&self.snapshot, peer, (&request, now), form, &self.slots).map(|(granted, _)| granted)
    }

    #[track_caller]
    pub(super) fn refused(&self, form: &str) -> String {
        let refused = self.asked(form).unwrap_err();
        refused.denial.reasons.iter().map(Reason::as_str).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    pub(super) fn issued(&self, form: &str) -> Granted {
        self.asked(form).unwrap_or_else(|refused| panic!("{form}: {refused:?}"))
    }

    /// The outcome for acme with this in Authorization.
    pub(super) fn with(&self, bearer: Brought) -> String {
        self.with_at(&self.world.peer(&self.snapshot), bearer, NOW)
    }

    fn with_at(&self, peer: &Peer, bearer: Brought, now: UnixNanos) -> String {
        let request = RequestFacts { bearer, now, ..self.world.request.clone() };
        outcome(&decide(&self.snapshot, peer, &request, &self.slots))
    }

    pub(super) fn changed(&mut self, change: impl FnOnce(&mut PartnerRecord)) {
        change(&mut self.world.acme);
        let tokens = self.snapshot.tokens.clone();
        self.snapshot = with_tokens(&self.world, tokens);
    }
}

pub(super) fn token(granted: &Granted) -> Brought {
    Brought::Text(granted.token.text.as_str().into())
}

const FORM: &str = "grant_type=client_credentials&client_id=acme";

fn scoped(scope: &str) -> String {
    format!("{FORM}&scope={scope}")
}

#[test]
fn token_is_issued_for_what_is_granted_now_and_carries_a_request() {
    let gate = Gate::new();
    let granted = gate.issued(FORM);
    assert_eq!((granted.scope.as_str(), granted.upstream.as_str()), ("invoices.read", "billing-api"));
    assert_eq!(granted.grants, [GrantId::parse("acme-reads").unwrap()]);
    assert_eq!(granted.token.expires_in, 600);
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
    assert_eq!(gate.with(Brought::None), "allowed by acme-reads");
}

#[test]
fn scope_is_what_is_asked_for_and_granted() {
    let mut gate = Gate::new();
    gate.changed(|acme| acme.grants.insert(0, grant("acme-deletes", &["invoices.delete"])));
    assert_eq!(gate.issued(FORM).scope, "invoices.delete invoices.read");
    let narrow = gate.issued(&scoped("invoices.read+feed.open+nothing"));
    assert_eq!(narrow.scope, "invoices.read");
    assert_eq!(narrow.grants, [GrantId::parse("acme-reads").unwrap()]);
    for none in ["feed.open", "nothing", "INVOICES.READ", "invoices.*", "tag:billing"] {
        assert_eq!(gate.refused(&scoped(none)), "token-scope-empty", "{none}");
    }
    let mut other = Gate::new();
    other.changed(|acme| {
        let second = credential("acme-second", "acme-ca", Match::FingerprintSha256(Fingerprint([9; 32])));
        acme.credentials.push(second);
        acme.grants[0].credentials = Some(vec![credential_id("acme-second")]);
    });
    assert_eq!(other.refused(FORM), "token-scope-empty");
    // It is held to its scope, although more is granted.
    let deletes = gate.issued(&scoped("invoices.delete"));
    assert_eq!(gate.with(token(&deletes)), "token-scope-exceeded");
    assert_eq!(gate.with(token(&narrow)), "allowed by acme-reads");
}

#[test]
fn grants_that_are_none_here_and_now_are_in_no_token() {
    let others: [fn(&mut Grant); 5] = [
        |g| g.revoked = Some(Box::new(Revoked { reason: "r".into(), author: "a".into(), at: NOW })),
        |g| g.period.ends = Some(NOW),
        |g| g.period.starts = Some(UnixNanos(NOW.0 + 1)),
        |g| g.environments = vec![environment("staging")],
        |g| g.operations.clear(),
    ];
    for (n, change) in others.into_iter().enumerate() {
        let mut gate = Gate::new();
        gate.changed(|acme| change(&mut acme.grants[0]));
        assert_eq!(gate.refused(FORM), "token-scope-empty", "{n}");
    }
}

#[test]
fn token_ends_with_grant_engagement_and_certificate() {
    let soon = UnixNanos(NOW.0 + 60_000_000_000);
    let mut gate = Gate::new();
    gate.changed(|acme| acme.grants[0].period.ends = Some(soon));
    assert_eq!(gate.issued(FORM).token.expires_in, 60);
    gate.changed(|acme| acme.partner.engagement.ends = Some(UnixNanos(soon.0 - 30_000_000_000)));
    assert_eq!(gate.issued(FORM).token.expires_in, 30);
    // The certificate.
    let mut world = World::new();
    world.acme_leaf = world.acme_ca.issue(|params| {
        params.not_before = time::OffsetDateTime::from_unix_timestamp(NOW.0 / 1_000_000_000 - 60).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(NOW.0 / 1_000_000_000 + 20).unwrap();
    });
    world.acme.credentials[0].matching = Match::FingerprintSha256(Fingerprint::of(&world.acme_leaf));
    assert!((20..=21).contains(&Gate::of(world).issued(FORM).token.expires_in));
}

#[test]
fn client_is_who_the_certificate_says_and_nothing_else_authenticates() {
    let gate = Gate::new();
    for (form, reason) in [
        ("grant_type=client_credentials", "token-request-malformed"),
        ("grant_type=client_credentials&client_id=", "token-request-malformed"),
        ("grant_type=client_credentials&client_id=globex", "token-client-not-authentic"),
        ("grant_type=client_credentials&client_id=ACME", "token-client-not-authentic"),
        ("grant_type=client_credentials&client_id=acme&client_secret=x", "token-client-not-authentic"),
        ("grant_type=client_credentials&client_id=acme&client_assertion=x", "token-client-not-authentic"),
        ("client_id=acme", "token-request-malformed"),
        ("grant_type=password&client_id=acme&username=a&password=b", "token-grant-type-not-served"),
        ("grant_type=refresh_token&client_id=acme", "token-grant-type-not-served"),
    ] {
        assert_eq!(gate.refused(form), reason, "{form}");
    }
    let peer = gate.world.peer(&gate.snapshot);
    let in_url = request(Method::POST, "/oauth2/token?grant_type=client_credentials", "api.example");
    let form = Form::parse(Some("application/x-www-form-urlencoded"), FORM.as_bytes()).unwrap();
    let refused = decide_token(&gate.snapshot, &peer, (&in_url, NOW), Ok(&form), &gate.slots).unwrap_err();
    assert_eq!(refused.denial.reasons, [Reason::TokenRequestMalformed]);
    // The floor comes first, and says what it says to everybody.
    let mut gate = gate;
    gate.changed(|acme| acme.partner.state = PartnerState::Draft);
    let refused = gate.asked("nonsense").unwrap_err();
    assert!(refused.denial.reasons == [Reason::PartnerNotActive] && !refused.denial.identity_stands);
}

#[test]
fn target_is_an_upstream_by_name_or_by_address() {
    let gate = Gate::new();
    for target in [
        "audience=billing-api",
        "resource=https%3A%2F%2Fapi.example%2Fv1%2Finvoices",
        "resource=https://api.example:8443/v1",
        "audience=billing-api&resource=https://api.example/v1",
    ] {
        assert_eq!(gate.issued(&format!("{FORM}&{target}")).upstream.as_str(), "billing-api", "{target}");
    }
    for target in [
        "audience=orders",
        "audience=billing-api&audience=orders",
        "scope=invoices.read&audience=orders",
        "resource=http://api.example/v1",
        "resource=https://api.example/v2",
        "resource=https://other.example/v1",
        "resource=https://api.example/v1%3Fx",
        "resource=billing-api",
    ] {
        assert_eq!(gate.refused(&format!("{FORM}&{target}")), "token-target-unknown", "{target}");
    }
}

#[test]
fn nothing_is_signed_without_a_place_for_the_record() {
    let gate = Gate { slots: Slots::new(0, usize::MAX, WhenFull::Deny), ..Gate::new() };
    assert_eq!(gate.refused(FORM), "record-unavailable");
}

#[test]
fn token_is_worth_nothing_with_another_certificate() {
    let mut gate = Gate::new();
    let granted = gate.issued(FORM);
    let globex = verified(&gate.snapshot, &gate.world.globex_leaf);
    assert_eq!(gate.with_at(&globex, token(&granted), NOW), "token-wrong-partner");
    // Another one of the same partner.
    let second = gate.world.acme_ca.issue(|_| {});
    gate.changed(|acme| {
        acme.credentials.push(credential("acme-second", "acme-ca", Match::FingerprintSha256(Fingerprint::of(&second))));
    });
    let peer = verified(&gate.snapshot, &second);
    assert_eq!(gate.with_at(&peer, Brought::None, NOW), "allowed by acme-reads");
    assert_eq!(gate.with_at(&peer, token(&granted), NOW), "token-wrong-certificate");
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
}

#[test]
fn what_ends_ends_its_tokens_at_once() {
    type Change = fn(&mut PartnerRecord);
    let changes: [(Change, &str); 4] = [
        (
            |r| r.partner.suspension = Some(Suspension { reason: "r".into(), author: "a".into(), at: NOW }),
            "partner-not-active",
        ),
        (|r| r.grants[0].period.ends = Some(NOW), "grant-expired"),
        (
            |r| r.grants[0].revoked = Some(Box::new(Revoked { reason: "r".into(), author: "a".into(), at: NOW })),
            "grant-revoked operation-not-granted",
        ),
        (|r| r.credentials[0].state = CredentialState::Revoked, "credential-not-active"),
    ];
    for (change, reason) in changes {
        let mut gate = Gate::new();
        let granted = gate.issued(FORM);
        assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
        gate.changed(change);
        assert_eq!(gate.with(token(&granted)), reason);
    }
    // Another grant for the same is not what it was issued by.
    let mut gate = Gate::new();
    let granted = gate.issued(FORM);
    gate.changed(|acme| acme.grants = vec![grant("acme-again", &["invoices.read"])]);
    assert_eq!(gate.with(Brought::None), "allowed by acme-again");
    assert_eq!(gate.with(token(&granted)), "token-scope-exceeded");
    // A smaller one beside it is not taken in its place either.
    gate.changed(|acme| acme.grants.push(grant("acme-reads", &["invoices.read"])));
    assert_eq!(gate.with(Brought::None), "allowed by acme-again");
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
}

#[test]
fn token_ends_what_goes_on_when_it_ends() {
    let gate = Gate::new();
    let granted = gate.issued(FORM);
    let request = RequestFacts { bearer: token(&granted), ..gate.world.request.clone() };
    let peer = gate.world.peer(&gate.snapshot);
    let Decision::Allow(permit) = decide(&gate.snapshot, &peer, &request, &gate.slots) else { panic!() };
    assert_eq!(permit.until(), granted.token.expires);
    let again = |now: UnixNanos| {
        let who = standing(&gate.snapshot, &peer, now).map_err(|_| ()).unwrap();
        who.decide_again(&request, &mut LastVerdict::default()).map_err(|(reasons, _)| reasons)
    };
    assert_eq!(again(before(granted.token.expires)), Ok(granted.token.expires));
    assert_eq!(again(granted.token.expires), Err(vec![Reason::TokenExpired]));
}

#[test]
fn policy_that_permits_everything_opens_no_token() {
    let allow = r#"decision := {"allow": true, "grant": "acme-reads"}"#;
    let mut gate = Gate::of(World::under(allow));
    let granted = gate.issued(FORM);
    gate.changed(|acme| acme.grants[0].operations = vec![OperationId::parse("invoices.delete").unwrap()]);
    let deletes = gate.issued(FORM);
    gate.changed(|acme| acme.grants[0] = grant("acme-reads", &["invoices.read"]));
    assert_eq!(gate.with(token(&deletes)), "token-scope-exceeded");
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
    let bad = format!("{}x", granted.token.text);
    assert_eq!(gate.with(Brought::Text(bad.into())), "token-malformed");
    assert_eq!(gate.with(Brought::Unclear("why")), "token-ambiguous");
}

#[test]
fn token_in_the_url_has_leaked() {
    let mut gate = Gate::new();
    let granted = gate.issued(FORM);
    for name in ["access_token", "Access_Token", "access.token"] {
        let target = format!("/v1/invoices/7?{name}={}", granted.token.text);
        gate.world.request = request(Method::GET, &target, "api.example");
        for bearer in [Brought::None, token(&granted)] {
            assert_eq!(gate.with(bearer), "token-ambiguous", "{name}");
        }
    }
    gate.world.request = request(Method::GET, "/v1/invoices/7?access-token=x&token=y", "api.example");
    assert_eq!(gate.with(Brought::None), "allowed by acme-reads");
}

#[test]
fn route_says_whether_a_token_is_asked_for() {
    let mut gate = Gate::new();
    let granted = gate.issued(FORM);
    let of_route = |snapshot: &Snapshot, token| {
        let routes = snapshot.routes.iter().cloned().map(|route| Route { token, ..route }).collect();
        Arc::new(crate::route::Routes::build(routes, &mut Problems::new()))
    };
    gate.snapshot.routes = of_route(&gate.snapshot, TokenUse::Required);
    assert_eq!(gate.with(Brought::None), "token-missing");
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
    gate.snapshot.routes = of_route(&gate.snapshot, TokenUse::Ignored);
    for bearer in [Brought::None, Brought::Unclear("why"), Brought::Text("of the upstream".into())] {
        assert_eq!(gate.with(bearer), "allowed by acme-reads");
    }
}

#[test]
fn token_for_another_upstream_is_none_here() {
    let mut gate = Gate::new();
    let granted = gate.issued(FORM);
    let orders = UpstreamName::parse("orders-api").unwrap();
    let routes = gate.snapshot.routes.iter().cloned().map(|route| Route { upstream: orders.clone(), ..route });
    gate.snapshot.routes = Arc::new(crate::route::Routes::build(routes.collect(), &mut Problems::new()));
    assert_eq!(gate.with(token(&granted)), "token-wrong-audience");
}

#[test]
fn client_revokes_its_own_tokens_and_no_other() {
    let gate = Gate::new();
    let granted = gate.issued(FORM);
    let revoke = |peer: &Peer, client: &str, token: &str| {
        let form = format!("client_id={client}&token={token}&token_type_hint=access_token");
        let form = Form::parse(Some("application/x-www-form-urlencoded"), form.as_bytes()).unwrap();
        let request = request(Method::POST, "/oauth2/revoke", "api.example");
        decide_revocation(&gate.snapshot, peer, (&request, NOW), Ok(&form), &gate.slots).map(|(token, _)| token)
    };
    let peer = gate.world.peer(&gate.snapshot);
    let globex = verified(&gate.snapshot, &gate.world.globex_leaf);
    let revoked = revoke(&peer, "acme", &granted.token.text).unwrap().unwrap();
    assert_eq!((revoked.id.as_str(), revoked.expires), (granted.token.id.as_str(), granted.token.expires));
    // What is no token is no error (RFC 7009 section 2.2).
    assert_eq!(revoke(&peer, "acme", "nonsense").unwrap(), None);
    assert_eq!(revoke(&globex, "globex", &granted.token.text).unwrap_err().denial.reasons, [Reason::TokenWrongPartner]);
    assert_eq!(
        revoke(&globex, "acme", &granted.token.text).unwrap_err().denial.reasons,
        [Reason::TokenClientNotAuthentic]
    );
    assert_eq!(revoke(&peer, "acme", "").unwrap_err().denial.reasons, [Reason::TokenRequestMalformed]);
}

#[test]
fn policy_sees_the_token_and_what_was_used() {
    let seen = r#"decision := {"allow": true, "grant": "acme-reads"} if {
        input.credential.kind == "token"
        input.token.scope == ["invoices.read"]
        input.token.grants == ["acme-reads"]
        input.token.subject == input.partner.id
        input.token.audience == "billing-api"
        input.token.issuer == "https://api.example"
        input.token.expires_ns - input.token.issued_ns == 600000000000
    } else := {"allow": true, "grant": "acme-reads"} if {
        input.credential.kind == "x509"
        not input.token
        input.request.query.plain
    } else := {"allow": false, "reasons": ["policy-denied"]}"#;
    let mut gate = Gate::of(World::under(seen));
    let granted = gate.issued(FORM);
    assert_eq!(gate.with(token(&granted)), "allowed by acme-reads");
    assert_eq!(gate.with(Brought::None), "policy-denied");
    gate.world.request = request(Method::GET, "/v1/invoices/7?plain", "api.example");
    assert_eq!(gate.with(Brought::None), "allowed by acme-reads");
}

#[test]
fn issued_token_says_nothing_of_other_grants() {
    let mut gate = Gate::new();
    gate.changed(|acme| acme.grants.push(grant("acme-secret", &["invoices.delete"])));
    let granted = gate.issued(&scoped("invoices.read"));
    let payload = granted.token.text.split('.').nth(1).unwrap();
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    assert!(!claims.to_string().contains("acme-secret"), "{claims}");
}

const EXCHANGE: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&client_id=acme\
                        &subject_token_type=urn:ietf:params:oauth:token-type:access_token";

fn exchanged(granted: &Granted, more: &str) -> String {
    format!("{EXCHANGE}&subject_token={}{more}", granted.token.text)
}

#[test]
fn token_is_exchanged_for_a_narrower_one_and_never_for_a_wider() {
    let mut gate = Gate::new();
    gate.changed(|acme| acme.grants.insert(0, grant("acme-deletes", &["invoices.delete"])));
    let whole = gate.issued(FORM);
    let narrow = gate.issued(&exchanged(&whole, "&scope=invoices.read"));
    assert_eq!((narrow.scope.as_str(), narrow.from.as_deref()), ("invoices.read", Some(whole.token.id.as_str())));
    assert_eq!(gate.with(token(&narrow)), "allowed by acme-reads");
    // Nothing of what was given away comes back: no scope, no grant, no time, no other upstream.
    assert_eq!(gate.refused(&exchanged(&narrow, "&scope=invoices.delete")), "token-scope-empty");
    assert_eq!(gate.issued(&exchanged(&narrow, "&scope=invoices.read+invoices.delete")).scope, "invoices.read");
    assert_eq!(gate.issued(&exchanged(&narrow, "")).grants, [GrantId::parse("acme-reads").unwrap()]);
    assert_eq!(gate.issued(&exchanged(&narrow, "&audience=billing-api")).upstream.as_str(), "billing-api");
    let peer = gate.world.peer(&gate.snapshot);
    let later = UnixNanos(NOW.0 + 590_000_000_000);
    let last = gate.asked_at(&peer, &exchanged(&whole, ""), later).unwrap();
    assert_eq!((last.token.expires_in, last.token.expires), (10, whole.token.expires));
    let over = gate.asked_at(&peer, &exchanged(&whole, ""), whole.token.expires).unwrap_err();
    assert_eq!(over.denial.reasons, [Reason::TokenExpired]);
    // A grant that came later is none that the token was issued by.
    gate.changed(|acme| acme.grants = vec![grant("acme-new", &["invoices.read"])]);
    assert_eq!(gate.refused(&exchanged(&whole, "")), "token-scope-empty");
}

#[test]
fn exchanges_come_to_an_end_and_are_revoked_with_what_they_are_from() {
    let gate = Gate::new();
    let mut chain = vec![gate.issued(FORM)];
    for _ in 0..3 {
        chain.push(gate.issued(&exchanged(chain.last().unwrap(), "")));
    }
    assert_eq!(gate.refused(&exchanged(chain.last().unwrap(), "")), "token-request-malformed");
    assert!(chain.iter().all(|granted| granted.token.expires == chain[0].token.expires));
    for revoked in 0..chain.len() {
        let Granted { token: Issued { id, expires, .. }, .. } = &chain[revoked];
        let revoked_token =
            RevokedToken { id: id.clone(), partner: partner_id("acme"), expires: *expires, revoked: NOW };
        let tokens = gate.snapshot.tokens.as_ref().unwrap().with_revoked([revoked_token], NOW);
        let snapshot = gate.snapshot.with_tokens(Some(Arc::new(tokens)), NOW).unwrap_or_else(|p| panic!("{p}"));
        let after = Gate { world: gate.world.clone(), snapshot, slots: gate.slots.clone() };
        for (n, granted) in chain.iter().enumerate() {
            let expected = if n < revoked { "allowed by acme-reads" } else { "token-revoked" };
            assert_eq!(after.with(token(granted)), expected, "{revoked} was revoked, {n} is used");
        }
    }
}

#[test]
fn only_ones_own_token_is_exchanged_and_with_the_certificate_that_it_is_bound_to() {
    let mut gate = Gate::new();
    let granted = gate.issued(FORM);
    for (form, reason) in [
        (EXCHANGE.to_owned(), "token-request-malformed"),
        (format!("{EXCHANGE}&subject_token=nonsense"), "token-malformed"),
        (exchanged(&granted, "&actor_token=x"), "token-request-malformed"),
        (
            exchanged(&granted, "&requested_token_type=urn:ietf:params:oauth:token-type:saml2"),
            "token-request-malformed",
        ),
        (exchanged(&granted, "").replace("access_token&", "jwt&"), "token-request-malformed"),
        (exchanged(&granted, "&audience=orders"), "token-target-unknown"),
        (exchanged(&granted, "").replace("client_id=acme", "client_id=globex"), "token-client-not-authentic"),
    ] {
        assert_eq!(gate.refused(&form), reason, "{form}");
    }
    let globex = verified(&gate.snapshot, &gate.world.globex_leaf);
    let stolen = exchanged(&granted, "").replace("client_id=acme", "client_id=globex");
    assert_eq!(gate.asked_at(&globex, &stolen, NOW).unwrap_err().denial.reasons, [Reason::TokenWrongPartner]);
    let second = gate.world.acme_ca.issue(|_| {});
    gate.changed(|acme| {
        acme.credentials.push(credential("acme-second", "acme-ca", Match::FingerprintSha256(Fingerprint::of(&second))));
    });
    let peer = verified(&gate.snapshot, &second);
    assert_eq!(
        gate.asked_at(&peer, &exchanged(&granted, ""), NOW).unwrap_err().denial.reasons,
        [Reason::TokenWrongCertificate]
    );
}

#[test]
fn token_is_had_from_the_partners_networks_alone() {
    let gate = Gate::new();
    let peer = gate.world.peer(&gate.snapshot);
    let form = Form::parse(Some("application/x-www-form-urlencoded"), FORM.as_bytes()).unwrap();
    let elsewhere =
        RequestFacts { source: from("203.0.113.9"), ..request(Method::POST, "/oauth2/token", "api.example") };
    let refused = decide_token(&gate.snapshot, &peer, (&elsewhere, NOW), Ok(&form), &gate.slots).unwrap_err();
    assert!(refused.denial.reasons == [Reason::NetworkNotAllowed] && refused.denial.identity_stands);
    assert!(may_ask(&gate.snapshot, &peer, &elsewhere, false, &gate.slots).is_err());
    assert!(may_ask(&gate.snapshot, &peer, &gate.world.request, false, &gate.slots).is_ok());
}

#[test]
fn upstream_is_told_what_still_holds_of_a_token() {
    let mut gate = Gate::new();
    gate.changed(|acme| acme.credentials.push(credential("acme-x", "acme-ca", Match::uri("spiffe://a/b").unwrap())));
    let granted = gate.issued(FORM);
    let told = |gate: &Gate| introspect(&gate.snapshot, &granted.token.text, NOW).map(|good| good.scope);
    assert_eq!(told(&gate).as_deref(), Some("invoices.read"));
    let serial = gate.world.peer(&gate.snapshot).leaf.serial.clone();
    let whole = gate.world.clone();
    let changes: [fn(&mut World); 6] = [
        |world| world.acme.credentials[0].state = CredentialState::Revoked,
        |world| world.acme.credentials[0].environments = vec![environment("staging")],
        |world| world.acme.grants[0].credentials = Some(vec![credential_id("acme-x")]),
        |world| world.acme.grants[0].period.ends = Some(NOW),
        |world| world.acme.partner.state = PartnerState::Draft,
        |world| world.anchors[0].environments = vec![environment("staging")],
    ];
    for (n, change) in changes.into_iter().enumerate() {
        gate.world = whole.clone();
        change(&mut gate.world);
        gate.changed(|_| {});
        assert_eq!(told(&gate), None, "{n}");
    }
    for certificate in
        [DeniedCertificate::Serial(serial), DeniedCertificate::Fingerprint(Fingerprint::of(&whole.acme_leaf))]
    {
        gate.world = whole.clone();
        let (reason, author) = ("stolen".to_owned(), "alice".to_owned());
        gate.world.anchors[0].denied = vec![Denied { certificate, reason, author, at: NOW }];
        gate.changed(|_| {});
        assert_eq!(told(&gate), None);
    }
}
