//! What waits for a second pair of eyes: parts of the registry that would permit more than is permitted now.
//!
//! In: changes that somebody asks for. Out: what of them is done at once, because it permits no more than there was, and
//! what waits; what the rest comes to when somebody else has approved it. Must never: let a part through that was not
//! looked at as it is; do I/O or read a clock.

mod item;
mod widening;

pub use item::{Becomes, Item, Present, Split, changes, split};

/// Whether something that an approval refers to has been taken away or exchanged by changes, so that what was looked at is
/// not what would become of it: its partner, a credential of it, or a network that it names.
pub fn is_void(approval: &Approval, registry: &Registry, changes: &[Change]) -> bool {
    changes.iter().any(|change| match change {
        Change::Partner(id, after) => {
            let concerns = approval.items.iter().any(|item| item.partner() == Some(id));
            let before = registry.partner(id);
            concerns && before.is_some_and(|before| after.as_ref().is_none_or(|after| exchanged(before, after)))
        }
        Change::Network(name, None) => approval.items.iter().any(|item| item.names(name)),
        Change::Network(..) | Change::Anchor(..) | Change::Lockdown(..) => false,
    })
}

/// Whether a credential is another one than it was.
fn exchanged(before: &PartnerRecord, after: &PartnerRecord) -> bool {
    let same = |c: &Credential| {
        find_credential(after, &c.id).is_some_and(|now| (&now.matching, &now.anchor) == (&c.matching, &c.anchor))
    };
    !before.credentials.iter().all(same)
}

/// Whether an API key permits more than it did.
pub fn key_permits_more(before: &ApiKey, after: &ApiKey) -> bool {
    !widening::of_api_key(Some(before), after).is_empty()
}

/// Whether a grant permits more than it did.
pub fn permits_more(before: &Grant, after: &Grant) -> bool {
    !widening::of_grant(Some(before), after).is_empty()
}

use crate::clock::UnixNanos;
use crate::name::ApprovalId;
use crate::partner::{ApiKey, Credential, Grant, PartnerRecord};
use crate::registry::{Change, Registry, find_credential};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Parts of one approval: more than anybody looks at.
pub const MAX_ITEMS: usize = 10_000;
/// Random bytes of an id.
const ID: usize = 5;

/// What somebody has asked for, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub id: ApprovalId,
    /// The operator who asks.
    pub requester: String,
    pub requested: UnixNanos,
    /// When it is too late.
    pub lapses: UnixNanos,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    pub items: Vec<Item>,
    /// Absent while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What an operator has made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub verdict: Verdict,
    pub author: String,
    pub at: UnixNanos,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Approved,
    Rejected,
    /// By who had asked for it.
    Withdrawn,
    /// What it refers to is no longer what was looked at.
    Void,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Approved => "approved",
            Verdict::Rejected => "rejected",
            Verdict::Withdrawn => "withdrawn",
            Verdict::Void => "void",
        }
    }
}

/// Whether who asks may approve it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FourEyes {
    Required,
    /// For teams of one. Each use shows in the history.
    Off,
}

impl Approval {
    /// Asks for something.
    ///
    /// # Errors
    /// It is more than anybody looks at, or the system gives no random numbers.
    pub fn request(
        requester: &str,
        items: Vec<Item>,
        justification: Option<String>,
        ticket: Option<String>,
        now: UnixNanos,
        life: Duration,
    ) -> Result<Self, String> {
        if items.len() > MAX_ITEMS {
            return Err(format!(
                "{} parts would wait for approval, and nobody looks at more than {MAX_ITEMS}: ask for less at once; a new \
                 gateway is filled with `partnergate db import`",
                items.len()
            ));
        }
        let mut id = [0; ID];
        SystemRandom::new().fill(&mut id).map_err(|_| "the system gives no random numbers".to_owned())?;
        let id = format!("a-{}", data_encoding::BASE32_NOPAD.encode(&id).to_ascii_lowercase());
        Ok(Approval {
            id: ApprovalId::parse(&id)?,
            requester: requester.to_owned(),
            requested: now,
            lapses: now.saturating_add(life),
            justification,
            ticket,
            items,
            outcome: None,
        })
    }

    /// `requested`, `lapsed`, or what became of it.
    pub fn state(&self, now: UnixNanos) -> &'static str {
        match &self.outcome {
            Some(outcome) => outcome.verdict.as_str(),
            None if now >= self.lapses => "lapsed",
            None => "requested",
        }
    }

    pub fn is_open(&self, now: UnixNanos) -> bool {
        self.outcome.is_none() && now < self.lapses
    }

    /// What an operator makes of it.
    ///
    /// # Errors
    /// Why that is not legal now, and what is.
    pub fn end(&self, outcome: Outcome, eyes: FourEyes) -> Result<Approval, String> {
        let (id, state) = (&self.id, self.state(outcome.at));
        if !self.is_open(outcome.at) {
            return Err(match state {
                "lapsed" => format!("`{id}` has lapsed at {}: ask for it again", self.lapses),
                state => format!("`{id}` is {state} already"),
            });
        }
        let own = outcome.author == self.requester;
        match outcome.verdict {
            Verdict::Approved if own && eyes == FourEyes::Required => Err(format!(
                "`{}` has asked for `{id}`: another operator with the role `approver` approves it",
                self.requester
            )),
            Verdict::Withdrawn if !own => {
                Err(format!("`{}` has asked for `{id}` and may withdraw it; you may reject it", self.requester))
            }
            Verdict::Approved | Verdict::Rejected | Verdict::Withdrawn | Verdict::Void => {
                Ok(Approval { outcome: Some(outcome), ..self.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
