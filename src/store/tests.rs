use super::backup::{BackupError, backup, verify_backup};
use super::table::BATCH;
use super::*;
use crate::disk;
use crate::document::Problems;
use crate::history::{Actor, Event, Fault, Way};
use crate::name::{CredentialId, Environment, NetworkName, OperatorName};
use crate::operation::{Operations, RouteName, openapi};
use crate::operator::{Disabled, Operator, Role};

/// A plan, and how it looks.
struct Planned {
    changes: Vec<Change>,
    lines: Vec<PlanLine>,
    next: Registry,
}

fn plan(
    declaration: Declaration,
    registry: &Registry,
    operations: &Operations,
    options: PlanOptions,
) -> Result<Planned, Problems> {
    let Plan { changes, notes, next, .. } = super::plan(declaration, registry, operations, options, None, NOW)?;
    let lines = [notes, lines(registry, &changes)].concat();
    Ok(Planned { changes, lines, next })
}

const NOW: UnixNanos = UnixNanos(1_772_627_400_000_000_000);

fn cause() -> Cause {
    let actor = Actor::user("alice", Some(1000), Way::Offline);
    Cause::new(actor, Some("a new contract".into()), Some("T-1".into()))
}

const OPENAPI: &str = "openapi: 3.0.3\ninfo: {title: t, version: '1'}\npaths:\n  /invoices:\n    get: {operationId: invoices.read, tags: [billing], responses: {}}\n    post: {operationId: invoices.create, responses: {}}\n  /orders:\n    get: {operationId: orders.read, responses: {}}\n";

fn operations(text: &str) -> Operations {
    let mut problems = Problems::new();
    let list = openapi::load("api.yaml", text, None, &mut problems);
    let table = Operations::build(vec![(RouteName::parse("r").unwrap(), list)], &mut problems);
    assert!(!problems.has_errors(), "{problems}");
    table
}

fn export(registry: &Registry, operations: &Operations) -> Vec<DeclaredFile> {
    serde_json::from_value(serde_json::to_value(Export::new(registry, operations)).unwrap()).unwrap()
}

fn production() -> Environment {
    Environment::parse("production").unwrap()
}

fn ca_pem() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Acme CA");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

fn folder(grants: &str) -> Vec<DeclaredFile> {
    let text = format!(
        "environment: production\nnetworks:\n  acme-dc1: {{cidrs: [203.0.113.0/24]}}\nanchors:\n  acme-ca: {{certificate: acme-ca.pem, partners: [acme]}}\npartners:\n  acme:\n    name: Acme\n    owner: payments\n    time_zone: Europe/Berlin\n    engagement: {{starts: 2026-01-01T00:00:00+01:00}}\n    networks: [acme-dc1]\n    credentials:\n      acme-1: {{anchor: acme-ca, match: {{uri: 'spiffe://acme.example/a'}}}}\n    grants:\n{grants}"
    );
    vec![DeclaredFile { name: "acme.yaml".into(), text }, DeclaredFile { name: "acme-ca.pem".into(), text: ca_pem() }]
}

const GRANT: &str = "      g1: {owner: billing, operations: ['invoices.*'], ends: 2030-01-01T00:00:00Z}\n";

#[tokio::test]
async fn what_is_applied_is_there_after_a_restart_and_comes_back_from_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    let store = Store::open(&path, NOW).await.unwrap();
    let declared = parse_declaration(&folder(GRANT), &production()).unwrap();
    let registry = store.load().await.unwrap();
    let planned = plan(declared, &registry, &operations(OPENAPI), PlanOptions::default()).unwrap();
    assert_eq!(store.commit(0, &planned.changes, &cause(), NOW).await.unwrap(), 1);
    store.close().await;

    let store = Store::open(&path, NOW).await.unwrap();
    let registry = store.load().await.unwrap();
    assert_eq!(registry.revision(), 1);
    let acme = registry.partner(&crate::name::PartnerId::parse("acme").unwrap()).unwrap();
    let ids: Vec<&str> = acme.grants[0].operations.iter().map(crate::operation::OperationId::as_str).collect();
    assert_eq!(ids, ["invoices.create", "invoices.read"]);

    let again = parse_declaration(&export(&registry, &operations(OPENAPI)), &production()).unwrap();
    let nothing = plan(
        again,
        &registry,
        &operations(OPENAPI),
        PlanOptions { prune: true, widen: true, ..PlanOptions::default() },
    )
    .unwrap();
    assert!(nothing.changes.is_empty(), "{:?}", nothing.lines);
}

#[tokio::test]
async fn a_change_that_was_planned_on_an_older_revision_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("r.db"), NOW).await.unwrap();
    let declared = parse_declaration(&folder(GRANT), &production()).unwrap();
    let planned = plan(declared, &store.load().await.unwrap(), &operations(OPENAPI), PlanOptions::default()).unwrap();
    store.commit(0, &planned.changes, &cause(), NOW).await.unwrap();
    assert!(matches!(
        store.commit(0, &planned.changes, &cause(), NOW).await,
        Err(StoreError::Conflict { expected: 0, found: 1 })
    ));
    assert_eq!(store.load().await.unwrap().revision(), 1);
}

#[tokio::test]
async fn more_partners_than_one_statement_writes_are_kept_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("r.db"), NOW).await.unwrap();
    let count = 2 * BATCH + 1;
    let declared = |owner: &str| {
        let partner =
            |n| format!("  p{n}: {{name: P, owner: {owner}, engagement: {{}}, networks: [any], time_zone: UTC}}\n");
        let partners: String = (0..count).map(partner).collect();
        let text = format!("environment: production\npartners:\n{partners}");
        parse_declaration(&[DeclaredFile { name: "all.yaml".into(), text }], &production()).unwrap()
    };
    for (revision, owner) in [(0, "first"), (1, "second")] {
        let registry = store.load().await.unwrap();
        let planned = plan(declared(owner), &registry, &operations(OPENAPI), PlanOptions::default()).unwrap();
        store.commit(revision, &planned.changes, &cause(), NOW).await.unwrap();
        let registry = store.load().await.unwrap();
        assert_eq!(registry.partner_count(), count);
        assert!(registry.partners().all(|r| r.partner.owner == owner));
    }
    let ids: Vec<PartnerId> = store.load().await.unwrap().partners().map(|r| r.partner.id.clone()).collect();
    let gone: Vec<Change> = ids.iter().skip(1).map(|id| Change::Partner(id.clone(), None)).collect();
    store.commit(2, &gone, &cause(), NOW).await.unwrap();
    let left: Vec<PartnerId> = store.load().await.unwrap().partners().map(|r| r.partner.id.clone()).collect();
    assert_eq!(left, ids[..1]);
}

#[test]
fn a_plan_shows_what_changes_for_an_anchor_and_not_its_whole_list() {
    let files = folder(GRANT);
    let bound = |names: &str| {
        let mut files = files.clone();
        files[0].text = files[0].text.replace("partners: [acme]", &format!("partners: [{names}]"));
        parse_declaration(&files, &production()).unwrap()
    };
    let many: Vec<String> = (0..100).map(|n| format!("p{n}")).collect();
    let line = |before: &str, after: &str| {
        let planned = |names: &str, registry: &Registry| {
            plan(bound(names), registry, &operations(OPENAPI), PlanOptions::default()).unwrap()
        };
        let registry = planned(before, &Registry::default()).next;
        planned(after, &registry).lines.into_iter().find(|l| l.noun == "anchor").unwrap().detail
    };
    assert_eq!(line("acme, globex", "acme, initech"), "may speak for 2 partners: +initech, -globex");
    let all = format!("acme, {}", many.join(", "));
    let said = line("acme", &all);
    assert!(said.starts_with("may speak for 101 partners: +p0, +p1,") && said.ends_with(" and 80 more"), "{said}");
    assert_eq!(line("acme, globex", "globex, acme"), "`partners` in another order");
    let created = plan(bound(&all), &Registry::default(), &operations(OPENAPI), PlanOptions::default()).unwrap();
    assert_eq!(created.lines[1].noun, "anchor");
    assert!(created.lines[1].detail.starts_with("may speak for acme, p0,"), "{:?}", created.lines[1]);
}

#[test]
fn an_operation_that_appears_later_is_not_covered_until_somebody_says_so() {
    let declared = parse_declaration(&folder(GRANT), &production()).unwrap();
    let first = plan(declared.clone(), &Registry::default(), &operations(OPENAPI), PlanOptions::default()).unwrap();
    let registry = Registry::default().with(1, &first.changes).unwrap();
    let wider = OPENAPI.replace("  /orders:", "    delete: {operationId: invoices.delete, responses: {}}\n  /orders:");
    let second = plan(declared.clone(), &registry, &operations(&wider), PlanOptions::default()).unwrap();
    assert!(second.changes.is_empty());
    assert_eq!(second.lines[0].action, "would-widen");
    assert!(second.lines[0].detail.contains("invoices.delete"), "{:?}", second.lines);
    let third =
        plan(declared, &registry, &operations(&wider), PlanOptions { widen: true, ..PlanOptions::default() }).unwrap();
    assert_eq!(third.changes.len(), 1);
}

#[test]
fn every_mistake_in_a_folder_is_reported_with_file_line_and_field() {
    let mut files = folder(
        "      g1: {owner: billing, operations: [invoices.read], starts: 2026-03-01, ends: 2030-01-01T00:00:00Z}\n      g2: {owner: billing, operations: [x]}\n",
    );
    files[0].text.push_str("  globex: {name: G, owner: o, engagement: {}, networks: [], time_zone: Europe/Atlantis}\n");
    let said = parse_declaration(&files, &production()).unwrap_err().to_string();
    for expected in [
        "acme.yaml:17:",
        "`partners.acme.grants.g1.starts`: `2026-03-01` is a date without a time",
        "`partners.acme.grants.g2.ends`: is required and missing",
        "Europe/Atlantis",
    ] {
        assert!(said.contains(expected), "missing {expected:?} in\n{said}");
    }
}

#[test]
fn what_would_not_be_consistent_is_reported_where_it_is_written() {
    let mut files = folder(GRANT);
    files[0].text.push_str(
        "      g2: {owner: billing, operations: [nothing.here], networks: [nowhere], credentials: [none], ends: 2030-01-01T00:00:00Z}\n",
    );
    let globex = "environment: production\npartners:\n  globex:\n    name: G\n    owner: o\n    engagement: {}\n    networks: [atlantis]\n    credentials:\n      acme-1: {anchor: acme-ca, match: {dns: g.example}}\n      globex-1: {anchor: gone-ca, match: {dns: h.example}}\n      globex-2: {anchor: acme-ca, match: {uri: 'spiffe://acme.example/a'}}\n";
    files.push(DeclaredFile { name: "globex.yaml".into(), text: globex.into() });
    let declared = parse_declaration(&files, &production()).unwrap();
    let said = plan(declared, &Registry::default(), &operations(OPENAPI), PlanOptions::default()).err().unwrap();
    let said = said.to_string();
    for expected in [
        "acme.yaml:17:40: `partners.acme.grants.g2.operations`: ",
        "acme.yaml:17:67: `partners.acme.grants.g2.networks.nowhere`: there is no network `nowhere`",
        "acme.yaml:17:91: `partners.acme.grants.g2.credentials.none`: `acme` has no credential `none`",
        "globex.yaml:7:16: `partners.globex.networks.atlantis`: there is no network `atlantis`",
        "globex.yaml:9:15: `partners.globex.credentials.acme-1`: the credential id `acme-1` is also one of `acme`",
        "globex.yaml:9:24: `partners.globex.credentials.acme-1.anchor`: the anchor `acme-ca` is not bound to `globex`",
        "globex.yaml:10:26: `partners.globex.credentials.globex-1.anchor`: there is no anchor `gone-ca`",
        "globex.yaml:11:42: `partners.globex.credentials.globex-2.match`: `acme-1` of `acme` matches the same uri",
    ] {
        assert!(said.contains(expected), "missing {expected:?} in\n{said}");
    }
}

#[test]
fn a_folder_for_another_environment_is_refused() {
    let said = parse_declaration(&folder(GRANT), &Environment::parse("staging").unwrap()).unwrap_err().to_string();
    assert!(said.contains("this file is for `production`, and the gateway stands in `staging`"), "{said}");
}

#[test]
fn a_credential_has_exactly_one_way_to_match() {
    for (written, expected) in [
        ("{}", "nothing to match on"),
        ("{uri: 'spiffe://a/b', dns: a.example}", "several ways"),
        ("{issuer: 'CN=x'}", "belong together"),
        ("{subject: 'CN=acme'}", "common name alone"),
        ("{fingerprint_sha256: abc}", "64 digits"),
    ] {
        let mut files = folder(GRANT);
        files[0].text = files[0].text.replace("{uri: 'spiffe://acme.example/a'}", written);
        let said = parse_declaration(&files, &production()).unwrap_err().to_string();
        assert!(said.contains(expected) && said.contains("acme-1.match"), "{written}: {said}");
    }
}

/// A folder whose one anchor, beside its partners, says this.
fn anchored(more: &str) -> Vec<DeclaredFile> {
    let mut files = folder(GRANT);
    files[0].text = files[0].text.replace("partners: [acme]}", &format!("partners: [acme], {more}}}"));
    files.push(DeclaredFile { name: "sub.pem".into(), text: ca_pem() });
    files
}

fn plan_of(files: &[DeclaredFile], registry: &Registry, options: PlanOptions) -> Result<Planned, Problems> {
    plan(parse_declaration(files, &production())?, registry, &operations(OPENAPI), options)
}

#[test]
fn what_is_asked_of_an_anchor_s_certificates_comes_back_from_an_export() {
    let files = anchored(
        "max_lifetime: 90d, revocation: {crl: ['file:acme.crl', 'https://crl.example/a'], grace: 2h, intermediates: \
         [sub.pem]}, denied: [{serial: '0A1B', reason: leaked, author: sec, at: 2026-01-01T00:00:00Z}]",
    );
    let first = plan_of(&files, &Registry::default(), PlanOptions::default()).unwrap().next;
    let anchor = first.anchors().next().unwrap();
    assert_eq!(anchor.revocation.mode, crate::partner::RevocationMode::Required);
    assert_eq!(anchor.max_lifetime, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(anchor.denied[0].certificate.to_string(), "serial 0a1b");
    let again = export(&first, &operations(OPENAPI));
    let second = plan_of(&again, &first, PlanOptions { prune: true, widen: true, ..PlanOptions::default() }).unwrap();
    assert!(second.changes.is_empty(), "{:?}", second.lines);
    let afresh = plan_of(&again, &Registry::default(), PlanOptions::default()).unwrap().next;
    assert_eq!(afresh.anchors().next(), first.anchors().next());
}

#[test]
fn applying_never_lets_a_denied_certificate_in_again() {
    let denied = "denied: [{serial: '0A1B', reason: leaked, author: sec, at: 2026-01-01T00:00:00Z}]";
    let first = plan_of(&anchored(denied), &Registry::default(), PlanOptions::default()).unwrap().next;
    // The same files without the word of it.
    let mut silent = anchored("client_auth: optional");
    silent[1] = export(&first, &operations(OPENAPI)).into_iter().find(|f| f.name == "acme-ca.pem").unwrap();
    let second = plan_of(&silent, &first, PlanOptions::default()).unwrap().next;
    assert_eq!(second.anchors().next().unwrap().denied, first.anchors().next().unwrap().denied);
    // Without the anchor.
    let empty = [DeclaredFile { name: "none.yaml".into(), text: "environment: production\n".into() }];
    let problems =
        plan_of(&empty, &first, PlanOptions { prune: true, ..PlanOptions::default() }).err().unwrap().to_string();
    assert!(problems.contains("`anchors.acme-ca`: certificates under the anchor are denied (1)"), "{problems}");
}

#[test]
fn an_anchor_that_would_refuse_everybody_or_says_nothing_is_refused() {
    for (more, expected) in [
        ("revocation: {mode: required}", "there is no source of lists"),
        ("revocation: {crl: ['acme.crl']}", "`acme.crl` is none of `file:PATH`"),
        ("revocation: {crl: ['file:a'], intermediates: [none.pem]}", "there is no file `none.pem`"),
        ("bundle: {trust_domain: acme.example, file: a}", "has both `certificate` and `bundle`"),
        ("denied: [{reason: x, author: y, at: 2026-01-01T00:00:00Z}]", "exactly one of `serial` and `fingerprint`"),
    ] {
        let problems = parse_declaration(&anchored(more), &production()).err().unwrap().to_string();
        assert!(problems.contains(expected) && problems.contains("acme.yaml:5"), "{more}: {problems}");
    }
}

/// A database with acme in it, made and changed.
async fn with_history(path: &Path) -> Store {
    let store = Store::open(path, NOW).await.unwrap();
    for grants in [GRANT, &GRANT.replace("owner: billing", "owner: sales")] {
        let declared = parse_declaration(&folder(grants), &production()).unwrap();
        let registry = store.load().await.unwrap();
        let planned = plan(declared, &registry, &operations(OPENAPI), PlanOptions::default()).unwrap();
        store.commit(registry.revision(), &planned.changes, &cause(), NOW).await.unwrap();
    }
    store
}

async fn events(store: &Store) -> Vec<Event> {
    let texts = store.history(&HistoryQuery { limit: 100, ..HistoryQuery::default() }).await.unwrap();
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[tokio::test]
async fn every_change_leaves_an_event_with_who_why_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_history(&dir.path().join("r.db")).await;
    let events = events(&store).await;
    let shown: Vec<String> =
        events.iter().map(|e| format!("{} {} {} {} {}", e.seq, e.verb.as_str(), e.noun, e.id, e.revision)).collect();
    assert_eq!(
        shown,
        [
            "1 create network acme-dc1 1",
            "2 create anchor acme-ca 1",
            "3 create partner acme 1",
            // Another CA of the same name: the folder is made anew.
            "4 change anchor acme-ca 2",
            "5 change partner acme 2"
        ]
    );
    assert!(events.iter().all(|e| e.cause == cause() && e.time == NOW.to_string()));
    let owner = |document: &Option<serde_json::Value>| document.as_ref().unwrap()["grants"][0]["owner"].clone();
    assert_eq!((owner(&events[4].before), owner(&events[4].after)), ("billing".into(), "sales".into()));
    assert_eq!(&events[2].before, &None);
    let verified = store.verify_history().await.unwrap().unwrap();
    assert_eq!((verified.end.seq, verified.checkpoints), (5, 2));
    let of_acme =
        HistoryQuery { noun: Some("partner".into()), id: Some("acme".into()), limit: 100, ..HistoryQuery::default() };
    assert_eq!(store.history(&of_acme).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_removed_noun_has_an_event_and_what_was_refused_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_history(&dir.path().join("r.db")).await;
    let acme = PartnerId::parse("acme").unwrap();
    let gone = [Change::Partner(acme, None)];
    assert!(matches!(store.commit(1, &gone, &cause(), NOW).await, Err(StoreError::Conflict { .. })));
    assert_eq!(events(&store).await.len(), 5);
    store.commit(2, &gone, &cause(), NOW).await.unwrap();
    let last = events(&store).await.pop().unwrap();
    assert_eq!((last.verb.as_str(), last.id.as_str(), last.after), ("remove", "acme", None));
    assert!(store.verify_history().await.unwrap().is_ok());
}

/// Threat 30, by somebody who can write into the database.
#[tokio::test]
async fn whatever_is_altered_behind_the_back_is_named() {
    let untie = "DROP TRIGGER event_is_not_altered; DROP TRIGGER event_is_not_removed;";
    for (what, said) in [
        ("UPDATE event SET event = replace(event, 'alice', 'mallory') WHERE seq = 4", "event 4 was altered"),
        ("DELETE FROM event WHERE seq = 4", "event 4 is missing"),
        ("DELETE FROM event WHERE seq > 3", "event 4 is missing"),
        (
            "UPDATE event SET seq = 100 WHERE seq = 4; UPDATE event SET seq = 4 WHERE seq = 5; \
             UPDATE event SET seq = 5 WHERE seq = 100",
            "event 4 is not in its place",
        ),
        ("UPDATE checkpoint SET signature = '00' WHERE seq = 3", "the checkpoint of event 3 is not signed"),
        ("UPDATE partner SET doc = replace(doc, 'sales', 'thieves')", "the partner `acme` is not what the history"),
        ("DELETE FROM network", "the network `acme-dc1` is gone, and event 1 left it there"),
        (
            "INSERT INTO network VALUES ('mine', '{}', 1)",
            "the network `mine` is not what the history made it: no event",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = with_history(&dir.path().join("r.db")).await;
        for statement in untie.split_inclusive(';').chain(what.split("; ")) {
            sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&store.pool).await.unwrap();
        }
        let fault: Fault = store.verify_history().await.unwrap().unwrap_err();
        assert!(fault.to_string().starts_with(said), "{what}: {fault}");
    }
}

fn operator(name: &str) -> Operator {
    let (name, roles) = (OperatorName::parse(name).unwrap(), [Role::Approver].into());
    Operator { name, roles, uid: None, certificate: None, tokens: Vec::new(), disabled: None }
}

#[tokio::test]
async fn first_operators_are_what_a_history_begins_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("r.db"), NOW).await.unwrap();
    assert!(store.operators().await.unwrap().is_empty());
    store.bootstrap(&[operator("a"), operator("b")], &cause(), NOW).await.unwrap();
    let refused = store.bootstrap(&[operator("c")], &cause(), NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::HasOperators), "{refused}");
    let mut disabled = operator("b");
    disabled.disabled = Some(Disabled { reason: "left".into(), author: "a".into(), at: NOW });
    let operators = [disabled.clone()];
    let commit = Commit { operators: &operators, ..Commit::default() };
    store.commit_all(0, commit, &cause(), NOW).await.unwrap();
    let shown: Vec<String> =
        events(&store).await.iter().map(|e| format!("{} {} {} {}", e.seq, e.verb.as_str(), e.noun, e.id)).collect();
    assert_eq!(
        shown,
        ["1 bootstrap history history", "2 create operator a", "3 create operator b", "4 change operator b"]
    );
    let operators = store.operators().await.unwrap();
    assert_eq!(operators.iter().map(|o| (**o).clone()).collect::<Vec<_>>(), [operator("a"), disabled]);
    assert_eq!(store.revision().await.unwrap(), 0, "the registry is as it was");
    assert!(store.verify_history().await.unwrap().is_ok());
}

#[tokio::test]
async fn events_are_only_added() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_history(&dir.path().join("r.db")).await;
    for statement in ["UPDATE event SET id = 'x'", "DELETE FROM event"] {
        let refused = sqlx::query(statement).execute(&store.pool).await.unwrap_err();
        assert!(refused.to_string().contains("events are only added"), "{refused}");
    }
}

#[tokio::test]
async fn a_chain_made_anew_without_the_key_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_history(&dir.path().join("r.db")).await;
    store.close().await;
    // Another key signs a history of its own.
    std::fs::remove_file(dir.path().join(HISTORY_KEY)).unwrap();
    let store = Store::open(&dir.path().join("r.db"), NOW).await.unwrap();
    let fault = store.verify_history().await.unwrap().unwrap_err();
    assert!(matches!(fault, Fault::Signature { seq: 3, .. }), "{fault}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join(HISTORY_KEY)).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_database_of_the_first_version_gets_a_history_of_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    let store = with_history(&path).await;
    for statement in [
        "DROP TABLE event",
        "DROP TABLE checkpoint",
        "DROP TABLE seen",
        "CREATE TABLE seen (
            credential TEXT NOT NULL, fingerprint TEXT NOT NULL, not_after_ns INTEGER NOT NULL,
            first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, PRIMARY KEY (credential, fingerprint))",
        "INSERT INTO seen VALUES ('acme-1', 'ab', 3, 1, 2)",
        "UPDATE meta SET value = 1 WHERE key = 'schema'",
    ] {
        sqlx::query(statement).execute(&store.pool).await.unwrap();
    }
    store.close().await;
    // With a key beside it, it was of a later version.
    let copy = dir.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    assert!(matches!(read_only_verify(&copy).await, Err(Fault::NoHistory)));
    Store::open(&path, NOW).await.unwrap().close().await;
    assert!(matches!(read_only_verify(&path).await, Err(Fault::Registry { seq: None, .. })));
    std::fs::rename(&copy, &path).unwrap();
    std::fs::remove_file(dir.path().join(HISTORY_KEY)).unwrap();
    let store = Store::open(&path, NOW).await.unwrap();
    let events = events(&store).await;
    let ids: Vec<&str> = events[1..].iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["acme", "acme-dc1", "acme-ca"]);
    assert!(events[1..].iter().all(|e| e.verb.as_str() == "create" && e.revision == 2), "{events:#?}");
    assert!(store.verify_history().await.unwrap().is_ok());
    assert_eq!(store.load().await.unwrap().revision(), 2);
    let seen = store.certificates_of(&CredentialId::parse("acme-1").unwrap()).await.unwrap();
    assert_eq!((seen.len(), seen[0].serial.clone(), seen[0].valid_until), (1, None, UnixNanos(3)));
}

async fn read_only_verify(path: &Path) -> Result<Verified, Fault> {
    let store = Store::open_to_verify(path).await.unwrap().unwrap();
    let found = store.verify_history().await.unwrap();
    store.close().await;
    found
}

/// Threat 30: what was taken from the end, with all that vouched for it, is not begun anew and nothing is put on top of it.
#[tokio::test]
async fn history_that_was_emptied_or_cut_off_is_not_good_and_stays_so() {
    let wiped = "DROP TRIGGER event_is_not_removed; DELETE FROM event; DELETE FROM checkpoint";
    let cut = "DROP TRIGGER event_is_not_removed; DELETE FROM event WHERE seq > 5; DELETE FROM checkpoint WHERE seq > 5; \
               DELETE FROM network WHERE name = 'late'";
    let network = |name: &str| {
        let name = NetworkName::parse(name).unwrap();
        Change::Network(name.clone(), Some(Network { name, cidrs: vec!["192.0.2.0/24".parse().unwrap()] }))
    };
    for (what, said) in [
        (wiped.to_owned(), "is not what the history made it: no event left it there"),
        (format!("{wiped}; DELETE FROM partner; DELETE FROM anchor; DELETE FROM network"), "is at revision 3"),
        (cut.to_owned(), "is at revision 3, and the last event that there is tells of revision 2"),
        (
            format!("{cut}; INSERT INTO meta VALUES ('copied', 6); UPDATE meta SET value = 2 WHERE key = 'revision'"),
            "event 6, of which the records were given a copy, is not there: event 5 is the last",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.db");
        let store = with_history(&path).await;
        store.commit(2, &[network("late")], &cause(), NOW).await.unwrap();
        assert!(store.verify_history().await.unwrap().is_ok() && store.look_at_end().await.is_ok());
        for statement in what.split("; ") {
            sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&store.pool).await.unwrap();
        }
        store.close().await;
        for _ in 0..2 {
            let fault = read_only_verify(&path).await.unwrap_err();
            assert!(fault.to_string().contains(said), "{what}: {fault}");
            // A start changes nothing about that.
            let store = Store::open(&path, NOW).await.unwrap();
            assert!(store.look_at_end().await.is_err(), "{what}");
            let revision = store.revision().await.unwrap();
            let refused = store.commit(revision, &[network("new")], &cause(), NOW).await.unwrap_err();
            assert!(refused.to_string().contains("somebody else has written into the database"), "{refused}");
            store.close().await;
        }
    }
}

/// SQLite, in a folder of its own.
struct Folder(tempfile::TempDir);

impl conformance::Place for Folder {
    async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(&self.0.path().join("r.db"), conformance::NOW).await
    }

    async fn make_newer(&self, schema: i64) {
        let store = self.open().await;
        sqlx::query("UPDATE meta SET value = ?1 WHERE key = 'schema'").bind(schema).execute(&store.pool).await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn sqlite_does_what_a_store_does() {
    conformance::all(|| Folder(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
async fn what_a_gateway_keeps_while_it_is_copied_is_copied_as_of_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (state, copies) = (dir.path().join("state"), dir.path().join("copies"));
    let database = state.join("partnergate.db");
    std::fs::create_dir(&state).unwrap();
    Store::open(&database, NOW).await.unwrap().close().await;
    let kept = state.join("crl");
    let folder = kept.clone();
    let keep = move |n: usize| {
        for end in ["crl", "json"] {
            disk::replace(&folder.join("a").with_extension(end), n.to_string().as_bytes()).unwrap();
        }
    };
    keep(0);
    // What was being written when a gateway was killed, under the name that is next, and one of before.
    for name in ["a.half", "a.crl.half"] {
        std::fs::write(kept.join(name), "").unwrap();
    }
    let copied = async |n: usize| {
        let to = copies.join(n.to_string());
        let manifest = backup(&database, &["crl", "policy"], &to, NOW).await?;
        assert_eq!(verify_backup(&to, "partnergate.db").await.unwrap(), manifest);
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["crl/a.crl", "crl/a.json", "partnergate.db"]);
        let read = |name: &str| std::fs::read_to_string(to.join("crl").join(name)).unwrap().parse::<usize>().unwrap();
        let (list, label) = (read("a.crl"), read("a.json"));
        // The label is written behind its list.
        assert!(list == label || list == label + 1, "a label of another list: {list} {label}");
        Ok::<usize, BackupError>(list)
    };
    assert_eq!(copied(0).await.unwrap(), 0);
    let writer = std::thread::spawn(move || (1..200).for_each(keep));
    let mut tried = 0;
    while !writer.is_finished() {
        tried += 1;
        if let Err(e) = copied(tried).await {
            assert!(e.to_string().contains("changes faster"), "{e}");
        }
    }
    assert_eq!(copied(tried + 1).await.unwrap(), 199);
}
