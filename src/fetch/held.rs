//! One anchor: its sources, and the newest good list of each scope.

use super::item::{self, Item};
use super::{FetchSettings, MAX_FILES, http};
use crate::clock::UnixNanos;
use crate::partner::{Anchor, CrlSource, Der, Revocation};
use crate::trust::{IssuerKey, RevocationList, Scope, Wanted};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// One anchor whose lists are looked after.
#[derive(Clone)]
pub(super) struct Held {
    pub anchor: Arc<Anchor>,
    /// Its CA certificates.
    pub roots: Vec<Der>,
    pub issuers: Arc<Vec<IssuerKey>>,
    pub items: BTreeMap<CrlSource, Item>,
    pub good: HashMap<Scope, Good>,
    pub wanted: Option<Arc<Wanted>>,
}

#[derive(Clone)]
pub(super) struct Good {
    pub list: Arc<RevocationList>,
    /// The source as the anchor names it.
    pub origin: CrlSource,
    /// The file or URL that it came from. Each has one list at most.
    pub source: CrlSource,
    /// There is a copy of it.
    pub kept: bool,
}

impl Held {
    pub fn names(&self, origin: &CrlSource) -> bool {
        let Revocation { sources, distribution_points, .. } = &self.anchor.revocation;
        sources.contains(origin) || (*distribution_points && matches!(origin, CrlSource::Url(_)))
    }

    /// Takes over what was good before and still may be used, where it is newer than what is there: a copy may not have
    /// been kept.
    pub fn carry(&mut self, before: &Held) {
        for (scope, good) in &before.good {
            let signed =
                self.issuers.iter().any(|key| key.spki_sha256 == scope.issuer_spki && key.subject == scope.issuer);
            let newer = self.good.get(scope).is_none_or(|here| {
                good.list.fingerprint() != here.list.fingerprint() && good.list.may_replace(&here.list).is_ok()
            });
            if signed && newer {
                self.good.insert(scope.clone(), good.clone());
            }
        }
    }

    /// Brings the items in line with the sources; files that have appeared in folders and places that certificates have
    /// named come in, lists of sources that are named no more go.
    pub fn list_items(&mut self, base: &Path, settings: &FetchSettings) {
        let mut wanted: BTreeMap<CrlSource, CrlSource> = BTreeMap::new();
        for source in &self.anchor.revocation.sources {
            match source {
                CrlSource::Folder(folder) => {
                    for file in item::files(&base.join(folder), MAX_FILES) {
                        wanted.insert(CrlSource::File(file), source.clone());
                    }
                }
                CrlSource::File(_) | CrlSource::Url(_) => {
                    wanted.insert(source.clone(), source.clone());
                }
            }
        }
        if let Some(points) = &self.wanted {
            let permitted = |url: &str| {
                http::host_of(url).is_some_and(|host| settings.hosts.iter().any(|h| h.eq_ignore_ascii_case(&host)))
            };
            points.retain(permitted);
            for url in points.urls() {
                let source = CrlSource::Url(url);
                wanted.entry(source.clone()).or_insert(source);
            }
            // Known from before a restart; the hosts may be others by now.
            for (source, item) in &self.items {
                if matches!(source, CrlSource::Url(url) if permitted(url)) {
                    wanted.entry(source.clone()).or_insert_with(|| item.origin.clone());
                }
            }
        }
        self.items.retain(|source, _| wanted.contains_key(source));
        for (source, origin) in wanted {
            self.items.entry(source).or_insert_with(|| Item::new(origin));
        }
    }

    /// Lists whose source is gone and that are stale: until then they are used, since nothing newer has come.
    pub fn outlived(&self, now: UnixNanos) -> Vec<Scope> {
        let over = |good: &Good| {
            let ends = good.list.next_update().saturating_add(self.anchor.revocation.grace);
            !self.items.contains_key(&good.source) && now >= ends
        };
        self.good.iter().filter(|(_, good)| over(good)).map(|(scope, _)| scope.clone()).collect()
    }

    /// Whether only certificates have named this place.
    pub fn is_point(&self, source: &CrlSource) -> bool {
        matches!(source, CrlSource::Url(_)) && !self.anchor.revocation.sources.contains(source)
    }
}
