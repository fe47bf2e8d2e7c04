//! `policy candidate`: what the candidate would change on live traffic, and putting it in the place of the configured policy.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::{ChangeRow, change_table, tell};
use crate::admin::PromoteCall;
use crate::cli::client::{Gateway, ask};
use crate::cli::edit::agrees;
use crate::cli::{Exit, Form, Why, complain};
use http::Method;
use serde_json::{Value, json};

const PATH: &str = "/v1/policy/candidate";
/// Digits of a revision that are shown.
const SHORT: usize = 12;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What the candidate would have decided otherwise, by partner, operation and reason, since it was loaded beside this policy.
    Status {
        #[command(flatten)]
        form: Form,
    },
    /// Let the candidate decide, at once. It does so until it is rolled back, or the configured policy changes: put it into
    /// `policy.dir`, and it stays.
    Promote(Promote),
    /// Let the configured policy decide again, at once.
    Rollback {
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, clap::Args)]
struct Promote {
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
    /// The candidate that was looked at, by its revision or the beginning of that: another one is not promoted. Without it, the one that is there now
    /// is shown before it is asked about.
    #[arg(long)]
    revision: Option<String>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    match args.command {
        Command::Status { form } => form.show(ask(gateway, Method::GET, PATH, None).await, show),
        Command::Promote(args) => promote(gateway, args).await,
        Command::Rollback { why, form } => {
            let answer = ask(gateway, Method::POST, &format!("{PATH}/rollback"), Some(&json!(why.call()))).await;
            form.show(answer, |state| tell(&format!("the configured policy {} decides again", short(&state["policy"]))))
        }
    }
}

async fn promote(gateway: &Gateway, args: Promote) -> Exit {
    let Promote { yes, revision, why, form } = args;
    let revision = match revision {
        Some(revision) => revision,
        None => {
            let state = match ask(gateway, Method::GET, PATH, None).await {
                Ok(state) => state,
                Err(exit) => return exit,
            };
            if !yes && !form.is_json() {
                show(&state);
            }
            match state["candidate"]["revision"].as_str() {
                Some(revision) => revision.to_owned(),
                None if state["candidate"].is_null() => {
                    complain("error: there is no candidate: name its folder in `policy.candidate.dir`");
                    return Exit::Problems;
                }
                None => {
                    complain("error: the candidate is not good: `partnergate policy candidate status` says why");
                    return Exit::Problems;
                }
            }
        }
    };
    if !yes && !gateway.dry_run && !agrees(&format!("Promote the candidate {}?", cut(&revision))) {
        return Exit::Problems;
    }
    let call = json!(PromoteCall { revision, reason: why.reason, ticket: why.ticket });
    let answer = ask(gateway, Method::POST, &format!("{PATH}/promote"), Some(&call)).await;
    form.show(answer, |state| {
        let over = short(&state["promotion"]["over"]);
        tell(&format!("the candidate {} decides in the place of {over}", short(&state["policy"])));
        tell("until it is rolled back (`partnergate policy candidate rollback`) or the configured policy changes");
    })
}

fn cut(revision: &str) -> &str {
    revision.get(..SHORT).unwrap_or(revision)
}

fn short(revision: &Value) -> &str {
    cut(revision.as_str().unwrap_or_default())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn row(row: &Value) -> ChangeRow<'_> {
    ChangeRow {
        change: text(&row["change"]),
        count: row["count"].as_u64().unwrap_or_default(),
        partner: text(&row["partner"]),
        operation: text(&row["operation"]),
        reason: text(&row["reason"]),
        example: text(&row["examples"][0]),
    }
}

fn show(state: &Value) {
    let promotion = &state["promotion"];
    tell(&format!("policy     {}", short(&state["policy"])));
    if promotion.is_object() {
        let (by, at, reason) = (text(&promotion["author"]), text(&promotion["at"]), text(&promotion["reason"]));
        tell(&format!("promoted   by {by} at {at} over {}: {reason}", short(&promotion["over"])));
    }
    let candidate = &state["candidate"];
    if candidate.is_null() {
        tell("candidate  none: name its folder in `policy.candidate.dir`");
        return;
    }
    let place = text(&candidate["place"]);
    if candidate["revision"].is_null() {
        tell(&format!("candidate  NOT GOOD, so that it is not evaluated ({place})"));
        for problem in candidate["problems"].as_array().into_iter().flatten() {
            text(problem).lines().for_each(|line| tell(&format!("           {line}")));
        }
        return;
    }
    tell(&format!("candidate  {}", short(&candidate["revision"])));
    tell(&format!("           {place}"));
    if candidate["decides"] == true {
        tell("           it is what decides: there is nothing to preview");
        return;
    }
    if candidate["masks_differ"] == true {
        tell("RECORDS    its rules of `package system.log` are others than those that mask records now");
    }
    let (sample, cpu) = (&candidate["sample_percent"], &candidate["cpu_percent"]);
    let since = candidate["since"].as_str().map_or_else(|| "no decision yet".to_owned(), |at| format!("since {at}"));
    tell(&format!("evaluated  on {sample} % of decisions, with {cpu} % of a processor, {since}"));
    let changes = candidate["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !changes.is_empty() {
        tell("");
        change_table(changes.iter().map(row).collect());
        tell("");
    }
    tell(&format!(
        "{} the same, {} newly denied, {} newly allowed, {} denied for another reason; {} not decided within the limits, {} \
         skipped",
        candidate["same"],
        candidate["newly_denied"],
        candidate["newly_allowed"],
        candidate["other_reason"],
        candidate["failed"],
        candidate["skipped"],
    ));
    if let Some(untold) = candidate["untold"].as_u64().filter(|untold| *untold > 0) {
        tell(&format!("{untold} more change in ways that are not listed"));
    }
}
