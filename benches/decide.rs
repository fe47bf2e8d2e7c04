//! What one request costs inside the gateway: reading a certificate, canonicalising, resolving, deciding — and that
//! deciding does not grow with the number of partners.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a benchmark: what it cannot set up ends it")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use partnergate::clock::{Clock, UnixNanos, Zone};
use partnergate::decision::{Decision, Slots, WhenFull, decide, decide_token};
use partnergate::document::Problems;
use partnergate::identity::{Certificate, Match, Peer};
use partnergate::jose::Algorithm;
use partnergate::name::{AnchorName, CredentialId, Environment, GrantId, NetworkName, PartnerId, UpstreamName};
use partnergate::operation::{OperationId, RouteName, openapi};
use partnergate::partner::{
    Anchor, ApiKey, BoundTo, ClientAuthUsage, Credential, CredentialState, Der, Grant, Network, Partner, PartnerRecord,
    PartnerState, Period, Revocation, Root,
};
use partnergate::policy::{EngineKind, PolicyLimits, PolicySource};
use partnergate::registry::{Change, Registry};
use partnergate::request::{
    Brought, HeadLimits, Host, RequestFacts, TlsFacts, UpgradeWanted, canonicalise, judge_head,
};
use partnergate::route::{Forward, Route, TokenUse};
use partnergate::snapshot::{Ahead, RequestSettings, ServerCertificateSource, Snapshot, Sources};
use partnergate::token::{
    ApiKeySettings, Form, KeyUse, MadeKey, Rotation, Server, StoredKey, TokenSettings, Tokens, find_key,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::{Engine, Value};
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
            api_keys: Vec::new(),
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
            token: TokenUse::Accepted,
            api_key: TokenUse::Accepted,
            forward: Forward::default(),
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
        request: RequestSettings {
            head: HeadLimits { max_bytes: 16_384, max_fields: 100 },
            policy_headers: vec![],
            bearer: false,
            api_key: false,
        },
        certificates: vec![ServerCertificateSource {
            chain_file: "server.pem".into(),
            key_file: "server.key".into(),
            chain: server.cert.pem().into_bytes(),
            key: server.signing_key.serialize_pem().into_bytes(),
            ca: Vec::new(),
        }],
        registry,
        material: Arc::default(),
        tokens: None,
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
        bearer: Brought::None,
        api_key: Brought::None,
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

/// Each rule of the library by itself, on the virtual machine, with the request of the library's tests, which is allowed.
/// A denial is named by its place, as there are many of that name; functions are in what calls them. All of them have
/// the machine's way in and out in them, which is what `rule none` costs.
fn rules(c: &mut Criterion) {
    let mut files = library().files;
    let mut names = vec![("none".to_owned(), "data.none.none".to_owned())];
    files.push(("none.rego".into(), "package none\n\nnone := true\n".into()));
    for (path, text) in files.iter_mut().filter(|(path, _)| path.ends_with(".rego") && !path.ends_with("_test.rego")) {
        let file = path.trim_start_matches("partnergate/").trim_end_matches(".rego");
        let copied = text.lines().enumerate().map(|(number, line)| match line.strip_prefix("denials contains ") {
            Some(rest) => {
                let rule = format!("denial_{file}_{}", number + 1);
                names.push((format!("{path}:{} denials", number + 1), format!("data.partnergate.{rule}")));
                // Beside the rule that others refer to.
                format!("{rule} contains {rest}")
            }
            None => line.to_owned(),
        });
        let copied: Vec<String> = copied.collect();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with(char::is_lowercase)) {
            let name = line.split([' ', '(']).next().unwrap_or_default();
            let is_rule = line.starts_with(&format!("{name} ")) && !["package", "import", "default"].contains(&name);
            if is_rule && path.starts_with("partnergate/") && name != "denials" && name != "deny" {
                names.push((format!("{path}:{} {name}", number + 1), format!("data.partnergate.{name}")));
            }
        }
        if copied.iter().any(|line| line.starts_with("denial_")) {
            *text = format!("{text}\n{}", definitions(&copied));
        }
    }
    let mut engine = Engine::new();
    for (path, text) in files.into_iter().filter(|(path, _)| path.ends_with(".rego")) {
        engine.add_policy(path, text).unwrap();
    }
    let input = engine.eval_rule("data.partnergate_test.request".into()).unwrap();
    // Of several definitions, one is enough.
    names.dedup_by(|a, b| a.1 == b.1);
    let mut group = c.benchmark_group("rule");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, rule) in names {
        let compiled = engine.compile_with_entrypoint(&rule.as_str().into()).unwrap();
        let program = Compiler::compile_from_policy(&compiled, &[&rule]).map_err(|e| e.to_string()).unwrap();
        let mut machine = RegoVM::new();
        machine.load_program(program);
        machine.set_data(Value::new_object()).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| {
                machine.set_input(black_box(input.clone()));
                black_box(machine.execute_entry_point_by_name(&rule).unwrap())
            });
        });
    }
    group.finish();
}

/// The definitions that begin with `denial_`, each to its closing brace.
fn definitions(lines: &[String]) -> String {
    let mut inside = false;
    let kept = lines.iter().filter(|line| {
        inside |= line.starts_with("denial_");
        let kept = inside;
        let one_line = line.starts_with("denial_") && !line.ends_with('{');
        inside &= !line.starts_with('}') && !one_line;
        kept
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// Access tokens: one that is known, one that is not, a request that comes with one, and what issuing takes.
fn tokens(c: &mut Criterion) {
    let World { snapshot, peer, request, slots, .. } = world(10, library());
    let now = request.now;
    let secret: Arc<[u8]> = [7; 32].into();
    let (every, lifetime) = (Duration::from_secs(86_400), Duration::from_secs(600));
    let rotation = Rotation { every, ahead: lifetime, longest: lifetime };
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let server = Server::of("https://api.example.com").unwrap();
        let api_keys = Some(ApiKeySettings { accepted_in: KeyUse::Header, longest: every });
        let secret_of = secret.clone();
        let settings =
            TokenSettings { server, lifetime: Some(lifetime), api_keys, algorithm, secret: secret_of, rotation };
        let key = StoredKey::generate(algorithm, &secret, (now, now)).unwrap();
        let made = || Tokens::new(settings.clone(), vec![key.clone()], snapshot.environment.clone()).unwrap();
        let tokens = Some(Arc::new(made()));
        let name = algorithm.name();
        let snapshot = snapshot.with_tokens(tokens, now).map_err(|p| p.to_string()).unwrap();
        let form = b"grant_type=client_credentials&client_id=p0&scope=invoices.read".as_slice();
        let asking = canonicalise(&http::Method::POST, b"/oauth2/token", Some("api.example.com"), None).unwrap();
        let asking = RequestFacts { canonical: asking, ..request.clone() };
        let issue = || {
            let form = Form::parse(Some("application/x-www-form-urlencoded"), black_box(form)).unwrap();
            decide_token(&snapshot, &peer, (&asking, now), Ok(&form), &slots).unwrap().0.token
        };
        let text = issue().text;
        let access = snapshot.tokens.as_ref().unwrap().access.as_ref().unwrap();
        c.bench_function(&format!("issue a token, {name}"), |b| b.iter(issue));
        c.bench_function(&format!("a token that is known, {name}"), |b| {
            b.iter(|| access.verified(black_box(&text), now).unwrap());
        });
        c.bench_function(&format!("a token that is not known, {name}"), |b| {
            let fresh = || made().access.unwrap();
            b.iter_batched(fresh, |access| access.verified(black_box(&text), now).unwrap(), BatchSize::SmallInput);
        });
        let request = RequestFacts { bearer: Brought::Text(text.as_str().into()), ..request.clone() };
        c.bench_function(&format!("decide with a token, {name}"), |b| {
            b.iter(|| match decide(&snapshot, &peer, black_box(&request), &slots) {
                Decision::Allow(permit) => permit,
                Decision::Deny(denial) => panic!("{denial:?}"),
            });
        });
    }
}

/// A request that comes with an API key, and what looking at the key alone takes.
fn api_keys(c: &mut Criterion) {
    let World { snapshot, peer, request, slots, .. } = world(10, library());
    let (now, day) = (request.now, Duration::from_secs(86_400));
    let settings = TokenSettings {
        server: Server::of("https://api.example.com").unwrap(),
        lifetime: None,
        api_keys: Some(ApiKeySettings { accepted_in: KeyUse::Header, longest: day }),
        algorithm: Algorithm::Es256,
        secret: [7; 32].into(),
        rotation: Rotation { every: day, ahead: day / 2, longest: day },
    };
    let tokens = Arc::new(Tokens::new(settings, Vec::new(), snapshot.environment.clone()).unwrap());
    let keys = tokens.api_keys.clone().unwrap();
    let MadeKey { text, hash } = keys.make().unwrap();
    let id = PartnerId::parse("p0").unwrap();
    let mut record = PartnerRecord::clone(snapshot.registry.partner(&id).unwrap());
    record.api_keys.push(ApiKey {
        id: CredentialId::parse("key").unwrap(),
        owner: "team".into(),
        hash,
        bound_to: BoundTo::FingerprintSha256(peer.leaf.fingerprint),
        grants: record.grants.iter().map(|grant| grant.id.clone()).collect(),
        operations: None,
        networks: None,
        environments: vec![snapshot.environment.clone()],
        ends: UnixNanos(i64::MAX),
        approval: None,
        retiring: None,
        revoked: None,
    });
    let registry = snapshot.registry.with(2, &[Change::Partner(id.clone(), Some(Arc::new(record)))]).unwrap();
    let snapshot = snapshot.with_registry(registry, &[id], None, now).map_err(|p| p.to_string()).unwrap();
    let snapshot = snapshot.with_tokens(Some(tokens), now).map_err(|p| p.to_string()).unwrap();
    c.bench_function("an API key, read and hashed", |b| b.iter(|| keys.read(black_box(&text)).unwrap()));
    let target = "/v1/invoices/2026-0815?page=2";
    c.bench_function("an API key, looked for in a URL", |b| b.iter(|| find_key(black_box(target)).is_none()));
    let request = RequestFacts { api_key: Brought::Text(text.as_str().into()), ..request };
    c.bench_function("decide with an API key", |b| {
        b.iter(|| match decide(&snapshot, &peer, black_box(&request), &slots) {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => panic!("{denial:?}"),
        });
    });
}

criterion_group!(all, benches, rules, tokens, api_keys);
criterion_main!(all);
