//! Every key of `partnergate.yaml`, once: checked against, and the source of `config schema`, `config example` and
//! the reference.

use crate::document::{Field, Kind, Presence};
use crate::jose::Algorithm;
use crate::operation::listed::LISTED;
use crate::route::TokenUse;
use crate::token::KeyUse;
use Presence::{Default, Optional, Required};
use std::time::Duration;

const fn seconds(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_secs(min), max: Duration::from_secs(max) }
}

const fn millis(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

/// Whom a server must be that the gateway calls.
const SERVER_CA: Field = Field {
    key: "ca",
    kind: Kind::Path,
    presence: Optional("tls/internal-ca.pem"),
    doc: "PEM bundle of the CAs that may issue the server's certificate; the platform's trust store when absent.",
};
/// Who the gateway is to it.
const CLIENT_CHAIN: Field = Field {
    key: "client_chain",
    kind: Kind::Path,
    presence: Optional("tls/gateway.pem"),
    doc: "Client certificate chain of the gateway, for servers that want one.",
};
const CLIENT_KEY: Field = Field {
    key: "client_key",
    kind: Kind::Secret,
    presence: Optional("file:tls/gateway.key"),
    doc: "Its private key, as a reference.",
};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

pub static CONFIG: &[Field] = &[
    Field {
        key: "environment",
        kind: Kind::Id,
        presence: Required("production"),
        doc: "Where this gateway stands. Anchors, credentials and grants name their environments; what belongs to another one is denied.",
    },
    Field {
        key: "node",
        kind: Kind::Id,
        presence: Optional("gateway-1"),
        doc: "Name of this node in records; the host name when absent. Takes effect at the next start.",
    },
    Field {
        key: "state_dir",
        kind: Kind::Path,
        presence: Required("/var/lib/partnergate"),
        doc: "The one folder that is written to: database, admin socket, the keys of records and of the history. Everything else may be read-only.",
    },
    Field {
        key: "partner",
        kind: Kind::Table(PARTNER),
        presence: Required(""),
        doc: "The listener for partner traffic. A client certificate is always required.",
    },
    Field {
        key: "status",
        kind: Kind::Table(STATUS),
        presence: Optional(""),
        doc: "The listener for metrics, health and version. It is read-only.",
    },
    Field {
        key: "admin",
        kind: Kind::Table(ADMIN),
        presence: Optional(""),
        doc: "Where operators come in. Who they are is in the database: see `partnergate admin bootstrap` and `partnergate operator`.",
    },
    Field {
        key: "approval",
        kind: Kind::Table(APPROVAL),
        presence: Optional(""),
        doc: "What takes a second pair of eyes: whatever would permit more than is permitted now.",
    },
    Field {
        key: "issue",
        kind: Kind::Table(ISSUE),
        presence: Optional(""),
        doc: "A CA of your own that gives partners certificates; without it they come from CAs elsewhere. `partnergate ca init` makes one.",
    },
    Field {
        key: "enrol",
        kind: Kind::Table(ENROL),
        presence: Optional(""),
        doc: "Where partners get and renew certificates by themselves (EST, RFC 7030). Off unless `listen` is set; needs `issue`.",
    },
    Field {
        key: "tokens",
        kind: Kind::Table(TOKENS),
        presence: Optional(""),
        doc: "What the gateway signs itself, and is verified by others with the keys at `/.well-known/jwks.json` of the status listener. See `docs/tokens.md`.",
    },
    Field {
        key: "upstreams",
        kind: Kind::Map(&Kind::Table(UPSTREAM)),
        presence: Required("billing"),
        doc: "Named groups of endpoints behind the gateway.",
    },
    Field {
        key: "routes",
        kind: Kind::Map(&Kind::Table(ROUTE)),
        presence: Required("billing"),
        doc: "Which host and path prefix goes to which upstream, and which operations there are.",
    },
    Field {
        key: "policy",
        kind: Kind::Table(POLICY),
        presence: Optional(""),
        doc: "The Rego policy that decides every request.",
    },
    Field {
        key: "revocation",
        kind: Kind::Table(REVOCATION),
        presence: Optional(""),
        doc: "How revocation lists are fetched. Which lists an anchor needs is said where the anchor is registered.",
    },
    Field { key: "request", kind: Kind::Table(REQUEST), presence: Optional(""), doc: "Bounds on requests." },
    Field {
        key: "record",
        kind: Kind::Table(RECORD),
        presence: Optional(""),
        doc: "The evidence: one JSON line for each decision and each refused handshake. Takes effect at the next start.",
    },
    Field {
        key: "metrics",
        kind: Kind::Table(METRICS),
        presence: Optional(""),
        doc: "The Prometheus metrics on the status listener. Takes effect at the next start.",
    },
    Field {
        key: "drain",
        kind: Kind::Table(DRAIN),
        presence: Optional(""),
        doc: "How the gateway stops on SIGTERM. Takes effect at the next start.",
    },
    Field {
        key: "reload",
        kind: Kind::Table(RELOAD),
        presence: Optional(""),
        doc: "How changed files are noticed. SIGHUP reloads at once.",
    },
    Field {
        key: "log",
        kind: Kind::Table(LOG),
        presence: Optional(""),
        doc: "The process's own log, on stderr. It is not the record. Takes effect at the next start.",
    },
];

pub static PARTNER: &[Field] = &[
    Field {
        key: "listen",
        kind: Kind::List(&Kind::Address),
        presence: Required("[\"0.0.0.0:8443\"]"),
        doc: "Addresses to listen on. `[::]:8443` takes IPv4 as well. Takes effect at the next start.",
    },
    Field {
        key: "certificates",
        kind: Kind::List(&Kind::Table(CERTIFICATE)),
        presence: Required(""),
        doc: "Server certificates, chosen by server name (SNI); the first serves clients that send none.",
    },
    Field {
        key: "proxy_protocol",
        kind: Kind::Table(PROXY_PROTOCOL),
        presence: Optional(""),
        doc: "For load balancers that pass TCP on and say where it came from with a PROXY header, version 1 or 2.",
    },
    Field { key: "tls", kind: Kind::Table(TLS), presence: Optional(""), doc: "TLS settings." },
    Field {
        key: "limits",
        kind: Kind::Table(LIMITS),
        presence: Optional(""),
        doc: "Bounds on connections. Takes effect at the next start.",
    },
    Field {
        key: "timeouts",
        kind: Kind::Table(TIMEOUTS),
        presence: Optional(""),
        doc: "Deadlines. Each holds for the first request of a connection and for every other. Takes effect at the next start.",
    },
];

static CERTIFICATE: &[Field] = &[
    Field {
        key: "chain",
        kind: Kind::Path,
        presence: Required("tls/server.pem"),
        doc: "PEM file, server certificate first, then its intermediates. Relative paths start at this file's folder.",
    },
    Field {
        key: "key",
        kind: Kind::Secret,
        presence: Required("file:tls/server.key"),
        doc: "The private key in PEM, as a reference: `file:PATH` (mode 0600 or 0400), `env:NAME` or `credential:NAME`.",
    },
    Field {
        key: "ca",
        kind: Kind::Path,
        presence: Optional("tls/server-ca.pem"),
        doc: "PEM file with the CA certificate that clients verify it by. It goes into what `partner kit` writes; without it what is above the server certificate in `chain` does. Needed where the CA is your own.",
    },
];

static PROXY_PROTOCOL: &[Field] = &[Field {
    key: "from",
    kind: Kind::List(&Kind::Cidr),
    presence: Required("[\"10.0.0.0/24\"]"),
    doc: "Peers whose every connection begins with a PROXY header. From nobody else is one taken. A reload changes it for new connections.",
}];

static TLS: &[Field] = &[
    Field {
        key: "min_version",
        kind: Kind::Choice(&["1.2", "1.3"]),
        presence: Default("1.2"),
        doc: "Oldest TLS version that is spoken. Write it in quotes.",
    },
    Field {
        key: "session_cache",
        kind: Kind::Integer { min: 0, max: 10_000_000 },
        presence: Default("20000"),
        doc: "Sessions kept for resumption. A resumed session is verified again and carries no right of its own.",
    },
];

static LIMITS: &[Field] = &[
    Field {
        key: "max_connections",
        kind: Kind::Integer { min: 1, max: 1_000_000 },
        presence: Default("20000"),
        doc: "Open partner connections.",
    },
    Field {
        key: "max_handshakes",
        kind: Kind::Integer { min: 1, max: 100_000 },
        presence: Default("500"),
        doc: "TLS handshakes in progress. While others wait, one that has taken a tenth of `partner.timeouts.handshake` makes way.",
    },
    Field {
        key: "handshakes_per_source",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        presence: Default("100"),
        doc: "Handshakes in one second from one IPv4 address or IPv6 /64; more are closed before any TLS. 0 is no limit.",
    },
    Field {
        key: "connections_per_partner",
        kind: Kind::Integer { min: 1, max: 1_000_000 },
        presence: Default("5000"),
        doc: "Open connections of one partner; more are closed after the handshake. Unknown identities count as one.",
    },
    Field {
        key: "max_requests",
        kind: Kind::Integer { min: 1, max: 1_000_000_000 },
        presence: Default("100000"),
        doc: "Requests on one connection before it is closed.",
    },
    Field {
        key: "max_age",
        kind: seconds(1, 30 * DAY),
        presence: Default("12h"),
        doc: "Age after which a connection takes no further request.",
    },
    Field {
        key: "h2_max_streams",
        kind: Kind::Integer { min: 1, max: 10_000 },
        presence: Default("100"),
        doc: "Concurrent streams on one HTTP/2 connection.",
    },
];

static TIMEOUTS: &[Field] = &[
    Field { key: "handshake", kind: millis(100, 600_000), presence: Default("10s"), doc: "For a whole TLS handshake." },
    Field {
        key: "head",
        kind: millis(100, 600_000),
        presence: Default("10s"),
        doc: "From the first byte of a request head to its last.",
    },
    Field {
        key: "idle",
        kind: millis(100, 86_400_000),
        presence: Default("60s"),
        doc: "Between two requests on HTTP/1, and from the handshake to the first.",
    },
    Field {
        key: "h2_preface",
        kind: millis(100, 600_000),
        presence: Default("10s"),
        doc: "From the handshake to the end of the HTTP/2 preface.",
    },
    Field {
        key: "h2_idle",
        kind: millis(100, 86_400_000),
        presence: Default("60s"),
        doc: "Without an open stream on HTTP/2.",
    },
    Field {
        key: "body_progress",
        kind: millis(100, 86_400_000),
        presence: Default("30s"),
        doc: "Longest silence in a request body.",
    },
];

static STATUS: &[Field] = &[Field {
    key: "listen",
    kind: Kind::List(&Kind::Address),
    presence: Default("[\"127.0.0.1:9090\"]"),
    doc: "Addresses of the status listener. An empty list turns it off. Takes effect at the next start.",
}];

static ADMIN: &[Field] = &[
    Field {
        key: "socket",
        kind: Kind::Path,
        presence: Optional("/run/partnergate/admin.sock"),
        doc: "The admin socket; `admin.sock` in `state_dir` when absent. Takes effect at the next start.",
    },
    Field {
        key: "group",
        kind: Kind::Text,
        presence: Optional("partnergate-operators"),
        doc: "A group of this machine whose members may connect to the socket too, and are then judged by whom they are. They must be able to reach it: give `socket` a folder that they may enter. Takes effect at the next start.",
    },
    Field {
        key: "listen",
        kind: Kind::List(&Kind::Address),
        presence: Default("[]"),
        doc: "Addresses of the admin listener, over TLS, for operators with a token or a client certificate. Takes effect at the next start.",
    },
    Field {
        key: "chain",
        kind: Kind::Path,
        presence: Optional("tls/admin.pem"),
        doc: "PEM file with the listener's server certificate, first, and its intermediates.",
    },
    Field {
        key: "key",
        kind: Kind::Secret,
        presence: Optional("file:tls/admin.key"),
        doc: "Its private key in PEM, as a reference.",
    },
    Field {
        key: "client_ca",
        kind: Kind::Path,
        presence: Optional("tls/operators-ca.pem"),
        doc: "PEM file with the CA certificates that client certificates of operators are issued under. Without it only tokens show who an operator is. Partners' anchors are never used here.",
    },
];

static APPROVAL: &[Field] = &[
    Field {
        key: "four_eyes",
        kind: Kind::Choice(&["required", "off"]),
        presence: Default("required"),
        doc: "`off` is for teams of one: who asks and has the role `approver` has approved as well, and every event of it says so.",
    },
    Field {
        key: "lapse_after",
        kind: seconds(60, 366 * DAY),
        presence: Default("30d"),
        doc: "How long what was asked for may wait for approval.",
    },
    Field {
        key: "require_ticket",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Whether a ticket must be named with whatever would permit more.",
    },
    Field {
        key: "max_grant_days",
        kind: Kind::Integer { min: 1, max: 36_500 },
        presence: Optional("366"),
        doc: "How long a grant that is asked for may last from now, or from its start where that is later; as long as the engagement when absent.",
    },
    Field {
        key: "max_credential_days",
        kind: Kind::Integer { min: 1, max: 36_500 },
        presence: Optional("397"),
        doc: "How far ahead the end of a credential that is asked for may be; every such credential has one then. Without it a credential needs no end of its own.",
    },
];

static ISSUE: &[Field] = &[
    Field {
        key: "anchor",
        kind: Kind::Id,
        presence: Required("partners-ca"),
        doc: "The trust anchor that this CA is registered as. Certificates are issued for credentials under it.",
    },
    Field {
        key: "certificate",
        kind: Kind::Path,
        presence: Required("ca/partners-ca.pem"),
        doc: "The CA certificate, in PEM; the one of the anchor.",
    },
    Field {
        key: "key",
        kind: Kind::Secret,
        presence: Optional("file:ca/partners-ca.key"),
        doc: "Its private key (PKCS#8 in PEM), as a reference; the file must be 0600 or 0400. Absent where the key is on another host, which signs what it is brought (`partnergate ca sign`).",
    },
    Field {
        key: "passphrase",
        kind: Kind::Secret,
        presence: Optional("credential:ca-passphrase"),
        doc: "What opens the key where it is encrypted, as a reference.",
    },
    Field {
        key: "lifetime",
        kind: seconds(60, 3_660 * DAY),
        presence: Default("90d"),
        doc: "How long a certificate is valid; never longer than the CA itself.",
    },
    Field {
        key: "overlap",
        kind: seconds(0, 366 * DAY),
        presence: Default("7d"),
        doc: "How long a certificate stays good beside the one that its partner has renewed it with, counted from that one's first use; then it is put on the revocation list.",
    },
    Field {
        key: "list_lifetime",
        kind: seconds(60, 366 * DAY),
        presence: Default("7d"),
        doc: "How long a revocation list is valid. It is signed anew on every change and when half of that is over.",
    },
    Field {
        key: "list_url",
        kind: Kind::Text,
        presence: Optional("http://pki.example.com/crl/partners-ca.crl"),
        doc: "Where others find the revocation list, written into certificates. The gateway serves it on the status listener at `/crl/ANCHOR.crl`.",
    },
];

static TOKENS: &[Field] = &[
    Field {
        key: "issuer",
        kind: Kind::Text,
        presence: Required("https://api.partners.example.com"),
        doc: "Who signs, as it stands in what is signed: `https://` and a host name, with a port where it is not 443.",
    },
    Field {
        key: "secret",
        kind: Kind::Secret,
        presence: Required("file:secrets/token-keys"),
        doc: "What the signing keys are encrypted under in the database, as a reference; the file must be 0600 or 0400. 32 bytes or more: `openssl rand -base64 32`. Every gateway of a fleet has the same.",
    },
    Field {
        key: "algorithm",
        kind: Kind::Choice(&["ES256", "EdDSA"]),
        presence: Default("ES256"),
        doc: "What keys that are made from now on sign with.",
    },
    Field {
        key: "rotate_every",
        kind: seconds(3_600, 366 * DAY),
        presence: Default("30d"),
        doc: "How long a key signs before the next one does.",
    },
    Field {
        key: "tell_ahead",
        kind: seconds(1, 30 * DAY),
        presence: Default("1d"),
        doc: "How long a key is told to others before it signs: longer than they keep the set of keys without asking again.",
    },
    Field {
        key: "authorization_server",
        kind: Kind::Table(AUTHORIZATION_SERVER),
        presence: Optional(""),
        doc: "Give partners access tokens that are bound to their certificates, at the partner listener under the host of `issuer`. Off unless it is there; `{}` is enough.",
    },
    Field {
        key: "api_keys",
        kind: Kind::Table(API_KEYS),
        presence: Optional(""),
        doc: "Let partners have API keys that are bound to their certificates. Off unless it is there; `{}` is enough.",
    },
];

static API_KEYS: &[Field] = &[
    Field {
        key: "accepted_in",
        kind: Kind::Choice(KeyUse::NAMES),
        presence: Default("header"),
        doc: "Where a key is accepted: in `X-API-Key` of a request (`header`), or only to be exchanged for an access token (`exchange`).",
    },
    Field {
        key: "max_lifetime",
        kind: seconds(3_600, 3_660 * DAY),
        presence: Default("366d"),
        doc: "How long a key may be good. `credential add --api-key` makes one for 90 days where nothing is said.",
    },
];

static AUTHORIZATION_SERVER: &[Field] = &[Field {
    key: "token_lifetime",
    kind: seconds(60, DAY),
    presence: Default("10m"),
    doc: "How long an access token is good at most. Its grants, the engagement and the certificate may end it before.",
}];

static ENROL: &[Field] = &[
    Field {
        key: "listen",
        kind: Kind::List(&Kind::Address),
        presence: Optional("[\"0.0.0.0:8444\"]"),
        doc: "Addresses to listen on.",
    },
    Field {
        key: "chain",
        kind: Kind::Path,
        presence: Optional("tls/enrol.pem"),
        doc: "PEM file with the listener's certificate and its intermediates. Required with `listen`.",
    },
    Field {
        key: "key",
        kind: Kind::Secret,
        presence: Optional("file:tls/enrol.key"),
        doc: "The listener's private key (PEM), as a reference. Required with `listen`.",
    },
    Field {
        key: "retry_after",
        kind: seconds(1, DAY),
        presence: Default("5m"),
        doc: "When a partner is to ask again whose credential still waits for approval.",
    },
];

static UPSTREAM: &[Field] = &[
    Field {
        key: "endpoints",
        kind: Kind::List(&Kind::Endpoint),
        presence: Required("[\"billing.internal:8080\"]"),
        doc: "Each endpoint as host and port, taken in turn. Names are resolved in the background.",
    },
    Field {
        key: "protocol",
        kind: Kind::Choice(&["h1", "h2"]),
        presence: Default("h1"),
        doc: "HTTP version spoken to the endpoints. gRPC needs h2.",
    },
    Field {
        key: "tls",
        kind: Kind::Table(UPSTREAM_TLS),
        presence: Optional(""),
        doc: "TLS to the endpoints; plain TCP when absent.",
    },
    Field {
        key: "host",
        kind: Kind::Text,
        presence: Optional("billing.internal"),
        doc: "Host sent to the endpoints; the client's when absent.",
    },
    Field {
        key: "timeouts",
        kind: Kind::Table(UPSTREAM_TIMEOUTS),
        presence: Optional(""),
        doc: "Deadlines towards the endpoints.",
    },
    Field {
        key: "health",
        kind: Kind::Table(HEALTH),
        presence: Optional(""),
        doc: "Active health check; an endpoint that fails it gets no requests.",
    },
    Field {
        key: "eject_after",
        kind: Kind::Integer { min: 1, max: 1000 },
        presence: Default("3"),
        doc: "Consecutive failed connections after which an endpoint is left out for a while.",
    },
    Field { key: "eject_for", kind: seconds(1, HOUR), presence: Default("10s"), doc: "How long it is left out." },
    Field {
        key: "resolve_interval",
        kind: seconds(1, DAY),
        presence: Default("30s"),
        doc: "How often names are resolved again.",
    },
];

static UPSTREAM_TLS: &[Field] = &[
    Field {
        key: "server_name",
        kind: Kind::Text,
        presence: Required("billing.internal"),
        doc: "Name that the endpoint's certificate must be for; also sent as SNI.",
    },
    SERVER_CA,
    CLIENT_CHAIN,
    CLIENT_KEY,
];

static UPSTREAM_TIMEOUTS: &[Field] = &[
    Field { key: "connect", kind: millis(10, 600_000), presence: Default("3s"), doc: "To connect, TLS included." },
    Field {
        key: "read",
        kind: millis(10, 86_400_000),
        presence: Default("60s"),
        doc: "Between two reads of a response.",
    },
    Field {
        key: "write",
        kind: millis(10, 86_400_000),
        presence: Default("30s"),
        doc: "For a write of a request. An upstream that takes none may have answered already: its answer is then waited for as long as `read` says.",
    },
    Field {
        key: "idle",
        kind: millis(10, 86_400_000),
        presence: Default("60s"),
        doc: "How long an unused connection is kept.",
    },
];

static HEALTH: &[Field] = &[
    Field {
        key: "path",
        kind: Kind::Text,
        presence: Required("/healthz"),
        doc: "Requested with GET; 200 to 299 is healthy.",
    },
    Field { key: "interval", kind: millis(100, 86_400_000), presence: Default("5s"), doc: "Time between two checks." },
    Field { key: "timeout", kind: millis(10, 600_000), presence: Default("2s"), doc: "For one check." },
    Field {
        key: "healthy_after",
        kind: Kind::Integer { min: 1, max: 100 },
        presence: Default("2"),
        doc: "Good checks in a row until an endpoint is used again.",
    },
    Field {
        key: "unhealthy_after",
        kind: Kind::Integer { min: 1, max: 100 },
        presence: Default("2"),
        doc: "Bad checks in a row until an endpoint is left out.",
    },
];

static ROUTE: &[Field] = &[
    Field {
        key: "hosts",
        kind: Kind::List(&Kind::Text),
        presence: Required("[\"api.example.com\"]"),
        doc: "Host names, without port.",
    },
    Field {
        key: "prefix",
        kind: Kind::Text,
        presence: Default("/"),
        doc: "Path prefix, on whole segments. The longest one serves.",
    },
    Field { key: "upstream", kind: Kind::Id, presence: Required("billing"), doc: "Name of the upstream." },
    Field {
        key: "openapi",
        kind: Kind::List(&Kind::Table(OPENAPI)),
        presence: Optional(""),
        doc: "OpenAPI 3.0 or 3.1 documents that name the operations of this route.",
    },
    Field {
        key: "operations",
        kind: Kind::List(&Kind::Table(LISTED)),
        presence: Optional(""),
        doc: "Operations listed here, besides or instead of OpenAPI documents.",
    },
    Field {
        key: "max_body",
        kind: Kind::Size { min: 0, max: 1 << 40 },
        presence: Default("10MiB"),
        doc: "Largest request body.",
    },
    Field {
        key: "stream_idle",
        kind: millis(100, 86_400_000),
        presence: Default("5m"),
        doc: "How long an upgraded connection may be silent, or a gRPC client in the middle of a call.",
    },
    Field {
        key: "client_cert",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Send the client's certificate to the upstream as `Client-Cert` (RFC 9440).",
    },
    Field {
        key: "client_cert_chain",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "With `client_cert`: send the certificates between the client's and the anchor as `Client-Cert-Chain` (RFC 9440). A value over 12 KiB is left out and counted.",
    },
    Field {
        key: "xfcc",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Send the client's certificate to the upstream as `X-Forwarded-Client-Cert` (Envoy's form). A value over 12 KiB is left out and counted.",
    },
    Field {
        key: "assertion",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Send the upstream `X-Partner-Assertion`, a signed statement of who calls by which grant, which it can verify. Needs `tokens`.",
    },
    Field {
        key: "token",
        kind: Kind::Choice(TokenUse::NAMES),
        presence: Optional("required"),
        doc: "Access tokens in `Authorization: Bearer`, with `tokens.authorization_server`: `accepted` holds a request to the token that it comes with, `required` denies one without, `ignored` leaves the field to the upstream. `accepted` where nothing is said.",
    },
    Field {
        key: "api_key",
        kind: Kind::Choice(TokenUse::NAMES),
        presence: Optional("required"),
        doc: "API keys in `X-API-Key`, with `tokens.api_keys`: `accepted` holds a request to the key that it comes with, `required` denies one without, `ignored` leaves the field to the upstream, unless a key is in it. `accepted` where nothing is said. An upstream never gets a key.",
    },
    Field {
        key: "forward_token",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Send the upstream the access token too. Without it, it ends at the gateway.",
    },
];

static OPENAPI: &[Field] = &[
    Field {
        key: "file",
        kind: Kind::Path,
        presence: Required("openapi/billing.yaml"),
        doc: "The document, JSON or YAML.",
    },
    Field {
        key: "base_path",
        kind: Kind::Text,
        presence: Optional("/v1"),
        doc: "Base path of its operations, instead of the one from its `servers`.",
    },
];

static POLICY: &[Field] = &[
    Field {
        key: "dir",
        kind: Kind::Path,
        presence: Default("policies"),
        doc: "Folder with the shipped policy (`partnergate/`), your own rules (`custom/`), `reasons.yaml`, `conditions.yaml` and data files. `examples/` in it is not read.",
    },
    Field {
        key: "bundle",
        kind: Kind::Table(BUNDLE),
        presence: Optional(""),
        doc: "An OPA bundle with the policy, instead of `dir`. See `docs/bundles.md`.",
    },
    Field {
        key: "candidate",
        kind: Kind::Table(CANDIDATE),
        presence: Optional(""),
        doc: "A second policy that is evaluated on live requests and decides nothing. See `docs/policy.md`.",
    },
    Field {
        key: "engine",
        kind: Kind::Choice(&["rvm", "interpreter"]),
        presence: Default("rvm"),
        doc: "regorus' virtual machine, or its slower interpreter for a policy that the machine cannot compile.",
    },
    Field {
        key: "time_limit",
        kind: millis(1, 1_000),
        presence: Default("10ms"),
        doc: "For one evaluation. One that takes longer is tried once more, since the machine may have been busy, and then denied.",
    },
    Field {
        key: "instruction_limit",
        kind: Kind::Integer { min: 100, max: 10_000_000 },
        presence: Default("25000"),
        doc: "Instructions of one decision; over it the request is denied.",
    },
    Field {
        key: "headers",
        kind: Kind::List(&Kind::Text),
        presence: Optional("[\"x-api-version\"]"),
        doc: "Request fields that policy and records may see. Never put secrets here.",
    },
];

static CANDIDATE: &[Field] = &[
    Field {
        key: "dir",
        kind: Kind::Path,
        presence: Required("policies-next"),
        doc: "Its folder, of the same form as `policy.dir`. What is wrong with it is a warning.",
    },
    Field {
        key: "sample_percent",
        kind: Kind::Integer { min: 1, max: 100 },
        presence: Default("100"),
        doc: "How many of a hundred decisions it is evaluated on.",
    },
    Field {
        key: "cpu_percent",
        kind: Kind::Integer { min: 1, max: 100 },
        presence: Default("10"),
        doc: "How much of one processor that may take; decisions beyond it are skipped and counted.",
    },
];

static BUNDLE: &[Field] = &[
    Field {
        key: "source",
        kind: Kind::Text,
        presence: Required("https://bundles.example.com/partnergate.tar.gz"),
        doc: "A file, which is followed like every other, or an `http://` or `https://` URL, which is asked again and again.",
    },
    Field {
        key: "keys",
        kind: Kind::Map(&Kind::Table(BUNDLE_KEY)),
        presence: Optional("release"),
        doc: "Whose bundles are taken, by key id. A reload changes them; the bundle is then looked at anew.",
    },
    Field {
        key: "key_id",
        kind: Kind::Text,
        presence: Optional("release"),
        doc: "The one of `keys` that is meant whatever a signature says; else it names its key itself.",
    },
    Field {
        key: "scope",
        kind: Kind::Text,
        presence: Optional("production"),
        doc: "What the signature must be for. Without it, nothing.",
    },
    Field {
        key: "require_signature",
        kind: Kind::Boolean,
        presence: Optional("true"),
        doc: "Whether a bundle that is not signed is refused; so it is when absent, but for a file without `keys`. A signature that is there must be good in any case where there are `keys`.",
    },
    Field {
        key: "refresh",
        kind: seconds(1, DAY),
        presence: Default("1m"),
        doc: "Time between two questions to a URL; sooner after a failure. A reload asks at once.",
    },
    Field { key: "timeout", kind: millis(100, 600_000), presence: Default("10s"), doc: "For one question to a URL." },
    Field {
        key: "max_size",
        kind: Kind::Size { min: 1024, max: 1 << 30 },
        presence: Default("64MiB"),
        doc: "Largest bundle that is taken, unpacked.",
    },
    Field {
        key: "stale_after",
        kind: millis(1_000, 604_800_000),
        presence: Optional("1h"),
        doc: "How long a URL may be silent or have a bundle that is refused, and the last good one be served, until `/readyz` is 503. Without it, for ever.",
    },
    SERVER_CA,
    CLIENT_CHAIN,
    CLIENT_KEY,
    Field {
        key: "token",
        kind: Kind::Secret,
        presence: Optional("credential:bundle-token"),
        doc: "Sent as `Authorization: Bearer`, over https only, as a reference.",
    },
];

static BUNDLE_KEY: &[Field] = &[
    Field {
        key: "key",
        kind: Kind::Path,
        presence: Required("release.pub"),
        doc: "PEM file with the public key, or a certificate with it.",
    },
    Field {
        key: "algorithm",
        kind: Kind::Choice(Algorithm::NAMES),
        presence: Default("RS256"),
        doc: "What the key is for. What a signature says of itself is not believed.",
    },
];

static REVOCATION: &[Field] = &[
    Field {
        key: "refresh",
        kind: seconds(1, 30 * DAY),
        presence: Default("15m"),
        doc: "Time between two questions to a URL; more often towards the end of a list, and soon after a failure.",
    },
    Field { key: "timeout", kind: millis(100, 600_000), presence: Default("10s"), doc: "For one question to a URL." },
    Field {
        key: "max_size",
        kind: Kind::Size { min: 1024, max: 128 << 20 },
        presence: Default("64MiB"),
        doc: "Largest list that is taken from a URL.",
    },
    Field {
        key: "hosts",
        kind: Kind::List(&Kind::Text),
        presence: Optional("[\"crl.acme.example\"]"),
        doc: "Hosts that a certificate may send the gateway to for its list (`distribution_points` of an anchor), each with its port where the URL has one.",
    },
];

static REQUEST: &[Field] = &[
    Field {
        key: "max_head",
        kind: Kind::Size { min: 1024, max: 1 << 20 },
        presence: Default("16KiB"),
        doc: "Bytes of request line and fields together.",
    },
    Field {
        key: "max_fields",
        kind: Kind::Integer { min: 10, max: 256 },
        presence: Default("100"),
        doc: "Number of fields.",
    },
    Field {
        key: "min_body_rate",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        presence: Default("100"),
        doc: "Bytes per second at which a request body must arrive on average once `body_progress` has passed. Takes effect at the next start.",
    },
    Field {
        key: "via",
        kind: Kind::Id,
        presence: Default("partnergate"),
        doc: "Pseudonym of the gateway in `Via`. Takes effect at the next start.",
    },
];

static RECORD: &[Field] = &[
    Field {
        key: "output",
        kind: Kind::Text,
        presence: Default("stdout"),
        doc: "`stdout`, or `file:PATH`; a file that was moved away is opened anew.",
    },
    Field {
        key: "stdout",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Write every line to stdout as well, where `output` is a file.",
    },
    Field {
        key: "rotate",
        kind: Kind::Table(ROTATE),
        presence: Optional(""),
        doc: "When the file of records is begun anew, and how long those that are done with stay. Without it nothing is: logrotate can do it.",
    },
    Field {
        key: "upload",
        kind: Kind::Table(UPLOAD),
        presence: Optional(""),
        doc: "Send decisions to somebody elsewhere as well, in the form of OPA's decision log.",
    },
    Field {
        key: "buffer",
        kind: Kind::Integer { min: 100, max: 10_000_000 },
        presence: Default("65536"),
        doc: "Records that may be written yet: of requests that go on, at most a quarter for one partner, and of those that have ended.",
    },
    Field {
        key: "buffer_size",
        kind: Kind::Size { min: 64 << 10, max: 16 << 30 },
        presence: Default("64MiB"),
        doc: "What these records may take together.",
    },
    Field {
        key: "when_full",
        kind: Kind::Choice(&["deny", "count"]),
        presence: Default("deny"),
        doc: "When no record can be kept: deny the request, or allow it and count the loss.",
    },
    Field {
        key: "handshakes_per_second",
        kind: Kind::Integer { min: 1, max: 1_000_000 },
        presence: Default("100"),
        doc: "Records of refused handshakes per second, and as many of malformed requests; ten times that at once. The rest is counted, and the next record says how many it was.",
    },
    Field {
        key: "address",
        kind: Kind::Choice(&["full", "truncated"]),
        presence: Default("full"),
        doc: "Source addresses in full, or IPv4 to /24 and IPv6 to /48.",
    },
    Field {
        key: "include",
        kind: Kind::Table(INCLUDE),
        presence: Optional(""),
        doc: "Values that are shown as they are; all others of these kinds are keyed hashes.",
    },
];

static UPLOAD: &[Field] = &[
    Field {
        key: "url",
        kind: Kind::Text,
        presence: Required("https://collector.example.com/logs"),
        doc: "Where batches go with `POST`. What is answered with 2xx has arrived; everything else is sent again. `http` is for a server on this machine, and goes with neither token nor certificates.",
    },
    SERVER_CA,
    Field {
        key: "token",
        kind: Kind::Secret,
        presence: Optional("file:upload.token"),
        doc: "Sent as `Authorization: Bearer`, as a reference.",
    },
    CLIENT_CHAIN,
    CLIENT_KEY,
    Field {
        key: "labels",
        kind: Kind::Labels,
        presence: Optional("{team: api}"),
        doc: "Labels of every event, besides `app`, `id` (the node), `version`, `environment` and `boot`.",
    },
    Field {
        key: "batch_size",
        kind: Kind::Size { min: 1024, max: 64 << 20 },
        presence: Default("256KiB"),
        doc: "Records in one batch, before they are packed; packed they take about a tenth.",
    },
    Field {
        key: "interval",
        kind: millis(0, 3_600_000),
        presence: Default("1s"),
        doc: "How long a batch that is not full waits for more.",
    },
    Field { key: "timeout", kind: millis(100, 600_000), presence: Default("10s"), doc: "For one batch." },
    Field {
        key: "spool_size",
        kind: Kind::Size { min: 64 << 10, max: 1 << 40 },
        presence: Default("256MiB"),
        doc: "What may wait on the disk, in `spool` in `state_dir`; the oldest are dropped and counted.",
    },
    Field {
        key: "on_failure",
        kind: Kind::Choice(&["count", "deny"]),
        presence: Default("count"),
        doc: "When the spool is nearly full: go on and count what is dropped, or deny requests until there is room.",
    },
];

static ROTATE: &[Field] = &[
    Field {
        key: "max_size",
        kind: Kind::Size { min: 4096, max: 1 << 40 },
        presence: Optional("256MiB"),
        doc: "Largest file. It is then called `NAME.TIME.NUMBER`, where the number is that of its last checkpoint.",
    },
    Field {
        key: "every",
        kind: seconds(1, 366 * DAY),
        presence: Optional("1d"),
        doc: "A new file in every period, in UTC: with `1d` at the first record after midnight.",
    },
    Field {
        key: "keep",
        kind: Kind::Integer { min: 0, max: 1_000_000 },
        presence: Optional("30"),
        doc: "How many files that are done with stay; all of them when absent.",
    },
    Field {
        key: "keep_for",
        kind: seconds(1, 36_600 * DAY),
        presence: Optional("90d"),
        doc: "How long they stay after their last record.",
    },
    Field {
        key: "keep_size",
        kind: Kind::Size { min: 0, max: 1 << 50 },
        presence: Optional("20GiB"),
        doc: "What they may take together; the oldest go.",
    },
    Field { key: "compress", kind: Kind::Boolean, presence: Default("false"), doc: "Pack them with gzip." },
];

static INCLUDE: &[Field] = &[
    Field { key: "query", kind: Kind::List(&Kind::Text), presence: Optional("[\"page\"]"), doc: "Query keys." },
    Field {
        key: "params",
        kind: Kind::List(&Kind::Text),
        presence: Optional("[\"version\"]"),
        doc: "Names of path parameters.",
    },
    Field { key: "email", kind: Kind::Boolean, presence: Default("false"), doc: "E-mail addresses in certificates." },
];

static METRICS: &[Field] = &[
    Field {
        key: "max_series",
        kind: Kind::Integer { min: 10, max: 10_000_000 },
        presence: Default("50000"),
        doc: "Most series whose labels are ids of partners, operations and anchors; what goes over it is counted as `other`.",
    },
    Field {
        key: "partner_operation",
        kind: Kind::Boolean,
        presence: Default("false"),
        doc: "Count requests by partner and operation as well; each pair is a series.",
    },
];

static DRAIN: &[Field] = &[
    Field {
        key: "delay",
        kind: millis(0, 3_600_000),
        presence: Default("5s"),
        doc: "After SIGTERM: `/readyz` is 503 and new connections are still taken, so that load balancers notice.",
    },
    Field {
        key: "grace",
        kind: millis(0, 86_400_000),
        presence: Default("30s"),
        doc: "After that: how long open requests may take; it ends with the last of them.",
    },
];

static RELOAD: &[Field] = &[
    Field {
        key: "interval",
        kind: millis(100, 3_600_000),
        presence: Default("1s"),
        doc: "How often the files are looked at.",
    },
    Field {
        key: "stale_after",
        kind: millis(1_000, 604_800_000),
        presence: Optional("1h"),
        doc: "How long reloads may fail, and the last good state be served, until `/readyz` is 503. Without it they may fail for ever.",
    },
];

static LOG: &[Field] = &[
    Field {
        key: "level",
        kind: Kind::Choice(&["error", "warn", "info", "debug"]),
        presence: Default("info"),
        doc: "How much is logged.",
    },
    Field {
        key: "format",
        kind: Kind::Choice(&["text", "json"]),
        presence: Default("text"),
        doc: "For people or for machines.",
    },
];
