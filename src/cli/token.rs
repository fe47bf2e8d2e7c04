//! `token`: the keys that the gateway signs with.

use super::client::{Gateway, ask};
use super::edit::agrees;
use super::{Exit, Form, Why, complain, say};
use crate::admin::NextKeyCall;
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/v1/token/keys";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The keys: which signs, which is next, and which still verify.
    Keys {
        #[command(flatten)]
        form: Form,
    },
    /// Make the next key before its time. It signs once others had `tokens.tell_ahead` to learn of it.
    RotateKey {
        /// It signs now. Who keeps the set of keys for long does not know it yet.
        #[arg(long)]
        at_once: bool,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
    /// Take a key out of the set for good: nothing that it has signed is to be believed. Where it is the one that signs, a new
    /// one does from now on.
    WithdrawKey {
        /// Its `kid`.
        id: String,
        /// Do it without asking.
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    match args.command {
        Command::Keys { form } => form.show(ask(gateway, Method::GET, PATH, None).await, show),
        Command::RotateKey { at_once, why, form } => {
            let call = json!(NextKeyCall { at_once, reason: why.reason, ticket: why.ticket });
            form.show(ask(gateway, Method::POST, PATH, Some(&call)).await, show)
        }
        Command::WithdrawKey { id, yes, why, form } => {
            let question = format!("Withdraw the key {id}? What it has signed is good for nothing then.");
            if !yes && !gateway.dry_run && !agrees(&question) {
                return Exit::Problems;
            }
            if !id.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
                complain(&format!("error: `{}` is no `kid`: `partnergate token keys` shows them", id.escape_debug()));
                return Exit::Problems;
            }
            let path = format!("{PATH}/{id}/withdraw");
            form.show(ask(gateway, Method::POST, &path, Some(&json!(why.call()))).await, show)
        }
    }
}

fn show(state: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    say(&format!("{:<45}{:<11}{:<11}{:<32}{}", "KEY", "ALGORITHM", "STATE", "SIGNS FROM", "UNTIL"));
    for key in state["keys"].as_array().into_iter().flatten() {
        let until = text(&key["signs_until"]);
        let (id, algorithm, state, from) =
            (text(&key["id"]), text(&key["algorithm"]), text(&key["state"]), text(&key["signs_from"]));
        say(&format!("{id:<45}{algorithm:<11}{state:<11}{from:<32}{until}"));
        if let Some(why) = key["withdrawn"].as_str() {
            say(&format!("{:<45}withdrawn: {why}", ""));
        }
    }
}
