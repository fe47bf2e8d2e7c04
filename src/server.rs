//! The running gateway: one tokio runtime, four kinds of tasks, signals, and an orderly end.

use crate::admin;
use crate::clock::{Clock, Step};
use crate::config::{AdminConfig, Config};
use crate::document::Problems;
use crate::enrol;
use crate::expiry::{self, Reminder, Successor};
use crate::gateway::{Gateway, Live, Open, Revoke};
use crate::listen::{Caps, Listener, TlsSlot};
use crate::record::{Mask, Metrics, RecordOptions, Recorder, SpoolOptions, WriterOptions};
use crate::reload::{ChangeError, Publisher, aside};
use crate::status::{self, StatusState};
use crate::store::{Store, StoreError, key_file, set_expiry_gauges};
use crate::upload::Uploader;
use arc_swap::ArcSwapOption;
use nix::unistd::Group;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

const DATABASE: &str = "registry.db";
const RECORD_KEY: &str = "record.key";
const RECORD_END: &str = "record.end";
const HISTORY_KEY: &str = "history.key";
const SPOOL: &str = "spool";
const LOCK: &str = "lock";

/// How far the wall clock may drift from the monotonic one within a second before it counts as a step.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);
/// How long a record that says how many were suppressed may wait for one that says it by the way.
const SUPPRESSED_INTERVAL: Duration = Duration::from_secs(2);
/// How long the end waits for decisions to arrive elsewhere.
const LAST_UPLOAD: Duration = Duration::from_secs(3);
/// How often use is written to the database.
const USAGE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the expiry of credentials is looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Invalid(Problems),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("`{what}`: {source}")]
    Io { what: String, source: io::Error },
    #[error("another partnergate is using `{0}`")]
    Locked(String),
}

impl From<ChangeError> for StartError {
    fn from(e: ChangeError) -> Self {
        match e {
            ChangeError::Invalid(problems) => StartError::Invalid(problems),
            ChangeError::Store(e) => StartError::Store(e),
            // Nobody has looked at anything before a start.
            ChangeError::Stale | ChangeError::DryRun(_) => StartError::Invalid(Problems::new()),
        }
    }
}

impl From<Problems> for StartError {
    fn from(problems: Problems) -> Self {
        StartError::Invalid(problems)
    }
}

/// What a backup of a state folder has beside the database: keys, and what is kept of lists and bundles.
pub const BESIDE_THE_DATABASE: &[&str] = &[HISTORY_KEY, RECORD_KEY, "crl", "bundles", "policy"];
/// Of these, what is in its place already is newer than a copy.
pub const KEPT_COPIES: &[&str] = &["crl", "bundles", "policy"];

/// The database of a state folder.
pub fn database_path(state_dir: &Path) -> PathBuf {
    state_dir.join(DATABASE)
}

/// The file of a state folder that keeps where the records end.
pub fn record_end_path(state_dir: &Path) -> PathBuf {
    state_dir.join(RECORD_END)
}

/// Takes the state folder for this process, creating it where it does not exist. Held until dropped.
///
/// # Errors
/// Another process holds it, or it cannot be used.
pub fn lock_state_dir(state_dir: &Path) -> Result<File, StartError> {
    let fail = |what: &Path| {
        let what = what.display().to_string();
        move |source| StartError::Io { what, source }
    };
    if !state_dir.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(fail(state_dir))?;
    }
    let path = state_dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(fail(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::Locked(state_dir.display().to_string())),
        Err(std::fs::TryLockError::Error(source)) => Err(fail(&path)(source)),
    }
}

/// Runs until a signal ends it.
///
/// # Errors
/// The gateway could not start.
pub async fn run(path: &Path, config: Config) -> Result<(), StartError> {
    let lock = lock_state_dir(&config.state_dir)?;
    let clock = Arc::new(Clock::new());
    let metrics = Arc::new(
        Metrics::new(config.max_series, config.partner_operation)
            .map_err(|e| StartError::Io { what: "metrics".into(), source: io::Error::other(e) })?,
    );
    metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let store = Store::open(&database_path(&config.state_dir), clock.now()).await?;
    // After the database: it makes the key that signs for both.
    let recorder = start_recorder(&config, &clock, &metrics)?;
    let live: Arc<ArcSwapOption<Live>> = Arc::new(ArcSwapOption::empty());
    let tls = Arc::new(TlsSlot::new());
    let open = Arc::new(Open::new(live.clone(), recorder.clone(), clock.clone()));
    // Listeners are bound before anything is said to be ready, and refused addresses stop the start.
    let partner_sockets = bind_all(&config.listen, "partner.listen").await?;
    let status_sockets = bind_all(&config.status_listen, "status.listen").await?;
    let (admin_socket, uid) = bind_admin(&config.admin)?;
    let admin_listeners = bind_all(&config.admin.listen, "admin.listen").await?;
    let enrol_listeners = bind_all(&config.enrol.listen, "enrol.listen").await?;

    let publisher =
        Arc::new(Publisher::start(path.to_owned(), config.clone(), store, tls.clone(), open.clone()).await?);
    let (stopping, stopping_rx) = watch::channel(false);
    let (stop, stop_rx) = watch::channel(false);

    let mut background = JoinSet::new();
    background.spawn(publisher.clone().watch(stop_rx.clone()));
    background.spawn(publisher.clone().watch_lists());
    background.spawn(publisher.clone().fetch_lists());
    background.spawn(publisher.clone().watch_bundle());
    background.spawn(publisher.clone().copy_history());
    background.spawn(publisher.clone().watch_partners(stop_rx.clone()));
    background.spawn(publisher.clone().watch_issued(stop_rx.clone()));
    background.spawn(publisher.clone().watch_keys(stop_rx.clone()));
    background.spawn(open.clone().watch());
    let stepped = Arc::new(Notify::new());
    background.spawn(watch_clock(clock.clone(), metrics.clone(), stepped.clone()));
    background.spawn(tell_suppressed(recorder.clone(), clock.clone()));
    let uploader = match (&config.record.upload, recorder.spool()) {
        (Some(settings), Some(spool)) => {
            let uploader = Uploader::new(settings.clone(), spool.clone(), clock.clone(), metrics.clone());
            Some(Arc::new(uploader.map_err(|source| StartError::Io { what: "record.upload".into(), source })?))
        }
        _ => None,
    };
    let uploading = uploader.clone().map(|uploader| tokio::spawn(uploader.run(stop_rx.clone())));
    background.spawn(flush_usage(publisher.clone()));
    background.spawn(watch_expiry(publisher.clone(), metrics.clone(), clock.clone(), stepped));
    background.spawn(admin::serve(admin_socket, publisher.clone(), uid));
    for socket in admin_listeners {
        tracing::info!(address = %shown(&socket), "admin listener");
        background.spawn(admin::serve_tls(socket, publisher.clone(), uid));
    }
    for socket in enrol_listeners {
        tracing::info!(address = %shown(&socket), "enrol listener");
        background.spawn(enrol::serve(socket, publisher.clone()));
    }
    if publisher.operators().is_empty() {
        tracing::warn!("there are no operators yet, so that nothing can be changed: `partnergate admin bootstrap`");
    }
    for socket in status_sockets {
        let state =
            StatusState { publisher: publisher.clone(), recorder: recorder.clone(), stopping: stopping_rx.clone() };
        tracing::info!(address = %shown(&socket), "status listener");
        background.spawn(status::serve(socket, state));
    }

    let revoke: Revoke = {
        let publisher = publisher.clone();
        Arc::new(move |token, source| {
            let publisher = publisher.clone();
            Box::pin(async move { publisher.revoke_token(token, source).await.map_err(|e| e.to_string()) })
        })
    };
    let gateway = Gateway::new(open.clone(), config.via.clone(), config.body, revoke);
    let conf = ServerConf { max_retries: 2, ..ServerConf::default() };
    let app = Arc::new(http_proxy(&Arc::new(conf), gateway));
    let mut partners = JoinSet::new();
    let caps = Arc::new(Caps::new(config.limits, tokio::runtime::Handle::current().metrics().num_workers()));
    for socket in partner_sockets {
        tracing::info!(address = %shown(&socket), "partner listener");
        let listener = Listener::new(app.clone(), open.clone(), tls.clone(), caps.clone(), stop_rx.clone());
        partners.spawn(listener.run(socket, stop_rx.clone(), config.drain_grace));
    }
    // From here on a signal is ours; before, it would end the process.
    let mut signals = Signals::new().map_err(|source| StartError::Io { what: "signals".into(), source })?;
    tracing::info!(environment = %config.environment, state_dir = %config.state_dir.display(), "ready");

    let end = wait_for_end(&mut signals, &publisher, &stopping, config.drain_delay).await;
    let _ = stop.send(true);
    if end == End::Drain {
        tokio::select! {
            () = async { while partners.join_next().await.is_some() {} } => {}
            () = signals.next_end() => tracing::warn!("a second signal: ending at once"),
        }
    }
    partners.shutdown().await;
    write_usage(&publisher).await;
    background.shutdown().await;
    recorder.tell_suppressed(clock.now());
    if !recorder.close(Duration::from_secs(5)) {
        tracing::error!("not all records could be written");
    }
    if let (Some(uploader), Some(uploading)) = (uploader, uploading) {
        let last = async {
            let _ = uploading.await;
            uploader.finish().await;
        };
        // What does not arrive now waits in the spool for the next start.
        let _ = tokio::time::timeout(LAST_UPLOAD, last).await;
    }
    publisher.store().close().await;
    let _ = std::fs::remove_file(&config.admin.socket);
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

enum Told {
    Term,
    Int,
    Hup,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Term,
            _ = self.int.recv() => Told::Int,
            _ = self.hup.recv() => Told::Hup,
        }
    }

    async fn next_end(&mut self) {
        while let Told::Hup = self.next().await {}
    }
}

/// How the process is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// When the last request has.
    Drain,
    /// A second signal came.
    AtOnce,
}

/// Returns when no new connection is to be taken any more.
async fn wait_for_end(
    signals: &mut Signals,
    publisher: &Arc<Publisher>,
    stopping: &watch::Sender<bool>,
    delay: Duration,
) -> End {
    loop {
        match signals.next().await {
            // What is wrong was logged; the last good state is kept.
            Told::Hup => drop(publisher.reload().await),
            Told::Int => {
                let _ = stopping.send(true);
                tracing::info!("SIGINT: draining");
                return End::Drain;
            }
            Told::Term => {
                let _ = stopping.send(true);
                tracing::info!(delay = ?delay, "SIGTERM: not ready any more, draining after the delay");
                return tokio::select! {
                    () = tokio::time::sleep(delay) => End::Drain,
                    () = signals.next_end() => {
                        tracing::warn!("a second signal: ending at once");
                        End::AtOnce
                    }
                };
            }
        }
    }
}

fn start_recorder(config: &Config, clock: &Arc<Clock>, metrics: &Arc<Metrics>) -> Result<Recorder, StartError> {
    let path = config.state_dir.join(RECORD_KEY);
    let key = record_key(&path).map_err(|source| StartError::Io { what: path.display().to_string(), source })?;
    let options = RecordOptions {
        capacity: config.record.buffer,
        max_bytes: config.record.buffer_size,
        when_full: config.record.when_full,
        per_second: config.record.per_second,
        mask: Mask::new(&key, config.record.include.clone()),
        writer: WriterOptions {
            sinks: config.record.sinks.clone(),
            rotation: config.record.rotation.clone(),
            node: config.node.clone(),
            boot: uuid::Uuid::now_v7().to_string(),
            signer: key_file(&config.state_dir.join(HISTORY_KEY))?,
            end: record_end_path(&config.state_dir),
            clock: clock.clone(),
        },
        spool: config.record.upload.as_ref().map(|upload| SpoolOptions {
            folder: config.state_dir.join(SPOOL),
            max_size: upload.spool_size,
            when_full: upload.on_failure,
        }),
        labels: config.record.upload.as_ref().map(|upload| upload.labels.clone()).unwrap_or_default(),
    };
    Recorder::start(options, metrics.clone())
        .map_err(|source| StartError::Io { what: format!("record.output {:?}", config.record.sinks), source })
        .inspect(|_| tracing::debug!(now = %clock.now(), "records start"))
}

/// The key of the hashes in records: made at the first start, so that hashes stay comparable over restarts.
fn record_key(path: &Path) -> io::Result<Vec<u8>> {
    use ring::rand::SecureRandom;
    match std::fs::read(path) {
        Ok(key) if key.len() >= 32 => Ok(key),
        Ok(_) => Err(io::Error::other("has fewer than 32 bytes; remove it to have a new one made")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut key = vec![0; 32];
            ring::rand::SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
            let mut file = File::options().create_new(true).write(true).mode(0o600).open(path)?;
            file.write_all(&key)?;
            file.sync_all()?;
            Ok(key)
        }
        Err(e) => Err(e),
    }
}

async fn bind_all(addresses: &[std::net::SocketAddr], key: &str) -> Result<Vec<TcpListener>, StartError> {
    let mut sockets = Vec::new();
    for address in addresses {
        let socket = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Io { what: format!("{key} {address}"), source })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn shown(socket: &TcpListener) -> String {
    socket.local_addr().map(|a| a.to_string()).unwrap_or_default()
}

fn bind_admin(admin: &AdminConfig) -> Result<(UnixListener, u32), StartError> {
    let path = &admin.socket;
    let fail = |source| StartError::Io { what: path.display().to_string(), source };
    // The state folder is locked, so what lies there is left over.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    let mode = match &admin.group {
        None => 0o600,
        Some(group) => {
            let unknown = || io::Error::other(format!("this machine has no group `{group}` (admin.group)"));
            let found = Group::from_name(group).ok().flatten().ok_or_else(unknown).map_err(fail)?;
            std::os::unix::fs::chown(path, None, Some(found.gid.as_raw())).map_err(fail)?;
            0o660
        }
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    let uid = std::fs::metadata(path).map_err(fail)?.uid();
    Ok((listener, uid))
}

/// `stepped` is told when what ends soon is to be looked at again.
async fn watch_clock(clock: Arc<Clock>, metrics: Arc<Metrics>, stepped: Arc<Notify>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match clock.check_step(CLOCK_TOLERANCE) {
            None => {}
            Some(Step::Forward(by)) => {
                metrics.clock_steps.with_label_values(&["forward"]).inc();
                tracing::warn!(?by, "the system clock has stepped forward");
                stepped.notify_one();
            }
            Some(Step::Back(by)) => {
                metrics.clock_steps.with_label_values(&["back"]).inc();
                tracing::warn!(?by, "the system clock has stepped back; time goes on from where it was");
            }
        }
    }
}

async fn tell_suppressed(recorder: Recorder, clock: Arc<Clock>) {
    loop {
        tokio::time::sleep(SUPPRESSED_INTERVAL).await;
        recorder.tell_suppressed(clock.now());
    }
}

async fn flush_usage(publisher: Arc<Publisher>) {
    loop {
        tokio::time::sleep(USAGE_INTERVAL).await;
        write_usage(&publisher).await;
    }
}

async fn watch_expiry(publisher: Arc<Publisher>, metrics: Arc<Metrics>, clock: Arc<Clock>, stepped: Arc<Notify>) {
    let mut reminder = Reminder::default();
    loop {
        let (publisher, now) = (publisher.clone(), clock.now());
        let gauges = metrics.clone();
        // Every credential is looked at.
        let looked = aside(async move {
            let Some(live) = publisher.live() else { return Ok(Vec::new()) };
            publisher.waiting().await?;
            publisher.emergencies(now);
            publisher.reviews(now);
            publisher.shared_keys().await?;
            set_expiry_gauges(publisher.store(), &live.snapshot.registry, &gauges, now).await?;
            publisher.expiring(now).await
        });
        match looked.await {
            Ok(Ok(soon)) => {
                for one in reminder.due(&soon, now) {
                    tracing::warn!(kind = one.kind.as_str(), ends = one.ends, "{one}");
                }
                for kind in expiry::Kind::ALL.iter().filter(|kind| **kind != expiry::Kind::RevocationList) {
                    let alone = soon.iter().filter(|e| e.kind == *kind && e.successor == Successor::Missing).count();
                    let alone = i64::try_from(alone).unwrap_or(i64::MAX);
                    metrics.expiring.with_label_values(&[kind.as_str()]).set(alone);
                }
            }
            Ok(Err(e)) => tracing::error!(error = %e, "the expiry of credentials cannot be looked up"),
            Err(e) => tracing::error!(error = %e, "the expiry of credentials was not looked up"),
        }
        let _ = tokio::time::timeout(EXPIRY_INTERVAL, stepped.notified()).await;
    }
}

async fn write_usage(publisher: &Publisher) {
    if let Err(e) = publisher.write_usage().await {
        tracing::error!(error = %e, "use cannot be written; it is kept and tried again");
    }
}
