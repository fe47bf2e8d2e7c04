//! The command line: one file per group of commands, each an `Args` struct and one function.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 what was given has problems (they are listed), 4 not permitted; see
//! `docs/cli.md`.

mod anchor;
mod api_key;
mod apply;
mod approval;
mod audit;
mod bundle;
mod ca;
mod check;
mod client;
mod config;
mod credential;
mod db;
mod edit;
mod export;
mod generate;
mod grant;
mod history;
mod import;
mod import_certs;
mod keeper;
mod lockdown;
mod network;
mod offline;
mod operator;
mod partner;
mod policy;
mod records;
mod report;
mod serve;
mod status;
mod token;

use crate::admin::WhyCall;
use crate::document::plain;
use clap::{Parser, Subcommand};
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// How long the end of the program waits for work that nobody waits for any more.
const END_LIMIT: Duration = Duration::from_secs(5);

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 called wrongly, 3 what was given has problems and nothing was \
                          changed, 4 not permitted";

/// Reverse proxy that governs partner identities: partner mTLS in, Rego policy on every request, only allowed traffic
/// out.
#[derive(Debug, Parser)]
#[command(name = "partnergate", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    gateway: client::Gateway,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve,
    /// Check config, policy, certificates and registry as `serve` and reload build them.
    Check(check::Args),
    /// Look at a policy folder before it is served, and make a signed file of it.
    Policy(policy::Args),
    /// Print the config's schema, a commented example or the reference.
    Config(config::Args),
    /// Apply a folder of registry files: show the plan, then change all or nothing.
    Apply(apply::Args),
    /// Show what applying a folder of registry files would change, and what would wait.
    Plan(apply::PlanArgs),
    /// What waits for a second pair of eyes: look at it, approve it, reject it.
    Approval(approval::Args),
    /// Write the registry as files that `apply` reads.
    Export(export::Args),
    /// Write a registry file for partners that exist elsewhere today, of their certificates.
    Import(import_certs::Args),
    /// Name the first operators of a gateway.
    Admin(operator::AdminArgs),
    /// Those who operate the gateway: who they are, what they may do, and their tokens.
    Operator(operator::Args),
    /// Deny everything at once, or everything under one anchor, and take that back.
    Lockdown(lockdown::Args),
    /// What partners may call: asked for, approved, extended, ended.
    Grant(grant::Args),
    /// What partners prove themselves with.
    Credential(credential::Args),
    /// The built-in CA, for teams that have none.
    Ca(ca::Args),
    /// The keys that the gateway signs with.
    Token(token::Args),
    /// Trust anchors: which there are, whom they speak for, and single certificates that are denied.
    Anchor(anchor::Args),
    /// Named lists of addresses that partners call from.
    Network(network::Args),
    /// Show what was changed, by whom and why.
    History(history::HistoryArgs),
    /// Verify and export the history.
    Audit(audit::AuditArgs),
    /// Look at the database, fill a new one, copy it with its keys, and take a copy back.
    Db(db::Args),
    /// Partners: look at them, add and change them, stop them at once.
    Partner(partner::Args),
    /// Show what the running gateway decides on.
    Status(status::Args),
    /// Make the running gateway read its files again.
    Reload {
        #[command(flatten)]
        form: Form,
    },
    /// Print a script that completes commands in a shell.
    Completions(generate::CompletionsArgs),
    /// Write manual pages.
    Man(generate::ManArgs),
}

/// Flattened into the arguments of whatever answers.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Form {
    /// For people or for programs.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Why something is done, where it has to be said.
#[derive(Debug, clap::Args)]
struct Why {
    /// Why; kept in the history.
    #[arg(long)]
    reason: String,
    /// The ticket that it belongs to; kept in the history.
    #[arg(long)]
    ticket: Option<String>,
}

impl Why {
    fn call(self) -> WhyCall {
        WhyCall { reason: self.reason, ticket: self.ticket }
    }
}

/// The same where it may be left out.
#[derive(Debug, clap::Args)]
struct Because {
    /// Why; kept in the history.
    #[arg(long)]
    reason: Option<String>,
    /// The ticket that it belongs to; kept in the history.
    #[arg(long)]
    ticket: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Form {
    fn is_json(self) -> bool {
        self.output == Output::Json
    }

    /// Shows an answer as it came, or as `told` puts it for people.
    fn show(self, answer: Result<Value, Exit>, told: impl FnOnce(&Value)) -> Exit {
        match answer {
            Ok(value) => {
                match self.output {
                    Output::Json => print(&value.to_string()),
                    Output::Text if value.get("dry_run") == Some(&Value::Bool(true)) => edit::planned(&value),
                    Output::Text => told(&value),
                }
                Exit::Done
            }
            Err(exit) => exit,
        }
    }
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    Problems,
    /// Nobody knows who is calling, or no role of theirs permits it.
    NotPermitted,
    /// What a replay found.
    NewlyDenied,
    NewlyAllowed,
    NotReplayable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Problems => 3,
            Exit::NotPermitted => 4,
            Exit::NewlyDenied => 10,
            Exit::NewlyAllowed => 11,
            Exit::NotReplayable => 12,
        })
    }
}

/// Whether a command does nothing else than what the gateway can show beforehand. Those that only look have one too.
fn has_dry_run(command: &Command) -> bool {
    match command {
        Command::Serve | Command::Reload { .. } | Command::Import(_) | Command::Man(_) | Command::Admin(_) => false,
        Command::Ca(args) => args.only_looks(),
        Command::Db(args) => args.has_dry_run(),
        Command::Policy(args) => args.only_looks(),
        _ => true,
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(crate::policy::STACK)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(&format!("the runtime does not start: {e}"));
            return Exit::Failed.into();
        }
    };
    let gateway = &arguments.gateway;
    let path = &gateway.config;
    if gateway.dry_run && !has_dry_run(&arguments.command) {
        complain("error: --dry-run: this command has none; nothing was done");
        return ExitCode::from(2);
    }
    let exit = runtime.block_on(async {
        match arguments.command {
            Command::Serve => serve::run(path).await,
            Command::Check(args) => check::run(path, &args).await,
            Command::Policy(args) => policy::run(gateway, args).await,
            Command::Config(args) => config::run(&args),
            Command::Apply(args) => apply::run(gateway, &args).await,
            Command::Plan(args) => apply::run(gateway, &args.into()).await,
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
            Command::Approval(args) => approval::run(gateway, args).await,
            Command::Import(args) => import_certs::run(&args),
            Command::Export(args) => export::run(gateway, &args).await,
            Command::Admin(args) => operator::bootstrap(gateway, args).await,
            Command::Operator(args) => operator::run(gateway, args).await,
            Command::Lockdown(args) => lockdown::run(gateway, args).await,
            Command::Grant(args) => grant::run(gateway, args).await,
            Command::Ca(args) => ca::run(gateway, &args).await,
            Command::Token(args) => token::run(gateway, args).await,
            Command::Credential(args) => credential::run(gateway, args).await,
            Command::Anchor(args) => anchor::run(gateway, args).await,
            Command::Network(args) => network::run(gateway, args).await,
            Command::History(args) => history::history(gateway, &args).await,
            Command::Audit(args) => audit::audit(gateway, &args).await,
            Command::Db(args) => db::run(path, gateway.dry_run, args).await,
            Command::Partner(args) => partner::run(gateway, args).await,
            Command::Status(args) => status::run(gateway, &args).await,
            Command::Reload { form } => status::reload(gateway, form).await,
        }
    });
    // Requests that are cut here are recorded when they are dropped, which takes no time; a plan or an export that is
    // still made for somebody is not waited for to its end.
    runtime.shutdown_timeout(END_LIMIT);
    exit.into()
}

/// Writes what programs read, as it is; a reader that has gone is no error of ours.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes a line for people, which no value in it can end.
fn say(text: &str) {
    print(&plain(text, &[]));
}

/// Writes several lines of our own.
fn say_lines(text: &str) {
    print(&plain(text, &['\n']));
}

/// Writes to stderr. A problem has several lines, and those of a policy have tabs.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain(text, &['\n', '\t']));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, bool)>) {
        if command.get_subcommands().next().is_none() {
            let output = command.get_arguments().any(|arg| arg.get_id() == "output");
            found.push((path.to_owned(), output));
        }
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            leaves(below, format!("{path} {}", below.get_name()).trim(), found);
        }
    }

    #[test]
    fn every_command_answers_programs_too() {
        let mut found = Vec::new();
        let mut command = Arguments::command();
        command.build();
        leaves(&command, "", &mut found);
        let without: Vec<&str> = found.iter().filter(|(_, output)| !output).map(|(path, _)| path.as_str()).collect();
        // What runs, or prints one thing that is for programs already.
        let own = [
            "serve",
            "config schema",
            "config registry-schema",
            "config example",
            "config reference",
            "config metrics",
            "config reasons",
            "config input",
            "config input-schema",
            "config decision-schema",
            "audit key",
            "audit export",
            "completions",
            "man",
        ];
        assert!(found.len() > 80, "{}", found.len());
        assert_eq!(without, own, "{found:?}");
    }
}
