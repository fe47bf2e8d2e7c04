//! `db import`: the first registry of a gateway that has none yet, as fast as the disk is.

use super::apply::{read_folder, show};
use super::bundle::with_policy;
use super::offline::{load, this_user};
use super::{Because, Exit, Form, Output, complain, print, say};
use crate::clock::Clock;
use crate::history::{Cause, Off};
use crate::material::MaterialFiles;
use crate::partner::Provenance;
use crate::registry::Registry;
use crate::reload::newly_named;
use crate::server::{database_path, lock_state_dir};
use crate::snapshot::{Snapshot, Sources};
use crate::store::{PlanOptions, Store, lines, parse_declaration, plan};
use serde_json::json;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines of a plan that people are shown.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of registry files (YAML or JSON) and the anchors' PEM files.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    files: PathBuf,
    #[command(flatten)]
    because: Because,
    #[command(flatten)]
    form: Form,
}

fn fail(e: &dyn Display) -> Exit {
    complain(&format!("error: {e}"));
    Exit::Failed
}

fn problems(e: &dyn Display) -> Exit {
    complain(&e.to_string());
    Exit::Problems
}

pub(super) async fn run(path: &Path, dry_run: bool, args: &Args) -> Result<Exit, Exit> {
    let files =
        read_folder(&args.files).map_err(|reason| problems(&format!("error: {}: {reason}", args.files.display())))?;
    let (config, _) = with_policy(load(path)?).await.map_err(|e| problems(&e))?;
    let _lock = lock_state_dir(&config.state_dir).map_err(|e| fail(&e))?;
    let now = Clock::new().now();
    let database = database_path(&config.state_dir);
    // Where it is only to be seen, nothing is made.
    let store = if dry_run {
        Store::open_to_read(&database).await.map_err(|e| fail(&e))?
    } else {
        Some(Store::open(&database, now).await.map_err(|e| fail(&e))?)
    };
    let registry = match &store {
        Some(store) => store.load().await.map_err(|e| fail(&e))?,
        None => Registry::default(),
    };
    let revision = registry.revision();
    if registry.partner_count() > 0 || registry.anchors().next().is_some() || registry.networks().next().is_some() {
        let reason = "error: there is a registry already: start the gateway and `partnergate apply` the files, so that \
                      operators ask for what changes in it";
        return Err(problems(&reason));
    }
    let material = MaterialFiles::new(path, &config.state_dir);
    let reading = material.read(&registry, &material.kept(&registry));
    let sources = Sources { material: reading.material.clone(), ..config.sources(registry, None) };
    let (snapshot, _) = Snapshot::build(sources, None, now).map_err(|e| problems(&e))?;
    let declaration = parse_declaration(&files, &config.environment).map_err(|e| problems(&e))?;
    let me = this_user();
    let provenance = Arc::new(Provenance {
        id: None,
        requester: me.name.clone(),
        approver: me.name.clone(),
        at: now,
        justification: args.because.reason.clone(),
        ticket: args.because.ticket.clone(),
    });
    let options = PlanOptions { import: true, ..PlanOptions::default() };
    let planned = plan(declaration, &snapshot.registry, &snapshot.operations, options, Some(&provenance), now);
    let planned = planned.map_err(|e| problems(&e))?;
    let shown = lines(&snapshot.registry, &planned.changes);
    let reading = material.read(&planned.next, &reading.material);
    let refused = reading.problems(newly_named(&snapshot.registry, &planned.changes));
    if refused.has_errors() {
        return Err(problems(&refused));
    }
    let sources = Sources { material: reading.material, ..config.sources(planned.next, None) };
    Snapshot::build(sources, Some(&snapshot), now).map_err(|e| problems(&e))?;
    let cause =
        Cause { four_eyes: Some(Off::Off), ..Cause::new(me, args.because.reason.clone(), args.because.ticket.clone()) };
    let changed = !dry_run && !planned.changes.is_empty();
    let revision = match &store {
        Some(store) if changed => store.commit(revision, &planned.changes, &cause, now).await.map_err(|e| fail(&e))?,
        _ => revision,
    };
    if let Some(store) = store {
        store.close().await;
    }
    match args.form.output {
        Output::Json => print(&json!({"lines": shown, "revision": revision, "changed": changed}).to_string()),
        Output::Text => {
            show(shown.get(..SHOWN).unwrap_or(&shown));
            if let Some(more) = shown.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                say(&format!("… and {more} more"));
            }
            if changed {
                say(&format!("imported; registry revision {revision}"));
            }
        }
    }
    Ok(Exit::Done)
}
