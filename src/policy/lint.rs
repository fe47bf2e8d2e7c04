//! What is wrong with rules and would not show before a request, or not at all: names of facts that there are not, reasons that
//! nobody has declared, and forms that the serving engine takes for something else than Rego says.
//!
//! In: files that parse. Out: problems with file, line and column. All rules are looked at, whether anything leads to them or
//! not.

use super::syntax::{
    AssignOp, File, Key, LiteralStmt, declared, dotted, expressions, heads, name, parameters, place, queries,
    reference, text, variable, walk,
};
use super::{at, builtins, contract};
use crate::document::{Problem, Problems, nearest};
use crate::reason::Reason;
use contract::Shape;
use regorus::Value;
use regorus::unstable::{ArithOp, Expr, Literal, Query, Rule, RuleHead, Span};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What rules of all files are, by their names.
#[derive(Default)]
struct Rules {
    functions: BTreeSet<String>,
    /// Rules with `contains`.
    sets: BTreeSet<String>,
}

/// Looks at every rule of files that are served. `declared` are the reasons that rules of decisions may give; `None` for rules
/// whose input is another document than the contract's.
pub(super) fn look(files: &[File], declared: Option<&BTreeMap<Arc<str>, String>>, problems: &mut Problems) {
    let none = BTreeMap::new();
    let (decides, declared) = (declared.is_some(), declared.unwrap_or(&none));
    let mut rules = Rules::default();
    for (file, rule) in all(files) {
        let Some(name) = name(file, rule) else { continue };
        match rule {
            Rule::Spec { head: RuleHead::Func { .. }, .. } => drop(rules.functions.insert(name)),
            Rule::Spec { head: RuleHead::Set { .. }, .. } => drop(rules.sets.insert(name)),
            _ => {}
        }
    }
    for file in files.iter().filter(|_| decides) {
        let looked = Looked { file, rules: &rules, declared };
        for import in &file.module.imports {
            looked.fact(&import.refr, &HashMap::new(), problems);
        }
    }
    wildcards(files, problems);
    for (file, rule) in all(files) {
        let looked = Looked { file, rules: &rules, declared };
        looked.defaults(rule, problems);
        looked.names(rule, problems);
        looked.looped(rule, problems);
        looked.calls(rule, problems);
        if decides {
            looked.reasons(rule, problems);
            looked.facts(rule, problems);
        }
        looked.absent(rule, problems);
        for query in queries(rule) {
            looked.negations(query, problems);
            looked.indexed(query, problems);
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

    /// Facts by the contract: `input.partner.stat` would be absent on every request.
    fn facts(&self, rule: &Rule, problems: &mut Problems) {
        let mut known: HashMap<String, &'static Shape> = HashMap::new();
        for (name, path) in &self.file.imports {
            if let Some(shape) = path.strip_prefix("input").and_then(|rest| contract::at(rest.trim_start_matches('.')))
            {
                known.insert(name.clone(), shape);
            }
        }
        // Names that are bound to a part of the input, in the order of the text. What is declared more than once in a rule, or
        // is a parameter, may be something else elsewhere in it, and is not followed.
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
            let shown = name.escape_debug();
            if matches!(shape, Shape::Headers(_)) && name.chars().any(char::is_uppercase) {
                let reason = format!("names of header fields are in lower case: `{path}` has no `{shown}`");
                problems.push(self.wrong(span, reason, Some(&format!("write `{}`", shown.to_string().to_lowercase()))));
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
                    format!("there is no fact `{path}.{shown}` in the contract"),
                    Some(&fix),
                ));
                return;
            };
            shape = next;
            path.push('.');
            path.extend(name.escape_debug());
        }
    }

    /// After `x := …` from something absent the machine carries on, where Rego stops. That makes no difference where `x` is
    /// used, because what uses it does not hold either; but it does where it is not, or only below `not` or inside a
    /// comprehension or `every`.
    fn absent(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Spec { head, bodies, .. } = rule else { return };
        let outer: BTreeSet<*const Query> = bodies.iter().map(|body| std::ptr::from_ref(&*body.query)).collect();
        let mut present: BTreeSet<&str> = BTreeSet::new();
        if let RuleHead::Func { args, .. } = head {
            args.iter().for_each(|arg| variables(arg, &mut present));
        }
        for query in queries(rule) {
            let mut asked = asked(query);
            if outer.contains(&std::ptr::from_ref(query)) {
                heads(rule).into_iter().for_each(|head| variables(head, &mut asked.names));
            }
            let asked = asked.all();
            for statement in &query.stmts {
                if let Literal::SomeIn { key, value, .. } = &statement.literal {
                    key.iter().map(|key| &**key).chain([&**value]).for_each(|name| variables(name, &mut present));
                }
            }
            for statement in &query.stmts {
                let Literal::Expr { expr, .. } = &statement.literal else { continue };
                let Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } = &**expr else { continue };
                let Some(name) = variable(lhs) else { continue };
                if !self.may_be_absent(rhs, &present) {
                    present.insert(name);
                } else if !asked.contains(name) {
                    let reason = format!(
                        "`{name}` may be undefined, and nothing here fails when it is: it is not used, or only below `not` or \
                         inside a comprehension or `every`. The serving engine would carry on where Rego stops"
                    );
                    let fix = "name the fact itself where it is needed, or ask for it as well: add `NAME != null`";
                    problems.push(self.wrong(lhs.span(), reason, Some(&fix.replace("NAME", name))));
                }
            }
        }
    }

    fn may_be_absent(&self, expr: &Expr, present: &BTreeSet<&str>) -> bool {
        let absent = |expr: &Expr| self.may_be_absent(expr, present);
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
            | Expr::ArrayCompr { .. }
            | Expr::SetCompr { .. }
            | Expr::ObjectCompr { .. } => false,
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let local = variable(expr).is_some_and(|name| present.contains(name));
                let set = || dotted(expr).is_some_and(|path| self.rules.sets.contains(&self.file.absolute(&path)));
                !local && !set()
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().any(|item| absent(item)),
            Expr::Object { fields, .. } => fields.iter().any(|(_, key, value)| absent(key) || absent(value)),
            // A division may have no value.
            Expr::ArithExpr { op: ArithOp::Add | ArithOp::Sub | ArithOp::Mul, lhs, rhs, .. }
            | Expr::BinExpr { lhs, rhs, .. } => absent(lhs) || absent(rhs),
            Expr::Call { fcn, params, .. } => match dotted(fcn).as_deref() {
                Some("count" | "sort") => params.iter().any(|one| absent(one)),
                // Labels, header fields and the like are there, if empty.
                Some("object.get") => match params.as_slice() {
                    [of, _, default] => (absent(of) && !self.always_there(of)) || absent(default),
                    _ => true,
                },
                _ => true,
            },
            _ => true,
        }
    }

    fn always_there(&self, expr: &Expr) -> bool {
        self.shape(expr, &HashMap::new()).is_some_and(Shape::is_open)
            && dotted(expr).is_some_and(|path| path.starts_with("input.") && !path.ends_with(".params"))
    }
}

/// Adds the variables of an expression, outside of comprehensions, which have names of their own.
fn variables<'e>(expr: &'e Expr, found: &mut BTreeSet<&'e str>) {
    walk(expr, &mut |expr| {
        found.extend(variable(expr));
        !matches!(expr, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. })
    });
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

/// What a query asks for, and which names stand for which others.
struct Asked<'e> {
    names: BTreeSet<&'e str>,
    /// A name, and what it is another name of.
    plain: Vec<(&'e str, &'e str)>,
}

impl<'e> Asked<'e> {
    /// Every name without which the query does not hold.
    fn all(self) -> BTreeSet<&'e str> {
        let mut of: HashMap<&str, Vec<&'e str>> = HashMap::new();
        for (name, root) in &self.plain {
            of.entry(name).or_default().push(root);
        }
        let mut all = self.names;
        let mut waiting: Vec<&str> = all.iter().copied().collect();
        while let Some(name) = waiting.pop() {
            for root in of.remove(name).unwrap_or_default() {
                if all.insert(root) {
                    waiting.push(root);
                }
            }
        }
        all
    }
}

/// The names that statements of a query fail without.
fn asked(query: &Query) -> Asked<'_> {
    let mut asked = Asked { names: BTreeSet::new(), plain: Vec::new() };
    for statement in &query.stmts {
        match &statement.literal {
            Literal::NotExpr { .. } | Literal::SomeVars { .. } => {}
            Literal::Expr { expr, .. } => match &**expr {
                Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => match (variable(lhs), reference(rhs)) {
                    // It goes on as another name, which is asked for or is not.
                    (Some(name), Some(_)) => {
                        let mut roots = BTreeSet::new();
                        variables(rhs, &mut roots);
                        asked.plain.extend(roots.into_iter().map(|root| (name, root)));
                    }
                    _ => variables(rhs, &mut asked.names),
                },
                other => variables(other, &mut asked.names),
            },
            Literal::SomeIn { collection, .. } => variables(collection, &mut asked.names),
            Literal::Every { domain, .. } => variables(domain, &mut asked.names),
        }
    }
    asked
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
