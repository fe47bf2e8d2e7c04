//! Policies that are compiled before a snapshot is built of them: that takes as long as somebody has made it take, and what
//! is to be live at once must not wait for it.

use super::{Snapshot, Sources};
use crate::document::Problems;
use crate::policy::{EngineKind, Policy, PolicyLimits, PolicySource};
use std::sync::Arc;

type How = (EngineKind, PolicyLimits);
type Compiled = Result<Arc<Policy>, Problems>;

/// See the module. Empty, it is no more than what a snapshot has.
#[derive(Clone, Default)]
pub struct Ahead(Vec<(Arc<str>, How, Compiled)>);

impl Ahead {
    /// Those of the sources that `previous` has not.
    pub fn of(sources: &Sources, previous: Option<&Snapshot>) -> Ahead {
        let how = (sources.policy_engine, sources.policy_limits);
        let candidate = sources.candidate.as_ref().and_then(|candidate| candidate.policy.as_ref().ok());
        let mut ahead = Ahead::default();
        for source in [Some(&sources.policy), candidate].into_iter().flatten() {
            let policy = ahead.policy(source, how, previous);
            ahead.0.push((source.revision(), how, policy));
        }
        ahead
    }

    /// The policy of this source: one that is there already, or a new one.
    pub(super) fn policy(&self, source: &PolicySource, how: How, previous: Option<&Snapshot>) -> Compiled {
        let revision = source.revision();
        if let Some((.., policy)) = self.0.iter().find(|(of, with, _)| *of == revision && *with == how) {
            return policy.clone();
        }
        let candidate = previous.and_then(|p| p.candidate.as_ref()).and_then(|candidate| candidate.good());
        let mut there = previous.map(|p| &p.policy).into_iter().chain(candidate);
        match there.find(|policy| *policy.revision() == revision && policy.how() == how) {
            Some(policy) => Ok(policy.clone()),
            None => Policy::compile(source, how.0, how.1).map(Arc::new),
        }
    }
}
