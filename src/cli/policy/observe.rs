//! `policy observe` and `policy enforce`: whether a custom rule counts for one partner yet.

use crate::cli::client::{Gateway, ask};
use crate::cli::edit::{self, Asking, put};
use crate::cli::{Exit, complain};
use http::Method;
use serde_json::{Map, Value, json};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Observe {
    /// The partner.
    partner: String,
    /// The reason that the rule denies with, such as `x-weekend`.
    rule: String,
    /// When it begins to count by itself: RFC 3339, exclusive.
    #[arg(long, value_parser = edit::time)]
    until: String,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Enforce {
    /// The partner.
    partner: String,
    /// The reason that the rule denies with.
    rule: String,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn observe(gateway: &Gateway, args: Observe) -> Exit {
    let Observe { partner, rule, until, asking } = args;
    set(gateway, &partner, asking, |observed| {
        observed.insert(rule, json!(until));
        true
    })
    .await
}

pub(super) async fn enforce(gateway: &Gateway, args: Enforce) -> Exit {
    let Enforce { partner, rule, asking } = args;
    let missing = format!("`{rule}` is not only observed with `{partner}`: it counts already");
    set(gateway, &partner, asking, |observed| {
        let was = observed.shift_remove(&rule).is_some();
        if !was {
            complain(&missing);
        }
        was
    })
    .await
}

/// Changes what is only observed with a partner; nothing where `change` says so.
async fn set(
    gateway: &Gateway,
    partner: &str,
    asking: Asking,
    change: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Exit {
    let path = match edit::id("partner", partner) {
        Ok(id) => format!("/v1/partners/{id}"),
        Err(exit) => return exit,
    };
    let there = match ask(gateway, Method::GET, &path, None).await {
        Ok(there) => there,
        Err(exit) => return exit,
    };
    let mut observed = there.pointer("/partner/observe").and_then(Value::as_object).cloned().unwrap_or_default();
    if !change(&mut observed) {
        return Exit::Problems;
    }
    let mut changes = Map::new();
    // None of them any more is the absence of the key.
    put(&mut changes, "observe", Some(if observed.is_empty() { Value::Null } else { observed.into() }));
    edit::edit(gateway, Method::PATCH, &path, changes, None, asking).await
}
