//! `approval`: what waits for a second pair of eyes, and what operators make of it.

use super::client::{Gateway, ask};
use super::{Because, Exit, Form, complain, say};
use crate::admin::{ApprovalAnswer, VerdictCall};
use crate::name::ApprovalId;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What waits for approval.
    List {
        /// Also what was decided or has lapsed.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        form: Form,
    },
    /// All of one: who asks and why, what it would permit, each part as it is to be.
    Show {
        id: String,
        #[command(flatten)]
        form: Form,
    },
    /// Approve what somebody else has asked for. It is live at once.
    Approve(Verdict),
    /// Refuse it.
    Reject(Verdict),
    /// Take back what you have asked for yourself.
    Withdraw(Verdict),
}

#[derive(Debug, clap::Args)]
pub(super) struct Verdict {
    pub id: String,
    #[command(flatten)]
    pub because: Because,
    #[command(flatten)]
    pub form: Form,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    match args.command {
        Command::List { all, form } => {
            let path = format!("/v1/approvals?all={all}");
            form.show(ask(gateway, Method::GET, &path, None).await, list)
        }
        Command::Show { id, form } => match path_of(&id) {
            Ok(path) => form.show(ask(gateway, Method::GET, &path, None).await, |value| one(value, show)),
            Err(exit) => exit,
        },
        Command::Approve(verdict) => decide(gateway, verdict, "approve").await,
        Command::Reject(verdict) => decide(gateway, verdict, "reject").await,
        Command::Withdraw(verdict) => decide(gateway, verdict, "withdraw").await,
    }
}

/// What is no id would be no path of a call either.
fn path_of(id: &str) -> Result<String, Exit> {
    match ApprovalId::parse(id) {
        Ok(id) => Ok(format!("/v1/approvals/{id}")),
        Err(reason) => {
            complain(&format!("there is no such approval: {reason}"));
            Err(Exit::Problems)
        }
    }
}

async fn decide(gateway: &Gateway, verdict: Verdict, verb: &str) -> Exit {
    let Verdict { id, because: Because { reason, ticket }, form } = verdict;
    let path = match path_of(&id) {
        Ok(path) => path,
        Err(exit) => return exit,
    };
    let call = json!(VerdictCall { reason, ticket });
    let answer = ask(gateway, Method::POST, &format!("{path}/{verb}"), Some(&call)).await;
    form.show(answer, |value| {
        let state = value.pointer("/approval/state").and_then(Value::as_str).unwrap_or_default();
        let revision = value.get("revision").and_then(Value::as_u64).unwrap_or_default();
        say(&format!("`{id}` is {state} (registry revision {revision})"));
    })
}

fn one(value: &Value, show: fn(&ApprovalAnswer)) {
    if let Ok(approval) = ApprovalAnswer::deserialize(value) {
        show(&approval);
    }
}

fn list(value: &Value) {
    let approvals = value.get("approvals").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if approvals.is_empty() {
        say("nothing waits");
    }
    for value in approvals {
        one(value, |a| {
            let ticket = a.ticket.as_deref().map(|ticket| format!(" [{ticket}]")).unwrap_or_default();
            let why = a.justification.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            say(&format!("{}  {}  asked for by {} at {}{ticket}{why}", a.id, a.state, a.requester, a.requested));
            parts(a);
        });
    }
}

fn parts(approval: &ApprovalAnswer) {
    for part in &approval.parts {
        let of = part.partner.as_deref().filter(|partner| *partner != part.id);
        let of = of.map(|partner| format!(" of {partner}")).unwrap_or_default();
        let widens = match (part.widens.as_slice(), approval.state.as_str()) {
            ([], "requested") => ": goes with the rest".to_owned(),
            ([], _) => String::new(),
            (widens, _) => format!(": {}", widens.join("; ")),
        };
        say(&format!("    {} {}{of}{widens}", part.noun, part.id));
    }
}

fn show(approval: &ApprovalAnswer) {
    say(&format!("{}  {}", approval.id, approval.state));
    let ticket = approval.ticket.as_deref().map(|ticket| format!(" [{ticket}]")).unwrap_or_default();
    say(&format!("  asked for by {} at {}{ticket}", approval.requester, approval.requested));
    if let Some(why) = &approval.justification {
        say(&format!("  because      {why}"));
    }
    match (&approval.author, &approval.decided) {
        (Some(author), Some(at)) => {
            let why = approval.reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            say(&format!("  {:<12} by {author} at {at}{why}", approval.state));
        }
        _ => say(&format!("  lapses       {}", approval.lapses)),
    }
    parts(approval);
    for part in &approval.parts {
        say("");
        say(&format!("{} {}, as it is to be:", part.noun, part.id));
        let text = part.after.as_ref().map_or_else(|| "gone".to_owned(), pretty);
        text.lines().for_each(|line| say(&format!("    {line}")));
        if !part.covers.is_empty() {
            say(&format!("    covers {}", part.covers.join(", ")));
        }
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}
