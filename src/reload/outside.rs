//! What anchors need from outside the registry: trust bundles and revocation lists, looked at again and again.
//!
//! In: files and URLs that anchors name. Out: material that is published like any other change. Must never: let one
//! source that is silent hold up what others have sent.

use super::{ChangeError, Publisher, aside};
use crate::disk::{Watched, look_again};
use crate::fetch::{Fetcher, Overview, Planned};
use crate::gateway::Concerns;
use crate::material::{MaterialFiles, Reading};
use crate::registry::Registry;
use crate::trust::Material;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

/// How often it is looked whether a revocation list is to be read or asked for.
const LISTS_INTERVAL: Duration = Duration::from_secs(1);

/// What was read from outside the registry for its anchors, and is not in use yet.
pub(super) struct Outside {
    pub reading: Reading,
    pub lists: Planned,
}

impl Outside {
    /// `current` is what is in use.
    pub fn read(files: &MaterialFiles, fetcher: &Fetcher, registry: &Registry, current: &Material) -> Self {
        let mut reading = files.read(registry, current);
        let lists = fetcher.plan(registry.anchors(), &reading.material.bundles);
        let bundles = reading.material.bundles.clone();
        reading.material = Arc::new(Material { bundles, lists: lists.lists() });
        Outside { reading, lists }
    }
}

/// The files that anchors name.
#[derive(Default)]
pub(super) struct Looked {
    /// As they were when they were read.
    seen: Watched,
    /// As they were at the last look, when that differs.
    changing: Option<Watched>,
}

impl Publisher {
    /// After what was read is live: says what was not taken, and keeps the rest for the next start.
    pub(super) async fn taken(&self, outside: Outside, before: Option<&Material>) {
        let Outside { reading, lists } = outside;
        self.fetcher.adopt(lists);
        let m = &self.metrics;
        m.bundle_ok.reset();
        m.bundle_certificates.reset();
        for (name, bundle) in &reading.material.bundles {
            m.bundle_ok.with_label_values(&[name.as_str()]).set(1);
            let certificates = i64::try_from(bundle.certificates.len()).unwrap_or(i64::MAX);
            m.bundle_certificates.with_label_values(&[name.as_str()]).set(certificates);
        }
        for refused in &reading.refused {
            m.bundle_ok.with_label_values(&[refused.anchor.as_str()]).set(0);
            let then =
                if refused.kept { "the last good bundle is kept" } else { "every certificate under it is refused" };
            let file = refused.file.display();
            tracing::error!(anchor = %refused.anchor, %file, reason = %refused.reason, "no trust bundle; {then}");
        }
        self.files.keep(&reading.material, before);
        *self.bundles.lock().await = Looked { seen: reading.watched, changing: None };
    }

    /// Reads the files that anchors name when they have changed and stopped changing. A config that is wrong meanwhile
    /// is no hindrance: keys that a trust domain has withdrawn end now.
    pub(super) async fn look_at_bundles(&self) -> Result<(), ChangeError> {
        let _changing = self.state.lock().await;
        let mut looked = self.bundles.lock().await;
        let now = look_again(&looked.seen);
        if now == looked.seen {
            looked.changing = None;
            return Ok(());
        }
        if looked.changing.as_ref() != Some(&now) {
            looked.changing = Some(now);
            return Ok(());
        }
        drop(looked);
        let Some(live) = self.live.load_full() else { return Ok(()) };
        let since = Instant::now();
        let outside = Outside::read(&self.files, &self.fetcher, &live.snapshot.registry, &live.snapshot.material);
        if outside.reading.material != live.snapshot.material {
            let material = Some(outside.reading.material.clone());
            let registry = live.snapshot.registry.clone();
            let snapshot = live.snapshot.with_registry(registry, &[], material, self.clock.now())?;
            let generation = snapshot.revision.trust;
            self.publish(snapshot, None, Concerns::Everybody, since).await?;
            tracing::info!(generation, "trust bundles have changed");
        }
        self.taken(outside, Some(&live.snapshot.material)).await;
        Ok(())
    }

    /// What is held of revocation lists.
    pub fn lists(&self) -> Vec<Overview> {
        self.fetcher.overview()
    }

    /// Makes live what of revocation lists has been taken over since.
    async fn relist(&self) -> Result<(), ChangeError> {
        let _changing = self.state.lock().await;
        let (Some(since), Some(live)) = (self.fetcher.arrived(), self.live.load_full()) else { return Ok(()) };
        let before = &live.snapshot.material;
        let material = Material { bundles: before.bundles.clone(), lists: self.fetcher.lists() };
        if material == **before {
            return Ok(());
        }
        let registry = live.snapshot.registry.clone();
        let published = match live.snapshot.with_registry(registry, &[], Some(Arc::new(material)), self.clock.now()) {
            Ok(snapshot) => self.publish(snapshot, None, Concerns::Everybody, since).await,
            Err(e) => Err(e.into()),
        };
        if published.is_err() {
            self.fetcher.put_off(since);
        }
        published
    }

    /// Looks at files and folders of revocation lists and at what certificates have asked for, and makes live what came,
    /// from URLs at once: one that does not answer holds up nothing that others have sent.
    pub async fn watch_lists(self: Arc<Self>) {
        let mut again = tokio::time::interval(LISTS_INTERVAL);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = tokio::select! {
                _ = again.tick() => true,
                () = self.fetcher.coming() => false,
            };
            let this = self.clone();
            let looked = aside(async move {
                if look {
                    this.fetcher.look();
                }
                this.relist().await
            });
            match looked.await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => e.log(),
                Err(e) => self.failed(&e),
            }
        }
    }

    fn failed(&self, panicked: &JoinError) {
        self.metrics.panics.inc();
        tracing::error!(error = %panicked, "revocation lists could not be looked at; it is tried again");
    }

    /// Asks the URLs of revocation lists when it is time. One that hangs keeps nobody from asking the others.
    pub async fn fetch_lists(self: Arc<Self>) {
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LISTS_INTERVAL) => {}
                Some(_) = asking.join_next() => continue,
            }
            let this = self.clone();
            asking.spawn(async move {
                let work = this.clone();
                // Aside as a whole: what is asked next is behind the lock that a large list is verified under.
                if let Err(e) = aside(async move { work.fetcher.ask().await }).await {
                    this.failed(&e);
                }
            });
        }
    }
}
