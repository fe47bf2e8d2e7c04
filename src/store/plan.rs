//! What applying a declaration would change: computed first, shown, then done all or nothing.

use super::declaration::{Declaration, partner_document};
use crate::document::Problems;
use crate::name::NetworkName;
use crate::operation::{OperationId, Operations};
use crate::partner::{ANY_NETWORK, Grant, PartnerRecord};
use crate::registry::{Change, Registry, find_credential};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What may be done beyond adding and changing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    /// Remove what the files do not declare.
    #[serde(default)]
    pub prune: bool,
    /// Let unchanged patterns of grants cover operations that have appeared since.
    #[serde(default)]
    pub widen: bool,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLine {
    /// `create`, `change`, `remove` or `would-widen`.
    pub action: String,
    /// `partner`, `network`, `anchor` or `grant`.
    pub noun: String,
    pub id: String,
    /// What changes, for people.
    pub detail: String,
}

/// Changes and how they look.
#[derive(Clone, Debug)]
pub struct Plan {
    pub changes: Vec<Change>,
    pub lines: Vec<PlanLine>,
}

/// Compares a declaration with the registry and expands its grants with the operations of the live config.
///
/// # Errors
/// Grants whose operations do not exist.
pub fn plan(
    declaration: Declaration,
    registry: &Registry,
    operations: &Operations,
    options: PlanOptions,
) -> Result<Plan, Problems> {
    let mut problems = Problems::new();
    let mut plan = Plan { changes: Vec::new(), lines: Vec::new() };
    for network in declaration.networks.iter() {
        let old = registry.networks().find(|n| n.name == network.name);
        if old.map(|o| &**o) != Some(network) {
            plan.line(
                action(old.is_some()),
                "network",
                network.name.as_str(),
                network.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            );
            plan.changes.push(Change::Network(network.name.clone(), Some(network.clone())));
        }
    }
    for anchor in declaration.anchors.iter() {
        let old = registry.anchor(&anchor.name);
        if old.map(|o| &**o) != Some(anchor) {
            let bound: Vec<&str> = anchor.partners.iter().map(|p| p.as_str()).collect();
            plan.line(
                action(old.is_some()),
                "anchor",
                anchor.name.as_str(),
                format!("may speak for {}", bound.join(", ")),
            );
            plan.changes.push(Change::Anchor(anchor.name.clone(), Some(anchor.clone())));
        }
    }
    for (mut record, node) in declaration.partners.iter().cloned() {
        let id = record.partner.id.clone();
        let old = registry.partner(&id);
        for grant in &mut record.grants {
            let before = old.and_then(|r| r.grants.iter().find(|g| g.id == grant.id));
            if let Err(reasons) = expand(grant, before, operations, options, &mut plan) {
                let keys = ["grants", grant.id.as_str(), "operations"];
                let place = keys.iter().try_fold(&node, |at, key| at.get(key)).unwrap_or(&node);
                for reason in reasons {
                    problems.push(place.error(format!("partners.{id}.grants.{}.operations", grant.id), reason, None));
                }
            }
        }
        if old.map(|o| &**o) != Some(&record) {
            plan.line(action(old.is_some()), "partner", id.as_str(), difference(old.map(|o| &**o), &record));
            plan.changes.push(Change::Partner(id, Some(record)));
        }
    }
    check_references(&declaration, registry, &mut problems);
    if options.prune {
        prune(&declaration, registry, &mut plan);
    }
    if problems.has_errors() { Err(problems) } else { Ok(plan) }
}

impl Plan {
    fn line(&mut self, action: &str, noun: &str, id: &str, detail: String) {
        self.lines.push(PlanLine { action: action.into(), noun: noun.into(), id: id.into(), detail });
    }
}

fn action(exists: bool) -> &'static str {
    if exists { "change" } else { "create" }
}

/// Names that neither the files nor the registry know, each at the place where it is written. What else has to hold,
/// [`Registry::with`] says.
fn check_references(declaration: &Declaration, registry: &Registry, problems: &mut Problems) {
    let known = |name: &NetworkName| {
        name.as_str() == ANY_NETWORK
            || declaration.networks.iter().any(|n| n.name == *name)
            || registry.networks().any(|n| n.name == *name)
    };
    for (record, node) in &declaration.partners {
        let id = &record.partner.id;
        let mut wrong = |keys: &[&str], text: &str, reason: String| {
            let place = keys.iter().try_fold(node, |at, key| at.get(key)).unwrap_or(node);
            let item = place.items().iter().find(|i| i.text() == Some(text)).unwrap_or(place);
            problems.push(item.error(format!("partners.{id}.{}", keys.join(".")), reason, None));
        };
        let absent = |noun: &str, name: &str| format!("there is no {noun} `{name}`");
        for name in record.partner.networks.iter().filter(|n| !known(n)) {
            wrong(&["networks"], name.as_str(), absent("network", name.as_str()));
        }
        for credential in &record.credentials {
            let keys = ["credentials", credential.id.as_str(), "anchor"];
            let declared = declaration.anchors.iter().find(|a| a.name == credential.anchor);
            match declared.or_else(|| registry.anchor(&credential.anchor).map(|a| &**a)) {
                None => wrong(&keys, "", absent("anchor", credential.anchor.as_str())),
                Some(anchor) if !anchor.partners.contains(id) => {
                    let reason = format!("the anchor `{}` of `{}` is not bound to `{id}`", anchor.name, credential.id);
                    wrong(&keys, "", reason);
                }
                Some(_) => {}
            }
        }
        for grant in &record.grants {
            for name in grant.networks.iter().flatten().filter(|n| !known(n)) {
                wrong(&["grants", grant.id.as_str(), "networks"], name.as_str(), absent("network", name.as_str()));
            }
            for name in grant.credentials.iter().flatten().filter(|c| find_credential(record, c).is_none()) {
                let reason = format!("`{id}` has no credential `{name}`");
                wrong(&["grants", grant.id.as_str(), "credentials"], name.as_str(), reason);
            }
        }
    }
}

/// Fills in the operations. A grant that is written as before keeps what it meant, so that an operation which appeared
/// since is not covered by accident.
fn expand(
    grant: &mut Grant,
    before: Option<&Grant>,
    operations: &Operations,
    options: PlanOptions,
    plan: &mut Plan,
) -> Result<(), Vec<String>> {
    let mut wanted: BTreeSet<OperationId> = BTreeSet::new();
    let mut problems = Vec::new();
    for pattern in &grant.written {
        match operations.expand(pattern) {
            Ok(ids) => wanted.extend(ids),
            Err(reason) => problems.push(reason),
        }
    }
    match before {
        Some(old) if old.written == grant.written && !options.widen => {
            let new: Vec<&str> = wanted.iter().filter(|o| !old.covers(o)).map(OperationId::as_str).collect();
            if !new.is_empty() {
                let detail = format!(
                    "`{}` would now also cover {}; apply with --widen to accept",
                    grant.written.join(", "),
                    new.join(", ")
                );
                plan.line("would-widen", "grant", grant.id.as_str(), detail);
            }
            grant.operations = old.operations.clone();
            Ok(())
        }
        _ if problems.is_empty() => {
            grant.operations = wanted.into_iter().collect();
            Ok(())
        }
        _ => Err(problems),
    }
}

fn prune(declaration: &Declaration, registry: &Registry, plan: &mut Plan) {
    let mut gone: Vec<_> = registry
        .partners()
        .map(|r| &r.partner.id)
        .filter(|id| !declaration.partners.iter().any(|(r, _)| &r.partner.id == *id))
        .cloned()
        .collect();
    gone.sort();
    for id in gone {
        plan.line("remove", "partner", id.as_str(), "not declared".into());
        plan.changes.push(Change::Partner(id, None));
    }
    for network in registry.networks().filter(|n| !declaration.networks.iter().any(|d| d.name == n.name)) {
        plan.line("remove", "network", network.name.as_str(), "not declared".into());
        plan.changes.push(Change::Network(network.name.clone(), None));
    }
    for anchor in registry.anchors().filter(|a| !declaration.anchors.iter().any(|d| d.name == a.name)) {
        plan.line("remove", "anchor", anchor.name.as_str(), "not declared".into());
        plan.changes.push(Change::Anchor(anchor.name.clone(), None));
    }
}

/// The keys that differ, as dotted paths with old and new value.
fn difference(old: Option<&PartnerRecord>, new: &PartnerRecord) -> String {
    let Some(old) = old else {
        return format!("{} credentials, {} grants", new.credentials.len(), new.grants.len());
    };
    let mut out = Vec::new();
    compare("", &partner_document(old), &partner_document(new), &mut out);
    for grant in &new.grants {
        if let Some(before) = old.grants.iter().find(|g| g.id == grant.id) {
            let added: Vec<&str> =
                grant.operations.iter().filter(|o| !before.covers(o)).map(OperationId::as_str).collect();
            let removed: Vec<&str> =
                before.operations.iter().filter(|o| !grant.covers(o)).map(OperationId::as_str).collect();
            if !added.is_empty() || !removed.is_empty() {
                out.push(format!("grant {}: +[{}] -[{}]", grant.id, added.join(", "), removed.join(", ")));
            }
        }
    }
    out.join("; ")
}

fn compare(path: &str, old: &serde_json::Value, new: &serde_json::Value, out: &mut Vec<String>) {
    use serde_json::Value::Object;
    if old == new {
        return;
    }
    match (old, new) {
        (Object(a), Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(x), Some(y)) => compare(&at, x, y, out),
                    (None, Some(_)) => out.push(format!("{at} added")),
                    (Some(_), None) => out.push(format!("{at} removed")),
                    (None, None) => {}
                }
            }
        }
        _ => out.push(format!("{path}: {old} → {new}")),
    }
}
