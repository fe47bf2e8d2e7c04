//! Registry files: partners, networks and anchors as people write them, and back again.

use crate::clock::{UnixNanos, Zone};
use crate::document::{self, Field, Kind, Node, Presence, Problems, Section};
use crate::identity::{Fingerprint, Match, Serial, parse_dn};
use crate::name::{AnchorName, CredentialId, Environment, GrantId, NetworkName, PartnerId};
use crate::operation::{OperationId, Operations};
use crate::partner::{
    ANY_NETWORK, Anchor, ClientAuthUsage, Credential, CredentialState, Grant, Network, Partner, PartnerRecord,
    PartnerState, Period,
};
use crate::registry::Registry;
use Presence::{Default, Optional, Required};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// One file of a folder that is applied: its name, its text, and the PEM files beside it come the same way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeclaredFile {
    /// Relative to the folder.
    pub name: String,
    pub text: String,
}

/// What the files of a folder declare. Grants are not expanded yet: their `operations` are empty.
#[derive(Clone, Debug, Default)]
pub struct Declaration {
    pub partners: Vec<(PartnerRecord, Node)>,
    pub networks: Vec<Network>,
    pub anchors: Vec<Anchor>,
}

pub static REGISTRY_FILE: &[Field] = &[
    Field {
        key: "environment",
        kind: Kind::Id,
        presence: Optional("production"),
        doc: "The environment of everything in this file; a gateway of another one refuses the file.",
    },
    Field {
        key: "networks",
        kind: Kind::Map(&Kind::Table(NETWORK)),
        presence: Optional("acme-dc1"),
        doc: "Named networks.",
    },
    Field {
        key: "anchors",
        kind: Kind::Map(&Kind::Table(ANCHOR)),
        presence: Optional("acme-ca"),
        doc: "CA certificates and the partners they may speak for.",
    },
    Field {
        key: "partners",
        kind: Kind::Map(&Kind::Table(PARTNER)),
        presence: Optional("acme"),
        doc: "Partners with their credentials and grants.",
    },
];

static NETWORK: &[Field] = &[Field {
    key: "cidrs",
    kind: Kind::List(&Kind::Cidr),
    presence: Required("[\"203.0.113.0/24\"]"),
    doc: "The networks.",
}];

static ANCHOR: &[Field] = &[
    Field {
        key: "certificate",
        kind: Kind::Text,
        presence: Required("acme-ca.pem"),
        doc: "PEM file in the same folder.",
    },
    Field {
        key: "partners",
        kind: Kind::List(&Kind::Id),
        presence: Required("[acme]"),
        doc: "Partners it may speak for.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it is accepted; the file's environment when absent.",
    },
    Field {
        key: "client_auth",
        kind: Kind::Choice(ClientAuthUsage::NAMES),
        presence: Default("required"),
        doc: "Whether client certificates must carry the clientAuth usage.",
    },
];

static PERIOD: &[Field] = &[
    Field {
        key: "starts",
        kind: Kind::Time,
        presence: Optional("2026-01-01T00:00:00+01:00"),
        doc: "First instant, inclusive.",
    },
    Field { key: "ends", kind: Kind::Time, presence: Optional("2027-01-01T00:00:00+01:00"), doc: "End, exclusive." },
];

static PARTNER: &[Field] = &[
    Field { key: "name", kind: Kind::Text, presence: Required("Acme GmbH"), doc: "Name for people." },
    Field {
        key: "owner",
        kind: Kind::Text,
        presence: Required("payments-team"),
        doc: "Who answers for this partner on our side.",
    },
    Field {
        key: "state",
        kind: Kind::Choice(PartnerState::NAMES),
        presence: Default("active"),
        doc: "Only an active partner is served.",
    },
    Field {
        key: "labels",
        kind: Kind::Labels,
        presence: Optional("{tier: gold}"),
        doc: "Free labels; policy sees them.",
    },
    Field {
        key: "time_zone",
        kind: Kind::Zone,
        presence: Default("UTC"),
        doc: "IANA name; policy sees the partner's local time.",
    },
    Field {
        key: "engagement",
        kind: Kind::Table(PERIOD),
        presence: Required(""),
        doc: "The period of the business relationship; nothing of the partner outlives it.",
    },
    Field {
        key: "networks",
        kind: Kind::List(&Kind::Id),
        presence: Required("[acme-dc1]"),
        doc: "Where it may call from; `any` must be written.",
    },
    Field {
        key: "credentials",
        kind: Kind::Map(&Kind::Table(CREDENTIAL)),
        presence: Optional("acme-2026"),
        doc: "What it proves itself with.",
    },
    Field {
        key: "grants",
        kind: Kind::Map(&Kind::Table(GRANT)),
        presence: Optional("acme-invoices"),
        doc: "What it may call.",
    },
];

static CREDENTIAL: &[Field] = &[
    Field {
        key: "anchor",
        kind: Kind::Id,
        presence: Required("acme-ca"),
        doc: "The trust anchor that its chain must end in.",
    },
    Field {
        key: "match",
        kind: Kind::Table(MATCH),
        presence: Required(""),
        doc: "What the certificate is recognised by: exactly one key.",
    },
    Field {
        key: "state",
        kind: Kind::Choice(CredentialState::NAMES),
        presence: Default("active"),
        doc: "Only an active credential is accepted.",
    },
    Field {
        key: "labels",
        kind: Kind::Labels,
        presence: Optional("{system: erp}"),
        doc: "Free labels; policy sees them.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it is accepted; the file's environment when absent.",
    },
];

static MATCH: &[Field] = &[
    Field {
        key: "fingerprint_sha256",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of the certificate, in hex.",
    },
    Field {
        key: "spki_sha256",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of the public key (SubjectPublicKeyInfo), in hex; survives a renewal with the same key.",
    },
    Field {
        key: "issuer",
        kind: Kind::Text,
        presence: Optional("CN=Acme CA,O=Acme"),
        doc: "Issuer name (RFC 4514), together with `serial`.",
    },
    Field {
        key: "serial",
        kind: Kind::Text,
        presence: Optional("\"0a1b\""),
        doc: "Serial number in hex, together with `issuer`.",
    },
    Field {
        key: "uri",
        kind: Kind::Text,
        presence: Optional("spiffe://acme.example/billing"),
        doc: "URI SAN; the certificate must have exactly one.",
    },
    Field { key: "dns", kind: Kind::Text, presence: Optional("billing.acme.example"), doc: "DNS SAN." },
    Field {
        key: "subject",
        kind: Kind::Text,
        presence: Optional("CN=billing,O=Acme"),
        doc: "Subject name (RFC 4514); a common name alone is refused.",
    },
    Field {
        key: "organization_id",
        kind: Kind::Text,
        presence: Optional("PSDDE-BAFIN-123456"),
        doc: "organizationIdentifier (2.5.4.97).",
    },
];

static GRANT: &[Field] = &[
    Field {
        key: "owner",
        kind: Kind::Text,
        presence: Required("billing-team"),
        doc: "Who answers for this grant on our side.",
    },
    Field {
        key: "operations",
        kind: Kind::List(&Kind::Text),
        presence: Required("[invoices.read]"),
        doc: "Operation ids, `prefix.*` or `tag:name`; expanded when the grant is made.",
    },
    Field {
        key: "networks",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[acme-dc1]"),
        doc: "Narrows the partner's networks; absent means all of them.",
    },
    Field {
        key: "credentials",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[acme-2026]"),
        doc: "The credentials it is for; absent means any of the partner's.",
    },
    Field {
        key: "starts",
        kind: Kind::Time,
        presence: Optional("2026-01-01T00:00:00+01:00"),
        doc: "First instant, inclusive.",
    },
    Field {
        key: "ends",
        kind: Kind::Time,
        presence: Required("2027-01-01T00:00:00+01:00"),
        doc: "End, exclusive. Every grant has one.",
    },
    Field {
        key: "conditions",
        kind: Kind::Any,
        presence: Optional("{}"),
        doc: "Values for policy; the keys are declared in `policies/conditions.yaml`.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it holds; the file's environment when absent.",
    },
];

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
                    _ => {
                        if let (Some(record), Some(at)) = (reader.partner(id, table), table.own_node()) {
                            declaration.partners.push((record, at.clone()));
                        }
                    }
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

    fn anchor(&mut self, id: &str, section: Section<'_>) -> Option<Anchor> {
        let key = format!("anchors.{id}.certificate");
        let node = section.node("certificate")?;
        let written = section.text("certificate")?;
        let pem = if written.contains("-----BEGIN") {
            written
        } else {
            match self.files.iter().find(|f| f.name == written.trim_start_matches("./")) {
                Some(file) => &file.text,
                None => {
                    let reason = format!("there is no file `{written}` in the folder");
                    self.problems.push(node.error(
                        key,
                        reason,
                        Some("put the CA certificate there in PEM, with the ending .pem or .crt"),
                    ));
                    return None;
                }
            }
        };
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect();
        let [certificate] = certificates.as_slice() else {
            let reason =
                format!("`{written}` holds {} certificates in PEM; an anchor is exactly one", certificates.len());
            self.problems.push(node.error(key, reason, None));
            return None;
        };
        Some(Anchor {
            name: AnchorName::parse(id).ok()?,
            certificate: certificate.to_vec(),
            partners: section.texts("partners").iter().filter_map(|p| PartnerId::parse(p).ok()).collect(),
            environments: self.environments(section, &format!("anchors.{id}")),
            client_auth: ClientAuthUsage::parse(section.text("client_auth")?)?,
        })
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
        let partner = Partner {
            id: PartnerId::parse(id).ok()?,
            name: section.text("name")?.to_owned(),
            owner: section.text("owner")?.to_owned(),
            state: PartnerState::parse(section.text("state")?)?,
            labels: labels(section),
            time_zone: Zone::parse(section.text("time_zone")?).ok()?,
            engagement: engaged,
            networks: networks(section),
        };
        Some(PartnerRecord { partner, credentials, grants })
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

/// The registry as files that [`parse`] reads: `registry.json`, which is YAML too, and one PEM per anchor.
///
/// A grant is written as its author wrote it where that still means what the grant covers, and as the operations that
/// it covers where more have appeared since: an export never widens.
pub fn export(registry: &Registry, operations: &Operations) -> Vec<DeclaredFile> {
    let mut files = Vec::new();
    let mut anchors = serde_json::Map::new();
    for anchor in registry.anchors() {
        let name = format!("{}.pem", anchor.name);
        let body = data_encoding::BASE64.encode(&anchor.certificate);
        let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
        let text = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        files.push(DeclaredFile { name: name.clone(), text });
        anchors.insert(
            anchor.name.to_string(),
            json!({
                "certificate": name,
                "partners": anchor.partners,
                "environments": anchor.environments,
                "client_auth": anchor.client_auth.as_str(),
            }),
        );
    }
    let networks: serde_json::Map<String, serde_json::Value> =
        registry.networks().map(|n| (n.name.to_string(), json!({"cidrs": n.cidrs}))).collect();
    let mut partners: Vec<_> = registry.partners().collect();
    partners.sort_by(|a, b| a.partner.id.cmp(&b.partner.id));
    let partners: serde_json::Map<String, serde_json::Value> = partners
        .into_iter()
        .map(|r| (r.partner.id.to_string(), partner_document(&as_covered(r, operations))))
        .collect();
    let document = json!({"networks": networks, "anchors": anchors, "partners": partners});
    let text = serde_json::to_string_pretty(&document).unwrap_or_default() + "\n";
    files.push(DeclaredFile { name: "registry.json".into(), text });
    files
}

fn as_covered(record: &PartnerRecord, operations: &Operations) -> PartnerRecord {
    let mut record = record.clone();
    for grant in &mut record.grants {
        let means: Result<BTreeSet<OperationId>, String> =
            grant.written.iter().try_fold(BTreeSet::new(), |mut all, pattern| {
                all.extend(operations.expand(pattern)?);
                Ok(all)
            });
        if means.ok().is_none_or(|m| !m.iter().eq(grant.operations.iter())) {
            grant.written = grant.operations.iter().map(ToString::to_string).collect();
        }
    }
    record
}

/// A partner in the form of a registry file.
pub(crate) fn partner_document(record: &PartnerRecord) -> serde_json::Value {
    let partner = &record.partner;
    let credentials: serde_json::Map<String, serde_json::Value> = record
        .credentials
        .iter()
        .map(|c| {
            let matching = match &c.matching {
                Match::FingerprintSha256(hash) => json!({"fingerprint_sha256": hash}),
                Match::SpkiSha256(hash) => json!({"spki_sha256": hash}),
                Match::IssuerSerial { issuer, serial } => json!({"issuer": issuer.to_string(), "serial": serial}),
                Match::Uri(text) => json!({"uri": text}),
                Match::Dns(text) => json!({"dns": text}),
                Match::Subject(name) => json!({"subject": name.to_string()}),
                Match::OrganizationId(text) => json!({"organization_id": text}),
            };
            let document = json!({
                "anchor": c.anchor, "match": matching, "state": c.state.as_str(), "labels": c.labels,
                "environments": c.environments,
            });
            (c.id.to_string(), document)
        })
        .collect();
    let grants: serde_json::Map<String, serde_json::Value> = record
        .grants
        .iter()
        .map(|g| {
            let mut document = json!({"owner": g.owner, "operations": g.written, "environments": g.environments});
            if let Some(object) = document.as_object_mut() {
                if let Some(networks) = &g.networks {
                    object.insert("networks".into(), json!(networks));
                }
                if let Some(credentials) = &g.credentials {
                    object.insert("credentials".into(), json!(credentials));
                }
                for (key, value) in [("starts", g.period.starts), ("ends", g.period.ends)] {
                    if let Some(time) = value {
                        object.insert(key.into(), json!(time.to_string()));
                    }
                }
                if !g.conditions.is_empty() {
                    object.insert("conditions".into(), json!(g.conditions));
                }
            }
            (g.id.to_string(), document)
        })
        .collect();
    let mut engagement = serde_json::Map::new();
    for (key, value) in [("starts", partner.engagement.starts), ("ends", partner.engagement.ends)] {
        if let Some(time) = value {
            engagement.insert(key.into(), json!(time.to_string()));
        }
    }
    json!({
        "name": partner.name, "owner": partner.owner, "state": partner.state.as_str(), "labels": partner.labels,
        "time_zone": partner.time_zone, "engagement": engagement, "networks": partner.networks,
        "credentials": credentials, "grants": grants,
    })
}
