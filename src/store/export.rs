//! The registry, written in the form that is applied.

use super::declaration::DeclaredFile;
use crate::identity::Match;
use crate::operation::{OperationId, Operations};
use crate::partner::PartnerRecord;
use crate::registry::Registry;
use serde_json::json;
use std::collections::BTreeSet;

/// The registry as files that [`super::parse_declaration`] reads: `registry.json`, which is YAML too, and one PEM per anchor.
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
pub(super) fn partner_document(record: &PartnerRecord) -> serde_json::Value {
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
