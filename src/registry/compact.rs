//! What many partners say alike, kept once: names of networks, anchors, environments, operations and zones.

use crate::clock::Zone;
use crate::name::{AnchorName, CredentialId, Environment, NetworkName};
use crate::operation::OperationId;
use crate::partner::{PartnerRecord, Provenance};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// The names that records have in common. To be kept as long as records come, and no longer.
#[derive(Default)]
pub struct Compact {
    anchors: HashSet<AnchorName>,
    environments: HashSet<Environment>,
    networks: HashSet<NetworkName>,
    operations: HashSet<OperationId>,
    zones: HashMap<String, Zone>,
    approvals: HashSet<Arc<Provenance>>,
}

impl Compact {
    /// The same record in as little memory as it takes. It may be in memory for years.
    pub fn record(&mut self, mut record: PartnerRecord) -> PartnerRecord {
        let partner = &mut record.partner;
        share_all(&mut self.networks, &mut partner.networks);
        if let Some(zone) = self.zones.get(partner.time_zone.name()) {
            partner.time_zone = zone.clone();
        } else {
            self.zones.insert(partner.time_zone.name().to_owned(), partner.time_zone.clone());
        }
        let mut own: HashSet<CredentialId> = HashSet::new();
        for credential in &mut record.credentials {
            own.insert(credential.id.clone());
            share(&mut self.anchors, &mut credential.anchor);
            share_all(&mut self.environments, &mut credential.environments);
        }
        for grant in &mut record.grants {
            grant.written.shrink_to_fit();
            if let Some(approval) = &mut grant.approval {
                share(&mut self.approvals, approval);
            }
            share_all(&mut self.operations, &mut grant.operations);
            share_all(&mut self.environments, &mut grant.environments);
            if let Some(networks) = &mut grant.networks {
                share_all(&mut self.networks, networks);
            }
            if let Some(credentials) = &mut grant.credentials {
                share_all(&mut own, credentials);
            }
        }
        for key in &mut record.api_keys {
            share_all(&mut self.environments, &mut key.environments);
            if let Some(approval) = &mut key.approval {
                share(&mut self.approvals, approval);
            }
            if let Some(operations) = &mut key.operations {
                share_all(&mut self.operations, operations);
            }
            if let Some(networks) = &mut key.networks {
                share_all(&mut self.networks, networks);
            }
        }
        record.credentials.shrink_to_fit();
        record.api_keys.shrink_to_fit();
        record.grants.shrink_to_fit();
        record
    }
}

fn share_all<T: Clone + Eq + Hash>(known: &mut HashSet<T>, names: &mut Vec<T>) {
    names.shrink_to_fit();
    for name in names {
        share(known, name);
    }
}

/// Equal texts become the same text.
fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, name: &mut T) {
    match known.get(name) {
        Some(first) => *name = first.clone(),
        None => {
            known.insert(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn records_say_what_they_said_before_and_share_their_words() {
        let record = |id: &str| -> PartnerRecord {
            let grant = json!({
                "id": format!("{id}-reads"), "owner": "billing", "written": ["invoices.*"],
                "operations": ["invoices.list", "invoices.read"], "networks": ["dc1"], "credentials": [id],
                "period": {}, "environments": ["production"],
            });
            let credential = json!({
                "id": id, "anchor": "ca", "match": {"dns": "a.example"}, "state": "active",
                "environments": ["production"],
            });
            let partner = json!({
                "id": id, "name": "A", "owner": "billing", "state": "active", "time_zone": "Europe/Berlin",
                "engagement": {}, "networks": ["dc1"],
            });
            serde_json::from_value(json!({"partner": partner, "credentials": [credential], "grants": [grant]})).unwrap()
        };
        let mut compact = Compact::default();
        let (acme, globex) = (compact.record(record("acme")), compact.record(record("globex")));
        assert_eq!((&acme, &globex), (&record("acme"), &record("globex")));
        fn words(r: &PartnerRecord) -> Vec<&str> {
            let (credential, grant) = (&r.credentials[0], &r.grants[0]);
            let mut words = vec![r.partner.time_zone.name(), credential.anchor.as_str()];
            words.extend(r.partner.networks.iter().chain(grant.networks.iter().flatten()).map(NetworkName::as_str));
            words.extend(credential.environments.iter().chain(&grant.environments).map(Environment::as_str));
            words.extend(grant.operations.iter().map(OperationId::as_str));
            words
        }
        for (one, other) in words(&acme).into_iter().zip(words(&globex)) {
            assert!(std::ptr::eq(one, other), "`{one}` is there twice");
        }
        assert!(std::ptr::eq(
            acme.credentials[0].id.as_str(),
            acme.grants[0].credentials.as_ref().unwrap()[0].as_str()
        ));
    }
}
