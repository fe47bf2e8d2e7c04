//! When partners' certificates end, as far as they have been seen: the gauges that warn before it hurts.

use super::{Store, StoreError};
use crate::clock::UnixNanos;
use crate::name::AnchorName;
use crate::partner::CredentialState;
use crate::record::Metrics;
use crate::registry::Registry;
use std::collections::HashMap;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
/// Credentials that end within this time have a gauge of their own.
const NAMED_WITHIN: u32 = 30;

/// Sets the gauges from the certificate last seen of each registered credential.
///
/// # Errors
/// The database failed; the gauges stay as they were.
pub async fn set_expiry_gauges(
    store: &Store,
    registry: &Registry,
    metrics: &Metrics,
    now: UnixNanos,
) -> Result<(), StoreError> {
    let last_seen: HashMap<String, UnixNanos> = store.last_seen_expiry().await?;
    let mut buckets: HashMap<&str, i64> =
        ["expired", "1d", "7d", "30d", "90d", "later", "unseen"].into_iter().map(|b| (b, 0)).collect();
    let mut soon = Vec::new();
    let mut under: HashMap<&AnchorName, i64> = registry.anchors().map(|a| (&a.name, 0)).collect();
    for credential in registry.partners().flat_map(|record| &record.credentials) {
        *under.entry(&credential.anchor).or_default() += 1;
    }
    let used = store.last_seen().await?;
    let mut last_used: HashMap<&AnchorName, UnixNanos> = HashMap::new();
    for credential in registry.partners().flat_map(|record| &record.credentials) {
        if let Some(at) = used.get(credential.id.as_str()) {
            let last = last_used.entry(&credential.anchor).or_insert(*at);
            *last = (*last).max(*at);
        }
    }
    metrics.anchor_last_used.reset();
    for (anchor, at) in last_used {
        metrics.anchor_last_used.with_label_values(&[anchor.as_str()]).set(at.seconds() as f64);
    }
    metrics.anchor_credentials.reset();
    for (anchor, count) in under {
        metrics.anchor_credentials.with_label_values(&[anchor.as_str()]).set(count);
    }
    for record in registry.partners() {
        for credential in record.credentials.iter().filter(|c| c.state == CredentialState::Active) {
            let ends = last_seen.get(credential.id.as_str());
            let within = |days: u32| ends.is_some_and(|e| *e <= now.saturating_add(DAY * days));
            let bucket = match ends {
                None => "unseen",
                Some(_) if within(0) => "expired",
                Some(_) if within(1) => "1d",
                Some(_) if within(7) => "7d",
                Some(_) if within(NAMED_WITHIN) => "30d",
                Some(_) if within(90) => "90d",
                Some(_) => "later",
            };
            *buckets.entry(bucket).or_default() += 1;
            if let (true, Some(ends)) = (within(NAMED_WITHIN), ends) {
                soon.push((record.partner.id.as_str(), credential.id.as_str(), *ends));
            }
        }
    }
    // An API key says itself when it ends.
    for record in registry.partners() {
        let open = record.api_keys.iter().filter(|k| k.revoked.is_none());
        for key in open.filter(|key| key.ends <= now.saturating_add(DAY * NAMED_WITHIN)) {
            soon.push((record.partner.id.as_str(), key.id.as_str(), key.ends));
        }
    }
    soon.sort_by_key(|(_, _, ends)| *ends);
    metrics.credential_expiries(soon.into_iter());
    for (bucket, n) in buckets {
        metrics.credential_expiry_count.with_label_values(&[bucket]).set(n);
    }
    Ok(())
}
