//! What is held of revocation lists, as metrics and for people.

use super::held::Held;
use super::{Fetcher, Planned, State, shown};
use crate::clock::UnixNanos;
use crate::name::AnchorName;
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// One list, or one source that fails.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub struct Overview {
    pub anchor: AnchorName,
    pub source: String,
    pub number: String,
    pub revoked: usize,
    /// RFC 3339.
    pub next_update: Option<String>,
    /// thisUpdate and nextUpdate.
    #[serde(skip)]
    pub validity: Option<(UnixNanos, UnixNanos)>,
    pub error: Option<String>,
}

impl Fetcher {
    pub(super) fn gauges(&self, state: &State) {
        let m = &self.metrics;
        // Not all anew: who scrapes in between must not see that nothing is there.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for name in std::mem::take(&mut *shown) {
            let label = [name.as_str()];
            let held = state.anchors.get(&name);
            if held.is_none() {
                for gauge in [&m.crl_lists, &m.crl_revoked, &m.crl_failing] {
                    let _ = gauge.remove_label_values(&label);
                }
            }
            if held.is_none_or(|held| held.good.is_empty()) {
                let _ = m.crl_next_update.remove_label_values(&label);
            }
            if held.is_none_or(|held| held.items.values().all(|item| item.succeeded.is_none())) {
                let _ = m.crl_last_success.remove_label_values(&label);
            }
        }
        *shown = state.anchors.keys().cloned().collect();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (name, held) in &state.anchors {
            let label = [name.as_str()];
            m.crl_lists.with_label_values(&label).set(count(held.good.len()));
            m.crl_revoked.with_label_values(&label).set(count(held.good.values().map(|g| g.list.revoked()).sum()));
            let failing = held.items.values().filter(|item| item.error.is_some()).count();
            m.crl_failing.with_label_values(&label).set(count(failing));
            if let Some(next) = held.good.values().map(|good| good.list.next_update()).min() {
                m.crl_next_update.with_label_values(&label).set(next.seconds() as f64);
            }
            if let Some(oldest) = held.items.values().filter_map(|item| item.succeeded).min() {
                m.crl_last_success.with_label_values(&label).set(oldest.seconds() as f64);
            }
        }
    }

    /// What is held for each anchor, for `status`.
    pub fn overview(&self) -> Vec<Overview> {
        overview_of(&self.state().anchors)
    }
}

impl Planned {
    /// What would be held for each anchor.
    pub fn overview(&self) -> Vec<Overview> {
        overview_of(&self.anchors)
    }
}

fn overview_of(anchors: &BTreeMap<AnchorName, Held>) -> Vec<Overview> {
    let mut out = Vec::new();
    for (name, held) in anchors {
        for good in held.good.values() {
            out.push(Overview {
                anchor: name.clone(),
                source: good.origin.to_string(),
                number: shown(&good.list),
                revoked: good.list.revoked(),
                next_update: Some(good.list.next_update().to_string()),
                validity: Some((good.list.this_update(), good.list.next_update())),
                error: None,
            });
        }
        for (source, item) in held.items.iter().filter(|(_, item)| item.error.is_some()) {
            out.push(Overview {
                anchor: name.clone(),
                source: source.to_string(),
                number: String::new(),
                revoked: 0,
                next_update: None,
                validity: None,
                error: item.error.clone(),
            });
        }
    }
    out
}
