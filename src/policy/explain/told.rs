//! An explanation as JSON: what `policy explain --output json` writes, and what a gateway answers.

use super::{Explanation, Held, RuleSaid};
use crate::policy::{Seen, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// See [`Explanation`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Told {
    pub decision: VerdictTold,
    /// What decided, and below each condition that did not hold the rules that it looks at.
    pub trace: RuleTold,
    /// For a denial: where each of its reasons comes from.
    pub reasons: Vec<ReasonTold>,
    /// For a denial: changes of single facts, or of two, under which the policy allows. Each was tried.
    pub allowed_if: Vec<Vec<String>>,
    /// What follows is of the interpreter, which decides something else here than the engine that serves.
    pub engines_differ: bool,
    /// Whether all of it was looked at: there may be no time for it, and rules that cannot be looked into.
    pub complete: bool,
}

/// What the policy said.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum VerdictTold {
    Allow {
        /// Its id.
        grant: String,
        /// Custom denials that do not count, because the partner is only observed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        observed: Vec<String>,
    },
    Deny {
        /// The first by precedence first.
        reasons: Vec<String>,
        detail: Option<String>,
    },
}

/// A rule, and how far its bodies came.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RuleTold {
    /// `data.a.b`.
    pub rule: String,
    /// As Rego writes it; null where it is undefined, or, without bodies, where there was no time to ask.
    pub value: Option<String>,
    pub bodies: Vec<BodyTold>,
}

/// One body of a rule.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BodyTold {
    pub file: String,
    pub row: u32,
    pub holds: bool,
    /// The first condition that does not hold.
    pub failed_at: Option<FailureTold>,
    /// Rules that this condition looks at, each in the form of this one.
    #[schemars(with = "Vec<Map<String, Value>>")]
    pub rules: Vec<RuleTold>,
}

/// A condition that does not hold.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FailureTold {
    pub row: u32,
    pub col: u32,
    pub text: String,
    pub seen: Vec<SeenTold>,
}

/// A part of a condition, and what it was; nothing where it was undefined.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SeenTold {
    pub expression: String,
    pub values: Vec<String>,
}

/// A reason, and the rules that gave it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReasonTold {
    pub reason: String,
    pub rules: Vec<GiverTold>,
}

/// A body that held.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GiverTold {
    pub file: String,
    pub row: u32,
    pub conditions: Vec<ConditionTold>,
}

/// A condition that holds.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConditionTold {
    pub text: String,
    pub seen: Vec<SeenTold>,
}

impl From<&Explanation> for Told {
    fn from(explanation: &Explanation) -> Self {
        let reasons = explanation.reasons.iter().map(|(reason, rules)| ReasonTold {
            reason: reason.to_string(),
            rules: rules.iter().map(GiverTold::from).collect(),
        });
        Told {
            decision: VerdictTold::from(&explanation.verdict),
            trace: RuleTold::from(&explanation.decision),
            reasons: reasons.collect(),
            allowed_if: explanation.allowed_if.clone(),
            engines_differ: explanation.interpreter.is_some(),
            complete: explanation.complete,
        }
    }
}

impl From<&Verdict> for VerdictTold {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Allow { grant, observed } => VerdictTold::Allow {
                grant: grant.to_string(),
                observed: observed.iter().map(ToString::to_string).collect(),
            },
            Verdict::Deny { reasons, detail } => {
                VerdictTold::Deny { reasons: reasons.iter().map(ToString::to_string).collect(), detail: detail.clone() }
            }
        }
    }
}

impl From<&RuleSaid> for RuleTold {
    fn from(said: &RuleSaid) -> Self {
        let bodies = said.bodies.iter().map(|body| BodyTold {
            file: body.file.clone(),
            row: body.line,
            holds: body.failure.is_none(),
            failed_at: body.failure.as_ref().map(|failure| FailureTold {
                row: failure.line,
                col: failure.column,
                text: failure.statement.clone(),
                seen: seen(&failure.seen),
            }),
            rules: body.rules.iter().map(RuleTold::from).collect(),
        });
        RuleTold { rule: said.name.clone(), value: said.value.clone(), bodies: bodies.collect() }
    }
}

impl From<&Held> for GiverTold {
    fn from(held: &Held) -> Self {
        let conditions = held.conditions.iter();
        let conditions = conditions.map(|(text, parts)| ConditionTold { text: text.clone(), seen: seen(parts) });
        GiverTold { file: held.file.clone(), row: held.line, conditions: conditions.collect() }
    }
}

fn seen(seen: &Seen) -> Vec<SeenTold> {
    let part = |(part, values): &(String, Vec<String>)| SeenTold { expression: part.clone(), values: values.clone() };
    seen.iter().map(part).collect()
}
