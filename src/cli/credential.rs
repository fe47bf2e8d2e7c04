//! `credential`: what partners prove themselves with; registered, succeeded, ended.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::api_key::{self, Bound, Purpose, Rotation};
use super::ca::{carried_out, keep_order};
use super::client::{Gateway, ask};
use super::edit::{self, Asking, Sure, id, pair, planned, put, time, unsaved};
use super::{Because, Exit, Form, Why, complain, say, say_lines};
use crate::admin::{EnrolCall, IssueCall, OrderCall, RotateCall};
use crate::disk;
use crate::document::parse_duration;
use crate::identity::MAX_REQUEST;
use http::Method;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All credentials and API keys in tables; of one partner, with the certificates that were seen of them and with their
    /// use.
    List {
        /// Of this partner alone.
        #[arg(long)]
        partner: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Register a credential, or make an API key. One that is recognised by a name, and a key, wait for another operator.
    Add(Add),
    /// Let the built-in CA give a certificate for a request (PKCS#10). The names are those that were approved.
    Issue {
        partner: String,
        /// The credential that the certificate is for.
        id: String,
        /// The request, in PEM.
        #[arg(long, value_name = "FILE", required_unless_present = "certificate")]
        csr: Option<PathBuf>,
        /// Where the certificate is written; to stdout when absent.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The key of the CA is on another host: write the order that `ca sign` carries out there.
        #[arg(long, value_name = "FILE", requires = "csr", conflicts_with = "out")]
        order: Option<PathBuf>,
        /// File the certificate that `ca sign` has made.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["csr", "order", "out"])]
        certificate: Option<PathBuf>,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
    /// Make a code with which the partner gets its certificate by itself, once (EST). It is shown now and never again.
    Enrol {
        partner: String,
        /// The credential that the certificate is for.
        id: String,
        /// How long the code is good.
        #[arg(long = "for", value_name = "DURATION", default_value = "24h", value_parser = length)]
        life: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
    /// The enrolment codes of a partner that could be used.
    Codes {
        partner: String,
        #[command(flatten)]
        form: Form,
    },
    /// Take the enrolment code of a credential back.
    Void {
        partner: String,
        id: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
    /// The certificates that the built-in CA has given to a partner.
    Issued {
        partner: String,
        #[command(flatten)]
        form: Form,
    },
    /// Let another credential take the place of one. Both are good until it is in use and the overlap has passed; then the
    /// old one is revoked by itself.
    Rotate(Rotate),
    /// The same where the successor is registered already.
    Retire {
        partner: String,
        /// The credential that goes.
        id: String,
        /// The one that takes its place.
        #[arg(long, required_unless_present = "cancel", conflicts_with = "cancel")]
        successor: Option<String>,
        /// How long both are good at least: 7d when absent.
        #[arg(long, value_name = "DURATION", value_parser = length)]
        overlap: Option<String>,
        /// Let it stay after all. Another operator approves that.
        #[arg(long)]
        cancel: bool,
        /// Both are API keys.
        #[arg(long)]
        api_key: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Let a pending credential be accepted. Another operator approves it.
    Activate {
        partner: String,
        id: String,
        #[command(flatten)]
        asking: Asking,
    },
    /// Say whose API key it is that was found somewhere: it is read from stdin, or from a file, and written nowhere.
    Find {
        /// A file with the key, and nothing else.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        #[command(flatten)]
        form: Form,
    },
    /// End a credential, or an API key, at once and for good, on what is open too.
    Revoke {
        partner: String,
        id: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    partner: String,
    /// The new credential's.
    id: String,
    /// Make an API key, to be sent in X-API-Key beside the certificate. It is shown now and never again.
    #[arg(long, requires = "grants", conflicts_with_all = ["anchor", "matches", "pending", "labels"])]
    api_key: bool,
    #[command(flatten)]
    purpose: Purpose,
    #[command(flatten)]
    bound: Bound,
    /// Write the API key into a new file instead of showing it.
    #[arg(long, value_name = "FILE", requires = "api_key")]
    key_file: Option<PathBuf>,
    /// The trust anchor that its chain must end in.
    #[arg(long, required_unless_present = "api_key")]
    anchor: Option<String>,
    /// What the certificate is recognised by: fingerprint_sha256=HEX, spki_sha256=HEX, uri=URI, dns=NAME, subject=DN,
    /// organization_id=ID, or issuer=DN and serial=HEX.
    #[arg(long = "match", required_unless_present = "api_key", value_name = "KEY=VALUE", value_parser = pair)]
    matches: Vec<(String, String)>,
    /// It is not accepted from then on, whatever its certificates say. An API key ends in 90 days when absent.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ends: Option<String>,
    /// Do not accept it before it is activated.
    #[arg(long)]
    pending: bool,
    /// Free labels that policy sees.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    partner: String,
    /// The credential that goes.
    id: String,
    /// The id of the new one.
    #[arg(long, value_name = "ID")]
    to: String,
    /// An API key is rotated: a new one is made and shown.
    #[arg(long, conflicts_with_all = ["anchor", "matches", "pending"])]
    api_key: bool,
    #[command(flatten)]
    bound: Bound,
    /// Write the API key into a new file instead of showing it.
    #[arg(long, value_name = "FILE", requires = "api_key")]
    key_file: Option<PathBuf>,
    /// What the new certificate is recognised by, as with `add`.
    #[arg(long = "match", required_unless_present = "api_key", value_name = "KEY=VALUE", value_parser = pair)]
    matches: Vec<(String, String)>,
    /// The trust anchor of the new one; the old one's when absent.
    #[arg(long)]
    anchor: Option<String>,
    /// The end of the new one.
    #[arg(long, value_name = "TIME", value_parser = time)]
    ends: Option<String>,
    /// How long both are good at least: 7d when absent.
    #[arg(long, value_name = "DURATION", value_parser = length)]
    overlap: Option<String>,
    /// Do not accept the new one before it is activated.
    #[arg(long)]
    pending: bool,
    #[command(flatten)]
    asking: Asking,
}

fn length(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    let outcome = match args.command {
        Command::List { partner, form } => list(gateway, partner.as_deref(), form).await,
        Command::Add(add) => register(gateway, add).await,
        Command::Rotate(args) => rotate(gateway, args).await,
        Command::Issue { partner, id, csr, out, order: file, certificate, why, form } => {
            let files = (csr.as_deref(), certificate.as_deref());
            match file {
                Some(file) => order(gateway, (&partner, &id), files.0, &file, why, form).await,
                None => issue(gateway, (&partner, &id), files, out.as_deref(), why, form).await,
            }
        }
        Command::Enrol { partner, id, life, why, form } => enrol(gateway, (&partner, &id), &life, why, form).await,
        Command::Codes { partner, form } => codes(gateway, &partner, form).await,
        Command::Void { partner, id, why, form } => void(gateway, (&partner, &id), why, form).await,
        Command::Issued { partner, form } => issued(gateway, &partner, form).await,
        Command::Retire { partner, id, successor, overlap, cancel, api_key: true, asking } => {
            let successor = successor.filter(|_| !cancel);
            api_key::retire(gateway, (&partner, &id), successor, overlap, asking).await
        }
        Command::Retire { partner, id, successor, overlap, cancel, api_key: false, asking } => {
            retire(gateway, &partner, &id, successor.filter(|_| !cancel), overlap, asking).await
        }
        Command::Activate { partner, id, asking } => {
            let mut set = Map::new();
            put(&mut set, "state", Some("active"));
            change(gateway, &partner, &id, set, asking).await
        }
        Command::Find { key_file, form } => api_key::find(gateway, key_file.as_deref(), form).await,
        Command::Revoke { partner, id, why, sure, form } => revoke(gateway, &partner, &id, why, sure, form).await,
    };
    outcome.unwrap_or_else(|exit| exit)
}

fn path(partner: &str, credential: &str) -> Result<String, Exit> {
    Ok(format!("/v1/partners/{}/credentials/{}", id("partner", partner)?, id("credential", credential)?))
}

fn table(pairs: Vec<(String, String)>) -> Map<String, Value> {
    pairs.into_iter().map(|(key, value)| (key, json!(value))).collect()
}

async fn change(
    gateway: &Gateway,
    partner: &str,
    credential: &str,
    set: Map<String, Value>,
    asking: Asking,
) -> Result<Exit, Exit> {
    Ok(edit::edit(gateway, Method::PATCH, &path(partner, credential)?, set, None, asking).await)
}

async fn register(gateway: &Gateway, add: Add) -> Result<Exit, Exit> {
    if add.api_key {
        let (own, what) = ((add.partner.as_str(), add.id.as_str()), (add.purpose, &add.bound));
        return api_key::add(gateway, own, what, (add.ends, add.key_file.as_deref()), add.asking).await;
    }
    let path = path(&add.partner, &add.id)?;
    let mut set = Map::new();
    put(&mut set, "anchor", add.anchor);
    put(&mut set, "match", Some(table(add.matches)));
    put(&mut set, "ends", add.ends);
    put(&mut set, "state", add.pending.then_some("pending"));
    put(&mut set, "labels", (!add.labels.is_empty()).then(|| table(add.labels)));
    Ok(edit::edit(gateway, Method::PUT, &path, set, None, add.asking).await)
}

async fn issue(
    gateway: &Gateway,
    (partner, credential): (&str, &str),
    (csr, certificate): (Option<&Path>, Option<&Path>),
    out: Option<&Path>,
    why: Why,
    form: Form,
) -> Result<Exit, Exit> {
    let path = format!("{}/issue", path(partner, credential)?);
    let csr = csr.map(|file| public("--csr", file)).transpose()?;
    let certificate = certificate.map(|file| public("--certificate", file)).transpose()?;
    let filed = certificate.is_some();
    let call = json!(IssueCall { csr, certificate, reason: why.reason, ticket: why.ticket });
    let answer = ask(gateway, Method::POST, &path, Some(&call)).await?;
    let certificate = answer["certificate"].as_str().unwrap_or_default();
    if let Some(out) = out.filter(|_| !gateway.dry_run) {
        disk::replace(out, certificate.as_bytes()).map_err(|e| {
            complain(&format!("--out: `{}`: {}; the certificate is:", out.display(), disk::plain(&e)));
            say_lines(certificate);
            Exit::Failed
        })?;
    }
    Ok(form.show(Ok(answer), |answer| {
        let issued = &answer["issued"];
        let text = |key: &str| issued[key].as_str().unwrap_or_default().to_owned();
        match out {
            Some(out) => say(&format!(
                "{}: serial {} for {}, until {}",
                out.display(),
                text("serial"),
                text("subject"),
                text("not_after")
            )),
            None if filed => {
                say(&format!("filed: serial {} for {}, until {}", text("serial"), text("subject"), text("not_after")));
            }
            None => say_lines(answer["certificate"].as_str().unwrap_or_default().trim_end()),
        }
    }))
}

/// What a partner may send: no private key.
fn public(option: &str, file: &Path) -> Result<String, Exit> {
    let wrong = |reason: String| {
        complain(&format!("{option}: `{}` {reason}", file.display()));
        Exit::Problems
    };
    let text = disk::read(file, MAX_REQUEST * 2).map_err(|reason| wrong(reason.to_string()))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if text.contains("PRIVATE KEY-----") {
        return Err(wrong("holds a private key: it stays with the partner; send the rest alone".into()));
    }
    Ok(text)
}

async fn order(
    gateway: &Gateway,
    (partner, credential): (&str, &str),
    csr: Option<&Path>,
    file: &Path,
    why: Why,
    form: Form,
) -> Result<Exit, Exit> {
    let path = format!("{}/order", path(partner, credential)?);
    let csr = csr.map(|file| public("--csr", file)).transpose()?.unwrap_or_default();
    let call = json!(OrderCall { csr, reason: why.reason, ticket: why.ticket });
    let answer = ask(gateway, Method::POST, &path, Some(&call)).await?;
    if !gateway.dry_run {
        keep_order(&answer, file)?;
    }
    Ok(form.show(Ok(answer), |answer| {
        say_lines(&carried_out(answer, file));
        say(&format!(
            "    then here: partnergate credential issue {partner} {credential} --certificate FILE --reason …"
        ));
    }))
}

async fn enrol(
    gateway: &Gateway,
    (partner, credential): (&str, &str),
    life: &str,
    why: Why,
    form: Form,
) -> Result<Exit, Exit> {
    let path = format!("{}/enrolment", path(partner, credential)?);
    let for_s = parse_duration(life).map_or(0, |life| life.as_secs());
    let call = json!(EnrolCall { for_s, reason: why.reason, ticket: why.ticket });
    Ok(form.show(ask(gateway, Method::POST, &path, Some(&call)).await, |answer| {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        say(&text("code"));
        say(&format!("good once, for `{credential}` of `{partner}`, until {}; it is not shown again", text("expires")));
    }))
}

async fn codes(gateway: &Gateway, partner: &str, form: Form) -> Result<Exit, Exit> {
    let path = format!("/v1/enrolments?partner={}", id("partner", partner)?);
    Ok(form.show(ask(gateway, Method::GET, &path, None).await, |answer| {
        say(&format!("{:<14} {:<24} {:<16} GOOD UNTIL (UTC)", "ID", "CREDENTIAL", "MADE BY"));
        for one in answer["enrolments"].as_array().into_iter().flatten() {
            let [id, credential, author, expires] =
                ["id", "credential", "author", "expires"].map(|key| one[key].as_str().unwrap_or_default());
            say(&format!("{id:<14} {credential:<24} {author:<16} {expires}"));
        }
    }))
}

async fn void(gateway: &Gateway, (partner, credential): (&str, &str), why: Why, form: Form) -> Result<Exit, Exit> {
    let path = format!("{}/enrolment/void", path(partner, credential)?);
    Ok(form.show(ask(gateway, Method::POST, &path, Some(&json!(why.call()))).await, |answer| {
        say(match answer["voided"].as_u64() {
            Some(0) => "there was no code that could be used",
            _ => "void: nobody gets a certificate with it",
        });
    }))
}

async fn issued(gateway: &Gateway, partner: &str, form: Form) -> Result<Exit, Exit> {
    let path = format!("/v1/certificates?partner={}", id("partner", partner)?);
    Ok(form.show(ask(gateway, Method::GET, &path, None).await, |answer| {
        say(&format!("{:<34} {:<24} {:<22} STATE", "SERIAL", "CREDENTIAL", "NOT AFTER (UTC)"));
        for c in answer["certificates"].as_array().into_iter().flatten() {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let state = match c["revoked"]["why"].as_str() {
                Some(why) => format!("revoked at {}: {why}", text(&c["revoked"]["at"])),
                None => "good".to_owned(),
            };
            let (serial, credential, ends) = (text(&c["serial"]), text(&c["credential"]), text(&c["not_after"]));
            say(&format!("{serial:<34} {credential:<24} {ends:<22} {state}"));
        }
    }))
}

async fn rotate(gateway: &Gateway, args: Rotate) -> Result<Exit, Exit> {
    if args.api_key {
        let Rotate { partner, id, to, bound, ends, overlap, key_file, asking, .. } = args;
        let more = Rotation { bound: &bound, ends, overlap, file: key_file.as_deref() };
        return api_key::rotate(gateway, (&partner, &id, to), more, asking).await;
    }
    let path = format!("{}/rotate", path(&args.partner, &args.id)?);
    let Asking { because: Because { reason, ticket }, form } = args.asking;
    let call = json!(RotateCall {
        successor: args.to,
        matching: Some(table(args.matches)),
        anchor: args.anchor,
        ends: args.ends,
        overlap: args.overlap,
        pending: args.pending,
        dry_run: false,
        reason,
        ticket,
    });
    Ok(form.show(ask(gateway, Method::POST, &path, Some(&call)).await, planned))
}

async fn retire(
    gateway: &Gateway,
    partner: &str,
    credential: &str,
    successor: Option<String>,
    overlap: Option<String>,
    asking: Asking,
) -> Result<Exit, Exit> {
    let Some(successor) = successor else {
        let mut set = Map::new();
        set.insert("retiring".into(), Value::Null);
        return change(gateway, partner, credential, set, asking).await;
    };
    let path = format!("{}/rotate", path(partner, credential)?);
    let Asking { because: Because { reason, ticket }, form } = asking;
    let (matching, anchor, ends, pending) = (None, None, None, false);
    let call =
        json!(RotateCall { successor, matching, anchor, ends, overlap, pending, dry_run: false, reason, ticket });
    Ok(form.show(ask(gateway, Method::POST, &path, Some(&call)).await, planned))
}

async fn revoke(
    gateway: &Gateway,
    partner: &str,
    credential: &str,
    why: Why,
    sure: Sure,
    form: Form,
) -> Result<Exit, Exit> {
    let path = format!("{}/revoke", path(partner, credential)?);
    sure.of(gateway, &format!("`{credential}` of `{partner}` is revoked."))?;
    let answer = ask(gateway, Method::POST, &path, Some(&json!(why.call()))).await;
    Ok(form.show(answer, |answer| {
        let said = if answer["changed"].as_bool() == Some(true) { "from now on" } else { "already" };
        say(&format!("`{credential}` is revoked {said} (registry revision {})", answer["revision"]));
        unsaved(answer);
    }))
}

async fn list(gateway: &Gateway, partner: Option<&str>, form: Form) -> Result<Exit, Exit> {
    let path = match partner {
        Some(partner) => format!("/v1/credentials?partner={}", id("partner", partner)?),
        None => "/v1/credentials".to_owned(),
    };
    let mut answer = ask(gateway, Method::GET, &path, None).await?;
    let mut keys = ask(gateway, Method::GET, &path.replacen("credentials", "api-keys", 1), None).await?;
    if let Some(object) = answer.as_object_mut() {
        object.insert("api_keys".into(), keys["api_keys"].take());
    }
    Ok(form.show(Ok(answer), |answer| {
        let row = |[id, partner, state, kind, anchor, then]: [&str; 6]| {
            say(format!("{id:<24} {partner:<16} {state:<9} {kind:<18} {anchor:<16} {then}").trim_end());
        };
        row(["ID", "PARTNER", "STATE", "KNOWN BY", "ANCHOR", "THEN (UTC)"]);
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        for c in answer["credentials"].as_array().into_iter().flatten() {
            let then = match (c["successor"].as_str(), c["ends"].as_str()) {
                _ if c["state"].as_str() == Some("revoked") => text(&c["revoked"]["reason"]),
                (Some(successor), _) => format!("{successor} succeeds it, from {} on", text(&c["retires"])),
                (None, Some(ends)) => format!("ends {ends}"),
                (None, None) => String::new(),
            };
            let [id, partner, state, kind, anchor] =
                ["id", "partner", "state", "kind", "anchor"].map(|key| text(&c[key]));
            row([&id, &partner, &state, &kind, &anchor, &then]);
            for seen in c["certificates"].as_array().into_iter().flatten() {
                let serial = seen["serial"].as_str().unwrap_or("unknown");
                say(&format!("  seen         serial {serial} until {}", text(&seen["not_after"])));
                say(&format!("               SHA-256 {}", text(&seen["fingerprint_sha256"])));
                say(&format!("               first {}, last {}", text(&seen["first_seen"]), text(&seen["last_seen"])));
            }
        }
        api_key::list(answer);
    }))
}
