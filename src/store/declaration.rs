//! Registry files, read: partners, networks and anchors as people write them.

mod anchor;

use super::Places;
use super::keys::{BOUND_TO, MATCH, REGISTRY_FILE};
use crate::clock::{UnixNanos, Zone};
use crate::document::{self, Node, Problems, Section};
use crate::identity::{Fingerprint, Match, Serial, parse_dn};
use crate::name::{AnchorName, CredentialId, Environment, GrantId, NetworkName, PartnerId};
use crate::operation::OperationId;
use crate::partner::{
    ANY_NETWORK, Anchor, ApiKey, BoundTo, Credential, CredentialState, Emergency, Grant, KeyHash, Network, Offboarding,
    Partner, PartnerRecord, PartnerState, Period, Proofing, Retiring, Review, Reviewed, Revoked, Suspension,
};
use std::collections::BTreeMap;

/// One file of a folder that is applied: its name, its text, and the PEM files beside it come the same way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct DeclaredFile {
    /// Relative to the folder.
    pub name: String,
    pub text: String,
}

/// What the files of a folder declare. Grants are not expanded yet: their `operations` are empty.
#[derive(Clone, Debug, Default)]
pub struct Declaration {
    pub partners: Vec<PartnerRecord>,
    pub networks: Vec<Network>,
    pub anchors: Vec<Anchor>,
    pub places: Places,
}

/// Reads the files of a folder for a gateway of `environment`.
///
/// # Errors
/// All problems of all files.
pub fn parse(files: &[DeclaredFile], environment: &Environment) -> Result<Declaration, Problems> {
    let mut problems = Problems::new();
    let mut declaration = Declaration::default();
    let mut seen: BTreeMap<(&'static str, String), String> = BTreeMap::new();
    for file in
        files.iter().filter(|f| f.name.ends_with(".yaml") || f.name.ends_with(".yml") || f.name.ends_with(".json"))
    {
        let node = match document::parse(&file.name, &file.text) {
            Ok(node) => node,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        document::check(&node, REGISTRY_FILE, &mut problems);
        let section = Section::new(&node, REGISTRY_FILE);
        let marked = section.text("environment").and_then(|e| Environment::parse(e).ok());
        if let (Some(marked), Some(at)) = (&marked, section.node("environment")) {
            if marked != environment {
                problems.push(at.error(
                    "environment",
                    format!("this file is for `{marked}`, and the gateway stands in `{environment}`"),
                    Some("apply it to a gateway of that environment"),
                ));
                continue;
            }
        }
        let mut reader = Reader { files, marked, problems: &mut problems };
        for kind in ["networks", "anchors", "partners"] {
            for (id, table) in section.tables(kind) {
                let place = table.own_node().map_or(String::new(), |n| format!("{}:{}", n.file, n.line));
                if let (Some(first), Some(at)) = (seen.insert((kind, id.to_owned()), place), table.own_node()) {
                    reader.problems.push(at.error(
                        format!("{kind}.{id}"),
                        format!("is declared twice; the other is at {first}"),
                        None,
                    ));
                    continue;
                }
                match kind {
                    "networks" => declaration.networks.extend(reader.network(id, table)),
                    "anchors" => declaration.anchors.extend(reader.anchor(id, table)),
                    _ => declaration.partners.extend(reader.partner(id, table)),
                }
                if let Some(at) = table.own_node() {
                    declaration.places.insert(format!("{kind}.{id}"), at);
                }
            }
        }
    }
    if problems.has_errors() {
        problems.sort();
        return Err(problems);
    }
    Ok(declaration)
}

struct Reader<'a> {
    files: &'a [DeclaredFile],
    marked: Option<Environment>,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn network(&mut self, id: &str, section: Section<'_>) -> Option<Network> {
        if id == ANY_NETWORK {
            let at = section.own_node()?;
            self.problems.push(at.error(
                format!("networks.{id}"),
                "`any` means every address and cannot be defined",
                None,
            ));
            return None;
        }
        let cidrs = section.texts("cidrs").iter().filter_map(|t| document::parse_cidr(t).ok()).collect();
        Some(Network { name: NetworkName::parse(id).ok()?, cidrs })
    }

    fn partner(&mut self, id: &str, section: Section<'_>) -> Option<PartnerRecord> {
        let path = format!("partners.{id}");
        let engagement = section.section("engagement");
        let engaged = self.period(engagement, &format!("{path}.engagement"));
        let mut credentials: Vec<Credential> = section
            .tables("credentials")
            .into_iter()
            .filter_map(|(id, table)| self.credential(id, table, &format!("{path}.credentials.{id}")))
            .collect();
        credentials.sort_by(|a, b| a.id.cmp(&b.id));
        let mut grants: Vec<Grant> = section
            .tables("grants")
            .into_iter()
            .filter_map(|(id, table)| self.grant(id, table, &format!("{path}.grants.{id}")))
            .collect();
        grants.sort_by(|a, b| a.id.cmp(&b.id));
        let mut api_keys: Vec<ApiKey> = section
            .tables("api_keys")
            .into_iter()
            .filter_map(|(id, table)| self.api_key(id, table, &format!("{path}.api_keys.{id}")))
            .collect();
        api_keys.sort_by(|a, b| a.id.cmp(&b.id));
        let partner = Partner {
            id: PartnerId::parse(id).ok()?,
            name: section.text("name")?.to_owned(),
            owner: section.text("owner")?.to_owned(),
            state: PartnerState::parse(section.text("state")?)?,
            suspension: below(section, "suspension", suspension).map(|suspension| *suspension),
            labels: labels(section),
            time_zone: Zone::parse(section.text("time_zone")?).ok()?,
            engagement: engaged,
            networks: networks(section),
            contact: section.text("contact").map(str::to_owned),
            observe: self.observed(section, &path),
            proofing: below(section, "proofing", proofing),
            data_classification: section.text("data_classification").map(str::to_owned),
            review: section.has("review_every").then(|| {
                let last = below(section, "reviewed", reviewed).map(|last| *last);
                Box::new(Review { every: section.duration("review_every"), last })
            }),
            offboarding: below(section, "offboarding", offboarding),
        };
        Some(PartnerRecord { partner, credentials, grants, api_keys })
    }

    /// Reasons of custom rules: what a grant or the floor denies is never only observed.
    fn observed(&mut self, section: Section<'_>, path: &str) -> BTreeMap<String, UnixNanos> {
        let Some(node) = section.node("observe") else { return BTreeMap::new() };
        let mut observed = BTreeMap::new();
        for (key, until) in node.entries() {
            let reason = key.text().unwrap_or_default();
            if !reason.starts_with("x-") {
                let fix = "name the reason of a custom rule, as `reasons.yaml` declares it";
                let why = format!(
                    "`{}` is not the reason of a custom rule: nothing else can be only observed",
                    reason.escape_debug()
                );
                self.problems.push(key.error(format!("{path}.observe.{reason}"), why, Some(fix)));
            }
            if let Some(until) = until.text().and_then(|text| document::parse_time(text).ok()) {
                observed.insert(reason.to_owned(), UnixNanos(until));
            }
        }
        observed
    }

    fn credential(&mut self, id: &str, section: Section<'_>, path: &str) -> Option<Credential> {
        let table = section.section("match");
        let matching = match read_match(table) {
            Ok(matching) => matching,
            Err(reason) => {
                self.problems.push(table.own_node()?.error(format!("{path}.match"), reason, None));
                return None;
            }
        };
        Some(Credential {
            id: CredentialId::parse(id).ok()?,
            anchor: AnchorName::parse(section.text("anchor")?).ok()?,
            matching,
            state: CredentialState::parse(section.text("state")?)?,
            labels: labels(section),
            environments: self.environments(section, path),
            ends: section.time("ends").map(UnixNanos),
            retiring: below(section, "retiring", retiring),
            revoked: below(section, "revoked", revoked),
        })
    }

    fn grant(&mut self, id: &str, section: Section<'_>, path: &str) -> Option<Grant> {
        let conditions = match section.node("conditions").map(Node::to_json) {
            None => BTreeMap::new(),
            Some(serde_json::Value::Object(map)) => map.into_iter().collect(),
            Some(_) => {
                self.problems.push(section.node("conditions")?.error(
                    format!("{path}.conditions"),
                    "must be a table",
                    None,
                ));
                return None;
            }
        };
        Some(Grant {
            id: GrantId::parse(id).ok()?,
            owner: section.text("owner")?.to_owned(),
            written: section.texts("operations"),
            operations: Vec::new(),
            networks: section.has("networks").then(|| networks(section)),
            credentials: section
                .has("credentials")
                .then(|| section.texts("credentials").iter().filter_map(|c| CredentialId::parse(c).ok()).collect()),
            period: self.period(section, path),
            conditions,
            environments: self.environments(section, path),
            approval: None,
            revoked: below(section, "revoked", revoked),
            emergency: below(section, "emergency", emergency),
        })
    }

    fn api_key(&mut self, id: &str, section: Section<'_>, path: &str) -> Option<ApiKey> {
        let mut wrong = |key: &str, reason: String, fix: Option<&str>| {
            let at = section.node(key).or_else(|| section.own_node());
            if let Some(at) = at {
                self.problems.push(at.error(format!("{path}.{key}"), reason, fix));
            }
        };
        let table = section.section("bound_to");
        let written: Vec<&str> = BOUND_TO.iter().map(|f| f.key).filter(|k| table.has(k)).collect();
        let hash = |key: &str| Fingerprint::parse(table.text(key).unwrap_or_default());
        let bound_to = match written.as_slice() {
            ["fingerprint_sha256"] => hash("fingerprint_sha256").map(BoundTo::FingerprintSha256),
            ["spki_sha256"] => hash("spki_sha256").map(BoundTo::SpkiSha256),
            _ => Err("must have exactly one of fingerprint_sha256 and spki_sha256".to_owned()),
        };
        let bound_to = bound_to.map_err(|reason| wrong("bound_to", reason, None));
        let kept = Fingerprint::parse(section.text("hash")?).map(KeyHash);
        let kept = kept.map_err(|_| wrong("hash", "is not the hash of a key: 64 hex digits".into(), Some(KEYS)));
        let mut operations = Vec::new();
        for written in section.texts("operations") {
            match OperationId::parse(&written) {
                Ok(operation) => operations.push(operation),
                Err(reason) => wrong("operations", reason, Some("a key names operations one by one")),
            }
        }
        operations.sort();
        operations.dedup();
        let mut grants: Vec<GrantId> = section.texts("grants").iter().filter_map(|g| GrantId::parse(g).ok()).collect();
        grants.sort();
        grants.dedup();
        if grants.is_empty() {
            wrong("grants", "names no grant, so that it is for nothing".into(), None);
        }
        for (key, count) in [("grants", grants.len()), ("operations", operations.len())] {
            if count > MOST_OF_KEY {
                wrong(key, format!("names {count}, and a key is for at most {MOST_OF_KEY}"), None);
                return None;
            }
        }
        Some(ApiKey {
            id: CredentialId::parse(id).ok()?,
            owner: section.text("owner")?.to_owned(),
            hash: kept.ok()?,
            bound_to: bound_to.ok()?,
            grants,
            operations: section.has("operations").then_some(operations),
            networks: section.has("networks").then(|| networks(section)),
            environments: self.environments(section, path),
            ends: UnixNanos(section.time("ends")?),
            approval: None,
            retiring: below(section, "retiring", retiring),
            revoked: below(section, "revoked", revoked),
        })
    }

    fn period(&mut self, section: Section<'_>, path: &str) -> Period {
        let period =
            Period { starts: section.time("starts").map(UnixNanos), ends: section.time("ends").map(UnixNanos) };
        if let (Some(starts), Some(ends), Some(node)) = (period.starts, period.ends, section.node("ends")) {
            if ends <= starts {
                self.problems.push(node.error(
                    format!("{path}.ends"),
                    "is not after `starts`, so that it never holds",
                    None,
                ));
            }
        }
        period
    }

    fn environments(&mut self, section: Section<'_>, path: &str) -> Vec<Environment> {
        if section.has("environments") {
            return section.texts("environments").iter().filter_map(|e| Environment::parse(e).ok()).collect();
        }
        match (&self.marked, section.own_node()) {
            (Some(marked), _) => vec![marked.clone()],
            (None, Some(node)) => {
                let fix = "write `environment: …` at the top of the file, or `environments: […]` here";
                self.problems.push(node.error(format!("{path}.environments"), "no environment is named", Some(fix)));
                Vec::new()
            }
            (None, None) => Vec::new(),
        }
    }
}

/// Grants, and operations, that one API key names.
const MOST_OF_KEY: usize = 500;

/// Where keys come from.
const KEYS: &str = "keys are made with `partnergate credential add --api-key`";

/// A table below, where it is written.
fn below<T>(section: Section<'_>, key: &str, read: fn(Section<'_>) -> Option<T>) -> Option<Box<T>> {
    section.has(key).then(|| section.section(key)).and_then(read).map(Box::new)
}

fn suspension(section: Section<'_>) -> Option<Suspension> {
    Some(Suspension {
        reason: section.text("reason")?.to_owned(),
        author: section.text("author")?.to_owned(),
        at: UnixNanos(section.time("at")?),
    })
}

fn proofing(section: Section<'_>) -> Option<Proofing> {
    Some(Proofing {
        method: section.text("method")?.to_owned(),
        by: section.text("by")?.to_owned(),
        at: UnixNanos(section.time("at")?),
    })
}

fn offboarding(section: Section<'_>) -> Option<Offboarding> {
    Some(Offboarding {
        reason: section.text("reason")?.to_owned(),
        author: section.text("author")?.to_owned(),
        at: UnixNanos(section.time("at")?),
        ends: UnixNanos(section.time("ends")?),
        closed: section.time("closed").map(UnixNanos),
    })
}

/// Where no time is written, the plan puts one.
fn retiring(section: Section<'_>) -> Option<Retiring> {
    Some(Retiring {
        successor: CredentialId::parse(section.text("successor")?).ok()?,
        since: UnixNanos(section.time("since").unwrap_or_default()),
        overlap: section.duration("overlap"),
    })
}

fn revoked(section: Section<'_>) -> Option<Revoked> {
    Some(Revoked {
        reason: section.text("reason")?.to_owned(),
        author: section.text("author")?.to_owned(),
        at: UnixNanos(section.time("at")?),
    })
}

fn reviewed(section: Section<'_>) -> Option<Reviewed> {
    Some(Reviewed {
        finding: section.text("finding")?.to_owned(),
        author: section.text("author")?.to_owned(),
        at: UnixNanos(section.time("at")?),
    })
}

fn emergency(section: Section<'_>) -> Option<Emergency> {
    Some(Emergency {
        reason: section.text("reason")?.to_owned(),
        ticket: section.text("ticket")?.to_owned(),
        author: section.text("author")?.to_owned(),
        at: UnixNanos(section.time("at")?),
        reviewed: below(section, "reviewed", reviewed).map(|reviewed| *reviewed),
    })
}

fn labels(section: Section<'_>) -> BTreeMap<String, String> {
    section.labels("labels").into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn networks(section: Section<'_>) -> Vec<NetworkName> {
    section.texts("networks").iter().filter_map(|n| NetworkName::parse(n).ok()).collect()
}

fn read_match(table: Section<'_>) -> Result<Match, String> {
    let written: Vec<&str> = MATCH.iter().map(|f| f.key).filter(|k| table.has(k)).collect();
    let text = |key: &str| table.text(key).unwrap_or_default();
    match written.as_slice() {
        ["issuer", "serial"] => {
            Ok(Match::IssuerSerial { issuer: parse_dn(text("issuer"))?, serial: Serial::parse(text("serial"))? })
        }
        ["fingerprint_sha256"] => Ok(Match::FingerprintSha256(Fingerprint::parse(text("fingerprint_sha256"))?)),
        ["spki_sha256"] => Ok(Match::SpkiSha256(Fingerprint::parse(text("spki_sha256"))?)),
        ["uri"] => Match::uri(text("uri")),
        ["dns"] => Match::dns(text("dns")),
        ["subject"] => Match::subject(text("subject")),
        ["organization_id"] => Ok(Match::OrganizationId(text("organization_id").to_owned())),
        [] => Err("nothing to match on: write one of fingerprint_sha256, spki_sha256, issuer and serial, uri, dns, \
                   subject, organization_id"
            .into()),
        ["issuer"] | ["serial"] => Err("`issuer` and `serial` belong together".into()),
        several => Err(format!("several ways to match ({}): a credential has exactly one", several.join(", "))),
    }
}
