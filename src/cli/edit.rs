//! What commands that change one partner have in common: keys of a registry file, why, and how the outcome is shown.

use super::apply::show;
use super::client::{Gateway, ask};
use super::{Because, Exit, Form, complain, say};
use crate::admin::{Direction, EditCall};
use crate::document::{parse_id, parse_time, plain};
use crate::store::PlanLine;
use http::Method;
use serde_json::{Map, Value, json};
use std::io::{BufRead, IsTerminal, Write};

/// Why, and how it is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Asking {
    #[command(flatten)]
    pub because: Because,
    #[command(flatten)]
    pub form: Form,
}

/// Whether to do what cannot be undone without asking.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Sure {
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
}

impl Sure {
    /// # Errors
    /// Who was asked does not want it, or nobody can be asked.
    pub(super) fn of(self, gateway: &Gateway, what: &str) -> Result<(), Exit> {
        if self.yes || gateway.dry_run || agrees(&format!("{what} This cannot be undone. Do it?")) {
            Ok(())
        } else {
            Err(Exit::Problems)
        }
    }
}

/// Asks whoever sits there.
pub(super) fn agrees(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        complain("nothing was changed: say --yes where nobody can be asked");
        return false;
    }
    let _ = write!(std::io::stderr(), "{} [y/N] ", plain(question, &[]));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Sends what is to be set, and shows what it comes to.
pub(super) async fn edit(
    gateway: &Gateway,
    method: Method,
    path: &str,
    set: Map<String, Value>,
    end: Option<Direction>,
    asking: Asking,
) -> Exit {
    let Asking { because: Because { reason, ticket }, form } = asking;
    let call = json!(EditCall { set, end, dry_run: false, reason, ticket });
    form.show(ask(gateway, method, path, Some(&call)).await, planned)
}

/// What a change comes to, line by line, and what of it is live and waits.
pub(super) fn planned(answer: &Value) {
    let lines = answer.get("lines").cloned().unwrap_or_default();
    let lines: Vec<PlanLine> = serde_json::from_value(lines).unwrap_or_default();
    if lines.is_empty() {
        say("nothing to change");
    }
    show(&lines);
    outcome(answer);
}

/// What is live and what waits.
pub(super) fn outcome(applied: &Value) {
    if applied.get("changed").and_then(Value::as_bool) == Some(true) {
        let revision = applied.get("revision").and_then(Value::as_u64).unwrap_or_default();
        say(&format!("applied; registry revision {revision}"));
    }
    if let Some(id) = applied.get("approval").and_then(Value::as_str) {
        say(&format!(
            "{id} waits for another operator: `partnergate approval show {id}`, then `partnergate approval approve {id}`"
        ));
    }
}

/// Says that a switch is live and not in the database.
pub(super) fn unsaved(answer: &Value) {
    if answer.get("saved").and_then(Value::as_bool) == Some(false) {
        say(if answer.get("kept").and_then(Value::as_bool) == Some(true) {
            "NOT IN THE DATABASE YET, which fails: it is live all the same, kept in `switches.json`, and tried again"
        } else {
            "NOT IN THE DATABASE YET, which fails, AND IN NO FILE: it is live, and a restart would forget it; look at the \
             state folder"
        });
    }
}

/// A part of a path: what is no id would be no path of a call either.
pub(super) fn id<'a>(noun: &str, text: &'a str) -> Result<&'a str, Exit> {
    parse_id(text).map_err(|reason| {
        complain(&format!("{noun}: {reason}"));
        Exit::Problems
    })
}

/// Puts what was said into a table; what was not said is not in it.
pub(super) fn put(set: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        set.insert(key.to_owned(), value.into());
    }
}

/// A list, where something was said.
pub(super) fn put_list(set: &mut Map<String, Value>, key: &str, values: Vec<String>) {
    put(set, key, (!values.is_empty()).then_some(values));
}

/// `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write KEY=VALUE".to_owned())
}

/// A time as registry files have it.
pub(super) fn time(text: &str) -> Result<String, String> {
    parse_time(text).map(|_| text.to_owned())
}
