//! `partnergate serve`.

use super::{Exit, complain};
use crate::config::Config;
use crate::server;
use std::path::Path;
use tracing_subscriber::EnvFilter;

pub(super) async fn run(path: &Path) -> Exit {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            complain(&problems.to_string());
            complain("partnergate does not start with this config");
            return Exit::Problems;
        }
    };
    log_to_stderr(&config);
    match server::run(path, config).await {
        Ok(()) => Exit::Done,
        Err(server::StartError::Invalid(problems)) => {
            complain(&problems.to_string());
            complain("partnergate does not start with this config");
            Exit::Problems
        }
        Err(e) => {
            complain(&format!("partnergate does not start: {e}"));
            Exit::Failed
        }
    }
}

/// Our own lines at the configured level; those of libraries only when they are errors, because they may repeat what a
/// client sent.
fn log_to_stderr(config: &Config) {
    let filter = EnvFilter::new(format!("off,partnergate={}", config.log.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second initialisation is impossible: this is the only one.
    let _ = if config.log.json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
