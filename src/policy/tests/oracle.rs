//! The rules of the library a second time, as a person would say them, and both compared on what nobody would think of.
//!
//! The oracle shares nothing with the policy but the contract. It is right or the policy is: a difference is looked into, not
//! levelled.

use super::*;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const OPERATIONS: [&str; 3] = ["a.read", "b.read", "c.write"];
const NETWORKS: [&str; 4] = ["any", "dc1", "dc2", "office"];
const CREDENTIALS: [&str; 3] = ["c1", "c2", "c3"];
const METHODS: [&str; 3] = ["GET", "HEAD", "POST"];
const CIPHERS: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
const STATES: [&str; 4] = ["active", "active", "active", "suspended"];
const MINUTES: i64 = 24 * 60;

#[derive(Clone, Debug)]
struct Window {
    first: usize,
    last: usize,
    from: i64,
    until: i64,
}

#[derive(Clone, Debug)]
struct Grant {
    id: String,
    operations: Vec<&'static str>,
    networks: Option<Vec<&'static str>>,
    credentials: Option<Vec<&'static str>>,
    starts: Option<i64>,
    ends: Option<i64>,
    schedule: Option<Vec<Window>>,
    tls_min: Option<&'static str>,
    ciphers: Option<Vec<&'static str>>,
    methods: Option<Vec<&'static str>>,
    most: Option<i64>,
    /// A condition that the library does not know.
    own: bool,
}

/// An access token; what is not there is missing in it.
#[derive(Clone, Debug)]
struct Token {
    scope: Option<Vec<&'static str>>,
    grants: Option<Vec<String>>,
    ends: Option<i64>,
    subject: Option<&'static str>,
}

/// An API key; what is not there is missing in it.
#[derive(Clone, Debug)]
struct Key {
    grants: Option<Vec<String>>,
    operations: Option<Vec<&'static str>>,
    networks: Option<Vec<&'static str>>,
    ends: Option<i64>,
}

/// A partner, and a request of it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    partner: (&'static str, Option<Vec<&'static str>>, Option<i64>, Option<i64>),
    credential: (&'static str, &'static str, Option<i64>, Option<i64>),
    grants: Vec<Grant>,
    token: Option<Token>,
    key: Option<Key>,
    source: Vec<&'static str>,
    request: (Option<&'static str>, &'static str, Option<i64>),
    tls: (&'static str, &'static str),
    now: Option<i64>,
    wall: (usize, i64),
}

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(all, 0..=all.len())
}

/// Few instants, so that ends are met exactly.
fn instant() -> impl Strategy<Value = i64> {
    1..9_i64
}

fn start() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![2 => Just(None), 3 => (1..5_i64).prop_map(Some), 1 => instant().prop_map(Some)]
}

fn end() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![2 => Just(None), 3 => (5..9_i64).prop_map(Some), 1 => instant().prop_map(Some)]
}

/// Around a few times of the day, so that windows meet the minute that is asked for.
fn minute() -> impl Strategy<Value = i64> {
    prop_oneof![
        (select(vec![0, 1, 60, 480, 720, 1080, 1320, 1439]), -1..=1_i64)
            .prop_map(|(m, d)| (m + d).clamp(0, MINUTES - 1)),
        0..MINUTES,
    ]
}

fn window() -> impl Strategy<Value = Window> {
    let until = prop_oneof![4 => minute(), 1 => Just(MINUTES)];
    let days = prop_oneof![(0..7_usize).prop_map(|d| (d, d)), (0..7_usize, 0..7_usize)];
    (days, minute(), until)
        .prop_filter("an empty window is refused at load", |(_, from, until)| from != until)
        .prop_map(|((first, last), from, until)| Window { first, last, from, until })
}

fn grant() -> impl Strategy<Value = Grant> {
    let rare = |wanted| proptest::option::weighted(0.3, wanted);
    let scope = (
        (0..20_u8).prop_map(|n| format!("g{n}")),
        subsequence(&OPERATIONS[..], 1..=OPERATIONS.len()),
        proptest::option::weighted(0.4, some_of(&NETWORKS)),
        proptest::option::weighted(0.4, some_of(&CREDENTIALS)),
        start(),
        end(),
    );
    let conditions = (
        proptest::option::weighted(0.4, proptest::collection::vec(window(), 1..4)),
        rare(select(vec!["1.2", "1.3"]).boxed()),
        proptest::option::weighted(0.3, some_of(&CIPHERS)),
        proptest::option::weighted(0.3, some_of(&METHODS)),
        proptest::option::weighted(0.4, 0..4_i64),
        any::<bool>(),
    );
    (scope, conditions).prop_map(|(scope, conditions)| {
        let (id, operations, networks, credentials, starts, ends) = scope;
        let (schedule, tls_min, ciphers, methods, most, own) = conditions;
        Grant { id, operations, networks, credentials, starts, ends, schedule, tls_min, ciphers, methods, most, own }
    })
}

fn ids() -> impl Strategy<Value = Vec<String>> {
    let all = || (0..20_u8).map(|n| format!("g{n}")).collect::<Vec<_>>();
    prop_oneof![1 => Just(all()), 1 => subsequence(all(), 0..=20)]
}

fn key() -> impl Strategy<Value = Key> {
    (
        proptest::option::weighted(0.95, ids()),
        proptest::option::weighted(0.5, subsequence(&OPERATIONS[..], 0..=OPERATIONS.len())),
        proptest::option::weighted(0.2, some_of(&NETWORKS)),
        proptest::option::weighted(0.95, prop_oneof![4 => 8..10_i64, 1 => instant()]),
    )
        .prop_map(|(grants, operations, networks, ends)| Key { grants, operations, networks, ends })
}

fn token() -> impl Strategy<Value = Token> {
    let often = |p| proptest::option::weighted(0.95, p);
    (
        often(subsequence(&OPERATIONS[..], 0..=OPERATIONS.len()).boxed()),
        proptest::option::weighted(0.95, ids()),
        proptest::option::weighted(0.95, prop_oneof![3 => 5..9_i64, 1 => instant()]),
        proptest::option::weighted(0.95, select(vec!["acme", "acme", "acme", "acme", "globex"])),
    )
        .prop_map(|(scope, grants, ends, subject)| Token { scope, grants, ends, subject })
}

pub(super) fn case() -> impl Strategy<Value = Case> {
    let request = (
        proptest::option::weighted(0.97, select(&OPERATIONS[..])),
        select(&METHODS[..]),
        proptest::option::weighted(0.8, 0..5_i64),
    );
    let networks = proptest::option::weighted(0.95, subsequence(&NETWORKS[..], 0..=4));
    // Partner and credential are mostly as they should be, or grants would hardly ever decide.
    let partner = prop_oneof![
        3 => subsequence(&NETWORKS[..], 2..=4).prop_map(|networks| ("active", Some(networks), Some(1), None)),
        1 => (select(&STATES[..]), networks, start(), end()),
    ];
    let credential = prop_oneof![
        3 => select(&CREDENTIALS[..]).prop_map(|id| (id, "active", Some(1), Some(9))),
        1 => (select(&CREDENTIALS[..]), select(&STATES[..]), start(), end()),
    ];
    (
        partner,
        credential,
        (
            proptest::collection::vec(grant(), 0..4),
            proptest::option::weighted(0.35, token()),
            proptest::option::weighted(0.4, key()),
        ),
        prop_oneof![3 => subsequence(&NETWORKS[..], 2..=4), 1 => some_of(&NETWORKS)],
        request,
        (select(vec!["1.2", "1.3", "unknown"]), select(&CIPHERS[..])),
        proptest::option::weighted(0.97, instant()),
        (0..7_usize, minute()),
    )
        .prop_map(|(partner, credential, (grants, token, key), source, request, tls, now, wall)| Case {
            partner,
            credential,
            grants,
            token,
            key,
            source,
            request,
            tls,
            now,
            wall,
        })
}

impl Window {
    fn written(&self) -> String {
        let clock = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
        let days = if self.first == self.last {
            DAYS[self.first].to_owned()
        } else {
            format!("{}-{}", DAYS[self.first], DAYS[self.last])
        };
        format!("{days} {}-{}", clock(self.from), clock(self.until))
    }

    /// Walks through the days of the window, one after another, and asks of each whether this minute lies in what began
    /// on it; this week or the week before.
    fn holds(&self, (weekday, minute): (usize, i64)) -> bool {
        let asked = i64::try_from(weekday).unwrap() * MINUTES + minute;
        let mut day = self.first;
        loop {
            let begins = i64::try_from(day).unwrap() * MINUTES + self.from;
            let long = if self.until > self.from { self.until - self.from } else { self.until + MINUTES - self.from };
            if [asked, asked + 7 * MINUTES].iter().any(|at| (begins..begins + long).contains(at)) {
                return true;
            }
            if day == self.last {
                return false;
            }
            day = (day + 1) % 7;
        }
    }
}

impl Grant {
    fn json(&self) -> Json {
        let mut conditions = Map::new();
        let mut put = |key: &str, value: Option<Json>| value.map(|value| conditions.insert(key.to_owned(), value));
        put("schedule", self.schedule.as_ref().map(|all| all.iter().map(Window::written).collect()));
        put("tls_min", self.tls_min.map(Json::from));
        put("tls_ciphers", self.ciphers.clone().map(Json::from));
        put("methods", self.methods.clone().map(Json::from));
        put("max_content_length", self.most.map(Json::from));
        put("max_amount", self.own.then(|| json!(5)));
        let mut grant = json!({"id": self.id, "owner": "o", "operations": self.operations, "conditions": conditions});
        for (key, value) in [("networks", &self.networks), ("credentials", &self.credentials)] {
            if let Some(value) = value {
                grant[key] = json!(value);
            }
        }
        period(&mut grant, "starts_ns", self.starts, "ends_ns", self.ends);
        grant
    }

    /// Everything that stands in the way of this grant, for a request that its operations are for.
    fn faults(&self, case: &Case) -> BTreeSet<&'static str> {
        let mut faults = BTreeSet::new();
        let mut fault = |is: bool, reason| is.then(|| faults.insert(reason));
        let (_, method, length) = case.request;
        let (version, cipher) = case.tls;
        fault(self.starts.zip(case.now).is_some_and(|(starts, now)| now < starts), "grant-not-started");
        fault(self.ends.zip(case.now).is_some_and(|(ends, now)| now >= ends), "grant-expired");
        fault(self.credentials.as_ref().is_some_and(|all| !all.contains(&case.credential.0)), "credential-not-granted");
        fault(
            self.networks.as_ref().is_some_and(|all| !all.iter().any(|n| case.source.contains(n))),
            "network-not-allowed",
        );
        fault(self.schedule.as_ref().is_some_and(|all| !all.iter().any(|w| w.holds(case.wall))), "outside-schedule");
        let strong = |least| version == "1.3" || (version == "1.2" && least == "1.2");
        fault(self.tls_min.is_some_and(|least| !strong(least)), "tls-too-weak");
        fault(self.ciphers.as_ref().is_some_and(|all| !all.contains(&cipher)), "tls-too-weak");
        fault(self.methods.as_ref().is_some_and(|all| !all.contains(&method)), "method-not-granted");
        fault(self.most.is_some() && length.is_none(), "content-length-missing");
        fault(self.most.zip(length).is_some_and(|(most, length)| length > most), "content-too-large");
        faults
    }
}

fn period(object: &mut Json, starts: &str, from: Option<i64>, ends: &str, until: Option<i64>) {
    for (key, value) in [(starts, from), (ends, until)] {
        if let Some(value) = value {
            object[key] = json!(value);
        }
    }
}

impl Case {
    pub(super) fn json(&self) -> Json {
        let (state, networks, starts, ends) = &self.partner;
        let mut engagement = json!({});
        period(&mut engagement, "starts_ns", *starts, "ends_ns", *ends);
        let grants: Vec<Json> = self.grants.iter().map(Grant::json).collect();
        let mut partner = json!({"id": "acme", "state": state, "engagement": engagement, "grants": grants});
        if let Some(networks) = networks {
            partner["networks"] = json!(networks);
        }
        let (id, state, from, until) = self.credential;
        let mut credential = json!({"id": id, "state": state});
        period(&mut credential, "not_before_ns", from, "not_after_ns", until);
        let (operation, method, length) = self.request;
        let mut request = json!({"method": method});
        if let Some(operation) = operation {
            request["operation"] = json!(operation);
        }
        if let Some(length) = length {
            request["content_length"] = json!(length);
        }
        let (weekday, minute) = self.wall;
        let mut time = json!({"local": {"weekday": WEEKDAYS[weekday], "hour": minute / 60, "minute": minute % 60}});
        if let Some(now) = self.now {
            time["now_ns"] = json!(now);
        }
        let (version, cipher) = self.tls;
        let mut all = json!({
            "version": 1, "environment": "production", "partner": partner, "credential": credential, "request": request,
            "source": {"networks": self.source}, "tls": {"version": version, "cipher": cipher}, "time": time,
        });
        if let Some(token) = &self.token {
            let Token { scope, grants, ends, subject } = token;
            let keys = [
                ("scope", scope.as_ref().map(|all| json!(all))),
                ("grants", grants.as_ref().map(|all| json!(all))),
                ("expires_ns", ends.map(|ends| json!(ends))),
                ("subject", subject.map(|subject| json!(subject))),
            ];
            let there = keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            all["token"] = Json::Object(there.collect());
        }
        if let Some(key) = &self.key {
            let Key { grants, operations, networks, ends } = key;
            let keys = [
                ("grants", grants.as_ref().map(|all| json!(all))),
                ("operations", operations.as_ref().map(|all| json!(all))),
                ("networks", networks.as_ref().map(|all| json!(all))),
                ("ends_ns", ends.map(|ends| json!(ends))),
            ];
            let there = keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            all["api_key"] = Json::Object(there.collect());
        }
        all
    }

    /// Whether the access token, where there is one, is for the operation and this grant.
    fn is_covered(&self, grant: &Grant) -> bool {
        let Some(Token { scope, grants, ends, subject }) = &self.token else { return true };
        let operation = self.request.0.unwrap_or_default();
        scope.as_ref().is_some_and(|all| all.contains(&operation))
            && grants.as_ref().is_some_and(|all| all.contains(&grant.id))
            && ends.zip(self.now).is_some_and(|(ends, now)| now < ends)
            && *subject == Some("acme")
    }

    /// Whether the API key, where there is one, may come from here.
    fn key_admits(&self) -> bool {
        let named = self.key.as_ref().and_then(|key| key.networks.as_ref());
        self.key.is_none() || self.source.iter().any(|network| named.is_none_or(|named| named.contains(network)))
    }

    /// Whether the API key, where there is one, is for the operation and this grant from here.
    fn is_keyed(&self, grant: &Grant) -> bool {
        let Some(Key { grants, operations, ends, .. }) = &self.key else { return true };
        grants.as_ref().is_some_and(|all| all.contains(&grant.id))
            && operations.as_ref().is_none_or(|all| self.request.0.is_some_and(|one| all.contains(&one)))
            && ends.zip(self.now).is_some_and(|(ends, now)| now < ends)
            && self.key_admits()
    }

    /// The grant that permits the request, or every reason against it.
    fn decided(&self) -> Result<String, BTreeSet<String>> {
        let mut reasons = BTreeSet::new();
        let mut deny = |is: bool, reason: &'static str| is.then(|| reasons.insert(reason));
        let (partner, networks, starts, ends) = &self.partner;
        let (_, credential, not_before, not_after) = self.credential;
        deny(*partner != "active", "partner-not-active");
        deny(credential != "active", "credential-not-active");
        let past = |end: Option<i64>| end.zip(self.now).is_some_and(|(end, now)| now >= end);
        let ahead = |start: Option<i64>| start.zip(self.now).is_some_and(|(start, now)| now < start);
        deny(not_before.is_none() || self.now.is_none() || ahead(not_before), "credential-not-yet-valid");
        deny(not_after.is_none() || self.now.is_none() || past(not_after), "credential-expired");
        deny(ahead(*starts), "engagement-not-started");
        deny(past(*ends), "engagement-ended");
        let admitted = networks.as_ref().is_some_and(|all| all.iter().any(|network| self.source.contains(network)));
        deny(!admitted, "network-not-allowed");
        let asked = |grant: &&Grant| self.request.0.is_some_and(|operation| grant.operations.contains(&operation));
        let candidates: Vec<&Grant> = self.grants.iter().filter(asked).collect();
        deny(candidates.is_empty(), "operation-not-granted");
        // Of a request whose time or source is not known, no grant can be judged.
        let judged = admitted && self.now.is_some();
        // A token that does not say when it ends has ended.
        let over =
            self.token.as_ref().zip(self.now).is_some_and(|(token, now)| token.ends.is_none_or(|ends| ends <= now));
        deny(over, "token-expired");
        let key_over =
            self.key.as_ref().zip(self.now).is_some_and(|(key, now)| key.ends.is_none_or(|ends| ends <= now));
        deny(key_over, "api-key-expired");
        deny(!self.key_admits(), "network-not-allowed");
        let usable: Vec<&Grant> =
            candidates.iter().copied().filter(|grant| judged && grant.faults(self).is_empty()).collect();
        let covered: Vec<&Grant> = usable.iter().copied().filter(|grant| self.is_covered(grant)).collect();
        match covered.iter().filter(|grant| self.is_keyed(grant)).map(|grant| grant.id.clone()).min() {
            Some(grant) if reasons.is_empty() => return Ok(grant),
            Some(_) => {}
            None if !covered.is_empty() => {
                if !key_over && self.key_admits() {
                    reasons.insert("api-key-scope-exceeded");
                }
            }
            None if !usable.is_empty() => {
                if !over {
                    reasons.insert("token-scope-exceeded");
                }
            }
            None => reasons.extend(candidates.iter().flat_map(|grant| grant.faults(self))),
        }
        Err(reasons.into_iter().map(str::to_owned).collect())
    }
}

fn said(policy: &Policy, case: &Case) -> Result<String, BTreeSet<String>> {
    match policy.evaluate(Value::from(case.json())) {
        Verdict::Allow { grant, .. } => Ok(grant.to_string()),
        Verdict::Deny { reasons, .. } => Err(reasons.iter().map(ToString::to_string).collect()),
    }
}

/// Always the same cases, so that a failure is one for everybody.
pub(super) fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Long enough for a machine that does something else.
pub(super) const PATIENT: PolicyLimits = PolicyLimits { time: Duration::from_secs(10), instructions: 25_000 };

#[test]
fn the_library_decides_as_its_rules_are_said() {
    let compiled = |kind| Policy::compile(&shipped(&[]), kind, PATIENT).unwrap_or_else(|p| panic!("{p}"));
    let (rvm, interpreter) = (compiled(EngineKind::Rvm), compiled(EngineKind::Interpreter));
    let seen = std::cell::RefCell::new(std::collections::BTreeMap::<String, usize>::new());
    let outcome = runner(8_000).run(&case(), |case| {
        let expected = case.decided();
        prop_assert_eq!(&said(&rvm, &case), &expected, "on the virtual machine");
        prop_assert_eq!(&said(&interpreter, &case), &expected, "on the interpreter");
        let reasons = expected.err().unwrap_or_else(|| BTreeSet::from(["allowed".to_owned()]));
        reasons.into_iter().for_each(|reason| *seen.borrow_mut().entry(reason).or_default() += 1);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    // A comparison of denials alone would prove little: each outcome has come up, and not by accident.
    let seen = seen.into_inner();
    for outcome in [
        "allowed",
        "api-key-expired",
        "api-key-scope-exceeded",
        "content-length-missing",
        "content-too-large",
        "credential-expired",
        "credential-not-active",
        "credential-not-granted",
        "credential-not-yet-valid",
        "engagement-ended",
        "engagement-not-started",
        "grant-expired",
        "grant-not-started",
        "method-not-granted",
        "network-not-allowed",
        "operation-not-granted",
        "outside-schedule",
        "partner-not-active",
        "tls-too-weak",
        "token-expired",
        "token-scope-exceeded",
    ] {
        assert!(seen.get(outcome).is_some_and(|n| *n > 50), "{outcome}: {seen:?}");
    }
}

#[test]
fn a_rule_that_is_broken_is_found() {
    for (file, right, wrong) in [
        ("decision", "credential.not_before_ns <= now", "credential.not_before_ns <= now + 1"),
        ("decision", "now < credential.not_after_ns", "now <= credential.not_after_ns"),
        ("decision", "grant := min(usable_grants)", "grant := max(usable_grants)"),
        (
            "expiry",
            "input.partner.engagement.ends_ns <= input.time.now_ns",
            "input.partner.engagement.ends_ns < input.time.now_ns",
        ),
        ("expiry", "grant.ends_ns <= input.time.now_ns", "grant.ends_ns < input.time.now_ns"),
        ("scope", "\"starts_ns\", now) <= now", "\"starts_ns\", now - 1) < now"),
        ("scope", "\"ends_ns\", now + 1) > now", "\"ends_ns\", now + 1) >= now"),
        ("scope", "partner_network in partner_networks", "partner_network in source_networks"),
        ("scope", "\"credentials\", [credential])", "\"credentials\", [])"),
        ("scope", "every key, value in grant.conditions", "every key, value in {}"),
        ("network", "not admitted_by(grant)", "not admitted_by(input.partner)"),
        ("standing", "not input.partner.state == \"active\"", "input.partner.state == \"ended\""),
        ("schedule", "since <= last", "since < last"),
        ("schedule", "ends - 1", "ends"),
        ("schedule", "among(floor(minutes / 1440), days)", "among(day_of_week, days)\n\tminutes != null"),
        ("schedule", "((last - first) + 7) % 7", "((last - first) + 7) % 8"),
        ("schedule", "begins < 1440", "begins < 1439"),
        ("schedule", "of_day <= 1440", "of_day < 1440"),
        ("tls", "tls_versions[input.tls.version] >= tls_versions", "tls_versions[input.tls.version] > tls_versions"),
        ("tls", "input.tls.cipher in ciphers", "count(ciphers) > 0"),
        ("limits", "input.request.content_length <= most", "input.request.content_length < most"),
        (
            "limits",
            "length_stated if input.request.content_length >= 0",
            "length_stated if input.request.content_length >= 1",
        ),
        ("decision", "not input.token", "input.version == 1"),
        ("decision", "not input.api_key", "input.version == 1"),
        ("decision", "grant := min(key_grants)", "grant := min(token_grants)"),
        ("api_key", "some id in token_grants", "some id in usable_grants"),
        ("api_key", "grant in input.api_key.grants", "count(input.api_key.grants) > 0"),
        ("api_key", "\tkey_covers\n", ""),
        ("api_key", "\tkey_admits\n\tinput.time", "\tinput.time"),
        ("api_key", "input.time.now_ns < input.api_key.ends_ns", "input.time.now_ns <= input.api_key.ends_ns"),
        ("api_key", "\"operations\", [input.request.operation])", "\"operations\", [])"),
        ("api_key", "\"networks\", [name])", "\"networks\", [])"),
        ("api_key", "\"ends_ns\", 0) <= input.time.now_ns", "\"ends_ns\", 9) <= input.time.now_ns"),
        ("api_key", "\tinput.api_key\n\tnot key_admits", "\tinput.api_key.networks == [1]"),
        ("token", "input.request.operation in input.token.scope", "count(input.token.scope) > 0"),
        ("token", "grant in input.token.grants", "count(input.token.grants) > 0"),
        ("token", "input.time.now_ns < input.token.expires_ns", "input.time.now_ns <= input.token.expires_ns"),
        ("token", "input.token.subject == input.partner.id", "input.token.subject != \"\""),
        ("token", "\"expires_ns\", 0) <= input.time.now_ns", "\"expires_ns\", 9) <= input.time.now_ns"),
        ("limits", "input.request.method in methods", "not input.request.method in methods"),
        ("conditions", "key == \"tls_ciphers\"", "key == \"tls_cipher\""),
        (
            "conditions",
            "not key in {\"schedule\", \"tls_min\", ",
            "not key in {\"schedule\", \"tls_min\", \"max_amount\", ",
        ),
    ] {
        let path = format!("partnergate/{file}.rego");
        let source = shipped(&[]);
        let (_, text) = source.files.iter().find(|(other, _)| *other == path).unwrap();
        assert!(text.contains(right), "{path} no longer has `{right}`");
        let broken = text.replacen(right, wrong, 1);
        let policy = Policy::compile(&shipped(&[(&path, &broken)]), EngineKind::Rvm, PATIENT);
        let policy = policy.unwrap_or_else(|p| panic!("{right} → {wrong}: {p}"));
        let agrees = runner(8_000).run(&case(), |case| {
            prop_assert_eq!(said(&policy, &case), case.decided());
            Ok(())
        });
        assert!(agrees.is_err(), "{path}: `{right}` as `{wrong}` goes unnoticed");
    }
}
