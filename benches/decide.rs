//! What one request costs inside the gateway: reading a certificate, canonicalising, resolving, deciding — and that
//! deciding does not grow with the number of partners.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a benchmark: what it cannot set up ends it")]

use criterion::{Criterion, criterion_group, criterion_main};
use partnergate::clock::{Clock, UnixNanos, Zone};
use partnergate::decision::{Decision, Slots, WhenFull, decide};
use partnergate::document::Problems;
use partnergate::identity::{Certificate, Match, Peer};
use partnergate::name::{AnchorName, CredentialId, Environment, GrantId, NetworkName, PartnerId, UpstreamName};
use partnergate::operation::{OperationId, RouteName, openapi};
use partnergate::partner::{
    Anchor, ClientAuthUsage, Credential, CredentialState, Der, Grant, Network, Partner, PartnerRecord, PartnerState,
    Period, Revocation, Root,
};
use partnergate::policy::{EngineKind, PolicyLimits, PolicySource};
use partnergate::registry::{Change, Registry};
use partnergate::request::{HeadLimits, Host, RequestFacts, TlsFacts, UpgradeWanted, canonicalise, judge_head};
use partnergate::route::{Forward, Route};
use partnergate::snapshot::{Ahead, RequestSettings, ServerCertificateSource, Snapshot, Sources};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const OPENAPI: &str = "openapi: 3.0.3\ninfo: {title: t, version: '1'}\npaths:\n  /v1/invoices/{id}:\n    get: {operationId: invoices.read, responses: {}}\n  /v1/orders/{id}:\n    get: {operationId: orders.read, responses: {}}\n  /v1/reports:\n    get: {operationId: reports.read, responses: {}}\n";
const HEAD: &[u8] = b"GET /v1/invoices/2026-0815?page=2 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nX-Correlation-Id: 4711\r\n\r\n";

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct World {
    snapshot: Snapshot,
    peer: Peer,
    request: RequestFacts,
    leaf: Vec<u8>,
    slots: Slots,
}

fn world(partners: usize, policy: PolicySource) -> World {
    let (ca_der, signer) = ca();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "client");
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI("spiffe://p0.example/client".try_into().unwrap())];
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &signer).unwrap().der().to_vec();
    let facts = Certificate::from_der(&leaf).unwrap();

    let environment = Environment::parse("production").unwrap();
    let ids: Vec<PartnerId> = (0..partners).map(|n| PartnerId::parse(&format!("p{n}")).unwrap()).collect();
    let anchor = AnchorName::parse("ca").unwrap();
    let network = NetworkName::parse("dc1").unwrap();
    let mut changes = vec![
        Change::Anchor(
            anchor.clone(),
            Some(Anchor {
                name: anchor.clone(),
                root: Root::Certificate { certificate: Der(ca_der) },
                partners: ids.clone(),
                environments: vec![environment.clone()],
                client_auth: ClientAuthUsage::Required,
                max_lifetime: None,
                revocation: Revocation::default(),
                denied: Vec::new(),
            }),
        ),
        Change::Network(
            network.clone(),
            Some(Network { name: network.clone(), cidrs: vec!["192.0.2.0/24".parse().unwrap()] }),
        ),
    ];
    for (n, id) in ids.iter().enumerate() {
        let matching = if n == 0 {
            Match::FingerprintSha256(facts.fingerprint)
        } else {
            Match::uri(&format!("spiffe://p{n}.example/other")).unwrap()
        };
        let record = PartnerRecord {
            partner: Partner {
                observe: Default::default(),
                id: id.clone(),
                name: format!("Partner {n}"),
                owner: "team".into(),
                state: PartnerState::Active,
                suspension: None,
                // What an example asks for.
                labels: [("certified".to_owned(), "yes".to_owned())].into(),
                time_zone: Zone::parse("Europe/Berlin").unwrap(),
                engagement: Period { starts: Some(UnixNanos(0)), ends: Some(UnixNanos(i64::MAX)) },
                networks: vec![network.clone()],
                contact: None,
                proofing: None,
                data_classification: None,
                review: None,
                offboarding: None,
            },
            credentials: vec![Credential {
                id: CredentialId::parse(&format!("c{n}")).unwrap(),
                anchor: anchor.clone(),
                matching,
                state: CredentialState::Active,
                labels: Default::default(),
                environments: vec![environment.clone()],
                ends: None,
                retiring: None,
                revoked: None,
            }],
            grants: ["invoices.read", "orders.read", "reports.read"]
                .iter()
                .enumerate()
                .map(|(g, operation)| Grant {
                    id: GrantId::parse(&format!("g{n}-{g}")).unwrap(),
                    owner: "team".into(),
                    written: vec![(*operation).into()],
                    operations: vec![OperationId::parse(operation).unwrap()],
                    networks: None,
                    credentials: None,
                    period: Period { starts: None, ends: Some(UnixNanos(i64::MAX)) },
                    conditions: Default::default(),
                    environments: vec![environment.clone()],
                    approval: None,
                    revoked: None,
                    emergency: None,
                })
                .collect(),
        };
        changes.push(Change::Partner(id.clone(), Some(record.into())));
    }
    let registry = Registry::default().with(1, &changes).unwrap();
    let mut problems = Problems::new();
    let route = RouteName::parse("api").unwrap();
    let server = rcgen::generate_simple_self_signed(vec!["api.example.com".to_owned()]).unwrap();
    let sources = Sources {
        environment,
        routes: vec![Route {
            name: route.clone(),
            hosts: vec![Host::parse("api.example.com").unwrap()],
            prefix: "/".into(),
            upstream: UpstreamName::parse("up").unwrap(),
            max_body: 1,
            stream_idle: Duration::from_secs(1),
            forward: Forward { client_cert: false, client_cert_chain: false, xfcc: false },
            place: String::new(),
            operations: None,
        }],
        operations: vec![(route, openapi::load("api.yaml", OPENAPI, None, &mut problems))],
        policy,
        policy_bundle: None,
        candidate: None,
        ahead: Ahead::default(),
        policy_engine: EngineKind::Rvm,
        // Longer than the default, which is held in real time: a machine that does something else for 10 ms is no fault.
        policy_limits: PolicyLimits { time: Duration::from_secs(1), instructions: 25_000 },
        request: RequestSettings { head: HeadLimits { max_bytes: 16_384, max_fields: 100 }, policy_headers: vec![] },
        certificates: vec![ServerCertificateSource {
            chain_file: "server.pem".into(),
            key_file: "server.key".into(),
            chain: server.cert.pem().into_bytes(),
            key: server.signing_key.serialize_pem().into_bytes(),
            ca: Vec::new(),
        }],
        registry,
        material: Arc::default(),
        config_revision: "bench".into(),
    };
    let now = Clock::new().now();
    let (snapshot, _) = Snapshot::build(sources, None, now).map_err(|p| p.to_string()).unwrap();
    let peer = snapshot.trust.verify(&[CertificateDer::from(leaf.clone())], now).unwrap();
    let target = b"/v1/invoices/2026-0815?page=2";
    let canonical = canonicalise(&http::Method::GET, target, Some("api.example.com"), None).unwrap();
    let request = RequestFacts {
        id: "01a20a4b-87e6-720a-ba1e-904e12f940c6".into(),
        canonical,
        source: "192.0.2.7:4711".parse().unwrap(),
        tls: Arc::new(TlsFacts {
            version: "1.3",
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            sni: Some("api.example.com".into()),
        }),
        headers: vec![],
        content_length: None,
        upgrade: UpgradeWanted::No,
        now,
    };
    World { snapshot, peer, request, leaf, slots: Slots::new(1000, usize::MAX, WhenFull::Deny) }
}

fn ca() -> (Vec<u8>, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    (der, Issuer::new(params, key))
}

/// Files of a folder, under a name. `PARTNERGATE_BENCH_POLICIES` is another folder than the shipped one, to be compared.
fn folder(below: &str, name: &str) -> Vec<(String, String)> {
    let shipped = || concat!(env!("CARGO_MANIFEST_DIR"), "/policies").to_owned();
    let root = std::env::var("PARTNERGATE_BENCH_POLICIES").unwrap_or_else(|_| shipped());
    let entries = std::fs::read_dir(std::path::Path::new(&root).join(below)).unwrap().map(|e| e.unwrap().path());
    let file = |path: std::path::PathBuf| {
        (format!("{name}/{}", path.file_name().unwrap().to_str().unwrap()), std::fs::read_to_string(path).unwrap())
    };
    entries.filter(|path| path.is_file()).map(file).collect()
}

fn library() -> PolicySource {
    let mut files = folder("partnergate", "partnergate");
    files.sort();
    PolicySource { files }
}

/// The library with each example copied beside it.
fn every_example() -> PolicySource {
    let mut files = folder("partnergate", "partnergate");
    for example in ["maintenance_freeze", "per_environment", "psd2_roles", "read_only_first_week", "tenant_paths"] {
        files.extend(folder(&format!("examples/{example}"), &format!("custom/{example}")));
    }
    files.retain(|(path, _)| !path.ends_with(".md"));
    files.sort();
    PolicySource { files }
}

fn benches(c: &mut Criterion) {
    let small = world(10, library());
    c.bench_function("certificate from der", |b| b.iter(|| Certificate::from_der(black_box(&small.leaf)).unwrap()));
    let limits = HeadLimits { max_bytes: 16_384, max_fields: 100 };
    c.bench_function("judge head", |b| b.iter(|| judge_head(black_box(HEAD), 0, &limits).unwrap()));
    c.bench_function("canonicalise", |b| {
        b.iter(|| {
            let target = black_box(b"/v1/invoices/2026-0815?page=2".as_slice());
            canonicalise(&http::Method::GET, target, Some("api.example.com"), Some("api.example.com")).unwrap()
        });
    });
    for partners in [10, 1_000, 100_000] {
        let world = world(partners, library());
        c.bench_function(&format!("resolve among {partners}"), |b| {
            b.iter(|| black_box(world.snapshot.registry.resolve(black_box(&world.peer))));
        });
        c.bench_function(&format!("decide among {partners}"), |b| {
            b.iter(|| match decide(&world.snapshot, &world.peer, black_box(&world.request), &world.slots) {
                Decision::Allow(permit) => permit,
                Decision::Deny(denial) => panic!("{denial:?}"),
            });
        });
    }
    let world = world(10, every_example());
    c.bench_function("decide with every example", |b| {
        b.iter(|| match decide(&world.snapshot, &world.peer, black_box(&world.request), &world.slots) {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => panic!("{denial:?}"),
        });
    });
}

criterion_group!(all, benches);
criterion_main!(all);
