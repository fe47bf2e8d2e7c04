//! What is about to end, said before it hurts: server certificates, anchors, revocation lists, partners' certificates.
//!
//! In: a snapshot, when each credential's certificate ends as far as it was seen, the revocation lists that are held, the
//! time. Out: what ends within [`SOON`], each with what is known of a successor; log lines at 30, 14, 7 and 1 days. Must
//! never: change anything.

use crate::clock::UnixNanos;
use crate::fetch::Overview;
use crate::identity::MatchKind;
use crate::name::{AnchorName, PartnerId};
use crate::partner::{ApiKey, Credential, CredentialStage, CredentialState, PartnerRecord};
use crate::registry::Registry;
use crate::snapshot::Snapshot;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
/// What ends within this time is shown.
pub const SOON: Duration = Duration::from_secs(30 * 86_400);
/// Days before the end at which a line is logged; 0 is the end itself.
const STEPS: [u32; 5] = [0, 1, 7, 14, 30];

/// What kind of thing ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    ServerCertificate,
    Anchor,
    RevocationList,
    Credential,
    ApiKey,
}

impl Kind {
    pub const ALL: &'static [Kind] =
        &[Kind::ServerCertificate, Kind::Anchor, Kind::RevocationList, Kind::Credential, Kind::ApiKey];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::ServerCertificate => "server-certificate",
            Kind::Anchor => "anchor",
            Kind::RevocationList => "revocation-list",
            Kind::Credential => "credential",
            Kind::ApiKey => "api-key",
        }
    }
}

/// What takes over when it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Successor {
    /// It is there already.
    Registered(String),
    /// A renewed one is recognised without being registered.
    NotNeeded,
    Missing,
}

/// One thing that ends soon, or has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Expiring {
    pub kind: Kind,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partner: Option<PartnerId>,
    /// The first instant at which it does not hold any more.
    #[serde(skip)]
    pub at: UnixNanos,
    /// The same in RFC 3339.
    pub ends: String,
    pub successor: Successor,
}

impl fmt::Display for Expiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::ServerCertificate => "the server certificate",
            Kind::Anchor => "the trust anchor",
            Kind::RevocationList => "the revocation list of the anchor",
            Kind::Credential => "the certificate last seen of the credential",
            Kind::ApiKey => "the API key",
        };
        write!(f, "{what} `{}`", self.name)?;
        if let Some(partner) = &self.partner {
            write!(f, " of `{partner}`")?;
        }
        write!(f, " ends at {}", self.ends)?;
        match &self.successor {
            Successor::Registered(name) => write!(f, "; `{name}` succeeds it"),
            Successor::NotNeeded => Ok(()),
            Successor::Missing => f.write_str("; no successor is registered"),
        }
    }
}

/// Everything that ends within [`SOON`] of `now`, soonest first. `seen` is the end of the certificate last seen of each
/// credential, by its id.
pub fn soon(
    snapshot: &Snapshot,
    seen: &HashMap<String, UnixNanos>,
    lists: &[Overview],
    now: UnixNanos,
) -> Vec<Expiring> {
    let mut found = Vec::new();
    let limit = now.saturating_add(SOON);
    let mut add = |kind, name: &str, partner: Option<&PartnerId>, at: UnixNanos, successor| {
        let (name, partner, ends) = (name.to_owned(), partner.cloned(), at.to_string());
        found.push(Expiring { kind, name, partner, at, ends, successor });
    };
    for certificate in snapshot.certificates.iter().filter(|c| c.facts.not_after <= limit) {
        let ends = certificate.facts.not_after;
        // One that serves the same names and outlives it; the files themselves are usually replaced in place.
        let other = snapshot.certificates.iter().find(|c| {
            c.facts.not_after > ends.max(limit)
                && certificate.facts.san.dns.iter().all(|name| c.facts.san.dns.contains(name))
        });
        let successor = other.map_or(Successor::Missing, |c| Successor::Registered(c.file.clone()));
        add(Kind::ServerCertificate, &certificate.file, None, ends, successor);
    }
    for anchor in snapshot.trust.anchors().iter().filter(|a| a.not_after <= limit) {
        let partners = snapshot.registry.anchor(&anchor.name).map(|a| a.partners.as_slice()).unwrap_or_default();
        let other = snapshot.trust.anchors().iter().find(|a| {
            a.not_after > anchor.not_after.max(limit)
                && snapshot.registry.anchor(&a.name).is_some_and(|a| partners.iter().all(|p| a.partners.contains(p)))
        });
        let successor = other.map_or(Successor::Missing, |a| Successor::Registered(a.name.to_string()));
        add(Kind::Anchor, anchor.name.as_str(), None, anchor.not_after, successor);
    }
    for list in lists {
        let Some((starts, ends)) = list.validity else { continue };
        // Lists live for hours or weeks: a late one is in the last quarter of its life.
        let quarter = ends.0.saturating_sub(starts.0) / 4;
        if now.0 >= ends.0.saturating_sub(quarter) {
            add(Kind::RevocationList, list.anchor.as_str(), None, ends, Successor::NotNeeded);
        }
    }
    for record in snapshot.registry.partners() {
        for credential in record.credentials.iter().filter(|c| c.state == CredentialState::Active) {
            let Some(ends) = seen.get(credential.id.as_str()).filter(|ends| **ends <= limit) else { continue };
            let successor = successor_of(credential, record, seen, limit);
            add(Kind::Credential, credential.id.as_str(), Some(&record.partner.id), *ends, successor);
        }
        for key in record.api_keys.iter().filter(|k| k.revoked.is_none() && k.ends <= limit) {
            let successor = successor_of_key(key, record, now);
            add(Kind::ApiKey, key.id.as_str(), Some(&record.partner.id), key.ends, successor);
        }
    }
    found.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.name.cmp(&b.name)));
    found
}

/// An anchor on its way out: everybody under it has another one to come with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outgoing {
    pub anchor: AnchorName,
    /// Credentials that are still registered under it.
    pub credentials: usize,
    #[serde(skip)]
    pub at: Option<UnixNanos>,
    /// When one of them was used last, RFC 3339; absent when none ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
}

impl fmt::Display for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outgoing { anchor, credentials, last_used, .. } = self;
        let used = last_used.as_deref().map_or_else(|| "never used".to_owned(), |at| format!("last used {at}"));
        write!(
            f,
            "everybody under the anchor `{anchor}` has a credential under another one as well; its {credentials} "
        )?;
        write!(f, "{}: {used}", if *credentials == 1 { "credential" } else { "credentials" })
    }
}

/// Anchors whose every partner has an active credential under another anchor too. `used` is when each credential was
/// used last, by its id.
pub fn outgoing(registry: &Registry, used: &HashMap<String, UnixNanos>) -> Vec<Outgoing> {
    let mut found = Vec::new();
    for anchor in registry.anchors() {
        let (mut credentials, mut at, mut all) = (0, None, true);
        for record in anchor.partners.iter().filter_map(|id| registry.partner(id)) {
            let mut under = record.credentials.iter().filter(|c| c.anchor == anchor.name).peekable();
            if under.peek().is_none() {
                continue;
            }
            let elsewhere = |c: &&Credential| c.anchor != anchor.name && c.state == CredentialState::Active;
            all &= record.credentials.iter().any(|c| elsewhere(&c));
            for credential in under {
                credentials += 1;
                at = at.max(used.get(credential.id.as_str()).copied());
            }
        }
        if all && credentials > 0 {
            let last_used = at.map(|at| at.to_string());
            found.push(Outgoing { anchor: anchor.name.clone(), credentials, at, last_used });
        }
    }
    found
}

/// The key that is to take its place, or another one that is good with the same certificate for as much and for longer.
fn successor_of_key(key: &ApiKey, record: &PartnerRecord, now: UnixNanos) -> Successor {
    let named = |other: &ApiKey| key.retiring.as_ref().is_some_and(|retiring| retiring.successor == other.id);
    let as_much = |other: &ApiKey| {
        (&other.bound_to, &other.grants, &other.operations, &other.networks)
            == (&key.bound_to, &key.grants, &key.operations, &key.networks)
    };
    let good =
        |other: &&ApiKey| other.id != key.id && other.ends > key.ends && other.stage(now) == CredentialStage::Active;
    let other = record.api_keys.iter().filter(good).find(|other| named(other) || as_much(other));
    other.map_or(Successor::Missing, |other| Successor::Registered(other.id.to_string()))
}

/// Another active credential of the partner that may do as much, and whose certificate, as far as it is known, outlives
/// this one's.
fn successor_of(
    credential: &Credential,
    record: &PartnerRecord,
    seen: &HashMap<String, UnixNanos>,
    limit: UnixNanos,
) -> Successor {
    if outlives_its_certificate(credential) {
        return Successor::NotNeeded;
    }
    let other = record.credentials.iter().find(|c| {
        c.id != credential.id
            && c.state == CredentialState::Active
            && may_as_much(c, credential, record)
            && (outlives_its_certificate(c) || seen.get(c.id.as_str()).is_none_or(|ends| *ends > limit))
    });
    other.map_or(Successor::Missing, |c| Successor::Registered(c.id.to_string()))
}

/// Whether the next certificate is recognised by its name.
fn outlives_its_certificate(credential: &Credential) -> bool {
    !matches!(credential.matching.kind(), MatchKind::Fingerprint | MatchKind::Spki | MatchKind::IssuerSerial)
}

/// Whether everything that `credential` may do, `other` may do too.
fn may_as_much(other: &Credential, credential: &Credential, record: &PartnerRecord) -> bool {
    let mut limited = record.grants.iter().filter_map(|grant| grant.credentials.as_ref());
    credential.environments.iter().all(|environment| other.environments.contains(environment))
        && limited.all(|only| !only.contains(&credential.id) || only.contains(&other.id))
}

/// Logs each thing once at every step on the way to its end.
#[derive(Debug, Default)]
pub struct Reminder {
    told: HashMap<(Kind, String, i64), u32>,
}

impl Reminder {
    /// What is to be said now: those that have reached another step.
    pub fn due<'a>(&mut self, soon: &'a [Expiring], now: UnixNanos) -> Vec<&'a Expiring> {
        let mut due = Vec::new();
        let mut told = HashMap::new();
        for one in soon {
            let step = STEPS.into_iter().find(|days| one.at <= now.saturating_add(DAY * *days)).unwrap_or(30);
            let key = (one.kind, one.name.clone(), one.at.0);
            if self.told.get(&key).is_none_or(|before| step < *before) {
                due.push(one);
            }
            told.insert(key, step);
        }
        // What is not about to end any more is forgotten.
        self.told = told;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ending(days: i64) -> Expiring {
        let at = UnixNanos(days * 86_400_000_000_000);
        let (kind, name) = (Kind::Anchor, "acme-ca".to_owned());
        Expiring { kind, name, partner: None, at, ends: at.to_string(), successor: Successor::Missing }
    }

    #[test]
    fn a_line_is_logged_at_30_14_7_and_1_days_and_at_the_end_and_not_in_between() {
        let mut reminder = Reminder::default();
        let soon = [ending(100)];
        let said: Vec<i64> = (70..=103)
            .filter(|day| !reminder.due(&soon, UnixNanos(day * 86_400_000_000_000)).is_empty())
            .map(|day| 100 - day)
            .collect();
        assert_eq!(said, [30, 14, 7, 1, 0]);
        // Renewed, and so another end.
        assert!(reminder.due(&[], UnixNanos(0)).is_empty());
        assert_eq!(reminder.due(&soon, UnixNanos(100 * 86_400_000_000_000)).len(), 1);
    }

    #[test]
    fn successor_may_do_as_much_and_lives_longer() {
        let successor = |environments: [&str; 1], state: &str, only: &[&str], seen: &[(&str, i64)]| {
            let exact = |c: char| json!({"fingerprint_sha256": c.to_string().repeat(64)});
            let credential = |id, matching, state, environments| json!({"id": id, "anchor": "ca", "match": matching, "state": state, "environments": environments});
            let mut record = json!({
                "partner": {
                    "id": "acme", "name": "Acme", "owner": "o", "state": "active", "time_zone": "UTC",
                    "engagement": {}, "networks": [],
                },
                "credentials": [
                    credential("one", exact('1'), "active", ["test"]),
                    credential("two", exact('2'), state, environments),
                ],
                "grants": [{
                    "id": "g", "owner": "o", "written": ["a"], "operations": ["a"], "period": {},
                    "environments": ["test"],
                }],
            });
            if !only.is_empty() {
                record["grants"][0]["credentials"] = json!(only);
            }
            let record: PartnerRecord = serde_json::from_value(record).unwrap();
            let seen: HashMap<String, UnixNanos> = seen.iter().map(|(id, at)| ((*id).into(), UnixNanos(*at))).collect();
            let found = successor_of(&record.credentials[0], &record, &seen, UnixNanos(100));
            found == Successor::Registered("two".into())
        };
        assert!(successor(["test"], "active", &[], &[]));
        assert!(successor(["test"], "active", &["one", "two"], &[("two", 101)]));
        assert!(successor(["test"], "active", &["two"], &[]));
        assert!(!successor(["prod"], "active", &[], &[]));
        assert!(!successor(["test"], "revoked", &[], &[]));
        assert!(!successor(["test"], "active", &["one"], &[]));
        assert!(!successor(["test"], "active", &[], &[("two", 100)]));
    }

    #[test]
    fn a_line_names_what_ends_when_and_what_succeeds_it() {
        assert_eq!(
            ending(1).to_string(),
            "the trust anchor `acme-ca` ends at 1970-01-02T00:00:00Z; no successor is registered"
        );
    }
}
