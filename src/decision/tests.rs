//! `decide` asked as the gateway asks it: real snapshots, certificates that `Trust` has verified, the shipped policy.

use super::*;
use crate::clock::Zone;
use crate::document::Problems;
use crate::identity::{Fingerprint, Match};
use crate::name::{AnchorName, CredentialId, Environment, NetworkName};
use crate::operation::{RouteName, openapi};
use crate::partner::{Anchor, ClientAuthUsage, Der, Grant, Network, Partner, Period, Revocation, Root};
use crate::policy::{EngineKind, PolicyLimits, PolicySource};
use crate::registry::{Change, Registry};
use crate::request::{Brought, HeadLimits, Host, TlsFacts, canonicalise};
use crate::route::{Forward, TokenUse};
use crate::snapshot::{Ahead, RequestSettings, ServerCertificateSource, Sources};
use crate::token::AccessToken;
use http::Method;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Signer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

mod api_keys;
mod contract;
mod evaluation;
mod floor;
mod independence;
mod scope;
mod tokens;

/// 2026-03-04T12:30:00Z, a Wednesday.
const NOW: UnixNanos = UnixNanos(1_772_627_400_000_000_000);
const API: &str = r#"
openapi: "3.0.3"
servers: [{url: "https://api.example/v1"}]
paths:
  /invoices/{id}:
    get: {operationId: invoices.read, tags: [billing]}
    delete: {operationId: invoices.delete}
  /feed:
    get: {operationId: feed.open, x-partnergate-upgrade: websocket}
"#;

/// One gateway in production and the request it is asked about. As made, everything fits; a test changes what it is
/// about and asks.
#[derive(Clone)]
struct World {
    environment: Environment,
    acme: PartnerRecord,
    globex: PartnerRecord,
    anchors: Vec<Anchor>,
    networks: Vec<Network>,
    policy: PolicySource,
    limits: PolicyLimits,
    acme_ca: Arc<Ca>,
    /// DER of what each partner presents.
    acme_leaf: Vec<u8>,
    globex_leaf: Vec<u8>,
    request: RequestFacts,
    /// That it comes with, for who puts an input together.
    token: Option<Arc<AccessToken>>,
}

impl World {
    fn new() -> World {
        let (acme_ca, globex_ca) = (Ca::new("Acme CA", |_| {}), Ca::new("Globex CA", |_| {}));
        let (acme_leaf, globex_leaf) = (acme_ca.issue(|_| {}), globex_ca.issue(|_| {}));
        World {
            environment: environment("production"),
            acme: record("acme", &acme_leaf, vec![grant("acme-reads", &["invoices.read"])]),
            globex: record("globex", &globex_leaf, vec![grant("globex-reads", &["invoices.read"])]),
            anchors: vec![anchor("acme-ca", &acme_ca, "acme"), anchor("globex-ca", &globex_ca, "globex")],
            networks: vec![network("dc1", "192.0.2.0/24"), network("dc2", "198.51.100.0/24")],
            policy: shipped(),
            // Real time is what other tests are about; here a busy machine changes nothing.
            limits: PolicyLimits { time: Duration::from_secs(60), instructions: 25_000 },
            acme_ca: Arc::new(acme_ca),
            acme_leaf,
            globex_leaf,
            request: request(Method::GET, "/v1/invoices/7", "api.example"),
            token: None,
        }
    }

    /// With `policy` instead of the shipped one.
    fn under(policy: &str) -> World {
        let text = format!("package partnergate\nimport rego.v1\n{policy}\n");
        World { policy: PolicySource { files: vec![("replacement.rego".into(), text)] }, ..World::new() }
    }

    fn with(mut self, change: impl FnOnce(&mut World)) -> World {
        change(&mut self);
        self
    }

    fn registry(&self) -> Registry {
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(self.anchors.iter().map(|a| Change::Anchor(a.name.clone(), Some(a.clone()))));
        changes.extend(self.networks.iter().map(|n| Change::Network(n.name.clone(), Some(n.clone()))));
        changes.extend(
            [&self.acme, &self.globex]
                .map(|r| Change::Partner(r.partner.id.clone(), Some(PartnerRecord::clone(r).into()))),
        );
        Registry::default().with(1, &changes).unwrap_or_else(|p| panic!("{p:?}"))
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot_after(None)
    }

    fn snapshot_after(&self, previous: Option<&Snapshot>) -> Snapshot {
        let mut problems = Problems::new();
        let operations = openapi::load("api.yaml", API, None, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        let billing = RouteName::parse("billing").unwrap();
        let sources = Sources {
            environment: self.environment.clone(),
            routes: vec![Route {
                name: billing.clone(),
                hosts: vec![Host::parse("api.example").unwrap()],
                prefix: "/v1".into(),
                upstream: UpstreamName::parse("billing-api").unwrap(),
                max_body: 1,
                stream_idle: Duration::from_secs(1),
                token: TokenUse::Accepted,
                api_key: TokenUse::Accepted,
                forward: Forward::default(),
                place: String::new(),
                operations: None,
            }],
            operations: vec![(billing, operations)],
            policy: self.policy.clone(),
            policy_bundle: None,
            candidate: None,
            ahead: Ahead::default(),
            policy_engine: EngineKind::Rvm,
            policy_limits: self.limits,
            request: RequestSettings {
                head: HeadLimits { max_bytes: 16_384, max_fields: 100 },
                policy_headers: vec![],
                bearer: true,
                api_key: true,
            },
            certificates: vec![SERVER.clone()],
            registry: self.registry(),
            material: Arc::default(),
            tokens: None,
            config_revision: "0".into(),
        };
        let (snapshot, problems) = Snapshot::build(sources, previous, NOW).unwrap_or_else(|p| panic!("{p}"));
        assert!(problems.is_empty(), "{problems}");
        snapshot
    }

    /// Acme's connection, opened at `NOW`.
    fn peer(&self, snapshot: &Snapshot) -> Peer {
        verified(snapshot, &self.acme_leaf)
    }

    /// The outcome for acme.
    fn ask(&self) -> String {
        let snapshot = self.snapshot();
        self.ask_of(&snapshot, &self.peer(&snapshot))
    }

    /// The outcome at another instant than that of the handshake.
    fn ask_at(&mut self, now: UnixNanos) -> String {
        self.request.now = now;
        self.ask()
    }

    fn ask_of(&self, snapshot: &Snapshot, peer: &Peer) -> String {
        outcome(&decide(snapshot, peer, &self.request, &Slots::new(1, usize::MAX, WhenFull::Deny)))
    }

    /// The detail that an operator finds with a denial.
    fn detail(&self) -> String {
        let snapshot = self.snapshot();
        match decide(&snapshot, &self.peer(&snapshot), &self.request, &Slots::new(1, usize::MAX, WhenFull::Deny)) {
            Decision::Deny(denial) => denial.detail.unwrap_or_default(),
            Decision::Allow(permit) => panic!("allowed by {}", permit.grant()),
        }
    }
}

/// `allowed by GRANT`, or the reasons.
fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Allow(permit) => format!("allowed by {}", permit.grant()),
        Decision::Deny(denial) => denial.reasons.iter().map(Reason::as_str).collect::<Vec<_>>().join(" "),
    }
}

fn verified(snapshot: &Snapshot, leaf: &[u8]) -> Peer {
    snapshot.trust.verify(&[CertificateDer::from(leaf)], NOW).unwrap_or_else(|f| panic!("{f}"))
}

struct Ca {
    signer: Signer<'static, KeyPair>,
    der: Vec<u8>,
}

impl Ca {
    fn new(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let params = ca_params(name, change);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Ca { signer: Signer::new(params, key), der }
    }

    /// A CA below this one.
    fn below(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let params = ca_params(name, change);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.signer).unwrap().der().to_vec();
        Ca { signer: Signer::new(params, key), der }
    }

    /// A client certificate.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.signer).unwrap().der().to_vec()
    }
}

fn ca_params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    params
}

static SERVER: LazyLock<ServerCertificateSource> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(["api.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    ServerCertificateSource {
        chain_file: "server.pem".into(),
        key_file: "server.key".into(),
        chain: chain.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
        ca: Vec::new(),
    }
});

/// The policy folder as it is shipped.
fn shipped() -> PolicySource {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut files = vec![("reasons.yaml".into(), std::fs::read_to_string(root.join("reasons.yaml")).unwrap())];
    for entry in std::fs::read_dir(root.join("partnergate")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("partnergate/{}", path.file_name().unwrap().to_str().unwrap());
        files.push((name, std::fs::read_to_string(&path).unwrap()));
    }
    files.sort();
    PolicySource { files }
}

fn environment(name: &str) -> Environment {
    Environment::parse(name).unwrap()
}

fn partner_id(id: &str) -> PartnerId {
    PartnerId::parse(id).unwrap()
}

fn credential_id(id: &str) -> CredentialId {
    CredentialId::parse(id).unwrap()
}

fn network_names(names: &[&str]) -> Vec<NetworkName> {
    names.iter().map(|n| NetworkName::parse(n).unwrap()).collect()
}

fn network(name: &str, cidr: &str) -> Network {
    Network { name: NetworkName::parse(name).unwrap(), cidrs: vec![cidr.parse().unwrap()] }
}

fn anchor(name: &str, ca: &Ca, partner: &str) -> Anchor {
    Anchor {
        name: AnchorName::parse(name).unwrap(),
        root: Root::Certificate { certificate: Der(ca.der.clone()) },
        partners: vec![PartnerId::parse(partner).unwrap()],
        environments: vec![environment("production")],
        client_auth: ClientAuthUsage::Required,
        max_lifetime: None,
        revocation: Revocation::default(),
        denied: Vec::new(),
    }
}

/// An active partner that calls from `dc1` with one credential, `{id}-cert` under `{id}-ca`.
fn record(id: &str, leaf: &[u8], grants: Vec<Grant>) -> PartnerRecord {
    PartnerRecord {
        partner: Partner {
            id: PartnerId::parse(id).unwrap(),
            name: id.to_uppercase(),
            owner: "payments".into(),
            state: PartnerState::Active,
            suspension: None,
            labels: Default::default(),
            time_zone: Zone::parse("UTC").unwrap(),
            engagement: Period::default(),
            networks: network_names(&["dc1"]),
            contact: None,
            proofing: None,
            observe: Default::default(),
            data_classification: None,
            review: None,
            offboarding: None,
        },
        credentials: vec![credential(
            &format!("{id}-cert"),
            &format!("{id}-ca"),
            Match::FingerprintSha256(Fingerprint::of(leaf)),
        )],
        grants,
        api_keys: Vec::new(),
    }
}

fn credential(id: &str, anchor: &str, matching: Match) -> Credential {
    Credential {
        id: credential_id(id),
        anchor: AnchorName::parse(anchor).unwrap(),
        matching,
        state: CredentialState::Active,
        labels: Default::default(),
        environments: vec![environment("production")],
        ends: None,
        retiring: None,
        revoked: None,
    }
}

/// The smallest grant: operations and an owner, everything else as the partner has it.
fn grant(id: &str, operations: &[&str]) -> Grant {
    Grant {
        id: GrantId::parse(id).unwrap(),
        owner: "payments".into(),
        written: operations.iter().map(|o| (*o).to_owned()).collect(),
        operations: operations.iter().map(|o| OperationId::parse(o).unwrap()).collect(),
        networks: None,
        credentials: None,
        period: Period::default(),
        conditions: Default::default(),
        environments: vec![environment("production")],
        approval: None,
        revoked: None,
        emergency: None,
    }
}

/// From an address in `dc1`.
fn request(method: Method, target: &str, host: &str) -> RequestFacts {
    RequestFacts {
        id: "0195-7".into(),
        canonical: canonicalise(&method, target.as_bytes(), Some(host), None).unwrap(),
        source: "192.0.2.7:40000".parse().unwrap(),
        tls: Arc::new(TlsFacts { version: "1.3", cipher: "TLS_AES_128_GCM_SHA256".into(), sni: None }),
        headers: vec![],
        content_length: None,
        upgrade: UpgradeWanted::No,
        bearer: Brought::None,
        api_key: Brought::None,
        now: NOW,
    }
}

fn from(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 40000)
}

fn before(instant: UnixNanos) -> UnixNanos {
    UnixNanos(instant.0 - 1)
}

#[test]
fn the_smallest_grant_permits_its_operation_and_names_its_upstream() {
    let world = World::new();
    let snapshot = world.snapshot();
    let decision =
        decide(&snapshot, &world.peer(&snapshot), &world.request, &Slots::new(1, usize::MAX, WhenFull::Deny));
    let Decision::Allow(permit) = decision else { panic!("{decision:?}") };
    assert_eq!(permit.partner().as_str(), "acme");
    assert_eq!(permit.grant().as_str(), "acme-reads");
    assert_eq!(permit.operation().as_str(), "invoices.read");
    assert_eq!(permit.upstream().as_str(), "billing-api");
    assert!(permit.slot().is_real());
}

#[test]
fn of_several_grants_that_fit_the_same_one_is_always_named() {
    let mut world = World::new();
    world.acme.grants = ["a", "b", "c"].map(|id| grant(id, &["invoices.read"])).into();
    assert_eq!(world.ask(), "allowed by a");
    world.acme.grants[0].period.ends = Some(NOW);
    assert_eq!(world.ask(), "allowed by b");
}

#[test]
fn without_a_place_for_its_record_nothing_is_allowed() {
    let world = World::new();
    let snapshot = world.snapshot();
    let peer = world.peer(&snapshot);
    let slots = Slots::new(1, usize::MAX, WhenFull::Deny);
    let first = decide(&snapshot, &peer, &world.request, &slots);
    assert_eq!((outcome(&first).as_str(), slots.free()), ("allowed by acme-reads", 0));
    let second = decide(&snapshot, &peer, &world.request, &slots);
    assert_eq!(outcome(&second), "record-unavailable");
    assert!(matches!(&second, Decision::Deny(denial) if denial.slot.is_none()));
    drop(first);
    assert_eq!(slots.free(), 1);
    assert_eq!(outcome(&decide(&snapshot, &peer, &world.request, &slots)), "allowed by acme-reads");
}

#[test]
fn where_lost_records_are_counted_a_request_is_allowed_without_a_place() {
    let world = World::new();
    let snapshot = world.snapshot();
    let peer = world.peer(&snapshot);
    let slots = Slots::new(0, usize::MAX, WhenFull::Count);
    let decision = decide(&snapshot, &peer, &world.request, &slots);
    assert!(matches!(&decision, Decision::Allow(permit) if !permit.slot().is_real()), "{decision:?}");
    drop(decision);
    assert_eq!(slots.free(), 0, "a place that was never there is not given back");
}

#[test]
fn a_denial_has_a_place_for_its_record_too_and_keeps_its_reason_without_one() {
    let mut world = World::new();
    world.acme.partner.state = PartnerState::Suspended;
    let snapshot = world.snapshot();
    let peer = world.peer(&snapshot);
    let slots = Slots::new(1, usize::MAX, WhenFull::Deny);
    let first = decide(&snapshot, &peer, &world.request, &slots);
    assert!(matches!(&first, Decision::Deny(Denial { slot: Some(slot), .. }) if slot.is_real()));
    assert_eq!(outcome(&decide(&snapshot, &peer, &world.request, &slots)), "partner-not-active");
    drop(first);
    assert_eq!(slots.free(), 1);
}

#[test]
fn there_is_no_place_while_the_records_that_wait_are_too_large() {
    let slots = Slots::new(10, 1000, WhenFull::Deny);
    let mut large = slots.reserve().unwrap();
    large.fill(999);
    let mut small = slots.reserve().unwrap();
    small.fill(1);
    assert_eq!((slots.waiting_bytes(), slots.free(), slots.reserve().is_none()), (1000, 8, true));
    drop(small);
    assert!(slots.reserve().is_some());
    drop(large);
    assert_eq!((slots.waiting_bytes(), slots.free()), (0, 10));
}

#[test]
fn one_partner_has_at_most_a_quarter_of_the_places() {
    let slots = Slots::new(40, usize::MAX, WhenFull::Deny);
    let (a, b) = (partner_id("a"), partner_id("b"));
    let mut held: Vec<Slot> = (0..10).map(|_| slots.reserve_for(&a).unwrap()).collect();
    assert!(slots.reserve_for(&a).is_none(), "the eleventh");
    assert!(slots.reserve_for(&b).is_some(), "the others go on");
    let lossy = Slots::new(4, usize::MAX, WhenFull::Count);
    let one = lossy.reserve_for(&a).unwrap();
    assert!(one.is_real() && lossy.reserve_for(&a).is_none(), "counting losses is for a sink that is down");
    drop(one);
    held.pop();
    let mut last = slots.reserve_for(&a).unwrap();
    assert!(slots.reserve_for(&a).is_none());
    last.fill(1);
    assert!(slots.reserve_for(&a).is_some(), "a record that waits is not the partner's doing");
    drop(last);
    assert!(slots.reserve().is_some(), "a denial counts against nobody");
    drop(held);
    assert_eq!(slots.free(), 40);
}

#[test]
fn clones_of_slots_share_their_places() {
    let slots = Slots::new(2, usize::MAX, WhenFull::Deny);
    let (a, b, c) = (partner_id("a"), partner_id("b"), partner_id("c"));
    let held = (slots.reserve_for(&a), slots.clone().reserve_for(&b));
    assert!(held.0.is_some() && held.1.is_some() && slots.reserve_for(&c).is_none());
    drop(held);
    assert_eq!(slots.free(), 2);
}
