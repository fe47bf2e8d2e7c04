//! From what to what a partner, its credentials and its grants may be put. What follows from time, and what operators do
//! with a verb of its own (suspend, offboard, revoke), is elsewhere; this is about what somebody writes down.

use super::{Credential, CredentialState, Grant, GrantState, PartnerRecord, PartnerState};
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
pub fn illegal_at_first(record: &PartnerRecord) -> Vec<Illegal> {
    let end = record.partner.engaged().ends;
    let credentials = record.credentials.iter();
    end.into_iter().flat_map(|end| credentials.clone().filter_map(move |c| outlives(None, c, end))).collect()
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
        assert_eq!(illegal_at_first(&ends(5_001)).len(), 1);
    }
}
