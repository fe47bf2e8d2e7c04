//! One noun changed: as it is in the form of a registry file, with something else in it. What is done with files is
//! done with it.

use crate::document::Problems;
use crate::history::document_sha256;
use crate::name::{AnchorName, Environment, GrantId, NetworkName, PartnerId};
use crate::registry::Registry;
use crate::store::{DeclaredFile, anchor_document, anchor_files, partner_document};
use serde_json::{Map, Value, json};
use std::fmt;

/// What the file is called where something is wrong with it.
const FILE: &str = "call.json";

/// What is to become of a noun.
pub struct Edited {
    pub subject: Subject,
    pub edit: Edit,
}

/// Which noun.
#[derive(Clone, Debug)]
pub enum Subject {
    Partner(Whose),
    Network(NetworkName),
    Anchor(AnchorName),
}

/// Which partner.
#[derive(Clone, Debug)]
pub enum Whose {
    /// One that is there.
    Of(PartnerId),
    /// One that is not there yet.
    New(PartnerId),
    /// The one that has this grant.
    WithGrant(GrantId),
}

/// Changes in a table of a registry file: keys with what they are to have, and none for those that are to go (RFC 7396).
#[derive(Clone, Debug)]
pub struct Edit {
    /// Where the table is within the noun, such as `grants` and `acme-items`.
    pub at: Vec<String>,
    pub patch: Map<String, Value>,
    pub place: Place,
}

/// Whether something is to be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Taken,
    Free,
}

impl Subject {
    /// What changes when the noun does: the entity tag (RFC 9110 section 8.8.3) of it as it is now.
    pub fn entity_tag(&self, registry: &Registry) -> Option<String> {
        let text = match self {
            Subject::Partner(Whose::Of(id) | Whose::New(id)) => serde_json::to_string(&**registry.partner(id)?),
            Subject::Partner(Whose::WithGrant(grant)) => serde_json::to_string(&**registry.with_grant(grant)?),
            Subject::Network(name) => serde_json::to_string(&**registry.network(name)?),
            Subject::Anchor(name) => serde_json::to_string(&**registry.anchor(name)?),
        };
        let digest = document_sha256(&text.ok()?);
        Some(format!("\"{}\"", digest.get(..32).unwrap_or(&digest)))
    }

    /// Whether it is what somebody who saw it may change (`If-Match`, RFC 9110 section 13.1.1).
    pub(super) fn is_as_seen(&self, if_match: &str, registry: &Registry) -> bool {
        let Some(own) = self.entity_tag(registry) else { return false };
        if_match.split(',').map(str::trim).any(|tag| tag == "*" || tag == own)
    }
}

impl Edited {
    pub(super) fn files(self, registry: &Registry, environment: &Environment) -> Result<Vec<DeclaredFile>, Problems> {
        let Edited { subject, edit } = self;
        let (nouns, id, document, mut files) = match subject {
            Subject::Partner(whose) => {
                let (id, document) = of_partner(&whose, registry)?;
                ("partners", id.to_string(), document, Vec::new())
            }
            Subject::Network(name) => {
                let there = registry.network(&name).map(|network| json!({"cidrs": network.cidrs}));
                ("networks", name.to_string(), found(there, "network", &name, edit.place)?, Vec::new())
            }
            Subject::Anchor(name) => {
                let there = registry.anchor(&name);
                let files = there.map(|anchor| anchor_files(anchor)).unwrap_or_default();
                let document = found(there.map(|a| anchor_document(a)), "anchor", &name, edit.place)?;
                ("anchors", name.to_string(), document, files)
            }
        };
        let mut document = document;
        // An anchor is of one kind: one that is sent takes the place of the other.
        if let ("anchors", Some(object)) = (nouns, document.as_object_mut()) {
            let roots = ["certificate", "self_signed", "bundle"];
            if roots.iter().any(|key| edit.patch.contains_key(*key)) {
                object.retain(|key, _| !roots.contains(&key.as_str()));
            }
        }
        edit.make(&format!("{nouns}.{id}"), &mut document)?;
        // What is sent is what is in the file; a registry file names it.
        for key in ["certificate", "self_signed"] {
            let sent = document.get(key).and_then(Value::as_str).filter(|text| text.contains("-----BEGIN"));
            let ("anchors", Some(text)) = (nouns, sent) else { continue };
            let (name, text) = (format!("{id}.pem"), text.to_owned());
            files.retain(|file| file.name != name);
            if let Some(object) = document.as_object_mut() {
                object.insert(key.into(), json!(name));
            }
            files.push(DeclaredFile { name, text });
        }
        let file = json!({"environment": environment, nouns: {id.as_str(): document}});
        let text = serde_json::to_string_pretty(&file).unwrap_or_else(|_| file.to_string());
        files.push(DeclaredFile { name: FILE.into(), text });
        Ok(files)
    }
}

fn of_partner(whose: &Whose, registry: &Registry) -> Result<(PartnerId, Value), Problems> {
    match whose {
        Whose::New(id) if registry.partner(id).is_some() => {
            Err(wrong(format!("partners.{id}"), "there is such a partner already"))
        }
        Whose::New(id) => Ok((id.clone(), json!({}))),
        Whose::Of(id) => match registry.partner(id) {
            Some(record) => Ok((id.clone(), partner_document(record))),
            None => Err(wrong(format!("partners.{id}"), "there is no such partner")),
        },
        Whose::WithGrant(grant) => match registry.with_grant(grant) {
            Some(record) => Ok((record.partner.id.clone(), partner_document(record))),
            None => Err(wrong(format!("grants.{grant}"), "there is no such grant")),
        },
    }
}

/// What is there, or an empty table where that is what was meant.
fn found(there: Option<Value>, noun: &str, name: &impl fmt::Display, place: Place) -> Result<Value, Problems> {
    match (there, place) {
        (Some(document), Place::Taken) => Ok(document),
        (None, Place::Free) => Ok(json!({})),
        (Some(_), Place::Free) => Err(wrong(format!("{noun}s.{name}"), &format!("there is such a {noun} already"))),
        (None, Place::Taken) => Err(wrong(format!("{noun}s.{name}"), &format!("there is no such {noun}"))),
    }
}

impl Edit {
    fn make(self, noun: &str, document: &mut Value) -> Result<(), Problems> {
        let key = [&[noun.to_owned()], self.at.as_slice()].concat().join(".");
        let mut table = document;
        let mut there = true;
        for step in &self.at {
            let Some(object) = table.as_object_mut() else { return Err(wrong(key, "is no table")) };
            there = object.contains_key(step);
            table = object.entry(step.clone()).or_insert_with(|| json!({}));
        }
        match (self.place, there) {
            (Place::Taken, false) => return Err(wrong(key, "there is no such thing")),
            (Place::Free, true) if !self.at.is_empty() => {
                return Err(wrong(key, "is there already: change it, or choose another id"));
            }
            _ => {}
        }
        merge(table, self.patch);
        Ok(())
    }
}

fn merge(table: &mut Value, patch: Map<String, Value>) {
    let Some(object) = table.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(object.remove(&key)),
            Value::Object(inner) => {
                let below = object.entry(key).or_insert_with(|| json!({}));
                if !below.is_object() {
                    *below = json!({});
                }
                merge(below, inner);
            }
            value => drop(object.insert(key, value)),
        }
    }
}

fn wrong(key: String, reason: &str) -> Problems {
    let mut problems = Problems::new();
    problems.registry(key, reason, None);
    problems
}
