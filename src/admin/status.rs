//! What the gateway decides on, and that it is to read its files again.

use super::Shared;
use super::answer::{looked_up, problem, refused};
use super::issue::ca_document;
use crate::partner::REVIEW_DUE;
use crate::registry::Registry;
use crate::store::emergency_document;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

pub(super) async fn reload(State(shared): State<Shared>) -> Response {
    match shared.publisher.reload().await {
        Ok(waiting) => Json(json!({"reloaded": true, "needs_restart": waiting})).into_response(),
        Err(e) => refused(e),
    }
}

/// Partners that an operator has stopped.
fn suspended(registry: &Registry) -> Vec<Value> {
    let stopped = registry
        .partners()
        .filter(|r| !r.partner.is_closed())
        .filter_map(|r| Some((&r.partner.id, r.partner.suspension.as_ref()?)));
    stopped
        .map(|(id, s)| json!({"partner": id, "reason": s.reason, "author": s.author, "at": s.at.to_string()}))
        .collect()
}

/// Partners whose end is set and has not come.
fn ending(registry: &Registry) -> Vec<Value> {
    let set = registry.partners().filter_map(|r| Some((&r.partner.id, r.partner.offboarding.as_ref()?)));
    set.filter(|(_, o)| o.closed.is_none())
        .map(|(id, o)| json!({"partner": id, "reason": o.reason, "author": o.author, "ends": o.ends.to_string()}))
        .collect()
}

pub(super) async fn status(State(shared): State<Shared>) -> Response {
    let Some(live) = shared.publisher.live() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    };
    let publisher = shared.publisher.clone();
    // Every credential is looked at.
    let (of, now) = (live.clone(), publisher.now());
    let looked = async move {
        let suspended = (suspended(&of.snapshot.registry), ending(&of.snapshot.registry), publisher.reviews(now));
        let waiting = (publisher.waiting().await?, publisher.emergencies(now));
        let rotations = (publisher.rotations().await?, publisher.shared_keys().await?, publisher.ca_state().await?);
        Ok((publisher.expiring(now).await?, (publisher.outgoing().await?, rotations), suspended, waiting))
    };
    let (expiring, (outgoing, (rotations, keys, ca)), (suspended, ending, reviews), (waiting, emergencies)) =
        match looked_up(looked).await {
            Ok(found) => found,
            Err(answer) => return answer,
        };
    let outgoing: Vec<Value> = outgoing
        .iter()
        .map(|(one, open)| {
            json!({
                "anchor": one.anchor, "credentials": one.credentials, "last_used": one.last_used,
                "open_connections": open, "text": one.to_string(),
            })
        })
        .collect();
    let s = &live.snapshot;
    let anchors: Vec<Value> = s
        .trust
        .anchors()
        .iter()
        .map(|a| json!({"name": a.name, "subject": a.subject.to_string(), "not_after": a.not_after.to_string()}))
        .collect();
    let mut bundles: Vec<_> = s.material.bundles.iter().collect();
    bundles.sort_by_key(|(name, _)| *name);
    let bundles: Vec<Value> = bundles
        .into_iter()
        .map(|(name, bundle)| {
            json!({
                "anchor": name, "trust_domain": bundle.trust_domain, "sequence": bundle.sequence,
                "refresh_hint_s": bundle.refresh_hint.map(|hint| hint.as_secs()),
                "certificates": bundle.certificates.len(),
            })
        })
        .collect();
    let certificates: Vec<Value> =
        s.certificates.iter().map(|c| json!({"file": c.file, "not_after": c.facts.not_after.to_string()})).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "environment": s.environment,
        "snapshot": {
            "built": s.built.to_string(), "registry": s.revision.registry, "policy": &*s.revision.policy,
            "trust": s.revision.trust, "config": &*s.revision.config,
        },
        "last_reload": shared.publisher.failing().map_or_else(
            || json!({"ok": true}),
            |f| json!({"ok": false, "failing_since": f.at.to_string(), "stale": f.is_stale(), "problems": f.problems}),
        ),
        "partners": s.registry.partner_count(),
        "lockdowns": s.registry.lockdowns().map(|l| json!({
            "locked": l.locked.as_str(), "reason": l.reason, "author": l.author, "at": l.at.to_string(),
        })).collect::<Vec<_>>(),
        "database_ok": shared.publisher.metrics().database_ok.get() == 1,
        "unsaved_switches": shared.publisher.metrics().unsaved_switches.get(),
        "suspended": suspended,
        "offboarding": ending,
        "reviews_due": reviews.iter().map(|(record, due)| json!({
            "partner": record.partner.id, "owner": record.partner.owner, "due": due.to_string(),
        })).collect::<Vec<_>>(),
        "shared_keys": keys.iter().map(|(spki, ids)| json!({"spki_sha256": spki, "credentials": ids})).collect::<Vec<_>>(),
        "rotations": rotations.iter().map(|r| json!({
            "partner": r.partner, "credential": r.credential, "successor": r.successor, "since": r.since.to_string(),
            "until": r.until.to_string(), "successor_used": r.used.map(|at| at.to_string()), "stuck": r.stuck,
        })).collect::<Vec<_>>(),
        "emergencies": emergencies.iter().map(|(record, grant)| json!({
            "grant": grant.id, "partner": record.partner.id, "state": grant.state(now).as_str(),
            "ends": grant.period.ends.map(|t| t.to_string()),
            "emergency": grant.emergency.as_deref().map(emergency_document),
            "review_overdue": grant.emergency.as_deref().is_some_and(|e| now >= e.at.saturating_add(REVIEW_DUE)),
        })).collect::<Vec<_>>(),
        "approvals": waiting.iter().map(|a| json!({
            "id": a.id, "requester": a.requester, "requested": a.requested.to_string(), "lapses": a.lapses.to_string(),
            "parts": a.items.len(),
        })).collect::<Vec<_>>(),
        "ca": ca.as_ref().map(ca_document),
        "operations": s.operations.iter().map(|o| o.id.as_str()).collect::<Vec<_>>(),
        "anchors": anchors,
        "bundles": bundles,
        "certificates": certificates,
        "revocation_lists": shared.publisher.lists(),
        "expiring": expiring,
        "outgoing_anchors": outgoing,
    }))
    .into_response()
}
