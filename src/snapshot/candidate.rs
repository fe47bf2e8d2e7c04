//! The candidate: a policy that is previewed on what another one decides.

use crate::document::{Problem, Problems, Severity};
use crate::policy::{Policy, PolicySource};
use std::sync::Arc;

/// What is to be previewed, read but not yet judged.
#[derive(Clone, Debug)]
pub struct CandidateSource {
    /// The folder, for messages.
    pub place: String,
    /// What keeps it from being read.
    pub policy: Result<PolicySource, Problems>,
    /// How many of a hundred decisions are looked at.
    pub sample_percent: u8,
    /// How much of one processor it may take.
    pub cpu_percent: u8,
}

/// See the module. What is wrong with one never keeps a gateway from serving.
pub struct Candidate {
    pub place: String,
    pub policy: Result<Arc<Policy>, Problems>,
    pub sample_percent: u8,
    pub cpu_percent: u8,
    /// It is what decides already.
    pub decides: bool,
}

impl Candidate {
    /// `live` is the revision of the policy that decides.
    pub(super) fn build(
        source: CandidateSource,
        live: &Arc<str>,
        compiled: impl FnOnce(&PolicySource) -> Result<Arc<Policy>, Problems>,
    ) -> Candidate {
        let CandidateSource { place, policy, sample_percent, cpu_percent } = source;
        let policy = policy.and_then(|source| compiled(&source));
        let decides = policy.as_ref().is_ok_and(|policy| policy.revision() == live);
        Candidate { place, policy, sample_percent, cpu_percent, decides }
    }

    pub fn good(&self) -> Option<&Arc<Policy>> {
        self.policy.as_ref().ok()
    }

    /// The policy, where there is anything to preview.
    pub fn to_preview(&self) -> Option<&Arc<Policy>> {
        self.good().filter(|_| !self.decides)
    }

    /// Names the folder where the problem names a file in it.
    fn path_of(&self, problem: &Problem) -> Arc<str> {
        if problem.line == 0 { problem.file.clone() } else { format!("{}/{}", self.place, problem.file).into() }
    }

    /// A candidate that cannot be previewed is a warning.
    pub(super) fn warn(&self, problems: &mut Problems) {
        if let Err(found) = &self.policy {
            for problem in found.errors() {
                let reason = format!("the candidate is not previewed: {}", problem.reason);
                problems.push(Problem {
                    severity: Severity::Warning,
                    file: self.path_of(problem),
                    reason,
                    ..problem.clone()
                });
            }
        }
    }
}
