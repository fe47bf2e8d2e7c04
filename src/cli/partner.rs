//! `partner`: who they are, what they may do and did; stopped at once, let go on, ended.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{Gateway, ask};
use super::edit::{self, Asking, Sure, pair, put, put_list, time, unsaved};
use super::offline::{Wanted, look};
use super::{Because, Exit, Form, Why, complain, report, say};
use crate::admin::{OffboardCall, WhyCall};
use crate::document::{format_time, parse_duration, parse_time, parse_zone};
use crate::name::PartnerId;
use crate::store::DeclaredFile;
use http::Method;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read the database directly; refused while a gateway runs.
    #[arg(long, global = true)]
    offline: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All partners in a table.
    List {
        #[command(flatten)]
        form: Form,
    },
    /// One partner: engagement, credentials, grants, and the use that was made of them.
    Show {
        id: String,
        #[command(flatten)]
        form: Form,
    },
    /// Add a partner. It may do nothing before it has credentials and grants.
    Add {
        id: String,
        #[command(flatten)]
        set: Own,
        #[command(flatten)]
        asking: Asking,
    },
    /// Change a partner. What would permit more waits for another operator.
    Edit {
        id: String,
        #[command(flatten)]
        set: Own,
        #[command(flatten)]
        asking: Asking,
    },
    /// Stop a partner at once, on everything that is open too. Applying files does not take that back.
    Suspend(StopArgs),
    /// Let a partner go on that was stopped with `suspend`.
    Resume(StopArgs),
    /// Say what you have found when you looked whether all of a partner is still needed.
    Review(StopArgs),
    /// End a partner for good, now or at a time: its credentials and grants are revoked, what waits for it is void, what
    /// is open is cut, and a report says so. Twice is harmless.
    Offboard(Offboard),
    /// Write what a partner needs on its first day: where to call, how it gets a certificate, what it may call, and what
    /// refusals mean.
    Kit {
        id: String,
        /// The folder that it is written to; it is created.
        #[arg(short, long, value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// The report of a partner that was offboarded.
    Report {
        id: String,
        /// Also write it as a page for people.
        #[arg(long, value_name = "FILE")]
        page: Option<PathBuf>,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, clap::Args)]
struct Offboard {
    id: String,
    /// When: 2027-01-01T00:00:00+01:00; now when absent. Until then it is served.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<String>,
    /// Let it stay after all; only before its end. Another operator approves that.
    #[arg(long, conflicts_with_all = ["at", "page"])]
    cancel: bool,
    /// Also write the report as a page for people.
    #[arg(long, value_name = "FILE", conflicts_with = "at")]
    page: Option<PathBuf>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    form: Form,
}

/// What a partner is, without its credentials and grants.
#[derive(Debug, clap::Args)]
struct Own {
    /// Name for people.
    #[arg(long)]
    name: Option<String>,
    /// Who answers for it on our side.
    #[arg(long)]
    owner: Option<String>,
    /// How the partner reaches them.
    #[arg(long)]
    contact: Option<String>,
    /// How sensitive what it sees is, in your own words.
    #[arg(long, value_name = "TEXT")]
    data_classification: Option<String>,
    /// How often somebody looks whether all of it is still needed: 90d.
    #[arg(long, value_name = "DURATION")]
    review_every: Option<String>,
    /// How it was found out that the organisation is who it says it is.
    #[arg(long, value_name = "METHOD", requires = "proofed_by")]
    proofing: Option<String>,
    /// Who on our side has looked.
    #[arg(long, value_name = "NAME", requires = "proofing")]
    proofed_by: Option<String>,
    /// When; now when absent.
    #[arg(long, value_name = "TIME", value_parser = time, requires = "proofing")]
    proofed_at: Option<String>,
    /// Begin of the engagement: 2026-01-01T00:00:00+01:00.
    #[arg(long, value_name = "TIME", value_parser = time)]
    starts: Option<String>,
    /// Its end, exclusive.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ends: Option<String>,
    /// A network that it may call from; all of them, several times for several.
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,
    /// Free labels that policy sees.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// IANA name; policy sees the partner's local time.
    #[arg(long)]
    time_zone: Option<String>,
    /// draft, active, suspended or ended.
    #[arg(long)]
    state: Option<String>,
}

#[derive(Debug, clap::Args)]
struct StopArgs {
    id: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    match &args.command {
        Command::Add { .. } | Command::Edit { .. } => {
            let (method, id, set, asking) = match args.command {
                Command::Add { id, set, asking } => (Method::PUT, id, set, asking),
                Command::Edit { id, set, asking } => (Method::PATCH, id, set, asking),
                _ => return Exit::Failed,
            };
            own(gateway, method, &id, set, asking).await
        }
        Command::List { form } => form.show(look(gateway, args.offline, "/v1/partners", Wanted::List).await, list),
        Command::Show { id, form } => {
            form.show(look(gateway, args.offline, &format!("/v1/partners/{id}"), Wanted::Partner(id)).await, show)
        }
        Command::Suspend(_)
        | Command::Resume(_)
        | Command::Review(_)
        | Command::Offboard(_)
        | Command::Kit { .. }
        | Command::Report { .. }
            if args.offline =>
        {
            complain("this is for a gateway that runs; while none does, nobody is served");
            Exit::Failed
        }
        Command::Suspend(stopping) => stop(gateway, stopping, "suspend").await,
        Command::Resume(stopping) => stop(gateway, stopping, "resume").await,
        Command::Review(stopping) => stop(gateway, stopping, "review").await,
        Command::Offboard(_) => {
            let Command::Offboard(offboarding) = args.command else { return Exit::Failed };
            offboard(gateway, offboarding).await.unwrap_or_else(|exit| exit)
        }
        Command::Kit { id, directory, form } => kit(gateway, id, directory, *form).await.unwrap_or_else(|exit| exit),
        Command::Report { id, page, form } => {
            report::run(gateway, id, page.as_deref(), *form).await.unwrap_or_else(|exit| exit)
        }
    }
}

async fn kit(gateway: &Gateway, id: &str, directory: &Path, form: Form) -> Result<Exit, Exit> {
    let path = format!("/v1/partners/{}/kit", edit::id("partner", id)?);
    let mut answer = ask(gateway, Method::GET, &path, None).await?;
    let files: Vec<DeclaredFile> = serde_json::from_value(answer["files"].take()).unwrap_or_default();
    let mut written = Vec::new();
    for file in &files {
        let path = directory.join(&file.name);
        std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, &file.text)).map_err(|e| {
            complain(&format!("{}: {e}", path.display()));
            Exit::Failed
        })?;
        written.push(path.display().to_string());
    }
    Ok(form.show(Ok(json!({"files": written})), |_| written.iter().for_each(|path| say(path))))
}

async fn offboard(gateway: &Gateway, args: Offboard) -> Result<Exit, Exit> {
    let Offboard { id, at, cancel, page, why, sure, form } = args;
    let path = format!("/v1/partners/{}", edit::id("partner", &id)?);
    if cancel {
        let mut set = Map::new();
        set.insert("offboarding".into(), Value::Null);
        let because = Because { reason: Some(why.reason), ticket: why.ticket };
        let asking = Asking { because, form };
        return Ok(edit::edit(gateway, Method::PATCH, &path, set, None, asking).await);
    }
    if at.is_none() {
        sure.of(gateway, &format!("`{id}` ends now, and its credentials and grants are revoked."))?;
    }
    let call = json!(OffboardCall { at, reason: why.reason, ticket: why.ticket });
    let answer = ask(gateway, Method::POST, &format!("{path}/offboard"), Some(&call)).await?;
    if let (Some(page), true) = (&page, answer["report"].is_object()) {
        report::write(&answer["report"], page)?;
    }
    Ok(form.show(Ok(answer), |answer| {
        let ends = answer["offboarding"]["ends"].as_str().unwrap_or_default();
        let changed = answer["changed"].as_bool() == Some(true);
        match (answer["report"].is_object(), changed) {
            (true, true) => say(&format!("`{id}` has ended (registry revision {})", answer["revision"])),
            (true, false) => say(&format!("`{id}` has ended already, at {ends}")),
            (false, true) => say(&format!("`{id}` ends at {ends} (registry revision {})", answer["revision"])),
            (false, false) => say(&format!("`{id}` ends at {ends} already")),
        }
        if answer["report"].is_object() {
            report::show(&answer["report"]);
        }
    }))
}

async fn own(gateway: &Gateway, method: Method, id: &str, own: Own, asking: Asking) -> Exit {
    let path = match edit::id("partner", id) {
        Ok(id) => format!("/v1/partners/{id}"),
        Err(exit) => return exit,
    };
    let table =
        |pairs: Vec<(String, String)>| pairs.into_iter().map(|(k, v)| (k, json!(v))).collect::<Map<String, Value>>();
    let mut engagement = Map::new();
    put(&mut engagement, "starts", own.starts);
    put(&mut engagement, "ends", own.ends);
    let mut set = Map::new();
    put(&mut set, "name", own.name);
    put(&mut set, "owner", own.owner);
    put(&mut set, "contact", own.contact);
    put(&mut set, "data_classification", own.data_classification);
    put(&mut set, "review_every", own.review_every);
    if let (Some(how), Some(by)) = (own.proofing, own.proofed_by) {
        let at = own.proofed_at.unwrap_or_else(|| jiff::Timestamp::now().to_string());
        put(&mut set, "proofing", Some(json!({"method": how, "by": by, "at": at})));
    }
    put(&mut set, "state", own.state);
    put(&mut set, "time_zone", own.time_zone);
    put(&mut set, "engagement", (!engagement.is_empty() || method == Method::PUT).then_some(engagement));
    put_list(&mut set, "networks", own.networks);
    put(&mut set, "labels", (!own.labels.is_empty()).then(|| table(own.labels)));
    edit::edit(gateway, method, &path, set, None, asking).await
}

async fn stop(gateway: &Gateway, args: &StopArgs, verb: &str) -> Exit {
    // What is no id would be no part of a call either.
    if let Err(reason) = PartnerId::parse(&args.id) {
        complain(&format!("there is no such partner: {reason}"));
        return Exit::Problems;
    }
    let call = json!(WhyCall { reason: args.why.reason.clone(), ticket: args.why.ticket.clone() });
    let answer = ask(gateway, Method::POST, &format!("/v1/partners/{}/{verb}", args.id), Some(&call)).await;
    args.form.show(answer, |value| {
        let said = match (verb, value["changed"].as_bool() == Some(true)) {
            ("suspend", true) => "is suspended from now on".to_owned(),
            ("suspend", false) => {
                let by = value["suspension"]["author"].as_str().unwrap_or("nobody");
                format!("is suspended already, by {by}: {}", value["suspension"]["reason"].as_str().unwrap_or_default())
            }
            ("review", _) => format!("is reviewed; next by {}", value["review_due"].as_str().unwrap_or("never")),
            (_, true) => format!("goes on as {}", value["state"].as_str().unwrap_or_default()),
            (_, false) => format!("is not suspended: it is {}", value["state"].as_str().unwrap_or_default()),
        };
        say(&format!("`{}` {said} (registry revision {})", args.id, value["revision"]));
        unsaved(value);
    })
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
    let partner = &value["partner"];
    let zone_name = partner["time_zone"].as_str().unwrap_or("UTC").to_owned();
    let zone = parse_zone(&zone_name).ok().filter(|_| zone_name != "UTC");
    let time = |v: &Value, none: &str| match (v.as_str().and_then(|text| parse_time(text).ok()), &zone) {
        (None, _) => none.to_owned(),
        (Some(nanos), Some(zone)) => {
            let instant = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            format!("{} ({} {zone_name})", format_time(nanos), zone.to_datetime(instant))
        }
        (Some(nanos), None) => format_time(nanos),
    };
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let join = |v: &Value| v.as_array().map(|l| l.iter().map(text).collect::<Vec<_>>().join(", ")).unwrap_or_default();
    say(&format!("{} — {}", text(&value["id"]), text(&partner["name"])));
    say(&format!("  state       {}", text(&value["state"])));
    let suspension = &partner["suspension"];
    if suspension.is_object() {
        let (author, reason) = (text(&suspension["author"]), text(&suspension["reason"]));
        say(&format!("  SUSPENDED   by {author} since {}: {reason}", time(&suspension["at"], "")));
    }
    let offboarding = &partner["offboarding"];
    if offboarding.is_object() {
        let (author, reason) = (text(&offboarding["author"]), text(&offboarding["reason"]));
        let verb = if offboarding["closed"].is_null() { "ENDS" } else { "ENDED" };
        say(&format!("  {verb:<11} {} by {author}: {reason}", time(&offboarding["ends"], "")));
    }
    for (reason, until) in partner["observe"].as_object().into_iter().flatten() {
        say(&format!("  observed    {reason} does not count until {}", time(until, "")));
    }
    let contact = partner["contact"].as_str().map(|c| format!(" ({c})")).unwrap_or_default();
    say(&format!("  owner       {}{contact}", text(&partner["owner"])));
    if let Some(classification) = partner["data_classification"].as_str() {
        say(&format!("  data        {classification}"));
    }
    let proofing = &partner["proofing"];
    if proofing.is_object() {
        let (method, by) = (text(&proofing["method"]), text(&proofing["by"]));
        say(&format!("  proofing    {method}, by {by} at {}", time(&proofing["at"], "")));
    }
    let last = &partner["reviewed"];
    let every = partner["review_every"].as_str().and_then(|every| parse_duration(every).ok());
    if let Some(days) = every.map(|every| every.as_secs() / 86_400) {
        let found = match last["finding"].as_str() {
            Some(finding) => format!("last by {} at {}: {finding}", text(&last["author"]), time(&last["at"], "")),
            None => "never done".to_owned(),
        };
        say(&format!("  review      every {days} days; {found}"));
    }
    say(&format!("  engagement  from {}", time(&partner["engagement"]["starts"], "ever")));
    say(&format!("              to   {}", time(&partner["engagement"]["ends"], "open")));
    say(&format!("  networks    {}", join(&partner["networks"])));
    for (id, c) in partner["credentials"].as_object().into_iter().flatten() {
        let state = text(&value["credentials"][id]["state"]);
        say(&format!("  credential  {id} ({state}, under {})", text(&c["anchor"])));
        say(&format!("              matches {}", c["match"]));
        if !c["ends"].is_null() {
            say(&format!("              to   {}", time(&c["ends"], "")));
        }
        if let Some(successor) = c["retiring"]["successor"].as_str() {
            say(&format!("              {successor} succeeds it, since {}", time(&c["retiring"]["since"], "")));
        }
        if c["revoked"].is_object() {
            let (author, reason) = (text(&c["revoked"]["author"]), text(&c["revoked"]["reason"]));
            say(&format!("              REVOKED by {author} at {}: {reason}", time(&c["revoked"]["at"], "")));
        }
    }
    for (id, g) in partner["grants"].as_object().into_iter().flatten() {
        let known = &value["grants"][id];
        say(&format!("  grant       {id} ({}, owner {})", text(&known["state"]), text(&g["owner"])));
        say(&format!("              {}", join(&known["covers"])));
        say(&format!("              from {}", time(&g["starts"], "ever")));
        say(&format!("              to   {}", time(&g["ends"], "the end of the engagement")));
        if g["revoked"].is_object() {
            let (author, reason) = (text(&g["revoked"]["author"]), text(&g["revoked"]["reason"]));
            say(&format!("              REVOKED by {author} at {}: {reason}", time(&g["revoked"]["at"], "")));
        }
        if g["emergency"].is_object() {
            let (author, ticket) = (text(&g["emergency"]["author"]), text(&g["emergency"]["ticket"]));
            say(&format!("              EMERGENCY by {author} [{ticket}]: {}", text(&g["emergency"]["reason"])));
        }
        let from = &known["approval"];
        if from.is_object() {
            let (requester, approver) = (text(&from["requester"]), text(&from["approver"]));
            let id = from["id"].as_str().map(|id| format!(" as {id}")).unwrap_or_default();
            say(&format!(
                "              asked for by {requester}, approved by {approver}{id} at {}",
                time(&from["at"], "")
            ));
            let ticket = from["ticket"].as_str().map(|ticket| format!("[{ticket}] ")).unwrap_or_default();
            if let Some(why) = from["justification"].as_str() {
                say(&format!("              because {ticket}{why}"));
            }
        }
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
            time(&u["last"], "never")
        ));
    }
}
