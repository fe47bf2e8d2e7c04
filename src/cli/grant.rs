//! `grant`: what partners may call; asked for, approved, extended, ended.

use super::approval::Verdict;
use super::client::{Gateway, ask};
use super::edit::{self, Asking, Sure, id, pair, put, put_list, time, unsaved};
use super::{Exit, Form, Why, complain, say};
use crate::admin::{ApprovalAnswer, Direction, EmergencyCall, GrantRow, VerdictCall};
use crate::document::parse_duration;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All grants in a table, those that wait for approval among them.
    List {
        /// Of this partner alone.
        #[arg(long)]
        partner: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Ask for a grant. Another operator approves it.
    Request(Request),
    /// Ask for a later end. Each extension is approved anew.
    Extend {
        id: String,
        /// The end, exclusive: 2027-01-01T00:00:00+01:00.
        #[arg(long, value_name = "TIME", value_parser = time)]
        ends: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Let a grant end sooner, at once.
    Shorten {
        id: String,
        /// The end, exclusive: 2027-01-01T00:00:00+01:00.
        #[arg(long, value_name = "TIME", value_parser = time)]
        ends: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Approve a grant that somebody else has asked for.
    Approve(Verdict),
    /// Refuse it.
    Reject(Verdict),
    /// End a grant at once and for good, on what is open too.
    Revoke {
        #[command(flatten)]
        named: Named,
        #[command(flatten)]
        sure: Sure,
    },
    /// Make a grant alone, in an incident: for 4 hours at most, never extended, and reviewed by another operator within
    /// 3 days.
    Emergency(Emergency),
    /// Say what you have found about an emergency grant that another operator has made.
    Review(Named),
}

#[derive(Debug, clap::Args)]
struct Request {
    partner: String,
    /// The new grant's.
    id: String,
    /// Operation id, `prefix.*` or `tag:name`; several times for several.
    #[arg(long = "operation", required = true, value_name = "OPERATION")]
    operations: Vec<String>,
    /// Who answers for it on our side.
    #[arg(long)]
    owner: String,
    /// The end, exclusive: 2027-01-01T00:00:00+01:00.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ends: String,
    /// First instant; at once when absent.
    #[arg(long, value_name = "TIME", value_parser = time)]
    starts: Option<String>,
    /// Only from this network of the partner; several times for several.
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,
    /// Only with this credential of the partner; several times for several.
    #[arg(long = "credential", value_name = "ID")]
    credentials: Vec<String>,
    /// A condition for policy: KEY=JSON.
    #[arg(long = "condition", value_name = "KEY=JSON", value_parser = pair)]
    conditions: Vec<(String, String)>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
struct Emergency {
    partner: String,
    /// The new grant's.
    id: String,
    /// Operation id, `prefix.*` or `tag:name`; several times for several.
    #[arg(long = "operation", required = true, value_name = "OPERATION")]
    operations: Vec<String>,
    /// How long: 30m, 4h.
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    length: Duration,
    /// Only from this network of the partner; several times for several.
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,
    /// Only with this credential of the partner; several times for several.
    #[arg(long = "credential", value_name = "ID")]
    credentials: Vec<String>,
    /// Why; who reviews it reads it.
    #[arg(long)]
    reason: String,
    /// The incident.
    #[arg(long)]
    ticket: String,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Named {
    id: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

fn length(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    let outcome = match args.command {
        Command::List { partner, form } => list(gateway, partner.as_deref(), form).await,
        Command::Request(request) => ask_for(gateway, request).await,
        Command::Extend { id, ends, asking } => move_end(gateway, &id, ends, Direction::Later, asking).await,
        Command::Shorten { id, ends, asking } => move_end(gateway, &id, ends, Direction::Earlier, asking).await,
        Command::Approve(verdict) => decide(gateway, verdict, "approve").await,
        Command::Reject(verdict) => decide(gateway, verdict, "reject").await,
        Command::Revoke { named, sure } => match sure.of(gateway, &format!("`{}` is revoked.", named.id)) {
            Ok(()) => end(gateway, named, "revoke").await,
            Err(exit) => Err(exit),
        },
        Command::Review(named) => end(gateway, named, "review").await,
        Command::Emergency(emergency) => alone(gateway, emergency).await,
    };
    outcome.unwrap_or_else(|exit| exit)
}

async fn move_end(
    gateway: &Gateway,
    grant: &str,
    ends: String,
    direction: Direction,
    asking: Asking,
) -> Result<Exit, Exit> {
    let path = format!("/v1/grants/{}", id("grant", grant)?);
    let mut set = Map::new();
    put(&mut set, "ends", Some(ends));
    Ok(edit::edit(gateway, Method::PATCH, &path, set, Some(direction), asking).await)
}

async fn ask_for(gateway: &Gateway, request: Request) -> Result<Exit, Exit> {
    let path = format!("/v1/partners/{}/grants/{}", id("partner", &request.partner)?, id("grant", &request.id)?);
    let mut conditions = Map::new();
    for (key, text) in request.conditions {
        let value: Value = serde_json::from_str(&text).map_err(|e| {
            complain(&format!("--condition {key}: is no JSON ({e}); texts are in quotes"));
            Exit::Problems
        })?;
        conditions.insert(key, value);
    }
    let mut set = Map::new();
    put_list(&mut set, "operations", request.operations);
    put(&mut set, "owner", Some(request.owner));
    put(&mut set, "starts", request.starts);
    put(&mut set, "ends", Some(request.ends));
    put_list(&mut set, "networks", request.networks);
    put_list(&mut set, "credentials", request.credentials);
    put(&mut set, "conditions", (!conditions.is_empty()).then_some(conditions));
    Ok(edit::edit(gateway, Method::PUT, &path, set, None, request.asking).await)
}

async fn alone(gateway: &Gateway, emergency: Emergency) -> Result<Exit, Exit> {
    let Emergency { partner, id: grant, operations, length, networks, credentials, reason, ticket, form } = emergency;
    let path = format!("/v1/partners/{}/grants/{}/emergency", id("partner", &partner)?, id("grant", &grant)?);
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let call = EmergencyCall {
        operations,
        networks: some(networks),
        credentials: some(credentials),
        for_s: length.as_secs(),
        reason,
        ticket,
    };
    Ok(form.show(ask(gateway, Method::POST, &path, Some(&json!(call))).await, |answer| {
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        say(&format!("`{}` is live until {}; another operator reviews it within 3 days", text("grant"), text("ends")));
    }))
}

async fn end(gateway: &Gateway, named: Named, verb: &str) -> Result<Exit, Exit> {
    let Named { id: grant, why, form } = named;
    let grant = id("grant", &grant)?;
    let call = json!(why.call());
    let answer = ask(gateway, Method::POST, &format!("/v1/grants/{grant}/{verb}"), Some(&call)).await;
    Ok(form.show(answer, |answer| {
        let changed = answer.get("changed").and_then(Value::as_bool) == Some(true);
        let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or_default();
        let said = match (verb, changed) {
            ("revoke", true) => "is revoked from now on",
            ("revoke", false) => "is revoked already",
            (_, true) => "is reviewed",
            (_, false) => "is reviewed already",
        };
        say(&format!("`{grant}` {said} (registry revision {revision})"));
        unsaved(answer);
    }))
}

/// What waits as an approval of its own is decided by the grant's id.
async fn decide(gateway: &Gateway, verdict: Verdict, verb: &str) -> Result<Exit, Exit> {
    let grant = id("grant", &verdict.id)?;
    let answer = ask(gateway, Method::GET, "/v1/approvals", None).await?;
    let approvals = answer.get("approvals").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let approvals = approvals.iter().filter_map(|value| ApprovalAnswer::deserialize(value).ok());
    let has_it = |a: &ApprovalAnswer| a.parts.iter().any(|part| part.noun == "grant" && part.id == grant);
    let waiting: Vec<ApprovalAnswer> = approvals.filter(has_it).collect();
    let wrong = |reason: String| {
        complain(&reason);
        Exit::Problems
    };
    let approval = match waiting.as_slice() {
        [] => return Err(wrong(format!("nothing waits for the grant `{grant}`"))),
        [one] if one.parts.len() == 1 => one,
        [one] => {
            let parts = one.parts.len();
            return Err(wrong(format!(
                "`{grant}` is one of {parts} parts of {0}: look at all of it with `partnergate approval show {0}`, and \
                 {verb} that",
                one.id
            )));
        }
        several => {
            let ids: Vec<&str> = several.iter().map(|a| a.id.as_str()).collect();
            return Err(wrong(format!("more than one thing waits for `{grant}`: {}", ids.join(", "))));
        }
    };
    let call = json!(VerdictCall { reason: verdict.because.reason, ticket: verdict.because.ticket });
    let answer = ask(gateway, Method::POST, &format!("/v1/approvals/{}/{verb}", approval.id), Some(&call)).await;
    Ok(verdict.form.show(answer, |answer| {
        let state = answer.pointer("/approval/state").and_then(Value::as_str).unwrap_or_default();
        let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or_default();
        say(&format!("`{grant}` is {state} as {} (registry revision {revision})", approval.id));
    }))
}

async fn list(gateway: &Gateway, partner: Option<&str>, form: Form) -> Result<Exit, Exit> {
    let path = match partner {
        Some(partner) => format!("/v1/grants?partner={}", id("partner", partner)?),
        None => "/v1/grants".to_owned(),
    };
    Ok(form.show(ask(gateway, Method::GET, &path, None).await, |answer| {
        let row = |[id, partner, state, ends, approver, operations]: [&str; 6]| {
            say(format!("{id:<24} {partner:<16} {state:<10} {ends:<26} {approver:<16} {operations}").trim_end());
        };
        row(["ID", "PARTNER", "STATE", "ENDS (UTC)", "APPROVED BY", "OPERATIONS"]);
        for value in answer.get("grants").and_then(Value::as_array).into_iter().flatten() {
            let Ok(grant) = GrantRow::deserialize(value) else { continue };
            let ends = grant.ends.as_deref().unwrap_or("open");
            let approver = match (&grant.approver, &grant.requester, &grant.approval) {
                _ if grant.emergency.is_some() => "EMERGENCY".to_owned(),
                (Some(approver), ..) => approver.clone(),
                (None, Some(requester), Some(id)) => format!("{requester} asks: {id}"),
                _ => String::new(),
            };
            row([&grant.id, &grant.partner, &grant.state, ends, &approver, &grant.operations.join(", ")]);
        }
    }))
}
