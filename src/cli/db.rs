//! `db`: the database and its keys as files: what state they are in, a copy of them, and back from a copy.

use super::keeper::Keeper;
use super::offline::this_user;
use super::operator::{first_operator, show_with_token};
use super::{Exit, Form, Output, Why, complain, import, print, say};
use crate::admin::{Shown, new_operator};
use crate::clock::{Clock, UnixNanos};
use crate::config::Config;
use crate::history::Cause;
use crate::operator::Role;
use crate::server::{BESIDE_THE_DATABASE, KEPT_COPIES, database_path, lock_state_dir};
use crate::store::{
    BackupError, Commit, DatabaseStatus, Manifest, Promoted, Restore, Store, backup, restore, verify_backup,
};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is in the database, and whether the file is sound. A gateway may be running on it.
    Status {
        #[command(flatten)]
        form: Form,
    },
    /// Copy the database as of one moment, its keys, and what is kept of lists and bundles, into a new folder. A gateway
    /// may be running on it.
    Backup {
        /// The folder for the copy. It has keys in it: keep it as safe as the gateway.
        folder: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// Look whether a copy is what was backed up, and whole.
    Verify {
        folder: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// Take a copy back, with the gateway stopped.
    Restore(RestoreArgs),
    /// Import a folder of registry files into a database that has no registry yet, with the gateway stopped.
    Import(import::Args),
    /// Add an operator with every role, with the gateway stopped: the way back in when nobody else has one.
    Operator(OperatorArgs),
    /// Let the configured policy decide again in the place of the candidate that was promoted, with the gateway stopped. While it
    /// runs, `policy candidate rollback` does it.
    EndPromotion(EndPromotionArgs),
    /// Bring the tables to the version of this program, with the gateway stopped. `serve` does it too.
    Migrate {
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// The folder that `db backup` made.
    folder: PathBuf,
    /// Move what is in its place aside.
    #[arg(long)]
    replace: bool,
    /// Also where it lets in again what was denied or suspended after the copy was made.
    #[arg(long)]
    forget_denials: bool,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct EndPromotionArgs {
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct OperatorArgs {
    /// NAME=user:USER, NAME=token or NAME=token:FILE, as `admin bootstrap` has it.
    #[arg(value_name = "NAME=WAY")]
    operator: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

impl Args {
    pub(super) fn has_dry_run(&self) -> bool {
        matches!(self.command, Command::Status { .. } | Command::Verify { .. } | Command::Import(_))
    }
}

pub(super) async fn run(path: &Path, dry_run: bool, args: Args) -> Exit {
    // Of the config no more is read: a mistake elsewhere must not keep anybody from a copy.
    let state_dir = match Config::places(path) {
        Ok(places) => places.state_dir,
        Err(problems) => {
            complain(&problems.to_string());
            return Exit::Problems;
        }
    };
    let database = database_path(&state_dir);
    let now = Clock::new().now();
    let outcome = match args.command {
        Command::Status { form } => status(&database, form.output).await,
        Command::Backup { folder, form } => match backup(&database, BESIDE_THE_DATABASE, &folder, now).await {
            Ok(manifest) => {
                told(&manifest, form.output, "backed up");
                Ok(Exit::Done)
            }
            Err(e) => Err(failed(&e)),
        },
        Command::Verify { folder, form } => {
            let name = database.file_name().unwrap_or_default().to_string_lossy();
            match verify_backup(&folder, &name).await {
                Ok(manifest) => {
                    told(&manifest, form.output, "good");
                    Ok(Exit::Done)
                }
                Err(e) => Err(failed(&e)),
            }
        }
        Command::Restore(args) => take_back(&state_dir, &args, now).await,
        Command::Import(args) => import::run(path, dry_run, &args).await,
        Command::Operator(args) => add_operator(&state_dir, args, now).await,
        Command::EndPromotion(args) => end_promotion(&state_dir, args, now).await,
        Command::Migrate { form } => migrate(&state_dir, form, now).await,
    };
    outcome.unwrap_or_else(|exit| exit)
}

fn failed(e: &BackupError) -> Exit {
    complain(&format!("error: {e}"));
    match e {
        BackupError::Store(_) => Exit::Failed,
        _ => Exit::Problems,
    }
}

fn fail(e: &dyn std::fmt::Display) -> Exit {
    complain(&format!("error: {e}"));
    Exit::Failed
}

async fn status(database: &Path, output: Output) -> Result<Exit, Exit> {
    let Some(store) = Store::open_to_read(database).await.map_err(|e| fail(&e))? else {
        return Err(fail(&format!("there is no database `{}` yet", database.display())));
    };
    let status = store.status().await.map_err(|e| fail(&e))?;
    store.close().await;
    match output {
        Output::Json => print(&json!(status).to_string()),
        Output::Text => shown(database, &status),
    }
    Ok(if status.faults.is_empty() { Exit::Done } else { Exit::Problems })
}

fn shown(database: &Path, status: &DatabaseStatus) {
    let DatabaseStatus {
        schema,
        schema_known,
        revision,
        partners,
        networks,
        anchors,
        operators,
        events,
        copied,
        bytes,
        ..
    } = status;
    say(&format!("database  {} ({} kB)", database.display(), bytes / 1024));
    let next =
        if schema < schema_known { format!(", which becomes {schema_known} at the next start") } else { String::new() };
    say(&format!("tables    version {schema}{next}"));
    say(&format!("registry  revision {revision}: {partners} partners, {networks} networks, {anchors} anchors"));
    say(&format!("operators {operators}"));
    say(&format!(
        "history   {events} events, {} of them not copied to the record sink yet",
        events.saturating_sub(*copied)
    ));
    match status.faults.split_first() {
        None => say("file      sound"),
        Some(_) => status.faults.iter().for_each(|fault| say(&format!("file      NOT SOUND: {fault}"))),
    }
}

fn told(manifest: &Manifest, output: Output, what: &str) {
    if output == Output::Json {
        print(&json!(manifest).to_string());
        return;
    }
    let Manifest { time, revision, events, hash, files, .. } = manifest;
    say(&format!("{what}: registry revision {revision} of {time}, {events} events, {} files", files.len()));
    say(&format!("the history ends in {hash}"));
}

async fn take_back(state_dir: &Path, args: &RestoreArgs, now: UnixNanos) -> Result<Exit, Exit> {
    if args.why.reason.trim().is_empty() {
        return Err(fail(&"a reason is needed: it is kept in the history"));
    }
    let _lock = lock_state_dir(state_dir).map_err(|e| fail(&e))?;
    let cause = Cause::new(this_user(), Some(args.why.reason.clone()), args.why.ticket.clone());
    let how = Restore { replace: args.replace, forget_denials: args.forget_denials };
    let restored = restore(&args.folder, &database_path(state_dir), KEPT_COPIES, how, &cause, now).await;
    let restored = restored.map_err(|e| failed(&e))?;
    match args.form.output {
        Output::Json => print(&json!(restored).to_string()),
        Output::Text => {
            told(&restored.manifest, Output::Text, "restored");
            if let Some(aside) = &restored.aside {
                say(&format!("what was there is in {}", aside.display()));
            }
            if let Some(store) = Store::open_to_read(&database_path(state_dir)).await.map_err(|e| fail(&e))? {
                let operators = store.operators().await.map_err(|e| fail(&e))?;
                store.close().await;
                if !operators.is_empty() && operators.approvers(now).next().is_none() {
                    complain(
                        "warning: nobody in this copy could say who operates: `partnergate db operator` adds somebody",
                    );
                }
            }
            say("what was changed since that copy is not in it: compare `partnergate history all` with the records");
        }
    }
    Ok(Exit::Done)
}

async fn add_operator(state_dir: &Path, args: OperatorArgs, now: UnixNanos) -> Result<Exit, Exit> {
    let wrong = |reason: String| {
        complain(&format!("error: {reason}"));
        Exit::Problems
    };
    if args.why.reason.trim().is_empty() {
        return Err(wrong("a reason is needed: it is kept in the history".into()));
    }
    let (call, file) = first_operator(&args.operator).map_err(wrong)?;
    let keeper = Keeper::new(file.as_deref())?;
    let _lock = lock_state_dir(state_dir).map_err(|e| fail(&e))?;
    let store = Store::open(&database_path(state_dir), now).await.map_err(|e| fail(&e))?;
    let operators = store.operators().await.map_err(|e| fail(&e))?;
    if operators.get(&call.name).is_some() {
        return Err(wrong(format!("there is an operator `{}` already: name another one", call.name)));
    }
    let (operator, token) = new_operator(&call, Role::ALL.iter().copied().collect(), now).map_err(wrong)?;
    operators.with(operator.clone()).map_err(wrong)?;
    let cause = Cause::new(this_user(), Some(args.why.reason), args.why.ticket);
    let revision = store.revision().await.map_err(|e| fail(&e))?;
    let commit = Commit { operators: std::slice::from_ref(&operator), ..Commit::default() };
    store.commit_all(revision, commit, &cause, now).await.map_err(|e| fail(&e))?;
    store.close().await;
    Ok(show_with_token(json!(Shown::of(&operator, now, token)), keeper, args.form))
}

async fn end_promotion(state_dir: &Path, args: EndPromotionArgs, now: UnixNanos) -> Result<Exit, Exit> {
    if args.why.reason.trim().is_empty() {
        return Err(fail(&"a reason is needed: it is kept in the history"));
    }
    let _lock = lock_state_dir(state_dir).map_err(|e| fail(&e))?;
    let store = Store::open(&database_path(state_dir), now).await.map_err(|e| fail(&e))?;
    // Also where its files are not what they were.
    let standing = store.promotion().await;
    if matches!(standing, Ok(None)) {
        complain("error: no candidate is promoted: the configured policy decides");
        return Err(Exit::Problems);
    }
    let cause = Cause::new(this_user(), Some(args.why.reason), args.why.ticket);
    let revision = store.revision().await.map_err(|e| fail(&e))?;
    let commit = Commit { promotions: &[Promoted(None)], ..Commit::default() };
    store.commit_all(revision, commit, &cause, now).await.map_err(|e| fail(&e))?;
    store.close().await;
    let was = standing.ok().flatten().map(|promotion| promotion.revision.to_string());
    Ok(args.form.show(Ok(json!({"ended": was})), |_| say("the configured policy decides from the next start on")))
}

async fn migrate(state_dir: &Path, form: Form, now: UnixNanos) -> Result<Exit, Exit> {
    let _lock = lock_state_dir(state_dir).map_err(|e| fail(&e))?;
    let database = database_path(state_dir);
    let before = match Store::open_to_read(&database).await.map_err(|e| fail(&e))? {
        Some(store) => {
            let status = store.status().await.map_err(|e| fail(&e))?;
            store.close().await;
            status.schema
        }
        None => 0,
    };
    let store = Store::open(&database, now).await.map_err(|e| fail(&e))?;
    let after = store.status().await.map_err(|e| fail(&e))?.schema;
    store.close().await;
    Ok(form.show(Ok(json!({"before": before, "after": after})), |_| {
        say(&if before == after {
            format!("the tables are of version {after} already")
        } else {
            format!("the tables were of version {before} and are of version {after} now")
        });
    }))
}
