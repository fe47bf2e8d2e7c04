//! The history over the admin API: events, and whether their chain is whole.

use super::Shared;
use super::answer::{Answer, looked_up, problem, sent};
use crate::history::Fault;
use crate::record::{NodeRecords, RecordEnd, RecordFault};
use crate::store::{HistoryQuery, Verified};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Events of one answer.
const MOST: u32 = 1_000;

/// Query of `GET /v1/history`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct HistoryCall {
    /// Events of this kind of noun alone, and with `id` of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noun: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Events in which this grant is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// Events behind this one.
    #[serde(default)]
    pub after: u64,
}

impl HistoryCall {
    /// What the database is asked.
    pub fn query(&self) -> HistoryQuery {
        // As JSON writes it.
        let mentions = self.grant.as_deref().map(|id| Value::from(id).to_string());
        HistoryQuery { noun: self.noun.clone(), id: self.id.clone(), mentions, after: self.after, limit: MOST }
    }
}

/// Answer of `GET /v1/history`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct HistoryAnswer {
    /// Texts, oldest first, as they are chained.
    pub events: Vec<String>,
    /// There may be more behind them.
    pub more: bool,
}

impl HistoryAnswer {
    /// Of what a [`HistoryCall::query`] found.
    pub fn of(events: Vec<String>) -> Self {
        HistoryAnswer { more: events.len() >= MOST as usize, events }
    }
}

/// Answer of `GET /v1/audit`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct AuditAnswer {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Events of the chain, and the hash of the last.
    #[serde(default)]
    pub events: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Signed checkpoints that were found good.
    #[serde(default)]
    pub checkpoints: u64,
    /// Events that are in the records that were compared, and that a restore has taken back.
    #[serde(default)]
    pub taken_back: usize,
    /// Signed checkpoints in those records that the database's chain agrees with.
    #[serde(default)]
    pub copied_checkpoints: usize,
    /// Events behind the last one that is in those records.
    #[serde(default)]
    pub uncopied: usize,
    /// The public key that checkpoints of history and records are signed with, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How far the checkpoints of the records have come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records_end: Option<RecordEnd>,
    /// Of the records that were verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<NodeRecords>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_fault: Option<RecordFault>,
}

impl From<Result<Verified, Fault>> for AuditAnswer {
    fn from(found: Result<Verified, Fault>) -> Self {
        match found {
            Ok(Verified { end, checkpoints }) => {
                let (events, hash) = (end.seq, Some(end.hash.to_string()));
                AuditAnswer { ok: true, events, hash, checkpoints, ..AuditAnswer::default() }
            }
            Err(fault) => AuditAnswer { fault: Some(fault.to_string()), ..AuditAnswer::default() },
        }
    }
}

pub(super) async fn list(State(shared): State<Shared>, Query(call): Query<HistoryCall>) -> Answer<HistoryAnswer> {
    if call.noun.is_none() && call.id.is_some() {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "`id` takes a `noun` beside it", Vec::new()));
    }
    let events = looked_up(async move { shared.publisher.store().history(&call.query()).await }).await?;
    sent(HistoryAnswer::of(events))
}

pub(super) async fn audit(State(shared): State<Shared>) -> Answer<AuditAnswer> {
    // Before anything is read of them, they have come as far as that.
    let (end, key) =
        (shared.publisher.records_end(), shared.publisher.store().signer().map(|signer| signer.key()).ok());
    let found = looked_up(async move { shared.publisher.store().verify_history().await }).await?;
    sent(AuditAnswer { key, records_end: Some(end), ..found.into() })
}
