//! Contract version 1: the one document that policy sees, built from a request's facts.
//!
//! Absent facts are absent. Times are whole nanoseconds. Path, segments, params and query are the undecoded bytes as
//! forwarded. What stays the same over many requests (the partner, the credential) is built once and cached within a
//! bound.

use super::contract::CONTRACT_VERSION;
use super::wanted::Wanted;
use crate::clock::{UnixNanos, Zone};
use crate::identity::{Match, Peer};
use crate::name::Environment;
use crate::operation::Resolved;
use crate::partner::{ApiKey, Credential, CredentialKind, PartnerRecord, Period};
use crate::registry::Derived;
use crate::request::{RequestFacts, TlsFacts};
use crate::token::AccessToken;
use http::Method;
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::Offset;
use quick_cache::sync::Cache;
use regorus::Value;
use regorus::value::Object;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// The facts of one decision, all from one snapshot.
pub struct Facts<'a> {
    pub environment: &'a Environment,
    pub record: &'a Arc<PartnerRecord>,
    pub credential: &'a Credential,
    /// `None` where it is only supposed that somebody comes with the credential: what its certificate says is then absent,
    /// but for what the credential is matched by, and the certificate is taken to be valid.
    pub peer: Option<&'a Peer>,
    /// Names of the networks that hold the source address, sorted.
    pub networks: &'a [&'a str],
    pub operation: Option<&'a Resolved<'a, 'a>>,
    pub route: Option<&'a str>,
    pub request: &'a RequestFacts,
    /// That it came with, where that is good.
    pub token: Option<&'a AccessToken>,
    /// That it came with, or that the token was given for.
    pub api_key: Option<&'a ApiKey>,
    /// Of the decision: a request that goes on is decided more than once.
    pub now: UnixNanos,
}

/// Values that many requests have in common, each built once.
pub struct ValueCache {
    environment: Environment,
    environment_value: Value,
    derived: Derived<Value, Value>,
    tls: Cache<Arc<TlsFacts>, Value>,
    /// By second of the epoch and offset of the partner's time zone in seconds.
    times: Cache<(i64, i32), Object>,
    now_only: Object,
}

impl ValueCache {
    /// A cache for gateways of one environment, of at most `capacity` partners and as many credentials.
    pub fn new(environment: Environment, capacity: usize) -> Self {
        let environment_value = Value::from(environment.as_str());
        ValueCache {
            environment,
            environment_value,
            derived: Derived::new(capacity),
            tls: Cache::new(TLS_FACTS),
            times: Cache::new(TIMES),
            now_only: shape([&KEYS.now_ns].into_iter()),
        }
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    fn partner(&self, record: &Arc<PartnerRecord>) -> Value {
        self.derived.partner(record, || partner_value(record, &self.environment))
    }

    fn credential(
        &self,
        record: &Arc<PartnerRecord>,
        credential: &Credential,
        (peer, kind): (&Peer, CredentialKind),
    ) -> Value {
        self.derived.credential(record, credential, (peer, kind), || credential_value(credential, (peer, kind)))
    }

    fn tls(&self, facts: &Arc<TlsFacts>) -> Value {
        if let Some(value) = self.tls.get(facts) {
            return value;
        }
        let value = tls_value(facts);
        self.tls.insert(facts.clone(), value.clone());
        value
    }

    fn time(&self, now: UnixNanos, zone: &Zone, wall: bool) -> Value {
        if !wall {
            let mut time = self.now_only.clone();
            time.insert(KEYS.now_ns.clone(), Value::from(now.0));
            return time.into_value();
        }
        let instant = Timestamp::from_nanosecond(i128::from(now.0)).unwrap_or(Timestamp::UNIX_EPOCH);
        let offset = zone.rules().to_offset(instant);
        let key = (instant.as_second(), offset.seconds());
        let mut time = self.times.get(&key).unwrap_or_else(|| {
            let time = time_object(instant, offset);
            self.times.insert(key, time.clone());
            time
        });
        time.insert(KEYS.now_ns.clone(), Value::from(now.0));
        time.into_value()
    }
}

/// Distinct combinations of TLS facts that are kept.
const TLS_FACTS: usize = 1_000;
/// A second or two, in every time zone there is.
const TIMES: usize = 256;

macro_rules! keys {
    ($($name:ident $text:literal,)*) => {
        /// Keys and fixed texts of the contract, allocated once.
        struct Keys { $($name: Value,)* }
        static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys { $($name: Value::from($text),)* });
    };
}

keys! {
    algorithm "algorithm", api_key "api_key", audience "audience", bits "bits", cipher "cipher", conditions "conditions",
    credential "credential", credentials "credentials", dns "dns", email "email", ends_ns "ends_ns",
    engagement "engagement", environment "environment", expires_ns "expires_ns",
    fingerprint_sha256 "fingerprint_sha256", grants "grants", hour "hour", https "https", id "id", ip "ip",
    issued_ns "issued_ns", issuer "issuer", key "key", kind "kind", labels "labels", local "local", minute "minute",
    name "name", networks "networks", not_after_ns "not_after_ns", not_before_ns "not_before_ns", now_ns "now_ns",
    observe "observe", operations "operations", owner "owner", partner "partner", reason "reason", request "request",
    san "san", scope "scope", serial "serial", sni "sni", source "source", spki_sha256 "spki_sha256",
    starts_ns "starts_ns", state "state", subject "subject", time "time", time_zone "time_zone", tls "tls",
    token "token", trust_anchor "trust_anchor", until_ns "until_ns", uri "uri", version "version", weekday "weekday",
    get "GET", head "HEAD", post "POST", put "PUT", delete "DELETE", patch "PATCH", options "OPTIONS",
    monday "monday", tuesday "tuesday", wednesday "wednesday", thursday "thursday", friday "friday",
    saturday "saturday", sunday "sunday",
}

/// Works out one fact of a request; `None` when it is absent.
type Fact = fn(&Facts<'_>) -> Option<Value>;

const SOURCE: &[(&str, Fact)] = &[
    ("ip", |f| Some(Value::from(f.request.source.ip().to_string()))),
    ("port", |f| Some(Value::from(i64::from(f.request.source.port())))),
    ("networks", |f| Some(texts(f.networks))),
];

const REQUEST: &[(&str, Fact)] = &[
    ("id", |f| Some(Value::String(f.request.id.clone()))),
    ("method", |f| Some(method(&f.request.canonical.method))),
    ("scheme", |_| Some(KEYS.https.clone())),
    ("host", |f| Some(Value::from(f.request.canonical.host.as_str()))),
    ("path", |f| Some(Value::from(f.request.canonical.path.as_str()))),
    ("segments", |f| Some(texts(f.request.canonical.segments()))),
    ("query", |f| Some(multimap(f.request.canonical.query_pairs()))),
    ("headers", |f| Some(multimap(f.request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()))))),
    ("operation", |f| f.operation.map(|resolved| Value::String(resolved.operation.id.shared()))),
    ("params", |f| {
        let named = |(name, value): (&Arc<str>, &str)| (Value::from(&**name), Value::from(value));
        f.operation.map(|resolved| resolved.named().map(named).collect::<Object>().into_value())
    }),
    ("tags", |f| f.operation.map(|resolved| texts(&resolved.operation.tags))),
    ("route", |f| f.route.map(Value::from)),
    ("content_length", |f| f.request.content_length.map(Value::from)),
];

const TLS: &[&str] = &["version", "cipher", "sni"];
const TOKEN: &[&str] = &["issuer", "subject", "audience", "scope", "grants", "id", "issued_ns", "expires_ns"];
const API_KEY: &[&str] = &["id", "owner", "grants", "operations", "networks", "ends_ns"];
const WALL: &[&str] = &["weekday", "hour", "minute", "local"];

/// How the input document is put together for one policy: the facts that it can look at, and objects of their keys. A
/// copy of such an object that is filled costs one allocation; building one costs several.
pub struct InputPlan {
    root: Object,
    source: Table,
    request: Table,
    tls: bool,
    token: bool,
    api_key: bool,
    wall: bool,
}

struct Table {
    shape: Object,
    facts: Vec<(Value, Fact)>,
}

impl InputPlan {
    /// The contract, as far as it is wanted.
    pub fn of(wanted: &Wanted) -> Self {
        let table = |name: &str, facts: &[(&str, Fact)]| {
            let wanted = facts.iter().filter(|(key, _)| wanted.has(name, key));
            let facts: Vec<(Value, Fact)> = wanted.map(|(key, fact)| (Value::from(*key), *fact)).collect();
            Table { shape: shape(facts.iter().map(|(key, _)| key)), facts }
        };
        let k = &*KEYS;
        let any = |name: &str, keys: &[&str]| keys.iter().any(|key| wanted.has(name, key));
        let tls = any("tls", TLS);
        let keys = [&k.version, &k.environment, &k.partner, &k.credential, &k.source, &k.request, &k.time];
        InputPlan {
            root: shape(keys.into_iter().chain(tls.then_some(&k.tls))),
            source: table("source", SOURCE),
            request: table("request", REQUEST),
            tls,
            token: any("token", TOKEN),
            api_key: any("api_key", API_KEY),
            wall: any("time", WALL),
        }
    }
}

impl Table {
    fn value(&self, facts: &Facts<'_>) -> Value {
        let mut out = self.shape.clone();
        let mut absent = false;
        for (key, fact) in &self.facts {
            let value = fact(facts);
            absent |= value.is_none();
            out.insert(key.clone(), value.unwrap_or(Value::Undefined));
        }
        if absent {
            out.retain(|_, value| *value != Value::Undefined);
        }
        out.into_value()
    }
}

/// An object of these keys, in the form that is quick to copy.
fn shape<'a>(keys: impl Iterator<Item = &'a Value>) -> Object {
    frozen(keys.map(|key| (key.clone(), Value::Null)).collect())
}

fn frozen(object: Object) -> Object {
    match object.into_value() {
        Value::Object(object) => Arc::unwrap_or_clone(object),
        _ => Object::new(),
    }
}

fn object<const N: usize>(entries: [(&Value, Value); N]) -> Value {
    entries.into_iter().map(|(k, v)| (k.clone(), v)).collect::<Object>().into_value()
}

fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::from(items.into_iter().map(|t| Value::from(t.as_ref())).collect::<Vec<_>>())
}

fn labels(map: &BTreeMap<String, String>) -> Value {
    map.iter().map(|(k, v)| (Value::from(k.as_str()), Value::from(v.as_str()))).collect::<Object>().into_value()
}

impl Facts<'_> {
    /// The input document.
    pub fn value(&self, plan: &InputPlan, cache: &ValueCache) -> Value {
        let k = &*KEYS;
        let mut out = plan.root.clone();
        let mut put = |key: &Value, value: Value| out.insert(key.clone(), value);
        put(&k.version, Value::from(CONTRACT_VERSION));
        put(&k.environment, cache.environment_value.clone());
        put(&k.partner, cache.partner(self.record));
        let kind = CredentialKind::of(self.token.is_some(), self.api_key.is_some());
        let credential = match self.peer {
            Some(peer) => cache.credential(self.record, self.credential, (peer, kind)),
            None => supposed_credential(self.credential, kind, self.now),
        };
        put(&k.credential, credential);
        put(&k.source, plan.source.value(self));
        put(&k.request, plan.request.value(self));
        put(&k.time, cache.time(self.now, &self.record.partner.time_zone, plan.wall));
        if plan.tls {
            put(&k.tls, cache.tls(&self.request.tls));
        }
        if let (true, Some(token)) = (plan.token, self.token) {
            put(&k.token, token_value(token));
        }
        if let (true, Some(key)) = (plan.api_key, self.api_key) {
            put(&k.api_key, api_key_value(key));
        }
        out.into_value()
    }
}

fn token_value(token: &AccessToken) -> Value {
    let k = &*KEYS;
    object([
        (&k.issuer, Value::String(token.issuer.clone())),
        (&k.subject, Value::from(token.partner.as_str())),
        (&k.audience, Value::from(token.upstream.as_str())),
        (&k.scope, texts(&token.scope)),
        (&k.grants, texts(&token.grants)),
        (&k.id, Value::String(token.id.clone())),
        (&k.issued_ns, Value::from(token.issued.0)),
        (&k.expires_ns, Value::from(token.expires.0)),
    ])
}

fn api_key_value(key: &ApiKey) -> Value {
    let k = &*KEYS;
    let mut out = Object::new();
    out.insert(k.id.clone(), Value::from(key.id.as_str()));
    out.insert(k.owner.clone(), Value::from(key.owner.as_str()));
    out.insert(k.grants.clone(), texts(&key.grants));
    if let Some(operations) = &key.operations {
        out.insert(k.operations.clone(), texts(operations));
    }
    if let Some(networks) = &key.networks {
        out.insert(k.networks.clone(), texts(networks));
    }
    out.insert(k.ends_ns.clone(), Value::from(key.ends.0));
    out.into_value()
}

fn tls_value(tls: &TlsFacts) -> Value {
    let k = &*KEYS;
    let mut out = Object::new();
    out.insert(k.version.clone(), Value::from(tls.version));
    out.insert(k.cipher.clone(), Value::from(tls.cipher.as_str()));
    if let Some(sni) = &tls.sni {
        out.insert(k.sni.clone(), Value::from(sni.as_str()));
    }
    out.into_value()
}

/// The wall clock in UTC and `local`; `now_ns` is put in for each request.
fn time_object(instant: Timestamp, local: Offset) -> Object {
    let k = &*KEYS;
    let mut out = wall(instant, Offset::UTC);
    out.insert(k.local.clone(), wall(instant, local).into_value());
    out.insert(k.now_ns.clone(), Value::Null);
    frozen(out)
}

fn multimap<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let mut map: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (key, value) in pairs {
        map.entry(key).or_default().push(Value::from(value));
    }
    map.into_iter().map(|(k, v)| (Value::from(k), Value::from(v))).collect::<Object>().into_value()
}

fn wall(instant: Timestamp, offset: Offset) -> Object {
    let k = &*KEYS;
    let civil = offset.to_datetime(instant);
    let mut out = Object::new();
    out.insert(k.hour.clone(), Value::from(i64::from(civil.hour())));
    out.insert(k.minute.clone(), Value::from(i64::from(civil.minute())));
    let weekday = match civil.weekday() {
        Weekday::Monday => &k.monday,
        Weekday::Tuesday => &k.tuesday,
        Weekday::Wednesday => &k.wednesday,
        Weekday::Thursday => &k.thursday,
        Weekday::Friday => &k.friday,
        Weekday::Saturday => &k.saturday,
        Weekday::Sunday => &k.sunday,
    };
    out.insert(k.weekday.clone(), weekday.clone());
    out
}

fn method(method: &Method) -> Value {
    let k = &*KEYS;
    match *method {
        Method::GET => k.get.clone(),
        Method::HEAD => k.head.clone(),
        Method::POST => k.post.clone(),
        Method::PUT => k.put.clone(),
        Method::DELETE => k.delete.clone(),
        Method::PATCH => k.patch.clone(),
        Method::OPTIONS => k.options.clone(),
        _ => Value::from(method.as_str()),
    }
}

/// Lower-case English name of the day.
pub fn weekday_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}

fn put_period(out: &mut Object, period: &Period) {
    let k = &*KEYS;
    if let Some(starts) = period.starts {
        out.insert(k.starts_ns.clone(), Value::from(starts.0));
    }
    if let Some(ends) = period.ends {
        out.insert(k.ends_ns.clone(), Value::from(ends.0));
    }
}

/// Grants of other environments and those that were revoked are not part of it.
fn partner_value(record: &PartnerRecord, environment: &Environment) -> Value {
    let k = &*KEYS;
    let partner = &record.partner;
    let mut engagement = Object::new();
    put_period(&mut engagement, &partner.engaged());
    let grants = record.grants_in(environment).map(|grant| {
        let mut out = Object::new();
        out.insert(k.id.clone(), Value::from(grant.id.as_str()));
        out.insert(k.owner.clone(), Value::from(grant.owner.as_str()));
        out.insert(k.operations.clone(), texts(&grant.operations));
        if let Some(networks) = &grant.networks {
            out.insert(k.networks.clone(), texts(networks));
        }
        if let Some(credentials) = &grant.credentials {
            out.insert(k.credentials.clone(), texts(credentials));
        }
        put_period(&mut out, &grant.period);
        let conditions: Object =
            grant.conditions.iter().map(|(k, v)| (Value::from(k.as_str()), Value::from(v.clone()))).collect();
        out.insert(k.conditions.clone(), Value::from(conditions));
        Value::from(out)
    });
    let mut out: Object = [
        (&k.id, Value::from(partner.id.as_str())),
        (&k.name, Value::from(partner.name.as_str())),
        (&k.state, Value::from(partner.standing().as_str())),
        (&k.owner, Value::from(partner.owner.as_str())),
        (&k.labels, labels(&partner.labels)),
        (&k.time_zone, Value::from(partner.time_zone.name())),
        (&k.engagement, Value::from(engagement)),
        (&k.networks, texts(&partner.networks)),
        (&k.grants, Value::from(grants.collect::<Vec<_>>())),
    ]
    .into_iter()
    .map(|(key, value)| (key.clone(), value))
    .collect();
    if !partner.observe.is_empty() {
        let observe = partner.observe.iter().map(|(reason, until)| {
            object([(&k.reason, Value::from(reason.as_str())), (&k.until_ns, Value::from(until.0))])
        });
        out.insert(k.observe.clone(), Value::from(observe.collect::<Vec<_>>()));
    }
    out.into_value()
}

fn credential_value(credential: &Credential, (peer, kind): (&Peer, CredentialKind)) -> Value {
    let k = &*KEYS;
    let leaf = &peer.leaf;
    object([
        (&k.id, Value::from(credential.id.as_str())),
        (&k.kind, Value::from(kind.as_str())),
        (&k.state, Value::from(credential.state.as_str())),
        (&k.labels, labels(&credential.labels)),
        (&k.fingerprint_sha256, Value::from(leaf.fingerprint.to_string())),
        (&k.spki_sha256, Value::from(leaf.spki_sha256.to_string())),
        (&k.serial, Value::from(leaf.serial.as_str())),
        (&k.issuer, Value::from(leaf.issuer.to_string())),
        (&k.subject, Value::from(leaf.subject.to_string())),
        (
            &k.san,
            object([
                (&k.uri, texts(&leaf.san.uri)),
                (&k.dns, texts(&leaf.san.dns)),
                (&k.email, texts(&leaf.san.email)),
                (&k.ip, texts(leaf.san.ip.iter().map(ToString::to_string))),
            ]),
        ),
        (&k.not_before_ns, Value::from(leaf.not_before.0)),
        (&k.not_after_ns, Value::from(leaf.not_after.0)),
        (
            &k.key,
            object([
                (&k.algorithm, Value::from(leaf.key.algorithm.as_str())),
                (&k.bits, Value::from(i64::from(leaf.key.bits))),
            ]),
        ),
        (&k.trust_anchor, Value::from(peer.anchor.as_str())),
    ])
}

/// How long a certificate that nobody has is taken to be valid around the moment that is asked about, in nanoseconds.
const SUPPOSED: i64 = 366 * 86_400_000_000_000;

/// What is known of a certificate that a credential would accept.
fn supposed_credential(credential: &Credential, kind: CredentialKind, now: UnixNanos) -> Value {
    let k = &*KEYS;
    let mut out = Object::new();
    let mut put = |key: &Value, value: Value| out.insert(key.clone(), value);
    put(&k.id, Value::from(credential.id.as_str()));
    put(&k.kind, Value::from(kind.as_str()));
    put(&k.state, Value::from(credential.state.as_str()));
    put(&k.labels, labels(&credential.labels));
    put(&k.trust_anchor, Value::from(credential.anchor.as_str()));
    put(&k.not_before_ns, Value::from(now.0.saturating_sub(SUPPOSED)));
    put(&k.not_after_ns, Value::from(now.0.saturating_add(SUPPOSED)));
    match &credential.matching {
        Match::FingerprintSha256(fingerprint) => put(&k.fingerprint_sha256, Value::from(fingerprint.to_string())),
        Match::SpkiSha256(spki) => put(&k.spki_sha256, Value::from(spki.to_string())),
        Match::IssuerSerial { issuer, serial } => {
            put(&k.issuer, Value::from(issuer.to_string()));
            put(&k.serial, Value::from(serial.as_str()))
        }
        Match::Uri(uri) => put(&k.san, object([(&k.uri, texts([uri]))])),
        Match::Dns(dns) => put(&k.san, object([(&k.dns, texts([dns]))])),
        Match::Subject(subject) => put(&k.subject, Value::from(subject.to_string())),
        Match::OrganizationId(_) => None,
    };
    out.into_value()
}
