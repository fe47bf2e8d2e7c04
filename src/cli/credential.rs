//! `credential`: what partners prove themselves with.

use super::client::Gateway;
use super::edit::{self, Asking, id, pair, put};
use super::{Exit, complain};
use http::Method;
use serde_json::{Map, Value, json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Register a credential. One that is recognised by a name waits for another operator.
    Add(Add),
    /// End a credential at once, on what is open too.
    Revoke {
        partner: String,
        id: String,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    partner: String,
    /// The new credential's.
    id: String,
    /// The trust anchor that its chain must end in.
    #[arg(long)]
    anchor: String,
    /// What the certificate is recognised by: fingerprint_sha256=HEX, spki_sha256=HEX, uri=URI, dns=NAME, subject=DN,
    /// organization_id=ID, or issuer=DN and serial=HEX.
    #[arg(long = "match", required = true, value_name = "KEY=VALUE", value_parser = pair)]
    matches: Vec<(String, String)>,
    /// Free labels that policy sees.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    let outcome = match args.command {
        Command::Add(add) => register(gateway, add).await,
        Command::Revoke { partner, id: credential, asking } => revoke(gateway, &partner, &credential, asking).await,
    };
    outcome.unwrap_or_else(|exit| exit)
}

fn path(partner: &str, credential: &str) -> Result<String, Exit> {
    Ok(format!("/v1/partners/{}/credentials/{}", id("partner", partner)?, id("credential", credential)?))
}

async fn register(gateway: &Gateway, add: Add) -> Result<Exit, Exit> {
    let path = path(&add.partner, &add.id)?;
    let table =
        |pairs: Vec<(String, String)>| pairs.into_iter().map(|(k, v)| (k, json!(v))).collect::<Map<String, Value>>();
    let mut set = Map::new();
    put(&mut set, "anchor", Some(add.anchor));
    put(&mut set, "match", Some(table(add.matches)));
    put(&mut set, "labels", (!add.labels.is_empty()).then(|| table(add.labels)));
    Ok(edit::edit(gateway, Method::PUT, &path, set, None, add.asking).await)
}

async fn revoke(gateway: &Gateway, partner: &str, credential: &str, asking: Asking) -> Result<Exit, Exit> {
    if asking.because.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        complain("a reason is needed: --reason");
        return Err(Exit::Problems);
    }
    let mut set = Map::new();
    put(&mut set, "state", Some("revoked"));
    Ok(edit::edit(gateway, Method::PATCH, &path(partner, credential)?, set, None, asking).await)
}
