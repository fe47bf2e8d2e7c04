//! `partnergate policy explain`: why a decision is what it is, for a person.

use super::super::{Exit, Form, say};
use super::{read, refused, tell};
use crate::config::Config;
use crate::document::Problems;
use crate::policy::explain::{Explanation, RuleSaid, explain};
use crate::policy::{Failure, PolicyLimits, PolicySource, Seen, Verdict};
use crate::record::{Sink, recorded};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nobody waits for this on a request.
const LIMITS: PolicyLimits = PolicyLimits { time: Duration::from_secs(5), instructions: 10_000_000 };
/// Changes that are shown.
const MOST: usize = 12;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder that holds `partnergate/`; that of the config when absent.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The input to decide on, as JSON of contract version 1; `-` for standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "decision", conflicts_with = "decision")]
    input: Option<PathBuf>,
    /// A decision that was recorded, by its id (what the partner has as `X-Request-Id`).
    #[arg(long, value_name = "ID")]
    decision: Option<String>,
    /// Files of records that it is looked for in; that of the config when absent.
    #[arg(long, value_name = "FILE", requires = "decision")]
    log: Vec<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// What is explained.
struct Asked {
    input: Value,
    /// What was recorded of it.
    record: Option<Value>,
}

pub(super) fn run(config: &Path, args: &Args) -> Exit {
    let json = args.form.is_json();
    let done = read(config, args.folder.as_deref()).map_err(|problems| (problems, PolicySource::default()));
    let done = done.and_then(|source| {
        let asked = asked(config, args).map_err(|problems| (problems, source.clone()))?;
        let input = regorus::Value::from(asked.input.clone());
        let explanation = explain(&source, &input, LIMITS).map_err(|problems| (problems, source))?;
        Ok((asked, explanation))
    });
    match done {
        Ok((asked, explanation)) => {
            if json {
                say(&told(&asked, &explanation).to_string());
            } else {
                text(&asked, &explanation);
            }
            Exit::Done
        }
        Err((problems, source)) => {
            refused(&problems, &source, json);
            Exit::Problems
        }
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
        return if input.is_object() {
            Ok(Asked { input, record: None })
        } else {
            Err(wrong(path, "is not an object of facts, such as {\"partner\": …}".into()))
        };
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
        return Ok(Asked { input, record: Some(record) });
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

fn text(asked: &Asked, explanation: &Explanation) {
    facts(&asked.input);
    if let Some(record) = &asked.record {
        let (result, time) = (text_at(record, "/result"), text_at(record, "/time"));
        let reason = record["reason"].as_str().map(|reason| format!(", {reason}")).unwrap_or_default();
        tell(&format!("recorded: {result}{reason} at {time}, policy {}", text_at(record, "/snapshot/policy")));
        let masked = recorded::masked(&asked.input);
        if !masked.is_empty() {
            tell(&format!("          hashes in the record, and so here: {}", masked.join(", ")));
        }
    }
    match &explanation.verdict {
        Verdict::Allow { grant, observed } => {
            tell(&format!("policy:   allowed by the grant {grant}"));
            for reason in observed {
                tell(&format!("          {reason} is only observed with this partner, and would deny it"));
            }
        }
        Verdict::Deny { reasons, detail } => {
            let reasons: Vec<&str> = reasons.iter().map(|reason| reason.as_str()).collect();
            let detail = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            tell(&format!("policy:   denied: {}{detail}", reasons.join(", ")));
        }
    }
    if let Some(other) = &explanation.interpreter {
        let other = match other {
            Verdict::Allow { .. } => "allows",
            Verdict::Deny { .. } => "denies, or denies for other reasons",
        };
        tell(&format!(
            "          the interpreter {other}: the engines differ on this policy, and what follows is the interpreter's"
        ));
    }
    tell("");
    tell("how it came to that:");
    rule(&explanation.decision, 1);
    if let Verdict::Deny { .. } = explanation.verdict {
        tell("");
        tell("where the reasons come from:");
        for (reason, places) in &explanation.reasons {
            if places.is_empty() {
                tell(&format!("  {reason}"));
            }
            for held in places {
                tell(&format!("  {reason}  {}:{}", held.file, held.line));
                for (condition, seen) in &held.conditions {
                    tell(&format!("    holds: {}", first(condition)));
                    values(seen, 3);
                }
            }
        }
        if explanation.allowed_if.is_empty() {
            tell("");
            tell(
                "no network, time, state, operation or credential, alone or two together, was found to make it allowed",
            );
        } else {
            tell("");
            tell("it would be allowed if (each was tried on its own):");
            for changes in explanation.allowed_if.iter().take(MOST) {
                tell(&format!("  {}", changes.join(", and ")));
            }
            if explanation.allowed_if.len() > MOST {
                tell(&format!(
                    "  … and {} more; all of them with `--output json`",
                    explanation.allowed_if.len() - MOST
                ));
            }
        }
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

fn rule(said: &RuleSaid, depth: usize) {
    let margin = "  ".repeat(depth);
    let name = said.name.strip_prefix("data.").unwrap_or(&said.name);
    let value = said.value.as_deref().unwrap_or("undefined");
    tell(&format!("{margin}{name} is {value}"));
    for body in &said.bodies {
        match &body.failure {
            None => tell(&format!("{margin}  {}:{} holds", body.file, body.line)),
            Some(Failure { line, statement, seen, .. }) => {
                tell(&format!("{margin}  {}:{line} does not hold: {}", body.file, first(statement)));
                values(seen, depth + 2);
            }
        }
        for below in &body.rules {
            rule(below, depth + 2);
        }
    }
}

fn values(seen: &Seen, depth: usize) {
    let margin = "  ".repeat(depth);
    for (part, values) in seen {
        let values = if values.is_empty() { "absent".to_owned() } else { values.join(", or ") };
        tell(&format!("{margin}{} is {values}", first(part)));
    }
}

/// The first line of what is written.
fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn told(asked: &Asked, explanation: &Explanation) -> Value {
    let verdict = match &explanation.verdict {
        Verdict::Allow { grant, observed } if observed.is_empty() => json!({"result": "allow", "grant": &**grant}),
        Verdict::Allow { grant, observed } => {
            let observed: Vec<&str> = observed.iter().map(|reason| reason.as_str()).collect();
            json!({"result": "allow", "grant": &**grant, "observed": observed})
        }
        Verdict::Deny { reasons, detail } => {
            let reasons: Vec<&str> = reasons.iter().map(|reason| reason.as_str()).collect();
            json!({"result": "deny", "reasons": reasons, "detail": detail})
        }
    };
    let reasons: Vec<Value> = explanation
        .reasons
        .iter()
        .map(|(reason, places)| {
            let places: Vec<Value> = places
                .iter()
                .map(|held| {
                    let conditions: Vec<Value> = held
                        .conditions
                        .iter()
                        .map(|(text, parts)| json!({"text": text, "seen": seen(parts)}))
                        .collect();
                    json!({"file": held.file, "row": held.line, "conditions": conditions})
                })
                .collect();
            json!({"reason": reason.as_str(), "rules": places})
        })
        .collect();
    json!({
        "input": asked.input,
        "record": asked.record,
        "masked": asked.record.as_ref().map(|_| recorded::masked(&asked.input)),
        "decision": verdict,
        "trace": rule_told(&explanation.decision),
        "reasons": reasons,
        "allowed_if": explanation.allowed_if,
        "engines_differ": explanation.interpreter.is_some(),
    })
}

fn seen(seen: &Seen) -> Vec<Value> {
    seen.iter().map(|(part, values)| json!({"expression": part, "values": values})).collect()
}

fn rule_told(said: &RuleSaid) -> Value {
    let bodies: Vec<Value> = said
        .bodies
        .iter()
        .map(|body| {
            let failure = body.failure.as_ref().map(|failure| {
                json!({"row": failure.line, "col": failure.column, "text": failure.statement, "seen": seen(&failure.seen)})
            });
            let rules: Vec<Value> = body.rules.iter().map(rule_told).collect();
            json!({"file": body.file, "row": body.line, "holds": failure.is_none(), "failed_at": failure, "rules": rules})
        })
        .collect();
    json!({"rule": said.name, "value": said.value, "bodies": bodies})
}
