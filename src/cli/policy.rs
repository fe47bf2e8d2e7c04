//! `partnergate policy …`: what a security team does with the policy folder by itself, and with the candidate of a gateway.

mod candidate;
mod explain;
mod observe;
mod replay;
mod test;

use super::check::document;
use super::client::Gateway;
use super::{Exit, Form, bundle, complain, print, say};
use crate::config::{Config, read_policy_folder};
use crate::document::{Problem, Problems, plain};
use crate::policy::{EngineKind, Policy, PolicyLimits, PolicySource};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nothing is evaluated by a check.
pub(super) const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_secs(1), instructions: 1 };

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Look at a policy folder as the gateway does before it serves it: syntax, names of facts, reasons, builtins, forms that
    /// the serving engine does not have. Shows each place in its line.
    Check {
        /// The folder that holds `partnergate/`; that of the config when absent.
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
        #[command(flatten)]
        form: Form,
    },
    /// Run the Rego tests of a policy folder, on the engine that serves as well as on the interpreter.
    Test(test::Args),
    /// Say why a decision is what it is: which rules held, which condition failed and what it saw, and what would be allowed.
    /// Of a request that nobody has sent (`--partner` or `--cert`) the gateway says it, on what is live; of a decision that was
    /// recorded or an input that is written down, the folder.
    Explain(Box<explain::Args>),
    /// What the candidate would change on live traffic; promote it, roll back.
    Candidate(candidate::Args),
    /// Let a custom rule only be observed with a partner for a while: what it would deny is recorded, and not denied. Nothing
    /// else is ever only observed. It waits for another operator's approval.
    Observe(observe::Observe),
    /// Let such a rule count for the partner, at once.
    Enforce(observe::Enforce),
    /// Decide recorded decisions again under another policy, and say which change.
    Replay(replay::Args),
    /// Make an OPA bundle of a policy folder that passes `policy check`: its Rego, `reasons.yaml` and `conditions.yaml` as
    /// they are, and of each folder's data files one `data.json`. Equal folders make equal bytes.
    Build(bundle::Build),
    /// Sign a bundle as OPA does (`.signatures.json`).
    Sign(bundle::Sign),
    /// Look whether a gateway with this key takes a bundle: its form, its signature, its policy.
    Verify(bundle::Verify),
}

impl Args {
    pub(super) fn only_looks(&self) -> bool {
        !matches!(self.command, Command::Build(_) | Command::Sign(_))
    }
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    let config = gateway.config.as_path();
    match args.command {
        Command::Check { folder, form } => check(config, folder.as_deref(), form),
        Command::Test(args) => test::run(config, &args),
        Command::Explain(args) => explain::run(gateway, &args).await,
        Command::Candidate(args) => candidate::run(gateway, args).await,
        Command::Observe(args) => observe::observe(gateway, args).await,
        Command::Enforce(args) => observe::enforce(gateway, args).await,
        Command::Replay(args) => replay::run(&args),
        Command::Build(args) => bundle::build(&args),
        Command::Sign(args) => bundle::sign(&args),
        Command::Verify(args) => bundle::verify(&args),
    }
}

/// The files of a folder, or of that of the config.
fn read(config: &Path, folder: Option<&Path>) -> Result<PolicySource, Problems> {
    match folder {
        Some(folder) => read_policy_folder(folder),
        None => Config::load(config).and_then(Config::with_kept_policy).map(|config| config.policy().clone()),
    }
}

/// One line of what may come from anywhere: what a terminal would obey is written out.
fn tell(text: &str) {
    print(&plain(text, &['\t']));
}

/// Decisions that change in one way, in a table.
struct ChangeRow<'a> {
    change: &'a str,
    count: u64,
    partner: &'a str,
    operation: &'a str,
    reason: &'a str,
    example: &'a str,
}

/// Rows that change alike beside each other, the most frequent first.
fn change_table(mut rows: Vec<ChangeRow<'_>>) {
    rows.sort_by_key(|row| (row.change, std::cmp::Reverse(row.count), row.partner, row.operation, row.reason));
    tell(&format!(
        "{:<13} {:>9}  {:<20} {:<28} {:<28} {}",
        "change", "count", "partner", "operation", "reason", "such as"
    ));
    for ChangeRow { change, count, partner, operation, reason, example } in rows {
        tell(&format!("{change:<13} {count:>9}  {partner:<20} {operation:<28} {reason:<28} {example}"));
    }
}

fn check(config: &Path, folder: Option<&Path>, form: Form) -> Exit {
    let source = match read(config, folder) {
        Ok(source) => source,
        Err(problems) => {
            refused(&problems, &PolicySource::default(), form.is_json());
            return Exit::Problems;
        }
    };
    match Policy::compile(&source, EngineKind::Rvm, LIMITS) {
        Ok(policy) => {
            let rego = source.files.iter().filter(|(path, _)| path.ends_with(".rego")).count();
            let (revision, warnings) = (policy.revision(), policy.warnings());
            if form.is_json() {
                let list: Vec<Value> = warnings.iter().map(document).collect();
                print(&json!({"ok": true, "files": rego, "revision": &**revision, "problems": list}).to_string());
            } else {
                show(warnings, &source);
                say(&format!("good: {rego} Rego files, revision {revision}"));
            }
            Exit::Done
        }
        Err(problems) => {
            refused(&problems, &source, form.is_json());
            Exit::Problems
        }
    }
}

pub(super) fn refused(problems: &Problems, source: &PolicySource, json: bool) {
    if json {
        let list: Vec<Value> = problems.iter().map(document).collect();
        print(&json!({"ok": false, "problems": list}).to_string());
        return;
    }
    show(problems, source);
    let count = problems.errors().count();
    complain(&format!("{count} {}", if count == 1 { "error" } else { "errors" }));
}

fn show(problems: &Problems, source: &PolicySource) {
    for problem in problems.iter().take(MOST) {
        let (said, fix) = (problem.to_string(), problem.fix.as_ref());
        let (said, _) = said.split_once("\n    fix: ").unwrap_or((&said, ""));
        complain(said);
        if let Some(excerpt) = excerpt(problem, source) {
            complain(&excerpt);
        }
        if let Some(fix) = fix {
            complain(&format!("    fix: {fix}"));
        }
    }
}

/// Characters of a line that are shown, and problems.
const SHOWN: usize = 120;
const MOST: usize = 50;

/// The line of a problem, with a mark below its place.
fn excerpt(problem: &Problem, source: &PolicySource) -> Option<String> {
    let (_, text) = source.files.iter().find(|(path, _)| *path == *problem.file)?;
    let line = text.lines().nth(usize::try_from(problem.line).ok()?.checked_sub(1)?)?;
    let shown = |text: &str| text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let column = usize::try_from(problem.column).ok()?;
    let from = column.saturating_sub(SHOWN);
    let line: String = shown(&line.chars().skip(from).take(SHOWN + SHOWN / 4).collect::<String>());
    let mut out = format!("    {} | {line}", problem.line);
    if problem.column > 0 {
        // A tab stays one, so that the mark is below its place however wide a tab is shown.
        let before = line.chars().take(column.checked_sub(1)?.saturating_sub(from));
        let gap: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let margin = " ".repeat(problem.line.to_string().len());
        out.push_str(&format!("\n    {margin} | {gap}^"));
    }
    Some(out)
}
