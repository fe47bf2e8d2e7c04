//! A permit → a peer to connect to: endpoints, their health, timeouts and TLS.
//!
//! In: upstreams of the config, a [`Permit`]. Out: pingora's [`HttpPeer`]. Names are resolved and health is checked in
//! the background. Must never: hand out a peer without a permit, or a TLS peer without a server name (pingora would
//! not verify its certificate).

mod websocket;

use crate::decision::Permit;
use crate::name::UpstreamName;
use crate::reason::Reason;
use crate::record::Metrics;
use arc_swap::ArcSwap;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, PeerOptions};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_http::RequestHeader;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use websocket::Patient;

/// One upstream of the config. Equal specs share their endpoints' state over reloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamSpec {
    pub name: UpstreamName,
    /// `host:port`
    pub endpoints: Vec<String>,
    pub protocol: UpstreamProtocol,
    pub tls: Option<UpstreamTls>,
    /// Host sent to the upstream; the client's when absent.
    pub host: Option<String>,
    pub timeouts: UpstreamTimeouts,
    pub health: Option<HealthCheck>,
    /// Consecutive failed connections after which an endpoint is left out for a while.
    pub eject_after: u32,
    pub eject_for: Duration,
    pub resolve_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    H1,
    /// Over TLS by ALPN, otherwise with prior knowledge.
    H2,
}

/// TLS to the upstream. There is always a server name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    pub server_name: String,
    /// DER certificates; the platform's trust store when absent.
    pub ca: Option<Vec<Vec<u8>>>,
    /// DER chain and DER key (PKCS#8, PKCS#1 or SEC1), already matched with each other.
    pub client: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// Between two reads of the response.
    pub read: Duration,
    pub write: Duration,
    /// How long a pooled connection may be idle.
    pub idle: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// Requested with GET; 200 to 299 is healthy.
    pub path: String,
    pub interval: Duration,
    pub timeout: Duration,
    pub healthy_after: u32,
    pub unhealthy_after: u32,
}

/// All upstreams of a config.
#[derive(Default)]
pub struct Upstreams {
    by_name: HashMap<UpstreamName, Arc<Upstream>>,
}

/// An upstream in use. Its background work ends when the last reference is dropped.
pub struct Upstream {
    spec: UpstreamSpec,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    next: AtomicUsize,
    ca: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
    /// pingora pools by address and server name; what else makes connections different is in here.
    group_key: u64,
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// By the active check; true until it says otherwise.
    healthy: AtomicBool,
    streak: AtomicU32,
    /// Consecutive failed connections.
    failures: AtomicU32,
    ejected: ArcSwap<Option<std::time::Instant>>,
}

impl Upstreams {
    /// Takes over those of `previous` whose spec is the same, so that health and round-robin go on.
    pub fn build(specs: Vec<UpstreamSpec>, previous: Option<&Upstreams>) -> Upstreams {
        let mut by_name = HashMap::new();
        for spec in specs {
            let kept = previous.and_then(|p| p.by_name.get(&spec.name)).filter(|u| u.spec == spec).cloned();
            by_name.insert(spec.name.clone(), kept.unwrap_or_else(|| Arc::new(Upstream::new(spec))));
        }
        Upstreams { by_name }
    }

    pub fn get(&self, name: &UpstreamName) -> Option<&Arc<Upstream>> {
        self.by_name.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.by_name.values()
    }

    /// Resolves the names of the upstreams that `previous` did not have once, at most for `limit`; what does not resolve
    /// stays empty and is tried again in the background, as it is for all others.
    pub async fn resolve_new(&self, previous: Option<&Upstreams>, limit: Duration) {
        let known =
            |u: &Upstream| previous.is_some_and(|p| p.by_name.get(&u.spec.name).is_some_and(|old| old.spec == u.spec));
        let work = self.by_name.values().filter(|u| !known(u)).map(|u| async { u.resolve().await });
        let _ = tokio::time::timeout(limit, futures::future::join_all(work)).await;
    }

    /// Starts the background work of upstreams that `previous` did not have.
    pub fn start(&self, previous: Option<&Upstreams>, metrics: &Arc<Metrics>) {
        for upstream in self.by_name.values() {
            let running =
                previous.and_then(|p| p.by_name.get(&upstream.spec.name)).is_some_and(|u| Arc::ptr_eq(u, upstream));
            if !running {
                tokio::spawn(watch_names(Arc::downgrade(upstream)));
                tokio::spawn(watch_health(Arc::downgrade(upstream), metrics.clone()));
            }
        }
    }
}

impl Upstream {
    fn new(spec: UpstreamSpec) -> Upstream {
        let wrap = |der: &Vec<u8>| WrappedX509::new(der.clone(), parse_x509);
        let tls = spec.tls.as_ref();
        let ca = tls.and_then(|t| t.ca.as_ref()).map(|list| list.iter().map(wrap).collect::<Vec<_>>().into());
        let client = tls
            .and_then(|t| t.client.as_ref())
            .filter(|(chain, _)| chain.first().is_some_and(|c| !c.is_empty()))
            .map(|(chain, key)| Arc::new(CertKey::new(chain.clone(), key.clone())));
        let mut hasher = DefaultHasher::new();
        (&spec.name, &spec.tls, spec.protocol).hash(&mut hasher);
        let literal =
            spec.endpoints.iter().filter_map(|e| e.parse().ok()).map(|a| Arc::new(Endpoint::new(a))).collect();
        Upstream {
            endpoints: ArcSwap::from_pointee(literal),
            next: AtomicUsize::new(0),
            ca,
            client,
            group_key: hasher.finish(),
            spec,
        }
    }

    pub fn spec(&self) -> &UpstreamSpec {
        &self.spec
    }

    /// The next endpoint in turn that is usable and was not tried for this request, and how to reach it.
    ///
    /// # Errors
    /// [`Reason::UpstreamUnavailable`] when there is none; [`Reason::Internal`] when the permit is for another
    /// upstream.
    pub fn choose(
        &self,
        permit: &Permit,
        tried: &[SocketAddr],
        upgraded: bool,
    ) -> Result<(Arc<Endpoint>, Box<HttpPeer>), Reason> {
        if permit.upstream() != &self.spec.name {
            return Err(Reason::Internal);
        }
        let endpoints = self.endpoints.load();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn =
            || (0..endpoints.len()).filter_map(|n| endpoints.get(start.wrapping_add(n) % endpoints.len().max(1)));
        let checked = || in_turn().filter(|e| e.healthy.load(Ordering::Acquire));
        let chosen = checked()
            .find(|e| !e.is_ejected() && !tried.contains(&e.address))
            // When failed connections alone have put out all that is left, they are tried all the same.
            .or_else(|| checked().find(|e| !tried.contains(&e.address)))
            .or_else(|| checked().next());
        let Some(endpoint) = chosen else { return Err(Reason::UpstreamUnavailable) };
        Ok((endpoint.clone(), Box::new(self.peer(endpoint.address, upgraded))))
    }

    fn peer(&self, address: SocketAddr, upgraded: bool) -> HttpPeer {
        let tls = self.spec.tls.as_ref();
        let server_name = tls.map(|t| t.server_name.clone()).unwrap_or_default();
        let mut peer = HttpPeer::new(address, tls.is_some(), server_name);
        peer.group_key = self.group_key;
        peer.client_cert_key = self.client.clone();
        let timeouts = &self.spec.timeouts;
        let mut options = PeerOptions::new();
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.read);
        options.write_timeout = Some(timeouts.write);
        options.idle_timeout = Some(timeouts.idle);
        options.verify_cert = true;
        options.verify_hostname = true;
        options.ca = self.ca.clone();
        options.max_h2_streams = 100;
        if upgraded {
            // Not from the pool of other connections: they are read as soon as there is something.
            peer.group_key = !self.group_key;
            options.custom_l4 = Some(Arc::new(Patient { timeout: timeouts.connect }));
        }
        options.alpn = match self.spec.protocol {
            UpstreamProtocol::H2 => ALPN::H2,
            UpstreamProtocol::H1 => ALPN::H1,
        };
        // The fields of an upgrade that was allowed are set when the head is built.
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        peer.options = options;
        peer
    }

    /// A connection to the endpoint was made.
    pub fn connected(&self, endpoint: &Endpoint) {
        endpoint.failures.store(0, Ordering::Release);
    }

    /// A connection to the endpoint failed.
    pub fn failed(&self, endpoint: &Endpoint) {
        let failures = endpoint.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if failures >= self.spec.eject_after {
            endpoint.ejected.store(Arc::new(Some(std::time::Instant::now() + self.spec.eject_for)));
        }
    }

    async fn resolve(&self) {
        let mut found: Vec<SocketAddr> = Vec::new();
        for endpoint in &self.spec.endpoints {
            match endpoint.parse() {
                Ok(address) => found.push(address),
                Err(_) => match tokio::net::lookup_host(endpoint.as_str()).await {
                    Ok(addresses) => found.extend(addresses),
                    Err(e) => {
                        // The addresses known so far stay in use.
                        tracing::warn!(upstream = %self.spec.name, endpoint, error = %e, "name does not resolve");
                        let old = self.endpoints.load();
                        found.extend(old.iter().map(|e| e.address));
                    }
                },
            }
        }
        found.sort();
        found.dedup();
        let old = self.endpoints.load();
        if old.len() == found.len() && old.iter().all(|e| found.contains(&e.address)) {
            return;
        }
        let next = found
            .into_iter()
            .map(|a| old.iter().find(|e| e.address == a).cloned().unwrap_or_else(|| Arc::new(Endpoint::new(a))))
            .collect();
        self.endpoints.store(Arc::new(next));
    }
}

impl Endpoint {
    fn new(address: SocketAddr) -> Self {
        Endpoint {
            address,
            healthy: AtomicBool::new(true),
            streak: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected: ArcSwap::from_pointee(None),
        }
    }

    fn is_ejected(&self) -> bool {
        self.ejected.load().is_some_and(|until| std::time::Instant::now() < until)
    }
}

async fn watch_names(upstream: std::sync::Weak<Upstream>) {
    loop {
        let interval = {
            let Some(upstream) = upstream.upgrade() else { return };
            if upstream.spec.endpoints.iter().all(|e| e.parse::<SocketAddr>().is_ok()) {
                return;
            }
            upstream.resolve().await;
            // Soon again while there is nothing to connect to.
            if upstream.endpoints.load().is_empty() { Duration::from_secs(1) } else { upstream.spec.resolve_interval }
        };
        tokio::time::sleep(interval).await;
    }
}

async fn watch_health(upstream: std::sync::Weak<Upstream>, metrics: Arc<Metrics>) {
    let connector = Connector::new(None);
    loop {
        let interval = {
            let Some(upstream) = upstream.upgrade() else { return };
            let endpoints = upstream.endpoints.load_full();
            if let Some(check) = &upstream.spec.health {
                let work = endpoints.iter().map(|endpoint| async {
                    let fine =
                        tokio::time::timeout(check.timeout, probe(&connector, &upstream, endpoint.address, check))
                            .await;
                    endpoint.observe(fine.unwrap_or(false), check, &upstream.spec.name);
                });
                futures::future::join_all(work).await;
            }
            let usable = endpoints.iter().filter(|e| e.healthy.load(Ordering::Acquire) && !e.is_ejected()).count();
            let name = upstream.spec.name.as_str();
            for (state, n) in [("healthy", usable), ("unhealthy", endpoints.len().saturating_sub(usable))] {
                metrics.upstream_endpoints.with_label_values(&[name, state]).set(i64::try_from(n).unwrap_or(i64::MAX));
            }
            upstream.spec.health.as_ref().map_or(Duration::from_secs(5), |h| h.interval)
        };
        tokio::time::sleep(interval).await;
    }
}

impl Endpoint {
    fn observe(&self, fine: bool, check: &HealthCheck, upstream: &UpstreamName) {
        let healthy = self.healthy.load(Ordering::Acquire);
        if fine == healthy {
            self.streak.store(0, Ordering::Release);
            return;
        }
        let streak = self.streak.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        if streak >= if fine { check.healthy_after } else { check.unhealthy_after } {
            self.healthy.store(fine, Ordering::Release);
            self.streak.store(0, Ordering::Release);
            let state = if fine { "healthy" } else { "unhealthy" };
            tracing::warn!(%upstream, address = %self.address, state, "endpoint changed");
        }
    }
}

/// One active check over a connection of its own.
async fn probe(connector: &Connector, upstream: &Upstream, address: SocketAddr, check: &HealthCheck) -> bool {
    let peer = upstream.peer(address, false);
    let Ok((mut session, _)) = connector.get_http_session(&peer).await else { return false };
    let Ok(mut head) = RequestHeader::build("GET", check.path.as_bytes(), None) else { return false };
    let host = upstream.spec.host.clone().or_else(|| upstream.spec.tls.as_ref().map(|t| t.server_name.clone()));
    if head.insert_header("Host", host.unwrap_or_else(|| address.to_string())).is_err() {
        return false;
    }
    session.set_read_timeout(Some(check.timeout));
    if session.write_request_header(Box::new(head)).await.is_err()
        || session.finish_request_body().await.is_err()
        || session.read_response_header().await.is_err()
    {
        return false;
    }
    let fine = session.response_header().is_some_and(|r| r.status.is_success());
    session.shutdown().await;
    fine
}
