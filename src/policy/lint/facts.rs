//! Facts that rules look at, by the contract or by what an event has.

use super::{For, Looked, Problems, Rule, Span, place};
use crate::document::nearest;
use crate::policy::contract::{self, Listed, Shape};
use crate::policy::syntax::{Key, declared, parameters, queries, reference, variable};
use regorus::unstable::{Expr, Literal, RuleHead};
use std::collections::HashMap;

/// A name that a rule looks for, which a config or a registry has or has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    pub listed: Listed,
    pub name: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
}

impl Looked<'_> {
    /// Names that stand for a part of the input.
    pub(super) fn known(&self, rule: &Rule) -> HashMap<String, &'static Shape> {
        let mut known: HashMap<String, &'static Shape> = HashMap::new();
        for (name, path) in &self.file.imports {
            if let Some(shape) = path.strip_prefix("input").and_then(|rest| self.of.input().at(rest)) {
                known.insert(name.clone(), shape);
            }
        }
        // In the order of the text. What is declared more than once in a rule, or is a parameter, may be something else elsewhere
        // in it, and is not followed.
        let declared = counted(rule);
        known.retain(|name, _| !declared.contains_key(name.as_str()));
        let once = |name: &str| declared.get(name) == Some(&1);
        for query in queries(rule) {
            for statement in &query.stmts {
                let (names, shape) = match &statement.literal {
                    Literal::Expr { expr, .. } => match &**expr {
                        Expr::AssignExpr { lhs, rhs, .. } => (variable(lhs), self.shape(rhs, &known)),
                        _ => continue,
                    },
                    Literal::SomeIn { value, collection, .. } => {
                        (variable(value), self.shape(collection, &known).and_then(Shape::item))
                    }
                    _ => continue,
                };
                let Some(name) = names else { continue };
                if let Some(shape) = shape.filter(|_| once(name)) {
                    known.insert(name.to_owned(), shape);
                }
            }
        }
        known
    }

    /// What an expression is, where it is a fact or a name that stands for one.
    pub(super) fn shape(&self, expr: &Expr, known: &HashMap<String, &'static Shape>) -> Option<&'static Shape> {
        let (root, keys) = reference(expr)?;
        let mut shape = if root == "input" { self.of.input() } else { *known.get(root)? };
        for key in keys {
            shape = match key {
                Key::Name(name, _) => shape.key(name)?,
                Key::Computed(_) => shape.item()?,
            };
        }
        Some(shape)
    }

    /// Facts by the contract: `input.partner.stat` would be absent on every request.
    pub(super) fn fact(
        &self,
        root: &str,
        keys: &[Key<'_>],
        known: &HashMap<String, &'static Shape>,
        mentions: &mut Vec<Mention>,
        problems: &mut Problems,
    ) {
        let mut shape = match (root, known.get(root)) {
            ("input", _) => self.of.input(),
            (_, Some(shape)) => *shape,
            _ => return,
        };
        let mut path = root.to_owned();
        for key in keys {
            let Key::Name(name, span) = key else {
                let Some(item) = shape.item() else { return };
                shape = item;
                path.push_str("[…]");
                continue;
            };
            let shown = name.escape_debug();
            if matches!(shape, Shape::Headers(_)) {
                if name.chars().any(char::is_uppercase) {
                    let reason = format!("names of header fields are in lower case: `{path}` has no `{shown}`");
                    let fix = format!("write `{}`", shown.to_string().to_lowercase());
                    problems.push(self.wrong(span, reason, Some(&fix)));
                    return;
                }
                mentions.push(self.mention(Listed::Headers, name, span));
            }
            let Some(next) = shape.key(name) else {
                let (of, fix) = self.no_fact(&path, name, shape);
                problems.push(self.wrong(span, format!("there is no fact `{path}.{shown}` in {of}"), Some(&fix)));
                return;
            };
            shape = next;
            path.push('.');
            path.extend(name.escape_debug());
        }
    }

    /// Where a fact is not, and what to write instead.
    fn no_fact(&self, path: &str, name: &str, shape: &Shape) -> (&'static str, String) {
        let of = match self.of {
            For::Decisions { .. } => "the contract",
            For::Records(_) => "an event",
        };
        let fix = match nearest(name, shape.keys()) {
            // Whoever knows decisions expects their input here.
            _ if path == "input" && contract::INPUT.key(name).is_some() => {
                format!("what was decided on is one deeper: write `input.input.{name}`")
            }
            Some(near) => format!("did you mean `{near}`?"),
            None if shape.keys().next().is_some() => format!("it has {}", shape.keys().collect::<Vec<_>>().join(", ")),
            None => "it has no keys".to_owned(),
        };
        (of, fix)
    }

    pub(super) fn mention(&self, listed: Listed, name: &str, span: &Span) -> Mention {
        let (line, column) = place(span);
        Mention { listed, name: name.to_owned(), file: self.file.path.clone(), line, column }
    }
}

/// How often each name is declared in a rule. Parameters count twice, since they are never followed.
fn counted(rule: &Rule) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for name in declared(rule) {
        *counts.entry(name).or_default() += 1;
    }
    if let Rule::Spec { head: RuleHead::Func { .. }, .. } = rule {
        parameters(rule).into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
    }
    counts
}
