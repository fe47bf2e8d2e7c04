//! The policy in a bundle: of which one a snapshot is built, and what happens when its URL has another one.
//!
//! In: bundles that `fetch` has verified. Out: snapshots, published like any other change. Must never: leave the last
//! good policy for one that does not make a whole snapshot; forget to say why it was not left.

use super::{ChangeError, Publisher, aside, log_warnings};
use crate::config::{BundleConfig, Config};
use crate::document::Problems;
use crate::fetch::{Asked, BundleFetcher, BundleSettings, Fetched, FetchedFrom, First};
use crate::gateway::Concerns;
use crate::policy::bundle::SignedBy;
use crate::snapshot::{Snapshot, Sources};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// What is wrong with a policy, in one line: of more than this only how many there are.
const MOST: usize = 3;

/// The bundle that the policy comes in.
#[derive(Serialize, JsonSchema)]
pub struct PolicyBundle {
    /// The file or URL.
    source: String,
    /// Of the one that decides, as its manifest names it.
    revision: Option<String>,
    /// Null where no signature was verified.
    signed_by: Option<SignedBy>,
    /// When the server was last asked and what it has is what decides; null for a file, and where it never was.
    last_success: Option<String>,
    /// Since when the server is silent, or has a bundle that is refused; null while all is well.
    failing_since: Option<String>,
    /// Why.
    error: Option<String>,
    /// It has been failing for longer than the config permits.
    stale: bool,
}

/// The snapshot of a config whose policy may be in the bundle of a URL. What `running` has of the same URL goes on;
/// otherwise the server is asked, and then the copy.
pub(super) async fn build(
    fetcher: &BundleFetcher,
    config: &mut Config,
    running: Option<&Config>,
    build: impl Fn(&Config) -> Result<(Snapshot, Problems), Problems>,
) -> Result<(Snapshot, Problems), Problems> {
    let url = |config: &Config| config.bundle.as_ref().and_then(BundleConfig::settings).map(|s| s.url.clone());
    let wrong = |config: &Config, e: std::io::Error| {
        let mut problems = Problems::new();
        let source = config.bundle.as_ref().map(|bundle| bundle.source.clone()).unwrap_or_default();
        problems.file(&source, format!("the policy bundle cannot be asked for: {e}"), None);
        problems
    };
    let settings = config.bundle.as_ref().and_then(BundleConfig::settings).cloned();
    let Some(settings) = settings else {
        let built = build(config)?;
        fetcher.set(None).map_err(|e| wrong(config, e))?;
        return Ok(built);
    };
    if let Some(running) = running.filter(|running| url(running) == url(config)) {
        config.go_on_with_policy_of(running);
        let built = build(config)?;
        fetcher.set(Some(&settings)).map_err(|e| wrong(config, e))?;
        return Ok(built);
    }
    let first = fetcher.first(&settings).await.map_err(|e| wrong(config, e))?;
    let (built, fetched, trouble) = best(config, &first, build)?;
    match fetched.from {
        FetchedFrom::Server => fetcher.taken(&settings, fetched),
        // What the server said was noted when it was said, but for what is wrong with its policy.
        FetchedFrom::Copy if first.trouble.is_none() => {
            if let Some(reason) = trouble {
                fetcher.refused(&settings, &reason);
            }
        }
        FetchedFrom::Copy => {}
    }
    Ok(built)
}

/// Builds with the first bundle that makes a whole snapshot, and says why it is not the best one.
///
/// # Errors
/// None does: what is wrong with the best, or why there is none.
pub fn best<'f, T>(
    config: &mut Config,
    first: &'f First,
    build: impl Fn(&Config) -> Result<T, Problems>,
) -> Result<(T, &'f Fetched, Option<String>), Problems> {
    let source = config.bundle.as_ref().map(|bundle| bundle.source.clone()).unwrap_or_default();
    let mut found: Option<Problems> = None;
    for fetched in &first.good {
        config.take_bundle(&fetched.bundle);
        match build(config) {
            Ok(built) => {
                let trouble = found.as_ref().map(in_one_line).or_else(|| first.trouble.clone());
                return Ok((built, fetched, trouble));
            }
            Err(problems) => found = found.or(Some(problems)),
        }
    }
    let mut problems = found.unwrap_or_default();
    let why: Vec<String> = [("the server", &first.trouble), ("the copy", &first.no_copy)]
        .into_iter()
        .filter_map(|(who, why)| Some(format!("{who}: {}", why.as_ref()?)))
        .collect();
    if !why.is_empty() {
        let reason = format!("no policy bundle that could be served ({})", why.join("; "));
        problems.file(&source, reason, None);
    } else {
        problems.file(&source, "the policy in this bundle would not be served", None);
    }
    Err(problems)
}

fn in_one_line(problems: &Problems) -> String {
    let all: Vec<String> = problems.errors().map(|p| p.to_string().replace("\n    ", " ")).collect();
    let mut text = all.iter().take(MOST).cloned().collect::<Vec<_>>().join("; ");
    if all.len() > MOST {
        text.push_str(&format!("; and {} more", all.len() - MOST));
    }
    text
}

impl Publisher {
    /// The bundle that the policy comes in, and how it goes with it.
    pub fn policy_bundle(&self) -> Option<PolicyBundle> {
        let config = self.policy_bundle.load_full()?;
        let health = self.bundle.health();
        let known = config.known.as_ref();
        Some(PolicyBundle {
            source: config.source.clone(),
            revision: known.map(|known| known.revision.to_string()),
            signed_by: known.and_then(|known| known.signed_by.clone()),
            last_success: health.succeeded.map(|at| at.to_string()),
            failing_since: health.failing.as_ref().map(|failing| failing.at.to_string()),
            error: health.failing.map(|failing| failing.reason),
            stale: health.stale,
        })
    }

    /// The same when the URL has answered what a reload has asked it.
    pub async fn asked_policy_bundle(&self) -> Option<PolicyBundle> {
        self.bundle.is_answered().await;
        self.policy_bundle()
    }

    /// Whether the bundle could not be had for longer than the config permits.
    pub fn bundle_is_stale(&self) -> bool {
        self.bundle.health().stale
    }

    /// Asks the URL of the policy bundle when it is time, and makes live what it has.
    pub async fn watch_bundle(self: Arc<Self>) {
        loop {
            self.bundle.is_due().await;
            let this = self.clone();
            if let Err(e) = aside(async move { this.look_at_bundle().await }).await {
                self.metrics.panics.inc();
                tracing::error!(error = %e, "the policy bundle could not be looked at; it is tried again");
            }
        }
    }

    async fn look_at_bundle(&self) {
        let since = Instant::now();
        let Some((settings, Asked::New(fetched))) = self.bundle.ask().await else { return };
        match self.activate(&settings, &fetched, since).await {
            Ok(()) => {}
            Err(ChangeError::Invalid(problems)) => self.bundle.refused(&settings, &in_one_line(&problems)),
            Err(e) => self.bundle.refused(&settings, &e.to_string()),
        }
    }

    async fn activate(&self, settings: &BundleSettings, fetched: &Fetched, since: Instant) -> Result<(), ChangeError> {
        let _reading = self.reading.lock().await;
        let mut config = self.state.lock().await.clone();
        config.take_bundle(&fetched.bundle);
        let ahead = self.compiled(&config);
        let mut running = self.state.lock().await;
        if running.bundle.as_ref().and_then(BundleConfig::settings) != Some(settings) {
            // The config has changed meanwhile, and what it says now is asked for at once.
            return Ok(());
        }
        self.catch_up(&running).await?;
        let Some(live) = self.live.load_full() else { return Ok(()) };
        let mut config = running.clone();
        config.take_bundle(&fetched.bundle);
        let material = live.snapshot.material.clone();
        let promotion = self.promotion.load();
        let tokens = live.snapshot.tokens.clone();
        let sources =
            Sources { material, ahead, tokens, ..config.sources(live.snapshot.registry.clone(), promotion.as_deref()) };
        let (snapshot, warnings) = Snapshot::build(sources, Some(&live.snapshot), self.clock.now())?;
        let (revision, policy) = (fetched.bundle.manifest.revision.clone(), snapshot.revision.policy.clone());
        self.publish(snapshot, None, Concerns::Everybody, since).await?;
        log_warnings(&warnings);
        self.end_promotion(config.policy()).await;
        self.policy_bundle.store(config.bundle.clone().map(Arc::new));
        *running = config;
        self.bundle.taken(settings, fetched);
        tracing::info!(revision, %policy, "the policy of a new bundle is live");
        Ok(())
    }
}
