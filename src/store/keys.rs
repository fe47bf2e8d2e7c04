//! The keys of registry files: what is read, checked, documented and offered as a JSON Schema.

use crate::document::{Field, Kind, Presence};
use crate::partner::{ClientAuthUsage, CredentialState, PartnerState, RevocationMode};
use Presence::{Default, Optional, Required};
use std::time::Duration;

const DAY: u64 = 86_400;

const fn days(min: Duration, max: u64) -> Kind {
    Kind::Duration { min, max: Duration::from_secs(max * DAY) }
}

/// A registry file.
pub static REGISTRY_FILE: &[Field] = &[
    Field {
        key: "environment",
        kind: Kind::Id,
        presence: Optional("production"),
        doc: "The environment of everything in this file; a gateway of another one refuses the file.",
    },
    Field {
        key: "networks",
        kind: Kind::Map(&Kind::Table(NETWORK)),
        presence: Optional("acme-dc1"),
        doc: "Named networks.",
    },
    Field {
        key: "anchors",
        kind: Kind::Map(&Kind::Table(ANCHOR)),
        presence: Optional("acme-ca"),
        doc: "CA certificates and the partners they may speak for.",
    },
    Field {
        key: "partners",
        kind: Kind::Map(&Kind::Table(PARTNER)),
        presence: Optional("acme"),
        doc: "Partners with their credentials and grants.",
    },
];

static NETWORK: &[Field] = &[Field {
    key: "cidrs",
    kind: Kind::List(&Kind::Cidr),
    presence: Required("[\"203.0.113.0/24\"]"),
    doc: "The networks.",
}];

static ANCHOR: &[Field] = &[
    Field {
        key: "certificate",
        kind: Kind::Text,
        presence: Optional("acme-ca.pem"),
        doc: "The CA certificate: a PEM file in the same folder. Either this, `bundle` or `self_signed`.",
    },
    Field {
        key: "bundle",
        kind: Kind::Table(BUNDLE),
        presence: Optional(""),
        doc: "A SPIFFE trust bundle instead of one certificate.",
    },
    Field {
        key: "self_signed",
        kind: Kind::Text,
        presence: Optional("acme-client.pem"),
        doc: "A client certificate that no CA has issued, as a PEM file in the same folder: it is its own anchor, of one partner, and nothing that it signs is believed (RFC 8705 section 2.2).",
    },
    Field {
        key: "partners",
        kind: Kind::List(&Kind::Id),
        presence: Required("[acme]"),
        doc: "Partners it may speak for.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it is accepted; the file's environment when absent.",
    },
    Field {
        key: "client_auth",
        kind: Kind::Choice(ClientAuthUsage::NAMES),
        presence: Default("required"),
        doc: "Whether client certificates must carry the clientAuth usage.",
    },
    Field {
        key: "max_lifetime",
        kind: days(Duration::from_secs(60), 36_500),
        presence: Optional("400d"),
        doc: "Longest validity of a client certificate under this anchor; unbounded when absent.",
    },
    Field {
        key: "revocation",
        kind: Kind::Table(REVOCATION),
        presence: Optional(""),
        doc: "How it is found out which certificates are revoked.",
    },
    Field {
        key: "denied",
        kind: Kind::List(&Kind::Table(DENIED)),
        presence: Optional(""),
        doc: "Single certificates that are refused. Applying adds to those that are denied already; only `anchor undeny` takes one away.",
    },
];

static BUNDLE: &[Field] = &[
    Field {
        key: "trust_domain",
        kind: Kind::Text,
        presence: Required("acme.example"),
        doc: "Every client certificate under the anchor must be an X.509-SVID of this trust domain.",
    },
    Field {
        key: "file",
        kind: Kind::Path,
        presence: Required("bundles/acme.jwks"),
        doc: "The bundle (JWKS) on the gateway's machine, read again when it changes. Relative paths start at the config file's folder.",
    },
];

static REVOCATION: &[Field] = &[
    Field {
        key: "mode",
        kind: Kind::Choice(RevocationMode::NAMES),
        presence: Optional("required"),
        doc: "Whether a certificate that no current list covers is refused. When absent: `required` where `crl` or `distribution_points` is there, `off` otherwise.",
    },
    Field {
        key: "crl",
        kind: Kind::List(&Kind::Text),
        presence: Optional("[\"https://crl.acme.example/ca.crl\"]"),
        doc: "Where revocation lists come from: `file:PATH`, `dir:PATH` or a URL. Relative paths start at the config file's folder.",
    },
    Field {
        key: "distribution_points",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Also fetch the lists that certificates name, from hosts in the config's `revocation.hosts`.",
    },
    Field {
        key: "grace",
        kind: days(Duration::ZERO, 365),
        presence: Default("0s"),
        doc: "How long after its nextUpdate a list is still good enough.",
    },
    Field {
        key: "intermediates",
        kind: Kind::List(&Kind::Text),
        presence: Optional("[acme-issuing.pem]"),
        doc: "PEM files in the same folder: CA certificates below the anchor that sign lists of their own.",
    },
];

static DENIED: &[Field] = &[
    Field {
        key: "serial",
        kind: Kind::Text,
        presence: Optional("\"0a1b\""),
        doc: "Serial number in hex. Either this or `fingerprint`.",
    },
    Field {
        key: "fingerprint",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of the certificate, in hex.",
    },
    Field { key: "reason", kind: Kind::Text, presence: Required("key was leaked"), doc: "Why." },
    Field { key: "author", kind: Kind::Text, presence: Required("security-team"), doc: "Who denied it." },
    Field { key: "at", kind: Kind::Time, presence: Required("2026-01-01T00:00:00+01:00"), doc: "Since when." },
];

static PERIOD: &[Field] = &[
    Field {
        key: "starts",
        kind: Kind::Time,
        presence: Optional("2026-01-01T00:00:00+01:00"),
        doc: "First instant, inclusive.",
    },
    Field { key: "ends", kind: Kind::Time, presence: Optional("2027-01-01T00:00:00+01:00"), doc: "End, exclusive." },
];

static PARTNER: &[Field] = &[
    Field { key: "name", kind: Kind::Text, presence: Required("Acme GmbH"), doc: "Name for people." },
    Field {
        key: "owner",
        kind: Kind::Text,
        presence: Required("payments-team"),
        doc: "Who answers for this partner on our side.",
    },
    Field {
        key: "contact",
        kind: Kind::Text,
        presence: Optional("payments@example.com"),
        doc: "How the partner reaches them; it is told in its kit.",
    },
    Field {
        key: "state",
        kind: Kind::Choice(PartnerState::NAMES),
        presence: Default("active"),
        doc: "Only an active partner is served.",
    },
    Field {
        key: "suspension",
        kind: Kind::Table(SUSPENSION),
        presence: Optional(""),
        doc: "An operator has stopped the partner. Applying never takes that back; only `partner resume` does.",
    },
    Field {
        key: "labels",
        kind: Kind::Labels,
        presence: Optional("{tier: gold}"),
        doc: "Free labels; policy sees them.",
    },
    Field {
        key: "time_zone",
        kind: Kind::Zone,
        presence: Default("UTC"),
        doc: "IANA name; policy sees the partner's local time.",
    },
    Field {
        key: "engagement",
        kind: Kind::Table(PERIOD),
        presence: Required(""),
        doc: "The period of the business relationship; nothing of the partner outlives it.",
    },
    Field {
        key: "networks",
        kind: Kind::List(&Kind::Id),
        presence: Required("[acme-dc1]"),
        doc: "Where it may call from; `any` must be written.",
    },
    Field {
        key: "observe",
        kind: Kind::Map(&Kind::Time),
        presence: Optional("x-weekend"),
        doc: "Reasons of custom rules that are only observed with it, and until when: what they would deny is recorded, and not denied. Asking for one needs approval.",
    },
    Field {
        key: "proofing",
        kind: Kind::Table(PROOFING),
        presence: Optional(""),
        doc: "How it was found out that the organisation is who it says it is.",
    },
    Field {
        key: "data_classification",
        kind: Kind::Text,
        presence: Optional("confidential"),
        doc: "How sensitive what it sees is, in your own words.",
    },
    Field {
        key: "review_every",
        kind: days(Duration::from_secs(DAY), 3_660),
        presence: Optional("90d"),
        doc: "How often somebody looks whether all of it is still needed (`partner review`); never when absent.",
    },
    Field {
        key: "reviewed",
        kind: Kind::Table(REVIEWED),
        presence: Optional(""),
        doc: "What was found last. Applying never takes that back.",
    },
    Field {
        key: "offboarding",
        kind: Kind::Table(OFFBOARDING),
        presence: Optional(""),
        doc: "An operator has ended it, or will have at a time that is set (`partner offboard`). Applying never takes that back.",
    },
    Field {
        key: "credentials",
        kind: Kind::Map(&Kind::Table(CREDENTIAL)),
        presence: Optional("acme-2026"),
        doc: "What it proves itself with.",
    },
    Field {
        key: "grants",
        kind: Kind::Map(&Kind::Table(GRANT)),
        presence: Optional("acme-invoices"),
        doc: "What it may call.",
    },
    Field {
        key: "api_keys",
        kind: Kind::Map(&Kind::Table(API_KEY)),
        presence: Optional("acme-batch"),
        doc: "API keys, as `credential add --api-key` has made them. Applying never takes one away; `credential revoke` ends one.",
    },
];

static PROOFING: &[Field] = &[
    Field {
        key: "method",
        kind: Kind::Text,
        presence: Required("commercial register, and a call back to the number there"),
        doc: "How.",
    },
    Field { key: "by", kind: Kind::Text, presence: Required("vendor-office"), doc: "Who on our side has looked." },
    Field { key: "at", kind: Kind::Time, presence: Required("2026-01-01T00:00:00+01:00"), doc: "When." },
];

static OFFBOARDING: &[Field] = &[
    Field { key: "reason", kind: Kind::Text, presence: Required("contract has ended"), doc: "Why." },
    Field { key: "author", kind: Kind::Text, presence: Required("vendor-office"), doc: "Who has ended it." },
    Field {
        key: "at",
        kind: Kind::Time,
        presence: Required("2026-01-01T00:00:00+01:00"),
        doc: "When that was asked for.",
    },
    Field {
        key: "ends",
        kind: Kind::Time,
        presence: Required("2026-03-31T22:00:00Z"),
        doc: "From then on it is not served.",
    },
    Field {
        key: "closed",
        kind: Kind::Time,
        presence: Optional("2026-03-31T22:00:01Z"),
        doc: "When its credentials and grants were revoked. It never comes back.",
    },
];

static RETIRING: &[Field] = &[
    Field {
        key: "successor",
        kind: Kind::Id,
        presence: Required("acme-2027"),
        doc: "The credential of the same partner that takes its place.",
    },
    Field {
        key: "overlap",
        kind: days(Duration::ZERO, 366),
        presence: Default("7d"),
        doc: "How long both are good at least.",
    },
    Field {
        key: "since",
        kind: Kind::Time,
        presence: Optional("2026-01-01T00:00:00+01:00"),
        doc: "From when the overlap counts; from when it is live when absent.",
    },
];

static SUSPENSION: &[Field] = &[
    Field { key: "reason", kind: Kind::Text, presence: Required("odd traffic"), doc: "Why." },
    Field { key: "author", kind: Kind::Text, presence: Required("on-call"), doc: "Who has stopped it." },
    Field { key: "at", kind: Kind::Time, presence: Required("2026-01-01T00:00:00+01:00"), doc: "Since when." },
];

static CREDENTIAL: &[Field] = &[
    Field {
        key: "anchor",
        kind: Kind::Id,
        presence: Required("acme-ca"),
        doc: "The trust anchor that its chain must end in.",
    },
    Field {
        key: "match",
        kind: Kind::Table(MATCH),
        presence: Required(""),
        doc: "What the certificate is recognised by: exactly one key.",
    },
    Field {
        key: "state",
        kind: Kind::Choice(CredentialState::NAMES),
        presence: Default("active"),
        doc: "Only an active credential is accepted.",
    },
    Field {
        key: "labels",
        kind: Kind::Labels,
        presence: Optional("{system: erp}"),
        doc: "Free labels; policy sees them.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it is accepted; the file's environment when absent.",
    },
    Field {
        key: "ends",
        kind: Kind::Time,
        presence: Optional("2027-01-01T00:00:00+01:00"),
        doc: "It is not accepted from then on, whatever its certificates say.",
    },
    Field {
        key: "retiring",
        kind: Kind::Table(RETIRING),
        presence: Optional(""),
        doc: "Another credential takes its place (`credential rotate`): when that is in use and the overlap has passed, this one is revoked by itself.",
    },
    Field {
        key: "revoked",
        kind: Kind::Table(REVOKED),
        presence: Optional(""),
        doc: "Who has revoked it and why. Applying never takes that back: register another one.",
    },
];

static API_KEY: &[Field] = &[
    Field {
        key: "owner",
        kind: Kind::Text,
        presence: Required("billing-team"),
        doc: "Who answers for it on our side.",
    },
    Field {
        key: "hash",
        kind: Kind::Text,
        presence: Required("ab12…"),
        doc: "HMAC-SHA256 of the key under a key of the gateway's, in hex. The key itself is nowhere.",
    },
    Field {
        key: "bound_to",
        kind: Kind::Table(BOUND_TO),
        presence: Required(""),
        doc: "The certificate that it is good with: exactly one key.",
    },
    Field {
        key: "grants",
        kind: Kind::List(&Kind::Id),
        presence: Required("[acme-invoices]"),
        doc: "Grants of the partner that it may be used by.",
    },
    Field {
        key: "operations",
        kind: Kind::List(&Kind::Text),
        presence: Optional("[invoices.read]"),
        doc: "Ids of the operations that it is for; all that its grants cover when absent.",
    },
    Field {
        key: "networks",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[acme-dc1]"),
        doc: "Where it may come from, within what grant and partner allow; there when absent.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it is accepted; the file's environment when absent.",
    },
    Field {
        key: "ends",
        kind: Kind::Time,
        presence: Required("2026-04-01T00:00:00+02:00"),
        doc: "From then on it is not accepted.",
    },
    Field {
        key: "retiring",
        kind: Kind::Table(RETIRING),
        presence: Optional(""),
        doc: "Another key takes its place (`credential rotate`): when that is in use and the overlap has passed, this one is revoked by itself.",
    },
    Field {
        key: "revoked",
        kind: Kind::Table(REVOKED),
        presence: Optional(""),
        doc: "Who has revoked it and why. Applying never takes that back: make another one.",
    },
];

pub(super) static BOUND_TO: &[Field] = &[
    Field {
        key: "fingerprint_sha256",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of the certificate, in hex.",
    },
    Field {
        key: "spki_sha256",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of its public key (SubjectPublicKeyInfo), in hex; survives a renewal with the same key.",
    },
];

pub(super) static MATCH: &[Field] = &[
    Field {
        key: "fingerprint_sha256",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of the certificate, in hex.",
    },
    Field {
        key: "spki_sha256",
        kind: Kind::Text,
        presence: Optional("ab12…"),
        doc: "SHA-256 of the public key (SubjectPublicKeyInfo), in hex; survives a renewal with the same key.",
    },
    Field {
        key: "issuer",
        kind: Kind::Text,
        presence: Optional("CN=Acme CA,O=Acme"),
        doc: "Issuer name (RFC 4514), together with `serial`.",
    },
    Field {
        key: "serial",
        kind: Kind::Text,
        presence: Optional("\"0a1b\""),
        doc: "Serial number in hex, together with `issuer`.",
    },
    Field {
        key: "uri",
        kind: Kind::Text,
        presence: Optional("spiffe://acme.example/billing"),
        doc: "URI SAN; the certificate must have exactly one.",
    },
    Field { key: "dns", kind: Kind::Text, presence: Optional("billing.acme.example"), doc: "DNS SAN." },
    Field {
        key: "subject",
        kind: Kind::Text,
        presence: Optional("CN=billing,O=Acme"),
        doc: "Subject name (RFC 4514); a common name alone is refused.",
    },
    Field {
        key: "organization_id",
        kind: Kind::Text,
        presence: Optional("PSDDE-BAFIN-123456"),
        doc: "organizationIdentifier (2.5.4.97).",
    },
];

static REVOKED: &[Field] = &[
    Field { key: "reason", kind: Kind::Text, presence: Required("project is over"), doc: "Why." },
    Field { key: "author", kind: Kind::Text, presence: Required("on-call"), doc: "Who has revoked it." },
    Field { key: "at", kind: Kind::Time, presence: Required("2026-01-01T00:00:00+01:00"), doc: "Since when." },
];

static EMERGENCY: &[Field] = &[
    Field { key: "reason", kind: Kind::Text, presence: Required("their fallback is down"), doc: "Why." },
    Field { key: "ticket", kind: Kind::Text, presence: Required("INC-7"), doc: "The incident." },
    Field { key: "author", kind: Kind::Text, presence: Required("on-call"), doc: "Who has made it." },
    Field { key: "at", kind: Kind::Time, presence: Required("2026-01-01T00:00:00+01:00"), doc: "When." },
    Field {
        key: "reviewed",
        kind: Kind::Table(REVIEWED),
        presence: Optional(""),
        doc: "What another operator made of it.",
    },
];

static REVIEWED: &[Field] = &[
    Field { key: "finding", kind: Kind::Text, presence: Required("was needed"), doc: "What was found." },
    Field { key: "author", kind: Kind::Text, presence: Required("security-team"), doc: "Who has looked." },
    Field { key: "at", kind: Kind::Time, presence: Required("2026-01-02T00:00:00+01:00"), doc: "When." },
];

static GRANT: &[Field] = &[
    Field {
        key: "owner",
        kind: Kind::Text,
        presence: Required("billing-team"),
        doc: "Who answers for this grant on our side.",
    },
    Field {
        key: "operations",
        kind: Kind::List(&Kind::Text),
        presence: Required("[invoices.read]"),
        doc: "Operation ids, `prefix.*` or `tag:name`; expanded when the grant is made.",
    },
    Field {
        key: "networks",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[acme-dc1]"),
        doc: "Narrows the partner's networks; absent means all of them.",
    },
    Field {
        key: "credentials",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[acme-2026]"),
        doc: "The credentials it is for; absent means any of the partner's.",
    },
    Field {
        key: "starts",
        kind: Kind::Time,
        presence: Optional("2026-01-01T00:00:00+01:00"),
        doc: "First instant, inclusive.",
    },
    Field {
        key: "ends",
        kind: Kind::Time,
        presence: Required("2027-01-01T00:00:00+01:00"),
        doc: "End, exclusive. Every grant has one.",
    },
    Field {
        key: "revoked",
        kind: Kind::Table(REVOKED),
        presence: Optional(""),
        doc: "It was ended before its time. Applying never takes that back: ask for another grant.",
    },
    Field {
        key: "emergency",
        kind: Kind::Table(EMERGENCY),
        presence: Optional(""),
        doc: "It was made by one operator alone, for an incident (`grant emergency`).",
    },
    Field {
        key: "conditions",
        kind: Kind::Any,
        presence: Optional("{}"),
        doc: "What policy asks for beyond the rest: `schedule`, `tls_min`, `tls_ciphers`, `methods`, `max_content_length`, and what you declare in `policies/conditions.yaml`.",
    },
    Field {
        key: "environments",
        kind: Kind::List(&Kind::Id),
        presence: Optional("[production]"),
        doc: "Where it holds; the file's environment when absent.",
    },
];
