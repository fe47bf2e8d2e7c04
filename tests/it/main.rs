//! Tests from outside: the built binary, real clients, and an upstream that keeps the bytes it received.
//!
//! One binary, one module per concern. Every test has its own folder, its own certificates, its own gateway and its
//! own upstream on free ports; none waits for a fixed time, and none depends on another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on ends there; clippy.toml excepts only functions marked #[test]"
)]
#![allow(clippy::print_stderr, reason = "what a gateway said is shown when its test fails")]

mod answers;
mod api_keys;
mod approvals;
mod assertion;
mod budget;
mod bundles;
mod candidate;
mod conditions;
mod crl;
mod database;
mod decision;
mod edge;
mod enforcement;
mod evidence;
mod grants;
mod grpc;
mod handshake;
#[allow(dead_code, unused_imports, reason = "clients and servers say more than every test asks")]
mod harness;
mod history;
mod http2;
mod identity;
mod issue;
mod lifecycle;
mod lockdown;
mod observe;
mod offboarding;
mod openapi;
mod operators;
mod panic;
mod policy;
mod records;
mod registry;
mod reload;
mod request;
mod revocation;
mod rotation;
mod served_bundles;
mod spiffe;
mod status;
mod suspension;
mod tokens;
mod upgrade;
mod upload;
mod upstream;
mod walkthrough;
mod websocket;
mod whole_life;
