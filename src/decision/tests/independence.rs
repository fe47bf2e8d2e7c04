//! A decision depends on its snapshot, peer and request, and on nothing that was decided before.

use super::*;
use proptest::prelude::*;

#[test]
fn a_narrowed_grant_is_denied_on_the_new_snapshot_and_allowed_on_the_old() {
    let world = World::new();
    let old = world.snapshot();
    let peer = world.peer(&old);
    assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
    let mut acme = world.acme.clone();
    acme.grants = vec![grant("acme-reads", &["invoices.delete"])];
    let new = changed(&old, acme);
    for _ in 0..3 {
        assert_eq!(world.ask_of(&new, &peer), "operation-not-granted");
        assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
    }
    assert_eq!((old.revision.registry, new.revision.registry), (1, 2));
    assert_eq!(old.revision.policy, new.revision.policy);
}

/// Acme's request decided again, with what policy said last.
fn again(world: &World, snapshot: &Snapshot, now: UnixNanos, last: &mut LastVerdict) -> Result<(), Vec<Reason>> {
    let peer = world.peer(snapshot);
    let who = standing(snapshot, &peer, now).map_err(|(reasons, _)| reasons)?;
    who.decide_again(&world.request, last).map(|_| ()).map_err(|(reasons, _)| reasons)
}

#[test]
fn what_policy_said_last_is_believed_only_while_it_sees_the_same() {
    let mut world = World::under(
        r#"decision := {"allow": true, "grant": "acme-reads"} if {
            input.request.query.a[0] != "no"
            input.time.now_ns < 2000000000000000000
        } else := {"allow": false, "reasons": ["network-not-allowed"]}"#,
    );
    let snapshot = world.snapshot();
    let last = &mut LastVerdict::default();
    let denied = Err(vec![Reason::NetworkNotAllowed]);
    for (query, now, expected) in [
        ("yes", NOW, Ok(())),
        ("yes", NOW, Ok(())),
        ("no", NOW, denied.clone()),
        ("no", NOW, denied.clone()),
        ("yes", NOW, Ok(())),
        ("yes", UnixNanos(NOW.0 + 1), Ok(())),
    ] {
        world.request = request(Method::GET, &format!("/v1/invoices/7?a={query}"), "api.example");
        assert_eq!(again(&world, &snapshot, now, last), expected, "{query} at {now}");
    }
    // Another policy on the same facts, and what the floor checks after it.
    world.policy = World::under(r#"decision := {"allow": false, "reasons": ["network-not-allowed"]}"#).policy;
    let strict = world.snapshot();
    assert_eq!(again(&world, &strict, NOW, last), denied);
    assert_eq!(again(&world, &snapshot, NOW, last), Ok(()));
    let mut acme = world.acme.clone();
    acme.grants = vec![grant("acme-reads", &["invoices.delete"])];
    let narrowed = changed(&snapshot, acme);
    assert_eq!(again(&world, &narrowed, NOW, last), Err(vec![Reason::GrantNotValid]));
}

#[test]
fn facts_of_one_partner_are_never_seen_for_another() {
    let world = World::new();
    let snapshot = world.snapshot();
    let (acme, globex) = (world.peer(&snapshot), verified(&snapshot, &world.globex_leaf));
    for _ in 0..3 {
        assert_eq!(world.ask_of(&snapshot, &acme), "allowed by acme-reads");
        assert_eq!(world.ask_of(&snapshot, &globex), "allowed by globex-reads");
    }
}

#[test]
fn one_certificate_that_moves_to_another_partner_has_only_the_new_partner_s_rights() {
    let mut world = World::new();
    world.anchors[0].partners.push(world.globex.partner.id.clone());
    let old = world.snapshot();
    let peer = world.peer(&old);
    assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
    let (mut acme, mut globex) = (world.acme.clone(), world.globex.clone());
    globex.credentials = std::mem::take(&mut acme.credentials);
    let ids = [acme.partner.id.clone(), globex.partner.id.clone()];
    let changes =
        [Change::Partner(ids[0].clone(), Some(acme.into())), Change::Partner(ids[1].clone(), Some(globex.into()))];
    let new = old.with_registry(old.registry.with(2, &changes).unwrap(), &ids, None, NOW);
    let new = new.unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(world.ask_of(&new, &peer), "allowed by globex-reads");
    assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
}

#[test]
fn a_changed_label_of_partner_or_credential_is_seen_at_once() {
    let world = World::under(
        r#"decision := {"allow": true, "grant": "acme-reads"} if {
            not input.partner.labels.hold
            not input.credential.labels.hold
        }"#,
    );
    let old = world.snapshot();
    let peer = world.peer(&old);
    assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
    let hold = || [("hold".to_owned(), "audit".to_owned())].into();
    let mut partner = world.acme.clone();
    partner.partner.labels = hold();
    let mut credential = world.acme.clone();
    credential.credentials[0].labels = hold();
    for held in [partner, credential] {
        assert_eq!(world.ask_of(&changed(&old, held), &peer), "policy-undefined");
        assert_eq!(world.ask_of(&old, &peer), "allowed by acme-reads");
    }
}

/// The snapshot after a change of acme, sharing all that it can.
fn changed(old: &Snapshot, acme: PartnerRecord) -> Snapshot {
    let id = acme.partner.id.clone();
    let registry =
        old.registry.with(old.registry.revision() + 1, &[Change::Partner(id.clone(), Some(acme.into()))]).unwrap();
    old.with_registry(registry, &[id], None, NOW).unwrap_or_else(|p| panic!("{p}"))
}

/// States of one gateway over time: each is the one before it, changed, and all share one cache.
struct Life {
    worlds: Vec<World>,
    snapshots: Vec<Snapshot>,
    requests: Vec<RequestFacts>,
    leaves: Vec<Vec<u8>>,
}

impl Life {
    fn new() -> Life {
        let first = World::new();
        let mut life = Life {
            snapshots: vec![first.snapshot()],
            requests: vec![
                first.request.clone(),
                request(Method::DELETE, "/v1/invoices/7", "api.example"),
                RequestFacts { source: from("198.51.100.9"), ..first.request.clone() },
                RequestFacts { now: UnixNanos(NOW.0 + 10), ..first.request.clone() },
            ],
            leaves: vec![first.acme_leaf.clone(), first.globex_leaf.clone(), first.acme_ca.issue(|_| {})],
            worlds: vec![first],
        };
        life.change(|acme| acme.grants = vec![grant("acme-deletes", &["invoices.delete"])]);
        life.change(|acme| acme.partner.networks = network_names(&["dc2"]));
        life.change(|acme| acme.partner.state = PartnerState::Suspended);
        life.change(|acme| {
            acme.partner.state = PartnerState::Active;
            acme.partner.networks = network_names(&["any"]);
            acme.grants = vec![grant("acme-reads", &["invoices.read"])];
            acme.grants[0].period.ends = Some(UnixNanos(NOW.0 + 5));
        });
        life.change(|acme| {
            acme.credentials[0].id = credential_id("acme-renamed");
            acme.grants[0].credentials = Some(vec![credential_id("acme-renamed")]);
        });
        life.replace(r#"decision := {"allow": true, "grant": "acme-reads"}"#);
        life.replace(r#"decision := {"allow": false, "reasons": [input.credential.id]}"#);
        life
    }

    /// A delta.
    fn change(&mut self, change: impl FnOnce(&mut PartnerRecord)) {
        let mut world = self.worlds.last().unwrap().clone();
        change(&mut world.acme);
        self.snapshots.push(changed(self.snapshots.last().unwrap(), world.acme.clone()));
        self.worlds.push(world);
    }

    /// A full build after another policy has arrived.
    fn replace(&mut self, policy: &str) {
        let world = World { policy: World::under(policy).policy, ..self.worlds.last().unwrap().clone() };
        self.snapshots.push(world.snapshot_after(self.snapshots.last()));
        self.worlds.push(world);
    }

    fn ask(&self, snapshot: &Snapshot, leaf: usize, request: usize) -> String {
        let peer = verified(snapshot, &self.leaves[leaf]);
        outcome(&decide(snapshot, &peer, &self.requests[request], &Slots::new(1, usize::MAX, WhenFull::Deny)))
    }

    /// The answer of a gateway that was started for this one question.
    fn ask_afresh(&self, state: usize, leaf: usize, request: usize) -> String {
        std::thread::scope(|s| s.spawn(|| self.ask(&self.worlds[state].snapshot(), leaf, request)).join().unwrap())
    }
}

#[test]
fn decisions_do_not_depend_on_earlier_decisions_of_the_same_thread() {
    let life = Life::new();
    let states = life.snapshots.len();
    let all: Vec<(usize, usize, usize)> =
        (0..states).flat_map(|s| (0..life.leaves.len()).flat_map(move |l| (0..4).map(move |r| (s, l, r)))).collect();
    let expected: Vec<String> = all.iter().map(|(s, l, r)| life.ask_afresh(*s, *l, *r)).collect();
    let kinds: std::collections::BTreeSet<&String> = expected.iter().collect();
    assert!(kinds.len() >= 7, "the questions tell too little apart: {kinds:?}");

    let sequence = proptest::collection::vec(0..all.len(), 1..60);
    proptest!(ProptestConfig::with_cases(30), |(sequence in sequence)| {
        for n in sequence {
            let (state, leaf, request) = all[n];
            let answer = life.ask(&life.snapshots[state], leaf, request);
            prop_assert_eq!(&answer, &expected[n], "state {}, leaf {}, request {}", state, leaf, request);
        }
    });
}
