//! `ca`: the CA of teams that have none, on the gateway or on a host of its own.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::{Gateway, ask};
use super::edit::Sure;
use super::{Exit, Form, complain, say, say_lines};
use crate::admin::ListCall;
use crate::clock::{Clock, UnixNanos};
use crate::disk;
use crate::document::parse_secret;
use crate::history::document_sha256;
use crate::identity::{Certificate, Fingerprint, certificate_pem};
use crate::issue::{Ca, Curve, MAX_ORDER, Order, Wanted, open_key, seal_key};
use crate::name::AnchorName;
use http::Method;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest passphrase.
const MAX_PASSPHRASE: usize = 4 * 1024;
/// Largest file with a certificate or a key, and the journal.
const MAX_PEM: usize = 64 * 1024;
const MAX_JOURNAL: usize = 256 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a CA: its key (0600) and its certificate. Nothing is changed in a gateway.
    Init(Init),
    /// The CA of the gateway: where its key is, its revocation list, and the key that orders are signed with.
    Show {
        #[command(flatten)]
        form: Form,
    },
    /// The revocation list as it is to be signed where the key is on another host: write the order for `ca sign`.
    Order {
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// On the host that has the key: sign what an order of the gateway asks for, and note it in ANCHOR.signed.jsonl.
    Sign(Sign),
    /// Let the gateway serve a revocation list that `ca sign` has made.
    Publish {
        /// In DER or PEM.
        file: PathBuf,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, clap::Args)]
struct Sign {
    /// The file that `credential issue --order` or `ca order` has written.
    order: PathBuf,
    /// The folder that `ca init` has written to.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The trust anchor that the files are called after.
    #[arg(long, value_name = "NAME", default_value = "partners-ca")]
    anchor: String,
    /// The gateway's public key, as `ca show` says it there. Orders of others are refused.
    #[arg(long, value_name = "HEX")]
    gateway_key: String,
    /// What opens the key, as a reference: file:PATH (mode 0600 or 0400), env:NAME or credential:NAME.
    #[arg(long, value_name = "REFERENCE")]
    passphrase: Option<String>,
    /// Longest validity of a certificate that is signed.
    #[arg(long, value_name = "DAYS", default_value_t = 400)]
    max_days: u32,
    /// Where the certificate (PEM) or the revocation list (DER) is written.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Init {
    /// The folder that they are written to.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The trust anchor that it will be; the files are called so too.
    #[arg(long, value_name = "NAME", default_value = "partners-ca")]
    anchor: String,
    /// Common name of the CA.
    #[arg(long, default_value = "Partners CA")]
    name: String,
    #[arg(long, value_enum, default_value = "p256")]
    curve: CurveName,
    /// How long the CA is valid.
    #[arg(long, value_name = "DAYS", default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Encrypt the key with a passphrase, as a reference: file:PATH (mode 0600 or 0400), env:NAME or credential:NAME.
    #[arg(long, value_name = "REFERENCE")]
    passphrase: Option<String>,
    #[command(flatten)]
    form: Form,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CurveName {
    P256,
    P384,
}

impl Args {
    pub(super) fn only_looks(&self) -> bool {
        matches!(self.command, Command::Show { .. })
    }
}

pub(super) async fn run(gateway: &Gateway, args: &Args) -> Exit {
    let outcome = match &args.command {
        Command::Init(init) => make(init),
        Command::Show { form } => Ok(form.show(ask(gateway, Method::GET, "/v1/ca", None).await, shown)),
        Command::Order { out, form } => order(gateway, out, *form).await,
        Command::Sign(args) => sign(gateway, args),
        Command::Publish { file, form } => publish(gateway, file, *form).await,
    };
    outcome.unwrap_or_else(|exit| exit)
}

fn wrong(reason: impl AsRef<str>) -> Exit {
    complain(reason.as_ref());
    Exit::Problems
}

fn failed(reason: impl AsRef<str>) -> Exit {
    complain(reason.as_ref());
    Exit::Failed
}

fn shown(ca: &Value) {
    let text = |key: &str| ca[key].as_str().unwrap_or_default().to_owned();
    say(&format!("anchor        {}", text("anchor")));
    say(&format!("subject       {}", text("subject")));
    say(&format!("SHA-256       {}", text("fingerprint_sha256")));
    say(&format!("until         {}", text("not_after")));
    say(&format!("key           {}", if ca["key_is_here"] == true { "here" } else { "on another host" }));
    say(&format!("gateway key   {}", text("gateway_key")));
    let list = &ca["list"];
    match list["number"].as_u64() {
        Some(number) => {
            let next = list["next_update"].as_str().unwrap_or_default();
            say(&format!("list          number {number}, {} revoked, until {next}", list["revoked"]));
        }
        None => say("list          none"),
    }
    if ca["list_is_due"] == true {
        let lacks = list["lacks"].as_u64().unwrap_or_default();
        say(&format!("LIST DUE      it lacks {lacks}: `partnergate ca order`, `ca sign`, `ca publish`"));
    }
    if let Some(fault) = ca["fault"].as_str() {
        say(&format!("NOT IN USE    {fault}"));
    }
}

/// Keeps the order that the gateway has made.
pub(super) fn keep_order(answer: &Value, file: &Path) -> Result<(), Exit> {
    let order = answer["order"].as_str().unwrap_or_default();
    disk::replace(file, order.as_bytes()).map_err(|e| failed(format!("`{}`: {}", file.display(), disk::plain(&e))))
}

/// What is to be done with it.
pub(super) fn carried_out(answer: &Value, file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!(
        "wrote {}; on the host of the CA's key, within 7 days:\n    partnergate ca sign {name} --dir DIR --gateway-key {} \
         --out FILE",
        file.display(),
        answer["key"].as_str().unwrap_or_default()
    )
}

async fn order(gateway: &Gateway, out: &Path, form: Form) -> Result<Exit, Exit> {
    let answer = ask(gateway, Method::POST, "/v1/ca/order", None).await?;
    keep_order(&answer, out)?;
    Ok(form.show(Ok(answer), |answer| {
        say_lines(&carried_out(answer, out));
        say("    then here: partnergate ca publish FILE");
    }))
}

async fn publish(gateway: &Gateway, file: &Path, form: Form) -> Result<Exit, Exit> {
    let bytes = disk::read(file, MAX_ORDER).map_err(|reason| wrong(format!("`{}` {reason}", file.display())))?;
    let der = match CertificateRevocationListDer::from_pem_slice(&bytes) {
        Ok(list) => list.to_vec(),
        Err(_) => bytes,
    };
    let call = json!(ListCall { list: data_encoding::BASE64.encode(&der) });
    Ok(form.show(ask(gateway, Method::PUT, "/v1/ca/list", Some(&call)).await, |list| {
        let next = list["next_update"].as_str().unwrap_or_default();
        say(&format!("published: number {}, {} revoked, until {next}", list["number"], list["revoked"]));
        if let Some(lacks) = list["lacks"].as_u64().filter(|lacks| *lacks > 0) {
            say(&format!("it lacks {lacks} that were revoked since it was ordered: order another one"));
        }
    }))
}

fn passphrase(reference: Option<&str>) -> Result<Option<Vec<u8>>, Exit> {
    let Some(reference) = reference else { return Ok(None) };
    let reference = parse_secret(reference).map_err(|reason| wrong(format!("--passphrase: {reason}")))?;
    let (_, secret) =
        disk::secret(&reference, MAX_PASSPHRASE).map_err(|no| wrong(format!("--passphrase: {}", no.reason)))?;
    if secret.trim_ascii().is_empty() {
        return Err(wrong("--passphrase: is empty"));
    }
    Ok(Some(secret))
}

/// The CA of a folder, with its key.
fn opened(args: &Sign) -> Result<Ca, Exit> {
    let anchor = AnchorName::parse(&args.anchor).map_err(|reason| wrong(format!("--anchor: {reason}")))?;
    let (file, key) = (args.dir.join(format!("{anchor}.pem")), args.dir.join(format!("{anchor}.key")));
    let at = |file: &Path, reason: String| wrong(format!("`{}` {reason}", file.display()));
    let certificate = disk::read(&file, MAX_PEM).map_err(|reason| at(&file, reason))?;
    let certificate =
        CertificateDer::from_pem_slice(&certificate).map_err(|_| at(&file, "contains no certificate in PEM".into()))?;
    let reference = parse_secret(&format!("file:{}", key.display())).map_err(|reason| at(&key, reason))?;
    let (_, sealed) = disk::secret(&reference, MAX_PEM).map_err(|no| at(&key, no.reason))?;
    let opened = open_key(&sealed, passphrase(args.passphrase.as_deref())?.as_deref());
    let opened = opened.map_err(|reason| at(&key, format!("{reason}: --passphrase REFERENCE")))?;
    Ca::new(&certificate, Some(&opened)).map_err(|reason| at(&file, reason))
}

fn sign(gateway: &Gateway, args: &Sign) -> Result<Exit, Exit> {
    let ca = opened(args)?;
    let now = Clock::new().now();
    let refused = |reason: String| wrong(format!("nothing is signed: `{}` {reason}", args.order.display()));
    let text = disk::read(&args.order, MAX_ORDER).map_err(refused)?;
    let text = String::from_utf8(text).map_err(|_| refused("is no text".into()))?;
    let order = Order::open(&text, &args.gateway_key, &ca, now).map_err(refused)?;
    let journal = args.dir.join(format!("{}.signed.jsonl", args.anchor));
    let before = entries(&journal)?;
    let sha256 = document_sha256(&text);
    if let Some(entry) = before.iter().find(|entry| entry["order_sha256"] == sha256.as_str()) {
        let at = entry["time"].as_str().unwrap_or_default();
        return Err(refused(format!("was carried out already, at {at}: each order is carried out once")));
    }
    let plain = |text: &str| text.escape_debug().to_string();
    let (question, signed, what) = match &order.wanted {
        Wanted::Certificate(wanted) => {
            let csr = wanted.csr().map_err(refused)?;
            let names = wanted.names.uri.iter().chain(&wanted.names.dns).map(String::as_str);
            let names: Vec<&str> = names.collect();
            let days = wanted.terms.lifetime.as_secs() / 86_400;
            if days > u64::from(args.max_days) {
                return Err(refused(format!("wants a certificate of {days} days; --max-days is {}", args.max_days)));
            }
            let der = ca.issue(&csr, &wanted.names, &wanted.terms, now).map_err(refused)?;
            let facts = Certificate::from_der(&der).map_err(|fault| refused(fault.detail))?;
            let question = format!(
                "A certificate for the credential `{}` of `{}` ({}), subject `{}`, until {}, list {}, as {} has ordered at {}, \
                 of the key with the SHA-256 {}.",
                wanted.credential,
                wanted.partner,
                if names.is_empty() { "no subjectAltName".to_owned() } else { plain(&names.join(", ")) },
                plain(&facts.subject.to_string()),
                facts.not_after,
                plain(wanted.terms.list_url.as_deref().unwrap_or("nowhere")),
                plain(&order.by),
                order.made,
                csr.spki_sha256
            );
            let what = json!({
                "partner": wanted.partner, "credential": wanted.credential, "spki_sha256": csr.spki_sha256,
                "fingerprint_sha256": Fingerprint::of(&der),
            });
            (question, Signed::Certificate(der), what)
        }
        Wanted::List(wanted) => {
            let last = before.iter().filter_map(|entry| entry["signed"]["number"].as_u64()).max();
            if last.is_some_and(|last| last >= wanted.number) {
                let reason =
                    format!("wants the number {}, and {} was signed already", wanted.number, last.unwrap_or(0));
                return Err(refused(reason));
            }
            let question = format!(
                "The revocation list number {}, of {} certificates, as {} has ordered at {}.",
                wanted.number,
                wanted.revoked.len(),
                plain(&order.by),
                order.made
            );
            let lifetime = Duration::from_secs(wanted.lifetime_s);
            // As of when it was ordered: what was revoked since is not on it.
            let der = ca.list(&wanted.revoked, wanted.number, order.made, lifetime).map_err(refused)?;
            (question, Signed::List(der), json!({"number": wanted.number, "revoked": wanted.revoked.len()}))
        }
    };
    args.sure.of(gateway, &question)?;
    // Noted first: nothing is out there that this host does not know of.
    note(&journal, &order, &sha256, &what, now)?;
    let bytes = match signed {
        Signed::Certificate(der) => certificate_pem(&der).into_bytes(),
        Signed::List(der) => der,
    };
    disk::replace(&args.out, &bytes).map_err(|e| failed(format!("`{}`: {}", args.out.display(), disk::plain(&e))))?;
    Ok(args.form.show(Ok(json!({"signed": what, "file": args.out})), |_| {
        say_lines(&format!("{question}\nsigned: {}", args.out.display()));
    }))
}

enum Signed {
    Certificate(Vec<u8>),
    List(Vec<u8>),
}

/// What was signed here.
fn entries(journal: &Path) -> Result<Vec<Value>, Exit> {
    if !journal.exists() {
        return Ok(Vec::new());
    }
    let at = |reason: &str| wrong(format!("`{}` {reason}", journal.display()));
    let text = disk::read(journal, MAX_JOURNAL).map_err(|reason| at(&reason))?;
    let lines = String::from_utf8_lossy(&text);
    lines.lines().map(|line| serde_json::from_str(line).map_err(|e| at(&format!("cannot be read: {e}")))).collect()
}

fn note(journal: &Path, order: &Order, sha256: &str, what: &Value, now: UnixNanos) -> Result<(), Exit> {
    let entry = json!({
        "time": now.to_string(), "anchor": order.anchor, "ordered_by": order.by, "ordered": order.made.to_string(),
        "order_sha256": sha256, "signed": what,
    });
    let written = OpenOptions::new().create(true).append(true).mode(0o600).open(journal).and_then(|mut file| {
        file.write_all(format!("{entry}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| failed(format!("nothing is signed: `{}`: {}", journal.display(), disk::plain(&e))))
}

fn make(init: &Init) -> Result<Exit, Exit> {
    let anchor = AnchorName::parse(&init.anchor).map_err(|reason| wrong(format!("--anchor: {reason}")))?;
    let passphrase = passphrase(init.passphrase.as_deref())?;
    let (certificate_file, key_file) = (init.dir.join(format!("{anchor}.pem")), init.dir.join(format!("{anchor}.key")));
    for file in [&certificate_file, &key_file] {
        if file.exists() {
            return Err(wrong(format!("`{}` is there already: a CA is not replaced by accident", file.display())));
        }
    }
    let curve = match init.curve {
        CurveName::P256 => Curve::P256,
        CurveName::P384 => Curve::P384,
    };
    let lifetime = Duration::from_secs(u64::from(init.days) * 86_400);
    let (certificate, key) = Ca::generate(&init.name, curve, Clock::new().now(), lifetime)
        .map_err(|e| failed(format!("no CA is made: {e}")))?;
    let sealed = seal_key(&key, passphrase.as_deref()).map_err(|e| failed(format!("no CA is made: {e}")))?;
    let write = |file: &PathBuf, text: &str| {
        disk::replace(file, text.as_bytes()).map_err(|e| failed(format!("`{}`: {}", file.display(), disk::plain(&e))))
    };
    write(&key_file, &sealed)?;
    write(&certificate_file, &certificate_pem(&certificate))?;
    let opened = init.passphrase.as_ref().map(|p| format!("\n      passphrase: {p}")).unwrap_or_default();
    let made = json!({"anchor": anchor, "certificate": certificate_file, "key": key_file});
    Ok(init.form.show(Ok(made), |_| {
    say_lines(&format!(
        "made {} and {} (keep the key where nobody else reads it, and a copy of it elsewhere)\n\n\
         In the config file:\n\n    issue:\n      anchor: {anchor}\n      certificate: {}\n      key: file:{}{opened}\n\n\
         Then, for the partners that it may speak for, which another operator approves:\n\n    \
         partnergate anchor add {anchor} --certificate {} --partner ID --crl file:STATE_DIR/issue/{anchor}.crl",
        certificate_file.display(),
        key_file.display(),
        certificate_file.display(),
        key_file.display(),
        certificate_file.display(),
    ));
    }))
}
