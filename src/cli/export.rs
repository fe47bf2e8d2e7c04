//! `export`: the registry as files that `apply` reads.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::client::Gateway;
use super::offline::{Wanted, look};
use super::{Exit, Form, complain, print, say};
use crate::store::DeclaredFile;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder to write to; it is created. Without it, the registry file goes to stdout.
    #[arg(short, long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Read the database directly; refused while a gateway runs.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    form: Form,
}

pub(super) async fn run(gateway: &Gateway, args: &Args) -> Exit {
    let mut value = match look(gateway, args.offline, "/v1/export", Wanted::Export).await {
        Ok(value) => value,
        Err(exit) => return exit,
    };
    let files: Vec<DeclaredFile> = serde_json::from_value(value["files"].take()).unwrap_or_default();
    let Some(folder) = &args.directory else {
        for file in files.iter().filter(|f| f.name.ends_with(".json")) {
            print(file.text.trim_end());
        }
        return Exit::Done;
    };
    if let Err(e) = std::fs::create_dir_all(folder) {
        complain(&format!("{}: {e}", folder.display()));
        return Exit::Failed;
    }
    for file in &files {
        if let Err(e) = std::fs::write(folder.join(&file.name), &file.text) {
            complain(&format!("{}: {e}", folder.join(&file.name).display()));
            return Exit::Failed;
        }
    }
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    args.form.show(Ok(json!({"directory": folder, "files": names})), |_| {
        say(&format!("{} files in {}", files.len(), folder.display()));
    })
}
