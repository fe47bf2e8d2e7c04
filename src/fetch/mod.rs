//! Revocation lists and policy bundles from outside: files, folders and URLs, read off the request path.
//!
//! In: the anchors of the registry and where their lists come from. Out: for each anchor the lists that were verified,
//! the newest of each scope. What was good once is kept in the state folder and used at a cold start. Must never: let a
//! list that does not verify, or that went back, take the place of a good one; ask a host that neither the registry nor
//! the config names.

mod bundle;
mod copies;
mod held;
mod http;
mod item;
mod overview;

use crate::clock::Clock;
use crate::disk::{self, Stamp};
use crate::name::AnchorName;
use crate::partner::{Anchor, CrlSource, Der, RevocationMode, Root};
use crate::record::Metrics;
use crate::trust::{AnchorLists, CrlFault, IssuerKey, MAX_CRL_BYTES, RevocationList, Scope, TrustBundle, Wanted};
use copies::{Copies, Label};
use futures::StreamExt;
use held::{Good, Held};
use http::{Answer, Question};
use item::Item;

pub use bundle::{
    Asked, BundleCopy, BundleFailing, BundleFetcher, BundleHealth, BundleSettings, Fetched, FetchedFrom, First,
};
pub use http::{Http, HttpTls};
pub use overview::Overview;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};

/// Lists that certificates of one anchor name themselves; a hostile CA could name any number.
const MAX_POINTS: usize = 64;
/// Largest list from such a place.
const MAX_POINT_BYTES: usize = 16 * 1024 * 1024;
/// Files of one folder.
const MAX_FILES: usize = 1_000;
/// URLs that are asked at the same time.
const AT_ONCE: usize = 32;
/// How much the reading of a list gives way: a third of what a thread has that does not, on a processor they share.
#[cfg(target_os = "linux")]
const GIVE_WAY: i32 = 5;

/// How URLs are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// Time between two questions.
    pub refresh: Duration,
    /// For one question.
    pub timeout: Duration,
    pub max_size: usize,
    /// Hosts that certificates may send the gateway to.
    pub hosts: Vec<String>,
}

/// See the module.
pub struct Fetcher {
    /// Where relative paths start.
    base: PathBuf,
    copies: Copies,
    http: Http,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    /// Held for a moment only: those who handle requests come here too.
    state: Mutex<State>,
    /// Held by whoever reads and verifies, as long as that takes; never together with a look at `state`.
    working: Mutex<()>,
    asking: Semaphore,
    /// When the first list came that nobody has asked for since.
    arrived: Mutex<Option<Instant>>,
    came: Notify,
    /// Anchors that have gauges.
    shown: Mutex<Vec<AnchorName>>,
}

struct State {
    settings: FetchSettings,
    anchors: BTreeMap<AnchorName, Held>,
}

/// The trust bundles of anchors that are SPIFFE trust domains.
type Bundles = HashMap<AnchorName, Arc<TrustBundle>>;

/// Anchors that could be looked after, with what was read for them.
#[derive(Clone)]
pub struct Planned {
    anchors: BTreeMap<AnchorName, Held>,
}

impl Planned {
    pub fn lists(&self) -> HashMap<AnchorName, AnchorLists> {
        lists_of(&self.anchors)
    }
}

impl Fetcher {
    /// # Errors
    /// TLS for https URLs cannot be set up.
    pub fn new(
        base: &Path,
        state_dir: &Path,
        settings: FetchSettings,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Fetcher> {
        Ok(Fetcher {
            base: base.to_owned(),
            copies: Copies::new(state_dir.join("crl")),
            http: Http::new()?,
            clock,
            metrics,
            state: Mutex::new(State { settings, anchors: BTreeMap::new() }),
            working: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
            arrived: Mutex::default(),
            came: Notify::new(),
            shown: Mutex::default(),
        })
    }

    pub fn set(&self, settings: FetchSettings) {
        self.state().settings = settings;
    }

    /// What looking after exactly these anchors begins with: what can be read at once, files and copies of what was good
    /// before. Nothing changes until it is adopted. To be called off the request path.
    pub fn plan<'a>(&self, anchors: impl Iterator<Item = &'a Arc<Anchor>>, bundles: &Bundles) -> Planned {
        let (before, settings) = {
            let state = self.state();
            (state.anchors.clone(), state.settings.clone())
        };
        let mut next = BTreeMap::new();
        for anchor in anchors.filter(|a| a.revocation.mode != RevocationMode::Off) {
            let roots = roots_of(anchor, bundles);
            let held = match before.get(&anchor.name) {
                Some(held) if held.roots == roots && held.anchor.revocation == anchor.revocation => {
                    Held { anchor: anchor.clone(), ..held.clone() }
                }
                held => {
                    let mut next = self.hold(anchor, roots, held.and_then(|held| held.wanted.clone()));
                    if let Some(held) = held {
                        next.carry(held);
                    }
                    next
                }
            };
            next.insert(anchor.name.clone(), held);
        }
        // A plan may come to nothing: what is kept on disk stays.
        self.look_at(&mut next, &settings, Keep::No);
        Planned { anchors: next }
    }

    /// Looks after the anchors of a plan from now on.
    pub fn adopt(&self, planned: Planned) {
        let _working = self.working();
        let mut state = self.state();
        let before = std::mem::replace(&mut state.anchors, planned.anchors);
        // What came while the plan was made is not lost, nor when each URL is asked again.
        for (name, held) in &mut state.anchors {
            let Some(before) = before.get(name) else { continue };
            held.carry(before);
            if before.roots == held.roots && before.anchor.revocation == held.anchor.revocation {
                for (source, item) in &mut held.items {
                    if let (CrlSource::Url(_), Some(before)) = (source, before.items.get(source)) {
                        item.clone_from(before);
                    }
                }
            }
        }
        self.gauges(&state);
    }

    /// Looks at files and folders, and at what certificates have asked for.
    pub fn look(&self) {
        let came = Instant::now();
        let _working = self.working();
        let (mut anchors, settings) = {
            let state = self.state();
            (state.anchors.clone(), state.settings.clone())
        };
        let changed = self.look_at(&mut anchors, &settings, Keep::Yes);
        self.put_back(anchors);
        if changed {
            self.arrive(came);
        }
        self.gauges(&self.state());
    }

    /// What was worked on takes its place again; when each URL is due has moved on meanwhile.
    fn put_back(&self, anchors: BTreeMap<AnchorName, Held>) {
        let mut state = self.state();
        for (name, mut held) in anchors {
            let Some(before) = state.anchors.get(&name) else { continue };
            for (source, item) in &mut held.items {
                if let (CrlSource::Url(_), Some(before)) = (source, before.items.get(source)) {
                    item.due = before.due;
                }
            }
            state.anchors.insert(name, held);
        }
    }

    fn look_at(&self, anchors: &mut BTreeMap<AnchorName, Held>, settings: &FetchSettings, keep: Keep) -> bool {
        let mut changed = false;
        for held in anchors.values_mut() {
            held.list_items(&self.base, settings);
            for scope in held.outlived(self.clock.now()) {
                held.good.remove(&scope);
                if keep == Keep::Yes {
                    self.copies.forget(&held.anchor.name, &scope);
                }
                changed = true;
            }
            let files: Vec<(CrlSource, PathBuf)> = held
                .items
                .keys()
                .filter_map(|item| match item {
                    CrlSource::File(path) => Some((item.clone(), self.base.join(path))),
                    _ => None,
                })
                .collect();
            for (source, path) in files {
                let stamp = Stamp::of(&path);
                if held.items.get(&source).is_some_and(|item| !item.is_due(stamp, self.clock.now())) {
                    continue;
                }
                let read = disk::read(&path, MAX_CRL_BYTES).map_err(|why| format!("`{}` {why}", path.display()));
                if let Some(item) = held.items.get_mut(&source) {
                    // What was only planned is read once more, to be kept.
                    item.stamp = (keep == Keep::Yes).then_some(stamp);
                }
                changed |= self.take(held, &source, read.as_deref().map_err(Clone::clone), None, keep);
            }
        }
        changed
    }

    /// Asks the URLs that are due. Returns whether a list has changed.
    pub async fn ask(&self) -> bool {
        let mut unanswered = Unanswered { fetcher: self, left: BTreeSet::new() };
        let (due, settings) = {
            let mut state = self.state();
            let State { settings, anchors } = &mut *state;
            let now = Instant::now();
            let mut due = Vec::new();
            for (name, held) in anchors {
                let sources = &held.anchor.revocation.sources;
                for (source, item) in &mut held.items {
                    if let (CrlSource::Url(url), true) = (source, item.due <= now) {
                        // Nobody else asks it meanwhile.
                        item.due = now + settings.timeout * 2;
                        unanswered.left.insert((name.clone(), source.clone()));
                        let point = !sources.contains(source);
                        due.push((name.clone(), source.clone(), url.clone(), item.label(), point));
                    }
                }
            }
            (due, settings.clone())
        };
        let mut answers = futures::stream::iter(due.into_iter().map(|(name, source, url, (etag, modified), point)| {
            let settings = &settings;
            async move {
                let _place = self.asking.acquire().await;
                let most = if point { settings.max_size.min(MAX_POINT_BYTES) } else { settings.max_size };
                let work = self.http.get(Question {
                    url: &url,
                    accept: "application/pkix-crl, */*",
                    etag: etag.as_deref(),
                    modified: modified.as_deref(),
                    token: None,
                    max_size: most,
                });
                let answer = match tokio::time::timeout(settings.timeout, work).await {
                    Ok(answer) => answer,
                    Err(_) => Err(format!("no answer within {:?}", settings.timeout)),
                };
                (name, source, answer)
            }
        }))
        .buffer_unordered(AT_ONCE);
        let mut changed = false;
        while let Some((name, source, answer)) = answers.next().await {
            // Verifying a large list takes its time, and so does writing its copy.
            changed |= tokio::task::block_in_place(|| self.answered(&name, &source, answer, &settings));
            unanswered.left.remove(&(name, source));
        }
        if changed {
            self.gauges(&self.state());
        }
        changed
    }

    fn answered(
        &self,
        name: &AnchorName,
        source: &CrlSource,
        answer: Result<Answer, String>,
        settings: &FetchSettings,
    ) -> bool {
        let came = Instant::now();
        let _working = self.working();
        // It may have gone meanwhile.
        let held = self.state().anchors.get(name).filter(|held| held.items.contains_key(source)).cloned();
        let Some(mut held) = held else { return false };
        let result = match &answer {
            Ok(Answer::NotModified) => "unchanged",
            Ok(Answer::New { .. }) => "ok",
            Err(_) => "failed",
        };
        self.metrics.crl_fetches.with_label_values(&[result]).inc();
        let changed = match answer {
            Ok(Answer::NotModified) => {
                if let Some(item) = held.items.get_mut(source) {
                    item.well(self.clock.now());
                }
                false
            }
            Ok(Answer::New { bytes, etag, modified }) => {
                self.take(&mut held, source, Ok(&bytes), Some((etag, modified)), Keep::Yes)
            }
            Err(reason) => self.take(&mut held, source, Err(reason), None, Keep::Yes),
        };
        let soonest =
            held.good.values().filter(|good| good.source == *source).map(|good| good.list.next_update()).min();
        let shortest = if held.is_point(source) { item::SHORTEST_POINT } else { item::SHORTEST };
        let due = held.items.get_mut(source).map(|item| {
            item.again(settings.refresh, shortest, soonest, self.clock.now());
            item.due
        });
        self.put_back(BTreeMap::from([(name.clone(), held)]));
        let mut state = self.state();
        let item = state.anchors.get_mut(name).and_then(|held| held.items.get_mut(source));
        if let (Some(item), Some(due)) = (item, due) {
            item.due = due;
        }
        drop(state);
        if changed {
            self.arrive(came);
            self.came.notify_one();
        }
        changed
    }

    fn arrive(&self, came: Instant) {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(came);
    }

    /// Returns when a list has come from a URL.
    pub async fn coming(&self) {
        self.came.notified().await;
    }

    /// When the first of the lists came that have been taken over since the last call.
    pub fn arrived(&self) -> Option<Instant> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What came at `since` could not be made live yet.
    pub fn put_off(&self, since: Instant) {
        self.arrive(since);
    }

    /// The lists of every anchor that is looked after.
    pub fn lists(&self) -> HashMap<AnchorName, AnchorLists> {
        lists_of(&self.state().anchors)
    }

    /// Begins to look after an anchor, with the copies of what was good before.
    fn hold(&self, anchor: &Arc<Anchor>, roots: Vec<Der>, wanted: Option<Arc<Wanted>>) -> Held {
        let mut issuers = Vec::new();
        for der in roots.iter().chain(&anchor.revocation.intermediates) {
            match IssuerKey::from_certificate(&der.0) {
                Ok(issuer) => issuers.push(issuer),
                // A bad anchor is refused where trust is built.
                Err(fault) => tracing::warn!(anchor = %anchor.name, "an issuer of revocation lists: {fault}"),
            }
        }
        let wanted =
            anchor.revocation.distribution_points.then(|| wanted.unwrap_or_else(|| Arc::new(Wanted::new(MAX_POINTS))));
        let mut held = Held {
            anchor: anchor.clone(),
            roots,
            issuers: Arc::new(issuers),
            items: BTreeMap::new(),
            good: HashMap::new(),
            wanted,
        };
        for (label, path) in self.copies.of(&anchor.name) {
            let bytes = match disk::read(&path, MAX_CRL_BYTES) {
                Ok(bytes) => bytes,
                Err(reason) => {
                    tracing::warn!(anchor = %anchor.name, source = %label.origin, %reason, "a kept revocation list cannot be read");
                    continue;
                }
            };
            match gently(|| RevocationList::read(&bytes, &held.issuers, self.clock.now())) {
                Ok(list) => {
                    tracing::info!(anchor = %anchor.name, source = %label.origin, number = %shown(&list), "revocation list from its kept copy");
                    if let (CrlSource::Url(url), true) = (&label.source, held.names(&label.origin)) {
                        let mut item = Item::new(label.origin.clone());
                        item.etag = label.etag.clone();
                        item.modified = label.modified.clone();
                        held.items.insert(CrlSource::Url(url.clone()), item);
                    }
                    let good = Good { list: Arc::new(list), origin: label.origin, source: label.source, kept: true };
                    held.good.insert(good.list.scope().clone(), good);
                }
                Err(reason) => {
                    tracing::warn!(anchor = %anchor.name, source = %label.origin, %reason, "a kept revocation list is not used");
                }
            }
        }
        held
    }

    /// Takes a list over where it is good and newer than the one of its scope. Returns whether something has changed.
    fn take(
        &self,
        held: &mut Held,
        source: &CrlSource,
        bytes: Result<&[u8], String>,
        freshness: Option<(Option<String>, Option<String>)>,
        keep: Keep,
    ) -> bool {
        let now = self.clock.now();
        let point = held.is_point(source);
        let Held { anchor, issuers, items, good, .. } = held;
        let Some(item) = items.get_mut(source) else { return false };
        let name = &anchor.name;
        item.begins = None;
        let read = bytes.and_then(|bytes| {
            let list = gently(|| RevocationList::read(bytes, issuers, now)).map_err(|e| {
                if let CrlFault::NotYetValid { this_update } = e {
                    item.begins = Some(this_update);
                }
                e.to_string()
            })?;
            if let (true, CrlSource::Url(url)) = (point, source) {
                if !list.scope().urls.is_empty() && !list.scope().urls.contains(url) {
                    return Err("a list for another place than the one it is at".into());
                }
            }
            // A list of another scope in the place of one that is still good would let the one before it back in, number
            // and all: whoever serves lists could choose which of them is believed.
            let stays = |(scope, held): (&Scope, &Good)| {
                let same_key = scope.issuer_spki == list.scope().issuer_spki && scope != list.scope();
                same_key
                    && held.source == *source
                    && now < held.list.next_update().saturating_add(anchor.revocation.grace)
            };
            if good.iter().any(stays) {
                return Err(CrlFault::OtherScope.to_string());
            }
            if let Some(before) = good.get(list.scope()) {
                if before.list.fingerprint() == list.fingerprint() && (before.kept || keep == Keep::No) {
                    return Ok((None, bytes));
                }
                list.may_replace(&before.list).map_err(|e| e.to_string())?;
            }
            Ok((Some(list), bytes))
        });
        match read {
            Ok((list, bytes)) => {
                if let Some((etag, modified)) = freshness {
                    (item.etag, item.modified) = (etag, modified);
                }
                item.well(now);
                let Some(list) = list else { return false };
                let scope = list.scope().clone();
                let news = good.get(&scope).is_none_or(|before| before.list.fingerprint() != list.fingerprint());
                tracing::info!(
                    anchor = %name, %source, number = %shown(&list), revoked = list.revoked(), next_update = %list.next_update(),
                    "revocation list taken over"
                );
                let label = Label {
                    anchor: name.clone(),
                    origin: item.origin.clone(),
                    source: source.clone(),
                    etag: item.etag.clone(),
                    modified: item.modified.clone(),
                };
                let kept = keep == Keep::Yes;
                if kept {
                    if let Err(e) = gently(|| self.copies.keep(&label, &scope, bytes)) {
                        tracing::error!(anchor = %name, %source, error = %e, "no copy of the revocation list could be kept");
                    }
                }
                // A source has one list of each key: what it had of another scope, and is stale, goes, or a CA could
                // have any number here.
                let gone =
                    |s: &Scope, g: &Good| g.source == *source && s.issuer_spki == scope.issuer_spki && *s != scope;
                let replaced: Vec<Scope> = good.iter().filter(|(s, g)| gone(s, g)).map(|(s, _)| s.clone()).collect();
                for old in replaced {
                    good.remove(&old);
                    if kept {
                        self.copies.forget(name, &old);
                    }
                }
                let (list, origin) = (Arc::new(list), item.origin.clone());
                good.insert(scope, Good { list, origin, source: source.clone(), kept });
                news
            }
            Err(reason) => {
                if item.ill(&reason) {
                    tracing::error!(anchor = %name, %source, %reason, "a revocation list is not taken; the last good one is kept");
                }
                false
            }
        }
    }

    fn working(&self) -> MutexGuard<'_, ()> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what takes its time for a large list on a thread that gives way to those which serve requests: it has less of a
/// processor than they while there are not enough, and all of one otherwise.
fn gently<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // On Linux this is the thread's alone. Where it is not permitted, the work is done all the same.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(GIVE_WAY);
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether what is taken is also kept on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

/// What has been asked and not answered. Whoever gives up waiting leaves it to be asked again at once.
struct Unanswered<'a> {
    fetcher: &'a Fetcher,
    left: BTreeSet<(AnchorName, CrlSource)>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let mut state = self.fetcher.state();
        for (name, source) in &self.left {
            if let Some(item) = state.anchors.get_mut(name).and_then(|held| held.items.get_mut(source)) {
                item.due = Instant::now();
            }
        }
    }
}

fn roots_of(anchor: &Anchor, bundles: &Bundles) -> Vec<Der> {
    match &anchor.root {
        Root::Certificate { certificate } => vec![certificate.clone()],
        Root::SelfSigned { .. } => Vec::new(),
        Root::Bundle { .. } => bundles.get(&anchor.name).map(|b| b.certificates.clone()).unwrap_or_default(),
    }
}

fn lists_of(anchors: &BTreeMap<AnchorName, Held>) -> HashMap<AnchorName, AnchorLists> {
    let of = |held: &Held| AnchorLists {
        lists: held.good.values().map(|good| good.list.clone()).collect(),
        wanted: held.wanted.clone(),
    };
    anchors.iter().map(|(name, held)| (name.clone(), of(held))).collect()
}

fn shown(list: &RevocationList) -> String {
    list.number().map_or_else(|| "none".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests;
