//! What the names of a policy stand for: where each is given its value, and where rules are.

use crate::policy::syntax::{AssignOp, File, Key, dotted, expressions, reference, text, variable, walk};
use regorus::Value;
use regorus::unstable::{Expr, Literal, LiteralStmt, Query, Ref, Rule, RuleHead, Span};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// A place in the house: a query, or what lies around one.
pub(super) type At = usize;

/// What a call gives, and where it stands.
type Arguments<'e> = (&'e [Ref<Expr>], At);

/// Where a name has its value from.
#[derive(Clone, Copy)]
pub(super) enum From<'e> {
    Whole(&'e Expr, At),
    /// Something that lies in it.
    Part(&'e Expr, At),
    /// The function of this number, and which of its parameters.
    Parameter(usize, usize),
}

/// All that gives a name its value in one query.
#[derive(Default)]
struct Given<'e> {
    /// By `some` without `in`.
    declared: bool,
    /// By `:=`, `some … in`, `every`, or as a parameter: from nowhere else then.
    fixed: Vec<From<'e>>,
    /// By `=`, which may give either side.
    equal: Vec<From<'e>>,
    /// Other names that it is equal to.
    linked: Vec<&'e Expr>,
    /// Only where nothing else gives it: by being looked up with.
    fallback: Vec<From<'e>>,
}

impl Given<'_> {
    /// Whether there is more than one side of `=` that gives it.
    fn is_from_elsewhere(&self) -> bool {
        let others = self.fixed.len() + self.linked.len() + self.fallback.len();
        self.declared || others > 0 || self.equal.len() > 1
    }
}

#[derive(Clone, Copy)]
struct Scope {
    outer: Option<At>,
    file: usize,
}

/// A value that a definition of a rule gives, with its key where it has one.
#[derive(Clone, Copy)]
pub(super) struct Yield<'e> {
    pub key: Option<&'e Expr>,
    pub value: Option<&'e Expr>,
    pub at: At,
}

/// All definitions of one name.
#[derive(Default)]
pub(super) struct Definitions<'e> {
    pub yields: Vec<Yield<'e>>,
    /// Collected, each a part of the rule.
    pub collects: bool,
    pub is_function: bool,
}

/// What lies below a path.
pub(super) enum Below {
    Fact,
    /// These rules; the path leads into each of them.
    Rules(Vec<String>),
    /// More than one rule, or more than rules.
    Several(Vec<String>),
    /// Data documents only, below this path.
    Data(String),
}

pub(super) struct House<'e> {
    pub files: &'e [File],
    pub rules: BTreeMap<String, Definitions<'e>>,
    /// Arguments of all calls, by what is called.
    pub calls: HashMap<String, Vec<Arguments<'e>>>,
    /// Expressions that cost something, in the order of the text.
    pub nodes: Vec<(&'e Expr, At)>,
    scopes: Vec<Scope>,
    names: HashMap<(At, &'e str), Given<'e>>,
    queries: HashMap<(*const Query, At), At>,
    functions: Vec<String>,
    known: BTreeSet<String>,
}

impl<'e> House<'e> {
    pub fn new(files: &'e [File]) -> Self {
        let mut house = House {
            files,
            rules: BTreeMap::new(),
            calls: HashMap::new(),
            nodes: Vec::new(),
            scopes: Vec::new(),
            names: HashMap::new(),
            queries: HashMap::new(),
            functions: Vec::new(),
            known: BTreeSet::new(),
        };
        for file in files {
            house.known.extend(file.module.policy.iter().filter_map(|rule| Some(path(file, rule)?.0)));
        }
        for (n, file) in files.iter().enumerate() {
            for rule in &file.module.policy {
                house.rule(n, file, rule);
            }
        }
        house
    }

    /// The file that a place lies in.
    pub fn file(&self, at: At) -> Option<&'e File> {
        self.files.get(self.scopes.get(at)?.file)
    }

    pub fn function(&self, n: usize) -> Option<&String> {
        self.functions.get(n)
    }

    /// The place of a comprehension's query.
    pub fn inside(&self, query: &Query, at: At) -> At {
        self.queries.get(&(std::ptr::from_ref(query), at)).copied().unwrap_or(at)
    }

    fn rule(&mut self, n: usize, file: &'e File, rule: &'e Rule) {
        let Some((name, key)) = path(file, rule) else { return };
        let base = self.scope(None, n);
        let mut found = Vec::new();
        let mut definition = Definitions::default();
        match rule {
            Rule::Default { value, .. } => found.push(Yield { key: None, value: Some(value), at: base }),
            Rule::Spec { head, bodies, .. } => {
                let (assign, member) = match head {
                    RuleHead::Compr { assign, .. } => (assign.as_ref(), None),
                    RuleHead::Set { key, .. } => (None, key.as_deref()),
                    RuleHead::Func { args, assign, .. } => {
                        definition.is_function = true;
                        let function = self.functions.len();
                        self.functions.push(name.clone());
                        for (which, arg) in args.iter().enumerate() {
                            for name in names(arg) {
                                self.given(base, name).fixed.push(From::Parameter(function, which));
                            }
                            self.look(arg, base);
                        }
                        (assign.as_ref(), None)
                    }
                };
                definition.collects = member.is_some() || key.is_some();
                let value = |assigned: Option<&'e Expr>| member.or(assigned);
                if bodies.is_empty() {
                    found.push(Yield { key, value: value(assign.map(|assign| &*assign.value)), at: base });
                }
                for body in bodies {
                    let at = self.query(&body.query, base);
                    let own = body.assign.as_ref().or(assign.filter(|_| !body.is_else));
                    found.push(Yield { key, value: value(own.map(|assign| &*assign.value)), at });
                }
            }
        }
        for one in &found {
            for expr in one.key.into_iter().chain(one.value) {
                self.look(expr, one.at);
            }
        }
        let all = self.rules.entry(name).or_default();
        all.yields.extend(found);
        all.collects |= definition.collects;
        all.is_function |= definition.is_function;
    }

    fn scope(&mut self, outer: Option<At>, file: usize) -> At {
        self.scopes.push(Scope { outer, file });
        self.scopes.len() - 1
    }

    fn given(&mut self, at: At, name: &'e str) -> &mut Given<'e> {
        self.names.entry((at, name)).or_default()
    }

    /// Makes the place of a query, with all that lies in it.
    fn query(&mut self, query: &'e Query, outer: At) -> At {
        let file = self.scopes.get(outer).map_or(0, |scope| scope.file);
        let at = self.scope(Some(outer), file);
        self.queries.insert((std::ptr::from_ref(query), outer), at);
        for statement in &query.stmts {
            self.statement(statement, at);
        }
        self.patterns(query, at);
        for statement in &query.stmts {
            for expr in expressions(statement) {
                self.look(expr, at);
            }
            if let Literal::Every { key, value, domain, query, .. } = &statement.literal {
                let turn = self.scope(Some(at), file);
                for name in key.iter().chain([value]).map(Span::text) {
                    self.given(turn, name).fixed.push(From::Part(domain, at));
                }
                self.query(query, turn);
            }
        }
        at
    }

    fn statement(&mut self, statement: &'e LiteralStmt, at: At) {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => {
                vars.iter().for_each(|span| self.given(at, span.text()).declared = true);
            }
            Literal::SomeIn { key, value, collection, .. } => {
                for name in key.iter().chain([value]).flat_map(|expr| names(expr)) {
                    self.given(at, name).fixed.push(From::Part(collection, at));
                }
            }
            Literal::Expr { expr, .. } => {
                let Expr::AssignExpr { op, lhs, rhs, .. } = &**expr else { return };
                if matches!(op, AssignOp::ColEq) {
                    match variable(lhs) {
                        Some(name) => self.given(at, name).fixed.push(From::Whole(rhs, at)),
                        None => names(lhs).into_iter().for_each(|name| {
                            self.given(at, name).fixed.push(From::Part(rhs, at));
                        }),
                    }
                    return;
                }
                match (self.local(lhs, at), self.local(rhs, at)) {
                    (Some(left), Some(right)) => {
                        self.given(at, left).linked.push(rhs);
                        self.given(at, right).linked.push(lhs);
                    }
                    (Some(name), None) => self.given(at, name).equal.push(From::Whole(rhs, at)),
                    (None, Some(name)) => self.given(at, name).equal.push(From::Whole(lhs, at)),
                    (None, None) => {}
                }
            }
            Literal::NotExpr { .. } | Literal::Every { .. } => {}
        }
    }

    /// Names inside of what stands on a side of `=`, and names that something is looked up with.
    fn patterns(&mut self, query: &'e Query, at: At) {
        for statement in &query.stmts {
            for expr in expressions(statement) {
                walk(expr, &mut |expr| {
                    if let Expr::RefBrack { refr, index, .. } = expr {
                        for name in names(index) {
                            if !self.is_global(at, name) {
                                self.given(at, name).fallback.push(From::Part(refr, at));
                            }
                        }
                    }
                    !is_comprehension(expr)
                });
            }
        }
        let sides = |statement: &'e LiteralStmt| match &statement.literal {
            Literal::Expr { expr, .. } => match &**expr {
                Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => Some((&**lhs, &**rhs)),
                _ => None,
            },
            _ => None,
        };
        let mut inside: HashMap<&'e str, usize> = HashMap::new();
        for side in query.stmts.iter().filter_map(sides).flat_map(|(lhs, rhs)| [lhs, rhs]) {
            if variable(side).is_none() {
                names(side).into_iter().for_each(|name| *inside.entry(name).or_default() += 1);
            }
        }
        for (lhs, rhs) in query.stmts.iter().filter_map(sides) {
            let (left, right) = (self.local(lhs, at), self.local(rhs, at));
            for (pattern, other, name, second) in [(lhs, rhs, right, false), (rhs, lhs, left, true)] {
                if variable(pattern).is_none() {
                    let both = left.is_none() && right.is_none();
                    let gives = match name {
                        Some(name) => inside.contains_key(name) || self.is_given(at, name),
                        None => !(both && second),
                    };
                    self.pattern((pattern, other), name, at, (gives, both), &inside);
                }
            }
        }
    }

    /// What a pattern gives the names in it, or has from them.
    fn pattern(
        &mut self,
        (pattern, other): (&'e Expr, &'e Expr),
        name: Option<&'e str>,
        at: At,
        (gives, both): (bool, bool),
        inside: &HashMap<&'e str, usize>,
    ) {
        let inner: Vec<&'e str> = names(pattern).into_iter().filter(|name| !self.is_global(at, name)).collect();
        // One that nothing else gives: the whole is there before its part, and is not made of it.
        let opens = gives && inner.iter().any(|name| inside.get(name) == Some(&1) && !self.has_source(at, name));
        if let Some(name) = name.filter(|_| opens) {
            let made = |from: &From<'e>| matches!(from, From::Whole(expr, _) if std::ptr::eq(*expr, pattern));
            self.given(at, name).equal.retain(|from| !made(from));
        }
        for name in inner {
            // What has its value from elsewhere is equal to the part, and measured by what it is made of.
            if self.has_source(at, name) {
                continue;
            }
            let given = self.given(at, name);
            if gives {
                given.equal.push(From::Part(other, at));
            } else if both {
                given.fallback.push(From::Part(other, at));
            }
        }
    }

    /// Whether a name has its value from elsewhere than from one side of `=` here.
    fn is_given(&self, at: At, name: &str) -> bool {
        let here = self.names.get(&(at, name));
        self.find(at, name).is_some_and(|found| found != at) || here.is_some_and(Given::is_from_elsewhere)
    }

    /// Whether anything gives a name its value.
    fn has_source(&self, at: At, name: &str) -> bool {
        let here = self.names.get(&(at, name));
        self.find(at, name).is_some_and(|found| found != at)
            || here.is_some_and(|one| one.fixed.len() + one.equal.len() + one.linked.len() + one.fallback.len() > 0)
    }

    /// The name of a variable that is none of a rule, an import or the input.
    fn local(&self, expr: &'e Expr, at: At) -> Option<&'e str> {
        variable(expr).filter(|name| !self.is_global(at, name))
    }

    fn is_global(&self, at: At, name: &str) -> bool {
        if matches!(name, "input" | "data" | "_") {
            return true;
        }
        let mut next = Some(at);
        while let Some(at) = next {
            if self.names.get(&(at, name)).is_some_and(|one| one.declared || !one.fixed.is_empty()) {
                return false;
            }
            next = self.scopes.get(at).and_then(|scope| scope.outer);
        }
        let Some(file) = self.file(at) else { return false };
        file.imports.contains_key(name) || self.known.contains(&format!("{}.{name}", file.package))
    }

    /// Keeps what costs something, and makes places for the comprehensions in an expression.
    fn look(&mut self, expr: &'e Expr, at: At) {
        let mut inner = Vec::new();
        walk(expr, &mut |expr| {
            match expr {
                Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => {
                    inner.push(expr);
                    return false;
                }
                Expr::Call { fcn, params, .. } => {
                    if let (Some(called), Some(file)) = (dotted(fcn), self.file(at)) {
                        self.calls.entry(file.absolute(&called)).or_default().push((params, at));
                    }
                    self.nodes.push((expr, at));
                }
                Expr::Array { .. }
                | Expr::Set { .. }
                | Expr::Object { .. }
                | Expr::BinExpr { .. }
                | Expr::ArithExpr { .. }
                | Expr::String { .. }
                | Expr::RawString { .. } => self.nodes.push((expr, at)),
                _ => {}
            }
            true
        });
        for expr in inner {
            let (terms, query): (Vec<&'e Expr>, &'e Query) = match expr {
                Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => (vec![term], query),
                Expr::ObjectCompr { key, value, query, .. } => (vec![key, value], query),
                _ => continue,
            };
            let inside = self.query(query, at);
            terms.into_iter().for_each(|term| self.look(term, inside));
            self.nodes.push((expr, at));
        }
    }

    /// The place in which a name of a query is given its value.
    fn find(&self, from: At, name: &str) -> Option<At> {
        let mut found = None;
        let mut next = Some(from);
        while let Some(at) = next {
            if let Some(given) = self.names.get(&(at, name)) {
                found = Some(at);
                if given.declared || !given.fixed.is_empty() {
                    break;
                }
            }
            next = self.scopes.get(at)?.outer;
        }
        found
    }

    /// Where a name has its value from, and the place that gives it; `None` for what is no name of a query.
    pub fn sources(&self, from: At, name: &str) -> Option<(At, Vec<From<'e>>)> {
        let at = self.find(from, name)?;
        let given = self.names.get(&(at, name))?;
        if !given.fixed.is_empty() {
            return Some((at, given.fixed.clone()));
        }
        // All names that are equal to each other.
        let (mut all, mut fallback) = (Vec::new(), Vec::new());
        let mut seen: BTreeSet<&str> = BTreeSet::from([name]);
        let mut waiting = vec![given];
        while let Some(given) = waiting.pop() {
            all.extend(given.fixed.iter().chain(&given.equal));
            fallback.extend(&given.fallback);
            for expr in &given.linked {
                let Some(other) = variable(expr).filter(|other| !seen.contains(other)) else { continue };
                seen.insert(other);
                match (self.find(at, other), self.names.get(&(at, other))) {
                    (Some(found), Some(given)) if found == at => waiting.push(given),
                    _ => all.push(From::Whole(expr, at)),
                }
            }
        }
        Some((at, if all.is_empty() { fallback } else { all }))
    }

    /// What a reference leads to that begins with no name of a query.
    pub fn below(&self, at: At, root: &str, keys: &[Key<'e>]) -> Below {
        let Some(file) = self.file(at) else { return Below::Fact };
        let mut path = if root == "input" { root.to_owned() } else { file.absolute(root) };
        let mut computed = false;
        for key in keys {
            match key {
                Key::Name(name, _) if !computed => path = format!("{path}.{name}"),
                Key::Name(..) => {}
                Key::Computed(_) => computed = true,
            }
        }
        if path == "input" || path.starts_with("input.") {
            return Below::Fact;
        }
        let mut lead: Vec<String> = Vec::new();
        for (end, _) in path.match_indices('.').chain([(path.len(), "")]) {
            let part = path.get(..end).unwrap_or_default();
            if self.rules.contains_key(part) {
                lead.push(part.to_owned());
            }
        }
        let below = format!("{path}.");
        let range = (Bound::Excluded(below.clone()), Bound::Unbounded);
        let more: Vec<String> = self
            .rules
            .range::<String, _>(range)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(&below))
            .cloned()
            .collect();
        match (lead.is_empty(), more.is_empty()) {
            (true, true) => Below::Data(path),
            (false, true) => Below::Rules(lead),
            _ => Below::Several(lead.into_iter().chain(more).collect()),
        }
    }
}

fn is_comprehension(expr: &Expr) -> bool {
    matches!(expr, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. })
}

/// What a rule is called from anywhere, up to a key that is worked out; and that key.
fn path<'e>(file: &File, rule: &'e Rule) -> Option<(String, Option<&'e Expr>)> {
    let refr = match rule {
        Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        }
        | Rule::Default { refr, .. } => refr,
    };
    let (root, keys) = reference(refr)?;
    let mut path = format!("{}.{root}", file.package);
    for key in keys {
        match key {
            Key::Name(name, _) => path = format!("{path}.{name}"),
            Key::Computed(expr) => return Some((path, Some(expr))),
        }
    }
    Some((path, None))
}

/// The names that a pattern has in it.
fn names(pattern: &Expr) -> Vec<&str> {
    let mut found = Vec::new();
    walk(pattern, &mut |expr| {
        found.extend(variable(expr).filter(|name| *name != "_"));
        matches!(expr, Expr::Var { .. } | Expr::Array { .. } | Expr::Object { .. })
    });
    found
}

/// What a reference begins with, whatever that is, and its steps.
pub(super) fn spine(expr: &Expr) -> (&Expr, Vec<Key<'_>>) {
    let (mut at, mut keys) = (expr, Vec::new());
    loop {
        match at {
            Expr::RefDot { refr, field: (span, Value::String(name)), .. } => {
                keys.push(Key::Name(name, span));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                keys.push(text(index).map_or(Key::Computed(index), |name| Key::Name(name, index.span())));
                at = refr;
            }
            other => {
                keys.reverse();
                return (other, keys);
            }
        }
    }
}
