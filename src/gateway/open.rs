//! What is open: every connection and what runs on it, so that a right that ended is gone now.
//!
//! In: connections from `listen`, allowed requests from the proxy phases, changes from `reload`. Out: a request whose
//! right ended is cut, and a connection whose identity lost every right takes no further request. Requests are decided
//! again by the same rules that let them in: when a change concerns them, when the clock ends what let them in, and
//! every [`AGAIN`] whatever happens. Must never: touch a connection that the change does not concern; hold up a thread
//! for longer than a [`SLICE`].

use super::cut::{Cut, Ending, Enforcement};
use super::{Connection, Live, Preview, Progress};
use crate::clock::{Clock, UnixNanos};
use crate::decision::{self, Narrowed, Situation};
use crate::name::{AnchorName, GrantId, PartnerId};
use crate::policy::LastVerdict;
use crate::record::{Entry, Kind, Recorder, RequestEntry};
use crate::registry::Resolution;
use crate::request::RequestFacts;
use arc_swap::ArcSwapOption;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Every open request is decided again at least this often. Older than this, it has a record that it is open.
const AGAIN: Duration = Duration::from_secs(10);
/// How long one connection after another is looked at before others have their turn on this thread.
const SLICE: Duration = Duration::from_millis(1);
/// Longest sleep of the one who watches the clock, so that a step of it is not slept through.
const NAP: Duration = Duration::from_millis(250);
/// A request that has begun less than this ago is about to end by itself, and has [`GRACE`] for it: a change under load
/// does not break calls off that are all but answered.
const YOUNG: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_millis(50);
/// How long those whose certificate is not believed any more may take to end before the others are looked at.
const FIRST: Duration = Duration::from_millis(100);
/// So many connections are not divided among threads.
const FEW: usize = 64;
const NEVER: UnixNanos = UnixNanos(i64::MAX);

/// What of a connection changes, as the index sees it.
#[derive(Debug)]
pub struct Running {
    /// Under whom the index has it.
    partner: Option<PartnerId>,
    /// Whether the identity could call when it was last looked at.
    pub(super) stands: bool,
    /// When it is looked at next.
    due: UnixNanos,
    pub(super) streams: Vec<Arc<Stream>>,
}

impl Default for Running {
    fn default() -> Self {
        Running { partner: None, stands: false, due: NEVER, streams: Vec::new() }
    }
}

/// A request that is not over.
#[derive(Debug)]
pub struct Stream {
    pub(super) request: RequestFacts,
    pub(super) started: Instant,
    /// On HTTP/2, where one stream can end and its siblings live.
    pub(super) progress: Option<Arc<Progress>>,
    /// What it was allowed by.
    allowed: OnceLock<(GrantId, Narrowed)>,
    /// Whether there is a record that it is open.
    announced: AtomicBool,
}

impl Stream {
    pub(super) fn new(request: RequestFacts, started: Instant, progress: Option<Arc<Progress>>) -> Arc<Self> {
        Arc::new(Stream { request, started, progress, allowed: OnceLock::new(), announced: AtomicBool::new(false) })
    }

    /// What ends it: on HTTP/1 it ends with its connection.
    pub(super) fn cut<'a>(&'a self, connection: &'a Connection) -> &'a Cut {
        self.progress.as_ref().map_or(&connection.cut, |p| &p.cut)
    }

    /// Whether it may be about to end by itself.
    fn is_young(&self) -> bool {
        !self.request.upgrade.is_wanted() && self.started.elapsed() < YOUNG
    }

    /// Ends it, unless it has ended: what is on the connection then is another request.
    fn end(self: &Arc<Self>, connection: &Connection, ending: Ending) {
        let running = connection.running();
        if running.streams.iter().any(|open| Arc::ptr_eq(open, self)) {
            self.cut(connection).make(ending);
        }
    }
}

/// Whom a change concerns.
#[derive(Clone, Debug)]
pub enum Concerns {
    Partners(Vec<PartnerId>),
    Everybody,
    /// Everybody, and whose certificate is not believed any more before all others.
    Trust,
}

/// See the module.
pub struct Open {
    index: Mutex<Index>,
    pub live: Arc<ArcSwapOption<Live>>,
    pub recorder: Recorder,
    pub clock: Arc<Clock>,
    /// What a candidate would have said.
    pub preview: Preview,
    /// Something is due earlier than was thought.
    sooner: Notify,
    /// The last change, as long as it is being enforced.
    enforcing: Mutex<Weak<Enforcement>>,
}

#[derive(Default)]
struct Index {
    connections: HashMap<u64, Arc<Connection>>,
    by_partner: HashMap<PartnerId, HashSet<u64>>,
    /// When each is looked at next, soonest first.
    due: BTreeSet<(UnixNanos, u64)>,
}

/// A connection's place in the index, while this lives.
pub struct Registered {
    open: Arc<Open>,
    connection: Arc<Connection>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.open.index().remove(&self.connection);
    }
}

impl Open {
    pub fn new(live: Arc<ArcSwapOption<Live>>, recorder: Recorder, clock: Arc<Clock>) -> Self {
        let preview = Preview::start(recorder.clone());
        let (index, sooner, enforcing) = (Mutex::default(), Notify::new(), Mutex::default());
        Open { index, live, recorder, clock, preview, sooner, enforcing }
    }

    /// How many connections of a partner are open.
    pub fn count_of(&self, partner: &PartnerId) -> usize {
        self.index().by_partner.get(partner).map_or(0, HashSet::len)
    }

    /// How many connections are open under an anchor.
    pub fn count_under(&self, anchor: &AnchorName) -> usize {
        self.index().connections.values().filter(|connection| connection.peer.anchor == *anchor).count()
    }

    /// Takes a connection into the index.
    pub fn register(self: &Arc<Self>, connection: &Arc<Connection>) -> Registered {
        self.index().connections.insert(connection.id, connection.clone());
        let registered = Registered { open: self.clone(), connection: connection.clone() };
        // After it is there, so that no change falls in between.
        if let Some(live) = self.live.load_full() {
            let now = self.clock.now();
            let partner = partner_of(&live, connection);
            let standing = decision::standing(&live.snapshot, &connection.peer, now);
            let ends = standing.as_ref().map_or(NEVER, decision::Standing::until);
            connection.running().stands = standing.is_ok();
            self.index().rename(connection, partner);
            // The first look falls anywhere in the interval, so that connections that came together are not looked at
            // together.
            let spread = AGAIN.as_nanos().saturating_mul(u128::from(connection.id.wrapping_mul(0x9e37_79b9) & 0xffff));
            let spread = Duration::from_nanos(u64::try_from(spread >> 16).unwrap_or(0));
            self.schedule(connection, now.saturating_add(spread).min(ends));
        }
        registered
    }

    /// A request was allowed on `live`. To be called before anything is forwarded.
    ///
    /// # Errors
    /// What was decided on has been replaced meanwhile, and on what replaced it the request is denied.
    pub(super) fn began(
        &self,
        connection: &Arc<Connection>,
        stream: &Arc<Stream>,
        permit: &decision::Permit,
        live: &Arc<Live>,
    ) -> Result<(), Box<(Arc<Live>, decision::Refused)>> {
        let _ = stream.allowed.set((permit.grant().clone(), permit.narrowed().clone()));
        let (known, due) = {
            let mut running = connection.running();
            running.streams.push(stream.clone());
            running.stands = true;
            (running.partner.as_ref() == Some(permit.partner()), running.due)
        };
        if !known {
            self.index().rename(connection, Some(permit.partner().clone()));
        }
        if permit.until() < due {
            self.schedule(connection, permit.until());
        }
        // A change that was published in between has not seen the request in the index.
        let newest = self.live.load();
        match &*newest {
            Some(newest) if !Arc::ptr_eq(newest, live) => {
                decision::standing(&newest.snapshot, &connection.peer, self.clock.now())
                    .and_then(|who| who.decide_again(&stream.request, &mut LastVerdict::default()))
                    .map(|_| ())
                    .map_err(|refused| Box::new((newest.clone(), refused)))
            }
            _ => Ok(()),
        }
    }

    /// A change is live. Cuts what it ends, soon; the time is measured from `since`.
    pub fn enforce(self: &Arc<Self>, concerns: Concerns, since: Instant) {
        let (connections, trust) = match &concerns {
            Concerns::Partners(ids) => (self.index().of(ids), false),
            Concerns::Everybody => (self.index().all(), false),
            Concerns::Trust => (self.index().all(), true),
        };
        if connections.is_empty() {
            return;
        }
        let cause = self.enforcement(since);
        *self.enforcing() = Arc::downgrade(&cause);
        // Each thread looks at a part of them.
        let threads = tokio::runtime::Handle::current().metrics().num_workers().max(1);
        for part in connections.chunks(connections.len().div_ceil(threads).max(FEW)) {
            let (this, part, cause) = (self.clone(), part.to_vec(), cause.clone());
            tokio::spawn(async move {
                if trust {
                    // Found fast, and gone before all else is looked at, which takes longer.
                    this.look_at(&part, Look::Trust, &cause).await;
                    let _ = tokio::time::timeout(FIRST, cause.over()).await;
                }
                this.look_at(&part, Look::Requests, &cause).await;
            });
        }
    }

    /// Watches the clock until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let (due, next) = self.index().take_due(now);
            if due.is_empty() {
                let nap = Duration::from_nanos(u64::try_from(next.0.saturating_sub(now.0)).unwrap_or(0)).min(NAP);
                tokio::select! {
                    () = tokio::time::sleep(nap) => {}
                    () = self.sooner.notified() => {}
                }
                continue;
            }
            let mut turn = Turn::new(&self.clock);
            for (at, connection) in due {
                // Where the clock has ended something, it did at that time.
                let late = Duration::from_nanos(u64::try_from(now.0.saturating_sub(at.0)).unwrap_or(0)).min(AGAIN);
                let since = Instant::now().checked_sub(late).unwrap_or_else(Instant::now);
                // What the clock comes upon while a change is being enforced is the change's doing.
                let change = self.enforcing().upgrade();
                let cause = change.unwrap_or_else(|| self.enforcement(since));
                let next = self.look(&connection, Look::Requests, &cause, &mut turn).await;
                self.schedule(&connection, next);
                turn.breathe().await;
            }
        }
    }

    /// Writes that a request is open, once.
    pub(super) fn announce(&self, connection: &Connection, stream: &Stream, live: &Live, now: UnixNanos, status: u16) {
        let Some((grant, narrowed)) = stream.allowed.get() else { return };
        if stream.announced.swap(true, Ordering::AcqRel) {
            return;
        }
        let situation = Situation::of(&live.snapshot, &connection.peer, &stream.request);
        self.recorder.write_unreserved(&Entry::Request(RequestEntry {
            kind: Kind::StreamOpen,
            snapshot: &live.snapshot,
            peer: &connection.peer,
            request: &stream.request,
            now,
            situation: &situation,
            token: narrowed.token.as_deref(),
            api_key: narrowed.api_key.as_ref(),
            result: "allow",
            reasons: &[],
            observed: &[],
            detail: None,
            grant: Some(grant),
            status,
            bytes_in: 0,
            bytes_out: 0,
            duration: stream.started.elapsed(),
            upstream: None,
            oauth: None,
        }));
    }

    async fn look_at(&self, connections: &[Arc<Connection>], look: Look, cause: &Arc<Enforcement>) {
        let mut turn = Turn::new(&self.clock);
        for connection in connections {
            let next = self.look(connection, look, cause, &mut turn).await;
            if next < connection.running().due {
                self.schedule(connection, next);
            }
            turn.breathe().await;
        }
    }

    /// Looks at one connection and returns when to look again. It may have a hundred streams: others have their turn
    /// between them too.
    async fn look(
        &self,
        connection: &Arc<Connection>,
        look: Look,
        cause: &Arc<Enforcement>,
        turn: &mut Turn<'_>,
    ) -> UnixNanos {
        let Some(live) = self.live.load_full() else { return turn.now.saturating_add(AGAIN) };
        let (stood, streams) = {
            let running = connection.running();
            (running.stands, running.streams.clone())
        };
        // Not before any of them was let in.
        let now = streams.iter().map(|stream| stream.request.now).fold(turn.now, UnixNanos::max);
        let mut next = now.saturating_add(AGAIN);
        if look == Look::Trust && live.snapshot.trust.still_good(&connection.peer, now).is_ok() {
            return next;
        }
        let cut = |stream: &Arc<Stream>, refused: decision::Refused| {
            let ending = Ending::new(refused, live.clone(), now, cause);
            if stream.is_young() {
                let (stream, connection) = (stream.clone(), connection.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(GRACE).await;
                    stream.end(&connection, ending);
                });
            } else {
                stream.end(connection, ending);
            }
        };
        let standing = decision::standing(&live.snapshot, &connection.peer, now);
        connection.running().stands = standing.is_ok();
        match standing {
            Err(refused) => {
                streams.iter().for_each(|stream| cut(stream, refused.clone()));
                if stood {
                    connection.leave.raise();
                }
            }
            Ok(who) => {
                // Before others have their turn: a change may be published in it.
                if connection.running().partner.as_ref() != Some(who.partner()) {
                    self.index().rename(connection, Some(who.partner().clone()));
                }
                next = next.min(who.until());
                for stream in &streams {
                    match who.decide_again(&stream.request, &mut turn.last) {
                        Err(refused) => cut(stream, refused),
                        Ok(until) => next = next.min(until),
                    }
                    let age = stream.started.elapsed();
                    if age >= AGAIN {
                        self.announce(connection, stream, &live, now, 0);
                    } else {
                        next = next.min(now.saturating_add(AGAIN.saturating_sub(age)));
                    }
                    turn.breathe().await;
                }
            }
        }
        next
    }

    fn enforcement(&self, since: Instant) -> Arc<Enforcement> {
        Enforcement::new(since, self.recorder.metrics().clone())
    }

    /// Has a connection looked at no later than `at`.
    fn schedule(&self, connection: &Arc<Connection>, at: UnixNanos) {
        if self.index().schedule(connection, at) {
            self.sooner.notify_one();
        }
    }

    fn enforcing(&self) -> MutexGuard<'_, Weak<Enforcement>> {
        self.enforcing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Whether the certificate is still believed.
    Trust,
    /// That, whether the identity still stands, and each of its requests.
    Requests,
}

/// The index is locked before a connection's part, never the other way round.
impl Index {
    fn remove(&mut self, connection: &Arc<Connection>) {
        self.rename(connection, None);
        self.connections.remove(&connection.id);
        let mut running = connection.running();
        self.due.remove(&(running.due, connection.id));
        running.due = NEVER;
    }

    fn rename(&mut self, connection: &Arc<Connection>, partner: Option<PartnerId>) {
        if !self.connections.contains_key(&connection.id) {
            return;
        }
        let mut running = connection.running();
        if let Some(before) = &running.partner {
            if let Some(ids) = self.by_partner.get_mut(before) {
                ids.remove(&connection.id);
                if ids.is_empty() {
                    self.by_partner.remove(before);
                }
            }
        }
        if let Some(partner) = &partner {
            self.by_partner.entry(partner.clone()).or_default().insert(connection.id);
        }
        running.partner = partner;
    }

    fn of<'a>(&self, partners: impl IntoIterator<Item = &'a PartnerId>) -> Vec<Arc<Connection>> {
        let ids = partners.into_iter().filter_map(|p| self.by_partner.get(p)).flatten();
        ids.filter_map(|id| self.connections.get(id)).cloned().collect()
    }

    /// One partner's after another's, since what is decided alike is decided fast.
    fn all(&self) -> Vec<Arc<Connection>> {
        let mut all = self.of(self.by_partner.keys());
        if all.len() < self.connections.len() {
            let known: HashSet<u64> = self.by_partner.values().flatten().copied().collect();
            all.extend(self.connections.iter().filter(|(id, _)| !known.contains(id)).map(|(_, c)| c.clone()));
        }
        all
    }

    /// Returns whether this is now the first that is due.
    fn schedule(&mut self, connection: &Arc<Connection>, at: UnixNanos) -> bool {
        let mut running = connection.running();
        if running.due <= at || !self.connections.contains_key(&connection.id) {
            return false;
        }
        self.due.remove(&(running.due, connection.id));
        running.due = at;
        let first = self.due.first().is_none_or(|(soonest, _)| at < *soonest);
        self.due.insert((at, connection.id));
        first
    }

    /// What is due, and when the next one will be.
    fn take_due(&mut self, now: UnixNanos) -> (Vec<(UnixNanos, Arc<Connection>)>, UnixNanos) {
        let mut taken = Vec::new();
        while let Some((at, id)) = self.due.first().copied() {
            if at > now {
                return (taken, at);
            }
            self.due.pop_first();
            if let Some(connection) = self.connections.get(&id) {
                connection.running().due = NEVER;
                taken.push((at, connection.clone()));
            }
        }
        (taken, NEVER)
    }
}

fn partner_of(live: &Live, connection: &Connection) -> Option<PartnerId> {
    match live.snapshot.registry.resolve(&connection.peer) {
        Resolution::Known { record, .. } => Some(record.partner.id.clone()),
        _ => None,
    }
}

/// Looking at one connection after another, in slices between which others have their turn.
struct Turn<'a> {
    clock: &'a Clock,
    began: Instant,
    /// The same all through a slice, so that what is alike is decided alike.
    now: UnixNanos,
    last: LastVerdict,
}

impl<'a> Turn<'a> {
    fn new(clock: &'a Clock) -> Self {
        Turn { clock, began: Instant::now(), now: clock.now(), last: LastVerdict::default() }
    }

    async fn breathe(&mut self) {
        if self.began.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            (self.began, self.now) = (Instant::now(), self.clock.now());
        }
    }
}
