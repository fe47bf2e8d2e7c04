//! How many connections each partner has open, so that one cannot take the places of all.
//!
//! In: the partner of a connection. Out: a [`Share`] that is given back when the connection ends. Identities that
//! belong to no partner have one share together. Must never: keep anything of a partner that has no connection.

use super::Counted;
use crate::name::PartnerId;
use crate::record::Metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Open connections by partner; `None` stands for every unknown identity.
pub(super) struct Shares {
    most: usize,
    open: Mutex<HashMap<Option<PartnerId>, usize>>,
}

/// One connection's place in its partner's share.
pub(super) struct Share {
    shares: Arc<Shares>,
    partner: Option<PartnerId>,
    _shown: Counted,
}

impl Shares {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Shares { most, open: Mutex::default() })
    }

    /// A place for one more connection, unless the partner has all of its share.
    pub(super) fn take(self: &Arc<Self>, partner: Option<PartnerId>, metrics: &Metrics) -> Option<Share> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(partner.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(open);
        let shown = Counted::new(metrics.open_of(partner.as_ref().map(PartnerId::as_str)));
        Some(Share { shares: self.clone(), partner, _shown: shown })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.partner) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.partner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partner_has_a_share_of_its_own_and_gets_it_back() {
        let metrics = Metrics::new(100, false).unwrap();
        let shares = Shares::new(2);
        let acme = || Some(PartnerId::parse("acme").unwrap());
        let globex = || Some(PartnerId::parse("globex").unwrap());
        let held: Vec<Share> = (0..2).map(|_| shares.take(acme(), &metrics).unwrap()).collect();
        assert!(shares.take(acme(), &metrics).is_none());
        let others = [shares.take(globex(), &metrics), shares.take(None, &metrics), shares.take(None, &metrics)];
        assert!(others.iter().all(Option::is_some));
        assert!(shares.take(None, &metrics).is_none(), "unknown identities share one");
        drop(held);
        assert!(shares.take(acme(), &metrics).is_some());
        drop(others);
        assert!(shares.open.lock().unwrap().is_empty(), "nothing is kept");
    }
}
