//! `apply`, `export`, `partner`, `status`, `reload`: what talks to the running gateway, or with `--offline` to the
//! database of one that does not run.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{Answer, call};
use super::{Exit, complain, say};
use crate::admin::{self, AuditAnswer, HistoryAnswer, HistoryCall, StopCall, user_name};
use crate::clock::Clock;
use crate::config::Config;
use crate::document::{format_time, parse_time, parse_zone};
use crate::history::{Actor, Cause, Way};
use crate::material::MaterialFiles;
use crate::name::PartnerId;
use crate::registry::Change;
use crate::reload::newly_named;
use crate::server::{database_path, lock_state_dir, socket_path};
use crate::snapshot::{Snapshot, Sources};
use crate::store::{DeclaredFile, PlanLine, PlanOptions, Store, parse_declaration, plan};
use http::Method;
use nix::unistd::Uid;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// Folder of registry files (YAML or JSON) and the anchors' PEM files.
    #[arg(short = 'f', long = "files", value_name = "DIR")]
    files: PathBuf,
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
    /// Show the plan only.
    #[arg(long)]
    dry_run: bool,
    /// Remove what the files do not declare.
    #[arg(long)]
    prune: bool,
    /// Let unchanged patterns of grants cover operations that have appeared since.
    #[arg(long)]
    widen: bool,
    /// Work on the database directly; refused while a gateway runs.
    #[arg(long)]
    offline: bool,
    /// Why; kept in the history.
    #[arg(long)]
    reason: Option<String>,
    /// The ticket that it belongs to; kept in the history.
    #[arg(long)]
    ticket: Option<String>,
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Folder to write to; it is created. Without it, the registry file goes to stdout.
    #[arg(short, long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Read the database directly; refused while a gateway runs.
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PartnerArgs {
    /// Read the database directly; refused while a gateway runs.
    #[arg(long, global = true)]
    offline: bool,
    #[command(subcommand)]
    command: PartnerCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PartnerCommand {
    /// All partners in a table.
    List {
        /// For people or for programs.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// One partner: engagement, credentials, grants, and the use that was made of them.
    Show {
        id: String,
        /// For people or for programs.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Stop a partner at once, on everything that is open too. Applying files does not take that back.
    Suspend(StopArgs),
    /// Let a partner go on that was stopped with `suspend`.
    Resume(StopArgs),
}

#[derive(Debug, clap::Args)]
struct StopArgs {
    id: String,
    /// Why; kept with the partner and in the history.
    #[arg(long)]
    reason: String,
    /// The ticket that it belongs to; kept in the history.
    #[arg(long)]
    ticket: Option<String>,
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
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

fn load(path: &Path) -> Result<Config, Exit> {
    Config::load(path).map_err(|problems| {
        complain(&problems.to_string());
        Exit::Problems
    })
}

pub(super) async fn ask(path: &Path, method: Method, target: &str, body: Option<&Value>) -> Result<Value, Exit> {
    let state_dir = Config::state_dir(path).map_err(|problems| {
        complain(&problems.to_string());
        Exit::Problems
    })?;
    let answer: Result<Answer, String> = call(&socket_path(&state_dir), method, target, body).await;
    match answer.map(Answer::accepted) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err((problems, text))) => {
            complain(&text);
            Err(if problems { Exit::Problems } else { Exit::Failed })
        }
        Err(text) => {
            complain(&text);
            Err(Exit::Failed)
        }
    }
}

pub(super) async fn apply(path: &Path, args: &ApplyArgs) -> Exit {
    match try_apply(path, args).await {
        Ok(exit) | Err(exit) => exit,
    }
}

async fn try_apply(path: &Path, args: &ApplyArgs) -> Result<Exit, Exit> {
    let files = read_folder(&args.files).map_err(|reason| {
        complain(&format!("error: {}: {reason}", args.files.display()));
        Exit::Problems
    })?;
    let options = PlanOptions { prune: args.prune, widen: args.widen };
    if args.offline {
        return apply_offline(path, args, &files, options).await;
    }
    // Where nobody is asked, nothing is planned for show first.
    let asked = args.dry_run || !args.yes;
    let mut call = json!({
        "files": files, "options": options, "dry_run": asked, "reason": args.reason, "ticket": args.ticket,
    });
    let mut answer = ask(path, Method::POST, "/v1/apply", Some(&call)).await?;
    let lines: Vec<PlanLine> = serde_json::from_value(answer["lines"].clone()).unwrap_or_default();
    if !agreed(args, &lines) {
        return Ok(if args.dry_run { Exit::Done } else { Exit::Failed });
    }
    if asked {
        call["dry_run"] = json!(false);
        answer = ask(path, Method::POST, "/v1/apply", Some(&call)).await?;
    }
    report(args, &answer);
    Ok(Exit::Done)
}

async fn apply_offline(
    path: &Path,
    args: &ApplyArgs,
    files: &[DeclaredFile],
    options: PlanOptions,
) -> Result<Exit, Exit> {
    let config = load(path)?;
    let fail = |e: &dyn std::fmt::Display| {
        complain(&e.to_string());
        Exit::Failed
    };
    let problems = |e: &dyn std::fmt::Display| {
        complain(&e.to_string());
        Exit::Problems
    };
    let _lock = lock_state_dir(&config.state_dir).map_err(|e| fail(&e))?;
    let now = Clock::new().now();
    let store = Store::open(&database_path(&config.state_dir), now).await.map_err(|e| fail(&e))?;
    let registry = store.load().await.map_err(|e| fail(&e))?;
    let revision = registry.revision();
    let material = MaterialFiles::new(path, &config.state_dir);
    let reading = material.read(&registry, &material.kept(&registry));
    let sources = Sources { material: reading.material.clone(), ..config.sources(registry) };
    let (snapshot, _) = Snapshot::build(sources, None, now).map_err(|e| problems(&e))?;
    let declaration = parse_declaration(files, &config.environment).map_err(|e| problems(&e))?;
    let planned = plan(declaration, &snapshot.registry, &snapshot.operations, options).map_err(|e| problems(&e))?;
    let reading = material.read(&planned.next, &reading.material);
    let refused = reading.problems(newly_named(&snapshot.registry, &planned.changes));
    if refused.has_errors() {
        return Err(problems(&refused));
    }
    let sources = Sources { material: reading.material, ..config.sources(planned.next) };
    Snapshot::build(sources, Some(&snapshot), now).map_err(|e| problems(&e))?;
    if !agreed(args, &planned.lines) {
        return Ok(if args.dry_run { Exit::Done } else { Exit::Failed });
    }
    let changes: &[Change] = &planned.changes;
    let uid = Uid::current().as_raw();
    let actor = Actor { name: user_name(uid), uid: Some(uid), way: Way::Offline };
    let cause = Cause { actor, reason: args.reason.clone(), ticket: args.ticket.clone() };
    let revision = if changes.is_empty() {
        revision
    } else {
        store.commit(revision, changes, &cause, now).await.map_err(|e| fail(&e))?
    };
    store.close().await;
    report(args, &json!({"lines": planned.lines, "revision": revision, "changed": !changes.is_empty()}));
    Ok(Exit::Done)
}

/// Shows the plan and asks, unless told not to.
fn agreed(args: &ApplyArgs, lines: &[PlanLine]) -> bool {
    if args.output == Output::Json {
        if args.dry_run {
            say(&json!({"lines": lines}).to_string());
        }
        return args.yes && !args.dry_run;
    }
    if lines.is_empty() {
        say("nothing to change");
    }
    for line in lines {
        say(&format!("{:<12} {:<8} {:<24} {}", line.action, line.noun, line.id, line.detail));
    }
    if args.dry_run {
        return false;
    }
    if args.yes || lines.is_empty() {
        return true;
    }
    if !std::io::stdin().is_terminal() {
        complain("nothing was changed: say --yes where nobody can be asked");
        return false;
    }
    let _ = write!(std::io::stderr(), "Apply? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn report(args: &ApplyArgs, applied: &Value) {
    if args.output == Output::Json {
        say(&applied.to_string());
    } else if applied["changed"] == json!(true) {
        say(&format!("applied; registry revision {}", applied["revision"]));
    }
}

pub(super) async fn export(path: &Path, args: &ExportArgs) -> Exit {
    let answer = if args.offline {
        read_offline(path, Wanted::Export).await
    } else {
        ask(path, Method::GET, "/v1/export", None).await
    };
    let mut value = match answer {
        Ok(value) => value,
        Err(exit) => return exit,
    };
    let files: Vec<DeclaredFile> = serde_json::from_value(value["files"].take()).unwrap_or_default();
    let Some(folder) = &args.directory else {
        for file in files.iter().filter(|f| f.name.ends_with(".json")) {
            say(file.text.trim_end());
        }
        return Exit::Done;
    };
    if let Err(e) = std::fs::create_dir_all(folder) {
        complain(&format!("{}: {e}", folder.display()));
        return Exit::Failed;
    }
    for file in &files {
        if let Err(e) = std::fs::write(folder.join(&file.name), &file.text) {
            complain(&format!("{}: {e}", folder.join(&file.name).display()));
            return Exit::Failed;
        }
    }
    say(&format!("{} files in {}", files.len(), folder.display()));
    Exit::Done
}

/// What is read.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    Export,
    List,
    Partner(&'a str),
    History(&'a HistoryCall),
    Audit,
}

pub(super) async fn look(path: &Path, offline: bool, target: &str, wanted: Wanted<'_>) -> Result<Value, Exit> {
    if offline { read_offline(path, wanted).await } else { ask(path, Method::GET, target, None).await }
}

/// What the admin API would answer, from the database of a gateway that does not run.
async fn read_offline(path: &Path, wanted: Wanted<'_>) -> Result<Value, Exit> {
    let config = load(path)?;
    let fail = |e: &dyn std::fmt::Display| {
        complain(&e.to_string());
        Exit::Failed
    };
    let _lock = lock_state_dir(&config.state_dir).map_err(|e| fail(&e))?;
    let store = Store::open(&database_path(&config.state_dir), Clock::new().now()).await.map_err(|e| fail(&e))?;
    let registry = store.load().await.map_err(|e| fail(&e))?;
    let value = match wanted {
        Wanted::Export => {
            let material = MaterialFiles::new(path, &config.state_dir);
            let material = material.read(&registry, &material.kept(&registry)).material;
            let sources = Sources { material, ..config.sources(registry) };
            let (snapshot, _) = Snapshot::build(sources, None, Clock::new().now()).map_err(|e| fail(&e))?;
            serde_json::to_value(admin::export_document(&snapshot)).map_err(|e| fail(&e))?
        }
        Wanted::List => serde_json::to_value(admin::list_document(&registry)).map_err(|e| fail(&e))?,
        Wanted::Partner(id) => {
            let id = PartnerId::parse(id).map_err(|e| fail(&e))?;
            let record = registry.partner(&id).ok_or_else(|| fail(&"there is no such partner"))?;
            admin::partner_document(record, &store.usage(Some(&id)).await.map_err(|e| fail(&e))?)
        }
        Wanted::History(call) => {
            let events = store.history(&call.query()).await.map_err(|e| fail(&e))?;
            json!(HistoryAnswer::of(events))
        }
        Wanted::Audit => json!(AuditAnswer::from(store.verify_history().await.map_err(|e| fail(&e))?)),
    };
    store.close().await;
    Ok(value)
}

pub(super) async fn reload(path: &Path) -> Exit {
    match ask(path, Method::POST, "/v1/reload", None).await {
        Ok(value) => {
            say("reloaded");
            for key in value["needs_restart"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                complain(&format!("`{key}` has changed and takes effect at the next start"));
            }
            Exit::Done
        }
        Err(exit) => exit,
    }
}

pub(super) async fn partner(path: &Path, args: &PartnerArgs) -> Exit {
    match &args.command {
        PartnerCommand::List { output } => match look(path, args.offline, "/v1/partners", Wanted::List).await {
            Ok(value) if *output == Output::Json => {
                say(&value.to_string());
                Exit::Done
            }
            Ok(value) => {
                list(&value);
                Exit::Done
            }
            Err(exit) => exit,
        },
        PartnerCommand::Show { id, output } => {
            match look(path, args.offline, &format!("/v1/partners/{id}"), Wanted::Partner(id)).await {
                Ok(value) if *output == Output::Json => {
                    say(&value.to_string());
                    Exit::Done
                }
                Ok(value) => {
                    show(&value);
                    Exit::Done
                }
                Err(exit) => exit,
            }
        }
        PartnerCommand::Suspend(_) | PartnerCommand::Resume(_) if args.offline => {
            complain(
                "this is for a gateway that runs: while none does, write `state` in the partner's file and apply that",
            );
            Exit::Failed
        }
        PartnerCommand::Suspend(stopping) => stop(path, stopping, "suspend").await,
        PartnerCommand::Resume(stopping) => stop(path, stopping, "resume").await,
    }
}

async fn stop(path: &Path, args: &StopArgs, verb: &str) -> Exit {
    // What is no id would be no part of a call either.
    if let Err(reason) = PartnerId::parse(&args.id) {
        complain(&format!("there is no such partner: {reason}"));
        return Exit::Problems;
    }
    let call = json!(StopCall { reason: args.reason.clone(), ticket: args.ticket.clone() });
    match ask(path, Method::POST, &format!("/v1/partners/{}/{verb}", args.id), Some(&call)).await {
        Ok(value) if args.output == Output::Json => {
            say(&value.to_string());
            Exit::Done
        }
        Ok(value) => {
            let said = match (verb, value["changed"].as_bool() == Some(true)) {
                ("suspend", true) => "is suspended from now on".to_owned(),
                ("suspend", false) => {
                    let by = value["suspension"]["author"].as_str().unwrap_or("nobody");
                    format!(
                        "is suspended already, by {by}: {}",
                        value["suspension"]["reason"].as_str().unwrap_or_default()
                    )
                }
                (_, true) => format!("goes on as {}", value["state"].as_str().unwrap_or_default()),
                (_, false) => format!("is not suspended: it is {}", value["state"].as_str().unwrap_or_default()),
            };
            say(&format!("`{}` {said} (registry revision {})", args.id, value["revision"]));
            Exit::Done
        }
        Err(exit) => exit,
    }
}

fn list(value: &Value) {
    let row = |id: &str, state: &str, credentials: &str, grants: &str, ends: &str, name: &str| {
        say(format!("{id:<20} {state:<10} {credentials:>11} {grants:>6}  {ends:<26} {name}").trim_end());
    };
    row("ID", "STATE", "CREDENTIALS", "GRANTS", "ENGAGEMENT ENDS (UTC)", "NAME");
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    for p in value["partners"].as_array().into_iter().flatten() {
        let ends = p["engagement_ends"].as_str().unwrap_or("open");
        row(
            &text(&p["id"]),
            &text(&p["state"]),
            &text(&p["credentials"]),
            &text(&p["grants"]),
            ends,
            &text(&p["name"]),
        );
    }
}

/// Times in UTC and, where it is another, in the partner's zone.
fn show(value: &Value) {
    let record = &value["record"];
    let partner = &record["partner"];
    let zone_name = partner["time_zone"].as_str().unwrap_or("UTC").to_owned();
    let zone = parse_zone(&zone_name).ok();
    let time = |v: &Value, none: &str| match (v.as_i64(), &zone) {
        (None, _) => none.to_owned(),
        (Some(nanos), Some(zone)) if zone_name != "UTC" => {
            let instant = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            format!("{} ({} {zone_name})", format_time(nanos), zone.to_datetime(instant))
        }
        (Some(nanos), _) => format_time(nanos),
    };
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let join = |v: &Value| v.as_array().map(|l| l.iter().map(text).collect::<Vec<_>>().join(", ")).unwrap_or_default();
    say(&format!("{} — {}", text(&partner["id"]), text(&partner["name"])));
    say(&format!("  state       {}", text(&partner["state"])));
    let suspension = &partner["suspension"];
    if suspension.is_object() {
        let (author, reason) = (text(&suspension["author"]), text(&suspension["reason"]));
        say(&format!("  SUSPENDED   by {author} since {}: {reason}", time(&suspension["at"], "")));
    }
    say(&format!("  owner       {}", text(&partner["owner"])));
    say(&format!("  engagement  from {}", time(&partner["engagement"]["starts"], "ever")));
    say(&format!("              to   {}", time(&partner["engagement"]["ends"], "open")));
    say(&format!("  networks    {}", join(&partner["networks"])));
    for c in record["credentials"].as_array().into_iter().flatten() {
        say(&format!("  credential  {} ({}, under {})", text(&c["id"]), text(&c["state"]), text(&c["anchor"])));
        say(&format!("              matches {}", c["match"]));
    }
    for g in record["grants"].as_array().into_iter().flatten() {
        say(&format!("  grant       {} (owner {})", text(&g["id"]), text(&g["owner"])));
        say(&format!("              {}", join(&g["operations"])));
        say(&format!("              from {}", time(&g["period"]["starts"], "ever")));
        say(&format!("              to   {}", time(&g["period"]["ends"], "the end of the engagement")));
        if g["networks"].is_array() {
            say(&format!("              only from {}", join(&g["networks"])));
        }
        if g["credentials"].is_array() {
            say(&format!("              only with {}", join(&g["credentials"])));
        }
    }
    for u in value["usage"].as_array().into_iter().flatten() {
        say(&format!(
            "  used        {} × {} by {} from {}, last {}",
            u["count"],
            text(&u["operation"]),
            text(&u["credential"]),
            text(&u["network"]),
            time(&json!(u["last"].as_str().and_then(|t| parse_time(t).ok())), "never")
        ));
    }
}

pub(super) async fn status(path: &Path, args: &StatusArgs) -> Exit {
    match ask(path, Method::GET, "/v1/status", None).await {
        Ok(value) if args.output == Output::Json => {
            say(&value.to_string());
            Exit::Done
        }
        Ok(value) => {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let snapshot = &value["snapshot"];
            say(&format!("partnergate {} in {}", text(&value["version"]), text(&value["environment"])));
            say(&format!("  snapshot     built {}", text(&snapshot["built"])));
            say(&format!("  registry     revision {}, {} partners", snapshot["registry"], value["partners"]));
            say(&format!("  policy       {}", text(&snapshot["policy"])));
            say(&format!("  config       {}", text(&snapshot["config"])));
            say(&format!("  trust        generation {}", snapshot["trust"]));
            if value["last_reload"]["ok"].as_bool() == Some(false) {
                let failing = &value["last_reload"];
                say(&format!(
                    "  reload       FAILS since {}; the last good state is served. The files say:",
                    text(&failing["failing_since"])
                ));
                for problem in failing["problems"].as_array().into_iter().flatten() {
                    text(problem).lines().for_each(|line| say(&format!("               {line}")));
                }
            }
            for s in value["suspended"].as_array().into_iter().flatten() {
                let (id, author, reason) = (text(&s["partner"]), text(&s["author"]), text(&s["reason"]));
                say(&format!("  suspended    {id} by {author} since {}: {reason}", text(&s["at"])));
            }
            for a in value["anchors"].as_array().into_iter().flatten() {
                say(&format!("  anchor       {} until {}", text(&a["name"]), text(&a["not_after"])));
            }
            for b in value["bundles"].as_array().into_iter().flatten() {
                let sequence = b["sequence"].as_u64().map_or_else(|| "no sequence".into(), |s| format!("sequence {s}"));
                let (name, domain) = (text(&b["anchor"]), text(&b["trust_domain"]));
                say(&format!("  bundle       {name} of {domain}, {sequence}, {} certificates", b["certificates"]));
            }
            for c in value["certificates"].as_array().into_iter().flatten() {
                say(&format!("  certificate  {} until {}", text(&c["file"]), text(&c["not_after"])));
            }
            for list in value["revocation_lists"].as_array().into_iter().flatten() {
                let (anchor, source) = (text(&list["anchor"]), text(&list["source"]));
                match list["error"].as_str() {
                    Some(error) => say(&format!("  list         of {anchor} fails: {source}: {error}")),
                    None => say(&format!("  list         of {anchor} until {} ({source})", text(&list["next_update"]))),
                }
            }
            for o in value["outgoing_anchors"].as_array().into_iter().flatten() {
                let open = &o["open_connections"];
                let then = match open.as_u64() {
                    Some(0) => "nothing is open under it".to_owned(),
                    _ => format!("{open} connections are open under it"),
                };
                say(&format!("  rotation     {}; {then}", text(&o["text"])));
            }
            for e in value["expiring"].as_array().into_iter().flatten() {
                let of = e["partner"].as_str().map(|p| format!(" of {p}")).unwrap_or_default();
                let successor = match (&e["successor"], e["successor"]["registered"].as_str()) {
                    (_, Some(name)) => format!("{name} succeeds it"),
                    (Value::String(s), _) if s == "missing" => "no successor".to_owned(),
                    _ => "a renewed one is recognised".to_owned(),
                };
                let (kind, name) = (text(&e["kind"]), text(&e["name"]));
                say(&format!("  ends soon    {kind} {name}{of} at {}: {successor}", text(&e["ends"])));
            }
            Exit::Done
        }
        Err(exit) => exit,
    }
}
