//! What is wrong with rules and would not show before a request, or not at all: names of facts that there are not, reasons that
//! nobody has declared, and forms that the serving engine takes for something else than Rego says.
//!
//! In: files that parse, and the data files beside them. Out: problems with file, line and column, and the names that only a
//! config can judge. All rules are looked at, whether anything leads to them or not.

mod absent;
mod asked;
mod facts;
mod types;

pub(super) use asked::packages;
pub use facts::Mention;

use super::contract::{self, Shape};
use super::syntax::{
    AssignOp, File, Key, LiteralStmt, declared, dotted, expressions, name, named, outermost, place, queries, reference,
    references, text, variable, walk,
};
use super::{at, builtins};
use crate::document::{Problem, Problems, Severity, nearest};
use crate::reason::Reason;
use regorus::Value;
use regorus::unstable::{Expr, Literal, Query, Rule, RuleHead, Span};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Where custom denials are.
const CUSTOM: &str = "data.partnergate.custom";

/// What rules are for.
pub(super) enum For<'a> {
    Decisions {
        /// Those that are declared.
        reasons: &'a BTreeMap<Arc<str>, String>,
        /// The files that declare them.
        declared_in: &'a [&'a str],
        /// Whether the shipped library is there, which says what is asked.
        library: bool,
    },
    /// Their input is this event.
    Records(&'static Shape),
}

impl For<'_> {
    fn input(&self) -> &'static Shape {
        match self {
            For::Decisions { .. } => &contract::INPUT,
            For::Records(event) => event,
        }
    }
}

/// What rules of all files are, by their names.
#[derive(Default)]
struct Rules {
    names: BTreeSet<String>,
    functions: BTreeSet<String>,
    /// Rules with `contains`.
    sets: BTreeSet<String>,
    /// Paths that rules refer to.
    referred: BTreeSet<String>,
}

impl Rules {
    fn of(files: &[File]) -> Rules {
        let mut rules = Rules::default();
        for (file, rule) in all(files) {
            rules.names.extend(base(file, rule));
            let own: BTreeSet<&str> = declared(rule).into_iter().collect();
            for expr in outermost(rule).into_iter().filter(|expr| !is_name_of(expr, rule)) {
                references(expr, &mut |_, root, keys| {
                    if !own.contains(root) {
                        rules.referred.insert(named(&file.absolute(root), keys));
                    }
                });
            }
            let Some(name) = name(file, rule) else { continue };
            match rule {
                Rule::Spec { head: RuleHead::Func { .. }, .. } => drop(rules.functions.insert(name)),
                Rule::Spec { head: RuleHead::Set { .. }, .. } => drop(rules.sets.insert(name)),
                _ => {}
            }
        }
        rules
    }
}

/// Looks at every rule of files that are served, with the data files beside them.
pub(super) fn look(files: &[File], data: &Value, of: &For<'_>, problems: &mut Problems) -> Vec<Mention> {
    let rules = &Rules::of(files);
    let mut mentions = Vec::new();
    for file in files {
        let looked = Looked { file, rules, data, of };
        for (root, keys) in file.module.imports.iter().filter_map(|import| reference(&import.refr)) {
            looked.fact(root, &keys, &HashMap::new(), &mut mentions, problems);
        }
    }
    asked::forms(files, problems);
    wildcards(files, problems);
    for (file, rule) in all(files) {
        let looked = Looked { file, rules, data, of };
        looked.defaults(rule, problems);
        looked.names(rule, problems);
        looked.looped(rule, problems);
        looked.calls(rule, problems);
        looked.unasked(rule, problems);
        looked.reasons(rule, problems);
        looked.data(rule, problems);
        let known = looked.known(rule);
        for expr in outermost(rule) {
            references(expr, &mut |_, root, keys| looked.fact(root, keys, &known, &mut mentions, problems));
        }
        looked.types(rule, &known, &mut mentions, problems);
        looked.absent(rule, problems);
        for query in queries(rule) {
            looked.negations(query, problems);
            looked.indexed(query, problems);
        }
    }
    mentions
}

fn all(files: &[File]) -> impl Iterator<Item = (&File, &Rule)> {
    files.iter().flat_map(|file| file.module.policy.iter().map(move |rule| (file, &**rule)))
}

/// What a rule is called as far as its name is no variable: `data.a.b.by_id` of `by_id[id] := …`.
fn base(file: &File, rule: &Rule) -> Option<String> {
    let (root, keys) = reference(refr(rule))?;
    Some(named(&format!("{}.{root}", file.package), &keys))
}

fn refr(rule: &Rule) -> &Expr {
    match rule {
        Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        }
        | Rule::Default { refr, .. } => refr,
    }
}

fn is_name_of(expr: &Expr, rule: &Rule) -> bool {
    std::ptr::eq(expr, refr(rule))
}

struct Looked<'a> {
    file: &'a File,
    rules: &'a Rules,
    data: &'a Value,
    of: &'a For<'a>,
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
        let mut compr = false;
        walk(value, &mut |expr| {
            compr |= matches!(expr, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. });
            !compr
        });
        if compr {
            let reason =
                "a comprehension as a default is not supported by the serving engine, which would take it for empty";
            problems.push(self.wrong(value.span(), reason.into(), Some("write the value itself")));
        }
    }

    /// The machine knows `p[key]`, and loses parts of what has more in its name than that.
    fn names(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. } = rule else { return };
        let Some((_, keys)) = reference(refr) else { return };
        let computed = keys.iter().any(|key| matches!(key, Key::Computed(_)));
        if computed && keys.len() > 1 {
            let reason = "the name of this rule has a variable beside other parts, which the serving engine takes for \
                          something else";
            problems.push(self.wrong(refr.span(), reason.into(), Some("build the whole object under one name")));
        }
    }

    /// One value from a loop: where two turns of it differ, Rego ends with an error, and the machine takes the last.
    fn looped(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Spec { head, bodies, .. } = rule else { return };
        let (head, args) = match head {
            RuleHead::Compr { refr, assign, .. } => {
                // What has a key of its own in each turn is not one value.
                if reference(refr).is_some_and(|(_, keys)| keys.iter().any(|key| matches!(key, Key::Computed(_)))) {
                    return;
                }
                (assign, &[][..])
            }
            RuleHead::Func { args, assign, .. } => (assign, args.as_slice()),
            RuleHead::Set { .. } => return,
        };
        let mut given = BTreeSet::new();
        args.iter().for_each(|arg| variables(arg, &mut given));
        for (n, body) in bodies.iter().enumerate() {
            let assign = if n == 0 { head.as_ref() } else { body.assign.as_ref() };
            let Some(value) = assign.map(|assign| &assign.value) else { continue };
            let turning = turning(&body.query, &given);
            let mut used = BTreeSet::new();
            variables(value, &mut used);
            if let Some(name) = used.iter().find(|name| turning.contains(*name)) {
                let reason = format!(
                    "this value has `{name}` in it, which a loop gives: where two turns of it differ, the serving engine takes the \
                     last one, and Rego ends with an error"
                );
                let fix = "collect the values with `contains`, or choose one of them with `min` or `max`";
                problems.push(self.wrong(value.span(), reason, Some(fix)));
            }
        }
    }

    /// Reasons that are written out have to be declared: another one would deny as `policy-reason-undeclared`.
    fn reasons(&self, rule: &Rule, problems: &mut Problems) {
        let For::Decisions { reasons: declared, declared_in, .. } = self.of else { return };
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
        let custom = self.file.package == CUSTOM && of("deny");
        let own = self.file.package == "data.partnergate" && of("denials");
        let said = match &**key {
            Expr::Object { fields, .. } if custom => {
                let said = fields.iter().find(|(_, key, _)| text(key) == Some("reason")).map(|(_, _, value)| &**value);
                if said.is_none() && fields.iter().all(|(_, key, _)| text(key).is_some()) {
                    let reason = "a denial without a `reason` denies, and is recorded as `policy-undefined`".to_owned();
                    problems.push(warned(self.wrong(key.span(), reason, Some("add `\"reason\": \"x-…\"`"))));
                }
                said
            }
            Expr::String { .. } | Expr::RawString { .. } if own => Some(&**key),
            other if custom && types::literal(other).is_some() => {
                let reason = "a custom denial is an object with its reason".to_owned();
                problems.push(self.wrong(key.span(), reason, Some("write `deny contains {\"reason\": \"x-…\"} if …`")));
                None
            }
            _ => None,
        };
        let Some((said, expr)) = said.and_then(|expr| Some((text(expr)?, expr))) else { return };
        if declared.contains_key(said) || (own && Reason::parse(said).is_some()) {
            return;
        }
        let folder = self.file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let beside = declared_in.iter().find(|file| file.rsplit_once('/').is_some_and(|(other, _)| other == folder));
        let list = beside.unwrap_or(&"reasons.yaml");
        let fix = match nearest(said, declared.keys().map(|name| &**name)) {
            Some(near) => format!("did you mean `{near}`? otherwise declare it in `{list}`"),
            None if !said.starts_with("x-") => {
                format!(
                    "reasons of custom rules begin with `x-`: write one such as `x-{said}`, and declare it in `{list}`"
                )
            }
            None => format!("declare it in `{list}`, with what it means"),
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

    /// In `every`, both engines take `list[key]` that is absent for one that holds, or for one that does not, other than Rego.
    fn indexed(&self, query: &Query, problems: &mut Problems) {
        for statement in &query.stmts {
            let Literal::Every { query, .. } = &statement.literal else { continue };
            for expr in query.stmts.iter().flat_map(expressions) {
                walk(expr, &mut |expr| {
                    let computed = matches!(expr, Expr::RefBrack { index, .. } if text(index).is_none());
                    if computed {
                        let reason = "a value is looked up by a key of the loop inside `every`, where the serving engine carries on \
                                      when it is absent";
                        let fix = "loop over the values themselves, or count those that are good: `count([k | some k in keys; …]) \
                                   == count(keys)`";
                        problems.push(self.wrong(expr.span(), reason.into(), Some(fix)));
                    }
                    !computed
                });
            }
        }
    }
}

/// Adds the variables of an expression, outside of comprehensions, which have names of their own.
fn variables<'e>(expr: &'e Expr, found: &mut BTreeSet<&'e str>) {
    walk(expr, &mut |expr| {
        found.extend(variable(expr));
        !matches!(expr, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. })
    });
}

/// Every expression in a rule; see [`walk`].
fn each<'e>(rule: &'e Rule, look: &mut impl FnMut(&'e Expr) -> bool) {
    outermost(rule).into_iter().for_each(|expr| walk(expr, look));
}

/// The same, where it does not stop the load.
fn warned(problem: Problem) -> Problem {
    Problem { severity: Severity::Warning, ..problem }
}

/// `not list[_] == x` would be "some is not" here; Rego refuses it, because nothing says which one is meant.
pub(super) fn wildcards(files: &[File], problems: &mut Problems) {
    for (file, rule) in all(files) {
        for statement in queries(rule).into_iter().flat_map(|query| &query.stmts) {
            let Literal::NotExpr { expr, .. } = &statement.literal else { continue };
            walk(expr, &mut |inner| {
                let any = matches!(inner, Expr::RefBrack { index, .. } if variable(index) == Some("_"));
                if any {
                    let (line, column) = place(inner.span());
                    let reason = "`[_]` below `not` does not say whether one or all are meant".to_owned();
                    let fix =
                        "write `every x in list { … }`, or `not x in list`, or give the rule that finds one a name";
                    problems.push(at(&file.path, line, column, reason, Some(fix)));
                }
                !matches!(inner, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. }) && !any
            });
        }
    }
}

/// Names of a query that have another value in each turn of a loop.
fn turning<'q>(query: &'q Query, given: &BTreeSet<&'q str>) -> BTreeSet<&'q str> {
    let mut turning: BTreeSet<&str> = BTreeSet::new();
    let mut bound: BTreeSet<&str> = given.clone();
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => turning.extend(vars.iter().map(|span| span.text())),
            Literal::SomeIn { key, value, .. } => {
                key.iter().map(|key| &**key).chain([&**value]).for_each(|name| variables(name, &mut turning));
            }
            Literal::Expr { expr, .. } => {
                let Expr::AssignExpr { lhs, rhs, .. } = &**expr else { continue };
                let mut from = BTreeSet::new();
                variables(rhs, &mut from);
                let mut loops = from.iter().any(|name| turning.contains(name));
                // `list[_]`, and `list[n]` where nothing has given `n` before.
                walk(rhs, &mut |expr| {
                    if let Expr::RefBrack { index, .. } = expr {
                        loops |= variable(index).is_some_and(|name| name == "_" || !bound.contains(name));
                    }
                    !matches!(expr, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. })
                });
                let names = if loops { &mut turning } else { &mut bound };
                variables(lhs, names);
            }
            Literal::NotExpr { .. } | Literal::Every { .. } => {}
        }
    }
    turning
}
