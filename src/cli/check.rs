//! `partnergate check`: the same snapshot build that `serve` and reload run.

use super::apply::read_folder;
use super::bundle::with_policy;
use super::{Exit, Form, complain, print, say};
use crate::clock::Clock;
use crate::config::Config;
use crate::document::{Problem, Problems, Severity};
use crate::expiry::{self, Expiring, Successor};
use crate::fetch::{Fetcher, Overview};
use crate::material::{MaterialFiles, Reading};
use crate::partner::RevocationMode;
use crate::record::Metrics;
use crate::registry::Registry;
use crate::reload::{keys_not_opened, of_promotion};
use crate::server::database_path;
use crate::snapshot::{Snapshot, Sources};
use crate::store::{PlanOptions, Store, parse_declaration, plan};
use crate::token::Tokens;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check this folder of registry files too, as if it were applied.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    files: Option<PathBuf>,
    /// Treat warnings as problems.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(path: &Path, args: &Args) -> Exit {
    let examined = examine(path, args).await;
    if args.form.is_json() {
        let (Ok((found, _)) | Err(found)) = &examined;
        let ok = examined.is_ok() && (!args.strict || found.is_empty());
        let problems: Vec<Value> = found.iter().map(document).collect();
        print(&json!({"ok": ok, "problems": problems}).to_string());
        return if ok { Exit::Done } else { Exit::Problems };
    }
    match examined {
        Ok((warnings, summary)) => {
            for problem in warnings.warnings() {
                complain(&problem.to_string());
            }
            say(&summary);
            if args.strict && !warnings.is_empty() { Exit::Problems } else { Exit::Done }
        }
        Err(problems) => {
            complain(&problems.to_string());
            let n = problems.errors().count();
            complain(&format!("{}: {n} {}", path.display(), if n == 1 { "error" } else { "errors" }));
            Exit::Problems
        }
    }
}

/// A problem for programs.
pub(super) fn document(problem: &Problem) -> Value {
    let Problem { severity, file, line, column, key, reason, fix } = problem;
    let severity = if *severity == Severity::Error { "error" } else { "warning" };
    json!({
        "severity": severity, "file": file, "line": line, "column": column, "key": key, "reason": reason, "fix": fix,
    })
}

async fn examine(path: &Path, args: &Args) -> Result<(Problems, String), Problems> {
    let (config, bundle) = with_policy(Config::load(path)?).await?;
    let failed = |what: &str, reason: String| {
        let mut problems = Problems::new();
        problems.file(what, reason, None);
        problems
    };
    let database = database_path(&config.state_dir);
    let shown = database.display().to_string();
    let (mut seen, mut used, mut promotion, mut keys) = (HashMap::new(), HashMap::new(), None, Vec::new());
    let registry = match Store::open_to_read(&database).await {
        Ok(Some(store)) => {
            seen = store.last_seen_expiry().await.map_err(|e| failed(&shown, e.to_string()))?;
            promotion = store.promotion().await.map_err(|e| failed(&shown, e.to_string()))?;
            keys = store.token_keys().await.map_err(|e| failed(&shown, e.to_string()))?;
            used = store.last_seen().await.map_err(|e| failed(&shown, e.to_string()))?;
            store.load().await.map_err(|e| failed(&shown, e.to_string()))?
        }
        Ok(None) => Registry::default(),
        Err(e) => return Err(failed(&shown, e.to_string())),
    };
    let opened = config.tokens.as_ref().map(|settings| Tokens::new(settings.clone(), keys, config.environment.clone()));
    if let Some(Err(reason)) = opened {
        return Err(keys_not_opened(&reason));
    }
    let now = Clock::new().now();
    let material = MaterialFiles::new(path, &config.state_dir);
    let mut reading = material.read(&registry, &material.kept(&registry));
    let with = |registry: Registry, reading: &Reading| {
        let mut problems = reading.problems(|_| true);
        let sources = Sources { material: reading.material.clone(), ..config.sources(registry, promotion.as_ref()) };
        let standing = promotion.as_ref().filter(|promotion| promotion.stands(config.policy()));
        let built = Snapshot::build(sources, None, now);
        match built.map_err(|problems| of_promotion(problems, standing)) {
            Ok(built) if !problems.has_errors() => Ok(built),
            Ok((_, warnings)) | Err(warnings) => {
                problems.extend(warnings);
                Err(problems)
            }
        }
    };
    let (mut snapshot, mut warnings) = with(registry, &reading)?;
    warnings.extend(config.warnings.clone());
    warnings.extend(bundle);
    if let Some(folder) = &args.files {
        let files = read_folder(folder).map_err(|reason| failed(&folder.display().to_string(), reason))?;
        let declaration = parse_declaration(&files, &config.environment)?;
        let planned = plan(declaration, &snapshot.registry, &snapshot.operations, PlanOptions::default(), None, now)?;
        reading = material.read(&planned.next, &reading.material);
        let (built, more) = with(planned.next, &reading)?;
        snapshot = built;
        warnings.extend(more);
    }
    let lists = lists_of(path, &config, &snapshot).map_err(|e| failed("revocation lists", e))?;
    for anchor in snapshot.registry.anchors().filter(|a| a.revocation.mode == RevocationMode::Required) {
        if !lists.iter().any(|list| list.anchor == anchor.name && list.error.is_none()) {
            let reason = format!(
                "no revocation list is there for the anchor `{}`: every certificate under it is refused until one is",
                anchor.name
            );
            warnings.warning("registry", "", reason, Some("URLs are asked at the start; put files in their places"));
        }
    }
    for list in &lists {
        if let Some(error) = &list.error {
            warnings.warning(
                "registry",
                "",
                format!("a revocation list of the anchor `{}`: {error}", list.anchor),
                None,
            );
        }
    }
    // That server certificates and anchors end is said where they are read; by whom they are succeeded is not.
    let said = |e: &&Expiring| {
        matches!(e.kind, expiry::Kind::Credential | expiry::Kind::RevocationList)
            || matches!(e.successor, Successor::Registered(_))
    };
    for one in expiry::soon(&snapshot, &seen, &lists, now).iter().filter(said) {
        warnings.warning("registry", "", one.to_string(), None);
    }
    for one in expiry::outgoing(&snapshot.registry, &used) {
        let fix = Some("`status` says what is open under it; remove it when it is not used any more");
        warnings.warning("registry", "", one.to_string(), fix);
    }
    for anchor in snapshot.registry.anchors() {
        let used = anchor.partners.iter().filter_map(|id| snapshot.registry.partner(id));
        if !used.flat_map(|record| &record.credentials).any(|c| c.anchor == anchor.name) {
            let reason = format!("no credential is under the anchor `{}`", anchor.name);
            warnings.warning("registry", "", reason, Some("remove it, if its successor has taken over"));
        }
    }
    warnings.sort();
    let summary = format!(
        "{} is good: {} routes, {} operations, {} partners, policy {}",
        path.display(),
        snapshot.routes.iter().count(),
        snapshot.operations.len(),
        snapshot.registry.partner_count(),
        snapshot.revision.policy.get(..12).unwrap_or_default()
    );
    Ok((warnings, summary))
}

/// What a start would have of revocation lists: files, and copies of what URLs have sent. Nothing is written or asked.
fn lists_of(path: &Path, config: &Config, snapshot: &Snapshot) -> Result<Vec<Overview>, String> {
    let metrics = Metrics::new(config.max_series, false).map_err(|e| e.to_string())?;
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let (clock, metrics) = (Arc::new(Clock::new()), Arc::new(metrics));
    let fetcher = Fetcher::new(&base, &config.state_dir, config.fetch.clone(), clock, metrics);
    let planned = fetcher.map_err(|e| e.to_string())?.plan(snapshot.registry.anchors(), &snapshot.material.bundles);
    Ok(planned.overview())
}
