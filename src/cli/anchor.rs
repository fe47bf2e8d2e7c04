//! `anchor`: trust anchors, whom they speak for, who is under them, and single certificates that are denied.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{Gateway, ask};
use super::edit::{Asking, Sure, planned, put, put_list, unsaved};
use super::{Because, Exit, Form, Why, complain, network, say};
use crate::admin::{AnchorCall, DenyCall};
use crate::disk;
use crate::name::AnchorName;
use http::Method;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Largest certificate file.
const MAX_CERTIFICATE: usize = 256 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is trusted.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct RootFile {
    /// The CA certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// A client certificate that is its own anchor, in PEM: of one partner, and nothing that it signs is believed.
    #[arg(long, value_name = "FILE")]
    self_signed: Option<PathBuf>,
}

/// What is trusted in the place of what was.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct OtherRoot {
    /// Another CA certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Another self-signed client certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    self_signed: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All anchors in a table.
    List {
        #[command(flatten)]
        form: Form,
    },
    /// One anchor: its certificates, what is asked of those under it, who is, and what is denied.
    Show {
        name: String,
        #[command(flatten)]
        form: Form,
    },
    /// Trust a CA for some partners, or a client certificate of one partner that no CA has issued. Another operator approves it.
    Add {
        name: String,
        #[command(flatten)]
        root: RootFile,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change what is asked of certificates under an anchor, or exchange its certificate. What permits more waits for
    /// another operator.
    Edit {
        name: String,
        #[command(flatten)]
        root: OtherRoot,
        #[command(flatten)]
        settings: Settings,
    },
    /// Let an anchor speak for another partner. Another operator approves it.
    Bind(Binding),
    /// Let an anchor speak for a partner no more.
    Unbind(Binding),
    /// Remove an anchor that no credential is under, for good.
    Remove {
        name: String,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        asking: Asking,
    },
    /// Refuse one certificate under an anchor, at once, as if a revocation list named it.
    Deny(Certificate),
    /// Take that back.
    Undeny(Certificate),
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// A partner that it may speak for; all of them, several times for several.
    #[arg(long = "partner", value_name = "ID")]
    partners: Vec<String>,
    /// Longest validity of a client certificate under it: 400d.
    #[arg(long, value_name = "DURATION")]
    max_lifetime: Option<String>,
    /// Whether client certificates must carry the clientAuth usage: required or optional.
    #[arg(long, value_name = "USAGE")]
    client_auth: Option<String>,
    /// Where its revocation lists come from: file:PATH, dir:PATH or a URL; several times for several.
    #[arg(long = "crl", value_name = "SOURCE")]
    crl: Vec<String>,
    /// Whether a certificate that no current list covers is refused: required, if-available or off.
    #[arg(long, value_name = "MODE")]
    revocation: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
struct Binding {
    name: String,
    /// The partner; several times for several.
    #[arg(long = "partner", required = true, value_name = "ID")]
    partners: Vec<String>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
struct Certificate {
    /// The anchor.
    name: String,
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Named {
    /// Serial number in hex, of a client certificate or of a CA below the anchor.
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// SHA-256 of the certificate in hex.
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    match args.command {
        Command::List { form } => see(gateway, "/v1/anchors", form, list).await,
        Command::Show { name, form } => match known_form(&name) {
            Ok(()) => see(gateway, &format!("/v1/anchors/{name}"), form, show).await,
            Err(exit) => exit,
        },
        Command::Add { name, root: RootFile { certificate, self_signed }, settings } => {
            set(gateway, Method::PUT, &name, (certificate, self_signed), settings).await.unwrap_or_else(|exit| exit)
        }
        Command::Edit { name, root: OtherRoot { certificate, self_signed }, settings } => {
            set(gateway, Method::PATCH, &name, (certificate, self_signed), settings).await.unwrap_or_else(|exit| exit)
        }
        Command::Bind(Binding { name, partners, asking }) => {
            let call = AnchorCall { bind: partners, ..AnchorCall::default() };
            send(gateway, Method::PATCH, &name, call, asking).await
        }
        Command::Unbind(Binding { name, partners, asking }) => {
            let call = AnchorCall { unbind: partners, ..AnchorCall::default() };
            send(gateway, Method::PATCH, &name, call, asking).await
        }
        Command::Remove { name, sure, asking } => match known_form(&name)
            .and_then(|()| sure.of(gateway, &format!("`{name}` and what is denied under it are removed.")))
        {
            Ok(()) => network::remove(gateway, &format!("/v1/anchors/{name}"), asking).await,
            Err(exit) => exit,
        },
        Command::Deny(certificate) => change(gateway, certificate, "deny").await,
        Command::Undeny(certificate) => change(gateway, certificate, "undeny").await,
    }
}

/// What is no name of an anchor would be no path of a call either.
fn known_form(name: &str) -> Result<(), Exit> {
    AnchorName::parse(name).map(drop).map_err(|reason| {
        complain(&format!("there is no anchor `{}`: {reason}", name.escape_debug()));
        Exit::Problems
    })
}

async fn set(
    gateway: &Gateway,
    method: Method,
    name: &str,
    (certificate, self_signed): (Option<PathBuf>, Option<PathBuf>),
    settings: Settings,
) -> Result<Exit, Exit> {
    let mut set = Map::new();
    for (key, flag, file) in
        [("certificate", "--certificate", certificate), ("self_signed", "--self-signed", self_signed)]
    {
        let Some(file) = file else { continue };
        let text = disk::read(&file, MAX_CERTIFICATE)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is no PEM".to_owned()));
        let text = text.map_err(|reason| {
            complain(&format!("{flag}: `{}` {reason}", file.display()));
            Exit::Problems
        })?;
        if text.contains("PRIVATE KEY-----") {
            complain(&format!("{flag}: `{}` holds a private key: send the certificate alone", file.display()));
            return Err(Exit::Problems);
        }
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            complain(&format!("{flag}: `{}` is no certificate in PEM", file.display()));
            return Err(Exit::Problems);
        }
        put(&mut set, key, Some(text));
    }
    put_list(&mut set, "partners", settings.partners);
    put(&mut set, "max_lifetime", settings.max_lifetime);
    put(&mut set, "client_auth", settings.client_auth);
    let mut revocation = Map::new();
    put_list(&mut revocation, "crl", settings.crl);
    put(&mut revocation, "mode", settings.revocation);
    put(&mut set, "revocation", (!revocation.is_empty()).then_some(revocation));
    Ok(send(gateway, method, name, AnchorCall { set, ..AnchorCall::default() }, settings.asking).await)
}

async fn send(gateway: &Gateway, method: Method, name: &str, call: AnchorCall, asking: Asking) -> Exit {
    if let Err(exit) = known_form(name) {
        return exit;
    }
    let Asking { because: Because { reason, ticket }, form } = asking;
    let call = json!(AnchorCall { reason, ticket, ..call });
    form.show(ask(gateway, method, &format!("/v1/anchors/{name}"), Some(&call)).await, planned)
}

async fn see(gateway: &Gateway, call: &str, form: Form, print: fn(&Value)) -> Exit {
    form.show(ask(gateway, Method::GET, call, None).await, print)
}

async fn change(gateway: &Gateway, certificate: Certificate, verb: &str) -> Exit {
    let Certificate { name, named: Named { serial, fingerprint }, why, form } = certificate;
    if let Err(exit) = known_form(&name) {
        return exit;
    }
    let call = json!(DenyCall { serial, fingerprint, reason: why.reason, ticket: why.ticket });
    let answer = ask(gateway, Method::POST, &format!("/v1/anchors/{name}/{verb}"), Some(&call)).await;
    form.show(answer, |value| {
        let certificate = &value["certificate"];
        let shown = ["serial", "fingerprint"]
            .iter()
            .find_map(|kind| certificate[kind].as_str().map(|hex| format!("{kind} {hex}")))
            .unwrap_or_default();
        let said = match (verb, value["changed"].as_bool() == Some(true)) {
            ("deny", true) => "is denied from now on",
            ("deny", false) => "is denied already",
            (_, true) => "is not denied any more",
            (_, false) => "is not denied",
        };
        say(&format!("{shown} {said} under `{name}` (registry revision {})", value["revision"]));
        unsaved(value);
    })
}

fn text(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

fn list(value: &Value) {
    let row = |name: &str, ends: &str, partners: &str, credentials: &str, revocation: &str, denied: &str| {
        let line = format!("{name:<20} {ends:<26} {partners:>8} {credentials:>11}  {revocation:<12} {denied:>6}");
        say(line.trim_end());
    };
    row("NAME", "NOT AFTER (UTC)", "PARTNERS", "CREDENTIALS", "REVOCATION", "DENIED");
    for a in value["anchors"].as_array().into_iter().flatten() {
        row(
            &text(&a["name"]),
            a["not_after"].as_str().unwrap_or("none"),
            &text(&a["partners"]),
            &text(&a["credentials"]),
            &text(&a["revocation"]),
            &text(&a["denied"]),
        );
    }
}

fn show(value: &Value) {
    let join = |v: &Value| v.as_array().map(|l| l.iter().map(text).collect::<Vec<_>>().join(", ")).unwrap_or_default();
    say(&text(&value["name"]));
    if let Some(domain) = value["bundle"]["trust_domain"].as_str() {
        say(&format!("  bundle       of {domain}, in {}", text(&value["bundle"]["file"])));
    }
    for c in value["certificates"].as_array().into_iter().flatten() {
        let kind = if value["self_signed"] == true { "self-signed" } else { "certificate" };
        say(&format!("  {kind:<13}{} until {}", text(&c["subject"]), text(&c["not_after"])));
        say(&format!("               SHA-256 {}", text(&c["fingerprint_sha256"])));
    }
    say(&format!("  partners     {}", join(&value["partners"])));
    say(&format!("  environments {}", join(&value["environments"])));
    say(&format!("  client_auth  {}", text(&value["client_auth"])));
    let revocation = &value["revocation"];
    say(&format!("  revocation   {}", text(&revocation["mode"])));
    for source in revocation["sources"].as_array().into_iter().flatten() {
        say(&format!("               from {}", text(source)));
    }
    for list in value["lists"].as_array().into_iter().flatten() {
        match list["error"].as_str() {
            Some(error) => say(&format!("  failing      {}: {error}", text(&list["source"]))),
            None => say(&format!(
                "  list         number {}, {} revoked, next update {} ({})",
                text(&list["number"]),
                list["revoked"],
                text(&list["next_update"]),
                text(&list["source"])
            )),
        }
    }
    for d in value["denied"].as_array().into_iter().flatten() {
        let certificate = d["certificate"].as_object().and_then(|o| o.iter().next());
        let shown = certificate.map(|(kind, hex)| format!("{kind} {}", text(hex))).unwrap_or_default();
        say(&format!("  denied       {shown}"));
        say(&format!("               {} by {}: {}", text(&d["at"]), text(&d["author"]), text(&d["reason"])));
    }
    let users = value["credentials"].as_array().map(Vec::as_slice).unwrap_or_default();
    for c in users {
        let used = c["last_used"].as_str().map_or("never used".to_owned(), |t| format!("last used {t}"));
        say(&format!("  credential   {} of {} ({}), {used}", text(&c["id"]), text(&c["partner"]), text(&c["state"])));
    }
    if users.is_empty() {
        say("  credential   none: nobody needs this anchor any more");
    }
}
