//! `partnergate config schema|example|reference`.

use super::{Exit, say};
use crate::config::CONFIG;
use crate::document::{example, json_schema, reference};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// JSON Schema of the config file.
    Schema,
    /// A commented config file with every key.
    Example,
    /// Every key in a Markdown table.
    Reference,
}

pub(super) fn run(args: &Args) -> Exit {
    match args.what {
        What::Schema => {
            say(&serde_json::to_string_pretty(&json_schema("partnergate.yaml", CONFIG)).unwrap_or_default());
        }
        What::Example => say(example(CONFIG).trim_end()),
        What::Reference => {
            say("| key | default | meaning |\n| --- | --- | --- |");
            for (key, default, doc) in reference(CONFIG) {
                say(&format!("| `{key}` | {default} | {doc} |"));
            }
        }
    }
    Exit::Done
}
