//! `partnergate.yaml` and the files it names → typed settings and the sources of a snapshot, or all problems at once.
//!
//! In: a path. Out: [`Config`]. Relative paths start at the config file's folder. Must never: use a default for a file
//! that is named but cannot be read; accept a secret that is written inline or that others may read.

mod admin;
mod bundle;
mod files;
mod issue;
mod record;
mod spec;
mod tokens;

pub use admin::AdminConfig;
pub use bundle::{BundleConfig, BundleFacts, BundleFrom};
pub use issue::{EnrolConfig, IssueConfig};
pub use record::RecordConfig;
pub use spec::CONFIG;

use crate::approval::FourEyes;
use crate::clock::UnixNanos;
use crate::disk::Watched;
use crate::document::{self, Node, Problems, Section};
use crate::fetch::{FetchSettings, HttpTls};
use crate::gateway::BodyLimits;
use crate::identity::is_signed_by;
use crate::listen::{ListenLimits, TlsSettings};
use crate::name::{Environment, UpstreamName};
use crate::operation::{Operation, OperationKind, RouteName, listed, openapi, parse_base_path};
use crate::policy::bundle::Bundle;
use crate::policy::{EngineKind, PolicyLimits, PolicySource, Promotion};
use crate::registry::Registry;
use crate::request::{HeadLimits, Host};
use crate::route::{Forward, Route, TokenUse};
use crate::snapshot::{Ahead, CandidateSource, RequestSettings, ServerCertificateSource, Snapshot, Sources};
use crate::token::TokenSettings;
use crate::upstream::{HealthCheck, UpstreamProtocol, UpstreamSpec, UpstreamTimeouts, UpstreamTls};
use files::{At, Reader};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The admin socket's name in the state folder.
const SOCKET: &str = "admin.sock";

/// Everything that was read.
#[derive(Clone, Debug)]
pub struct Config {
    pub environment: Environment,
    pub node: String,
    pub state_dir: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub limits: ListenLimits,
    /// Peers that speak the PROXY protocol.
    pub proxies: Arc<[IpNet]>,
    pub tls: TlsSettings,
    pub status_listen: Vec<SocketAddr>,
    pub admin: AdminConfig,
    pub approval: ApprovalConfig,
    /// The built-in CA, where there is one.
    pub issue: Option<IssueConfig>,
    pub enrol: EnrolConfig,
    /// What the gateway signs itself.
    pub tokens: Option<TokenSettings>,
    pub body: BodyLimits,
    pub fetch: FetchSettings,
    pub via: Arc<str>,
    pub record: RecordConfig,
    pub max_series: usize,
    /// Count requests by partner and operation too.
    pub partner_operation: bool,
    pub drain_delay: Duration,
    pub drain_grace: Duration,
    pub reload_interval: Duration,
    pub stale_after: Option<Duration>,
    pub log: LogConfig,
    pub upstreams: Vec<UpstreamSpec>,
    routes: Vec<Route>,
    operations: Vec<(RouteName, Vec<Operation>)>,
    policy: PolicySource,
    /// Where the policy comes in a bundle. That of a URL is not there yet.
    pub bundle: Option<BundleConfig>,
    policy_engine: EngineKind,
    policy_limits: PolicyLimits,
    candidate: Option<CandidateSource>,
    request: RequestSettings,
    certificates: Vec<ServerCertificateSource>,
    revision: Arc<str>,
    /// Every file and folder that was read: what a change is looked for in.
    pub watched: Watched,
    /// What does not stop the load.
    pub warnings: Problems,
}

/// What takes a second pair of eyes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalConfig {
    pub four_eyes: FourEyes,
    pub lapse_after: Duration,
    pub require_ticket: bool,
    /// How far ahead a grant may end.
    pub max_grant: Option<Duration>,
    /// How far ahead the end of a credential may be; every one has an end then.
    pub max_credential: Option<Duration>,
}

/// Where a gateway is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPlaces {
    pub state_dir: PathBuf,
    pub socket: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub level: String,
    pub json: bool,
}

/// Reads a policy folder by itself.
///
/// # Errors
/// Files that cannot be read, or a folder without any.
pub fn read_policy_folder(folder: &Path) -> Result<PolicySource, Problems> {
    let mut problems = Problems::new();
    let source = Reader::new(Path::new("")).policy_folder(folder, &mut problems);
    if problems.has_errors() { Err(problems) } else { Ok(source) }
}

impl Config {
    /// The policy as it was read.
    pub fn policy(&self) -> &PolicySource {
        &self.policy
    }

    pub fn candidate(&self) -> Option<&CandidateSource> {
        self.candidate.as_ref()
    }

    /// The candidate as it was read, where nothing was wrong with that.
    pub fn candidate_source(&self) -> Option<&PolicySource> {
        self.candidate.as_ref()?.policy.as_ref().ok()
    }

    /// Takes the policy out of a bundle that has come.
    pub fn take_bundle(&mut self, bundle: &Bundle) {
        if let Some(config) = &mut self.bundle {
            config.known = Some(BundleFacts::of(bundle));
            self.policy = bundle.source.clone();
        }
    }

    /// Goes on with the policy of another config, whose bundle is of the same URL.
    pub fn go_on_with_policy_of(&mut self, other: &Config) {
        if let (Some(config), Some(other_config)) = (&mut self.bundle, &other.bundle) {
            config.known.clone_from(&other_config.known);
            self.policy = other.policy.clone();
        }
    }

    /// With the bundle that the gateway of this config has kept, where it comes from a URL: for those who do not ask
    /// for a newer one.
    ///
    /// # Errors
    /// There is none that could be used.
    pub fn with_kept_policy(mut self) -> Result<Config, Problems> {
        match self.bundle.as_ref().and_then(|bundle| bundle.copy(&self.state_dir)) {
            None => {}
            Some(Ok(bundle)) => self.take_bundle(&bundle),
            Some(Err(reason)) => {
                let mut problems = Problems::new();
                let source = self.bundle.map(|bundle| bundle.source).unwrap_or_default();
                let reason = format!("no copy of this policy bundle can be used: {reason}");
                problems.file(&source, reason, Some("start the gateway while the server of the bundle answers"));
                return Err(problems);
            }
        }
        Ok(self)
    }

    /// Reads the config and every file it names.
    ///
    /// # Errors
    /// All problems of all files.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        Self::load_watched(path).0
    }

    /// What the gateway of this config keeps in which folder, and its admin socket. Nothing else is looked at: whoever
    /// has to revoke a credential now must not be kept from it by a mistake elsewhere in the files.
    ///
    /// # Errors
    /// The file cannot be read, is not YAML, or names no `state_dir`.
    pub fn places(path: &Path) -> Result<ConfigPlaces, Problems> {
        let (mut problems, mut reader) = (Problems::new(), Reader::new(path));
        let name = path.display().to_string();
        let text = reader.text(path, &mut problems);
        let document = text.map(|text| document::parse(&name, &text)).transpose()?;
        match document.as_ref().and_then(|d| d.get("state_dir")).and_then(document::Node::text) {
            Some(state_dir) => {
                let state_dir = reader.resolve(Path::new(state_dir));
                let written = document.as_ref().and_then(|d| d.get("admin")).and_then(|admin| admin.get("socket"));
                let socket = written.and_then(document::Node::text).map(|text| reader.resolve(Path::new(text)));
                Ok(ConfigPlaces { socket: socket.unwrap_or_else(|| state_dir.join(SOCKET)), state_dir })
            }
            None => {
                if !problems.has_errors() {
                    problems.file(&name, "`state_dir` is missing, where the admin socket is", None);
                }
                Err(problems)
            }
        }
    }

    /// As [`Config::load`], and every file that was looked at, also where the load has failed.
    pub fn load_watched(path: &Path) -> (Result<Config, Problems>, Watched) {
        let mut reader = Reader::new(path);
        let loaded = Self::load_with(path, &mut reader);
        let watched = reader.into_watched();
        (loaded.map(|config| Config { watched: watched.clone(), ..config }), watched)
    }

    fn load_with(path: &Path, reader: &mut Reader) -> Result<Config, Problems> {
        let mut problems = Problems::new();
        let Some(text) = reader.text(path, &mut problems) else { return Err(problems) };
        let name = path.display().to_string();
        let document = document::parse(&name, &text)?;
        document::check(&document, CONFIG, &mut problems);
        let config = read(Section::new(&document, CONFIG), reader, &mut problems);
        match config {
            Some(mut config) if !problems.has_errors() => {
                problems.sort();
                config.revision = reader.revision();
                config.warnings = problems;
                Ok(config)
            }
            config => {
                // What can be judged of the rest is said at once. Nobody serves this snapshot.
                let has_policy = |c: &Config| c.policy.files.iter().any(|(path, _)| path.ends_with(".rego"));
                let rest = config
                    .filter(has_policy)
                    .map(|c| Snapshot::build(c.own_sources(Registry::default()), None, UnixNanos(0)));
                if let Some(Err(more)) = rest {
                    more.errors().for_each(|p| problems.push(p.clone()));
                }
                problems.sort();
                Err(problems)
            }
        }
    }

    /// The sources of a snapshot with this registry, without what is read for its anchors; the policy that was promoted, as
    /// long as that stands, in the place of the configured one.
    pub fn sources(&self, registry: Registry, promotion: Option<&Promotion>) -> Sources {
        let sources = self.own_sources(registry);
        match promotion.filter(|promotion| promotion.stands(&sources.policy)) {
            Some(promotion) => Sources { policy: promotion.source(), policy_bundle: None, ..sources },
            None => sources,
        }
    }

    fn own_sources(&self, registry: Registry) -> Sources {
        Sources {
            environment: self.environment.clone(),
            routes: self.routes.clone(),
            operations: self.operations.clone(),
            policy: self.policy.clone(),
            policy_bundle: self.bundle.as_ref().and_then(|b| b.known.as_ref()).map(|known| known.revision.clone()),
            policy_engine: self.policy_engine,
            policy_limits: self.policy_limits,
            candidate: self.candidate.clone(),
            ahead: Ahead::default(),
            request: self.request.clone(),
            certificates: self.certificates.clone(),
            registry,
            material: Arc::default(),
            tokens: None,
            config_revision: self.revision.clone(),
        }
    }

    /// Settings that take effect only at a start, which differ from `running`'s.
    pub fn needs_restart(&self, running: &Config) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut differ = |key: &'static str, same: bool| {
            if !same {
                keys.push(key);
            }
        };
        differ("environment", self.environment == running.environment);
        differ("node", self.node == running.node);
        differ("state_dir", self.state_dir == running.state_dir);
        differ("partner.listen", self.listen == running.listen);
        differ("partner.limits and partner.timeouts", self.limits == running.limits);
        differ("admin.socket, admin.group and admin.listen", self.admin.same_place(&running.admin));
        differ("enrol.listen", self.enrol.listen == running.enrol.listen);
        differ("status.listen", self.status_listen == running.status_listen);
        differ("request.via", self.via == running.via);
        differ("request.min_body_rate", self.body.min_rate == running.body.min_rate);
        differ("record", self.record == running.record);
        differ("metrics", self.max_series == running.max_series && self.partner_operation == running.partner_operation);
        differ("drain", (self.drain_delay, self.drain_grace) == (running.drain_delay, running.drain_grace));
        differ("log", self.log == running.log);
        keys
    }
}

fn read(root: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<Config> {
    let partner = root.section("partner");
    let limits = partner.section("limits");
    let timeouts = partner.section("timeouts");
    let tls = partner.section("tls");
    let request = root.section("request");
    let drain = root.section("drain");
    let revocation = root.section("revocation");
    let policy = root.section("policy");

    let certificates = partner.tables("certificates").into_iter().enumerate();
    let certificates: Vec<ServerCertificateSource> =
        certificates.filter_map(|(n, (_, section))| certificate(n, section, reader, problems)).collect();
    if partner.tables("certificates").is_empty() {
        if let Some(node) = partner.node("certificates") {
            problems.push(node.error("partner.certificates", "at least one certificate is needed", None));
        }
    }
    let upstreams: Vec<UpstreamSpec> =
        root.tables("upstreams").into_iter().filter_map(|(name, u)| upstream(name, u, reader, problems)).collect();
    let declared: Vec<&str> = root.tables("upstreams").into_iter().map(|(name, _)| name).collect();
    let mut routes = Vec::new();
    let mut operations = Vec::new();
    for (name, section) in root.tables("routes") {
        if let Some((route, listed)) = route(name, section, &declared, reader, problems) {
            let spoken = upstreams.iter().find(|u| u.name == route.upstream).map(|u| u.protocol);
            let grpc = listed.iter().find(|o| o.kind == OperationKind::Grpc);
            if let (Some(UpstreamProtocol::H1), Some(operation), Some(node)) = (spoken, grpc, section.own_node()) {
                let reason = format!(
                    "`{}` is a gRPC method, and the upstream `{}` is spoken to in HTTP/1.1",
                    operation.id, route.upstream
                );
                let fix = format!("set `protocol: h2` at the upstream `{}`", route.upstream);
                problems.push(node.error(format!("routes.{name}"), reason, Some(&fix)));
            }
            operations.push((route.name.clone(), listed));
            routes.push(route);
        }
    }
    let mut policy_headers = Vec::new();
    for name in policy.texts("headers") {
        let lower = name.to_ascii_lowercase();
        // Some read `_` and `.` as `-`.
        let plain = lower.replace(['_', '.'], "-");
        let secret = matches!(plain.as_str(), "authorization" | "proxy-authorization" | "cookie" | "x-api-key");
        if secret || http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
            if let Some(node) = policy.node("headers") {
                let why = if secret {
                    "carries secrets and is never shown to policy or records"
                } else {
                    "is not a field name"
                };
                problems.push(node.error("policy.headers", format!("`{name}` {why}"), Some("remove it")));
            }
        }
        policy_headers.push(lower);
    }
    let state_dir = reader.resolve(Path::new(root.text("state_dir")?));
    let admin = root.section("admin");
    let socket = admin.text("socket").map_or_else(|| state_dir.join(SOCKET), |text| reader.resolve(Path::new(text)));
    let admin = admin::read(admin, socket, reader, problems);
    let issue = issue::read(root.section("issue"), reader, problems);
    let ca = issue.as_ref().and_then(|issue| issue.as_ref()).map(|issue| issue.ca.clone());
    let enrol = issue::enrol(root.section("enrol"), (ca, issue.is_none()), reader, problems);
    let tokens = tokens::read(root.section("tokens"), reader, problems);
    let signs = root.has("tokens");
    let issues = root.section("tokens").has("authorization_server");
    let keys = root.section("tokens").has("api_keys");
    for (name, section) in root.tables("routes") {
        if let (Some(node), true, false) = (section.node("assertion"), section.boolean("assertion"), signs) {
            let fix = "add `tokens`: who signs it, and what its keys are kept under";
            problems.push(node.error(format!("routes.{name}.assertion"), "nothing signs an assertion", Some(fix)));
        }
        let of_tokens = (issues, "nobody issues access tokens", "add `tokens.authorization_server`, or take this out");
        let of_keys = (keys, "nobody has API keys", "add `tokens.api_keys`, or take this out");
        for (key, (on, reason, fix)) in [("token", of_tokens), ("forward_token", of_tokens), ("api_key", of_keys)] {
            if let (Some(node), false) = (section.node(key), on) {
                problems.push(node.error(format!("routes.{name}.{key}"), reason, Some(fix)));
            }
        }
    }
    let record = record::read(root.section("record"), reader, problems);
    let (bundle, policy_source) = match policy.node("bundle") {
        None => (None, reader.policy_folder(Path::new(policy.text("dir")?), problems)),
        Some(node) => {
            if policy.has("dir") {
                let reason = "the policy is either in a folder (`dir`) or in a bundle";
                problems.push(node.error("policy.bundle", reason, Some("take one of the two out")));
            }
            bundle::read(policy.section("bundle"), reader, problems)
                .map_or((None, PolicySource::default()), |(bundle, source)| (Some(bundle), source))
        }
    };
    let candidate = policy.has("candidate").then(|| candidate(policy.section("candidate"), reader));
    let addresses = |texts: Vec<String>| texts.iter().filter_map(|t| t.parse().ok()).collect::<Vec<SocketAddr>>();
    Some(Config {
        environment: Environment::parse(root.text("environment")?).ok()?,
        node: root.text("node").map_or_else(host_name, str::to_owned),
        state_dir,
        listen: addresses(partner.texts("listen")),
        limits: ListenLimits {
            max_connections: limits.count("max_connections"),
            max_handshakes: limits.count("max_handshakes"),
            handshakes_per_source: u32::try_from(limits.integer("handshakes_per_source")).unwrap_or(1),
            connections_per_partner: limits.count("connections_per_partner"),
            handshake_timeout: timeouts.duration("handshake"),
            head_timeout: timeouts.duration("head"),
            idle_timeout: timeouts.duration("idle"),
            h2_preface_timeout: timeouts.duration("h2_preface"),
            h2_idle_timeout: timeouts.duration("h2_idle"),
            body_progress: timeouts.duration("body_progress"),
            max_age: limits.duration("max_age"),
            max_requests: u64::try_from(limits.integer("max_requests")).unwrap_or(1),
            h2_max_streams: u32::try_from(limits.integer("h2_max_streams")).unwrap_or(1),
        },
        proxies: partner
            .section("proxy_protocol")
            .texts("from")
            .iter()
            .filter_map(|t| document::parse_cidr(t).ok())
            .collect(),
        tls: TlsSettings {
            allow_tls12: tls.text("min_version") == Some("1.2"),
            session_cache: tls.count("session_cache"),
        },
        admin: admin?,
        status_listen: addresses(root.section("status").texts("listen")),
        approval: approval(root.section("approval")),
        issue: issue?,
        enrol: enrol?,
        tokens: tokens?,
        body: BodyLimits {
            progress: timeouts.duration("body_progress"),
            min_rate: u64::try_from(request.integer("min_body_rate")).unwrap_or(0),
        },
        fetch: FetchSettings {
            refresh: revocation.duration("refresh"),
            timeout: revocation.duration("timeout"),
            max_size: revocation.size("max_size"),
            hosts: revocation.texts("hosts"),
        },
        via: request.text("via")?.into(),
        record: record?,
        max_series: root.section("metrics").count("max_series"),
        partner_operation: root.section("metrics").boolean("partner_operation"),
        drain_delay: drain.duration("delay"),
        drain_grace: drain.duration("grace"),
        reload_interval: root.section("reload").duration("interval"),
        stale_after: root.section("reload").has("stale_after").then(|| root.section("reload").duration("stale_after")),
        log: LogConfig {
            level: root.section("log").text("level")?.to_owned(),
            json: root.section("log").text("format") == Some("json"),
        },
        upstreams,
        routes,
        operations,
        policy: policy_source,
        bundle,
        policy_engine: if policy.text("engine") == Some("interpreter") {
            EngineKind::Interpreter
        } else {
            EngineKind::Rvm
        },
        policy_limits: PolicyLimits {
            time: policy.duration("time_limit"),
            instructions: policy.count("instruction_limit"),
        },
        candidate,
        request: RequestSettings {
            head: HeadLimits { max_bytes: request.size("max_head"), max_fields: request.count("max_fields") },
            policy_headers,
            bearer: issues,
            api_key: keys,
        },
        certificates,
        revision: "".into(),
        watched: Watched::new(),
        warnings: Problems::new(),
    })
}

/// The folder of a candidate is not the gateway's own: what is wrong with it is kept for whoever asks.
fn candidate(section: Section<'_>, reader: &mut Reader) -> CandidateSource {
    let (folder, mut found) = (Path::new(section.text("dir").unwrap_or_default()), Problems::new());
    let source = reader.policy_folder(folder, &mut found);
    let percent = |key: &str| u8::try_from(section.integer(key)).unwrap_or(1);
    CandidateSource {
        place: reader.resolve(folder).display().to_string(),
        policy: if found.has_errors() { Err(found) } else { Ok(source) },
        sample_percent: percent("sample_percent"),
        cpu_percent: percent("cpu_percent"),
    }
}

fn approval(section: Section<'_>) -> ApprovalConfig {
    let days = |key: &str| {
        let days = section.has(key).then(|| u64::try_from(section.integer(key)).unwrap_or(1));
        days.map(|days| Duration::from_secs(days * 86_400))
    };
    ApprovalConfig {
        four_eyes: if section.text("four_eyes") == Some("off") { FourEyes::Off } else { FourEyes::Required },
        lapse_after: section.duration("lapse_after"),
        require_ticket: section.boolean("require_ticket"),
        max_grant: days("max_grant_days"),
        max_credential: days("max_credential_days"),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "node".to_owned(), |t| t.trim().to_owned())
}

fn certificate(
    n: usize,
    section: Section<'_>,
    reader: &mut Reader,
    problems: &mut Problems,
) -> Option<ServerCertificateSource> {
    let at = |key| Some(At { node: section.node(key)?, key: format!("partner.certificates[{n}].{key}") });
    let (chain_at, key_at) = (at("chain")?, at("key")?);
    let chain_file = section.text("chain")?;
    let chain = reader.bytes_of(&chain_at, chain_file, problems);
    let key = reader.secret(&key_at, section.text("key")?, problems);
    let (chain, (key_file, key)) = (chain?, key?);
    let certificates = reader.certificates(&chain_at, chain_file, problems)?;
    reader.matched_key(&key_at, &certificates, (&key_file, &key), problems)?;
    let ca = match (at("ca"), section.text("ca")) {
        (Some(ca_at), Some(file)) => {
            let found = reader.certificates(&ca_at, file, problems)?;
            let last = certificates.last()?;
            // A chain may have its root in it.
            if !found.iter().any(|ca| ca == last || is_signed_by(last, ca)) {
                let reason =
                    format!("`{file}` holds no CA that `{chain_file}` ends in: clients would refuse the gateway");
                problems.push(ca_at.error(reason, Some("name the CA that the server certificate was issued by")));
                return None;
            }
            found
        }
        _ => Vec::new(),
    };
    Some(ServerCertificateSource { chain_file: chain_file.to_owned(), key_file, chain, key, ca })
}

fn upstream(name: &str, section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<UpstreamSpec> {
    let timeouts = section.section("timeouts");
    let at = |key: &str| format!("upstreams.{name}.{key}");
    if section.texts("endpoints").is_empty() {
        problems.push(section.node("endpoints")?.error(at("endpoints"), "at least one endpoint is needed", None));
    }
    let tls = match section.node("tls") {
        None => None,
        Some(_) => upstream_tls(name, section.section("tls"), reader, problems),
    };
    let health = section.node("health").map(|node| {
        let health = section.section("health");
        let path = health.text("path").unwrap_or_default();
        if !path.starts_with('/') {
            problems.push(node.error(at("health.path"), "must start with `/`", None));
        }
        HealthCheck {
            path: path.to_owned(),
            interval: health.duration("interval"),
            timeout: health.duration("timeout"),
            healthy_after: u32::try_from(health.integer("healthy_after")).unwrap_or(1),
            unhealthy_after: u32::try_from(health.integer("unhealthy_after")).unwrap_or(1),
        }
    });
    if let (Some(node), Some(host)) = (section.node("host"), section.text("host")) {
        if http::HeaderValue::from_str(host).is_err() || host.contains(['/', ' ', '@']) {
            problems.push(node.error(at("host"), format!("`{host}` is not a host"), None));
        }
    }
    Some(UpstreamSpec {
        name: UpstreamName::parse(name).ok()?,
        endpoints: section.texts("endpoints"),
        protocol: if section.text("protocol") == Some("h2") { UpstreamProtocol::H2 } else { UpstreamProtocol::H1 },
        tls,
        host: section.text("host").map(str::to_owned),
        timeouts: UpstreamTimeouts {
            connect: timeouts.duration("connect"),
            read: timeouts.duration("read"),
            write: timeouts.duration("write"),
            idle: timeouts.duration("idle"),
        },
        health,
        eject_after: u32::try_from(section.integer("eject_after")).unwrap_or(1),
        eject_for: section.duration("eject_for"),
        resolve_interval: section.duration("resolve_interval"),
    })
}

fn upstream_tls(name: &str, section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<UpstreamTls> {
    let at = format!("upstreams.{name}.tls");
    let server_name = section.text("server_name")?.to_owned();
    if Host::parse(&server_name).is_err() {
        problems.push(section.node("server_name")?.error(
            format!("{at}.server_name"),
            format!("`{server_name}` is not a host name"),
            None,
        ));
    }
    let HttpTls { ca, client } = reader.client_tls(section, &at, problems)?;
    Some(UpstreamTls { server_name, ca, client })
}

fn route(
    name: &str,
    section: Section<'_>,
    upstreams: &[&str],
    reader: &mut Reader,
    problems: &mut Problems,
) -> Option<(Route, Vec<Operation>)> {
    let at = |key: &str| format!("routes.{name}.{key}");
    let mut hosts = Vec::new();
    for (node, text) in section.node("hosts")?.items().iter().zip(section.texts("hosts")) {
        match Host::parse(&text) {
            Ok(host) => hosts.push(host),
            Err(reason) => problems.push(node.error(at("hosts"), reason, None)),
        }
    }
    let prefix = section.text("prefix")?;
    let prefix = if prefix == "/" {
        "/".to_owned()
    } else {
        match parse_base_path(prefix) {
            Ok(clean) => clean.to_owned(),
            Err(reason) => {
                problems.push(section.node("prefix")?.error(at("prefix"), reason, None));
                return None;
            }
        }
    };
    let upstream = UpstreamName::parse(section.text("upstream")?).ok()?;
    if !upstreams.contains(&upstream.as_str()) {
        let fix = format!("known upstreams: {}", upstreams.join(", "));
        problems.push(section.node("upstream")?.error(
            at("upstream"),
            format!("there is no upstream `{upstream}`"),
            Some(&fix),
        ));
    }
    let mut operations = Vec::new();
    for (n, (_, document)) in section.tables("openapi").into_iter().enumerate() {
        let (Some(node), Some(file)) = (document.node("file"), document.text("file")) else { continue };
        if let Some(text) = reader.text_of(&At { node, key: at(&format!("openapi[{n}].file")) }, file, problems) {
            operations.extend(openapi::load(file, &text, document.text("base_path"), problems));
        }
    }
    for (n, (_, entry)) in section.tables("operations").into_iter().enumerate() {
        operations.extend(listed::operation(entry, &format!("routes.{name}.operations[{n}]"), problems));
    }
    if operations.is_empty() {
        let node: &Node = section.own_node()?;
        let fix = "add `openapi` or `operations`; without any, every request is denied";
        problems.push(node.warning(format!("routes.{name}"), "the route has no operations", Some(fix)));
    }
    let below =
        |path: &str| prefix == "/" || path == prefix || path.strip_prefix(&prefix).is_some_and(|r| r.starts_with('/'));
    for operation in operations.iter().filter(|o| !below(o.template.as_str())) {
        let node: &Node = section.own_node()?;
        let reason = format!("the operation `{}` ({}) is outside the prefix `{prefix}`", operation.id, operation.place);
        problems.push(node.warning(
            at("prefix"),
            reason,
            Some("set `base_path` of the document, or change the prefix"),
        ));
    }
    let forward = Forward {
        client_cert: section.boolean("client_cert"),
        client_cert_chain: section.boolean("client_cert_chain"),
        xfcc: section.boolean("xfcc"),
        assertion: section.boolean("assertion"),
        token: section.boolean("forward_token"),
    };
    let made_of = |key: &str| section.text(key).and_then(TokenUse::parse).unwrap_or(TokenUse::Accepted);
    let (token, api_key) = (made_of("token"), made_of("api_key"));
    if forward.client_cert_chain && !forward.client_cert {
        let reason = "a chain is sent only beside the client's certificate";
        let node = section.node("client_cert_chain").or_else(|| section.own_node())?;
        problems.push(node.error(at("client_cert_chain"), reason, Some("set `client_cert: true` as well")));
    }
    let route = Route {
        name: RouteName::parse(name).ok()?,
        place: section.own_node().map_or_else(String::new, |n| format!("{}:{}", n.file, n.line)),
        hosts,
        prefix,
        upstream,
        max_body: u64::try_from(section.size("max_body")).unwrap_or(u64::MAX),
        stream_idle: section.duration("stream_idle"),
        forward,
        token,
        api_key,
        operations: None,
    };
    Some((route, operations))
}
