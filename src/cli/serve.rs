//! `partnergate serve`.

use super::{Exit, complain};
use crate::config::Config;
use crate::document::plain;
use crate::server;
use std::any::Any;
use std::io::Write;
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
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
        tracing::error!(place, message = message_of(info.payload()), "a panic");
    }));
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

/// Our own lines at the configured level; none of libraries, because they may repeat what a client sent.
fn log_to_stderr(config: &Config) {
    let filter = EnvFilter::new(format!("off,partnergate={}", config.log.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // A second initialisation is impossible: this is the only one.
    let _ = if config.log.json {
        builder.json().with_writer(std::io::stderr).try_init()
    } else {
        builder.with_ansi(false).with_writer(|| PlainLine).try_init()
    };
}

/// A line of the log for people: it comes whole.
struct PlainLine;

impl Write for PlainLine {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let shown = text.strip_suffix('\n').unwrap_or(&text);
        std::io::stderr().write_all(format!("{}\n", plain(shown, &['\t'])).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The message of a panic, where it is the same at every time. One that was put together when it happened may repeat
/// what a client sent, as the text that was cut in the middle of a character.
fn message_of(payload: &dyn Any) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_a_panic_repeats_nothing_of_a_client() {
        let secret = String::from("s\u{e9}cret");
        let told =
            |work: &(dyn Fn() + std::panic::RefUnwindSafe)| message_of(&*std::panic::catch_unwind(work).unwrap_err());
        assert_eq!(told(&|| panic!("always the same")), "always the same");
        assert_eq!(told(&|| drop(secret[2..].to_owned())), "(not shown)");
        assert_eq!(told(&|| panic!("for {secret}")), "(not shown)");
    }
}
