//! `admin bootstrap` and `operator`: those who operate the gateway.

use super::client::{Gateway, ask};
use super::keeper::Keeper;
use super::{Because, Exit, Form, Why, complain, say};
use crate::admin::{BootstrapCall, OperatorCall, RolesCall, Shown, TokenCall};
use crate::document::parse_duration;
use crate::name::OperatorName;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AdminCommand {
    /// Name the first operators, with every role: once, by the gateway's own user or root.
    Bootstrap {
        /// NAME=user:USER for a user of the gateway's machine, NAME=token for one with a token, NAME=token:FILE to have
        /// it written there, NAME=certificate:uri=URI (dns=, subject=, spki_sha256=, fingerprint_sha256=) for a client
        /// certificate on the admin listener. Two at least.
        #[arg(required = true, num_args = 2.., value_name = "NAME=WAY")]
        operators: Vec<String>,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All operators in a table.
    List {
        #[command(flatten)]
        form: Form,
    },
    /// One operator: roles, and how it shows who it is.
    Show {
        name: String,
        #[command(flatten)]
        form: Form,
    },
    /// Add an operator.
    Add(AddArgs),
    /// Say anew which roles an operator has.
    Roles {
        name: String,
        /// viewer, requester, approver, operator, auditor, introspector; all that it is to have.
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<String>,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
    /// Shut an operator out, at once.
    Disable(Named),
    /// Let one in again that was shut out.
    Enable(Named),
    /// Tokens of operators.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    name: String,
    /// viewer, requester, approver, operator, auditor, introspector; several times for several.
    #[arg(long = "role", required = true, value_name = "ROLE")]
    roles: Vec<String>,
    #[command(flatten)]
    shown: ShownBy,
    #[command(flatten)]
    token: TokenOptions,
    #[command(flatten)]
    because: Because,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct ShownBy {
    /// A user of the gateway's machine, by name or number.
    #[arg(long)]
    user: Option<String>,
    /// What a client certificate on the admin listener has: uri=URI, dns=NAME, subject=DN, spki_sha256=HEX or
    /// fingerprint_sha256=HEX.
    #[arg(long, value_name = "KEY=VALUE")]
    certificate: Option<String>,
    /// Give it a token, which is shown once.
    #[arg(long = "with-token")]
    token: bool,
}

#[derive(Debug, clap::Args)]
struct TokenOptions {
    /// How long a token is good for, at most 366d.
    #[arg(long, value_name = "DURATION", value_parser = life, default_value = "90d")]
    expires: Duration,
    /// Write the token into a new file instead of showing it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Named {
    name: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Make a token for an operator. It is shown once.
    Add {
        name: String,
        #[command(flatten)]
        token: TokenOptions,
        #[command(flatten)]
        because: Because,
        #[command(flatten)]
        form: Form,
    },
    /// Revoke a token, at once.
    Revoke {
        name: String,
        /// As `operator show` lists it; a token begins with pgo_ID_.
        id: String,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        form: Form,
    },
}

fn life(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

pub(super) async fn bootstrap(gateway: &Gateway, args: AdminArgs) -> Exit {
    let AdminCommand::Bootstrap { operators, form } = args.command;
    let (mut first, mut paths) = (Vec::new(), Vec::new());
    for written in &operators {
        match first_operator(written) {
            Ok((operator, file)) => {
                first.push(operator);
                paths.push(file);
            }
            Err(reason) => {
                complain(&format!("`{}`: {reason}", written.escape_debug()));
                return Exit::Problems;
            }
        }
    }
    let files: Result<Vec<Keeper>, Exit> = paths.iter().map(|path| Keeper::new(path.as_deref())).collect();
    let files = match files {
        Ok(files) => files,
        Err(exit) => return exit,
    };
    let call = json!(BootstrapCall { operators: first });
    let mut answer = match ask(gateway, Method::POST, "/v1/bootstrap", Some(&call)).await {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    let mut exit = Exit::Done;
    if let Some(made) = answer.get_mut("operators").and_then(Value::as_array_mut) {
        for (operator, file) in made.iter_mut().zip(files) {
            exit = file.keep("token", operator).err().unwrap_or(exit);
        }
    }
    let shown = form.show(Ok(answer), |answer| each(answer, told));
    if exit == Exit::Done { shown } else { exit }
}

/// As `NAME=WAY`, and where its token is to be written.
pub(super) fn first_operator(written: &str) -> Result<(OperatorCall, Option<PathBuf>), String> {
    const FORM: &str = "write NAME=user:USER, NAME=token, NAME=token:FILE or NAME=certificate:KEY=VALUE";
    let (name, way) = written.split_once('=').ok_or(FORM)?;
    let mut operator = OperatorCall { name: OperatorName::parse(name)?.to_string(), ..OperatorCall::default() };
    let mut file = None;
    match way.split_once(':') {
        None if way == "token" => operator.token = true,
        Some(("token", path)) => (operator.token, file) = (true, Some(path.into())),
        Some(("user", user)) => operator.user = Some(user.into()),
        Some(("certificate", certificate)) => operator.certificate = Some(certificate.into()),
        _ => return Err(FORM.into()),
    }
    Ok((operator, file))
}

pub(super) async fn run(gateway: &Gateway, args: Args) -> Exit {
    match args.command {
        Command::List { form } => form.show(ask(gateway, Method::GET, "/v1/operators", None).await, |answer| {
            row(["NAME", "ROLES", "SHOWN BY", ""]);
            each(answer, listed);
        }),
        Command::Show { name, form } => match path_of(&name) {
            Ok(path) => form.show(ask(gateway, Method::GET, &path, None).await, |answer| one(answer, told)),
            Err(exit) => exit,
        },
        Command::Add(AddArgs { name, roles, shown, token, because, form }) => {
            let ShownBy { user, certificate, token: with_token } = shown;
            let token_life_s = Some(token.expires.as_secs());
            let Because { reason, ticket } = because;
            let call = OperatorCall { name, roles, user, certificate, token: with_token, token_life_s, reason, ticket };
            with_token_kept(gateway, "/v1/operators", &json!(call), token.token_file.as_deref(), form).await
        }
        Command::Roles { name, roles, why, form } => {
            let call = RolesCall { roles, reason: why.reason, ticket: why.ticket };
            change(gateway, Method::PUT, &name, "/roles", &json!(call), form).await
        }
        Command::Disable(Named { name, why, form }) => {
            change(gateway, Method::POST, &name, "/disable", &json!(why.call()), form).await
        }
        Command::Enable(Named { name, why, form }) => {
            change(gateway, Method::POST, &name, "/enable", &json!(why.call()), form).await
        }
        Command::Token { command: TokenCommand::Add { name, token, because, form } } => {
            let Because { reason, ticket } = because;
            let call = json!(TokenCall { life_s: Some(token.expires.as_secs()), reason, ticket });
            match path_of(&name) {
                Ok(path) => {
                    let path = format!("{path}/tokens");
                    with_token_kept(gateway, &path, &call, token.token_file.as_deref(), form).await
                }
                Err(exit) => exit,
            }
        }
        Command::Token { command: TokenCommand::Revoke { name, id, why, form } } => {
            // What is no id would be no path of a call either.
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                complain("the id of a token is what stands between `pgo_` and the next `_`");
                return Exit::Problems;
            }
            change(gateway, Method::DELETE, &name, &format!("/tokens/{id}"), &json!(why.call()), form).await
        }
    }
}

fn path_of(name: &str) -> Result<String, Exit> {
    match OperatorName::parse(name) {
        Ok(name) => Ok(format!("/v1/operators/{name}")),
        Err(reason) => {
            complain(&format!("there is no such operator: {reason}"));
            Err(Exit::Problems)
        }
    }
}

async fn change(gateway: &Gateway, method: Method, name: &str, verb: &str, call: &Value, form: Form) -> Exit {
    match path_of(name) {
        Ok(path) => {
            let answer = ask(gateway, method, &format!("{path}{verb}"), Some(call)).await;
            form.show(answer, |answer| one(answer, told))
        }
        Err(exit) => exit,
    }
}

async fn with_token_kept(gateway: &Gateway, path: &str, call: &Value, file: Option<&Path>, form: Form) -> Exit {
    let keeper = match Keeper::new(file) {
        Ok(keeper) => keeper,
        Err(exit) => return exit,
    };
    match ask(gateway, Method::POST, path, Some(call)).await {
        Ok(answer) => show_with_token(answer, keeper, form),
        Err(exit) => exit,
    }
}

/// An operator whose token is told this once, or written into a file.
pub(super) fn show_with_token(mut answer: Value, keeper: Keeper, form: Form) -> Exit {
    let kept = keeper.keep("token", &mut answer);
    let shown = form.show(Ok(answer), |answer| one(answer, told));
    kept.err().unwrap_or(shown)
}

fn each(answer: &Value, show: fn(&Shown)) {
    for value in answer.get("operators").and_then(Value::as_array).into_iter().flatten() {
        one(value, show);
    }
}

fn one(value: &Value, show: fn(&Shown)) {
    if let Ok(operator) = Shown::deserialize(value) {
        show(&operator);
    }
}

fn row(columns: [&str; 4]) {
    let [name, roles, shown_by, end] = columns;
    say(format!("{name:<20} {roles:<48} {shown_by:<32} {end}").trim_end());
}

fn ways(operator: &Shown) -> Vec<String> {
    let Shown { uid, user, certificate, tokens, .. } = operator;
    let uid = uid.map(|uid| format!("user {} ({uid})", user.as_deref().unwrap_or_default()));
    let certificate = certificate.as_ref().map(|m| format!("certificate with {}", json!(m)));
    let tokens = tokens.iter().map(|t| {
        let until = if t.expired { "expired" } else { "until" };
        format!("token {} {until} {}", t.id, t.expires)
    });
    uid.into_iter().chain(certificate).chain(tokens).collect()
}

fn listed(operator: &Shown) {
    let end = if operator.disabled.is_some() { "DISABLED" } else { "" };
    row([&operator.name, &roles(operator), &ways(operator).join("; "), end]);
}

fn roles(operator: &Shown) -> String {
    operator.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

fn told(operator: &Shown) {
    say(&operator.name);
    if let Some(id) = &operator.approval {
        say(&format!(
            "  WAITS     as {id}, and is not so yet: `partnergate approval approve {id}` by another operator"
        ));
    }
    say(&format!("  roles     {}", roles(operator)));
    for way in ways(operator) {
        say(&format!("  shown by  {way}"));
    }
    if let Some(end) = &operator.disabled {
        say(&format!("  DISABLED  by {} since {}: {}", end.author, end.at, end.reason));
    }
    if let Some(warning) = &operator.warning {
        complain(&format!("warning: {warning}"));
    }
    if let Some(file) = &operator.token_file {
        say(&format!("  token     written to {file}"));
    }
    if let Some(token) = &operator.token {
        say(&format!("  token     {token}"));
        say("            keep it now: it is shown this once");
    }
}
