//! What a change permits that was not permitted before. Nothing said means: no more than there was.

use crate::history::middles;
use crate::identity::{Certificate, Fingerprint, Match};
use crate::partner::{
    Anchor, ApiKey, ClientAuthUsage, Credential, CredentialState, Grant, Network, Partner, PartnerState, Period,
    Retiring, Root,
};
use std::fmt::Display;

/// Names that one sentence has; of more it says how many.
const SHOWN: usize = 10;

/// A partner without its credentials and grants. One that is new may do nothing yet; but what custom rules do not count for it is
/// for somebody else to see.
pub(super) fn of_partner(before: Option<&Partner>, after: &Partner) -> Vec<String> {
    let Some(before) = before else { return observed(None, after) };
    let mut widens = Vec::new();
    added(&mut widens, "may call from", &before.networks, &after.networks);
    period(&mut widens, "the engagement", &before.engagement, &after.engagement);
    if before.state != PartnerState::Active && after.state == PartnerState::Active {
        widens.push(format!("is active, and was {}", before.state.as_str()));
    }
    if let Some(was) = &before.offboarding {
        match &after.offboarding {
            None => widens.push(format!("stays, and was to end at {}", was.ends)),
            Some(is) if is.ends > was.ends => {
                widens.push(format!("ends at {}, and was to end at {}", is.ends, was.ends))
            }
            Some(_) => {}
        }
    }
    widens.extend(observed(Some(before), after));
    seen(&mut widens, "labels", before.labels != after.labels);
    seen(&mut widens, "a time zone", before.time_zone != after.time_zone);
    widens
}

/// Custom rules that do not count for it, or longer than before.
fn observed(before: Option<&Partner>, after: &Partner) -> Vec<String> {
    let more = after
        .observe
        .iter()
        .filter(|(reason, until)| before.and_then(|before| before.observe.get(*reason)).is_none_or(|was| was < *until));
    more.map(|(reason, until)| format!("is only observed for `{reason}` until {until}")).collect()
}

/// A credential that is one certificate or one key needs nobody else as long as its partner may do nothing; whom a name
/// shows, a CA says. `granted`: the partner has grants that it could use.
pub(super) fn of_credential(before: Option<&Credential>, after: &Credential, granted: bool) -> Vec<String> {
    let pinned = matches!(after.matching, Match::FingerprintSha256(_) | Match::SpkiSha256(_));
    let kind = after.matching.kind().as_str();
    let mut widens = Vec::new();
    match before {
        None if !pinned || granted => widens.push(format!("is new, recognised by {kind}")),
        None => {}
        Some(before) => {
            if (&before.matching, &before.anchor) != (&after.matching, &after.anchor) {
                widens.push(format!("is recognised by another {kind}"));
            }
            added(&mut widens, "is accepted in", &before.environments, &after.environments);
            if before.state != CredentialState::Active && after.state == CredentialState::Active {
                widens.push(format!("is active, and was {}", before.state.as_str()));
            }
            if before.ends.is_some_and(|was| after.ends.is_none_or(|is| is > was)) {
                let to = after.ends.map_or_else(|| "for good".to_owned(), |ends| format!("until {ends}"));
                widens.push(format!("is accepted longer, {to}"));
            }
            succession(&mut widens, before.retiring.as_deref(), after.retiring.as_deref());
            seen(&mut widens, "labels", before.labels != after.labels);
        }
    }
    widens
}

pub(super) fn of_grant(before: Option<&Grant>, after: &Grant) -> Vec<String> {
    let Some(before) = before else {
        let covers = named("is new, and covers", after.operations.iter());
        return vec![covers.unwrap_or_else(|| "is new, and covers nothing".into())];
    };
    let mut widens = Vec::new();
    added(&mut widens, "covers", &before.operations, &after.operations);
    narrowed(&mut widens, "from", "every network of the partner", before.networks.as_ref(), after.networks.as_ref());
    narrowed(
        &mut widens,
        "with",
        "every credential of the partner",
        before.credentials.as_ref(),
        after.credentials.as_ref(),
    );
    added(&mut widens, "holds in", &before.environments, &after.environments);
    period(&mut widens, "it", &before.period, &after.period);
    if before.conditions != after.conditions {
        widens.push("has other conditions".into());
    }
    if before.revoked.is_some() && after.revoked.is_none() {
        widens.push("was revoked".into());
    }
    widens
}

/// A key that is new narrows what the certificate may do; but where a route asks for one, it opens that.
pub(super) fn of_api_key(before: Option<&ApiKey>, after: &ApiKey) -> Vec<String> {
    let mut widens = Vec::new();
    let Some(before) = before else {
        widens.push(format!("is new, bound to {}, until {}", after.bound_to, after.ends));
        widens.extend(named("is for the grants", after.grants.iter()));
        let of_them = after.operations.as_ref().map(|operations| named("of them for", operations.iter()));
        widens.extend(of_them.map(|named| named.unwrap_or_else(|| "for no operation of them".into())));
        let from = after.networks.as_ref().map(|networks| named("comes from", networks.iter()));
        widens.extend(from.map(|named| named.unwrap_or_else(|| "comes from nowhere".into())));
        return widens;
    };
    if (before.hash, before.bound_to) != (after.hash, after.bound_to) {
        widens.push(format!("is another key, bound to {}", after.bound_to));
    }
    added(&mut widens, "is for the grants", &before.grants, &after.grants);
    let all = "every operation of its grants";
    narrowed(&mut widens, "is for", all, before.operations.as_ref(), after.operations.as_ref());
    narrowed(&mut widens, "from", "every network of the grant", before.networks.as_ref(), after.networks.as_ref());
    added(&mut widens, "is accepted in", &before.environments, &after.environments);
    if after.ends > before.ends {
        widens.push(format!("is accepted longer, until {}", after.ends));
    }
    if before.revoked.is_some() && after.revoked.is_none() {
        widens.push("was revoked".into());
    }
    succession(&mut widens, before.retiring.as_deref(), after.retiring.as_deref());
    widens
}

/// What is being succeeded stays for longer than it would have.
fn succession(widens: &mut Vec<String>, before: Option<&Retiring>, after: Option<&Retiring>) {
    let Some(was) = before else { return };
    match after {
        None => widens.push(format!("stays, and was being succeeded by `{}`", was.successor)),
        Some(is) if is.successor != was.successor => {
            widens.push(format!("waits for `{}` to succeed it, and waited for `{}`", is.successor, was.successor));
        }
        Some(is) if is.until() > was.until() => {
            widens.push(format!("is accepted beside `{}` for longer", is.successor));
        }
        Some(_) => {}
    }
}

/// A network that is new is nobody's yet.
pub(super) fn of_network(before: Option<&Network>, after: &Network) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let more = after.cidrs.iter().filter(|cidr| !before.cidrs.iter().any(|known| known.contains(*cidr)));
    named("holds", more).into_iter().collect()
}

pub(super) fn of_anchor(before: Option<&Anchor>, after: &Anchor) -> Vec<String> {
    let Some(before) = before else {
        let new = format!("is new: {}", shown(&after.root));
        return std::iter::once(new).chain(named("may speak for", after.partners.iter())).collect();
    };
    let mut widens = Vec::new();
    if before.root != after.root {
        widens.push(format!("is another CA: {}; it was {}", shown(&after.root), shown(&before.root)));
    }
    added(&mut widens, "may speak for", &before.partners, &after.partners);
    added(&mut widens, "is accepted in", &before.environments, &after.environments);
    if before.client_auth == ClientAuthUsage::Required && after.client_auth != before.client_auth {
        widens.push("takes certificates without the clientAuth usage".into());
    }
    match (before.max_lifetime, after.max_lifetime) {
        (Some(_), None) => widens.push("takes certificates of any lifetime".into()),
        (Some(before), Some(after)) if after > before => widens.push("takes certificates of a longer lifetime".into()),
        _ => {}
    }
    if before.revocation != after.revocation {
        widens.push("finds out otherwise what is revoked".into());
    }
    widens
}

/// Whom somebody is about to trust.
fn shown(root: &Root) -> String {
    match root {
        Root::Certificate { certificate } | Root::SelfSigned { self_signed: certificate } => {
            let kind = if matches!(root, Root::SelfSigned { .. }) { "the client certificate " } else { "" };
            let sha256 = Fingerprint::of(&certificate.0);
            match Certificate::from_der(&certificate.0) {
                Ok(facts) => format!("{kind}{} until {}, SHA-256 {sha256}", facts.subject, facts.not_after),
                Err(_) => format!("{kind}SHA-256 {sha256}"),
            }
        }
        Root::Bundle { bundle } => format!("the bundle of {} in {}", bundle.trust_domain, bundle.file.display()),
    }
}

/// What only policy knows the meaning of.
fn seen(widens: &mut Vec<String>, what: &str, changed: bool) {
    if changed {
        widens.push(format!("has {what} that policy has not seen"));
    }
}

/// What is in a list and was not.
fn added<T: Display + PartialEq + std::hash::Hash + Eq>(
    widens: &mut Vec<String>,
    what: &str,
    before: &[T],
    after: &[T],
) {
    let (before, after) = middles(before, after);
    let known: std::collections::HashSet<&T> = before.iter().collect();
    widens.extend(named(what, after.iter().filter(|name| !known.contains(name))));
}

/// A list that narrows, where no list is all there is.
fn narrowed<T: Display + Eq + std::hash::Hash>(
    widens: &mut Vec<String>,
    what: &str,
    all: &str,
    before: Option<&Vec<T>>,
    after: Option<&Vec<T>>,
) {
    match (before, after) {
        (Some(before), Some(after)) => added(widens, what, before, after),
        (Some(_), None) => widens.push(format!("{what} {all}")),
        (None, _) => {}
    }
}

fn period(widens: &mut Vec<String>, what: &str, before: &Period, after: &Period) {
    if before.starts.is_some() && after.starts.is_none_or(|starts| Some(starts) < before.starts) {
        let from = after.starts.map_or_else(|| "ever".to_owned(), |starts| starts.to_string());
        widens.push(format!("{what} starts earlier, from {from}"));
    }
    if before.ends.is_some() && after.ends.is_none_or(|ends| Some(ends) > before.ends) {
        let to = after.ends.map_or_else(|| "for good".to_owned(), |ends| format!("until {ends}"));
        widens.push(format!("{what} goes on longer, {to}"));
    }
}

fn named<T: Display>(what: &str, names: impl Iterator<Item = T>) -> Option<String> {
    let mut names = names;
    let shown: Vec<String> = names.by_ref().take(SHOWN).map(|name| name.to_string()).collect();
    match (shown.is_empty(), names.count()) {
        (true, _) => None,
        (false, 0) => Some(format!("{what} {}", shown.join(", "))),
        (false, more) => Some(format!("{what} {} and {more} more", shown.join(", "))),
    }
}
