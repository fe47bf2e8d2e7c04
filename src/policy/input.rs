//! Contract version 1: the one document that policy sees, built from a request's facts.
//!
//! Absent facts are absent. Times are whole nanoseconds. Path, segments, params and query are the undecoded bytes as
//! forwarded. What stays the same over many requests (the partner, the credential) is built once and cached within a
//! bound.

use crate::identity::{Fingerprint, Peer};
use crate::name::{AnchorName, CredentialId, Environment, PartnerId};
use crate::operation::Resolved;
use crate::partner::{Credential, PartnerRecord, Period};
use crate::request::RequestFacts;
use http::Method;
use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use quick_cache::sync::Cache;
use regorus::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Version of the input document; within it only additions.
pub const CONTRACT_VERSION: i64 = 1;

/// The facts of one decision, all from one snapshot.
pub struct Facts<'a> {
    pub environment: &'a Environment,
    pub record: &'a Arc<PartnerRecord>,
    pub credential: &'a Credential,
    pub peer: &'a Peer,
    /// Names of the networks that hold the source address, sorted.
    pub networks: &'a [&'a str],
    pub operation: Option<&'a Resolved<'a, 'a>>,
    pub route: Option<&'a str>,
    pub request: &'a RequestFacts,
}

/// Prebuilt values of partners and credentials. An entry is used only while it belongs to the very record that the
/// snapshot holds, so the cache never outlives a change.
pub struct ValueCache {
    environment: Environment,
    environment_value: Value,
    partners: Cache<PartnerId, (Arc<PartnerRecord>, Value, TimeZone)>,
    credentials: Cache<Fingerprint, CredentialEntry>,
}

#[derive(Clone)]
struct CredentialEntry {
    record: Arc<PartnerRecord>,
    credential: CredentialId,
    anchor: AnchorName,
    value: Value,
}

impl ValueCache {
    /// A cache for gateways of one environment, of at most `capacity` partners and as many credentials.
    pub fn new(environment: Environment, capacity: usize) -> Self {
        let environment_value = Value::from(environment.as_str());
        ValueCache { environment, environment_value, partners: Cache::new(capacity), credentials: Cache::new(capacity) }
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    fn partner(&self, record: &Arc<PartnerRecord>) -> (Value, TimeZone) {
        let id = &record.partner.id;
        if let Some((cached, value, zone)) = self.partners.get(id) {
            if Arc::ptr_eq(&cached, record) {
                return (value, zone);
            }
        }
        // The name was checked when the partner was registered.
        let zone = TimeZone::get(&record.partner.time_zone).unwrap_or(TimeZone::UTC);
        let value = partner_value(record, &self.environment);
        self.partners.insert(id.clone(), (record.clone(), value.clone(), zone.clone()));
        (value, zone)
    }

    fn credential(&self, record: &Arc<PartnerRecord>, credential: &Credential, peer: &Peer) -> Value {
        let key = peer.leaf.fingerprint;
        if let Some(entry) = self.credentials.get(&key) {
            if Arc::ptr_eq(&entry.record, record) && entry.credential == credential.id && entry.anchor == peer.anchor {
                return entry.value;
            }
        }
        let value = credential_value(credential, peer);
        let entry = CredentialEntry {
            record: record.clone(),
            credential: credential.id.clone(),
            anchor: peer.anchor.clone(),
            value: value.clone(),
        };
        self.credentials.insert(key, entry);
        value
    }
}

macro_rules! keys {
    ($($name:ident $text:literal,)*) => {
        /// Keys and fixed texts of the contract, allocated once.
        struct Keys { $($name: Value,)* }
        static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys { $($name: Value::from($text),)* });
    };
}

keys! {
    algorithm "algorithm", bits "bits", cipher "cipher", conditions "conditions", content_length "content_length",
    credential "credential", credentials "credentials", dns "dns", email "email", ends_ns "ends_ns",
    engagement "engagement", environment "environment", fingerprint_sha256 "fingerprint_sha256", grants "grants",
    headers "headers", host "host", hour "hour", https "https", id "id", ip "ip", issuer "issuer", key "key",
    kind "kind", labels "labels", local "local", method "method", minute "minute", name "name", networks "networks",
    not_after_ns "not_after_ns", not_before_ns "not_before_ns", now_ns "now_ns", operation "operation",
    operations "operations", owner "owner", params "params", partner "partner", path "path", port "port",
    query "query", request "request", route "route", san "san", scheme "scheme", segments "segments",
    serial "serial", sni "sni", source "source", spki_sha256 "spki_sha256", starts_ns "starts_ns", state "state",
    subject "subject", tags "tags", time "time", time_zone "time_zone", tls "tls", trust_anchor "trust_anchor",
    uri "uri", version "version", weekday "weekday", x509 "x509",
    tls12 "1.2", tls13 "1.3",
    get "GET", head "HEAD", post "POST", put "PUT", delete "DELETE", patch "PATCH", options "OPTIONS",
    monday "monday", tuesday "tuesday", wednesday "wednesday", thursday "thursday", friday "friday",
    saturday "saturday", sunday "sunday",
}

type Object = BTreeMap<Value, Value>;

fn object<const N: usize>(entries: [(&Value, Value); N]) -> Value {
    Value::from(entries.into_iter().map(|(k, v)| (k.clone(), v)).collect::<Object>())
}

fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::from(items.into_iter().map(|t| Value::from(t.as_ref())).collect::<Vec<_>>())
}

fn labels(map: &BTreeMap<String, String>) -> Value {
    Value::from(map.iter().map(|(k, v)| (Value::from(k.as_str()), Value::from(v.as_str()))).collect::<Object>())
}

impl Facts<'_> {
    /// The input document.
    pub fn value(&self, cache: &ValueCache) -> Value {
        let k = &*KEYS;
        let (partner, zone) = cache.partner(self.record);
        let credential = cache.credential(self.record, self.credential, self.peer);
        object([
            (&k.version, Value::from(CONTRACT_VERSION)),
            (&k.environment, cache.environment_value.clone()),
            (&k.partner, partner),
            (&k.credential, credential),
            (
                &k.source,
                object([
                    (&k.ip, Value::from(self.request.source.ip().to_string())),
                    (&k.port, Value::from(i64::from(self.request.source.port()))),
                    (&k.networks, texts(self.networks)),
                ]),
            ),
            (&k.tls, self.tls()),
            (&k.request, self.request()),
            (&k.time, self.time(&zone)),
        ])
    }

    fn tls(&self) -> Value {
        let k = &*KEYS;
        let tls = &self.request.tls;
        let mut out = Object::new();
        let version = match tls.version {
            "1.3" => k.tls13.clone(),
            "1.2" => k.tls12.clone(),
            other => Value::from(other),
        };
        out.insert(k.version.clone(), version);
        out.insert(k.cipher.clone(), Value::from(tls.cipher.as_str()));
        if let Some(sni) = &tls.sni {
            out.insert(k.sni.clone(), Value::from(sni.as_str()));
        }
        Value::from(out)
    }

    fn request(&self) -> Value {
        let k = &*KEYS;
        let request = &self.request;
        let canonical = &request.canonical;
        let mut out = Object::new();
        let mut put = |key: &Value, value: Value| out.insert(key.clone(), value);
        put(&k.id, Value::String(request.id.clone()));
        put(&k.method, method(&canonical.method));
        put(&k.scheme, k.https.clone());
        put(&k.host, Value::from(canonical.host.as_str()));
        put(&k.path, Value::from(canonical.path.as_str()));
        put(&k.segments, texts(canonical.segments()));
        put(&k.query, multimap(canonical.query_pairs()));
        put(&k.headers, multimap(request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()))));
        if let Some(resolved) = self.operation {
            put(&k.operation, Value::from(resolved.operation.id.as_str()));
            let params = resolved.named().map(|(n, v)| (Value::from(&**n), Value::from(v))).collect::<Object>();
            put(&k.params, Value::from(params));
            put(&k.tags, texts(&resolved.operation.tags));
        }
        if let Some(route) = self.route {
            put(&k.route, Value::from(route));
        }
        if let Some(n) = request.content_length {
            put(&k.content_length, Value::from(n));
        }
        Value::from(out)
    }

    fn time(&self, zone: &TimeZone) -> Value {
        let k = &*KEYS;
        let now = self.request.now;
        let mut out = wall(now.0, &TimeZone::UTC);
        out.insert(k.now_ns.clone(), Value::from(now.0));
        out.insert(k.local.clone(), Value::from(wall(now.0, zone)));
        Value::from(out)
    }
}

fn multimap<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let mut map: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (key, value) in pairs {
        map.entry(key).or_default().push(Value::from(value));
    }
    Value::from(map.into_iter().map(|(k, v)| (Value::from(k), Value::from(v))).collect::<Object>())
}

fn wall(nanos: i64, zone: &TimeZone) -> Object {
    let k = &*KEYS;
    let civil = zone.to_datetime(Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH));
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

/// Grants of other environments are not part of it.
fn partner_value(record: &PartnerRecord, environment: &Environment) -> Value {
    let k = &*KEYS;
    let partner = &record.partner;
    let mut engagement = Object::new();
    put_period(&mut engagement, &partner.engagement);
    let grants = record.grants.iter().filter(|g| g.environments.contains(environment)).map(|grant| {
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
    object([
        (&k.id, Value::from(partner.id.as_str())),
        (&k.name, Value::from(partner.name.as_str())),
        (&k.state, Value::from(partner.state.as_str())),
        (&k.owner, Value::from(partner.owner.as_str())),
        (&k.labels, labels(&partner.labels)),
        (&k.time_zone, Value::from(partner.time_zone.as_str())),
        (&k.engagement, Value::from(engagement)),
        (&k.networks, texts(&partner.networks)),
        (&k.grants, Value::from(grants.collect::<Vec<_>>())),
    ])
}

fn credential_value(credential: &Credential, peer: &Peer) -> Value {
    let k = &*KEYS;
    let leaf = &peer.leaf;
    object([
        (&k.id, Value::from(credential.id.as_str())),
        (&k.kind, k.x509.clone()),
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
