//! `ca`: the CA of teams that have none.

use super::{Exit, complain, say};
use crate::clock::Clock;
use crate::disk;
use crate::document::parse_secret;
use crate::issue::{Ca, Curve, seal_key};
use crate::name::AnchorName;
use std::path::PathBuf;
use std::time::Duration;

/// Largest passphrase.
const MAX_PASSPHRASE: usize = 4 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a CA: its key (0600) and its certificate. Nothing is changed in a gateway.
    Init(Init),
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
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CurveName {
    P256,
    P384,
}

pub(super) fn run(args: &Args) -> Exit {
    match &args.command {
        Command::Init(init) => make(init).unwrap_or_else(|exit| exit),
    }
}

fn make(init: &Init) -> Result<Exit, Exit> {
    let wrong = |reason: String| {
        complain(&reason);
        Exit::Problems
    };
    let failed = |reason: String| {
        complain(&reason);
        Exit::Failed
    };
    let anchor = AnchorName::parse(&init.anchor).map_err(|reason| wrong(format!("--anchor: {reason}")))?;
    let passphrase = match &init.passphrase {
        None => None,
        Some(reference) => {
            let reference = parse_secret(reference).map_err(|reason| wrong(format!("--passphrase: {reason}")))?;
            let (_, secret) =
                disk::secret(&reference, MAX_PASSPHRASE).map_err(|no| wrong(format!("--passphrase: {}", no.reason)))?;
            if secret.trim_ascii().is_empty() {
                return Err(wrong("--passphrase: is empty".into()));
            }
            Some(secret)
        }
    };
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
    write(&certificate_file, &crate::admin::pem(&certificate))?;
    let opened = init.passphrase.as_ref().map(|p| format!("\n      passphrase: {p}")).unwrap_or_default();
    say(&format!(
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
    Ok(Exit::Done)
}
