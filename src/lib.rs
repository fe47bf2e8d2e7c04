//! partnergate: the reverse proxy that governs partner identities.
//!
//! It terminates partner mTLS, maps the client certificate to exactly one partner, decides *every* request with a floor
//! in Rust and Rego policy above it, forwards only what is allowed, and keeps the evidence.
//!
//! # The house
//!
//! Left never imports right; `tests/architecture.rs` holds it.
//!
//! | room | what it does |
//! | --- | --- |
//! | [`document`] | YAML and JSON with positions, checked against one table of keys |
//! | [`clock`] | wall time that never runs back |
//! | [`reason`] | the one list of reasons and public codes |
//! | [`name`] | the ids of partners, credentials, grants, … as types |
//! | [`identity`] | certificates → facts, and what a credential is recognised by |
//! | [`request`] | the canonical form of a request, or a refusal |
//! | [`operation`] | method + path → operation id, from OpenAPI or config |
//! | [`route`] | host + path prefix → upstream |
//! | [`partner`] | the nouns of the registry and what follows from time |
//! | [`operator`] | who operates the gateway, and what a role permits |
//! | [`history`] | who changed what and why, as a chain of hashes |
//! | [`trust`] | which chains are believed: anchors, bundles, revocation lists, denials |
//! | [`registry`] | certificate → exactly one partner, in O(1) |
//! | [`approval`] | what would permit more, and waits for somebody else |
//! | [`policy`] | Rego → program; facts → verdict, within limits |
//! | [`snapshot`] | all of that as one validated, immutable state |
//! | [`decision`] | the floor, policy, and the check that policy only narrowed |
//! | [`record`] | evidence and metrics: the only exit for both |
//! | [`upstream`] | a permit → an endpoint |
//! | [`gateway`] | pingora's phases, and the index of what is open |
//! | [`listen`] | the connection: PROXY header, bounds, TLS, HTTP/1 and HTTP/2 loops, deadlines |
//! | [`disk`] | files: read within a bound, replaced whole, noticed when they change |
//! | [`store`] | the registry's database, declarations and plans |
//! | [`fetch`] | revocation lists from files, folders and URLs; the policy's bundle |
//! | [`upload`] | decisions to somebody elsewhere, in the form of OPA's decision log |
//! | [`config`] | `partnergate.yaml` and what it names |
//! | [`material`] | what anchors need from files: trust bundles |
//! | [`expiry`] | what is about to end, said before it hurts |
//! | [`reload`] | the one place that publishes |
//! | [`admin`], [`status`] | the operators' API; metrics and health |
//! | [`server`], [`cli`] | the process |
//!
//! # One request
//!
//! `listen` accepts and authenticates, reads the head under a deadline and judges its raw bytes. `gateway` loads one
//! [`snapshot::Snapshot`], canonicalises the request and asks [`decision::decide`]. A [`decision::Permit`] alone opens
//! the way to an upstream; everything else is a refusal. Whatever happens, one record is written.
//!
//! # One change
//!
//! A change is committed by `store`, a file or list is read by `config`, `material` or `fetch`; `reload` builds the next
//! snapshot and publishes it. The next request is decided on it, and [`gateway::Open`] looks at what is open: what would
//! not be let in now is cut.

pub mod admin;
pub mod approval;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decision;
pub mod disk;
pub mod document;
pub mod enrol;
pub mod expiry;
pub mod fetch;
pub mod gateway;
pub mod history;
pub mod identity;
pub mod issue;
pub mod jose;
pub mod listen;
pub mod material;
pub mod name;
pub mod operation;
pub mod operator;
pub mod partner;
pub mod policy;
pub mod reason;
pub mod record;
pub mod registry;
pub mod reload;
pub mod request;
pub mod route;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod token;
pub mod trust;
pub mod upload;
pub mod upstream;
