//! One partner changed: as it is in the form of a registry file, with something else in it. What is done with files is
//! done with it.

use crate::document::Problems;
use crate::name::{Environment, GrantId, PartnerId};
use crate::registry::Registry;
use crate::store::{DeclaredFile, partner_document};
use serde_json::{Map, Value, json};

/// What the file is called where something is wrong with it.
const FILE: &str = "call.json";

/// What is to become of a partner.
pub struct Edited {
    pub partner: Whose,
    pub edit: Edit,
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
    /// Where the table is within the partner, such as `grants` and `acme-items`.
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

impl Edited {
    pub(super) fn file(self, registry: &Registry, environment: &Environment) -> Result<DeclaredFile, Problems> {
        let (id, mut document) = match &self.partner {
            Whose::New(id) if registry.partner(id).is_some() => {
                return Err(wrong(format!("partners.{id}"), "there is such a partner already"));
            }
            Whose::New(id) => (id.clone(), json!({})),
            Whose::Of(id) => match registry.partner(id) {
                Some(record) => (id.clone(), partner_document(record)),
                None => return Err(wrong(format!("partners.{id}"), "there is no such partner")),
            },
            Whose::WithGrant(grant) => match registry.with_grant(grant) {
                Some(record) => (record.partner.id.clone(), partner_document(record)),
                None => return Err(wrong(format!("grants.{grant}"), "there is no such grant")),
            },
        };
        self.edit.make(&id, &mut document)?;
        let file = json!({"environment": environment, "partners": {id.as_str(): document}});
        let text = serde_json::to_string_pretty(&file).unwrap_or_else(|_| file.to_string());
        Ok(DeclaredFile { name: FILE.into(), text })
    }
}

impl Edit {
    fn make(self, partner: &PartnerId, document: &mut Value) -> Result<(), Problems> {
        let key = [&[format!("partners.{partner}")], self.at.as_slice()].concat().join(".");
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
