//! `history`: what was changed, by whom and why.

use super::client::Gateway;
use super::offline::{Wanted, look};
use super::{Exit, Output, complain, print, say};
use crate::admin::{HistoryAnswer, HistoryCall};
use crate::clock::UnixNanos;
use crate::document::parse_id;
use crate::history::{Event, Verb};
use crate::identity::Serial;
use crate::partner::Locked;
use crate::store::{CALL, differences};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Characters of one difference that people are shown.
const SHOWN: usize = 160;
/// The noun of a signing key.
const KEY: &str = "token_key";
/// The noun of an access token that was revoked.
const REVOKED: &str = "revoked_token";

#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    #[command(subcommand)]
    which: Which,
    /// For people or for programs: JSON is one event a line.
    #[arg(long, value_enum, default_value = "text", global = true)]
    output: Output,
    /// Read the database directly; refused while a gateway runs.
    #[arg(long, global = true)]
    offline: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Every change.
    All,
    /// Changes of one partner.
    Partner { id: String },
    /// Changes of one grant.
    Grant { id: String },
    /// Changes of one network.
    Network { name: String },
    /// Changes of one trust anchor.
    Anchor { name: String },
    /// Changes of one operator.
    Operator { name: String },
    /// What became of something that was asked for.
    Approval { id: String },
    /// What became of a certificate of the built-in CA.
    Certificate { serial: String },
    /// What became of an enrolment code; its id, which is the part behind `pge_`.
    Enrolment { id: String },
    /// The report of a partner that was offboarded.
    Report { partner: String },
    /// Lockdowns of one anchor, or of everything where none is named.
    Lockdown { anchor: Option<String> },
    /// Calls of operators that were refused, and those that have the files read again or order a list.
    Calls,
    /// Keys that the gateway signs with: made and withdrawn.
    Keys,
    /// Access tokens that their clients have revoked.
    Tokens,
}

pub(super) async fn history(gateway: &Gateway, args: &HistoryArgs) -> Exit {
    let serial = match &args.which {
        Which::Certificate { serial } => Serial::parse(serial).map_or(String::new(), |s| s.as_str().to_owned()),
        _ => String::new(),
    };
    let everything = Locked::Everybody.as_str().to_owned();
    let (noun, id) = match &args.which {
        Which::All => ("", None),
        Which::Calls => (CALL, None),
        Which::Keys => (KEY, None),
        Which::Tokens => (REVOKED, None),
        Which::Partner { id } => ("partner", Some(id)),
        Which::Grant { id } => ("grant", Some(id)),
        Which::Network { name } => ("network", Some(name)),
        Which::Anchor { name } => ("anchor", Some(name)),
        Which::Operator { name } => ("operator", Some(name)),
        Which::Approval { id } => ("approval", Some(id)),
        Which::Certificate { .. } => ("certificate", Some(&serial)),
        Which::Enrolment { id } => ("enrolment", Some(id)),
        Which::Report { partner } => ("report", Some(partner)),
        Which::Lockdown { anchor } => ("lockdown", Some(anchor.as_ref().unwrap_or(&everything))),
    };
    // What is no id would be no part of a call either.
    if let Some(Err(reason)) = id.filter(|id| **id != everything).map(|id| parse_id(id)) {
        complain(&format!("there is no such {noun}: {reason}"));
        return Exit::Problems;
    }
    let call = match (noun, id) {
        ("grant", id) => HistoryCall { grant: id.cloned(), ..HistoryCall::default() },
        (noun, Some(id)) => HistoryCall { noun: Some(noun.to_owned()), id: Some(id.clone()), ..HistoryCall::default() },
        (CALL | KEY | REVOKED, None) => HistoryCall { noun: Some(noun.to_owned()), ..HistoryCall::default() },
        (_, None) => HistoryCall::default(),
    };
    let mut shown = 0_usize;
    let outcome = each(gateway, args.offline, call, |text| {
        let event = parse(text)?;
        let of_grant = match &args.which {
            Which::Grant { id } if !changes_grant(&event, id) => return Ok(()),
            Which::Grant { id } => Some(id.as_str()),
            _ => None,
        };
        shown += 1;
        if args.output == Output::Json {
            print(text)
        } else {
            show(&event, of_grant)
        }
        Ok(())
    });
    if let Err(exit) = outcome.await {
        return exit;
    }
    if shown == 0 && args.output == Output::Text {
        say("no events");
    }
    Exit::Done
}

/// Gives the texts of events one after another, as many calls as that takes.
pub(super) async fn each(
    gateway: &Gateway,
    offline: bool,
    mut call: HistoryCall,
    mut take: impl FnMut(&str) -> Result<(), Exit>,
) -> Result<(), Exit> {
    loop {
        let mut target = format!("/v1/history?after={}", call.after);
        for (key, value) in [("noun", &call.noun), ("id", &call.id), ("grant", &call.grant)] {
            if let Some(value) = value {
                target.push_str(&format!("&{key}={value}"));
            }
        }
        let answer: HistoryAnswer = typed(look(gateway, offline, &target, Wanted::History(&call)).await?)?;
        for text in &answer.events {
            take(text)?;
        }
        match answer.events.last() {
            Some(last) if answer.more => call.after = parse(last)?.seq,
            _ => return Ok(()),
        }
    }
}

pub(super) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Exit> {
    serde_json::from_value(value).map_err(|e| {
        complain(&format!("the answer is not of the agreed form: {e}"));
        Exit::Failed
    })
}

pub(super) fn parse(text: &str) -> Result<Event, Exit> {
    serde_json::from_str(text).map_err(|e| {
        complain(&format!("an event cannot be read: {e}"));
        Exit::Failed
    })
}

/// A grant lies in its partner's document.
fn grant<'a>(document: Option<&'a Value>, id: &str) -> Option<&'a Value> {
    document?.get("grants")?.as_array()?.iter().find(|grant| grant.get("id").and_then(Value::as_str) == Some(id))
}

fn changes_grant(event: &Event, id: &str) -> bool {
    if matches!(event.verb, Verb::Start | Verb::End) {
        return event.after.as_ref().and_then(|after| after.get("grant")).and_then(Value::as_str) == Some(id);
    }
    grant(event.before.as_ref(), id) != grant(event.after.as_ref(), id)
}

fn show(event: &Event, of_grant: Option<&str>) {
    let Event { seq, time, cause, verb, noun, id, revision, .. } = event;
    say(&format!("#{seq} {time}  {} {noun} {id}  (registry revision {revision})", verb.as_str()));
    let way = serde_json::json!(cause.actor.way);
    let why = cause.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let ticket = cause.ticket.as_deref().map(|ticket| format!(" [{ticket}]")).unwrap_or_default();
    let shown = cause.actor.token.as_deref().map(|id| format!(", token {id}"));
    let shown = shown.or_else(|| cause.actor.certificate.as_deref().map(|hash| format!(", certificate {hash}")));
    let from = cause.actor.address.as_deref().map(|address| format!(" from {address}")).unwrap_or_default();
    say(&format!(
        "    by {} ({}{}{from}){ticket}{why}",
        cause.actor.name,
        way.as_str().unwrap_or_default(),
        shown.unwrap_or_default()
    ));
    if let Some(approval) = &cause.approval {
        say(&format!("    approval {approval}"));
    }
    if cause.four_eyes.is_some() {
        say("    four eyes: off");
    }
    if let (Verb::Order | Verb::Call, Some(Value::Object(what))) = (event.verb, &event.after) {
        for (key, value) in what {
            match value {
                Value::String(text) => say(&format!("    {key} {text}")),
                Value::Array(lines) => {
                    lines.iter().for_each(|l| say(&format!("    {}", l.as_str().unwrap_or_default())))
                }
                other => say(&format!("    {key} {other}")),
            }
        }
        return;
    }
    if let (Verb::Start | Verb::End, Some(Value::Object(what))) = (event.verb, &event.after) {
        let verb = if event.verb == Verb::Start { "has begun" } else { "has ended" };
        let at = what.get("at").and_then(Value::as_str).unwrap_or_default();
        for (noun, id) in what.iter().filter(|(key, _)| *key != "at") {
            say(&format!("    {noun} {} {verb} at {at}", id.as_str().unwrap_or_default()));
        }
        return;
    }
    let (before, after) = match of_grant {
        Some(id) => (grant(event.before.as_ref(), id), grant(event.after.as_ref(), id)),
        None => (event.before.as_ref(), event.after.as_ref()),
    };
    match (before, after, of_grant) {
        (Some(before), Some(after), _) => {
            for line in differences(&readable(before), &readable(after)) {
                let short: String = line.chars().take(SHOWN).collect();
                let more = if short.len() < line.len() { "…" } else { "" };
                say(&format!("    {short}{more}"));
            }
        }
        (None, Some(made), None) if noun == "promotion" => {
            let text = |key: &str| made.get(key).and_then(Value::as_str).unwrap_or_default();
            say(&format!("    policy {} in the place of {}", text("revision"), text("over")));
        }
        (None, Some(made), None) if noun == KEY => {
            let text = |key: &str| made.get(key).and_then(Value::as_str).unwrap_or_default();
            say(&format!("    signs with {} from {}", text("algorithm"), text("signs_from")));
        }
        (None, Some(revoked), None) if noun == REVOKED => {
            let partner = revoked.get("partner").and_then(Value::as_str).unwrap_or_default();
            say(&format!("    an access token of {partner}"));
        }
        (None, Some(_), Some(id)) => say(&format!("    grant {id} was made")),
        (Some(_), None, Some(id)) => say(&format!("    grant {id} was removed")),
        _ => {}
    }
}

/// A stored noun for people: what has an id by its id, and times as such.
fn readable(document: &Value) -> Value {
    match document {
        Value::Object(table) => table.iter().map(|(key, value)| (key.clone(), readable_as(key, value))).collect(),
        Value::Array(list) => {
            let id = |item: &Value| item.get("id").and_then(Value::as_str).map(str::to_owned);
            match list.iter().map(id).collect::<Option<Vec<String>>>() {
                Some(ids) if !ids.is_empty() => {
                    ids.into_iter().zip(list).map(|(id, item)| (id, readable(item))).collect::<Map<_, _>>().into()
                }
                _ => list.iter().map(readable).collect(),
            }
        }
        other => other.clone(),
    }
}

fn readable_as(key: &str, value: &Value) -> Value {
    const TIMES: [&str; 8] = ["starts", "ends", "at", "since", "closed", "created", "expires", "requested"];
    match value.as_i64() {
        Some(nanos) if TIMES.contains(&key) => UnixNanos(nanos).to_string().into(),
        _ => readable(value),
    }
}
