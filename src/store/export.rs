//! The registry, written in the form that is applied.

use super::declaration::DeclaredFile;
use crate::identity::{Match, certificate_pem};
use crate::operation::{OperationId, Operations};
use crate::partner::{
    Anchor, ApiKey, Credential, DeniedCertificate, Emergency, Grant, Offboarding, Partner, PartnerRecord, Period,
    Proofing, Retiring, Reviewed, Revocation, Revoked, Root, Suspension,
};
use crate::registry::Registry;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

/// The registry as files that [`super::parse_declaration`] reads: `registry.json`, which is YAML too, and one PEM per
/// anchor. Serialised, it is the list of them; it is written partner by partner and never in memory as a whole.
///
/// A grant is written as its author wrote it where that still means what the grant covers, and as the operations that
/// it covers where more have appeared since: an export never widens.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    registry: &'a Registry,
    operations: &'a Operations,
}

impl<'a> Export<'a> {
    pub fn new(registry: &'a Registry, operations: &'a Operations) -> Self {
        Export { registry, operations }
    }

    fn certificates(&self) -> impl Iterator<Item = DeclaredFile> + 'a {
        self.registry.anchors().flat_map(|anchor| anchor_files(anchor))
    }
}

/// The PEM files that the form of an anchor names.
pub fn anchor_files(anchor: &Anchor) -> Vec<DeclaredFile> {
    let own = match &anchor.root {
        Root::Certificate { certificate } | Root::SelfSigned { self_signed: certificate } => {
            Some((certificate_file(anchor), certificate))
        }
        Root::Bundle { .. } => None,
    };
    let below = anchor.revocation.intermediates.iter().enumerate();
    let below = below.map(|(n, certificate)| (intermediate_file(anchor, n), certificate));
    own.into_iter()
        .chain(below)
        .map(|(name, certificate)| DeclaredFile { name, text: certificate_pem(&certificate.0) })
        .collect()
}

fn intermediate_file(anchor: &Anchor, n: usize) -> String {
    format!("{}.intermediate-{n}.pem", anchor.name)
}

fn certificate_file(anchor: &Anchor) -> String {
    format!("{}.pem", anchor.name)
}

impl Serialize for Export<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut files = serializer.serialize_seq(None)?;
        for file in self.certificates() {
            files.serialize_element(&file)?;
        }
        files.serialize_element(&RegistryFile(*self))?;
        files.end()
    }
}

/// `registry.json` in the form of a [`DeclaredFile`].
struct RegistryFile<'a>(Export<'a>);

impl Serialize for RegistryFile<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut file = serializer.serialize_map(Some(2))?;
        file.serialize_entry("name", "registry.json")?;
        file.serialize_entry("text", &Text(Content(self.0)))?;
        file.end()
    }
}

/// The text of `registry.json`, as it is written.
struct Text<'a>(Content<'a>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The buffer passes on whole pieces, each of which is text.
        let mut out = BufWriter::new(Pieces(f));
        serde_json::to_writer_pretty(&mut out, &self.0).map_err(|_| fmt::Error)?;
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(|_| fmt::Error)
    }
}

struct Pieces<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Pieces<'_, '_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(piece).map_err(io::Error::other)?;
        self.0.write_str(text).map_err(io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is in `registry.json`.
struct Content<'a>(Export<'a>);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Export { registry, operations } = self.0;
        let networks: Map<String, Value> =
            registry.networks().map(|n| (n.name.to_string(), json!({"cidrs": n.cidrs}))).collect();
        let mut document = serializer.serialize_map(Some(3))?;
        document.serialize_entry("networks", &networks)?;
        document.serialize_entry("anchors", &Anchors(registry))?;
        document.serialize_entry("partners", &Partners { registry, operations })?;
        document.end()
    }
}

struct Anchors<'a>(&'a Registry);

impl Serialize for Anchors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.anchors().map(|anchor| (&anchor.name, Named(anchor))))
    }
}

struct Named<'a>(&'a Anchor);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let anchor = self.0;
        let mut document = serializer.serialize_map(None)?;
        match &anchor.root {
            Root::Certificate { .. } => document.serialize_entry("certificate", &certificate_file(anchor))?,
            Root::SelfSigned { .. } => document.serialize_entry("self_signed", &certificate_file(anchor))?,
            Root::Bundle { bundle } => document.serialize_entry("bundle", bundle)?,
        }
        document.serialize_entry("partners", &anchor.partners)?;
        document.serialize_entry("environments", &anchor.environments)?;
        document.serialize_entry("client_auth", anchor.client_auth.as_str())?;
        if let Some(longest) = anchor.max_lifetime {
            document.serialize_entry("max_lifetime", &shown(longest))?;
        }
        let revocation = &anchor.revocation;
        if *revocation != Revocation::default() {
            let files = (0..revocation.intermediates.len()).map(|n| intermediate_file(anchor, n));
            document.serialize_entry(
                "revocation",
                &json!({
                    "mode": revocation.mode.as_str(), "crl": revocation.sources, "grace": shown(revocation.grace),
                    "distribution_points": revocation.distribution_points, "intermediates": files.collect::<Vec<_>>(),
                }),
            )?;
        }
        if !anchor.denied.is_empty() {
            let denied = anchor.denied.iter().map(|d| {
                let (key, value) = match &d.certificate {
                    DeniedCertificate::Serial(serial) => ("serial", serial.as_str().to_owned()),
                    DeniedCertificate::Fingerprint(fingerprint) => ("fingerprint", fingerprint.to_string()),
                };
                json!({key: value, "reason": d.reason, "author": d.author, "at": d.at.to_string()})
            });
            document.serialize_entry("denied", &denied.collect::<Vec<_>>())?;
        }
        document.end()
    }
}

/// As [`crate::document`] reads it.
fn shown(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

struct Partners<'a> {
    registry: &'a Registry,
    operations: &'a Operations,
}

impl Serialize for Partners<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.registry
                .partners()
                .map(|record| (&record.partner.id, partner_document(&as_covered(record, self.operations)))),
        )
    }
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
pub fn partner_document(record: &PartnerRecord) -> Value {
    let mut document = own_document(&record.partner);
    if let Some(object) = document.as_object_mut() {
        let credentials: Map<String, Value> =
            record.credentials.iter().map(|c| (c.id.to_string(), credential_document(c))).collect();
        let grants: Map<String, Value> = record.grants.iter().map(|g| (g.id.to_string(), grant_document(g))).collect();
        object.insert("credentials".into(), credentials.into());
        object.insert("grants".into(), grants.into());
        if !record.api_keys.is_empty() {
            let keys: Map<String, Value> =
                record.api_keys.iter().map(|k| (k.id.to_string(), api_key_document(k))).collect();
            object.insert("api_keys".into(), keys.into());
        }
        // Last, as it has always been written.
        if let Some(suspension) = object.remove("suspension") {
            object.insert("suspension".into(), suspension);
        }
    }
    document
}

/// The same without its credentials and grants.
pub fn own_document(partner: &Partner) -> Value {
    let mut document = json!({
        "name": partner.name, "owner": partner.owner, "state": partner.state.as_str(), "labels": partner.labels,
        "time_zone": partner.time_zone, "engagement": period(&partner.engagement), "networks": partner.networks,
    });
    let Some(object) = document.as_object_mut() else { return document };
    if let Some(contact) = &partner.contact {
        object.insert("contact".into(), json!(contact));
    }
    if !partner.observe.is_empty() {
        let observe: Map<String, Value> =
            partner.observe.iter().map(|(reason, until)| (reason.clone(), json!(until.to_string()))).collect();
        object.insert("observe".into(), observe.into());
    }
    if let Some(Proofing { method, by, at }) = partner.proofing.as_deref() {
        object.insert("proofing".into(), json!({"method": method, "by": by, "at": at.to_string()}));
    }
    if let Some(classification) = &partner.data_classification {
        object.insert("data_classification".into(), json!(classification));
    }
    if let Some(review) = &partner.review {
        object.insert("review_every".into(), shown(review.every).into());
        if let Some(last) = &review.last {
            object.insert("reviewed".into(), reviewed(last));
        }
    }
    if let Some(Offboarding { reason, author, at, ends, closed }) = partner.offboarding.as_deref() {
        let mut offboarding =
            json!({"reason": reason, "author": author, "at": at.to_string(), "ends": ends.to_string()});
        if let (Some(offboarding), Some(closed)) = (offboarding.as_object_mut(), closed) {
            offboarding.insert("closed".into(), json!(closed.to_string()));
        }
        object.insert("offboarding".into(), offboarding);
    }
    if let Some(Suspension { reason, author, at }) = &partner.suspension {
        object.insert("suspension".into(), json!({"reason": reason, "author": author, "at": at.to_string()}));
    }
    document
}

fn reviewed(Reviewed { finding, author, at }: &Reviewed) -> Value {
    json!({"finding": finding, "author": author, "at": at.to_string()})
}

fn retiring(Retiring { successor, since, overlap }: &Retiring) -> Value {
    json!({"successor": successor, "since": since.to_string(), "overlap": shown(*overlap)})
}

fn revoked(Revoked { reason, author, at }: &Revoked) -> Value {
    json!({"reason": reason, "author": author, "at": at.to_string()})
}

/// A credential in the form of a registry file.
pub fn credential_document(credential: &Credential) -> Value {
    let matching = match &credential.matching {
        Match::FingerprintSha256(hash) => json!({"fingerprint_sha256": hash}),
        Match::SpkiSha256(hash) => json!({"spki_sha256": hash}),
        Match::IssuerSerial { issuer, serial } => json!({"issuer": issuer.to_string(), "serial": serial}),
        Match::Uri(text) => json!({"uri": text}),
        Match::Dns(text) => json!({"dns": text}),
        Match::Subject(name) => json!({"subject": name.to_string()}),
        Match::OrganizationId(text) => json!({"organization_id": text}),
    };
    let mut document = json!({
        "anchor": credential.anchor, "match": matching, "state": credential.state.as_str(),
        "labels": credential.labels, "environments": credential.environments,
    });
    let Some(object) = document.as_object_mut() else { return document };
    if let Some(ends) = credential.ends {
        object.insert("ends".into(), json!(ends.to_string()));
    }
    if let Some(by) = credential.retiring.as_deref() {
        object.insert("retiring".into(), retiring(by));
    }
    if let Some(by) = &credential.revoked {
        object.insert("revoked".into(), revoked(by));
    }
    document
}

/// An API key in the form of a registry file. It is not the key.
pub fn api_key_document(key: &ApiKey) -> Value {
    let (kind, hash) = key.bound_to.parts();
    let mut document = json!({
        "owner": key.owner, "hash": key.hash, "bound_to": {kind: hash}, "grants": key.grants,
        "environments": key.environments, "ends": key.ends.to_string(),
    });
    let Some(object) = document.as_object_mut() else { return document };
    if let Some(operations) = &key.operations {
        object.insert("operations".into(), json!(operations));
    }
    if let Some(networks) = &key.networks {
        object.insert("networks".into(), json!(networks));
    }
    if let Some(by) = key.retiring.as_deref() {
        object.insert("retiring".into(), retiring(by));
    }
    if let Some(by) = &key.revoked {
        object.insert("revoked".into(), revoked(by));
    }
    document
}

/// A grant in the form of a registry file.
pub fn grant_document(grant: &Grant) -> Value {
    let mut document = json!({"owner": grant.owner, "operations": grant.written, "environments": grant.environments});
    if let Some(object) = document.as_object_mut() {
        if let Some(networks) = &grant.networks {
            object.insert("networks".into(), json!(networks));
        }
        if let Some(credentials) = &grant.credentials {
            object.insert("credentials".into(), json!(credentials));
        }
        object.extend(period(&grant.period));
        if let Some(by) = &grant.revoked {
            object.insert("revoked".into(), revoked(by));
        }
        if let Some(emergency) = &grant.emergency {
            object.insert("emergency".into(), emergency_document(emergency));
        }
        if !grant.conditions.is_empty() {
            object.insert("conditions".into(), json!(grant.conditions));
        }
    }
    document
}

/// An emergency in the form of a registry file.
pub fn emergency_document(emergency: &Emergency) -> Value {
    let Emergency { reason, ticket, author, at, reviewed } = emergency;
    let mut document = json!({"reason": reason, "ticket": ticket, "author": author, "at": at.to_string()});
    if let (Some(object), Some(by)) = (document.as_object_mut(), reviewed) {
        object.insert("reviewed".into(), self::reviewed(by));
    }
    document
}

/// An anchor in the form of a registry file.
pub fn anchor_document(anchor: &Anchor) -> Value {
    json!(Named(anchor))
}

fn period(period: &Period) -> Map<String, Value> {
    let bounds = [("starts", period.starts), ("ends", period.ends)];
    bounds.into_iter().filter_map(|(key, time)| Some((key.to_owned(), json!(time?.to_string())))).collect()
}
