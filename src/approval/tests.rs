use super::*;
use crate::name::{GrantId, PartnerId};
use crate::operator::Operators;
use crate::partner::{PartnerRecord, Provenance, Revocation};
use crate::registry::{Change, Registry};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

const NOW: UnixNanos = UnixNanos(1_000);
const LIFE: Duration = Duration::from_nanos(500);

fn provenance() -> Arc<Provenance> {
    Arc::new(Provenance {
        id: None,
        requester: "alice".into(),
        approver: "bob".into(),
        at: NOW,
        justification: None,
        ticket: None,
    })
}

fn record(value: Value) -> Change {
    let record: PartnerRecord = serde_json::from_value(value).unwrap();
    Change::Partner(record.partner.id.clone(), Some(Arc::new(record)))
}

fn credential(id: &str, matching: Value) -> Value {
    json!({"id": id, "anchor": "ca", "match": matching, "state": "active", "environments": ["production"]})
}

fn by_key(id: &str) -> Value {
    credential(id, json!({"spki_sha256": format!("{:0>64}", hex::encode(id))}))
}

fn by_uri(id: &str) -> Value {
    credential(id, json!({"uri": format!("https://acme.example/{id}")}))
}

fn grant(id: &str, operations: &[&str], more: Value) -> Value {
    let mut grant = json!({
        "id": id, "owner": "o", "written": operations, "operations": operations,
        "period": {"ends": 100}, "environments": ["production"],
    });
    grant.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    grant
}

fn acme(networks: &[&str], credentials: Vec<Value>, grants: Vec<Value>) -> Value {
    json!({
        "partner": {
            "id": "acme", "name": "A", "owner": "o", "state": "active", "time_zone": "UTC",
            "engagement": {"ends": 1_000}, "networks": networks,
        },
        "credentials": credentials, "grants": grants,
    })
}

fn network(name: &str, cidrs: &[&str]) -> Change {
    let network: crate::partner::Network = serde_json::from_value(json!({"name": name, "cidrs": cidrs})).unwrap();
    Change::Network(network.name.clone(), Some(network))
}

fn anchor(more: Value) -> Change {
    let mut anchor = json!({
        "name": "ca", "certificate": "AAAA", "partners": ["acme"], "environments": ["production"],
        "client_auth": "required", "denied": [], "max_lifetime": null, "revocation": Revocation::default(),
    });
    anchor.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let anchor: crate::partner::Anchor =
        serde_json::from_value(anchor.clone()).unwrap_or_else(|e| panic!("{e}: {anchor}"));
    Change::Anchor(anchor.name.clone(), Some(anchor))
}

/// With one grant for one operation, from one network, with one credential.
fn registry() -> Registry {
    let one = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
    let acme = record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![one]));
    Registry::default()
        .with(1, &[network("n", &["10.0.0.0/8"]), network("m", &["192.0.2.0/24"]), anchor(json!({})), acme])
        .unwrap()
}

fn now(registry: &Registry) -> Present<'_> {
    static NOBODY: LazyLock<Operators> = LazyLock::new(Operators::default);
    Present { registry, operators: &NOBODY }
}

fn waiting(changes: Vec<Change>) -> Vec<String> {
    let registry = registry();
    let parts = split(&registry, changes, &HashSet::new());
    parts
        .waiting
        .iter()
        .map(|item| format!("{} {}: {}", item.noun(), item.id(), item.widens(now(&registry)).join("; ")))
        .collect()
}

#[test]
fn each_way_to_permit_more_waits_and_says_what_it_permits() {
    let with = |grant: Value| vec![record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![grant]))];
    let g = |operations: &[&str], more: Value| {
        let mut all = json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}});
        all.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        with(grant("g", operations, all))
    };
    let mut lasting = g(&["a"], json!({}));
    let Change::Partner(_, Some(record_)) = &mut lasting[0] else { unreachable!() };
    Arc::make_mut(record_).partner.engagement.ends = None;
    let bare = |more: Value| {
        let mut g = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
        g.as_object_mut().unwrap().retain(|key, _| more.get(key).is_none());
        with(g)
    };
    let own = |networks: &[&str], credentials: Vec<Value>| {
        let one = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
        vec![record(acme(networks, credentials, vec![one]))]
    };
    let own_with = |more: Value| {
        let one = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
        let mut acme = acme(&["n"], vec![by_key("key"), by_uri("name")], vec![one]);
        acme["partner"].as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        vec![record(acme)]
    };
    let labelled = |mut credential: Value| {
        credential["labels"] = json!({"system": "erp"});
        credential
    };
    for (changes, said) in [
        (g(&["a", "b"], json!({})), "grant g: covers b"),
        (g(&["a"], json!({"networks": ["n", "m"]})), "grant g: from m"),
        (bare(json!({"networks": null})), "grant g: from every network of the partner"),
        (g(&["a"], json!({"credentials": ["key", "name"]})), "grant g: with name"),
        (bare(json!({"credentials": null})), "grant g: with every credential of the partner"),
        (g(&["a"], json!({"environments": ["production", "test"]})), "grant g: holds in test"),
        (
            g(&["a"], json!({"period": {"ends": 101}})),
            "grant g: it goes on longer, until 1970-01-01T00:00:00.000000101Z",
        ),
        (g(&["a"], json!({"period": {}})), "grant g: it goes on longer, for good"),
        (g(&["a"], json!({"conditions": {"x": 2}})), "grant g: has other conditions"),
        (bare(json!({"conditions": null})), "grant g: has other conditions"),
        (with(grant("h", &["a"], json!({}))), "grant h: is new, and covers a"),
        (own(&["n", "m"], vec![by_key("key"), by_uri("name")]), "partner acme: may call from m"),
        (
            own(&["n"], vec![by_key("key"), by_uri("name"), by_uri("other")]),
            "credential other: is new, recognised by uri",
        ),
        (own_with(json!({"time_zone": "Europe/Berlin"})), "partner acme: has a time zone that policy has not seen"),
        (own_with(json!({"labels": {"tier": "gold"}})), "partner acme: has labels that policy has not seen"),
        (
            own(&["n"], vec![labelled(by_key("key")), by_uri("name")]),
            "credential key: has labels that policy has not seen",
        ),
        (lasting, "partner acme: the engagement goes on longer, for good"),
        (vec![network("n", &["10.0.0.0/8", "172.16.0.0/12"])], "network n: holds 172.16.0.0/12"),
        (vec![network("n", &["0.0.0.0/0"])], "network n: holds 0.0.0.0/0"),
        (vec![anchor(json!({"partners": ["acme", "globex"]}))], "anchor ca: may speak for globex"),
        (
            vec![anchor(json!({"name": "other", "partners": ["acme"]}))],
            "anchor other: is new: SHA-256 4f377ce906c6f4713d968ff2d8b7b9b5ffd0833751c8030e8f6368fd322a4de9; may speak for acme",
        ),
        (
            vec![anchor(json!({"certificate": "BBBB"}))],
            "anchor ca: is another CA: SHA-256 ebc5c77c9d45a0be204ab9bbcfbea3dfeb7a1e943882d348478bf4e1154d3408; it was SHA-256 4f377ce906c6f4713d968ff2d8b7b9b5ffd0833751c8030e8f6368fd322a4de9",
        ),
        (
            vec![anchor(json!({"client_auth": "optional"}))],
            "anchor ca: takes certificates without the clientAuth usage",
        ),
    ] {
        assert_eq!(waiting(changes), [said]);
    }
}

#[test]
fn what_permits_no_more_does_not_wait() {
    let less = grant(
        "g",
        &["a"],
        json!({
            "networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}, "owner": "p", "period": {"starts": 1, "ends": 99},
        }),
    );
    let same = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
    for changes in [
        vec![record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![less]))],
        vec![record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![]))],
        vec![record(acme(&[], vec![by_key("key"), by_uri("name")], vec![same]))],
        vec![Change::Partner(PartnerId::parse("acme").unwrap(), None)],
        vec![network("n", &["10.1.0.0/16", "10.2.3.4/32"])],
        vec![network("new", &["0.0.0.0/0"])],
        vec![anchor(json!({"max_lifetime": {"secs": 60, "nanos": 0}}))],
        // A partner that is new has nothing yet.
        vec![record(json!({
            "partner": {"id": "globex", "name": "G", "owner": "o", "state": "active", "time_zone": "UTC",
                        "engagement": {}, "networks": ["n"]},
            "credentials": [], "grants": [],
        }))],
    ] {
        let parts = split(&registry(), changes.clone(), &HashSet::new());
        assert_eq!((parts.waiting, parts.now.len()), (Vec::new(), 1), "{changes:?}");
    }
}

#[test]
fn rest_of_a_partner_does_not_wait_for_what_waits() {
    let changed = acme(
        &["n"],
        vec![by_key("key"), by_uri("name")],
        vec![grant("g", &["a", "b"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}))],
    );
    let mut renamed = changed;
    renamed["partner"]["name"] = "Acme AG".into();
    let registry = registry();
    let parts = split(&registry, vec![record(renamed)], &HashSet::new());
    let next = registry.with(2, &parts.now).unwrap();
    let acme = next.partner(&PartnerId::parse("acme").unwrap()).unwrap();
    assert_eq!((acme.partner.name.as_str(), acme.grants[0].operations.len()), ("Acme AG", 1));
    let changes = changes(now(&next), &parts.waiting, &provenance()).unwrap();
    let then = next.with(3, &changes.changes).unwrap();
    let acme = then.partner(&PartnerId::parse("acme").unwrap()).unwrap();
    assert_eq!((acme.partner.name.as_str(), acme.grants[0].operations.len()), ("Acme AG", 2));
    assert_eq!(acme.grants[0].approval.as_ref(), Some(&provenance()));
}

/// A credential that goes while the grant that names it waits for another one.
#[test]
fn what_cannot_stand_without_the_rest_waits_with_it() {
    let moved = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["name"], "conditions": {"x": 1}}));
    let registry = registry();
    let parts = split(&registry, vec![record(acme(&["n"], vec![by_uri("name")], vec![moved]))], &HashSet::new());
    assert!(parts.now.is_empty(), "{:?}", parts.now);
    let mut waits: Vec<String> = parts.waiting.iter().map(|item| format!("{} {}", item.noun(), item.id())).collect();
    waits.sort();
    assert_eq!(waits, ["credential key", "grant g"]);
    let next = registry.with(2, &changes(now(&registry), &parts.waiting, &provenance()).unwrap().changes).unwrap();
    let acme = next.partner(&PartnerId::parse("acme").unwrap()).unwrap();
    assert_eq!((acme.credentials.len(), acme.credentials[0].id.as_str()), (1, "name"));
}

#[test]
fn part_that_has_changed_meanwhile_is_not_what_was_asked_for() {
    let registry = registry();
    let wider = grant("g", &["a", "b"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
    let parts =
        split(&registry, vec![record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![wider]))], &HashSet::new());
    // Somebody else takes the grant away, another one is added, and the first comes back as something else.
    let other = grant("h", &["a"], json!({}));
    let gone = registry.with(2, &[record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![other]))]).unwrap();
    let refused = changes(now(&gone), &parts.waiting, &provenance()).unwrap_err();
    assert_eq!(refused, ["the grant `g` has changed since this was asked for: ask again"]);
    let narrowed =
        grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}, "owner": "p"}));
    let narrowed =
        registry.with(2, &[record(acme(&["n"], vec![by_key("key"), by_uri("name")], vec![narrowed]))]).unwrap();
    assert!(changes(now(&narrowed), &parts.waiting, &provenance()).is_err());
    // What else has changed does not matter.
    let same = grant("g", &["a"], json!({"networks": ["n"], "credentials": ["key"], "conditions": {"x": 1}}));
    let more = registry.with(2, &[record(acme(&[], vec![by_key("key"), by_uri("name")], vec![same]))]).unwrap();
    assert!(changes(now(&more), &parts.waiting, &provenance()).is_ok());
    let nobody = registry.with(2, &[Change::Partner(PartnerId::parse("acme").unwrap(), None)]).unwrap();
    assert!(changes(now(&nobody), &parts.waiting, &provenance()).is_err());
}

fn asked() -> Approval {
    Approval::request("alice", Vec::new(), Some("a new contract".into()), None, NOW, LIFE).unwrap()
}

fn outcome(verdict: Verdict, author: &str, at: i64) -> Outcome {
    Outcome { verdict, author: author.into(), at: UnixNanos(at), reason: None }
}

#[test]
fn only_somebody_else_approves_and_only_who_has_asked_withdraws() {
    let approval = asked();
    assert!(approval.id.as_str().starts_with("a-") && approval.id.as_str().len() == 10, "{}", approval.id);
    use FourEyes::{Off, Required};
    use Verdict::{Approved, Rejected, Withdrawn};
    for (verdict, author, eyes, said) in [
        (Approved, "bob", Required, None),
        (Approved, "alice", Required, Some("another operator with the role `approver` approves it")),
        (Approved, "alice", Off, None),
        (Rejected, "bob", Required, None),
        (Rejected, "alice", Required, None),
        (Withdrawn, "alice", Required, None),
        (Withdrawn, "bob", Off, Some("you may reject it")),
    ] {
        let ended = approval.end(outcome(verdict, author, 1_100), eyes);
        match (ended, said) {
            (Ok(ended), None) => {
                assert_eq!(ended.state(NOW), verdict.as_str());
                for again in [Approved, Rejected, Withdrawn] {
                    let refused = ended.end(outcome(again, "bob", 1_100), Off).unwrap_err();
                    assert!(refused.contains(&format!("is {} already", verdict.as_str())), "{refused}");
                }
            }
            (Err(refused), Some(said)) => assert!(refused.contains(said), "{refused}"),
            (ended, said) => panic!("{verdict:?} by {author}: {ended:?} instead of {said:?}"),
        }
    }
}

#[test]
fn what_waited_too_long_lapses() {
    let approval = asked();
    assert_eq!((approval.state(UnixNanos(1_499)), approval.state(UnixNanos(1_500))), ("requested", "lapsed"));
    assert!(approval.end(outcome(Verdict::Approved, "bob", 1_499), FourEyes::Required).is_ok());
    let refused = approval.end(outcome(Verdict::Approved, "bob", 1_500), FourEyes::Required).unwrap_err();
    assert!(refused.contains("has lapsed"), "{refused}");
}

/// A registry of a few parts, each there or not and in one of a few forms.
fn any_acme() -> impl Strategy<Value = Vec<Change>> {
    let grants = prop::collection::vec((0..3_usize, 0..4_usize, 0..3_usize, 98..103_i64), 0..4);
    let networks = prop::sample::subsequence(vec!["n", "m"], 0..=2);
    let credentials = prop::sample::subsequence(vec!["key", "name", "other"], 0..=3);
    (grants, networks, credentials, 0..3_usize, 0..3_usize).prop_map(|(grants, own, credentials, cidrs, bound)| {
        let credentials: Vec<&str> = credentials;
        let mut made: Vec<Value> = Vec::new();
        for (id, operations, narrowed, ends) in grants {
            let operations = &["a", "b", "c"][..operations.min(3)];
            let mut more = json!({"period": {"ends": ends}});
            if let (true, Some(first)) = (narrowed > 0, credentials.first()) {
                more["credentials"] = json!([first]);
            }
            if narrowed > 1 {
                more["networks"] = json!(["n"]);
            }
            let id = ["g", "h", "i"][id];
            if made.iter().all(|g| g["id"] != id) {
                made.push(grant(id, operations, more));
            }
        }
        made.sort_by_key(|g| g["id"].as_str().unwrap().to_owned());
        let credentials = credentials.iter().map(|id| if *id == "key" { by_key(id) } else { by_uri(id) }).collect();
        vec![
            network("n", [&["10.0.0.0/8"][..], &["10.1.0.0/16"], &["10.0.0.0/8", "192.0.2.0/24"]][cidrs]),
            network("m", &["198.51.100.0/24"]),
            anchor(json!({"partners": if bound == 1 { vec!["acme", "globex"] } else { vec!["acme"] }})),
            record(acme(&own, credentials, made)),
        ]
    })
}

fn written(registry: &Registry) -> Vec<String> {
    let anchors = registry.anchors().map(|a| serde_json::to_string(&**a).unwrap());
    let networks = registry.networks().map(|n| serde_json::to_string(&**n).unwrap());
    let partners = registry.partners().map(|r| {
        let mut record = PartnerRecord::clone(r);
        record.grants.iter_mut().for_each(|g| g.approval = None);
        serde_json::to_string(&record).unwrap()
    });
    anchors.chain(networks).chain(partners).collect()
}

proptest! {
    /// Whatever is asked for: what is done at once permits no more than there was, and with what waits it is all of it.
    #[test]
    fn now_permits_no_more_and_with_the_rest_it_is_all(before in any_acme(), after in any_acme()) {
        let Ok(registry) = Registry::default().with(1, &before) else { return Ok(()) };
        let Ok(wanted) = registry.with(2, &after) else { return Ok(()) };
        let parts = split(&registry, after, &HashSet::new());
        let next = registry.with(2, &parts.now).unwrap();
        prop_assert!(split(&registry, parts.now.clone(), &HashSet::new()).waiting.is_empty());
        let rest = changes(now(&next), &parts.waiting, &provenance()).unwrap();
        let then = next.with(3, &rest.changes).unwrap();
        prop_assert_eq!(written(&then), written(&wanted));
        // Kept in a database, it is the same.
        let text = serde_json::to_string(&parts.waiting).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Item>>(&text).unwrap(), parts.waiting);
    }
}

#[test]
fn more_than_anybody_looks_at_is_not_asked_for() {
    let id = GrantId::parse("g").unwrap();
    let partner = PartnerId::parse("acme").unwrap();
    let item = Item::Grant { partner, id, before_sha256: None, after: None };
    let items = vec![item; MAX_ITEMS + 1];
    let refused = Approval::request("alice", items, None, None, NOW, LIFE).unwrap_err();
    assert!(refused.contains("10001 parts") && refused.contains("db import"), "{refused}");
}
