//! `network`: named lists of addresses that partners call from.

use super::client::{Gateway, ask};
use super::edit::{self, Asking, id, planned, put_list};
use super::{Because, Exit, Form, say};
use http::Method;
use serde_json::{Map, Value};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All networks in a table.
    List {
        #[command(flatten)]
        form: Form,
    },
    /// One network, and who may call from it.
    Show {
        name: String,
        #[command(flatten)]
        form: Form,
    },
    /// Add a network. It is nobody's yet.
    Add(Set),
    /// Give a network other addresses. More of them wait for another operator.
    Edit(Set),
    /// Remove a network that nobody uses.
    Remove {
        name: String,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    name: String,
    /// An address range such as 203.0.113.0/24; all of them, several times for several.
    #[arg(long = "cidr", required = true, value_name = "CIDR")]
    cidrs: Vec<String>,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    let outcome = match args.command {
        Command::List { form } => Ok(form.show(ask(gateway, Method::GET, "/v1/networks", None).await, list)),
        Command::Show { name, form } => match path(&name) {
            Ok(path) => Ok(form.show(ask(gateway, Method::GET, &path, None).await, show)),
            Err(exit) => Err(exit),
        },
        Command::Add(set) => change(gateway, Method::PUT, set).await,
        Command::Edit(set) => change(gateway, Method::PATCH, set).await,
        Command::Remove { name, asking } => match path(&name) {
            Ok(path) => Ok(remove(gateway, &path, asking).await),
            Err(exit) => Err(exit),
        },
    };
    outcome.unwrap_or_else(|exit| exit)
}

fn path(name: &str) -> Result<String, Exit> {
    Ok(format!("/v1/networks/{}", id("network", name)?))
}

async fn change(gateway: &Gateway, method: Method, set: Set) -> Result<Exit, Exit> {
    let mut table = Map::new();
    put_list(&mut table, "cidrs", set.cidrs);
    Ok(edit::edit(gateway, method, &path(&set.name)?, table, None, set.asking).await)
}

/// Removes what a path names, where nothing refers to it.
pub(super) async fn remove(gateway: &Gateway, path: &str, asking: Asking) -> Exit {
    let Asking { because: Because { reason, ticket }, form } = asking;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in [("reason", reason), ("ticket", ticket)] {
        if let Some(value) = value {
            query.append_pair(key, &value);
        }
    }
    let target = format!("{path}?{}", query.finish());
    form.show(ask(gateway, Method::DELETE, &target, None).await, planned)
}

fn join(v: &Value) -> String {
    let all = v.as_array().map(|l| l.iter().filter_map(Value::as_str).collect::<Vec<_>>()).unwrap_or_default();
    if all.is_empty() { "nobody".into() } else { all.join(", ") }
}

fn list(answer: &Value) {
    say(&format!("{:<24} CIDRS", "NAME"));
    for network in answer["networks"].as_array().into_iter().flatten() {
        say(&format!("{:<24} {}", network["name"].as_str().unwrap_or_default(), join(&network["cidrs"])));
    }
}

fn show(network: &Value) {
    say(network["name"].as_str().unwrap_or_default());
    say(&format!("  cidrs       {}", join(&network["cidrs"])));
    say(&format!("  partners    {}", join(&network["partners"])));
    say(&format!("  grants      {}", join(&network["grants"])));
}
