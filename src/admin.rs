//! The operators' API, on a unix socket and, where the config says so, over TLS: every verb that changes something, and
//! what `partnergate` asks for.
//!
//! In: requests of operators, who show themselves by their user of this machine, a token or a certificate. Out: the same
//! operations that files and signals trigger, through [`Publisher`]. Must never: be reachable over the partner listener;
//! do what none of the caller's roles permits; read or write on a thread that serves requests what is as long as the
//! registry is large.

mod anchors;
mod answer;
mod approvals;
mod caller;
mod credentials;
mod grants;
mod history;
mod issue;
mod listener;
mod lockdown;
mod networks;
mod operators;
mod partners;
mod registry;
mod status;
mod suspend;

pub use anchors::{AnchorCall, DenyCall, anchors_document};
pub use approvals::{ApprovalAnswer, VerdictCall, document as approval_document};
pub use caller::user_name;
pub use credentials::RotateCall;
pub use grants::{Direction, EditCall, EmergencyCall, GrantRow};
pub use history::{AuditAnswer, HistoryAnswer, HistoryCall};
pub use issue::{EnrolCall, IssueCall, pem};
pub use listener::{serve, serve_tls};
pub use lockdown::LockdownCall;
pub use operators::{BootstrapCall, OperatorCall, RolesCall, Shown, TokenCall, new_operator};
pub use partners::OffboardCall;
pub use registry::{ApplyCall, export_document, list_document, partner_document};

use crate::operator::Act;
use crate::reload::{Place, Publisher};
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, patch, post, put};
use axum::{Router, middleware};
use caller::{needs, recognised};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Largest body of a call, and of a folder of registry files.
const MAX_BODY: usize = 1024 * 1024;
const MAX_FILES: usize = 512 * 1024 * 1024;

/// Body of what needs no more than why.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyCall {
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

#[derive(Clone)]
struct Shared {
    publisher: Arc<Publisher>,
    /// The user that the gateway runs as.
    uid: u32,
}

/// Every call, under the act that it comes to. What is under none is not reachable.
fn router(shared: Shared) -> Router {
    let looks = Router::new()
        .route("/v1/export", get(registry::export_all))
        .route("/v1/partners", get(registry::partners))
        .route("/v1/partners/{id}", get(registry::partner))
        .route("/v1/anchors", get(anchors::list))
        .route("/v1/anchors/{name}", get(anchors::show))
        .route("/v1/grants", get(grants::list))
        .route("/v1/credentials", get(credentials::list))
        .route("/v1/certificates", get(issue::list))
        .route("/v1/networks", get(networks::list))
        .route("/v1/networks/{name}", get(networks::show))
        .route("/v1/partners/{id}/report", get(partners::report))
        .route("/v1/usage", get(registry::usage))
        .route("/v1/status", get(status::status))
        .route("/v1/approvals", get(approvals::list))
        .route("/v1/approvals/{id}", get(approvals::show))
        .route("/v1/operators", get(operators::list))
        .route("/v1/operators/{name}", get(operators::show));
    let looks_back = Router::new().route("/v1/history", get(history::list)).route("/v1/audit", get(history::audit));
    let requests = Router::new()
        .route("/v1/apply", post(registry::apply).layer(DefaultBodyLimit::max(MAX_FILES)))
        .route("/v1/partners/{id}", put(grants::add_partner).patch(grants::edit_partner))
        .route("/v1/partners/{id}/grants/{grant}", put(|s, c, p, j| grants::below(("grants", Place::Free), s, c, p, j)))
        .route(
            "/v1/partners/{id}/credentials/{credential}",
            put(|s, c, p, j| grants::below(("credentials", Place::Free), s, c, p, j))
                .patch(|s, c, p, j| grants::below(("credentials", Place::Taken), s, c, p, j)),
        )
        .route("/v1/partners/{id}/credentials/{credential}/rotate", post(credentials::rotate))
        .route("/v1/networks/{name}", put(networks::add).patch(networks::change).delete(networks::remove))
        .route("/v1/anchors/{name}", put(anchors::add).patch(anchors::edit).delete(anchors::remove))
        .route("/v1/grants/{id}", patch(grants::edit_grant))
        .route("/v1/approvals/{id}/withdraw", post(approvals::withdraw));
    let approves = Router::new()
        .route("/v1/approvals/{id}/approve", post(approvals::approve))
        .route("/v1/approvals/{id}/reject", post(approvals::reject))
        .route("/v1/grants/{id}/review", post(grants::review))
        .route("/v1/partners/{id}/review", post(partners::review))
        .route("/v1/partners/{id}/credentials/{credential}/issue", post(issue::issue))
        .route("/v1/partners/{id}/credentials/{credential}/enrolment", post(issue::enrolment));
    let ends = Router::new()
        .route("/v1/partners/{id}/credentials/{credential}/revoke", post(credentials::revoke))
        .route("/v1/grants/{id}/revoke", post(grants::revoke));
    let operates = Router::new()
        .route("/v1/partners/{id}/grants/{grant}/emergency", post(grants::emergency))
        .route("/v1/partners/{id}/offboard", post(partners::offboard))
        .route("/v1/partners/{id}/suspend", post(suspend::suspend))
        .route("/v1/partners/{id}/resume", post(suspend::resume))
        .route("/v1/anchors/{name}/deny", post(anchors::deny))
        .route("/v1/anchors/{name}/undeny", post(anchors::undeny))
        .route("/v1/lockdown/on", post(lockdown::on))
        .route("/v1/lockdown/off", post(lockdown::off))
        .route("/v1/reload", post(status::reload));
    let governs = Router::new()
        .route("/v1/operators", post(operators::add))
        .route("/v1/operators/{name}/roles", put(operators::roles))
        .route("/v1/operators/{name}/disable", post(operators::disable))
        .route("/v1/operators/{name}/enable", post(operators::enable))
        .route("/v1/operators/{name}/tokens", post(operators::add_token))
        .route("/v1/operators/{name}/tokens/{id}", delete(operators::revoke_token));
    // Who may do this is not a matter of roles: nobody has one yet.
    let first = Router::new().route("/v1/bootstrap", post(operators::bootstrap));
    [
        (looks, Act::Look),
        (looks_back, Act::LookBack),
        (requests, Act::Request),
        (approves, Act::Approve),
        (ends, Act::End),
        (operates, Act::Operate),
        (governs, Act::Govern),
    ]
    .into_iter()
    .fold(first, |all, (router, act)| {
        all.merge(
            router.route_layer(middleware::from_fn(move |caller, request, next| needs(act, caller, request, next))),
        )
    })
    .layer(middleware::from_fn_with_state(shared.clone(), recognised))
    .layer(DefaultBodyLimit::max(MAX_BODY))
    .with_state(shared)
}
