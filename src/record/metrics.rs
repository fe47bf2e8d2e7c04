//! Every metric, in one table. Labels come from configured ids and from our own lists, never from a request.

use super::replay::Kind;
use crate::clock::UnixNanos;
use crate::name::PartnerId;
use crate::reason::Reason;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// What became of a request, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Allowed,
    Denied,
    /// Allowed, but the upstream or the gateway failed.
    Failed,
    /// Allowed, but the client went away.
    Aborted,
    /// Allowed, and ended because the right to it did.
    Cut,
}

impl Outcome {
    const ALL: &'static [Outcome] =
        &[Outcome::Allowed, Outcome::Denied, Outcome::Failed, Outcome::Aborted, Outcome::Cut];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
            Outcome::Aborted => "aborted",
            Outcome::Cut => "cut",
        }
    }
}

/// What became of a decision that a candidate was to be evaluated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviewOutcome<'a> {
    Same,
    /// Of a partner, on an operation.
    Change(Kind, &'a str, &'a str),
    /// The candidate could not decide within its limits.
    Failed,
    /// There was no time left for it.
    Skipped,
}

impl PreviewOutcome<'_> {
    fn as_str(self) -> &'static str {
        match self {
            PreviewOutcome::Same => "same",
            PreviewOutcome::Change(kind, ..) => kind.as_str(),
            PreviewOutcome::Failed => "failed",
            PreviewOutcome::Skipped => "skipped",
        }
    }
}

/// The label value that stands for everything over the bound on series.
const OTHER: &str = "other";

const SECONDS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const DECISION_SECONDS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_02, 0.000_04, 0.000_08, 0.000_15, 0.000_3, 0.000_6, 0.001_2, 0.002_5, 0.005, 0.01, 0.05,
];

const ENFORCEMENT_SECONDS: &[f64] = &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5];

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $kind:ident($name:literal, $help:literal $(, labels $labels:expr)? $(, buckets $buckets:expr)?);)*) => {
        /// All metrics of the process, registered.
        pub struct Metrics {
            registry: Registry,
            bound: SeriesBound,
            by_partner_and_operation: bool,
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Metrics {
            /// # Errors
            /// Two metrics of the same name: a bug that every start would show.
            pub fn new(max_series: usize, by_partner_and_operation: bool) -> prometheus::Result<Self> {
                let registry = Registry::new();
                $(
                    let $field = new_metric!($kind, $name, $help $(, labels $labels)? $(, buckets $buckets)?);
                    registry.register(Box::new($field.clone()))?;
                )*
                #[cfg(target_os = "linux")]
                registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
                Ok(Metrics { registry, bound: SeriesBound::new(max_series), by_partner_and_operation, $($field,)* })
            }
        }

        /// Name, type, labels and help of each metric, for the reference.
        pub fn metrics_reference() -> Vec<(&'static str, &'static str, Vec<&'static str>, &'static str)> {
            vec![$(($name, kind_name(stringify!($kind)), { #[allow(unused_mut, unused_assignments, reason = "not every metric has labels")] let mut labels: Vec<&'static str> = Vec::new(); $(labels = $labels.to_vec();)? labels }, $help),)*]
        }
    };
}

macro_rules! new_metric {
    (IntCounter, $name:literal, $help:literal) => {
        IntCounter::new($name, $help)?
    };
    (IntGauge, $name:literal, $help:literal) => {
        IntGauge::new($name, $help)?
    };
    (Gauge, $name:literal, $help:literal) => {
        Gauge::new($name, $help)?
    };
    (IntCounterVec, $name:literal, $help:literal, labels $labels:expr) => {
        IntCounterVec::new(Opts::new($name, $help), &$labels)?
    };
    (IntGaugeVec, $name:literal, $help:literal, labels $labels:expr) => {
        IntGaugeVec::new(Opts::new($name, $help), &$labels)?
    };
    (GaugeVec, $name:literal, $help:literal, labels $labels:expr) => {
        GaugeVec::new(Opts::new($name, $help), &$labels)?
    };
    (Histogram, $name:literal, $help:literal, buckets $buckets:expr) => {
        Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec()))?
    };
    (HistogramVec, $name:literal, $help:literal, labels $labels:expr, buckets $buckets:expr) => {
        HistogramVec::new(HistogramOpts::new($name, $help).buckets($buckets.to_vec()), &$labels)?
    };
}

fn kind_name(rust: &str) -> &'static str {
    match rust {
        "IntCounter" | "IntCounterVec" => "counter",
        "Histogram" | "HistogramVec" => "histogram",
        _ => "gauge",
    }
}

metrics! {
    requests: IntCounterVec("partnergate_requests_total", "Requests that were decided, by partner and outcome (allowed, denied, failed, aborted, cut). Requests without a known partner have the partner `unknown`.", labels ["partner", "outcome"]);
    partner_operations: IntCounterVec("partnergate_partner_operation_requests_total", "Requests by partner, operation and outcome; only with metrics.partner_operation.", labels ["partner", "operation", "outcome"]);
    denials: IntCounterVec("partnergate_denials_total", "Denied requests by reason; a request counts once, under its first reason.", labels ["reason"]);
    observed: IntCounterVec("partnergate_observed_denials_total", "Allowed requests that a custom rule would have denied and that is only observed with the partner, by partner and reason.", labels ["partner", "reason"]);
    malformed: IntCounterVec("partnergate_malformed_total", "Requests refused before they could be decided, by reason.", labels ["reason"]);
    request_seconds: HistogramVec("partnergate_request_duration_seconds", "Time from the request head to the end of the response, by operation.", labels ["operation"], buckets SECONDS);
    decision_seconds: Histogram("partnergate_decision_duration_seconds", "Time to decide one request.", buckets DECISION_SECONDS);
    upstream_seconds: HistogramVec("partnergate_upstream_duration_seconds", "Time from choosing an endpoint to the upstream's response head, by upstream.", labels ["upstream"], buckets SECONDS);
    upstream_failures: IntCounterVec("partnergate_upstream_failures_total", "Failed attempts at an upstream, by upstream and reason.", labels ["upstream", "reason"]);
    upstream_retries: IntCounterVec("partnergate_upstream_retries_total", "Attempts that were repeated, by upstream.", labels ["upstream"]);
    upstream_endpoints: IntGaugeVec("partnergate_upstream_endpoints", "Endpoints of an upstream by state (healthy, unhealthy).", labels ["upstream", "state"]);
    handshake_seconds: Histogram("partnergate_handshake_duration_seconds", "Time of completed TLS handshakes.", buckets SECONDS);
    handshakes: IntCounterVec("partnergate_handshakes_total", "TLS handshakes by outcome: `ok`, `resumed` or the reason of refusal.", labels ["outcome"]);
    anchor_handshakes: IntCounterVec("partnergate_anchor_handshakes_total", "Completed TLS handshakes by trust anchor: who still comes with the old one during a rotation.", labels ["anchor"]);
    anchor_connections: IntGaugeVec("partnergate_anchor_open_connections", "Open partner connections by the trust anchor that they came under.", labels ["anchor"]);
    anchor_last_used: GaugeVec("partnergate_anchor_last_used_timestamp_seconds", "When a credential under each trust anchor was used last; with no open connection under it, what says that an old one can go.", labels ["anchor"]);
    anchor_credentials: IntGaugeVec("partnergate_anchor_credentials", "Credentials under each trust anchor, in whatever state; an anchor with none can be removed.", labels ["anchor"]);
    partner_connections: IntGaugeVec("partnergate_partner_open_connections", "Open connections by partner, which limits.connections_per_partner bounds; `unknown` for all that belong to none.", labels ["partner"]);
    handshakes_now: IntGauge("partnergate_handshakes_in_progress", "TLS handshakes in progress.");
    connections: IntGaugeVec("partnergate_open_connections", "Open partner connections by protocol (http/1.1, h2).", labels ["protocol"]);
    streams: IntGauge("partnergate_open_requests", "Requests in progress.");
    streams_cut: IntCounterVec("partnergate_streams_cut_total", "Requests that were allowed and were ended when the right to them did, by reason.", labels ["reason"]);
    enforcement_seconds: Histogram("partnergate_revocation_enforcement_seconds", "Time from a change, or from the instant at which the clock ended a right, until the last request that it ended was gone.", buckets ENFORCEMENT_SECONDS);
    snapshot_registry: IntGauge("partnergate_snapshot_registry_revision", "Registry revision that requests are decided on.");
    snapshot_trust: IntGauge("partnergate_snapshot_trust_generation", "Trust generation that requests are decided on.");
    snapshot_info: IntGaugeVec("partnergate_snapshot_info", "1 for the policy and config revision that requests are decided on.", labels ["policy", "config"]);
    snapshot_built: Gauge("partnergate_snapshot_timestamp_seconds", "When the live snapshot was built; its age is time() minus this.");
    partners: IntGauge("partnergate_partners", "Partners in the live snapshot.");
    reload_ok: IntGauge("partnergate_config_last_reload_successful", "1 when the last reload of config, policy or certificates was accepted, 0 when the last good state was kept.");
    reload_time: Gauge("partnergate_config_last_reload_timestamp_seconds", "When the last reload was tried.");
    reloads: IntCounterVec("partnergate_reloads_total", "Reloads by result (ok, failed).", labels ["result"]);
    approvals_waiting: IntGauge("partnergate_approvals_waiting", "What operators have asked for and nobody has approved or rejected yet.");
    approval_oldest: Gauge("partnergate_approval_oldest_timestamp_seconds", "When the oldest of what waits for approval was asked for; 0 when nothing waits.");
    certificates_issued: IntCounter("partnergate_certificates_issued_total", "Certificates that the built-in CA has given.");
    enrolments: IntCounterVec("partnergate_enrolments_total", "Calls of the enrol listener that asked for a certificate, by what came of them.", labels ["result"]);
    token_key_since: Gauge("partnergate_token_key_signs_since_timestamp_seconds", "Since when the key signs that tokens and assertions are signed with; 0 where none does.");
    list_ok: IntGauge("partnergate_issued_list_ok", "Whether the last revocation list of the built-in CA could be signed and written.");
    list_number: IntGauge("partnergate_issued_list_number", "CRLNumber of the last revocation list of the built-in CA.");
    list_entries: IntGauge("partnergate_issued_list_entries", "Certificates on it.");
    shared_keys: IntGauge("partnergate_shared_keys", "Keys that were seen under credentials of more than one partner.");
    rotations: IntGaugeVec("partnergate_rotations", "Credentials that another one is taking the place of: `stuck` where that is not in use though the overlap has passed, or is not accepted.", labels ["state"]);
    reviews_due: IntGauge("partnergate_partner_reviews_due", "Partners that somebody should have looked at by now (`review_every`).");
    emergency_grants_made: IntCounter("partnergate_emergency_grants_total", "Grants that one operator has made alone, for an incident.");
    emergency_grants: IntGaugeVec("partnergate_emergency_grants", "Emergency grants by what they wait for: `live` goes on, `unreviewed` nobody else has looked at, `overdue` for more than 3 days.", labels ["state"]);
    unsaved_switches: IntGauge("partnergate_unsaved_switches", "Suspensions, denials, revoked grants and lockdowns that are live and that the database could not take yet; it is tried again.");
    lockdowns: IntGauge("partnergate_lockdowns", "Lockdowns in force, of everybody or of everybody under one anchor.");
    admin_calls: IntCounterVec("partnergate_admin_calls_total", "Calls of the admin API by result: `ok`, `refused` (no role permits it, or it came from a browser), `unrecognised` (nobody knows who it was), `failed`.", labels ["result"]);
    database_ok: IntGauge("partnergate_database_ok", "1 when the database could be used the last time it was looked at, at least every 10 s.");
    history_ok: IntGauge("partnergate_history_ok", "1 when the history ended at the start where this node had signed it, 0 when somebody else has written into the database.");
    registry_ok: IntGauge("partnergate_registry_last_update_successful", "1 when the last change of the registry is live, 0 when the last good one was kept.");
    records_written: IntCounter("partnergate_records_written_total", "Records written to the sink.");
    records_lost: IntCounter("partnergate_records_lost_total", "Records that could not be kept.");
    records_suppressed: IntCounterVec("partnergate_handshake_records_suppressed_total", "Records that were not written because of record.handshakes_per_second, by kind (handshake, malformed, candidate).", labels ["kind"]);
    records_unclean_start: IntGauge("partnergate_records_unclean_start", "1 when the gateway found at its start that it had not ended in order, or that records were missing: a `records-lost` line says since where.");
    record_slots_free: IntGauge("partnergate_record_slots_free", "Records that can still wait to be written.");
    record_waiting_bytes: IntGauge("partnergate_record_waiting_bytes", "Size of the records that wait to be written.");
    record_sink_errors: IntCounterVec("partnergate_record_sink_errors_total", "Failed writes to a record sink (stdout, file, upload), also those that are tried again.", labels ["sink"]);
    record_sink_dropped: IntCounterVec("partnergate_record_sink_dropped_total", "Records that a sink (stdout, file, upload) will never have.", labels ["sink"]);
    record_sink_lag: GaugeVec("partnergate_record_sink_lag_seconds", "How long the oldest record that a sink (stdout, file, upload) does not have yet has waited for it, as of the last try; 0 when it has all.", labels ["sink"]);
    record_masks: IntCounterVec("partnergate_record_masks_total", "Records that rules of `package system.log` did something with: `masked`, `dropped` (not uploaded), `failed` (written without their facts, because the rules failed).", labels ["outcome"]);
    record_spool_bytes: IntGauge("partnergate_record_spool_bytes", "Size of the records that wait on the disk for record.upload.");
    clock_steps: IntCounterVec("partnergate_clock_steps_total", "Steps of the system clock by direction (forward, back).", labels ["direction"]);
    panics: IntCounter("partnergate_panics_total", "Panics that were caught; each costs the request, or the handshake, that it happened in.");
    certificate_expiry: GaugeVec("partnergate_server_certificate_expiry_timestamp_seconds", "notAfter of each server certificate.", labels ["file"]);
    crl_lists: IntGaugeVec("partnergate_crl_lists", "Revocation lists in use, by anchor.", labels ["anchor"]);
    crl_revoked: IntGaugeVec("partnergate_crl_revoked_certificates", "Certificates that the revocation lists of an anchor name.", labels ["anchor"]);
    crl_next_update: GaugeVec("partnergate_crl_next_update_timestamp_seconds", "Earliest nextUpdate of an anchor's revocation lists. With revocation `required`, certificates are refused once it and the anchor's grace have passed.", labels ["anchor"]);
    crl_last_success: GaugeVec("partnergate_crl_last_success_timestamp_seconds", "When the source of an anchor's revocation lists that has failed for longest was last read well.", labels ["anchor"]);
    crl_failing: IntGaugeVec("partnergate_crl_failing_sources", "Sources of an anchor's revocation lists whose last read failed; the last good list is kept.", labels ["anchor"]);
    crl_fetches: IntCounterVec("partnergate_crl_fetches_total", "Questions to URLs of revocation lists, by result (ok, unchanged, failed).", labels ["result"]);
    anchor_expiry: GaugeVec("partnergate_anchor_expiry_timestamp_seconds", "notAfter of each trust anchor; of a bundle, of its certificate that expires first.", labels ["anchor"]);
    bundle_ok: IntGaugeVec("partnergate_trust_bundle_last_read_successful", "1 when the SPIFFE trust bundle of an anchor was accepted when it was last read, 0 when the last good one was kept or there is none.", labels ["anchor"]);
    bundle_certificates: IntGaugeVec("partnergate_trust_bundle_certificates", "CA certificates of an anchor's SPIFFE trust bundle that are in use; 0 refuses every certificate of the trust domain.", labels ["anchor"]);
    policy_bundle_info: IntGaugeVec("partnergate_policy_bundle_info", "1 for the revision, as its manifest names it, of the bundle whose policy decides; absent where the policy is a folder.", labels ["revision"]);
    policy_bundle_ok: IntGaugeVec("partnergate_policy_bundle_last_fetch_successful", "1 when what the server of the policy bundle has is what decides, 0 when it is silent or its bundle was refused and the last good one is kept; absent where no URL is configured.", labels []);
    policy_bundle_success: GaugeVec("partnergate_policy_bundle_last_success_timestamp_seconds", "When the server of the policy bundle was last asked and what it has is what decides; absent where it never was.", labels []);
    policy_bundle_fetches: IntCounterVec("partnergate_policy_bundle_fetches_total", "Questions to the URL of the policy bundle, by result (activated, unchanged, refused, failed): refused is a bundle whose policy is not good, failed all that is no verified bundle.", labels ["result"]);
    policy_engine_info: IntGaugeVec("partnergate_policy_engine_info", "1 for the engine that evaluates policy: `rvm`, or `interpreter` where `policy.engine` says so.", labels ["engine"]);
    policy_since: Gauge("partnergate_policy_activated_timestamp_seconds", "Since when the policy that decides has done so in this process.");
    candidate_ok: IntGaugeVec("partnergate_policy_candidate_good", "1 when the candidate of the policy can be evaluated, 0 when something is wrong with it; absent where there is none.", labels []);
    candidate_would_allow: IntCounterVec("partnergate_policy_candidate_would_allow_total", "Denied requests that the candidate would allow, by partner and operation.", labels ["partner", "operation"]);
    candidate_would_deny: IntCounterVec("partnergate_policy_candidate_would_deny_total", "Allowed requests that the candidate would deny, by partner and operation.", labels ["partner", "operation"]);
    candidate_decisions: IntCounterVec("partnergate_policy_candidate_decisions_total", "Decisions that the candidate was to be evaluated on, by outcome (same, newly-allowed, newly-denied, other-reason, failed, skipped): failed is one that it could not make within its limits, skipped one that there was no time left for.", labels ["outcome"]);
    candidate_seconds: Histogram("partnergate_policy_candidate_duration_seconds", "Time to decide one request by the candidate, aside from all requests.", buckets DECISION_SECONDS);
    promoted: IntGauge("partnergate_policy_promoted", "1 while a candidate that was promoted decides in the place of the configured policy.");
    chain_omitted: IntCounter("partnergate_client_cert_chain_omitted_total", "Requests forwarded without Client-Cert-Chain because the chain is too large for a header field.");
    xfcc_omitted: IntCounter("partnergate_xfcc_omitted_total", "Requests forwarded without X-Forwarded-Client-Cert because the certificate's names are too large for a header field.");
    credential_expiry: GaugeVec("partnergate_credential_expiry_timestamp_seconds", "notAfter of the certificate last seen of a credential, and the end of an API key, for those that expire within 30 days.", labels ["partner", "credential"]);
    credential_expiry_count: IntGaugeVec("partnergate_credentials_expiring", "Credentials by time until the certificate last seen expires: `expired`, `1d`, `7d`, `30d`, `90d`, `later`, `unseen`.", labels ["within"]);
    expiring: IntGaugeVec("partnergate_expiring_without_successor", "What ends within 30 days, or has ended, and has no successor registered, by kind (server-certificate, anchor, credential, api-key).", labels ["kind"]);
    api_keys_in_urls: IntCounterVec("partnergate_api_keys_in_urls_total", "Requests refused because an API key was in the URL, by partner: it has leaked, and is to be revoked.", labels ["partner"]);
    series_folded: IntCounter("partnergate_metrics_series_folded_total", "Times that an id was counted as `other`, or its series left out, because of metrics.max_series.");
    build_info: IntGaugeVec("partnergate_build_info", "1, with the version.", labels ["version"]);
    ready: IntGauge("partnergate_ready", "1 while the gateway takes new connections with a live snapshot.");
}

impl Metrics {
    /// Counts a decided request.
    pub fn request(&self, partner: Option<&str>, operation: Option<&str>, outcome: Outcome) {
        let partner = partner.map_or("unknown", |p| self.label(&self.bound.partners, p));
        self.requests.with_label_values(&[partner, outcome.as_str()]).inc();
        if self.by_partner_and_operation {
            let operation = operation.unwrap_or(OTHER);
            let pair = format!("{partner} {operation}");
            let within = self.label(&self.bound.pairs, &pair) == pair;
            let (partner, operation) = if within { (partner, operation) } else { (OTHER, OTHER) };
            self.partner_operations.with_label_values(&[partner, operation, outcome.as_str()]).inc();
        }
    }

    /// Counts a key that has leaked.
    pub fn api_key_in_url(&self, partner: Option<&PartnerId>) {
        let partner = partner.map_or("unknown", |id| self.label(&self.bound.partners, id.as_str()));
        self.api_keys_in_urls.with_label_values(&[partner]).inc();
    }

    /// Counts a denial that is only observed.
    pub fn observed(&self, partner: &str, reason: &Reason) {
        let pair = format!("{partner} {}", reason.as_str());
        let partner = if self.label(&self.bound.observed, &pair) == pair { partner } else { OTHER };
        self.observed.with_label_values(&[partner, reason.as_str()]).inc();
    }

    /// Counts what a candidate came to.
    pub fn previewed(&self, outcome: PreviewOutcome<'_>) {
        self.candidate_decisions.with_label_values(&[outcome.as_str()]).inc();
        let PreviewOutcome::Change(kind, partner, operation) = outcome else { return };
        let counter = match kind {
            Kind::NewlyAllowed => &self.candidate_would_allow,
            Kind::NewlyDenied => &self.candidate_would_deny,
            Kind::OtherReason => return,
        };
        let pair = format!("{partner} {operation}");
        let within = self.label(&self.bound.previews, &pair) == pair;
        let (partner, operation) = if within { (partner, operation) } else { (OTHER, OTHER) };
        counter.with_label_values(&[partner, operation]).inc();
    }

    /// Counts a client that came under an anchor.
    pub fn anchor_handshake(&self, anchor: &str) {
        self.anchor_handshakes.with_label_values(&[self.label(&self.bound.anchors, anchor)]).inc();
    }

    /// Connections that are open under an anchor.
    pub fn open_under(&self, anchor: &str) -> IntGauge {
        self.anchor_connections.with_label_values(&[self.label(&self.bound.anchors, anchor)])
    }

    /// Connections that a partner has open; `None` is every identity that belongs to none.
    pub fn open_of(&self, partner: Option<&str>) -> IntGauge {
        let partner = partner.map_or("unknown", |p| self.label(&self.bound.partners, p));
        self.partner_connections.with_label_values(&[partner])
    }

    pub fn denial(&self, reason: &Reason) {
        self.denials.with_label_values(&[reason.as_str()]).inc();
    }

    pub fn request_time(&self, operation: Option<&str>, took: Duration) {
        let operation = operation.map_or(OTHER, |o| self.label(&self.bound.operations, o));
        self.request_seconds.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// When the certificate last seen of each of these credentials expires, soonest first: what goes over the bound on
    /// series is counted as folded and not shown.
    pub fn credential_expiries<'a>(&self, soonest: impl Iterator<Item = (&'a str, &'a str, UnixNanos)>) {
        self.credential_expiry.reset();
        let room = self.bound.max.saturating_sub(self.bound.used.load(Ordering::Acquire));
        for (shown, (partner, credential, ends)) in soonest.enumerate() {
            if shown < room {
                self.credential_expiry.with_label_values(&[partner, credential]).set(ends.seconds() as f64);
            } else {
                self.series_folded.inc();
            }
        }
    }

    /// The id itself while there is room for its series.
    fn label<'a>(&self, family: &Family, id: &'a str) -> &'a str {
        if self.bound.has_room_for(family, id) {
            return id;
        }
        self.series_folded.inc();
        OTHER
    }

    /// The exposition in Prometheus' text format.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Encoding into memory fails only on an empty metric family, which gather() leaves out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        out
    }
}

/// Bounds the series whose labels are ids. An id that was counted once keeps its series.
struct SeriesBound {
    max: usize,
    used: AtomicUsize,
    partners: Family,
    /// Partner and operation.
    pairs: Family,
    /// The same, of what a candidate would change.
    previews: Family,
    /// Partner and custom rule.
    observed: Family,
    operations: Family,
    anchors: Family,
}

/// The ids of one label that have series.
struct Family {
    /// What one id may come to.
    series: usize,
    known: RwLock<HashSet<String>>,
}

impl SeriesBound {
    fn new(max: usize) -> Self {
        let of = |series| Family { series, known: RwLock::default() };
        // A histogram has a series for each bucket, and `+Inf`, sum and count.
        let (outcomes, histogram) = (Outcome::ALL.len(), SECONDS.len() + 3);
        SeriesBound {
            max,
            used: AtomicUsize::new(0),
            // And open connections.
            partners: of(outcomes + 1),
            pairs: of(outcomes),
            previews: of(2),
            observed: of(1),
            operations: of(histogram),
            // Handshakes and open connections.
            anchors: of(2),
        }
    }

    fn has_room_for(&self, family: &Family, id: &str) -> bool {
        if family.known.read().unwrap_or_else(PoisonError::into_inner).contains(id) {
            return true;
        }
        let mut known = family.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.contains(id) {
            return true;
        }
        let within = |used: usize| used.checked_add(family.series).filter(|used| *used <= self.max);
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).is_ok();
        taken && known.insert(id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.encode()).unwrap()
    }

    /// Series of our own whose labels are ids.
    fn series_of_ids(metrics: &Metrics) -> usize {
        let ids = ["partner=\"", "operation=\"", "anchor=\""];
        let known = |line: &&str| !line.contains("\"other\"") && !line.contains("\"unknown\"");
        text(metrics).lines().filter(|line| ids.iter().any(|id| line.contains(id))).filter(known).count()
    }

    #[test]
    fn ids_over_the_bound_are_counted_as_other() {
        let metrics = Metrics::new(12, false).unwrap();
        for partner in ["a", "b", "c", "d", "a"] {
            metrics.request(Some(partner), None, Outcome::Allowed);
        }
        let text = text(&metrics);
        assert!(text.contains("partnergate_requests_total{outcome=\"allowed\",partner=\"a\"} 2"), "{text}");
        assert!(text.contains("partnergate_requests_total{outcome=\"allowed\",partner=\"other\"} 2"), "{text}");
        assert_eq!(metrics.series_folded.get(), 2);
    }

    #[test]
    fn never_are_there_more_series_of_ids_than_the_bound() {
        let max = 100;
        let metrics = Metrics::new(max, true).unwrap();
        for n in 0..50 {
            let (partner, operation) = (format!("p{}", n % 7), format!("o{n}"));
            for outcome in Outcome::ALL {
                metrics.request(Some(&partner), Some(&operation), *outcome);
            }
            metrics.request_time(Some(&operation), Duration::from_millis(1));
            metrics.anchor_handshake(&partner);
        }
        let series = series_of_ids(&metrics);
        assert!(series <= max && series > max - 20, "{series}\n{}", text(&metrics));
    }

    #[test]
    fn expiries_over_the_bound_are_left_out_and_the_soonest_stay() {
        let metrics = Metrics::new(2, false).unwrap();
        metrics.credential_expiries(
            [("a", "x", UnixNanos(0)), ("b", "y", UnixNanos(1)), ("c", "z", UnixNanos(2))].into_iter(),
        );
        let text = text(&metrics);
        assert!(text.contains("partner=\"b\"") && !text.contains("partner=\"c\""), "{text}");
        assert_eq!(metrics.series_folded.get(), 1);
    }

    #[test]
    fn pairs_of_partner_and_operation_are_counted_only_where_asked_for_and_within_the_bound() {
        let quiet = Metrics::new(100, false).unwrap();
        quiet.request(Some("a"), Some("x.read"), Outcome::Allowed);
        assert!(!text(&quiet).contains("partner_operation_requests_total{"));
        let metrics = Metrics::new(11, true).unwrap();
        for operation in ["x.read", "x.write"] {
            metrics.request(Some("a"), Some(operation), Outcome::Allowed);
        }
        let text = text(&metrics);
        assert!(text.contains("{operation=\"x.read\",outcome=\"allowed\",partner=\"a\"} 1"), "{text}");
        assert!(text.contains("{operation=\"other\",outcome=\"allowed\",partner=\"other\"} 1"), "{text}");
    }

    #[test]
    fn every_metric_is_named_in_the_field_s_way() {
        for (name, kind, _, help) in metrics_reference() {
            assert!(name.starts_with("partnergate_") && help.ends_with('.'), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        }
    }
}
