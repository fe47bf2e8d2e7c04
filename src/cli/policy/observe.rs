//! `policy observe` and `policy enforce`: whether a custom rule counts for one partner yet.

use crate::cli::Exit;
use crate::cli::client::Gateway;
use crate::cli::edit::{self, Asking, put};
use http::Method;
use serde_json::{Map, Value, json};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Observe {
    /// The partner.
    partner: String,
    /// The reason that the rule denies with, such as `x-weekend`.
    rule: String,
    /// When it begins to count by itself: RFC 3339, exclusive, and still to come.
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
    match path(&partner) {
        Ok(path) => set(gateway, &path, rule, json!(until), asking).await,
        Err(exit) => exit,
    }
}

pub(super) async fn enforce(gateway: &Gateway, args: Enforce) -> Exit {
    let Enforce { partner, rule, asking } = args;
    match path(&partner) {
        Ok(path) => set(gateway, &path, rule, Value::Null, asking).await,
        Err(exit) => exit,
    }
}

fn path(partner: &str) -> Result<String, Exit> {
    edit::id("partner", partner).map(|id| format!("/v1/partners/{id}"))
}

async fn set(gateway: &Gateway, path: &str, rule: String, until: Value, asking: Asking) -> Exit {
    let (mut observe, mut changes) = (Map::new(), Map::new());
    put(&mut observe, &rule, Some(until));
    put(&mut changes, "observe", Some(observe));
    edit::edit(gateway, Method::PATCH, path, changes, None, asking).await
}
