//! `status`, `reload`: what the running gateway decides on, and that it is to read its files again.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{Gateway, ask};
use super::{Exit, Form, complain, say};
use http::Method;
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(gateway: &Gateway, args: &Args) -> Exit {
    args.form.show(ask(gateway, Method::GET, "/v1/status", None).await, show)
}

/// The bundle that the policy comes in, where it does.
fn policy_bundle(bundle: &Value, since: &str) {
    let Some(source) = bundle["source"].as_str() else { return };
    let by = bundle["signed_by"]["key_id"].as_str();
    let by = by.map_or_else(|| "not signed".to_owned(), |id| format!("signed by {id}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say(&format!("               of the bundle `{}`, {by}, since {since} ({source})", text(&bundle["revision"])));
    if let Some(error) = bundle["error"].as_str() {
        let stale = if bundle["stale"] == true { ", STALE" } else { "" };
        say(&format!("  BUNDLE       not taken since {}{stale}: {error}", text(&bundle["failing_since"])));
    }
}

fn show(value: &Value) {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let snapshot = &value["snapshot"];
    say(&format!("partnergate {} in {}", text(&value["version"]), text(&value["environment"])));
    say(&format!("  snapshot     built {}", text(&snapshot["built"])));
    say(&format!("  registry     revision {}, {} partners", snapshot["registry"], value["partners"]));
    say(&format!("  policy       {}", text(&snapshot["policy"])));
    policy_bundle(&value["policy_bundle"], &text(&snapshot["policy_since"]));
    let promoted = &value["policy_promotion"];
    if promoted.is_object() {
        let (author, at, reason) = (text(&promoted["author"]), text(&promoted["at"]), text(&promoted["reason"]));
        say(&format!(
            "  PROMOTED     it is the candidate, by {author} since {at}, over {}: {reason}",
            text(&promoted["over"])
        ));
    }
    say(&format!("  config       {}", text(&snapshot["config"])));
    say(&format!("  trust        generation {}", snapshot["trust"]));
    if value["last_reload"]["ok"].as_bool() == Some(false) {
        let failing = &value["last_reload"];
        say(&format!(
            "  reload       FAILS since {}; the last good state is served. The files say:",
            text(&failing["failing_since"])
        ));
        for problem in failing["problems"].as_array().into_iter().flatten() {
            text(problem).lines().for_each(|line| say(&format!("               {line}")));
        }
    }
    for l in value["lockdowns"].as_array().into_iter().flatten() {
        let whom = match l["locked"].as_str() {
            Some("*") | None => "everybody".to_owned(),
            Some(anchor) => format!("everybody under {anchor}"),
        };
        let (author, reason) = (text(&l["author"]), text(&l["reason"]));
        say(&format!("  LOCKDOWN     of {whom} by {author} since {}: {reason}", text(&l["at"])));
    }
    if value["database_ok"] == false {
        say("  DATABASE     cannot be used: nothing is changed but by switches; the log says why");
    }
    if value["unsaved_switches"].as_i64().is_some_and(|n| n > 0) {
        let n = &value["unsaved_switches"];
        say(&format!("  UNSAVED      {n} switches are live and not in the database; do not remove switches.json"));
    }
    if let Some(n) = value["mask_failures"].as_u64().filter(|n| *n > 0) {
        say(&format!(
            "  MASKS FAIL   {n} records since the start have no facts: rules of `package system.log`; the log says why"
        ));
    }
    for s in value["suspended"].as_array().into_iter().flatten() {
        let (id, author, reason) = (text(&s["partner"]), text(&s["author"]), text(&s["reason"]));
        say(&format!("  suspended    {id} by {author} since {}: {reason}", text(&s["at"])));
    }
    for o in value["offboarding"].as_array().into_iter().flatten() {
        let (id, author, reason) = (text(&o["partner"]), text(&o["author"]), text(&o["reason"]));
        say(&format!("  offboarding  {id} by {author} ends at {}: {reason}", text(&o["ends"])));
    }
    for o in value["observed"].as_array().into_iter().flatten() {
        let (id, reason) = (text(&o["partner"]), text(&o["reason"]));
        say(&format!("  observed     {reason} does not count for {id} until {}", text(&o["until"])));
    }
    for r in value["reviews_due"].as_array().into_iter().flatten() {
        let (id, owner, due) = (text(&r["partner"]), text(&r["owner"]), text(&r["due"]));
        say(&format!("  REVIEW DUE   of {id} (owner {owner}) since {due}: `partnergate partner review {id}`"));
    }
    for k in value["shared_keys"].as_array().into_iter().flatten() {
        let ids: Vec<String> = k["credentials"].as_array().into_iter().flatten().map(text).collect();
        say(&format!("  SHARED KEY   of {}: SHA-256 {}", ids.join(", "), text(&k["spki_sha256"])));
    }
    for r in value["rotations"].as_array().into_iter().flatten() {
        let (id, successor, partner) = (text(&r["credential"]), text(&r["successor"]), text(&r["partner"]));
        match r["stuck"].as_str() {
            Some(why) => say(&format!("  STUCK        {successor} is to succeed {id} of {partner}: {why}")),
            None => say(&format!("  rotation     {successor} succeeds {id} of {partner}, until {}", text(&r["until"]))),
        }
    }
    for a in value["approvals"].as_array().into_iter().flatten() {
        let (id, requester) = (text(&a["id"]), text(&a["requester"]));
        say(&format!("  approval     {id} of {requester} waits since {}: {} parts", text(&a["requested"]), a["parts"]));
    }
    for e in value["emergencies"].as_array().into_iter().flatten() {
        let (made, id) = (&e["emergency"], text(&e["grant"]));
        let review = match (e["review_overdue"].as_bool(), made["reviewed"].is_object()) {
            (_, true) => "reviewed",
            (Some(true), false) => "REVIEW OVERDUE",
            _ => "to be reviewed",
        };
        let (author, ticket, reason) = (text(&made["author"]), text(&made["ticket"]), text(&made["reason"]));
        let (state, ends) = (text(&e["state"]), text(&e["ends"]));
        say(&format!("  emergency    {id} of {} by {author} [{ticket}]: {reason}", text(&e["partner"])));
        say(&format!("               {state}, ends {ends}; {review}"));
    }
    for a in value["anchors"].as_array().into_iter().flatten() {
        say(&format!("  anchor       {} until {}", text(&a["name"]), text(&a["not_after"])));
    }
    for b in value["bundles"].as_array().into_iter().flatten() {
        let sequence = b["sequence"].as_u64().map_or_else(|| "no sequence".into(), |s| format!("sequence {s}"));
        let (name, domain) = (text(&b["anchor"]), text(&b["trust_domain"]));
        say(&format!("  bundle       {name} of {domain}, {sequence}, {} certificates", b["certificates"]));
    }
    let ca = &value["ca"];
    if let Some(anchor) = ca["anchor"].as_str() {
        let key = if ca["key_is_here"] == true { "" } else { ", its key on another host" };
        say(&format!("  ca           {anchor} until {}{key}", text(&ca["not_after"])));
    }
    if let Some(fault) = ca["fault"].as_str() {
        say(&format!("  CA NOT USED  {fault}"));
    }
    if ca["list_is_due"] == true {
        let lacks = ca["list"]["lacks"].as_u64();
        let lacks = lacks.map_or_else(|| "there is none".to_owned(), |n| format!("it lacks {n} certificates"));
        say(&format!("  LIST DUE     the revocation list of the CA is to be signed: {lacks}; `partnergate ca order`"));
    }
    for c in value["certificates"].as_array().into_iter().flatten() {
        say(&format!("  certificate  {} until {}", text(&c["file"]), text(&c["not_after"])));
    }
    for list in value["revocation_lists"].as_array().into_iter().flatten() {
        let (anchor, source) = (text(&list["anchor"]), text(&list["source"]));
        match list["error"].as_str() {
            Some(error) => say(&format!("  list         of {anchor} fails: {source}: {error}")),
            None => say(&format!("  list         of {anchor} until {} ({source})", text(&list["next_update"]))),
        }
    }
    for o in value["outgoing_anchors"].as_array().into_iter().flatten() {
        let open = &o["open_connections"];
        let then = match open.as_u64() {
            Some(0) => "nothing is open under it".to_owned(),
            _ => format!("{open} connections are open under it"),
        };
        say(&format!("  rotation     {}; {then}", text(&o["text"])));
    }
    for e in value["expiring"].as_array().into_iter().flatten() {
        let of = e["partner"].as_str().map(|p| format!(" of {p}")).unwrap_or_default();
        let successor = match (&e["successor"], e["successor"]["registered"].as_str()) {
            (_, Some(name)) => format!("{name} succeeds it"),
            (Value::String(s), _) if s == "missing" => "no successor".to_owned(),
            _ => "a renewed one is recognised".to_owned(),
        };
        let (kind, name) = (text(&e["kind"]), text(&e["name"]));
        say(&format!("  ends soon    {kind} {name}{of} at {}: {successor}", text(&e["ends"])));
    }
}

pub(super) async fn reload(gateway: &Gateway, form: Form) -> Exit {
    let answer = ask(gateway, Method::POST, "/v1/reload", None).await;
    let kept = answer.as_ref().is_ok_and(|value| value["policy_bundle"]["error"].is_string());
    let exit = form.show(answer, |value| {
        say("reloaded");
        for key in value["needs_restart"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            complain(&format!("`{key}` has changed and takes effect at the next start"));
        }
        let bundle = &value["policy_bundle"];
        if let Some(error) = bundle["error"].as_str() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            complain(&format!(
                "error: the policy bundle is not taken ({}): {error}\nthe last good policy decides: {}, of the bundle `{}`",
                text(&bundle["source"]),
                text(&value["policy"]),
                text(&bundle["revision"]),
            ));
        }
    });
    if kept { Exit::Problems } else { exit }
}
