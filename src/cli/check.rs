//! `partnergate check`: the same snapshot build that `serve` and reload run.

use super::registry::read_folder;
use super::{Exit, complain, say};
use crate::clock::Clock;
use crate::config::Config;
use crate::document::Problems;
use crate::expiry;
use crate::material::{MaterialFiles, Reading};
use crate::registry::Registry;
use crate::server::database_path;
use crate::snapshot::{Snapshot, Sources};
use crate::store::{PlanOptions, Store, parse_declaration, plan};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check this folder of registry files too, as if it were applied.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    files: Option<PathBuf>,
    /// Treat warnings as problems.
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(path: &Path, args: &Args) -> Exit {
    match examine(path, args).await {
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

async fn examine(path: &Path, args: &Args) -> Result<(Problems, String), Problems> {
    let config = Config::load(path)?;
    let failed = |what: &str, reason: String| {
        let mut problems = Problems::new();
        problems.file(what, reason, None);
        problems
    };
    let database = database_path(&config.state_dir);
    let shown = database.display().to_string();
    let mut seen = HashMap::new();
    let registry = match Store::open_to_read(&database).await {
        Ok(Some(store)) => {
            seen = store.last_seen_expiry().await.map_err(|e| failed(&shown, e.to_string()))?;
            store.load().await.map_err(|e| failed(&shown, e.to_string()))?
        }
        Ok(None) => Registry::default(),
        Err(e) => return Err(failed(&shown, e.to_string())),
    };
    let now = Clock::new().now();
    let material = MaterialFiles::new(path, &config.state_dir);
    let mut reading = material.read(&registry, &material.kept(&registry));
    let with = |registry: Registry, reading: &Reading| {
        let mut problems = reading.problems(|_| true);
        let sources = Sources { material: reading.material.clone(), ..config.sources(registry) };
        match Snapshot::build(sources, None, now) {
            Ok(built) if !problems.has_errors() => Ok(built),
            Ok((_, warnings)) | Err(warnings) => {
                problems.extend(warnings);
                Err(problems)
            }
        }
    };
    let (mut snapshot, mut warnings) = with(registry, &reading)?;
    warnings.extend(config.warnings.clone());
    if let Some(folder) = &args.files {
        let files = read_folder(folder).map_err(|reason| failed(&folder.display().to_string(), reason))?;
        let declaration = parse_declaration(&files, &config.environment)?;
        let planned = plan(declaration, &snapshot.registry, &snapshot.operations, PlanOptions::default())?;
        reading = material.read(&planned.next, &reading.material);
        let (built, more) = with(planned.next, &reading)?;
        snapshot = built;
        warnings.extend(more);
    }
    // Server certificates and anchors are warned about where they are read.
    for one in expiry::soon(&snapshot, &seen, &[], now).iter().filter(|e| e.kind == expiry::Kind::Credential) {
        warnings.warning("registry", "", one.to_string(), None);
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
