//! From what to what a partner, its credentials and its grants may be put. What follows from time, and what operators do
//! with a verb of its own (suspend, offboard, revoke), is elsewhere; this is about what somebody writes down.

use super::{ApiKey, Credential, CredentialStage, CredentialState, Grant, GrantState, PartnerRecord, PartnerState};
use crate::clock::UnixNanos;

/// What is not legal now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Illegal {
    /// Below the partner, such as `credentials.acme-1.state`.
    pub key: String,
    pub reason: String,
    /// What is legal.
    pub fix: &'static str,
}

/// Whatever of `after` does not follow from `before`.
pub fn illegal(before: &PartnerRecord, after: &PartnerRecord, now: UnixNanos) -> Vec<Illegal> {
    let mut found: Vec<Illegal> = of_partner(before, after).into_iter().collect();
    for credential in &after.credentials {
        let was = before.credentials.iter().find(|c| c.id == credential.id);
        found.extend(was.and_then(|was| of_credential(was, credential)));
    }
    for grant in &after.grants {
        let was = before.grants.iter().find(|g| g.id == grant.id);
        found.extend(was.and_then(|was| of_grant(was, grant, now)));
    }
    let end = after.partner.engaged().ends;
    for credential in &after.credentials {
        let was = before.credentials.iter().find(|c| c.id == credential.id);
        if let Some(illegal) = end.and_then(|end| outlives(was, credential, end)) {
            found.push(illegal);
        }
    }
    for key in &after.api_keys {
        let was = before.api_keys.iter().find(|k| k.id == key.id);
        found.extend(of_api_key(was, key, after, now));
    }
    found
}

fn of_partner(before: &PartnerRecord, after: &PartnerRecord) -> Option<Illegal> {
    let (id, was, is) = (&before.partner.id, before.partner.state, after.partner.state);
    let of = |reason: String, fix| Some(Illegal { key: "state".into(), reason, fix });
    match (was, is) {
        (PartnerState::Draft, _) if is != PartnerState::Ended => None,
        (PartnerState::Active | PartnerState::Suspended, PartnerState::Active | PartnerState::Suspended) => None,
        (PartnerState::Ended, PartnerState::Ended) => None,
        (PartnerState::Ended, _) => of(format!("`{id}` has ended, and never comes back"), "add another partner"),
        (_, PartnerState::Ended) => of(
            format!("`{id}` is {}: ending it closes all that it has", was.as_str()),
            "end it with `partnergate partner offboard`, which writes the report too",
        ),
        (_, PartnerState::Draft) => of(
            format!("`{id}` is {}, and only a new partner is a draft", was.as_str()),
            "stop it with `partnergate partner suspend`",
        ),
        (PartnerState::Draft, _) => None,
    }
}

fn of_credential(before: &Credential, after: &Credential) -> Option<Illegal> {
    let (id, was, is) = (&before.id, before.state, after.state);
    let of = |reason: String, fix| Some(Illegal { key: format!("credentials.{id}.state"), reason, fix });
    match (was, is) {
        (CredentialState::Revoked, CredentialState::Active | CredentialState::Pending) => {
            of(format!("`{id}` was revoked, and never comes back"), "register another credential")
        }
        (CredentialState::Active, CredentialState::Pending) => of(
            format!("`{id}` is active, and only a new credential is pending"),
            "let another one succeed it (`credential rotate`), or end it (`credential revoke`)",
        ),
        _ => None,
    }
}

fn of_grant(before: &Grant, after: &Grant, now: UnixNanos) -> Option<Illegal> {
    let longer = after.period.ends.is_none_or(|ends| before.period.ends.is_some_and(|was| ends > was));
    (before.state(now) == GrantState::Ended && longer).then(|| Illegal {
        key: format!("grants.{}.ends", before.id),
        reason: format!("`{}` has ended: what is over is not extended", before.id),
        fix: "ask for another grant",
    })
}

/// A key is for what is granted, and of one secret and one certificate as long as it lives.
fn of_api_key(before: Option<&ApiKey>, after: &ApiKey, record: &PartnerRecord, now: UnixNanos) -> Vec<Illegal> {
    let id = &after.id;
    let mut found = Vec::new();
    let mut wrong = |key: &str, reason: String, fix| {
        found.push(Illegal { key: format!("api_keys.{id}.{key}"), reason, fix });
    };
    if before == Some(after) || after.revoked.is_some() {
        return found;
    }
    const ANOTHER: &str = "let another key take its place: `credential rotate`";
    if before.is_some_and(|before| before.hash != after.hash) {
        wrong("hash", format!("`{id}` is another key already"), ANOTHER);
    }
    if before.is_some_and(|before| before.bound_to != after.bound_to) {
        wrong("bound_to", format!("`{id}` is bound to another certificate already"), ANOTHER);
    }
    if before.is_some_and(|before| now >= before.ends && after.ends > before.ends) {
        wrong("ends", format!("`{id}` has ended: what is over is not extended"), "make another key");
    }
    let end = record.partner.engaged().ends.filter(|end| after.ends > *end);
    if let Some(end) = end.filter(|_| before.is_none_or(|before| before.ends != after.ends)) {
        let reason = format!("{} is after the engagement has ended ({end})", after.ends);
        wrong("ends", reason, "let it end with the engagement at the latest");
    }
    let successor = after.retiring.as_ref().filter(|_| before.is_none_or(|before| before.retiring != after.retiring));
    let successor = successor.and_then(|retiring| record.api_keys.iter().find(|key| key.id == retiring.successor));
    if let Some(other) = successor.filter(|other| other.stage(now) != CredentialStage::Active) {
        let reason = format!("`{}` is {}, and takes nobody's place", other.id, other.stage(now).as_str());
        wrong("retiring", reason, ANOTHER);
    }
    if before.is_some_and(|before| (&before.grants, &before.operations) == (&after.grants, &after.operations)) {
        return found;
    }
    let open = |grant: &&Grant| matches!(grant.state(now), GrantState::Approved | GrantState::Active);
    let mut granted = Vec::new();
    for name in &after.grants {
        match record.grants.iter().filter(open).find(|grant| grant.id == *name) {
            Some(grant) => granted.push(grant),
            None => {
                wrong("grants", format!("`{name}` is no grant of the partner that is in force"), "see `grant list`")
            }
        }
    }
    for operation in after.operations.iter().flatten().filter(|o| !granted.iter().any(|grant| grant.covers(o))) {
        let reason = format!("`{operation}` is covered by none of the grants of the key");
        wrong("operations", reason, "a key is for what its grants cover, by the ids of operations");
    }
    found
}

/// Nothing outlives the engagement.
fn outlives(before: Option<&Credential>, after: &Credential, end: UnixNanos) -> Option<Illegal> {
    let ends = after.ends.filter(|ends| *ends > end)?;
    let same = before.is_some_and(|before| before.ends == after.ends);
    (!same).then(|| Illegal {
        key: format!("credentials.{}.ends", after.id),
        reason: format!("{ends} is after the engagement has ended ({end})"),
        fix: "let it end with the engagement at the latest",
    })
}

/// The same for a partner that is new.
pub fn illegal_at_first(record: &PartnerRecord, now: UnixNanos) -> Vec<Illegal> {
    let end = record.partner.engaged().ends;
    let credentials = record.credentials.iter();
    let outlive = end.into_iter().flat_map(|end| credentials.clone().filter_map(move |c| outlives(None, c, end)));
    let keys = record.api_keys.iter().flat_map(|key| of_api_key(None, key, record, now));
    outlive.chain(keys).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: UnixNanos = UnixNanos(1_000);

    fn record(partner: &str, credential: &str, more: Value, grant_ends: i64) -> PartnerRecord {
        let mut record = json!({
            "partner": {
                "id": "acme", "name": "Acme", "owner": "o", "state": partner, "time_zone": "UTC",
                "engagement": {"ends": 5_000}, "networks": [],
            },
            "credentials": [{
                "id": "acme-1", "anchor": "ca", "match": {"dns": "a.example"}, "state": credential, "environments": [],
            }],
            "grants": [{
                "id": "g", "owner": "o", "written": ["a"], "operations": ["a"], "environments": [],
                "period": {"ends": grant_ends}, "conditions": {},
            }],
        });
        record["credentials"][0].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn what_is_not_legal_says_what_is() {
        let states = ["draft", "active", "suspended", "ended"];
        let legal = [("draft", "active"), ("draft", "suspended"), ("active", "suspended"), ("suspended", "active")];
        for from in states {
            for to in states {
                let found =
                    illegal(&record(from, "active", json!({}), 2_000), &record(to, "active", json!({}), 2_000), NOW);
                assert_eq!(found.is_empty(), from == to || legal.contains(&(from, to)), "{from} to {to}: {found:?}");
            }
        }
        let states = ["pending", "active", "revoked"];
        let legal = [("pending", "active"), ("pending", "revoked"), ("active", "revoked")];
        for from in states {
            for to in states {
                let found =
                    illegal(&record("active", from, json!({}), 2_000), &record("active", to, json!({}), 2_000), NOW);
                assert_eq!(found.is_empty(), from == to || legal.contains(&(from, to)), "{from} to {to}: {found:?}");
            }
        }
    }

    #[test]
    fn grant_that_is_over_is_not_extended_and_a_credential_does_not_outlive_the_engagement() {
        let of = |ends| record("active", "active", json!({}), ends);
        assert_eq!(illegal(&of(2_000), &of(3_000), NOW), []);
        assert_eq!(illegal(&of(900), &of(800), NOW), []);
        assert_eq!(illegal(&of(900), &of(3_000), NOW)[0].key, "grants.g.ends");
        let ends = |at: i64| record("active", "active", json!({"ends": at}), 2_000);
        assert_eq!(illegal(&of(2_000), &ends(5_000), NOW), []);
        assert_eq!(illegal(&of(2_000), &ends(5_001), NOW)[0].key, "credentials.acme-1.ends");
        assert_eq!(illegal(&ends(9_000), &ends(9_000), NOW), [], "what is there already is not what somebody asks for");
        assert_eq!(illegal_at_first(&ends(5_001), NOW).len(), 1);
    }
}
