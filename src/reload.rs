//! The one place that publishes: sources → snapshot → live, or the last good state stays and the reason is said.
//!
//! In: changed files, SIGHUP, changes of the registry. Out: a new [`Live`] and TLS config, gauges, a log line. All
//! changes go through one lock, so that each builds on the last. Must never: publish what was not built whole; write
//! to the database what no snapshot would accept; keep a thread waiting that requests are served on. Reading, planning
//! and building take as long as the registry is large, and so does letting go of it: all of that is done aside.

mod apply;
mod approve;
mod bundle;
mod calls;
mod candidate;
mod copies;
mod deny;
mod edit;
mod grants;
mod issue;
mod list;
mod lockdown;
mod offboard;
mod operators;
mod outside;
mod partners;
mod suspend;
mod switch;
mod tokens;

pub use apply::{Applied, Apply, Authority, Binding, Wanted};
pub use approve::{Decided, Verdicted};
pub use bundle::{PolicyBundle, best};
pub use candidate::{CandidateState, PromotionState, of_promotion};
pub use deny::{Denial, no_anchor};
pub use edit::{Edit, Edited, Place, Subject, Whose};
pub use grants::{Mark, Marked};
pub use issue::{Asks, CaState, Given, NotGiven, Ordered, Source};
pub use list::SignedList;
pub use offboard::{Offboarded, Reported};
pub use operators::Governed;
use outside::{Looked, Outside};
pub use partners::Rotation;
pub use suspend::Stop;
pub use switch::Switched;
use switch::Unsaved;
pub use tokens::{KeyWish, KeysState, keys_not_opened};

use crate::clock::{Clock, UnixNanos};
use crate::config::{BundleConfig, Config, EnrolConfig, IssueConfig};
use crate::disk::{Watched, look_again};
use crate::document::{Problem, Problems};
use crate::expiry::{self, Expiring, Outgoing};
use crate::fetch::{BundleFetcher, Fetcher};
use crate::gateway::{Concerns, Live, Open};
use crate::identity::Certificate;
use crate::listen::{TlsSlot, told};
use crate::material::MaterialFiles;
use crate::name::{AnchorName, PartnerId};
use crate::operator::Operators;
use crate::policy::Promotion;
use crate::record::Metrics;
use crate::registry::{Change, Registry};
use crate::snapshot::{Ahead, Snapshot, Sources};
use crate::store::{PlanLine, Store, StoreError};
use crate::trust::Material;
use crate::upstream::Upstreams;
use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

/// How long names of upstreams may take to resolve before a config goes live without them.
const RESOLVE_LIMIT: Duration = Duration::from_secs(3);

/// How long the sources of revocation lists may take to answer before a gateway starts without them.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// How often it is looked whether requests still need a snapshot that is not live any more.
const RETIRED_INTERVAL: Duration = Duration::from_secs(1);

/// Does work that takes long on a thread on which no request is served. It ends even when the caller goes away.
///
/// # Errors
/// The work has panicked.
pub async fn aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, JoinError> {
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(work)).await
}

/// Why a change is not live.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{0}")]
    Invalid(Problems),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("it has changed since it was looked at: look again")]
    Stale,
    /// What it would have come to.
    #[error("nothing was changed: it was a dry run")]
    DryRun(Vec<PlanLine>),
}

impl ChangeError {
    /// What is wrong, each with its place.
    pub fn lines(&self) -> Vec<String> {
        match self {
            ChangeError::Invalid(problems) => problems.errors().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        }
    }

    /// One line for each thing that is wrong, warnings as such.
    fn log(&self) {
        match self {
            ChangeError::Invalid(problems) => {
                log_warnings(problems);
                for problem in problems.errors() {
                    log_lines(problem, |line| tracing::error!("{line}"));
                }
            }
            other => tracing::error!("{other}"),
        }
    }
}

impl From<Problems> for ChangeError {
    fn from(problems: Problems) -> Self {
        ChangeError::Invalid(problems)
    }
}

/// Reloads have been failing: what is served is not what the files say.
#[derive(Debug)]
pub struct Failing {
    since: Instant,
    /// When the first of them failed.
    pub at: UnixNanos,
    stale_after: Option<Duration>,
    /// What is wrong with the files, as of the last one.
    pub problems: Vec<String>,
}

impl Failing {
    /// Whether it has been so for longer than the config permits.
    pub fn is_stale(&self) -> bool {
        self.stale_after.is_some_and(|limit| self.since.elapsed() >= limit)
    }
}

/// See the module.
pub struct Publisher {
    path: PathBuf,
    store: Store,
    live: Arc<ArcSwapOption<Live>>,
    tls: Arc<TlsSlot>,
    open: Arc<Open>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    state: Mutex<Config>,
    /// Files are read, and policies compiled, by one at a time and before `state` is taken: nothing that is to be live at once
    /// waits for that.
    reading: Mutex<()>,
    /// What some settings are taken from until the end.
    started: Config,
    /// The files of the last load that was tried, good or bad, and of the config that runs.
    seen: Mutex<Watched>,
    files: MaterialFiles,
    bundles: Mutex<Looked>,
    fetcher: Fetcher,
    /// Of the policy.
    bundle: BundleFetcher,
    /// What of it is in use.
    policy_bundle: ArcSwapOption<BundleConfig>,
    /// What decides in the place of the configured policy.
    promotion: ArcSwapOption<Promotion>,
    /// Why one is over that the database still has.
    promotion_ended: ArcSwapOption<String>,
    failing: ArcSwapOption<Failing>,
    operators: ArcSwap<Operators>,
    /// What is live and not in the database.
    unsaved: Mutex<Vec<Unsaved>>,
    /// Of the admin listener.
    admin_tls: ArcSwapOption<ServerConfig>,
    /// There are events that the record sink has no copy of.
    committed: Notify,
    calls: calls::Calls,
    /// Of the built-in CA.
    list: ArcSwapOption<SignedList>,
    /// One list is signed at a time, and one certificate is given to a partner that asks by itself.
    signing: Mutex<list::LookedAt>,
    /// Of partners that were closed, since their reports were looked at; unknown at the start.
    somebody_was_refused: AtomicBool,
    enrolment: Arc<Semaphore>,
    /// Of the enrol listener.
    enrolling: ArcSwap<EnrolConfig>,
    /// The built-in CA, as the config says it now.
    issuing: ArcSwapOption<IssueConfig>,
    revoking: tokens::Revoking,
}

impl Publisher {
    /// Builds the first snapshot from `config` and the database, and publishes it.
    ///
    /// # Errors
    /// Anything that `check` would report.
    pub async fn start(
        path: PathBuf,
        mut config: Config,
        store: Store,
        tls: Arc<TlsSlot>,
        open: Arc<Open>,
    ) -> Result<Publisher, ChangeError> {
        let (live, clock, metrics) = (open.live.clone(), open.clock.clone(), open.recorder.metrics().clone());
        let (registry, unsaved) = switch::left_over(&config.state_dir, store.load().await?)?;
        let files = MaterialFiles::new(&path, &config.state_dir);
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        let fetcher = Fetcher::new(&base, &config.state_dir, config.fetch.clone(), clock.clone(), metrics.clone());
        let fetcher = fetcher.map_err(|e| {
            let mut problems = Problems::new();
            problems.file(
                &config.state_dir.display().to_string(),
                format!("revocation lists cannot be fetched: {e}"),
                None,
            );
            problems
        })?;
        let mut outside = Outside::read(&files, &fetcher, &registry, &files.kept(&registry));
        fetcher.adopt(outside.lists.clone());
        // Who has to wait for a list is refused until it is there; a little patience here spares that at a cold start.
        if let Ok(true) = timeout(ASK_LIMIT, fetcher.ask()).await {
            outside = Outside::read(&files, &fetcher, &registry, &outside.reading.material);
        }
        let bundle = BundleFetcher::new(&config.state_dir, clock.clone(), metrics.clone());
        let promotion = store.promotion().await?;
        let tokens = tokens::of(&config, None, &store, clock.now()).await?;
        let build = |config: &Config| {
            let material = outside.reading.material.clone();
            let tokens = tokens.clone();
            let sources = Sources { material, tokens, ..config.sources(registry.clone(), promotion.as_ref()) };
            let standing = promotion.as_ref().filter(|promotion| promotion.stands(config.policy()));
            Snapshot::build(sources, None, clock.now()).map_err(|problems| of_promotion(problems, standing))
        };
        let (snapshot, warnings) = bundle::build(&bundle, &mut config, None, build).await?;
        let policy_bundle = ArcSwapOption::from(config.bundle.clone().map(Arc::new));
        let (seen, bundles) = (Mutex::new(config.watched.clone()), Mutex::default());
        let (state, started) = (Mutex::new(config.clone()), config.clone());
        let (failing, admin_tls) = (ArcSwapOption::empty(), ArcSwapOption::new(config.admin.tls.clone()));
        let operators = ArcSwap::from_pointee(store.operators().await?);
        let publisher = Publisher {
            path,
            store,
            live,
            tls,
            open,
            clock,
            metrics,
            state,
            reading: Mutex::default(),
            started,
            seen,
            files,
            bundles,
            fetcher,
            bundle,
            policy_bundle,
            promotion: ArcSwapOption::empty(),
            promotion_ended: ArcSwapOption::empty(),
            failing,
            operators,
            unsaved: Mutex::new(unsaved),
            admin_tls,
            committed: Notify::new(),
            calls: calls::Calls::default(),
            list: ArcSwapOption::empty(),
            signing: Mutex::default(),
            somebody_was_refused: AtomicBool::new(true),
            enrolment: Arc::new(Semaphore::new(1)),
            enrolling: ArcSwap::from_pointee(config.enrol.clone()),
            issuing: ArcSwapOption::from(config.issue.clone().map(Arc::new)),
            revoking: tokens::Revoking::default(),
        };
        log_warnings(&config.warnings);
        log_warnings(&warnings);
        publisher.promotion_is(promotion);
        publisher.publish(snapshot, Some(&config), Concerns::Everybody, Instant::now()).await?;
        publisher.end_promotion(config.policy()).await;
        publisher.taken(outside, None).await;
        publisher.metrics.reload_ok.set(1);
        publisher.metrics.registry_ok.set(1);
        publisher.metrics.database_ok.set(1);
        let history = publisher.store.look_at_end().await;
        if let Err(e) = &history {
            tracing::error!("{e}");
        }
        publisher.metrics.history_ok.set(i64::from(history.is_ok()));
        let unsaved = publisher.unsaved.lock().await.len();
        publisher.metrics.unsaved_switches.set(i64::try_from(unsaved).unwrap_or(i64::MAX));
        Ok(publisher)
    }

    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// Where the last reload failed.
    pub fn failing(&self) -> Option<Arc<Failing>> {
        self.failing.load_full()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What the admin listener shows who it is with.
    pub fn admin_tls(&self) -> Option<Arc<ServerConfig>> {
        self.admin_tls.load_full()
    }

    /// The port of the first partner listener, as the config says it.
    pub fn partner_port(&self) -> Option<u16> {
        self.started.listen.first().map(SocketAddr::port)
    }

    /// The name that the enrol listener shows with its certificate.
    pub fn enrol_host(&self) -> Option<String> {
        let config = self.enrolling.load();
        let leaf = config.key.as_ref()?.cert.first()?;
        Certificate::from_der(leaf).ok()?.san.dns.into_iter().find(|name| !name.starts_with('*'))
    }

    /// The port of the first enrol listener, as the config says it.
    pub fn enrol_port(&self) -> Option<u16> {
        self.started.enrol.listen.first().map(SocketAddr::port)
    }

    pub fn now(&self) -> UnixNanos {
        self.clock.now()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Reads config, policy, certificates and all else again.
    ///
    /// # Errors
    /// The last good state is kept; these are the reasons.
    ///
    /// Returns the keys that differ from what the gateway was started with and take effect at the next start.
    pub async fn reload(self: &Arc<Self>) -> Result<Vec<&'static str>, ChangeError> {
        let this = self.clone();
        aside(async move { this.reload_now().await }).await.unwrap_or_else(|e| Err(interrupted("config", &e)))
    }

    async fn reload_now(&self) -> Result<Vec<&'static str>, ChangeError> {
        let _reading = self.reading.lock().await;
        let mut seen = look_again(&self.state.lock().await.watched);
        let (loaded, watched) = Config::load_watched(&self.path);
        seen.extend(watched);
        let ahead = loaded.as_ref().map(|config| self.compiled(config)).unwrap_or_default();
        let mut running = self.state.lock().await;
        let outcome = match self.catch_up(&running).await {
            Ok(()) => self.try_reload(&running, loaded, seen, ahead).await,
            Err(e) => Err(e),
        };
        self.metrics.reload_time.set(self.clock.now().seconds() as f64);
        match outcome {
            Ok(config) => {
                self.failing.store(None);
                self.metrics.reload_ok.set(1);
                self.metrics.reloads.with_label_values(&["ok"]).inc();
                tracing::info!(config = %self.path.display(), "reloaded");
                *running = config;
                self.policy_bundle.store(running.bundle.clone().map(Arc::new));
                // Whoever has files read again wants the newest of everything.
                self.bundle.hurry();
                Ok(running.needs_restart(&self.started))
            }
            Err(e) => {
                self.fetcher.set(running.fetch.clone());
                if let Err(e) = self.bundle.set(running.bundle.as_ref().and_then(BundleConfig::settings)) {
                    tracing::error!(error = %e, "the policy bundle cannot be asked for");
                }
                // Said before it is counted: whoever sees the count finds the reason.
                e.log();
                tracing::error!(config = %self.path.display(), "not reloaded; the last good state is kept");
                self.note_failure(&e, running.stale_after);
                self.metrics.reload_ok.set(0);
                self.metrics.reloads.with_label_values(&["failed"]).inc();
                Err(e)
            }
        }
    }

    fn note_failure(&self, e: &ChangeError, stale_after: Option<Duration>) {
        let (since, at) =
            self.failing.load().as_ref().map_or_else(|| (Instant::now(), self.clock.now()), |f| (f.since, f.at));
        self.failing.store(Some(Arc::new(Failing { since, at, stale_after, problems: e.lines() })));
    }

    /// The policies of a config that are not live.
    fn compiled(&self, config: &Config) -> Ahead {
        let (live, promotion) = (self.live.load_full(), self.promotion.load_full());
        let sources = config.sources(Registry::default(), promotion.as_deref());
        Ahead::of(&sources, live.as_ref().map(|live| &*live.snapshot))
    }

    async fn try_reload(
        &self,
        running: &Config,
        loaded: Result<Config, Problems>,
        seen: Watched,
        ahead: Ahead,
    ) -> Result<Config, ChangeError> {
        *self.seen.lock().await = loaded.as_ref().map_or(seen, |config| config.watched.clone());
        let mut config = loaded?;
        if config.environment != running.environment || config.state_dir != running.state_dir {
            let mut problems = Problems::new();
            let reason = "`environment` and `state_dir` cannot change while the gateway runs";
            problems.file(&self.path.display().to_string(), reason, Some("restart the gateway"));
            return Err(problems.into());
        }
        let live = self.live.load_full();
        let registry = match &live {
            Some(live) => live.snapshot.registry.clone(),
            None => self.store.load().await?,
        };
        let previous = live.as_ref().map(|l| &*l.snapshot);
        let before = previous.map(|p| p.material.clone());
        self.fetcher.set(config.fetch.clone());
        let signing = previous.and_then(|p| p.tokens.clone());
        let tokens = tokens::of(&config, signing, &self.store, self.clock.now()).await?;
        let nothing = Material::default();
        let outside = Outside::read(&self.files, &self.fetcher, &registry, before.as_deref().unwrap_or(&nothing));
        let build = |config: &Config| {
            let material = outside.reading.material.clone();
            let (promotion, ahead, tokens) = (self.promotion.load(), ahead.clone(), tokens.clone());
            let sources = Sources { material, ahead, tokens, ..config.sources(registry.clone(), promotion.as_deref()) };
            let standing = promotion.as_deref().filter(|promotion| promotion.stands(config.policy()));
            Snapshot::build(sources, previous, self.clock.now()).map_err(|problems| of_promotion(problems, standing))
        };
        let (snapshot, warnings) = bundle::build(&self.bundle, &mut config, Some(running), build).await?;
        for key in config.needs_restart(&self.started) {
            tracing::warn!("`{key}` has changed and takes effect at the next start");
        }
        log_warnings(&config.warnings);
        log_warnings(&warnings);
        self.publish(snapshot, Some(&config), Concerns::Everybody, Instant::now()).await?;
        self.end_promotion(config.policy()).await;
        self.taken(outside, before.as_deref()).await;
        self.admin_tls.store(config.admin.tls.clone());
        self.enrolling.store(Arc::new(config.enrol.clone()));
        self.issuing.store(config.issue.clone().map(Arc::new));
        Ok(config)
    }

    /// Makes live what the database has and requests do not see yet: a change that was interrupted between the two. And
    /// the other way round: puts into the database what is live without it, before anything is changed on top of that.
    async fn catch_up(&self, running: &Config) -> Result<(), ChangeError> {
        let Some(live) = self.live.load_full() else { return Ok(()) };
        if self.store.revision().await? == live.snapshot.registry.revision() {
            return self.save_switches().await;
        }
        let registry = self.over(self.store.load().await?).await?;
        tracing::warn!(revision = registry.revision(), "the database is ahead of what is live; catching up");
        let outside = Outside::read(&self.files, &self.fetcher, &registry, &live.snapshot.material);
        let material = outside.reading.material.clone();
        let tokens = live.snapshot.tokens.clone();
        let sources = Sources { material, tokens, ..running.sources(registry, self.promotion.load().as_deref()) };
        let (snapshot, _) = Snapshot::build(sources, Some(&live.snapshot), self.clock.now())?;
        self.publish(snapshot, None, Concerns::Everybody, Instant::now()).await?;
        self.taken(outside, Some(&live.snapshot.material)).await;
        self.metrics.registry_ok.set(1);
        // Before anything is changed on top of it.
        self.save_switches().await
    }

    /// The snapshot that changes lead to, with what was read for its anchors where they change.
    fn prepare(
        &self,
        live: &Live,
        changes: &[Change],
        next: &Registry,
    ) -> Result<(Snapshot, Option<Outside>), Problems> {
        let touched: Vec<PartnerId> = changes
            .iter()
            .filter_map(|c| match c {
                Change::Partner(id, Some(_)) => Some(id.clone()),
                _ => None,
            })
            .collect();
        let outside = changes
            .iter()
            .any(|c| matches!(c, Change::Anchor(..)))
            .then(|| Outside::read(&self.files, &self.fetcher, next, &live.snapshot.material));
        let material = outside.as_ref().map(|o| o.reading.material.clone());
        let snapshot = live.snapshot.with_registry(next.clone(), &touched, material, self.clock.now())?;
        if let Some(outside) = &outside {
            let problems = outside.reading.problems(newly_named(&live.snapshot.registry, changes));
            if problems.has_errors() {
                return Err(problems);
            }
        }
        Ok((snapshot, outside))
    }

    /// `since` is when what is published became true.
    async fn publish(
        &self,
        snapshot: Snapshot,
        config: Option<&Config>,
        concerns: Concerns,
        since: Instant,
    ) -> Result<(), ChangeError> {
        let before = self.live.load_full();
        let upstreams = match (config, &before) {
            (Some(config), _) => {
                let old = before.as_ref().map(|l| &*l.upstreams);
                let next = Upstreams::build(config.upstreams.clone(), old);
                next.resolve_new(old, RESOLVE_LIMIT).await;
                next.start(old, &self.metrics);
                Arc::new(next)
            }
            (None, Some(live)) => live.upstreams.clone(),
            (None, None) => return Err(not_live().into()),
        };
        let proxies = match (config, &before) {
            (Some(config), _) => config.proxies.clone(),
            (None, Some(live)) => live.proxies.clone(),
            (None, None) => Arc::default(),
        };
        self.tls.publish(&snapshot, config.map(|c| c.tls), &self.clock).map_err(|e| {
            let mut problems = Problems::new();
            problems.file(&self.path.display().to_string(), format!("TLS cannot be set up: {e}"), None);
            problems
        })?;
        self.gauges(&snapshot);
        let trust = before.as_ref().is_some_and(|b| b.snapshot.revision.trust != snapshot.revision.trust);
        let concerns = if trust { Concerns::Trust } else { concerns };
        // Before anything is decided by it.
        self.open.recorder.mask_by(snapshot.policy.log().cloned());
        self.live.store(Some(Arc::new(Live { snapshot: Arc::new(snapshot), upstreams, proxies })));
        self.open.enforce(concerns, since);
        if let Some(before) = before {
            tokio::spawn(retire(before.snapshot.clone()));
        }
        Ok(())
    }

    fn gauges(&self, snapshot: &Snapshot) {
        let m = &self.metrics;
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        m.lockdowns.set(count(snapshot.registry.lockdowns().count()));
        m.snapshot_registry.set(i64::try_from(snapshot.revision.registry).unwrap_or(i64::MAX));
        m.snapshot_trust.set(i64::try_from(snapshot.revision.trust).unwrap_or(i64::MAX));
        m.snapshot_info.reset();
        m.snapshot_info.with_label_values(&[&*snapshot.revision.policy, &*snapshot.revision.config]).set(1);
        m.policy_bundle_info.reset();
        if let Some(revision) = &snapshot.revision.bundle {
            m.policy_bundle_info.with_label_values(&[&**revision]).set(1);
        }
        m.candidate_ok.reset();
        if let Some(candidate) = &snapshot.candidate {
            m.candidate_ok.with_label_values::<&str>(&[]).set(i64::from(candidate.good().is_some()));
        }
        m.policy_engine_info.reset();
        m.policy_engine_info.with_label_values(&[snapshot.policy.engine_kind().as_str()]).set(1);
        m.policy_since.set(snapshot.policy_since.seconds() as f64);
        m.snapshot_built.set(snapshot.built.seconds() as f64);
        m.partners.set(count(snapshot.registry.partner_count()));
        m.certificate_expiry.reset();
        for certificate in snapshot.certificates.iter() {
            let expiry = certificate.facts.not_after.seconds() as f64;
            m.certificate_expiry.with_label_values(&[certificate.file.as_str()]).set(expiry);
        }
        m.anchor_expiry.reset();
        // Of several certificates of one anchor the first to expire counts.
        let mut ends: BTreeMap<&AnchorName, UnixNanos> = BTreeMap::new();
        for anchor in snapshot.trust.anchors() {
            let end = ends.entry(&anchor.name).or_insert(anchor.not_after);
            *end = (*end).min(anchor.not_after);
        }
        for (name, end) in ends {
            m.anchor_expiry.with_label_values(&[name.as_str()]).set(end.seconds() as f64);
        }
    }

    /// Catches up with the database, and gives the files as they were at the last load and as they are now.
    async fn look(&self) -> (Watched, Watched) {
        let state = self.state.lock().await;
        if let Err(e) = self.catch_up(&state).await {
            self.metrics.registry_ok.set(0);
            tracing::error!(error = %e, "the registry cannot be compared with the database");
        }
        self.write_end_of_promotion().await;
        drop(state);
        let known = self.seen.lock().await.clone();
        let now = look_again(&known);
        (known, now)
    }

    /// What ends soon of all that is live.
    ///
    /// # Errors
    /// The database failed.
    pub async fn expiring(&self, now: UnixNanos) -> Result<Vec<Expiring>, StoreError> {
        let Some(live) = self.live.load_full() else { return Ok(Vec::new()) };
        let seen = self.store.last_seen_expiry().await?;
        Ok(expiry::soon(&live.snapshot, &seen, &self.fetcher.overview(), now))
    }

    /// Anchors on their way out, and how many connections are open under each.
    ///
    /// # Errors
    /// The database failed.
    pub async fn outgoing(&self) -> Result<Vec<(Outgoing, usize)>, StoreError> {
        let Some(live) = self.live.load_full() else { return Ok(Vec::new()) };
        let used = self.store.last_seen().await?;
        let found = expiry::outgoing(&live.snapshot.registry, &used).into_iter();
        Ok(found.map(|one| (one.clone(), self.open.count_under(&one.anchor))).collect())
    }

    /// Looks at the files every so often and reloads when they have changed and stopped changing.
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changed: Option<Watched> = None;
        loop {
            let interval = self.state.lock().await.reload_interval;
            tokio::select! {
                () = told(&mut stop) => return,
                () = tokio::time::sleep(interval) => {}
            }
            let this = self.clone();
            let looked = aside(async move {
                if let Err(e) = this.look_at_bundles().await {
                    e.log();
                }
                this.look().await
            });
            let Ok((known, now)) = looked.await else { continue };
            if now == known {
                changed = None;
                continue;
            }
            // Half a write: wait until two looks agree.
            if changed.as_ref() != Some(&now) {
                changed = Some(now);
                continue;
            }
            changed = None;
            // A failed reload is not repeated before the files change again; what was wrong was logged.
            drop(self.reload().await);
        }
    }
}

/// Whom a change of the registry concerns. Networks and anchors are anybody's.
fn concerned(changes: &[Change]) -> Concerns {
    let mut partners = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Partner(id, _) => partners.push(id.clone()),
            Change::Network(..) | Change::Anchor(..) | Change::Lockdown(..) => return Concerns::Everybody,
        }
    }
    Concerns::Partners(partners)
}

/// Anchors that `changes` make, or give another certificate or bundle: what they name has to be there. Other settings
/// change whatever became of the file since.
pub fn newly_named<'a>(registry: &'a Registry, changes: &'a [Change]) -> impl Fn(&AnchorName) -> bool + 'a {
    move |name| {
        changes.iter().any(|change| match change {
            Change::Anchor(changed, Some(next)) if changed == name => {
                registry.anchor(name).is_none_or(|before| before.root != next.root)
            }
            _ => false,
        })
    }
}

/// Keeps what was replaced until no request needs it, so that none has to take it down.
async fn retire(snapshot: Arc<Snapshot>) {
    while Arc::strong_count(&snapshot) > 1 {
        tokio::time::sleep(RETIRED_INTERVAL).await;
    }
    drop(aside(async move { drop(snapshot) }).await);
}

fn interrupted(what: &str, e: &JoinError) -> ChangeError {
    let mut problems = Problems::new();
    problems.file(what, format!("the change was interrupted: {e}"), Some("look at what is live, and try again"));
    problems.into()
}

fn not_live() -> Problems {
    let mut problems = Problems::new();
    problems.file("gateway", "no snapshot is live", None);
    problems
}

fn log_warnings(problems: &Problems) {
    for problem in problems.warnings() {
        log_lines(problem, |line| tracing::warn!("{line}"));
    }
}

fn log_lines(problem: &Problem, log: impl Fn(&str)) {
    problem.to_string().lines().for_each(log);
}
