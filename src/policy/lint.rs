//! What is wrong with rules and would not show before a request, or not at all: names of facts that there are not, reasons that
//! nobody has declared, and forms that the serving engine takes for something else than Rego says.
//!
//! In: files that parse. Out: problems with file, line and column. All rules are looked at, whether anything leads to them or
//! not.

use super::syntax::{
    AssignOp, File, Key, LiteralStmt, dotted, expressions, heads, name, place, queries, reference, text, variable, walk,
};
use super::{at, builtins, contract};
use crate::document::{Problem, Problems, nearest};
use crate::reason::Reason;
use contract::Shape;
use regorus::Value;
use regorus::unstable::{Expr, Literal, Query, Rule, RuleHead, Span};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What rules of all files are, by their names.
#[derive(Default)]
struct Rules {
    functions: BTreeSet<String>,
    /// Rules with `contains`.
    sets: BTreeSet<String>,
}

/// Looks at every rule of files that are served.
pub(super) fn look(files: &[File], declared: &BTreeMap<Arc<str>, String>, problems: &mut Problems) {
    let mut rules = Rules::default();
    for (file, rule) in all(files) {
        let Some(name) = name(file, rule) else { continue };
        match rule {
            Rule::Spec { head: RuleHead::Func { .. }, .. } => drop(rules.functions.insert(name)),
            Rule::Spec { head: RuleHead::Set { .. }, .. } => drop(rules.sets.insert(name)),
            _ => {}
        }
    }
    for (file, rule) in all(files) {
        let looked = Looked { file, rules: &rules, declared };
        looked.defaults(rule, problems);
        looked.reasons(rule, problems);
        looked.calls(rule, problems);
        looked.facts(rule, problems);
        looked.absent(rule, problems);
        for query in queries(rule) {
            looked.negations(query, problems);
        }
    }
}

fn all(files: &[File]) -> impl Iterator<Item = (&File, &Rule)> {
    files.iter().flat_map(|file| file.module.policy.iter().map(move |rule| (file, &**rule)))
}

struct Looked<'a> {
    file: &'a File,
    rules: &'a Rules,
    declared: &'a BTreeMap<Arc<str>, String>,
}

impl Looked<'_> {
    fn wrong(&self, span: &Span, reason: String, fix: Option<&str>) -> Problem {
        let (line, column) = place(span);
        at(&self.file.path, line, column, reason, fix)
    }

    /// The machine knows defaults of rules only, and only such as need no evaluation.
    fn defaults(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Default { span, args, value, .. } = rule else { return };
        if !args.is_empty() {
            let reason =
                "a default of a function is not supported by the serving engine, which would take it for undefined";
            problems.push(self.wrong(span, reason.into(), Some("add a body with `else` that gives the value")));
        }
        if matches!(**value, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. }) {
            let reason =
                "a comprehension as a default is not supported by the serving engine, which would take it for empty";
            problems.push(self.wrong(value.span(), reason.into(), Some("write the value itself")));
        }
    }

    /// Reasons that are written out have to be declared: another one would deny as `policy-error`.
    fn reasons(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Spec { head: RuleHead::Set { refr, key: Some(key), .. }, bodies, .. } = rule else { return };
        // What is said never needs no meaning.
        let never = |statement: &LiteralStmt| {
            let Literal::Expr { expr, .. } = &statement.literal else { return false };
            matches!(**expr, Expr::Bool { value: Value::Bool(false), .. })
        };
        if !bodies.is_empty() && bodies.iter().all(|body| body.query.stmts.iter().any(never)) {
            return;
        }
        let of = |name: &str| dotted(refr).is_some_and(|own| own == name);
        let custom = self.file.package == "data.partnergate.custom" && of("deny");
        let own = self.file.package == "data.partnergate" && of("denials");
        let said = match &**key {
            Expr::Object { fields, .. } if custom => {
                fields.iter().find(|(_, key, _)| text(key) == Some("reason")).map(|(_, _, value)| &**value)
            }
            Expr::String { .. } | Expr::RawString { .. } if own => Some(&**key),
            Expr::String { .. } | Expr::RawString { .. } if custom => {
                let reason = "a custom denial is an object with its reason".to_owned();
                problems.push(self.wrong(key.span(), reason, Some("write `deny contains {\"reason\": \"x-…\"} if …`")));
                None
            }
            _ => None,
        };
        let Some((said, expr)) = said.and_then(|expr| Some((text(expr)?, expr))) else { return };
        let known = self.declared.keys().map(|name| &**name);
        if self.declared.contains_key(said) || (own && Reason::parse(said).is_some()) {
            return;
        }
        let near = nearest(said, known);
        let fix = match near {
            Some(near) => format!("did you mean `{near}`? otherwise declare it in `policies/reasons.yaml`"),
            None => "declare it in `policies/reasons.yaml`, with what it means".to_owned(),
        };
        problems.push(self.wrong(expr.span(), format!("the reason `{said}` is not declared"), Some(&fix)));
    }

    /// Builtins by the list, in rules that nothing leads to as well.
    fn calls(&self, rule: &Rule, problems: &mut Problems) {
        each(rule, &mut |expr| {
            let Expr::Call { fcn, .. } = expr else { return true };
            let Some(called) = dotted(fcn) else { return true };
            let own = self.rules.functions.contains(&self.file.absolute(&called));
            if !own && !called.starts_with("data.") && !builtins::is_allowed(&called) {
                let fix = nearest(&called, builtins::allowed()).map(|near| format!("did you mean `{near}`?"));
                problems.push(self.wrong(fcn.span(), builtins::refusal(&called), fix.as_deref()));
            }
            true
        });
    }

    /// `not` of a set never holds: it is there, if empty.
    fn negations(&self, query: &Query, problems: &mut Problems) {
        for statement in &query.stmts {
            let Literal::NotExpr { expr, .. } = &statement.literal else { continue };
            let Some(path) = dotted(expr) else { continue };
            if self.rules.sets.contains(&self.file.absolute(&path)) {
                let reason =
                    format!("`{path}` is a set, which is there even when it is empty: `not {path}` never holds");
                problems.push(self.wrong(expr.span(), reason, Some(&format!("write `count({path}) == 0`"))));
            }
        }
    }

    /// Facts by the contract: `input.partner.stat` would be absent on every request.
    fn facts(&self, rule: &Rule, problems: &mut Problems) {
        let mut known: HashMap<String, &'static Shape> = HashMap::new();
        for (name, path) in &self.file.imports {
            if let Some(shape) = path.strip_prefix("input").and_then(|rest| contract::at(rest.trim_start_matches('.')))
            {
                known.insert(name.clone(), shape);
            }
        }
        // Names that are bound to a part of the input, in the order of the text; what is bound twice is not followed.
        let mut bound: BTreeSet<String> = BTreeSet::new();
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
                match shape.filter(|_| bound.insert(name.to_owned())) {
                    Some(shape) => drop(known.insert(name.to_owned(), shape)),
                    None => drop(known.remove(name)),
                }
            }
        }
        each(rule, &mut |expr| match expr {
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                self.fact(expr, &known, problems);
                // What is in the brackets is looked at by itself.
                if let Some((_, keys)) = reference(expr) {
                    for key in keys {
                        if let Key::Computed(index) = key {
                            walk(index, &mut |inner| {
                                let refers = matches!(inner, Expr::RefDot { .. } | Expr::RefBrack { .. });
                                if refers {
                                    self.fact(inner, &known, problems);
                                }
                                !refers
                            });
                        }
                    }
                }
                false
            }
            _ => true,
        });
    }

    fn shape(&self, expr: &Expr, known: &HashMap<String, &'static Shape>) -> Option<&'static Shape> {
        let (root, keys) = reference(expr)?;
        let mut shape = if root == "input" { &contract::INPUT } else { *known.get(root)? };
        for key in keys {
            shape = match key {
                Key::Name(name, _) => shape.key(name)?,
                Key::Computed(_) => shape.item()?,
            };
        }
        Some(shape)
    }

    fn fact(&self, expr: &Expr, known: &HashMap<String, &'static Shape>, problems: &mut Problems) {
        let Some((root, keys)) = reference(expr) else { return };
        let mut shape = match (root, known.get(root)) {
            ("input", _) => &contract::INPUT,
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
            if path.ends_with(".headers") && name.chars().any(char::is_uppercase) {
                let reason = format!("names of header fields are in lower case: `{path}` has no `{name}`");
                problems.push(self.wrong(span, reason, Some(&format!("write `{}`", name.to_lowercase()))));
                return;
            }
            let Some(next) = shape.key(name) else {
                let fix = match nearest(name, shape.keys()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if shape.keys().next().is_some() => {
                        format!("it has {}", shape.keys().collect::<Vec<_>>().join(", "))
                    }
                    None => "it has no keys".to_owned(),
                };
                problems.push(self.wrong(
                    span,
                    format!("there is no fact `{path}.{name}` in the contract"),
                    Some(&fix),
                ));
                return;
            };
            shape = next;
            path.push('.');
            path.push_str(name);
        }
    }

    /// After `x := …` from something absent the machine carries on, where Rego stops. That makes no difference where `x` is
    /// used, because what uses it does not hold either; but it does where it is not, or only below `not`.
    fn absent(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Spec { bodies, .. } = rule else { return };
        let outer: BTreeSet<*const Query> = bodies.iter().map(|body| std::ptr::from_ref(&*body.query)).collect();
        for query in queries(rule) {
            for statement in &query.stmts {
                let Literal::Expr { expr, .. } = &statement.literal else { continue };
                let Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } = &**expr else { continue };
                let Some(name) = variable(lhs) else { continue };
                let in_head = outer.contains(&std::ptr::from_ref(query))
                    && heads(rule).into_iter().any(|head| mentions(head, name));
                if may_be_absent(rhs) && !in_head && !asked(query, name, &mut BTreeSet::new()) {
                    let reason = format!(
                        "`{name}` may be undefined, and nothing here fails when it is: the serving engine would carry on where \
                         Rego stops"
                    );
                    let fix = "name the fact itself where it is needed, or ask for it as well: add `NAME != null` with its name";
                    problems.push(self.wrong(lhs.span(), reason, Some(&fix.replace("NAME", name))));
                }
            }
        }
    }
}

/// Every expression in a rule; see [`walk`].
fn each<'e>(rule: &'e Rule, look: &mut impl FnMut(&'e Expr) -> bool) {
    for head in heads(rule) {
        walk(head, look);
    }
    let Rule::Spec { bodies, .. } = rule else { return };
    let mut waiting: Vec<&Query> = bodies.iter().map(|body| &*body.query).collect();
    while let Some(query) = waiting.pop() {
        for statement in &query.stmts {
            for expr in expressions(statement) {
                walk(expr, look);
            }
            if let Literal::Every { query, .. } = &statement.literal {
                waiting.push(query);
            }
        }
    }
}

fn may_be_absent(expr: &Expr) -> bool {
    match expr {
        Expr::String { .. }
        | Expr::RawString { .. }
        | Expr::Number { .. }
        | Expr::Bool { .. }
        | Expr::Null { .. }
        | Expr::ArrayCompr { .. }
        | Expr::SetCompr { .. }
        | Expr::ObjectCompr { .. } => false,
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().any(|item| may_be_absent(item)),
        Expr::Object { fields, .. } => fields.iter().any(|(_, key, value)| may_be_absent(key) || may_be_absent(value)),
        Expr::Call { fcn, params, .. } if dotted(fcn).is_some_and(|name| name == "count") => {
            params.iter().any(|one| may_be_absent(one))
        }
        _ => true,
    }
}

/// Whether an expression has the variable outside of comprehensions, which have values of their own.
fn mentions(expr: &Expr, wanted: &str) -> bool {
    let mut found = false;
    walk(expr, &mut |expr| {
        found |= variable(expr) == Some(wanted);
        !matches!(expr, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. })
    });
    found
}

/// Whether a statement of the query fails where the variable is absent.
fn asked<'e>(query: &'e Query, wanted: &'e str, seen: &mut BTreeSet<&'e str>) -> bool {
    if !seen.insert(wanted) {
        return false;
    }
    query.stmts.iter().any(|statement: &LiteralStmt| match &statement.literal {
        Literal::NotExpr { .. } | Literal::SomeVars { .. } => false,
        Literal::Expr { expr, .. } => match &**expr {
            Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => match variable(lhs) {
                Some(name) if name == wanted => false,
                // It goes on as another name, which is asked for or is not.
                Some(name) => mentions(rhs, wanted) && (!is_plain(rhs) || asked(query, name, seen)),
                None => mentions(rhs, wanted),
            },
            other => mentions(other, wanted),
        },
        Literal::SomeIn { collection, .. } => mentions(collection, wanted),
        Literal::Every { domain, .. } => mentions(domain, wanted),
    })
}

/// A reference and nothing around it: absent where what it begins with is.
fn is_plain(expr: &Expr) -> bool {
    reference(expr).is_some()
}
