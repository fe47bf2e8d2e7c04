//! Tests as twins: what `with` replaces becomes documents, so that the serving engine, which has no `with`, runs them as well.
//!
//! In: the syntax tree of a test. Out: for each set of replacements in it a rule that yields the documents and a rule that holds
//! where its statements hold, or why there are none. A test holds where all of its twins do.

use super::super::syntax::{
    AssignOp, File, Key, LiteralStmt, domain, dotted, expressions, heads, name, overlap, reference, replacement,
    variable, walk, without_with, written,
};
use regorus::unstable::{Expr, Literal, Query, Rule, RuleHead, WithModifier};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a `with` replaces: the steps below `input` or `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Input(Vec<String>),
    Data(Vec<String>),
}

/// One set of replacements of a test, as rules that are appended to its file.
#[derive(Debug)]
pub(super) struct Twin {
    /// Which file, by its place in the list.
    pub file: usize,
    /// The rules' text.
    pub text: String,
    /// Name of the rule that yields arrays for the documents: the case, and a value for each target.
    pub documents: String,
    /// Name of the rule that holds where the test does.
    pub holds: String,
    /// Name of the rule that yields the cases that must all hold, each with its value, where it is a table.
    pub cases: Option<String>,
    pub targets: Vec<Target>,
    pub replaced: BTreeSet<Replaced>,
}

/// A rule that makes way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Replaced {
    /// `data.a.b`.
    pub rule: String,
    /// Whether a rule of the same name yields what is put in its place. Otherwise data lies there.
    pub stands_in: bool,
}

/// Where in the data it lies which case of a table is run.
pub(super) const CASE: [&str; 2] = ["pgm", "case"];

/// What the rules of all files are called, and what each looks at.
pub(super) struct Names {
    rules: BTreeMap<String, Uses>,
    functions: BTreeSet<String>,
}

/// What expressions look at.
#[derive(Clone, Debug, Default)]
struct Uses {
    input: bool,
    /// Paths of rules and data.
    data: BTreeSet<String>,
    /// Names that stand for neither.
    locals: BTreeSet<String>,
}

impl Names {
    pub fn of(files: &[File]) -> Names {
        let mut names = Names { rules: BTreeMap::new(), functions: BTreeSet::new() };
        let all = || files.iter().flat_map(|file| file.module.policy.iter().map(move |rule| (file, rule)));
        for (file, rule) in all() {
            let Some(name) = name(file, rule) else { continue };
            let args = matches!(&**rule, Rule::Spec { head: RuleHead::Func { .. }, .. });
            if args {
                names.functions.insert(name.clone());
            }
            names.rules.insert(name, Uses::default());
        }
        let mut found: BTreeMap<String, Uses> = BTreeMap::new();
        for (file, rule) in all() {
            let Some(name) = name(file, rule) else { continue };
            let mut exprs = heads(rule);
            if let Rule::Spec { bodies, .. } = &**rule {
                exprs.extend(bodies.iter().flat_map(|body| &body.query.stmts).flat_map(whole));
            }
            let uses = names.uses(file, exprs);
            let of = found.entry(name).or_default();
            of.input |= uses.input;
            of.data.extend(uses.data);
        }
        names.rules = found;
        names
    }

    fn uses(&self, file: &File, exprs: Vec<&Expr>) -> Uses {
        let (mut uses, mut waiting) = (Uses::default(), exprs);
        while let Some(expr) = waiting.pop() {
            walk(expr, &mut |expr| match expr {
                Expr::Call { fcn, params, .. } => {
                    let called = dotted(fcn).map(|called| file.absolute(&called));
                    uses.data.extend(called.filter(|called| self.functions.contains(called)));
                    waiting.extend(params.iter().map(|param| &**param));
                    false
                }
                Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                    let Some((root, keys)) = reference(expr) else { return true };
                    let mut path = root.to_owned();
                    let mut fixed = true;
                    for key in &keys {
                        match key {
                            Key::Name(name, _) if fixed => path = format!("{path}.{name}"),
                            Key::Name(..) => {}
                            Key::Computed(expr) => {
                                fixed = false;
                                waiting.push(expr);
                            }
                        }
                    }
                    self.add(file, root, &path, &mut uses);
                    false
                }
                _ => true,
            });
        }
        uses
    }

    fn add(&self, file: &File, root: &str, path: &str, uses: &mut Uses) {
        if root == "_" {
            return;
        }
        let path = if root == "input" { path.to_owned() } else { file.absolute(path) };
        let known = root == "data" || file.imports.contains_key(root);
        if path == "input" || path.starts_with("input.") {
            uses.input = true;
        } else if known || self.rules.keys().any(|rule| overlap(rule, &format!("{}.{root}", file.package))) {
            uses.data.insert(path);
        } else {
            uses.locals.insert(root.to_owned());
        }
    }

    /// Whether what these look at, directly or through rules, is replaced.
    fn depends(&self, uses: &Uses, targets: &[Target]) -> bool {
        let input = targets.iter().any(|target| matches!(target, Target::Input(_)));
        let data: Vec<String> = targets.iter().filter_map(Target::path).collect();
        let (mut seen, mut waiting) = (BTreeSet::new(), VecDeque::from([uses]));
        while let Some(uses) = waiting.pop_front() {
            if uses.input && input {
                return true;
            }
            for path in &uses.data {
                if data.iter().any(|target| overlap(path, target)) {
                    return true;
                }
                for (rule, uses) in self.rules.iter().filter(|(rule, _)| overlap(rule, path)) {
                    if seen.insert(rule) {
                        waiting.push_back(uses);
                    }
                }
            }
        }
        false
    }

    /// A function that comes back to itself, which would end the process.
    pub fn endless(&self) -> Option<&str> {
        let below = |name: &str| -> Vec<&String> {
            let uses = self.rules.get(name).into_iter().flat_map(|uses| &uses.data);
            uses.flat_map(|path| self.rules.keys().filter(move |rule| overlap(rule, path))).collect()
        };
        self.functions.iter().map(String::as_str).find(|function| {
            let (mut seen, mut waiting) = (BTreeSet::new(), below(function));
            while let Some(name) = waiting.pop() {
                if name == function {
                    return true;
                }
                if seen.insert(name) {
                    waiting.extend(below(name));
                }
            }
            false
        })
    }

    /// What a `with` replaces, and which rules make way for it.
    fn target(&self, file: &File, with: &WithModifier) -> Result<(Target, BTreeSet<Replaced>), String> {
        let text = written(with.refr.span());
        let path = dotted(&with.refr).ok_or_else(|| format!("`with {text}` names its target by a value"))?;
        let path = if path == "input" || path.starts_with("input.") { path } else { file.absolute(&path) };
        let mut steps = path.split('.').map(str::to_owned);
        let (root, steps) = (steps.next().unwrap_or_default(), steps.collect::<Vec<_>>());
        if root == "input" {
            return Ok((Target::Input(steps), BTreeSet::new()));
        }
        if steps.is_empty() {
            return Err("`with data` replaces all rules as well".into());
        }
        if self.functions.iter().any(|function| overlap(function, &path)) {
            return Err(format!("`with {text}` replaces a function"));
        }
        let known = self.rules.keys().any(|rule| overlap(rule, &path));
        if !known && !text.starts_with("data") && file.imports.keys().all(|import| !text.starts_with(import.as_str())) {
            return Err(format!("`with {text}` replaces a builtin"));
        }
        if let Some(above) = self.rules.keys().find(|rule| path.starts_with(&format!("{rule}."))) {
            return Err(format!("`with {text}` replaces a part of the rule `{above}`"));
        }
        if self.rules.contains_key(&path) {
            let target = Target::Data(stand_in(&path));
            return Ok((target, BTreeSet::from([Replaced { rule: path, stands_in: true }])));
        }
        let below = self.rules.keys().filter(|rule| overlap(rule, &path)).cloned();
        let replaced = below.map(|rule| Replaced { rule, stands_in: false }).collect();
        Ok((Target::Data(steps), replaced))
    }
}

/// Where the value lies that stands in for a rule.
fn stand_in(rule: &str) -> Vec<String> {
    vec!["pgm".to_owned(), format!("m{}", hex::encode(rule))]
}

/// Rules of a file that yield the values in place of its rules of the same names: others go on finding them.
pub(super) fn stand_ins(files: &[File], file: &File, replaced: &BTreeSet<Replaced>) -> String {
    let has = |file: &File, rule: &String| file.module.policy.iter().any(|of| name(file, of).as_ref() == Some(rule));
    let mut text = String::new();
    for Replaced { rule, .. } in replaced.iter().filter(|replaced| replaced.stands_in) {
        // Once, where several files have it.
        let first = files.iter().find(|file| has(file, rule)).is_some_and(|first| std::ptr::eq(first, file));
        if let (true, Some(own)) = (first, rule.strip_prefix(&format!("{}.", file.package))) {
            text.push_str(&format!("\n{own} := data.{}\n", stand_in(rule).join(".")));
        }
    }
    text
}

impl Target {
    /// As a path, where it is one of data.
    fn path(&self) -> Option<String> {
        match self {
            Target::Data(steps) => Some(format!("data.{}", steps.join("."))),
            Target::Input(_) => None,
        }
    }
}

/// Expressions of a statement, with those of the query of an `every`.
fn whole(statement: &LiteralStmt) -> Vec<&Expr> {
    let (mut all, mut waiting) = (Vec::new(), vec![statement]);
    while let Some(statement) = waiting.pop() {
        all.extend(expressions(statement));
        if let Literal::Every { query, .. } = &statement.literal {
            waiting.extend(&query.stmts);
        }
    }
    all
}

/// Queries inside a statement, at any depth: of `every` and of comprehensions.
fn inside(statement: &LiteralStmt) -> Vec<&Query> {
    let (mut found, mut waiting) = (Vec::new(), vec![statement]);
    while let Some(statement) = waiting.pop() {
        let mut queries: Vec<&Query> = Vec::new();
        if let Literal::Every { query, .. } = &statement.literal {
            queries.push(query);
        }
        for expr in expressions(statement) {
            walk(expr, &mut |expr| match expr {
                Expr::ArrayCompr { query, .. } | Expr::SetCompr { query, .. } | Expr::ObjectCompr { query, .. } => {
                    queries.push(query);
                    // What lies inside it is looked at as its own statements.
                    false
                }
                _ => true,
            });
        }
        waiting.extend(queries.iter().flat_map(|query| &query.stmts));
        found.extend(queries);
    }
    found
}

/// Names that a statement gives inside itself, and that mean nothing to others.
fn inner_names(statement: &LiteralStmt) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let of = |expr: &Expr, names: &mut BTreeSet<String>| {
        walk(expr, &mut |expr| {
            names.extend(variable(expr).map(str::to_owned));
            true
        });
    };
    for inner in inside(statement).into_iter().flat_map(|query| &query.stmts).chain([statement]) {
        match &inner.literal {
            Literal::Every { key, value, .. } => {
                names.extend(key.iter().chain([value]).map(|span| span.text().to_owned()));
            }
            // Its own names are for all.
            _ if std::ptr::eq(inner, statement) => {}
            Literal::SomeVars { vars, .. } => names.extend(vars.iter().map(|span| span.text().to_owned())),
            Literal::SomeIn { key, value, .. } => {
                key.iter().for_each(|key| of(key, &mut names));
                of(value, &mut names);
            }
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = &**expr {
                    of(lhs, &mut names);
                }
            }
            Literal::NotExpr { .. } => {}
        }
    }
    names
}

/// With their places among all of a body.
type Statements<'t> = Vec<(usize, &'t LiteralStmt)>;

/// Replacements that statements of a test have in common.
struct Group<'t> {
    /// Targets and values as they are written.
    written: Vec<(String, String)>,
    targets: Vec<Target>,
    replaced: BTreeSet<Replaced>,
    statements: Statements<'t>,
}

/// The twins of a test, or why it has none. `count` numbers the rules of all twins.
pub(super) fn turn(
    names: &Names,
    files: &[File],
    at: usize,
    rule: &Rule,
    count: &mut usize,
) -> Result<Vec<Twin>, String> {
    let file = files.get(at).ok_or("its file is not there")?;
    let Rule::Spec { head, bodies, .. } = rule else { return Err("it is a default".into()) };
    let RuleHead::Compr { assign, .. } = head else { return Err("it is a set or a function".into()) };
    let is_true = |expr: &Expr| matches!(expr, Expr::Bool { value: regorus::Value::Bool(true), .. });
    if !assign.as_ref().is_none_or(|assign| is_true(&assign.value)) {
        return Err("it has a value of its own".into());
    }
    let [body] = bodies.as_slice() else { return Err("it has several bodies".into()) };
    let mut turning = Turning { names, file, at, count, twins: Vec::new() };
    turning.query(&body.query, &Prefix::default())?;
    Ok(turning.twins)
}

struct Turning<'a> {
    names: &'a Names,
    file: &'a File,
    at: usize,
    count: &'a mut usize,
    twins: Vec<Twin>,
}

/// What comes before the statements that are turned.
#[derive(Clone, Default)]
struct Prefix {
    statements: Vec<String>,
    /// Names that those give.
    names: BTreeSet<String>,
    /// What those look at.
    uses: Uses,
    /// The names of the case and its value, within a table.
    case: Option<(String, String)>,
}

impl Prefix {
    fn note(&mut self, uses: Uses) {
        self.uses.input |= uses.input;
        self.uses.data.extend(uses.data);
        self.names.extend(uses.locals);
    }
}

impl Turning<'_> {
    fn query(&mut self, query: &Query, prefix: &Prefix) -> Result<(), String> {
        let statements: Vec<(usize, &LiteralStmt)> = query.stmts.iter().enumerate().collect();
        let is_table = |statement: &LiteralStmt| {
            let Literal::Every { query, .. } = &statement.literal else { return false };
            query.stmts.iter().any(|inner| !inner.with_mods.is_empty())
        };
        let (tables, plain): (Vec<_>, Vec<_>) = statements.into_iter().partition(|(_, statement)| is_table(statement));
        if !tables.is_empty() && prefix.case.is_some() {
            return Err("a `with` lies inside an `every` inside another".into());
        }
        let groups = groups(self.names, self.file, &plain)?;
        if groups.iter().any(|group| self.names.depends(&prefix.uses, &group.targets)) {
            return Err("what comes before an `every` depends on what is replaced in it".into());
        }
        let (shared, groups) = shares(self.names, self.file, &plain, groups, &prefix.names)?;
        for group in groups.into_iter().filter(|group| tables.is_empty() || !group.statements.is_empty()) {
            self.twin(prefix, &shared, group);
        }
        for (_, table) in tables {
            let Literal::Every { key, value, domain: cases, query, .. } = &table.literal else { continue };
            if !table.with_mods.is_empty() {
                return Err("an `every` with a `with` has others inside".into());
            }
            let mut inner = prefix.clone();
            for (_, statement) in &shared {
                inner.statements.push(without_with(statement).to_owned());
                inner.note(self.names.uses(self.file, whole(statement)));
                if let Literal::SomeVars { vars, .. } = &statement.literal {
                    inner.names.extend(vars.iter().map(|span| span.text().to_owned()));
                }
            }
            let used = self.names.uses(self.file, vec![cases]);
            if used.locals.iter().any(|local| !inner.names.contains(local)) {
                return Err("the cases of an `every` are found under a `with`".into());
            }
            inner.note(used);
            let case = key.as_ref().map_or("pgk", |key| key.text()).to_owned();
            inner.statements.push(format!("some {case}, {} in {}", value.text(), domain(value, query)));
            inner.names.extend([case.clone(), value.text().to_owned()]);
            let value = Some(value.text()).filter(|value| *value != "_").unwrap_or(&case).to_owned();
            inner.case = Some((case, value));
            self.query(query, &inner)?;
        }
        Ok(())
    }

    fn twin(&mut self, prefix: &Prefix, shared: &[(usize, &LiteralStmt)], group: Group<'_>) {
        let n = *self.count;
        *self.count += 1;
        let mut own: Vec<(usize, &LiteralStmt)> = shared.iter().chain(&group.statements).copied().collect();
        own.sort_by_key(|(place, _)| *place);
        let before = prefix.statements.join("\n");
        let lines = |list: &[(usize, &LiteralStmt)]| {
            let texts: Vec<&str> =
                list.iter().filter(|(_, s)| !is_print(s)).map(|(_, statement)| without_with(statement)).collect();
            format!("true\n{before}\n{}", texts.join("\n"))
        };
        let case = prefix.case.as_ref().map(|(case, _)| case.as_str());
        let mut values = vec![case.unwrap_or("null")];
        values.extend(group.written.iter().map(|(_, value)| value.as_str()));
        let mut text = format!("\npgw_{n} contains [{}] if {{\n{}\n}}\n", values.join(",\n"), lines(shared));
        let this = case.map(|case| format!("{case} == data.{}\n", CASE.join("."))).unwrap_or_default();
        text.push_str(&format!("\npgt_{n} if {{\n{}\n{this}}}\n", lines(&own)));
        if let Some((case, value)) = &prefix.case {
            text.push_str(&format!("\npgk_{n} contains [{case}, {value}] if {{\ntrue\n{before}\n}}\n"));
        }
        let rule = |name: &str| format!("{}.{name}_{n}", self.file.package);
        self.twins.push(Twin {
            file: self.at,
            text,
            documents: rule("pgw"),
            holds: rule("pgt"),
            cases: case.map(|_| rule("pgk")),
            targets: group.targets,
            replaced: group.replaced,
        });
    }
}

/// What a statement prints is seen where the test itself is run.
fn is_print(statement: &LiteralStmt) -> bool {
    let Literal::Expr { expr, .. } = &statement.literal else { return false };
    matches!(&**expr, Expr::Call { fcn, .. } if variable(fcn) == Some("print"))
}

/// Statements with replacements by what they replace; at least one group, if of none.
fn groups<'t>(names: &Names, file: &File, statements: &[(usize, &'t LiteralStmt)]) -> Result<Vec<Group<'t>>, String> {
    let mut groups: Vec<Group<'t>> = Vec::new();
    for (place, statement) in statements {
        if inside(statement).into_iter().flat_map(|query| &query.stmts).any(|inner| !inner.with_mods.is_empty()) {
            return Err("a `with` lies inside `every` or a comprehension".into());
        }
        if statement.with_mods.is_empty() {
            continue;
        }
        let mods = statement.with_mods.iter();
        let texts: Vec<(String, String)> =
            mods.map(|with| (written(with.refr.span()).to_owned(), replacement(with).to_owned())).collect();
        if let Some(group) = groups.iter_mut().find(|group| group.written == texts) {
            group.statements.push((*place, statement));
            continue;
        }
        let mut group = Group {
            written: texts,
            targets: Vec::new(),
            replaced: BTreeSet::new(),
            statements: vec![(*place, statement)],
        };
        for with in &statement.with_mods {
            let (target, replaced) = names.target(file, with)?;
            group.targets.push(target);
            group.replaced.extend(replaced);
        }
        groups.push(group);
    }
    if groups.is_empty() {
        let (written, targets, replaced) = (Vec::new(), Vec::new(), BTreeSet::new());
        groups.push(Group { written, targets, replaced, statements: Vec::new() });
    }
    Ok(groups)
}

/// Gives each statement without replacements to the group whose values it looks at; those that look at none are shared. No
/// group may look at values of another, and nothing shared at what is replaced.
fn shares<'t>(
    names: &Names,
    file: &File,
    statements: &[(usize, &'t LiteralStmt)],
    mut groups: Vec<Group<'t>>,
    given: &BTreeSet<String>,
) -> Result<(Statements<'t>, Vec<Group<'t>>), String> {
    let targets: Vec<Target> = groups.iter().flat_map(|group| group.targets.clone()).collect();
    let mut owners: BTreeMap<String, usize> = BTreeMap::new();
    let (mut shared, mut common) = (Vec::new(), given.clone());
    for (place, statement) in statements {
        let mut values = Uses::default();
        if !statement.with_mods.is_empty() {
            values = names.uses(file, statement.with_mods.iter().map(|with| &*with.r#as).collect());
            if names.depends(&values, &targets) {
                return Err("the value of a `with` depends on what is replaced".into());
            }
        }
        let mods = statement.with_mods.iter().flat_map(|with| [&*with.refr, &*with.r#as]);
        let mods: Vec<*const Expr> = mods.map(std::ptr::from_ref).collect();
        let own = whole(statement).into_iter().filter(|expr| !mods.contains(&std::ptr::from_ref(*expr))).collect();
        let mut uses = names.uses(file, own);
        if let Literal::SomeVars { vars, .. } = &statement.literal {
            uses.locals.extend(vars.iter().map(|span| span.text().to_owned()));
        }
        let inner = inner_names(statement);
        uses.locals.retain(|local| !inner.contains(local));
        values.locals.retain(|local| !inner.contains(local));
        if values.locals.iter().any(|local| !common.contains(local)) {
            return Err("the value of a `with` is found by another statement with one".into());
        }
        let private: Vec<String> = uses.locals.iter().filter(|local| !common.contains(*local)).cloned().collect();
        let mut owned: BTreeSet<usize> = private.iter().filter_map(|local| owners.get(local)).copied().collect();
        owned.extend(groups.iter().position(|group| group.statements.iter().any(|(at, _)| at == place)));
        let mut owned = owned.into_iter();
        match (owned.next(), owned.next()) {
            (None, _) => {
                if names.depends(&uses, &targets) {
                    return Err("a statement without `with` depends on what others replace".into());
                }
                common.extend(private);
                shared.push((*place, *statement));
            }
            (Some(group), None) => {
                owners.extend(private.into_iter().map(|local| (local, group)));
                let Some(group) = groups.get_mut(group) else { continue };
                if statement.with_mods.is_empty() {
                    if names.depends(&uses, &targets) {
                        return Err("a statement without `with` depends on what others replace".into());
                    }
                    group.statements.push((*place, statement));
                }
            }
            _ => return Err("it compares values that were found under different replacements".into()),
        }
    }
    Ok((shared, groups))
}
