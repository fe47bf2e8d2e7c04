//! The partner listener: owns each connection from accept to close.
//!
//! In: TCP connections, the current TLS config, the live snapshot's trust, the proxies that are believed about where a
//! connection comes from. Out: authenticated connections, each request of which is handed to the proxy application.
//! Evidence of refused handshakes and malformed heads leaves through `record`. Must never: hand on a request without a
//! verified [`crate::identity::Peer`]; wait for a client without a deadline; stop accepting because of one client.

mod alert;
mod conn;
mod frames;
mod h1;
mod h2;
mod handshake;
mod proxy;
mod rate;
mod share;
mod tls;
mod turns;

pub use proxy::{Announced, ProxyFault, ProxyHeader};
pub use rate::SourceRate;
pub use tls::{TlsSettings, TlsSlot};

use crate::clock::Clock;
use crate::gateway::{Live, Open};
use crate::reason::Reason;
use crate::record::{Entry, HandshakeEntry, Recorder};
use arc_swap::ArcSwapOption;
use conn::Conn;
use futures::FutureExt;
use pingora_core::apps::HttpServerApp;
use share::Shares;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use turns::Turns;

/// Connections that are accepted before whatever else is ready has its turn.
const ACCEPTS: u32 = 4;

/// Bounds and deadlines of the partner listener. Each holds for the first request of a connection and for every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenLimits {
    pub max_connections: usize,
    pub max_handshakes: usize,
    /// In one second; 0 is no limit.
    pub handshakes_per_source: u32,
    pub connections_per_partner: usize,
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// Between requests on HTTP/1, and from the handshake to the first one.
    pub idle_timeout: Duration,
    /// From the handshake to the end of the HTTP/2 preface.
    pub h2_preface_timeout: Duration,
    /// Without any open stream on HTTP/2.
    pub h2_idle_timeout: Duration,
    /// Longest silence in a request body.
    pub body_progress: Duration,
    /// After this time a connection takes no further request.
    pub max_age: Duration,
    pub max_requests: u64,
    pub h2_max_streams: u32,
}

/// What is counted against the limits, over all listeners.
pub struct Caps {
    limits: ListenLimits,
    connections: Arc<Semaphore>,
    /// Places for handshakes in progress; taken once a ClientHello is there, so that silence holds none.
    handshakes: Semaphore,
    /// How many wait for such a place.
    waiting: watch::Sender<usize>,
    turns: Turns,
    sources: SourceRate,
    shares: Arc<Shares>,
}

impl Caps {
    /// For a gateway of so many threads.
    pub fn new(limits: ListenLimits, threads: usize) -> Self {
        Caps {
            limits,
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            handshakes: Semaphore::new(limits.max_handshakes),
            waiting: watch::Sender::new(0),
            turns: Turns::new(threads),
            sources: SourceRate::new(),
            shares: Shares::new(limits.connections_per_partner),
        }
    }

    /// A place for a handshake, sooner or later.
    async fn place(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        if let Ok(place) = self.handshakes.try_acquire() {
            return Ok(place);
        }
        self.waiting.send_modify(|n| *n += 1);
        let _waiting = Waiting(&self.waiting);
        self.handshakes.acquire().await
    }

    /// The work of a handshake that holds a place. `None` when it has to make way: its client has had a tenth of the
    /// time, which is enough for whoever means it, and others wait. Otherwise those who never finish would keep
    /// everybody out.
    async fn placed<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let others = || async {
            let _ = self.waiting.subscribe().wait_for(|n| *n > 0).await;
        };
        self.turns.take_within(work, self.limits.handshake_timeout / 10, others).await
    }
}

/// One that waits for a place.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// What every connection needs.
pub(crate) struct Shared<A> {
    pub app: Arc<A>,
    pub live: Arc<ArcSwapOption<Live>>,
    pub tls: Arc<TlsSlot>,
    pub recorder: Recorder,
    pub clock: Arc<Clock>,
    pub open: Arc<Open>,
    pub limits: ListenLimits,
    pub caps: Arc<Caps>,
    /// True once no connection may begin another request.
    pub drain: watch::Receiver<bool>,
}

/// The partner listener, ready to run.
pub struct Listener<A> {
    shared: Arc<Shared<A>>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Listener<A> {
    pub fn new(app: Arc<A>, open: Arc<Open>, tls: Arc<TlsSlot>, caps: Arc<Caps>, drain: watch::Receiver<bool>) -> Self {
        Listener {
            shared: Arc::new(Shared {
                app,
                live: open.live.clone(),
                tls,
                recorder: open.recorder.clone(),
                clock: open.clock.clone(),
                open,
                limits: caps.limits,
                caps,
                drain,
            }),
        }
    }

    /// Accepts until `stop`, then waits until the last connection has ended or `grace` has passed.
    pub async fn run(self, listener: TcpListener, mut stop: watch::Receiver<bool>, grace: Duration) {
        let mut tasks = JoinSet::new();
        let mut in_a_row = 0;
        loop {
            if in_a_row == ACCEPTS {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
            tokio::select! {
                () = told(&mut stop) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, source)) => {
                        in_a_row += 1;
                        self.admit(&mut tasks, stream, source);
                    }
                    Err(e) => {
                        // Out of descriptors, for instance: others go on, and so does this loop after a breath.
                        tracing::warn!(error = %e, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
            }
        }
        drop(listener);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!(open = tasks.len(), "the grace period is over; connections are closed");
            tasks.shutdown().await;
        }
    }

    fn admit(&self, tasks: &mut JoinSet<()>, stream: TcpStream, source: SocketAddr) {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        let Ok(place) = self.shared.caps.connections.clone().try_acquire_owned() else {
            self.shared.handshake_refused(source, &Reason::ConnectionLimit, "too many connections are open");
            return;
        };
        let shared = self.shared.clone();
        tasks.spawn(async move {
            let _place = place;
            let metrics = shared.recorder.metrics().clone();
            let handshake = AssertUnwindSafe(handshake::accept(&shared, stream, source)).catch_unwind();
            let (conn, _share) = match handshake.await {
                Ok(Some(secured)) => secured,
                Ok(None) => return,
                Err(_) => {
                    metrics.panics.inc();
                    shared.handshake_refused(source, &Reason::Internal, "the gateway failed in the handshake");
                    return;
                }
            };
            let work = async {
                let protocol = if conn.facts().http2 { "h2" } else { "http/1.1" };
                let _open = Counted::new(metrics.connections.with_label_values(&[protocol]));
                let _under = Counted::new(metrics.open_under(conn.facts().peer.anchor.as_str()));
                let _registered = shared.open.register(conn.facts());
                serve(shared.clone(), conn).await;
            };
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // The request's own guard has written its record while it was unwound.
                metrics.panics.inc();
            }
        });
    }
}

/// A gauge that is one higher while this lives.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Counted(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve<A: HttpServerApp + Send + Sync + 'static>(shared: Arc<Shared<A>>, conn: Conn) {
    if conn.facts().http2 {
        h2::serve(shared, conn).await;
    } else {
        h1::serve(shared, conn).await;
    }
}

impl<A> Shared<A> {
    /// A connection that did not get as far as a certificate.
    fn handshake_refused(&self, source: SocketAddr, reason: &Reason, detail: &str) {
        self.recorder.metrics().handshakes.with_label_values(&[reason.as_str()]).inc();
        self.recorder.write_unreserved(&Entry::Handshake(HandshakeEntry {
            time: self.clock.now(),
            source,
            sni: None,
            certificate: None,
            reason,
            detail,
            alert: None,
            duration: Duration::ZERO,
        }));
    }
}

/// Returns once the flag is up, or nobody can raise it any more.
pub(crate) async fn told(flag: &mut watch::Receiver<bool>) {
    // The guard that comes with the answer must not live across another await.
    let _ = flag.wait_for(|up| *up).await;
}
