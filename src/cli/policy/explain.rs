//! `partnergate policy explain`: why a decision is what it is, for a person.

use super::super::client::{Gateway, ask};
use super::super::{Exit, Form, complain, print};
use super::{read, refused, tell};
use crate::admin::{ExplainCall, HeaderCall};
use crate::config::Config;
use crate::disk;
use crate::document::Problems;
use crate::identity::certificate_pem;
use crate::policy::explain::{RuleTold, SeenTold, Told, VerdictTold, explain};
use crate::policy::{PolicyLimits, PolicySource, check_input};
use crate::reason::Reason;
use crate::record::{Kind, Sink, recorded};
use http::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Nobody waits for this on a request.
const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_secs(5), instructions: 10_000_000 };
/// Changes that are shown.
const MOST: usize = 12;
/// Largest file of certificates.
const MAX_CHAIN: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["input", "decision", "path"])))]
pub(super) struct Args {
    /// The folder that holds `partnergate/`; that of the config when absent.
    #[arg(value_name = "DIR", conflicts_with = "path")]
    folder: Option<PathBuf>,
    /// The input to decide on, as JSON of contract version 1; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// A decision that was recorded, by its id (what the partner has as `X-Request-Id`).
    #[arg(long, value_name = "ID")]
    decision: Option<String>,
    /// Files of records that it is looked for in; that of the config when absent.
    #[arg(long, value_name = "FILE", requires = "decision")]
    log: Vec<PathBuf>,
    #[command(flatten)]
    supposed: Supposed,
    #[command(flatten)]
    form: Form,
}

/// A request that nobody has sent.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A request that nobody has sent")]
struct Supposed {
    /// Who would send it.
    #[arg(long, value_name = "ID", requires = "path")]
    partner: Option<String>,
    /// With which of its credentials; the only one that is accepted when absent.
    #[arg(long, value_name = "ID", requires = "path")]
    credential: Option<String>,
    /// With which certificate, in PEM, with its intermediates. Without one, what is asked of certificates is left out.
    #[arg(long, value_name = "FILE", requires = "path")]
    cert: Option<PathBuf>,
    /// GET when absent.
    #[arg(long, requires = "path")]
    method: Option<String>,
    /// Path and query, as they would be sent.
    #[arg(long)]
    path: Option<String>,
    /// The only one that serves the path when absent.
    #[arg(long, requires = "path")]
    host: Option<String>,
    /// The address that it would come from.
    #[arg(long, value_name = "IP", requires = "path")]
    from: Option<IpAddr>,
    /// When, in RFC 3339; now when absent.
    #[arg(long, value_name = "TIME", requires = "path")]
    at: Option<String>,
    /// A header field, as `Name: value`; may be repeated.
    #[arg(long = "header", value_name = "FIELD", requires = "path")]
    headers: Vec<String>,
    /// Bytes of its body; none when absent.
    #[arg(long, value_name = "BYTES", requires = "path")]
    content_length: Option<u64>,
    /// 1.3 when absent.
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"], requires = "path")]
    tls: Option<String>,
    /// IANA name of the cipher suite.
    #[arg(long, value_name = "NAME", requires = "path")]
    cipher: Option<String>,
}

/// What is explained.
struct Asked {
    input: Value,
    /// What was recorded of it.
    record: Option<Value>,
    /// The revision of the policy that explains it.
    policy: Arc<str>,
    /// What is to be said of a policy that has decided, and is another one.
    other: Option<String>,
}

impl Asked {
    fn of(input: Value, record: Option<Value>) -> Asked {
        Asked { input, record, policy: "".into(), other: None }
    }

    /// The revision of the policy that has decided, where it was recorded.
    fn decided_by(&self) -> Option<&str> {
        self.record.as_ref()?.pointer("/snapshot/policy")?.as_str()
    }
}

/// What is to be said where another policy has decided than the one that explains.
fn other(config: &Path, args: &Args, asked: &Asked) -> Option<String> {
    let decided = asked.decided_by().filter(|revision| *revision != &*asked.policy)?;
    let config = Config::load(config).ok();
    // A promotion is known to the gateway alone; what it was made from lies in the folder of the candidate.
    let promoted = config
        .as_ref()
        .and_then(Config::candidate)
        .filter(|candidate| candidate.policy.as_ref().is_ok_and(|source| *source.revision() == *decided));
    let id = args.decision.as_deref().unwrap_or_default();
    Some(match promoted {
        Some(candidate) => format!(
            "it is not the one that decided, which was the candidate, promoted: `partnergate policy explain --decision {id} {}` \
             explains it by that",
            candidate.place
        ),
        None => "it is not the one that decided: what follows is what it would say now; name the folder that has the one that \
                 decided to have it explained by that"
            .to_owned(),
    })
}

pub(super) async fn run(gateway: &Gateway, args: &Args) -> Exit {
    if let Some(path) = &args.supposed.path {
        return supposed(gateway, &args.supposed, path, args.form).await;
    }
    let (config, json) = (&gateway.config, args.form.is_json());
    let done = read(config, args.folder.as_deref()).map_err(|problems| (problems, PolicySource::default()));
    let done = done.and_then(|source| {
        let mut asked = asked(config, args).map_err(|problems| (problems, source.clone()))?;
        asked.policy = source.revision();
        asked.other = other(config, args, &asked);
        let input = regorus::Value::from(asked.input.clone());
        let explanation = explain(&source, &input, LIMITS).map_err(|problems| (problems, source))?;
        Ok((asked, Told::from(&explanation)))
    });
    match done {
        Ok((asked, told)) => {
            if json {
                print(&document(&asked, &told).to_string());
            } else {
                facts(&asked.input);
                recorded_as(&asked);
                tell(&format!("by:       the policy {}", asked.policy));
                if let Some(other) = &asked.other {
                    tell(&format!("          {other}"));
                }
                policy(&told);
            }
            Exit::Done
        }
        Err((problems, source)) => {
            refused(&problems, &source, json);
            Exit::Problems
        }
    }
}

/// Asks the gateway.
async fn supposed(gateway: &Gateway, args: &Supposed, path: &str, form: Form) -> Exit {
    let call = match call(args, path) {
        Ok(call) => json!(call),
        Err(reason) => {
            complain(&reason);
            return Exit::Problems;
        }
    };
    // There is nothing that it could change.
    let answer = ask(gateway, Method::POST, "/v1/policy/explain", Some(&call)).await;
    form.show(answer, supposed_text)
}

fn call(args: &Supposed, path: &str) -> Result<ExplainCall, String> {
    let header = |line: &String| {
        let (name, value) = line.split_once(':').ok_or(format!("--header: `{line}` is not `Name: value`"))?;
        Ok(HeaderCall { name: name.trim().to_owned(), value: value.trim().to_owned() })
    };
    Ok(ExplainCall {
        partner: args.partner.clone(),
        credential: args.credential.clone(),
        certificate: args.cert.as_deref().map(certificates).transpose()?,
        method: args.method.clone().unwrap_or_else(|| "GET".into()),
        path: path.to_owned(),
        host: args.host.clone(),
        from: args.from.map(|from| from.to_string()),
        at: args.at.clone(),
        headers: args.headers.iter().map(header).collect::<Result<_, String>>()?,
        content_length: args.content_length,
        tls: args.tls.clone(),
        cipher: args.cipher.clone(),
    })
}

/// The certificates of a file, and nothing else of it: a key may lie beside them.
fn certificates(file: &Path) -> Result<String, String> {
    let wrong = |reason: String| format!("--cert: `{}` {reason}", file.display());
    let pem = disk::read(file, MAX_CHAIN).map_err(&wrong)?;
    let all: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|e| wrong(format!("is no PEM: {e}")))?;
    if all.is_empty() {
        return Err(wrong("contains no certificates in PEM".into()));
    }
    Ok(all.iter().map(|der| certificate_pem(der)).collect())
}

/// An answer of the gateway, for people.
fn supposed_text(answer: &Value) {
    let at = |pointer: &str| text_at(answer, pointer);
    let list = |pointer: &str| -> Vec<&str> {
        answer.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    };
    if let Some(input) = answer.get("input").filter(|input| input.is_object()) {
        facts(input);
    }
    let assumed = list("/assumed");
    if !assumed.is_empty() {
        tell(&format!("assumed:  {}", assumed.join("; ")));
    }
    for left_out in list("/left_out") {
        tell(&format!("left out: {left_out}"));
    }
    if at("/result") == "allow" {
        tell(&format!("verdict:  allowed by the grant {}", at("/grant")));
    } else {
        let detail = answer.get("detail").and_then(Value::as_str);
        let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
        let by = match at("/decided_by").as_str() {
            "handshake" => "in the handshake",
            "head" => "before it is decided",
            "floor" => "by the floor, below every policy",
            "route" => "by what is served",
            "grant" => "since the grant that the policy names is none for this",
            _ => "by the policy",
        };
        tell(&format!("verdict:  denied {by}: {}{detail}", list("/reasons").join(", ")));
        tell(&format!("          {}", at("/meaning")));
        tell(&format!("          the partner is told `{}`", at("/code")));
    }
    let told = answer.get("policy").filter(|told| told.is_object()).cloned();
    if let Some(told) = told.and_then(|told| serde_json::from_value::<Told>(told).ok()) {
        policy(&told);
    }
}

fn asked(config: &Path, args: &Args) -> Result<Asked, Problems> {
    let wrong = |file: &Path, reason: String| {
        let mut problems = Problems::new();
        problems.file(&file.display().to_string(), reason, None);
        problems
    };
    if let Some(path) = &args.input {
        let mut text = String::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(path).map(|read| text = read)
        };
        read.map_err(|e| wrong(path, format!("cannot be read: {e}")))?;
        let input: Value = serde_json::from_str(&text).map_err(|e| wrong(path, format!("is not JSON: {e}")))?;
        let problems = check_input(&path.display().to_string(), &input);
        return if problems.is_empty() { Ok(Asked::of(input, None)) } else { Err(problems) };
    }
    let id = args.decision.as_deref().unwrap_or_default();
    let files = if args.log.is_empty() {
        let sinks = Config::load(config)?.record.sinks;
        let file = sinks.into_iter().find_map(|sink| match sink {
            Sink::File(path) => Some(path),
            Sink::Stdout => None,
        });
        let reason = "writes its records to stdout: name the file that they are kept in with `--log`";
        vec![file.ok_or_else(|| wrong(config, reason.into()))?]
    } else {
        args.log.clone()
    };
    for path in &files {
        let Some(record) = find(path, id).map_err(|e| wrong(path, format!("cannot be read: {e}")))? else { continue };
        let input = recorded::input(&record).map_err(|e| wrong(path, format!("the record of `{id}`: {e}")))?;
        return Ok(Asked::of(input, Some(record)));
    }
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    Err(wrong(Path::new(&names.join(", ")), format!("has no decision `{id}` that an input was recorded of")))
}

/// The last record of a decision in a file.
fn find(path: &Path, id: &str) -> std::io::Result<Option<Value>> {
    let mut found = None;
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        let line = line?;
        // Most lines are others: they are not parsed.
        if !String::from_utf8_lossy(&line).contains(id) {
            continue;
        }
        let Ok(record) = serde_json::from_slice::<Value>(&line) else { continue };
        let is = record.get("decision_id").and_then(Value::as_str) == Some(id);
        if is && record.get("input").is_some_and(Value::is_object) {
            found = Some(record);
        }
    }
    Ok(found)
}

fn recorded_as(asked: &Asked) {
    let Some(record) = &asked.record else { return };
    let (result, time) = (text_at(record, "/result"), text_at(record, "/time"));
    let reason = record["reason"].as_str().map(|reason| format!(", {reason}")).unwrap_or_default();
    tell(&format!("recorded: {result}{reason} at {time}, policy {}", text_at(record, "/snapshot/policy")));
    let had_a_say = match record["reason"].as_str().and_then(Reason::parse) {
        _ if record["kind"] == Kind::Oauth.as_str() => false,
        Some(reason) => result != "deny" || reason.is_of_policy(),
        None => true,
    };
    if !had_a_say {
        tell("          policy had no say in it; below is what it says of the same facts");
    }
    let masked = recorded::masked(&asked.input);
    if !masked.is_empty() {
        tell(&format!("          hashes in the record, and so here: {}", masked.join(", ")));
    }
    let hidden = hidden(record);
    if !hidden.is_empty() {
        tell(&format!("          masked in the record, and so here: {}", hidden.join(", ")));
    }
}

/// What rules of `package system.log` have done to a record.
fn hidden(record: &Value) -> Vec<String> {
    let lists = [record.get("erased"), record.get("masked")].into_iter().flatten().filter_map(Value::as_array);
    recorded::hidden(lists.flatten().filter_map(Value::as_str))
}

/// What the policy says, and why.
fn policy(told: &Told) {
    match &told.decision {
        VerdictTold::Allow { grant, observed } => {
            tell(&format!("policy:   allowed by the grant {grant}"));
            for reason in observed {
                tell(&format!("          {reason} is only observed with this partner, and would deny it"));
            }
        }
        VerdictTold::Deny { reasons, detail } => {
            let detail = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            tell(&format!("policy:   denied: {}{detail}", reasons.join(", ")));
        }
    }
    if told.engines_differ {
        tell("          the interpreter decides something else: what follows is the interpreter's");
    }
    tell("");
    tell("how it came to that:");
    rule(&told.trace, 1);
    if let VerdictTold::Deny { .. } = told.decision {
        denied(told);
    }
    if !told.complete {
        tell("");
        tell("not all of it was looked at, for want of time or because its rules cannot be looked into");
    }
}

fn denied(told: &Told) {
    tell("");
    tell("where the reasons come from:");
    for reason in &told.reasons {
        if reason.rules.is_empty() {
            tell(&format!("  {}", reason.reason));
        }
        for held in &reason.rules {
            tell(&format!("  {}  {}:{}", reason.reason, held.file, held.row));
            for condition in &held.conditions {
                tell(&format!("    holds: {}", first(&condition.text)));
                values(&condition.seen, 3);
            }
        }
    }
    tell("");
    if told.allowed_if.is_empty() {
        tell("no network, time, state, operation or credential, alone or two together, was found to make it allowed");
        return;
    }
    tell("it would be allowed if (each was tried on its own):");
    for changes in told.allowed_if.iter().take(MOST) {
        tell(&format!("  {}", changes.join(", and ")));
    }
    if told.allowed_if.len() > MOST {
        tell(&format!("  … and {} more; all of them with `--output json`", told.allowed_if.len() - MOST));
    }
}

/// The facts that most rules look at.
fn facts(input: &Value) {
    let list = |pointer: &str| {
        let list = input.pointer(pointer).and_then(Value::as_array);
        let texts: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
        texts.join(", ")
    };
    let at = |pointer: &str| text_at(input, pointer);
    tell(&format!(
        "partner:  {} ({}), networks {}",
        at("/partner/id"),
        at("/partner/state"),
        list("/partner/networks")
    ));
    tell(&format!(
        "with:     credential {} ({}), {}",
        at("/credential/id"),
        at("/credential/state"),
        at("/credential/subject")
    ));
    let path = at("/request/path");
    tell(&format!("asks:     {} {path}, operation {}", at("/request/method"), at("/request/operation")));
    tell(&format!("from:     {}, in the networks {}", at("/source/ip"), list("/source/networks")));
    let now = input.pointer("/time/now_ns").and_then(Value::as_i64).map(crate::clock::UnixNanos);
    let local = |part: &str| text_at(input, &format!("/time/local/{part}"));
    let now = now.map_or_else(|| "-".to_owned(), |now| now.to_string());
    let wall = match input.pointer("/time/local") {
        Some(_) => format!(", where the partner is {} {}:{:0>2}", local("weekday"), local("hour"), local("minute")),
        None => String::new(),
    };
    tell(&format!("at:       {now}{wall}"));
}

fn text_at(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(other) => other.to_string(),
    }
}

fn rule(said: &RuleTold, depth: usize) {
    let margin = "  ".repeat(depth);
    let name = said.rule.strip_prefix("data.").unwrap_or(&said.rule);
    let unknown = if said.bodies.is_empty() { "not known" } else { "undefined" };
    let value = said.value.as_deref().unwrap_or(unknown);
    tell(&format!("{margin}{name} is {value}"));
    for body in &said.bodies {
        match &body.failed_at {
            None => tell(&format!("{margin}  {}:{} holds", body.file, body.row)),
            Some(failure) => {
                let (file, row) = (&body.file, failure.row);
                tell(&format!("{margin}  {file}:{row} does not hold: {}", first(&failure.text)));
                values(&failure.seen, depth + 2);
            }
        }
        for below in &body.rules {
            rule(below, depth + 2);
        }
    }
}

fn values(seen: &[SeenTold], depth: usize) {
    let margin = "  ".repeat(depth);
    for SeenTold { expression, values } in seen {
        let values = if values.is_empty() { "absent".to_owned() } else { values.join(", or ") };
        tell(&format!("{margin}{} is {values}", first(expression)));
    }
}

/// The first line of what is written.
fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn document(asked: &Asked, told: &Told) -> Value {
    let mut all = json!({
        "input": asked.input,
        "record": asked.record,
        "explained_by": &*asked.policy,
        "masked": asked.record.as_ref().map(|record| [recorded::masked(&asked.input), hidden(record)].concat()),
    });
    if let (Some(all), Value::Object(told)) = (all.as_object_mut(), json!(told)) {
        all.extend(told);
    }
    all
}
