//! What the gateway decides on, and that it is to read its files again.

use super::Shared;
use super::answer::{Answer, live, looked_up, refused, sent};
use super::issue::CaAnswer;
use crate::approval::Approval;
use crate::clock::UnixNanos;
use crate::expiry::{Expiring, Outgoing};
use crate::fetch::Overview;
use crate::name::{AnchorName, ApprovalId, CredentialId, Environment, GrantId, PartnerId};
use crate::operation::OperationId;
use crate::partner::{Grant, GrantState, Offboarding, PartnerRecord, REVIEW_DUE, Suspension};
use crate::registry::Registry;
use crate::reload::{Failing, PolicyBundle, PromotionState, Rotation};
use crate::snapshot::Snapshot;
use crate::store::emergency_document;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// Files were read again.
#[derive(Serialize, JsonSchema)]
pub(super) struct Reloaded {
    #[schemars(extend("const" = true))]
    reloaded: bool,
    /// Keys of the config that have changed and take effect at the next start.
    needs_restart: Vec<&'static str>,
    /// The revision of the policy that decides.
    policy: String,
    /// The bundle that it comes in, after its URL was asked; null where it is a folder. With an `error` the URL has none that could
    /// be taken, and what decides is the last good one.
    policy_bundle: Option<PolicyBundle>,
}

pub(super) async fn reload(State(shared): State<Shared>) -> Answer<Reloaded> {
    let needs_restart = shared.publisher.reload().await.map_err(refused)?;
    let policy_bundle = shared.publisher.asked_policy_bundle().await;
    let policy = live(&shared)?.snapshot.revision.policy.to_string();
    sent(Reloaded { reloaded: true, needs_restart, policy, policy_bundle })
}

/// What the gateway decides on, and what somebody has to look at. Times are RFC 3339.
#[derive(Serialize, JsonSchema)]
pub(super) struct StatusAnswer {
    version: &'static str,
    environment: Environment,
    snapshot: Revisions,
    /// The bundle that the policy comes in; null where it is a folder.
    policy_bundle: Option<PolicyBundle>,
    /// The candidate that decides in the place of the configured policy; null where none does.
    policy_promotion: Option<PromotionState>,
    last_reload: LastReload,
    /// How many there are.
    partners: usize,
    lockdowns: Vec<LockdownRow>,
    database_ok: bool,
    /// Switches that are live and not in the database yet.
    unsaved_switches: i64,
    /// Records without facts since the start, because rules of `package system.log` failed.
    mask_failures: u64,
    suspended: Vec<SuspendedRow>,
    /// Partners whose end is set and has not come.
    offboarding: Vec<EndingRow>,
    /// Custom rules that are only observed with a partner.
    observed: Vec<ObservedRow>,
    reviews_due: Vec<DueRow>,
    /// Keys that were seen under credentials of more than one id.
    shared_keys: Vec<SharedKeyRow>,
    rotations: Vec<RotationRow>,
    emergencies: Vec<EmergencyRow>,
    /// What waits for approval.
    approvals: Vec<WaitingRow>,
    /// The built-in CA; null where there is none.
    ca: Option<CaAnswer>,
    operations: Vec<OperationId>,
    anchors: Vec<RootRow>,
    bundles: Vec<BundleRow>,
    certificates: Vec<ServerCertificateRow>,
    revocation_lists: Vec<Overview>,
    /// What ends within 30 days, or has.
    expiring: Vec<Expiring>,
    outgoing_anchors: Vec<OutgoingRow>,
}

/// The revisions of what is decided on.
#[derive(Serialize, JsonSchema)]
struct Revisions {
    built: String,
    registry: u64,
    policy: String,
    /// Since when this policy decides.
    policy_since: String,
    trust: u64,
    config: String,
}

/// Whether the files were good when they were read last.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum LastReload {
    Good {
        #[schemars(extend("const" = true))]
        ok: bool,
    },
    Failing {
        #[schemars(extend("const" = false))]
        ok: bool,
        failing_since: String,
        /// It has been so for longer than the config permits.
        stale: bool,
        problems: Vec<String>,
    },
}

impl LastReload {
    fn of(failing: Option<&Failing>) -> Self {
        failing.map_or(LastReload::Good { ok: true }, |f| LastReload::Failing {
            ok: false,
            failing_since: f.at.to_string(),
            stale: f.is_stale(),
            problems: f.problems.clone(),
        })
    }
}

/// Nobody, or nobody under one anchor, is served.
#[derive(Serialize, JsonSchema)]
struct LockdownRow {
    /// The name of an anchor, or `*` for everybody.
    locked: String,
    reason: String,
    author: String,
    at: String,
}

/// A partner that an operator has stopped.
#[derive(Serialize, JsonSchema)]
struct SuspendedRow {
    partner: PartnerId,
    reason: String,
    author: String,
    at: String,
}

fn suspended(registry: &Registry) -> Vec<SuspendedRow> {
    let open = registry.partners().filter(|r| !r.partner.is_closed());
    let stopped = open.filter_map(|r| Some((&r.partner.id, r.partner.suspension.as_ref()?)));
    let row = |(id, s): (&PartnerId, &Suspension)| SuspendedRow {
        partner: id.clone(),
        reason: s.reason.clone(),
        author: s.author.clone(),
        at: s.at.to_string(),
    };
    stopped.map(row).collect()
}

/// A custom rule that does not count for a partner yet.
#[derive(Serialize, JsonSchema)]
struct ObservedRow {
    partner: PartnerId,
    /// The reason that it denies with.
    reason: String,
    until: String,
}

fn observed(registry: &Registry, now: UnixNanos) -> Vec<ObservedRow> {
    let row = |id: &PartnerId, (reason, until): (&String, &UnixNanos)| ObservedRow {
        partner: id.clone(),
        reason: reason.clone(),
        until: until.to_string(),
    };
    let open = registry.partners().filter(|r| !r.partner.is_closed());
    let all = open.flat_map(|r| r.partner.observe.iter().map(|one| (&r.partner.id, one)));
    all.filter(|(_, (_, until))| **until > now).map(|(id, one)| row(id, one)).collect()
}

/// A partner whose end is set.
#[derive(Serialize, JsonSchema)]
struct EndingRow {
    partner: PartnerId,
    reason: String,
    author: String,
    ends: String,
}

fn ending(registry: &Registry) -> Vec<EndingRow> {
    let set = registry.partners().filter_map(|r| Some((&r.partner.id, r.partner.offboarding.as_deref()?)));
    let row = |(id, o): (&PartnerId, &Offboarding)| EndingRow {
        partner: id.clone(),
        reason: o.reason.clone(),
        author: o.author.clone(),
        ends: o.ends.to_string(),
    };
    set.filter(|(_, o)| o.closed.is_none()).map(row).collect()
}

/// A partner that somebody has to look at again.
#[derive(Serialize, JsonSchema)]
struct DueRow {
    partner: PartnerId,
    owner: String,
    due: String,
}

/// A key, and the credentials under which it was seen.
#[derive(Serialize, JsonSchema)]
struct SharedKeyRow {
    spki_sha256: String,
    credentials: Vec<CredentialId>,
}

/// A credential whose place another one is taking.
#[derive(Serialize, JsonSchema)]
struct RotationRow {
    partner: PartnerId,
    credential: CredentialId,
    successor: CredentialId,
    since: String,
    /// From when on nothing but the successor's use is waited for.
    until: String,
    /// When the successor was used last; null where it never was.
    successor_used: Option<String>,
    /// Why it does not come to its end; null while it is on its way.
    stuck: Option<&'static str>,
}

impl RotationRow {
    fn of(rotation: Rotation) -> Self {
        let Rotation { partner, credential, successor, since, until, used, stuck } = rotation;
        RotationRow {
            partner,
            credential,
            successor,
            since: since.to_string(),
            until: until.to_string(),
            successor_used: used.map(|at| at.to_string()),
            stuck,
        }
    }
}

/// A grant that an operator has made alone, and nobody else has looked at.
#[derive(Serialize, JsonSchema)]
struct EmergencyRow {
    grant: GrantId,
    partner: PartnerId,
    state: GrantState,
    ends: Option<String>,
    /// Why and by whom, in the form of a registry file.
    #[schemars(with = "Option<Map<String, Value>>")]
    emergency: Option<Value>,
    review_overdue: bool,
}

impl EmergencyRow {
    fn of(record: &PartnerRecord, grant: &Grant, now: UnixNanos) -> Self {
        let emergency = grant.emergency.as_deref();
        EmergencyRow {
            grant: grant.id.clone(),
            partner: record.partner.id.clone(),
            state: grant.state(now),
            ends: grant.period.ends.map(|t| t.to_string()),
            emergency: emergency.map(emergency_document),
            review_overdue: emergency.is_some_and(|e| now >= e.at.saturating_add(REVIEW_DUE)),
        }
    }
}

/// Something that waits for approval.
#[derive(Serialize, JsonSchema)]
struct WaitingRow {
    id: ApprovalId,
    requester: String,
    requested: String,
    lapses: String,
    /// How many parts it has.
    parts: usize,
}

impl WaitingRow {
    fn of(approval: Approval) -> Self {
        let Approval { id, requester, requested, lapses, items, .. } = approval;
        WaitingRow { id, requester, requested: requested.to_string(), lapses: lapses.to_string(), parts: items.len() }
    }
}

/// A certificate that paths may end in.
#[derive(Serialize, JsonSchema)]
struct RootRow {
    /// Of its anchor.
    name: AnchorName,
    subject: String,
    not_after: String,
}

/// A SPIFFE trust bundle as it was read last.
#[derive(Serialize, JsonSchema)]
struct BundleRow {
    anchor: AnchorName,
    trust_domain: String,
    /// Null where the bundle does not say it, as the next.
    sequence: Option<u64>,
    refresh_hint_s: Option<u64>,
    /// How many it has.
    certificates: usize,
}

fn bundles(snapshot: &Snapshot) -> Vec<BundleRow> {
    let mut bundles: Vec<_> = snapshot.material.bundles.iter().collect();
    bundles.sort_by_key(|(name, _)| *name);
    let rows = bundles.into_iter().map(|(name, bundle)| BundleRow {
        anchor: name.clone(),
        trust_domain: bundle.trust_domain.to_string(),
        sequence: bundle.sequence,
        refresh_hint_s: bundle.refresh_hint.map(|hint| hint.as_secs()),
        certificates: bundle.certificates.len(),
    });
    rows.collect()
}

/// A certificate that partners see.
#[derive(Serialize, JsonSchema)]
struct ServerCertificateRow {
    file: String,
    not_after: String,
}

/// An anchor on its way out: everybody under it has another one to come with.
#[derive(Serialize, JsonSchema)]
struct OutgoingRow {
    anchor: AnchorName,
    /// Credentials that are still registered under it.
    credentials: usize,
    /// Null where none of them ever was.
    last_used: Option<String>,
    /// Connections that came with it.
    open_connections: usize,
    /// All that in a sentence.
    text: String,
}

impl OutgoingRow {
    fn of((one, open_connections): (Outgoing, usize)) -> Self {
        let text = one.to_string();
        let Outgoing { anchor, credentials, last_used, .. } = one;
        OutgoingRow { anchor, credentials, last_used, open_connections, text }
    }
}

/// What is looked at aside: every credential is, and the database.
struct Looked {
    suspended: Vec<SuspendedRow>,
    offboarding: Vec<EndingRow>,
    observed: Vec<ObservedRow>,
    reviews_due: Vec<DueRow>,
    emergencies: Vec<EmergencyRow>,
    approvals: Vec<WaitingRow>,
    rotations: Vec<RotationRow>,
    shared_keys: Vec<SharedKeyRow>,
    ca: Option<CaAnswer>,
    expiring: Vec<Expiring>,
    outgoing_anchors: Vec<OutgoingRow>,
}

pub(super) async fn status(State(shared): State<Shared>) -> Answer<StatusAnswer> {
    let live = live(&shared)?;
    let (publisher, of, now) = (shared.publisher.clone(), live.clone(), shared.publisher.now());
    let looked = looked_up(async move {
        let due = publisher.reviews(now);
        let emergencies = publisher.emergencies(now);
        let shared_keys = publisher.shared_keys().await?.into_iter();
        Ok(Looked {
            suspended: suspended(&of.snapshot.registry),
            offboarding: ending(&of.snapshot.registry),
            observed: observed(&of.snapshot.registry, now),
            reviews_due: due
                .iter()
                .map(|(record, due)| DueRow {
                    partner: record.partner.id.clone(),
                    owner: record.partner.owner.clone(),
                    due: due.to_string(),
                })
                .collect(),
            emergencies: emergencies.iter().map(|(record, grant)| EmergencyRow::of(record, grant, now)).collect(),
            approvals: publisher.waiting().await?.into_iter().map(WaitingRow::of).collect(),
            rotations: publisher.rotations().await?.into_iter().map(RotationRow::of).collect(),
            shared_keys: shared_keys
                .map(|(spki_sha256, credentials)| SharedKeyRow { spki_sha256, credentials })
                .collect(),
            ca: publisher.ca_state().await?.as_ref().map(CaAnswer::of),
            expiring: publisher.expiring(now).await?,
            outgoing_anchors: publisher.outgoing().await?.into_iter().map(OutgoingRow::of).collect(),
        })
    });
    let looked = looked.await?;
    let (s, publisher) = (&live.snapshot, &shared.publisher);
    let lockdowns = s.registry.lockdowns().map(|l| LockdownRow {
        locked: l.locked.as_str().to_owned(),
        reason: l.reason.clone(),
        author: l.author.clone(),
        at: l.at.to_string(),
    });
    let anchors = s.trust.anchors().iter().map(|a| RootRow {
        name: a.name.clone(),
        subject: a.subject.to_string(),
        not_after: a.not_after.to_string(),
    });
    let certificates = s.certificates.iter();
    sent(StatusAnswer {
        version: env!("CARGO_PKG_VERSION"),
        environment: s.environment.clone(),
        snapshot: Revisions {
            built: s.built.to_string(),
            registry: s.revision.registry,
            policy: s.revision.policy.to_string(),
            policy_since: s.policy_since.to_string(),
            trust: s.revision.trust,
            config: s.revision.config.to_string(),
        },
        policy_bundle: publisher.policy_bundle(),
        policy_promotion: publisher.promotion(),
        last_reload: LastReload::of(publisher.failing().as_deref()),
        partners: s.registry.partner_count(),
        lockdowns: lockdowns.collect(),
        database_ok: publisher.metrics().database_ok.get() == 1,
        unsaved_switches: publisher.metrics().unsaved_switches.get(),
        mask_failures: publisher.metrics().record_masks.with_label_values(&["failed"]).get(),
        suspended: looked.suspended,
        offboarding: looked.offboarding,
        observed: looked.observed,
        reviews_due: looked.reviews_due,
        shared_keys: looked.shared_keys,
        rotations: looked.rotations,
        emergencies: looked.emergencies,
        approvals: looked.approvals,
        ca: looked.ca,
        operations: s.operations.iter().map(|o| o.id.clone()).collect(),
        anchors: anchors.collect(),
        bundles: bundles(s),
        certificates: certificates
            .map(|c| ServerCertificateRow { file: c.file.clone(), not_after: c.facts.not_after.to_string() })
            .collect(),
        revocation_lists: publisher.lists(),
        expiring: looked.expiring,
        outgoing_anchors: looked.outgoing_anchors,
    })
}
