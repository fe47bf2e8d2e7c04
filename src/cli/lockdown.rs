//! `lockdown`: nobody is served, or nobody under one anchor, until it is taken back.

use super::client::{Gateway, ask};
use super::edit::unsaved;
use super::{Exit, Form, Why, say};
use crate::admin::LockdownCall;
use http::Method;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Deny everything at once, and cut what is open.
    On(Switch),
    /// Take that back.
    Off(Switch),
}

#[derive(Debug, clap::Args)]
struct Switch {
    /// Only what comes under this trust anchor.
    #[arg(long)]
    anchor: Option<String>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    let (verb, Switch { anchor, why, form }) = match args.command {
        Command::On(switch) => ("on", switch),
        Command::Off(switch) => ("off", switch),
    };
    let whom = anchor.as_deref().map_or_else(|| "everybody".to_owned(), |a| format!("everybody under `{a}`"));
    let call = json!(LockdownCall { anchor, reason: why.reason, ticket: why.ticket });
    let answer = ask(gateway, Method::POST, &format!("/v1/lockdown/{verb}"), Some(&call)).await;
    form.show(answer, |answer| {
        let changed = answer.get("changed").and_then(Value::as_bool) == Some(true);
        let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or_default();
        let said = match (verb, changed) {
            ("on", true) => "is in force from now on",
            ("on", false) => "is in force already",
            (_, true) => "is over",
            (_, false) => "was not in force",
        };
        say(&format!("the lockdown of {whom} {said} (registry revision {revision})"));
        let left: Vec<&str> =
            answer.get("left").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        if verb == "off" && !left.is_empty() {
            say(&format!("still locked down: {}", left.join(", ").replace('*', "everybody")));
        }
        unsaved(answer);
    })
}
