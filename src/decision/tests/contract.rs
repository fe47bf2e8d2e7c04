//! The input document against its contract, version 1, word for word.

use super::*;
use crate::clock::Zone;
use crate::identity::{Certificate, KeyAlgorithm, KeyFacts, SanFacts, Serial, SignatureStrength, parse_dn};
use crate::partner::{ApiKey, BoundTo, KeyHash};
use crate::policy::{InputPlan, ValueCache, Wanted};
use crate::token::AccessToken;
use serde_json::json;

/// A certificate whose every fact is known.
fn leaf() -> Certificate {
    Certificate {
        fingerprint: Fingerprint([0xaa; 32]),
        spki_sha256: Fingerprint([0x0b; 32]),
        serial: Serial::parse("0A:FF").unwrap(),
        serial_key: Serial::parse("0A:FF").unwrap().key(),
        sound_serial: true,
        issuer: parse_dn("CN=Acme Issuing CA,O=Acme,C=DE").unwrap(),
        subject: parse_dn("CN=billing,O=Acme").unwrap(),
        san: SanFacts {
            uri: vec!["spiffe://acme.example/billing".into()],
            dns: vec!["billing.acme.example".into()],
            email: vec!["billing@acme.example".into()],
            ip: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        },
        organization_ids: vec![],
        not_before: UnixNanos(1_767_225_600_000_000_000),
        not_after: UnixNanos(1_798_761_600_000_000_001),
        key: KeyFacts { algorithm: KeyAlgorithm::EcP256, bits: 256 },
        signature: SignatureStrength::NotKnownWeak,
        is_ca: false,
        client_auth: Some(true),
        digital_signature: true,
        states_usage: true,
        unknown_critical: vec![],
        cert_sign: false,
        crl_sign: true,
        crl_urls: vec![],
    }
}

fn peer(leaf: Certificate) -> Peer {
    Peer::new(leaf, vec![], AnchorName::parse("acme-ca").unwrap(), Fingerprint([1; 32]), 1)
}

fn document(world: &World, peer: &Peer, networks: &[&str]) -> serde_json::Value {
    let snapshot = world.snapshot();
    let situation = Situation::of(&snapshot, peer, &world.request);
    let record = Arc::new(world.acme.clone());
    let facts = Facts {
        environment: &snapshot.environment,
        record: &record,
        credential: &record.credentials[0],
        peer: Some(peer),
        networks,
        operation: situation.operation.as_ref(),
        route: match situation.route {
            Found::Route(route) => Some(route.name.as_str()),
            Found::NoPath | Found::NoHost => None,
        },
        request: &world.request,
        token: world.token.as_deref(),
        api_key: record.api_keys.first(),
        now: world.request.now,
    };
    let cache = ValueCache::new(snapshot.environment.clone(), 10);
    let whole = InputPlan::of(&Wanted::everything());
    let first = facts.value(&whole, &cache);
    assert_eq!(facts.value(&whole, &cache), first, "from the cache");
    let parsed: serde_json::Value = serde_json::from_str(&first.to_json_str().unwrap()).unwrap();
    // What a policy looks at is the same when the rest is left out.
    let text = "package p\nx if input.request.operation\ny if input.time.now_ns\nz if input.source.networks";
    let source = PolicySource { files: vec![("p.rego".into(), text.into())] };
    let part: serde_json::Value = {
        let value = facts.value(&InputPlan::of(&Wanted::by(&source)), &cache);
        serde_json::from_str(&value.to_json_str().unwrap()).unwrap()
    };
    let mut expected = parsed.clone();
    for absent in ["tls", "token", "api_key"] {
        expected.as_object_mut().unwrap().remove(absent);
    }
    for (name, kept) in [("request", "operation"), ("time", "now_ns"), ("source", "networks")] {
        expected[name].as_object_mut().unwrap().retain(|key, _| key == kept);
    }
    assert_eq!(part, expected);
    parsed
}

/// A partner and a request of which every fact is there.
fn full() -> World {
    let mut world = World::new();
    world.policy.files.retain(|(path, _)| path != "reasons.yaml");
    world.policy.files.push(("reasons.yaml".into(), "reasons: {x-weekend: not at weekends}\n".into()));
    world.acme.partner = Partner {
        name: "Acme Ltd".into(),
        labels: [("tier".to_owned(), "gold".to_owned())].into(),
        time_zone: Zone::parse("Asia/Kolkata").unwrap(),
        engagement: Period { starts: Some(UnixNanos(1)), ends: Some(UnixNanos(1_798_761_600_000_000_001)) },
        networks: network_names(&["dc1", "dc2"]),
        observe: [("x-weekend".to_owned(), UnixNanos(NOW.0 + 9))].into(),
        ..world.acme.partner
    };
    world.acme.credentials[0].labels = [("use".to_owned(), "batch".to_owned())].into();
    let mut full = grant("acme-reads", &["invoices.delete", "invoices.read"]);
    full.networks = Some(network_names(&["dc1"]));
    full.credentials = Some(vec![credential_id("acme-cert")]);
    full.period = Period { starts: Some(UnixNanos(2)), ends: Some(UnixNanos(1_798_761_600_000_000_003)) };
    let mut elsewhere = grant("acme-staging", &["feed.open"]);
    elsewhere.environments = vec![environment("staging")];
    world.acme.grants = vec![full, elsewhere];

    world.request = request(Method::GET, "/v1/invoices/caf%C3%A9?b=2&a=%20&b=3&c", "API.example.");
    world.request.headers =
        vec![("x-trace".into(), "1".into()), ("accept".into(), "*/*".into()), ("x-trace".into(), "2".into())];
    world.request.content_length = Some(9_007_199_254_740_993);
    world.request.tls = Arc::new(TlsFacts {
        version: "1.2",
        cipher: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".into(),
        sni: Some("api.example".into()),
    });
    world.request.now = UnixNanos(NOW.0 + 7);
    world.token = Some(Arc::new(AccessToken {
        id: "0199-1".into(),
        issuer: "https://api.example".into(),
        partner: partner_id("acme"),
        upstream: UpstreamName::parse("billing-api").unwrap(),
        scope: ["invoices.delete", "invoices.read"].map(|id| OperationId::parse(id).unwrap()).into(),
        grants: vec![GrantId::parse("acme-reads").unwrap()],
        certificate: Fingerprint([0xaa; 32]),
        serial: Serial::parse("0aff").unwrap(),
        credential: credential_id("acme-cert"),
        issued: UnixNanos(1_772_627_000_000_000_000),
        expires: UnixNanos(1_772_627_600_000_000_000),
        from: Vec::new(),
        api_key: Some(credential_id("acme-batch")),
        key: "k".into(),
    }));
    world.acme.api_keys = vec![ApiKey {
        id: credential_id("acme-batch"),
        owner: "payments".into(),
        hash: KeyHash(Fingerprint([1; 32])),
        bound_to: BoundTo::FingerprintSha256(Fingerprint([0xaa; 32])),
        grants: vec![GrantId::parse("acme-reads").unwrap()],
        operations: Some(vec![OperationId::parse("invoices.read").unwrap()]),
        networks: Some(network_names(&["dc1"])),
        environments: vec![environment("production")],
        ends: UnixNanos(1_772_700_000_000_000_000),
        approval: None,
        retiring: None,
        revoked: None,
    }];
    world
}

/// The same without all that may be absent.
fn bare() -> World {
    let mut world = World::new();
    world.acme.partner.networks.clear();
    world.request = request(Method::GET, "/", "api.example");
    world
}

#[test]
fn a_full_input_is_exactly_contract_version_1() {
    let world = full();
    let expected = json!({
        "version": 1,
        "environment": "production",
        "partner": {
            "id": "acme",
            "name": "Acme Ltd",
            "state": "active",
            "owner": "payments",
            "labels": {"tier": "gold"},
            "time_zone": "Asia/Kolkata",
            "engagement": {"starts_ns": 1, "ends_ns": 1_798_761_600_000_000_001_i64},
            "networks": ["dc1", "dc2"],
            "observe": [{"reason": "x-weekend", "until_ns": NOW.0 + 9}],
            "grants": [{
                "id": "acme-reads",
                "owner": "payments",
                "operations": ["invoices.delete", "invoices.read"],
                "networks": ["dc1"],
                "credentials": ["acme-cert"],
                "starts_ns": 2,
                "ends_ns": 1_798_761_600_000_000_003_i64,
                "conditions": {}
            }]
        },
        "credential": {
            "id": "acme-cert",
            "kind": "token",
            "state": "active",
            "labels": {"use": "batch"},
            "fingerprint_sha256": "aa".repeat(32),
            "spki_sha256": "0b".repeat(32),
            "serial": "0aff",
            "issuer": "CN=Acme Issuing CA,O=Acme,C=DE",
            "subject": "CN=billing,O=Acme",
            "san": {
                "uri": ["spiffe://acme.example/billing"],
                "dns": ["billing.acme.example"],
                "email": ["billing@acme.example"],
                "ip": ["192.0.2.7", "2001:db8::7"]
            },
            "not_before_ns": 1_767_225_600_000_000_000_i64,
            "not_after_ns": 1_798_761_600_000_000_001_i64,
            "key": {"algorithm": "ec-p256", "bits": 256},
            "trust_anchor": "acme-ca"
        },
        "token": {
            "issuer": "https://api.example",
            "subject": "acme",
            "audience": "billing-api",
            "scope": ["invoices.delete", "invoices.read"],
            "grants": ["acme-reads"],
            "id": "0199-1",
            "issued_ns": 1_772_627_000_000_000_000_i64,
            "expires_ns": 1_772_627_600_000_000_000_i64
        },
        "api_key": {
            "id": "acme-batch",
            "owner": "payments",
            "grants": ["acme-reads"],
            "operations": ["invoices.read"],
            "networks": ["dc1"],
            "ends_ns": 1_772_700_000_000_000_000_i64
        },
        "source": {"ip": "192.0.2.7", "port": 40000, "networks": ["any", "dc1"]},
        "tls": {"version": "1.2", "cipher": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "sni": "api.example"},
        "request": {
            "id": "0195-7",
            "method": "GET",
            "scheme": "https",
            "host": "api.example",
            "path": "/v1/invoices/caf%C3%A9",
            "segments": ["v1", "invoices", "caf%C3%A9"],
            "query": {"a": ["%20"], "b": ["2", "3"], "c": [""]},
            "headers": {"accept": ["*/*"], "x-trace": ["1", "2"]},
            "operation": "invoices.read",
            "route": "billing",
            "params": {"id": "caf%C3%A9"},
            "tags": ["billing"],
            "content_length": 9_007_199_254_740_993_i64
        },
        "time": {
            "now_ns": 1_772_627_400_000_000_007_i64,
            "weekday": "wednesday",
            "hour": 12,
            "minute": 30,
            "local": {"weekday": "wednesday", "hour": 18, "minute": 0}
        }
    });
    let actual = document(&world, &peer(leaf()), &["any", "dc1"]);
    assert_eq!(actual, expected, "{actual:#}");
    // What policies may name is what there is.
    let mut paths = std::collections::BTreeSet::new();
    let mut waiting = vec![(String::new(), &actual)];
    while let Some((path, value)) = waiting.pop() {
        let names = ["labels", "conditions", "query", "headers", "params"];
        match value {
            _ if names.iter().any(|name| path.ends_with(name)) => drop(paths.insert(format!("{path}{{}}"))),
            serde_json::Value::Object(keys) => {
                let dot = if path.is_empty() { "" } else { "." };
                waiting.extend(keys.iter().map(|(key, value)| (format!("{path}{dot}{key}"), value)));
            }
            serde_json::Value::Array(items) => waiting.extend(items.iter().map(|item| (format!("{path}[]"), item))),
            _ => drop(paths.insert(path)),
        }
    }
    assert_eq!(crate::policy::facts(), paths.into_iter().collect::<Vec<_>>());
}

#[test]
fn facts_that_are_absent_are_absent_and_lists_that_are_empty_are_empty() {
    let nameless = Certificate { san: SanFacts::default(), ..leaf() };
    let input = document(&bare(), &peer(nameless), &["any"]);

    assert_eq!(input["partner"]["engagement"], json!({}));
    assert_eq!(input["partner"]["labels"], json!({}));
    assert_eq!(input["partner"]["networks"], json!([]));
    assert_eq!(
        input["partner"]["grants"],
        json!([{"id": "acme-reads", "owner": "payments", "operations": ["invoices.read"], "conditions": {}}])
    );
    assert_eq!(input["credential"]["san"], json!({"uri": [], "dns": [], "email": [], "ip": []}));
    assert_eq!(input["tls"], json!({"version": "1.3", "cipher": "TLS_AES_128_GCM_SHA256"}));
    assert_eq!(
        input["request"],
        json!({
            "id": "0195-7",
            "method": "GET",
            "scheme": "https",
            "host": "api.example",
            "path": "/",
            "segments": [""],
            "query": {},
            "headers": {}
        })
    );
    assert!(input.get("token").is_none() && input.get("api_key").is_none());
}

#[test]
fn a_list_that_is_written_empty_is_there() {
    let mut world = World::new();
    world.acme.grants[0].networks = Some(vec![]);
    world.acme.grants[0].credentials = Some(vec![]);
    let input = document(&world, &peer(leaf()), &["any"]);
    assert_eq!(input["partner"]["grants"][0]["networks"], json!([]));
    assert_eq!(input["partner"]["grants"][0]["credentials"], json!([]));
}

#[test]
fn conditions_keep_their_types_and_every_digit() {
    let mut world = World::new();
    let conditions = json!({"max_amount": 9_007_199_254_740_993_i64, "least": i64::MIN, "dry": true, "tenants": ["a"]});
    world.policy.files.push((
        "conditions.yaml".into(),
        "conditions: {max_amount: integer, least: integer, dry: boolean, tenants: text-list}\n".into(),
    ));
    world.acme.grants[0].conditions = serde_json::from_value(conditions.clone()).unwrap();
    let input = document(&world, &peer(leaf()), &["any"]);
    assert_eq!(input["partner"]["grants"][0]["conditions"], conditions);
}

/// Every place in a document, as the page about the input writes it, with a pointer to it.
fn places(path: &str, pointer: &str, value: &serde_json::Value, found: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(keys) => {
            for (key, value) in keys {
                let (path, pointer) = (format!("{path}.{key}"), format!("{pointer}/{key}"));
                found.push((path.clone(), pointer.clone()));
                places(&path, &pointer, value, found);
            }
        }
        serde_json::Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                places(&format!("{path}[_]"), &format!("{pointer}/{n}"), item, found);
            }
        }
        _ => {}
    }
}

#[test]
fn real_inputs_fit_the_schema_and_wrong_ones_do_not() {
    let mut with_conditions = full();
    with_conditions.policy.files.push((
        "conditions.yaml".into(),
        "conditions: {max_amount: integer, dry: boolean, tenants: text-list, note: text}\n".into(),
    ));
    let conditions = json!({"max_amount": i64::MIN, "dry": true, "tenants": ["a"], "note": "b"});
    with_conditions.acme.grants[0].conditions = serde_json::from_value(conditions).unwrap();
    let whole = document(&full(), &peer(leaf()), &["any", "dc1"]);
    let mut documents = vec![
        (whole.clone(), true, "as it is".to_owned()),
        (document(&bare(), &peer(leaf()), &["any"]), true, "without what may be absent".to_owned()),
        (document(&with_conditions, &peer(leaf()), &["any"]), true, "with conditions".to_owned()),
    ];
    let facts: std::collections::BTreeMap<String, bool> =
        crate::policy::lines().into_iter().map(|line| (line.path, line.when == "always")).collect();
    let mut all = Vec::new();
    places("input", "", &whole, &mut all);
    let known = all.iter().filter(|(path, _)| facts.contains_key(path)).count();
    assert!(known >= facts.len(), "{known} of {}", facts.len());
    for (path, pointer) in &all {
        let (above, key) = pointer.rsplit_once('/').unwrap();
        let mut less = whole.clone();
        let above = less.pointer_mut(above).unwrap().as_object_mut().unwrap();
        above.remove(key);
        // What the contract does not name may be absent.
        documents.push((less, facts.get(path) != Some(&true), format!("without {path}")));
        for other in [json!(null), json!({"zzz": 1}), json!([{}]), json!(-1.5), json!("\u{1}")] {
            let mut wrong = whole.clone();
            let place = wrong.pointer_mut(pointer).unwrap();
            // A text is one as any other, and conditions are as they are declared.
            if (place.is_string() && other.is_string()) || (pointer.ends_with("/conditions") && other.is_object()) {
                continue;
            }
            *place = other;
            documents.push((wrong, false, format!("another {path}")));
        }
        if whole.pointer(pointer).unwrap().is_object() && !["labels", "query", "headers", "params"].contains(&key) {
            let mut more = whole.clone();
            more.pointer_mut(pointer).unwrap()["zzz"] = json!({});
            documents.push((more, false, format!("more in {path}")));
        }
    }
    assert!(documents.len() > 200, "{}", documents.len());
    let inputs: Vec<serde_json::Value> = documents.iter().map(|(input, ..)| input.clone()).collect();
    let Some(fits) = crate::policy::tests::opa::fit(&crate::policy::input_schema(), &inputs) else { return };
    for ((input, expected, what), fits) in documents.iter().zip(fits) {
        assert_eq!(fits, *expected, "{what}: {input:#}");
    }
}
