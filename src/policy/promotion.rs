//! A candidate that an operator has put in the place of the configured policy.

use super::PolicySource;
use crate::clock::UnixNanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A policy that decides in the place of the configured one, for as long as that stays what it was: whoever changes the
/// configured policy afterwards means it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Of this policy.
    pub revision: Arc<str>,
    /// Of the configured policy whose place it takes.
    pub over: Arc<str>,
    pub author: String,
    pub at: UnixNanos,
    pub reason: String,
    /// Text by path. Kept apart: the revision vouches for it.
    #[serde(skip)]
    pub files: BTreeMap<String, String>,
}

impl Promotion {
    /// Whether it stands while this is the configured policy.
    pub fn stands(&self, configured: &PolicySource) -> bool {
        self.over == configured.revision()
    }

    pub fn source(&self) -> PolicySource {
        PolicySource { files: self.files.iter().map(|(path, text)| (path.clone(), text.clone())).collect() }
    }
}
