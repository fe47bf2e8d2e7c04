//! One immutable, complete, validated state: registry + policy + trust + config. Requests are decided on exactly one.
//!
//! In: [`Sources`] (what `config` and `store` have read). Out: a [`Snapshot`], or all [`Problems`]. `check`, `serve`
//! and reload all come through here, so that what one accepts no other refuses. Must never: do I/O; return a snapshot
//! that is only partly valid.

mod ahead;
mod candidate;
mod certificates;

pub use ahead::Ahead;
pub use candidate::{Candidate, CandidateSource};
pub use certificates::{ServerCertificate, ServerCertificateSource};

use crate::clock::UnixNanos;
use crate::document::{Problem, Problems, Severity, nearest};
use crate::name::{Environment, PartnerId};
use crate::operation::{Operation, Operations, RouteName};
use crate::partner::{ANY_NETWORK, PartnerRecord};
use crate::policy::{EngineKind, Listed, Mention, Policy, PolicyLimits, PolicySource, ValueCache};
use crate::registry::Registry;
use crate::request::{HeadLimits, SERVED};
use crate::route::{Route, Routes};
use crate::token::{OauthEndpoint, Server, Tokens};
use crate::trust::{Material, Trust, WrongAnchor};
use http::Method;
use std::sync::Arc;
use std::time::Duration;

/// Partners and credentials whose policy values are kept ready.
const VALUE_CACHE: usize = 10_000;
/// Expiry nearer than this is warned about.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);

/// Everything a snapshot is made of, read but not yet judged together.
pub struct Sources {
    pub environment: Environment,
    pub routes: Vec<Route>,
    pub operations: Vec<(RouteName, Vec<Operation>)>,
    pub policy: PolicySource,
    /// The revision of the bundle that it came in, as its manifest names it.
    pub policy_bundle: Option<Arc<str>>,
    pub policy_engine: EngineKind,
    pub policy_limits: PolicyLimits,
    /// What is to be previewed.
    pub candidate: Option<CandidateSource>,
    /// Of these policies, those that are compiled.
    pub ahead: Ahead,
    pub request: RequestSettings,
    pub certificates: Vec<ServerCertificateSource>,
    pub registry: Registry,
    /// What was read for the registry's anchors.
    pub material: Arc<Material>,
    /// What the gateway signs with; none where the config has none.
    pub tokens: Option<Arc<Tokens>>,
    /// SHA-256 of the config file and what it includes, as hex.
    pub config_revision: Arc<str>,
}

/// How requests are read, from the config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSettings {
    pub head: HeadLimits,
    /// Field names, in lower case, whose values policy and records may see.
    pub policy_headers: Vec<String>,
    /// Access tokens are looked for.
    pub bearer: bool,
    /// API keys are looked for.
    pub api_key: bool,
}

/// The revisions of what a decision was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub registry: u64,
    pub policy: Arc<str>,
    /// Of the policy's bundle, as its manifest names it, where it came in one.
    pub bundle: Option<Arc<str>>,
    pub trust: u64,
    pub config: Arc<str>,
}

/// See the module.
pub struct Snapshot {
    pub environment: Environment,
    pub registry: Registry,
    pub trust: Arc<Trust>,
    pub material: Arc<Material>,
    pub policy: Arc<Policy>,
    /// A policy that is only previewed.
    pub candidate: Option<Arc<Candidate>>,
    pub routes: Arc<Routes>,
    pub operations: Arc<Operations>,
    pub certificates: Arc<Vec<ServerCertificate>>,
    certificate_sources: Arc<Vec<ServerCertificateSource>>,
    pub request: Arc<RequestSettings>,
    pub tokens: Option<Arc<Tokens>>,
    pub revision: Revision,
    pub(crate) values: Arc<ValueCache>,
    pub built: UnixNanos,
    /// Since when this policy has decided.
    pub policy_since: UnixNanos,
}

impl Snapshot {
    /// Builds in full. Warnings come with the snapshot. What of `previous` has not changed is
    /// taken over as it is.
    ///
    /// # Errors
    /// All problems of all sources at once.
    pub fn build(
        sources: Sources,
        previous: Option<&Snapshot>,
        now: UnixNanos,
    ) -> Result<(Snapshot, Problems), Problems> {
        let mut problems = Problems::new();
        let operations = Operations::build(sources.operations, &mut problems);
        let mut routes = sources.routes;
        for route in &mut routes {
            route.operations = operations.route(&route.name);
        }
        let routes = Routes::build(routes, &mut problems);
        let how = (sources.policy_engine, sources.policy_limits);
        let compiled = |source: &PolicySource| sources.ahead.policy(source, how, previous);
        let policy = match compiled(&sources.policy) {
            Ok(policy) => Some(policy),
            Err(found) => {
                problems.extend(found);
                None
            }
        };
        // What has not changed stays the same object, so that TLS sessions survive changes that do not concern them.
        let built = certificates::build(&sources.certificates, now, EXPIRY_WARNING, &mut problems);
        let kept = previous.filter(|p| *p.certificate_sources == sources.certificates);
        let certificates = kept.map_or_else(|| Arc::new(built), |p| p.certificates.clone());
        certificates::check_hosts(&certificates, &routes, &mut problems);
        if let Some(access) = sources.tokens.as_ref().and_then(|tokens| tokens.access.as_ref()) {
            check_server(&access.server, (&routes, &operations), &certificates, &mut problems);
        }
        let same =
            |p: &&Snapshot| p.registry.anchors().eq(sources.registry.anchors()) && p.material == sources.material;
        let trust = match previous.filter(same) {
            Some(p) => Some(p.trust.clone()),
            None => {
                let generation = previous.map_or(1, |p| p.trust.generation() + 1);
                match Trust::build(generation, sources.registry.anchors(), &sources.material) {
                    Ok(trust) => Some(Arc::new(trust)),
                    Err(found) => {
                        not_anchors(found, &mut problems);
                        None
                    }
                }
            }
        };
        if let Some(trust) = &trust {
            warn_expiring_anchors(trust, now, &mut problems);
        }
        if let Some(policy) = &policy {
            problems.extend(policy.warnings().clone());
            check_mentions(policy, &operations, &sources.registry, &sources.request.policy_headers, &mut problems);
            for record in sources.registry.partners() {
                check_record(record, policy, &operations, &mut problems);
            }
        }
        let (Some(policy), Some(trust), false) = (policy, trust, problems.has_errors()) else {
            problems.sort();
            return Err(problems);
        };
        let candidate = sources.candidate.map(|source| Arc::new(Candidate::build(source, policy.revision(), compiled)));
        if let Some(candidate) = &candidate {
            candidate.warn(&mut problems);
        }
        let revision = Revision {
            registry: sources.registry.revision(),
            policy: policy.revision().clone(),
            bundle: sources.policy_bundle,
            trust: trust.generation(),
            config: sources.config_revision,
        };
        let same = |p: &&Snapshot| p.revision.policy == revision.policy && p.revision.bundle == revision.bundle;
        let policy_since = previous.filter(same).map_or(now, |p| p.policy_since);
        let values = match previous {
            Some(p) if p.environment == sources.environment => p.values.clone(),
            _ => Arc::new(ValueCache::new(sources.environment.clone(), VALUE_CACHE)),
        };
        let snapshot = Snapshot {
            environment: sources.environment,
            registry: sources.registry,
            trust,
            material: sources.material,
            policy,
            candidate,
            routes: Arc::new(routes),
            operations: Arc::new(operations),
            certificates,
            certificate_sources: Arc::new(sources.certificates),
            request: Arc::new(sources.request),
            tokens: sources.tokens,
            revision,
            values,
            built: now,
            policy_since,
        };
        Ok((snapshot, problems))
    }

    /// The same with other keys.
    pub fn with_tokens(&self, tokens: Option<Arc<Tokens>>, now: UnixNanos) -> Result<Snapshot, Problems> {
        let same = self.with_registry(self.registry.clone(), &[], None, now)?;
        Ok(Snapshot { tokens, ..same })
    }

    /// The snapshot after a change of the registry that touched `partners`. Trust is built anew where `material` is given:
    /// anchors have changed, or what was read for them has. The rest is shared; only what was touched is judged.
    ///
    /// # Errors
    /// What of the change does not fit; then this snapshot stays in use.
    pub fn with_registry(
        &self,
        registry: Registry,
        partners: &[PartnerId],
        material: Option<Arc<Material>>,
        now: UnixNanos,
    ) -> Result<Snapshot, Problems> {
        let mut problems = Problems::new();
        let mut trust = self.trust.clone();
        if let Some(material) = &material {
            match Trust::build(self.trust.generation() + 1, registry.anchors(), material) {
                Ok(next) => trust = Arc::new(next),
                Err(found) => {
                    not_anchors(found, &mut problems);
                }
            }
        }
        for record in partners.iter().filter_map(|id| registry.partner(id)) {
            check_record(record, &self.policy, &self.operations, &mut problems);
        }
        if problems.has_errors() {
            return Err(problems);
        }
        let revision = Revision { registry: registry.revision(), trust: trust.generation(), ..self.revision.clone() };
        Ok(Snapshot {
            environment: self.environment.clone(),
            registry,
            trust,
            material: material.unwrap_or_else(|| self.material.clone()),
            policy: self.policy.clone(),
            candidate: self.candidate.clone(),
            routes: self.routes.clone(),
            operations: self.operations.clone(),
            certificates: self.certificates.clone(),
            certificate_sources: self.certificate_sources.clone(),
            request: self.request.clone(),
            tokens: self.tokens.clone(),
            revision,
            values: self.values.clone(),
            built: now,
            policy_since: self.policy_since,
        })
    }
}

/// What rules look for, and nobody has: an operation that is gone, a network of another environment, a header field that policy
/// does not see. A warning, because one policy may be for several gateways.
fn check_mentions(
    policy: &Policy,
    operations: &Operations,
    registry: &Registry,
    headers: &[String],
    problems: &mut Problems,
) {
    for Mention { listed, name, file, line, column } in policy.mentions() {
        let known: Vec<&str> = match listed {
            Listed::Operations => operations.iter().map(|operation| operation.id.as_str()).collect(),
            Listed::Networks => registry.networks().map(|n| n.name.as_str()).chain([ANY_NETWORK]).collect(),
            Listed::Headers => headers.iter().map(String::as_str).collect(),
        };
        if known.contains(&name.as_str()) {
            continue;
        }
        let shown = name.escape_debug();
        let reason = match listed {
            Listed::Operations => format!("no route has the operation `{shown}`"),
            Listed::Networks => format!("there is no network `{shown}`"),
            Listed::Headers => {
                format!("policy does not see the header field `{shown}`: `policy.headers` does not list it")
            }
        };
        let near = nearest(name, known.into_iter()).map(|near| format!("did you mean `{near}`?"));
        problems.push(Problem {
            severity: Severity::Warning,
            file: file.as_str().into(),
            line: *line,
            column: *column,
            key: String::new(),
            reason,
            fix: near,
        });
    }
}

/// The authorization server's paths and operations must not be in each other's way.
fn check_server(
    server: &Server,
    (routes, operations): (&Routes, &Operations),
    certificates: &[ServerCertificate],
    problems: &mut Problems,
) {
    for endpoint in OauthEndpoint::ALL {
        let path = endpoint.path();
        let route = routes.find(&server.host, path).route().and_then(|route| route.operations);
        let resolved = |method: &Method| operations.resolve(route?, method.as_str(), path);
        if let Some(found) = SERVED.iter().find_map(resolved) {
            let operation = found.operation;
            let reason =
                format!("`{path}` on `{}` is the authorization server's, and of the operation as well", server.host);
            let fix = "give the operation another path or host, or `tokens.issuer` another host";
            problems.push(operation.place.error(operation.id.as_str(), reason, fix));
        }
    }
    if !certificates.iter().any(|certificate| certificate.serves(&server.host)) {
        let reason = format!("no server certificate is for the host `{}`", server.host);
        let fix = Some("add a certificate with this name, or partners cannot get access tokens");
        problems.warning("tokens", "issuer", reason, fix);
    }
}

/// What a partner and its grants need of policy and operations. An operation that is gone from the documents is a warning:
/// the grant then simply covers less, and an API document may not make the gateway refuse to start.
fn check_record(record: &PartnerRecord, policy: &Policy, operations: &Operations, problems: &mut Problems) {
    for reason in record.partner.observe.keys().filter(|name| !policy.declares(name)) {
        let reason =
            format!("`{}` is only observed for `{reason}`, which the policy does not declare", record.partner.id);
        problems.warning("registry", "", reason, Some("take it out, or declare the reason in `reasons.yaml`"));
    }
    for grant in &record.grants {
        for wrong in policy.check_conditions(&grant.conditions) {
            let key = format!("partners.{}.grants.{}.conditions", record.partner.id, grant.id);
            problems.registry(key, wrong.reason, wrong.fix.as_deref());
        }
        for operation in grant.operations.iter().filter(|o| operations.get(o).is_none()) {
            let reason = format!(
                "grant `{}` of `{}` names the operation `{operation}`, which no route has",
                grant.id, record.partner.id
            );
            problems.warning("registry", "", reason, None);
        }
    }
}

fn not_anchors(found: Vec<WrongAnchor>, problems: &mut Problems) {
    for wrong in found {
        problems.registry(format!("anchors.{}", wrong.anchor), wrong.reason, None);
    }
}

fn warn_expiring_anchors(trust: &Trust, now: UnixNanos, problems: &mut Problems) {
    for anchor in trust.anchors() {
        if anchor.not_after <= now.saturating_add(EXPIRY_WARNING) {
            let state = if anchor.not_after <= now { "has expired" } else { "expires" };
            let (what, fix) = match &anchor.trust_domain {
                None => ("the trust anchor".to_owned(), "register its successor beside it, unless it is there"),
                Some(_) => (format!("`{}` in the bundle of the trust anchor", anchor.subject), "get a newer bundle"),
            };
            let reason = format!("{what} `{}` {state} at {}", anchor.name, anchor.not_after);
            problems.warning("registry", "", reason, Some(fix));
        }
    }
}
