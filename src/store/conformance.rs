//! What a store of the registry does, whatever database it is on: each of these holds for a fresh one that `Place` opens, and
//! opens again as after a restart. Another database passes them unchanged.

use super::*;
use crate::approval::{Approval, Item, Outcome, Verdict};
use crate::history::{Actor, Event, Verb, Way};
use crate::identity::{Fingerprint, Serial};
use crate::issue::{Enrolment, Issued, Used};
use crate::name::{AnchorName, CredentialId, GrantId, OperatorName};
use crate::operation::OperationId;
use crate::operator::Role;
use crate::partner::{Network, PartnerRecord, Report};
use crate::policy::PolicySource;
use crate::reason::Reason;
use crate::record::{Batch, FirstDenied, Seen, Usage, UsageKey};
use crate::registry::Change;
use serde_json::json;

pub(super) const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

/// Where a database is.
pub(super) trait Place {
    async fn try_open(&self) -> Result<Store, StoreError>;

    /// As a version that does not exist yet leaves it.
    async fn make_newer(&self, schema: i64);

    async fn open(&self) -> Store {
        self.try_open().await.unwrap()
    }
}

fn cause(why: &str) -> Cause {
    Cause::new(Actor::user("alice", Some(1000), Way::AdminSocket), Some(why.to_owned()), None)
}

fn partner(id: &str, owner: &str) -> Change {
    let record: PartnerRecord = serde_json::from_value(json!({
        "partner": {
            "id": id, "name": id, "owner": owner, "state": "active", "time_zone": "UTC", "engagement": {}, "networks": [],
        },
        "credentials": [], "grants": [],
    }))
    .unwrap();
    Change::Partner(PartnerId::parse(id).unwrap(), Some(Arc::new(record)))
}

fn network(name: &str, cidr: &str) -> Change {
    let name = NetworkName::parse(name).unwrap();
    Change::Network(name.clone(), Some(Network { name, cidrs: vec![cidr.parse().unwrap()] }))
}

async fn events(store: &Store) -> Vec<Event> {
    let wanted = HistoryQuery { limit: 1_000, ..HistoryQuery::default() };
    store.history(&wanted).await.unwrap().iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// All of it, one after another, each on a database of its own.
pub(super) async fn all<P: Place>(fresh: impl Fn() -> P) {
    what_is_committed_is_there_after_a_restart(&fresh()).await;
    promotion_stands_until_it_is_taken_back(&fresh()).await;
    what_conflicts_writes_nothing(&fresh()).await;
    every_change_has_its_event_and_the_chain_is_good(&fresh()).await;
    use_adds_up(&fresh()).await;
    time_is_told_once(&fresh()).await;
    numbers_of_lists_only_grow(&fresh()).await;
    operators_begin_once(&fresh()).await;
    certificates_and_codes_are_found(&fresh()).await;
    many_are_written_at_once(&fresh()).await;
    anchors_and_lockdowns_come_back_as_they_were(&fresh()).await;
    what_waits_is_found_until_it_is_decided(&fresh()).await;
    report_is_kept_with_what_was_refused_first(&fresh()).await;
    calls_are_told_once_there_is_a_history(&fresh()).await;
    newer_database_is_refused_and_left_alone(&fresh()).await;
}

async fn anchors_and_lockdowns_come_back_as_they_were(place: &impl Place) {
    let store = place.open().await;
    let anchor: Anchor = serde_json::from_value(json!({
        "name": "ca", "certificate": "AAEC", "partners": ["acme"], "environments": ["test"], "client_auth": "required",
        "denied": [{"serial": "0a", "reason": "stolen", "author": "alice", "at": 5}],
    }))
    .unwrap();
    let locked = |id: &str| Locked::parse(id).unwrap();
    let lockdown = |id: &str| Lockdown { locked: locked(id), reason: "x".into(), author: "alice".into(), at: NOW };
    let changes = [
        partner("acme", "sales"),
        Change::Anchor(anchor.name.clone(), Some(anchor.clone())),
        Change::Lockdown(locked("*"), Some(lockdown("*"))),
        Change::Lockdown(locked("ca"), Some(lockdown("ca"))),
    ];
    store.commit(0, &changes, &cause("new"), NOW).await.unwrap();
    store.commit(1, &[Change::Lockdown(locked("*"), None)], &cause("over"), NOW).await.unwrap();
    store.close().await;
    let store = place.open().await;
    let registry = store.load().await.unwrap();
    assert_eq!(registry.anchor(&anchor.name).map(|found| (**found).clone()), Some(anchor));
    assert_eq!(registry.lockdowns().collect::<Vec<_>>(), [&lockdown("ca")]);
    assert!(store.verify_history().await.unwrap().is_ok());
}

async fn what_waits_is_found_until_it_is_decided(place: &impl Place) {
    let store = place.open().await;
    let name = NetworkName::parse("dc1").unwrap();
    let network = Network { name: name.clone(), cidrs: vec!["203.0.113.0/24".parse().unwrap()] };
    let item = Item::Network { id: name, before_sha256: None, after: Some(network) };
    let ask = || {
        let (why, life) = (Some("new site".to_owned()), Duration::from_secs(60));
        Approval::request("alice", vec![item.clone()], why, None, NOW, life).unwrap()
    };
    let (first, second) = (ask(), ask());
    let both = [first.clone(), second.clone()];
    let asked = Commit { approvals: &both, ..Commit::default() };
    assert_eq!(store.commit_all(0, asked, &cause("asked"), NOW).await.unwrap(), 0, "the registry is as it was");
    assert_eq!(store.open_approvals().await.unwrap().len(), 2);
    let outcome = Outcome { verdict: Verdict::Rejected, author: "bob".into(), at: NOW, reason: Some("no".into()) };
    let decided = Approval { outcome: Some(outcome), ..first.clone() };
    let commit = Commit { approvals: std::slice::from_ref(&decided), ..Commit::default() };
    store.commit_all(0, commit, &cause("no"), NOW).await.unwrap();
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.open_approvals().await.unwrap(), [second]);
    assert_eq!(store.approvals(None, None).await.unwrap().len(), 2);
    assert_eq!(store.approval(&first.id).await.unwrap(), Some(decided));
    assert!(store.verify_history().await.unwrap().is_ok());
}

async fn report_is_kept_with_what_was_refused_first(place: &impl Place) {
    let store = place.open().await;
    let acme = PartnerId::parse("acme").unwrap();
    let report: Report = serde_json::from_value(json!({
        "partner": "acme", "name": "Acme", "owner": "sales", "reason": "over", "author": "alice", "asked": "a",
        "closed_at": "b", "existed": {"grants": {}}, "certificates": [], "left_to_do": ["tell them"],
        "closed": {"credentials": ["acme-1"], "grants": ["g"], "approvals": [], "enrolments": ["e"]},
    }))
    .unwrap();
    assert!(store.report(&acme).await.unwrap().is_none());
    let commit = Commit { reports: std::slice::from_ref(&report), ..Commit::default() };
    store.commit_all(0, commit, &cause("over"), NOW).await.unwrap();
    assert_eq!(store.refused(&acme, NOW).await.unwrap(), None);
    let denied = |at, request: &str| {
        let first = FirstDenied { at: UnixNanos(at), request: request.into(), reason: Reason::PartnerNotActive };
        Batch { refused: vec![((acme.clone(), NOW), first)], ..Batch::default() }
    };
    store.add_usage(&denied(NOW.0 + 5, "r-1")).await.unwrap();
    store.add_usage(&denied(NOW.0 + 9, "r-2")).await.unwrap();
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.report(&acme).await.unwrap(), Some(report));
    let first = store.refused(&acme, NOW).await.unwrap().unwrap();
    assert_eq!((first.request.as_deref(), &*first.reason), (Some("r-1"), Reason::PartnerNotActive.as_str()));
    assert!(store.verify_history().await.unwrap().is_ok());
}

async fn calls_are_told_once_there_is_a_history(place: &impl Place) {
    let store = place.open().await;
    let call = async |status: u16| {
        store.tell_of_call("POST /v1/reload", json!({"status": status}), &cause("x"), NOW).await.unwrap();
    };
    call(403).await;
    assert!(events(&store).await.is_empty(), "the first operators are what a history begins with");
    store.commit(0, &[partner("acme", "sales")], &cause("new"), NOW).await.unwrap();
    call(403).await;
    call(200).await;
    let of = |noun: &str, id: Option<&str>| HistoryQuery {
        noun: Some(noun.into()),
        id: id.map(str::to_owned),
        limit: 10,
        ..HistoryQuery::default()
    };
    assert_eq!(store.history(&of(CALL, None)).await.unwrap().len(), 2);
    assert_eq!(store.history(&of(CALL, Some("POST /v1/other"))).await.unwrap().len(), 0);
    assert_eq!(store.history(&of("partner", None)).await.unwrap().len(), 1);
    let verified = store.verify_history().await.unwrap().unwrap();
    assert_eq!((verified.end.seq, store.revision().await.unwrap()), (3, 1));
}

async fn newer_database_is_refused_and_left_alone(place: &impl Place) {
    let store = place.open().await;
    store.commit(0, &[partner("acme", "sales")], &cause("new"), NOW).await.unwrap();
    store.close().await;
    place.make_newer(SCHEMA + 1).await;
    for _ in 0..2 {
        let Err(refused) = place.try_open().await else { panic!("a newer database was opened") };
        assert!(matches!(refused, StoreError::Newer { found } if found == SCHEMA + 1), "{refused}");
    }
}

async fn what_is_committed_is_there_after_a_restart(place: &impl Place) {
    let store = place.open().await;
    assert_eq!((store.revision().await.unwrap(), store.load().await.unwrap().revision()), (0, 0));
    let changes = [network("dc1", "203.0.113.0/24"), partner("acme", "sales")];
    assert_eq!(store.commit(0, &changes, &cause("new"), NOW).await.unwrap(), 1);
    let gone = [Change::Network(NetworkName::parse("dc1").unwrap(), None), partner("acme", "payments")];
    assert_eq!(store.commit(1, &gone, &cause("moved"), NOW).await.unwrap(), 2);
    store.close().await;
    let store = place.open().await;
    let registry = store.load().await.unwrap();
    let acme = registry.partner(&PartnerId::parse("acme").unwrap()).unwrap();
    assert_eq!((registry.revision(), &*acme.partner.owner, registry.networks().count()), (2, "payments", 0));
    // Without changes the registry stays where it is.
    assert_eq!(store.commit_all(2, Commit::default(), &cause("nothing"), NOW).await.unwrap(), 2);
}

async fn what_conflicts_writes_nothing(place: &impl Place) {
    let store = place.open().await;
    store.commit(0, &[partner("acme", "sales")], &cause("new"), NOW).await.unwrap();
    let refused = store.commit(0, &[partner("globex", "sales")], &cause("late"), NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { expected: 0, found: 1 }), "{refused}");
    assert_eq!((store.load().await.unwrap().partner_count(), events(&store).await.len()), (1, 1));
}

async fn every_change_has_its_event_and_the_chain_is_good(place: &impl Place) {
    let store = place.open().await;
    store.commit(0, &[partner("acme", "sales")], &cause("new"), NOW).await.unwrap();
    store.commit(1, &[partner("acme", "payments")], &cause("moved"), NOW).await.unwrap();
    let gone = Change::Partner(PartnerId::parse("acme").unwrap(), None);
    store.commit(2, &[gone], &cause("gone"), NOW).await.unwrap();
    let told: Vec<(u64, Verb, u64, Option<String>)> =
        events(&store).await.into_iter().map(|e| (e.seq, e.verb, e.revision, e.cause.reason)).collect();
    let why = |text: &str| Some(text.to_owned());
    assert_eq!(
        told,
        [(1, Verb::Create, 1, why("new")), (2, Verb::Change, 2, why("moved")), (3, Verb::Remove, 3, why("gone")),]
    );
    let behind = HistoryQuery { after: 1, limit: 1, ..HistoryQuery::default() };
    assert_eq!(store.history(&behind).await.unwrap().len(), 1);
    store.close().await;
    let verified = place.open().await.verify_history().await.unwrap().unwrap();
    assert_eq!((verified.end.seq, verified.checkpoints), (3, 3));
}

async fn use_adds_up(place: &impl Place) {
    let store = place.open().await;
    let key = UsageKey {
        partner: PartnerId::parse("acme").unwrap(),
        credential: CredentialId::parse("acme-1").unwrap(),
        grant: GrantId::parse("g").unwrap(),
        operation: OperationId::parse("items.list").unwrap(),
        network: "any".into(),
    };
    let used = |count, first, last| Usage { count, first: UnixNanos(first), last: UnixNanos(last) };
    let seen = |first, last| Seen {
        credential: key.credential.clone(),
        fingerprint: Fingerprint::of(b"certificate"),
        spki: Fingerprint::of(b"key"),
        serial: Serial::parse("0a").unwrap(),
        issuer: "CN=CA".into(),
        not_after: UnixNanos(99),
        first: UnixNanos(first),
        last: UnixNanos(last),
        allowed: None,
    };
    for (count, first, last) in [(2, 20, 30), (3, 10, 25), (1, 40, 40)] {
        let batch = Batch {
            usage: vec![(key.clone(), used(count, first, last))],
            seen: vec![seen(first, last)],
            ..Batch::default()
        };
        store.add_usage(&batch).await.unwrap();
    }
    let rows = store.usage(Some(&key.partner)).await.unwrap();
    assert_eq!((rows.len(), rows[0].count, rows[0].last_at), (1, 6, UnixNanos(40)));
    assert_eq!(store.last_used(&key.partner, &key.credential).await.unwrap(), Some(UnixNanos(40)));
    assert!(store.usage(Some(&PartnerId::parse("globex").unwrap())).await.unwrap().is_empty());
    let certificates = store.certificates_of(&key.credential).await.unwrap();
    assert_eq!((certificates.len(), certificates[0].serial.as_deref()), (1, Some("0a")));
    let by_key = store.certificates_with(&Fingerprint::of(b"key").to_string()).await.unwrap();
    assert_eq!(by_key, certificates);
    assert!(store.shared_keys().await.unwrap().is_empty());
}

async fn time_is_told_once(place: &impl Place) {
    let store = place.open().await;
    store.commit(0, &[partner("acme", "sales")], &cause("new"), NOW).await.unwrap();
    assert_eq!(store.told(NOW).await.unwrap(), NOW, "from now on");
    assert_eq!(store.told(UnixNanos(NOW.0 + 5)).await.unwrap(), NOW, "and not from later");
    let passed = Passed {
        partner: PartnerId::parse("acme").unwrap(),
        verb: Verb::End,
        at: UnixNanos(NOW.0 + 1),
        what: json!({"grant": "g"}),
    };
    store.tell(&[passed], UnixNanos(NOW.0 + 2), &cause("its time")).await.unwrap();
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.told(UnixNanos(NOW.0 + 9)).await.unwrap(), UnixNanos(NOW.0 + 2));
    assert_eq!(events(&store).await.iter().map(|e| e.verb).collect::<Vec<_>>(), [Verb::Create, Verb::End]);
    assert!(store.verify_history().await.unwrap().is_ok());
    // The noun is what it was, and can be changed.
    assert_eq!(store.commit(1, &[partner("acme", "x")], &cause("moved"), NOW).await.unwrap(), 2);
}

async fn numbers_of_lists_only_grow(place: &impl Place) {
    let store = place.open().await;
    let mut last = store.next_list_number(NOW).await.unwrap();
    assert_eq!(last, NOW.seconds() * 1000, "never below the time");
    for now in [NOW, UnixNanos(NOW.0 - 1_000_000_000_000), UnixNanos(NOW.0 + 60_000_000_000)] {
        let next = store.next_list_number(now).await.unwrap();
        assert!(next > last, "{next} {last}");
        last = next;
    }
    store.close().await;
    assert!(place.open().await.next_list_number(NOW).await.unwrap() > last);
}

async fn promotion_stands_until_it_is_taken_back(place: &impl Place) {
    let files = || PolicySource { files: vec![("custom/a.rego".into(), "package a\n".into())] };
    let promotion = |over: &str| Promotion {
        revision: files().revision(),
        over: over.into(),
        author: "alice".into(),
        at: NOW,
        reason: "x".into(),
        files: files().files.into_iter().collect(),
    };
    let store = place.open().await;
    assert_eq!(store.promotion().await.unwrap(), None);
    let put = async |store: &Store, promotion: Option<Promotion>| {
        let commit = Commit { promotions: &[Promoted(promotion)], ..Commit::default() };
        assert_eq!(store.commit_all(0, commit, &cause("x"), NOW).await.unwrap(), 0, "the registry is what it was");
    };
    put(&store, Some(promotion("cd"))).await;
    put(&store, Some(promotion("ef"))).await;
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.promotion().await.unwrap(), Some(promotion("ef")), "one at most");
    put(&store, None).await;
    assert_eq!(store.promotion().await.unwrap(), None);
    let told: Vec<(Verb, String)> = events(&store).await.into_iter().map(|event| (event.verb, event.noun)).collect();
    let verbs = [Verb::Create, Verb::Change, Verb::Remove].map(|verb| (verb, "promotion".to_owned()));
    assert_eq!(told, verbs);
    store.verify_history().await.unwrap().unwrap();
}

async fn operators_begin_once(place: &impl Place) {
    let store = place.open().await;
    let operator = |name: &str| Operator {
        name: OperatorName::parse(name).unwrap(),
        roles: [Role::Approver].into(),
        uid: None,
        certificate: None,
        tokens: Vec::new(),
        disabled: None,
    };
    store.bootstrap(&[operator("a"), operator("b")], &cause("first"), NOW).await.unwrap();
    let again = store.bootstrap(&[operator("c")], &cause("again"), NOW).await.unwrap_err();
    assert!(matches!(again, StoreError::HasOperators), "{again}");
    store.close().await;
    assert_eq!(place.open().await.operators().await.unwrap().iter().count(), 2);
}

async fn certificates_and_codes_are_found(place: &impl Place) {
    let store = place.open().await;
    let issued = |serial: &str, partner: &str, key: &[u8], not_after: i64| Issued {
        serial: Serial::parse(serial).unwrap(),
        anchor: AnchorName::parse("ca").unwrap(),
        partner: PartnerId::parse(partner).unwrap(),
        credential: CredentialId::parse("c").unwrap(),
        fingerprint: Fingerprint::of(serial.as_bytes()),
        spki: Fingerprint::of(key),
        subject: "CN=c".into(),
        uri: Vec::new(),
        dns: Vec::new(),
        not_before: NOW,
        not_after: UnixNanos(not_after),
        renews: None,
        revoked: None,
    };
    let all = [
        issued("1", "acme", b"k", NOW.0 + 10),
        issued("2", "acme", b"l", NOW.0),
        issued("3", "globex", b"k", NOW.0 + 10),
    ];
    let who = (PartnerId::parse("acme").unwrap(), CredentialId::parse("c").unwrap(), "00".to_owned());
    let (code, _) = Enrolment::generate(who.clone(), "alice".into(), NOW, UnixNanos(NOW.0 + 10)).unwrap();
    let commit = Commit { certificates: &all, enrolments: std::slice::from_ref(&code), ..Commit::default() };
    store.commit_all(0, commit, &cause("first"), NOW).await.unwrap();
    let serials = |found: Vec<Issued>| found.iter().map(|one| one.serial.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(serials(store.valid_certificates(NOW).await.unwrap()), ["01", "03"]);
    assert_eq!(serials(store.certificates_issued(&who.0, None).await.unwrap()).len(), 2);
    let by_key = store.certificates_of_key(&Fingerprint::of(b"k").to_string()).await.unwrap();
    assert_eq!(serials(by_key), ["01", "03"]);
    assert_eq!(store.certificate(&all[1].serial).await.unwrap(), Some(all[1].clone()));
    assert_eq!(store.open_enrolments(&who.0, NOW).await.unwrap(), std::slice::from_ref(&code));
    let used = Enrolment { used: Some(Used { at: NOW, serial: None }), ..code.clone() };
    let commit = Commit { enrolments: std::slice::from_ref(&used), ..Commit::default() };
    store.commit_all(0, commit, &cause("used"), NOW).await.unwrap();
    assert!(store.open_enrolments(&who.0, NOW).await.unwrap().is_empty());
    assert_eq!(store.enrolment(&code.id).await.unwrap(), Some(used));
    assert!(store.verify_history().await.unwrap().is_ok());
}

/// More than one statement takes.
async fn many_are_written_at_once(place: &impl Place) {
    let store = place.open().await;
    let count = table::BATCH * 2 + 7;
    let changes: Vec<Change> = (0..count).map(|n| partner(&format!("p{n}"), "sales")).collect();
    store.commit(0, &changes, &cause("many"), NOW).await.unwrap();
    let again: Vec<Change> = (0..count).map(|n| partner(&format!("p{n}"), "payments")).collect();
    store.commit(1, &again, &cause("moved"), NOW).await.unwrap();
    assert_eq!((store.load().await.unwrap().partner_count(), events(&store).await.len()), (count, count * 2));
    assert!(store.verify_history().await.unwrap().is_ok());
}
