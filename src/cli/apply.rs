//! `apply`: a folder of registry files, its plan shown first, and then all or nothing of it.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{Gateway, ask};
use super::edit::{agrees, outcome};
use super::{Because, Exit, Form, complain, print, say};
use crate::store::{DeclaredFile, PlanLine, PlanOptions};
use http::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of registry files (YAML or JSON) and the anchors' PEM files.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    files: PathBuf,
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
    /// Remove what the files do not declare.
    #[arg(long)]
    prune: bool,
    /// Let unchanged patterns of grants cover operations that have appeared since.
    #[arg(long)]
    widen: bool,
    #[command(flatten)]
    because: Because,
    #[command(flatten)]
    form: Form,
    /// `plan`.
    #[arg(skip)]
    plan: bool,
}

/// `plan`: an apply that changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArgs {
    /// Folder of registry files (YAML or JSON) and the anchors' PEM files.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    files: PathBuf,
    /// Also what would be removed because the files do not declare it: drift.
    #[arg(long)]
    prune: bool,
    /// Also what patterns of grants would cover that has appeared since.
    #[arg(long)]
    widen: bool,
    /// The ticket that the change would belong to, where one is required.
    #[arg(long)]
    ticket: Option<String>,
    #[command(flatten)]
    form: Form,
}

impl From<PlanArgs> for Args {
    fn from(PlanArgs { files, prune, widen, ticket, form }: PlanArgs) -> Self {
        Args { files, yes: false, plan: true, prune, widen, because: Because { reason: None, ticket }, form }
    }
}

/// Registry files of a folder and the certificates beside them, sorted by name.
pub(super) fn read_folder(folder: &Path) -> Result<Vec<DeclaredFile>, String> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| e.to_string())?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = [".yaml", ".yml", ".json", ".pem", ".crt"].iter().any(|end| name.ends_with(end));
        if wanted && !name.starts_with('.') {
            let text = std::fs::read_to_string(entry.path()).map_err(|e| format!("`{name}`: {e}"))?;
            if text.contains("PRIVATE KEY-----") {
                return Err(format!("`{name}` holds a private key: it has no place in a registry folder"));
            }
            files.push(DeclaredFile { name, text });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if files.iter().any(|f| !f.name.ends_with(".pem") && !f.name.ends_with(".crt")) {
        Ok(files)
    } else {
        Err("holds no .yaml, .yml or .json file".into())
    }
}

pub(super) async fn run(gateway: &Gateway, args: &Args) -> Exit {
    match try_apply(gateway, args).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn try_apply(gateway: &Gateway, args: &Args) -> Result<Exit, Exit> {
    let files = read_folder(&args.files).map_err(|reason| {
        complain(&format!("error: {}: {reason}", args.files.display()));
        Exit::Problems
    })?;
    let options = PlanOptions { prune: args.prune, widen: args.widen, ..PlanOptions::default() };
    let only_shown = args.plan || gateway.dry_run;
    // Where nobody is asked, nothing is planned for show first.
    let asked = only_shown || !args.yes;
    let mut call = json!({
        "files": files, "options": options, "dry_run": asked, "reason": args.because.reason, "ticket": args.because.ticket,
    });
    let mut answer = ask(gateway, Method::POST, "/v1/apply", Some(&call)).await?;
    let lines: Vec<PlanLine> = serde_json::from_value(answer["lines"].clone()).unwrap_or_default();
    if !agreed(args, only_shown, &lines) {
        return Ok(if only_shown { Exit::Done } else { Exit::Problems });
    }
    if asked {
        call["dry_run"] = json!(false);
        answer = ask(gateway, Method::POST, "/v1/apply", Some(&call)).await?;
    }
    report(args, &answer);
    Ok(Exit::Done)
}

/// Shows the plan and asks, unless told not to.
fn agreed(args: &Args, only_shown: bool, lines: &[PlanLine]) -> bool {
    if args.form.is_json() {
        if only_shown {
            print(&json!({"lines": lines}).to_string());
        } else if !args.yes {
            complain("nothing was changed: say --yes, or --dry-run to see what it would come to");
        }
        return args.yes && !only_shown;
    }
    if lines.is_empty() {
        say("nothing to change");
    }
    show(lines);
    if only_shown {
        return false;
    }
    if args.yes || lines.is_empty() {
        return true;
    }
    agrees("Apply?")
}

/// The lines of a plan, for people.
pub(super) fn show(lines: &[PlanLine]) {
    for line in lines {
        say(&format!("{:<12} {:<10} {:<24} {}", line.action, line.noun, line.id, line.detail));
    }
}

fn report(args: &Args, applied: &Value) {
    if args.form.is_json() {
        print(&applied.to_string());
    } else {
        outcome(applied);
    }
}
