//! The policy bundle of a URL: asked for again and again, and the last good one kept for a start without its server.
//!
//! In: where it is and whose it must be. Out: bundles that were verified, whose policy nobody has looked at yet; whoever
//! takes one says so, or why not. Must never: give out what does not verify, from the URL or from the disk; let what was
//! refused take the place of the copy; send a token where it could be read on the way.

use super::http::{Answer, Http, HttpTls, Question};
use super::item;
use crate::clock::{Clock, UnixNanos};
use crate::disk;
use crate::policy::bundle::{Bundle, BundleLimits, Verification};
use crate::record::Metrics;
use bytes::Bytes;
use http::HeaderValue;
use ring::digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Folder of the state folder with the last good bundle.
const KEPT: &str = "policy";
const NO_LABELS: &[&str] = &[];
/// What says which copy counts.
const LABEL: &str = "bundle.json";

/// Where a bundle comes from, and whose it must be.
#[derive(Clone, PartialEq, Eq)]
pub struct BundleSettings {
    pub url: String,
    /// Time between two questions.
    pub refresh: Duration,
    /// For one question.
    pub timeout: Duration,
    /// Of the bundle, unpacked.
    pub max_size: usize,
    pub verification: Verification,
    pub tls: HttpTls,
    /// Sent as `Authorization`.
    pub token: Option<HeaderValue>,
    /// How long it may go badly until nobody is to be sent here any more.
    pub stale_after: Option<Duration>,
}

impl fmt::Debug for BundleSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither key nor token.
        f.debug_struct("BundleSettings").field("url", &self.url).finish_non_exhaustive()
    }
}

impl BundleSettings {
    /// Whether a bundle that was good for the one is good for the other.
    fn same_source(&self, other: &BundleSettings) -> bool {
        self.url == other.url && self.verification == other.verification && self.max_size == other.max_size
    }

    fn limits(&self) -> BundleLimits {
        BundleLimits::of(self.max_size)
    }
}

/// A verified bundle and what belongs to it.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub bundle: Bundle,
    pub from: FetchedFrom,
    /// As it came.
    bytes: Bytes,
    label: Label,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchedFrom {
    Server,
    Copy,
}

/// What belongs to a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Label {
    url: String,
    sha256: String,
    etag: Option<String>,
    modified: Option<String>,
}

/// What came of a question.
pub enum Asked {
    /// What is in use is what the server has.
    Unchanged,
    New(Box<Fetched>),
    /// Why there is none.
    Failed(String),
}

/// What a gateway can start with.
pub struct First {
    /// What is good, the best first: what the server has, what was kept.
    pub good: Vec<Fetched>,
    /// Why the server's is not there.
    pub trouble: Option<String>,
    /// Why the copy is not there.
    pub no_copy: Option<String>,
}

/// How it goes with a bundle.
#[derive(Clone, Debug, Default)]
pub struct BundleHealth {
    /// When the server was last asked and what it has was in use.
    pub succeeded: Option<UnixNanos>,
    pub failing: Option<BundleFailing>,
    /// It has been failing for longer than the config permits.
    pub stale: bool,
}

/// The server is silent, or has a bundle that is not taken.
#[derive(Clone, Debug)]
pub struct BundleFailing {
    since: Instant,
    pub at: UnixNanos,
    pub reason: String,
}

/// See the module.
pub struct BundleFetcher {
    copy: BundleCopy,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    changed: Notify,
    /// The last of the demands to ask at once that was answered.
    answered: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// Demands to ask at once, and those that there were when it was asked last.
    demands: u64,
    asked: u64,
    settings: Option<Arc<BundleSettings>>,
    http: Option<Arc<Http>>,
    /// Of the bundle that is in use.
    label: Option<Label>,
    due: Option<Instant>,
    failures: u32,
    health: BundleHealth,
}

impl BundleFetcher {
    pub fn new(state_dir: &Path, clock: Arc<Clock>, metrics: Arc<Metrics>) -> Self {
        BundleFetcher {
            copy: BundleCopy::new(state_dir),
            clock,
            metrics,
            state: Mutex::default(),
            changed: Notify::new(),
            answered: watch::Sender::default(),
        }
    }

    /// What is asked for from now on. Where that is something else than before, or must be somebody else's, it is asked
    /// for at once and whole: what is in use may not be good any more.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn set(&self, settings: Option<&BundleSettings>) -> io::Result<()> {
        let mut state = self.state();
        if state.settings.as_deref() == settings {
            return Ok(());
        }
        let Some(settings) = settings else {
            *state = State::default();
            self.show(&state);
            return Ok(());
        };
        if state.http.is_none() || state.settings.as_ref().is_none_or(|before| before.tls != settings.tls) {
            state.http = Some(Arc::new(Http::with(&settings.tls)?));
        }
        if state.settings.as_ref().is_some_and(|before| !before.same_source(settings)) {
            state.label = None;
        }
        state.settings = Some(Arc::new(settings.clone()));
        state.due = Some(Instant::now());
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Asks at once, whatever is due.
    pub fn hurry(&self) {
        let mut state = self.state();
        if state.settings.is_some() {
            state.due = Some(Instant::now());
            state.demands += 1;
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Returns when what was to be asked at once is answered, or could have been.
    pub async fn is_answered(&self) {
        let (demands, patience) = {
            let state = self.state();
            let Some(settings) = &state.settings else { return };
            (state.demands, settings.timeout * 2)
        };
        let mut answered = self.answered.subscribe();
        let _ = tokio::time::timeout(patience, answered.wait_for(|answered| *answered >= demands)).await;
    }

    /// Returns when it is time to ask.
    pub async fn is_due(&self) {
        loop {
            let due = self.state().due;
            let waiting = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waiting => return,
                () = self.changed.notified() => {}
            }
        }
    }

    /// Asks the server. Whoever is given a new bundle answers with [`BundleFetcher::taken`] or [`BundleFetcher::refused`].
    pub async fn ask(&self) -> Option<(Arc<BundleSettings>, Asked)> {
        let (settings, http, label) = {
            let mut state = self.state();
            let settings = state.settings.clone()?;
            state.asked = state.demands;
            // Should nobody be told how it ended.
            state.due = Some(Instant::now() + settings.timeout * 2);
            (settings, state.http.clone()?, state.label.clone())
        };
        let asked = ask(&http, &settings, label.as_ref()).await;
        match &asked {
            Asked::Unchanged => {
                self.well(&settings);
                self.metrics.policy_bundle_fetches.with_label_values(&["unchanged"]).inc();
            }
            Asked::Failed(reason) => self.ill(&settings, reason, "failed"),
            Asked::New(_) => {}
        }
        Some((settings, asked))
    }

    /// What a start begins with: what the server has, asked for as long as it may take, and the copy.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub async fn first(&self, settings: &BundleSettings) -> io::Result<First> {
        self.set(Some(settings))?;
        let mut first = First { good: Vec::new(), trouble: None, no_copy: None };
        match self.copy.read(settings) {
            Ok(copy) => {
                self.state().label = Some(copy.label.clone());
                first.good.push(copy);
            }
            Err(reason) => first.no_copy = Some(reason),
        }
        match self.ask().await {
            Some((_, Asked::New(fetched))) => first.good.insert(0, *fetched),
            Some((_, Asked::Failed(reason))) => first.trouble = Some(reason),
            Some((_, Asked::Unchanged)) | None => {}
        }
        Ok(first)
    }

    /// A bundle is live. It is kept for the next start.
    pub fn taken(&self, settings: &BundleSettings, fetched: &Fetched) {
        if let Err(e) = self.copy.keep(fetched) {
            tracing::error!(error = %e, "the policy bundle cannot be kept for the next start");
        }
        self.state().label = Some(fetched.label.clone());
        self.well(settings);
        self.metrics.policy_bundle_fetches.with_label_values(&["activated"]).inc();
    }

    /// A bundle was not taken: its policy is not good, say.
    pub fn refused(&self, settings: &BundleSettings, reason: &str) {
        self.ill(settings, reason, "refused");
    }

    pub fn health(&self) -> BundleHealth {
        let state = self.state();
        let limit = state.settings.as_ref().and_then(|settings| settings.stale_after);
        let failing = state.health.failing.as_ref();
        let stale = failing.zip(limit).is_some_and(|(failing, limit)| failing.since.elapsed() >= limit);
        BundleHealth { stale, ..state.health.clone() }
    }

    fn well(&self, settings: &BundleSettings) {
        let mut state = self.state();
        state.failures = 0;
        state.health = BundleHealth { succeeded: Some(self.clock.now()), failing: None, stale: false };
        self.answer(&mut state, settings);
        drop(state);
        self.changed.notify_one();
    }

    fn ill(&self, settings: &BundleSettings, reason: &str, result: &'static str) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let before = state.health.failing.take();
        if before.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::error!(url = %settings.url, %reason, "the policy bundle is not taken; the last good one is kept");
        }
        let (since, at) = before.map_or_else(|| (Instant::now(), self.clock.now()), |before| (before.since, before.at));
        state.health.failing = Some(BundleFailing { since, at, reason: reason.to_owned() });
        self.answer(&mut state, settings);
        drop(state);
        // Said before it is counted: whoever sees the count finds the reason.
        self.metrics.policy_bundle_fetches.with_label_values(&[result]).inc();
        self.changed.notify_one();
    }

    fn answer(&self, state: &mut State, settings: &BundleSettings) {
        // What was demanded meanwhile is not answered by this.
        let wait = if state.demands > state.asked {
            Duration::ZERO
        } else {
            item::wait(state.failures, settings.refresh, settings.refresh)
        };
        state.due = Some(Instant::now() + wait);
        self.show(state);
        self.answered.send_replace(state.asked);
    }

    fn show(&self, state: &State) {
        let m = &self.metrics;
        if state.settings.is_none() {
            // An alarm is not to ring where there is no server.
            m.policy_bundle_ok.reset();
            m.policy_bundle_success.reset();
            return;
        }
        m.policy_bundle_ok.with_label_values(NO_LABELS).set(i64::from(state.health.failing.is_none()));
        if let Some(at) = state.health.succeeded {
            m.policy_bundle_success.with_label_values(NO_LABELS).set(at.seconds() as f64);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(http: &Http, settings: &BundleSettings, label: Option<&Label>) -> Asked {
    let question = Question {
        url: &settings.url,
        accept: "application/gzip, application/vnd.openpolicyagent.bundles, */*",
        etag: label.and_then(|label| label.etag.as_deref()),
        modified: label.and_then(|label| label.modified.as_deref()),
        token: settings.token.as_ref(),
        max_size: settings.max_size,
    };
    let answer = match tokio::time::timeout(settings.timeout, http.get(question)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {:?}", settings.timeout)),
    };
    match answer {
        Ok(Answer::NotModified) => Asked::Unchanged,
        // A server that knows no conditions sends the same again.
        Ok(Answer::New { bytes, .. }) if label.is_some_and(|label| label.sha256 == sha256(&bytes)) => Asked::Unchanged,
        Ok(Answer::New { bytes, etag, modified }) => {
            match Bundle::read(&bytes, settings.limits(), &settings.verification) {
                Ok(bundle) => {
                    let label = Label { url: settings.url.clone(), sha256: sha256(&bytes), etag, modified };
                    Asked::New(Box::new(Fetched { bundle, from: FetchedFrom::Server, bytes, label }))
                }
                Err(e) => Asked::Failed(e.to_string()),
            }
        }
        Err(reason) => Asked::Failed(reason),
    }
}

/// The last good bundle, as it came.
pub struct BundleCopy {
    folder: PathBuf,
}

impl BundleCopy {
    pub fn new(state_dir: &Path) -> Self {
        BundleCopy { folder: state_dir.join(KEPT) }
    }

    /// The copy, verified as if it had come from its server now.
    ///
    /// # Errors
    /// Why there is none that could be used.
    pub fn read(&self, settings: &BundleSettings) -> Result<Fetched, String> {
        let at = |file: &Path, reason: &str| format!("`{}`: {reason}", file.display());
        let path = self.folder.join(LABEL);
        let text = disk::read(&path, 64 * 1024).map_err(|reason| at(&path, &reason))?;
        let label: Label = serde_json::from_slice(&text).map_err(|e| at(&path, &e.to_string()))?;
        if label.url != settings.url {
            return Err(at(&path, &format!("is of another bundle (`{}`)", label.url.escape_debug())));
        }
        let file = self.file(&label).ok_or_else(|| at(&path, "names no copy"))?;
        let bytes = disk::read(&file, settings.max_size).map_err(|reason| at(&file, &reason))?;
        if sha256(&bytes) != label.sha256 {
            return Err(at(&file, "is not what was kept: it was altered"));
        }
        let bundle = Bundle::read(&bytes, settings.limits(), &settings.verification);
        let bundle = bundle.map_err(|e| at(&file, &e.to_string()))?;
        Ok(Fetched { bundle, from: FetchedFrom::Copy, bytes: bytes.into(), label })
    }

    fn file(&self, label: &Label) -> Option<PathBuf> {
        let is_hash = label.sha256.len() == 64 && label.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| self.folder.join(format!("{}.tar.gz", label.sha256)))
    }

    fn keep(&self, fetched: &Fetched) -> io::Result<()> {
        let Some(file) = self.file(&fetched.label) else { return Ok(()) };
        disk::replace(&file, &fetched.bytes)?;
        // From here on it is this one that counts.
        disk::replace(&self.folder.join(LABEL), &serde_json::to_vec(&fetched.label)?)?;
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            if path != file && path.file_name().is_some_and(|name| name != LABEL) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}
