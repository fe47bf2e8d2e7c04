//! `completions` and `man`: what shells and readers of manuals need, from the definitions of the commands themselves.

use super::{Arguments, Exit, complain, say};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Folder for the pages, one for each command; it is created.
    directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "partnergate", &mut script);
    // A reader that has gone is no error of ours.
    let _ = std::io::stdout().write_all(&script);
    Exit::Done
}

pub(super) fn man(args: &ManArgs) -> Exit {
    let written = std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), &args.directory))
        .and_then(|()| Ok(std::fs::read_dir(&args.directory)?.count()));
    match written {
        Ok(pages) => {
            say(&format!("{pages} pages in {}", args.directory.display()));
            Exit::Done
        }
        Err(e) => {
            complain(&format!("{}: {e}", args.directory.display()));
            Exit::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clap would only find when a command is given.
    #[test]
    fn definitions_of_commands_hold_together() {
        Arguments::command().debug_assert();
    }
}
